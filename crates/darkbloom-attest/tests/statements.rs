//! A statement proves what its signature, times and network say, and a challenge that its author is there now.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use std::collections::BTreeSet;

use darkbloom_attest::{
    ClaimSource, Defence, HardwareTrust, StatementError, Trust, TrustPolicy, Verdict, undefended, verify_challenge,
    verify_statement,
};
use darkbloom_types::{CatalogueDigest, ConnectionId, Digest, NetworkId, ProviderId, Tier, UnixMillis};
use darkbloom_wire::{
    ChallengeProof, DecodeError, Domain, Evidence, Statement, Succession, VerifyError, challenge_digest, sign,
};
use p256::ecdsa::SigningKey;
use proptest::prelude::*;

const NETWORK: NetworkId = NetworkId([1; 32]);
const BEGIN: i64 = 1_800_000_000_000;
const MINUTE: i64 = 60_000;
const NONCE: [u8; 32] = [5; 32];
const CONNECTION: ConnectionId = ConnectionId([6; 16]);

fn key(seed: u8) -> (SigningKey, [u8; 65]) {
    let key = SigningKey::from_slice(&[seed; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, point)
}

fn statement() -> Statement {
    Statement {
        identity: key(7).1,
        network: NETWORK,
        sealing_key: vec![0; 1_216],
        receipt_key: [3; 32],
        not_before: UnixMillis(BEGIN),
        use_until: UnixMillis(BEGIN + 60 * MINUTE),
        open_until: UnixMillis(BEGIN + 70 * MINUTE),
        models: vec![CatalogueDigest([4; 32])].into(),
        evidence: vec![].into(),
        release: "1.2.3".to_owned(),
        hardening: Vec::new().into(),
        key_home: "software_file".to_owned(),
        successions: Vec::new().into(),
        program: None,
    }
}

fn policy(tier_min: Tier, pinned: &[ProviderId]) -> TrustPolicy {
    let (pinned, hardware) = (pinned.iter().copied().collect(), HardwareTrust::default());
    TrustPolicy { network: NETWORK, tier_min, pinned, hardware }
}

fn verify_at(statement: &Statement, minutes: i64) -> Result<Verdict, StatementError> {
    let bytes = statement.sign(&key(7).0).unwrap();
    verify_statement(&bytes, &policy(Tier::Hardware, &[]), UnixMillis(BEGIN + minutes * MINUTE))
}

fn verify(statement: &Statement) -> Result<Verdict, StatementError> {
    verify_at(statement, 0)
}

#[test]
fn a_good_statement_proves_possession_of_its_key_and_no_more() {
    let verdict = verify(&statement()).unwrap();
    assert_eq!((verdict.tier, verdict.trust), (Tier::SelfSigned, Trust::Unpinned));
    assert_eq!(verdict.provider, ProviderId::of_public_key(&key(7).1));
    assert_eq!(verdict.epoch, statement().epoch());
    assert_eq!(verdict.statement, statement());
    let by = |source| verdict.claims.iter().filter(|claim| claim.source == source).map(|c| c.name).collect::<Vec<_>>();
    assert_eq!(by(ClaimSource::Verified), ["key_possession"]);
    assert_eq!(by(ClaimSource::Provider), ["release", "key_home"]);
    assert!(by(ClaimSource::Pinned).is_empty());
}

#[test]
fn a_statement_is_used_until_its_hour_is_over() {
    assert!(verify_at(&statement(), 59).is_ok());
    let (use_until, now) = (BEGIN + 60 * MINUTE, BEGIN + 60 * MINUTE);
    assert_eq!(verify_at(&statement(), 60), Err(StatementError::Expired { use_until, now }));
    assert!(matches!(verify_at(&statement(), i64::MAX / MINUTE - BEGIN), Err(StatementError::Expired { .. })));
}

#[test]
fn a_statement_from_the_future_is_refused_beyond_what_clocks_may_differ() {
    assert!(verify_at(&statement(), -10).is_ok());
    let bytes = statement().sign(&key(7).0).unwrap();
    let now = BEGIN - 10 * MINUTE - 1;
    let refused = verify_statement(&bytes, &policy(Tier::None, &[]), UnixMillis(now));
    assert_eq!(refused, Err(StatementError::Future { not_before: BEGIN, now }));
}

#[test]
fn a_statement_for_another_network_is_refused() {
    let other = Statement { network: NetworkId([2; 32]), ..statement() };
    assert_eq!(verify(&other), Err(StatementError::OtherNetwork));
}

#[test]
fn times_out_of_order_or_too_far_apart_are_refused() {
    let at = |minutes: i64| UnixMillis(BEGIN + minutes * MINUTE);
    for (begin, used, opened) in [
        (at(0), at(0), at(70)),
        (at(0), at(-1), at(70)),
        (at(0), at(61), at(60)),
        (at(0), at(60), UnixMillis(at(70).0 + 1)),
        (at(0), at(600), at(700)),
        (UnixMillis(i64::MIN), at(60), at(70)),
        (UnixMillis(i64::MIN), UnixMillis(i64::MAX), UnixMillis(i64::MAX)),
        (at(0), UnixMillis(i64::MAX), UnixMillis(i64::MAX)),
    ] {
        let odd = Statement { not_before: begin, use_until: used, open_until: opened, ..statement() };
        assert_eq!(verify(&odd), Err(StatementError::Times));
    }
    let shortest = Statement { use_until: UnixMillis(BEGIN + 1), open_until: UnixMillis(BEGIN + 1), ..statement() };
    assert!(verify(&shortest).is_ok());
}

#[test]
fn someone_elses_statement_under_my_key_is_refused() {
    let (mine, my_point) = key(8);
    let signed = statement().sign(&mine).unwrap();
    let refused = verify_statement(&signed, &policy(Tier::None, &[]), UnixMillis(BEGIN));
    assert_eq!(refused, Err(StatementError::Signature(VerifyError::Signature)), "their identity, my signature");

    // Their keys under my identity is my own statement, about me.
    let taken = Statement { identity: my_point, ..statement() };
    let signed = taken.sign(&mine).unwrap();
    let verdict = verify_statement(&signed, &policy(Tier::None, &[]), UnixMillis(BEGIN)).unwrap();
    assert_eq!(verdict.provider, ProviderId::of_public_key(&my_point));
    assert_ne!(verdict.epoch, statement().epoch(), "the identity is part of an epoch's name");
}

#[test]
fn a_statement_signed_as_something_else_is_refused() {
    let payload = {
        let signed = statement().sign(&key(7).0).unwrap();
        let public = darkbloom_wire::PublicKey::P256(key(7).1);
        darkbloom_wire::open_signed(Domain::Statement, &public, &signed, 1 << 16).unwrap().to_vec()
    };
    for domain in Domain::ALL {
        let signed = sign(domain, &key(7).0, &payload).unwrap();
        let verified = verify_statement(&signed, &policy(Tier::None, &[]), UnixMillis(BEGIN));
        assert_eq!(verified.is_ok(), domain == Domain::Statement, "{domain:?}");
    }
}

#[test]
fn a_sealing_key_that_nobody_can_seal_to_is_refused() {
    // Coefficients of ML-KEM are below 3,329 = 0xd01, packed as twelve bits each, lower bits first.
    let with = |three: [u8; 3], at: usize| {
        let mut sealing_key = vec![0; 1_216];
        sealing_key[at..at + 3].copy_from_slice(&three);
        verify(&Statement { sealing_key, ..statement() }).map(drop)
    };
    for at in [0, 573, 1_149] {
        assert_eq!(with([0x00, 0x0d, 0xd0], at), Ok(()), "0xd00 twice");
        assert_eq!(with([0x01, 0x0d, 0x00], at), Err(StatementError::SealingKey), "0xd01 first");
        assert_eq!(with([0x00, 0x10, 0xd0], at), Err(StatementError::SealingKey), "0xd01 second");
    }
    assert_eq!(with([0xff; 3], 1_152), Ok(()), "the seed of the matrix is any bytes");
    for length in [0, 1_184, 1_215] {
        let short = Statement { sealing_key: vec![0; length], ..statement() };
        assert_eq!(verify(&short), Err(StatementError::SealingKey));
    }
    let long = Statement { sealing_key: vec![0; 1_217], ..statement() };
    let refused = StatementError::Signature(VerifyError::Envelope(DecodeError::TooLong { key: 3, max: 1_216 }));
    assert_eq!(verify(&long), Err(refused));
}

#[test]
fn evidence_without_a_verifier_is_shown_and_raises_nothing() {
    let evidence = Evidence { format: "some-device/1".to_owned(), bytes: vec![1, 2, 3] };
    let verdict = verify(&Statement { evidence: vec![evidence].into(), ..statement() }).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    let shown = verdict.claims.iter().find(|claim| claim.name == "evidence_not_verified").unwrap();
    assert_eq!((shown.value.as_str(), shown.source), ("some-device/1", ClaimSource::Provider));
}

#[test]
fn a_self_signed_identity_is_sealed_to_when_it_is_pinned_or_nothing_is_asked() {
    let verdict = |pinned: &[ProviderId]| {
        let bytes = statement().sign(&key(7).0).unwrap();
        verify_statement(&bytes, &policy(Tier::Hardware, pinned), UnixMillis(BEGIN)).unwrap()
    };
    let id = ProviderId::of_public_key(&key(7).1);
    let (unpinned, pinned) = (verdict(&[]), verdict(&[id]));
    assert_eq!((unpinned.trust, pinned.trust), (Trust::Unpinned, Trust::Pinned));
    assert_eq!(pinned.tier, Tier::SelfSigned, "a pin is no proof");
    assert!(pinned.claims.iter().any(|claim| claim.source == ClaimSource::Pinned));
    let admitted = |verdict: &Verdict| Tier::ALL.map(|tier| policy(tier, &[]).admits(verdict));
    assert_eq!(admitted(&unpinned), [true, false, false, false, false]);
    assert_eq!(admitted(&pinned), [true; 5]);
    for (tier, expected) in [(Tier::Hardware, [true, true, true, false, false]), (Tier::Confidential, [true; 5])] {
        assert_eq!(admitted(&Verdict { tier, ..verdict(&[]) }), expected);
    }
}

#[test]
fn what_a_tier_does_not_defend_is_as_in_the_design() {
    let all = Tier::ALL.map(undefended);
    assert!(all.iter().take(3).all(|tier| tier.owner_root == Defence::NotDefended));
    assert!(all.iter().take(4).all(|tier| tier.owner_physical_access == Defence::NotDefended));
    let coordinator = all.map(|tier| tier.dishonest_coordinator.name());
    let expected =
        ["not_defended", "pinned_identities_only", "offline_chain_or_pinned_activator", "defended", "defended"];
    assert_eq!(coordinator, expected);
    let names: BTreeSet<_> = all.iter().map(|tier| tier.owner_root.name()).collect();
    assert_eq!(names, BTreeSet::from(["not_defended", "as_far_as_the_platform_enforces", "defended"]));
}

fn succession(old: u8, new: u8) -> Vec<u8> {
    let word = Succession { old: key(old).1, new: key(new).1, at: UnixMillis(BEGIN) };
    word.sign(&key(old).0).unwrap()
}

fn succeeding(successions: Vec<Vec<u8>>) -> Result<Verdict, StatementError> {
    verify(&Statement { successions: successions.into(), ..statement() })
}

#[test]
fn an_identity_shows_whom_it_took_over_from_and_a_pin_on_them_counts() {
    let first = ProviderId::of_public_key(&key(5).1);
    let chain = vec![succession(5, 6), succession(6, 7)];
    let verdict = succeeding(chain.clone()).unwrap();
    let ids: Vec<_> = verdict.predecessors.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [ProviderId::of_public_key(&key(6).1), first]);
    assert_eq!(verdict.predecessors.iter().map(|(_, word)| word).collect::<Vec<_>>(), [&chain[1], &chain[0]]);
    assert_eq!(verdict.trust, Trust::Unpinned);
    let signed = Statement { successions: chain.into(), ..statement() }.sign(&key(7).0).unwrap();
    let verdict = verify_statement(&signed, &policy(Tier::Hardware, &[first]), UnixMillis(BEGIN)).unwrap();
    assert_eq!(verdict.trust, Trust::Pinned);
    let pinned = verdict.claims.iter().find(|claim| claim.name == "identity").unwrap();
    assert_eq!(pinned.value, format!("it took over from {first}, which the client's configuration names"));
}

