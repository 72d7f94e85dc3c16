//! Who gets a request, who waits and is woken, and what takes a provider out of the choice.

use super::*;
use crate::health::{Fault, Outcome};
use darkbloom_wire::{LoadOutcome, Residence, limits};

mod admission;
mod loading;
mod reference;
mod shown;
mod trust;

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

const T0: MonoMillis = MonoMillis(1_000_000_000);
/// The wall clock at `T0`.
const WALL: UnixMillis = UnixMillis(1_700_000_000_000);
const MODEL: CatalogueDigest = CatalogueDigest([7; 32]);

/// A request for a usual answer, of an account.
const ASKED: RouteRequest<'static> = RouteRequest {
    request: RequestId([0; 16]),
    model: MODEL,
    tier_min: Tier::None,
    recipients: &[],
    tried: &[],
    account: AccountId(1),
    affinity: [0; 16],
    input: TokenCount(100),
    output: TokenCount(256),
};

/// A row of one provider.
fn row(n: u8, connection: ConnectionId) -> Row {
    Row { provider: provider(n), connection, model: MODEL, request: RequestId([0; 16]) }
}

fn provider(n: u8) -> ProviderId {
    ProviderId([n; 32])
}

fn registration(n: u8, rows: u32) -> Registration {
    Registration {
        provider: provider(n),
        connection: ConnectionId([n; 16]),
        stated: stated(n, n),
        models: vec![ModelLoad {
            model: MODEL,
            rows_max: rows,
            rows_used: 0,
            waiting: 0,
            row_tokens: TokenCount(64),
            residence: Residence::Loaded,
            pace: None,
        }],
        number: 0,
        standing: Standing::Clean,
        hardware: None,
    }
}

fn stated(provider: u8, epoch: u8) -> Stated {
    Stated {
        statement: vec![provider, epoch].into(),
        epoch: EpochId([epoch; 16]),
        tier: Tier::SelfSigned,
        shut: Vec::new(),
        shadow: Vec::new(),
        use_until: WALL.after(Millis::from_minutes(60)),
        open_until: WALL.after(Millis::from_minutes(70)),
        models: vec![MODEL],
        known_at: WALL,
    }
}

/// The wall clock when the monotonic one shows `now` and neither jumped.
fn wall(now: MonoMillis) -> UnixMillis {
    WALL.after(now.since(T0))
}

fn registry(rows: &[u32]) -> Registry {
    let mut registry = Registry::default();
    for (n, rows) in (1..).zip(rows) {
        registry.register(registration(n, *rows), T0, WALL, &mut Numbers(1)).unwrap();
    }
    registry
}

fn route(
    registry: &mut Registry,
    request: u8,
    recipients: &[u8],
    tried: &[u8],
    now: MonoMillis,
) -> Result<ProviderId, RouteError> {
    let recipients: Vec<_> = recipients.iter().map(|n| (provider(*n), EpochId([*n; 16]))).collect();
    let tried: Vec<_> = tried.iter().map(|n| provider(*n)).collect();
    let (request, affinity) = (RequestId([request; 16]), [request; 16]);
    let request = RouteRequest { request, affinity, recipients: &recipients, tried: &tried, ..ASKED };
    registry.route(&request, now, wall(now))
}

/// A provider's row is free again, after a success.
fn release(registry: &mut Registry, n: u8, now: MonoMillis) {
    registry.release(&row(n, ConnectionId([n; 16])), Outcome::Served(None), now, wall(now));
}

/// The latest open challenge of a connection is answered.
fn answer(registry: &mut Registry, connection: &ConnectionId, now: MonoMillis) -> Option<Standing> {
    let nonce = *registry.open_challenges(connection).last().expect("one is open");
    registry.challenge_answered(connection, &nonce, now, wall(now)).and_then(|id| registry.standing(&id))
}

/// Who was woken since the last question.
fn woken(registry: &mut Registry) -> Vec<u8> {
    registry.take_wakes().iter().map(|request| request.0[0]).collect()
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
    registry.release(&row(1, ConnectionId([1; 16])), Outcome::Served(None), T0, WALL);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
}

