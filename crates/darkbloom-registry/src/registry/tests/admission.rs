//! Where a request goes by what is known of its recipients, and what a provider that fails has to expect.

use super::*;
use crate::Ineligible;

fn fails(registry: &mut Registry, n: u8, fault: Fault, now: MonoMillis) {
    registry.release(&row(n, ConnectionId([n; 16])), Outcome::Failed(fault), now, wall(now));
}

fn given(n: u8, request: u8) -> Row {
    Row { request: RequestId([request; 16]), ..row(n, ConnectionId([n; 16])) }
}

fn verdict(registry: &Registry, n: u8, now: MonoMillis) -> Result<(), Ineligible> {
    registry.verdict_for(&provider(n), &MODEL, Tier::None, now, wall(now)).unwrap()
}

#[test]
fn where_all_fail_nobody_is_asked_and_each_recovers_by_one_probe() {
    let mut registry = registry(&[4, 4]);
    for n in [1, 2] {
        (0..times::FAULTS_MAX).for_each(|_| fails(&mut registry, n, Fault::Error, T0));
    }
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], T0), Err(RouteError::Nobody), "a fleet that fails is not let in");
    assert_eq!(registry.counts(Tier::None).routable, 0);
    let over = T0.after(times::PAUSE);
    registry.tick(over, wall(over));
    assert_eq!(registry.counts(Tier::None).routable, 2);
    let first = route(&mut registry, 2, &[1, 2], &[], over).unwrap();
    let second = route(&mut registry, 3, &[1, 2], &[], over).unwrap();
    assert_ne!(first, second, "one request tries each");
    assert_eq!(verdict(&registry, 1, over), Err(Ineligible::Probing));
    assert_eq!(route(&mut registry, 4, &[1, 2], &[], over), Err(RouteError::Queued), "waiting for them is of use");
    let served = Row { provider: first, connection: ConnectionId([first.0[0]; 16]), ..given(1, 2) };
    registry.release(&served, Outcome::Served(None), over, wall(over));
    assert_eq!(woken(&mut registry), [4], "in the same event");
    assert_eq!(route(&mut registry, 4, &[1, 2], &[], over), Ok(first));
}

#[test]
fn a_probe_that_fails_waits_twice_as_long_and_those_who_waited_for_it_are_told() {
    let mut registry = registry(&[4]);
    (0..times::FAULTS_MAX).for_each(|_| fails(&mut registry, 1, Fault::Silence, T0));
    let over = T0.after(times::PAUSE);
    registry.heard(&ConnectionId([1; 16]), over);
    assert_eq!(route(&mut registry, 1, &[1], &[], over), Ok(provider(1)));
    assert_eq!(route(&mut registry, 2, &[1], &[], over), Err(RouteError::Queued));
    registry.release(&given(1, 1), Outcome::Failed(Fault::Lie), over, wall(over));
    assert_eq!(woken(&mut registry), [2]);
    assert_eq!(route(&mut registry, 2, &[1], &[], over), Err(RouteError::Nobody));
    let twice = over.after(Millis(2 * times::PAUSE.0));
    registry.heard(&ConnectionId([1; 16]), twice);
    assert!(verdict(&registry, 1, MonoMillis(twice.0 - 1)).is_err());
    assert_eq!(verdict(&registry, 1, twice), Ok(()));
}

#[test]
fn a_probe_that_is_cancelled_lets_the_next_one_try() {
    let mut registry = registry(&[4]);
    (0..times::FAULTS_MAX).for_each(|_| fails(&mut registry, 1, Fault::Error, T0));
    let over = T0.after(times::PAUSE);
    registry.heard(&ConnectionId([1; 16]), over);
    assert_eq!(route(&mut registry, 1, &[1], &[], over), Ok(provider(1)));
    for request in [2, 3] {
        assert_eq!(route(&mut registry, request, &[1], &[], over), Err(RouteError::Queued));
    }
    registry.release(&given(1, 1), Outcome::Unused, over, wall(over));
    assert_eq!(woken(&mut registry), [2], "one, though four rows are free");
}

#[test]
fn only_what_a_provider_did_counts_and_a_broken_connection_once() {
    let mut registry = registry(&[8]);
    let connection = ConnectionId([1; 16]);
    for outcome in [Outcome::Unused, Outcome::Declined, Outcome::Failed(Fault::Broken)] {
        for _ in 0..8 {
            registry.release(&row(1, connection), outcome, T0, WALL);
        }
        assert_eq!(verdict(&registry, 1, T0), Ok(()), "{outcome:?}");
    }
    for fault in Fault::ALL {
        let mut registry = super::registry(&[8]);
        for n in 0..times::FAULTS_MAX {
            let on = if fault == Fault::Broken { ConnectionId([100 + n as u8; 16]) } else { connection };
            registry.release(&row(1, on), Outcome::Failed(fault), T0, WALL);
        }
        assert_eq!(verdict(&registry, 1, T0), Err(Ineligible::ModelFailing), "{fault:?}");
    }
}

