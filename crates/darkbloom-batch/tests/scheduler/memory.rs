//! A model's memory that checks every plan against itself, rows that say something, and what was said about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use darkbloom_batch::{
    Drawn, EndReason, Limits, MemoryOp, RowEvent, RowFailure, RowId, RowRequest, RowWork, Sampled, SavedId, Scheduler,
    Scope, StepOutput, StepPlan,
};
use darkbloom_types::{Millis, MonoMillis, SecretTokens, TokenCount, TokenId};

pub const LIMITS: Limits = Limits {
    rows_max: 4,
    row_tokens_max: 64,
    step_tokens_max: 8,
    waiting_max: 5,
    saved_tokens_max: 128,
    prefix_keep: Millis(1_000),
    trims: true,
};
pub const STOP: TokenId = TokenId(0);
pub const NOW: MonoMillis = MonoMillis(0);

pub fn request(id: u64, prompt_tokens: usize, max_output: u32) -> RowRequest {
    let prompt = (0..prompt_tokens).map(|at| TokenId(1 + ((id as u32 * 7 + at as u32) % 50))).collect();
    let mut request = RowRequest::new(RowId(id), SecretTokens::new(prompt), TokenCount(max_output));
    request.stop_tokens = vec![STOP];
    request
}

/// What a row says after a history of tokens: a token from 0 to 12, of which 0 stops the row. Rows whose prompt begins with an
/// even token repeat themselves.
pub fn next_token(history: &[TokenId]) -> TokenId {
    if history[0].0.is_multiple_of(2) && !history.len().is_multiple_of(31) {
        return TokenId(1 + history.len() as u32 % 5);
    }
    let mixed = history.iter().fold(17u32, |hash, token| (hash ^ token.0).wrapping_mul(0x0100_0193).rotate_left(5));
    TokenId(mixed % 13)
}

/// The answer of a row that runs alone.
pub fn answer(request: &RowRequest, row_tokens_max: usize) -> (Vec<TokenId>, EndReason) {
    let mut history = request.prompt.expose().to_vec();
    let mut tokens = Vec::new();
    loop {
        let token = next_token(&history);
        if request.stop_tokens.contains(&token) {
            return (tokens, EndReason::StopToken);
        }
        tokens.push(token);
        history.push(token);
        if tokens.len() == request.max_output.0 as usize || history.len() == row_tokens_max {
            return (tokens, EndReason::Length);
        }
    }
}

/// Who may see a token in memory: the rows of a scope, or one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Owned {
    Scope(Scope),
    Row(RowId),
}

pub type Held = Vec<(TokenId, Owned)>;

/// The memory. Everything in it knows whose it is.
pub struct Memory {
    pub slots: Vec<Held>,
    pub saved: BTreeMap<SavedId, Held>,
    limits: Limits,
    /// The scopes of the rows that have one.
    pub scopes: BTreeMap<RowId, Scope>,
    /// Tokens that forwards took in.
    pub fed: usize,
}

impl Memory {
    pub fn new(limits: Limits) -> Self {
        let slots = vec![Vec::new(); limits.rows_max];
        Self { slots, saved: BTreeMap::new(), limits, scopes: BTreeMap::new(), fed: 0 }
    }

    pub fn owned(&self, id: RowId) -> Owned {
        self.scopes.get(&id).map_or(Owned::Row(id), |scope| Owned::Scope(*scope))
    }

    pub fn apply(&mut self, op: &MemoryOp) {
        let trims = self.limits.trims;
        let keep_first = |held: &mut Held, keep: u32| {
            assert!(keep as usize <= held.len(), "more is kept than there is");
            assert!(trims || keep == 0 || keep as usize == held.len(), "memory that cannot be trimmed is");
            held.truncate(keep as usize);
        };
        match *op {
            MemoryOp::Forget { slot, from } => keep_first(&mut self.slots[slot.0 as usize], from),
            MemoryOp::Save { slot, saved } => {
                let held = self.slots[slot.0 as usize].clone();
                assert!(self.saved.insert(saved, held).is_none(), "a name is used twice");
            }
            MemoryOp::Restore { slot, saved, keep } => {
                let mut held = self.saved[&saved].clone();
                keep_first(&mut held, keep);
                assert!(self.slots[slot.0 as usize].is_empty(), "restored over something");
                self.slots[slot.0 as usize] = held;
            }
            MemoryOp::Copy { from, to, keep } => {
                let mut held = self.slots[from.0 as usize].clone();
                keep_first(&mut held, keep);
                assert!(self.slots[to.0 as usize].is_empty(), "copied over something");
                self.slots[to.0 as usize] = held;
            }
            MemoryOp::DropAll => self.saved.clear(),
            MemoryOp::Drop { saved } => assert!(self.saved.remove(&saved).is_some(), "dropped and not there"),
        }
        let saved: usize = self.saved.values().map(Vec::len).sum();
        assert!(saved <= self.limits.saved_tokens_max, "too much is saved");
    }

    pub fn step(&mut self, plan: &StepPlan) -> StepOutput {
        plan.memory.iter().for_each(|op| self.apply(op));
        assert!(!plan.rows.is_empty() || !plan.memory.is_empty(), "a step without work");
        assert!(plan.token_count() <= self.limits.step_tokens_max, "the step's budget is exceeded");
        let used: BTreeSet<_> = plan.rows.iter().map(|row| row.slot).collect();
        assert_eq!(used.len(), plan.rows.len(), "a slot is used twice in a step");
        let sampled = plan.rows.iter().filter_map(|row| self.feed(row)).collect();
        StepOutput { sampled, lost: Vec::new() }
    }

