//! How often a row says the same among others as alone, exact and fast.
//!
//! `cargo run --release -p darkbloom-provider --example match_rate -- MODEL.gguf PROMPTS.jsonl [rows=8] [output=64]
//! [context=1024] [threads=N] [accelerator=required]`
//!
//! Each line of the prompts has `messages` with `role` and `content`. Each prompt is answered alone, fed as a whole, and then
//! all of them are, so many rows at a time, which come and go and are fed in pieces; once with the likeliest token each
//! time and once with temperature 1 and a seed. Rows go on past the tokens that end answers. Counted are the tokens before
//! the first that differs: what follows it has another past. An accelerator promises no bits, so there is no exact on one.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use darkbloom_batch::{Limits, MemoryOp, RowEvent, RowId, RowRequest, RowWork, Sampling, Scheduler, Slot, StepPlan};
use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_engine::{Accelerator, Exactness, Executor as _, LlamaExecutor, LlamaSettings};
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{MonoMillis, SecretTokens, TokenCount, TokenId};

struct Options {
    model: String,
    prompts: String,
    output: u32,
    settings: LlamaSettings,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        const USAGE: &str = "usage: match_rate MODEL.gguf PROMPTS.jsonl [key=value ...]";
        let mut arguments = std::env::args().skip(1);
        let (model, prompts) = (arguments.next().ok_or(USAGE)?, arguments.next().ok_or(USAGE)?);
        let mut options = Self { model, prompts, output: 64, settings: LlamaSettings::new(8, 1_024) };
        for argument in arguments {
            match argument.split_once('=').ok_or("arguments after the prompts are key=value")? {
                ("rows", value) => options.settings.rows_max = value.parse()?,
                ("output", value) => options.output = value.parse()?,
                ("context", value) => options.settings.row_tokens_max = value.parse()?,
                ("threads", value) => options.settings.threads = value.parse()?,
                ("accelerator", "required") => options.settings.accelerator = Accelerator::Required,
                (key, _) => return Err(format!("unknown argument {key}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let mut out = std::io::stdout();
    let prompts = prompts(&options)?;
    let rows = options.settings.rows_max;
    writeln!(out, "{} prompts, {} tokens each, {rows} rows at a time", prompts.len(), options.output)?;
    writeln!(out, "                 tokens the same    rows the same    logits the same")?;
    let all = [Exactness::Exact, Exactness::Fast];
    let exactness = if options.settings.accelerator == Accelerator::Required { &all[1..] } else { &all };
    for &exactness in exactness {
        let settings = LlamaSettings { exactness, ..options.settings };
        let mut alone = LlamaExecutor::load(Path::new(&options.model), &LlamaSettings { rows_max: 1, ..settings })?;
        let mut shared = LlamaExecutor::load(Path::new(&options.model), &settings)?;
        for (name, temperature) in [("likeliest", 0.0), ("temperature 1", 1.0)] {
            let requests = requests(&prompts, temperature, options.output);
            let mut expected = BTreeMap::new();
            for request in &requests {
                expected.append(&mut run(&mut alone, std::slice::from_ref(request))?);
            }
            let said = run(&mut shared, &requests)?;
            let counts = Counts::of(&said, &expected);
            writeln!(out, "{exactness:?}, {name:14} {counts}")?;
        }
    }
    Ok(())
}

/// The prompts' tokens, of those that leave room for an answer.
fn prompts(options: &Options) -> Result<Vec<SecretTokens>, Box<dyn Error>> {
    let file = std::io::BufReader::new(std::fs::File::open(&options.model)?);
    let text = TextModel::new(TextPack::from_gguf(file)?)?;
    let mut prompts = Vec::new();
    for line in std::fs::read_to_string(&options.prompts)?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let messages = line["messages"].as_array().ok_or("a line has no messages")?;
        let messages = messages.iter().map(|message| {
            let role = match message["role"].as_str() {
                Some("system") => Role::System,
                Some("assistant") => Role::Assistant,
                _ => Role::User,
            };
            Message::new(role, message["content"].as_str().unwrap_or_default())
        });
        let tokens = text.prompt_tokens(&ChatRequest::new(messages.collect()))?;
        if tokens.len() + (options.output as usize) < options.settings.row_tokens_max {
            prompts.push(tokens);
        }
    }
    Ok(prompts)
}

fn requests(prompts: &[SecretTokens], temperature: f32, output: u32) -> Vec<RowRequest> {
    let prompts = (0..).zip(prompts);
    let request = |(nth, prompt): (u64, &SecretTokens)| RowRequest {
        sampling: Arc::new(Sampling { temperature, seed: nth, ..Sampling::greedy() }),
        ..RowRequest::new(RowId(nth), prompt.clone(), TokenCount(output))
    };
    prompts.map(request).collect()
}

/// A row's tokens, and its logits' bits in a hash.
#[derive(Default)]
struct Said {
    tokens: Vec<TokenId>,
    logits: Vec<u64>,
}

fn run(executor: &mut LlamaExecutor, rows: &[RowRequest]) -> Result<BTreeMap<RowId, Said>, Box<dyn Error>> {
    const NOW: MonoMillis = MonoMillis(0);
    let slots = 0..u32::try_from(executor.capacity().rows_max)?;
    let memory = slots.map(|slot| MemoryOp::Forget { slot: Slot(slot), from: 0 }).collect();
    executor.step(&StepPlan { memory, rows: Vec::new() })?;
    // Without guesses, and nothing is kept of one row for another.
    let limits = executor.capacity().limits(rows.len());
    let mut scheduler = Scheduler::new(Limits { trims: false, saved_tokens_max: 0, ..limits })?;
    for row in rows {
        scheduler.submit(row.clone(), NOW)?;
    }
    let mut said: BTreeMap<RowId, Said> = BTreeMap::new();
    while let Some(plan) = scheduler.plan(NOW) {
        let keep = |work: &RowWork, logits: &[f32]| {
            said.entry(work.id).or_default().logits.push(hash(logits));
        };
        let output = executor.step_observed(&plan, keep)?;
        let took_us = 1_000 + 10 * plan.token_count() as u64;
        for event in scheduler.update(output, took_us, NOW) {
            if let RowEvent::Token { id, token, .. } = event {
                said.entry(id).or_default().tokens.push(token);
            }
        }
    }
    Ok(said)
}

/// FNV-1a over whole words: equal for equal bits, and hardly ever otherwise.
fn hash(logits: &[f32]) -> u64 {
    let word = |state: u64, logit: &f32| (state ^ u64::from(logit.to_bits())).wrapping_mul(0x0100_0000_01b3);
    logits.iter().fold(0xcbf2_9ce4_8422_2325, word)
}

#[derive(Default)]
struct Counts {
    rows: usize,
    same_rows: usize,
    tokens: usize,
    same_tokens: usize,
    /// Of those whose past is the same.
    logits: usize,
    same_logits: usize,
}

impl Counts {
    fn of(said: &BTreeMap<RowId, Said>, expected: &BTreeMap<RowId, Said>) -> Self {
        let mut counts = Self::default();
        for (id, expected) in expected {
            let Some(said) = said.get(id) else { continue };
            let same = said.tokens.iter().zip(&expected.tokens).take_while(|(a, b)| a == b).count();
            counts.rows += 1;
            counts.same_rows += usize::from(same == expected.tokens.len());
            counts.tokens += expected.tokens.len();
            counts.same_tokens += same;
            let pairs = said.logits.iter().zip(&expected.logits).take(same + 1);
            counts.logits += pairs.len();
            counts.same_logits += pairs.filter(|(a, b)| a == b).count();
        }
        counts
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |same: usize, all: usize| 100.0 * same as f64 / all.max(1) as f64;
        let tokens = of(self.same_tokens, self.tokens);
        let (rows, logits) = (of(self.same_rows, self.rows), of(self.same_logits, self.logits));
        write!(out, "{tokens:8.2} %         {rows:8.2} %       {logits:8.2} %")
    }
}
