//! The queue for room, a line for each model. Accounts take turns, so that who sends much delays itself; within an account
//! it is first come, first served, among those who can use the room. Bounded, each line and all together.

use std::collections::{BTreeMap, HashMap};

use darkbloom_types::{AccountId, CatalogueDigest, EpochId, Millis, MonoMillis, ProviderId, RequestId, Tier};

use crate::storms;

/// Requests that may wait for one model: at one second each, what eight rows work off within the longest wait.
pub const WAITING_MAX: usize = 256;
/// Requests that may wait in all: sixteen models with full lines. Each takes half a kilobyte here and a task elsewhere.
pub const WAITING_IN_ALL_MAX: usize = 4_096;
/// How long a request may wait for room: its relay gives up then. Whoever would wait longer is told so at once.
pub const WAIT: Millis = Millis::from_secs(20);
/// Lines shorter than this turn nobody away: what is expected of a few requests is no more than a guess.
const SHEDS_FROM: usize = 8;
/// A measured time between two free rows counts so much against what was known before.
const DRAIN_WEIGHT: u64 = 8;

/// A request that waits, and for whom: room elsewhere is no room for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub request: RequestId,
    pub account: AccountId,
    pub tier_min: Tier,
    /// Recipients that were not tried: at most as many as a sealing has.
    pub recipients: Vec<(ProviderId, EpochId)>,
}

impl Waiting {
    /// Whether it was sealed to this provider, and to which epoch.
    pub fn epoch_at(&self, provider: &ProviderId) -> Option<&EpochId> {
        self.recipients.iter().find(|(id, _)| id == provider).map(|(_, epoch)| epoch)
    }
}

/// A place in a line: the round in which the account has its turn, and the order of first arrival.
type Place = (u64, u64);

/// What a request that was woken had and got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Woken {
    /// Its place, which it keeps when there is no room after all.
    place: Place,
    /// Whose free row it was woken for; none when it was to learn that nobody can take it.
    pub row_at: Option<ProviderId>,
}

/// What becomes of one that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// It keeps its place.
    Stay,
    /// It is woken, for a free row or to learn that nobody can take it.
    Wake(Option<ProviderId>),
    /// It keeps its place, and nobody behind it needs to be looked at.
    Enough,
}

/// Those who wait for one model.
#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Place, Waiting>,
    places: HashMap<RequestId, Place>,
    /// Woken and not heard of again. They hold their places, so that there are never more than [`WAITING_MAX`] of both.
    woken: HashMap<RequestId, Woken>,
    /// The round of whoever was woken last.
    round: u64,
    /// The round of the last request of each account.
    last: HashMap<AccountId, u64>,
    /// Since when somebody waits and no row became free.
    since: MonoMillis,
}

impl Line {
    fn len(&self) -> usize {
        self.waiting.len() + self.woken.len()
    }

    /// The next turn of an account: one that has none waiting has it in this round.
    fn turn(&mut self, account: AccountId) -> u64 {
        let next = self.last.get(&account).map_or(self.round, |last| (last + 1).max(self.round));
        if self.last.len() >= 2 * WAITING_MAX {
            let round = self.round;
            self.last.retain(|_, last| *last >= round);
        }
        self.last.insert(account, next);
        next
    }
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: HashMap<CatalogueDigest, Line>,
    /// Those who wait or were woken, in all lines.
    in_all: usize,
    next_place: u64,
    /// Milliseconds between two rows that became free while somebody waited, times [`DRAIN_WEIGHT`].
    drains: HashMap<CatalogueDigest, u64>,
}

impl Queue {
    /// Puts a request at its account's next turn, or back to its place; false when there is no room to wait in.
    #[must_use]
    pub fn push(&mut self, model: CatalogueDigest, waiting: Waiting, before: Option<Woken>, now: MonoMillis) -> bool {
        let line = self.lines.entry(model).or_default();
        if line.len() >= WAITING_MAX || self.in_all >= WAITING_IN_ALL_MAX {
            self.tidy(&model);
            return false;
        }
        if line.waiting.is_empty() {
            line.since = now;
        }
        let place = match before {
            Some(woken) => {
                // Its line may have been empty since, and forgotten: the round goes on where it was.
                if line.len() == 0 {
                    line.round = woken.place.0;
                }
                let last = line.last.entry(waiting.account).or_default();
                *last = (*last).max(woken.place.0);
                woken.place
            }
            None => (line.turn(waiting.account), self.next_place),
        };
        self.next_place += 1;
        line.places.insert(waiting.request, place);
        line.waiting.insert(place, waiting);
        self.in_all += 1;
        true
    }