#[test]
fn a_newcomer_wakes_the_queue() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Queued));
    assert_eq!(route(&mut registry, 3, &[1, 2], &[], T0), Err(RouteError::Queued));
    registry.register(registration(2, 1), T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(registry.take_wakes(), [RequestId([3; 16])], "and nobody who is not sealed to it");
}

#[test]
fn a_woken_request_that_leaves_passes_its_chance_on() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    for request in [2, 3] {
        assert_eq!(route(&mut registry, request, &[1], &[], T0), Err(RouteError::Queued));
    }
    registry.release(&row(1, ConnectionId([1; 16])), Outcome::Served(None), T0, WALL);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    registry.leave_queue(&MODEL, &RequestId([2; 16]), T0, WALL);
    assert_eq!(registry.take_wakes(), [RequestId([3; 16])]);
}

#[test]
fn the_end_of_a_provider_wakes_those_who_waited_for_it() {
    let mut registry = registry(&[1]);
    route(&mut registry, 1, &[1], &[], T0).unwrap();
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Queued));
    registry.disconnected(&ConnectionId([1; 16]), T0, WALL);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    assert_eq!(route(&mut registry, 2, &[1], &[], T0), Err(RouteError::Nobody));
}

/// Two providers with one row each, both in use.
fn full() -> Registry {
    let mut registry = registry(&[1, 1]);
    for n in [1, 2] {
        assert_eq!(route(&mut registry, 100 + n, &[n], &[], T0), Ok(provider(n)));
    }
    registry
}

fn queue(registry: &mut Registry, request: u8, recipients: &[u8]) {
    assert_eq!(route(registry, request, recipients, &[], T0), Err(RouteError::Queued), "request {request}");
}

#[test]
fn a_free_row_wakes_the_first_who_can_use_it_and_the_others_keep_their_places() {
    let mut registry = full();
    for (request, recipients) in [(1, &[1][..]), (2, &[2]), (3, &[1, 2]), (4, &[1])] {
        queue(&mut registry, request, recipients);
    }
    release(&mut registry, 2, T0);
    assert_eq!(woken(&mut registry), [2], "the first is not sealed to it");
    assert_eq!(route(&mut registry, 2, &[2], &[], T0), Ok(provider(2)));
    for next in [1, 3, 4] {
        release(&mut registry, 1, T0);
        assert_eq!(woken(&mut registry), [next]);
        assert_eq!(route(&mut registry, next, &[1], &[], T0), Ok(provider(1)));
    }
    assert_eq!(registry.queued(&MODEL), 0);
}

#[test]
fn a_free_row_wakes_nobody_who_was_tried_there_or_demands_more() {
    let mut registry = full();
    assert_eq!(route(&mut registry, 1, &[1, 2], &[1], T0), Err(RouteError::Queued));
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), []);
    assert_eq!(route(&mut registry, 101, &[1], &[], T0), Ok(provider(1)));
    let mut proven = registration(2, 1);
    (proven.stated.tier, proven.connection) = (Tier::Hardware, ConnectionId([22; 16]));
    registry.register(proven, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(woken(&mut registry), [1]);
    assert_eq!(route(&mut registry, 1, &[1, 2], &[1], T0), Ok(provider(2)));
    let recipients = [1, 2].map(|n| (provider(n), EpochId([n; 16])));
    let demanding = RouteRequest {
        request: RequestId([3; 16]),
        model: MODEL,
        tier_min: Tier::Hardware,
        recipients: &recipients,
        ..ASKED
    };
    assert_eq!(registry.route(&demanding, T0, WALL), Err(RouteError::Queued));
    queue(&mut registry, 4, &[1]);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [4]);
}

