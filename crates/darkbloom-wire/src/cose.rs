//! COSE_Sign1 (RFC 9052 section 4.2) over deterministic CBOR, one domain string a kind of object.
//!
//! The envelope is tag 18 around `[protected, {}, payload, signature]`; `protected` holds the algorithm alone; the domain
//! string is the external additional data, so a signature over one kind of object is none over another. Signatures are
//! verified over the bytes as received.

use darkbloom_types::armed;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use sha2::{Digest as _, Sha256};

use crate::cbor::{DecodeError, Reader, Writer};

/// The kinds of signed objects. Each has its own domain string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// A provider's statement, signed by its identity key.
    Statement,
    /// A provider's answer to a coordinator's challenge, signed by its identity key.
    Challenge,
    /// A coordinator's answer to a provider's or client's nonce, signed by its key.
    Coordinator,
    /// A receipt, signed by an epoch's receipt key.
    Receipt,
    /// A bill, signed by the coordinator.
    Bill,
    /// A catalogue entry, signed by the operator's coordinator key.
    CatalogueEntry,
    /// A list of candidates, signed by the coordinator.
    CandidateList,
    /// Connected providers with their evidence, signed by the coordinator.
    ProviderList,
    /// An activator's word about a TPM, signed by its key.
    Activation,
    /// One identity takes over from another, signed by the older one's key.
    Succession,
}

impl Domain {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Statement,
        Self::Challenge,
        Self::Coordinator,
        Self::Receipt,
        Self::Bill,
        Self::CatalogueEntry,
        Self::CandidateList,
        Self::ProviderList,
        Self::Activation,
        Self::Succession,
    ];

    /// The string under the signature.
    #[must_use]
    pub fn string(self) -> &'static str {
        match self {
            Self::Statement => "darkbloom/v1/statement",
            Self::Challenge => "darkbloom/v1/challenge",
            Self::Coordinator => "darkbloom/v1/coordinator",
            Self::Receipt => "darkbloom/v1/receipt",
            Self::Bill => "darkbloom/v1/bill",
            Self::CatalogueEntry => "darkbloom/v1/catalogue-entry",
            Self::CandidateList => "darkbloom/v1/candidate-list",
            Self::ProviderList => "darkbloom/v1/provider-list",
            Self::Activation => "darkbloom/v1/activation",
            Self::Succession => "darkbloom/v1/succession",
        }
    }
}

/// Signature algorithms, by their COSE numbers (RFC 9053 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256, signature r ‖ s (−7).
    Es256,
    /// Ed25519 (−8).
    EdDsa,
}

impl Algorithm {
    fn number(self) -> i64 {
        match self {
            Self::Es256 => -7,
            Self::EdDsa => -8,
        }
    }
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// P-256: the uncompressed SEC 1 point, 65 bytes.
    P256([u8; 65]),
    /// Ed25519 (RFC 8032): 32 bytes.
    Ed25519([u8; 32]),
}

/// A key could not sign: the store or device behind it failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key could not sign: {0}")]
pub struct SignError(pub String);

