//! What dies in the middle, and that neither an answer nor money is lost by it.

use std::thread;
use std::time::Duration;

use darkbloom_types::RefusalCode;
use darkbloom_wire::Relayed;
use serde_json::{Value, json};

use crate::attacks::hostile::consumer::Consumer;
use crate::support::http::{Reading, Response};
use crate::support::network::{CREDIT, Network, PRICE, Provider, ask, ask_with, endless_model};
use crate::support::process::{Process, command as command_line};
use crate::support::until;

/// A stream that does not end before its limit.
fn long() -> Value {
    ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": 900}))
}

/// Reads until some of the answer is there; a role's event alone is none.
pub fn first_content(reading: &mut Reading) -> Vec<u8> {
    assert_eq!(reading.status, 200);
    let mut read = Vec::new();
    let has_content = |read: &[u8]| {
        let text = String::from_utf8_lossy(read);
        text.lines().filter_map(|line| line.strip_prefix("data: ")).any(|event| {
            let chunk: Value = serde_json::from_str(event).unwrap_or_default();
            chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|content| !content.is_empty())
        })
    };
    while !has_content(&read) {
        read.extend(reading.chunk().unwrap().expect("more of the answer"));
    }
    read
}

/// Reads the rest, after what was read before.
pub fn rest(reading: Reading, before: Vec<u8>) -> Response {
    let mut response = reading.finish().unwrap();
    response.body.splice(0..0, before);
    response
}

/// The error that ends a broken stream.
#[track_caller]
fn broken(response: &Response) -> Value {
    let events = response.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert!(last["error"]["code"].is_string(), "{last}");
    assert!(last["error"]["request_id"].as_str().unwrap().starts_with("req_"), "{last}");
    assert!(!events.iter().any(|event| event == "[DONE]"), "a broken stream never ends like a whole one");
    assert!(!response.text().contains("\"finish_reason\":\"stop\""));
    last["error"].clone()
}

fn held(network: &Network) {
    until("the money is held", || (network.coordinator.balance(&network.key).1 > 0).then_some(()));
}

#[test]
fn a_provider_that_dies_before_it_accepts_costs_nothing() {
    for stream in [false, true] {
        let mut network = Network::start();
        let mut provider = network.providers.pop().unwrap();
        provider.process.pause();
        let refused = thread::scope(|scope| {
            let call = scope.spawn(|| network.chat(&ask_with("What is 17 + 25?", json!({"stream": stream}))));
            held(&network);
            provider.process.kill();
            call.join().unwrap()
        });
        assert!(matches!(refused.status, 502 | 503), "{} {}", refused.status, refused.text());
        let code = refused.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(["provider_lost", "no_eligible_provider"].contains(&&*code), "{code}");
        assert_eq!(refused.header("x-darkbloom-provider"), None);
        network.coordinator.books_close(&network.key, CREDIT);
        assert!(network.coordinator.usage(&network.key).is_empty());
    }
}

/// Accepted, and not a word yet.
fn is_reading(frames: &[Relayed]) -> bool {
    frames.iter().any(|frame| matches!(frame, Relayed::RelayedAccepted(_)))
        && !frames.iter().any(|frame| matches!(frame, Relayed::RelayedData(_)))
}

#[test]
fn a_provider_that_dies_while_it_reads_the_prompt_costs_nothing() {
    let network = Network::with(0);
    // Reading the longest prompt takes many times as long as stopping a process. Should a machine be so busy that the
    // first word comes before that, nothing is shown, and another provider dies.
    for attempt in 1.. {
        assert!(attempt <= 10, "no provider died in time");
        let token = network.coordinator.key("join", None);
        let data = network.folder.path().join(format!("provider-{attempt}"));
        let mut provider = Provider::start(&network.coordinator, &data, Some(&token), &network.model);
        network.coordinator.eligible(1);
        let before = network.coordinator.balance(&network.key).0;
        let consumer = Consumer::new(&network.coordinator, &network.key);
        let seal = consumer.seal_long(&"apple ".repeat(150));
        let mut reading = consumer.open(&seal.submit);
        let mut frames = Vec::new();
        while !is_reading(&frames) {
            frames.push(reading.next().expect("an acceptance"));
        }
        provider.process.pause();
        provider.process.kill();
        frames.extend(reading.rest());
        network.coordinator.eligible(0);
        if !is_reading(&frames) {
            continue;
        }
        let Some(Relayed::RelayedRefused(refused)) = frames.last() else { panic!("{frames:?}") };
        assert_eq!(refused.refusal().code, RefusalCode::ProviderLost);
        until("no money is held", || (network.coordinator.balance(&network.key).1 == 0).then_some(()));
        network.coordinator.books_are_clean();
        assert_eq!(network.coordinator.balance(&network.key).0, before, "nothing came, nothing is paid");
        return;
    }
}

