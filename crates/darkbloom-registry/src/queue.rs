//! The queue for room: first come, first served within a model, bounded.

use std::collections::{HashMap, VecDeque};

use darkbloom_types::{CatalogueDigest, RequestId};

/// Requests that may wait for one model: at one second each, what eight rows work off within the longest wait.
pub const WAITING_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: HashMap<CatalogueDigest, VecDeque<RequestId>>,
}

impl Queue {
    /// Puts a request at the end; false when the queue is full.
    #[must_use]
    pub fn push(&mut self, model: CatalogueDigest, request: RequestId) -> bool {
        let queue = self.waiting.entry(model).or_default();
        if queue.len() >= WAITING_MAX {
            return false;
        }
        queue.push_back(request);
        true
    }

    /// Takes a request out, wherever it stands; false when it does not.
    pub fn remove(&mut self, model: &CatalogueDigest, request: &RequestId) -> bool {
        let Some(queue) = self.waiting.get_mut(model) else { return false };
        let before = queue.len();
        queue.retain(|waiting| waiting != request);
        let removed = queue.len() < before;
        if queue.is_empty() {
            self.waiting.remove(model);
        }
        removed
    }

    /// The next `most` requests of a model, taken out.
    pub fn pop(&mut self, model: &CatalogueDigest, most: usize) -> Vec<RequestId> {
        let Some(queue) = self.waiting.get_mut(model) else { return Vec::new() };
        let taken = queue.drain(..most.min(queue.len())).collect();
        if queue.is_empty() {
            self.waiting.remove(model);
        }
        taken
    }

    pub fn len(&self, model: &CatalogueDigest) -> usize {
        self.waiting.get(model).map_or(0, VecDeque::len)
    }
}
