//! What planning a step and taking its result in take, without a model.
//!
//! `cargo run --release -p darkbloom-batch --example scheduler_bench`
//!
//! Rows decode for a thousand steps, without scope and with; medians of the steps, in microseconds.

use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

use darkbloom_batch::{Drawn, Limits, RowId, RowRequest, Sampled, Scheduler, Scope, StepOutput};
use darkbloom_types::{Millis, MonoMillis, SecretTokens, TokenCount, TokenId};

const STEPS: u32 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    writeln!(out, "rows  plan and update, us a step (of them planning)")?;
    for rows in [1, 2, 4, 8, 16, 64] {
        let (whole, planning) = measure(rows)?;
        writeln!(out, "{rows:4}  {whole:.1} ({planning:.1})")?;
    }
    Ok(())
}

fn measure(rows: usize) -> Result<(f64, f64), Box<dyn Error>> {
    let limits = Limits {
        rows_max: rows,
        row_tokens_max: 4_096,
        step_tokens_max: 4_096,
        waiting_max: 0,
        saved_tokens_max: 4_096,
        prefix_keep: Millis::from_minutes(5),
        trims: true,
    };
    let mut scheduler = Scheduler::new(limits)?;
    for row in 0..rows as u64 {
        let prompt = SecretTokens::new((0..32).map(|at| TokenId((row as u32 * 97 + at * 31) % 50_000)).collect());
        let request = RowRequest::new(RowId(row), prompt, TokenCount(STEPS + 1));
        let scope = (row % 2 == 0).then(|| Scope::new([row as u8; 32]));
        scheduler.submit(RowRequest { scope, ..request }, MonoMillis(0))?;
    }
    let (mut whole, mut planning) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let began = Instant::now();
        let plan = scheduler.plan(MonoMillis(u64::from(step))).ok_or("no plan")?;
        let planned = began.elapsed();
        // Tokens without a pattern: nothing can be guessed.
        let token = |row: u64| TokenId((row as u32 + 7).wrapping_mul(step.wrapping_mul(2_654_435_761)) % 50_000);
        let drawn = |row: u64| Ok(vec![Drawn { token: token(row), logprobs: None }]);
        let sampled = plan.rows.iter().map(|row| Sampled { slot: row.slot, tokens: drawn(row.id.0) }).collect();
        let output = StepOutput { sampled, lost: Vec::new() };
        let began = Instant::now();
        let events = scheduler.update(output, 25_000, MonoMillis(u64::from(step)));
        let updated = began.elapsed();
        drop((events, plan));
        whole.push((planned + updated).as_secs_f64() * 1e6);
        planning.push(planned.as_secs_f64() * 1e6);
    }
    Ok((median(whole), median(planning)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
