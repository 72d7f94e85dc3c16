//! Bodies and streams, byte by byte where it matters.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use darkbloom_content::FinishReason;
use darkbloom_dialect::ApiError;
use darkbloom_dialect::openai::{
    Call, ChunkWriter, ModelEntry, Said, Usage, completion, keep_alive, model, models_list,
};
use darkbloom_types::{NanoDollars, Refusal, RefusalCode, TokenCount};
use proptest::prelude::*;
use serde_json::{Value, json};

const USAGE: Usage = Usage { input: TokenCount(9), output: TokenCount(u32::MAX) };

fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The JSON of a server-sent event.
fn event(bytes: &[u8]) -> Value {
    read(bytes.strip_prefix(b"data: ").unwrap().strip_suffix(b"\n\n").unwrap())
}

fn said(text: &str) -> Said {
    Said { text: text.into(), ..Said::default() }
}

#[test]
fn an_answer_that_calls_has_the_interfaces_shape() {
    let call = Call { id: "c".to_owned(), name: "f".into(), arguments: "{\"a\": 1}".into() };
    let called = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    for (text, content) in [("", Value::Null), ("so", json!("so"))] {
        let said = Said { calls: vec![call.clone()], ..said(text) };
        let body = read(completion("i", 0, "m", &said, FinishReason::ToolCalls, USAGE).expose());
        let message = json!({"role": "assistant", "content": content, "tool_calls": [called], "refusal": null});
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "tool_calls"});
        assert_eq!(body["choices"], json!([choice]));
    }
    let thought = Said { reasoning: "hm".into(), ..said("so") };
    let body = read(completion("i", 0, "m", &thought, FinishReason::Stop, USAGE).expose());
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "hm");
    assert_eq!(body["choices"][0]["message"].get("tool_calls"), None);
}

