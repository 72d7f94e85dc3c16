//! App Attest: Apple's servers certify a key of an app that runs on genuine hardware, and the app signs with it.
//!
//! The steps are those of Apple's "Validating Apps That Connect to Your Server" (DeviceCheck). The key itself is none of ours: it
//! exists once for each installation of the app, and cannot be chosen. So the attestation's client data hash is SHA-256 of the
//! identity's uncompressed point, all 65 bytes with the leading 4, and each epoch's assertion has the epoch's nonce there.
//! Whoever verifies remembers no counter: the nonce says that the assertion is of this epoch.
//!
//! Apple's certificates of keys are short-lived, three days in the sample of its guide, and have to be valid now.

use darkbloom_types::{Digest, UnixMillis, armed};
use darkbloom_wire::AppleAppAttestEvidence;
use p256::ecdsa::signature::Verifier as _;
use sha2::{Digest as _, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;

use super::follow;
use super::object::{Assertion, Attestation, AuthenticatorData};
use crate::certificates::{Certificate, ChainError, Roots};
use crate::tpm::HardwareTrust;

/// Holds the nonce of an attestation.
const NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.2");
/// What stands before the nonce there: a sequence of one element, whose tag is 1, of an octet string of 32 bytes (X.690).
const BEFORE_NONCE: [u8; 6] = [0x30, 36, 0xa1, 34, 0x04, 32];
/// Holds what must be so for the key to sign: on macOS 27, as Apple says, System Integrity Protection and Full Security among
/// it. Certificates of other systems have it too, with other contents, as the sample of Apple's guide does. How a Mac's is encoded
/// is known to us from other people's programs alone. So it is told that it is there; what it says is looked at by nobody, and
/// no claim comes of it.
const ACCESS_CONTROL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113635.100.8.6");
/// The environment of apps that are distributed; the other one is `appattestdevelop`.
const PRODUCTION: [u8; 16] = *b"appattest\0\0\0\0\0\0\0";

/// Why evidence of App Attest proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppleAppAttestError {
    /// Not evidence of this kind.
    #[error("the evidence cannot be read")]
    Malformed,
    /// The verifier knows no app.
    #[error("the verifier names no app that would be believed")]
    NoApp,
    /// The certificate is not Apple's.
    #[error("the certificate of the app's key: {0}")]
    Chain(#[from] ChainError),
    /// The certificate is about another attestation.
    #[error("Apple did not certify the app's key for this identity key")]
    OtherKey,
    /// The key in the object is not the one that is certified.
    #[error("the attested key is not the one that is certified")]
    Key,
    /// Another app.
    #[error("the key is another app's")]
    OtherApp,
    /// An app that is being developed.
    #[error("the key was not attested in Apple's production environment")]
    Environment,
    /// A count of signatures that cannot be.
    #[error("the key's count of signatures does not begin with its attestation")]
    Counter,
    /// The assertion.
    #[error("the app's key did not sign for this epoch")]
    Assertion,
}

/// What App Attest says of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppleAppAttestFindings {
    /// The root that the chain of the app's key leads to.
    pub root: String,
    /// The app.
    pub app: String,
    /// When Apple certified its key.
    pub certified_at: UnixMillis,
    /// Whether the certificate says what must be so for the key to sign. What it says is not looked at.
    pub access_control: bool,
}

