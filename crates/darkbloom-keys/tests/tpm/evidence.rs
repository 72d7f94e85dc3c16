//! What a TPM proves to whoever was not there, and what it does not.

use darkbloom_attest::{
    ActivationError, ActivationReply, Activator, ActivatorKind, ChainError, HardwareTrust, Roots, TpmEvidenceError,
    read_pem, verify_tpm,
};
use darkbloom_keys::{IdentityKey as _, SoftwareKey, TpmAttestation, TpmKey, TpmKeyError};
use darkbloom_types::{Digest, Millis, UnixMillis};
use darkbloom_wire::{ActivationAnswer, ActivationRequest, TpmEvidence};
use getrandom::SysRng;
use rand_core::UnwrapErr;
use tempfile::TempDir;

use crate::swtpm::Swtpm;

/// Between the certificates' first and last moments.
fn now() -> UnixMillis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixMillis(i64::try_from(since.as_millis()).unwrap())
}

fn roots(maker: &str) -> Roots {
    Roots::read_pem(&Swtpm::authority(maker).0).unwrap()
}

/// A machine, its key, and an activator that believes its maker.
struct Machine {
    tpm: Swtpm,
    _folder: TempDir,
    key: TpmKey,
    activator: Activator,
    signer: SoftwareKey,
}

impl Machine {
    fn new(maker: &str) -> Self {
        let (tpm, folder) = (Swtpm::start(maker), tempfile::tempdir().unwrap());
        let (key, _) = TpmKey::load_or_create(&tpm.path(), &folder.path().join("identity.tpm"), &[]).unwrap();
        let activator = Activator::new(roots(maker), &mut UnwrapErr(SysRng));
        Self { tpm, _folder: folder, key, activator, signer: SoftwareKey::in_memory().unwrap() }
    }

    /// One whose maker certified a key on a curve alone.
    fn on_curve(curve: Curve) -> Self {
        let machine = Self::new("a");
        assert!(machine.tpm.tpm2("nvundefine", &["-C", "p", "0x01c00002"]).0);
        match curve {
            // What makes TPMs for tests certifies this kind too.
            Curve::P384 => {}
            Curve::P256 => {
                assert!(machine.tpm.tpm2("nvundefine", &["-C", "p", "0x01c00016"]).0);
                machine.tpm.certify_p256("a");
            }
        }
        machine
    }

    fn request(&self) -> ActivationRequest {
        let endorsement = self.key.endorsement().unwrap().unwrap().certificate;
        let intermediates = read_pem(&Swtpm::authority("a").1).unwrap();
        let attestation_key = self.key.public_areas().unwrap().1;
        ActivationRequest { endorsement, intermediates: intermediates.into(), attestation_key, answer: None }
    }

    fn reply(&self, request: &ActivationRequest, at: UnixMillis) -> Result<ActivationReply, ActivationError> {
        self.activator.reply(request, &self.signer, &self.signer.public_point(), at, &mut UnwrapErr(SysRng))
    }

    fn activated(&self) -> Vec<u8> {
        let mut request = self.request();
        let ActivationReply::Challenge(challenge) = self.reply(&request, now()).unwrap() else { panic!("no question") };
        let secret = self.key.activate(&challenge.credential, &challenge.seed).unwrap();
        request.answer = Some(ActivationAnswer { until: challenge.until, secret: secret.try_into().unwrap() });
        let ActivationReply::Activation(word) = self.reply(&request, now()).unwrap() else { panic!("no word") };
        word
    }

    fn evidence(&self, nonce: &Digest) -> TpmEvidence {
        let ActivationRequest { endorsement, intermediates, attestation_key, .. } = self.request();
        let identity_key = self.key.public_areas().unwrap().0;
        let TpmAttestation { certified, certified_signature, quoted, quoted_signature, pcrs } =
            self.key.attest(&nonce.0).unwrap();
        TpmEvidence {
            endorsement,
            intermediates,
            attestation_key,
            activations: vec![self.activated()].into(),
            identity_key,
            certified,
            certified_signature,
            quoted,
            quoted_signature,
            pcrs: pcrs.into(),
            log: Vec::new().into(),
        }
    }

    fn trust(&self, kind: ActivatorKind) -> HardwareTrust {
        HardwareTrust {
            tpm_roots: roots("a").into(),
            activators: vec![(self.signer.public_point(), kind)],
            ..HardwareTrust::default()
        }
    }

