//! Answers with reasoning and calls: what an honest writer sends is accepted, and a lie in any kind of part is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/families.rs"]
mod families;
#[path = "support/gguf_writer.rs"]
mod gguf_writer;

use darkbloom_content::{AnswerPart, AnswerParts, ChatRequest, PartKind, Tool};
use darkbloom_text::{AnswerAssembler, AnswerRecount, Opening, RecountError, Recounted, TextModel};
use darkbloom_types::TokenId;
use families::{FAMILIES, Family, LLAMA, QWEN};
use proptest::prelude::*;

/// Each family's way to think, to say something and to call, where it has one.
const ANSWERS: [&str; 6] = [
    "<think>\nhm</think>\n\nLook: <tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>\nDone.",
    "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\": [1]}}",
    "Look:\n```tool_code\n{\"name\": \"f\", \"parameters\": {\"a\": [1]}}\n```\nDone.",
    "[THINK]hm[/THINK]Look: [TOOL_CALLS]f[ARGS]{\"a\": [1]}",
    "<think>hm</think>Look: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": [1]}\n```\
     <｜tool▁call▁end｜><｜tool▁calls▁end｜>Done.",
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>\
     {\"a\": [1]}<|call|>",
];

fn request(stops: &[&str]) -> ChatRequest {
    let tool = Tool { name: "f".into(), description: "".into(), parameters: "{}".into() };
    let stop = stops.iter().map(|stop| (*stop).into()).collect();
    ChatRequest { tools: vec![tool], stop, ..ChatRequest::new(Vec::new()) }
}

/// A text as tokens: marks that are control tokens as one, everything else in bytes.
fn tokens(family: &Family, control: bool, text: &str) -> Vec<TokenId> {
    tokens_with(if control { family.controls } else { &[] }, text)
}

/// The same where the family's tokens are control tokens and these are tokens too.
fn tokens_of(family: &Family, marks: &[&str], text: &str) -> Vec<TokenId> {
    tokens_with(&[family.controls, marks].concat(), text)
}

fn tokens_with(marks: &[&str], text: &str) -> Vec<TokenId> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(character) = rest.chars().next() {
        let length = match marks.iter().position(|mark| rest.starts_with(mark)) {
            Some(mark) => {
                tokens.push(TokenId(262 + u32::try_from(mark).unwrap()));
                marks[mark].len()
            }
            None => {
                tokens.extend(rest.as_bytes()[..character.len_utf8()].iter().map(|byte| TokenId((*byte).into())));
                character.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

type Piece = (Vec<TokenId>, AnswerParts);

/// What a writer has ready after each token, and at the end.
fn written(model: &TextModel, tokens: &[TokenId], request: &ChatRequest) -> Vec<Piece> {
    let mut assembler = AnswerAssembler::new(model, request, Opening::Free);
    let mut pieces = Vec::new();
    for token in tokens {
        let (parts, stopped) = assembler.push(*token);
        pieces.push((vec![*token], parts));
        if stopped {
            return pieces;
        }
    }
    pieces.push((Vec::new(), assembler.finish().parts));
    pieces
}

/// The same with everything in one piece.
fn joined(pieces: Vec<Piece>) -> Piece {
    let mut all = Piece::default();
    for (tokens, parts) in pieces {
        all.0.extend(tokens);
        all.1.append(&parts);
    }
    all
}

fn recounted(model: &TextModel, pieces: &[Piece], request: &ChatRequest) -> Result<Recounted, RecountError> {
    let mut recount = AnswerRecount::new(model, request, Opening::Free);
    for (tokens, parts) in pieces {
        recount.push(tokens, parts.clone())?;
    }
    recount.finish()
}

fn parts(pieces: &[(PartKind, &str)]) -> AnswerParts {
    let mut parts = AnswerParts::default();
    pieces.iter().for_each(|(kind, text)| parts.push(*kind, text));
    parts
}

#[test]
fn each_familys_answer_is_accepted_as_control_tokens_and_as_letters() {
    for (family, answer) in FAMILIES.iter().zip(ANSWERS) {
        let shown = [true, false].map(|control| {
            let (model, request) = (family.model(control), request(&[]));
            let pieces = written(&model, &tokens(family, control, answer), &request);
            let recount = recounted(&model, &pieces, &request);
            let over = control && answer.ends_with("<|call|>");
            assert_eq!(recount, Ok(Recounted { over, called: true }), "{}", family.name);
            joined(pieces).1
        });
        assert_eq!(shown[0], shown[1], "{}", family.name);
        let kinds: Vec<_> = shown[0].iter().map(|part| part.kind).collect();
        assert!(
            kinds.ends_with(&[PartKind::CallName, PartKind::CallArguments]) || kinds.last() == Some(&PartKind::Text)
        );
        let called = parts(&[(PartKind::CallName, "f"), (PartKind::CallArguments, "{\"a\": [1]}")]);
        assert!(called.iter().all(|part| shown[0].iter().any(|shown| shown == part)), "{}", family.name);
    }
}

#[test]
fn a_lie_in_any_kind_of_part_is_refused() {
    for (family, answer) in FAMILIES.iter().zip(ANSWERS) {
        let (model, request) = (family.model(true), request(&[]));
        let (tokens, honest) = joined(written(&model, &tokens(family, true, answer), &request));
        let all: Vec<AnswerPart> = honest.into_iter().collect();
        let kinds = [PartKind::Text, PartKind::Reasoning, PartKind::CallName, PartKind::CallArguments];
        for at in 0..all.len() {
            let text = all[at].text.expose();
            let other = |kind, text: &str| AnswerPart { kind, text: text.into() };
            let mut lies: Vec<Vec<AnswerPart>> = vec![
                // Another text, less of it, more of it, or none.
                vec![other(all[at].kind, &text.replacen(|_| true, "#", 1))],
                vec![other(all[at].kind, &text[..text.len() - 1])],
                vec![other(all[at].kind, &format!("{text}#"))],
                vec![],
                // Something more before it.
                vec![other(PartKind::CallName, "f"), other(PartKind::CallArguments, "{}"), all[at].clone()],
            ];
            // The same text as another kind of part.
            lies.extend(kinds.iter().filter(|kind| **kind != all[at].kind).map(|kind| vec![other(*kind, text)]));
            for lie in lies {
                let mut told = AnswerParts::default();
                for part in all[..at].iter().chain(&lie).chain(&all[at + 1..]) {
                    told.push(part.kind, part.text.expose());
                }
                let refused = recounted(&model, &[(tokens.clone(), told)], &request);
                assert!(refused.is_err(), "{}, part {at}: {lie:?}", family.name);
            }
        }
    }
}

#[test]
fn a_call_that_is_told_as_text_is_refused_by_place() {
    let (model, request) = (QWEN.model(true), request(&[]));
    let said = tokens(&QWEN, true, "Hi.<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
    let told = vec![(said, parts(&[(PartKind::Text, "Hi.f"), (PartKind::CallArguments, "{}")]))];
    let refused = recounted(&model, &told, &request);
    assert!(matches!(refused, Err(RecountError::Differs { byte: 3, .. })), "{refused:?}");
}

#[test]
fn a_call_that_precedes_its_tokens_is_refused() {
    let (model, request) = (QWEN.model(true), request(&[]));
    let head = tokens(&QWEN, true, "<tool_call>{\"name\": \"f\", \"arg");
    let early = vec![(head, parts(&[(PartKind::CallName, "f")]))];
    assert!(matches!(recounted(&model, &early, &request), Err(RecountError::NotInTokens { byte: 0, bytes: 1, .. })));
}

#[test]
fn what_a_head_holds_back_is_text_at_the_end_alone() {
    let (model, request) = (QWEN.model(true), request(&[]));
    let head = tokens(&QWEN, true, "<tool_call>{\"name\": \"f\"");
    let text = parts(&[(PartKind::Text, "<tool_call>{\"name\": \"f\"")]);
    let broken_off = recounted(&model, &[(head.clone(), text.clone())], &request);
    assert_eq!(broken_off, Ok(Recounted { over: false, called: false }));
    let rest = tokens(&QWEN, true, ", \"arguments\": {}}");
    let call = parts(&[(PartKind::CallName, "f"), (PartKind::CallArguments, "{}")]);
    assert!(recounted(&model, &[(head.clone(), text), (rest.clone(), call.clone())], &request).is_err());
    assert!(recounted(&model, &[(head, AnswerParts::default()), (rest, call)], &request).is_ok());
}

#[test]
fn stop_strings_end_what_is_said_and_neither_thoughts_nor_calls() {
    let (model, request) = (QWEN.model(true), request(&["stop"]));
    let read = |answer: &str| {
        let pieces = written(&model, &tokens(&QWEN, true, answer), &request);
        let recount = recounted(&model, &pieces, &request).unwrap();
        (joined(pieces).1, recount)
    };
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"stop\"}}</tool_call>";
    let (said, recount) = read(&format!("<think>stop</think>Go {call}on, stop it"));
    let expected = parts(&[
        (PartKind::Reasoning, "stop"),
        (PartKind::Text, "Go"),
        (PartKind::CallName, "f"),
        (PartKind::CallArguments, "{\"a\": \"stop\"}"),
        (PartKind::Text, "on, "),
    ]);
    assert_eq!(said, expected);
    assert_eq!(recount, Recounted { over: true, called: true });
    // Nor is one found across them.
    let (said, recount) = read(&format!("st{call}op"));
    assert_eq!(said.iter().map(|part| part.text.expose()).collect::<Vec<_>>(), ["st", "f", "{\"a\": \"stop\"}", "op"]);
    assert!(!recount.over);
}

#[test]
fn a_marker_that_is_a_token_is_recounted_as_one() {
    let marks = ["<tool_call>", "</tool_call>", "<think>", "</think>"];
    // Control tokens, and tokens of text.
    for kind in [3, 4] {
        let (model, request) = (QWEN.model_with(&marks, kind), request(&[]));
        let said =
            tokens_of(&QWEN, &marks, "<think>hm</think><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
        let written = written(&model, &said, &request);
        let honest = parts(&[(PartKind::Reasoning, "hm"), (PartKind::CallName, "f"), (PartKind::CallArguments, "{}")]);
        assert_eq!(recounted(&model, &written, &request), Ok(Recounted { over: false, called: true }));
        assert_eq!(joined(written).1, honest);
        // Its letters are text, and whoever tells them as a call is refused.
        let letters = tokens(&QWEN, false, "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>");
        let call = parts(&[(PartKind::CallName, "f"), (PartKind::CallArguments, "{}")]);
        assert!(recounted(&model, &[(letters.clone(), call)], &request).is_err());
        let text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>".into();
        assert_eq!(recounted(&model, &[(letters, text)], &request), Ok(Recounted { over: false, called: false }));
    }
    // A word about thinking is one token where everybody's text has it.
    let (model, request) = (QWEN.model_with(&marks, 4), request(&[]));
    let said = tokens_of(&QWEN, &marks, "It is <think> and </think>.");
    assert_eq!(joined(written(&model, &said, &request)).1, "It is <think> and </think>.".into());
    let model = QWEN.model_with(&marks, 3);
    let half = [&tokens(&QWEN, false, "é")[..1], &tokens_of(&QWEN, &marks, "<think>so")].concat();
    let honest = parts(&[(PartKind::Text, "\u{fffd}"), (PartKind::Reasoning, "so")]);
    assert_eq!(joined(written(&model, &half, &request)).1, honest);
}

#[test]
fn a_stop_string_in_what_was_held_back_ends_the_answer_itself() {
    let (model, request) = (QWEN.model(true), request(&["{\"na"]));
    let said = tokens(&QWEN, true, "So. <tool_call>{\"name\": \"f\"");
    let written = written(&model, &said, &request);
    assert_eq!(recounted(&model, &written, &request), Ok(Recounted { over: true, called: false }));
    assert_eq!(joined(written).1, "So. <tool_call>".into());
}

#[test]
fn nothing_follows_the_only_call_that_a_template_takes() {
    // One call, and none behind it before a person said something.
    let once = "{%- set ns = namespace(calls=0) %}{%- for m in messages %}{%- if 'tool_calls' in m %}\
                {%- set ns.calls = ns.calls + m.tool_calls | length %}{% endif %}{% endfor %}\
                {%- if ns.calls > 1 %}{{ raise_exception('one call') }}{% endif %}";
    let model = LLAMA.model_of(&format!("{once}{}", LLAMA.template));
    assert!(model.takes_tools());
    let call = "{\"name\": \"f\", \"parameters\": {\"a\": [1]}}";
    let request = request(&[]);
    let said = tokens(&LLAMA, false, &format!("{call}; {call}"));
    let pieces = written(&model, &said, &request);
    assert_eq!(recounted(&model, &pieces, &request), Ok(Recounted { over: true, called: true }));
    let one = parts(&[(PartKind::CallName, "f"), (PartKind::CallArguments, "{\"a\": [1]}")]);
    let (told, all) = joined(pieces);
    assert_eq!((told.len(), all), (call.len() - 1, one.clone()));
    let refused = recounted(&model, &[(said, one)], &request);
    assert!(matches!(refused, Err(RecountError::AfterStop { .. })), "{refused:?}");
}

#[test]
fn a_long_call_in_drops_is_read_in_linear_time() {
    let (model, request) = (QWEN.model(true), request(&[]));
    let mut recount = AnswerRecount::new(&model, &request, Opening::Free);
    let (head, letters) = ("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", 200_000);
    recount.push(&tokens(&QWEN, true, head), AnswerParts::default()).unwrap();
    recount.push(&vec![TokenId(b'a'.into()); letters], AnswerParts::default()).unwrap();
    recount.push(&[], parts(&[(PartKind::CallName, "f"), (PartKind::CallArguments, "{\"a\": \"")])).unwrap();
    for _ in 0..letters {
        recount.push(&[], parts(&[(PartKind::CallArguments, "a")])).unwrap();
    }
    assert_eq!(recount.finish(), Ok(Recounted { over: false, called: true }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_an_honest_writer_sends_is_always_accepted(
        family in 0..FAMILIES.len(),
        control in any::<bool>(),
        fragments in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..2_usize), 0..6),
        lags in prop::collection::vec(0..4_usize, 1..6),
    ) {
        let (family, whole) = (FAMILIES[family], ANSWERS[family]);
        let answer: String = fragments.iter().map(|(from, to, all)| {
            let cut = |at: &prop::sample::Index| whole.floor_char_boundary(at.index(whole.len() + 1));
            let (from, to) = (cut(from).min(cut(to)), cut(from).max(cut(to)));
            if *all == 1 { whole } else { &whole[from..to] }
        }).collect();
        // A token that ends the answer is the last.
        let answer = answer.split_inclusive("<|call|>").next().unwrap_or_default();
        let (model, request) = (family.model(control), request(&["one", "[1"]));
        // Parts come with their tokens or some pieces later.
        let mut late = AnswerParts::default();
        let mut pieces = Vec::new();
        for ((tokens, parts), lag) in written(&model, &tokens(family, control, answer), &request).into_iter().zip(lags.iter().cycle()) {
            late.append(&parts);
            pieces.push((tokens, if *lag == 0 { std::mem::take(&mut late) } else { AnswerParts::default() }));
        }
        pieces.push((Vec::new(), late));
        prop_assert!(recounted(&model, &pieces, &request).is_ok());
    }
}
