//! What an OpenAI client gets when all goes well.

use serde_json::{Value, json};

use crate::support::http::{self, Response, bearer};
use crate::support::network::{CREDIT, MODEL, Network, PRICE, ask, ask_with};

const PARTS: [&str; 7] = ["dispatch_us", "encrypt_us", "parse_us", "provider_us", "queue_us", "reserve_us", "route_us"];

fn parts(timing: &Value) -> Vec<&str> {
    let parts = timing.as_object().unwrap().iter().filter(|(name, _)| *name != "said_by");
    let mut parts: Vec<_> = parts.map(|(name, value)| (value.as_u64().unwrap(), name.as_str()).1).collect();
    // In whatever order they stand.
    parts.sort_unstable();
    parts
}

/// Whose word the parts are that a client cannot measure.
pub fn said_by(provider: &[&str]) -> Value {
    json!({"coordinator": ["reserve_us", "route_us", "queue_us", "dispatch_us"], "provider": provider})
}

#[track_caller]
fn has_the_documented_headers(answer: &Response, network: &Network) {
    let digits = |name: &str, length: usize| {
        let value = answer.header(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(value.len() == length && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}: {value}");
    };
    digits("x-darkbloom-request", 32);
    digits("x-darkbloom-epoch", 32);
    digits("x-darkbloom-catalogue", 64);
    assert_eq!(answer.header("x-darkbloom-provider"), Some(&*network.providers[0].id));
    assert_eq!(answer.header("x-darkbloom-tier"), Some("self_signed"));
    assert_eq!(answer.header("x-darkbloom-trust"), Some("pinned"));
    assert_eq!(answer.attempts(), [(&*network.providers[0].id, "accepted")]);
    assert_eq!(answer.header("x-darkbloom-sealed-by"), Some("gateway"));
    assert_eq!(answer.header("x-darkbloom-asserted-by"), Some("gateway"));
    assert_eq!(answer.header("x-darkbloom-verified-by"), None, "its caller verified nothing");
    assert!(answer.header("x-request-id").unwrap().starts_with("req_"));
}

#[test]
fn a_whole_answer_has_openais_shape_and_the_documented_headers() {
    let network = Network::start();
    let answer = network.chat(&ask("What is 17 + 25?"));
    assert_eq!(answer.answer(), "42");
    has_the_documented_headers(&answer, &network);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-darkbloom-receipt").unwrap().len(), 64);
    let timing: Value = serde_json::from_str(answer.header("x-timing").unwrap()).unwrap();
    assert_eq!(parts(&timing), PARTS);
    assert_eq!(timing["said_by"], said_by(&["provider_us"]));
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], MODEL);
    assert_eq!(body["choices"].as_array().unwrap().len(), 1);
    assert_eq!(body["choices"][0]["index"], 0);
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    let request_id = answer.header("x-request-id").unwrap();
    assert_eq!(body["id"].as_str().unwrap().strip_prefix("chatcmpl-"), request_id.strip_prefix("req_"));
    let tokens = |name: &str| body["usage"][name].as_i64().unwrap();
    assert_eq!(tokens("total_tokens"), tokens("prompt_tokens") + tokens("completion_tokens"));
    let row = &network.coordinator.usage(&network.key)[0];
    assert_eq!(row["input_tokens"].as_i64(), Some(tokens("prompt_tokens")));
    assert_eq!(row["output_tokens"].as_i64(), Some(tokens("completion_tokens")));
    assert_eq!(row["charge_nano_usd"], PRICE.0 * tokens("prompt_tokens") + PRICE.1 * tokens("completion_tokens"));
    assert_eq!(row["request"].as_str(), answer.header("x-darkbloom-request"));
    network.books_close();
}

#[test]
fn a_stream_has_openais_events_and_ends_with_what_was_verified() {
    let network = Network::start();
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = network.chat(&ask_with("Count from 3 to 9.", more));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    has_the_documented_headers(&answer, &network);
    assert_eq!(answer.header("x-darkbloom-receipt"), None, "it is not known at the first content");
    let timing: Value = serde_json::from_str(answer.header("x-timing").unwrap()).unwrap();
    assert_eq!(parts(&timing).len(), 6, "all but the provider's part is known at the first content: {timing}");
    assert_eq!(timing["provider_us"], Value::Null);
    assert_eq!(timing["said_by"]["provider"], Value::Null);

    assert_eq!(answer.streamed(), "3, 4, 5, 6, 7, 8, 9");
    let events = answer.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["model"], MODEL);
    }
    let [.., finish, usage] = &chunks[..] else { panic!("{events:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(finish["usage"], Value::Null);
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_i64().unwrap() > 7);

    let whole = answer.comment("x-timing").expect("the complete timing in a comment");
    assert_eq!(parts(&whole), PARTS);
    assert_eq!(whole["said_by"], said_by(&["provider_us"]));
    let verified = answer.comment("x-darkbloom").unwrap();
    assert_eq!((&verified["asserted_by"], &verified["verified_by"]), (&"gateway".into(), &Value::Null));
    assert_eq!(verified["receipt"].as_str().unwrap().len(), 64);
    let row = &network.coordinator.usage(&network.key)[0];
    assert_eq!(verified["charge_nano_usd"], row["charge_nano_usd"]);
    assert!(answer.text().ends_with("\n\ndata: [DONE]\n\n"));
    network.books_close();
}

