//! The kernel's side of a request, played with pipes: who writes into `inblob` is answered in `outblob`, and not before.

use std::thread::JoinHandle;

use super::machine::{answer, files};
use super::*;
use darkbloom_attest::verify_snp;
use darkbloom_types::UnixMillis;

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-attest/tests/shared/chip.rs"]
mod chip;
use chip::Chip;

/// In the middle of 2027.
const NOW: UnixMillis = UnixMillis(1_814_400_000_000);

/// What the kernel would say.
struct Kernel {
    provider: &'static str,
    auxiliary: Option<Vec<u8>>,
    generation: [&'static str; 2],
    /// What it makes of the question's first byte.
    changes: u8,
}

impl Kernel {
    fn honest() -> Self {
        Self { provider: "sev_guest", auxiliary: Some(Vec::new()), generation: ["1\n", "1\n"], changes: 0 }
    }
}

/// Answers one request with the reports of a chip.
fn kernel(folder: &Path, says: Kernel) -> (PathBuf, JoinHandle<Chip>) {
    let request = folder.join("request");
    std::fs::create_dir(&request).unwrap();
    files(&request, says.provider);
    let chip = Chip::new();
    if let Some(table) = says.auxiliary {
        let table = if table.is_empty() { chip.table() } else { table };
        std::fs::write(request.join("auxblob"), table).unwrap();
    }
    let at = request.clone();
    let answering = std::thread::spawn(move || {
        answer(&request, says.generation[0], says.generation[1], |mut asked| {
            asked[0] ^= says.changes;
            chip.sign(Chip::report(&asked))
        });
        chip
    });
    (at, answering)
}

fn look(folder: &Path, certificates: Option<PathBuf>) -> Platform {
    let config = EvidenceConfig { tsm: folder.to_owned(), snp_certificates: certificates, ..EvidenceConfig::default() };
    Platform::look(&config, false).unwrap()
}

/// What becomes of one request to this kernel.
fn evidence_of(says: Kernel, certificates: Option<PathBuf>) -> (Result<SnpEvidence, TsmError>, Chip) {
    let folder = tempfile::tempdir().unwrap();
    let (request, kernel) = kernel(folder.path(), says);
    let asked = asked(&Digest([7; 32]));
    let report = tsm::Request(&request).ask(&asked);
    let chip = kernel.join().unwrap();
    (report.and_then(|report| look(folder.path(), certificates).snp(report, &asked)), chip)
}

#[test]
fn a_report_about_an_epoch_is_evidence_that_verifies() {
    let (evidence, chip) = evidence_of(Kernel::honest(), None);
    let found = verify_snp(&evidence.unwrap().encode(), &Digest([7; 32]), &chip.roots(), NOW).unwrap();
    assert_eq!(found.measurement, chip::MEASUREMENT);
}

#[test]
fn what_the_kernel_does_not_say_is_no_evidence() {
    let refused = |says: Kernel| evidence_of(says, None).0.unwrap_err();
    assert!(matches!(refused(Kernel { auxiliary: None, ..Kernel::honest() }), TsmError::NoCertificates));
    assert!(matches!(refused(Kernel { generation: ["1", "2"], ..Kernel::honest() }), TsmError::Disturbed));
    assert!(matches!(refused(Kernel { changes: 1, ..Kernel::honest() }), TsmError::OtherSubject));
    let folder = tempfile::tempdir().unwrap();
    let other = tsm::Report { provider: "arm_cca_guest".to_owned(), report: Vec::new(), auxiliary: Vec::new() };
    let refused = look(folder.path(), None).evidence(other, &[0; 64]);
    assert!(matches!(refused, Err(TsmError::OtherProvider(name)) if name == "arm_cca_guest"));
    // A machine that is not encrypted has none, and on one that lets nobody ask it is missing.
    let folder = tempfile::tempdir().unwrap();
    let none = look(&folder.path().join("none"), None);
    assert!(!none.is_confidential() && none.confidential(&Digest([7; 32])).is_none());
    let silent = look(folder.path(), None);
    assert!(silent.is_confidential() && silent.confidential(&Digest([7; 32])).is_none());
    assert!(!silent.is_confidential(), "it is not asked again at once");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "a request is taken back");
}

#[test]
fn certificates_that_the_owner_names_stand_in_for_the_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let (request, kernel) = kernel(folder.path(), Kernel { auxiliary: None, ..Kernel::honest() });
    let asked = asked(&Digest([7; 32]));
    let report = tsm::Request(&request).ask(&asked).unwrap();
    let chip = kernel.join().unwrap();
    let file = folder.path().join("chip.pem");
    let pem: String = tsm::certificates(&chip.table())
        .iter()
        .map(|der| {
            let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
            text.push_str(&base64(der));
            text + "-----END CERTIFICATE-----\n"
        })
        .collect();
    std::fs::write(&file, pem).unwrap();
    let evidence = look(folder.path(), Some(file.clone())).snp(report, &asked).unwrap();
    assert!(verify_snp(&evidence.encode(), &Digest([7; 32]), &chip.roots(), NOW).is_ok());
    for wrong in ["", "no certificate"] {
        std::fs::write(&file, wrong).unwrap();
        let config = EvidenceConfig { snp_certificates: Some(file.clone()), ..EvidenceConfig::default() };
        assert!(matches!(Platform::look(&config, false), Err(StartError::Certificates { .. })));
    }
}

/// Lines of RFC 7468.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = number >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    text + "\n"
}

#[test]
fn a_hosts_table_is_read_within_its_bytes() {
    let table = Chip::new().table();
    assert_eq!(tsm::certificates(&table).len(), 2);
    for length in 0..table.len() {
        assert!(tsm::certificates(&table[..length]).len() <= 2);
    }
    assert!(tsm::certificates(&table[..table.len() - 1]).len() < 2, "one that ends behind the table");
    let mut far = table.clone();
    far[16..24].fill(0xff);
    assert!(tsm::certificates(&far).is_empty());
    let mut unknown = table;
    unknown[0] ^= 1;
    assert!(tsm::certificates(&unknown).is_empty(), "no chip's certificate");
}
