//! Each field of the chat-completions request, one by one.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::collections::BTreeSet;

use darkbloom_content::{AnswerShape, Role, ToolChoice};
use darkbloom_dialect::ApiError;
use darkbloom_dialect::openai::{ChatCall, FIELDS, FieldState, parse_chat, support_matrix};
use darkbloom_types::TokenId;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A request with these fields set over a sound one.
fn body(fields: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn parse(fields: Value) -> Result<ChatCall, ApiError> {
    parse_chat(body(fields).to_string().as_bytes())
}

fn taken(fields: Value) -> ChatCall {
    parse(fields.clone()).unwrap_or_else(|error| panic!("{fields}: {error:?}"))
}

/// The code and the field of the error.
fn blamed(fields: Value) -> (String, String) {
    let error = parse(fields.clone()).expect_err(&fields.to_string());
    assert_eq!((error.status, error.kind), (400, "invalid_request_error"));
    (error.code.unwrap_or_default().to_owned(), error.param.unwrap_or_default())
}

fn message(fields: Value) -> Value {
    let mut message = json!({"role": "user", "content": "hi"});
    for (name, value) in fields.as_object().unwrap() {
        message[name] = value.clone();
    }
    json!({"messages": [{"role": "system", "content": ""}, message]})
}

/// A request with one tool of this function.
fn tools(function: Value) -> Value {
    json!({"tools": [{"type": "function", "function": function}]})
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}})
}

/// A conversation in which the model called twice, and what the tools said.
fn called() -> Value {
    json!({"messages": [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": null, "tool_calls": [call("one"), call("two")]},
        {"role": "tool", "tool_call_id": "two", "content": [{"type": "text", "text": "x"}]},
        {"role": "tool", "tool_call_id": "one", "content": "y"},
    ]})
}