/// Verifies evidence that an instance of the verifier's app was asked about `identity`, and for this epoch.
///
/// # Errors
/// [`AppleAppAttestError`] says what does not hold.
pub fn verify_apple_app_attest(
    evidence: &[u8],
    identity: &[u8; 65],
    nonce: &Digest,
    trust: &HardwareTrust,
    now: UnixMillis,
) -> Result<AppleAppAttestFindings, AppleAppAttestError> {
    let app = trust.apple_app_id.as_deref().filter(|app| !app.is_empty()).ok_or(AppleAppAttestError::NoApp)?;
    let evidence = AppleAppAttestEvidence::decode(evidence).map_err(|_| AppleAppAttestError::Malformed)?;
    let about = Sha256::digest(identity);
    let (key, root) = attested(&evidence.attestation, &about, app, &trust.apple_app_attest_roots, now)?;
    asserted(&evidence.assertion, nonce, app, &key.point)?;
    Ok(AppleAppAttestFindings {
        root,
        app: app.to_owned(),
        certified_at: key.certificate.not_before()?,
        access_control: key.certificate.raw_extension(&ACCESS_CONTROL)?.is_some(),
    })
}

/// A key of an app, as Apple certified it.
struct AppKey {
    certificate: Certificate,
    point: [u8; 65],
}

/// The key that an attestation object is about, and the root that its certificate leads to.
fn attested(
    object: &[u8],
    about: &[u8],
    app: &str,
    roots: &Roots,
    now: UnixMillis,
) -> Result<(AppKey, String), AppleAppAttestError> {
    let object = Attestation::read(object).map_err(|_| AppleAppAttestError::Malformed)?;
    let (leaf, between) = object.certificates.split_first().ok_or(AppleAppAttestError::Malformed)?;
    let (certificate, root) = follow(leaf, between.iter().copied(), roots, now)?;
    let asked = Sha256::new().chain_update(object.authenticator_data).chain_update(about).finalize();
    let said = certificate.raw_extension(&NONCE)?.and_then(|value| value.strip_prefix(&BEFORE_NONCE));
    if armed!("apple_app_nonce") && said != Some(&asked[..]) {
        return Err(AppleAppAttestError::OtherKey);
    }
    let read = AuthenticatorData::of_attestation(object.authenticator_data);
    let (data, credential) = read.ok_or(AppleAppAttestError::Malformed)?;
    let point = certificate.p256_point().ok_or(AppleAppAttestError::Key)?;
    // Two ways to name one key, by its hash and by its coordinates; the certificate decides which it is.
    let named = *credential.id == Sha256::digest(point)[..] && credential.key.concat() == point[1..];
    if armed!("apple_app_key") && !named {
        return Err(AppleAppAttestError::Key);
    }
    check_app(data, app)?;
    if armed!("apple_app_environment") && *credential.environment != PRODUCTION {
        return Err(AppleAppAttestError::Environment);
    }
    if data.counter != 0 {
        return Err(AppleAppAttestError::Counter);
    }
    Ok((AppKey { certificate, point }, root))
}

/// Checks that an app's key signed for an epoch.
fn asserted(assertion: &[u8], nonce: &Digest, app: &str, key: &[u8; 65]) -> Result<(), AppleAppAttestError> {
    let assertion = Assertion::read(assertion).map_err(|_| AppleAppAttestError::Malformed)?;
    let data = AuthenticatorData::of_assertion(assertion.authenticator_data).ok_or(AppleAppAttestError::Malformed)?;
    check_app(data, app)?;
    // The attestation itself counts as none.
    if data.counter == 0 {
        return Err(AppleAppAttestError::Counter);
    }
    // Apple calls this hash a nonce. It is what is signed, so it is hashed once more, as every message of ECDSA.
    let signed = Sha256::new().chain_update(assertion.authenticator_data).chain_update(nonce.0).finalize();
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| AppleAppAttestError::Key)?;
    let signature = p256::ecdsa::Signature::from_der(assertion.signature);
    match signature.and_then(|signature| key.verify(&signed, &signature)) {
        Err(_) if armed!("apple_app_assertion") => Err(AppleAppAttestError::Assertion),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn check_app(data: AuthenticatorData<'_>, app: &str) -> Result<(), AppleAppAttestError> {
    let same = *data.app == Sha256::digest(app)[..];
    if same || !armed!("apple_app_id") { Ok(()) } else { Err(AppleAppAttestError::OtherApp) }
}
