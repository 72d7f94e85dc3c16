//! Evidence of Intel TDX: an encrypted virtual machine, launched as measured, asked for a quote about this epoch's keys.
//!
//! ```text
//! Intel's root ─▶ platforms' key ─▶ platform's key (PCK) ─▶ quoting enclave ─▶ its key ─▶ quote ─▶ measurement, epoch
//!              ─▶ key for levels  ─▶ levels of platforms, quoting enclave's identity
//! ```
//!
//! What is checked is the quote as received, at its offsets (Intel TDX DCAP Quoting Library API, appendix A). A reserved field
//! is zero, or it is refused: who knows what a later module says there. Quotes are of version 4, and of version 5 with a report
//! of TDX 1.0 or 1.5: of these real ones were verified.
//!
//! A platform is as good as the firmware that it runs, and Intel says each month which is: without that word a quote proves
//! nothing. The word travels with the quote, so that nobody has to ask Intel, and counts for a month; the list of what Intel's
//! root took back, which are keys of Intel's own, counts for a year.
//!
//! A quote alone proves little: everybody may launch a machine of his own making. It is the measurement that counts, and what
//! a verifier accepts is its own decision ([`crate::Measurements`]).

mod collateral;
mod platform;
mod quote;

use std::sync::{Arc, OnceLock};

use darkbloom_types::{Digest, UnixMillis, armed};
use darkbloom_wire::TdxEvidence;

use crate::certificates::{Certificate, ChainError, Purpose, RevocationList, Roots, read_pem};
pub use collateral::TdxStatus;
use collateral::{Enclaves, Levels, Platforms};
use platform::Platform;
use quote::Quote;

/// Intel's root, as its provisioning certification service gives it out; its SHA-256 begins with `44a0196b`.
const INTEL: [&[u8]; 1] = [include_bytes!("../roots/intel-sgx-root.der")];
/// Whose key says which levels are sound. Intel's root certifies keys for other things too.
const SIGNER: &str = "Intel SGX TCB Signing";
/// Whose key certifies platforms: those with one processor, and those with several.
const CERTIFIERS: [&str; 2] = ["Intel SGX PCK Processor CA", "Intel SGX PCK Platform CA"];

/// What Intel's service calls them.
const AUTHORITIES: [&str; 2] = ["processor", "platform"];

/// Bits of a machine's attributes (Intel TDX Module ABI, `TDATTRIBUTES`): the lowest eight let its owner look into it, 29 lets
/// it be moved elsewhere.
const ATTRIBUTES_OPEN: u64 = 0xff | 1 << 29;
/// Pages that the owner takes away do not interrupt the machine with what looks like its own fault.
const ATTRIBUTES_CLOSED: u64 = 1 << 28;
/// Those that mean something beside them: a kernel that keeps out of its programs' addresses, keys for its pages, Key Locker,
/// counters of its own performance.
const ATTRIBUTES_KNOWN: u64 = ATTRIBUTES_OPEN | ATTRIBUTES_CLOSED | 1 << 27 | 1 << 30 | 1 << 31 | 1 << 63;

