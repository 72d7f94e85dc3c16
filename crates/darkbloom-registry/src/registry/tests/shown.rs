//! What others are told: people of providers, clients of candidates, waiting requests of time.

use super::*;

const OTHER: CatalogueDigest = CatalogueDigest([8; 32]);

fn load(model: CatalogueDigest, rows_max: u32, waiting: u32, row_tokens: u32) -> ModelLoad {
    ModelLoad {
        model,
        rows_max,
        rows_used: 0,
        waiting,
        row_tokens: TokenCount(row_tokens),
        residence: Residence::Loaded,
        pace: None,
    }
}

#[test]
fn people_see_what_is_reserved_and_why_a_provider_gets_no_work() {
    let mut registry = registry(&[4, 2]);
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok() && route(&mut registry, 2, &[1], &[], T0).is_ok());
    registry.heartbeat(&ConnectionId([2; 16]), registration(2, 2).models, true, T0, WALL);
    let views = registry.views(Tier::None, T0, WALL);
    let seen: Vec<_> = views.iter().map(|view| (view.provider, view.eligible, view.models[0].rows_used)).collect();
    assert_eq!(seen, [(provider(1), Ok(()), 2), (provider(2), Err(Ineligible::Draining), 0)]);
    assert_eq!(views[0].tier, Tier::SelfSigned);
    let demanding = registry.views(Tier::Hardware, T0, WALL);
    assert_eq!(demanding[0].eligible, Err(Ineligible::TierTooLow));
    let exact = registry.views(Tier::SelfSigned, T0, WALL);
    assert_eq!(exact[0].eligible, Ok(()), "as much as is demanded is enough");
    let sentences: BTreeSet<_> = Ineligible::ALL.iter().map(|reason| reason.sentence()).collect();
    assert_eq!(sentences.len(), Ineligible::ALL.len());
    assert!(sentences.iter().all(|sentence| sentence.starts_with("the provider") || sentence.contains("provider")));
}

#[test]
fn a_connection_and_its_provider_find_each_other() {
    let mut registry = registry(&[1, 1]);
    let (first, second) = (ConnectionId([1; 16]), ConnectionId([2; 16]));
    assert_eq!(registry.on_connection(&second), Some(provider(2)));
    assert_eq!(registry.connection_of(&provider(2)), Some(second));
    assert_eq!(registry.statement(&second), Some([2, 2].into()));
    assert_eq!(registry.disconnected(&second, T0, WALL), Some(provider(2)));
    assert_eq!((registry.on_connection(&second), registry.connection_of(&provider(2))), (None, None));
    assert_eq!((registry.statement(&second), registry.statement(&first)), (None, Some([1, 1].into())));
}

#[test]
fn candidates_say_what_waits_and_what_a_row_holds_of_the_model_that_is_asked_for() {
    let mut registry = Registry::default();
    let mut hello = registration(1, 4);
    hello.stated.models.push(OTHER);
    hello.models = vec![load(MODEL, 4, 3, 100), load(OTHER, 2, 5, 200)];
    registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    let mut said = |model| {
        let found = registry.candidates(&model, T0, WALL, &mut Numbers(1));
        (found[0].rows_free, found[0].waiting, found[0].row_tokens.0)
    };
    assert_eq!((said(MODEL), said(OTHER)), ((4, 3, 100), (2, 5, 200)));
}

#[test]
fn who_is_refused_is_told_how_long_the_queue_is() {
    let mut registry = registry(&[1]);
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    let mut told = vec![(registry.queued(&MODEL), registry.retry_after(&MODEL))];
    for request in 1..=17 {
        assert_eq!(route(&mut registry, request, &[1], &[], T0), Err(RouteError::Queued));
        told.push((registry.queued(&MODEL), registry.retry_after(&MODEL)));
    }
    let expected: Vec<_> = (0..=17).map(|waiting| (waiting, Millis::from_secs(1 + waiting as u64 / 8))).collect();
    assert_eq!(told, expected);
    // Whoever leaves waits no more, and passes no chance on that it never had.
    registry.leave_queue(&MODEL, &RequestId([1; 16]), T0, WALL);
    registry.leave_queue(&MODEL, &RequestId([99; 16]), T0, WALL);
    assert_eq!(registry.queued(&MODEL), 16);
    assert_eq!(woken(&mut registry), []);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [2]);
}

