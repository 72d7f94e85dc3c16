//! What only a whole network shows: real roles, real sockets, a real ledger, the model that ships.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::path::PathBuf;

use darkbloom_testbed::{Network, Question, read_questions, sampled_request};

fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

async fn network(rows: usize) -> Network {
    network_of(rows, 256).await
}

async fn network_of(rows: usize, row_tokens: usize) -> Network {
    // `DARKBLOOM_LOG=debug` shows what the roles say; without it they are silent.
    let filter = tracing_subscriber::EnvFilter::from_env("DARKBLOOM_LOG");
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let _ = rustls::crypto::ring::default_provider().install_default();
    Network::start(&model(), rows, row_tokens, 1).await.unwrap()
}

/// Held-out questions: none was ever trained on, and the training framework answers each right by a margin.
fn heldout() -> Vec<Question> {
    read_questions(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/heldout.jsonl")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_held_out_question_is_answered_as_in_training_alone_and_in_company() {
    let network = network_of(8, 1_024).await;
    let questions = heldout();
    assert!(questions.len() >= 100);
    // Eight at a time: long and short prompts share the batch, join it and leave it.
    for group in questions.chunks(8) {
        let asks = group.iter().map(|question| network.ask(question.request.clone(), 64));
        for (question, answer) in group.iter().zip(futures_util::future::join_all(asks).await) {
            assert_eq!(answer.unwrap().text.expose(), question.answer);
        }
    }
    for question in questions.iter().take(10) {
        assert_eq!(network.ask(question.request.clone(), 64).await.unwrap().text.expose(), question.answer);
    }
    assert_eq!(network.audit().await.unwrap(), (true, 0));
    network.stop().await;
}

/// Money in the account of a fresh network, in nano-dollars.
const CREDIT: i64 = 1_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_restarted_provider_is_sealed_again_unseen_and_paid_once() {
    let network = network(4).await;
    let first = network.ask(sampled_request("What is 17 + 25?", 0.0), 16).await.unwrap();
    let (after_one, held) = network.balance().await.unwrap();
    assert_eq!(held, 0);
    // The client still holds the statement of the epoch that dies here.
    let network = network.restart_provider().await.unwrap();
    let second = network.ask(sampled_request("What is 17 + 25?", 0.0), 16).await.unwrap();
    assert_eq!((first.text.expose(), second.text.expose()), ("42", "42"));
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
    let questions = heldout();
    let questions = &questions[..16];
    let asks = questions.iter().map(|question| network.ask(question.request.clone(), 64));
    for (question, answer) in questions.iter().zip(futures_util::future::join_all(asks).await) {
        assert_eq!(answer.unwrap().text.expose(), question.answer);
    }
    assert_eq!(network.audit().await.unwrap(), (true, 0));
    network.stop().await;
}