/// Something that signs: a software key, a device.
pub trait Signer {
    /// Its algorithm.
    fn algorithm(&self) -> Algorithm;
    /// Signs the message; 64 bytes for both algorithms.
    ///
    /// # Errors
    /// [`SignError`] when the device or store behind the key fails.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why a signed object is refused. The peer lied, or the bytes were changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No COSE_Sign1 of the one form that is spoken here.
    #[error("not a signed object: {0}")]
    Envelope(#[from] DecodeError),
    /// The algorithm is not the key's.
    #[error("signed with another algorithm than the key's")]
    Algorithm,
    /// The public key is no point on its curve.
    #[error("the public key is not valid")]
    PublicKey,
    /// The signature is not this key's over these bytes in this domain.
    #[error("the signature does not verify")]
    Signature,
}

/// COSE_Sign1's CBOR tag.
const TAG_SIGN1: u64 = 18;
/// Protected header: a map of one pair takes three bytes; a little more is malformed, much more is an attack.
const PROTECTED_BYTES_MAX: usize = 16;

/// The bytes under the signature: RFC 9052 section 4.4.
fn to_be_signed(domain: Domain, protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(payload.len() + 64);
    writer.array(4);
    writer.text("Signature1");
    writer.bytes(protected);
    writer.bytes(if armed!("signature_domain") { domain.string().as_bytes() } else { b"" });
    writer.bytes(payload);
    writer.finish()
}

fn protected_header(algorithm: Algorithm) -> Vec<u8> {
    let mut writer = Writer::with_capacity(4);
    writer.map(1);
    writer.int(1);
    writer.int(algorithm.number());
    writer.finish()
}

/// Signs a payload for a domain.
///
/// # Errors
/// [`SignError`] when the key fails.
pub fn sign(domain: Domain, signer: &dyn Signer, payload: &[u8]) -> Result<Vec<u8>, SignError> {
    let protected = protected_header(signer.algorithm());
    let mut signature = signer.sign(&to_be_signed(domain, &protected, payload))?;
    if signer.algorithm() == Algorithm::Es256 {
        // Devices return either of the two forms; one is spoken here.
        let either = p256::ecdsa::Signature::from_slice(&signature).map_err(|error| SignError(error.to_string()))?;
        signature = either.normalize_s().to_bytes().into();
    }
    let mut writer = Writer::with_capacity(payload.len() + 96);
    writer.tag(TAG_SIGN1);
    writer.array(4);
    writer.bytes(&protected);
    writer.map(0);
    writer.bytes(payload);
    writer.bytes(&signature);
    Ok(writer.finish())
}

/// The payload of an envelope whose signature was not checked yet: to find out whose key to check with.
///
/// # Errors
/// [`DecodeError`] when the envelope is not of the one form.
pub(crate) fn unverified_payload(bytes: &[u8], payload_max: usize) -> Result<&[u8], DecodeError> {
    Ok(Envelope::read(bytes, payload_max)?.payload)
}

/// An envelope's parts, as received.
struct Envelope<'a> {
    protected: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8], payload_max: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.tag()? != TAG_SIGN1 || reader.array(4)? != 4 {
            return Err(DecodeError::Malformed);
        }
        let protected = reader.bytes(PROTECTED_BYTES_MAX)?;
        reader.map(0)?;
        let payload = reader.bytes(payload_max)?;
        let signature = reader.bytes(64)?;
        reader.end()?;
        Ok(Self { protected, payload, signature })
    }
}

/// Verifies an envelope and returns its payload.
///
/// # Errors
/// [`VerifyError`] says what does not hold.
pub fn open_signed<'a>(
    domain: Domain,
    key: &PublicKey,
    bytes: &'a [u8],
    payload_max: usize,
) -> Result<&'a [u8], VerifyError> {
    let Envelope { protected, payload, signature } = Envelope::read(bytes, payload_max)?;
    let algorithm = match key {
        PublicKey::P256(_) => Algorithm::Es256,
        PublicKey::Ed25519(_) => Algorithm::EdDsa,
    };
    if protected != protected_header(algorithm) {
        return Err(VerifyError::Algorithm);
    }
    let message = to_be_signed(domain, protected, payload);
    match key {
        _ if !armed!("signature") => {}
        PublicKey::P256(point) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| VerifyError::PublicKey)?;
            let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| VerifyError::Signature)?;
            // With s also n − s verifies. Objects are named by their bytes, so only the lower one is a signature here.
            if armed!("signature_low_s") && signature.normalize_s() != signature {
                return Err(VerifyError::Signature);
            }
            key.verify_prehash(&Sha256::digest(&message), &signature).map_err(|_| VerifyError::Signature)?;
        }
        PublicKey::Ed25519(point) => {
            let key = ed25519_dalek::VerifyingKey::from_bytes(point).map_err(|_| VerifyError::PublicKey)?;
            let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| VerifyError::Signature)?;
            // Strict: small-order keys and non-canonical points would let one signature fit several messages.
            key.verify_strict(&message, &signature).map_err(|_| VerifyError::Signature)?;
        }
    }
    Ok(payload)
}

impl Signer for ed25519_dalek::SigningKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDsa
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(ed25519_dalek::Signer::sign(self, message).to_bytes())
    }
}

impl Signer for p256::ecdsa::SigningKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        // Deterministic (RFC 6979), so no randomness is needed.
        let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(self, message);
        Ok(signature.to_bytes().into())
    }
}
