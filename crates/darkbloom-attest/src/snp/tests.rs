//! Reports that processors of AMD's made, and what becomes of them when anything is changed.

use std::path::Path;

use darkbloom_wire::SnpEvidence;
use serde_json::Value;

use super::*;

/// A real report, with its certificates.
struct Real {
    evidence: SnpEvidence,
    time: UnixMillis,
    expected: Value,
}

fn reals() -> Vec<Real> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/snp-reports.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let Value::Array(all) = file["real"].take() else { panic!("a list") };
    let real = |expected: Value| {
        let bytes = |name: &str| hex::decode(expected[name].as_str().unwrap()).unwrap();
        let intermediates = vec![bytes("intermediate")].into();
        let evidence = SnpEvidence { report: bytes("report"), chip: bytes("chip"), intermediates };
        Real { evidence, time: UnixMillis(expected["time"].as_i64().unwrap()), expected }
    };
    all.into_iter().map(real).collect()
}

impl Real {
    fn verify(&self) -> Result<SnpFindings, SnpError> {
        genuine(&self.evidence.encode(), &amd_roots(), self.time).map(|(found, _)| found)
    }
}

#[test]
fn reports_of_both_products_verify_by_the_roots_that_ship() {
    assert!(!amd_roots().is_empty());
    let all = reals();
    assert_eq!(all.len(), 2);
    for real in all {
        let found = real.verify().unwrap();
        let levels = |name: &str| u8::try_from(real.expected["levels"][name].as_u64().unwrap()).unwrap();
        assert_eq!(found.product.name(), real.expected["product"]);
        assert_eq!(hex::encode(found.measurement), real.expected["measurement"].as_str().unwrap());
        let SnpLevels { bootloader, tee, snp, microcode } = found.levels;
        assert_eq!(
            [bootloader, tee, snp, microcode],
            ["bootloader", "tee", "snp", "microcode"].map(levels),
            "{}",
            found.product.name()
        );
        assert_eq!(found.host_data, [0; 32]);
        assert_eq!(found.platform.words(), real.expected["platform"].as_str().unwrap());
        assert_eq!(found.policy.words(), "threads");
        // They were asked about something else than keys of a provider of ours.
        let foreign = verify_snp(&real.evidence.encode(), &Digest([0; 32]), &amd_roots(), real.time);
        assert_eq!(foreign, Err(SnpError::OtherSubject));
    }
}

/// Every byte of the report counts: also those that nothing signs.
#[test]
fn no_changed_byte_of_a_report_is_taken() {
    for real in reals() {
        for byte in 0..SNP_REPORT_BYTES {
            // Of each byte another bit: all of them would take a minute, and are what the fuzzer tries.
            let mut evidence = real.evidence.clone();
            evidence.report[byte] ^= 1 << (byte % 8);
            let changed = Real { evidence, time: real.time, expected: Value::Null }.verify();
            assert!(changed.is_err(), "byte {byte:#x} of {}", real.expected["product"]);
        }
    }
}

#[test]
fn reports_without_their_chain_prove_nothing() {
    let [milan, genoa] = <[Real; 2]>::try_from(reals()).map_err(|_| ()).unwrap();
    let with = |change: &dyn Fn(&mut SnpEvidence)| {
        let mut evidence = milan.evidence.clone();
        change(&mut evidence);
        Real { evidence, time: milan.time, expected: Value::Null }.verify()
    };
    assert_eq!(with(&|evidence| evidence.intermediates.0.clear()), Err(SnpError::Chain(ChainError::NoRoot)));
    // A certificate of another chip, with its own chain.
    let other = with(&|evidence| {
        evidence.chip.clone_from(&genoa.evidence.chip);
        evidence.intermediates.clone_from(&genoa.evidence.intermediates);
    });
    assert_eq!(other, Err(SnpError::Signature));
    assert_eq!(with(&|evidence| evidence.report.truncate(1_183)), Err(SnpError::Malformed));
    assert_eq!(with(&|evidence| evidence.report[0] = 5), Err(SnpError::Version(5)));
    let late = Real { time: UnixMillis(4_000_000_000_000), ..reals().swap_remove(0) };
    assert_eq!(late.verify(), Err(SnpError::Chain(ChainError::Time)));
    let nobodys = genuine(&milan.evidence.encode(), &Roots::default(), milan.time);
    assert_eq!(nobodys.err(), Some(SnpError::Chain(ChainError::NoRoot)));
    // AMD signs with PSS: the same bits under another name of an algorithm are no signature.
    let mut named = milan.evidence.clone();
    let at = named.chip.windows(9).position(|window| window == [0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10]).unwrap();
    named.chip[at + 8] = 12;
    assert!(Real { evidence: named, time: milan.time, expected: Value::Null }.verify().is_err());
}
