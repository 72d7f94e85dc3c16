//! Which rows run, and what each step feeds.

mod admission;
mod cost;
mod following;
mod lookup;
mod prefill;
mod prefix;
mod state;
mod waiting;

use darkbloom_types::{Millis, MonoMillis};

pub use self::waiting::AGED_AFTER;

use self::cost::StepCost;
use self::lookup::{GUESSES_MAX, Lookup};
use self::prefix::SavedPrefixes;
use self::state::{Feeding, Place, Row};
use self::waiting::WaitingList;
use crate::plan::{MemoryOp, RowWork, Sampled, SavedId, Slot, StepOutput, StepPlan};
use crate::row::{EndReason, RowEvent, RowFailure, RowId, RowRequest};
use crate::{Drawn, SamplingError};

/// Most guesses in one step, of all rows together: each needs room for the logits after it, 0.6 MB at a vocabulary of 152k.
pub const GUESSES_IN_STEP_MAX: usize = 32;

/// How much faster guessing must make a step's tokens for guesses to be fed.
const GUESSING_GAIN: f64 = 1.05;

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
    /// Tokens whose state may be kept outside the model's memory: of rows that gave up their slot, and of prefixes.
    pub saved_tokens_max: usize,
    /// How long what a row left is kept for later rows of its scope; zero is not at all.
    pub prefix_keep: Millis,
    /// Whether a slot can forget its last tokens and keep the others. A state that is not a list of tokens, as of recurrent
    /// layers, cannot; prefixes are then used whole, and nothing is guessed.
    pub trims: bool,
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
    #[error("the prompt or a bias has a token outside the model's vocabulary")]
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

/// How fast steps were, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For a token of a prompt, as a part of a usual piece of one.
    pub prefill_us: u32,
    /// For a token of an answer of one row alone.
    pub decode_us: u32,
}

/// What the scheduler has decided so far that cannot be seen in plans as easily.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decisions {
    /// Tokens that rows did not have to feed because the model's memory had them.
    pub reused_tokens: u64,
    /// Rows that gave up their slot and came back to a saved state, or will.
    pub saved_rows: u64,
    /// Rows that gave up their slot and feed everything again.
    pub refed_rows: u64,
    /// Tokens guessed.
    pub guessed_tokens: u64,
    /// Of those, how many were right.
    pub right_guesses: u64,
}

/// Plans steps over rows that come and go. See the crate's picture.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    places: Vec<Place>,
    waiting: WaitingList,
    /// Slots in the order their rows were admitted: prefill goes first to the one that waits longest.
    admitted: Vec<usize>,
    prefixes: SavedPrefixes,
    /// Tokens in saved states of rows that wait to come back.
    saved_row_tokens: usize,
    /// Saved states and rows are numbered from here.
    next_saved: u64,
    next_stay: u64,
    next_arrival: u64,
    /// What the next plan does to the model's memory.
    memory: Vec<MemoryOp>,
    cost: StepCost,
    events: Vec<RowEvent>,
    decisions: Decisions,
    /// A plan is out whose result has not come back.
    step_is_out: Option<Out>,
    /// Slots into which that plan brings a saved prefix.
    restoring: Vec<(usize, SavedId)>,
    /// The model's memory was full: nobody is admitted before a row has ended.
    full: bool,
    now: MonoMillis,
}