#[test]
fn tools_and_their_calls_are_read_whole() {
    // The order of a schema's keys, and how its numbers are written, stay.
    let body = r#"{"model": "small", "messages": [{"role": "user", "content": "?"}], "tools": [
        {"type": "function", "function": {"name": "get-it_2", "description": "d", "strict": false,
         "parameters": {"type": "object", "properties": {"z": {"minimum": 1.0}, "a": {}}}}},
        {"type": "function", "function": {"name": "f"}}], "tool_choice": "auto", "parallel_tool_calls": true}"#;
    let call = parse_chat(body.as_bytes()).unwrap();
    let tools: Vec<_> = call.request.tools.iter().map(|it| (it.name.expose(), it.description.expose())).collect();
    assert_eq!(tools, [("get-it_2", "d"), ("f", "")]);
    let schemas: Vec<_> = call.request.tools.iter().map(|it| it.parameters.expose()).collect();
    let first = r#"{"type": "object", "properties": {"z": {"minimum": 1.0}, "a": {}}}"#;
    assert_eq!(schemas, [first, r#"{"type": "object", "properties": {}}"#]);
    assert_eq!(call.request.check(), Ok(()));

    let call = taken(called());
    assert_eq!(call.request.check(), Ok(()));
    let [_, calling, two, one] = &call.request.messages[..] else { panic!("four messages") };
    let calls: Vec<_> =
        calling.calls.iter().map(|it| (it.id.expose(), it.name.expose(), it.arguments.expose())).collect();
    assert_eq!(calls, [("one", "f", "{\"a\": 1}"), ("two", "f", "{\"a\": 1}")]);
    assert_eq!((calling.content.expose(), two.content.expose()), ("", "x"));
    let answered = [two, one].map(|it| (it.role, it.call_id.as_ref().unwrap().expose()));
    assert_eq!(answered, [(Role::Tool, "two"), (Role::Tool, "one")]);
}

#[test]
fn a_choice_says_whether_the_model_may_or_must_call() {
    let offered = tools(json!({"name": "f"}));
    let chosen = |choice: Value| with(&offered, "tool_choice", choice);
    assert_eq!(taken(chosen(json!("none"))), taken(json!({})));
    assert_eq!(taken(chosen(json!("auto"))), taken(chosen(Value::Null)));
    let named = json!({"type": "function", "function": {"name": "f"}});
    let choice = |body: Value| taken(body).request.choice;
    assert_eq!(choice(chosen(json!("auto"))), ToolChoice::Free);
    assert_eq!(choice(chosen(json!("required"))), ToolChoice::Required { once: false });
    assert_eq!(choice(chosen(named.clone())), ToolChoice::Named("f".into()));
    let other = json!({"type": "function", "function": {"name": "g"}});
    for (wrong, code, place) in [
        (json!({"type": "allowed_tools"}), "invalid_value", "tool_choice.type"),
        (json!({"type": "function"}), "missing_required_parameter", "tool_choice.function"),
        (json!({"type": "function", "function": {}}), "missing_required_parameter", "tool_choice.function.name"),
        (json!({"type": "function", "function": {"name": "f", "x": 1}}), "unknown_parameter", "tool_choice.function.x"),
        (json!({"type": "function", "name": "f"}), "unknown_parameter", "tool_choice.name"),
        (other, "invalid_value", "tool_choice.function.name"),
    ] {
        assert_eq!(blamed(chosen(wrong)), (code.to_owned(), place.to_owned()));
    }
    assert_eq!(blamed(json!({"tool_choice": "required"})), ("invalid_value".to_owned(), "tool_choice".to_owned()));
    assert_eq!(blamed(json!({"tool_choice": named})).1, "tool_choice.function.name");
    assert_eq!(blamed(chosen(json!("any"))).0, "invalid_value");
    assert_eq!(blamed(chosen(json!(1))).0, "invalid_type");
    let one = |body: &Value| with(body, "parallel_tool_calls", json!(false));
    assert_eq!(blamed(one(&offered)), ("unsupported_value".to_owned(), "parallel_tool_calls".to_owned()));
    taken(one(&chosen(json!("none"))));
    assert_eq!(choice(one(&chosen(json!("required")))), ToolChoice::Required { once: true });
    assert_eq!(choice(one(&chosen(named))), ToolChoice::Named("f".into()));
}

/// A request whose answer is held to a schema.
fn of_schema(named: Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": named}})
}

#[test]
fn a_format_is_read_with_its_schema_as_it_stands() {
    let shape = |body: Value| taken(body).request.shape;
    assert_eq!(shape(json!({"response_format": {"type": "text"}})), AnswerShape::Free);
    assert_eq!(shape(json!({"response_format": {"type": "json_object"}})), AnswerShape::JsonObject);
    let schema = r#"{"type": "object", "properties": {"z": {"minimum": 1.0}, "a": {}}}"#;
    let body = format!(
        r#"{{"model": "small", "messages": [{{"role": "user", "content": "?"}}], "response_format":
        {{"json_schema": {{"strict": true, "schema": {schema}, "name": "z", "description": "d"}}, "type": "json_schema"}}}}"#
    );
    let call = parse_chat(body.as_bytes()).unwrap();
    assert_eq!(call.request.shape, AnswerShape::Json(schema.into()));
    assert_eq!(call.hints, ["response_format.json_schema.description", "response_format.json_schema.name"]);
    let (missing, kind, value) = ("missing_required_parameter", "invalid_type", "invalid_value");
    let format = |format: Value| json!({ "response_format": format });
    let long = json!({"name": "n", "schema": {"description": "x".repeat(64 << 10)}});
    for (body, code, place) in [
        (format(json!("json_object")), kind, "response_format"),
        (format(json!({})), missing, "response_format.type"),
        (format(json!({"type": 1})), kind, "response_format.type"),
        (format(json!({"type": "xml"})), value, "response_format.type"),
        (format(json!({"type": "text", "x": 1})), "unknown_parameter", "response_format.x"),
        (format(json!({"type": "json_object", "json_schema": {}})), value, "response_format.json_schema"),
        (format(json!({"type": "json_schema"})), missing, "response_format.json_schema"),
        (of_schema(json!([])), kind, "response_format.json_schema"),
        (of_schema(json!({"schema": {}})), missing, "response_format.json_schema.name"),
        (of_schema(json!({"name": 1, "schema": {}})), kind, "response_format.json_schema.name"),
        (of_schema(json!({"name": "n"})), missing, "response_format.json_schema.schema"),
        (of_schema(json!({"name": "n", "schema": true})), kind, "response_format.json_schema.schema"),
        (of_schema(json!({"name": "n", "schema": null})), kind, "response_format.json_schema.schema"),
        (of_schema(long), value, "response_format.json_schema.schema"),
        (
            of_schema(json!({"name": "n", "schema": {}, "strict": 1})),
            "unsupported_value",
            "response_format.json_schema.strict",
        ),
    ] {
        assert_eq!(blamed(body.clone()), (code.to_owned(), place.to_owned()), "{body}");
    }
}

