//! Evidence of a TPM 2.0: a genuine device holds the identity key, the key cannot leave it, and this is what was booted.
//!
//! ```text
//! maker's root ─▶ … ─▶ endorsement key ─(activator's word)─▶ attestation key ─┬─ certify ─▶ identity key
//!                                                                            └─ quote ───▶ registers
//! ```
//!
//! The first arrow and the last two anybody can check; the one in the middle was seen by an activator, once. The nonce of
//! both signatures is the epoch's, so they are as fresh as the epoch's keys.

use std::sync::Arc;

use darkbloom_types::{Digest, UnixMillis, armed};
use darkbloom_wire::{Activation, PCRS_MAX, PublicKey, TpmEvidence};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use sha2::{Digest as _, Sha256};
use tpm2_protocol::TpmUnmarshal;
use tpm2_protocol::data::{
    TpmAlgId, TpmEccCurve, TpmSt, TpmaObject, TpmsAttest, TpmsEccPoint, TpmtPublic, TpmuAsymScheme, TpmuAttest,
    TpmuPublicId, TpmuPublicParms,
};
use x509_cert::der::asn1::ObjectIdentifier;

use crate::boot_log::BootLog;
use crate::certificates::{Certificate, ChainError, Purpose, Roots};
use crate::measurements::Measurements;
use crate::snp::amd_roots;
use crate::tdx::intel_roots;

/// What the certificate of an endorsement key must be for (EK Credential Profile 2.5, section 3.2.16).
pub(crate) const ENDORSEMENT_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// Registers that only a start of the machine sets back.
const STATIC_PCRS: u32 = 16;
/// Bytes that a name begins with: the identifier of SHA-256 (`TPM_ALG_SHA256`).
const SHA256: [u8; 2] = [0x00, 0x0b];

/// Whose word an activator's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ActivatorKind {
    /// The network's own: its operator could lie about a provider.
    Coordinator,
    /// One that the verifier pinned, whoever runs it.
    Independent,
}

/// Whom a verifier believes about hardware, and what it wants to see there.
#[derive(Debug, Clone)]
pub struct HardwareTrust {
    /// Roots of the makers of TPMs.
    pub tpm_roots: Arc<Roots>,
    /// Public keys of activators.
    pub activators: Vec<([u8; 65], ActivatorKind)>,
    /// Roots of AMD's processors.
    pub amd_roots: Arc<Roots>,
    /// Roots of Intel's processors.
    pub intel_roots: Arc<Roots>,
    /// Roots of Apple's Managed Device Attestation.
    pub apple_enterprise_roots: Arc<Roots>,
    /// Roots of Apple's App Attest.
    pub apple_app_attest_roots: Arc<Roots>,
    /// The app that App Attest has to vouch for: team, a dot, and bundle. Without one no app is believed.
    pub apple_app_id: Option<String>,
    /// What may run there: without any, nothing that is measured raises a tier above `hardware`.
    pub measurements: Arc<Measurements>,
}

/// AMD's and Intel's roots are known; whoever else is believed has to be named.
impl Default for HardwareTrust {
    fn default() -> Self {
        Self {
            tpm_roots: Arc::default(),
            activators: Vec::new(),
            amd_roots: amd_roots(),
            intel_roots: intel_roots(),
            apple_enterprise_roots: Arc::default(),
            apple_app_attest_roots: Arc::default(),
            apple_app_id: None,
            measurements: Arc::default(),
        }
    }
}

/// Why evidence of a TPM proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmEvidenceError {
    /// Not evidence of this kind.
    #[error("the evidence cannot be read")]
    Malformed,
    /// The endorsement key is no maker's.
    #[error("the endorsement key's certificate: {0}")]
    Chain(#[from] ChainError),
    /// Nobody who is believed saw both keys in one TPM.
    #[error("no activator that is believed saw the attestation key in this TPM")]
    Activation,
    /// The attestation key could sign what the TPM did not say.
    #[error("the attestation key is not one that signs for its TPM alone")]
    AttestationKey,
    /// The identity key could be elsewhere too.
    #[error("the identity key is not bound to its TPM, or is another key than the statement's")]
    IdentityKey,
    /// A signature of the attestation key.
    #[error("the attestation key's signature does not verify")]
    Signature,
    /// Signed for another epoch or another question.
    #[error("the TPM's word is for another epoch or about something else")]
    OtherSubject,
    /// Registers that are not those that were quoted.
    #[error("the registers are not those that were quoted")]
    Registers,
}

/// What a TPM proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFindings {
    /// The root that the endorsement key's chain leads to.
    pub root: String,
    /// SHA-256 of the endorsement key's certificate.
    pub endorsement: Digest,
    /// Who vouches for the attestation key, the strongest of those that are believed.
    pub activator: ActivatorKind,
    /// When that was seen.
    pub activated_at: UnixMillis,
    /// Until when that counts.
    pub activated_until: UnixMillis,
    /// Whether the identity key signs only under a policy, as one over registers; which one is not known.
    pub policy: bool,
    /// Registers 0 to 15 of the SHA-256 bank.
    pub pcrs: Vec<(u32, [u8; 32])>,
    /// What the firmware's log says of those that it explains.
    pub log: BootLog,
}