    fn verify(&self, evidence: &TpmEvidence, nonce: &Digest) -> Result<ActivatorKind, TpmEvidenceError> {
        let trust = self.trust(ActivatorKind::Independent);
        verify_tpm(&evidence.encode(), &self.key.public_point(), nonce, &trust, now()).map(|found| found.activator)
    }
}

/// A curve of endorsement keys.
#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
}

fn nonce(byte: u8) -> Digest {
    Digest([byte; 32])
}

#[test]
fn a_genuine_tpm_is_believed_by_whoever_was_not_there() {
    let machine = Machine::new("a");
    let evidence = machine.evidence(&nonce(1));
    let trust = machine.trust(ActivatorKind::Coordinator);
    let found = verify_tpm(&evidence.encode(), &machine.key.public_point(), &nonce(1), &trust, now()).unwrap();
    assert_eq!((found.activator, found.policy), (ActivatorKind::Coordinator, false));
    assert!(found.root.contains("swtpm-localca-rootca"), "{}", found.root);
    assert_eq!(found.pcrs.len(), 16);
    assert!(evidence.encode().len() < 8 * 1024, "{} bytes", evidence.encode().len());
    // What was booted is in it.
    let extend = format!("4:sha256={}", "22".repeat(32));
    assert!(machine.tpm.tpm2("pcrextend", &[&extend]).0);
    let later = machine.evidence(&nonce(2));
    let after = verify_tpm(&later.encode(), &machine.key.public_point(), &nonce(2), &trust, now()).unwrap();
    assert_ne!(found.pcrs[4], after.pcrs[4]);
}

#[test]
fn an_independent_activators_word_counts_for_more() {
    let machine = Machine::new("a");
    let mut evidence = machine.evidence(&nonce(1));
    let coordinators = Machine { signer: SoftwareKey::in_memory().unwrap(), ..machine };
    evidence.activations.0.push(coordinators.activated());
    let both = HardwareTrust {
        activators: vec![
            (coordinators.signer.public_point(), ActivatorKind::Coordinator),
            (word_of(&evidence.activations.0[0]), ActivatorKind::Independent),
        ],
        tpm_roots: roots("a").into(),
        ..HardwareTrust::default()
    };
    let found =
        verify_tpm(&evidence.encode(), &coordinators.key.public_point(), &nonce(1), &both, now()).unwrap().activator;
    assert_eq!(found, ActivatorKind::Independent);
}

/// The key that a word names itself.
fn word_of(signed: &[u8]) -> [u8; 65] {
    darkbloom_wire::Activation::peek(signed).unwrap().activator
}

#[test]
fn evidence_is_refused_by_name() {
    let machine = Machine::new("a");
    let good = machine.evidence(&nonce(1));
    assert_eq!(machine.verify(&good, &nonce(1)), Ok(ActivatorKind::Independent));
    let refused = |change: &dyn Fn(&mut TpmEvidence)| {
        let mut evidence = good.clone();
        change(&mut evidence);
        machine.verify(&evidence, &nonce(1)).unwrap_err()
    };
    assert_eq!(machine.verify(&good, &nonce(2)), Err(TpmEvidenceError::OtherSubject), "another epoch's");
    assert_eq!(refused(&|evidence| evidence.activations.0.clear()), TpmEvidenceError::Activation);
    assert_eq!(refused(&|evidence| evidence.intermediates.0.clear()), TpmEvidenceError::Chain(ChainError::NoRoot));
    assert_eq!(
        refused(&|evidence| evidence.identity_key = evidence.attestation_key.clone()),
        TpmEvidenceError::IdentityKey
    );
    assert_eq!(
        refused(&|evidence| evidence.attestation_key = evidence.identity_key.clone()),
        TpmEvidenceError::AttestationKey,
        "an unrestricted key signs whatever it is given"
    );
    assert_eq!(refused(&|evidence| evidence.pcrs.0[0].value[0] ^= 1), TpmEvidenceError::Registers);
    assert_eq!(refused(&|evidence| evidence.pcrs.0.truncate(15)), TpmEvidenceError::Registers);
    assert_eq!(
        refused(&|evidence| std::mem::swap(&mut evidence.certified, &mut evidence.quoted)),
        TpmEvidenceError::Signature
    );
    let swapped = refused(&|evidence| {
        std::mem::swap(&mut evidence.certified, &mut evidence.quoted);
        std::mem::swap(&mut evidence.certified_signature, &mut evidence.quoted_signature);
    });
    assert_eq!(swapped, TpmEvidenceError::OtherSubject);
    let other = Machine::new("a");
    let theirs = other.evidence(&nonce(1));
    assert_eq!(machine.verify(&theirs, &nonce(1)), Err(TpmEvidenceError::Activation), "another activator's word");
    let trust = machine.trust(ActivatorKind::Independent);
    let verified = |identity: &[u8; 65], trust: &HardwareTrust, at| {
        verify_tpm(&good.encode(), identity, &nonce(1), trust, at).map(drop).unwrap_err()
    };
    let at = now();
    assert_eq!(verified(&other.key.public_point(), &trust, at), TpmEvidenceError::IdentityKey);
    let strangers = HardwareTrust { tpm_roots: roots("b").into(), ..trust.clone() };
    assert_eq!(
        verified(&machine.key.public_point(), &strangers, at),
        TpmEvidenceError::Chain(ChainError::Signature),
        "a root of the same name that did not sign it"
    );
    let nobody = HardwareTrust { tpm_roots: Roots::default().into(), ..trust.clone() };
    assert_eq!(verified(&machine.key.public_point(), &nobody, at), TpmEvidenceError::Chain(ChainError::NoRoot));
    let month = Millis::from_minutes(31 * 24 * 60);
    assert_eq!(verified(&machine.key.public_point(), &trust, at.after(month)), TpmEvidenceError::Activation);
    assert_eq!(
        verified(&machine.key.public_point(), &trust, UnixMillis(0)),
        TpmEvidenceError::Chain(ChainError::Time),
        "before the certificate was made"
    );
}

