//! Chains of certificates from a maker of hardware (RFC 5280), by rules of our own: no names of hosts, no revocation by
//! network, a purpose that must be stated, and nothing critical that is not understood.

mod revocation;

pub(crate) use revocation::RevocationList;
use std::time::Duration;

use darkbloom_types::{UnixMillis, armed};
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::traits::PublicKeyParts as _;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

/// Most certificates between a device's own and the root: makers use one or two.
const DEPTH_MAX: usize = 4;
/// A common name (RFC 5280, appendix A).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// RSA (RFC 8017, appendix C).
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RSA for OAEP alone (RFC 4055 section 4): how some makers of TPMs label endorsement keys.
const RSA_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
/// The least modulus of a key that counts: 2,048 bits (NIST SP 800-131A).
const RSA_BYTES_MIN: usize = 256;
/// The largest: 4,096 bits, which takes a verifier a quarter of a millisecond; longer ones are nobody's root.
const RSA_BYTES_MAX: usize = 512;
/// A key on a curve (RFC 5480).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
/// RSASSA-PSS (RFC 4055 section 3.1), which AMD signs with.
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// Its parameters with SHA-384 in both places and a salt of 48 bytes, the only ones that are accepted, without the sequence
/// that they stand in.
const PSS_SHA384: &[u8; 52] =
    b"\xa0\x0f\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\
    \x86\xf7\x0d\x01\x01\x08\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\xa2\x03\x02\x01\x30";
const PSS_SALT: usize = 48;
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// Why a chain proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not one certificate in DER.
    #[error("a certificate cannot be read")]
    Malformed,
    /// No certificate of the chain, and no root, has signed it.
    #[error("the chain leads to none of the roots that the verifier trusts")]
    NoRoot,
    /// Longer than any maker's.
    #[error("the chain is too long")]
    TooLong,
    /// Not valid yet, or not any more.
    #[error("a certificate of the chain is not valid at this time")]
    Time,
    /// A certificate that may not sign others has signed one.
    #[error("a certificate of the chain may not sign others")]
    NotAuthority,
    /// The device's certificate is for something else.
    #[error("the certificate is for another purpose")]
    Purpose,
    /// It demands that something be understood that is not.
    #[error("a certificate has a critical extension that is not understood")]
    Critical,
    /// A signature, or its kind.
    #[error("a signature of the chain does not verify, or is of a kind that is not accepted")]
    Signature,
    /// A key of a kind that is not accepted.
    #[error("the certified key is of a kind that is not accepted")]
    Key,
    /// A list of revoked certificates that is not what its maker wrote.
    #[error("a list of revoked certificates is not its issuer's")]
    List,
    /// A list that is too old, or of the future.
    #[error("a list of revoked certificates does not count at this time")]
    ListTime,
    /// Its maker took it back.
    #[error("a certificate of the chain was revoked")]
    Revoked,
}

/// What is signed of a certificate or a list, as received: what is checked must be what was signed, not what it was read as.
fn signed_part(der: &[u8]) -> Result<Vec<u8>, ChainError> {
    let mut reader = SliceReader::new(der).map_err(|_| ChainError::Malformed)?;
    let part = reader.sequence(|inner| {
        let signed = inner.tlv_bytes()?.to_vec();
        while !inner.is_finished() {
            inner.tlv_bytes()?;
        }
        Ok(signed)
    });
    part.map_err(|_: x509_cert::der::Error| ChainError::Malformed)
}

/// One certificate: read, and its bytes as received.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    parsed: CertificateInner<Raw>,
    signed: Vec<u8>,
}

impl Certificate {
    pub(crate) fn read(der: &[u8]) -> Result<Self, ChainError> {
        let parsed = CertificateInner::<Raw>::from_der(der).map_err(|_| ChainError::Malformed)?;
        let inner = parsed.tbs_certificate().signature();
        if inner != parsed.signature_algorithm() {
            return Err(ChainError::Malformed);
        }
        Ok(Self { signed: signed_part(der)?, parsed })
    }

    fn subject(&self) -> Result<Vec<u8>, ChainError> {
        self.parsed.tbs_certificate().subject().to_der().map_err(|_| ChainError::Malformed)
    }

    fn issuer(&self) -> Result<Vec<u8>, ChainError> {
        self.parsed.tbs_certificate().issuer().to_der().map_err(|_| ChainError::Malformed)
    }