#[test]
fn a_free_row_wakes_nobody_whose_epoch_is_forgotten() {
    let mut registry = full();
    queue(&mut registry, 1, &[1, 2]);
    let mut restarted = registration(1, 1);
    (restarted.connection, restarted.stated) = (ConnectionId([99; 16]), stated(1, 60));
    registry.register(restarted, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(woken(&mut registry), [], "the new process has a row and not the key");
    release(&mut registry, 2, T0);
    assert_eq!(woken(&mut registry), [1]);
}

#[test]
fn no_more_are_woken_than_rows_are_free() {
    let mut registry = full();
    for request in 1..=5 {
        queue(&mut registry, request, &[1, 2]);
    }
    registry.heartbeat(&ConnectionId([1; 16]), registration(1, 3).models, false, T0, WALL);
    assert_eq!(woken(&mut registry), [1, 2], "of three rows one is in use");
    for request in [1, 2] {
        assert_eq!(route(&mut registry, request, &[1, 2], &[], T0), Ok(provider(1)));
    }
    assert_eq!(woken(&mut registry), [], "all used their chance");
}

#[test]
fn a_request_that_finds_no_room_after_all_keeps_its_place() {
    let mut registry = full();
    for request in 1..=3 {
        queue(&mut registry, request, &[1]);
    }
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [1]);
    assert_eq!(route(&mut registry, 50, &[1], &[], T0), Ok(provider(1)), "somebody else was faster");
    queue(&mut registry, 1, &[1]);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [1]);
}

#[test]
fn a_chance_that_is_used_elsewhere_is_passed_on() {
    let mut registry = full();
    for (request, recipients) in [(1, &[1, 2][..]), (2, &[2]), (3, &[1])] {
        queue(&mut registry, request, recipients);
    }
    release(&mut registry, 1, T0);
    registry.heartbeat(&ConnectionId([2; 16]), registration(2, 4).models, false, T0, WALL);
    assert_eq!(woken(&mut registry), [1, 2]);
    assert_eq!(route(&mut registry, 1, &[2], &[], T0), Ok(provider(2)));
    assert_eq!(woken(&mut registry), [3], "the row that the first was woken for is still free");
}

#[test]
fn the_end_of_a_pause_wakes_who_can_use_its_rows() {
    let mut registry = full();
    for _ in 0..times::FAULTS_MAX {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Failed(Fault::Error), T0, WALL);
    }
    queue(&mut registry, 1, &[2]);
    queue(&mut registry, 2, &[1, 2]);
    queue(&mut registry, 3, &[1, 2]);
    let over = T0.after(times::PAUSE);
    registry.tick(MonoMillis(over.0 - 1), wall(over));
    assert_eq!(woken(&mut registry), []);
    registry.tick(over, wall(over));
    assert_eq!(woken(&mut registry), [2], "there is one row");
}

#[test]
fn a_success_that_ends_a_pause_opens_all_idle_rows() {
    let mut registry = registry(&[4, 1]);
    for (request, n) in [(101, 1), (102, 1), (103, 1), (104, 1), (105, 2)] {
        assert_eq!(route(&mut registry, request, &[n], &[], T0), Ok(provider(n)));
    }
    for _ in 0..times::FAULTS_MAX {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Failed(Fault::Error), T0, WALL);
    }
    for request in 1..=5 {
        queue(&mut registry, request, &[1, 2]);
    }
    assert_eq!(woken(&mut registry), []);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [1, 2, 3, 4]);
}

