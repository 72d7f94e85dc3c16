//! Which rows run, and what each step feeds.

use std::collections::VecDeque;
use std::sync::Arc;

use darkbloom_types::{SecretTokens, TokenCount, TokenId};

use crate::{
    EndReason, RowEvent, RowFailure, RowId, RowRequest, RowWork, SampleAt, Sampling, SamplingError, Slot, StepOutput,
    StepPlan,
};

/// Most stop tokens of one row. Models name two to six tokens that end a turn; the rest is room.
pub const STOP_TOKENS_MAX: usize = 64;

/// What a scheduler may use. Together they bound its memory: (rows + waiting) × tokens of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rows that run at the same time: slots of the model's memory.
    pub rows_max: usize,
    /// Prompt and output of one row together: the context that each slot has.
    pub row_tokens_max: usize,
    /// Tokens in one step. More makes prefill faster and the running rows' pauses longer.
    pub step_tokens_max: usize,
    /// Rows that wait for a slot.
    pub waiting_max: usize,
}

impl Limits {
    /// Whether rows can run within these limits.
    ///
    /// # Errors
    /// Names the limit with which no row, or not every row, would ever advance.
    pub fn check(&self) -> Result<(), LimitsError> {
        if self.rows_max == 0 || u32::try_from(self.rows_max).is_err() {
            return Err(LimitsError::Rows);
        }
        // A prompt token and an output token; the upper end keeps positions within what a model's memory counts.
        if self.row_tokens_max < 2 || i32::try_from(self.row_tokens_max).is_err() {
            return Err(LimitsError::RowTokens);
        }
        // With a token for every row, those that decode leave at least one to the first that prefills.
        if self.step_tokens_max < self.rows_max {
            return Err(LimitsError::StepTokens);
        }
        Ok(())
    }
}

/// Which limit makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// `rows_max`
    #[error("at least one row must be allowed to run")]
    Rows,
    /// `row_tokens_max`
    #[error("a row needs a context of at least 2 tokens")]
    RowTokens,
    /// `step_tokens_max`
    #[error("a step needs room for one token of every row")]
    StepTokens,
}

/// Why a row was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Every slot is taken and as many rows wait as may.
    #[error("{waiting} rows are waiting already, and no more may")]
    WaitingListFull {
        /// How many wait.
        waiting: usize,
    },
    /// The prompt leaves no room for a token of output.
    #[error("the prompt has {tokens} tokens, and a row takes at most {max}")]
    PromptTooLong {
        /// Its length.
        tokens: usize,
        /// The longest that is taken.
        max: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt has a token that the model does not know.
    #[error("the prompt has a token outside the model's vocabulary")]
    UnknownToken,
    /// Not one token of output is asked for.
    #[error("no output is asked for")]
    NoOutput,
    /// The same id is waiting or running.
    #[error("a row with this id is there already")]
    DuplicateRow,
    /// More stop tokens than a row may have.
    #[error("{tokens} stop tokens are more than the {STOP_TOKENS_MAX} that a row may have")]
    TooManyStopTokens {
        /// How many there are.
        tokens: usize,
    },
    /// The sampling values have no meaning.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The engine that runs the rows was stopped.
    #[error("the engine was stopped")]
    Stopped,
}

/// How busy the scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Rows that have a slot.
    pub running: usize,
    /// Rows that wait for one.
    pub waiting: usize,
    /// Slots.
    pub rows_max: usize,
}

/// Plans steps over rows that come and go. See the crate's picture.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    places: Vec<Place>,
    waiting: VecDeque<Row>,
    /// Slots in the order their rows were admitted: prefill goes to the first that needs it.
    admitted: Vec<usize>,
    events: Vec<RowEvent>,
    /// A plan is out whose result has not come back.
    step_is_out: bool,
}

/// One slot.
#[derive(Debug, Default)]
struct Place {
    row: Option<Row>,
    /// Tokens that the step that is out feeds here; 0 when it does not touch the slot.
    feeding: usize,
    /// The step that is out samples here.
    sampling: bool,
    /// The model's memory here holds, or may hold, something of a row that ended.
    dirty: bool,
}

#[derive(Debug)]
struct Row {
    id: RowId,
    prompt: SecretTokens,
    /// Tokens in the model's memory.
    fed: usize,
    /// The last token sampled; fed next when the prompt is done.
    last: TokenId,
    output: u32,
    output_max: u32,
    sampling: Arc<Sampling>,
    stop_tokens: Vec<TokenId>,
}