/// Verifies evidence that a TPM holds `identity`, with `nonce` in what it signed.
///
/// # Errors
/// [`TpmEvidenceError`] says what does not hold.
pub fn verify_tpm(
    evidence: &[u8],
    identity: &[u8; 65],
    nonce: &Digest,
    trust: &HardwareTrust,
    now: UnixMillis,
) -> Result<TpmFindings, TpmEvidenceError> {
    let evidence = TpmEvidence::decode(evidence).map_err(|_| TpmEvidenceError::Malformed)?;
    let root = endorsement(&evidence.endorsement, &evidence.intermediates.0, &trust.tpm_roots, now)?.1;
    let attestation = attestation_key(&evidence.attestation_key)?;
    let (activator, activated_at, activated_until) = activation(&evidence, trust, now)?;
    let policy = identity_key(&evidence.identity_key, identity)?;
    let certified = signed(&attestation, &evidence.certified, &evidence.certified_signature, nonce)?;
    let TpmuAttest::Certify(info) = &certified.attested else { return Err(TpmEvidenceError::OtherSubject) };
    if armed!("tpm_certified_name") && *info.name != name(&evidence.identity_key)[..] {
        return Err(TpmEvidenceError::OtherSubject);
    }
    let quoted = signed(&attestation, &evidence.quoted, &evidence.quoted_signature, nonce)?;
    // A key of the owner's hierarchy shows the count of resets in disguise, the same one in both.
    if armed!("tpm_one_boot") && quoted.clock_info.reset_count != certified.clock_info.reset_count {
        return Err(TpmEvidenceError::OtherSubject);
    }
    let pcrs = registers(&evidence, &quoted)?;
    let log = BootLog::replay(&evidence.log.0, &pcrs);
    let endorsement = Digest::of(&[&evidence.endorsement]);
    Ok(TpmFindings { root, endorsement, activator, activated_at, activated_until, policy, pcrs, log })
}

/// The certificate of an endorsement key, and the root that it leads to.
pub(crate) fn endorsement(
    certificate: &[u8],
    intermediates: &[Vec<u8>],
    roots: &Roots,
    now: UnixMillis,
) -> Result<(Certificate, String), ChainError> {
    let leaf = Certificate::read(certificate)?;
    let intermediates: Vec<_> = intermediates.iter().map(|der| Certificate::read(der)).collect::<Result<_, _>>()?;
    let root = roots.follow(&leaf, &intermediates, Purpose::Stated(ENDORSEMENT_PURPOSE), now)?;
    Ok((leaf, root))
}

/// An object's name: which hash, and that of its `TPMT_PUBLIC`.
fn name(public: &[u8]) -> Vec<u8> {
    [&SHA256[..], &Sha256::digest(public)].concat()
}

fn public(bytes: &[u8]) -> Option<TpmtPublic> {
    let (public, rest) = TpmtPublic::unmarshal(bytes).ok()?;
    rest.is_empty().then_some(public)
}

/// A signing key on P-256 that was made in its TPM and cannot leave it, named by SHA-256.
fn bound_key(bytes: &[u8]) -> Option<(TpmtPublic, [u8; 65])> {
    let public = public(bytes)?;
    let bound =
        TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT | TpmaObject::SENSITIVE_DATA_ORIGIN | TpmaObject::SIGN_ENCRYPT;
    let attributes = public.object_attributes;
    let TpmuPublicParms::Ecc(parameters) = &public.parameters else { return None };
    let scheme = (parameters.scheme.scheme, &parameters.scheme.details);
    let sound = (attributes.bits() & bound.bits() == bound.bits() || !armed!("tpm_key_bound"))
        && attributes.bits() & TpmaObject::DECRYPT.bits() == 0
        && public.object_type == TpmAlgId::Ecc
        && public.name_alg == TpmAlgId::Sha256
        && parameters.curve_id == TpmEccCurve::NistP256
        && matches!(scheme, (TpmAlgId::Ecdsa, TpmuAsymScheme::Hash(hash)) if hash.hash_alg == TpmAlgId::Sha256);
    let point = point(&public)?;
    sound.then_some((public, point))
}

fn point(public: &TpmtPublic) -> Option<[u8; 65]> {
    let TpmuPublicId::Ecc(TpmsEccPoint { x, y }) = &public.unique else { return None };
    let mut point = [0; 65];
    point[0] = 4;
    for (number, place) in [(x, 1..33), (y, 33..65)] {
        let place = &mut point[place];
        let from = place.len().checked_sub(number.len())?;
        place[from..].copy_from_slice(number);
    }
    Some(point)
}

