//! Evidence of AMD SEV-SNP: an encrypted virtual machine, launched as measured, asked for a report about this epoch's keys.
//!
//! ```text
//! AMD's root (ARK) ─▶ product's key (ASK) ─▶ chip's key at this firmware (VCEK) ─▶ report ─▶ measurement, epoch
//! ```
//!
//! What is checked is the report as received, at its offsets (SEV-SNP Firmware ABI, 56860, table "ATTESTATION_REPORT"): whatever
//! reads it into a structure first may verify something else than what was signed. Every reserved field is zero, or it is
//! refused: who knows what a later firmware says there. Products and versions are those of which real reports were verified,
//! Milan's of version 2 and Genoa's of version 3.
//!
//! A report alone proves little: everybody may launch a machine of his own making. It is the measurement that counts, and what
//! a verifier accepts is its own decision ([`crate::Measurements`]).

use std::sync::{Arc, OnceLock};

use darkbloom_types::{Digest, UnixMillis, armed};
use darkbloom_wire::{SNP_REPORT_BYTES, SnpEvidence};
use p384::ecdsa::signature::Verifier as _;
use serde::Deserialize;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier};

use crate::certificates::{Certificate, ChainError, Purpose, Roots};

/// AMD's roots, as its key distribution service gives them out; their SHA-256 begin with `69d063b4` and `4c6598d1`.
const AMD: [&[u8]; 2] = [include_bytes!("../roots/amd-ark-milan.der"), include_bytes!("../roots/amd-ark-genoa.der")];

/// What is signed of a report.
const SIGNED: usize = 0x2a0;
/// A number of a signature: 72 bytes, the least significant first.
const NUMBER: usize = 72;
/// Bytes of a number on P-384.
const SCALAR: usize = 48;
/// ECDSA on P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// Where levels of firmware stand: those that the chip's key stands for, of what runs, of what is committed and cannot be
/// taken back, and of what ran when the guest was launched.
const LEVELS: [usize; 4] = [0x180, 0x38, 0x1e0, 0x1f0];

/// Bits of a guest's policy: 17 is always set, 18 lets an agent move the guest elsewhere, 19 lets its owner look into it.
const POLICY_ALWAYS: u64 = 1 << 17;
const POLICY_MIGRATION: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;
/// Those that mean something: two bytes of the interface's version, and eight demands up to bit 25.
const POLICY_KNOWN: u64 = (1 << 26) - 1;
/// Those bits of a guest's policy that allow or demand something, in words.
const POLICY_WORDS: [(u32, &str); 7] = [
    (16, "threads"),
    (20, "single_socket"),
    (21, "cxl"),
    (22, "aes_256_xts"),
    (23, "no_power_readings"),
    (24, "ciphertext_hiding"),
    (25, "no_page_swap"),
];
/// What a platform says of itself in bits 0 to 5, in words.
const PLATFORM_WORDS: [(u32, &str); 6] = [
    (0, "threads"),
    (1, "all_memory_encrypted"),
    (2, "error_correction"),
    (3, "no_power_readings"),
    (4, "ciphertext_hiding"),
    (SnpBits::ALIAS_CHECK, "alias_check"),
];
const PLATFORM_KNOWN: u64 = 0x3f;

