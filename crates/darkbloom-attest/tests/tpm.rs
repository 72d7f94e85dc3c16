//! Evidence that a real TPM gave once, verified without one: what `docs/vectors/tpm-evidence.json` records.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use std::sync::LazyLock;

use darkbloom_attest::{
    ActivationError, ActivationReply, Activator, ActivatorKind, ChainError, ClaimSource, Defence, Freshness,
    HardwareTrust, Roots, TpmEvidenceError, TpmFindings, TrustPolicy, verify_statement, verify_tpm,
};
use darkbloom_types::{Digest, Millis, NetworkId, Tier, UnixMillis};
use darkbloom_wire::{ActivationRequest, Evidence, Statement, TPM_EVIDENCE};
use proptest::prelude::*;
use serde_json::Value;

struct Recorded {
    evidence: Vec<u8>,
    identity: [u8; 65],
    nonce: Digest,
    roots: Vec<Vec<u8>>,
    activator: [u8; 65],
    time: UnixMillis,
    pcrs: Vec<(u32, [u8; 32])>,
    root_name: String,
    request: ActivationRequest,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/tpm-evidence.json");
    let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let pcrs = value["pcrs"].as_object().unwrap().iter();
    let mut pcrs: Vec<_> = pcrs.map(|(pcr, value)| (pcr.parse().unwrap(), bytes(value).try_into().unwrap())).collect();
    pcrs.sort_unstable();
    Recorded {
        evidence: bytes(&value["evidence"]),
        identity: bytes(&value["identity"]).try_into().unwrap(),
        nonce: Digest(bytes(&value["nonce"]).try_into().unwrap()),
        roots: value["roots"].as_array().unwrap().iter().map(bytes).collect(),
        activator: bytes(&value["activator"]).try_into().unwrap(),
        time: UnixMillis(value["time"].as_i64().unwrap()),
        pcrs,
        root_name: value["root_name"].as_str().unwrap().to_owned(),
        request: ActivationRequest::decode(&bytes(&value["activation_request"])).unwrap(),
    }
});

impl Recorded {
    fn roots(&self) -> Roots {
        Roots::read(self.roots.iter().map(Vec::as_slice)).unwrap()
    }

    fn trust(&self, kind: ActivatorKind) -> HardwareTrust {
        HardwareTrust {
            tpm_roots: self.roots().into(),
            activators: vec![(self.activator, kind)],
            ..HardwareTrust::default()
        }
    }

    fn verify(&self, evidence: &[u8]) -> Result<TpmFindings, TpmEvidenceError> {
        let trust = self.trust(ActivatorKind::Independent);
        verify_tpm(evidence, &self.identity, &self.nonce, &trust, self.time)
    }
}

#[test]
fn what_a_tpm_said_once_verifies_without_it() {
    let found = RECORDED.verify(&RECORDED.evidence).unwrap();
    assert_eq!(found.pcrs, RECORDED.pcrs);
    assert_eq!(found.root, RECORDED.root_name);
    assert_eq!((found.activator, found.policy), (ActivatorKind::Independent, false));
    assert!(found.activated_at <= RECORDED.time);
}

#[test]
fn what_was_said_for_another_epoch_proves_nothing() {
    let mut other = RECORDED.nonce;
    other.0[31] ^= 1;
    let trust = RECORDED.trust(ActivatorKind::Independent);
    let refused = verify_tpm(&RECORDED.evidence, &RECORDED.identity, &other, &trust, RECORDED.time);
    assert_eq!(refused, Err(TpmEvidenceError::OtherSubject));
}

