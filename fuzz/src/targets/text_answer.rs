//! Answers in every family's format, with its markers as letters, as tokens of text and as control tokens: what comes out
//! does not depend on the tokens that the text was cut into, nothing is hidden but what calls are written with, no control
//! token is shown, little is held back, and the recount accepts it.

#![no_main]

use std::sync::LazyLock;

use darkbloom_content::{AnswerParts, ChatRequest, PartKind, Tool};
use darkbloom_fuzz::{Input, memory, small_pack, text};
use darkbloom_text::{
    ANSWER_HELD_BYTES_MAX, AnswerAssembler, AnswerEnd, AnswerRecount, Opening, PreTokenizer, TextModel, TextPack,
};
use darkbloom_types::{SecretString, TokenId};
use libfuzzer_sys::fuzz_target;

/// What tells each family's format, and its markers.
const FAMILIES: [(&str, &[&str]); 6] = [
    ("<tool_call> <think>", &["<tool_call>", "</tool_call>", "<think>", "</think>"]),
    ("<|python_tag|>", &["<|python_tag|>"]),
    ("<start_of_turn> tool_code", &[]),
    ("[TOOL_CALLS] [THINK]", &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"]),
    (
        "<｜tool▁calls▁begin｜> <think>",
        &[
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁calls▁end｜>",
            "<think>",
            "</think>",
        ],
    ),
    (
        "<|channel|> <|message|>",
        &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"],
    ),
];
/// Letters, tokens of text, control tokens.
const KINDS: [u32; 3] = [0, 4, 3];
/// What answers are made of beside markers.
const FRAGMENTS: [&str; 32] = [
    "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
    "{\"name\": \"f\", \"parameters\": {}}",
    "{\"arguments\": {\"a\": \"中\"}, \"name\": \"f\"}",
    "{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"é\\\"}\"}",
    "{\"name\": \"f\", \"arguments\": \"{",
    "{\"name\": \"f\", \"arguments\": {",
    "{\"name\": \"f\"}",
    "{\"name\": \"nobodys\", \"arguments\": {}}",
    "[{\"name\": \"f\", \"arguments\": {}}",
    ", {\"name\": \"f\", \"arguments\": {}}]",
    ", \"id\": \"7\"}",
    "{\"name\": \"",
    "f",
    "{}",
    "function",
    "f\n```json\n{}\n```",
    "analysis",
    "final",
    "assistant",
    " to=functions.f ",
    "commentary",
    "```json\n",
    "```tool_code\n",
    "```",
    "{",
    "}",
    "\"",
    ";",
    "<",
    "\n\n",
    "grün 中 👍",
    "the violet",
];

struct Model {
    text: TextModel,
    markers: &'static [&'static str],
    kind: u32,
}

static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let all = FAMILIES.iter().flat_map(|family| KINDS.map(|kind| (family, kind)));
    let built = all.map(|((tells, markers), kind)| {
        let template = format!("{}{{# {tells} #}}", small_pack::TEMPLATE);
        let more = if kind == 0 { &[] } else { *markers };
        let header = small_pack::gguf_with(PreTokenizer::Gpt2.name(), &template, more, kind);
        let pack = TextPack::from_gguf_header(&header).expect("it is sound");
        Model { text: TextModel::new(pack).expect("it works"), markers, kind }
    });
    built.collect()
});

/// A stretch of text, or a token of a marker.
enum Piece {
    Text(String),
    Marker(u32),
}

fn pieces(model: &Model, mut input: Input<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !input.is_empty() {
        let byte = input.byte();
        let number = usize::from(byte & 0x3f);
        let marker = (!model.markers.is_empty()).then(|| number % model.markers.len());
        pieces.push(match (byte >> 6, marker) {
            (0, Some(marker)) if model.kind != 0 => Piece::Marker(u32::try_from(marker).unwrap_or(0)),
            (0 | 1, Some(marker)) => Piece::Text(model.markers[marker].to_owned()),
            (3, _) => Piece::Text(text(input.take(number)).into_owned()),
            (_, _) => Piece::Text(FRAGMENTS[number % FRAGMENTS.len()].to_owned()),
        });
    }
    pieces
}