    /// Takes a request out, if it waits.
    pub fn remove(&mut self, model: &CatalogueDigest, request: &RequestId) {
        let Some(line) = self.lines.get_mut(model) else { return };
        if let Some(place) = line.places.remove(request) {
            self.in_all -= usize::from(line.waiting.remove(&place).is_some());
            self.tidy(model);
        }
    }

    /// Takes a request out that was woken: it routes, or is over.
    pub fn take_woken(&mut self, model: &CatalogueDigest, request: &RequestId) -> Option<Woken> {
        let woken = self.lines.get_mut(model)?.woken.remove(request)?;
        self.in_all -= 1;
        self.tidy(model);
        Some(woken)
    }

    /// Asks of each in order what becomes of it, and returns who is woken.
    pub fn wake(&mut self, model: &CatalogueDigest, mut judge: impl FnMut(&Waiting) -> Call) -> Vec<RequestId> {
        let Some(line) = self.lines.get_mut(model) else { return Vec::new() };
        let mut called = Vec::new();
        for (place, one) in &line.waiting {
            match judge(one) {
                Call::Stay => {}
                Call::Wake(row_at) => called.push((one.request, Woken { place: *place, row_at })),
                Call::Enough => break,
            }
        }
        for (request, one) in &called {
            line.waiting.remove(&one.place);
            line.places.remove(request);
            if one.row_at.is_some() {
                line.round = line.round.max(one.place.0);
            }
            line.woken.insert(*request, *one);
        }
        called.into_iter().map(|(request, _)| request).collect()
    }

    /// A row of a model became free.
    pub fn freed(&mut self, model: &CatalogueDigest, now: MonoMillis) {
        let Some(line) = self.lines.get_mut(model).filter(|line| !line.waiting.is_empty()) else { return };
        let took = now.since(line.since).0;
        line.since = now;
        let known = self.drains.entry(*model).or_insert(took * DRAIN_WEIGHT);
        *known = *known - *known / DRAIN_WEIGHT + took;
    }

    /// How long whoever comes now would wait, as the line moves; nothing where that is not known, or the line is short.
    fn wait_expected(&self, model: &CatalogueDigest, now: MonoMillis) -> Option<Millis> {
        let line = self.lines.get(model)?;
        let drain = self.drains.get(model)? / DRAIN_WEIGHT;
        // A line that stands still is no faster than it stands.
        let drain = drain.max(if line.waiting.is_empty() { 0 } else { now.since(line.since).0 });
        (line.len() >= SHEDS_FROM).then(|| Millis(drain * (line.len() as u64 + 1)))
    }

    /// Whether whoever comes now would be given up before its turn.
    pub fn is_hopeless(&self, model: &CatalogueDigest, now: MonoMillis) -> bool {
        self.wait_expected(model, now).is_some_and(|wait| wait > WAIT)
    }

    /// When those who wait now will have had their turns.
    pub fn retry_after(&self, model: &CatalogueDigest) -> Millis {
        let waiting = self.len(model) as u64;
        match self.drains.get(model) {
            Some(drain) => Millis((waiting * drain / DRAIN_WEIGHT).clamp(1_000, storms::WAIT_MAX.0)),
            // A row's typical work is a few seconds, and a model has a few rows.
            None => Millis::from_secs(1 + waiting / 8),
        }
    }

    /// Models that somebody waits for.
    pub fn models(&self) -> Vec<CatalogueDigest> {
        let lines = self.lines.iter().filter(|(_, line)| !line.waiting.is_empty());
        let mut models: Vec<_> = lines.map(|(model, _)| *model).collect();
        // In an order that does not differ from run to run.
        models.sort_unstable_by_key(|model| model.0);
        models
    }

    pub fn len(&self, model: &CatalogueDigest) -> usize {
        self.lines.get(model).map_or(0, |line| line.waiting.len())
    }

