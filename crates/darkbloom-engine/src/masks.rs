//! Masks of guided rows, found on a thread of their own while a step's forwards run.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use darkbloom_batch::{GuideError, RowWork, SharedGuide, TokenMask};
use darkbloom_types::SecretTokens;

/// How long a step waits for its masks after a forward. A guide bounds its own work to some 20 ms a mask; with a step of 256
/// rows, each of them at that bound, one thread is done after 5 s.
const MASKS_WAIT: Duration = Duration::from_secs(10);

/// Stack of the thread. Guides walk grammars that somebody sent by recursion; what is not touched costs nothing.
const STACK_BYTES: usize = 64 << 20;

/// The masks of one row, one for each place in which a token can be drawn; the last can be an error.
pub(crate) type RowMasks = Vec<Result<TokenMask, GuideError>>;

/// The thread that finds masks. It starts with the first guided row: an executor without any has none.
#[derive(Default)]
pub(crate) struct MaskFinder {
    steps: Option<SyncSender<Asked>>,
}

/// One step's guided rows.
struct Asked {
    rows: Vec<Question>,
    /// Has room for all answers, so that the thread never waits for who asked.
    found: SyncSender<RowMasks>,
}

struct Question {
    guide: SharedGuide,
    answer: SecretTokens,
    guesses: SecretTokens,
}

impl Question {
    fn of(row: &RowWork) -> Option<Self> {
        let sample = row.sample.as_ref()?;
        let guide = sample.guide.clone()?;
        let tokens = row.tokens.expose();
        let guesses = tokens[tokens.len().saturating_sub(row.guesses as usize)..].to_vec();
        Some(Self { guide, answer: SecretTokens::new(sample.answer().to_vec()), guesses: SecretTokens::new(guesses) })
    }
}

impl MaskFinder {
    /// Has the masks of a step's guided rows found; to be called before the forward. A step without any asks nobody.
    pub(crate) fn ask<'r>(&mut self, rows: impl IntoIterator<Item = &'r RowWork>) -> FoundMasks {
        let rows: Vec<_> = rows.into_iter().filter_map(Question::of).collect();
        if rows.is_empty() {
            return FoundMasks { found: None, until: None, failed: None };
        }
        let (found, masks) = sync_channel(rows.len());
        let steps = self.steps.take().or_else(start);
        if let Some(steps) = steps {
            // It is busy only with a step whose masks nobody waits for any more: then this step has none.
            if steps.try_send(Asked { rows, found }).is_ok() {
                self.steps = Some(steps);
            }
        }
        FoundMasks { found: Some(masks), until: None, failed: None }
    }

    /// Leaves the thread to what it does not come back from; the next step gets another.
    pub(crate) fn give_up(&mut self) {
        self.steps = None;
    }
}

/// Starts the thread. Nothing where the system gives none: then guided rows fail, and the next step tries again.
fn start() -> Option<SyncSender<Asked>> {
    // A step that failed leaves its question behind, and the next one comes before that is done.
    let (steps, asked) = sync_channel::<Asked>(2);
    let find = move || {
        for Asked { rows, found } in asked {
            for Question { guide, answer, guesses } in rows {
                // Nobody waits for the masks of a step that failed.
                if found.send(guide.masks(answer.expose(), guesses.expose())).is_err() {
                    break;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("darkbloom-masks".to_owned()).stack_size(STACK_BYTES);
    thread.spawn(find).ok().map(|_| steps)
}

/// A step's masks, as they are found.
pub(crate) struct FoundMasks {
    found: Option<Receiver<RowMasks>>,
    /// How long they are waited for; set when the first is.
    until: Option<Instant>,
    /// Why there are no more: what comes after one that did not would be taken for the next row's.
    failed: Option<GuideError>,
}

impl FoundMasks {
    /// The masks of the next row: in the step's order, and called for every row that draws. Nothing for a row without a guide.
    pub(crate) fn of(&mut self, row: &RowWork, finder: &mut MaskFinder) -> Option<RowMasks> {
        row.sample.as_ref()?.guide.as_ref()?;
        let found = self.found.as_ref()?;
        if let Some(failed) = &self.failed {
            return Some(vec![Err(*failed)]);
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + MASKS_WAIT);
        let failed = match found.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(masks) => return Some(masks),
            Err(RecvTimeoutError::Timeout) => GuideError::Late,
            // A guide that panicked took the thread along.
            Err(RecvTimeoutError::Disconnected) => GuideError::Strayed,
        };
        finder.give_up();
        Some(vec![Err(*self.failed.insert(failed))])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use darkbloom_batch::{Guide, RowId, SampleAt, Sampling, Slot};
    use darkbloom_types::TokenId;

    use super::*;

    #[derive(Debug)]
    struct Anything;

    impl Guide for Anything {
        fn mask(&mut self, _answer: &[TokenId]) -> Result<TokenMask, GuideError> {
            Err(GuideError::Strayed)
        }
    }

    #[test]
    fn masks_that_come_too_late_are_not_taken_for_the_next_rows() {
        let sample =
            SampleAt { guide: Some(SharedGuide::new(Anything)), ..SampleAt::new(Arc::new(Sampling::greedy()), 0) };
        let row = RowWork {
            slot: Slot(0),
            id: RowId(1),
            start: 0,
            tokens: SecretTokens::new(vec![TokenId(1)]),
            guesses: 0,
            sample: Some(sample),
        };
        let (found, masks) = sync_channel(2);
        let mut masks = FoundMasks { found: Some(masks), until: Some(Instant::now()), failed: None };
        let mut finder = MaskFinder::default();
        assert_eq!(masks.of(&row, &mut finder), Some(vec![Err(GuideError::Late)]));
        // The first row's.
        found.send(Vec::new()).unwrap();
        assert_eq!(masks.of(&row, &mut finder), Some(vec![Err(GuideError::Late)]));
    }
}
