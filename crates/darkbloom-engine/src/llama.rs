//! Models in the GGUF format, run by llama.cpp inside this process, on the CPU.

mod adapter;
mod embedder;
mod exact;
mod loaded;
mod pages;
mod passes;
pub(crate) mod raw;
mod state;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use darkbloom_batch::{
    Drawn, GUESSES_IN_STEP_MAX, MemoryOp, RowWork, SampleAt, SampleError, Sampled, Sampler, SavedId, Slot, StepOutput,
    StepPlan,
};
use darkbloom_types::TokenId;

use crate::devices::{Accelerator, devices};
use crate::executor::{Draws, Ledger, SAVED_PART};
use crate::masks::{FoundMasks, MaskFinder, RowMasks};
use crate::{AdapterError, AdapterHeader, Capacity, ExecuteError, Executor, GgufError, ModelHeader};
pub use adapter::{Adapter, check_open_adapters};
pub use embedder::{EmbedError, LlamaEmbedder};
use loaded::Loaded;
use passes::Passes;
use raw::{Batch, Context, Model};
use state::SavedState;

/// What `llama_decode` returns when the memory has no place for the batch.
const NO_ROOM: i32 = 1;

/// Most threads. ggml allows 512; beyond the number of cores they only wait for each other.
const THREADS_MAX: usize = 512;

/// Whether rows may notice each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exactness {
    /// A row's logits have the same bits whoever shares the batch, however its prompt is cut, with any number of threads.
    ///
    /// llama.cpp picks kernels by how many tokens there are, and they add in different orders; the module `exact` says
    /// which, and what keeps each model to one of them. Keys are in BF16 beside values in F16, which takes the memory that
    /// [`Exactness::Fast`] takes and as long to decode; long prompts take longer. K-quants are multiplied neither in tiles nor
    /// repacked. Where weights are floats, as every mixture of experts' router is, a token that would be alone in a
    /// forward gets one of no consequence beside it, and a row holds a token less.
    #[default]
    Exact,
    /// Whichever kernel is fastest. Tokens then depend on the neighbours now and then, and on which way to share a forward was
    /// the faster.
    Fast,
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlamaSettings {
    /// Rows at the same time; up to 256.
    pub rows_max: usize,
    /// Context of each row. Memory for it is taken at once: rows × tokens × what a token needs.
    pub row_tokens_max: usize,
    /// Tokens in one step.
    pub step_tokens_max: usize,
    /// Threads that compute. They spin while they wait for each other, so a core that is busy with something else slows
    /// down all of them.
    pub threads: usize,
    /// Whether rows may notice each other.
    pub exactness: Exactness,
    /// Whether the model may run on something else than the processor.
    pub accelerator: Accelerator,
    /// Whether the weights are mapped from the file, which is faster to load and lets the system drop pages, and lets
    /// whoever can write to the file change a model that was verified. Otherwise they are read once.
    pub map_weights: bool,
}

impl LlamaSettings {
    /// For so many rows with so much context: exact, 512 tokens a step, one core left to others.
    #[must_use]
    pub fn new(rows_max: usize, row_tokens_max: usize) -> Self {
        Self {
            rows_max,
            row_tokens_max,
            step_tokens_max: rows_max.max(STEP_TOKENS),
            threads: Self::threads_of_this_machine(),
            exactness: Exactness::default(),
            accelerator: Accelerator::default(),
            map_weights: false,
        }
    }

    /// Cores less one, at least one.
    #[must_use]
    pub fn threads_of_this_machine() -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        cores.saturating_sub(1).clamp(1, THREADS_MAX)
    }
}

/// What a model takes of the machine's memory, in bytes. An estimate from its header: more than it will be for models some of
/// whose blocks look back over a window only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The weights.
    pub weights: u64,
    /// One row at its longest: keys, values, their part of what is saved, logits.
    pub row: u64,
    /// What a step computes on the way, whatever the number of rows.
    pub work: u64,
}

