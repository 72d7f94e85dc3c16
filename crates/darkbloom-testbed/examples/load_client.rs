//! The same load for several OpenAI servers, in rounds that take turns:
//!
//! `load_client [rows=1,2,4] [rounds=3] [answers=2] [apart=0] [shared=0] [prompt=100] [output=64] [ban=0,2] NAME=URL,MODEL,KEY...`
//!
//! In each round every server has so many consumers at once, each of whom asks for `answers` streamed answers, one after the
//! other, and begins `apart` milliseconds after the one before; the servers change turns from round to round. `prompt` is
//! about so many words, and no two prompts begin alike, but after a system's message of `shared` words that all questions of a
//! round have in common and no others; `ban` are the tokens that would end an answer early. Shown are medians
//! over the rounds: tokens a second, of all answers from the first question until the last answer is whole, and their ratio to
//! the first server's, round by round; the median time from a question to its first piece; the median time between an answer's
//! tokens after that, and the longest time between two pieces of any.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a tool whose result is its output, and which ends at any error"
)]

use std::time::{Duration, Instant};

use darkbloom_testbed::{Comparison, median};
use serde_json::{Value, json};

/// A server that ends no answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(300);

struct Server {
    name: String,
    url: String,
    model: String,
    key: String,
}

#[derive(Clone)]
struct Load {
    rows: Vec<usize>,
    rounds: usize,
    answers: usize,
    apart: Duration,
    shared: usize,
    prompt: usize,
    output: u32,
    ban: Vec<String>,
}

/// What one answer's life told the clock.
struct Measured {
    tokens: u64,
    first: Duration,
    /// Between tokens, on average.
    gap: Duration,
    /// Between pieces, the longest.
    pause: Duration,
}

#[tokio::main]
async fn main() {
    let rows = vec![1, 2, 4];
    let apart = Duration::ZERO;
    let mut load = Load { rows, rounds: 3, answers: 2, apart, shared: 0, prompt: 100, output: 64, ban: Vec::new() };
    let mut servers = Vec::new();
    for word in std::env::args().skip(1) {
        let (name, value) = word.split_once('=').expect("words are NAME=VALUE");
        let list = || value.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
        match name {
            "rows" => load.rows = list().iter().map(|rows| rows.parse().unwrap()).collect(),
            "rounds" => load.rounds = value.parse().unwrap(),
            "answers" => load.answers = value.parse().unwrap(),
            "apart" => load.apart = Duration::from_millis(value.parse().unwrap()),
            "shared" => load.shared = value.parse().unwrap(),
            "prompt" => load.prompt = value.parse().unwrap(),
            "output" => load.output = value.parse().unwrap(),
            "ban" => load.ban = list(),
            _ => {
                let mut parts = list();
                parts.resize(3, String::new());
                let [url, model, key] = <[String; 3]>::try_from(parts).unwrap();
                servers.push(Server { name: name.to_owned(), url, model, key });
            }
        }
    }
    rustls::crypto::ring::default_provider().install_default().unwrap();
    // A server may close a connection that waits for its turn.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    println!(
        "| rows | server | tokens a second | ratio (least to most) | first piece, ms | gap, ms | longest pause, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &rows in &load.rows {
        let mut rates = vec![Vec::new(); servers.len()];
        let mut answers: Vec<Vec<Measured>> = servers.iter().map(|_| Vec::new()).collect();
        // The first round warms up and is not counted.
        for round in 0..=load.rounds {
            for turn in 0..servers.len() {
                let at = (turn + round) % servers.len();
                let began = Instant::now();
                let asked = (0..rows).map(|row| ask_on(&http, &servers[at], &load, [at, rows, round, row]));
                let came: Vec<Measured> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
                if round > 0 {
                    let tokens = came.iter().map(|answer| answer.tokens).sum::<u64>();
                    rates[at].push(tokens as f64 / began.elapsed().as_secs_f64());
                    answers[at].extend(came);
                }
            }
        }
        for (at, server) in servers.iter().enumerate() {
            let mut comparison = Comparison::default();
            rates[at].iter().zip(&rates[0]).for_each(|(own, first)| comparison.push(*own, *first));
            let (middle, least, most) = comparison.ratio();
            let of = |what: fn(&Measured) -> Duration| {
                median(&answers[at].iter().map(|one| what(one).as_secs_f64() * 1_000.0).collect::<Vec<_>>())
            };
            println!(
                "| {rows} | {} | {:.1} | {middle:.2} ({least:.2} to {most:.2}) | {:.0} | {:.0} | {:.0} |",
                server.name,
                comparison.a(),
                of(|answer| answer.first),
                of(|answer| answer.gap),
                answers[at].iter().map(|answer| answer.pause.as_secs_f64() * 1_000.0).fold(0.0, f64::max),
            );
        }
    }
}