#[test]
fn a_provider_that_dies_during_an_answer_cuts_it_and_only_what_came_is_paid() {
    let mut network = Network::endless(1);
    let mut provider = network.providers.pop().unwrap();
    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    let before = first_content(&mut reading);
    provider.process.pause();
    provider.process.kill();
    let error = broken(&rest(reading, before));
    assert_eq!(error["code"], "answer_cut", "{error}");
    assert_eq!(error["type"], "server_error");
    network.coordinator.books_close(&network.key, CREDIT);
    let usage = network.coordinator.usage(&network.key);
    let tokens = |name: &str| usage[0][name].as_i64().unwrap();
    assert!((1..900).contains(&tokens("output_tokens")), "{usage:?}");
    // Without a receipt nobody vouches for the input, and it costs nothing; the output is what was counted on its way.
    assert_eq!(tokens("input_tokens"), 0);
    assert_eq!(tokens("charge_nano_usd"), PRICE.1 * tokens("output_tokens"));
    assert_eq!(error["charge_nano_usd"].as_i64(), Some(tokens("charge_nano_usd")), "{error}");
}

#[test]
fn requests_fail_over_unseen_when_one_of_two_providers_dies() {
    let mut network = Network::with(2);
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    network.providers[0].process.pause();
    let answers: Vec<(i32, Response)> = thread::scope(|scope| {
        let network = &network;
        let calls: Vec<_> = (0..12)
            .map(|number| {
                let (a, b) = (12 + number, 50 - 2 * number);
                (a + b, scope.spawn(move || network.chat(&ask(&format!("What is {a} + {b}?")))))
            })
            .collect();
        until("both have work", || {
            let providers = network.coordinator.providers();
            let waits = providers.iter().any(|provider| {
                provider["provider"] == network.providers[0].id.as_str() && provider["models"][0]["rows_used"] != 0
            });
            waits.then_some(())
        });
        network.providers[0].process.signal("KILL");
        calls.into_iter().map(|(sum, call)| (sum, call.join().unwrap())).collect()
    });
    for (sum, answer) in &answers {
        assert_eq!(answer.answer(), sum.to_string());
        assert_eq!(answer.header("x-darkbloom-provider"), Some(&*network.providers[1].id));
    }
    let attempts: Vec<_> = answers.iter().map(|(_, answer)| answer.attempts().len()).collect();
    assert!(attempts.contains(&2), "at least one was offered to the one that died: {attempts:?}");
    network.books_close();
    drop(network.providers.remove(0));
}

#[test]
fn a_consumer_that_hangs_up_frees_the_row_and_pays_for_what_came() {
    let network = Network::endless(1);
    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    first_content(&mut reading);
    let provider = &network.providers[0].process;
    provider.pause();
    drop(reading);
    // Time for the news to travel; the row stands still meanwhile.
    thread::sleep(Duration::from_millis(300));
    provider.resume();
    until("the row is free", || (network.coordinator.providers()[0]["models"][0]["rows_used"] == 0).then_some(()));
    network.books_close();
    let usage = network.coordinator.usage(&network.key);
    let output = usage[0]["output_tokens"].as_i64().unwrap();
    assert!((1..900).contains(&output), "stopped early: {usage:?}");
    let next = network.chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 2})));
    assert_eq!(next.answer(), "42", "the provider goes on");
}