#[test]
fn evidence_of_another_identity_raises_nothing_and_is_shown() {
    // A stranger puts what a provider's TPM said into a statement of their own.
    let key = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
    let statement = Statement {
        identity: key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap(),
        network: NetworkId([7; 32]),
        sealing_key: vec![0; 1_216],
        receipt_key: [3; 32],
        not_before: RECORDED.time,
        use_until: RECORDED.time.after(Millis::from_minutes(60)),
        open_until: RECORDED.time.after(Millis::from_minutes(70)),
        models: Vec::new().into(),
        evidence: vec![Evidence { format: TPM_EVIDENCE.to_owned(), bytes: RECORDED.evidence.clone() }].into(),
        release: "test".to_owned(),
        hardening: vec!["no_core".to_owned()].into(),
        key_home: "software_file".to_owned(),
        successions: Vec::new().into(),
        program: None,
    };
    let policy = TrustPolicy {
        network: NetworkId([7; 32]),
        tier_min: Tier::Hardware,
        pinned: Default::default(),
        hardware: RECORDED.trust(ActivatorKind::Independent),
    };
    let verdict = verify_statement(&statement.sign(&key).unwrap(), &policy, RECORDED.time).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    assert!(!policy.admits(&verdict));
    let shown = verdict.claims.iter().find(|claim| claim.name == "tpm_not_proven").unwrap();
    assert!(shown.value.contains("not bound to its TPM, or is another key"), "{}", shown.value);
    let said = verdict.claims.iter().find(|claim| claim.name == "hardening").unwrap();
    assert_eq!((said.source, said.freshness), (ClaimSource::Provider, Freshness::Epoch));
    assert_eq!(verdict.undefended().dishonest_coordinator, Defence::PinnedIdentitiesOnly);
}

#[test]
fn roots_are_authorities_and_nothing_else() {
    let leaf = &RECORDED.request.endorsement;
    assert_eq!(Roots::read([leaf.as_slice()]).err(), Some(ChainError::NotAuthority), "a device's own certificate");
    assert_eq!(Roots::read([&leaf[..100]]).err(), Some(ChainError::Malformed));
    assert!(Roots::read([]).unwrap().is_empty());
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"]
    {
        assert_eq!(Roots::read_pem(text).err(), Some(ChainError::Malformed), "{text}");
    }
}

/// Randomness that is none: what is tested does not depend on it.
struct Counting(u64);

impl rand_core::TryRng for Counting {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| number as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ok(self.0)
    }
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        for byte in to {
            *byte = (self.try_next_u64()? >> 32) as u8;
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counting {}

#[test]
fn an_activator_refuses_whom_it_cannot_ask() {
    let key = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
    let point: [u8; 65] = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    let activator = Activator::new(RECORDED.roots(), &mut Counting(1));
    let reply = |request: &ActivationRequest, at| activator.reply(request, &key, &point, at, &mut Counting(2));
    assert!(matches!(reply(&RECORDED.request, RECORDED.time), Ok(ActivationReply::Challenge(_))));
    let early = reply(&RECORDED.request, UnixMillis(0));
    assert_eq!(early, Err(ActivationError::Chain(ChainError::Time)), "the maker's certificates are of later");
    let alone = ActivationRequest { intermediates: Vec::new().into(), ..RECORDED.request.clone() };
    assert_eq!(reply(&alone, RECORDED.time), Err(ActivationError::Chain(ChainError::NoRoot)));
    let of_a_root = ActivationRequest { endorsement: RECORDED.roots[0].clone(), ..RECORDED.request.clone() };
    assert_eq!(reply(&of_a_root, RECORDED.time), Err(ActivationError::Chain(ChainError::Purpose)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_evidence_never_proves_anything_else(
        at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut evidence = RECORDED.evidence.clone();
        let at = at.index(evidence.len());
        evidence[at] ^= 1 << bit;
        prop_assert!(RECORDED.verify(&evidence).is_err(), "byte {}, bit {}", at, bit);
    }

    #[test]
    fn evidence_of_any_bytes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(RECORDED.verify(&bytes).is_err());
    }

    #[test]
    fn a_certificate_with_changed_bytes_is_no_root_of_this_chain(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut root = RECORDED.roots[0].clone();
        let at = at.index(root.len());
        root[at] ^= 1 << bit;
        if let Ok(roots) = Roots::read([root.as_slice()]) {
            // Its own signature is not looked at: whoever names a root believes it. But its name and key are those of the chain.
            let trust = HardwareTrust { tpm_roots: roots.into(), ..RECORDED.trust(ActivatorKind::Independent) };
            let found = verify_tpm(&RECORDED.evidence, &RECORDED.identity, &RECORDED.nonce, &trust, RECORDED.time);
            prop_assert!(found.is_err() || found.is_ok_and(|found| found.root == RECORDED.root_name));
        }
    }
}