/// AMD's arc for what stands in a chip's certificate (VCEK Certificate and KDS Interface Specification, 57230).
const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
/// Levels that firmware does not have yet: zero.
const RESERVED: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7"),
];
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// Why evidence of SEV-SNP proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnpError {
    /// Not evidence of this kind.
    #[error("the evidence cannot be read")]
    Malformed,
    /// A report of firmware that is newer than this verifier, or older than all real reports that it has verified.
    #[error("a report of version {0} is not understood")]
    Version(u32),
    /// The chip's key is not AMD's.
    #[error("the chip's certificate: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is of another product, or says nothing about one.
    #[error("the certificate is of no chip whose reports are understood")]
    Product,
    /// Not signed by the chip's own key.
    #[error("the report is signed by another kind of key than the chip's own")]
    Signer,
    /// The signature.
    #[error("the report's signature does not verify")]
    Signature,
    /// Something stands where nothing may.
    #[error("a reserved field of the report is not zero")]
    Reserved,
    /// The report is another chip's than the certificate, or of firmware at another level.
    #[error("the certificate is another chip's, or of another level of its firmware")]
    OtherChip,
    /// The guest may be looked into, or moved elsewhere.
    #[error("the guest's policy lets its owner look into it, or move it")]
    GuestPolicy,
    /// Asked for by less than the guest's own most privileged part.
    #[error("the report was asked for at privilege level {0}, not 0")]
    Level(u32),
    /// For another epoch.
    #[error("the report is about other keys, or for another epoch")]
    OtherSubject,
}

/// A line of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, Siena's and Bergamo's cores among them.
    Genoa,
}

impl Product {
    /// The name in policies and claims.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
        }
    }

    /// As a chip's certificate names it, with or without its stepping.
    fn read(name: &str) -> Option<Self> {
        match name.split('-').next()? {
            "Milan" => Some(Self::Milan),
            "Genoa" => Some(Self::Genoa),
            _ => None,
        }
    }

    /// Whether a report of version 3 says of its processor that it is one: family 25, and its models.
    fn has_model(self, family: u8, model: u8) -> bool {
        let is_its = match self {
            Self::Milan => model <= 0x0f,
            Self::Genoa => matches!(model, 0x10..=0x1f | 0xa0..=0xaf),
        };
        family == 0x19 && is_its
    }
}

/// Security levels of a chip's firmware (`TCB_VERSION`): each only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpLevels {
    /// Of the secure processor's loader.
    pub bootloader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of the SEV-SNP firmware.
    pub snp: u8,
    /// Of the cores' microcode.
    pub microcode: u8,
}

impl SnpLevels {
    /// Whether none is below another's.
    #[must_use]
    pub fn reaches(&self, least: &Self) -> bool {
        let of = |levels: &Self| [levels.bootloader, levels.tee, levels.snp, levels.microcode];
        of(self).into_iter().zip(of(least)).all(|(is, least)| is >= least)
    }

    /// From a report: loader and operating system, four reserved bytes, firmware and microcode.
    fn read([bootloader, tee, _, _, _, _, snp, microcode]: [u8; 8]) -> Self {
        Self { bootloader, tee, snp, microcode }
    }

    /// From a chip's certificate.
    fn certified(chip: &Certificate) -> Result<Self, SnpError> {
        let level = |oid| {
            let value = chip.raw_extension(&oid)?.ok_or(SnpError::Product)?;
            u8::from_der(value).map_err(|_| SnpError::Product)
        };
        if RESERVED.into_iter().any(|oid| level(oid) != Ok(0)) {
            return Err(SnpError::Reserved);
        }
        Ok(Self { bootloader: level(BOOTLOADER)?, tee: level(TEE)?, snp: level(SNP)?, microcode: level(MICROCODE)? })
    }
}

impl std::fmt::Display for SnpLevels {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bootloader, tee, snp, microcode } = self;
        write!(to, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

/// Bits in which a report says something about guest or platform, and what each is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpBits(u64, &'static [(u32, &'static str)]);

impl SnpBits {
    /// Memory was seen to have no aliases: an address that means what another does lets an owner write into a guest without
    /// its processor noticing (AMD-SB-3015).
    pub const ALIAS_CHECK: u32 = 5;

    /// A guest's policy.
    pub(crate) fn of_policy(bits: u64) -> Self {
        Self(bits, &POLICY_WORDS)
    }

    /// A platform.
    pub(crate) fn of_platform(bits: u64) -> Self {
        Self(bits, &PLATFORM_WORDS)
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    /// The words of those that are set.
    #[must_use]
    pub fn words(&self) -> String {
        let set: Vec<_> = self.1.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, word)| *word).collect();
        if set.is_empty() { "none".to_owned() } else { set.join(", ") }
    }
}