/// The tokens, with text in bytes or in the tokens that it has.
fn tokens(model: &Model, pieces: &[Piece], bytes: bool) -> Vec<TokenId> {
    let mut tokens = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) if bytes => tokens.extend(text.bytes().map(|byte| TokenId(byte.into()))),
            Piece::Text(text) => tokens.extend(model.text.text_tokens(text).expose()),
            Piece::Marker(marker) => tokens.push(TokenId(small_pack::TOKENS + marker)),
        }
    }
    tokens
}

/// What comes of these tokens, how many of them were read, and the end.
fn read(model: &Model, request: &ChatRequest, opening: Opening, tokens: &[TokenId]) -> (AnswerParts, usize, AnswerEnd) {
    let mut assembler = AnswerAssembler::new(&model.text, request, opening);
    let mut parts = AnswerParts::default();
    for (at, token) in tokens.iter().enumerate() {
        let (more, stopped) = assembler.push(*token);
        parts.append(&more);
        if stopped {
            let called = assembler.called();
            return (parts, at + 1, AnswerEnd { parts: AnswerParts::default(), stopped, called });
        }
        if at % 16 == 0 {
            let held = assembler.clone().finish().parts.len();
            assert!(held <= ANSWER_HELD_BYTES_MAX, "{held} bytes are held back");
        }
    }
    let end = assembler.finish();
    parts.append(&end.parts);
    (parts, tokens.len(), end)
}

/// Letters that stand in no marker and in nothing that a call is written with, and so are said in any case.
fn said(text: &str) -> String {
    let always = |letter: &char| !letter.is_ascii() && !letter.is_whitespace() && !matches!(letter, '｜' | '▁');
    text.chars().filter(always).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let model = &MODELS[usize::from(input.byte()) % MODELS.len()];
    let flags = input.byte();
    let tool = Tool { name: "f".into(), description: "".into(), parameters: "{}".into() };
    let stops: &[&str] = if flags & 1 == 1 { &["\n\n", "{\"na", "n 中"] } else { &[] };
    let request = ChatRequest {
        tools: if flags & 2 == 0 { vec![tool] } else { Vec::new() },
        stop: stops.iter().map(|stop| SecretString::from(*stop)).collect(),
        ..ChatRequest::new(Vec::new())
    };
    let opening = if flags & 4 == 0 { Opening::Free } else { Opening::Reasoning };
    let pieces = pieces(model, input);
    memory::within((1 << 20) + 512 * bytes.len(), || {
        let by_bytes = tokens(model, &pieces, true);
        let (parts, count, end) = read(model, &request, opening, &by_bytes);
        let by_words = tokens(model, &pieces, false);
        let (same, count_of_words, same_end) = read(model, &request, opening, &by_words);
        assert!(parts == same && (end.stopped, end.called) == (same_end.stopped, same_end.called), "the cut shows");

        let calls: Vec<_> = parts.iter().filter(|part| part.kind == PartKind::CallName).collect();
        assert!(end.called != calls.is_empty() && calls.iter().all(|call| call.text.expose() == "f"));
        let written: String = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Marker(_) => None,
            })
            .collect();
        let shown: String = parts.iter().map(|part| part.text.expose()).collect();
        // An escape in arguments that are a text becomes a letter.
        if !end.stopped && !written.contains("\\u") {
            assert_eq!(said(&shown), said(&written), "a letter is hidden, or comes twice");
        }
        if model.kind == 3 && !written.contains('\\') {
            for marker in model.markers.iter().filter(|marker| !written.contains(**marker)) {
                assert!(parts.iter().all(|part| !part.text.expose().contains(marker)), "a control token is shown");
            }
        }
        for (tokens, count) in [(by_bytes, count), (by_words, count_of_words)] {
            // A token that ends answers is the last.
            let ends = |token: &TokenId| model.text.end_tokens().contains(token);
            if tokens[..count].iter().rev().skip(1).any(ends) {
                continue;
            }
            let mut recount = AnswerRecount::new(&model.text, &request, opening);
            recount.push(&tokens[..count], parts.clone()).expect("these are the parts");
            let recounted = recount.finish().expect("these are all of them");
            assert!(recounted.called == end.called && (recounted.over || !end.stopped));
        }
    });
});
