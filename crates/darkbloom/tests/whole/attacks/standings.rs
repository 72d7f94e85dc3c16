//! What is held against identities: who earns it, who cannot be made to, and what does not get rid of it.

use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_wire::{CoordinatorFrame, EpochUpdate, Hello, Succession};
use serde_json::{Value, json};

use super::hostile::provider::{Hostile, Line};
use super::hostile::{Scene, now, rng};
use crate::support::network::Coordinator;
use crate::support::process::{Ended, command, run};

/// What the operator sees about one identity.
fn held(coordinator: &Coordinator, hostile: &Hostile) -> Option<Value> {
    let rows = coordinator.admin("GET", "/admin/v1/standings", &Value::Null)["data"].as_array().unwrap().clone();
    rows.into_iter().find(|row| row["provider"] == hostile.id.to_string().as_str())
}

/// Whether it is connected and gets work, or why not.
fn verdict(coordinator: &Coordinator, hostile: &Hostile) -> String {
    let row = coordinator.providers().into_iter().find(|row| row["provider"] == hostile.id.to_string().as_str());
    let Some(row) = row else { return "away".to_owned() };
    row["reason"].as_str().unwrap_or("eligible").to_owned()
}

/// Has the coordinator say that this identity gets no work, and why.
fn told(hostile: &mut Hostile) -> String {
    hostile.line.wait_for("verdict", |frame| match frame {
        CoordinatorFrame::VerdictNotice(notice) => Some(notice.reason.clone()),
        _ => None,
    })
}

/// The operator's command line.
fn operator(coordinator: &Coordinator, arguments: &[&str]) -> Ended {
    let address = format!("http://{}", coordinator.address);
    run(command(&["providers"])
        .args(arguments)
        .args(["--coordinator", &address])
        .env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key))
}

/// Fails a check: the next epoch of somebody else.
fn fail(hostile: &mut Hostile) {
    let other = SoftwareKey::in_memory().unwrap();
    let epoch = Epoch::begin(other.public_point(), now(), &mut rng());
    let statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "x");
    hostile.line.send(EpochUpdate { statement: statement.sign(&other).unwrap() });
    assert_eq!(hostile.line.closed(), ["verification_failed"]);
}

#[test]
fn an_untrusted_provider_does_not_revive_itself() {
    let mut scene = Scene::start();
    let mut hostile = scene.hostile();
    fail(&mut hostile);
    let first = held(&scene.coordinator, &hostile).expect("it is written down");
    assert_eq!(
        (&first["standing"], &first["reason"], &first["times"]),
        (&json!("distrusted"), &json!("statement_failed"), &json!(1))
    );

    hostile = hostile.reconnect(&scene.coordinator);
    assert_eq!(told(&mut hostile), "statement_failed", "its owner is told");
    assert_eq!(verdict(&scene.coordinator, &hostile), "statement_failed", "another connection, another process");
    hostile.heartbeat(8);
    hostile.rotate();
    hostile.present(Vec::new());
    assert_eq!(verdict(&scene.coordinator, &hostile), "statement_failed", "a heartbeat and a new epoch");
    fail(&mut hostile);
    assert_eq!(held(&scene.coordinator, &hostile), Some(first.clone()), "nothing is counted twice");

    assert!(scene.coordinator.process.stop().success());
    scene.coordinator.again();
    assert_eq!(held(&scene.coordinator, &hostile), Some(first), "the coordinator starts again");
    hostile = hostile.reconnect(&scene.coordinator);
    hostile.present(Vec::new());
    assert_eq!(verdict(&scene.coordinator, &hostile), "statement_failed");

    let trusted = operator(&scene.coordinator, &["trust", &hostile.id.to_string()]);
    assert!(trusted.status.success(), "{trusted:?}");
    scene.coordinator.eligible(1);
    assert_eq!(held(&scene.coordinator, &hostile), None);
    scene.serves(&mut hostile);
}