/// What SEV-SNP proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpFindings {
    /// The root that the chip's chain leads to.
    pub root: String,
    /// The line of processors.
    pub product: Product,
    /// The levels of the firmware that is committed, running, and was running when the guest was launched: the least of each,
    /// which is never above what the chip's key stands for.
    pub levels: SnpLevels,
    /// What was launched: SHA-384 over the guest's first pages and registers.
    pub measurement: [u8; 48],
    /// What the host wrote beside it, not measured.
    pub host_data: [u8; 32],
    /// What the guest's policy allows and demands.
    pub policy: SnpBits,
    /// What the platform says of itself.
    pub platform: SnpBits,
}

/// AMD's roots.
pub(crate) fn amd_roots() -> Arc<Roots> {
    static ROOTS: OnceLock<Arc<Roots>> = OnceLock::new();
    // They are in this program: that they can be read is a test.
    ROOTS.get_or_init(|| Roots::read(AMD).unwrap_or_default().into()).clone()
}

/// Verifies evidence that an encrypted machine asked for a report with `nonce` in it.
///
/// # Errors
/// [`SnpError`] says what does not hold.
pub fn verify_snp(evidence: &[u8], nonce: &Digest, roots: &Roots, now: UnixMillis) -> Result<SnpFindings, SnpError> {
    let (found, asked) = genuine(evidence, roots, now)?;
    let (epoch, rest) = asked.split_at(nonce.0.len());
    let same = epoch == nonce.0 && rest.iter().all(|byte| *byte == 0);
    if same || !armed!("snp_report_data") { Ok(found) } else { Err(SnpError::OtherSubject) }
}

/// What a genuine report says, and what it was asked about (`REPORT_DATA`).
fn genuine(evidence: &[u8], roots: &Roots, now: UnixMillis) -> Result<(SnpFindings, [u8; 64]), SnpError> {
    let evidence = SnpEvidence::decode(evidence).map_err(|_| SnpError::Malformed)?;
    let report = Report::read(&evidence.report)?;
    let chip = Certificate::read(&evidence.chip)?;
    let intermediates: Vec<_> =
        evidence.intermediates.0.iter().map(|der| Certificate::read(der)).collect::<Result<_, _>>()?;
    let root = roots.follow(&chip, &intermediates, Purpose::Unstated, now)?;
    report.check_signature(&chip)?;
    let product = report.check_chip(&chip)?;
    report.check_reserved()?;
    report.check_guest()?;
    let (measurement, host_data) = (report.part(0x90), report.part(0xc0));
    let (policy, platform) = (SnpBits::of_policy(report.long(0x08)), SnpBits::of_platform(report.long(0x40)));
    let found = SnpFindings { root, product, levels: report.levels(), measurement, host_data, policy, platform };
    Ok((found, report.part(0x50)))
}

/// A report of the right length and of a version that is understood.
struct Report<'a> {
    bytes: &'a [u8; SNP_REPORT_BYTES],
    version: u32,
}

