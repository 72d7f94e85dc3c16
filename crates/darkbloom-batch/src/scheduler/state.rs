//! A row as the scheduler sees it.

use std::sync::Arc;

use darkbloom_types::{MonoMillis, SecretTokens, TokenCount, TokenId};

use super::lookup::Lookup;
use super::prefix::Prefix;
use crate::plan::{RowWork, SampleAt, SavedId, Slot};
use crate::row::{EndReason, Owner, Priority, RowEvent, RowFailure, RowId, Scope};
use crate::{Sampling, SharedGuide};

/// One slot.
#[derive(Debug, Default)]
pub(crate) struct Place {
    pub(crate) row: Option<Row>,
    /// What the step that is out feeds here; nothing when it does not touch the slot.
    pub(crate) out: Option<Feeding>,
    /// The model's memory here holds, or may hold, something.
    pub(crate) dirty: bool,
    /// What of that is known, once no row is here any more; more may follow it in memory.
    pub(crate) kept: Option<Prefix>,
}

/// What a step feeds to a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feeding {
    /// Tokens of the row's history.
    pub(crate) tokens: usize,
    /// Whether tokens are drawn.
    pub(crate) draws: bool,
}

/// A row that feeds what others need too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Follows {
    pub(crate) slot: usize,
    /// Which of its stays in a slot that is.
    pub(crate) stay: u64,
    /// How many of its first tokens the other one needs.
    pub(crate) tokens: usize,
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: RowId,
    pub(crate) owner: Owner,
    pub(crate) priority: Priority,
    pub(crate) scope: Option<Scope>,
    /// Prompt and output so far.
    pub(crate) history: SecretTokens,
    pub(crate) prompt_tokens: usize,
    /// How much of the history is in the model's memory.
    pub(crate) fed: usize,
    pub(crate) output: u32,
    pub(crate) output_max: u32,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) guide: Option<SharedGuide>,
    pub(crate) stop_tokens: Vec<TokenId>,
    /// Its place in the order of all rows.
    pub(crate) arrival: u64,
    /// Which of all stays in slots this is, by when it began.
    pub(crate) stay: u64,
    /// Whose prompt begins as this row's does and is being fed: this one waits for it.
    pub(crate) follows: Option<Follows>,
    /// A step had room for a small piece of its prompt, which waited: not again before it is fed.
    pub(crate) passed_over: bool,
    /// What was brought into its slot was lost: it copies nothing any more.
    pub(crate) feeds_all: bool,
    /// Which row was the last to come before its first token was drawn; none before that.
    pub(crate) began_after: Option<u64>,
    pub(crate) waits_since: MonoMillis,
    pub(crate) start_by: Option<MonoMillis>,
    /// Whether it has, or had, a slot.
    pub(crate) started: bool,
    /// It had a slot and gave it up: what that held is saved under this name, unless it is to be fed again.
    pub(crate) saved: Option<SavedId>,
    /// It gave up its slot to a more important row, which happens once at most.
    pub(crate) gave_way: bool,
    /// Made when its first token is sampled.
    pub(crate) lookup: Option<Lookup>,
}

impl Row {
    /// Tokens that are to be fed before the next draw.
    pub(crate) fn pending(&self) -> usize {
        self.history.len() - self.fed
    }

    /// Whether one token is all that is fed before the next draw.
    pub(crate) fn decodes(&self) -> bool {
        self.pending() == 1
    }

    pub(crate) fn must_start_by(&self) -> Option<MonoMillis> {
        self.start_by.filter(|_| !self.started)
    }

    /// What the row feeds: so many tokens of its history, and guesses.
    pub(crate) fn work(&self, slot: Slot, tokens: usize, guesses: usize) -> RowWork {
        let history = self.history.expose();
        let mut feed = SecretTokens::new(history[self.fed..self.fed + tokens].to_vec());
        let guessed = match &self.lookup {
            Some(lookup) if guesses > 0 => lookup.guess(history, guesses),
            Some(_) | None => &[],
        };
        feed.extend(guessed);
        let looks_back = self.sampling.looks_back() || self.guide.is_some();
        let draw = || SampleAt {
            sampling: Arc::clone(&self.sampling),
            position: self.output,
            past: if looks_back { self.history.clone() } else { SecretTokens::default() },
            prompt_tokens: self.prompt_tokens,
            guide: self.guide.clone(),
        };
        RowWork {
            slot,
            id: self.id,
            start: u32::try_from(self.fed).expect("Limits::check keeps positions within 31 bits"),
            tokens: feed,
            guesses: u32::try_from(guessed.len()).expect("there are few guesses"),
            sample: (tokens == self.pending()).then(draw),
        }
    }

    pub(crate) fn ended(&self, reason: EndReason, failure: Option<RowFailure>) -> RowEvent {
        RowEvent::Ended { id: self.id, reason, output_tokens: TokenCount(self.output), failure }
    }
}