#[test]
fn a_stream_that_calls_has_the_interfaces_shape() {
    let writer = ChunkWriter::new("i", 0, "m", false);
    let delta = |bytes: &[u8]| event(bytes)["choices"][0]["delta"].clone();
    let begun = json!({"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
    assert_eq!(delta(writer.call(1, "c", "f").expose()), json!({"tool_calls": [begun]}));
    let more = json!({"index": 1, "function": {"arguments": "{\""}});
    assert_eq!(delta(writer.arguments(1, "{\"").expose()), json!({"tool_calls": [more]}));
    assert_eq!(delta(writer.reasoning("hm").expose()), json!({"reasoning_content": "hm"}));
    assert_eq!(event(writer.finish(FinishReason::ToolCalls).expose())["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_whole_answer_has_the_interfaces_shape() {
    let body = completion("chatcmpl-1", 1_700_000_000, "small", &said("a \"b\"\n"), FinishReason::Stop, USAGE);
    let expected = concat!(
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"small","choices":[{"index":0,"#,
        r#""message":{"role":"assistant","content":"a \"b\"\n","refusal":null},"logprobs":null,"finish_reason":"stop"}],"#,
        r#""usage":{"prompt_tokens":9,"completion_tokens":4294967295,"total_tokens":4294967304},"#,
        r#""system_fingerprint":null}"#,
    );
    assert_eq!(std::str::from_utf8(body.expose()).unwrap(), expected);
}

#[test]
fn a_stream_has_the_interfaces_shape() {
    let writer = ChunkWriter::new("chatcmpl-1", 5, "small", false);
    let chunk = |delta: Value, finish: Value| {
        json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "small",
            "system_fingerprint": null,
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
        })
    };
    let role = json!({"role": "assistant", "content": "", "refusal": null});
    assert_eq!(event(writer.role().expose()), chunk(role, Value::Null));
    assert_eq!(event(writer.content("a\n").expose()), chunk(json!({"content": "a\n"}), Value::Null));
    assert_eq!(event(writer.finish(FinishReason::Length).expose()), chunk(json!({}), json!("length")));
    assert_eq!(writer.usage(USAGE), None);
    assert_eq!(writer.done().expose(), b"data: [DONE]\n\n");
    assert_eq!(keep_alive(), b": keep-alive\n\n");
}

#[test]
fn a_stream_with_usage_has_it_in_the_last_chunk_only() {
    let writer = ChunkWriter::new("chatcmpl-1", 5, "small", true);
    for chunk in [writer.role(), writer.content("x"), writer.finish(FinishReason::Stop)] {
        assert_eq!(event(chunk.expose()).get("usage"), Some(&Value::Null));
    }
    let last = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "small",
        "system_fingerprint": null, "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4_294_967_295u32, "total_tokens": 4_294_967_304u64},
    });
    assert_eq!(event(writer.usage(USAGE).unwrap().expose()), last);
}

#[test]
fn models_have_the_interfaces_shape() {
    let entry = ModelEntry { id: "small".to_owned(), created_unix_s: 7, owned_by: "darkbloom".to_owned() };
    let expected = json!({"id": "small", "object": "model", "created": 7, "owned_by": "darkbloom"});
    assert_eq!(read(&model(&entry)), expected);
    assert_eq!(read(&models_list(&[entry])), json!({"object": "list", "data": [expected]}));
    assert_eq!(read(&models_list(&[])), json!({"object": "list", "data": []}));
}

#[test]
fn refusals_speak_the_interfaces_words() {
    let cases = [
        (RefusalCode::InvalidApiKey, 401, "invalid_request_error", "invalid_api_key", None),
        (RefusalCode::InsufficientQuota, 402, "insufficient_quota", "insufficient_quota", None),
        (RefusalCode::ModelNotFound, 404, "invalid_request_error", "model_not_found", Some("model")),
        (RefusalCode::ContextLengthExceeded, 400, "invalid_request_error", "context_length_exceeded", Some("messages")),
        (RefusalCode::RateLimitExceeded, 429, "rate_limit_error", "rate_limit_exceeded", None),
        (RefusalCode::Forbidden, 403, "permission_error", "forbidden", None),
        (RefusalCode::NoCapacity, 503, "server_error", "no_capacity", None),
        (RefusalCode::Timeout, 504, "server_error", "timeout", None),
    ];
    for (code, status, kind, name, param) in cases {
        let error = ApiError::from_refusal(&Refusal::new(code, "3 of 4"));
        let found = (error.status, error.kind, error.code, error.param.as_deref());
        assert_eq!(found, (status, kind, Some(name), param));
        assert!(error.message.contains("3 of 4"));
    }
    for code in RefusalCode::ALL {
        let error = ApiError::from_refusal(&Refusal::from(*code));
        assert_eq!(error.code, Some(code.name()));
        assert_eq!(error.status >= 500, error.kind == "server_error");
    }
}

#[test]
fn errors_have_the_interfaces_shape() {
    let error = ApiError::from_refusal(&Refusal::from(RefusalCode::ModelNotFound));
    let expected = json!({"error": {
        "message": "the network offers no model of this name; list the models with `GET /v1/models`",
        "type": "invalid_request_error", "param": "model", "code": "model_not_found", "request_id": "r1",
    }});
    assert_eq!(read(&error.to_json(Some("r1"))), expected);
    assert_eq!(event(ChunkWriter::new("i", 0, "m", false).error(&error, Some("r1")).expose()), expected);
    assert_eq!(read(&error.to_json(None))["error"].get("request_id"), None);
    let cost = ApiError { charge: Some(NanoDollars(1_250)), ..error };
    assert_eq!(read(&cost.to_json(None))["error"]["charge_nano_usd"], json!(1_250));
    let malformed = darkbloom_dialect::openai::parse_chat(b"{").unwrap_err();
    let body = read(&malformed.to_json(None));
    assert_eq!((&body["error"]["param"], &body["error"]["code"]), (&Value::Null, &json!("invalid_json")));
}

proptest! {
    #[test]
    fn any_text_arrives_and_no_event_is_split(text in any::<String>()) {
        let body = completion("i", 0, "m", &said(&text), FinishReason::Stop, USAGE);
        prop_assert_eq!(&read(body.expose())["choices"][0]["message"]["content"], &json!(text));
        let chunk = ChunkWriter::new("i", 0, "m", false).content(&text);
        prop_assert_eq!(&event(chunk.expose())["choices"][0]["delta"]["content"], &json!(text));
        prop_assert_eq!(chunk.expose().iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}