#[test]
fn an_activator_gives_its_word_only_for_what_it_saw() {
    let machine = Machine::new("a");
    let mut request = machine.request();
    let ActivationReply::Challenge(challenge) = machine.reply(&request, now()).unwrap() else { panic!("no question") };
    let secret: [u8; 32] = machine.key.activate(&challenge.credential, &challenge.seed).unwrap().try_into().unwrap();
    let until = challenge.until;
    request.answer = Some(ActivationAnswer { until, secret: [0; 32] });
    assert_eq!(machine.reply(&request, now()), Err(ActivationError::Wrong));
    request.answer = Some(ActivationAnswer { until: until.after(Millis(1)), secret });
    assert_eq!(machine.reply(&request, now().after(Millis(10))), Err(ActivationError::Wrong));
    request.answer = Some(ActivationAnswer { until, secret });
    assert_eq!(machine.reply(&request, until), Err(ActivationError::Late));
    let mut other_key = request.clone();
    other_key.attestation_key = Machine::new("a").request().attestation_key;
    assert_eq!(machine.reply(&other_key, now()), Err(ActivationError::Wrong));
    request.attestation_key = machine.key.public_areas().unwrap().0;
    assert_eq!(machine.reply(&request, now()), Err(ActivationError::AttestationKey));
    let strangers = Activator::new(roots("b"), &mut UnwrapErr(SysRng));
    let key = machine.signer.public_point();
    let refused = strangers.reply(&machine.request(), &machine.signer, &key, now(), &mut UnwrapErr(SysRng));
    assert_eq!(refused, Err(ActivationError::Chain(ChainError::Signature)));
}

#[test]
fn a_credential_opens_only_where_both_keys_are() {
    let machine = Machine::new("a");
    let ActivationReply::Challenge(challenge) = machine.reply(&machine.request(), now()).unwrap() else {
        panic!("no question")
    };
    // The same endorsement key with another attestation key, and another maker's TPM.
    for maker in ["a", "b"] {
        let other = Machine::new(maker);
        assert!(other.key.activate(&challenge.credential, &challenge.seed).is_err(), "{maker}");
    }
    assert!(machine.key.activate(&challenge.credential, &challenge.seed).is_ok());
}

