//! Small frames do not wait for each other.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::{self, bearer};
use crate::support::network::{Network, ask_with, model_file};
use crate::support::process::preloaded;

/// What a receiver on Linux waits at least before it acknowledges a lone small segment (TCP_DELACK_MIN).
const DELAYED_ACKNOWLEDGEMENT: Duration = Duration::from_millis(40);

/// Requests until receivers delay their acknowledgements, and those after them that count.
const WARM: usize = 16;
const MEASURED: usize = 16;
/// How often both are repeated.
const ROUNDS: usize = 3;

/// How long small requests take, one after the other.
fn small_requests(network: &Network) -> Vec<Duration> {
    let body = ask_with("What is 17 + 25?", json!({"stream": true})).to_string();
    let headers = [("authorization", &*bearer(&network.key))];
    let address = &network.gateway.address;
    // One connection: only after its first few exchanges does a receiver begin to delay its acknowledgements.
    let mut connection = http::connect(address).unwrap();
    let mut took = Vec::new();
    for _ in 0..WARM + MEASURED {
        let began = Instant::now();
        let (answer, kept) =
            http::over(connection, address, "/v1/chat/completions", &headers, body.as_bytes()).unwrap();
        took.push(began.elapsed());
        assert_eq!(answer.streamed(), "42");
        connection = kept;
    }
    took.split_off(WARM)
}

/// The median of so many requests, the fastest of these rounds. Both tests below judge by this one number: a machine that
/// is busy with other things slows a round down, a delayed acknowledgement all of them.
fn fastest_median(network: &Network) -> Duration {
    let medians = (0..ROUNDS).map(|_| {
        let mut took = small_requests(network);
        took.sort_unstable();
        took[took.len() / 2]
    });
    medians.min().unwrap()
}

#[test]
fn many_small_requests_never_wait_for_a_delayed_acknowledgement() {
    let took = fastest_median(&Network::start());
    assert!(took < DELAYED_ACKNOWLEDGEMENT, "{took:?}");
}

#[test]
fn with_nagles_algorithm_in_any_one_role_they_would_wait() {
    for role in ["coordinator", "start", "gateway"] {
        let folder = tempfile::tempdir().unwrap();
        let nagle = preloaded(folder.path(), "nagle");
        let network = Network::changed(folder, 1, model_file(), |command| {
            if command.get_args().next().is_some_and(|first| first == role) {
                command.arg("--allow-preloaded").env("LD_PRELOAD", &nagle);
            }
        });
        let took = fastest_median(&network);
        assert!(took >= DELAYED_ACKNOWLEDGEMENT, "the test above would not notice the {role}: {took:?}");
    }
}