#[test]
fn whoever_is_heard_again_or_answers_its_challenge_wakes_the_queue() {
    let mut registry = registry(&[1, 1]);
    let (first, second) = (ConnectionId([1; 16]), ConnectionId([2; 16]));
    let asked = T0.after(times::CHALLENGE_AFTER.1);
    registry.heard(&second, asked);
    registry.challenges_due(asked, &mut Numbers(1));
    let missed = asked.after(times::CHALLENGE_ANSWER);
    registry.heard(&second, missed);
    answer(&mut registry, &second, missed);
    assert_eq!(route(&mut registry, 100, &[2], &[], missed), Ok(provider(2)));
    for request in [1, 2] {
        assert_eq!(route(&mut registry, request, &[1, 2], &[], missed), Err(RouteError::Queued));
    }
    registry.tick(missed, wall(missed));
    assert_eq!(woken(&mut registry), [], "the first is silent and has missed its challenge");
    answer(&mut registry, &first, missed);
    assert_eq!(woken(&mut registry), [1]);
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], missed), Ok(provider(1)));
    let silent = missed.after(times::SILENCE);
    registry.heard(&second, silent);
    registry.release(&row(1, first), Outcome::Unused, silent, wall(silent));
    assert_eq!(woken(&mut registry), [], "it is silent again");
    registry.heard(&first, silent);
    registry.tick(silent, wall(silent));
    assert_eq!(woken(&mut registry), [2]);
}

#[test]
fn whoever_waits_for_nobody_any_more_is_told_and_asks_for_another_sealing() {
    let mut registry = full();
    queue(&mut registry, 1, &[1]);
    queue(&mut registry, 2, &[1, 2]);
    let over = T0.after(Millis::from_minutes(70));
    for n in [1, 2] {
        registry.heard(&ConnectionId([n; 16]), over);
    }
    let later = Stated { use_until: WALL.after(Millis::from_minutes(150)), ..stated(2, 2) };
    registry.next_epoch(&ConnectionId([2; 16]), later, over, wall(over)).unwrap();
    registry.tick(over, wall(over));
    assert_eq!(woken(&mut registry), [1], "the first provider's epoch is over; the other one's is not");
    assert_eq!(route(&mut registry, 1, &[1], &[], over), Err(RouteError::OthersCould));
    registry.heartbeat(&ConnectionId([2; 16]), registration(2, 1).models, true, over, wall(over));
    registry.tick(over, wall(over));
    assert_eq!(woken(&mut registry), [2]);
    assert_eq!(route(&mut registry, 2, &[1, 2], &[], over), Err(RouteError::Nobody));
}

#[test]
fn a_chance_that_nobody_takes_is_given_to_the_next_within_a_second() {
    let mut registry = full();
    queue(&mut registry, 1, &[1]);
    queue(&mut registry, 2, &[1]);
    release(&mut registry, 1, T0);
    assert_eq!(woken(&mut registry), [1]);
    registry.tick(T0, WALL);
    assert_eq!(woken(&mut registry), [2], "the first may be held up by its consumer");
}

#[test]
fn a_boasted_number_of_rows_neither_overflows_nor_draws_all_work() {
    let mut registry = registry(&[u32::MAX, 1]);
    // The honest row is busy, so that a request waits and the rooms are summed.
    assert_eq!(route(&mut registry, 1, &[2], &[], T0), Ok(provider(2)));
    assert_eq!(route(&mut registry, 2, &[2], &[], T0), Err(RouteError::Queued));
    registry.release(&row(2, ConnectionId([2; 16])), Outcome::Served(None), T0, WALL);
    assert_eq!(registry.take_wakes(), [RequestId([2; 16])]);
    let boasted = registry.candidates(&MODEL, T0, WALL, &mut Numbers(1))[0].rows_free;
    assert!(boasted <= 256, "{boasted} rows are believed");
}

#[test]
fn failures_of_a_provider_that_is_gone_count_when_it_comes_back() {
    let mut registry = registry(&[4]);
    let gone = ConnectionId([1; 16]);
    registry.disconnected(&gone, T0, WALL);
    for _ in 0..times::FAULTS_MAX {
        registry.release(&row(1, gone), Outcome::Failed(Fault::Error), T0, WALL);
    }
    registry.register(registration(1, 4), T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, wall(T0)), Some(Err(Ineligible::ModelFailing)));
}