#[test]
fn challenges_come_at_a_drawn_moment_between_two_and_six_minutes() {
    let (least, most) = times::CHALLENGE_AFTER;
    let mut moments = BTreeSet::new();
    for seed in 0..50 {
        let mut registry = Registry::default();
        registry.register(registration(1, 1), T0, WALL, &mut Numbers(seed)).unwrap();
        let mut rng = Numbers(seed);
        let mut due = |millis: u64| !registry.challenges_due(T0.after(Millis(millis)), &mut rng).is_empty();
        assert!(!due(least.0 - 1));
        let after = (least.0..=most.0).step_by(100).find(|millis| due(*millis)).expect("one is due by then");
        // The next one is counted from this one.
        assert!(!due(after + least.0 - 1) && due(after + most.0));
        moments.insert(after);
    }
    assert!(moments.len() > 30, "{moments:?}");
    assert!(moments.last() > moments.first().map(|first| first + 60_000).as_ref(), "{moments:?}");
}

#[test]
fn a_challenge_is_due_at_its_moment() {
    let mut registry = registry(&[1]);
    let at = (0..=360)
        .find(|millis| !registry.challenges_due(T0.after(Millis(*millis * 1_000)), &mut Numbers(1)).is_empty());
    let asked = T0.after(Millis(at.unwrap() * 1_000));
    let nonce = registry.open_challenges(&ConnectionId([1; 16]))[0];
    registry.heard(&ConnectionId([1; 16]), asked.after(times::CHALLENGE_ANSWER));
    let verdict = |registry: &Registry, now| registry.verdict(&provider(1), Tier::None, now, WALL);
    assert_eq!(verdict(&registry, MonoMillis(asked.after(times::CHALLENGE_ANSWER).0 - 1)), Some(Ok(())));
    let missed = asked.after(times::CHALLENGE_ANSWER);
    assert_eq!(verdict(&registry, missed), Some(Err(Ineligible::ChallengeMissed)));
    assert_ne!(nonce, [0; 32]);
}

#[test]
fn faults_are_remembered_of_who_is_gone_and_no_more_than_there_were() {
    let gone = ConnectionId([1; 16]);
    let after = |faults_before: u32, faults_gone: u32| {
        let mut registry = registry(&[4]);
        let fault = |registry: &mut Registry| registry.release(&row(1, gone), Outcome::Failed(Fault::Error), T0, WALL);
        (0..faults_before).for_each(|_| fault(&mut registry));
        registry.disconnected(&gone, T0, WALL);
        (0..faults_gone).for_each(|_| fault(&mut registry));
        registry.register(registration(1, 4), T0, WALL, &mut Numbers(1)).unwrap();
        let verdict = |registry: &Registry, now| registry.verdict(&provider(1), Tier::None, now, WALL).unwrap();
        let now = verdict(&registry, T0);
        registry.heard(&gone, T0.after(times::PAUSE));
        assert_eq!(verdict(&registry, T0.after(times::PAUSE)), Ok(()), "a pause ends");
        now
    };
    let mut away = Registry::default();
    let id = |n: usize| {
        let mut id = [9; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        ProviderId(id)
    };
    for n in 0..=times::AWAY_MAX {
        away.doubt(&id(n), T0);
        assert_eq!(away.standing(&id(n)), Some(Standing::Clean));
    }
    assert_eq!(away.standing(&id(0)), None, "where there is no room the one that went first is forgotten");
    assert!((1..=times::AWAY_MAX).all(|n| away.standing(&id(n)).is_some()), "and nobody else");
    let failing = Err(Ineligible::ModelFailing);
    assert_eq!([after(0, 2), after(2, 0), after(1, 1)], [Ok(()); 3]);
    assert_eq!([after(0, 3), after(3, 0), after(2, 1), after(1, 2), after(4, 0)], [failing; 5]);
}

#[test]
fn who_demands_just_what_a_provider_proves_is_woken_for_its_row() {
    let mut registry = full();
    for (request, tier_min) in [(1, Tier::Hardware), (2, Tier::SelfSigned)] {
        let request = RouteRequest {
            request: RequestId([request; 16]),
            model: MODEL,
            tier_min,
            recipients: &[(provider(1), EpochId([1; 16]))],
            ..ASKED
        };
        let expected = if tier_min == Tier::SelfSigned { RouteError::Queued } else { RouteError::Nobody };
        assert_eq!(registry.route(&request, T0, WALL), Err(expected));
    }
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [2]);
}

#[test]
fn the_end_of_a_provider_leaves_those_waiting_who_can_be_answered_elsewhere() {
    let mut registry = full();
    queue(&mut registry, 1, &[1, 2]);
    queue(&mut registry, 2, &[1]);
    queue(&mut registry, 3, &[2]);
    registry.disconnected(&ConnectionId([1; 16]), T0, WALL);
    assert_eq!(woken(&mut registry), [2], "nobody is left for this one alone");
    assert_eq!(registry.queued(&MODEL), 2);
}
