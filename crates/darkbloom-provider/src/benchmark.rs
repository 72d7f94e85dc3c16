//! What this machine does with a model: loading, prefill, decoding alone and together, and what a long prompt does to others.
//!
//! The bare loop and the engine take turns on one executor, so that a busy moment of the machine meets both; medians of the
//! rounds are reported, with the lowest and the highest. Rows decode past the tokens that end answers, so that all of them
//! reach their limit.

mod report;
mod rounds;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use darkbloom_batch::{Limits, LimitsError};
use darkbloom_engine::{
    Engine, Exactness, ExecuteError, Executor as _, LlamaExecutor, LlamaSettings, LoadModelError, ModelHeader,
    StartEngineError, check_model_file,
};
use darkbloom_text::{TextModel, TextPack};

pub use self::report::{
    BatchReport, BenchmarkReport, LoadReport, LongPromptReport, MemoryReport, PrefillReport, Spread,
};
use self::rounds::{Bench, SharedExecutor};

/// Prompt tokens of each row that decodes: a short question.
const PROMPT_TOKENS: usize = 32;

/// Prompt lengths for the prefill rate: a question, a page, and what goals are stated for.
const PREFILL_TOKENS: [usize; 2] = [128, 512];

/// Tokens of the long prompt that comes among rows that decode, and how many rows those are.
const LONG_PROMPT_TOKENS: usize = 512;
const LONG_PROMPT_DECODERS: [usize; 2] = [1, 8];

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchmarkOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// Threads of the engine; by default cores minus one.
    pub threads: Option<usize>,
    /// Which kernels may run.
    pub exactness: Exactness,
    /// Numbers of rows that decode together, each from 1 to 256; at least one.
    pub rows: Vec<usize>,
    /// Tokens that each row decodes; at least 8.
    pub output: u32,
    /// Rounds; at least one.
    pub rounds: usize,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchmarkError {
    /// Its figures would be mistaken for this program's.
    #[error("this program was built without optimisation, and its figures would mean nothing")]
    Unoptimised,
    /// A number that makes no measurement.
    #[error("{0} is out of range")]
    Setting(&'static str),
    /// The model's context is too short for the measurement.
    #[error("the model's context of {context} tokens is shorter than the {needed} that this measures with")]
    Context {
        /// What it has.
        context: usize,
        /// What is needed.
        needed: usize,
    },
    /// The model.
    #[error(transparent)]
    Load(#[from] LoadModelError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartEngineError),
    /// Limits of the engine.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// A step of the bare loop.
    #[error(transparent)]
    Step(#[from] ExecuteError),
    /// A row of the engine ended before its limit.
    #[error("a row ended before its limit")]
    RowEnded,
}

impl BenchmarkError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unoptimised => {
                "build with `cargo build --release`, or run `./x exec cargo run --release -p darkbloom -- benchmark …`"
            }
            Self::Setting(_) => "see `darkbloom benchmark --help`",
            Self::Context { .. } => "lower `--output`",
            Self::Load(_) => "check the path and the file",
            Self::Engine(_) | Self::Limits(_) => "lower `--rows`",
            Self::Step(_) | Self::RowEnded => "try again; if that happens again, report it",
        }
    }
}