    /// Whose it is, as text.
    pub(crate) fn name(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// Whether its subject has one common name, and it is this one.
    pub(crate) fn has_common_name(&self, name: &str) -> bool {
        let subject = self.parsed.tbs_certificate().subject();
        let mut names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
        let is_it = names.next().is_some_and(|attribute| attribute.value.value() == name.as_bytes());
        is_it && names.next().is_none()
    }

    fn check_time(&self, now: UnixMillis) -> Result<(), ChainError> {
        let now = Duration::from_millis(u64::try_from(now.0).map_err(|_| ChainError::Time)?);
        let validity = self.parsed.tbs_certificate().validity();
        let (from, until) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
        if from <= now && now <= until || !armed!("chain_time") { Ok(()) } else { Err(ChainError::Time) }
    }

    /// An extension's value, decoded. Two of one kind are refused.
    pub(crate) fn extension<'a, T>(&'a self) -> Result<Option<T>, ChainError>
    where
        T: x509_cert::der::Decode<'a> + AssociatedOid,
    {
        match self.raw_extension(&T::OID)? {
            Some(value) => T::from_der(value).map(Some).map_err(|_| ChainError::Malformed),
            None => Ok(None),
        }
    }

    /// An extension's value as received.
    pub(crate) fn raw_extension(&self, oid: &ObjectIdentifier) -> Result<Option<&[u8]>, ChainError> {
        let extensions = self.parsed.tbs_certificate().extensions();
        let mut found = extensions.into_iter().flatten().filter(|extension| extension.extn_id == *oid);
        let value = found.next().map(|extension| extension.extn_value.as_bytes());
        if found.next().is_some() { Err(ChainError::Malformed) } else { Ok(value) }
    }

    fn check_critical(&self) -> Result<(), ChainError> {
        let known = [BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, SubjectAltName::OID];
        let extensions = self.parsed.tbs_certificate().extensions();
        let mut critical = extensions.into_iter().flatten().filter(|extension| extension.critical);
        if critical.all(|extension| known.contains(&extension.extn_id)) || !armed!("chain_critical") {
            Ok(())
        } else {
            Err(ChainError::Critical)
        }
    }

    /// Whether it may sign a certificate with so many others below it, the device's not counted.
    fn check_authority(&self, below: usize) -> Result<(), ChainError> {
        if !armed!("chain_authority") {
            return Ok(());
        }
        let constraints = self.extension::<BasicConstraints>()?.ok_or(ChainError::NotAuthority)?;
        let short_enough = constraints.path_len_constraint.is_none_or(|most| below <= usize::from(most));
        let may_sign = self.extension::<KeyUsage>()?.is_none_or(|usage| usage.key_cert_sign());
        if constraints.ca && short_enough && may_sign { Ok(()) } else { Err(ChainError::NotAuthority) }
    }

    fn check_purpose(&self, purpose: Purpose) -> Result<(), ChainError> {
        let signs_others = self.extension::<BasicConstraints>()?.is_some_and(|constraints| constraints.ca);
        if signs_others && armed!("chain_purpose") {
            return Err(ChainError::Purpose);
        }
        let Purpose::Stated(purpose) = purpose else { return Ok(()) };
        let purposes = self.extension::<ExtendedKeyUsage>()?.ok_or(ChainError::Purpose)?;
        if purposes.0.contains(&purpose) || !armed!("chain_purpose") { Ok(()) } else { Err(ChainError::Purpose) }
    }

    /// Whether this certificate's key signed another.
    fn has_signed(&self, other: &Self) -> bool {
        let Some(signature) = other.parsed.signature().as_bytes() else { return false };
        let Some((kind, key)) = self.key() else { return false };
        let algorithm = other.parsed.signature_algorithm();
        verify(kind, key, algorithm, &other.signed, signature).is_some() || !armed!("chain_signature")
    }

    /// The certified key and what kind it is.
    fn key(&self) -> Option<(KeyKind, &[u8])> {
        let info: &SubjectPublicKeyInfoOwned = self.parsed.tbs_certificate().subject_public_key_info();
        let kind = match info.algorithm.oid {
            RSA | RSA_OAEP => KeyKind::Rsa,
            EC => match info.algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()? {
                P256 => KeyKind::P256,
                P384 => KeyKind::P384,
                _ => return None,
            },
            _ => return None,
        };
        Some((kind, info.subject_public_key.as_bytes()?))
    }

    /// The certified key's uncompressed point, where it is one on P-256.
    pub(crate) fn p256_point(&self) -> Option<[u8; 65]> {
        match self.key()? {
            (KeyKind::P256, point) => {
                p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?;
                point.try_into().ok()
            }
            (KeyKind::Rsa | KeyKind::P384, _) => None,
        }
    }