#[test]
fn a_provider_that_fails_with_one_model_serves_the_others_until_it_fails_with_all() {
    const OTHER: CatalogueDigest = CatalogueDigest([8; 32]);
    let mut registry = Registry::default();
    let mut hello = registration(1, 4);
    hello.stated.models.push(OTHER);
    hello.models.push(ModelLoad { model: OTHER, ..hello.models[0].clone() });
    registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    (0..times::FAULTS_MAX).for_each(|_| fails(&mut registry, 1, Fault::Error, T0));
    let of = |registry: &Registry, model| registry.verdict_for(&provider(1), &model, Tier::None, T0, WALL).unwrap();
    assert_eq!((of(&registry, MODEL), of(&registry, OTHER)), (Err(Ineligible::ModelFailing), Ok(())));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, WALL), Some(Ok(())));
    assert!(registry.candidates(&MODEL, T0, WALL, &mut Numbers(1)).is_empty());
    for _ in times::FAULTS_MAX..times::FAULTS_IN_ALL_MAX {
        registry.release(&Row { model: OTHER, ..given(1, 9) }, Outcome::Failed(Fault::Error), T0, WALL);
    }
    assert_eq!(of(&registry, OTHER), Err(Ineligible::Failing));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, WALL), Some(Err(Ineligible::Failing)));
}

#[test]
fn work_goes_where_the_answer_is_expected_first() {
    let mut registry = Registry::default();
    for (n, decode_us) in [(1, 60_000), (2, 30_000)] {
        let mut hello = registration(n, 4);
        hello.models[0].pace = Some(darkbloom_wire::ModelPace { prefill_us: 5_000, decode_us });
        registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    }
    let chosen: Vec<_> = (0..6).map(|n| route(&mut registry, n, &[1, 2], &[], T0).unwrap().0[0]).collect();
    assert_eq!(chosen, [2, 2, 2, 1, 2, 1], "the fourth there is as slow as the first at the slower one");
    let warm = Machine { memory_permille: 300, thermal: 3 };
    let mut registry = super::registry(&[4, 4]);
    registry.machine(&ConnectionId([1; 16]), warm);
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], T0), Ok(provider(2)), "the first is too warm");
}

#[test]
fn a_provider_that_declines_is_asked_after_others_for_a_while() {
    let mut registry = registry(&[4, 4]);
    for _ in 0..8 {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Declined, T0, WALL);
    }
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], T0), Ok(provider(2)));
    for _ in 0..40 {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Served(None), T0, WALL);
    }
    registry.release(&row(2, ConnectionId([2; 16])), Outcome::Unused, T0, WALL);
    assert_eq!(route(&mut registry, 2, &[1, 2], &[], T0), Ok(provider(1)), "it is forgotten");
}

#[test]
fn what_was_seen_counts_more_than_what_is_said() {
    let mut registry = registry(&[4, 4]);
    let seen = |stream| {
        let (input, output) = (TokenCount(100), TokenCount(101));
        Outcome::Served(Some(crate::Seen {
            round_trip: Millis(1),
            first_content: Millis(500),
            stream: Millis(stream),
            input,
            output,
        }))
    };
    for _ in 0..20 {
        registry.release(&row(1, ConnectionId([1; 16])), seen(20_000), T0, WALL);
        registry.release(&row(2, ConnectionId([2; 16])), seen(1_000), T0, WALL);
    }
    let mut boast = registration(1, 4).models;
    boast[0].pace = Some(darkbloom_wire::ModelPace { prefill_us: 1, decode_us: 1 });
    registry.heartbeat(&ConnectionId([1; 16]), boast, false, T0, WALL);
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], T0), Ok(provider(2)));
}

#[test]
fn a_conversation_goes_on_where_it_was_and_only_within_its_account() {
    let mut registry = registry(&[8, 8]);
    let recipients = [1, 2].map(|n| (provider(n), EpochId([n; 16])));
    let turn = |registry: &mut Registry, account: i64, request: u8, recipients: &[(ProviderId, EpochId)]| {
        let (account, request) = (AccountId(account), RequestId([request; 16]));
        let asked = RouteRequest { request, account, affinity: [7; 16], recipients, input: TokenCount(4_000), ..ASKED };
        let chosen = registry.route(&asked, T0, WALL).unwrap();
        registry.release(&given(chosen.0[0], request.0[0]), Outcome::Served(None), T0, WALL);
        chosen
    };
    assert_eq!(turn(&mut registry, 1, 1, &recipients[1..]), provider(2));
    assert_eq!(turn(&mut registry, 1, 2, &recipients), provider(2), "though the first is first among equals");
    assert_eq!(turn(&mut registry, 2, 3, &recipients), provider(1), "another account's tag is another's");
    for request in 100..106 {
        assert_eq!(route(&mut registry, request, &[2], &[], T0), Ok(provider(2)));
    }
    assert_eq!(turn(&mut registry, 1, 4, &recipients), provider(1), "a prefix is not worth waiting behind six");
}