/// One consumer of a round, by what tells it from all others.
async fn ask_on(http: &reqwest::Client, server: &Server, load: &Load, who: [usize; 4]) -> Vec<Measured> {
    let mut answers = Vec::with_capacity(load.answers);
    let [_, _, _, row] = who;
    tokio::time::sleep(load.apart * row as u32).await;
    for nth in 0..load.answers {
        let shared = (load.shared > 0).then(|| prompt(load.shared, [who[0], who[1], who[2], 99], 99));
        answers.push(ask(http, server, load, shared, prompt(load.prompt, who, nth)).await);
    }
    answers
}

/// Numbers, of which the first tells a prompt from every other by its first digits: nobody's cache of prefixes helps but with
/// what the template writes before them.
fn prompt(words: usize, who: [usize; 4], nth: usize) -> String {
    let first = who.into_iter().chain([nth]).fold(1, |number, part| number * 100 + part as u64);
    // The fraction of a golden section's multiple: neighbours are far apart (Knuth, The Art of Computer Programming, 6.4).
    let first = first.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let others = (1..words as u64).map(|at| (first / 1_000 + at * 7_919) % 997);
    [first].into_iter().chain(others).map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

/// Asks for one answer and reads it to its end.
async fn ask(http: &reqwest::Client, server: &Server, load: &Load, shared: Option<String>, prompt: String) -> Measured {
    let system = shared.map(|content| json!({"role": "system", "content": content}));
    let messages: Vec<_> = system.into_iter().chain([json!({"role": "user", "content": prompt})]).collect();
    let mut body = json!({
        "model": server.model, "stream": true, "temperature": 0, "max_tokens": load.output,
        "stream_options": {"include_usage": true},
        "messages": messages,
    });
    if !load.ban.is_empty() {
        body["logit_bias"] =
            load.ban.iter().map(|token| (token.clone(), json!(-100))).collect::<serde_json::Map<_, _>>().into();
    }
    let began = Instant::now();
    let request = http
        .post(format!("{}/v1/chat/completions", server.url))
        .header("authorization", format!("Bearer {}", server.key))
        .header("content-type", "application/json")
        .timeout(PATIENCE)
        .body(body.to_string());
    let mut response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}: {} {:?}", server.name, response.status(), response.text().await);
    let (mut first, mut last, mut pause, mut tokens) = (None, Duration::ZERO, Duration::ZERO, 0u64);
    let mut text = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        let now = began.elapsed();
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let data = event.lines().find_map(|line| line.strip_prefix("data: "));
            let Some(event) = data.and_then(|data| serde_json::from_str::<Value>(data).ok()) else { continue };
            let delta = &event["choices"][0]["delta"];
            if ["content", "reasoning_content"]
                .iter()
                .any(|part| delta[part].as_str().is_some_and(|text| !text.is_empty()))
            {
                if first.is_some() {
                    pause = pause.max(now - last);
                }
                first.get_or_insert(now);
                last = now;
            }
            if let Some(made) = event["usage"]["completion_tokens"].as_u64() {
                tokens = made;
            }
        }
    }
    assert!(tokens > 0, "{}: an answer without a token", server.name);
    // Random weights may say nothing but parts of characters: then an answer's end is the first that is seen of it.
    let first = first.unwrap_or_else(|| began.elapsed());
    // The first piece has a token at least; the rest came after it.
    let gap = last.saturating_sub(first) / u32::try_from(tokens.saturating_sub(1).max(1)).unwrap();
    Measured { tokens, first, gap, pause }
}
