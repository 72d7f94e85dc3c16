//! Attacks on statements and challenges: out of their time, from elsewhere, of less than was demanded.

use std::collections::BTreeSet;

use darkbloom_attacks::attacks;
use darkbloom_attest::{
    ActivatorKind, HardwareTrust, TrustPolicy, Verdict, verify_challenge, verify_epoch_proof, verify_statement,
};
use darkbloom_host::clock::rng;
use darkbloom_seal::{Epoch, ReceiptKey};
use darkbloom_types::{ConnectionId, NetworkId, Tier, UnixMillis};
use darkbloom_wire::{ChallengeProof, Statement, Succession, challenge_digest};

use crate::forge::{NETWORK, NOW, key, minutes, statement};

const CONNECTION: ConnectionId = ConnectionId([6; 16]);
const NONCE: [u8; 32] = [5; 32];

pub fn policy(tier_min: Tier) -> TrustPolicy {
    TrustPolicy { network: NETWORK, tier_min, pinned: BTreeSet::new(), hardware: HardwareTrust::default() }
}

fn verified(statement: &Statement, now: UnixMillis) -> Option<Verdict> {
    verify_statement(&statement.sign(&key(7).0).unwrap(), &policy(Tier::None), now).ok()
}

fn believed(change: impl Fn(&mut Statement)) -> bool {
    let mut changed = statement();
    change(&mut changed);
    verified(&changed, NOW).is_some()
}

/// Whether an answer for this is taken for one to the open challenge.
fn answers(network: NetworkId, nonce: [u8; 32], connection: ConnectionId) -> bool {
    let verdict = verified(&statement(), NOW).unwrap();
    let digest = challenge_digest(&network, &nonce, &connection, &verdict.epoch);
    let proof = ChallengeProof { digest }.sign(&key(7).0).unwrap();
    verify_challenge(&proof, &verdict.statement, &[NONCE], &CONNECTION).is_ok()
}

attacks! {
    attack_a_statement_of_another_network_is_relayed against "statement_network": || {
        believed(|it| it.network = NetworkId([2; 32]))
    };
    attack_a_statement_is_replayed_after_its_time against "statement_expired": || {
        verified(&statement(), minutes(60)).is_some()
    };
    attack_a_statement_is_made_for_later against "statement_future": || verified(&statement(), minutes(-11)).is_some();
    attack_an_epoch_never_ends against "statement_length": || believed(|it| it.open_until = minutes(60 * 24 * 365));
    /// Whoever passes statements on could read what is sealed to a key of his own.
    attack_a_sealing_key_is_swapped_on_the_way against "signature": || {
        let (own, mut signed) = (statement(), statement().sign(&key(7).0).unwrap());
        let other = Epoch::begin(key(9).1, NOW, &mut rng()).statement(NETWORK, Vec::new(), Vec::new(), "1").sealing_key;
        let at = signed.windows(own.sealing_key.len()).position(|window| window == own.sealing_key).unwrap();
        signed[at..at + other.len()].copy_from_slice(&other);
        verify_statement(&signed, &policy(Tier::None), NOW).is_ok_and(|verdict| verdict.statement.sealing_key == other)
    };
    /// One such candidate would make every request fail that is sealed to it and to others.
    attack_a_sealing_key_that_nobody_can_seal_to against "statement_sealing_key": || {
        believed(|it| it.sealing_key = vec![0xff; 1_216])
    };
    attack_an_identity_takes_over_with_a_word_about_somebody_else against "statement_successions": || {
        let word = Succession { old: key(5).1, new: key(6).1, at: NOW }.sign(&key(5).0).unwrap();
        believed(|it| it.successions = vec![word.clone()].into())
    };
    attack_an_answer_to_an_earlier_challenge_is_replayed against "challenge_digest": || {
        answers(NETWORK, [4; 32], CONNECTION)
    };
    attack_a_challenge_is_passed_on_to_its_victim against "challenge_digest": || {
        answers(NETWORK, NONCE, ConnectionId([9; 16]))
    };
    attack_an_answer_for_another_network_is_relayed against "challenge_digest": || {
        answers(NetworkId([2; 32]), NONCE, CONNECTION)
    };
    attack_a_strangers_statement_is_shown_with_ones_own_key against "signature": || {
        let verdict = verified(&statement(), NOW).unwrap();
        let digest = challenge_digest(&NETWORK, &NONCE, &CONNECTION, &verdict.epoch);
        let proof = ChallengeProof { digest }.sign(&key(9).0).unwrap();
        verify_challenge(&proof, &verdict.statement, &[NONCE], &CONNECTION).is_ok()
    };
    /// A statement is public: with a copy of the identity key it must not pass for the process that has its keys.
    attack_a_copied_key_is_shown_with_its_owners_statement against "signature": || {
        let verdict = verified(&statement(), NOW).unwrap();
        let digest = challenge_digest(&NETWORK, &NONCE, &CONNECTION, &verdict.epoch);
        let proof = ChallengeProof { digest }.sign(&ReceiptKey::from_bytes(&[9; 32])).unwrap();
        verify_epoch_proof(&proof, &verdict.statement, &NONCE, &CONNECTION).is_ok()
    };
    attack_a_proof_of_an_epochs_keys_is_replayed against "epoch_proof": || {
        let key = ReceiptKey::from_bytes(&[8; 32]);
        let own = Statement { receipt_key: key.verifying_key().to_bytes(), ..statement() };
        let verdict = verified(&own, NOW).unwrap();
        let digest = challenge_digest(&NETWORK, &[4; 32], &CONNECTION, &verdict.epoch);
        verify_epoch_proof(&ChallengeProof { digest }.sign(&key).unwrap(), &verdict.statement, &NONCE, &CONNECTION).is_ok()
    };
    attack_less_than_was_demanded_is_offered against "admits_tier": || {
        let verdict = Verdict { tier: Tier::Hardware, ..verified(&statement(), NOW).unwrap() };
        policy(Tier::Measured).admits(&verdict)
    };
    /// A coordinator invents a provider, which has a key like anybody.
    attack_possession_of_any_key_counts_as_proof against "admits_pinned_only": || {
        policy(Tier::SelfSigned).admits(&verified(&statement(), NOW).unwrap())
    };
    /// Whoever pinned an independent activator relies on that one.
    attack_the_coordinator_vouches_where_an_independent_one_is_pinned against "activators_pinned_alone": || {
        let mut pinned = policy(Tier::Hardware);
        pinned.hardware.activators.push((key(3).1, ActivatorKind::Independent));
        let with = pinned.with_network_activator(Some(key(4).1));
        with.hardware.activators.iter().any(|(known, _)| *known == key(4).1)
    };
}