    fn tidy(&mut self, model: &CatalogueDigest) {
        if self.lines.get(model).is_some_and(|line| line.len() == 0) {
            self.lines.remove(model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: CatalogueDigest = CatalogueDigest([1; 32]);
    const T0: MonoMillis = MonoMillis(1_000_000);

    fn waiting(account: i64, n: u8) -> Waiting {
        let (request, account) = (RequestId([n; 16]), AccountId(account));
        Waiting { request, account, tier_min: Tier::None, recipients: Vec::new() }
    }

    fn push(queue: &mut Queue, account: i64, n: u8) {
        assert!(queue.push(MODEL, waiting(account, n), None, T0));
    }

    /// Wakes one.
    fn next(queue: &mut Queue) -> Option<u8> {
        let mut one = Call::Wake(Some(ProviderId([0; 32])));
        let woken = queue.wake(&MODEL, |_| std::mem::replace(&mut one, Call::Enough));
        let request = *woken.first()?;
        assert!(queue.take_woken(&MODEL, &request).is_some());
        Some(request.0[0])
    }

    #[test]
    fn a_line_without_anybody_is_forgotten() {
        let (request, mut queue) = (RequestId([2; 16]), Queue::default());
        push(&mut queue, 1, 2);
        queue.remove(&MODEL, &request);
        assert!(queue.lines.is_empty());
        push(&mut queue, 1, 2);
        assert_eq!(queue.wake(&MODEL, |_| Call::Wake(None)), [request]);
        assert!(!queue.lines.is_empty(), "its place is kept");
        assert!(queue.take_woken(&MODEL, &request).is_some());
        assert!(queue.lines.is_empty() && queue.in_all == 0);
    }

    #[test]
    fn accounts_take_turns_and_each_is_served_in_its_own_order() {
        let mut queue = Queue::default();
        (1..=6).for_each(|n| push(&mut queue, 1, n));
        (11..=12).for_each(|n| push(&mut queue, 2, n));
        push(&mut queue, 3, 21);
        let first: Vec<_> = (0..5).filter_map(|_| next(&mut queue)).collect();
        assert_eq!(first, [1, 11, 21, 2, 12]);
        push(&mut queue, 4, 31);
        let rest: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(rest, [31, 3, 4, 5, 6], "who comes late waits for one round and not for the others' whole backlog");
    }

    #[test]
    fn whoever_finds_no_row_after_all_is_before_those_who_came_later() {
        let mut queue = Queue::default();
        (1..=4).for_each(|n| push(&mut queue, 1, n));
        (1..=3).for_each(|n| assert_eq!(next(&mut queue), Some(n)));
        assert_eq!(queue.wake(&MODEL, |_| Call::Wake(Some(ProviderId([0; 32])))), [RequestId([4; 16])]);
        let before = queue.take_woken(&MODEL, &RequestId([4; 16]));
        assert!(queue.lines.is_empty());
        assert!(queue.push(MODEL, waiting(1, 4), before, T0));
        push(&mut queue, 1, 5);
        push(&mut queue, 2, 11);
        let rest: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(rest, [4, 11, 5]);
    }

    #[test]
    fn who_would_wait_longer_than_it_may_is_told_and_when_to_come_back() {
        let mut queue = Queue::default();
        (0..40).for_each(|n| push(&mut queue, i64::from(n), n));
        assert!(!queue.is_hopeless(&MODEL, T0), "nothing is known yet");
        let mut now = T0;
        for _ in 0..20 {
            now = now.after(Millis(100));
            queue.freed(&MODEL, now);
        }
        assert!(!queue.is_hopeless(&MODEL, now), "forty at a tenth of a second");
        assert_eq!(queue.retry_after(&MODEL), Millis(4_000));
        for _ in 0..60 {
            now = now.after(Millis(1_000));
            queue.freed(&MODEL, now);
        }
        assert!(queue.is_hopeless(&MODEL, now), "forty at a second");
        let told = queue.retry_after(&MODEL).0;
        assert!((39_000..=40_000).contains(&told), "{told}");
    }

    #[test]
    fn all_lines_together_are_bounded() {
        let mut queue = Queue::default();
        let mut number = 0u64;
        let taken = (0..20u8).flat_map(|model| std::iter::repeat_n(CatalogueDigest([model; 32]), WAITING_MAX));
        let taken = taken
            .filter(|model| {
                number += 1;
                let mut request = [0; 16];
                request[..8].copy_from_slice(&number.to_be_bytes());
                queue.push(*model, Waiting { request: RequestId(request), ..waiting(1, 0) }, None, T0)
            })
            .count();
        assert_eq!((taken, queue.in_all), (WAITING_IN_ALL_MAX, WAITING_IN_ALL_MAX));
    }
}
