//! What can execute a step.

use darkbloom_batch::{Draw, Limits, SampleAt, Slot, StepOutput, StepPlan};
use darkbloom_types::TokenId;

/// A model with memory for a fixed number of rows.
pub trait Executor: Send {
    /// Forgets the plan's cleared slots, runs one forward over all rows' tokens, and draws a token for each row that
    /// asks for one.
    ///
    /// # Errors
    /// When the step could not be executed. What the slots hold is then not known; the caller clears them before it uses
    /// them again, and may go on after that.
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError>;

    /// Overwrites the memory that rows left behind. To be called when no row runs: every slot is empty afterwards.
    fn erase(&mut self);

    /// How many tokens the model knows; ids are below this.
    fn vocabulary(&self) -> usize;

    /// What it has memory for.
    fn capacity(&self) -> Capacity;
}

/// The draw that a plan asks for. Plans carry neither histories nor masks: rows with penalties or constraints are not
/// submitted.
pub(crate) fn draw_of(sample: &SampleAt) -> Draw<'_> {
    Draw { sampling: &sample.sampling, position: sample.position, history: &[], prompt_tokens: 0, mask: None }
}

impl<E: Executor + ?Sized> Executor for Box<E> {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        (**self).step(plan)
    }

    fn erase(&mut self) {
        (**self).erase();
    }

    fn vocabulary(&self) -> usize {
        (**self).vocabulary()
    }

    fn capacity(&self) -> Capacity {
        (**self).capacity()
    }
}

/// The largest plans that an executor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Slots.
    pub rows_max: usize,
    /// Tokens that each slot holds.
    pub row_tokens_max: usize,
    /// Tokens in one step.
    pub step_tokens_max: usize,
}

impl Capacity {
    /// Whether plans made within the limits fit.
    #[must_use]
    pub fn holds(&self, limits: Limits) -> bool {
        limits.rows_max <= self.rows_max
            && limits.row_tokens_max <= self.row_tokens_max
            && limits.step_tokens_max <= self.step_tokens_max
    }

    /// The limits that use all of it.
    #[must_use]
    pub fn limits(&self, waiting_max: usize) -> Limits {
        Limits {
            rows_max: self.rows_max,
            row_tokens_max: self.row_tokens_max,
            step_tokens_max: self.step_tokens_max,
            waiting_max,
        }
    }
}

/// Why a step was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The plan breaks the executor's rules: the scheduler's bug.
    #[error("the step's plan is not executable: {0}")]
    Plan(#[from] PlanFault),
    /// llama.cpp found no room in its cache.
    #[error("the model's memory has no room for the step")]
    NoRoom,
    /// llama.cpp failed.
    #[error("the model's backend failed with code {code}")]
    Backend {
        /// What it returned.
        code: i32,
    },
    /// A simulated failure.
    #[error("a failure was injected")]
    Injected,
    /// The executor panicked: a bug. It is not used again.
    #[error("the executor panicked")]
    Panicked,
}

/// What is wrong with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A slot that does not exist.
    #[error("slot {} does not exist", .0.0)]
    UnknownSlot(Slot),
    /// A slot appears twice.
    #[error("slot {} is used twice", .0.0)]
    SlotTwice(Slot),
    /// A row starts where its slot does not end.
    #[error("a row in slot {} starts at a position that its memory has not reached or has passed", .0.0)]
    WrongStart(Slot),
    /// A row has no tokens.
    #[error("a row in slot {} has no tokens", .0.0)]
    NoTokens(Slot),
    /// A row outgrows its slot.
    #[error("a row in slot {} outgrows its context", .0.0)]
    RowTooLong(Slot),
    /// More tokens than a step may have.
    #[error("the step has too many tokens")]
    StepTooLong,
    /// A token outside the vocabulary.
    #[error("a row in slot {} has a token outside the vocabulary", .0.0)]
    UnknownToken(Slot),
}

/// Checks a plan against what each slot holds, after the plan's clears were applied to `held`.
pub(crate) fn check_plan(
    plan: &StepPlan,
    held: &[usize],
    capacity: Capacity,
    vocabulary: usize,
) -> Result<(), PlanFault> {
    let mut seen = vec![false; held.len()];
    let mut tokens_in_step = 0;
    for row in &plan.rows {
        let slot = row.slot;
        let at = slot.0 as usize;
        let (Some(seen), Some(&holds)) = (seen.get_mut(at), held.get(at)) else {
            return Err(PlanFault::UnknownSlot(slot));
        };
        if std::mem::replace(seen, true) {
            return Err(PlanFault::SlotTwice(slot));
        }
        if row.start as usize != holds {
            return Err(PlanFault::WrongStart(slot));
        }
        if row.tokens.is_empty() {
            return Err(PlanFault::NoTokens(slot));
        }
        if row.tokens.len() > capacity.row_tokens_max - holds {
            return Err(PlanFault::RowTooLong(slot));
        }
        if row.tokens.expose().iter().any(|&TokenId(token)| token as usize >= vocabulary) {
            return Err(PlanFault::UnknownToken(slot));
        }
        tokens_in_step += row.tokens.len();
        if tokens_in_step > capacity.step_tokens_max {
            return Err(PlanFault::StepTooLong);
        }
    }
    Ok(())
}

/// Applies the plan's clears to what each slot holds.
pub(crate) fn clear_held(plan: &StepPlan, held: &mut [usize]) -> Result<(), PlanFault> {
    for &slot in &plan.clear {
        *held.get_mut(slot.0 as usize).ok_or(PlanFault::UnknownSlot(slot))? = 0;
    }
    Ok(())
}