/// Measures, and says on the way what is being measured. Blocks, for minutes with a large model.
///
/// # Errors
/// [`BenchmarkError`].
pub fn run(options: &BenchmarkOptions, mut say: impl FnMut(&str)) -> Result<BenchmarkReport, BenchmarkError> {
    if cfg!(debug_assertions) {
        return Err(BenchmarkError::Unoptimised);
    }
    check(options)?;
    let header = check_model_file(&options.model)?;
    // A row more than those that decode: the long prompt's, or the one that is held until the others are there.
    let rows_max = options.rows.iter().copied().max().unwrap_or(1).max(LONG_PROMPT_DECODERS[1]) + 1;
    let settings = settings(options, &header, rows_max)?;
    say("loading");
    let (load, executor, memory) = load(&options.model, &settings)?;
    let shared = SharedExecutor::new(executor);
    // Without guesses: past what ends an answer models repeat themselves, and nobody would see what the engine costs.
    let limits = Limits { trims: false, ..shared.capacity().limits(rows_max) };
    let engine = Engine::start(shared.clone(), limits)?;
    let (handle, vocabulary) = (engine.handle(), shared.vocabulary());
    let mut bench = Bench { shared, handle, vocabulary, text: text_model(&options.model), next_row: 0 };

    let mut prefill = Vec::new();
    for tokens in PREFILL_TOKENS.into_iter().filter(|tokens| tokens + 1 < settings.row_tokens_max) {
        say(&format!("prefill of {tokens} tokens"));
        prefill.push(PrefillReport { tokens, tokens_per_second: bench.prefill(tokens, options.rounds)? });
    }
    let mut batch = Vec::new();
    for &rows in &options.rows {
        say(&format!("decoding, {rows} rows"));
        batch.push(bench.batch(rows, PROMPT_TOKENS, options.output, options.rounds)?);
    }
    let mut long_prompt = Vec::new();
    if LONG_PROMPT_TOKENS + 8 < settings.row_tokens_max {
        for decoders in LONG_PROMPT_DECODERS {
            say(&format!("a long prompt beside {decoders} rows"));
            long_prompt.push(bench.long_prompt(decoders, LONG_PROMPT_TOKENS, options.rounds)?);
        }
    }
    engine.stop();
    Ok(BenchmarkReport {
        version: env!("CARGO_PKG_VERSION"),
        model: options.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        architecture: header.architecture,
        quantisation: crate::models::quantisation(header.file_type),
        parameters: header.parameters,
        exact: options.exactness == Exactness::Exact,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        threads: settings.threads,
        load,
        memory,
        prefill,
        batch,
        long_prompt,
    })
}

fn check(options: &BenchmarkOptions) -> Result<(), BenchmarkError> {
    let rows = !options.rows.is_empty() && options.rows.iter().all(|rows| (1..=256).contains(rows));
    let rules = [(rows, "--rows"), (options.output >= 8, "--output"), (options.rounds >= 1, "--rounds")];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, name)| Err(BenchmarkError::Setting(name)))
}

/// Rows that are long enough for what is measured, where the model's context is.
fn settings(
    options: &BenchmarkOptions,
    header: &ModelHeader,
    rows_max: usize,
) -> Result<LlamaSettings, BenchmarkError> {
    let context = usize::try_from(header.context_length).unwrap_or(usize::MAX);
    let decoding = PROMPT_TOKENS + options.output as usize;
    if context < decoding {
        return Err(BenchmarkError::Context { context, needed: decoding });
    }
    // The long prompt's neighbours decode for as long as it takes, at a few tokens a step in the worst case.
    let row_tokens = context.min(decoding.max(LONG_PROMPT_TOKENS * 2));
    let settings = LlamaSettings { exactness: options.exactness, ..LlamaSettings::new(rows_max, row_tokens) };
    Ok(LlamaSettings { threads: options.threads.unwrap_or(settings.threads), ..settings })
}

/// Loads the model twice: after the system forgot the file, as far as it does when asked to, and again.
fn load(path: &Path, settings: &LlamaSettings) -> Result<(LoadReport, LlamaExecutor, MemoryReport), BenchmarkError> {
    let forgotten = forget_file(path);
    let before = resident_bytes();
    let (cold, first) = timed(|| LlamaExecutor::load(path, settings));
    drop(first?);
    let (warm, executor) = timed(|| LlamaExecutor::load(path, settings));
    let executor = executor?;
    let after = resident_bytes();
    let used = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    let memory = MemoryReport { resident_bytes: used, rows: settings.rows_max, row_tokens: settings.row_tokens_max };
    Ok((LoadReport { cold_ms: forgotten.then_some(cold), warm_ms: warm }, executor, memory))
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = Instant::now();
    let result = work();
    (ms(began.elapsed()), result)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Asks the system to forget what it holds of a file in memory. Whether it was asked.
#[cfg(target_os = "linux")]
fn forget_file(path: &Path) -> bool {
    let Ok(file) = std::fs::File::open(path) else { return false };
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn forget_file(_: &Path) -> bool {
    false
}

/// Memory of this process that is in use, in bytes, where the system says so.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

/// The tokenizer, where the file has one that is known; the rate of visible text is left out otherwise.
fn text_model(path: &Path) -> Option<TextModel> {
    let file = std::fs::File::open(path).ok()?;
    let pack = TextPack::from_gguf(std::io::BufReader::new(file)).ok()?;
    TextModel::new(pack).ok()
}