    fn feed(&mut self, row: &RowWork) -> Option<Sampled> {
        let owned = self.owned(row.id);
        let held = &mut self.slots[row.slot.0 as usize];
        let tokens = row.tokens.expose();
        self.fed += tokens.len();
        assert_eq!(held.len(), row.start as usize, "a row starts where its slot does not end");
        assert!(held.iter().all(|(_, other)| *other == owned), "a row sees what another scope left");
        let sure = tokens.len() - row.guesses as usize;
        assert!(sure > 0, "a row feeds nothing that is sure");
        assert!(held.len() + tokens.len() < self.limits.row_tokens_max, "a row outgrows its context");
        assert!(row.guesses == 0 || (row.sample.is_some() && self.limits.trims));
        held.extend(tokens[..sure].iter().map(|token| (*token, owned)));
        row.sample.as_ref()?;
        let mut drawn = Vec::new();
        for guess in tokens[sure..].iter().copied().map(Some).chain([None]) {
            let history: Vec<_> = held.iter().map(|(token, _)| *token).collect();
            let token = next_token(&history);
            drawn.push(Drawn { token, logprobs: None });
            if guess != Some(token) {
                break;
            }
            held.push((token, owned));
        }
        Some(Sampled { slot: row.slot, tokens: Ok(drawn) })
    }
}

/// What was said about each row, with the rules of order checked as it comes in.
#[derive(Default)]
pub struct Story {
    pub started: Vec<RowId>,
    pub tokens: BTreeMap<RowId, Vec<TokenId>>,
    pub ended: BTreeMap<RowId, (EndReason, u32, Option<RowFailure>)>,
}

impl Story {
    pub fn tell(&mut self, events: Vec<RowEvent>) {
        for event in events {
            assert!(!self.ended.contains_key(&event.id()), "something follows a row's end");
            match event {
                RowEvent::Started { id } => {
                    assert!(!self.started.contains(&id), "a row started twice");
                    self.started.push(id);
                }
                RowEvent::Token { id, token, index, .. } => {
                    assert!(self.started.contains(&id));
                    let tokens = self.tokens.entry(id).or_default();
                    assert_eq!(tokens.len(), index as usize);
                    tokens.push(token);
                }
                RowEvent::Ended { id, reason, output_tokens, failure } => {
                    let reported = self.tokens.get(&id).map_or(0, Vec::len) as u32;
                    assert_eq!(output_tokens.0, reported + u32::from(reason == EndReason::StopToken));
                    assert_eq!(failure.is_some(), reason == EndReason::Failed);
                    self.ended.insert(id, (reason, output_tokens.0, failure));
                }
            }
        }
    }
}

/// A scheduler, the memory that it plans for, and what it said.
pub struct Bench {
    pub scheduler: Scheduler,
    pub memory: Memory,
    pub story: Story,
    pub now: MonoMillis,
}

impl Bench {
    pub fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits).unwrap(),
            memory: Memory::new(limits),
            story: Story::default(),
            now: NOW,
        }
    }

    pub fn submit(&mut self, request: RowRequest) {
        if let Some(scope) = request.scope {
            self.memory.scopes.insert(request.id, scope);
        }
        self.scheduler.submit(request, self.now).unwrap();
    }

    /// The next plan, executed in 100 µs and 10 for each token.
    pub fn step(&mut self) -> Option<StepPlan> {
        self.step_taking(|tokens| 100 + 10 * tokens as u64)
    }

    /// The next plan, executed in the time that its tokens take.
    pub fn step_taking(&mut self, us: impl Fn(usize) -> u64) -> Option<StepPlan> {
        let plan = self.scheduler.plan(self.now);
        self.story.tell(self.scheduler.take_events());
        let plan = plan?;
        let output = self.memory.step(&plan);
        let took_us = us(plan.token_count());
        self.story.tell(self.scheduler.update(output, took_us, self.now));
        Some(plan)
    }

    pub fn run_to_the_end(&mut self) -> usize {
        let mut steps = 0;
        while self.step().is_some() {
            steps += 1;
            assert!(steps < 100_000, "the scheduler never finishes");
        }
        steps
    }

    /// What an engine does when no row has come for a while.
    pub fn erase(&mut self) {
        if let Some(plan) = self.scheduler.plan_before_erasing(self.now) {
            assert!(plan.rows.is_empty());
            self.memory.step(&plan);
            self.story.tell(self.scheduler.update(StepOutput::default(), 5, self.now));
        }
        // Rows that waited too long have ended with that.
        self.story.tell(self.scheduler.take_events());
        self.memory.slots.iter_mut().for_each(Vec::clear);
        self.scheduler.erased();
    }

    /// Runs a row to its end and returns how many tokens were fed for it.
    pub fn run(&mut self, request: RowRequest) -> usize {
        let before = self.memory.fed;
        self.submit(request);
        self.run_to_the_end();
        self.memory.fed - before
    }
}

pub fn scope(name: u8) -> Scope {
    Scope::new([name; 32])
}

/// A request with a scope, whose prompt begins as all of its kind do.
pub fn scoped(id: u64, name: u8, common: usize, own: usize) -> RowRequest {
    let mut request = request(id, own, 4);
    let tokens = (0..common).map(|at| TokenId(1 + (at as u32 * 3) % 49)).chain(request.prompt.expose().iter().copied());
    request.prompt = SecretTokens::new(tokens.collect());
    request.scope = Some(scope(name));
    request.sampling = Arc::clone(&request.sampling);
    request
}