impl MemoryNeed {
    /// What a model with rows of so many tokens takes.
    #[must_use]
    pub fn of(header: &ModelHeader, row_tokens: usize) -> Self {
        /// Bytes of a number of keys and values.
        const CACHED: u64 = 2;
        /// Numbers that live at the same time while a block is computed, in widths of its widest part: what comes in, what goes
        /// out, both sides of the gate, and their product.
        const LIVE_WIDTHS: u64 = 5;
        /// Logits stand in memory twice, where they are computed and where they are read, and a row may have two.
        const ROW_LOGITS: u64 = 4;
        let cells = row_cells(header, row_tokens) as u64;
        let step = STEP_TOKENS as u64;
        let logits = 2 * (GUESSES_IN_STEP_MAX as u64) * header.vocabulary;
        // Who may look at whom.
        let mask = step * cells;
        let kept = cells.saturating_mul(header.token_width).saturating_mul(CACHED);
        Self {
            weights: header.weight_bytes,
            // Saved rows and prefixes take as much again as a part of the slots.
            row: kept
                .saturating_add(kept / SAVED_PART as u64)
                .saturating_add(ROW_LOGITS.saturating_mul(header.vocabulary).saturating_mul(4)),
            work: step
                .saturating_mul(header.block_width)
                .saturating_mul(LIVE_WIDTHS)
                .saturating_add(logits)
                .saturating_add(mask)
                .saturating_mul(4),
        }
    }

    /// The same with adapters beside the weights.
    #[must_use]
    pub fn with_adapters(mut self, header: &ModelHeader, adapters: &[AdapterHeader]) -> Self {
        for adapter in adapters {
            self.weights = self.weights.saturating_add(adapter.weight_bytes);
        }
        // A change lives beside what it is added to, as wide as that, and between its halves as wide as its rank.
        if let Some(rank) = adapters.iter().map(|adapter| adapter.rank).max() {
            let step = (STEP_TOKENS as u64).saturating_mul(header.block_width.saturating_add(rank));
            let outputs = (GUESSES_IN_STEP_MAX as u64 + 8) * header.vocabulary;
            self.work = self.work.saturating_add(step.saturating_add(outputs).saturating_mul(4));
        }
        self
    }

    /// The same for a model that makes vectors: the logits of each of a step's tokens stand in memory twice.
    #[must_use]
    pub fn with_states(mut self, header: &ModelHeader) -> Self {
        let logits = 2 * (embedder::STEP_TOKENS as u64) * header.vocabulary;
        self.work = self.work.saturating_add(logits.saturating_mul(4));
        self
    }

    /// All of it, with so many rows.
    #[must_use]
    pub fn total(&self, rows: usize) -> u64 {
        self.weights.saturating_add(self.work).saturating_add(self.row.saturating_mul(rows as u64))
    }
}

/// Cells come in blocks of so many: llama.cpp rounds up to them.
const CELL_BLOCK: usize = 256;

/// Rows with a multiple of so many cells are slow where a cell's keys in a block of the model take 2 KiB, or 1: then each row,
/// and values beside keys, begin some 2 MiB after others and are in each other's way in the processor's caches. 16 rows of a
/// 0.6 B model with 256 tokens each decoded in 378, 403, 452 and 449 ms with room for 768, 1,024, 2,048 and 4,096, and in 384,
/// 386 and 387 with room for 1,280, 2,304 and 2,560 (Zen 4, large pages).
const SLOW_CELLS: usize = 1_024;

/// From so many cells on a block more is worth its memory.
const CELL_BLOCK_ADDED_FROM: usize = 2_048;

/// How many tokens' keys and values a row with so much context has memory for.
fn row_cells(header: &ModelHeader, row_tokens: usize) -> usize {
    let cells = row_tokens.next_multiple_of(CELL_BLOCK);
    let slow = cells >= CELL_BLOCK_ADDED_FROM && cells.is_multiple_of(SLOW_CELLS);
    if slow && !header.counts_long_rows_otherwise { cells + CELL_BLOCK } else { cells }
}

