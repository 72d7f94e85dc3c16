//! How long sealing, opening, signing and verifying take: medians over many runs, on one core.
//!
//! `cargo run --release -p darkbloom-seal --example seal_bench`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for people at a terminal")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use darkbloom_seal::{AnswerOpener, AnswerSealer, Recipient, frame_size, seal_request};
use darkbloom_types::{ProviderId, SecretBytes, TokenCount};
use darkbloom_wire::{PublicKey, Receipt, Statement};
use fixed::FixedRng;
use parties::{NETWORK, Provider, acceptance, header, open, seal};

#[path = "../tests/seal/fixed.rs"]
mod fixed;
#[path = "../tests/seal/parties.rs"]
#[allow(dead_code, reason = "made for the tests; a benchmark takes a part of it")]
mod parties;

const RUNS: usize = 300;

/// Prints the median and the middle 80 % of a work's time. What each run needs is made outside of its time.
fn measure<T, R>(what: &str, mut prepare: impl FnMut(usize) -> T, mut work: impl FnMut(T) -> R) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|run| {
            let input = prepare(run);
            let start = Instant::now();
            black_box(work(black_box(input)));
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let micros = |index: usize| times[index].as_secs_f64() * 1e6;
    println!("{what:<44} {:>10.1} µs {:>10.1} … {:.1}", micros(RUNS / 2), micros(RUNS / 10), micros(RUNS / 10 * 9));
}

fn main() {
    println!("{:<44} {:>13} {:>10}", "", "median", "10 % … 90 %");
    requests();
    answers();
    signatures();
}

fn requests() {
    let provider = Provider::new("bench");
    let key = provider.sealing_key(&provider.current());
    for (bytes, what) in [(1_000, "1 KiB"), (60_000, "64 KiB"), (1_000_000, "1 MiB")] {
        let text = SecretBytes::new(vec![b'x'; bytes]);
        for wraps in [1_u8, 3, 8] {
            let recipients: Vec<_> = (0..wraps)
                .map(|index| Recipient {
                    provider: ProviderId([index; 32]),
                    epoch: provider.current(),
                    sealing_key: &key,
                })
                .collect();
            measure(
                &format!("seal {what} to {wraps}"),
                |run| FixedRng::new(run.to_string()),
                |mut rng| seal_request(header(), &text, &recipients, &mut rng).unwrap(),
            );
        }
        let mut provider = Provider::new("bench");
        let sealed: Vec<_> =
            (0..RUNS).map(|run| seal(header(), text.expose(), &[&provider], &run.to_string())).collect();
        measure(&format!("open {what}"), |run| &sealed[run], |sealed| open(&mut provider, sealed, 0).unwrap());
    }
}

fn answers() {
    let mut provider = Provider::new("bench");
    let sealed = seal(header(), b"hello", &[&provider], "client");
    let opened = open(&mut provider, &sealed, 0).unwrap();
    let acceptance = acceptance(&sealed, &provider, 1);
    measure("answer keys", |_| (), |()| AnswerSealer::new(&opened.response_secret, &acceptance));
    for tokens in [1, 25, 400] {
        let size = frame_size(tokens);
        let content = vec![b'x'; size / 2];
        let mut sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
        let mut opener = AnswerOpener::new(&opened.response_secret, &acceptance);
        let mut frames = Vec::new();
        let mut seal = |_| frames.push(sealer.seal(&content, size, TokenCount(0), false).unwrap());
        measure(&format!("seal a frame of {size} bytes"), |_| (), &mut seal);
        measure(&format!("open a frame of {size} bytes"), |run| &frames[run], |frame| opener.open(frame).unwrap());
    }
}

fn signatures() {
    let provider = Provider::new("bench");
    let key = provider.ring.current().receipt_key();
    let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
    let receipt = receipt(&provider);
    let signed = receipt.sign(&*key).unwrap();
    measure("sign a receipt (Ed25519)", |_| (), |()| receipt.sign(&*key).unwrap());
    measure("verify a receipt", |_| (), |()| Receipt::open(&signed, &public).unwrap());

    let identity = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
    let point = identity.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    let statement = provider.ring.current().statement(NETWORK, vec![header().model], vec![], "bench");
    let statement = Statement { identity: point, ..statement };
    let signed = statement.sign(&identity).unwrap();
    measure("sign a statement (ES256)", |_| (), |()| statement.sign(&identity).unwrap());
    measure("verify a statement", |_| (), |()| Statement::open_self_signed(&signed).unwrap());
    measure("begin an epoch", |run| run.to_string(), |label| Provider::new(&label));
}

fn receipt(provider: &Provider) -> Receipt {
    Receipt {
        request: darkbloom_types::Digest([1; 32]),
        request_id: header().request,
        attempt: darkbloom_types::AttemptNumber(1),
        transcript: darkbloom_types::Digest([2; 32]),
        model: header().model,
        weights: darkbloom_types::Digest([3; 32]),
        provider: provider.id,
        epoch: provider.current(),
        input_tokens: TokenCount(100),
        output_tokens: TokenCount(20),
        queue_us: darkbloom_types::Micros(1),
        prefill_us: darkbloom_types::Micros(2),
        decode_us: darkbloom_types::Micros(3),
        finished_at: header().sealed_at,
    }
}