/// A plan whose result has not come back.
#[derive(Debug, Clone, Copy)]
struct Out {
    /// Tokens of rows that decode, guesses included.
    decoded: usize,
    /// Tokens of rows that prefill, and how many rows those are.
    prefilled: usize,
    pieces: usize,
    /// What it takes says nothing about other steps, because it also moves memory: more than the first tokens of prompts,
    /// which are copied only where that is little.
    moves_memory: bool,
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
            waiting: WaitingList::default(),
            admitted: Vec::with_capacity(limits.rows_max),
            prefixes: SavedPrefixes::default(),
            saved_row_tokens: 0,
            next_saved: 0,
            next_stay: 0,
            next_arrival: 0,
            memory: Vec::new(),
            cost: StepCost::new(),
            events: Vec::new(),
            decisions: Decisions::default(),
            step_is_out: None,
            restoring: Vec::new(),
            full: false,
            now: MonoMillis::default(),
        })
    }

    /// Takes a row in; the next plan admits it if a slot is free by then.
    ///
    /// # Errors
    /// When there is no room, or the row could never run.
    pub fn submit(&mut self, request: RowRequest, now: MonoMillis) -> Result<(), SubmitError> {
        let RowRequest { id, prompt, max_output, .. } = &request;
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
        if request.stop_tokens.len() > STOP_TOKENS_MAX {
            return Err(SubmitError::TooManyStopTokens { tokens: request.stop_tokens.len() });
        }
        request.sampling.check()?;
        if self.waiting.iter().chain(self.running()).any(|row| row.id == *id) {
            return Err(SubmitError::DuplicateRow);
        }
        // A row that will get a slot at the next plan does not wait for one.
        let free = self.places.iter().filter(|place| place.row.is_none()).count();
        if self.waiting.len() >= self.limits.waiting_max.saturating_add(free) {
            return Err(SubmitError::WaitingListFull { waiting: self.waiting.len() });
        }
        self.now = self.now.max(now);
        let row = self.row(request);
        self.waiting.push(row);
        Ok(())
    }

    fn row(&mut self, request: RowRequest) -> Row {
        let RowRequest { id, owner, priority, scope, start_by, prompt, max_output, sampling, guide, stop_tokens } =
            request;
        let room = u32::try_from(self.limits.row_tokens_max - prompt.len()).unwrap_or(u32::MAX);
        self.next_arrival += 1;
        Row {
            id,
            owner,
            priority,
            scope,
            prompt_tokens: prompt.len(),
            history: prompt,
            fed: 0,
            output: 0,
            output_max: max_output.0.min(room),
            sampling,
            guide,
            stop_tokens,
            arrival: self.next_arrival,
            stay: 0,
            follows: None,
            passed_over: false,
            feeds_all: false,
            began_after: None,
            waits_since: self.now,
            start_by,
            started: false,
            saved: None,
            gave_way: false,
            lookup: None,
        }
    }

    /// Ends a row. Its slot is free for the next plan. Whether there was such a row.
    pub fn cancel(&mut self, id: RowId) -> bool {
        if let Some(row) = self.waiting.remove(id) {
            self.end_waiting(row, EndReason::Cancelled, None);
            return true;
        }
        let slot = self.places.iter().position(|place| place.row.as_ref().is_some_and(|row| row.id == id));
        if let Some(slot) = slot {
            self.end(slot, EndReason::Cancelled, None);
        }
        slot.is_some()
    }

    /// The next step, or nothing: no row has work, or the result of the last plan has not come back.
    pub fn plan(&mut self, now: MonoMillis) -> Option<StepPlan> {
        if self.step_is_out.is_some() {
            return None;
        }
        self.now = self.now.max(now);
        self.expire();
        // Before others take the slots of rows that have gone, and again for those whose row gives way.
        self.catch_up();
        self.admit();
        self.catch_up();
        self.forget_what_nobody_may_use();
        let mut rows = Vec::with_capacity(self.admitted.len());
        let left = self.plan_decoding(&mut rows);
        let decoded = self.limits.step_tokens_max - left;
        let decoding = rows.len();
        let moves_memory = !self.memory.is_empty();
        self.plan_prefill(left, &mut rows);
        let plan = StepPlan { memory: std::mem::take(&mut self.memory), rows };
        if plan.rows.is_empty() && plan.memory.is_empty() {
            return None;
        }
        let (prefilled, pieces) = (plan.token_count() - decoded, plan.rows.len() - decoding);
        self.step_is_out = Some(Out { decoded, prefilled, pieces, moves_memory });
        Some(plan)
    }

    /// Every row that decodes feeds its last token, and guesses where they pay. Returns the step's tokens that are left.
    fn plan_decoding(&mut self, rows: &mut Vec<RowWork>) -> usize {
        let mut left = self.limits.step_tokens_max;
        let mut guesses_left = GUESSES_IN_STEP_MAX;
        let decoding = self.running().filter(|row| row.decodes()).count();
        for slot in self.admitted.clone() {
            let Some(row) = self.places[slot].row.as_ref().filter(|row| row.decodes()) else { continue };
            let fed = self.limits.step_tokens_max - left;
            // A token for each row that comes after this one, and for one that prefills.
            let spare = left.saturating_sub(decoding - rows.len() + 1).min(guesses_left);
            let guesses = self.guesses(row, fed, decoding, spare);
            let work = row.work(slot_of(slot), 1, guesses);
            guesses_left -= work.guesses as usize;
            self.decisions.guessed_tokens += u64::from(work.guesses);
            self.places[slot].out = Some(Feeding { tokens: 1, draws: true });
            left -= work.tokens.len();
            rows.push(work);
        }
        left
    }

    /// How many guesses make the step's tokens come faster, as far as can be foreseen. `fed` tokens are in the step already,
    /// and `decoding` rows will be.
    fn guesses(&self, row: &Row, fed: usize, decoding: usize, spare: usize) -> usize {
        let Some(lookup) = row.lookup.as_ref().filter(|_| self.limits.trims) else { return 0 };
        let room = (row.output_max - row.output).saturating_sub(1) as usize;
        let most = lookup.guess(row.history.expose(), GUESSES_MAX.min(room).min(spare)).len();
        let without = fed.max(decoding);
        let Some(plain_us) = self.cost.of_decoding(without).filter(|_| most > 0) else { return 0 };
        let rate = |guesses: usize| {
            let us = self.cost.of_decoding(without + guesses).unwrap_or(f64::INFINITY);
            (decoding as f64 + lookup.expected(guesses)) / us
        };
        let best = (1..=most).max_by(|one, other| rate(*one).total_cmp(&rate(*other))).unwrap_or(0);
        if rate(best) * plain_us > GUESSING_GAIN * decoding as f64 { best } else { 0 }
    }

    /// Takes the result of the last plan and how long it took, and returns what happened since events were last taken.
    pub fn update(&mut self, output: StepOutput, took_us: u64, now: MonoMillis) -> Vec<RowEvent> {
        self.now = self.now.max(now);
        if let Some(out) = self.step_is_out.take() {
            let restored = std::mem::take(&mut self.restoring);
            for slot in &output.lost {
                self.lose(slot.0 as usize);
                // What could not be brought back once never can: the rows of its scope must not all try.
                let damaged = restored.iter().find(|(to, _)| *to == slot.0 as usize).map(|(_, saved)| *saved);
                if let Some(saved) = damaged.filter(|saved| self.prefixes.remove(*saved)) {
                    self.memory.push(MemoryOp::Drop { saved });
                }
            }
            if !out.moves_memory {
                self.cost.learn(out.decoded, out.prefilled, out.pieces, took_us);
            }
            for slot in 0..self.places.len() {
                let Some(feeding) = self.places[slot].out.take() else { continue };
                let sampled = output.sampled.iter().find(|sampled| sampled.slot == slot_of(slot));
                if !output.lost.contains(&slot_of(slot)) {
                    self.advance(slot, feeding, sampled);
                }
            }
        }
        self.take_events()
    }

    /// A row's part of a step is done.
    fn advance(&mut self, slot: usize, feeding: Feeding, sampled: Option<&Sampled>) {
        let place = &mut self.places[slot];
        place.dirty = true;
        // A slot without a row was cancelled while the step ran.
        let Some(row) = place.row.as_mut() else { return };
        row.fed += feeding.tokens;
        let prompt_tokens = row.prompt_tokens.saturating_sub(row.fed - feeding.tokens).min(feeding.tokens);
        let (owner, output) = (row.owner, sampled.and_then(|sampled| sampled.tokens.as_ref().ok()).map_or(0, Vec::len));
        self.waiting.served(owner, prompt_tokens, output);
        if !feeding.draws {
            return;
        }
        match sampled.map(|sampled| &sampled.tokens) {
            Some(Ok(drawn)) if !drawn.is_empty() => self.take_tokens(slot, drawn),
            Some(Ok(_)) | None => self.end(slot, EndReason::Failed, Some(RowFailure::NoOutput)),
            Some(Err(error)) => self.end(slot, EndReason::Failed, Some(RowFailure::Logits(*error))),
        }
    }

    fn take_tokens(&mut self, slot: usize, drawn: &[Drawn]) {
        self.decisions.right_guesses += drawn.len() as u64 - 1;
        let last_arrival = self.next_arrival;
        for (nth, Drawn { token, logprobs }) in drawn.iter().enumerate() {
            let token = *token;
            let Some(row) = self.places[slot].row.as_mut() else { return };
            // The token before this one was a guess that is in memory already.
            row.fed += usize::from(nth > 0);
            row.began_after.get_or_insert(last_arrival);
            let index = row.output;
            row.output += 1;
            if row.stop_tokens.contains(&token) {
                return self.end(slot, EndReason::StopToken, None);
            }
            row.history.extend(&[token]);
            self.events.push(RowEvent::Token { id: row.id, token, index, logprobs: logprobs.clone() });
            if row.output >= row.output_max {
                return self.end(slot, EndReason::Length, None);
            }
        }
        if let Some(row) = self.places[slot].row.as_mut().filter(|_| self.limits.trims) {
            let tokens_max = row.prompt_tokens + row.output_max as usize;
            row.lookup.get_or_insert_with(|| Lookup::new(tokens_max)).learn(row.history.expose(), row.prompt_tokens);
        }
    }

    /// What the slot held could not be brought back: its row feeds everything again.
    fn lose(&mut self, slot: usize) {
        let Some(place) = self.places.get_mut(slot) else { return };
        (place.dirty, place.kept) = (false, None);
        if let Some(row) = place.row.as_mut() {
            (row.fed, row.feeds_all) = (0, true);
        }
    }

    /// The last plan could not be executed: every running row ends, since what the model's memory holds is not known
    /// any more. Waiting rows stay. Returns what happened since events were last taken.
    pub fn fail_step(&mut self) -> Vec<RowEvent> {
        self.step_is_out = None;
        self.restoring.clear();
        for slot in 0..self.places.len() {
            self.places[slot].out = None;
            self.end(slot, EndReason::Failed, Some(RowFailure::Step));
            // Also where no row is: what the plan was to do there may or may not have been done.
            (self.places[slot].dirty, self.places[slot].kept) = (true, None);
        }
        // Nor which copies were made or wiped: rows that wait to come back feed everything again.
        self.prefixes = SavedPrefixes::default();
        for row in self.waiting.iter_mut() {
            if row.saved.take().is_some() {
                row.fed = 0;
            }
        }
        self.saved_row_tokens = 0;
        self.memory = vec![MemoryOp::DropAll];
        self.take_events()
    }

    /// Ends every row, running and waiting, for the given reason. Returns what happened since events were last taken.
    pub fn end_all(&mut self, failure: RowFailure) -> Vec<RowEvent> {
        for slot in 0..self.places.len() {
            self.end(slot, EndReason::Failed, Some(failure));
        }
        for row in self.waiting.take_all() {
            self.end_waiting(row, EndReason::Failed, Some(failure));
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

    /// How fast it has been so far; nothing before it has seen prompts and answers.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        let (prefill, decode) = self.cost.pace()?;
        Some(Pace { prefill_us: prefill.max(1.0) as u32, decode_us: decode.max(1.0) as u32 })
    }

    /// What it has decided since it was made.
    #[must_use]
    pub fn decisions(&self) -> Decisions {
        self.decisions
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn running(&self) -> impl Iterator<Item = &Row> {
        self.places.iter().filter_map(|place| place.row.as_ref())
    }

    fn end_waiting(&mut self, row: Row, reason: EndReason, failure: Option<RowFailure>) {
        self.events.push(row.ended(reason, failure));
        self.drop_saved(&row);
    }
}

fn slot_of(index: usize) -> Slot {
    Slot(u32::try_from(index).expect("Limits::check keeps the number of slots within 32 bits"))
}
