//! What a step feeds to the model, and what comes back.

use std::sync::Arc;

use darkbloom_types::{SecretTokens, TokenId};

use crate::{RowId, SampleError, Sampling};

/// A place for one row in the model's memory, from 0 to one less than the most rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// One step: forget some slots, then one forward over all rows' tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPlan {
    /// Slots whose memory is forgotten before the forward. A row that starts here appears in `rows` from position 0.
    pub clear: Vec<Slot>,
    /// The rows of the step, each slot at most once: those that decode first, then those that prefill. Never empty.
    pub rows: Vec<RowWork>,
}

impl StepPlan {
    /// Tokens that the forward takes in.
    #[must_use]
    pub fn token_count(&self) -> usize {
        self.rows.iter().map(|row| row.tokens.len()).sum()
    }
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
    /// What is fed, at least one token: the last one sampled, or a piece of the prompt.
    pub tokens: SecretTokens,
    /// How to draw a token from the logits after the last of the tokens; nothing while the prompt is incomplete.
    pub sample: Option<SampleAt>,
}

/// One draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleAt {
    /// The row's own sampling.
    pub sampling: Arc<Sampling>,
    /// The place in the answer, from 0, which with the seed decides the draw.
    pub position: u32,
}

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepOutput {
    /// One entry for each row of the plan that was to be sampled, in any order.
    pub sampled: Vec<Sampled>,
}

/// One row's draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampled {
    /// Whose.
    pub slot: Slot,
    /// The token, or why this row's logits give none; other rows are not affected.
    pub token: Result<TokenId, SampleError>,
}
