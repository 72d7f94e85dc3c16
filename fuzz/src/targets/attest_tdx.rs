//! Evidence of Intel TDX: only what a processor and Intel said verifies, and nothing crashes.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use darkbloom_attest::{HardwareTrust, QuoteOrigin, TdxError, verify_tdx};
use darkbloom_fuzz::{Input, memory};
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::TdxEvidence;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A quote that a processor made and what Intel said, as evidence, with a time at which it verifies, and where in the quote the
/// text with certificates begins, of which not every byte means something.
static REAL: LazyLock<(TdxEvidence, UnixMillis, usize)> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/tdx-quotes.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON");
    let real = &file["real"][0];
    let bytes = |name: &str| hex::decode(real[name].as_str().expect("a text")).expect("hexadecimal digits");
    let signature = |name: &str| bytes(name).try_into().expect("64 bytes");
    let quote = bytes("quote");
    let text = quote.windows(10).position(|window| window == b"-----BEGIN").expect("it has certificates");
    let evidence = TdxEvidence {
        quote,
        tcb_info: bytes("tcb_info"),
        tcb_info_signature: signature("tcb_info_signature"),
        qe_identity: bytes("qe_identity"),
        qe_identity_signature: signature("qe_identity_signature"),
        signer: bytes("signer"),
        platform_crl: bytes("platform_crl"),
        root_crl: bytes("root_crl"),
    };
    (evidence, UnixMillis(real["time"].as_i64().expect("a number")), text)
});

/// What verification comes to: this quote is about nobody's keys, so the last check is what ends it for the good one.
fn verify(evidence: &TdxEvidence) -> Option<TdxError> {
    let roots = HardwareTrust::default().intel_roots;
    verify_tdx(&evidence.encode(), &Digest([0; 32]), &roots, REAL.1).err()
}

/// The real evidence with a byte changed.
fn changed(input: &mut Input<'_>) {
    let (real, _, text) = &*REAL;
    let mut evidence = real.clone();
    let (place, with) = input.change(&mut [
        &mut evidence.quote[..*text],
        &mut evidence.tcb_info,
        &mut evidence.qe_identity,
        &mut evidence.signer,
        &mut evidence.platform_crl,
        &mut evidence.root_crl,
    ]);
    let genuine = verify(&evidence) == Some(TdxError::OtherSubject);
    assert!(!genuine || evidence == *real, "byte {place} may be changed by {with:#x}");
}

fuzz_target!(|bytes: &[u8]| {
    let _ = &*REAL;
    let mut input = Input::new(bytes);
    let kind = input.byte() % 4;
    memory::within((1 << 20) + 64 * bytes.len(), || match kind {
        0 => changed(&mut input),
        1 => {
            if let Ok(read) = TdxEvidence::decode(input.rest()) {
                assert_eq!(TdxEvidence::decode(&read.encode()).as_ref(), Ok(&read));
                assert!(verify(&read).is_some());
            }
        }
        2 => {
            let mut evidence = REAL.0.clone();
            evidence.platform_crl = input.rest().to_vec();
            assert!(verify(&evidence).is_some());
        }
        _ => {
            if let Ok(origin) = QuoteOrigin::read(input.rest()) {
                assert!(origin.length <= bytes.len());
            }
        }
    });
});
