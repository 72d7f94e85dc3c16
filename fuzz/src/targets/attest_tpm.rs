//! Evidence of TPMs, requests to activators, and roots in PEM: what was said once verifies as it was said, and nothing else does.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use darkbloom_attest::{ActivationReply, Activator, ActivatorKind, HardwareTrust, Roots, TpmFindings, verify_tpm};
use darkbloom_fuzz::{Input, memory, parties, text};
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::{ActivationRequest, TpmEvidence};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A software TPM's word, recorded.
struct Recorded {
    identity: [u8; 65],
    nonce: Digest,
    time: UnixMillis,
    trust: HardwareTrust,
    found: TpmFindings,
    activator: Activator,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/tpm-evidence.json");
    let vector: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON");
    let bytes = |value: &Value| hex::decode(value.as_str().expect("a text")).expect("hexadecimal digits");
    let array = |name: &str| bytes(&vector[name]);
    let roots: Vec<_> = vector["roots"].as_array().expect("a list").iter().map(bytes).collect();
    let roots = Roots::read(roots.iter().map(Vec::as_slice)).expect("authorities");
    let identity = array("identity").try_into().expect("65 bytes");
    let nonce = Digest(array("nonce").try_into().expect("32 bytes"));
    let time = UnixMillis(vector["time"].as_i64().expect("a number"));
    let activators = vec![(array("activator").try_into().expect("65 bytes"), ActivatorKind::Independent)];
    let activator = Activator::new(roots.clone(), &mut parties::FixedRng::new("activator"));
    let trust = HardwareTrust { tpm_roots: roots.into(), activators, ..HardwareTrust::default() };
    let found = verify_tpm(&array("evidence"), &identity, &nonce, &trust, time).expect("it is good");
    Recorded { identity, nonce, time, trust, found, activator }
});

fn evidence(bytes: &[u8]) {
    let Recorded { identity, nonce, time, trust, found, .. } = &*RECORDED;
    if let Ok(read) = TpmEvidence::decode(bytes)
        && !bytes.is_empty()
    {
        assert_eq!(TpmEvidence::decode(&read.encode()).as_ref(), Ok(&read));
    }
    if let Ok(proven) = verify_tpm(bytes, identity, nonce, trust, *time) {
        assert_eq!(proven, *found, "only what was said verifies");
    }
}

fn activation(bytes: &[u8]) {
    let Ok(request) = ActivationRequest::decode(bytes) else { return };
    let key = parties::p256();
    let reply = RECORDED.activator.reply(
        &request,
        &key,
        &parties::identity(),
        RECORDED.time,
        &mut parties::FixedRng::new("reply"),
    );
    assert!(!matches!(reply, Ok(ActivationReply::Activation(_))), "nobody knows what is in a credential");
}

fuzz_target!(|bytes: &[u8]| {
    let _ = &*RECORDED;
    let mut input = Input::new(bytes);
    let kind = input.byte() % 3;
    // Keys of RSA are numbers of any size in what is read, and none of more than 4,096 bits is taken.
    memory::within((1 << 20) + 64 * bytes.len(), || match kind {
        0 => evidence(input.rest()),
        1 => activation(input.rest()),
        _ => drop(Roots::read_pem(&text(input.rest()))),
    });
});