#[test]
fn wrong_tools_and_calls_name_their_place() {
    let function = |function: Value| tools(function);
    let tool = |tool: Value| json!({"tools": [tool]});
    let said = |messages: &[Value]| json!({"messages": messages});
    let calling = |call: Value| said(&[json!({"role": "assistant", "content": null, "tool_calls": [call]})]);
    let (missing, kind, value) = ("missing_required_parameter", "invalid_type", "invalid_value");
    let many: Vec<_> =
        (0..129).map(|number| json!({"type": "function", "function": {"name": number.to_string()}})).collect();
    let strict = json!({"name": "f", "strict": true});
    let cases = [
        (json!({"tools": {}}), kind, "tools"),
        (json!({"tools": many}), value, "tools"),
        (tool(json!(1)), kind, "tools[0]"),
        (tool(json!({"function": {"name": "f"}})), missing, "tools[0].type"),
        (tool(json!({"type": "custom", "function": {"name": "f"}})), value, "tools[0].type"),
        (tool(json!({"type": "function"})), missing, "tools[0].function"),
        (tool(json!({"type": "function", "function": "f"})), kind, "tools[0].function"),
        (tool(json!({"type": "function", "function": {"name": "f"}, "x": 1})), "unknown_parameter", "tools[0].x"),
        (function(json!({})), missing, "tools[0].function.name"),
        (function(json!({"name": "a b"})), value, "tools[0].function.name"),
        (function(json!({"name": "f", "description": 1})), kind, "tools[0].function.description"),
        (function(json!({"name": "f", "description": "d".repeat(16_385)})), value, "tools[0].function.description"),
        (function(json!({"name": "f", "parameters": []})), kind, "tools[0].function.parameters"),
        (
            function(json!({"name": "f", "parameters": {"a": "p".repeat(65_536)}})),
            value,
            "tools[0].function.parameters",
        ),
        (function(strict), "unsupported_value", "tools[0].function.strict"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}]}),
            value,
            "tools[1].function.name",
        ),
        (message(json!({"tool_calls": [call("x")]})), value, "messages[1].tool_calls"),
        (message(json!({"reasoning_content": "x"})), value, "messages[1].reasoning_content"),
        (message(json!({"tool_call_id": "x"})), value, "messages[1].tool_call_id"),
        (message(json!({"role": "tool"})), missing, "messages[1].tool_call_id"),
        (message(json!({"role": "tool", "tool_call_id": ""})), value, "messages[1].tool_call_id"),
        (message(json!({"role": "tool", "tool_call_id": "x"})), value, "messages[1].tool_call_id"),
        (said(&[json!({"role": "assistant", "content": null, "tool_calls": []})]), kind, "messages[0].content"),
        (calling(json!(1)), kind, "messages[0].tool_calls[0]"),
        (calling(with(&call("x"), "id", json!("i".repeat(65)))), value, "messages[0].tool_calls[0].id"),
        (calling(with(&call("x"), "index", json!("1"))), "unsupported_value", "messages[0].tool_calls[0].index"),
        (calling(json!({"id": "x", "type": "function"})), missing, "messages[0].tool_calls[0].function"),
        (
            calling(with(&call("x"), "function", json!({"name": "f"}))),
            missing,
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            calling(with(&call("x"), "function", json!({"name": "f", "arguments": {}}))),
            kind,
            "messages[0].tool_calls[0].function.arguments",
        ),
    ];
    for (body, code, path) in cases {
        assert_eq!(blamed(body), (code.to_owned(), path.to_owned()));
    }
}