    /// From when on it is valid: not before its maker wrote it, by the maker's clock.
    pub(crate) fn not_before(&self) -> Result<UnixMillis, ChainError> {
        let since = self.parsed.tbs_certificate().validity().not_before.to_unix_duration();
        i64::try_from(since.as_millis()).map(UnixMillis).map_err(|_| ChainError::Malformed)
    }

    /// The certified key, where it is one on P-384.
    pub(crate) fn p384_key(&self) -> Option<p384::ecdsa::VerifyingKey> {
        match self.key()? {
            (KeyKind::P384, key) => p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok(),
            (KeyKind::Rsa | KeyKind::P256, _) => None,
        }
    }

    /// The certified key, as one that a TPM endorses with.
    pub(crate) fn endorsement_key(&self) -> Result<EndorsementKey, ChainError> {
        Ok(match self.key().ok_or(ChainError::Key)? {
            (KeyKind::Rsa, key) => {
                EndorsementKey::Rsa(rsa::PublicKey::from_pkcs1_der(key).map_err(|_| ChainError::Key)?)
            }
            (KeyKind::P256, point) => EndorsementKey::P256(point.to_vec()),
            (KeyKind::P384, point) => EndorsementKey::P384(point.to_vec()),
        })
    }
}

/// An endorsement key of a kind that makers certify.
pub(crate) enum EndorsementKey {
    /// RSA.
    Rsa(rsa::PublicKey),
    /// A point on P-256 (SEC 1), as it was certified.
    P256(Vec<u8>),
    /// A point on P-384 (SEC 1), as it was certified.
    P384(Vec<u8>),
}

/// What a device's certificate must say that it is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// This extended key usage.
    Stated(ObjectIdentifier),
    /// Its maker states none: extensions of the maker's own say what it is, and whoever asks looks at them.
    Unstated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
}

/// Checks a signature: nothing when it does not verify.
fn verify(
    kind: KeyKind,
    key: &[u8],
    algorithm: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &[u8],
) -> Option<()> {
    let rsa_key =
        || rsa::PublicKey::from_pkcs1_der(key).ok().filter(|key| (RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&key.size()));
    match (kind, algorithm.oid) {
        (KeyKind::Rsa, RSA_PSS) => {
            let parameters = algorithm.parameters.to_der().ok()?;
            // The last field is the default, which some certificates state all the same.
            let (stated, default) = parameters.split_at_checked(2)?;
            let rest = default.strip_prefix(PSS_SHA384)?;
            let sound = matches!((stated, rest), ([0x30, 0x34], []) | ([0x30, 0x39], [0xa3, 3, 2, 1, 1]));
            let signature = rsa::pss::Signature::try_from(signature).ok().filter(|_| sound)?;
            let key = rsa::pss::VerifyingKey::<Sha384>::new_with_salt_len(rsa_key()?, PSS_SALT);
            key.verify(message, &signature).ok()
        }
        (KeyKind::Rsa, RSA_SHA256 | RSA_SHA384 | RSA_SHA512) => {
            let (key, signature) = (rsa_key()?, rsa::pkcs1v15::Signature::try_from(signature).ok()?);
            match algorithm.oid {
                RSA_SHA256 => rsa::pkcs1v15::VerifyingKey::<Sha256>::new(key).verify(message, &signature).ok(),
                RSA_SHA384 => rsa::pkcs1v15::VerifyingKey::<Sha384>::new(key).verify(message, &signature).ok(),
                _ => rsa::pkcs1v15::VerifyingKey::<Sha512>::new(key).verify(message, &signature).ok(),
            }
        }
        (KeyKind::P256, ECDSA_SHA256) => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
            key.verify(message, &p256::ecdsa::Signature::from_der(signature).ok()?).ok()
        }
        (KeyKind::P384, ECDSA_SHA384) => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
            key.verify(message, &p384::ecdsa::Signature::from_der(signature).ok()?).ok()
        }
        // Apple's intermediates have keys on P-384 and sign devices' certificates with SHA-256.
        (KeyKind::P384, ECDSA_SHA256) => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
            let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
            key.verify_prehash(&Sha256::digest(message), &signature).ok()
        }
        _ => None,
    }
}

/// The certificates of a text in PEM, in DER. What stands between them is skipped, as RFC 7468 section 2 allows.
///
/// # Errors
/// [`ChainError::Malformed`] when one cannot be read, or there is none.
pub fn read_pem(text: &str) -> Result<Vec<Vec<u8>>, ChainError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut certificates = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let (contents, _) = block.split_once(END).ok_or(ChainError::Malformed)?;
        let pem = format!("{BEGIN}{contents}{END}\n");
        let (_, der) = x509_cert::der::pem::decode_vec(pem.as_bytes()).map_err(|_| ChainError::Malformed)?;
        certificates.push(der);
    }
    if certificates.is_empty() { Err(ChainError::Malformed) } else { Ok(certificates) }
}

