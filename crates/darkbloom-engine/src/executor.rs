//! What can execute a step.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use darkbloom_batch::{
    Draw, Drawn, GUESSES_IN_STEP_MAX, GuideError, Limits, MemoryOp, RowWork, SampleAt, SampleError, Sampler, SavedId,
    Slot, StepOutput, StepPlan,
};
use darkbloom_types::{Millis, SecretTokens, TokenId};

use crate::masks::RowMasks;

/// How long what a row left is kept for later rows of its scope: the pause of somebody who reads an answer and asks on.
const PREFIX_KEEP: Millis = Millis::from_minutes(5);

/// A model with memory for a fixed number of rows.
pub trait Executor: Send {
    /// Changes the memory as the plan says, computes all rows' tokens, and draws tokens for each row that asks
    /// for them. A plan without rows changes the memory only.
    ///
    /// # Errors
    /// When the step could not be executed. After [`ExecuteError::NoRoom`] the memory is as it was before the forward.
    /// Otherwise neither what the slots hold nor which states are saved is known; the caller clears them before it uses them again, and may go on after
    /// that.
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError>;

    /// Overwrites the memory that rows left behind. To be called when no row runs: every slot is empty afterwards. What is
    /// saved outside stays.
    fn erase(&mut self);

    /// While this is set, a step ends early and fails. Nothing when steps cannot be interrupted.
    fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        None
    }

    /// How many tokens the model knows; ids are below this.
    fn vocabulary(&self) -> usize;

    /// What it has memory for.
    fn capacity(&self) -> Capacity;
}

impl<E: Executor + ?Sized> Executor for Box<E> {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        (**self).step(plan)
    }

    fn erase(&mut self) {
        (**self).erase();
    }

    fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        (**self).interrupt()
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
    /// Whether a slot can forget its last tokens and keep the others.
    pub trims: bool,
}

impl Capacity {
    /// Whether plans made within the limits fit.
    #[must_use]
    pub fn holds(&self, limits: Limits) -> bool {
        limits.rows_max <= self.rows_max
            && limits.row_tokens_max <= self.row_tokens_max
            && limits.step_tokens_max <= self.step_tokens_max
            && (self.trims || !limits.trims)
    }

    /// The limits that use all of it.
    #[must_use]
    pub fn limits(&self, waiting_max: usize) -> Limits {
        Limits {
            rows_max: self.rows_max,
            row_tokens_max: self.row_tokens_max,
            step_tokens_max: self.step_tokens_max,
            waiting_max,
            // Only while there is something to save.
            saved_tokens_max: self.rows_max.saturating_mul(self.row_tokens_max) / SAVED_PART,
            prefix_keep: PREFIX_KEEP,
            trims: self.trims,
        }
    }
}

/// What is saved of rows and prefixes takes at most one part in so many of what the slots take.
pub(crate) const SAVED_PART: usize = 4;

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
    /// It was interrupted.
    #[error("the step was interrupted after it had taken too long")]
    Interrupted,
    /// It did not come back, not even when it was interrupted. The engine is not used again.
    #[error("a step did not come back")]
    Stuck,
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
    /// A row has no tokens, or nothing but guesses.
    #[error("a row in slot {} has no tokens", .0.0)]
    NoTokens(Slot),
    /// Guesses where nothing is drawn or forgotten, or too many.
    #[error("a row in slot {} has guesses that cannot be checked", .0.0)]
    Guesses(Slot),
    /// More is to stay than there is, or a part of what cannot be divided.
    #[error("slot {} cannot keep as much as is asked for", .0.0)]
    WrongKeep(Slot),
    /// A slot that is to be filled holds something.
    #[error("slot {} is not empty", .0.0)]
    NotEmpty(Slot),
    /// A saved state that does not exist.
    #[error("saved state {} does not exist", .0.0)]
    UnknownSaved(SavedId),
    /// A name is used for a second saved state.
    #[error("saved state {} exists", .0.0)]
    SavedTwice(SavedId),
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

/// One row's draws of a step: what is drawn is its past at the next.
pub(crate) struct Draws<'s> {
    sample: &'s SampleAt,
    /// One for each draw, where the row has a guide.
    masks: Option<RowMasks>,
    past: SecretTokens,
    drawn: Vec<Drawn>,
}

impl<'s> Draws<'s> {
    pub(crate) fn new(sample: &'s SampleAt, masks: Option<RowMasks>) -> Self {
        Self { sample, masks, past: sample.past.clone(), drawn: Vec::with_capacity(1) }
    }

