//! Quotes that Intel's processors made, and what becomes of them when anything is changed.

use std::path::Path;

use serde_json::Value;

use super::*;

/// A real quote, with what Intel said about it then.
struct Real {
    evidence: TdxEvidence,
    time: UnixMillis,
    expected: Value,
}

fn reals() -> Vec<Real> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/tdx-quotes.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let Value::Array(all) = file["real"].take() else { panic!("a list") };
    let real = |expected: Value| {
        let bytes = |name: &str| hex::decode(expected[name].as_str().unwrap()).unwrap();
        let evidence = TdxEvidence {
            quote: bytes("quote"),
            tcb_info: bytes("tcb_info"),
            tcb_info_signature: bytes("tcb_info_signature").try_into().unwrap(),
            qe_identity: bytes("qe_identity"),
            qe_identity_signature: bytes("qe_identity_signature").try_into().unwrap(),
            signer: bytes("signer"),
            platform_crl: bytes("platform_crl"),
            root_crl: bytes("root_crl"),
        };
        Real { evidence, time: UnixMillis(expected["time"].as_i64().unwrap()), expected }
    };
    all.into_iter().map(real).collect()
}

impl Real {
    fn verify(&self) -> Result<TdxFindings, TdxError> {
        genuine(&self.evidence.encode(), &intel_roots(), self.time).map(|(found, _)| found)
    }

    fn with(&self, change: impl FnOnce(&mut TdxEvidence)) -> Result<TdxFindings, TdxError> {
        let mut evidence = self.evidence.clone();
        change(&mut evidence);
        genuine(&evidence.encode(), &intel_roots(), self.time).map(|(found, _)| found)
    }
}

#[test]
fn quotes_of_both_versions_verify_by_the_root_that_ships() {
    assert!(!intel_roots().is_empty());
    let all = reals();
    assert_eq!(all.len(), 3);
    for real in all {
        let found = match real.verify() {
            Ok(found) => found,
            // This one's firmware was older than any that Intel stands for: all but that holds.
            Err(error) => {
                assert_eq!(error.to_string(), real.expected["refused"].as_str().unwrap());
                continue;
            }
        };
        let expected = |name: &str| real.expected[name].as_str().unwrap().to_owned();
        assert_eq!(hex::encode(found.platform), expected("platform"));
        assert_eq!(hex::encode(found.measurement), expected("measurement"));
        let registers = found.registers.map(|register| Value::from(hex::encode(register)));
        assert_eq!(Value::from(registers.to_vec()), real.expected["registers"]);
        assert_eq!(Value::from(found.evaluation), real.expected["evaluation"]);
        assert_eq!(found.status.name(), expected("status"));
        assert_eq!(Value::from(found.advisories), real.expected["advisories"]);
        assert_eq!(found.config, [0; 48]);
        // They were asked about something else than keys of a provider of ours.
        let foreign = verify_tdx(&real.evidence.encode(), &Digest([0; 32]), &intel_roots(), real.time);
        assert_eq!(foreign, Err(TdxError::OtherSubject));
    }
}

/// Every byte of what was signed counts, and so does every byte that a signature stands on. Behind them stands a text with
/// certificates, which is not signed itself.
#[test]
fn no_changed_byte_of_a_quote_is_taken() {
    for real in reals().into_iter().take(2) {
        let unchanged = real.verify().err();
        let text = b"-----BEGIN CERTIFICATE-----";
        let end = real.evidence.quote.windows(text.len()).position(|window| window == text).unwrap();
        for byte in 0..end {
            // Of each byte another bit: all of them would take a minute, and are what the fuzzer tries.
            let changed = real.with(|evidence| evidence.quote[byte] ^= 1 << (byte % 8));
            assert_ne!(changed.err(), unchanged, "byte {byte:#x} of version {}", real.expected["version"]);
        }
    }
}

#[test]
fn no_changed_word_of_intels_is_taken() {
    for real in reals() {
        let unchanged = real.verify().err();
        for byte in (0..real.evidence.tcb_info.len()).step_by(23) {
            let changed = real.with(|evidence| evidence.tcb_info[byte] ^= 1);
            assert_eq!(changed, Err(TdxError::Signature("the levels of platforms")));
        }
        for byte in (0..real.evidence.qe_identity.len()).step_by(23) {
            let changed = real.with(|evidence| evidence.qe_identity[byte] ^= 1);
            assert_eq!(changed, Err(TdxError::Signature("the quoting enclave")));
        }
        for byte in (0..real.evidence.platform_crl.len()).step_by(23) {
            assert_ne!(real.with(|evidence| evidence.platform_crl[byte] ^= 1).err(), unchanged);
        }
        for byte in (0..real.evidence.root_crl.len()).step_by(3) {
            assert_ne!(real.with(|evidence| evidence.root_crl[byte] ^= 1).err(), unchanged);
        }
        for byte in (0..real.evidence.signer.len()).step_by(3) {
            assert_ne!(real.with(|evidence| evidence.signer[byte] ^= 1).err(), unchanged);
        }
    }
}

#[test]
fn quotes_without_all_that_belongs_to_them_prove_nothing() {
    let [first, second, _] = <[Real; 3]>::try_from(reals()).map_err(|_| ()).unwrap();
    let of_second = second.evidence.clone();
    assert_eq!(
        first.with(|evidence| evidence.quote.truncate(4_000)),
        Err(TdxError::Malformed),
        "a quote ends where it says"
    );
    assert_eq!(first.with(|evidence| evidence.quote.push(0)), Err(TdxError::Malformed));
    assert_eq!(first.with(|evidence| evidence.quote[0] = 3), Err(TdxError::Version(3)));
    assert_eq!(second.with(|evidence| evidence.quote[48] = 4), Err(TdxError::Body(4)));
    assert_eq!(second.with(|evidence| evidence.quote[4] = 0), Err(TdxError::Kind), "an enclave's");
    // What Intel said about another line of platforms, in another month.
    let other = first.with(|evidence| {
        evidence.tcb_info = of_second.tcb_info;
        evidence.tcb_info_signature = of_second.tcb_info_signature;
    });
    assert_eq!(other, Err(TdxError::CollateralTime("the levels of platforms")));
    let at = |millis: i64| Real { time: UnixMillis(first.time.0 + millis), ..reals().swap_remove(0) }.verify();
    const DAY: i64 = 24 * 60 * 60 * 1_000;
    assert!(at(28 * DAY).is_ok());
    assert_eq!(at(30 * DAY), Err(TdxError::Chain(ChainError::ListTime)));
    assert_eq!(at(-2 * DAY), Err(TdxError::Chain(ChainError::ListTime)));
    let nobodys = genuine(&first.evidence.encode(), &Roots::default(), first.time);
    assert_eq!(nobodys.err(), Some(TdxError::Chain(ChainError::NoRoot)));
    // The platforms' own key signs no word about levels, and the other way round.
    let quote = Quote::read(&first.evidence.quote).unwrap();
    let (platform, _) = quote.certificates().unwrap();
    assert!(!platform.has_common_name(SIGNER));
    assert_eq!(Platform::read(&Certificate::read(&first.evidence.signer).unwrap()).err(), Some(TdxError::Platform));
}

#[test]
fn what_intel_says_ends_with_the_first_of_its_parts() {
    let real = reals().swap_remove(0);
    let found = real.verify().unwrap();
    let until = found.until.0;
    let at = |time: i64| Real { time: UnixMillis(time), ..reals().swap_remove(0) }.verify();
    assert!(at(until).is_ok());
    assert!(at(until + 1).is_err());
}
