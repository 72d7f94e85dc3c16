//! What one step takes: a prompt's piece by its size, decoding by the number of rows, and both together.
//!
//! `cargo run --release -p darkbloom-engine --example forward_bench -- MODEL.gguf [depth=64] [rounds=5] [threads=N]
//! [pieces=1,2,64+60,…] [rows=1,2,…] [exactness=exact|fast] [accelerator=required]`
//!
//! Pieces that a plus joins share a step. Every row holds `depth` tokens before each step. Nothing is drawn from pieces; rows
//! that decode draw the likeliest token. The lowest of the rounds is shown, which other work on the machine disturbs least, with
//! the median behind it. Two and three rows are tried together and apart; the lowest is the better way.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use darkbloom_batch::{MemoryOp, RowId, RowWork, SampleAt, Sampling, Slot, StepPlan};
use darkbloom_engine::{Accelerator, Exactness, Executor, LlamaExecutor, LlamaSettings};
use darkbloom_types::{SecretTokens, TokenId};

/// Tokens of a piece, and numbers of rows, where nothing else is asked for.
const PIECES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128];
const ROWS: [usize; 7] = [1, 2, 3, 4, 6, 8, 16];
/// Tokens of the piece beside rows that decode.
const PIECE: usize = 16;
/// Rows that a context is made for, and tokens of each beyond the depth.
const ROWS_MAX: usize = 16;
const ROOM: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: forward_bench MODEL.gguf [key=value ...]")?;
    let (mut depth, mut rounds) = (64, 5);
    let mut pieces = PIECES.map(|piece| vec![piece]).to_vec();
    let mut row_counts = ROWS.to_vec();
    let numbers = |list: &str, between| list.split(between).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let mut settings = LlamaSettings::new(ROWS_MAX, 0);
    for argument in arguments {
        match argument.split_once('=').ok_or("arguments after the model are key=value")? {
            ("depth", value) => depth = value.parse()?,
            ("rounds", value) => rounds = value.parse()?,
            ("pieces", value) => {
                pieces = value.split(',').map(|step| numbers(step, '+')).collect::<Result<_, _>>()?;
            }
            ("rows", value) => row_counts = numbers(value, ',')?,
            ("threads", value) => settings.threads = value.parse()?,
            ("exactness", "exact") => settings.exactness = Exactness::Exact,
            ("exactness", "fast") => settings.exactness = Exactness::Fast,
            ("accelerator", "required") => settings.accelerator = Accelerator::Required,
            (key, _) => return Err(format!("unknown argument {key}").into()),
        }
    }
    settings.row_tokens_max = depth + ROOM;
    let mut executor = LlamaExecutor::load(Path::new(&model), &settings)?;
    let mut out = std::io::stdout();
    writeln!(out, "{settings:?}, {depth} tokens before")?;
    for row in 0..ROWS_MAX {
        fill(&mut executor, row, depth)?;
    }
    writeln!(out, "piece     ms (median)   ms a token")?;
    for step in pieces {
        let works = || step.iter().map(|&tokens| (tokens, false)).collect();
        show(&mut out, step.iter().sum(), time(&mut executor, depth, rounds, works)?)?;
    }
    writeln!(out, "rows      ms (median)   ms a token")?;
    for rows in row_counts.iter().copied() {
        show(&mut out, rows, time(&mut executor, depth, rounds, || vec![(1, true); rows])?)?;
    }
    writeln!(out, "rows beside a piece of {PIECE}")?;
    for rows in row_counts.into_iter().filter(|rows| *rows < ROWS_MAX) {
        let works = || [vec![(1, true); rows], vec![(PIECE, false)]].concat();
        show(&mut out, rows, time(&mut executor, depth, rounds, works)?)?;
    }
    Ok(())
}

fn show(out: &mut impl Write, tokens: usize, mut took: Vec<f64>) -> Result<(), Box<dyn Error>> {
    took.sort_by(f64::total_cmp);
    let (low, median) = (took.first().ok_or("no rounds")?, took[took.len() / 2]);
    writeln!(out, "{tokens:5} {low:9.2} ({median:.2})   {:.2}", low / tokens as f64)?;
    Ok(())
}

/// Feeds a row its first tokens.
fn fill(executor: &mut LlamaExecutor, row: usize, depth: usize) -> Result<(), Box<dyn Error>> {
    let tokens_max = executor.capacity().step_tokens_max;
    for start in (0..depth).step_by(tokens_max) {
        let rows = vec![work(row, start, tokens_max.min(depth - start), executor.vocabulary(), false)];
        executor.step(&StepPlan { memory: Vec::new(), rows })?;
    }
    Ok(())
}

/// Milliseconds of steps in which each row gets so many tokens and draws or not; the rows forget them afterwards.
fn time(
    executor: &mut LlamaExecutor,
    depth: usize,
    rounds: usize,
    works: impl Fn() -> Vec<(usize, bool)>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let rows = works().into_iter().enumerate();
        let rows = rows.map(|(row, (tokens, draws))| work(row, depth, tokens, executor.vocabulary(), draws));
        let plan = StepPlan { memory: Vec::new(), rows: rows.collect() };
        let began = Instant::now();
        executor.step(&plan)?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        let forget = |row: &RowWork| MemoryOp::Forget { slot: row.slot, from: depth as u32 };
        executor.step(&StepPlan { memory: plan.rows.iter().map(forget).collect(), rows: Vec::new() })?;
    }
    Ok(took)
}

fn work(row: usize, start: usize, tokens: usize, vocabulary: usize, draws: bool) -> RowWork {
    let token = |at: usize| TokenId(((row * 7_919 + at * 104_729) % vocabulary) as u32);
    RowWork {
        slot: Slot(row as u32),
        id: RowId(row as u64),
        start: start as u32,
        tokens: SecretTokens::new((start..start + tokens).map(token).collect()),
        guesses: 0,
        sample: draws.then(|| SampleAt::new(Arc::new(Sampling::greedy()), start as u32)),
    }
}
