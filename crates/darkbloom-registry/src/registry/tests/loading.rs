//! Models that are loaded when somebody asks.

use super::*;

/// Providers with four rows each of a model that lies on their disks.
fn stored(providers: &[u8]) -> Registry {
    let mut registry = Registry::default();
    for n in providers {
        registry.register(registration(*n, 4), T0, WALL, &mut Numbers(1)).unwrap();
        says(&mut registry, *n, Residence::Stored, T0);
    }
    registry
}

fn connection(n: u8) -> ConnectionId {
    ConnectionId([n; 16])
}

/// A heartbeat.
fn says(registry: &mut Registry, n: u8, residence: Residence, now: MonoMillis) {
    let models = registration(n, 4).models.into_iter().map(|load| ModelLoad { residence, ..load }).collect();
    registry.heartbeat(&connection(n), models, false, now, wall(now));
}

fn reports(registry: &mut Registry, n: u8, outcome: LoadOutcome, now: MonoMillis) {
    registry.load_reported(&connection(n), &MODEL, outcome, now, wall(now));
}

#[test]
fn a_request_for_a_stored_model_waits_for_it_and_has_it_loaded_once() {
    let mut registry = stored(&[1]);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Loading));
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Loading));
    assert_eq!(registry.take_loads(), [(connection(1), MODEL)]);
    reports(&mut registry, 1, LoadOutcome::Started, T0);
    says(&mut registry, 1, Residence::Loading, T0);
    registry.tick(T0, WALL);
    assert!(woken(&mut registry).is_empty() && registry.take_loads().is_empty());
    reports(&mut registry, 1, LoadOutcome::Succeeded, T0);
    assert_eq!(woken(&mut registry), [1, 2]);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Ok(provider(1)));
}

#[test]
fn whoever_has_it_in_memory_comes_first() {
    let mut registry = stored(&[1, 2]);
    says(&mut registry, 2, Residence::Loaded, T0);
    for request in 0..4 {
        assert_eq!(route(&mut registry, request, &[1, 2], &[], T0), Ok(provider(2)));
    }
    assert!(registry.take_loads().is_empty(), "nobody has to load it while there is room");
    assert_eq!(route(&mut registry, 4, &[1, 2], &[], T0), Err(RouteError::Loading));
    assert_eq!(registry.take_loads(), [(connection(1), MODEL)]);
    let candidates = registry.candidates(&MODEL, T0, WALL, &mut Numbers(1));
    let named: Vec<_> = candidates.iter().map(|candidate| (candidate.provider, candidate.rows_free)).collect();
    assert_eq!(named, [(provider(2), 0), (provider(1), 0)]);
}

#[test]
fn one_that_loads_already_is_waited_for_before_another_is_asked() {
    let mut registry = stored(&[1, 2]);
    assert_eq!(route(&mut registry, 1, &[2], &[], T0), Err(RouteError::Loading));
    assert_eq!(route(&mut registry, 2, &[1, 2], &[], T0), Err(RouteError::Loading));
    assert_eq!(registry.take_loads(), [(connection(2), MODEL)]);
}

#[test]
fn a_load_that_fails_sends_its_requests_on_and_is_not_asked_for_again_at_once() {
    for outcome in [LoadOutcome::TooLarge, LoadOutcome::Busy, LoadOutcome::Unusable, LoadOutcome::Declined] {
        let mut registry = stored(&[1, 2]);
        assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Loading));
        registry.take_loads();
        reports(&mut registry, 1, outcome, T0);
        assert_eq!(woken(&mut registry), [1]);
        assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::OthersCould));
        assert_eq!(route(&mut registry, 1, &[1, 2], &[2], T0), Err(RouteError::NoMemory));
        assert_eq!(route(&mut registry, 2, &[1, 2], &[], T0), Err(RouteError::Loading));
        assert_eq!(registry.take_loads(), [(connection(2), MODEL)]);
        let named = registry.candidates(&MODEL, T0, WALL, &mut Numbers(1));
        assert_eq!(named.iter().map(|candidate| candidate.provider).collect::<Vec<_>>(), [provider(2)]);
        let later = T0.after(times::LOAD_PAUSE);
        assert_eq!(route(&mut registry, 3, &[1], &[], later), Err(RouteError::Loading));
        assert_eq!(registry.take_loads(), [(connection(1), MODEL)]);
    }
}

#[test]
fn a_load_that_never_ends_counts_as_a_failure() {
    for (begins, faults) in [(true, 1), (false, 0)] {
        let mut registry = stored(&[1]);
        assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Loading));
        let begun = T0.after(Millis(times::LOAD.0 - 1));
        reports(&mut registry, 1, LoadOutcome::Waiting, T0);
        if begins {
            reports(&mut registry, 1, LoadOutcome::Started, begun);
        }
        let late = if begins { begun.after(times::LOAD) } else { T0.after(times::LOAD) };
        let before = MonoMillis(late.0 - 1);
        says(&mut registry, 1, Residence::Loading, before);
        registry.tick(before, wall(before));
        assert!(woken(&mut registry).is_empty(), "it may take so long from when it begins");
        registry.tick(late, wall(late));
        assert_eq!(woken(&mut registry), [1]);
        assert_eq!(route(&mut registry, 1, &[1], &[], late), Err(RouteError::NoMemory));
        assert_eq!(
            registry.providers[&provider(1)].record.health.failures(),
            faults,
            "waiting for others is nobody's fault"
        );
    }
}

#[test]
fn a_provider_that_leaves_while_it_loads_has_failed() {
    for reconnects in [true, false] {
        let mut registry = stored(&[1]);
        assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Loading));
        reports(&mut registry, 1, LoadOutcome::Started, T0);
        if reconnects {
            registry.register(registration(1, 4), T0, WALL, &mut Numbers(1)).unwrap();
        } else {
            registry.disconnected(&connection(1), T0, WALL);
            registry.register(registration(1, 4), T0, WALL, &mut Numbers(1)).unwrap();
        }
        assert_eq!(registry.providers[&provider(1)].record.health.failures(), 1);
    }
}

#[test]
fn a_model_that_is_dropped_while_somebody_waits_is_asked_for_again() {
    let mut registry = stored(&[1]);
    says(&mut registry, 1, Residence::Loaded, T0);
    for request in 0..4 {
        assert!(route(&mut registry, request, &[1], &[], T0).is_ok());
    }
    assert_eq!(route(&mut registry, 9, &[1], &[], T0), Err(RouteError::Queued));
    says(&mut registry, 1, Residence::Stored, T0);
    registry.tick(T0, WALL);
    assert_eq!(woken(&mut registry), [9]);
    assert_eq!(route(&mut registry, 9, &[1], &[], T0), Err(RouteError::Loading));
    assert_eq!(registry.take_loads(), [(connection(1), MODEL)]);
}

#[test]
fn the_end_of_a_provider_that_loads_wakes_those_who_waited_for_it() {
    let mut registry = stored(&[1]);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Loading));
    registry.disconnected(&connection(1), T0, WALL);
    assert_eq!(woken(&mut registry), [1]);
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Nobody));
}

#[test]
fn models_that_a_provider_does_not_serve_cannot_be_reported_into_being() {
    let mut registry = stored(&[1]);
    let other = CatalogueDigest([9; 32]);
    for outcome in [LoadOutcome::Succeeded, LoadOutcome::Busy] {
        registry.load_reported(&connection(1), &other, outcome, T0, WALL);
    }
    let provider = &registry.providers[&provider(1)];
    assert!(provider.rows_max(&other).is_none() && provider.unloadable.is_empty());
}
