use super::*;
use std::convert::Infallible;

/// A reproducible source of numbers (splitmix64); nothing here needs secrecy.
struct Numbers(u64);
impl rand_core::TryRng for Numbers {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out {
            *byte = self.try_next_u64()? as u8;
        }
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Numbers {}

const T0: UnixMillis = UnixMillis(1_000_000_000);
const MODEL: CatalogueDigest = CatalogueDigest([7; 32]);

fn provider(n: u8) -> ProviderId {
    ProviderId([n; 32])
}

fn registration(n: u8, rows: u32) -> Registration {
    Registration {
        provider: provider(n),
        connection: ConnectionId([n; 16]),
        tier: Tier::SelfSigned,
        statement: vec![n],
        epoch: EpochId([n; 16]),
        use_until: T0.after(Millis::from_minutes(60)),
        models: vec![ModelLoad { model: MODEL, rows_max: rows, rows_used: 0, waiting: 0 }],
    }
}

fn registry(rows: &[u32]) -> Registry {
    let mut registry = Registry::default();
    for (n, rows) in (1..).zip(rows) {
        registry.register(registration(n, *rows), T0, &mut Numbers(1));
    }
    registry
}

fn route(
    registry: &mut Registry,
    request: u8,
    recipients: &[u8],
    tried: &[u8],
    now: UnixMillis,
) -> Result<ProviderId, RouteError> {
    let recipients: Vec<_> = recipients.iter().map(|n| (provider(*n), EpochId([*n; 16]))).collect();
    let tried: Vec<_> = tried.iter().map(|n| provider(*n)).collect();
    let request = RouteRequest {
        request: RequestId([request; 16]),
        model: MODEL,
        tier_min: Tier::None,
        recipients: &recipients,
        tried: &tried,
    };
    registry.route(&request, now)
}

#[test]
fn work_goes_to_the_least_used_recipient() {
    let mut registry = registry(&[2, 4]);
    let chosen: Vec<_> = (0..6).map(|n| route(&mut registry, n, &[1, 2], &[], T0).unwrap().0[0]).collect();
    assert_eq!(chosen, [1, 2, 2, 1, 2, 2]);
    assert_eq!(route(&mut registry, 9, &[1, 2], &[], T0), Err(RouteError::Queued));
}

#[test]
fn only_recipients_get_a_request_and_nobody_twice() {
    let mut registry = registry(&[4, 4, 4]);
    assert_eq!(route(&mut registry, 1, &[2], &[], T0), Ok(provider(2)));
    assert_eq!(route(&mut registry, 1, &[2, 3], &[2], T0), Ok(provider(3)));
    assert_eq!(route(&mut registry, 1, &[2, 3], &[2, 3], T0), Err(RouteError::OthersCould));
    assert_eq!(route(&mut registry, 1, &[1, 2, 3], &[1, 2, 3], T0), Err(RouteError::Nobody));
}

#[test]
fn a_freed_row_wakes_the_first_in_the_queue() {
    let mut registry = registry(&[1]);
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok());
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Queued));
    assert_eq!(route(&mut registry, 3, &[1], &[], T0), Err(RouteError::Queued));
    assert!(registry.take_wakes().is_empty());
    registry.release(&provider(1), &ConnectionId([1; 16]), &MODEL, Some(false), T0);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
}

#[test]
fn a_newcomer_wakes_the_queue() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Queued));
    registry.register(registration(2, 1), T0, &mut Numbers(1));
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
}

#[test]
fn a_woken_request_that_leaves_passes_its_chance_on() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    for request in [2, 3] {
        assert_eq!(route(&mut registry, request, &[1], &[], T0), Err(RouteError::Queued));
    }
    registry.release(&provider(1), &ConnectionId([1; 16]), &MODEL, Some(false), T0);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    registry.leave_queue(&MODEL, &RequestId([2; 16]));
    assert_eq!(registry.take_wakes(), [RequestId([3; 16])]);
}

#[test]
fn the_end_of_a_provider_wakes_those_who_waited_for_it() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Queued));
    registry.disconnected(&ConnectionId([1; 16]));
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Nobody));
}

#[test]
fn a_boasted_number_of_rows_neither_overflows_nor_draws_all_work() {
    let mut registry = registry(&[u32::MAX, 1]);
    // The honest row is busy, so that a request waits and the rooms are summed.
    assert_eq!(route(&mut registry, 1, &[2], &[], T0), Ok(provider(2)));
    assert_eq!(route(&mut registry, 2, &[2], &[], T0), Err(RouteError::Queued));
    registry.release(&provider(2), &ConnectionId([2; 16]), &MODEL, Some(false), T0);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    let boasted = registry.candidates(&MODEL, T0, &mut Numbers(1))[0].rows_free;
    assert!(boasted <= 256, "{boasted} rows are believed");
}

