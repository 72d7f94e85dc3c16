//! Bad input gets a clear error: status, `type`, `code`, `param`, a request id, and nothing that claims a verification.

use serde_json::{Value, json};

use crate::support::http::{self, Response, bearer};
use crate::support::network::{CREDIT, Coordinator, Network, Provider, Surface, ask, ask_with, model_file};

/// The error in OpenAI's shape.
#[track_caller]
fn error(response: &Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    let error = response.json()["error"].clone();
    assert_eq!(error["code"], code, "{error}");
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert!(error.as_object().unwrap().contains_key("param"));
    let id = response.header("x-request-id").expect("a request id in the header");
    assert!(id.starts_with("req_"), "{id}");
    assert_eq!(error["request_id"], id, "the same id in the body");
    for (name, _) in &response.headers {
        assert!(!name.starts_with("x-darkbloom-"), "an error verifies nothing, but says {name}");
    }
    error
}

fn post(network: &Network, body: &[u8]) -> Response {
    let headers = [("authorization", &*bearer(&network.key)), ("content-type", "application/json")];
    http::request(&network.gateway.address, "POST", "/v1/chat/completions", &headers, body)
}

#[test]
fn what_is_wrong_with_a_body_is_said_by_name() {
    let network = Network::start();
    for malformed in ["", "{", "not JSON", "[]", "{\"model\": \"darkbloom-tiny\",}", "\u{feff}{}"] {
        let response = post(&network, malformed.as_bytes());
        let error = error(&response, 400, if malformed == "[]" { "invalid_type" } else { "invalid_json" });
        assert_eq!(error["type"], "invalid_request_error", "{malformed}");
    }
    assert_eq!(post(&network, b"{\"model\": \"\xff\"}").status, 400, "not UTF-8");
    let cases = [
        (json!({"temperature": "hot"}), "invalid_type", "temperature"),
        (json!({"temperature": 3}), "invalid_value", "temperature"),
        (json!({"max_tokens": 0}), "invalid_value", "max_tokens"),
        (json!({"max_tokens": 1.5}), "invalid_type", "max_tokens"),
        (json!({"stream": "yes"}), "invalid_type", "stream"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "invalid_value", "stop"),
        (json!({"seed": "one"}), "invalid_type", "seed"),
        (json!({"messages": "Hi"}), "invalid_type", "messages"),
        (json!({"messages": []}), "invalid_value", "messages"),
        (json!({"messages": [{"role": "wizard", "content": "Hi"}]}), "invalid_value", "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "missing_required_parameter", "messages[0].content"),
        (json!({"model": 7}), "invalid_type", "model"),
        (json!({"temprature": 1}), "unknown_parameter", "temprature"),
        (json!({"stream_options": {"include_usage": true}}), "invalid_value", "stream_options"),
    ];
    for (more, code, param) in cases {
        let error = error(&post(&network, ask_with("Hi", more).to_string().as_bytes()), 400, code);
        assert_eq!((error["param"].as_str(), error["type"].as_str()), (Some(param), Some("invalid_request_error")));
    }
    assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0), "none of this cost anything");
}

#[test]
fn what_is_not_supported_yet_is_refused_by_name() {
    let network = Network::start();
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]);
    for (more, param) in [
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"reasoning_effort": "high"}), "reasoning_effort"),
        (json!({"store": true}), "store"),
        (json!({"messages": image}), "messages[0].content[0].type"),
    ] {
        let response = post(&network, ask_with("Hi", more).to_string().as_bytes());
        let code = response.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(code.starts_with("unsupported_"), "{param}: {code}");
        let error = error(&response, 400, &code);
        assert_eq!(error["param"], param);
        assert!(error["message"].as_str().unwrap().contains(param), "{error}");
    }
    // Whether a model takes tools its own template says; this one's does not.
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let refused = error(&post(&network, ask_with("Hi", tools).to_string().as_bytes()), 400, "invalid_request");
    assert!(refused["message"].as_str().unwrap().contains("takes no tools"), "{refused}");
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"});
    let refused = error(&post(&network, ask_with("Hi", tools).to_string().as_bytes()), 400, "invalid_request");
    assert!(refused["message"].as_str().unwrap().contains("takes no tools"), "{refused}");
    // At their defaults the same fields are taken.
    let defaults = json!({"n": 1, "tools": [], "response_format": {"type": "text"}, "logprobs": false, "store": false});
    assert_eq!(network.chat(&ask_with("What is 17 + 25?", defaults)).answer(), "42");
}

