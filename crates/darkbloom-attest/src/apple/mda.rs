//! Managed Device Attestation: a Mac that an organisation manages asks Apple's servers for a certificate about itself, with a
//! nonce of the organisation's choice in it.
//!
//! The values are those of Apple's "DeviceInformationCommand" (Device Management), `DevicePropertiesAttestation`. A process of
//! ours cannot use the key that is certified, so the nonce is what ties the certificate to the identity key: it is SHA-256 of
//! the key's uncompressed point, all 65 bytes with the leading 4. Apple gives a device a new certificate about once in seven
//! days and the same one again meanwhile: it tells how the Mac was booted then, not now.
//!
//! The certificate may also hold the Mac's serial number (1.2.840.113635.100.8.9.1) and UDID (…8.9.2). Nothing here reads
//! them, so that they can reach no claim and no message.

use darkbloom_types::{UnixMillis, armed};
use darkbloom_wire::AppleMdaEvidence;
use sha2::{Digest as _, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;

use super::follow;
use crate::certificates::{Certificate, ChainError, Roots};

const OS_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.10.1");
const SEPOS_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.10.2");
const FRESHNESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.11.1");
const SIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.13.1");
const SECURE_BOOT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.13.2");
const KERNEL_EXTENSIONS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.13.3");

/// Zero as an INTEGER in DER (X.690 section 8.3): protection is on; no kernel extension of others is allowed.
const ZERO: [u8; 3] = [0x02, 0x01, 0x00];
/// The only level of Secure Boot that counts, as its extension holds it, without any DER around it. The others are `Reduced
/// Security` and `Permissive Security`.
const FULL_SECURITY: &[u8] = b"Full Security";
/// Longest version that is taken: real ones are as `14.2.1`.
const VERSION_BYTES_MAX: usize = 32;

/// Why evidence of Managed Device Attestation proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppleMdaError {
    /// Not evidence of this kind.
    #[error("the evidence cannot be read")]
    Malformed,
    /// The certificate is not Apple's.
    #[error("the device's certificate: {0}")]
    Chain(#[from] ChainError),
    /// Asked for about something else.
    #[error("the certificate was not asked for about this identity key")]
    OtherKey,
    /// System Integrity Protection.
    #[error("the certificate does not say that System Integrity Protection is on in full")]
    Sip,
    /// Secure Boot.
    #[error("the certificate does not say that the Mac boots with Full Security")]
    SecureBoot,
    /// Kernel extensions.
    #[error("the certificate does not say that no kernel extensions of others are allowed")]
    KernelExtensions,
    /// The operating system.
    #[error("the certificate does not say which version of the operating system runs")]
    OsVersion,
    /// The Secure Enclave's operating system.
    #[error("the certificate does not say which version of its own operating system the Secure Enclave runs")]
    SepOsVersion,
}

/// What Managed Device Attestation says of a Mac: beside this, that System Integrity Protection is on, that it boots with Full
/// Security, and that it allows no kernel extensions of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppleMdaFindings {
    /// The root that the device's chain leads to.
    pub root: String,
    /// When Apple wrote the certificate.
    pub made_at: UnixMillis,
    /// The version of macOS then.
    pub os_version: String,
    /// The version of the Secure Enclave's operating system then.
    pub sepos_version: String,
}

/// Verifies evidence that a managed Mac was asked about `identity` and boots as it should.
///
/// # Errors
/// [`AppleMdaError`] says what does not hold.
pub fn verify_apple_mda(
    evidence: &[u8],
    identity: &[u8; 65],
    roots: &Roots,
    now: UnixMillis,
) -> Result<AppleMdaFindings, AppleMdaError> {
    let evidence = AppleMdaEvidence::decode(evidence).map_err(|_| AppleMdaError::Malformed)?;
    let between = evidence.intermediates.0.iter().map(Vec::as_slice);
    let (device, root) = follow(&evidence.device, between, roots, now)?;
    if armed!("apple_mda_freshness") && !is(&device, &FRESHNESS, &Sha256::digest(identity))? {
        return Err(AppleMdaError::OtherKey);
    }
    if armed!("apple_mda_sip") && !is(&device, &SIP, &ZERO)? {
        return Err(AppleMdaError::Sip);
    }
    if armed!("apple_mda_secure_boot") && !is(&device, &SECURE_BOOT, FULL_SECURITY)? {
        return Err(AppleMdaError::SecureBoot);
    }
    if armed!("apple_mda_kernel_extensions") && !is(&device, &KERNEL_EXTENSIONS, &ZERO)? {
        return Err(AppleMdaError::KernelExtensions);
    }
    let os_version = version(&device, &OS_VERSION)?.ok_or(AppleMdaError::OsVersion)?;
    let sepos_version = version(&device, &SEPOS_VERSION)?.ok_or(AppleMdaError::SepOsVersion)?;
    Ok(AppleMdaFindings { root, made_at: device.not_before()?, os_version, sepos_version })
}

/// Whether an extension is there and is exactly this: what is absent, or encoded in another way, does not hold.
fn is(device: &Certificate, oid: &ObjectIdentifier, value: &[u8]) -> Result<bool, ChainError> {
    Ok(device.raw_extension(oid)? == Some(value))
}

/// A version, as the extension holds it: text without any DER around it.
fn version(device: &Certificate, oid: &ObjectIdentifier) -> Result<Option<String>, ChainError> {
    let Some(value) = device.raw_extension(oid)? else { return Ok(None) };
    let sound = (1..=VERSION_BYTES_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    Ok(sound.then(|| value.iter().copied().map(char::from).collect()))
}