#[test]
fn nobody_has_another_provider_distrusted() {
    let scene = Scene::start();
    let mut victim = scene.hostile();
    let known = victim.hello(None, 8);
    let own = SoftwareKey::in_memory().unwrap();
    let lies: [&dyn Fn(&Line) -> Hello; 3] = [
        &|_| known.clone(),
        &|line| Hello { proof: line.proof(&own, &victim.ring.current().id()), ..known.clone() },
        &|_| Hello { statement: known.statement[..known.statement.len() - 1].to_vec(), ..known.clone() },
    ];
    for lie in lies {
        let mut line = Line::dial(&scene.coordinator);
        let hello = lie(&line);
        line.send(hello);
        assert_eq!(line.closed(), ["verification_failed"]);
    }
    assert_eq!(held(&scene.coordinator, &victim), None);
    assert_eq!(verdict(&scene.coordinator, &victim), "eligible", "and its connection is not taken over");
    scene.serves(&mut victim);
}

/// A provider that gets work, and a copy of its key: that is in a file, and anybody who can read it can copy it.
fn copied(coordinator: &Coordinator) -> (Hostile, SoftwareKey) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("identity.key");
    let load = || SoftwareKey::load_or_create(&file).unwrap();
    let owner = Hostile::with_key(coordinator, load()).joined(coordinator, 8);
    coordinator.eligible(1);
    (owner, load())
}

/// Connects again as the same process: its epochs are still there.
fn back(hostile: &mut Hostile, coordinator: &Coordinator) {
    hostile.line = Line::dial(coordinator);
    let hello = hostile.hello(None, 8);
    hostile.line.send(hello);
}

#[test]
fn a_copied_key_in_a_second_process_is_noticed_and_neither_gets_work() {
    let scene = Scene::start();
    let (mut owner, copy) = copied(&scene.coordinator);
    // The thief takes over: so far the owner may have started again.
    let mut thief = Hostile::with_key(&scene.coordinator, copy);
    let hello = thief.hello(None, 8);
    thief.line.send(hello);
    thief.present(Vec::new());
    assert_eq!(verdict(&scene.coordinator, &thief), "eligible");
    assert_eq!(owner.line.closed(), ["replaced"]);
    // The owner, who is still there, comes back.
    back(&mut owner, &scene.coordinator);
    assert_eq!(told(&mut owner), "key_shared");
    assert_eq!(verdict(&scene.coordinator, &owner), "key_shared");
    back(&mut thief, &scene.coordinator);
    assert_eq!(told(&mut thief), "key_shared");
    assert_eq!(held(&scene.coordinator, &owner).unwrap()["times"], 1);
    scene.coordinator.process.logged("two running processes use the provider's identity key");
    let listed = operator(&scene.coordinator, &["list"]);
    assert!(listed.stdout.contains(&format!("{}  distrusted: key_shared, 1 times", owner.id)), "{listed:?}");
}

/// Statements are public: with a copy of the key a thief shows the owner's as his own, so that nobody sees a second epoch.
#[test]
fn a_copied_key_does_not_pass_for_the_process_whose_statement_it_shows() {
    let scene = Scene::start();
    let (mut owner, copy) = copied(&scene.coordinator);
    let mut line = Line::dial(&scene.coordinator);
    let thief = Hostile::with_key(&scene.coordinator, copy);
    let hello = Hello {
        statement: owner.statement(),
        proof: line.proof(&thief.key, &owner.ring.current().id()),
        epoch_proof: line.epoch_proof(thief.ring.current()),
        ..thief.hello(None, 8)
    };
    line.send(hello);
    assert_eq!(line.closed(), ["verification_failed"]);
    assert_eq!(verdict(&scene.coordinator, &owner), "eligible", "the owner's connection is not taken over");
    scene.serves(&mut owner);
}