    /// Draws from the next logits.
    pub(crate) fn draw(&mut self, sampler: &mut Sampler, logits: &[f32]) -> Result<TokenId, SampleError> {
        let mask = match &self.masks {
            // There is one after each guess that was allowed, and no other is ever drawn.
            Some(masks) => Some(
                masks.get(self.drawn.len()).unwrap_or(&Err(GuideError::Strayed)).as_ref().map_err(|error| *error)?,
            ),
            None => None,
        };
        let position = self.sample.position + u32::try_from(self.drawn.len()).unwrap_or(u32::MAX);
        let drawn = sampler.draw(
            logits,
            &Draw {
                sampling: &self.sample.sampling,
                position,
                history: self.past.expose(),
                prompt_tokens: self.sample.prompt_tokens.min(self.past.len()),
                mask,
            },
        )?;
        let token = drawn.token;
        if !self.past.is_empty() {
            self.past.extend(&[token]);
        }
        self.drawn.push(drawn);
        Ok(token)
    }

    pub(crate) fn all(self) -> Vec<Drawn> {
        self.drawn
    }
}

/// What an executor's slots and saved states hold, in tokens. Plans are checked against it before they are executed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) held: Vec<usize>,
    saved: HashMap<SavedId, usize>,
    capacity: Capacity,
    vocabulary: usize,
}

impl Ledger {
    pub(crate) fn new(capacity: Capacity, vocabulary: usize) -> Self {
        Self { held: vec![0; capacity.rows_max], saved: HashMap::new(), capacity, vocabulary }
    }

    /// Checks one change to the memory, and enters it.
    pub(crate) fn change(&mut self, op: &MemoryOp) -> Result<(), PlanFault> {
        let holds = |slot: Slot| self.held.get(slot.0 as usize).copied().ok_or(PlanFault::UnknownSlot(slot));
        let saved = |saved: SavedId| self.saved.get(&saved).copied().ok_or(PlanFault::UnknownSaved(saved));
        let (slot, now) = match *op {
            MemoryOp::Forget { slot, from } => (slot, self.kept(holds(slot)?, from, slot)?),
            MemoryOp::Save { slot, saved } => {
                let tokens = holds(slot)?;
                if self.saved.insert(saved, tokens).is_some() {
                    return Err(PlanFault::SavedTwice(saved));
                }
                return Ok(());
            }
            MemoryOp::Restore { slot, saved: from, keep } => {
                if holds(slot)? > 0 {
                    return Err(PlanFault::NotEmpty(slot));
                }
                (slot, self.kept(saved(from)?, keep, slot)?)
            }
            MemoryOp::Copy { from, to, keep } => {
                if holds(to)? > 0 || from == to {
                    return Err(PlanFault::NotEmpty(to));
                }
                (to, self.kept(holds(from)?, keep, to)?)
            }
            MemoryOp::Drop { saved: from } => {
                saved(from)?;
                self.saved.remove(&from);
                return Ok(());
            }
            MemoryOp::DropAll => {
                self.saved.clear();
                return Ok(());
            }
        };
        self.held[slot.0 as usize] = now;
        Ok(())
    }

    /// How many tokens stay of so many.
    fn kept(&self, tokens: usize, keep: u32, slot: Slot) -> Result<usize, PlanFault> {
        let keep = keep as usize;
        let can = keep == 0 || keep == tokens || (self.capacity.trims && keep < tokens);
        can.then_some(keep).ok_or(PlanFault::WrongKeep(slot))
    }

    /// Checks the rows of a plan, after its changes to the memory were entered.
    pub(crate) fn check<'r>(&self, rows: impl IntoIterator<Item = &'r RowWork>) -> Result<(), PlanFault> {
        let mut seen = vec![false; self.held.len()];
        let (mut tokens_in_step, mut guesses_in_step) = (0, 0);
        for row in rows {
            let slot = row.slot;
            let at = slot.0 as usize;
            let (Some(seen), Some(&holds)) = (seen.get_mut(at), self.held.get(at)) else {
                return Err(PlanFault::UnknownSlot(slot));
            };
            if std::mem::replace(seen, true) {
                return Err(PlanFault::SlotTwice(slot));
            }
            if row.start as usize != holds {
                return Err(PlanFault::WrongStart(slot));
            }
            let guesses = row.guesses as usize;
            if row.tokens.len() <= guesses {
                return Err(PlanFault::NoTokens(slot));
            }
            guesses_in_step += guesses;
            if guesses > 0 && (!self.capacity.trims || row.sample.is_none() || guesses_in_step > GUESSES_IN_STEP_MAX) {
                return Err(PlanFault::Guesses(slot));
            }
            if row.tokens.len() > self.capacity.row_tokens_max - holds {
                return Err(PlanFault::RowTooLong(slot));
            }
            if row.tokens.expose().iter().any(|&TokenId(token)| token as usize >= self.vocabulary) {
                return Err(PlanFault::UnknownToken(slot));
            }
            tokens_in_step += row.tokens.len();
            if tokens_in_step > self.capacity.step_tokens_max {
                return Err(PlanFault::StepTooLong);
            }
        }
        Ok(())
    }
}