#[test]
fn a_request_of_every_day_is_read_whole() {
    let call = taken(json!({
        "model": "small",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "", "refusal": null, "annotations": [], "tool_calls": []},
        ],
        "temperature": 0, "top_p": 0.25, "seed": -1, "stop": ["a", "b"], "stream": true, "max_tokens": 7,
        "stream_options": {"include_usage": true}, "user": "u",
    }));
    let messages: Vec<_> = call.request.messages.iter().map(|it| (it.role, it.content.expose())).collect();
    assert_eq!(messages, [(Role::System, "be brief"), (Role::User, "one\ntwo"), (Role::Assistant, "")]);
    assert_eq!((call.request.temperature, call.request.top_p, call.request.seed), (0.0, 0.25, Some(u64::MAX)));
    let stops: Vec<_> = call.request.stop.iter().map(|stop| stop.expose()).collect();
    assert_eq!(stops, ["a", "b"]);
    assert_eq!((call.model.as_str(), call.stream, call.include_usage), ("small", true, true));
    assert_eq!((call.max_output_tokens, call.hints), (Some(7), vec!["user"]));
}

#[test]
fn defaults_are_those_of_the_interface() {
    let call = taken(json!({}));
    assert_eq!((call.request.temperature, call.request.top_p, call.request.seed), (1.0, 1.0, None));
    assert!(call.request.stop.is_empty() && !call.stream && !call.include_usage && call.hints.is_empty());
    assert_eq!(call.max_output_tokens, None);
}

#[test]
fn every_honoured_field_has_an_effect() {
    let plain = taken(json!({}));
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let called = called();
    let named = json!({"type": "function", "function": {"name": "f"}});
    let named = with(&tools(json!({"name": "f"})), "tool_choice", named);
    let effects = [
        ("model", json!({"model": "other"})),
        ("messages", json!({"messages": [{"role": "user", "content": "other"}]})),
        ("messages[].role", json!({"messages": [{"role": "system", "content": "hi"}]})),
        ("messages[].content", json!({"messages": [{"role": "user", "content": "other"}]})),
        ("messages[].content[].type", message(json!({"content": [{"type": "text", "text": "x"}]}))),
        ("messages[].content[].text", message(json!({"content": [{"type": "text", "text": "x"}]}))),
        ("max_completion_tokens", json!({"max_completion_tokens": 1})),
        ("max_tokens", json!({"max_tokens": 4_294_967_295u32})),
        ("temperature", json!({"temperature": 2})),
        ("top_p", json!({"top_p": 0})),
        ("seed", json!({"seed": 0})),
        ("stop", json!({"stop": "x"})),
        ("stream", json!({"stream": true})),
        ("stream_options", stream.clone()),
        ("stream_options.include_usage", stream),
        ("messages[].reasoning_content", message(json!({"role": "assistant", "reasoning_content": "hm"}))),
        ("messages[].tool_calls", called.clone()),
        ("messages[].tool_calls[].id", called.clone()),
        ("messages[].tool_calls[].type", called.clone()),
        ("messages[].tool_calls[].function", called.clone()),
        ("messages[].tool_calls[].function.name", called.clone()),
        ("messages[].tool_calls[].function.arguments", called.clone()),
        ("messages[].tool_call_id", called),
        ("tools", tools(json!({"name": "f"}))),
        ("tools[].type", tools(json!({"name": "f"}))),
        ("tools[].function", tools(json!({"name": "f"}))),
        ("tools[].function.name", tools(json!({"name": "f"}))),
        ("tools[].function.description", tools(json!({"name": "f", "description": "d"}))),
        ("tools[].function.parameters", tools(json!({"name": "f", "parameters": {"type": "object"}}))),
        ("tool_choice", with(&tools(json!({"name": "f"})), "tool_choice", json!("required"))),
        ("tool_choice.type", named.clone()),
        ("tool_choice.function", named.clone()),
        ("tool_choice.function.name", named),
        ("response_format", json!({"response_format": {"type": "json_object"}})),
        ("response_format.type", json!({"response_format": {"type": "json_object"}})),
        ("response_format.json_schema", of_schema(json!({"name": "n", "schema": {}}))),
        ("response_format.json_schema.schema", of_schema(json!({"name": "n", "schema": {}}))),
        ("frequency_penalty", json!({"frequency_penalty": 0.5})),
        ("presence_penalty", json!({"presence_penalty": -2})),
        ("repetition_penalty", json!({"repetition_penalty": 1.1})),
        ("top_k", json!({"top_k": 40})),
        ("min_p", json!({"min_p": 0.05})),
        ("logit_bias", json!({"logit_bias": {"50256": -100}})),
    ];
    for (_, fields) in &effects {
        assert_ne!(taken(fields.clone()), plain, "{fields}");
    }
    let tested: BTreeSet<_> = effects.iter().map(|(path, _)| *path).collect();
    let honoured = FIELDS.iter().filter(|field| field.state() == FieldState::Honoured).map(|field| field.path());
    assert_eq!(tested, honoured.collect());
}

