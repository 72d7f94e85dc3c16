//! Which unacknowledged receipts go out when.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use darkbloom_types::ReceiptId;

/// How long a page may stay unanswered before the next one goes out all the same. A receipt without an answer, such as
/// one of a request that is being sealed again, must not hold up the others; the next connection presents it again.
const PAGE_WAIT: Duration = Duration::from_secs(10);

/// The receipts that were in the outbox when the connection began, page by page, each once. Receipts that are signed on
/// this connection go out by themselves and are none of these.
pub struct Presenting {
    waiting: VecDeque<(ReceiptId, Vec<u8>)>,
    unanswered: HashSet<ReceiptId>,
    page_max: usize,
    presented_at: Option<Instant>,
}

impl Presenting {
    pub fn new(receipts: Vec<(ReceiptId, Vec<u8>)>, page_max: usize) -> Self {
        Self { waiting: receipts.into(), unanswered: HashSet::new(), page_max, presented_at: None }
    }

    /// Receipts that were not presented yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A receipt was acknowledged.
    pub fn acknowledged(&mut self, receipt: &ReceiptId) {
        self.unanswered.remove(receipt);
    }

    /// The next page, when there is one and the last was answered or has waited long enough.
    pub fn page(&mut self, now: Instant) -> Option<Vec<Vec<u8>>> {
        let waited = self.presented_at.is_none_or(|at| now.saturating_duration_since(at) >= PAGE_WAIT);
        if self.waiting.is_empty() || !(self.unanswered.is_empty() || waited) {
            return None;
        }
        let page = self.waiting.drain(..self.page_max.min(self.waiting.len()));
        self.unanswered.clear();
        let receipts = page
            .map(|(id, bytes)| {
                self.unanswered.insert(id);
                bytes
            })
            .collect();
        self.presented_at = Some(now);
        Some(receipts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(count: u8) -> Vec<(ReceiptId, Vec<u8>)> {
        (0..count).map(|number| (ReceiptId([number; 32]), vec![number])).collect()
    }

    #[test]
    fn the_next_page_goes_out_when_the_last_is_answered() {
        let now = Instant::now();
        let mut presenting = Presenting::new(receipts(5), 2);
        assert_eq!(presenting.page(now), Some(vec![vec![0], vec![1]]));
        assert_eq!(presenting.page(now), None);
        presenting.acknowledged(&ReceiptId([1; 32]));
        assert_eq!(presenting.page(now), None, "one is missing");
        presenting.acknowledged(&ReceiptId([9; 32]));
        assert_eq!(presenting.page(now), None, "another's does not count");
        presenting.acknowledged(&ReceiptId([0; 32]));
        assert_eq!(presenting.page(now), Some(vec![vec![2], vec![3]]));
        assert_eq!(presenting.waiting(), 1);
    }

    #[test]
    fn receipts_without_an_answer_hold_up_nothing_for_long_and_are_presented_once() {
        let mut now = Instant::now();
        let mut presenting = Presenting::new(receipts(200), 64);
        let (mut pages, mut all) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            if let Some(page) = presenting.page(now) {
                pages.push(page.len());
                all.extend(page);
            }
            assert_eq!(presenting.page(now + PAGE_WAIT - Duration::from_millis(1)), None);
            now += PAGE_WAIT;
        }
        assert_eq!(pages, [64, 64, 64, 8]);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 200);
    }

    #[test]
    fn without_receipts_there_is_no_page() {
        assert_eq!(Presenting::new(Vec::new(), 64).page(Instant::now()), None);
    }
}
