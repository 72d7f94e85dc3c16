//! Replays one run of the simulation with a log: `simulate SEED REQUESTS [PLANTED]`.

#![allow(clippy::print_stdout, reason = "the log is what it is for")]

use darkbloom_testbed::simulation::{Planted, Scenario, simulate};

fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |otherwise: u64| words.next().and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let (seed, requests) = (number(0), number(250));
    let planted = words.next().and_then(|name| Planted::ALL.iter().find(|planted| format!("{planted:?}") == name));
    let requests = u32::try_from(requests).unwrap_or(u32::MAX);
    let run = simulate(Scenario { seed, requests, planted: planted.copied(), log: true });
    for line in &run.log {
        println!("{line}");
    }
    println!("{}", run.tally);
    println!("seed {seed}: digest {:016x}, {} findings", run.digest, run.findings.len());
    for finding in &run.findings {
        println!("{} ms: {}", finding.at_ms, finding.what);
    }
}
