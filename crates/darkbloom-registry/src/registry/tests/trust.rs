//! What is held against identities: by failed checks, by the operator, by a second process with the same key.

use super::*;

const CONNECTION: ConnectionId = ConnectionId([1; 16]);

fn verdict(registry: &Registry, now: MonoMillis) -> Result<(), Ineligible> {
    registry.verdict(&provider(1), Tier::None, now, wall(now)).expect("it is connected")
}

/// The first provider on another connection, in this epoch.
fn again(registry: &mut Registry, connection: u8, epoch: u8, now: MonoMillis) -> Registered {
    introduce(registry, connection, epoch, now).expect("it is the latest")
}

fn introduce(registry: &mut Registry, connection: u8, epoch: u8, now: MonoMillis) -> Result<Registered, NotRegistered> {
    let until = UnixMillis(i64::MAX);
    let stated = Stated { use_until: until, open_until: until, ..stated(1, epoch) };
    let (number, connection) = (u64::from(connection), ConnectionId([connection; 16]));
    let registration = Registration { connection, number, stated, ..registration(1, 1) };
    registry.register(registration, now, wall(now), &mut Numbers(1))
}

fn distrust(registry: &Registry) -> Option<Distrust> {
    registry.standing(&provider(1)).and_then(Standing::distrust).map(|failed| failed.reason)
}

fn distrusted(registry: &mut Registry) -> Standing {
    let failed = registry.failed_check(&CONNECTION, Distrust::ChallengeFailed, T0, WALL);
    assert_eq!(failed, Some(provider(1)), "it is counted");
    registry.standing(&provider(1)).unwrap()
}

#[test]
fn a_provider_that_failed_a_check_gets_no_work_and_nothing_that_it_does_revives_it() {
    let mut registry = registry(&[1]);
    assert_eq!(verdict(&registry, T0), Ok(()));
    let held = distrusted(&mut registry);
    let untrusted = Err(Ineligible::Untrusted(Distrust::ChallengeFailed));
    assert_eq!(verdict(&registry, T0), untrusted);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Nobody));
    assert!(registry.candidates(&MODEL, T0, WALL, &mut Numbers(1)).is_empty());
    let models = registration(1, 1).models;
    registry.heartbeat(&CONNECTION, models, false, T0, WALL);
    assert_eq!(verdict(&registry, T0), untrusted, "a heartbeat");
    registry.next_epoch(&CONNECTION, stated(1, 40), T0, WALL).unwrap();
    assert_eq!(verdict(&registry, T0), untrusted, "a new epoch");
    registry.disconnected(&CONNECTION, T0, WALL);
    assert!(again(&mut registry, 2, 41, T0).standing_changed, "the database does not know it yet");
    assert_eq!(verdict(&registry, T0), untrusted, "another connection");
    assert_eq!(registry.views(Tier::None, T0, WALL)[0].standing, held, "and nothing counts it twice");
}

#[test]
fn it_recovers_by_a_challenge_that_it_answers_after_its_time() {
    let mut registry = registry(&[1]);
    let held = distrusted(&mut registry).distrust().unwrap();
    let challenged = |registry: &mut Registry, now: MonoMillis| {
        registry.heard(&CONNECTION, now);
        registry.challenges_due(now, &mut Numbers(2));
        answer(registry, &CONNECTION, now)
    };
    assert_eq!(challenged(&mut registry, T0.after(times::CHALLENGE_AFTER.1)), None, "its time is not over");
    let over = T0.after(times::CHALLENGE_AFTER.1).after(times::CHALLENGE_AFTER.1);
    assert!(wall(over) >= held.until);
    registry.heard(&CONNECTION, over);
    assert!(verdict(&registry, over).is_err(), "time alone does not revive it");
    assert_eq!(challenged(&mut registry, over), Some(Standing::Recovered(held)));
    assert_eq!(verdict(&registry, over), Ok(()));
}