/// Makers' certificates that are believed without another's word.
#[derive(Debug, Clone, Default)]
pub struct Roots(Vec<Certificate>);

impl Roots {
    /// Reads roots.
    ///
    /// # Errors
    /// [`ChainError`] when one is no certificate, or may not sign others.
    pub fn read<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ChainError> {
        let read = |der| {
            let root = Certificate::read(der)?;
            root.check_authority(0)?;
            root.check_critical()?;
            Ok(root)
        };
        certificates.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Reads roots from a text with one or more certificates in PEM (RFC 7468).
    ///
    /// # Errors
    /// [`ChainError`] when one is no certificate, or may not sign others, or there is none.
    pub fn read_pem(text: &str) -> Result<Self, ChainError> {
        let certificates = read_pem(text)?;
        Self::read(certificates.iter().map(Vec::as_slice))
    }

    /// These and others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are none: then no chain leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows a chain from a device's certificate to a root, and returns the root's name.
    pub(crate) fn follow(
        &self,
        leaf: &Certificate,
        intermediates: &[Certificate],
        purpose: Purpose,
        now: UnixMillis,
    ) -> Result<String, ChainError> {
        let issuers = self.trace(leaf, intermediates, purpose, now)?;
        Ok(issuers.last().map_or_else(|| leaf.name(), |root| root.name()))
    }

    /// Follows a chain from a device's certificate to a root, and returns who signed it, who signed that one, and so on to
    /// the root.
    pub(crate) fn trace<'a>(
        &'a self,
        leaf: &'a Certificate,
        intermediates: &'a [Certificate],
        purpose: Purpose,
        now: UnixMillis,
    ) -> Result<Vec<&'a Certificate>, ChainError> {
        // Nothing is looked at for those who believe nobody.
        if self.0.is_empty() {
            return Err(ChainError::NoRoot);
        }
        leaf.check_purpose(purpose)?;
        let mut current = leaf;
        let mut issuers = Vec::new();
        let mut left: Vec<_> = intermediates.iter().collect();
        for below in 0..=DEPTH_MAX {
            current.check_time(now)?;
            current.check_critical()?;
            let issuer = current.issuer()?;
            let by_name = |candidate: &&Certificate| candidate.subject().is_ok_and(|subject| subject == issuer);
            if let Some(root) = self.0.iter().filter(by_name).find(|root| root.has_signed(current)) {
                root.check_time(now)?;
                root.check_authority(below)?;
                issuers.push(root);
                return Ok(issuers);
            }
            // Each certificate is asked once whether it signed another: a chain costs no more checks than it has certificates.
            let named: Vec<_> = left.extract_if(.., |candidate| by_name(&&**candidate)).collect();
            let Some(next) = named.iter().find(|candidate| candidate.has_signed(current)) else {
                if !armed!("chain_root") {
                    return Ok(issuers);
                }
                // A root of the right name whose key did not sign it is a forgery; no root of that name is merely unknown.
                let forged = !named.is_empty() || self.0.iter().any(|root| by_name(&root));
                return Err(if forged { ChainError::Signature } else { ChainError::NoRoot });
            };
            next.check_authority(below)?;
            issuers.push(next);
            current = next;
        }
        Err(ChainError::TooLong)
    }
}

#[cfg(test)]
mod tests {
    use p384::ecdsa::signature::hazmat::PrehashSigner as _;

    use super::*;

    /// Certificates of Apple's are signed so, and what makes chains for the tests cannot.
    #[test]
    fn keys_on_p384_sign_with_sha256_too() {
        let key = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let signed: p384::ecdsa::Signature = key.sign_prehash(&Sha256::digest(b"certificate")).unwrap();
        let verifies = |oid, message: &[u8]| {
            let algorithm = AlgorithmIdentifierOwned { oid, parameters: None };
            let signature = signed.to_der();
            verify(KeyKind::P384, point.as_bytes(), &algorithm, message, signature.as_bytes()).is_some()
        };
        assert!(verifies(ECDSA_SHA256, b"certificate"));
        assert!(!verifies(ECDSA_SHA256, b"certificatf"));
        assert!(!verifies(ECDSA_SHA384, b"certificate"), "the algorithm that is named is the one that is used");
    }
}