/// A new identity joins by itself, and only then says that it took over from one that is distrusted, whose pins would count.
#[test]
fn a_join_token_does_not_shed_what_is_held_against_an_older_identity() {
    for (fails, restarts) in [(true, false), (true, true), (false, false)] {
        let mut scene = Scene::start();
        let mut older = scene.hostile();
        if fails {
            fail(&mut older);
        }
        if restarts {
            // Then the database alone knows it.
            assert!(scene.coordinator.process.stop().success());
            scene.coordinator.again();
        }
        let mut newer = scene.hostile();
        let word = Succession { old: older.key.public_point(), new: newer.key.public_point(), at: now() };
        let word = word.sign(&older.key).unwrap();
        let epoch = newer.ring.current();
        let mut statement = epoch.statement(newer.line.network(), newer.models.clone(), Vec::new(), "hostile");
        statement.successions = vec![word].into();
        let statement = statement.sign(&newer.key).unwrap();
        newer.line.send(EpochUpdate { statement });
        newer.present(Vec::new());
        let expected = if fails { "statement_failed" } else { "eligible" };
        assert_eq!(verdict(&scene.coordinator, &newer), expected);
        assert_eq!(held(&scene.coordinator, &newer).is_some(), fails, "it is written down");
        // And the older one is nobody any more.
        let mut older = Hostile::with_key(&scene.coordinator, older.key);
        let hello = older.hello(None, 8);
        older.line.send(hello);
        assert_eq!(older.line.closed(), ["identity_revoked"]);
    }
}

#[test]
fn a_process_that_takes_over_lets_the_older_one_finish_its_answer() {
    let scene = Scene::start();
    let (mut older, copy) = copied(&scene.coordinator);
    let mut newer = Hostile::with_key(&scene.coordinator, copy);
    let (answered, ()) = scene.exchange(&mut older, |older, offer| {
        let mut work = older.accept(&offer);
        let hello = newer.hello(None, 8);
        newer.line.send(hello);
        newer.present(Vec::new());
        older.answer(&mut work, 3, 2);
    });
    assert!(answered.is_whole(), "{answered:?}");
    assert_eq!(older.line.closed(), ["replaced"]);
    scene.serves(&mut newer);
    assert!(scene.spent() > 0, "both answers were settled");
}

#[test]
fn a_revoked_identity_stays_refused() {
    let mut scene = Scene::start();
    let mut hostile = scene.hostile();
    let id = hostile.id.to_string();
    let revoked = operator(&scene.coordinator, &["revoke", &id, "--note", "sold the machine"]);
    assert!(revoked.stdout.contains(&format!("{id} is refused for good")), "{revoked:?}");
    assert_eq!(hostile.line.closed(), ["identity_revoked"], "at once");
    let token = scene.coordinator.key("join", None);
    let refused = |coordinator: &Coordinator, hostile: Hostile| -> Hostile {
        let mut hostile = Hostile::with_key(coordinator, hostile.key);
        let hello = hostile.hello(Some(&token), 8);
        hostile.line.send(hello);
        assert_eq!(hostile.line.closed(), ["identity_revoked"]);
        hostile
    };
    hostile = refused(&scene.coordinator, hostile);
    let trusted = operator(&scene.coordinator, &["trust", &id]);
    trusted.failed_saying(&["a revocation is for good"]);
    assert!(scene.coordinator.process.stop().success());
    scene.coordinator.again();
    hostile = refused(&scene.coordinator, hostile);
    let listed = operator(&scene.coordinator, &["list"]);
    assert!(listed.stdout.contains(&format!("{id}  revoked (sold the machine)")), "{listed:?}");
    assert_eq!(verdict(&scene.coordinator, &hostile), "away");
}

#[test]
fn an_introduction_without_a_statement_has_its_own_refusal() {
    let scene = Scene::start();
    let mut line = Line::dial(&scene.coordinator);
    let hostile = Hostile::new(&scene.coordinator);
    line.send(Hello { statement: Vec::new(), ..hostile.hello(None, 8) });
    assert_eq!(line.closed(), ["statement_missing"]);
}
