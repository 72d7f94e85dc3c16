//! `darkbloom benchmark`.

use darkbloom_provider::Exactness;
use darkbloom_provider::benchmark::{BenchmarkError, BenchmarkOptions, run as measure};

use crate::arguments::Benchmark;
use crate::error::{Failure, say};

/// Measures a model on this machine and prints the figures.
pub async fn run(options: Benchmark) -> Result<(), Failure> {
    let json = options.json;
    let wanted = BenchmarkOptions {
        model: options.model,
        threads: options.threads,
        exactness: if options.fast { Exactness::Fast } else { Exactness::Exact },
        rows: options.rows,
        output: options.output,
        rounds: options.rounds,
    };
    let report = tokio::task::spawn_blocking(move || measure(&wanted, |step| tracing::info!("{step}")))
        .await
        .map_err(|error| Failure::new(format!("the benchmark failed: {error}"), ""))?
        .map_err(|error: BenchmarkError| Failure::new(error.to_string(), error.hint()))?;
    if json {
        let text = serde_json::to_string(&report).map_err(|error| Failure::new(error.to_string(), ""))?;
        return say(text);
    }
    say(report.table().trim_end())
}
