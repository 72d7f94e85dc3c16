//! What the scheduler and the engine's thread cost over a bare loop on the executor, at one to eight rows.
//!
//! `cargo run --release -p darkbloom-engine --example engine_bench -- MODEL.gguf [output=64] [rounds=7] [threads=N]
//! [context=512] [exactness=exact|fast]`
//!
//! Both sides do the same work: prompts of 16 tokens for all rows, then `output` tokens each, greedy. They take turns,
//! and the medians over the rounds are shown with the lowest and the highest.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use darkbloom_batch::{MemoryOp, RowEvent, RowId, RowRequest, RowWork, SampleAt, Sampling, Slot, StepPlan};
use darkbloom_engine::{Engine, EngineHandle, Exactness, Executor, LlamaExecutor, LlamaSettings};
use darkbloom_types::{SecretTokens, TokenCount, TokenId};

const ROWS: [usize; 4] = [1, 2, 4, 8];
const PROMPT_TOKENS: usize = 16;

struct Options {
    model: String,
    output: u32,
    rounds: usize,
    settings: LlamaSettings,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut arguments = std::env::args().skip(1);
        let model = arguments.next().ok_or("usage: engine_bench MODEL.gguf [key=value ...]")?;
        let mut options = Self { model, output: 64, rounds: 7, settings: LlamaSettings::new(8, 512) };
        for argument in arguments {
            match argument.split_once('=').ok_or("arguments after the model are key=value")? {
                ("output", value) => options.output = value.parse()?,
                ("rounds", value) => options.rounds = value.parse()?,
                ("threads", value) => options.settings.threads = value.parse()?,
                ("context", value) => options.settings.row_tokens_max = value.parse()?,
                ("exactness", "exact") => options.settings.exactness = Exactness::Exact,
                ("exactness", "fast") => options.settings.exactness = Exactness::Fast,
                (key, _) => return Err(format!("unknown argument {key}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let mut out = std::io::stdout();
    let path = Path::new(&options.model);
    let mut bare = LlamaExecutor::load(path, &options.settings)?;
    let shared = LlamaExecutor::load(path, &options.settings)?;
    let (vocabulary, capacity) = (shared.vocabulary(), shared.capacity());
    let engine = Engine::start(shared, capacity.limits(8))?;
    let handle = engine.handle();

    writeln!(out, "{:?}", options.settings)?;
    writeln!(out, "rows  bare loop tok/s (low-high)     engine tok/s (low-high)        engine/bare")?;
    for rows in ROWS {
        let prompts: Vec<_> = (0..rows).map(|row| prompt(row, vocabulary)).collect();
        let (mut of_bare, mut of_engine) = (Vec::new(), Vec::new());
        // The first round warms up.
        for round in 0..=options.rounds {
            let bare_seconds = run_bare(&mut bare, &prompts, options.output)?;
            let engine_seconds = run_engine(&handle, &prompts, options.output)?;
            if round > 0 {
                let tokens = rows as f64 * f64::from(options.output);
                of_bare.push(tokens / bare_seconds);
                of_engine.push(tokens / engine_seconds);
            }
        }
        let (bare, engine) = (Spread::of(of_bare), Spread::of(of_engine));
        writeln!(
            out,
            "{rows:4}  {:9.1} ({:.1}-{:.1})     {:9.1} ({:.1}-{:.1})     {:.3}",
            bare.median,
            bare.low,
            bare.high,
            engine.median,
            engine.low,
            engine.high,
            engine.median / bare.median
        )?;
    }
    time_erasing(&mut bare, &mut out)?;
    Ok(())
}

/// Overwriting the memory of all rows, as an idle engine does.
fn time_erasing(executor: &mut LlamaExecutor, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let times = (0..7).map(|_| {
        let began = Instant::now();
        executor.erase();
        began.elapsed().as_secs_f64() * 1e3
    });
    let Spread { low, median, high } = Spread::of(times.collect());
    writeln!(out, "erasing the rows' memory: {median:.2} ms ({low:.2}-{high:.2})")?;
    Ok(())
}

struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { low: at(0), median: at(values.len() / 2), high: at(values.len().saturating_sub(1)) }
    }
}

fn prompt(row: usize, vocabulary: usize) -> Vec<TokenId> {
    let vocabulary = vocabulary as u32;
    (0..PROMPT_TOKENS as u32).map(|at| TokenId((row as u32 * 7_919 + at * 104_729) % vocabulary)).collect()
}

fn run_bare(executor: &mut LlamaExecutor, prompts: &[Vec<TokenId>], output: u32) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let greedy = Arc::new(Sampling::greedy());
    let mut feed = prompts.to_vec();
    let slots = 0..u32::try_from(prompts.len())?;
    let mut memory: Vec<_> = slots.clone().map(|slot| MemoryOp::Forget { slot: Slot(slot), from: 0 }).collect();
    for position in 0..output {
        let start = if position == 0 { 0 } else { PROMPT_TOKENS as u32 + position - 1 };
        let rows = slots
            .clone()
            .zip(feed.drain(..))
            .map(|(slot, tokens)| RowWork {
                slot: Slot(slot),
                id: RowId(slot.into()),
                start,
                tokens: SecretTokens::new(tokens),
                guesses: 0,
                sample: Some(SampleAt::new(Arc::clone(&greedy), position)),
            })
            .collect();
        let result = executor.step(&StepPlan { memory: std::mem::take(&mut memory), rows })?;
        for sampled in result.sampled {
            feed.push(sampled.tokens?.iter().map(|drawn| drawn.token).collect());
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

fn run_engine(handle: &EngineHandle, prompts: &[Vec<TokenId>], output: u32) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let (sender, ends) = mpsc::channel();
    for (row, prompt) in prompts.iter().enumerate() {
        let sender = sender.clone();
        let request = RowRequest::new(RowId(row as u64), SecretTokens::new(prompt.clone()), TokenCount(output));
        handle.submit(
            request,
            Box::new(move |event| {
                if let RowEvent::Ended { output_tokens, .. } = event {
                    // The receiver waits for every end.
                    _ = sender.send(output_tokens.0);
                }
            }),
        )?;
    }
    drop(sender);
    let tokens: u32 = ends.iter().sum();
    let seconds = began.elapsed().as_secs_f64();
    if tokens as usize == prompts.len() * output as usize { Ok(seconds) } else { Err("a row ended early".into()) }
}
