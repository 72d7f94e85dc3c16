//! What answers that are held to a schema cost: making the grammar, a mask, and a step of 1, 4 and 8 rows.
//!
//! `cargo run --release -p darkbloom-provider --example guides_bench -- MODEL.gguf [steps]`
//!
//! Masks are measured along answers that are drawn at random from what is allowed, steps on the model itself, guided and free
//! rows in turns; figures are medians, with the highest behind them.

use std::error::Error;
use std::io::{BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_batch::{RowId, RowRequest, Sampling, Scheduler, SharedGuide};
use darkbloom_content::{AnswerShape, ChatRequest, Message, Role};
use darkbloom_engine::{Executor, LlamaExecutor, LlamaSettings};
use darkbloom_provider::guides::Guides;
use darkbloom_text::{Opening, TextModel, TextPack};
use darkbloom_types::{MonoMillis, SecretTokens, TokenCount, TokenId};

/// A schema with objects in a list, numbers in a range, a pattern, a choice, and free text.
const SCHEMA: &str = r#"{"type": "object", "properties": {
    "title": {"type": "string", "maxLength": 60},
    "stops": {"type": "array", "minItems": 40, "items": {"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 30}, "code": {"type": "string", "pattern": "^[A-Z]{3}[0-9]{2,4}$"},
        "kind": {"enum": ["station", "harbour", "airport"]}, "minutes": {"type": "integer", "minimum": 0, "maximum": 1440}
    }, "required": ["name", "code", "kind", "minutes"], "additionalProperties": false}}
}, "required": ["title", "stops"], "additionalProperties": false}"#;

const PROMPT_TOKENS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: guides_bench MODEL.gguf [steps]")?;
    let steps = arguments.next().map_or(Ok(200), |steps| steps.parse())?;
    let text = TextModel::new(TextPack::from_gguf(BufReader::new(std::fs::File::open(&path)?))?)?;
    let request = ChatRequest {
        shape: AnswerShape::Json(SCHEMA.into()),
        ..ChatRequest::new(vec![Message::new(Role::User, "?")])
    };
    let mut out = std::io::stdout().lock();
    let guides = Guides::default();
    let guide = || Ok::<_, Box<dyn Error>>(guides.guide(&text, &request, Opening::Free)?.ok_or("it is not free")?);
    let began = Instant::now();
    guide()?;
    let first = began.elapsed();
    let began = Instant::now();
    let held = guide()?;
    writeln!(out, "{path}: {} tokens", text.vocabulary())?;
    writeln!(out, "grammar: the first {first:.1?}, the next {:.1?}", began.elapsed())?;
    writeln!(out, "mask: {}", show(masks(&text, &held, steps)?))?;
    let mut executor = LlamaExecutor::load(Path::new(&path), &LlamaSettings::new(8, 512))?;
    for rows in [1, 4, 8] {
        let (mut free, mut guided) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            free.extend(run(&mut executor, &text, rows, steps, || Ok(None))?);
            guided.extend(run(&mut executor, &text, rows, steps, || guide().map(Some))?);
        }
        writeln!(out, "step of {rows} rows: free {}, guided {}", show(free), show(guided))?;
    }
    Ok(())
}

/// How long each mask of an answer takes that is drawn at random.
fn masks(text: &TextModel, guide: &SharedGuide, steps: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let (mut answer, mut seed, mut took) = (Vec::new(), 7_u64, Vec::new());
    let count = u32::try_from(text.vocabulary())?;
    while took.len() < steps {
        let began = Instant::now();
        let mask = guide.masks(&answer, &[]).pop().ok_or("a mask")??;
        took.push(began.elapsed());
        let allowed: Vec<_> = (0..count).map(TokenId).filter(|token| mask.allows(*token)).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = allowed[usize::try_from(seed >> 33)? % allowed.len()];
        if text.end_tokens().contains(&token) {
            break;
        }
        answer.push(token);
    }
    Ok(took)
}

/// How long each step takes in which all rows decode.
fn run(
    executor: &mut LlamaExecutor,
    text: &TextModel,
    rows: u64,
    steps: usize,
    guide: impl Fn() -> Result<Option<SharedGuide>, Box<dyn Error>>,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let mut limits = executor.capacity().limits(8);
    // Nothing is guessed: every step has one token of each row.
    limits.trims = false;
    let mut scheduler = Scheduler::new(limits)?;
    for id in 0..rows {
        let prompt = (0..PROMPT_TOKENS).map(|at| TokenId(300 + u32::try_from(at).unwrap_or(0))).collect();
        let most = TokenCount(u32::try_from(steps)?.min(400));
        let sampling = Arc::new(Sampling { temperature: 1.0, seed: id, ..Sampling::greedy() });
        let row = RowRequest {
            sampling,
            guide: guide()?,
            stop_tokens: text.end_tokens().to_vec(),
            ..RowRequest::new(RowId(id), SecretTokens::new(prompt), most)
        };
        scheduler.submit(row, MonoMillis(0))?;
    }
    let mut took = Vec::new();
    while let Some(plan) = scheduler.plan(MonoMillis(0)) {
        let began = Instant::now();
        let output = executor.step(&plan)?;
        let elapsed = began.elapsed();
        if plan.rows.len() as u64 == rows && plan.token_count() as u64 == rows {
            took.push(elapsed);
        }
        scheduler.update(output, u64::try_from(elapsed.as_micros())?, MonoMillis(0));
    }
    executor.erase();
    Ok(took)
}

/// The median, and the highest.
fn show(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    format!("{:.1?} (99 of 100 below {:.1?}, highest {:.1?})", at(50), at(99), took.last().copied().unwrap_or_default())
}