#[test]
fn a_row_of_a_provider_that_recovers_wakes_who_waits_for_it() {
    let mut registry = full();
    queue(&mut registry, 1, &[1, 2]);
    distrusted(&mut registry);
    assert_eq!(woken(&mut registry), [], "the other can still take it");
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [], "its free row is nobody's");
    registry.set_standing(&provider(1), Standing::Clean, T0, WALL);
    assert_eq!(woken(&mut registry), [1]);
}

#[test]
fn whoever_waits_for_a_provider_that_is_distrusted_alone_learns_it() {
    let mut registry = full();
    queue(&mut registry, 1, &[1]);
    distrusted(&mut registry);
    assert_eq!(woken(&mut registry), [1]);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::OthersCould));
}

#[test]
fn what_was_known_before_this_process_began_counts() {
    let mut registry = Registry::default();
    let held = Standing::Clean.failed(Distrust::StatementFailed, WALL).unwrap();
    registry.register(Registration { standing: held, ..registration(1, 1) }, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(verdict(&registry, T0), Err(Ineligible::Untrusted(Distrust::StatementFailed)));
}

#[test]
fn the_operator_s_word_reaches_who_is_away() {
    let mut registry = registry(&[1]);
    distrusted(&mut registry);
    registry.disconnected(&CONNECTION, T0, WALL);
    assert_eq!(registry.set_standing(&provider(1), Standing::Clean, T0, WALL), None);
    again(&mut registry, 2, 1, T0);
    assert_eq!(verdict(&registry, T0), Ok(()));
    assert_eq!(registry.set_standing(&provider(1), Standing::Revoked, T0, WALL), Some(ConnectionId([2; 16])));
}

#[test]
fn a_process_that_connects_again_is_no_second_one() {
    let mut registry = registry(&[1]);
    let given_up = again(&mut registry, 2, 1, T0).replaced;
    assert_eq!(given_up, Some(Replaced { connection: CONNECTION, given_up: true }));
    registry.next_epoch(&ConnectionId([2; 16]), stated(1, 50), T0, WALL).unwrap();
    again(&mut registry, 3, 50, T0);
    registry.next_epoch(&ConnectionId([3; 16]), stated(1, 50), T0, WALL).unwrap();
    registry.disconnected(&ConnectionId([3; 16]), T0, WALL);
    assert_eq!(again(&mut registry, 4, 51, T0), Registered::default(), "it began an epoch while it was away");
    again(&mut registry, 5, 51, T0);
    assert_eq!(distrust(&registry), None);
    // It starts again, with a new epoch, as often as it likes.
    for n in 60..80 {
        let replaced = again(&mut registry, n, n, T0);
        assert_eq!(distrust(&registry), None);
        assert_eq!(replaced.replaced.map(|old| old.given_up), Some(false), "another process may finish its work");
    }
}

#[test]
fn an_epoch_that_comes_back_after_another_shows_a_copied_key() {
    for disconnects in [false, true] {
        let mut registry = registry(&[1]);
        let leave = |registry: &mut Registry, connection: u8| {
            if disconnects {
                registry.disconnected(&ConnectionId([connection; 16]), T0, WALL);
            }
        };
        again(&mut registry, 2, 1, T0);
        leave(&mut registry, 2);
        again(&mut registry, 3, 70, T0);
        assert_eq!(distrust(&registry), None, "so far it may have been started again");
        leave(&mut registry, 3);
        assert!(again(&mut registry, 4, 1, T0).standing_changed);
        assert_eq!(verdict(&registry, T0), Err(Ineligible::Untrusted(Distrust::KeyShared)));
        let held = registry.standing(&provider(1));
        leave(&mut registry, 4);
        again(&mut registry, 5, 70, T0);
        assert_eq!(registry.standing(&provider(1)), held, "it is not counted twice");
    }
}

#[test]
fn epochs_that_a_process_went_on_to_count_as_well() {
    let mut registry = registry(&[1]);
    again(&mut registry, 2, 1, T0);
    let long = |epoch| Stated { use_until: UnixMillis(i64::MAX), open_until: UnixMillis(i64::MAX), ..stated(1, epoch) };
    assert_eq!(registry.next_epoch(&ConnectionId([2; 16]), long(50), T0, WALL), Ok(None));
    again(&mut registry, 3, 70, T0);
    again(&mut registry, 4, 50, T0);
    assert_eq!(distrust(&registry), Some(Distrust::KeyShared), "the owner comes back in the epoch that he went on to");
    // A thief who goes on to the owner's epoch, which everybody can read.
    let mut registry = self::registry(&[1]);
    again(&mut registry, 2, 1, T0);
    again(&mut registry, 3, 70, T0);
    assert_eq!(registry.next_epoch(&ConnectionId([3; 16]), long(1), T0, WALL), Ok(Some(provider(1))));
    assert_eq!(distrust(&registry), Some(Distrust::KeyShared));
}

#[test]
fn many_epochs_hide_none() {
    let mut registry = registry(&[1]);
    again(&mut registry, 2, 1, T0);
    let full = 2 + times::INTRODUCED_MAX as u8;
    for n in 3..=full {
        let outcome = introduce(&mut registry, n, n, T0);
        assert_eq!(outcome.is_err(), n == full, "{n}: {outcome:?}");
    }
    assert_eq!(introduce(&mut registry, 100, 100, T0), Err(NotRegistered::TooManyEpochs));
    let long = Stated { open_until: UnixMillis(i64::MAX), ..stated(1, 101) };
    let latest = registry.connection_of(&provider(1)).unwrap();
    assert_eq!(registry.next_epoch(&latest, long, T0, WALL), Err(NotRegistered::TooManyEpochs));
    assert_eq!(distrust(&registry), Some(Distrust::TooManyEpochs), "who has filled the list gets no work either");
    again(&mut registry, 200, 1, T0);
    assert_eq!(distrust(&registry), Some(Distrust::KeyShared), "one that was known before is known still");
}

#[test]
fn epochs_that_open_no_more_make_room() {
    let mut registry = registry(&[1]);
    for n in 0..200u8 {
        let now = T0.after(Millis::from_minutes(2 * u64::from(n)));
        let stated = Stated { open_until: wall(now).after(Millis::from_minutes(70)), ..stated(1, n) };
        let registration = Registration { number: u64::from(n), stated, ..registration(1, 1) };
        registry.register(registration, now, wall(now), &mut Numbers(1)).unwrap();
    }
}

#[test]
fn an_introduction_that_was_held_up_on_its_way_changes_nothing() {
    let mut registry = registry(&[1]);
    again(&mut registry, 2, 1, T0);
    again(&mut registry, 4, 2, T0);
    assert_eq!(introduce(&mut registry, 3, 1, T0), Err(NotRegistered::Overtaken));
    assert_eq!((distrust(&registry), registry.connection_of(&provider(1))), (None, Some(ConnectionId([4; 16]))));
    registry.disconnected(&ConnectionId([4; 16]), T0, WALL);
    assert_eq!(introduce(&mut registry, 3, 1, T0), Err(NotRegistered::Overtaken), "nor when the later one is gone");
    assert_eq!(distrust(&registry), None);
}

#[test]
fn a_copied_key_is_said_of_whoever_is_distrusted_for_something_else() {
    let mut registry = registry(&[1]);
    again(&mut registry, 2, 1, T0);
    registry.failed_check(&ConnectionId([2; 16]), Distrust::StatementFailed, T0, WALL);
    again(&mut registry, 3, 70, T0);
    again(&mut registry, 4, 1, T0);
    assert_eq!(distrust(&registry), Some(Distrust::KeyShared));
}

#[test]
fn four_challenges_wait_for_an_answer_and_each_may_still_be_answered() {
    let mut registry = registry(&[1]);
    let mut sent = Vec::new();
    let mut now = T0;
    for n in 0..9 {
        now = now.after(times::CHALLENGE_AFTER.1);
        sent.extend(registry.challenges_due(now, &mut Numbers(n)).into_iter().map(|(_, nonce)| nonce));
    }
    assert_eq!(sent.len(), 9, "it is asked again for ever");
    let again = sent.split_off(times::CHALLENGES_OPEN_MAX);
    assert!(again.iter().all(|nonce| nonce == &sent[3]), "with the last one that is open");
    assert_eq!(registry.open_challenges(&CONNECTION), sent);
    registry.challenge_answered(&CONNECTION, &sent[2], now, wall(now));
    assert_eq!(registry.open_challenges(&CONNECTION), sent[3..], "those before it are over");
    registry.challenge_answered(&CONNECTION, &[0; 32], now, wall(now));
    assert_eq!(registry.open_challenges(&CONNECTION), sent[3..]);
    registry.challenge_answered(&CONNECTION, &sent[3], now, wall(now));
    assert!(registry.open_challenges(&CONNECTION).is_empty());
    for _ in 0..again.len() {
        assert_eq!(registry.known_challenges(&CONNECTION), sent[3..], "it may be answered as often as it was sent");
        registry.challenge_answered(&CONNECTION, &sent[3], now, wall(now));
    }
    assert!(registry.known_challenges(&CONNECTION).is_empty());
}

#[test]
fn a_policy_that_changes_wakes_and_bars_who_waits() {
    let mut registry = full();
    queue(&mut registry, 1, &[1]);
    let reassess = |registry: &mut Registry, epoch: u8, shut: &[Gate]| {
        registry.reassess(&CONNECTION, &[1, epoch], Tier::Hardware, (shut.to_vec(), vec![Gate::Version]), T0, WALL);
    };
    reassess(&mut registry, 9, &[Gate::Tier]);
    assert_eq!(verdict(&registry, T0), Ok(()), "it was about another statement");
    reassess(&mut registry, 1, &[Gate::Tier, Gate::Claims]);
    assert_eq!(verdict(&registry, T0), Err(Ineligible::Policy(Gate::Tier)));
    assert_eq!(woken(&mut registry), [1], "nobody is left who could take it");
    let view = &registry.views(Tier::None, T0, WALL)[0];
    assert_eq!((view.tier, &view.shadow[..]), (Tier::Hardware, &[Gate::Version][..]));
    release(&mut registry, 1, T0);
    queue(&mut registry, 2, &[1, 2]);
    reassess(&mut registry, 1, &[]);
    assert_eq!(woken(&mut registry), [2], "its free row may be used again");
}

#[test]
fn an_heir_that_is_here_has_what_was_held_against_the_older_one() {
    let mut registry = registry(&[1, 1]);
    let held = distrusted(&mut registry);
    assert_eq!(registry.succeeded(&provider(1), &provider(2), Standing::Clean, T0, WALL), Some(CONNECTION));
    assert_eq!(registry.standing(&provider(2)), Some(held));
    assert_eq!(verdict(&registry, T0), Err(Ineligible::Revoked), "the older one gets no more work");
    registry.succeeded(&provider(1), &provider(2), held, T0, WALL);
    assert_eq!(registry.standing(&provider(2)), Some(held), "its heir does not become what it is");
    // What the database alone knows of the older one.
    let mut registry = self::registry(&[1]);
    assert_eq!(registry.succeeded(&provider(9), &provider(1), held, T0, WALL), None);
    assert_eq!(verdict(&registry, T0), Err(Ineligible::Untrusted(Distrust::ChallengeFailed)));
    assert_eq!(registry.succeeded(&provider(9), &provider(8), held, T0, WALL), None);
    assert_eq!(registry.standing(&provider(8)), Some(held), "and of an heir who is to come");
}