#[test]
fn the_queue_is_bounded() {
    let mut registry = registry(&[1]);
    route(&mut registry, 0, &[1], &[], T0).unwrap();
    let more = |registry: &mut Registry, request| route(registry, request, &[1], &[], T0);
    for n in 0..crate::queue::WAITING_MAX {
        assert_eq!(more(&mut registry, n as u8), Err(RouteError::Queued));
    }
    assert_eq!(more(&mut registry, 0), Err(RouteError::QueueFull));
    release(&mut registry, 1, T0);
    let woken = registry.take_wakes()[0].0[0];
    assert_eq!(more(&mut registry, 77), Ok(provider(1)), "room is room");
    assert_eq!(more(&mut registry, 78), Err(RouteError::QueueFull), "the place of whoever was woken is kept");
    assert_eq!(more(&mut registry, woken), Err(RouteError::Queued));
}

#[test]
fn a_silent_provider_gets_nothing_until_it_is_heard() {
    let mut registry = registry(&[1]);
    let later = T0.after(times::SILENCE);
    assert_eq!(registry.verdict(&provider(1), Tier::None, later, wall(later)), Some(Err(Ineligible::Silent)));
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
    assert_eq!(registry.verdict(&provider(1), Tier::None, asked, wall(asked)), Some(Ok(())));
    let missed = asked.after(times::CHALLENGE_ANSWER);
    registry.heard(&connection, missed);
    assert_eq!(
        registry.verdict(&provider(1), Tier::None, missed, wall(missed)),
        Some(Err(Ineligible::ChallengeMissed))
    );
    let again = missed.after(times::CHALLENGE_AFTER.1);
    registry.heard(&connection, again);
    let due = registry.challenges_due(again, &mut Numbers(3));
    assert_eq!(registry.verdict(&provider(1), Tier::None, again, wall(again)), Some(Err(Ineligible::ChallengeMissed)));
    let open = registry.open_challenges(&connection);
    assert_eq!((open.len(), open.last()), (2, Some(&due[0].1)));
    registry.challenge_answered(&connection, &open[0], again, wall(again));
    assert_eq!(registry.open_challenges(&connection), open[1..], "the second is still to be answered");
    registry.challenge_answered(&connection, &open[1], again, wall(again));
    assert_eq!(registry.verdict(&provider(1), Tier::None, again, wall(again)), Some(Ok(())));
}

#[test]
fn faults_pause_a_provider_and_follow_it_across_connections() {
    let mut registry = registry(&[1]);
    for _ in 0..times::FAULTS_MAX {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Failed(Fault::Error), T0, WALL);
    }
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, wall(T0)), Some(Err(Ineligible::ModelFailing)));
    let mut again = registration(1, 1);
    again.connection = ConnectionId([99; 16]);
    let replaced = registry.register(again, T0, WALL, &mut Numbers(1)).unwrap().replaced;
    assert_eq!(replaced, Some(Replaced { connection: ConnectionId([1; 16]), given_up: true }));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, wall(T0)), Some(Err(Ineligible::ModelFailing)));
    assert_eq!(
        registry.verdict(&provider(1), Tier::None, T0.after(times::PAUSE), wall(T0.after(times::PAUSE))),
        Some(Ok(()))
    );
}

#[test]
fn the_end_of_a_replaced_connection_changes_nothing() {
    let mut registry = registry(&[1]);
    let mut again = registration(1, 1);
    again.connection = ConnectionId([99; 16]);
    registry.register(again, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(registry.disconnected(&ConnectionId([1; 16]), T0, WALL), None);
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok());
    assert_eq!(registry.disconnected(&ConnectionId([99; 16]), T0, WALL), Some(provider(1)));
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::Nobody));
}

/// A registry whose one provider went from epoch 1 to epoch 50; the old one opens until the time that is returned.
fn rotated() -> (Registry, MonoMillis) {
    let mut registry = registry(&[4]);
    let next = Stated {
        use_until: WALL.after(Millis::from_minutes(110)),
        open_until: WALL.after(Millis::from_minutes(120)),
        ..stated(1, 50)
    };
    registry.next_epoch(&ConnectionId([1; 16]), next, T0, WALL).unwrap();
    (registry, T0.after(Millis::from_minutes(70)))
}

