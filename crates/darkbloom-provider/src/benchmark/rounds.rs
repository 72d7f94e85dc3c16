//! Rounds on one executor that the bare loop and the engine share.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use darkbloom_batch::{MemoryOp, RowEvent, RowId, RowRequest, RowWork, SampleAt, Sampling, Slot, StepOutput, StepPlan};
use darkbloom_engine::{Capacity, EngineHandle, ExecuteError, Executor, LlamaExecutor};
use darkbloom_text::TextModel;
use darkbloom_types::{SecretTokens, TokenCount, TokenId};

use super::report::{BatchReport, LongPromptReport, Spread};
use super::{BenchmarkError, ms};

/// Steps of the rows that decode, before the long prompt comes and after it has its first token.
const STEPS_WITHOUT: usize = 16;

/// An executor that is the engine's, and the bare loop's while no row runs.
#[derive(Clone)]
pub struct SharedExecutor {
    executor: Arc<Mutex<LlamaExecutor>>,
    /// Held to keep the engine's next step from beginning.
    gate: Arc<Mutex<()>>,
    /// The engine's steps that drew, in order.
    drawn: Arc<Mutex<Vec<StepDrawn>>>,
}

/// What a step drew.
struct StepDrawn {
    /// When the step ended.
    at: Instant,
    /// For how many rows, and the first of them.
    rows: usize,
    first: Option<RowId>,
    tokens: usize,
}

