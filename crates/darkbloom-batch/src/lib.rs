//! The continuous-batching scheduler and the sampler: pure decisions about rows, with no model in sight.
//!
//! Owns which rows run, what each step feeds to the model, when a row ends, and how a token is drawn from logits. It
//! must never touch a model, a file, a thread, a clock or global randomness, and must never print a token. The engine,
//! and tests with executors of their own, may depend on it; of ours it depends on the vocabulary of types only.
//!
//! A step is planned here, executed elsewhere, and its result is given back here:
//!
//! ```text
//!   submit ──▶ waiting ──(a slot is free, first come first served)──▶ prefill ──▶ decode ──▶ ended
//!                 │                                                      │           │
//!                 └──────────────────── cancel ─────────────────────────┴───────────┘
//!
//!   plan() ──StepPlan──▶ executor (every row in the plan) ──StepOutput──▶ update() ──▶ row events
//! ```
//!
//! A row may have a [`Guide`], which says what may come next in its answer. The executor asks it while it computes; what
//! the guide forbids is never drawn, and a guess that it forbids is wrong.
//!
//! A row's slot is free for the next plan as soon as the row ended; the plan that reuses a slot, or the next one at the
//! latest, names it in `clear`, so that nothing of an earlier row can be seen by a later one.

#![forbid(unsafe_code)]

mod guide;
mod mask;
mod plan;
mod row;
mod sampler;
mod sampling;
mod scheduler;
mod stream;

pub use guide::{Guide, GuideError, SharedGuide};
pub use mask::TokenMask;
pub use plan::{MemoryOp, RowWork, SampleAt, Sampled, SavedId, Slot, StepOutput, StepPlan};
pub use row::{EndReason, Owner, Priority, RowEvent, RowFailure, RowId, RowRequest, Scope};
pub use sampler::{Draw, Drawn, Logprobs, SampleError, Sampler, VOCABULARY_MAX};
pub use sampling::{DRY_BREAKERS_MAX, DRY_RANGE_MAX, Dry, LOGIT_BIAS_MAX, Sampling, SamplingError, TOP_LOGPROBS_MAX};
pub use scheduler::{
    AGED_AFTER, Decisions, GUESSES_IN_STEP_MAX, Limits, LimitsError, Load, Pace, STOP_TOKENS_MAX, Scheduler,
    SubmitError,
};