#[test]
fn the_previous_epoch_opens_until_its_own_statements_end_and_then_asks_for_another_sealing() {
    let (mut registry, until) = rotated();
    registry.heard(&ConnectionId([1; 16]), until);
    assert!(route(&mut registry, 1, &[1], &[], MonoMillis(until.0 - 1)).is_ok());
    assert_eq!(route(&mut registry, 1, &[1], &[], until), Err(RouteError::OthersCould));
}

#[test]
fn a_statement_sent_twice_is_not_its_own_predecessor() {
    let (mut registry, _) = rotated();
    registry.next_epoch(&ConnectionId([1; 16]), stated(1, 50), T0, WALL).unwrap();
    assert!(route(&mut registry, 1, &[1], &[], T0).is_ok(), "the epoch before is still the first");
}

#[test]
fn a_restarted_provider_opens_nothing_of_before() {
    let (mut registry, _) = rotated();
    let mut restarted = registration(1, 4);
    restarted.connection = ConnectionId([2; 16]);
    restarted.stated = stated(1, 60);
    registry.register(restarted, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Err(RouteError::OthersCould));
}

#[test]
fn a_provider_that_only_reconnects_still_opens_the_epoch_before() {
    let (mut registry, _) = rotated();
    let mut back = registration(1, 4);
    back.connection = ConnectionId([2; 16]);
    back.stated = stated(1, 50);
    registry.register(back, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(route(&mut registry, 1, &[1], &[], T0), Ok(provider(1)));
}

#[test]
fn epochs_begin_four_at_once_and_then_one_in_five_minutes() {
    let mut registry = registry(&[1]);
    let connection = ConnectionId([1; 16]);
    for _ in 0..times::EPOCH_BURST {
        assert!(registry.epoch_turn(&connection, T0));
    }
    assert!(!registry.epoch_turn(&connection, T0));
    let next = T0.after(times::EPOCH_EVERY);
    assert!(!registry.epoch_turn(&connection, MonoMillis(next.0 - 1)));
    assert!(registry.epoch_turn(&connection, next));
    assert!(!registry.epoch_turn(&connection, next));
    assert!(!registry.epoch_turn(&ConnectionId([9; 16]), T0), "an unknown connection begins none");
}

#[test]
fn models_that_the_statement_does_not_name_are_ignored() {
    const OTHER: CatalogueDigest = CatalogueDigest([8; 32]);
    let load = |model| ModelLoad {
        model,
        rows_max: 4,
        rows_used: 0,
        waiting: 0,
        row_tokens: TokenCount(64),
        residence: Residence::Loaded,
        pace: None,
    };
    let connection = ConnectionId([1; 16]);
    let candidates = |registry: &mut Registry, model| registry.candidates(&model, T0, WALL, &mut Numbers(1)).len();
    let mut registry = Registry::default();
    let mut hello = registration(1, 4);
    hello.models.push(load(OTHER));
    registry.register(hello, T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!((candidates(&mut registry, MODEL), candidates(&mut registry, OTHER)), (1, 0));
    assert_eq!(registry.heartbeat(&connection, vec![load(MODEL), load(OTHER)], false, T0, WALL), 1);
    assert_eq!((candidates(&mut registry, MODEL), candidates(&mut registry, OTHER)), (1, 0));
    registry.next_epoch(&connection, Stated { models: vec![OTHER], ..stated(1, 50) }, T0, WALL).unwrap();
    assert_eq!(
        (candidates(&mut registry, MODEL), candidates(&mut registry, OTHER)),
        (0, 0),
        "what is no longer named is gone"
    );
    assert_eq!(registry.heartbeat(&connection, vec![load(MODEL), load(OTHER)], false, T0, WALL), 1);
    assert_eq!((candidates(&mut registry, MODEL), candidates(&mut registry, OTHER)), (0, 1));
}

#[test]
fn a_candidate_tells_when_its_statement_could_be_known() {
    let mut registry = registry(&[4]);
    let later = WALL.after(Millis(1));
    registry.next_epoch(&ConnectionId([1; 16]), Stated { known_at: later, ..stated(1, 50) }, T0, WALL).unwrap();
    let found = registry.candidates(&MODEL, T0, later, &mut Numbers(1));
    assert_eq!((found[0].epoch, found[0].known_at, &*found[0].statement), (EpochId([50; 16]), later, &[1, 50][..]));
}

#[test]
fn a_jump_of_the_wall_clock_silences_and_excuses_nobody() {
    let mut registry = registry(&[1]);
    let forward = WALL.after(Millis::from_minutes(50));
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, forward), Some(Ok(())), "not silent, not challenged");
    let silent = T0.after(times::SILENCE);
    let back = UnixMillis(WALL.0 - 3_600_000);
    assert_eq!(registry.verdict(&provider(1), Tier::None, silent, back), Some(Err(Ineligible::Silent)));
    for _ in 0..times::FAULTS_MAX {
        registry.release(&row(1, ConnectionId([1; 16])), Outcome::Failed(Fault::Error), T0, WALL);
    }
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, forward), Some(Err(Ineligible::ModelFailing)));
    assert_eq!(
        registry.verdict(&provider(1), Tier::None, T0.after(Millis(1)), forward.after(Millis::from_minutes(60))),
        Some(Err(Ineligible::EpochOver)),
        "an epoch ends by the wall clock, as it is signed"
    );
}