#[test]
fn usage_in_a_stream_comes_only_when_asked_for() {
    let network = Network::start();
    let answer = network.chat(&ask_with("What is 17 + 25?", json!({"stream": true})));
    assert_eq!(answer.streamed(), "42");
    assert!(!answer.text().contains("\"usage\""), "{}", answer.text());
}

#[test]
fn models_are_listed_and_found_by_name() {
    let network = Network::start();
    let list = http::request(&network.gateway.address, "GET", "/v1/models", &[], b"");
    assert_eq!(list.status, 200);
    assert_eq!(list.json()["object"], "list");
    assert_eq!(list.json()["data"][0]["id"], MODEL);
    assert_eq!(list.json()["data"][0]["object"], "model");
    let one = http::request(&network.gateway.address, "GET", &format!("/v1/models/{MODEL}"), &[], b"");
    assert_eq!(one.json(), list.json()["data"][0]);
    let id = |answer: &Response| answer.header("x-request-id").expect("a request id").to_owned();
    assert!(id(&list).starts_with("req_") && id(&one).starts_with("req_") && id(&list) != id(&one));
    let none = http::request(&network.gateway.address, "GET", "/v1/models/org/none", &[], b"");
    assert_eq!((none.status, none.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
}

#[test]
fn stop_strings_and_limits_end_an_answer() {
    let network = Network::start();
    let count = |more: Value| network.chat(&ask_with("Count from 3 to 9.", more)).json();
    let stopped = count(json!({"stop": [", 6", "9"]}));
    assert_eq!(stopped["choices"][0]["message"]["content"], "3, 4, 5");
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    let stopped = count(json!({"stop": "3"}));
    assert_eq!(stopped["choices"][0]["message"]["content"], "");
    for name in ["max_tokens", "max_completion_tokens"] {
        let cut = count(json!({name: 4}));
        assert_eq!(cut["choices"][0]["finish_reason"], "length", "{cut}");
        assert_eq!(cut["usage"]["completion_tokens"], 4);
        assert!("3, 4, 5, 6, 7, 8, 9".starts_with(cut["choices"][0]["message"]["content"].as_str().unwrap()), "{cut}");
    }
    let stopped = network.chat(&ask_with("Count from 3 to 9.", json!({"stop": ", 6", "stream": true})));
    assert_eq!(stopped.streamed(), "3, 4, 5", "nothing of a stop string is shown");
    network.books_close();
}

#[test]
fn a_seed_makes_an_answer_reproducible() {
    let network = Network::start();
    let sampled = |seed: i64| {
        let more = json!({"seed": seed, "temperature": 2, "max_tokens": 60});
        network.chat(&ask_with("Count from 1 to 30.", more)).answer()
    };
    let first: Vec<_> = (1..=6).map(sampled).collect();
    let second: Vec<_> = (1..=6).map(sampled).collect();
    assert_eq!(first, second);
    assert!(first.iter().any(|answer| *answer != first[0]), "seeds matter: {first:?}");
}

#[test]
fn hints_are_listed_and_parts_are_joined() {
    let network = Network::start();
    let mut body = ask_with("", json!({"user": "somebody", "metadata": {"a": "b"}}));
    body["messages"] = json!([{"role": "user", "content": [{"type": "text", "text": "What is 17 + 25?"}]}]);
    let answer = network.chat(&body);
    assert_eq!(answer.answer(), "42");
    assert_eq!(answer.header("x-darkbloom-hints"), Some("metadata, user"));
}

#[test]
fn an_idempotency_key_answers_once() {
    let network = Network::start();
    let call = |key: &str, body: &Value| {
        let headers = [("authorization", &*bearer(&network.key)), ("idempotency-key", key)];
        let body = body.to_string();
        http::request(&network.gateway.address, "POST", "/v1/chat/completions", &headers, body.as_bytes())
    };
    let question = ask("What is 17 + 25?");
    assert_eq!(call("one", &question).answer(), "42");
    for body in [&question, &ask_with("What is 17 + 25?", json!({"stream": true}))] {
        let again = call("one", body);
        assert_eq!(again.status, 409);
        assert_eq!(again.json()["error"]["code"], "already_completed");
        assert_eq!(again.header("x-should-retry"), Some("false"), "it would be told the same");
    }
    assert_eq!(call("two", &question).answer(), "42", "another key is another operation");
    assert_eq!(call(&"k".repeat(256), &question).status, 400);
    let other = network.coordinator.account("other", CREDIT);
    let headers = [("authorization", &*bearer(&other)), ("idempotency-key", "one")];
    let body = question.to_string();
    let other = http::request(&network.gateway.address, "POST", "/v1/chat/completions", &headers, body.as_bytes());
    assert_eq!(other.answer(), "42", "another account's key is another operation");
    assert_eq!(network.coordinator.usage(&network.key).len(), 2);
    network.books_close();
}

#[test]
fn health_is_told_without_a_key() {
    let network = Network::start();
    let get = |address: &str, path: &str| http::request(address, "GET", path, &[], b"");
    assert_eq!(get(&network.gateway.address, "/healthz").json()["status"], "ok");
    assert_eq!(get(&network.coordinator.address, "/healthz").json()["status"], "ok");
    let ready = get(&network.coordinator.address, "/readyz").json();
    assert_eq!((ready["providers_connected"].as_i64(), ready["providers_eligible"].as_i64()), (Some(1), Some(1)));
}
