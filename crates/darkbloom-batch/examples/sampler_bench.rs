//! What drawing one token costs, for each way to draw one.
//!
//! `cargo run --release -p darkbloom-batch --example sampler_bench -- [rounds=200]`
//!
//! A row has the largest vocabulary in common use and a history of 8,192 tokens. Logits come in two shapes: normally
//! distributed with a few likely tokens far above, as trained models give them; and with unlikely tokens so near the
//! likely ones that no part of the vocabulary can be passed over. The lines take turns within each round, and medians
//! over the rounds are shown with the lowest and the highest. The floor reads each logit once.

use std::error::Error;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use darkbloom_batch::{Draw, Dry, Sampler, Sampling, TokenMask};
use darkbloom_types::TokenId;

/// Qwen's.
const VOCABULARY: usize = 151_936;
const HISTORY_TOKENS: usize = 8_192;
const PROMPT_TOKENS: usize = 4_096;

/// One line of the report.
struct Case {
    name: &'static str,
    sampling: Sampling,
    masked: bool,
    times_us: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = match std::env::args().nth(1).as_deref().map(|argument| argument.split_once('=')) {
        None => 200,
        Some(Some(("rounds", value))) => value.parse()?,
        Some(_) => return Err("usage: sampler_bench [rounds=200]".into()),
    };
    let mut out = std::io::stdout().lock();
    let history = history();
    let mask = TokenMask::new((0..VOCABULARY as u32 / 32).map(|word| mix(word) | mix(!word)).collect());
    for (shape, logits) in [("as models give them", model_like()), ("without a gap", without_a_gap())] {
        let mut cases = cases();
        let mut floor = Vec::new();
        let mut sampler = Sampler::new();
        for round in 0..rounds {
            let began = Instant::now();
            black_box(sum(black_box(&logits)));
            floor.push(began.elapsed().as_secs_f64() * 1e6);
            for case in &mut cases {
                let draw = Draw {
                    sampling: &case.sampling,
                    position: round,
                    history: &history,
                    prompt_tokens: PROMPT_TOKENS,
                    mask: case.masked.then_some(&mask),
                };
                let began = Instant::now();
                black_box(sampler.draw(black_box(&logits), black_box(&draw))?);
                case.times_us.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        writeln!(out, "{VOCABULARY} logits {shape}, us a row: median (lowest to highest) of {rounds}")?;
        line(&mut out, "floor: one pass over the logits", &mut floor)?;
        for case in &mut cases {
            line(&mut out, case.name, &mut case.times_us)?;
        }
    }
    Ok(())
}

fn line(out: &mut impl Write, name: &str, times_us: &mut [f64]) -> std::io::Result<()> {
    times_us.sort_by(f64::total_cmp);
    let at = |share: f64| times_us.get((times_us.len() as f64 * share) as usize).or(times_us.last()).copied();
    let (lowest, median, highest) = (at(0.0), at(0.5), at(1.0));
    let shown = |time: Option<f64>| time.unwrap_or(f64::NAN);
    writeln!(out, "  {name:58} {:5.0} ({:.0} to {:.0})", shown(median), shown(lowest), shown(highest))
}

fn cases() -> Vec<Case> {
    let greedy = Sampling::greedy();
    let warm = Sampling { temperature: 0.8, seed: 1, ..Sampling::greedy() };
    let penalties = Sampling { repetition_penalty: 1.1, frequency_penalty: 0.2, presence_penalty: 0.2, ..warm.clone() };
    let dry = Dry {
        multiplier: 0.8,
        base: 1.75,
        allowed_length: 2,
        range: HISTORY_TOKENS as u32,
        breakers: (0..400).map(|nth| TokenId(nth * 300)).collect(),
    };
    let biased = (0..300).map(|nth| (TokenId(nth * 500), 0.5)).collect();
    let with_top_k = Sampling {
        top_k: 40,
        typical_p: 0.95,
        top_p: 0.95,
        min_p: 0.05,
        dry: Some(dry.clone()),
        logit_bias: biased,
        logprobs: Some(20),
        ..penalties
    };
    let without_top_k = Sampling { top_k: 0, ..with_top_k.clone() };
    let case =
        |name, sampling: &Sampling, masked| Case { name, sampling: sampling.clone(), masked, times_us: Vec::new() };
    vec![
        case("greedy", &greedy, false),
        case("greedy, mask", &greedy, true),
        case("greedy, logprobs 20", &Sampling { logprobs: Some(20), ..greedy.clone() }, false),
        case("temperature 0.8", &warm, false),
        case("temperature 0.8, top-k 40", &Sampling { top_k: 40, ..warm.clone() }, false),
        case("temperature 0.8, top-k 1000", &Sampling { top_k: 1_000, ..warm.clone() }, false),
        case("temperature 0.8, typical 0.95", &Sampling { typical_p: 0.95, ..warm.clone() }, false),
        case("temperature 0.8, top-p 0.95", &Sampling { top_p: 0.95, ..warm.clone() }, false),
        case("temperature 1.5, top-p 0.95", &Sampling { temperature: 1.5, top_p: 0.95, ..warm.clone() }, false),
        case("temperature 0.8, min-p 0.05", &Sampling { min_p: 0.05, ..warm.clone() }, false),
        case("temperature 0.8, top-k 40, top-p 0.95", &Sampling { top_k: 40, top_p: 0.95, ..warm.clone() }, false),
        case(
            "temperature 0.8, bias of 300",
            &Sampling { logit_bias: with_top_k.logit_bias.clone(), ..warm.clone() },
            false,
        ),
        case("temperature 0.8, penalties", &penalties, false),
        case("temperature 0.8, DRY", &Sampling { dry: Some(dry), ..warm.clone() }, false),
        case("temperature 0.8, mask", &warm, true),
        case("temperature 0.8, logprobs 20", &Sampling { logprobs: Some(20), ..warm.clone() }, false),
        case("everything", &with_top_k, true),
        case("everything but top-k", &without_top_k, true),
    ]
}

/// 32 bits that look random (Bob Jenkins' mixing, as in "Integer hashing", 2007).
fn mix(state: u32) -> u32 {
    let state = (state ^ 61 ^ (state >> 16)).wrapping_mul(9);
    let state = (state ^ (state >> 4)).wrapping_mul(0x27d4_eb2d);
    state ^ (state >> 15)
}

fn uniform(state: u32) -> f32 {
    (mix(state) >> 8) as f32 / (1u32 << 24) as f32
}

/// The sum of twelve uniform numbers is close to a normal one. One token in five thousand is up to 16 above the rest.
fn model_like() -> Vec<f32> {
    let logit = |token: u32| {
        let normal = (0..12).map(|nth| uniform(token.wrapping_mul(13).wrapping_add(nth))).sum::<f32>() - 6.0;
        let likely = if token.is_multiple_of(5_003) { 10.0 + 6.0 * uniform(token) } else { 0.0 };
        2.0 * normal + likely
    };
    (0..VOCABULARY as u32).map(logit).collect()
}

/// Likely tokens in every block of the vocabulary, and others just below them.
fn without_a_gap() -> Vec<f32> {
    (0..VOCABULARY as u32).map(uniform).map(|at| 20.0 * at.powi(40) - 8.0 * at).collect()
}

/// Words that come again, pieces that come again, and others.
fn history() -> Vec<TokenId> {
    let token = |at: u32| match at % 64 {
        0..16 => at % 64 * 1_000 + 17,
        16..32 => mix(at) % 512,
        _ => mix(at) % VOCABULARY as u32,
    };
    (0..HISTORY_TOKENS as u32).map(|at| TokenId(token(at))).collect()
}

/// In lanes, so that the memory and not the addition is what takes the time.
fn sum(logits: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 32];
    for chunk in logits.chunks_exact(32) {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane += logit;
        }
    }
    lanes.iter().sum()
}