#[test]
fn a_tpm_whose_maker_certified_a_key_on_a_curve_is_believed_too() {
    for curve in [Curve::P256, Curve::P384] {
        let machine = Machine::on_curve(curve);
        let evidence = machine.evidence(&nonce(1));
        assert_eq!(machine.verify(&evidence, &nonce(1)), Ok(ActivatorKind::Independent), "{curve:?}");
        // An activator asks with another ephemeral key each time, and each question opens.
        for _ in 0..8 {
            assert!(machine.activated().len() > 100, "{curve:?}");
        }
        let (worked, transient) = machine.tpm.tpm2("getcap", &["handles-transient"]);
        assert!(worked && transient.trim().is_empty(), "nothing stays loaded: {transient}");
        let ActivationReply::Challenge(challenge) = machine.reply(&machine.request(), now()).unwrap() else {
            panic!("no question")
        };
        let opens = |credential: &[u8], seed: &[u8]| machine.key.activate(credential, seed).is_ok();
        assert!(opens(&challenge.credential, &challenge.seed));
        for at in 0..challenge.seed.len() {
            let mut seed = challenge.seed.clone();
            seed[at] ^= 1;
            assert!(!opens(&challenge.credential, &seed), "{curve:?} seed {at}");
        }
        for at in 0..challenge.credential.len() {
            let mut credential = challenge.credential.clone();
            credential[at] ^= 1;
            assert!(!opens(&credential, &challenge.seed), "{curve:?} credential {at}");
        }
        // The same endorsement key with another attestation key, another curve's, and another maker's TPM.
        let other = match curve {
            Curve::P256 => Curve::P384,
            Curve::P384 => Curve::P256,
        };
        for other in [Machine::on_curve(curve), Machine::on_curve(other), Machine::new("a"), Machine::new("b")] {
            assert!(other.key.activate(&challenge.credential, &challenge.seed).is_err(), "{curve:?}");
        }
    }
}

#[test]
fn a_certificate_of_rsa_comes_before_those_of_curves_and_without_any_nothing_is_opened() {
    let machine = Machine::new("a");
    let certificate = || machine.key.endorsement().unwrap().map(|endorsement| endorsement.certificate);
    let rsa = certificate().unwrap();
    let ActivationReply::Challenge(challenge) = machine.reply(&machine.request(), now()).unwrap() else {
        panic!("no question")
    };
    assert_eq!(challenge.seed.len(), 256, "encrypted with RSA");
    assert!(machine.tpm.tpm2("nvundefine", &["-C", "p", "0x01c00002"]).0);
    assert_ne!(certificate(), Some(rsa));
    assert!(machine.key.activate(&challenge.credential, &challenge.seed).is_err(), "it was for the other key");
    assert!(machine.tpm.tpm2("nvundefine", &["-C", "p", "0x01c00016"]).0);
    assert_eq!(certificate(), None);
    let none = machine.key.activate(&challenge.credential, &challenge.seed);
    assert!(matches!(none, Err(TpmKeyError::NoEndorsement)), "{none:?}");
}

#[test]
fn no_changed_or_shortened_evidence_proves_more() {
    let machine = Machine::new("a");
    let good = machine.evidence(&nonce(1)).encode();
    let trust = machine.trust(ActivatorKind::Independent);
    let verify = |bytes: &[u8]| verify_tpm(bytes, &machine.key.public_point(), &nonce(1), &trust, now());
    let expected = verify(&good).unwrap();
    for length in 0..good.len() {
        assert!(verify(&good[..length]).is_err(), "cut at {length}");
    }
    let mut accepted = Vec::new();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        if let Ok(found) = verify(&changed) {
            assert_eq!(found, expected, "byte {at}");
            accepted.push(at);
        }
    }
    assert_eq!(accepted, [0; 0], "every byte is covered by a signature or a digest");
}

/// Writes what a real TPM said into the golden vectors, when asked: it is another each time.
#[test]
fn the_recorded_evidence_is_written_when_asked() {
    if std::env::var_os("DARKBLOOM_WRITE_TPM_VECTOR").is_none() {
        return;
    }
    let machine = Machine::new("a");
    let nonce = nonce(1);
    let evidence = machine.evidence(&nonce).encode();
    let at = now();
    let trust = machine.trust(ActivatorKind::Independent);
    let found = verify_tpm(&evidence, &machine.key.public_point(), &nonce, &trust, at).unwrap();
    let roots = read_pem(&Swtpm::authority("a").0).unwrap();
    let request = machine.request();
    let ActivationReply::Challenge(challenge) = machine.reply(&request, at).unwrap() else { panic!("no question") };
    let vector = serde_json::json!({
        "activation_challenge": hex::encode(challenge.encode()),
        "activation_request": hex::encode(request.encode()),
        "activator": hex::encode(machine.signer.public_point()),
        "evidence": hex::encode(evidence),
        "identity": hex::encode(machine.key.public_point()),
        "nonce": hex::encode(nonce.0),
        "pcrs": found.pcrs.iter().map(|(pcr, value)| (pcr.to_string(), hex::encode(value).into()))
            .collect::<serde_json::Map<_, _>>(),
        "root_name": found.root,
        "roots": roots.iter().map(hex::encode).collect::<Vec<_>>(),
        "time": at.0,
    });
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/tpm-evidence.json");
    std::fs::write(path, serde_json::to_string_pretty(&vector).unwrap() + "\n").unwrap();
}