#[test]
fn fields_at_their_default_change_nothing_and_others_are_refused_by_name() {
    let cases = [
        ("n", json!([1, 1.0]), json!([0, 2, "1", true])),
        ("logprobs", json!([false]), json!([true, 0])),
        ("top_logprobs", json!([0]), json!([5])),
        ("modalities", json!([["text"]]), json!([["text", "audio"], [], "text"])),
        ("audio", json!([]), json!([{"voice": "alloy", "format": "wav"}])),
        ("prediction", json!([]), json!([{"type": "content", "content": "x"}])),
        ("parallel_tool_calls", json!([true, false]), json!([1])),
        ("functions", json!([[]]), json!([[{"name": "f"}]])),
        ("function_call", json!(["none", "auto"]), json!([{"name": "f"}])),
        ("service_tier", json!(["auto", "default"]), json!(["flex", "priority"])),
        ("store", json!([false]), json!([true])),
        ("verbosity", json!(["medium"]), json!(["low"])),
    ];
    let plain = taken(json!({}));
    for (name, defaults, others) in &cases {
        assert_eq!(taken(json!({ *name: null })), plain);
        for value in defaults.as_array().unwrap() {
            assert_eq!(taken(json!({ *name: value })), plain, "{name}: {value}");
        }
        for value in others.as_array().unwrap() {
            let expected = ("unsupported_value".to_owned(), (*name).to_owned());
            assert_eq!(blamed(json!({ *name: value })), expected, "{name}: {value}");
        }
    }
    let in_messages = [
        ("refusal", json!([]), json!(["no"])),
        ("audio", json!([]), json!([{"id": "x"}])),
        ("annotations", json!([[]]), json!([[1]])),
        ("function_call", json!([]), json!([{"name": "f"}])),
    ];
    for (name, defaults, others) in &in_messages {
        taken(message(json!({ *name: null })));
        for value in defaults.as_array().unwrap() {
            taken(message(json!({ *name: value })));
        }
        for value in others.as_array().unwrap() {
            let expected = ("unsupported_value".to_owned(), format!("messages[1].{name}"));
            assert_eq!(blamed(message(json!({ *name: value }))), expected);
        }
    }
    let tested = cases.iter().map(|(name, _, _)| (*name).to_owned());
    let tested: BTreeSet<_> =
        tested.chain(in_messages.iter().map(|(name, _, _)| format!("messages[].{name}"))).collect();
    // Those of tools and formats have tests of their own.
    let of_tools = ["messages[].tool_calls[].index", "tools[].function.strict", "response_format.json_schema.strict"]
        .map(str::to_owned);
    let tested: BTreeSet<_> = tested.into_iter().chain(of_tools).collect();
    let fields = FIELDS.iter().filter(|field| field.state() == FieldState::AcceptedAtDefault);
    assert_eq!(tested, fields.map(|field| field.path().to_owned()).collect());
}

