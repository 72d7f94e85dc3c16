//! The figures.

use std::fmt::Write as _;

use serde::Serialize;

/// Median, lowest and highest of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// In the middle.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median: at(values.len() / 2), low: at(0), high: at(values.len().saturating_sub(1)) }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchmarkReport {
    /// This program's.
    pub version: &'static str,
    /// The file's name.
    pub model: String,
    /// Its architecture, as the file says.
    pub architecture: String,
    /// How most of its weights are stored.
    pub quantisation: &'static str,
    /// Its weights.
    pub parameters: u64,
    /// Whether rows say the same bit for bit whoever shares the batch.
    pub exact: bool,
    /// Cores that this program may use.
    pub cores: usize,
    /// Threads that computed.
    pub threads: usize,
    /// Loading.
    pub load: LoadReport,
    /// Memory.
    pub memory: MemoryReport,
    /// Feeding a prompt to an idle engine.
    pub prefill: Vec<PrefillReport>,
    /// Decoding, by the number of rows.
    pub batch: Vec<BatchReport>,
    /// A long prompt that comes while others decode.
    pub long_prompt: Vec<LongPromptReport>,
}

/// How long loading takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadReport {
    /// After the system was asked to forget the file; nothing where it cannot be asked.
    pub cold_ms: Option<f64>,
    /// With the file in the system's memory.
    pub warm_ms: f64,
}

/// Memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MemoryReport {
    /// What loading added to the process's resident memory: weights and the memory of all rows.
    pub resident_bytes: Option<u64>,
    /// Rows that there is memory for.
    pub rows: usize,
    /// Tokens in each.
    pub row_tokens: usize,
}

/// Feeding a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PrefillReport {
    /// Its length.
    pub tokens: usize,
    /// From being submitted to the first token.
    pub tokens_per_second: Spread,
}

/// Rows that decode together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchReport {
    /// How many.
    pub rows: usize,
    /// Tokens a second of all rows together, in a plain loop on the executor.
    pub bare_tokens_per_second: Spread,
    /// The same through scheduler and engine, while all rows decode, by the ends of steps.
    pub tokens_per_second: Spread,
    /// Median of the engine's rounds over that of the bare loop's.
    pub engine_over_bare: f64,
    /// The same counted when rows were told and text becomes visible: characters come whole.
    pub visible_tokens_per_second: Option<Spread>,
    /// From being submitted to a row's first token, when all rows come at once, in milliseconds.
    pub first_token_ms: Spread,
}

/// A long prompt among rows that decode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LongPromptReport {
    /// Rows that decode.
    pub decoders: usize,
    /// Its length.
    pub prompt_tokens: usize,
    /// Mean gap between a row's tokens without it, in milliseconds: before it comes and after its first token.
    pub gap_without_ms: Spread,
    /// Mean gap between a row's tokens from its coming to its first token.
    pub gap_during_ms: Spread,
    /// Its time to the first token alone.
    pub first_token_alone_ms: Spread,
    /// Its time to the first token among the others.
    pub first_token_ms: Spread,
}

impl BenchmarkReport {
    /// The figures as tables for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { model, architecture, quantisation, parameters, cores, threads, load, memory, .. } = self;
        let mode = if self.exact { "exact" } else { "fast" };
        let millions = *parameters as f64 / 1e6;
        writeln!(out, "{model}: {architecture}, {millions:.0} M parameters, {quantisation}, {mode}")?;
        writeln!(out, "{threads} of {cores} cores, darkbloom {}", self.version)?;
        let cold = load.cold_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        writeln!(out, "load          cold {cold}, warm {:.0} ms", load.warm_ms)?;
        if let Some(bytes) = memory.resident_bytes {
            let mib = bytes as f64 / f64::from(1 << 20);
            writeln!(out, "memory        {mib:.0} MiB with {} rows of {} tokens", memory.rows, memory.row_tokens)?;
        }
        for PrefillReport { tokens, tokens_per_second } in &self.prefill {
            writeln!(out, "prefill {tokens:>5} {} tok/s", shown(*tokens_per_second))?;
        }
        writeln!(
            out,
            "\nrows  bare loop tok/s          engine tok/s             ratio  visible tok/s            first token ms"
        )?;
        for row in &self.batch {
            let visible = row.visible_tokens_per_second.map_or_else(|| "-".to_owned(), shown);
            writeln!(
                out,
                "{:>4}  {:<24} {:<24} {:.3}  {:<24} {}",
                row.rows,
                shown(row.bare_tokens_per_second),
                shown(row.tokens_per_second),
                row.engine_over_bare,
                visible,
                shown(row.first_token_ms),
            )?;
        }
        for it in &self.long_prompt {
            let gap = it.gap_during_ms.median / it.gap_without_ms.median;
            let first = it.first_token_ms.median / it.first_token_alone_ms.median;
            writeln!(
                out,
                "\na prompt of {} tokens beside {} rows: gap {} ms without it, {} ms with it ({gap:.2}x); \
                 its first token {} ms alone, {} ms among them ({first:.2}x)",
                it.prompt_tokens,
                it.decoders,
                shown(it.gap_without_ms),
                shown(it.gap_during_ms),
                shown(it.first_token_alone_ms),
                shown(it.first_token_ms),
            )?;
        }
        Ok(())
    }
}

fn shown(Spread { median, low, high }: Spread) -> String {
    let places = if median < 100.0 { 1 } else { 0 };
    format!("{median:.places$} ({low:.places$}-{high:.places$})")
}
