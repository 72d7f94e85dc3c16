//! The same load for several OpenAI servers, in rounds that take turns:
//!
//! `load_client [rows=1,2,4] [rounds=3] [prompt=100] [output=64] [ban=0,2] NAME=URL,MODEL,KEY...`
//!
//! Each round asks every server for so many streamed answers at once and measures when their pieces come. `prompt` is about
//! so many words; `ban` are the tokens that would end an answer early. Shown are medians over the rounds: tokens a second of
//! all rows together, each from its own first piece on, while others may still be fed; the time until a row's first
//! piece, and until all answers are whole. Ratios are to the first server, round by round.

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
    prompt: usize,
    output: u32,
    ban: Vec<String>,
}

/// What one answer's life told the clock.
struct Measured {
    first: Duration,
    /// Tokens a second after the first piece.
    rate: f64,
    whole: Duration,
}

#[tokio::main]
async fn main() {
    let mut load = Load { rows: vec![1, 2, 4], rounds: 3, prompt: 100, output: 64, ban: Vec::new() };
    let mut servers = Vec::new();
    for word in std::env::args().skip(1) {
        let (name, value) = word.split_once('=').expect("words are NAME=VALUE");
        let list = || value.split(',').map(ToOwned::to_owned).collect::<Vec<_>>();
        match name {
            "rows" => load.rows = list().iter().map(|rows| rows.parse().unwrap()).collect(),
            "rounds" => load.rounds = value.parse().unwrap(),
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
    let http = reqwest::Client::new();
    println!("| rows | server | tokens a second | ratio (least to most) | first piece, ms | all of them, ms |");
    println!("|---|---|---|---|---|---|");
    for &rows in &load.rows {
        let mut rates = vec![Vec::new(); servers.len()];
        let mut firsts = vec![Vec::new(); servers.len()];
        let mut wholes = vec![Vec::new(); servers.len()];
        // The first round warms up and is not counted.
        for round in 0..=load.rounds {
            for (at, server) in servers.iter().enumerate() {
                let asked = (0..rows).map(|row| ask(&http, server, &load, round * 1_000 + row));
                let answers = futures_util::future::join_all(asked).await;
                if round > 0 {
                    rates[at].push(answers.iter().map(|answer| answer.rate).sum::<f64>());
                    wholes[at].push(answers.iter().map(|one| one.whole.as_secs_f64()).fold(0.0, f64::max));
                    firsts[at].push(median(&answers.iter().map(|one| one.first.as_secs_f64()).collect::<Vec<_>>()));
                }
            }
        }
        for (at, server) in servers.iter().enumerate() {
            let mut comparison = Comparison::default();
            rates[at].iter().zip(&rates[0]).for_each(|(own, first)| comparison.push(*own, *first));
            let (middle, least, most) = comparison.ratio();
            let (first, whole) = (median(&firsts[at]) * 1_000.0, median(&wholes[at]) * 1_000.0);
            println!(
                "| {rows} | {} | {:.1} | {middle:.2} ({least:.2} to {most:.2}) | {first:.0} | {whole:.0} |",
                server.name,
                comparison.a()
            );
        }
    }
}

/// Asks for one answer and reads it to its end.
async fn ask(http: &reqwest::Client, server: &Server, load: &Load, number: usize) -> Measured {
    // No two prompts begin alike, so that nobody's cache of prefixes helps but where it should: within a conversation.
    let words: Vec<String> = (0..load.prompt).map(|at| format!("{}", (number * 7_919 + at * 31) % 997)).collect();
    let mut body = json!({
        "model": server.model, "stream": true, "temperature": 0, "max_tokens": load.output,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": words.join(" ")}],
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
    let (mut first, mut last, mut tokens) = (None, Duration::ZERO, 0u64);
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
                first.get_or_insert(now);
                last = now;
            }
            if let Some(made) = event["usage"]["completion_tokens"].as_u64() {
                tokens = made;
            }
        }
    }
    let first = first.expect("an answer has a piece");
    // The first piece has a token at least; the rest came after it.
    Measured { first, rate: tokens.saturating_sub(1) as f64 / (last - first).as_secs_f64(), whole: last }
}
