//! What only a whole network shows: real roles, real sockets, a real ledger, the model that ships.

use std::path::PathBuf;

use darkbloom_testbed::{Network, sampled_request};

fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

async fn network(rows: usize) -> Network {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Network::start(&model(), rows, 256, 1).await.unwrap()
}

/// Money in the account of a fresh network, in nano-dollars.
const CREDIT: i64 = 1_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_restarted_provider_is_sealed_again_unseen_and_paid_once() {
    let network = network(4).await;
    let (first, _) = network.ask(sampled_request("What is 17 + 25?", 0.0), 16).await.unwrap();
    let (after_one, held) = network.balance().await.unwrap();
    assert_eq!(held, 0);
    // The client still holds the statement of the epoch that dies here.
    let network = network.restart_provider().await.unwrap();
    let (second, _) = network.ask(sampled_request("What is 17 + 25?", 0.0), 16).await.unwrap();
    assert_eq!(first, second);
    let (after_two, held) = network.balance().await.unwrap();
    assert_eq!(
        (CREDIT - after_one, held),
        (after_one - after_two, 0),
        "the same answer costs the same, and nothing stays held"
    );
    assert_eq!(network.audit().await.unwrap(), (true, 0));
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_rows_wait_in_the_queue_and_all_are_answered() {
    let network = network(2).await;
    let asks = (10..26).map(|n| network.ask(sampled_request(&format!("What is {n} + 3?"), 0.0), 16));
    for answer in futures_util::future::join_all(asks).await {
        assert!(answer.unwrap().0 > 0);
    }
    assert_eq!(network.audit().await.unwrap(), (true, 0));
    network.stop().await;
}