impl<'a> Report<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, SnpError> {
        let bytes = bytes.try_into().map_err(|_| SnpError::Malformed)?;
        let report = Self { bytes, version: 0 };
        let version = report.number(0x00);
        if matches!(version, 2 | 3) { Ok(Self { version, ..report }) } else { Err(SnpError::Version(version)) }
    }

    /// So many bytes from an offset.
    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut part = [0; N];
        part.copy_from_slice(&self.bytes[at..at + N]);
        part
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.part(at))
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.part(at))
    }

    fn is_zero(&self, from: usize, until: usize) -> bool {
        self.bytes[from..until].iter().all(|byte| *byte == 0)
    }

    fn check_signature(&self, chip: &Certificate) -> Result<(), SnpError> {
        // Bits 2 to 4 say whose key signed: the chip's own is 0. Bit 1 hides which chip it was.
        let flags = self.number(0x48);
        if self.number(0x34) != ALGORITHM || flags & 0b1_1110 != 0 {
            return Err(SnpError::Signer);
        }
        let key = chip.p384_key().ok_or(SnpError::Signer)?;
        let mut signature = [0; 2 * SCALAR];
        for (place, at) in signature.chunks_exact_mut(SCALAR).zip([SIGNED, SIGNED + NUMBER]) {
            place.copy_from_slice(&self.bytes[at..at + SCALAR]);
            place.reverse();
            if !self.is_zero(at + SCALAR, at + NUMBER) {
                return Err(SnpError::Signature);
            }
        }
        let signature = p384::ecdsa::Signature::from_slice(&signature).map_err(|_| SnpError::Signature)?;
        match key.verify(&self.bytes[..SIGNED], &signature) {
            Err(_) if armed!("snp_signature") => Err(SnpError::Signature),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// That the certificate is of the chip and the firmware that made the report; the product.
    fn check_chip(&self, chip: &Certificate) -> Result<Product, SnpError> {
        let name = chip.raw_extension(&PRODUCT)?.and_then(|value| Ia5StringRef::from_der(value).ok());
        let product = name.and_then(|name| Product::read(name.as_str())).ok_or(SnpError::Product)?;
        let certified = SnpLevels::certified(chip)?;
        let same = chip.raw_extension(&CHIP)?.is_some_and(|id| *id == self.part::<64>(0x1a0))
            && certified == SnpLevels::read(self.part(LEVELS[0]))
            && (self.version < 3 || product.has_model(self.bytes[0x188], self.bytes[0x189]));
        if same || !armed!("snp_chip") { Ok(product) } else { Err(SnpError::OtherChip) }
    }

    fn check_reserved(&self) -> Result<(), SnpError> {
        let after_levels = if self.version < 3 { 0x188 } else { 0x18b };
        let zero = LEVELS.into_iter().all(|at| self.is_zero(at + 2, at + 6))
            && self.is_zero(0x4c, 0x50)
            && self.number(0x48) >> 5 == 0
            && self.is_zero(after_levels, 0x1a0)
            && self.is_zero(0x1eb, 0x1ec)
            && self.is_zero(0x1ef, 0x1f0)
            && self.is_zero(0x1f8, SIGNED)
            && self.is_zero(SIGNED + 2 * NUMBER, SNP_REPORT_BYTES)
            && self.long(0x08) & !POLICY_KNOWN == 0
            && self.long(0x40) & !PLATFORM_KNOWN == 0;
        if zero || !armed!("snp_reserved") { Ok(()) } else { Err(SnpError::Reserved) }
    }

    fn check_guest(&self) -> Result<(), SnpError> {
        let policy = self.long(0x08);
        let closed = policy & (POLICY_ALWAYS | POLICY_MIGRATION | POLICY_DEBUG) == POLICY_ALWAYS;
        if armed!("snp_guest_policy") && !closed {
            return Err(SnpError::GuestPolicy);
        }
        let level = self.number(0x30);
        if armed!("snp_level") && level != 0 { Err(SnpError::Level(level)) } else { Ok(()) }
    }

    /// The least of the firmware's levels.
    fn levels(&self) -> SnpLevels {
        let [first, others @ ..] = LEVELS.map(|at| SnpLevels::read(self.part(at)));
        others.into_iter().fold(first, |least, other| SnpLevels {
            bootloader: least.bootloader.min(other.bootloader),
            tee: least.tee.min(other.tee),
            snp: least.snp.min(other.snp),
            microcode: least.microcode.min(other.microcode),
        })
    }
}

#[cfg(test)]
mod tests;
