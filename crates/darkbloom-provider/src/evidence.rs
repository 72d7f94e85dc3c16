//! What besides a key in a TPM proves something about this machine, and where it is found.

mod intel;
mod program;
mod tsm;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_attest::read_pem;
use darkbloom_host::clock;
use darkbloom_keys::{BOOT_LOG, boot_log};
use darkbloom_types::Digest;
use darkbloom_wire::{BootEvent, Evidence, SNP_EVIDENCE, SnpEvidence, TDX_EVIDENCE, limits};
use reqwest::Url;

use crate::StartError;
use intel::Intel;
pub use program::program;
use tsm::{Tsm, TsmError};

/// Largest file with certificates of a chip: three of 2 KiB each.
const CERTIFICATES_BYTES_MAX: u64 = 64 << 10;

/// A processor that gave no evidence is not asked again sooner: hosts limit how often a guest may ask.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// Where a report says what it was asked about (`REPORT_DATA`).
const REPORT_DATA: std::ops::Range<usize> = 0x50..0x90;

/// Where this machine's evidence is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceConfig {
    /// The firmware's log, which stands beside what a TPM says.
    pub tpm_log: PathBuf,
    /// The folder in which the kernel makes reports of an encrypted machine.
    pub tsm: PathBuf,
    /// A file in PEM with the certificate of an AMD chip's key and those between it and AMD's root, where the host gives the
    /// guest none.
    pub snp_certificates: Option<PathBuf>,
    /// The service that says what Intel says about platforms: Intel's own, or a cache of it.
    pub tdx_collateral: Url,
}

impl Default for EvidenceConfig {
    fn default() -> Self {
        let (tpm_log, tsm) = (PathBuf::from(BOOT_LOG), PathBuf::from(tsm::FOLDER));
        let tdx_collateral = Url::parse(intel::SERVICE).expect("it is an address");
        Self { tpm_log, tsm, snp_certificates: None, tdx_collateral }
    }
}

/// What evidence of this machine could be made of, for its owner to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceFound {
    /// How many entries of the firmware's log count, or why it cannot be read.
    pub boot_log: Result<usize, String>,
    /// Whether the kernel makes reports of an encrypted machine.
    pub confidential: bool,
}

/// Looks for what this machine has, and asks it nothing.
#[must_use]
pub fn evidence_found(config: &EvidenceConfig) -> EvidenceFound {
    let boot_log = boot_log(&config.tpm_log).map(|log| log.len()).map_err(|error| error.to_string());
    EvidenceFound { boot_log, confidential: Tsm::find(&config.tsm).is_some() }
}

/// What was found. Looked for once, at the start.
#[derive(Debug, Default)]
pub struct Platform {
    tsm: Option<Tsm>,
    /// What Intel says about its platforms, where there is a processor that makes reports.
    intel: Option<Intel>,
    /// When the processor was asked for the last time, if it failed then.
    failed_at: Mutex<Option<Instant>>,
    certificates: Vec<Vec<u8>>,
    boot_log: Vec<BootEvent>,
}

impl Platform {
    /// Looks for what this machine has.
    ///
    /// # Errors
    /// [`StartError`] where a file that the owner named cannot be used.
    pub fn look(config: &EvidenceConfig, has_tpm: bool) -> Result<Self, StartError> {
        let certificates = config.snp_certificates.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let boot_log = if has_tpm {
            boot_log(&config.tpm_log).unwrap_or_else(|error| {
                tracing::info!(%error, "what was booted stands in no evidence: the TPM's registers alone do");
                Vec::new()
            })
        } else {
            Vec::new()
        };
        let tsm = Tsm::find(&config.tsm);
        let intel = tsm.as_ref().map(|_| Intel::new(config.tdx_collateral.clone()));
        Ok(Self { tsm, intel, certificates, boot_log, ..Self::default() })
    }

    /// What the firmware logged.
    pub fn boot_log(&self) -> Vec<BootEvent> {
        self.boot_log.clone()
    }