/// The point of a key that signs only what its TPM says.
pub(crate) fn attestation_key(bytes: &[u8]) -> Result<[u8; 65], TpmEvidenceError> {
    let (public, point) = bound_key(bytes).ok_or(TpmEvidenceError::AttestationKey)?;
    // Anybody could have an unrestricted key sign a quote of their own making.
    let restricted = public.object_attributes.bits() & TpmaObject::RESTRICTED.bits() != 0;
    if restricted || !armed!("tpm_attestation_restricted") { Ok(point) } else { Err(TpmEvidenceError::AttestationKey) }
}

/// Checks that the identity key is bound to a TPM, and says whether registers must have certain values for it to sign.
fn identity_key(bytes: &[u8], identity: &[u8; 65]) -> Result<bool, TpmEvidenceError> {
    let (public, point) = bound_key(bytes).ok_or(TpmEvidenceError::IdentityKey)?;
    if armed!("tpm_identity_key") && point != *identity {
        return Err(TpmEvidenceError::IdentityKey);
    }
    let by_password = public.object_attributes.bits() & TpmaObject::USER_WITH_AUTH.bits() != 0;
    Ok(!by_password && !public.auth_policy.is_empty())
}

/// The strongest word for both keys being in one TPM.
fn activation(
    evidence: &TpmEvidence,
    trust: &HardwareTrust,
    now: UnixMillis,
) -> Result<(ActivatorKind, UnixMillis, UnixMillis), TpmEvidenceError> {
    let endorsement = Digest::of(&[&evidence.endorsement]);
    let attestation_key = Digest::of(&[&evidence.attestation_key]);
    let word = |signed: &Vec<u8>| {
        trust.activators.iter().find_map(|(key, kind)| {
            let word = Activation::open(signed, &PublicKey::P256(*key)).ok()?;
            let holds = word.activator == *key
                && (!armed!("activation_subject")
                    || (word.endorsement == endorsement && word.attestation_key == attestation_key))
                && (!armed!("activation_time")
                    || (word.made_at <= now.after(darkbloom_wire::limits::CLOCK_SKEW_MAX) && now < word.valid_until));
            holds.then_some((*kind, word.made_at, word.valid_until))
        })
    };
    evidence.activations.0.iter().filter_map(word).max().ok_or(TpmEvidenceError::Activation)
}

/// What the TPM said, signed by its attestation key, with the nonce in it.
fn signed(key: &[u8; 65], bytes: &[u8], signature: &[u8; 64], nonce: &Digest) -> Result<TpmsAttest, TpmEvidenceError> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| TpmEvidenceError::AttestationKey)?;
    let signature = p256::ecdsa::Signature::from_slice(signature).map_err(|_| TpmEvidenceError::Signature)?;
    key.verify_prehash(&Sha256::digest(bytes), &signature).map_err(|_| TpmEvidenceError::Signature)?;
    // Reading checks the value with which everything begins that a TPM made by itself (`TPM_GENERATED_VALUE`).
    let (attest, rest) = TpmsAttest::unmarshal(bytes).map_err(|_| TpmEvidenceError::Malformed)?;
    if !rest.is_empty() {
        return Err(TpmEvidenceError::Malformed);
    }
    if armed!("tpm_nonce") && *attest.extra_data != nonce.0[..] {
        return Err(TpmEvidenceError::OtherSubject);
    }
    Ok(attest)
}

/// The registers, if they are those of the quote.
fn registers(evidence: &TpmEvidence, quoted: &TpmsAttest) -> Result<Vec<(u32, [u8; 32])>, TpmEvidenceError> {
    let TpmuAttest::Quote(quote) = &quoted.attested else { return Err(TpmEvidenceError::OtherSubject) };
    if quoted.attest_type != TpmSt::AttestQuote || quote.pcr_select.len() != 1 {
        return Err(TpmEvidenceError::Registers);
    }
    let selection = &quote.pcr_select[0];
    let selected: Vec<u32> = (0..PCRS_MAX as u32)
        .filter(|pcr| selection.pcr_select.get(*pcr as usize / 8).is_some_and(|bits| bits >> (pcr % 8) & 1 == 1))
        .collect();
    let stated: Vec<u32> = evidence.pcrs.0.iter().map(|pcr| pcr.index).collect();
    let mut composite = Sha256::new();
    for pcr in &evidence.pcrs.0 {
        composite.update(pcr.value);
    }
    let same = selection.hash == TpmAlgId::Sha256
        && stated.iter().all(|pcr| *pcr < STATIC_PCRS)
        && selected == stated
        && !stated.is_empty()
        && *quote.pcr_digest == composite.finalize()[..];
    if armed!("tpm_registers") && !same {
        return Err(TpmEvidenceError::Registers);
    }
    Ok(evidence.pcrs.0.iter().map(|pcr| (pcr.index, pcr.value)).collect())
}