#[test]
fn a_consumer_that_hangs_up_before_anything_came_pays_nothing() {
    let network = Network::start();
    network.providers[0].process.pause();
    let connection = thread::scope(|scope| {
        let body = ask("What is 17 + 25?").to_string();
        let key = format!("Bearer {}", network.key);
        let stream = std::net::TcpStream::connect(&network.gateway.address).unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        std::io::Write::write_all(&mut &stream, head.as_bytes()).unwrap();
        scope.spawn(|| held(&network)).join().unwrap();
        stream
    });
    drop(connection);
    thread::sleep(Duration::from_millis(300));
    network.providers[0].process.resume();
    network.books_close();
    assert!(network.coordinator.usage(&network.key).is_empty(), "nothing came, nothing is paid");
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
}

#[test]
fn a_provider_told_to_stop_ends_what_it_began() {
    let mut network = Network::endless(1);
    let mut provider = network.providers.pop().unwrap();
    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    let before = first_content(&mut reading);
    provider.process.signal("TERM");
    let answer = rest(reading, before);
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"), "{}", answer.text());
    assert!(answer.text().contains("\"finish_reason\":\"length\""));
    assert!(provider.process.ended().success());
    network.coordinator.books_close(&network.key, CREDIT);
    assert_eq!(network.coordinator.usage(&network.key)[0]["output_tokens"], 900);
    let refused = network.chat(&ask("What is 17 + 25?"));
    assert!(matches!(refused.status, 502 | 503), "{}", refused.status);
}

#[test]
fn a_gateway_told_to_stop_ends_what_it_began() {
    let mut network = Network::endless(1);
    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    let before = first_content(&mut reading);
    network.gateway.process.signal("TERM");
    let answer = rest(reading, before);
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"));
    assert!(network.gateway.process.ended().success());
    network.books_close();
}

#[test]
fn a_coordinator_told_to_stop_lets_running_answers_end() {
    let mut network = Network::endless(1);
    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    let before = first_content(&mut reading);
    network.coordinator.process.signal("TERM");
    let answer = rest(reading, before);
    assert_eq!(answer.events().last().map(String::as_str), Some("[DONE]"), "{}", answer.text());
    assert!(network.coordinator.process.ended().success());
    network.coordinator.again();
    network.books_close();
    assert_eq!(network.coordinator.usage(&network.key)[0]["output_tokens"], 900);
}

#[test]
fn the_endless_model_is_a_model_without_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let model = endless_model(folder.path());
    let network = Network::of(folder, 1, model);
    let answer = network.chat(&ask("Count from 1 to 9.")).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "it fills what it may: {answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 1_024 - 256, "the context but for the prompt's ceiling");
    network.books_close();
}

/// The process that a supervised provider is now.
fn child_of(supervisor: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    children.split_whitespace().next().map(|pid| pid.parse().unwrap())
}

#[test]
fn a_provider_whose_process_aborts_is_started_again_as_the_same_with_new_keys() {
    let mut network = Network::endless(1);
    let mut unsupervised = network.providers.pop().unwrap();
    unsupervised.process.kill();
    network.coordinator.eligible(0);
    let coordinator = &network.coordinator;
    let command = Provider::command(&coordinator.url, &coordinator.pin, &unsupervised.data, &network.model);
    let mut supervised = command_line(&[]);
    supervised.args(command.get_args().filter(|argument| *argument != "--foreground"));
    let (process, ready) = Process::role(&mut supervised).unwrap();
    assert_eq!(ready["provider"], unsupervised.id.as_str(), "the identity that lies on the disk");
    coordinator.eligible(1);
    let epoch = || Consumer::new(coordinator, &network.key).statements[0].epoch();
    let (epoch_before, child) = (epoch(), child_of(process.pid()).unwrap());

    let mut reading = network.gateway.open_chat(&network.key, &long()).unwrap();
    let read = first_content(&mut reading);
    // What a failed assertion of llama.cpp does.
    let aborted = std::process::Command::new("kill").args(["-ABRT", &child.to_string()]).status().unwrap();
    assert!(aborted.success());
    let error = broken(&rest(reading, read));
    assert_eq!(error["code"], "answer_cut", "{error}");

    until("another process", || child_of(process.pid()).filter(|now| *now != child));
    coordinator.eligible(1);
    assert_ne!(epoch(), epoch_before);
    let answer = network.chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 5})));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-darkbloom-provider"), Some(&*unsupervised.id));
}
