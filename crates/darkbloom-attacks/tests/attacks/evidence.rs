//! Attacks on evidence of TPMs. The attacker here has everything that a TPM has, but for a maker's certificate for it: he
//! makes keys and quotes as he likes.

use darkbloom_attacks::attacks;
use darkbloom_attest::{
    ActivationReply, Activator, ActivatorKind, BootLog, HardwareTrust, Roots, TpmFindings, verify_tpm,
};
use darkbloom_host::clock::rng;
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::{Activation, ActivationAnswer, ActivationRequest, BootEvent, Pcr, TpmEvidence};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use rcgen::{Issuer, KeyPair};
use sha2::Sha256;
use tpm2_protocol::basic::{TpmUint32, TpmUint64};
use tpm2_protocol::data::*;
use tpm2_protocol::{TpmMarshal, TpmWriter};

use crate::chains::{authority, device};
use crate::forge::{NOW, key, minutes};

const NONCE: Digest = Digest([5; 32]);

fn bytes(of: &impl TpmMarshal) -> Vec<u8> {
    let mut buffer = vec![0; 4_096];
    let mut writer = TpmWriter::new(&mut buffer);
    of.marshal(&mut writer).unwrap();
    let length = writer.len();
    buffer.truncate(length);
    buffer
}

/// `TPMT_PUBLIC` of a signing key with these attributes.
fn public(point: &[u8; 65], attributes: TpmaObject) -> Vec<u8> {
    let scheme = TpmtEccScheme {
        scheme: TpmAlgId::Ecdsa,
        details: TpmuAsymScheme::Hash(TpmsSchemeHash { hash_alg: TpmAlgId::Sha256 }),
    };
    let parameters = TpmsEccParms {
        symmetric: TpmtSymDefObject { algorithm: TpmAlgId::Null, ..TpmtSymDefObject::default() },
        scheme,
        curve_id: TpmEccCurve::NistP256,
        kdf: TpmtKdfScheme::default(),
    };
    let number = |bytes: &[u8]| Tpm2bEccParameter::try_from(bytes).unwrap();
    bytes(&TpmtPublic {
        object_type: TpmAlgId::Ecc,
        name_alg: TpmAlgId::Sha256,
        object_attributes: attributes,
        auth_policy: Tpm2bDigest::default(),
        parameters: TpmuPublicParms::Ecc(parameters),
        unique: TpmuPublicId::Ecc(TpmsEccPoint { x: number(&point[1..33]), y: number(&point[33..]) }),
    })
}

fn bound() -> TpmaObject {
    TpmaObject::FIXED_TPM | TpmaObject::FIXED_PARENT | TpmaObject::SENSITIVE_DATA_ORIGIN | TpmaObject::SIGN_ENCRYPT
}

fn name(public: &[u8]) -> Vec<u8> {
    use sha2::Digest as _;
    [&[0x00, 0x0b][..], &Sha256::digest(public)].concat()
}

/// What a TPM would say, and what may be wrong about it.
#[derive(Clone)]
struct Forged {
    attestation_attributes: TpmaObject,
    identity_attributes: TpmaObject,
    /// Whose identity key is certified, and in whose evidence.
    identity: [u8; 65],
    certified_name: Option<Vec<u8>>,
    nonce: Digest,
    resets: (u32, u32),
    /// A register that is stated, and the one that was quoted.
    registers: ([u8; 32], [u8; 32]),
    activator: SigningKey,
    /// What the activator saw, and when.
    seen: Option<Digest>,
    valid_until: UnixMillis,
    quote_signer: SigningKey,
}

impl Forged {
    fn honest() -> Self {
        Self {
            attestation_attributes: bound() | TpmaObject::RESTRICTED,
            identity_attributes: bound(),
            identity: key(7).1,
            certified_name: None,
            nonce: NONCE,
            resets: (3, 3),
            registers: ([1; 32], [1; 32]),
            activator: key(3).0,
            seen: None,
            valid_until: minutes(60),
            quote_signer: key(4).0,
        }
    }

    fn with(change: impl Fn(&mut Self)) -> Self {
        let mut forged = Self::honest();
        change(&mut forged);
        forged
    }