#[test]
fn hints_are_listed_and_change_nothing_else() {
    let hints = json!({
        "user": "u", "safety_identifier": "s", "metadata": {"k": "v"}, "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "stream": true, "stream_options": {"include_obfuscation": false},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": {}}},
    });
    let mut call = taken(hints);
    let listed: BTreeSet<_> = std::mem::take(&mut call.hints).into_iter().collect();
    let known = FIELDS.iter().filter(|field| field.state() == FieldState::Hint).map(|field| field.path());
    assert_eq!(listed, known.collect());
    let mut plain = taken(with(&of_schema(json!({"name": "n", "schema": {}})), "stream", json!(true)));
    plain.hints.clear();
    assert_eq!(call, plain);
    for (name, wrong) in [("user", json!(1)), ("metadata", json!("x")), ("prompt_cache_key", json!([]))] {
        assert_eq!(blamed(json!({ name: wrong })), ("invalid_type".to_owned(), name.to_owned()));
    }
    assert!(taken(json!({"user": null})).hints.is_empty());
}

#[test]
fn refused_fields_are_refused_by_name_unless_they_are_null() {
    let refused = [
        ("reasoning_effort", json!({"reasoning_effort": "low"}), json!({"reasoning_effort": null})),
        ("web_search_options", json!({"web_search_options": {}}), json!({"web_search_options": null})),
        ("messages[1].name", message(json!({"name": "bob"})), message(json!({"name": null}))),
    ];
    for (path, wrong, null) in &refused {
        assert_eq!(blamed(wrong.clone()), ("unsupported_parameter".to_owned(), (*path).to_owned()));
        taken(null.clone());
    }
    let tested: BTreeSet<_> = refused.iter().map(|(path, _, _)| path.replace("[1]", "[]")).collect();
    let fields = FIELDS.iter().filter(|field| field.state() == FieldState::Refused);
    assert_eq!(tested, fields.map(|field| field.path().to_owned()).collect());
}

