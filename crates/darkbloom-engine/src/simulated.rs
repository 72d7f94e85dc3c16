//! An executor without a model: its cost is scripted, its tokens are a function of each row's own history.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darkbloom_batch::{
    Drawn, MemoryOp, RowWork, SampleAt, SampleError, Sampled, Sampler, SavedId, StepOutput, StepPlan,
};
use darkbloom_types::TokenId;

use crate::executor::{Draws, Ledger};
use crate::masks::{MaskFinder, RowMasks};
use crate::{Capacity, ExecuteError, Executor};

/// How long a step takes: the sum, slept. The default takes no time at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostModel {
    /// For the step itself: reading the weights.
    pub step: Duration,
    /// For each row that decodes one token.
    pub decode_token: Duration,
    /// For each token of a longer piece, a prompt's.
    pub prefill_token: Duration,
}

impl CostModel {
    /// What a step costs.
    #[must_use]
    pub fn cost(&self, plan: &StepPlan) -> Duration {
        plan.rows.iter().fold(self.step, |sum, row| {
            let each = if row.tokens.len() == 1 { self.decode_token } else { self.prefill_token };
            sum + each * u32::try_from(row.tokens.len()).unwrap_or(u32::MAX)
        })
    }
}

/// What a simulated executor has done, readable while an engine runs it.
#[derive(Debug, Default)]
pub struct SimulatedCounters {
    forwards: AtomicU64,
    tokens: AtomicU64,
    rows_widest: AtomicU64,
    erased: AtomicU64,
}

impl SimulatedCounters {
    /// Forwards executed.
    #[must_use]
    pub fn forwards(&self) -> u64 {
        self.forwards.load(Ordering::Relaxed)
    }

    /// Tokens taken in by all of them.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Times that its memory was overwritten.
    #[must_use]
    pub fn erased(&self) -> u64 {
        self.erased.load(Ordering::Relaxed)
    }

    /// Most rows that shared one.
    #[must_use]
    pub fn rows_widest(&self) -> u64 {
        self.rows_widest.load(Ordering::Relaxed)
    }
}

/// The simulated executor. It holds plans to the same rules as a real one, and draws with the real sampler from logits
/// made of the row's own history: a row that depends on its neighbours shows.
#[derive(Default)]
pub struct SimulatedExecutor {
    capacity: Capacity,
    vocabulary: usize,
    cost: CostModel,
    failing_steps: BTreeSet<u64>,
    /// What is done while the forward would run.
    during: Option<Box<dyn FnMut() + Send>>,
    steps: u64,
    counters: Arc<SimulatedCounters>,
    ledger: Ledger,
    /// For each slot and each number of tokens, from none on: what they were, in one number.
    histories: Vec<Vec<u64>>,
    saved: HashMap<SavedId, Vec<u64>>,
    sampler: Sampler,
    masks: MaskFinder,
    logits: Vec<f32>,
}

impl Default for Capacity {
    /// Eight rows of 1,024 tokens, 256 tokens a step: what the small model that ships with the repository runs with.
    fn default() -> Self {
        Self { rows_max: 8, row_tokens_max: 1_024, step_tokens_max: 256, trims: true }
    }
}

impl SimulatedExecutor {
    /// An executor with the given capacity and vocabulary.
    #[must_use]
    pub fn new(capacity: Capacity, vocabulary: usize, cost: CostModel) -> Self {
        Self {
            capacity,
            vocabulary,
            cost,
            ledger: Ledger::new(capacity, vocabulary),
            histories: vec![vec![0]; capacity.rows_max],
            logits: vec![0.0; vocabulary],
            ..Self::default()
        }
    }

    /// Makes the given steps fail, counted from 0.
    #[must_use]
    pub fn failing_at(mut self, steps: impl IntoIterator<Item = u64>) -> Self {
        self.failing_steps.extend(steps);
        self
    }

    /// Does this while the forward of each step would run.
    #[must_use]
    pub fn during_forwards(mut self, during: impl FnMut() + Send + 'static) -> Self {
        self.during = Some(Box::new(during));
        self
    }