#[test]
fn an_identity_takes_over_from_nobody_who_did_not_sign_it() {
    let (good, other) = (succession(6, 7), succession(6, 8));
    assert!(succeeding(vec![good.clone()]).is_ok());
    let by_itself = Succession { old: key(6).1, new: key(7).1, at: UnixMillis(BEGIN) }.sign(&key(7).0).unwrap();
    let wrong = [
        vec![other],
        vec![by_itself],
        vec![good.clone(), good.clone()],
        vec![succession(5, 9), good.clone()],
        vec![good.clone(), succession(5, 6)],
        vec![succession(7, 7)],
        vec![Vec::new()],
        vec![statement().sign(&key(7).0).unwrap()[..500].to_vec()],
    ];
    for (case, successions) in wrong.into_iter().enumerate() {
        assert_eq!(succeeding(successions).map(drop), Err(StatementError::Succession), "case {case}");
    }
    for bit in 0..good.len() * 8 {
        let mut changed = good.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(succeeding(vec![changed]).is_err(), "bit {bit}");
    }
}

fn proof(seed: u8, digest: Digest) -> Vec<u8> {
    ChallengeProof { digest }.sign(&key(seed).0).unwrap()
}

#[test]
fn a_challenge_is_met_by_its_holder_on_its_connection_in_its_epoch() {
    let verdict = verify(&statement()).unwrap();
    let good = challenge_digest(&NETWORK, &NONCE, &CONNECTION, &verdict.epoch);
    let check = |proof: &[u8]| verify_challenge(proof, &verdict.statement, &[[1; 32], NONCE, [2; 32]], &CONNECTION);
    assert_eq!(check(&proof(7, good)), Ok(NONCE), "which of those that are open");
    assert_eq!(verify_challenge(&proof(7, good), &verdict.statement, &[], &CONNECTION), Err(StatementError::Challenge));
    assert_eq!(check(&proof(8, good)), Err(StatementError::Signature(VerifyError::Signature)), "another's key");
    let other_epoch = Statement { not_before: UnixMillis(BEGIN + 1), ..statement() }.epoch();
    for digest in [
        challenge_digest(&NetworkId([2; 32]), &NONCE, &CONNECTION, &verdict.epoch),
        challenge_digest(&NETWORK, &[9; 32], &CONNECTION, &verdict.epoch),
        challenge_digest(&NETWORK, &NONCE, &ConnectionId([9; 16]), &verdict.epoch),
        challenge_digest(&NETWORK, &NONCE, &CONNECTION, &other_epoch),
        Digest([0; 32]),
    ] {
        assert_eq!(check(&proof(7, digest)), Err(StatementError::Challenge));
    }
    let whole = proof(7, good);
    for cut in 0..whole.len() {
        assert!(check(&whole[..cut]).is_err());
    }
    assert!(check(&statement().sign(&key(7).0).unwrap()).is_err(), "a statement is no proof");
}