#[test]
fn wrong_values_of_honoured_fields_name_their_place() {
    let part = |part: Value| message(json!({"content": [{"type": "text", "text": "x"}, part]}));
    let cases = [
        (json!({"model": 1}), "invalid_type", "model"),
        (json!({"model": ""}), "invalid_value", "model"),
        (json!({"model": "m".repeat(257)}), "invalid_value", "model"),
        (json!({"messages": null}), "invalid_type", "messages"),
        (json!({"messages": []}), "invalid_value", "messages"),
        (json!({"messages": ["hi"]}), "invalid_type", "messages[0]"),
        (json!({"messages": [{"content": "hi"}]}), "missing_required_parameter", "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "missing_required_parameter", "messages[0].content"),
        (message(json!({"role": "boss"})), "invalid_value", "messages[1].role"),
        (message(json!({"role": "function"})), "unsupported_value", "messages[1].role"),
        (message(json!({"role": 1})), "invalid_type", "messages[1].role"),
        (message(json!({"content": null})), "invalid_type", "messages[1].content"),
        (message(json!({"content": []})), "invalid_value", "messages[1].content"),
        (part(json!("x")), "invalid_type", "messages[1].content[1]"),
        (part(json!({"text": "x"})), "missing_required_parameter", "messages[1].content[1].type"),
        (part(json!({"type": "text"})), "missing_required_parameter", "messages[1].content[1].text"),
        (part(json!({"type": "text", "text": 1})), "invalid_type", "messages[1].content[1].text"),
        (
            part(json!({"type": "image_url", "image_url": {"url": "x"}})),
            "unsupported_value",
            "messages[1].content[1].type",
        ),
        (part(json!({"type": "text", "text": "x", "a": 1})), "unknown_parameter", "messages[1].content[1].a"),
        (json!({"temperature": "hot"}), "invalid_type", "temperature"),
        (json!({"temperature": 2.01}), "invalid_value", "temperature"),
        (json!({"temperature": -0.1}), "invalid_value", "temperature"),
        (json!({"top_p": 1.1}), "invalid_value", "top_p"),
        (json!({"seed": 1.5}), "invalid_type", "seed"),
        (json!({"seed": 9_223_372_036_854_775_808u64}), "invalid_value", "seed"),
        (json!({"stop": ""}), "invalid_value", "stop"),
        (json!({"stop": ["a", 1]}), "invalid_type", "stop[1]"),
        (json!({"stop": ["a", "x".repeat(257)]}), "invalid_value", "stop[1]"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "invalid_value", "stop"),
        (json!({"stop": {}}), "invalid_type", "stop"),
        (json!({"stream": "yes"}), "invalid_type", "stream"),
        (json!({"stream_options": {}}), "invalid_value", "stream_options"),
        (json!({"stream": true, "stream_options": 1}), "invalid_type", "stream_options"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "invalid_type",
            "stream_options.include_usage",
        ),
        (json!({"stream": true, "stream_options": {"x": 1}}), "unknown_parameter", "stream_options.x"),
        (json!({"max_tokens": 0}), "invalid_value", "max_tokens"),
        (json!({"max_tokens": 4_294_967_296u64}), "invalid_value", "max_tokens"),
        (json!({"max_completion_tokens": -1}), "invalid_value", "max_completion_tokens"),
        (json!({"max_completion_tokens": 5, "max_tokens": 6}), "invalid_value", "max_tokens"),
    ];
    for (fields, code, param) in cases {
        assert_eq!(blamed(fields.clone()), (code.to_owned(), param.to_owned()), "{fields}");
    }
    assert_eq!(taken(json!({"max_completion_tokens": 5, "max_tokens": 5})).max_output_tokens, Some(5));
    let missing = parse_chat(br#"{"messages": [{"role": "user", "content": "x"}]}"#).unwrap_err();
    assert_eq!((missing.code, missing.param.as_deref()), (Some("missing_required_parameter"), Some("model")));
    let many: Vec<_> = std::iter::repeat_n(json!({"role": "user", "content": "x"}), 1_025).collect();
    assert_eq!(blamed(json!({ "messages": many })).1, "messages");
}

#[test]
fn unknown_fields_get_a_suggestion() {
    let said = |fields: Value| parse(fields).unwrap_err().message;
    assert_eq!(
        said(json!({"temprature": 1})),
        "`temprature` is not a field of this interface; did you mean `temperature`?"
    );
    assert!(said(json!({"maxTokens": 1})).ends_with("did you mean `max_tokens`?"));
    assert!(said(json!({"Top_P": 1})).ends_with("did you mean `top_p`?"));
    assert!(said(message(json!({"contents": 1}))).ends_with("did you mean `content`?"));
    assert_eq!(said(json!({"zzzzzzzz": 1})), "`zzzzzzzz` is not a field of this interface");
    let long = "x".repeat(100_000);
    assert!(said(json!({ long: 1 })).len() < 200);
}

#[test]
fn bodies_that_are_no_request_are_explained_without_quoting_them() {
    let said = |body: &[u8]| {
        let error = parse_chat(body).unwrap_err();
        assert_eq!((error.status, error.kind, &error.param), (400, "invalid_request_error", &None));
        let code = if body == b"[]" { "invalid_type" } else { "invalid_json" };
        assert_eq!(error.code, Some(code), "{error}");
        error.message
    };
    assert_eq!(said(b""), "the body is not valid JSON: it ends too early");
    assert_eq!(said(b"[]"), "the body must be a JSON object");
    assert!(said(br#"{"model": "violet" violet}"#).starts_with("the body is not valid JSON: expected"));
    assert!(said(br#"{"model": "a", "model": "b"}"#).contains("a key stands twice"));
    assert!(said(b"{\"a\": NaN}").contains("not valid JSON"));
    assert!(said(b"{\"temperature\": 1e999}").contains("out of range"));
    assert!(said(&b"[".repeat(100_000)).contains("recursion limit"));
    assert!(said(b"{\"a\": \"\xff\"}").contains("not valid JSON"));
    for bad in [json!({"messages": [{"role": "violet", "content": "violet"}]}), json!({"stop": [["violet"]]})] {
        let error = parse(bad).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("violet"));
    }
    assert!(!format!("{:?}", taken(message(json!({"content": "violet"})))).contains("violet"));
}

#[test]
fn what_changes_how_likely_tokens_are_is_read_and_out_of_its_limits_refused_by_name() {
    let neutral = json!({"frequency_penalty": -0.0, "presence_penalty": 0, "repetition_penalty": 1, "top_k": 0, "min_p": 0,
        "logit_bias": {}});
    assert_eq!(taken(neutral), taken(json!({})), "what changes nothing");
    let asked = json!({"frequency_penalty": 2, "presence_penalty": -2, "repetition_penalty": 10, "top_k": 1, "min_p": 1,
        "logit_bias": {"7": 100, "3": -100.0, "4294967295": 0.5}});
    let tweaks = taken(asked).request.tweaks;
    assert_eq!((tweaks.frequency_penalty, tweaks.presence_penalty, tweaks.repetition_penalty), (2.0, -2.0, 10.0));
    assert_eq!((tweaks.top_k, tweaks.min_p), (1, 1.0));
    let biases = [(3, -100.0), (7, 100.0), (u32::MAX, 0.5)].map(|(token, bias)| (TokenId(token), bias));
    assert_eq!(tweaks.logit_bias, biases);
    let many: serde_json::Map<_, _> = (0..1_025).map(|token: u32| (token.to_string(), json!(1))).collect();
    for (name, wrong) in [
        ("frequency_penalty", json!([2.1, -2.1, "0"])),
        ("presence_penalty", json!([3, true])),
        ("repetition_penalty", json!([0, -1, 10.5])),
        ("top_k", json!([-1, 0.5, 4_294_967_296_u64])),
        ("min_p", json!([-0.1, 1.1])),
        (
            "logit_bias",
            json!([[], {"x": 1}, {"-1": 1}, {"7": 101}, {"7": "1"}, {"4294967296": 1}, {"05": 1}, {"+5": 1}, many]),
        ),
    ] {
        for value in wrong.as_array().unwrap() {
            assert_eq!(blamed(json!({ name: value })).1, name, "{value}");
        }
    }
}

#[test]
fn the_support_matrix_has_a_row_for_every_field() {
    let matrix = support_matrix(FIELDS);
    assert_eq!(matrix.lines().count(), FIELDS.len() + 2);
    assert!(matrix.contains("| `temperature` | honoured | 0 to 2 |\n"));
    let paths: BTreeSet<_> = FIELDS.iter().map(|field| field.path()).collect();
    assert_eq!(paths.len(), FIELDS.len());
    // Every field of the interface's description of a chat-completions request.
    let interface = "messages model modalities verbosity reasoning_effort max_completion_tokens frequency_penalty \
        presence_penalty web_search_options top_logprobs response_format audio store stream stop logit_bias logprobs \
        max_tokens n prediction seed stream_options tools tool_choice parallel_tool_calls function_call functions \
        metadata temperature top_p user safety_identifier prompt_cache_key service_tier prompt_cache_retention";
    for field in interface.split_whitespace() {
        assert!(paths.contains(field), "{field}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["user", "text", "auto", "none"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let names = FIELDS.iter().map(|field| field.path().rsplit('.').next().unwrap().to_owned()).collect::<Vec<_>>();
        let name = prop_oneof![prop::sample::select(names), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..6).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse_chat(&bytes).is_err());
    }

    #[test]
    fn arbitrary_json_gives_a_call_or_an_error_of_the_caller(value in any_json(), field in 0..FIELDS.len()) {
        let name = FIELDS[field].path().split(['.', '[']).next().unwrap().to_owned();
        let bodies = [value.clone(), body(json!({ name: value })), body(json!({"messages": [value]}))];
        for body in bodies {
            match parse_chat(body.to_string().as_bytes()) {
                Ok(call) => prop_assert_eq!(call.request.check(), Ok(())),
                Err(error) => prop_assert_eq!(error.status, 400),
            }
        }
    }

    #[test]
    fn content_arrives_unchanged(content in any::<String>()) {
        let call = taken(json!({"messages": [{"role": "user", "content": content}]}));
        prop_assert_eq!(call.request.messages[0].content.expose(), content);
    }
}
