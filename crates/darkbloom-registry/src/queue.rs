//! The queue for room: first come, first served within a model, among those who can use the room; bounded.

use std::collections::{BTreeMap, HashMap};

use darkbloom_types::{CatalogueDigest, EpochId, ProviderId, RequestId, Tier};

/// Requests that may wait for one model: at one second each, what eight rows work off within the longest wait.
pub const WAITING_MAX: usize = 256;

/// A request that waits, and for whom: room elsewhere is no room for it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub request: RequestId,
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

/// What a request that was woken had and got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Woken {
    /// Its place, which it keeps when there is no room after all.
    place: u64,
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
    /// By place: the order of first arrival.
    waiting: BTreeMap<u64, Waiting>,
    /// Woken and not heard of again. They hold their places, so that there are never more than [`WAITING_MAX`] of both.
    woken: HashMap<RequestId, Woken>,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: HashMap<CatalogueDigest, Line>,
    next_place: u64,
}

impl Queue {
    /// Puts a request at the end, or back to its place; false when the queue is full.
    #[must_use]
    pub fn push(&mut self, model: CatalogueDigest, waiting: Waiting, before: Option<Woken>) -> bool {
        let line = self.lines.entry(model).or_default();
        if line.waiting.len() + line.woken.len() >= WAITING_MAX {
            return false;
        }
        let place = before.map_or(self.next_place, |woken| woken.place);
        self.next_place += 1;
        line.waiting.insert(place, waiting);
        true
    }

    /// Takes a request out, if it waits.
    pub fn remove(&mut self, model: &CatalogueDigest, request: &RequestId) {
        if let Some(line) = self.lines.get_mut(model) {
            line.waiting.retain(|_, waiting| waiting.request != *request);
            self.tidy(model);
        }
    }

    /// Takes a request out that was woken: it routes, or is over.
    pub fn take_woken(&mut self, model: &CatalogueDigest, request: &RequestId) -> Option<Woken> {
        let woken = self.lines.get_mut(model)?.woken.remove(request);
        self.tidy(model);
        woken
    }

    /// Asks of each in order what becomes of it, and returns who is woken.
    pub fn wake(&mut self, model: &CatalogueDigest, mut judge: impl FnMut(&Waiting) -> Call) -> Vec<RequestId> {
        let Some(Line { waiting, woken }) = self.lines.get_mut(model) else { return Vec::new() };
        let mut called = Vec::new();
        for (place, one) in waiting.iter() {
            match judge(one) {
                Call::Stay => {}
                Call::Wake(row_at) => called.push((one.request, Woken { place: *place, row_at })),
                Call::Enough => break,
            }
        }
        for (request, one) in &called {
            waiting.remove(&one.place);
            woken.insert(*request, *one);
        }
        called.into_iter().map(|(request, _)| request).collect()
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
        if self.lines.get(model).is_some_and(|line| line.waiting.is_empty() && line.woken.is_empty()) {
            self.lines.remove(model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_anybody_is_forgotten() {
        let (model, request) = (CatalogueDigest([1; 32]), RequestId([2; 16]));
        let waiting = || Waiting { request, tier_min: Tier::None, recipients: Vec::new() };
        let mut queue = Queue::default();
        assert!(queue.push(model, waiting(), None));
        queue.remove(&model, &request);
        assert!(queue.lines.is_empty());
        assert!(queue.push(model, waiting(), None));
        assert_eq!(queue.wake(&model, |_| Call::Wake(None)), [request]);
        assert!(!queue.lines.is_empty(), "its place is kept");
        assert!(queue.take_woken(&model, &request).is_some());
        assert!(queue.lines.is_empty());
    }
}