#[test]
fn the_queue_refuses_who_would_wait_too_long_and_says_when_to_come_back() {
    let mut registry = registry(&[1]);
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    for request in 1..=40 {
        queue(&mut registry, request, &[1]);
    }
    let mut now = T0;
    for _ in 0..10 {
        now = now.after(Millis::from_secs(2));
        release(&mut registry, 1, now);
        let next = woken(&mut registry)[0];
        assert_eq!(route(&mut registry, next, &[1], &[], now), Ok(provider(1)));
    }
    assert_eq!(route(&mut registry, 90, &[1], &[], now), Err(RouteError::WaitTooLong));
    assert_eq!(registry.retry_after(&MODEL), Millis::from_secs(60), "thirty, of two seconds each");
    let account = AccountId(1);
    assert_eq!(registry.refused(account, &MODEL, now), Millis::from_secs(60));
    let early: Vec<_> = (0..6).map(|_| registry.may_ask(account, &MODEL, now).is_ok()).collect();
    assert_eq!(early, [true, true, true, true, false, false]);
    assert_eq!(registry.may_ask(AccountId(2), &MODEL, now), Ok(()));
}

#[test]
fn demand_has_a_model_loaded_by_the_idle_once_it_lasts_and_by_few_at_a_time() {
    let mut registry = Registry::default();
    for n in 1..=60 {
        let mut hello = registration(n, 1);
        if n > 1 {
            hello.models[0].residence = Residence::Stored;
        }
        registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    }
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    let (mut now, mut request, mut asked) = (T0, 1, Vec::new());
    for _ in 0..12 {
        for _ in 0..preload::SHORT_MIN {
            assert_eq!(route(&mut registry, request, &[1], &[], now), Err(RouteError::Queued));
            registry.leave_queue(&MODEL, &RequestId([request; 16]), now, wall(now));
            request += 1;
        }
        now = now.after(times::DEMAND);
        (1..=60).for_each(|n| registry.heard(&ConnectionId([n; 16]), now));
        registry.tick(now, wall(now));
        asked.push(registry.take_loads().len());
    }
    assert_eq!(asked[..3], [0, 2, 2], "a burst passes by itself");
    assert_eq!(asked.iter().sum::<usize>(), preload::IN_FLIGHT_MAX, "no more at once in the whole fleet");
}

#[test]
fn what_was_loaded_stays_a_while_and_who_works_is_left_alone() {
    const OTHER: CatalogueDigest = CatalogueDigest([8; 32]);
    let mut registry = Registry::default();
    registry.register(registration(1, 1), T0, WALL, &mut Numbers(1)).unwrap();
    let mut hello = registration(2, 1);
    hello.stated.models.push(OTHER);
    hello.models.push(ModelLoad { model: OTHER, ..hello.models[0].clone() });
    hello.models[0].residence = Residence::Stored;
    registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    // It has loaded the other a moment ago.
    registry.load_reported(&ConnectionId([2; 16]), &OTHER, LoadOutcome::Succeeded, T0, WALL);
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    let (mut now, mut asked_at) = (T0, None);
    let dwelt = T0.after(times::DWELL);
    while asked_at.is_none() && now < dwelt.after(times::DEMAND).after(times::DEMAND) {
        for request in 1..=preload::SHORT_MIN as u8 {
            assert_eq!(route(&mut registry, request, &[1], &[], now), Err(RouteError::Queued));
            registry.leave_queue(&MODEL, &RequestId([request; 16]), now, wall(now));
        }
        now = now.after(times::DEMAND);
        [1, 2].iter().for_each(|n| registry.heard(&ConnectionId([*n; 16]), now));
        registry.tick(now, wall(now));
        asked_at = (!registry.take_loads().is_empty()).then_some(now);
    }
    assert!(asked_at.is_some_and(|at| at >= dwelt), "{asked_at:?}");
}

#[test]
fn whatever_makes_a_provider_eligible_wakes_in_the_same_event() {
    let conn = ConnectionId([1; 16]);
    // The policy is relaxed.
    let mut registry = full();
    registry.reassess(&conn, &[1, 1], Tier::SelfSigned, (vec![Gate::Version], Vec::new()), T0, WALL);
    queue(&mut registry, 1, &[1, 2]);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), []);
    registry.reassess(&conn, &[1, 1], Tier::SelfSigned, (Vec::new(), Vec::new()), T0, WALL);
    assert_eq!(woken(&mut registry), [1]);
    // It takes work again.
    let mut registry = full();
    registry.heartbeat(&conn, registration(1, 1).models, true, T0, WALL);
    queue(&mut registry, 1, &[1, 2]);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), []);
    registry.heartbeat(&conn, registration(1, 1).models, false, T0, WALL);
    assert_eq!(woken(&mut registry), [1]);
}
