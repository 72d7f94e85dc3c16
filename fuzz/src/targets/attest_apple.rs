//! Evidence of Apple's two kinds: what was certified verifies as it was certified, and nothing else does.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use darkbloom_attest::{
    AppleAppAttestFindings, AppleMdaFindings, HardwareTrust, Roots, verify_apple_app_attest, verify_apple_mda,
};
use darkbloom_fuzz::{Input, memory};
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::{AppleAppAttestEvidence, AppleMdaEvidence};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What an Apple of our own said, recorded.
struct Recorded {
    identity: [u8; 65],
    nonce: Digest,
    time: UnixMillis,
    trust: HardwareTrust,
    app_attest: AppleAppAttestEvidence,
    found: (AppleMdaFindings, AppleAppAttestFindings),
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/apple-evidence.json");
    let vector: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON");
    let text = |name: &str| vector[name].as_str().expect("a text").to_owned();
    let bytes = |name: &str| hex::decode(text(name)).expect("hexadecimal digits");
    let roots = Roots::read([&bytes("root")[..]]).expect("an authority");
    let trust = HardwareTrust {
        apple_enterprise_roots: roots.clone().into(),
        apple_app_attest_roots: roots.into(),
        apple_app_id: Some(text("app")),
        ..HardwareTrust::default()
    };
    let identity = bytes("identity").try_into().expect("65 bytes");
    let nonce = Digest(bytes("nonce").try_into().expect("32 bytes"));
    let time = UnixMillis(vector["time"].as_i64().expect("a number"));
    let mda = verify_apple_mda(&bytes("mda"), &identity, &trust.apple_enterprise_roots, time).expect("it is good");
    let app = verify_apple_app_attest(&bytes("app_attest"), &identity, &nonce, &trust, time).expect("it is good");
    let app_attest = AppleAppAttestEvidence::decode(&bytes("app_attest")).expect("it is a record");
    Recorded { identity, nonce, time, trust, app_attest, found: (mda, app) }
});

fn mda(bytes: &[u8]) {
    let Recorded { identity, time, trust, found, .. } = &*RECORDED;
    if let Ok(read) = AppleMdaEvidence::decode(bytes) {
        assert_eq!(AppleMdaEvidence::decode(&read.encode()).as_ref(), Ok(&read));
    }
    if let Ok(proven) = verify_apple_mda(bytes, identity, &trust.apple_enterprise_roots, *time) {
        assert_eq!(proven, found.0, "only what was certified verifies");
    }
}

fn app_attest(bytes: &[u8]) {
    let Recorded { identity, nonce, time, trust, found, .. } = &*RECORDED;
    if let Ok(read) = AppleAppAttestEvidence::decode(bytes) {
        assert_eq!(AppleAppAttestEvidence::decode(&read.encode()).as_ref(), Ok(&read));
    }
    if let Ok(proven) = verify_apple_app_attest(bytes, identity, nonce, trust, *time) {
        assert_eq!(proven, found.1, "only what was certified verifies");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let recorded = &*RECORDED;
    let mut input = Input::new(bytes);
    let kind = input.byte() % 4;
    let rest = input.rest().to_vec();
    memory::within((1 << 20) + 64 * bytes.len(), || match kind {
        0 => mda(&rest),
        1 => app_attest(&rest),
        // The object or the assertion alone: the other one is good.
        2 => app_attest(&AppleAppAttestEvidence { attestation: rest, ..recorded.app_attest.clone() }.encode()),
        _ => app_attest(&AppleAppAttestEvidence { assertion: rest, ..recorded.app_attest.clone() }.encode()),
    });
});