    /// Counts what it does.
    #[must_use]
    pub fn counters(&self) -> Arc<SimulatedCounters> {
        Arc::clone(&self.counters)
    }
}

impl SimulatedExecutor {
    fn change(&mut self, op: &MemoryOp) {
        match *op {
            MemoryOp::Forget { slot, from } => self.histories[slot.0 as usize].truncate(from as usize + 1),
            MemoryOp::Save { slot, saved } => {
                self.saved.insert(saved, self.histories[slot.0 as usize].clone());
            }
            MemoryOp::Restore { slot, saved, keep } => {
                self.histories[slot.0 as usize] = self.saved[&saved][..=keep as usize].to_vec();
            }
            MemoryOp::Copy { from, to, keep } => {
                self.histories[to.0 as usize] = self.histories[from.0 as usize][..=keep as usize].to_vec();
            }
            MemoryOp::Drop { saved } => {
                self.saved.remove(&saved);
            }
            MemoryOp::DropAll => self.saved.clear(),
        }
    }

    fn feed(&mut self, row: &RowWork, masks: Option<RowMasks>) -> Option<Sampled> {
        let slot = row.slot.0 as usize;
        let tokens = row.tokens.expose();
        let (sure, guesses) = tokens.split_at(tokens.len() - row.guesses as usize);
        sure.iter().for_each(|token| self.remember(slot, *token));
        let tokens = row.sample.as_ref().map(|draw| self.draw(slot, draw, masks, guesses));
        self.ledger.held[slot] = self.histories[slot].len() - 1;
        tokens.map(|tokens| Sampled { slot: row.slot, tokens })
    }

    /// Draws as long as the guesses are right.
    fn draw(
        &mut self,
        slot: usize,
        draw: &SampleAt,
        masks: Option<RowMasks>,
        guesses: &[TokenId],
    ) -> Result<Vec<Drawn>, SampleError> {
        let mut draws = Draws::new(draw, masks);
        for guess in guesses.iter().copied().map(Some).chain([None]) {
            let mut state = self.histories[slot].last().copied().unwrap_or_default();
            for logit in &mut self.logits {
                state = mix(state);
                *logit = (state >> 40) as f32 / (1u64 << 22) as f32;
            }
            let token = draws.draw(&mut self.sampler, &self.logits)?;
            match guess {
                Some(guess) if guess == token => self.remember(slot, token),
                Some(_) | None => break,
            }
        }
        Ok(draws.all())
    }

    fn remember(&mut self, slot: usize, token: TokenId) {
        let before = self.histories[slot].last().copied().unwrap_or_default();
        self.histories[slot].push(mix(before ^ u64::from(token.0).wrapping_add(1)));
    }
}

impl Executor for SimulatedExecutor {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        let step = self.steps;
        self.steps += 1;
        if self.failing_steps.contains(&step) {
            return Err(ExecuteError::Injected);
        }
        for op in &plan.memory {
            self.ledger.change(op)?;
            self.change(op);
        }
        self.ledger.check(&plan.rows)?;
        if plan.rows.is_empty() {
            return Ok(StepOutput::default());
        }
        let mut masks = self.masks.ask(&plan.rows);
        if let Some(during) = &mut self.during {
            during();
        }
        let cost = self.cost.cost(plan);
        if !cost.is_zero() {
            std::thread::sleep(cost);
        }
        self.counters.forwards.fetch_add(1, Ordering::Relaxed);
        self.counters.tokens.fetch_add(plan.token_count() as u64, Ordering::Relaxed);
        self.counters.rows_widest.fetch_max(plan.rows.len() as u64, Ordering::Relaxed);
        let feed = |row| {
            let masks = masks.of(row, &mut self.masks);
            self.feed(row, masks)
        };
        let sampled = plan.rows.iter().filter_map(feed).collect();
        Ok(StepOutput { sampled, lost: Vec::new() })
    }

    fn erase(&mut self) {
        self.sampler.erase();
        self.ledger.held.fill(0);
        self.histories.iter_mut().for_each(|history| history.truncate(1));
        self.counters.erased.fetch_add(1, Ordering::Relaxed);
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