    fn said(&self, resets: u32, tag: TpmSt, attested: TpmuAttest) -> Vec<u8> {
        let clock_info = TpmsClockInfo { reset_count: TpmUint32::new(resets), ..TpmsClockInfo::default() };
        bytes(&TpmsAttest {
            attest_type: tag,
            qualified_signer: Tpm2bName::default(),
            extra_data: Tpm2bData::try_from(&self.nonce.0[..]).unwrap(),
            clock_info,
            firmware_version: TpmUint64::new(1),
            attested,
        })
    }

    /// Whether a verifier who believes the maker and activator 3 believes it.
    fn verify(&self) -> Option<TpmFindings> {
        use sha2::Digest as _;
        let (root_key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = authority("root");
        let certificate = root.self_signed(&root_key).unwrap().der().to_vec();
        let endorsement = device().signed_by(&own, &Issuer::from_params(&root, root_key)).unwrap().der().to_vec();
        let attestation_key = public(&key(4).1, self.attestation_attributes);
        let identity_key = public(&self.identity, self.identity_attributes);
        let seen = self.seen.unwrap_or_else(|| Digest::of(&[&attestation_key]));
        let word = Activation {
            activator: key(3).1,
            endorsement: Digest::of(&[&endorsement]),
            attestation_key: seen,
            made_at: minutes(-60 * 24 * 40),
            valid_until: self.valid_until,
        };
        let certify = TpmsCertifyInfo {
            name: Tpm2bName::try_from(&self.certified_name.clone().unwrap_or_else(|| name(&identity_key))[..]).unwrap(),
            qualified_name: Tpm2bName::default(),
        };
        let mut selected = TpmlPcrSelection::new();
        let select = TpmsPcrSelect::try_from(&[1, 0, 0][..]).unwrap();
        selected.try_push(TpmsPcrSelection { hash: TpmAlgId::Sha256, pcr_select: select }).unwrap();
        let quote = TpmsQuoteInfo {
            pcr_select: selected,
            pcr_digest: Tpm2bDigest::try_from(&Sha256::digest(self.registers.1)[..]).unwrap(),
        };
        let certified = self.said(self.resets.0, TpmSt::AttestCertify, TpmuAttest::Certify(certify));
        let quoted = self.said(self.resets.1, TpmSt::AttestQuote, TpmuAttest::Quote(quote));
        let signature = |said: &[u8]| -> [u8; 64] {
            let signed: p256::ecdsa::Signature = self.quote_signer.sign_prehash(&Sha256::digest(said)).unwrap();
            signed.to_bytes().into()
        };
        let evidence = TpmEvidence {
            endorsement,
            intermediates: Vec::new().into(),
            attestation_key,
            activations: vec![word.sign(&self.activator).unwrap()].into(),
            identity_key,
            certified_signature: signature(&certified),
            certified,
            quoted_signature: signature(&quoted),
            quoted,
            pcrs: vec![Pcr { index: 0, value: self.registers.0 }].into(),
            log: Vec::new().into(),
        };
        let trust = HardwareTrust {
            tpm_roots: Roots::read([&certificate[..]]).unwrap().into(),
            activators: vec![(key(3).1, ActivatorKind::Independent)],
            ..HardwareTrust::default()
        };
        verify_tpm(&evidence.encode(), &key(7).1, &NONCE, &trust, NOW).ok()
    }

    fn believed(&self) -> bool {
        self.verify().is_some()
    }
}

/// Has an activator vouch for a machine whose endorsement key the attacker does not have: he guesses what its TPM would find.
fn vouched_for_by_guessing() -> bool {
    let (root_key, own) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = authority("root");
    let certificate = root.self_signed(&root_key).unwrap().der().to_vec();
    let endorsement = device().signed_by(&own, &Issuer::from_params(&root, root_key)).unwrap().der().to_vec();
    let activator = Activator::new(Roots::read([&certificate[..]]).unwrap(), &mut rng());
    let request = ActivationRequest {
        endorsement,
        intermediates: Vec::new().into(),
        attestation_key: public(&key(4).1, bound() | TpmaObject::RESTRICTED),
        answer: Some(ActivationAnswer { until: minutes(4), secret: [0; 32] }),
    };
    let reply = activator.reply(&request, &key(3).0, &key(3).1, NOW, &mut rng());
    matches!(reply, Ok(ActivationReply::Activation(_)))
}

/// An entry of a firmware's log.
fn logged(pcr: u32, data: &[u8]) -> BootEvent {
    use sha2::Digest as _;
    BootEvent { pcr, digest: Sha256::digest(data).into() }
}

/// What Secure Boot's variable is logged as.
fn secure_boot(on: u8) -> BootEvent {
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let namespace = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
    logged(7, &[&namespace[..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[on]].concat())
}

/// The register that these entries extend.
fn extended(log: &[BootEvent]) -> [u8; 32] {
    use sha2::Digest as _;
    log.iter().fold([0; 32], |value, event| Sha256::digest([&value[..], &event.digest].concat()).into())
}

attacks! {
    /// A machine without Secure Boot shows the log of one with it.
    attack_a_log_that_does_not_lead_to_the_quote_is_shown against "boot_log_replay": || {
        let quoted = extended(&[secure_boot(0), logged(7, &[0; 4])]);
        BootLog::replay(&[secure_boot(1), logged(7, &[0; 4])], &[(7, quoted)]).secure_boot == Some(true)
    };
    /// Root extends the register, after the machine booted without Secure Boot, with what its firmware would have.
    attack_a_register_is_extended_with_what_was_not_so against "boot_log_first": || {
        let log = [secure_boot(0), logged(7, &[0; 4]), secure_boot(1)];
        BootLog::replay(&log, &[(7, extended(&log))]).secure_boot == Some(true)
    };
    /// Anybody can have an unrestricted key of a genuine TPM sign a quote of his own making.
    attack_a_quote_is_signed_by_an_unrestricted_key against "tpm_attestation_restricted": || {
        Forged::with(|it| it.attestation_attributes = bound()).believed()
    };
    attack_an_identity_key_could_be_taken_out_of_its_tpm against "tpm_key_bound": || {
        Forged::with(|it| it.identity_attributes = TpmaObject::SENSITIVE_DATA_ORIGIN | TpmaObject::SIGN_ENCRYPT).believed()
    };
    /// A software key with the evidence of somebody's TPM.
    attack_evidence_of_another_identity_is_shown against "tpm_identity_key": || {
        Forged::with(|it| it.identity = key(8).1).believed()
    };
    attack_another_key_was_certified against "tpm_certified_name": || {
        Forged::with(|it| it.certified_name = Some(name(b"another"))).believed()
    };
    attack_a_quote_with_another_nonce_is_replayed against "tpm_nonce": || {
        Forged::with(|it| it.nonce = Digest([6; 32])).believed()
    };
    attack_registers_are_stated_that_were_not_quoted against "tpm_registers": || {
        Forged::with(|it| it.registers = ([2; 32], [1; 32])).believed()
    };
    attack_quote_and_certificate_are_of_two_boots against "tpm_one_boot": || {
        Forged::with(|it| it.resets = (3, 4)).believed()
    };
    attack_an_activators_word_is_about_another_key against "activation_subject": || {
        Forged::with(|it| it.seen = Some(Digest([9; 32]))).believed()
    };
    attack_an_activators_word_is_used_after_its_time against "activation_time": || {
        Forged::with(|it| it.valid_until = minutes(-1)).believed()
    };
    /// A coordinator invents an activator's word.
    attack_an_activators_word_is_forged against "signature": || {
        Forged::with(|it| it.activator = key(9).0).believed()
    };
    attack_an_activator_vouches_for_a_tpm_that_did_not_answer against "activator_secret": vouched_for_by_guessing;
}

#[test]
fn the_evidence_here_is_good_when_nobody_touches_it() {
    assert!(Forged::honest().believed());
    let other = Forged::with(|it| it.quote_signer = key(9).0);
    assert!(!other.believed(), "and a quote that the attestation key did not sign is none");
}
