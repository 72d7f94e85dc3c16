//! Whole networks under a virtual clock: what must hold does, whatever dies, breaks or lies; and what is wrong in the wiring
//! is found.

#![allow(clippy::print_stdout, reason = "the counts of a run are its result")]

use std::time::Instant;

use darkbloom_session::{ClientPhase, RelayPhase};
use darkbloom_testbed::simulation::{Fault, Planted, Run, Scenario, Tally, simulate};

/// Operations of one run: enough that rows fill, few enough that a failing seed is a short story.
const REQUESTS: u32 = 250;
/// Runs that together are more than a million requests.
const SEEDS: u64 = 4_000;
/// Each fault at least so often in all of them.
const EACH_FAULT: u64 = 1_000;
/// Each planted mistake shows within so many runs; most in the first.
const PLANTED_SEEDS: u64 = 4_000;

/// What the relay's machine must have been told, and in which phase. The others cannot happen between real machines: a
/// router answers at once, a row that was released says nothing any more. The machine's own tests try those.
const RELAY: [(RelayPhase, &[&str]); 10] = [
    (RelayPhase::Holding, &["HoldPlaced", "HoldRefused", "ConsumerGone"]),
    (RelayPhase::Routing, &["Routed", "Busy", "Loading", "QueueFull", "OthersCould", "Nobody"]),
    (RelayPhase::Queued, &["Wake", "ConsumerGone", "Tick"]),
    (
        RelayPhase::Offered,
        &["Accepted", "Refused", "Data", "BadReceipt", "ProviderGone", "ConsumerGone", "CancelAcknowledged", "Tick"],
    ),
    (RelayPhase::Accepted, &["Refused", "Data", "DataEnd", "BadReceipt", "ProviderGone", "ConsumerGone", "Tick"]),
    (RelayPhase::Streaming, &["Refused", "Data", "DataEnd", "Receipt", "ProviderGone", "ConsumerGone", "Tick"]),
    (RelayPhase::Ending, &["Data", "Receipt", "BadReceipt", "ProviderGone", "ConsumerGone", "Tick"]),
    (
        RelayPhase::Cancelling,
        &[
            "Accepted",
            "Refused",
            "Data",
            "DataEnd",
            "Receipt",
            "BadReceipt",
            "ProviderGone",
            "CancelAcknowledged",
            "Tick",
        ],
    ),
    (RelayPhase::Settling, &["Settled", "ConsumerGone"]),
    (RelayPhase::Over, &["ConsumerGone"]),
];

/// The same of the client's machine: what an honest coordinator sends.
const CLIENT: [(ClientPhase, &[&str]); 4] = [
    (ClientPhase::Submitted, &["Accepted", "Reseal", "Refused", "KeepAlive"]),
    (ClientPhase::Accepted, &["Accepted", "Data", "DataEnd", "Reseal", "Refused", "KeepAlive"]),
    (ClientPhase::Streaming, &["Data", "DataEnd", "Refused", "KeepAlive"]),
    (ClientPhase::Ended, &["Final", "Refused", "KeepAlive"]),
];

fn run(seed: u64, planted: Option<Planted>) -> Run {
    simulate(Scenario { seed, requests: REQUESTS, planted, log: false })
}

fn keeps_its_promises(seed: u64) -> Run {
    let run = run(seed, None);
    let replay = "cargo run --release -p darkbloom-testbed --example simulate --";
    assert!(run.findings.is_empty(), "`{replay} {seed} {REQUESTS}` shows: {:#?}", run.findings);
    run
}

#[test]
fn networks_keep_their_promises_whatever_goes_wrong() {
    let began = Instant::now();
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        tally.add(&keeps_its_promises(seed).tally);
    }
    println!("{tally}{:?}", began.elapsed());
    assert!(tally.requests > 1_000_000, "{} requests", tally.requests);
    for fault in Fault::ALL {
        assert!(tally.faults(*fault) >= EACH_FAULT, "{fault:?} happened {} times", tally.faults(*fault));
    }
    for (phase, events) in RELAY {
        for event in events {
            assert!(tally.relay_transitions(phase, event) > 0, "no relay heard {event} while {phase:?}");
        }
    }
    for (phase, events) in CLIENT {
        for event in events {
            assert!(tally.client_transitions(phase, event) > 0, "no client got {event} while {phase:?}");
        }
    }
    let answered = tally.endings("answered");
    assert!(answered * 5 > tally.operations * 2, "only {answered} of {} operations are answered", tally.operations);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let (first, second) = (run(seed, None), run(seed, None));
        assert_eq!((first.digest, first.tally.events), (second.digest, second.tally.events), "seed {seed}");
        assert_ne!(first.digest, run(seed + 1_000, None).digest);
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for planted in Planted::ALL {
        let find = |seed| run(seed, Some(*planted)).findings.into_iter().next().map(|finding| (seed, finding));
        match (0..PLANTED_SEEDS).find_map(find) {
            Some((seed, finding)) => {
                println!("{planted:?}: seed {seed}: {}", finding.what);
                // What is found is the mistake, and not something else that this seed shows.
                keeps_its_promises(seed);
            }
            None => missed.push(*planted),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