#[test]
fn failures_of_a_provider_that_is_gone_count_when_it_comes_back() {
    let mut registry = registry(&[4]);
    let gone = ConnectionId([1; 16]);
    registry.disconnected(&gone);
    for _ in 0..times::FAULTS_MAX {
        registry.release(&provider(1), &gone, &MODEL, Some(true), T0);
    }
    registry.register(registration(1, 4), T0, &mut Numbers(1));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0), Some(Err(Ineligible::Failing)));
}

#[test]
fn the_queue_is_bounded() {
    let mut registry = registry(&[1]);
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    for _ in 0..crate::queue::WAITING_MAX {
        assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Queued));
    }
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::QueueFull));
}

#[test]
fn a_silent_provider_gets_nothing_until_it_is_heard() {
    let mut registry = registry(&[1]);
    let later = T0.after(times::SILENCE);
    assert_eq!(registry.verdict(&provider(1), Tier::None, later), Some(Err(Ineligible::Silent)));
    assert_eq!(route(&mut registry, 1, &[1], &[], later), Err(RouteError::Nobody));
    registry.heard(&ConnectionId([1; 16]), later);
    assert!(route(&mut registry, 1, &[1], &[], later).is_ok());
}

#[test]
fn a_missed_challenge_is_not_excused_by_heartbeats_or_a_second_challenge() {
    let mut registry = registry(&[1]);
    let connection = ConnectionId([1; 16]);
    let asked = T0.after(times::CHALLENGE_AFTER.1);
    registry.heard(&connection, asked);
    assert_eq!(registry.challenges_due(asked, &mut Numbers(2)).len(), 1);
    assert_eq!(registry.verdict(&provider(1), Tier::None, asked), Some(Ok(())));
    let missed = asked.after(times::CHALLENGE_ANSWER);
    registry.heard(&connection, missed);
    assert_eq!(registry.verdict(&provider(1), Tier::None, missed), Some(Err(Ineligible::ChallengeMissed)));
    let again = missed.after(times::CHALLENGE_AFTER.1);
    registry.heard(&connection, again);
    let due = registry.challenges_due(again, &mut Numbers(3));
    assert_eq!(registry.verdict(&provider(1), Tier::None, again), Some(Err(Ineligible::ChallengeMissed)));
    assert_eq!(registry.open_challenge(&connection), Some(due[0].1));
    registry.challenge_answered(&connection, again);
    assert_eq!(registry.verdict(&provider(1), Tier::None, again), Some(Ok(())));
}

#[test]
fn faults_pause_a_provider_and_follow_it_across_connections() {
    let mut registry = registry(&[1]);
    for _ in 0..times::FAULTS_MAX {
        registry.release(&provider(1), &ConnectionId([1; 16]), &MODEL, Some(true), T0);
    }
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0), Some(Err(Ineligible::Failing)));
    let mut again = registration(1, 1);
    again.connection = ConnectionId([99; 16]);
    assert_eq!(registry.register(again, T0, &mut Numbers(1)), Some(ConnectionId([1; 16])));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0), Some(Err(Ineligible::Failing)));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0.after(times::PAUSE)), Some(Ok(())));
}

#[test]
fn the_end_of_a_replaced_connection_changes_nothing() {
    let mut registry = registry(&[1]);
    let mut again = registration(1, 1);
    again.connection = ConnectionId([99; 16]);
    registry.register(again, T0, &mut Numbers(1));
    assert_eq!(registry.disconnected(&ConnectionId([1; 16])), None);
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok());
    assert_eq!(registry.disconnected(&ConnectionId([99; 16])), Some(provider(1)));
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Nobody));
}

#[test]
fn the_previous_epoch_opens_until_its_time_and_then_asks_for_another_sealing() {
    let mut registry = registry(&[4]);
    let until = T0.after(Millis(5_000));
    registry.next_epoch(&ConnectionId([1; 16]), vec![2], EpochId([50; 16]), T0.after(Millis::from_minutes(60)), until);
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok());
    assert_eq!(route(&mut registry, 1, &[1], &[], until), Err(RouteError::OthersCould));
}

#[test]
fn candidates_are_eligible_bounded_and_roomiest_first() {
    let mut registry = Registry::default();
    for n in 1..=40 {
        registry.register(registration(n, u32::from(n)), T0, &mut Numbers(1));
    }
    registry.heartbeat(&ConnectionId([40; 16]), registration(40, 40).models, true, T0);
    let list = registry.candidates(&MODEL, T0, &mut Numbers(5));
    assert_eq!(list.len(), limits::CANDIDATES_MAX);
    assert_eq!(list[0].provider, provider(39), "the draining one is left out");
    assert!(list.windows(2).all(|pair| pair[0].rows_free >= pair[1].rows_free));
}