/// Why evidence of TDX proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// Not evidence of this kind.
    #[error("the evidence cannot be read")]
    Malformed,
    /// A quote that is newer than this verifier, or older than all real ones that it has verified.
    #[error("a quote of version {0} is not understood")]
    Version(u16),
    /// A report of a newer module.
    #[error("a report of kind {0} is not understood")]
    Body(u16),
    /// Not a quote of an encrypted machine by Intel's quoting enclave and a key on P-256.
    #[error("the quote is of another kind, or by another enclave than Intel's")]
    Kind,
    /// The platform's key is not Intel's, or was revoked.
    #[error("the platform's certificate: {0}")]
    Chain(#[from] ChainError),
    /// The certificate says nothing about a platform.
    #[error("the certificate is of no platform")]
    Platform,
    /// A signature.
    #[error("the signature of {0} does not verify")]
    Signature(&'static str),
    /// The key that signed the quote is not the enclave's.
    #[error("the quoting enclave says nothing about the key that signed the quote")]
    Key,
    /// Something stands where nothing may.
    #[error("a reserved field of the quote is not zero")]
    Reserved,
    /// Intel's word about levels or enclaves cannot be read.
    #[error("what Intel says about {0} cannot be read")]
    Collateral(&'static str),
    /// Intel's word is too old, or of the future.
    #[error("what Intel says about {0} does not count at this time: the provider has to fetch it anew")]
    CollateralTime(&'static str),
    /// Intel's word is about other platforms, another module or another enclave.
    #[error("what Intel says about {0} is not about this one")]
    OtherCollateral(&'static str),
    /// Intel names no level so low, or took it back.
    #[error("the firmware's level is none that Intel stands for")]
    Level,
    /// The machine may be looked into or moved, or can be tricked with pages that are taken away.
    #[error("the machine's attributes let its owner look into it, move it or interrupt it")]
    Attributes,
    /// For another epoch.
    #[error("the quote is about other keys, or for another epoch")]
    OtherSubject,
}

/// What TDX proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxFindings {
    /// The root that the platform's chain leads to.
    pub root: String,
    /// The line of platforms (`FMSPC`).
    pub platform: [u8; 6],
    /// What Intel says about the firmware of platform, module and quoting enclave: the worst of them.
    pub status: TdxStatus,
    /// Intel's advisories about what is known against this level.
    pub advisories: Vec<String>,
    /// The number of Intel's evaluation that says so: each time something new becomes known it rises.
    pub evaluation: u32,
    /// Until when Intel's word counts.
    pub until: UnixMillis,
    /// What was launched (`MRTD`): SHA-384 over the machine's first pages.
    pub measurement: [u8; 48],
    /// What was measured since (`RTMR0` to `RTMR3`): settings, kernel, its command line and first files, and what the machine
    /// itself adds.
    pub registers: [[u8; 48]; 4],
    /// What the owner wrote beside it (`MRCONFIGID`), not measured.
    pub config: [u8; 48],
}

/// Intel's root.
pub(crate) fn intel_roots() -> Arc<Roots> {
    static ROOTS: OnceLock<Arc<Roots>> = OnceLock::new();
    // It is in this program: that it can be read is a test.
    ROOTS.get_or_init(|| Roots::read(INTEL).unwrap_or_default().into()).clone()
}

/// What has to be known about a quote to ask what Intel says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteOrigin {
    /// Bytes of the quote: what a host gives may go on with zeros.
    pub length: usize,
    /// What it was asked about (`REPORTDATA`).
    pub asked: [u8; 64],
    /// The line of platforms (`FMSPC`).
    pub line: [u8; 6],
    /// Whose list of revoked certificates it is that the platform's could be on, as Intel's service calls it.
    pub authority: &'static str,
}

impl QuoteOrigin {
    /// Reads it in a quote, of which nothing is verified.
    ///
    /// # Errors
    /// [`TdxError`] where it is no quote that is understood.
    pub fn read(quote: &[u8]) -> Result<Self, TdxError> {
        let length = Quote::length(quote)?;
        let quote = Quote::read(&quote[..length])?;
        let (certificate, between) = quote.certificates()?;
        let certifier = between.first().ok_or(TdxError::Platform)?;
        let named = CERTIFIERS.iter().position(|name| certifier.has_common_name(name)).ok_or(TdxError::Platform)?;
        let authority = AUTHORITIES[named];
        Ok(Self { length, asked: quote.asked(), line: Platform::read(&certificate)?.line, authority })
    }
}

/// Until when what Intel says in this evidence counts, of which nothing is verified: the first of its ends.
#[must_use]
pub fn tdx_until(evidence: &TdxEvidence) -> Option<UnixMillis> {
    let words = [&evidence.tcb_info, &evidence.qe_identity].map(|word| collateral::end_of(word));
    let lists = [&evidence.platform_crl, &evidence.root_crl].map(|list| RevocationList::read(list).ok()?.until());
    words.into_iter().chain(lists).min().flatten()
}

/// Verifies evidence that an encrypted machine asked for a quote with `nonce` in it.
///
/// # Errors
/// [`TdxError`] says what does not hold.
pub fn verify_tdx(evidence: &[u8], nonce: &Digest, roots: &Roots, now: UnixMillis) -> Result<TdxFindings, TdxError> {
    let (found, asked) = genuine(evidence, roots, now)?;
    let (epoch, rest) = asked.split_at(nonce.0.len());
    let same = epoch == nonce.0 && rest.iter().all(|byte| *byte == 0);
    if same || !armed!("tdx_report_data") { Ok(found) } else { Err(TdxError::OtherSubject) }
}

/// What a genuine quote says, and what it was asked about (`REPORTDATA`).
fn genuine(evidence: &[u8], roots: &Roots, now: UnixMillis) -> Result<(TdxFindings, [u8; 64]), TdxError> {
    let evidence = TdxEvidence::decode(evidence).map_err(|_| TdxError::Malformed)?;
    let quote = Quote::read(&evidence.quote)?;
    let (certificate, mut between) = quote.certificates()?;
    // Quotes bring the root too: what is believed is the verifier's own.
    between.truncate(1);
    let issuers = roots.trace(&certificate, &between, Purpose::Unstated, now)?;
    let [certifier, root] = issuers[..] else { return Err(ChainError::NotAuthority.into()) };
    if armed!("tdx_certifier") && !CERTIFIERS.iter().any(|name| certifier.has_common_name(name)) {
        return Err(ChainError::Purpose.into());
    }
    let (of_platforms, of_root) =
        (RevocationList::read(&evidence.platform_crl)?, RevocationList::read(&evidence.root_crl)?);
    of_platforms.clears(&certificate, certifier, now)?;
    of_root.clears(certifier, root, now)?;
    let platform = Platform::read(&certificate)?;
    quote.check_signatures(&certificate)?;
    quote.check_reserved()?;

    let signer = Certificate::read(&evidence.signer)?;
    let issuers = roots.trace(&signer, &[], Purpose::Unstated, now)?;
    if armed!("tdx_signer") && !signer.has_common_name(SIGNER) {
        return Err(ChainError::Purpose.into());
    }
    if let Some(issuer) = issuers.first() {
        of_root.clears(&signer, issuer, now)?;
    }
    let levels = Platforms::read(&evidence.tcb_info, &evidence.tcb_info_signature, &signer, now)?;
    let enclaves = Enclaves::read(&evidence.qe_identity, &evidence.qe_identity_signature, &signer, now)?;
    let Levels { status, advisories } = levels.judge(&platform, &quote)?.worse(enclaves.judge(&quote)?);
    if status == TdxStatus::Revoked && armed!("tdx_level") {
        return Err(TdxError::Level);
    }
    check_attributes(quote.attributes())?;

    let lists = [of_platforms.until(), of_root.until()];
    let until = lists.into_iter().flatten().chain([levels.until(), enclaves.until()]).min();
    let found = TdxFindings {
        root: root.name(),
        platform: platform.line,
        status,
        advisories,
        evaluation: levels.evaluation().min(enclaves.evaluation()),
        until: until.unwrap_or(now),
        measurement: quote.measurement(),
        registers: quote.registers(),
        config: quote.config(),
    };
    Ok((found, quote.asked()))
}

fn check_attributes(attributes: u64) -> Result<(), TdxError> {
    let closed = attributes & (ATTRIBUTES_OPEN | ATTRIBUTES_CLOSED) == ATTRIBUTES_CLOSED;
    if armed!("tdx_attributes") && !closed {
        return Err(TdxError::Attributes);
    }
    if armed!("tdx_reserved") && attributes & !ATTRIBUTES_KNOWN != 0 { Err(TdxError::Reserved) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