#[test]
fn candidates_are_eligible_bounded_and_drawn_and_the_roomiest_of_them_first() {
    let mut registry = Registry::default();
    for n in 1..=40 {
        registry.register(registration(n, u32::from(n)), T0, WALL, &mut Numbers(1)).unwrap();
    }
    registry.heartbeat(&ConnectionId([40; 16]), registration(40, 40).models, true, T0, WALL);
    let mut named = BTreeSet::new();
    for seed in 0..50 {
        let list = registry.candidates(&MODEL, T0, WALL, &mut Numbers(seed));
        assert_eq!(list.len(), limits::CANDIDATES_MAX);
        let free: Vec<_> = list.iter().map(|one| one.rows_free.min(16)).collect();
        assert!(free.is_sorted_by(|one, next| one >= next), "more than sixteen free rows make nobody better");
        let different: BTreeSet<_> = list.iter().map(|one| one.provider).collect();
        assert_eq!(different.len(), list.len());
        named.extend(different);
    }
    assert_eq!(named.len(), 39, "all are drawn at times, and the draining one is left out");
}

#[test]
fn others_are_preferred_to_a_provider_that_called_a_request_wrong() {
    let mut registry = registry(&[8, 1]);
    let first = |registry: &mut Registry, now| registry.candidates(&MODEL, now, wall(now), &mut Numbers(1))[0].provider;
    assert_eq!(first(&mut registry, T0), provider(1), "it has most room");
    registry.doubt(&provider(1), T0);
    assert_eq!(first(&mut registry, T0), provider(2));
    assert_eq!(route(&mut registry, 1, &[1, 2], &[], T0), Ok(provider(2)), "though the other is first among equals");
    assert_eq!(route(&mut registry, 2, &[1, 2], &[], T0), Ok(provider(1)), "where others have no room it serves");
    assert_eq!(registry.verdict(&provider(1), Tier::None, T0, WALL), Some(Ok(())), "it stays eligible");
    assert_eq!(first(&mut registry, T0.after(times::DOUBT)), provider(1));
    registry.disconnected(&ConnectionId([1; 16]), T0, WALL);
    registry.register(registration(1, 8), T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(first(&mut registry, T0), provider(2), "reconnecting cleans nobody");
    registry.disconnected(&ConnectionId([1; 16]), T0.after(times::DOUBT), WALL);
    registry.doubt(&provider(1), T0);
    registry.register(registration(1, 8), T0, WALL, &mut Numbers(1)).unwrap();
    assert_eq!(first(&mut registry, T0), provider(2), "nor does being away");
}