impl Row {
    fn decodes(&self) -> bool {
        self.fed >= self.prompt.len()
    }
}

impl Scheduler {
    /// A scheduler with all slots free.
    ///
    /// # Errors
    /// When the limits make no sense.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        limits.check()?;
        Ok(Self {
            limits,
            places: (0..limits.rows_max).map(|_| Place::default()).collect(),
            waiting: VecDeque::new(),
            admitted: Vec::with_capacity(limits.rows_max),
            events: Vec::new(),
            step_is_out: false,
        })
    }

    /// Takes a row in; the next plan admits it if a slot is free by then.
    ///
    /// # Errors
    /// When there is no room, or the row could never run.
    pub fn submit(&mut self, request: RowRequest) -> Result<(), SubmitError> {
        let RowRequest { id, prompt, max_output, sampling, stop_tokens } = request;
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        let prompt_max = self.limits.row_tokens_max - 1;
        if prompt.len() > prompt_max {
            return Err(SubmitError::PromptTooLong { tokens: prompt.len(), max: prompt_max });
        }
        if max_output.0 == 0 {
            return Err(SubmitError::NoOutput);
        }
        if stop_tokens.len() > STOP_TOKENS_MAX {
            return Err(SubmitError::TooManyStopTokens { tokens: stop_tokens.len() });
        }
        sampling.check()?;
        if self.waiting.iter().chain(self.running()).any(|row| row.id == id) {
            return Err(SubmitError::DuplicateRow);
        }
        // A row that will get a slot at the next plan does not wait for one.
        let free = self.places.iter().filter(|place| place.row.is_none()).count();
        if self.waiting.len() >= self.limits.waiting_max.saturating_add(free) {
            return Err(SubmitError::WaitingListFull { waiting: self.waiting.len() });
        }
        let room = u32::try_from(self.limits.row_tokens_max - prompt.len()).unwrap_or(u32::MAX);
        let output_max = max_output.0.min(room);
        let (last, sampling) = (TokenId::default(), Arc::new(sampling));
        self.waiting.push_back(Row { id, prompt, fed: 0, last, output: 0, output_max, sampling, stop_tokens });
        Ok(())
    }

    /// Ends a row. Its slot is free for the next plan. Whether there was such a row.
    pub fn cancel(&mut self, id: RowId) -> bool {
        if let Some(at) = self.waiting.iter().position(|row| row.id == id) {
            if let Some(row) = self.waiting.remove(at) {
                self.events.push(ended(&row, EndReason::Cancelled, None));
            }
            return true;
        }
        let slot = self.places.iter().position(|place| place.row.as_ref().is_some_and(|row| row.id == id));
        if let Some(slot) = slot {
            self.end(slot, EndReason::Cancelled, None);
        }
        slot.is_some()
    }

    /// The next step, or nothing: no row has work, or the result of the last plan has not come back.
    pub fn plan(&mut self) -> Option<StepPlan> {
        if self.step_is_out {
            return None;
        }
        self.admit();
        let mut budget = self.limits.step_tokens_max;
        let mut rows = Vec::with_capacity(self.admitted.len());
        for decodes in [true, false] {
            for &slot in &self.admitted {
                let place = &mut self.places[slot];
                let Some(row) = place.row.as_ref().filter(|row| row.decodes() == decodes) else { continue };
                if budget == 0 {
                    break;
                }
                let work = work(slot, row, budget);
                place.feeding = work.tokens.len();
                place.sampling = work.sample.is_some();
                budget -= place.feeding;
                rows.push(work);
            }
        }
        if rows.is_empty() {
            return None;
        }
        let mut clear = Vec::new();
        for (slot, place) in self.places.iter_mut().enumerate() {
            if std::mem::take(&mut place.dirty) {
                clear.push(slot_of(slot));
            }
        }
        self.step_is_out = true;
        Some(StepPlan { clear, rows })
    }

    /// Takes the result of the last plan, and returns what happened since events were last taken.
    pub fn update(&mut self, output: StepOutput) -> Vec<RowEvent> {
        if std::mem::take(&mut self.step_is_out) {
            for slot in 0..self.places.len() {
                let place = &mut self.places[slot];
                let (feeding, sampling) = (std::mem::take(&mut place.feeding), std::mem::take(&mut place.sampling));
                // A slot without a row was cancelled while the step ran.
                let Some(row) = place.row.as_mut().filter(|_| feeding > 0) else { continue };
                row.fed += feeding;
                if sampling {
                    let sampled = output.sampled.iter().find(|sampled| sampled.slot == slot_of(slot));
                    match sampled.map(|sampled| sampled.token) {
                        Some(Ok(token)) => self.take_token(slot, token),
                        Some(Err(error)) => self.end(slot, EndReason::Failed, Some(RowFailure::Logits(error))),
                        None => self.end(slot, EndReason::Failed, Some(RowFailure::NoOutput)),
                    }
                }
            }
        }
        self.take_events()
    }

    /// The last plan could not be executed: every running row ends, since what the model's memory holds is not known
    /// any more. Waiting rows stay. Returns what happened since events were last taken.
    pub fn fail_step(&mut self) -> Vec<RowEvent> {
        self.step_is_out = false;
        for slot in 0..self.places.len() {
            let place = &mut self.places[slot];
            // Also where no row is: the plan that failed may have been the one to clear it.
            (place.feeding, place.sampling, place.dirty) = (0, false, true);
            self.end(slot, EndReason::Failed, Some(RowFailure::Step));
        }
        self.take_events()
    }

    /// Ends every row, running and waiting, for the given reason. Returns what happened since events were last taken.
    pub fn end_all(&mut self, failure: RowFailure) -> Vec<RowEvent> {
        for slot in 0..self.places.len() {
            self.end(slot, EndReason::Failed, Some(failure));
        }
        for row in std::mem::take(&mut self.waiting) {
            self.events.push(ended(&row, EndReason::Failed, Some(failure)));
        }
        self.take_events()
    }

    /// What happened since events were last taken: rows that a plan admitted, and cancelled ones, need no step's result.
    pub fn take_events(&mut self) -> Vec<RowEvent> {
        std::mem::take(&mut self.events)
    }

    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { running: self.running().count(), waiting: self.waiting.len(), rows_max: self.limits.rows_max }
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn running(&self) -> impl Iterator<Item = &Row> {
        self.places.iter().filter_map(|place| place.row.as_ref())
    }

    /// First come, first served, into the lowest free slot: executors run neighbouring slots together most cheaply.
    fn admit(&mut self) {
        for slot in 0..self.places.len() {
            if self.places[slot].row.is_some() {
                continue;
            }
            let Some(row) = self.waiting.pop_front() else { return };
            self.events.push(RowEvent::Started { id: row.id });
            self.places[slot].row = Some(row);
            self.admitted.push(slot);
        }
    }

    fn take_token(&mut self, slot: usize, token: TokenId) {
        let Some(row) = self.places[slot].row.as_mut() else { return };
        let index = row.output;
        row.output += 1;
        row.last = token;
        if row.stop_tokens.contains(&token) {
            return self.end(slot, EndReason::StopToken, None);
        }
        self.events.push(RowEvent::Token { id: row.id, token, index });
        if row.output >= row.output_max {
            self.end(slot, EndReason::Length, None);
        }
    }

    /// Takes the row out of its slot, if there is one. A step that is out may still write there, which `plan` minds:
    /// it makes no plan before that step's result is back, and clears the slot first.
    fn end(&mut self, slot: usize, reason: EndReason, failure: Option<RowFailure>) {
        let Some(row) = self.places[slot].row.take() else { return };
        self.places[slot].dirty = true;
        self.admitted.retain(|&admitted| admitted != slot);
        self.events.push(ended(&row, reason, failure));
    }
}

fn slot_of(index: usize) -> Slot {
    Slot(u32::try_from(index).expect("Limits::check keeps the number of slots within 32 bits"))
}

fn ended(row: &Row, reason: EndReason, failure: Option<RowFailure>) -> RowEvent {
    RowEvent::Ended { id: row.id, reason, output_tokens: TokenCount(row.output), failure }
}

/// What one row feeds, at most `budget` tokens.
fn work(slot: usize, row: &Row, budget: usize) -> RowWork {
    let prompt = row.prompt.expose();
    let (tokens, complete) = if row.decodes() {
        (vec![row.last], true)
    } else {
        let end = prompt.len().min(row.fed + budget);
        (prompt[row.fed..end].to_vec(), end == prompt.len())
    };
    RowWork {
        slot: slot_of(slot),
        id: row.id,
        start: u32::try_from(row.fed).expect("Limits::check keeps positions within 31 bits"),
        tokens: SecretTokens::new(tokens),
        sample: complete.then_some(SampleAt { sampling: Arc::clone(&row.sampling), position: row.output }),
    }
}
