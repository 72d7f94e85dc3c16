//! What a row is asked to do, and what is told about it.

use darkbloom_types::{SecretTokens, TokenCount, TokenId};

use crate::{SampleError, Sampling};

/// One request's row. The caller chooses the number and never uses one twice while the row lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u64);

/// A prompt to be continued.
#[derive(Debug, Clone)]
pub struct RowRequest {
    /// Who is asking, for events and for cancelling.
    pub id: RowId,
    /// The tokens to continue.
    pub prompt: SecretTokens,
    /// At most so many tokens are sampled; the row's context may end it earlier.
    pub max_output: TokenCount,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Sampling one of these ends the row; at most [`crate::STOP_TOKENS_MAX`].
    pub stop_tokens: Vec<TokenId>,
}

/// What happened to a row. Each submitted row ends exactly once, and nothing follows its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEvent {
    /// It left the waiting list and has a slot. A row that is cancelled while waiting ends without this.
    Started {
        /// Which row.
        id: RowId,
    },
    /// A token of the answer.
    Token {
        /// Which row.
        id: RowId,
        /// The token; never a stop token.
        token: TokenId,
        /// Its place in the answer, from 0.
        index: u32,
    },
    /// Nothing more follows.
    Ended {
        /// Which row.
        id: RowId,
        /// Why.
        reason: EndReason,
        /// How many tokens were sampled: one for each `Token` event, and one more when a stop token was sampled.
        output_tokens: TokenCount,
        /// What went wrong; there is something exactly when the reason is [`EndReason::Failed`].
        failure: Option<RowFailure>,
    },
}

impl RowEvent {
    /// The row it is about.
    #[must_use]
    pub fn id(&self) -> RowId {
        match *self {
            Self::Started { id } | Self::Token { id, .. } | Self::Ended { id, .. } => id,
        }
    }
}

/// Why a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A stop token was sampled; it is counted and not reported.
    StopToken,
    /// The output or the row's context is used up.
    Length,
    /// The caller asked for it.
    Cancelled,
    /// Not the caller's doing; see the event's `failure`.
    Failed,
}

/// What made a row fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowFailure {
    /// The step that the row was part of could not be executed.
    #[error("the model could not execute a step")]
    Step,
    /// The model's logits for this row are not usable.
    #[error("the model's output for the row is not usable: {0}")]
    Logits(#[from] SampleError),
    /// The executor returned no token for the row: its bug.
    #[error("the executor returned nothing for the row")]
    NoOutput,
    /// The engine was stopped.
    #[error("the engine was stopped")]
    EngineStopped,
}
