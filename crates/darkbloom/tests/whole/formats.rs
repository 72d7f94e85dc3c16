//! Answers that are held to a schema, or to a call.

use serde_json::{Value, json};

use crate::support::network::{Network, ask_with, calling_model};

fn place() -> Value {
    json!({
        "type": "object",
        "properties": {
            "sum": {"type": "integer", "minimum": 0, "maximum": 999},
            "unit": {"enum": ["apples", "pears"]},
            "sure": {"type": "boolean"},
        },
        "required": ["sum", "unit", "sure"],
        "additionalProperties": false,
    })
}

fn is_place(value: &Value) -> bool {
    value.as_object().is_some_and(|members| members.len() == 3)
        && value["sum"].as_f64().is_some_and(|sum| sum.fract() == 0.0 && (0.0..=999.0).contains(&sum))
        && ["apples", "pears"].contains(&value["unit"].as_str().unwrap_or_default())
        && value["sure"].is_boolean()
}

fn of_schema(schema: &Value, more: Value) -> Value {
    let format = json!({"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": true}});
    let mut body = ask_with("What is 17 + 25?", more);
    body["response_format"] = format;
    body
}

#[test]
fn answers_fit_their_schema_whatever_the_temperature_and_whoever_else_asks() {
    let network = Network::start();
    let alone = network.chat(&of_schema(&place(), json!({"temperature": 1.5, "seed": 7, "max_tokens": 200}))).answer();
    std::thread::scope(|scope| {
        for seed in 0..12 {
            let network = &network;
            scope.spawn(move || {
                let temperature = [0.0, 1.0, 1.5][seed % 3];
                let body = of_schema(&place(), json!({"temperature": temperature, "seed": seed, "max_tokens": 200}));
                let answer = network.chat(&body);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop", "{}", answer.text());
                let said = answer.answer();
                assert!(is_place(&serde_json::from_str(&said).unwrap()), "{said}");
            });
        }
        let others = ask_with("What is 30 + 12?", json!({}));
        assert_eq!(network.chat(&others).answer(), "42", "who asks for nothing gets it as ever");
    });
    let again = network.chat(&of_schema(&place(), json!({"temperature": 1.5, "seed": 7, "max_tokens": 200}))).answer();
    assert_eq!(alone, again);
    let object = network
        .chat(&ask_with("What is 17 + 25?", json!({"response_format": {"type": "json_object"}, "max_tokens": 300})));
    if object.json()["choices"][0]["finish_reason"] == "stop" {
        assert!(serde_json::from_str::<Value>(&object.answer()).unwrap().is_object());
    }
    assert!(object.answer().trim_start().starts_with('{'));
    network.books_close();
}

#[test]
fn a_schema_that_cannot_be_followed_is_refused_for_its_reason_and_costs_nothing() {
    let network = Network::start();
    let bomb: Vec<_> = (0..400).map(|at| json!({"type": "string", "pattern": format!("^.*a.{{{at}}}b.*$")})).collect();
    for (schema, reason) in [
        (json!({"not": {"type": "null"}}), "`not`"),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}), "nothing fits the schema"),
        (json!({"type": "string", "pattern": "(?=wormwood)"}), "`pattern`"),
        (json!({"allOf": bomb}), "patterns and formats"),
        (json!({"type": "integer", "multipleOf": 99_999_999}), "`multipleOf`"),
        (json!({"$ref": "#"}), "refer to themselves"),
    ] {
        let refused = network.chat(&of_schema(&schema, json!({})));
        assert_eq!(refused.status, 400, "{}", refused.text());
        let error = &refused.json()["error"];
        assert_eq!(error["code"], "invalid_request");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(reason) && !message.contains("wormwood"), "{message}");
    }
    assert!(!network.providers[0].process.log().contains("wormwood"));
    assert_eq!(network.chat(&ask_with("What is 17 + 25?", json!({}))).answer(), "42");
    network.books_close();
}

fn tools() -> Value {
    let other = json!({"type": "object", "properties": {"word": {"enum": ["yes", "no"]}}, "required": ["word"], "additionalProperties": false});
    let tool = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    json!([tool("add-up", place()), tool("say_it", other)])
}

#[test]
fn a_call_that_must_come_comes_and_its_arguments_fit() {
    let folder = tempfile::tempdir().unwrap();
    let model = calling_model(folder.path());
    let network = Network::of(folder, 1, model);
    let named = json!({"type": "function", "function": {"name": "say_it"}});
    for (choice, stream) in
        [(json!("required"), false), (named.clone(), false), (json!("required"), true), (named, true)]
    {
        for seed in 0..4 {
            let more = json!({
                "tools": tools(), "tool_choice": choice, "parallel_tool_calls": false, "temperature": 1, "seed": seed, "max_tokens": 200,
                "stream": stream,
            });
            let answer = network.chat(&ask_with("What is 17 + 25?", more));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let (finish, content, name, arguments) =
                if stream { streamed(&answer.text()) } else { whole(&answer.json()) };
            assert_eq!((&*finish, &*content), ("tool_calls", ""));
            let arguments: Value = serde_json::from_str(&arguments).unwrap();
            match &*name {
                "add-up" => assert!(choice == "required" && is_place(&arguments), "{arguments}"),
                "say_it" => assert!(["yes", "no"].contains(&arguments["word"].as_str().unwrap()), "{arguments}"),
                other => panic!("{other}"),
            }
        }
    }
    // Where it may call and speak, its words fit the schema.
    let mut body = of_schema(&place(), json!({"tools": tools(), "temperature": 1, "seed": 3, "max_tokens": 200}));
    let free = network.chat(&body).json();
    let message = &free["choices"][0]["message"];
    assert!(
        message["tool_calls"].is_array()
            || is_place(&serde_json::from_str(message["content"].as_str().unwrap()).unwrap()),
        "{free}"
    );
    body["tools"][0]["function"]["parameters"] = json!({"type": "array"});
    let refused = network.chat(&body);
    assert!(refused.status == 400 && refused.text().contains("must describe an object"), "{}", refused.text());
    network.books_close();
}

/// The end, the text, and the one call of an answer.
fn whole(answer: &Value) -> (String, String, String, String) {
    let choice = &answer["choices"][0];
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{answer}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let function = &calls[0]["function"];
    (
        text(&choice["finish_reason"]),
        text(&choice["message"]["content"]),
        text(&function["name"]),
        text(&function["arguments"]),
    )
}

fn streamed(stream: &str) -> (String, String, String, String) {
    let (mut finish, mut content, mut name, mut arguments) = Default::default();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]") {
        let choice = &serde_json::from_str::<Value>(data).unwrap()["choices"][0];
        let add = |to: &mut String, value: &Value| to.push_str(value.as_str().unwrap_or_default());
        add(&mut finish, &choice["finish_reason"]);
        add(&mut content, &choice["delta"]["content"]);
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            assert_eq!(call["index"], 0, "one call");
            add(&mut name, &call["function"]["name"]);
            add(&mut arguments, &call["function"]["arguments"]);
        }
    }
    (finish, content, name, arguments)
}
