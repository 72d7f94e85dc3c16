//! `start --local`: OpenAI's interface without a network.

use serde_json::{Value, json};

use crate::support::http::{self, Response, bearer};
use crate::support::network::{ask_with, endless_model, model_file};
use crate::support::process::{Process, command};

struct Local {
    process: Process,
    address: String,
    key: String,
    models: Value,
    folder: tempfile::TempDir,
}

fn start(more: &[&str]) -> Local {
    let folder = tempfile::tempdir().unwrap();
    let other = endless_model(folder.path());
    let mut command = command(&["start", "--foreground", "--local", "--port", "0", "--threads", "1"]);
    command.arg("--data").arg(folder.path().join("data")).arg("--model").arg(model_file()).arg("--model").arg(other);
    let (process, ready) = Process::role(command.args(more)).unwrap();
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();
    Local { process, address: text("address"), key: text("key"), models: ready["models"].clone(), folder }
}

impl Local {
    fn call(&self, key: &str, body: &Value) -> Response {
        let headers = [("authorization", &*bearer(key)), ("content-type", "application/json")];
        http::request(&self.address, "POST", "/v1/chat/completions", &headers, body.to_string().as_bytes())
    }

    fn ask(&self, prompt: &str, more: Value) -> Response {
        self.call(&self.key, &ask_with(prompt, more))
    }
}

const SUM: &str = "What is 17 + 25?";
const SHIPPED: &str = "darkbloom-tiny-q8_0";

#[test]
fn programs_of_this_machine_are_answered_without_a_network() {
    let local = start(&[]);
    assert_eq!(local.models, json!([SHIPPED, "endless"]));
    let whole = local.ask(SUM, json!({"model": SHIPPED}));
    assert_eq!(whole.status, 200, "{}", whole.text());
    let answer = whole.json();
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("42"), "{answer}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(
        answer["usage"]["prompt_tokens"].as_u64() > Some(5) && answer["usage"]["completion_tokens"].as_u64() > Some(0)
    );
    for (name, _) in &whole.headers {
        assert!(!name.starts_with("x-darkbloom-"), "nothing was sealed or verified, but it says {name}");
    }
    let streamed = local.ask(SUM, json!({"model": SHIPPED, "stream": true})).text();
    assert!(streamed.ends_with("data: [DONE]\n\n") && !streamed.contains("x-darkbloom"), "{streamed}");
    let text: String = streamed
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(ToOwned::to_owned))
        .collect();
    assert_eq!(text, answer["choices"][0]["message"]["content"].as_str().unwrap(), "streamed or not, it says the same");
    // The other model is loaded for its first request, and its answers end at limits and stop strings.
    let long = local.ask(SUM, json!({"model": "endless", "max_tokens": 30})).json();
    assert_eq!(
        (&long["usage"]["completion_tokens"], &long["choices"][0]["finish_reason"]),
        (&30.into(), &"length".into())
    );
    let said = long["choices"][0]["message"]["content"].as_str().unwrap();
    let stop: String = said.chars().skip(3).take(2).collect();
    let stopped = local.ask(SUM, json!({"model": "endless", "max_tokens": 30, "stop": [stop]})).json();
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let before = &said[..said.find(&stop).unwrap()];
    assert_eq!(stopped["choices"][0]["message"]["content"], before);
    let listed = http::request(&local.address, "GET", "/v1/models", &[("authorization", &*bearer(&local.key))], b"");
    assert_eq!(listed.json()["data"][1]["id"], "endless");
}

#[test]
fn what_is_wrong_is_refused_and_nobody_without_the_key_is_answered() {
    let local = start(&[]);
    for wrong in ["", "dbl-", &local.key[1..]] {
        let refused = local.call(wrong, &ask_with(SUM, json!({"model": SHIPPED})));
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &"invalid_api_key".into()));
    }
    let listed = http::request(&local.address, "GET", "/v1/models", &[("authorization", "Bearer x")], b"");
    assert_eq!(listed.status, 401, "others of this machine need not know what it has");
    let unknown = local.ask(SUM, json!({"model": "another"}));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &"model_not_found".into()));
    let long = local.ask(&"word ".repeat(3_000), json!({"model": SHIPPED}));
    assert_eq!((long.status, &long.json()["error"]["code"]), (400, &"context_length_exceeded".into()));
    let much = local.ask(SUM, json!({"model": SHIPPED, "max_tokens": 100_000}));
    assert_eq!((much.status, &much.json()["error"]["code"]), (400, &"context_length_exceeded".into()));
    let page = [("authorization", &*bearer(&local.key)), ("origin", "https://example.org")];
    assert_eq!(http::request(&local.address, "GET", "/v1/models", &page, b"").status, 403, "a page in a browser");
}

#[test]
fn a_consumer_that_goes_away_frees_its_row_and_the_key_stays_from_start_to_start() {
    let local = start(&["--rows", "1"]);
    let headers = [("authorization", &*bearer(&local.key)), ("content-type", "application/json")];
    let body = ask_with(SUM, json!({"model": "endless", "stream": true})).to_string();
    let mut reading = http::open(&local.address, "POST", "/v1/chat/completions", &headers, body.as_bytes()).unwrap();
    assert!(reading.chunk().unwrap().is_some(), "it has begun");
    drop(reading);
    // The only row is free again for this one.
    let next = local.ask(SUM, json!({"model": "endless", "max_tokens": 5})).json();
    assert_eq!(next["usage"]["completion_tokens"], 5, "{next}");
    let empty = crate::support::process::run(
        command(&["start", "--foreground", "--local", "--port", "0", "--key", " "])
            .arg("--data")
            .arg(local.folder.path())
            .arg("--model")
            .arg(model_file()),
    );
    assert!(empty.said().contains("white space"), "{empty:?}");
    let kept = std::fs::read_to_string(local.folder.path().join("data/local.key")).unwrap();
    assert_eq!(kept.trim(), local.key);
    drop(local.process);
}