/// Tokens in one step, unless there are more rows.
const STEP_TOKENS: usize = 512;

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadModelError {
    /// There is no such file.
    #[error("there is no model file at this path")]
    Missing,
    /// It is there and cannot be read.
    #[error("the model file cannot be read: {0}")]
    Unreadable(ErrorKind),
    /// Whoever heard of its progress ended it.
    #[error("loading was ended before it was done")]
    Ended,
    /// It is not a whole model file.
    #[error("the model file cannot be used: {0}")]
    Damaged(#[from] GgufError),
    /// Its header is sound, and llama.cpp refuses it: an architecture that it does not know, tensors that do not fit
    /// together, weights that are not numbers, or too little memory.
    #[error("llama.cpp refuses the model file")]
    Refused,
    /// One of the adapters.
    #[error("adapter {at} cannot be used: {source}")]
    Adapter {
        /// Which, from 0.
        at: usize,
        /// What is wrong with it.
        source: AdapterError,
    },
    /// The model is not made to embed texts, or in a way that is not known here.
    #[error("the model file names no way to make one vector of a text's tokens: it is not one for embeddings")]
    NoPooling,
    /// Encoders, recurrent and diffusion models do not run in this batch.
    #[error("this kind of model is not supported")]
    UnsupportedKind,
    /// A row's context is longer than the model was trained for.
    #[error("a row's context of {asked} tokens is longer than the {trained} that the model was trained for")]
    ContextTooLong {
        /// What the settings ask for.
        asked: usize,
        /// What the model has.
        trained: u64,
    },
    /// An accelerator is required, and this build finds none.
    #[error("an accelerator is required, and this build of the program finds none")]
    NoAccelerator,
    /// Accelerators add in other orders than the processor, and in other ones with other neighbours.
    #[error("no accelerator promises the same bits whoever shares the batch")]
    InexactAccelerator,
    /// The settings make no sense.
    #[error("the setting {0} is out of range")]
    Setting(&'static str),
    /// There is not enough memory for the rows' contexts, or llama.cpp refuses the settings for this model.
    #[error("the memory for the rows could not be set up")]
    Context,
}

/// The executor over llama.cpp.
///
/// Slots are llama.cpp's sequences. Plans are checked before llama.cpp sees them, since it aborts the process over some
/// mistakes.
pub struct LlamaExecutor {
    context: Context,
    model: Arc<Model>,
    capacity: Capacity,
    vocabulary: usize,
    ledger: Ledger,
    saved: HashMap<SavedId, SavedState>,
    batch: Batch,
    /// Whether no token is computed alone.
    company: bool,
    sampler: Sampler,
    masks: MaskFinder,
    passes: Passes,
}

impl LlamaExecutor {
    /// Checks the file, loads the weights and takes the memory for all rows.
    ///
    /// # Errors
    /// When the file is not a whole and supported model, or the settings do not fit it or the machine.
    pub fn load(path: &Path, settings: &LlamaSettings) -> Result<Self, LoadModelError> {
        Self::load_open(open(path)?, Vec::new(), settings, &mut |_| true)
    }

    /// Loads as [`Self::load`] does from a file that is open, which nobody else reads from by its offset: what lies at a path
    /// may be swapped; with adapters that change it. `progress` hears how much of the weights is loaded, from 0 to 1, and ends
    /// the loading with false.
    ///
    /// # Errors
    /// As [`Self::load`], and [`LoadModelError::Ended`].
    pub fn load_open(
        file: File,
        adapters: Vec<Adapter>,
        settings: &LlamaSettings,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, LoadModelError> {
        let loaded = Loaded::open(file, adapters, settings, progress)?;
        // Each row's, and one beside it.
        let context = loaded.context(settings, 2 * settings.rows_max + GUESSES_IN_STEP_MAX, false)?;
        let capacity = Capacity {
            rows_max: settings.rows_max,
            row_tokens_max: loaded.row_tokens_max(settings),
            step_tokens_max: settings.step_tokens_max,
            trims: !loaded.model.has_window(),
        };
        let Loaded { model, needs, .. } = loaded;
        let vocabulary = model.vocabulary();
        Ok(Self {
            context,
            model,
            capacity,
            vocabulary,
            ledger: Ledger::new(capacity, vocabulary),
            saved: HashMap::new(),
            batch: Batch::default(),
            company: needs.company,
            sampler: Sampler::new(),
            masks: MaskFinder::default(),
            passes: Passes::default(),
        })
    }

    /// Tokens that the model file names as ends of a generation: good stop tokens.
    #[must_use]
    pub fn end_tokens(&self) -> Vec<TokenId> {
        self.model.end_tokens().into_iter().map(TokenId).collect()
    }

    /// As [`Executor::step`], and shows the logits of each row that draws: to measure whether they depend on neighbours.
    ///
    /// # Errors
    /// As [`Executor::step`].
    pub fn step_observed(
        &mut self,
        plan: &StepPlan,
        mut observe: impl FnMut(&RowWork, &[f32]),
    ) -> Result<StepOutput, ExecuteError> {
        let lost = self.change_memory(&plan.memory)?;
        let rows: Vec<&RowWork> = plan.rows.iter().filter(|row| !lost.contains(&row.slot)).collect();
        if rows.is_empty() {
            return Ok(StepOutput { sampled: Vec::new(), lost });
        }
        self.ledger.check(rows.iter().copied())?;
        let has_room =
            |slot: usize| self.ledger.held.get(slot).is_some_and(|&held| held < self.capacity.row_tokens_max);
        let split = self.passes.split(rows, !self.company, has_room);
        let forwards = split.decoding.iter().chain([&split.prompts]).filter(|rows| !rows.is_empty());
        let mut masks = self.masks.ask(forwards.clone().flatten().copied());
        let mut sampled = Vec::new();
        let mut decoding_us = 0.0;
        for (nth, rows) in forwards.clone().enumerate() {
            let fillers = if nth < split.decoding.len() { split.fillers.as_slice() } else { &[] };
            let outcome = self.forward(rows, fillers, &mut masks, &mut observe, &mut sampled);
            if outcome == Err(ExecuteError::NoRoom) && !lost.is_empty() {
                // There is no saying which rows lost their memory and that others found no room.
                return Err(self.forget_everything(ExecuteError::Backend { code: NO_ROOM }));
            }
            if outcome == Err(ExecuteError::NoRoom) {
                // The memory is to be as it was before the step.
                for row in forwards.take(nth).flatten() {
                    let (slot, start) = (row.slot.0 as usize, row.start as usize);
                    self.context.forget(slot, start);
                    self.ledger.held[slot] = start;
                }
                return Err(ExecuteError::NoRoom);
            }
            let us = outcome?;
            if nth < split.decoding.len() {
                decoding_us += us;
            }
        }
        self.passes.learn(&split, decoding_us);
        Ok(StepOutput { sampled, lost })
    }

    /// One forward, and what its rows draw, with tokens of no consequence in further slots. Returns the microseconds that the
    /// forward took.
    fn forward(
        &mut self,
        rows: &[&RowWork],
        fillers: &[usize],
        masks: &mut FoundMasks,
        observe: &mut impl FnMut(&RowWork, &[f32]),
        sampled: &mut Vec<Sampled>,
    ) -> Result<f64, ExecuteError> {
        let (places, filled) = self.fill_batch(rows, fillers);
        let began = Instant::now();
        let code = self.context.decode(&mut self.batch);
        let us = began.elapsed().as_secs_f64() * 1e6;
        self.batch.clear();
        match code {
            0 => {}
            // The memory is as it was.
            NO_ROOM => return Err(ExecuteError::NoRoom),
            2 => return Err(self.forget_everything(ExecuteError::Interrupted)),
            code => return Err(self.forget_everything(ExecuteError::Backend { code })),
        }
        for (&work, last) in rows.iter().zip(places) {
            let guesses = work.guesses as usize;
            let slot = work.slot.0 as usize;
            let held = self.ledger.held[slot] + work.tokens.len();
            self.ledger.held[slot] = held;
            let Some(draw) = &work.sample else { continue };
            let masks = masks.of(work, &mut self.masks);
            let tokens = self.draw(work, draw, masks, last - guesses, observe);
            let right = tokens.as_ref().map_or(0, |tokens| tokens.len() - 1);
            if right < guesses {
                self.ledger.held[slot] = held - guesses + right;
                self.context.forget(slot, self.ledger.held[slot]);
            }
            sampled.push(Sampled { slot: work.slot, tokens });
        }
        for slot in filled {
            self.context.forget(slot, self.ledger.held[slot]);
        }
        Ok(us)
    }

    /// Draws from the logits at a place of the batch, and from those after it as long as the guesses there are right.
    fn draw(
        &mut self,
        work: &RowWork,
        draw: &SampleAt,
        masks: Option<RowMasks>,
        place: usize,
        observe: &mut impl FnMut(&RowWork, &[f32]),
    ) -> Result<Vec<Drawn>, SampleError> {
        let tokens = work.tokens.expose();
        let guesses = tokens[tokens.len() - work.guesses as usize..].iter().copied().map(Some).chain([None]);
        let mut draws = Draws::new(draw, masks);
        for (place, guess) in (place..).zip(guesses) {
            let logits = self.context.logits(place).unwrap_or_default();
            observe(work, logits);
            let token = draws.draw(&mut self.sampler, logits)?;
            if guess != Some(token) {
                break;
            }
        }
        Ok(draws.all())
    }

    /// Changes the memory as a plan says. Returns the slots whose state could not be brought back, which are empty now.
    fn change_memory(&mut self, ops: &[MemoryOp]) -> Result<Vec<Slot>, ExecuteError> {
        let mut lost = Vec::new();
        // Rows that share a beginning copy one slot many times.
        let mut copied: Option<(Slot, SavedState)> = None;
        for op in ops {
            self.ledger.change(op)?;
            if let MemoryOp::Forget { slot, .. } | MemoryOp::Restore { slot, .. } | MemoryOp::Copy { to: slot, .. } =
                *op
            {
                copied.take_if(|(of, _)| *of == slot);
            }
            match *op {
                MemoryOp::Forget { slot, from } => self.context.forget(slot.0 as usize, from as usize),
                MemoryOp::Save { slot, .. } if lost.contains(&slot) => {}
                MemoryOp::Save { slot, saved } => {
                    self.saved.insert(saved, SavedState::of(&mut self.context, slot.0 as usize));
                }
                MemoryOp::Restore { slot, saved, keep } => {
                    let state = self.saved.get(&saved);
                    if !state.is_some_and(|state| state.restore(&mut self.context, slot.0 as usize, keep as usize)) {
                        lost.push(slot);
                    }
                }
                // What could not be brought back cannot be copied either.
                MemoryOp::Copy { from, to, .. } if lost.contains(&from) => lost.push(to),
                MemoryOp::Copy { from, to, keep } => {
                    let state = match copied.take() {
                        Some((of, state)) if of == from => state,
                        _ => SavedState::of(&mut self.context, from.0 as usize),
                    };
                    if !state.restore(&mut self.context, to.0 as usize, keep as usize) {
                        lost.push(to);
                    }
                    copied = Some((from, state));
                }
                MemoryOp::Drop { saved } => drop(self.saved.remove(&saved)),
                MemoryOp::DropAll => self.saved.clear(),
            }
        }
        for slot in &lost {
            self.context.forget(slot.0 as usize, 0);
            self.ledger.held[slot.0 as usize] = 0;
        }
        Ok(lost)
    }

    /// Puts the rows' tokens into the batch, and one of no consequence for each filler, by slot. Returns where each row's last
    /// token is, and the slots that got a token of no consequence.
    fn fill_batch(&mut self, rows: &[&RowWork], fillers: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let of_rows = rows.iter().enumerate().map(|(row, work)| (work.slot.0 as usize, Some(row)));
        let mut order: Vec<_> = of_rows.chain(fillers.iter().map(|&slot| (slot, None))).collect();
        order.sort_unstable();
        let mut last_places = vec![0; rows.len()];
        self.batch.clear();
        for (slot, row) in order {
            let Some(row) = row else {
                // Logits too: the output's matrix is multiplied in the same way.
                self.batch.push(0, self.ledger.held[slot], slot, true);
                continue;
            };
            let work = rows[row];
            let tokens = work.tokens.expose();
            let first_output = tokens.len() - 1 - work.guesses as usize;
            for (at, &TokenId(token)) in tokens.iter().enumerate() {
                let wanted = work.sample.is_some() && at >= first_output;
                last_places[row] = self.batch.push(token, work.start as usize + at, slot, wanted);
            }
        }
        let mut filled = fillers.to_vec();
        if self.company {
            filled.extend(self.batch.add_company());
        }
        (last_places, filled)
    }

    /// After a failed forward nobody knows what the sequences hold.
    fn forget_everything(&mut self, error: ExecuteError) -> ExecuteError {
        for slot in 0..self.ledger.held.len() {
            self.context.forget(slot, 0);
            self.ledger.held[slot] = 0;
        }
        error
    }
}

impl Executor for LlamaExecutor {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        self.step_observed(plan, |_, _| {})
    }

    fn erase(&mut self) {
        self.context.erase();
        self.sampler.erase();
        self.ledger.held.fill(0);
    }

    fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        Some(self.context.interrupt())
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Whether the model goes onto an accelerator.
fn runs_on_accelerator(settings: &LlamaSettings) -> Result<bool, LoadModelError> {
    match (settings.accelerator, settings.exactness) {
        (Accelerator::Required, Exactness::Exact) => Err(LoadModelError::InexactAccelerator),
        (Accelerator::Cpu, _) | (Accelerator::Preferred, Exactness::Exact) => Ok(false),
        (Accelerator::Required | Accelerator::Preferred, Exactness::Fast) => {
            let devices = devices();
            let chosen = settings.accelerator.choose(&devices).ok_or(LoadModelError::NoAccelerator)?;
            Ok(chosen.is_accelerator)
        }
    }
}

fn check_settings(settings: &LlamaSettings) -> Result<(), LoadModelError> {
    /// Positions and batch places are 32-bit in llama.cpp; a million is beyond every model and every useful step.
    const TOKENS_MAX: usize = 1 << 20;
    let check = |holds: bool, name| if holds { Ok(()) } else { Err(LoadModelError::Setting(name)) };
    check((1..=raw::SEQUENCES_MAX).contains(&settings.rows_max), "rows_max")?;
    check((2..=TOKENS_MAX).contains(&settings.row_tokens_max), "row_tokens_max")?;
    check((settings.rows_max..=TOKENS_MAX).contains(&settings.step_tokens_max), "step_tokens_max")?;
    check((1..=THREADS_MAX).contains(&settings.threads), "threads")
}

/// Checks that a file is a whole model file, as [`LlamaExecutor::load`] does before llama.cpp sees it: its header holds
/// together, and every tensor that it names lies inside the file. What the header says comes back.
///
/// # Errors
/// [`LoadModelError`] says what is wrong with the file.
pub fn check_model_file(path: &Path) -> Result<ModelHeader, LoadModelError> {
    check_open_model_file(&open(path)?)
}

fn open(path: &Path) -> Result<File, LoadModelError> {
    // Looked at before it is opened: opening a pipe would wait for somebody to write to it.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(LoadModelError::Unreadable(ErrorKind::InvalidInput));
    }
    File::open(path).map_err(unreadable)
}

/// Checks a file that is open, from its beginning, as [`check_model_file`] does.
///
/// # Errors
/// [`LoadModelError`] says what is wrong with the file.
pub fn check_open_model_file(mut file: &File) -> Result<ModelHeader, LoadModelError> {
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(LoadModelError::Unreadable(ErrorKind::InvalidInput));
    }
    file.rewind().map_err(unreadable)?;
    Ok(crate::gguf::check(BufReader::with_capacity(HEADER_BUFFER_BYTES, file), facts.len())?)
}

/// How much of a header is read at a time: whole headers have some megabytes, and many are looked at one after the other.
const HEADER_BUFFER_BYTES: usize = 256 << 10;

fn unreadable(error: std::io::Error) -> LoadModelError {
    let kind = error.kind();
    if kind == ErrorKind::NotFound { LoadModelError::Missing } else { LoadModelError::Unreadable(kind) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