#[test]
fn a_prompt_or_limit_beyond_the_context_is_refused_with_both_numbers() {
    let network = Network::start();
    let long = "apple ".repeat(2_000);
    for body in [ask(&long), ask_with(&long, json!({"stream": true}))] {
        let error = error(&network.chat(&body), 400, "context_length_exceeded");
        let message = error["message"].as_str().unwrap();
        let numbers: Vec<u64> = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        assert!(matches!(numbers[..], [prompt, 1024] if prompt > 2_000), "{message}");
        assert_eq!(error["param"], "messages");
    }
    let error = error(&network.chat(&ask_with("Hi", json!({"max_tokens": 1_024}))), 400, "context_length_exceeded");
    assert!(error["message"].as_str().unwrap().contains("1024 tokens"), "{error}");
    assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0));
}

#[test]
fn a_request_goes_to_a_provider_whose_rows_hold_it_or_the_consumer_is_told() {
    let mut network = Network::start();
    let token = network.coordinator.key("join", None);
    // Its many rows make it the best candidate of whatever fits into one.
    let small = Provider::start_with(
        &network.coordinator,
        &network.folder.path().join("small"),
        Some(&token),
        &network.model,
        &|command| {
            command.args(["--rows", "32", "--context", "64"]);
        },
    );
    network.coordinator.eligible(2);
    let gateway = Surface::gateway(&network.coordinator, &[&small.id, &network.providers[0].id]);
    let chat = |body: &Value| gateway.chat(&network.key, body);
    let by = |response: &Response| response.header("x-darkbloom-provider").unwrap().to_owned();
    let fits = chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 8})));
    assert_eq!((fits.answer(), by(&fits)), ("42".to_owned(), small.id.clone()));
    let long = format!("Read this text: {}. What is 17 + 25?", "apple ".repeat(40));
    let unlimited = ask("What is 17 + 25?");
    for body in [&ask(&long), &ask_with("What is 17 + 25?", json!({"max_tokens": 60})), &unlimited] {
        let response = chat(body);
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!((by(&response), response.attempts().len()), (network.providers[0].id.clone(), 1));
    }
    network.providers.clear();
    network.coordinator.eligible(1);
    // Whoever learns it from the provider's own refusal asks for candidates anew.
    chat(&ask(&long));
    let refused = chat(&ask(&long));
    let said = error(&refused, 503, "row_too_small");
    assert!(said["message"].as_str().unwrap().contains("the longest rows hold 64"), "{said}");
    assert_eq!(said["param"], "messages");
    let answer = chat(&unlimited);
    assert_eq!((answer.answer(), by(&answer)), ("42".to_owned(), small.id), "it has as much room as anybody");
    // The hold of the sealing that nobody could take waits a minute for another.
    let audit = network.coordinator.admin("GET", "/admin/v1/audit", &Value::Null);
    assert_eq!((&audit["clean"], &audit["open_holds"]), (&true.into(), &1.into()), "{audit}");
    assert_eq!(network.coordinator.usage(&network.key).len(), 5);
}

#[test]
fn unknown_models_keys_and_paths_are_told_apart() {
    let network = Network::start();
    let mut nobody = ask("Hi");
    nobody["model"] = "nobody/none".into();
    let said = error(&network.chat(&nobody), 404, "model_not_found");
    assert_eq!(said["param"], "model");
    error(&network.gateway.chat("db-key-of-nobody", &ask("Hi")), 401, "invalid_api_key");
    let gone = network.coordinator.account("gone", CREDIT);
    let keys = network.coordinator.admin("GET", "/admin/v1/keys", &Value::Null);
    let id = keys["data"].as_array().unwrap().iter().filter_map(|key| key["id"].as_i64()).max().unwrap();
    assert_eq!(network.gateway.chat(&gone, &ask("What is 17 + 25?")).answer(), "42");
    network.coordinator.admin("DELETE", &format!("/admin/v1/keys/{id}"), &Value::Null);
    error(&network.gateway.chat(&gone, &ask("What is 17 + 25?")), 401, "invalid_api_key");

    let address = &network.gateway.address;
    for (method, path) in [("GET", "/v1/nothing"), ("POST", "/v1/completions"), ("GET", "/")] {
        error(&http::request(address, method, path, &[], b""), 404, "not_found");
    }
    for (method, path, allowed) in [("GET", "/v1/chat/completions", "POST"), ("DELETE", "/v1/models", "GET,HEAD")] {
        let response = http::request(address, method, path, &[], b"");
        error(&response, 405, "method_not_allowed");
        assert_eq!(response.header("allow"), Some(allowed), "{method} {path}");
    }
    assert_eq!(http::request(&network.coordinator.address, "GET", "/v1/chat/completions", &[], b"").status, 404);
}

