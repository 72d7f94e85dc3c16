//! What a step does to the model's memory and feeds to it, and what comes back.

use std::sync::Arc;

use darkbloom_types::{SecretTokens, TokenId};

use crate::{Drawn, RowId, SampleError, Sampling, SharedGuide};

/// A place for one row in the model's memory, from 0 to one less than the most rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A copy of what a slot held, outside the model's memory. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SavedId(pub u64);

/// One step: changes to the model's memory in order, then all rows' tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepPlan {
    /// What is forgotten, saved and brought back before.
    pub memory: Vec<MemoryOp>,
    /// The rows of the step, each slot at most once: those that decode first, then those that prefill. Nothing when only the
    /// memory changes.
    pub rows: Vec<RowWork>,
}

impl StepPlan {
    /// Tokens that the step takes in.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.rows.iter().map(|row| row.tokens.len()).sum()
    }
}

/// One change to the model's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOp {
    /// Forgets what a slot holds from a position on; from 0, all of it.
    Forget {
        /// Which slot.
        slot: Slot,
        /// How many tokens stay.
        from: u32,
    },
    /// Copies what a slot holds to a place outside.
    Save {
        /// Which slot.
        slot: Slot,
        /// The copy's name.
        saved: SavedId,
    },
    /// Puts a copy into a slot that holds nothing, and leaves the first tokens of it there. The copy stays.
    Restore {
        /// Which slot.
        slot: Slot,
        /// Which copy.
        saved: SavedId,
        /// How many tokens stay.
        keep: u32,
    },
    /// Copies what one slot holds into another that holds nothing, and leaves the first tokens of it there.
    Copy {
        /// From where.
        from: Slot,
        /// To where.
        to: Slot,
        /// How many tokens stay.
        keep: u32,
    },
    /// Wipes a copy.
    Drop {
        /// Which copy.
        saved: SavedId,
    },
    /// Wipes all copies: after a step that failed nobody knows which there are.
    DropAll,
}

/// One row's part of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct RowWork {
    /// Where the row lives.
    pub slot: Slot,
    /// Whose row it is.
    pub id: RowId,
    /// The position of the first of the tokens: how many the slot already holds.
    pub start: u32,
    /// What is fed, at least one token: the last one sampled, or a piece of what came before.
    pub tokens: SecretTokens,
    /// How many of the tokens, from the end, are guesses at what will be sampled.
    pub guesses: u32,
    /// How to draw tokens from the logits: after the last token that is no guess, and after each guess as long as they are
    /// right. Nothing while the row's prompt is incomplete.
    pub sample: Option<SampleAt>,
}

/// How to draw, and where the first draw stands.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleAt {
    /// The row's own sampling.
    pub sampling: Arc<Sampling>,
    /// The place in the answer, from 0, which with the seed decides the draw.
    pub position: u32,
    /// Prompt and answer so far, where the sampling looks at them or a guide does; else nothing.
    pub past: SecretTokens,
    /// Tokens of the prompt among them.
    pub prompt_tokens: usize,
    /// What says which tokens may be drawn; all may where there is none.
    pub guide: Option<SharedGuide>,
}

impl SampleAt {
    /// A draw that looks at nothing but the logits.
    #[must_use]
    pub fn new(sampling: Arc<Sampling>, position: u32) -> Self {
        Self { sampling, position, past: SecretTokens::default(), prompt_tokens: 0, guide: None }
    }

    /// The answer so far, where it is there.
    #[must_use]
    pub fn answer(&self) -> &[TokenId] {
        self.past.expose().get(self.prompt_tokens..).unwrap_or_default()
    }
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepOutput {
    /// One entry for each row of the plan that was to be sampled and is not lost, in any order.
    pub sampled: Vec<Sampled>,
    /// Slots whose memory could not be brought back: their rows were not part of the forward, and hold nothing now.
    pub lost: Vec<Slot>,
}

/// One row's draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Whose.
    pub slot: Slot,
    /// The tokens, at least one: each but the last is the guess that was fed at its place, and what was fed of guesses after
    /// that is forgotten again. Or why this row's logits give none; other rows are not affected.
    pub tokens: Result<Vec<Drawn>, SampleError>,
}
