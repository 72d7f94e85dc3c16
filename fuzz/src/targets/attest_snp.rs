//! Evidence of SEV-SNP, accepted releases and firmware's logs: only what a processor said verifies, and nothing crashes.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use darkbloom_attest::{BootLog, HardwareTrust, Measurements, SnpError, verify_snp};
use darkbloom_fuzz::{Input, memory, text};
use darkbloom_keys::parse_boot_log;
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::SnpEvidence;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Reports that processors made, as evidence, with a time at which they verify.
static REAL: LazyLock<Vec<(SnpEvidence, UnixMillis)>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/snp-reports.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON");
    let real = |value: &Value| {
        let bytes = |name: &str| hex::decode(value[name].as_str().expect("a text")).expect("hexadecimal digits");
        let intermediates = vec![bytes("intermediate")].into();
        let evidence = SnpEvidence { report: bytes("report"), chip: bytes("chip"), intermediates };
        (evidence, UnixMillis(value["time"].as_i64().expect("a number")))
    };
    file["real"].as_array().expect("a list").iter().map(real).collect()
});

/// What verification comes to: these reports are about nobody's keys, so the last check is what ends it for the good ones.
fn verify(evidence: &SnpEvidence, time: UnixMillis) -> Option<SnpError> {
    let roots = HardwareTrust::default().amd_roots;
    verify_snp(&evidence.encode(), &Digest([0; 32]), &roots, time).err()
}

/// One of the real reports with bytes changed here and there.
fn changed(input: &mut Input<'_>) {
    let (real, time) = &REAL[usize::from(input.byte()) % REAL.len()];
    let mut evidence = real.clone();
    let (place, with) = input.change(&mut [&mut evidence.report, &mut evidence.chip]);
    let genuine = verify(&evidence, *time) == Some(SnpError::OtherSubject);
    assert!(!genuine || evidence == *real, "byte {place} may be changed by {with:#x}");
}

fuzz_target!(|bytes: &[u8]| {
    let _ = &*REAL;
    let mut input = Input::new(bytes);
    let kind = input.byte() % 4;
    memory::within((1 << 20) + 64 * bytes.len(), || match kind {
        0 => changed(&mut input),
        1 => {
            if let Ok(read) = SnpEvidence::decode(input.rest()) {
                assert_eq!(SnpEvidence::decode(&read.encode()).as_ref(), Ok(&read));
                assert!(verify(&read, REAL[0].1).is_some());
            }
        }
        2 => drop(Measurements::parse(&text(input.rest()))),
        _ => {
            if let Ok(events) = parse_boot_log(input.rest()) {
                assert_eq!(BootLog::replay(&events, &[(2, [0; 32]), (4, [0; 32]), (7, [0; 32])]), BootLog::default());
            }
        }
    });
});
