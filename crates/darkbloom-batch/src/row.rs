//! What a row is asked to do, and what is told about it.

use std::fmt;
use std::sync::Arc;

use darkbloom_types::{MonoMillis, SecretTokens, TokenCount, TokenId};

use crate::{Logprobs, SampleError, Sampling, SharedGuide};

/// One request's row. The caller chooses the number and never uses one twice while the row lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u64);

/// Who asks, so that one who asks for much does not hold up those who ask for little. The caller chooses the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Owner(pub u64);

/// Within which rows may use what each other's prompts left in the model's memory. Whoever knows the bytes can find out by
/// the time to the first token what others in the scope asked, so they are as secret as a prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scope([u8; 32]);

impl Scope {
    /// The scope that these bytes name: 32 bytes that nobody outside can guess.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope(…)")
    }
}

/// Which waiting row is admitted first. A row that has waited for [`crate::AGED_AFTER`] counts as of the highest priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Nobody waits for it: it fills what others leave, and gives its slot up to them.
    Low,
    /// Somebody waits for it.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// A prompt to be continued.
#[derive(Debug, Clone)]
pub struct RowRequest {
    /// The row's name, for events and for cancelling.
    pub id: RowId,
    /// Who asks.
    pub owner: Owner,
    /// Before or after others.
    pub priority: Priority,
    /// Whose prefixes it may use, and who may use its own; nothing keeps it apart from all.
    pub scope: Option<Scope>,
    /// A row that has no slot by then ends with [`RowFailure::Late`].
    pub start_by: Option<MonoMillis>,
    /// The tokens to continue.
    pub prompt: SecretTokens,
    /// At most so many tokens are sampled; the row's context may end it earlier.
    pub max_output: TokenCount,
    /// How they are drawn.
    pub sampling: Arc<Sampling>,
    /// What its answer is held to.
    pub guide: Option<SharedGuide>,
    /// Sampling one of these ends the row; at most [`crate::STOP_TOKENS_MAX`].
    pub stop_tokens: Vec<TokenId>,
}

impl RowRequest {
    /// A row of its own scope and of normal priority, greedy, that nothing but its length stops.
    #[must_use]
    pub fn new(id: RowId, prompt: SecretTokens, max_output: TokenCount) -> Self {
        Self {
            id,
            owner: Owner::default(),
            priority: Priority::default(),
            scope: None,
            start_by: None,
            prompt,
            max_output,
            sampling: Arc::new(Sampling::greedy()),
            guide: None,
            stop_tokens: Vec::new(),
        }
    }
}

/// What happened to a row. Each submitted row ends exactly once, and nothing follows its end.
#[derive(Debug, Clone, PartialEq)]
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
        /// How likely it was, where the row asks for that.
        logprobs: Option<Logprobs>,
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
    /// There was no slot for it in time.
    #[error("no place in the batch became free in time")]
    Late,
    /// The model's memory has no room for the row, not even alone.
    #[error("the model's memory has no room for the row")]
    NoRoom,
    /// The step that the row was part of did not come back.
    #[error("a step of the model did not come back")]
    Stuck,
    /// The engine was stopped.
    #[error("the engine was stopped")]
    EngineStopped,
}