impl SharedExecutor {
    pub fn new(executor: LlamaExecutor) -> Self {
        Self { executor: Arc::new(Mutex::new(executor)), gate: Arc::default(), drawn: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, LlamaExecutor> {
        self.executor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_steps(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was drawn since this was last asked.
    fn take_drawn(&self) -> Vec<StepDrawn> {
        std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Executor for SharedExecutor {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        drop(self.hold_steps());
        let output = self.lock().step(plan)?;
        let tokens = output.sampled.iter().flat_map(|row| &row.tokens).map(Vec::len).sum();
        if tokens > 0 {
            let first = plan.rows.iter().map(|row| row.id).min();
            let drawn = StepDrawn { at: Instant::now(), rows: output.sampled.len(), first, tokens };
            self.drawn.lock().unwrap_or_else(PoisonError::into_inner).push(drawn);
        }
        Ok(output)
    }

    fn erase(&mut self) {
        self.lock().erase();
    }

    fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        self.lock().interrupt()
    }

    fn vocabulary(&self) -> usize {
        self.lock().vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.lock().capacity()
    }
}

/// A row that runs, and what was heard of it.
struct Heard {
    submitted: Instant,
    events: Receiver<(Instant, RowEvent)>,
}

/// When a row's tokens came, and its end.
struct Told {
    submitted: Instant,
    tokens: Vec<(Instant, TokenId)>,
}

impl Told {
    fn first_ms(&self) -> Option<f64> {
        self.tokens.first().map(|(at, _)| ms(*at - self.submitted))
    }
}

/// Rows that decoded together.
struct Together {
    told: Vec<Told>,
    /// Tokens a second of all of them.
    model_rate: f64,
}

pub struct Bench {
    pub shared: SharedExecutor,
    pub handle: EngineHandle,
    pub vocabulary: usize,
    pub text: Option<TextModel>,
    pub next_row: u64,
}

impl Bench {
    /// Tokens a second of a prompt on an idle engine.
    pub fn prefill(&mut self, tokens: usize, rounds: usize) -> Result<Spread, BenchmarkError> {
        let mut rates = Vec::new();
        for _ in 0..=rounds {
            let first = self.alone(tokens)?;
            rates.push(tokens as f64 / first * 1e3);
        }
        // The first round warms up.
        Ok(Spread::of(rates.split_off(1)))
    }

    /// Time to the first token of a prompt on an idle engine, in milliseconds.
    fn alone(&mut self, tokens: usize) -> Result<f64, BenchmarkError> {
        let row = self.submit(tokens, 1)?;
        to_the_end(row)?.first_ms().ok_or(BenchmarkError::RowEnded)
    }

    /// Rows that decode together, by the bare loop and by the engine in turns.
    pub fn batch(
        &mut self,
        rows: usize,
        prompt: usize,
        output: u32,
        rounds: usize,
    ) -> Result<BatchReport, BenchmarkError> {
        let (mut bare, mut engine, mut visible, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        // The first round warms up, and shows how much those that begin first say before the last one has begun.
        let mut whole = output;
        let mut together = self.together(rows, prompt, whole)?;
        while window(&together.told).is_none_or(|window| window.steps + 1 < output) {
            let room = u32::try_from(self.shared.capacity().row_tokens_max - prompt).unwrap_or(u32::MAX);
            if whole == room {
                return Err(BenchmarkError::Context {
                    context: prompt + room as usize,
                    needed: prompt + 2 * room as usize,
                });
            }
            whole = whole.saturating_mul(2).min(room);
            together = self.together(rows, prompt, whole)?;
        }
        for round in 0..=rounds {
            let Some(Window { said, steps }) = window(&together.told) else { return Err(BenchmarkError::RowEnded) };
            // The bare loop decodes where the engine did, as often, with as much behind it.
            let of_bare = self.bare(prompt, &said, steps)?;
            together = self.together(rows, prompt, whole)?;
            // Another warm-up, of the bare loop.
            if round > 0 {
                bare.push(of_bare);
                engine.push(together.model_rate);
                first.extend(together.told.iter().filter_map(Told::first_ms));
                if let Some(text) = &self.text {
                    visible.push(steady_rate(&together.told, |row| visible_times(text, &row.tokens)));
                }
            }
        }
        let (bare, engine) = (Spread::of(bare), Spread::of(engine));
        Ok(BatchReport {
            rows,
            bare_tokens_per_second: bare,
            tokens_per_second: engine,
            engine_over_bare: engine.median / bare.median,
            visible_tokens_per_second: (!visible.is_empty()).then(|| Spread::of(visible)),
            first_token_ms: Spread::of(first),
        })
    }

    /// Tokens a second of a plain loop of so many steps, after each row was fed its prompt and what it said before.
    fn bare(&mut self, prompt: usize, said: &[usize], steps: u32) -> Result<f64, BenchmarkError> {
        let mut executor = self.shared.lock();
        let rows = said.len();
        let vocabulary = executor.vocabulary();
        let greedy = Arc::new(Sampling::greedy());
        let forget = || (0..rows).map(|row| MemoryOp::Forget { slot: slot(row), from: 0 }).collect::<Vec<_>>();
        let work = |row: usize, start: usize, tokens: Vec<TokenId>, position: u32| RowWork {
            slot: slot(row),
            id: RowId(row as u64),
            start: u32::try_from(start).unwrap_or(u32::MAX),
            tokens: SecretTokens::new(tokens),
            guesses: 0,
            sample: Some(SampleAt::new(Arc::clone(&greedy), position)),
        };
        let mut memory = forget();
        let mut last = vec![TokenId(0); rows];
        let piece_max = executor.capacity().step_tokens_max;
        for (row, last) in last.iter_mut().enumerate() {
            let tokens = prompt_of(row as u64, prompt + said[row], vocabulary);
            for (nth, piece) in tokens.chunks(piece_max).enumerate() {
                let rows = vec![work(row, nth * piece_max, piece.to_vec(), 0)];
                *last = only(executor.step(&StepPlan { memory: std::mem::take(&mut memory), rows })?)?;
            }
        }
        let began = Instant::now();
        for position in 1..=steps {
            let start = |row: usize| prompt + said[row] + position as usize - 1;
            let rows =
                last.iter().enumerate().map(|(row, last)| work(row, start(row), vec![*last], position)).collect();
            for sampled in executor.step(&StepPlan { memory: Vec::new(), rows })?.sampled {
                let drawn = sampled.tokens.map_err(|_| BenchmarkError::RowEnded)?;
                last[sampled.slot.0 as usize] = drawn.first().ok_or(BenchmarkError::RowEnded)?.token;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        executor.step(&StepPlan { memory: forget(), rows: Vec::new() })?;
        Ok(rows as f64 * f64::from(steps) / seconds)
    }

    /// Rows that come to the engine at once and run to their ends.
    fn together(&mut self, rows: usize, prompt: usize, output: u32) -> Result<Together, BenchmarkError> {
        // A row's step is held until the others are there, so that they all begin in the step after it.
        let shared = self.shared.clone();
        let held = shared.hold_steps();
        let opener = self.submit(1, 1)?;
        opener.events.recv().map_err(|_| BenchmarkError::RowEnded)?;
        let first = RowId(self.next_row);
        let rows: Vec<_> = (0..rows).map(|_| self.submit(prompt, output)).collect::<Result<_, _>>()?;
        drop(held);
        let told = rows.into_iter().map(to_the_end).collect::<Result<Vec<_>, _>>()?;
        let mut drawn = self.shared.take_drawn();
        drawn.retain(|step| step.first >= Some(first) && step.rows == told.len());
        Ok(Together { told, model_rate: model_rate(&drawn) })
    }

    /// A long prompt that comes while others decode.
    pub fn long_prompt(
        &mut self,
        decoders: usize,
        tokens: usize,
        rounds: usize,
    ) -> Result<LongPromptReport, BenchmarkError> {
        let (mut without, mut during, mut alone, mut among) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let solo = self.alone(tokens)?;
            // They decode until they are told to stop: the longest that a row can.
            let room = u32::try_from(self.shared.capacity().row_tokens_max - super::PROMPT_TOKENS).unwrap_or(u32::MAX);
            let first_row = self.next_row;
            let decoding: Vec<_> =
                (0..decoders).map(|_| self.submit(super::PROMPT_TOKENS, room)).collect::<Result<_, _>>()?;
            let mut told = Vec::new();
            for row in decoding {
                told.push(listen(row, |tokens| tokens.len() >= STEPS_WITHOUT)?);
            }
            let long = self.submit(tokens, 1)?;
            let came = long.submitted;
            let first = to_the_end(long)?;
            let until = first.tokens.first().ok_or(BenchmarkError::RowEnded)?.0;
            let goes_on = |(row, so_far)| {
                let after = |tokens: &[(Instant, TokenId)]| tokens.iter().filter(|(at, _)| *at > until).count();
                listen_further(row, so_far, |tokens| after(tokens) >= STEPS_WITHOUT)
            };
            let told = told.into_iter().map(goes_on).collect::<Result<Vec<_>, _>>()?;
            for row in first_row..first_row + decoders as u64 {
                self.handle.cancel(RowId(row));
            }
            let rows: Vec<Told> = told.into_iter().map(rest).collect();
            // The last row's first token came with a step that fed its prompt, for which the others had waited.
            let all_decode = rows.iter().filter_map(|row| row.tokens.get(1)).map(|(at, _)| *at).max();
            if round > 0 {
                alone.push(solo);
                among.push(ms(until - came));
                // They grow slower as their answers grow longer, prompt or no prompt.
                let after = rows.iter().filter_map(|row| row.tokens.last()).map(|(at, _)| *at).min();
                let gaps = [(all_decode.unwrap_or(came), came), (until, after.unwrap_or(until))];
                // A row whose context is full before that has no gaps after it.
                let gaps: Vec<_> = gaps
                    .map(|(from, to)| mean_gap(&rows, from, to))
                    .into_iter()
                    .filter(|gap| gap.is_finite())
                    .collect();
                without.push(gaps.iter().sum::<f64>() / gaps.len() as f64);
                during.push(mean_gap(&rows, came, until));
            }
        }
        Ok(LongPromptReport {
            decoders,
            prompt_tokens: tokens,
            gap_without_ms: Spread::of(without),
            gap_during_ms: Spread::of(during),
            first_token_alone_ms: Spread::of(alone),
            first_token_ms: Spread::of(among),
        })
    }

    fn submit(&mut self, prompt: usize, output: u32) -> Result<Heard, BenchmarkError> {
        let id = self.next_row;
        self.next_row += 1;
        let tokens = prompt_of(id, prompt, self.vocabulary);
        let (sender, events) = mpsc::channel();
        let submitted = Instant::now();
        // No stop tokens: it decodes past what ends an answer.
        let row = RowRequest::new(RowId(id), SecretTokens::new(tokens), TokenCount(output));
        let sink = Box::new(move |event| {
            // Nobody listens any more when the benchmark has failed.
            let _ = sender.send((Instant::now(), event));
        });
        self.handle.submit(row, sink).map_err(|_| BenchmarkError::RowEnded)?;
        Ok(Heard { submitted, events })
    }
}

fn slot(row: usize) -> Slot {
    Slot(u32::try_from(row).unwrap_or(u32::MAX))
}

/// Tokens that look like nothing in particular, another row others, so that nothing can be guessed.
fn prompt_of(row: u64, tokens: usize, vocabulary: usize) -> Vec<TokenId> {
    let mut state = row.wrapping_add(11).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        TokenId(u32::try_from(state % vocabulary as u64).unwrap_or(0))
    };
    (0..tokens).map(|_| next()).collect()
}

/// The one token that a step of one row gave.
fn only(output: StepOutput) -> Result<TokenId, BenchmarkError> {
    let sampled = output.sampled.into_iter().next().ok_or(BenchmarkError::RowEnded)?;
    let drawn = sampled.tokens.map_err(|_| BenchmarkError::RowEnded)?;
    drawn.first().map(|drawn| drawn.token).ok_or(BenchmarkError::RowEnded)
}

fn to_the_end(row: Heard) -> Result<Told, BenchmarkError> {
    let mut tokens = Vec::new();
    for (at, event) in row.events {
        match event {
            RowEvent::Started { .. } => {}
            RowEvent::Token { token, .. } => tokens.push((at, token)),
            RowEvent::Ended { failure: None, .. } => return Ok(Told { submitted: row.submitted, tokens }),
            RowEvent::Ended { failure: Some(_), .. } => break,
        }
    }
    Err(BenchmarkError::RowEnded)
}

/// What a row that goes on has said.
type SoFar = Vec<(Instant, TokenId)>;

/// Listens until enough tokens have come, or the row has ended.
fn listen(row: Heard, enough: impl Fn(&SoFar) -> bool) -> Result<(Heard, SoFar), BenchmarkError> {
    listen_further(row, Vec::new(), enough)
}

/// The same after some have come already.
fn listen_further(
    row: Heard,
    mut tokens: SoFar,
    enough: impl Fn(&SoFar) -> bool,
) -> Result<(Heard, SoFar), BenchmarkError> {
    while !enough(&tokens) {
        match row.events.recv() {
            Ok((at, RowEvent::Token { token, .. })) => tokens.push((at, token)),
            Ok((_, RowEvent::Started { .. })) => {}
            // Its context is full.
            Ok((_, RowEvent::Ended { failure: None, .. })) => break,
            Ok((_, RowEvent::Ended { failure: Some(_), .. })) | Err(_) => return Err(BenchmarkError::RowEnded),
        }
    }
    Ok((row, tokens))
}

/// Listens to a row's end, however it comes.
fn rest((row, mut tokens): (Heard, SoFar)) -> Told {
    for (at, event) in row.events {
        if let RowEvent::Token { token, .. } = event {
            tokens.push((at, token));
        }
    }
    Told { submitted: row.submitted, tokens }
}

/// While every row decodes.
struct Window {
    /// What each row had said at its beginning.
    said: Vec<usize>,
    /// Steps in it.
    steps: u32,
}

/// From the last row's first token to the first row's last, when there is anything between them.
fn window(rows: &[Told]) -> Option<Window> {
    let from = rows.iter().filter_map(|row| row.tokens.first()).map(|(at, _)| *at).max()?;
    let to = rows.iter().filter_map(|row| row.tokens.last()).map(|(at, _)| *at).min()?;
    let until = |row: &Told, moment: Instant| row.tokens.iter().filter(|(at, _)| *at <= moment).count();
    let said: Vec<usize> = rows.iter().map(|row| until(row, from)).collect();
    let steps = rows.iter().zip(&said).map(|(row, said)| until(row, to).saturating_sub(*said)).min()?;
    (steps > 0).then(|| Window { said, steps: u32::try_from(steps).unwrap_or(u32::MAX) })
}

/// Tokens a second of these steps, by their ends: rows are told up to a millisecond later.
fn model_rate(steps: &[StepDrawn]) -> f64 {
    let [first, others @ .., last] = steps else { return f64::NAN };
    let tokens = others.iter().map(|step| step.tokens).sum::<usize>() + last.tokens;
    tokens as f64 / (last.at - first.at).as_secs_f64()
}

/// Tokens a second of all rows while each of them decodes: from the last one's first token to the first one's last.
fn steady_rate(rows: &[Told], times: impl Fn(&Told) -> Vec<Instant>) -> f64 {
    let times: Vec<_> = rows.iter().map(times).collect();
    let from = times.iter().filter_map(|times| times.first()).max();
    let to = times.iter().filter_map(|times| times.last()).min();
    let Some((from, to)) = from.zip(to).filter(|(from, to)| from < to) else { return f64::NAN };
    let count = times.iter().flatten().filter(|at| *at > from && *at <= to).count();
    count as f64 / (*to - *from).as_secs_f64()
}

/// When each token's text was there: with the token that completed its last character.
fn visible_times(text: &TextModel, tokens: &[(Instant, TokenId)]) -> Vec<Instant> {
    let mut decoder = text.decoder();
    let (mut shown, mut waiting) = (Vec::new(), 0);
    for (at, token) in tokens {
        waiting += 1;
        if !decoder.push(*token).is_empty() {
            shown.extend(std::iter::repeat_n(*at, waiting));
            waiting = 0;
        }
    }
    shown
}

/// Mean time between neighbouring tokens of a row, over all rows, in milliseconds: of gaps that end after `from`, at `to` at
/// the latest. The first token of a row ends none.
fn mean_gap(rows: &[Told], from: Instant, to: Instant) -> f64 {
    let mut gaps = Vec::new();
    for row in rows {
        for pair in row.tokens.windows(2) {
            let [(start, _), (end, _)] = pair else { continue };
            if *end > from && *end <= to {
                gaps.push(ms(*end - *start));
            }
        }
    }
    gaps.iter().sum::<f64>() / gaps.len() as f64
}