    /// Evidence of the encrypted machine that this process runs in, about an epoch; nothing on any other machine.
    pub fn confidential(&self, nonce: &Digest) -> Option<Evidence> {
        let (tsm, asked) = (self.tsm.as_ref().filter(|_| self.may_ask())?, asked(nonce));
        let made = tsm.report(&asked).and_then(|report| self.evidence(report, &asked));
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(evidence) => {
                *failed_at = None;
                Some(evidence)
            }
            // It is being asked for.
            Err(TsmError::NoCollateral) => None,
            Err(error) => {
                tracing::warn!(%error, "this machine's processor gives no evidence");
                *failed_at = Some(Instant::now());
                None
            }
        }
    }

    /// Whether there is such evidence to be had, as far as is known: what failed is not expected again for a while.
    pub fn is_confidential(&self) -> bool {
        self.tsm.is_some() && self.may_ask() && !self.intel.as_ref().is_some_and(|intel| intel.is_missing(clock::now()))
    }

    fn may_ask(&self) -> bool {
        let failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_none_or(|failed| failed.elapsed() >= AGAIN)
    }

    /// The processor took too long.
    pub fn is_late(&self) {
        if self.tsm.is_some() {
            *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Whether somebody has to be asked before evidence is as good as it can be.
    pub fn is_due(&self) -> bool {
        self.intel.as_ref().is_some_and(|intel| intel.is_due(clock::now()))
    }

    /// Whether somebody may have to be asked.
    pub fn asks(&self) -> bool {
        self.intel.is_some()
    }

    /// Asks for what is missing or old. A failure is told in the log; another time is soon enough.
    pub async fn renew(&self, http: &reqwest::Client) {
        let Some(intel) = &self.intel else { return };
        if let Err(error) = intel.renew(http, clock::now()).await {
            tracing::warn!(%error, "what Intel says about this platform cannot be had: without it a quote proves nothing");
        }
    }

    fn evidence(&self, report: tsm::Report, asked: &[u8; 64]) -> Result<Evidence, TsmError> {
        match (report.provider.as_str(), &self.intel) {
            (tsm::SNP, _) => {
                let evidence = self.snp(report, asked)?;
                Ok(Evidence { format: SNP_EVIDENCE.to_owned(), bytes: evidence.encode() })
            }
            (tsm::TDX, Some(intel)) => {
                let evidence = intel.evidence(report.report, asked, clock::now())?;
                Ok(Evidence { format: TDX_EVIDENCE.to_owned(), bytes: evidence.encode() })
            }
            _ => Err(TsmError::OtherProvider(report.provider)),
        }
    }

    fn snp(&self, report: tsm::Report, asked: &[u8; 64]) -> Result<SnpEvidence, TsmError> {
        if report.report.get(REPORT_DATA) != Some(asked) {
            return Err(TsmError::OtherSubject);
        }
        // What the owner named counts: the host may have none, or old ones.
        let mut certificates =
            if self.certificates.is_empty() { tsm::certificates(&report.auxiliary) } else { self.certificates.clone() };
        // One too long would make all of it unreadable.
        if certificates.first().is_none_or(|chip| chip.len() > limits::CERTIFICATE_BYTES_MAX) {
            return Err(TsmError::NoCertificates);
        }
        let chip = certificates.remove(0);
        certificates.retain(|certificate| certificate.len() <= limits::CERTIFICATE_BYTES_MAX);
        certificates.truncate(limits::CERTIFICATES_MAX);
        Ok(SnpEvidence { report: report.report, chip, intermediates: certificates.into() })
    }
}

/// What a report is asked about: the epoch's nonce, then zeros.
fn asked(nonce: &Digest) -> [u8; 64] {
    let mut asked = [0; 64];
    asked[..nonce.0.len()].copy_from_slice(&nonce.0);
    asked
}

/// The chip's certificate first, then the others.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, StartError> {
    let unusable = |why: String| StartError::Certificates { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|error| unusable(error.to_string()))?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(file, CERTIFICATES_BYTES_MAX), &mut text)
        .map_err(|error| unusable(error.to_string()))?;
    read_pem(&text).map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
pub(crate) mod machine;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
