//! Attacks on a running coordinator, over real sockets, by providers that say what they like.

use std::time::{Duration, Instant};

use darkbloom_attacks::attacks;
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_wire::{ChallengeProof, CoordinatorFrame, EpochUpdate, Hello, Succession, challenge_digest};
use serde_json::json;

use crate::hostile::provider::{Hostile, Line};
use crate::hostile::{now, rng};
use crate::support::PATIENCE;
use crate::support::network::Coordinator;

/// Whether whoever introduced himself here is told that he gets work.
fn gets_work(line: &mut Line) -> bool {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match line.frame_within(Duration::from_secs(1)) {
            Ok(Some(CoordinatorFrame::VerdictNotice(notice))) => return notice.eligible,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    panic!("nothing was said");
}

fn joined(coordinator: &Coordinator) -> Hostile {
    let mut hostile = Hostile::join(coordinator);
    assert!(gets_work(&mut hostile.line));
    hostile
}

/// Fails a check: the next epoch of somebody else.
fn fail(hostile: &mut Hostile) {
    let other = SoftwareKey::in_memory().unwrap();
    let epoch = Epoch::begin(other.public_point(), now(), &mut rng());
    let statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "x");
    hostile.line.send(EpochUpdate { statement: statement.sign(&other).unwrap() });
    assert_eq!(hostile.line.closed(), ["verification_failed"]);
}

/// A provider that gets work, and a copy of its key.
fn copied(coordinator: &Coordinator) -> (Hostile, SoftwareKey) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity.key");
    let load = || SoftwareKey::load_or_create(&file).unwrap();
    let mut owner = Hostile::with_key(coordinator, load()).joined(coordinator, 8);
    assert!(gets_work(&mut owner.line));
    (owner, load())
}

fn introduce(hostile: &mut Hostile) -> bool {
    let hello = hostile.hello(None, 8);
    hostile.line.send(hello);
    gets_work(&mut hostile.line)
}

/// Whether somebody gets work who shows another's statement, and proves what he can with his own keys.
fn passes_for(liar: &mut Hostile, owner: &Hostile) -> bool {
    let (welcome, epoch) = (&liar.line.welcome, owner.ring.current().id());
    let digest = challenge_digest(&liar.line.network(), &welcome.nonce, &welcome.connection, &epoch);
    let hello = Hello {
        statement: owner.statement(),
        proof: liar.line.proof(&liar.key, &epoch),
        // The owner's epoch, and the liar's own keys: he has no others.
        epoch_proof: ChallengeProof { digest }.sign(&*liar.ring.current().receipt_key()).unwrap(),
        ..liar.hello(None, 8)
    };
    liar.line.send(hello);
    gets_work(&mut liar.line)
}

attacks! {
    attack_an_untrusted_provider_revives_itself_over_a_socket against "failures_count": || {
        let coordinator = Coordinator::start();
        let mut hostile = joined(&coordinator);
        fail(&mut hostile);
        gets_work(&mut hostile.reconnect(&coordinator).line)
    };
    /// Who shows a victim's statement on a connection of his own, and then fails a check there on purpose.
    attack_another_provider_is_distrusted_for_what_it_did_not_do against "signature": || {
        let coordinator = Coordinator::start();
        let victim = joined(&coordinator);
        let mut liar = Hostile::new(&coordinator);
        if !passes_for(&mut liar, &victim) {
            return false;
        }
        liar.line.send(EpochUpdate { statement: Vec::new() });
        liar.line.closed();
        !gets_work(&mut victim.reconnect(&coordinator).line)
    };
    attack_a_restart_of_the_coordinator_revives_an_untrusted_provider against "standing_stored": || {
        let mut coordinator = Coordinator::start();
        let mut hostile = joined(&coordinator);
        fail(&mut hostile);
        coordinator.again();
        gets_work(&mut hostile.reconnect(&coordinator).line)
    };
    attack_a_revoked_identity_connects_after_a_restart against "standing_stored": || {
        let mut coordinator = Coordinator::start();
        let mut hostile = joined(&coordinator);
        coordinator.admin("PUT", &format!("/admin/v1/standings/{}", hostile.id), &json!({"standing": "revoked"}));
        assert_eq!(hostile.line.closed(), ["identity_revoked"]);
        coordinator.again();
        gets_work(&mut hostile.reconnect(&coordinator).line)
    };
    attack_two_processes_with_one_copied_key_both_connect against "key_shared": || {
        let coordinator = Coordinator::start();
        let (mut owner, copy) = copied(&coordinator);
        let mut thief = Hostile::with_key(&coordinator, copy);
        assert!(introduce(&mut thief), "so far the owner may have started again");
        assert_eq!(owner.line.closed(), ["replaced"]);
        // The owner, who is still there, comes back as the same process.
        owner.line = Line::dial(&coordinator);
        introduce(&mut owner)
    };
    /// Statements are public: with a copy of the key a thief shows the owner's as his own, so that nobody sees a second epoch.
    attack_a_thief_connects_with_the_owners_statement against "signature": || {
        let coordinator = Coordinator::start();
        let (owner, copy) = copied(&coordinator);
        passes_for(&mut Hostile::with_key(&coordinator, copy), &owner)
    };
    /// A new identity joins by itself, and only then says that it took over from one that is distrusted, whose pins would count.
    attack_what_is_held_against_an_identity_is_shed_with_its_key against "succession_standing": || {
        let mut coordinator = Coordinator::start();
        let mut older = joined(&coordinator);
        fail(&mut older);
        // Then the database alone knows it.
        coordinator.again();
        let mut newer = joined(&coordinator);
        let word = Succession { old: older.key.public_point(), new: newer.key.public_point(), at: now() };
        let epoch = newer.ring.current();
        let mut statement = epoch.statement(newer.line.network(), newer.models.clone(), Vec::new(), "hostile");
        statement.successions = vec![word.sign(&older.key).unwrap()].into();
        newer.line.send(EpochUpdate { statement: statement.sign(&newer.key).unwrap() });
        newer.heard();
        coordinator.gives_work(&newer.id)
    };
}