#[test]
fn the_coordinator_names_every_request_and_has_no_error_without_a_body() {
    let network = Network::start();
    let (consumer, administrator) = (bearer(&network.key), bearer(&network.coordinator.admin_key));
    let mut ids = std::collections::BTreeSet::new();
    for (method, path, headers, status, code) in [
        ("GET", "/v1/balance", vec![], 401, "invalid_api_key"),
        ("GET", "/v1/balance", vec![("authorization", &*consumer)], 200, ""),
        ("GET", "/admin/v1/audit", vec![("authorization", &*consumer)], 403, "forbidden"),
        ("GET", "/v1/nothing", vec![], 404, "not_found"),
        ("DELETE", "/v1/balance", vec![], 405, "method_not_allowed"),
        ("DELETE", "/admin/v1/keys/violet", vec![("authorization", &*administrator)], 404, "not_found"),
        ("GET", "/v1/provider", vec![], 400, "invalid_request"),
    ] {
        let response = http::request(&network.coordinator.address, method, path, &headers, b"");
        let id = response.header("x-request-id").expect("a request id").to_owned();
        assert!(id.starts_with("req_") && id.len() == 28, "{id}");
        if status == 200 {
            assert_eq!(response.status, 200);
        } else {
            let said = error(&response, status, code);
            assert_eq!(said["request_id"], *id);
            let kind = if status == 403 { "permission_error" } else { "invalid_request_error" };
            assert_eq!((&said["type"], &said["param"]), (&kind.into(), &Value::Null));
        }
        assert!(ids.insert(id), "an id comes twice");
    }
}

#[test]
fn no_money_is_402_before_any_provider_is_asked() {
    let network = Network::start();
    let poor = network.coordinator.account("poor", 1_000);
    let said = error(&network.gateway.chat(&poor, &ask("What is 17 + 25?")), 402, "insufficient_quota");
    assert_eq!(said["type"], "insufficient_quota");
    let streamed = network.gateway.chat(&poor, &ask_with("What is 17 + 25?", json!({"stream": true})));
    error(&streamed, 402, "insufficient_quota");
    assert_eq!(network.coordinator.balance(&poor), (1_000, 0));
    assert!(!network.providers[0].process.log().contains("request answered"));
    // 256 tokens of input at 50 and 4 of output at 200 nano-dollars: the worst case of a small request.
    let enough = network.coordinator.account("enough", 256 * 50 + 4 * 200);
    let answer = network.gateway.chat(&enough, &ask_with("What is 17 + 25?", json!({"max_tokens": 4})));
    assert_eq!(answer.answer(), "42");
    network.coordinator.books_close(&enough, 256 * 50 + 4 * 200);
}

#[test]
fn no_provider_is_503_and_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let key = coordinator.account("first", CREDIT);
    let gateway = Surface::gateway(&coordinator, &[]);
    let refused = gateway.chat(&key, &ask("What is 17 + 25?"));
    error(&refused, 503, "no_eligible_provider");
    assert!(refused.header("retry-after").is_some());
    coordinator.books_close(&key, CREDIT);
}

#[test]
fn no_coordinator_is_502() {
    let mut network = Network::start();
    network.coordinator.process.kill();
    error(&network.chat(&ask("What is 17 + 25?")), 502, "coordinator_unreachable");
}

#[test]
fn a_body_over_the_limit_is_413() {
    let network = Network::start();
    let body = ask(&"a".repeat(5 << 20)).to_string();
    error(&post(&network, body.as_bytes()), 413, "request_too_large");
    let below = ask(&"a".repeat(3 << 20)).to_string();
    assert_ne!(post(&network, below.as_bytes()).status, 413);
}

#[test]
fn an_error_quotes_nothing_of_the_prompt() {
    let network = Network::start();
    let secret = "wormwood-candle";
    for body in [
        ask_with(secret, json!({"temperature": 9})),
        ask_with("Hi", json!({"messages": [{"role": "user", "content": secret, "name": secret}]})),
        ask_with(&format!("{secret} ").repeat(1_000), json!({})),
        ask_with("Hi", json!({"stop": [secret, secret, secret, secret, secret]})),
    ] {
        let response = network.chat(&body);
        assert_eq!(response.status, 400);
        assert!(!response.text().contains(secret), "{}", response.text());
    }
    let cut = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{secret}\"");
    assert!(!post(&network, cut.as_bytes()).text().contains(secret));
}