#[test]
fn epochs_are_named_by_everything_that_evidence_must_cover() {
    let epochs: BTreeSet<_> = [
        statement(),
        Statement { sealing_key: vec![1; 1_216], ..statement() },
        Statement { receipt_key: [9; 32], ..statement() },
        Statement { identity: key(8).1, ..statement() },
        Statement { not_before: UnixMillis(BEGIN + 1), ..statement() },
    ]
    .iter()
    .map(Statement::epoch)
    .collect();
    assert_eq!(epochs.len(), 5);
}

proptest! {
    #[test]
    fn any_times_and_any_clock_give_a_verdict_or_a_reason(
        times in any::<[i64; 3]>(), near in any::<[i16; 3]>(), now in any::<i64>(), close in any::<bool>(),
    ) {
        let at = |index: usize| UnixMillis(if close { BEGIN + i64::from(near[index]) * 1_000 } else { times[index] });
        let odd = Statement { not_before: at(0), use_until: at(1), open_until: at(2), ..statement() };
        let now = if close { BEGIN } else { now };
        let bytes = odd.sign(&key(7).0).unwrap();
        if let Ok(verdict) = verify_statement(&bytes, &policy(Tier::None, &[]), UnixMillis(now)) {
            let [begin, used, opened] = [at(0), at(1), at(2)].map(|time| i128::from(time.0));
            let now = i128::from(now);
            prop_assert!(begin < used && used <= opened && opened - begin <= 4_200_000);
            prop_assert!(now < used && begin <= now + 600_000);
            prop_assert_eq!(verdict.statement, odd);
        }
    }
}

#[test]
fn people_read_pinned_and_never_attested() {
    assert_eq!([Trust::Pinned.name(), Trust::Unpinned.name()], ["pinned", "unpinned"]);
    let sources = [ClaimSource::Verified, ClaimSource::Pinned, ClaimSource::Provider];
    assert_eq!(sources.map(ClaimSource::name), ["verified", "pinned", "provider"]);
}
