//! OpenAI's interface of embeddings, field by field.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darkbloom_content::{EmbeddingInput, Embeddings};
use darkbloom_dialect::openai::{
    EMBEDDINGS_FIELDS, EmbeddingsCall, VectorEncoding, embeddings, embeddings_error, parse_embeddings, support_matrix,
};
use darkbloom_types::{Refusal, RefusalCode, SecretTokens, SecretVector, TokenCount, TokenId};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A request with these fields set over a sound one.
fn body(fields: &Value) -> Vec<u8> {
    let mut body = json!({"model": "m", "input": "hi"});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

fn taken(fields: Value) -> EmbeddingsCall {
    parse_embeddings(&body(&fields)).unwrap_or_else(|error| panic!("{fields}: {error:?}"))
}

#[track_caller]
fn blamed(fields: Value, code: &str, param: &str) -> String {
    let error = parse_embeddings(&body(&fields)).expect_err(&fields.to_string());
    let found = (error.status, error.code, error.param.as_deref());
    assert_eq!(found, (400, Some(code), Some(param)), "{fields}");
    error.message
}

fn text(text: &str) -> EmbeddingInput {
    EmbeddingInput::Text(text.into())
}

fn tokens(numbers: &[u32]) -> EmbeddingInput {
    EmbeddingInput::Tokens(SecretTokens::new(numbers.iter().copied().map(TokenId).collect()))
}

#[test]
fn texts_and_tokens_arrive_as_they_were_sent_alone_and_in_lists() {
    assert_eq!(taken(json!({})).request.inputs, [text("hi")]);
    assert_eq!(
        taken(json!({"input": ["a", "b\u{1f338}", "a"]})).request.inputs,
        [text("a"), text("b\u{1f338}"), text("a")]
    );
    assert_eq!(taken(json!({"input": [5, 0, u32::MAX]})).request.inputs, [tokens(&[5, 0, u32::MAX])]);
    assert_eq!(taken(json!({"input": [[5], [6, 7]]})).request.inputs, [tokens(&[5]), tokens(&[6, 7])]);
    let many = taken(json!({"input": vec!["a"; 2_048]}));
    assert_eq!((many.request.inputs.len(), &*many.model), (2_048, "m"));
    let long = taken(json!({"input": vec![1; 10_000]}));
    assert_eq!(long.request.inputs.len(), 1, "tokens are one text, and not so many");
}

#[test]
fn an_input_that_is_none_is_refused_at_its_place() {
    for wrong in [json!(null), json!(1), json!({}), json!([null]), json!([{}]), json!([true])] {
        blamed(json!({"input": wrong}), "invalid_type", "input");
    }
    for wrong in [json!(""), json!([])] {
        blamed(json!({"input": wrong}), "invalid_value", "input");
    }
    blamed(json!({"input": ["a", ""]}), "invalid_value", "input[1]");
    blamed(json!({"input": [[1], []]}), "invalid_value", "input[1]");
    blamed(json!({"input": ["a", 1]}), "invalid_type", "input[1]");
    blamed(json!({"input": [[1], "a"]}), "invalid_type", "input[1]");
    blamed(json!({"input": [1, "a"]}), "invalid_type", "input[1]");
    blamed(json!({"input": [[1, 2], [3, 0.5]]}), "invalid_type", "input[1][1]");
    blamed(json!({"input": [1, -1]}), "invalid_value", "input[1]");
    let said = blamed(json!({"input": [[4_294_967_296_u64]]}), "invalid_value", "input[0][0]");
    assert!(!said.contains("4294967296"), "tokens are content: {said}");
    for many in [json!(vec!["a"; 2_049]), json!(vec![[1]; 2_049])] {
        assert!(blamed(json!({"input": many}), "invalid_value", "input").contains("2048"));
    }
    let none = parse_embeddings(br#"{"model": "m"}"#).unwrap_err();
    assert_eq!((none.code, none.param.as_deref()), (Some("missing_required_parameter"), Some("input")));
}

#[test]
fn the_other_fields_are_honoured_hints_or_refused_by_name() {
    let plain = taken(json!({"encoding_format": null, "dimensions": null, "user": null}));
    assert_eq!((plain.encoding, plain.request.dimensions, plain.hints.len()), (VectorEncoding::Float, None, 0));
    let full = taken(json!({"encoding_format": "base64", "dimensions": 256, "user": "me"}));
    assert_eq!((full.encoding, full.request.dimensions), (VectorEncoding::Base64, Some(256)));
    assert_eq!(full.hints, ["user"]);
    assert_eq!(taken(json!({"encoding_format": "float"})).encoding, VectorEncoding::Float);
    blamed(json!({"encoding_format": "int8"}), "invalid_value", "encoding_format");
    blamed(json!({"encoding_format": 1}), "invalid_type", "encoding_format");
    blamed(json!({"dimensions": 0}), "invalid_value", "dimensions");
    blamed(json!({"dimensions": "1"}), "invalid_type", "dimensions");
    blamed(json!({"user": 1}), "invalid_type", "user");
    blamed(json!({"model": ""}), "invalid_value", "model");
    let near = blamed(json!({"dimension": 1}), "unknown_parameter", "dimension");
    assert!(near.contains("did you mean `dimensions`?"), "{near}");
    blamed(json!({"messages": []}), "unknown_parameter", "messages");
    assert_eq!(support_matrix(EMBEDDINGS_FIELDS).lines().count(), EMBEDDINGS_FIELDS.len() + 2);
    for wrong in [&b"[]"[..], b"{", b""] {
        assert_eq!(parse_embeddings(wrong).unwrap_err().status, 400);
    }
}

#[test]
fn the_answer_has_openais_shape_in_both_encodings() {
    let vectors = [vec![0.5, -1.25, f32::MIN_POSITIVE], vec![1.0, 0.1, -0.0]].map(SecretVector::new);
    let made = Embeddings { vectors: vectors.to_vec(), input_tokens: TokenCount(7) };
    let read = |encoding| -> Value { serde_json::from_slice(embeddings("m", &made, encoding).expose()).unwrap() };
    let float = read(VectorEncoding::Float);
    let item = |index: usize, embedding: Value| json!({"object": "embedding", "index": index, "embedding": embedding});
    let shape = |data: [Value; 2]| {
        json!({"object": "list", "data": data, "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7}})
    };
    // By RFC 4648: 0000003f is 0.5 with its least significant byte first.
    assert_eq!(
        read(VectorEncoding::Base64),
        shape([item(0, json!("AAAAPwAAoL8AAIAA")), item(1, json!("AACAP83MzD0AAACA"))])
    );
    for (at, vector) in made.vectors.iter().enumerate() {
        let item = &float["data"][at];
        assert_eq!((&item["object"], &item["index"]), (&"embedding".into(), &at.into()));
        let numbers: Vec<u32> =
            item["embedding"].as_array().unwrap().iter().map(|it| (it.as_f64().unwrap() as f32).to_bits()).collect();
        assert_eq!(numbers, vector.expose().iter().map(|it| it.to_bits()).collect::<Vec<_>>());
    }
}

#[test]
fn a_text_that_is_too_long_is_blamed_on_the_input() {
    let long = embeddings_error(&Refusal::new(RefusalCode::ContextLengthExceeded, "`input[1]` is too long"));
    assert_eq!((long.status, long.param.as_deref()), (400, Some("input")));
    let unknown = embeddings_error(&RefusalCode::ModelNotFound.into());
    assert_eq!((unknown.status, unknown.param.as_deref()), (404, Some("model")));
}

proptest! {
    #[test]
    fn every_vector_survives_both_encodings(numbers in prop::collection::vec(any::<u32>(), 0..40)) {
        let numbers: Vec<f32> = numbers.into_iter().map(f32::from_bits).filter(|number| number.is_finite()).collect();
        let made = Embeddings { vectors: vec![SecretVector::new(numbers.clone())], input_tokens: TokenCount(1) };
        let body = embeddings("m", &made, VectorEncoding::Float);
        let read: Value = serde_json::from_slice(body.expose()).unwrap();
        let read = read["data"][0]["embedding"].as_array().unwrap().clone();
        let read: Vec<u32> = read.iter().map(|number| (number.as_f64().unwrap() as f32).to_bits()).collect();
        let bits: Vec<_> = numbers.iter().map(|number| number.to_bits()).collect();
        prop_assert_eq!(&read, &bits);
        let body = embeddings("m", &made, VectorEncoding::Base64);
        let read: Value = serde_json::from_slice(body.expose()).unwrap();
        let bytes = STANDARD.decode(read["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let read: Vec<_> = bytes.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
        prop_assert_eq!(read, bits);
    }

    #[test]
    fn arbitrary_bytes_give_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(parse_embeddings(&bytes).is_err());
    }
}
