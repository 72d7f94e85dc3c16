//! Answers of each family, whole, cut anywhere, and broken.

use darkbloom_content::CALL_ARGUMENTS_BYTES_MAX;
use proptest::prelude::*;

use super::*;
use crate::format::ReasoningSyntax;

const fn format(calls: Option<CallSyntax>, reasoning: Option<ReasoningSyntax>) -> AnswerFormat {
    AnswerFormat { calls, reasoning }
}

const PLAIN: AnswerFormat = format(None, None);
const QWEN: AnswerFormat = format(Some(CallSyntax::Hermes), Some(ReasoningSyntax::Think));
const LLAMA: AnswerFormat = format(Some(CallSyntax::Llama), None);
const GEMMA: AnswerFormat = format(Some(CallSyntax::Gemma), None);
const MISTRAL: AnswerFormat = format(Some(CallSyntax::Mistral), Some(ReasoningSyntax::Mistral));
const DEEPSEEK: AnswerFormat = format(Some(CallSyntax::DeepSeek), Some(ReasoningSyntax::Think));
const HARMONY: AnswerFormat = format(Some(CallSyntax::Harmony), Some(ReasoningSyntax::Harmony));
const ALL: [AnswerFormat; 7] = [PLAIN, QWEN, LLAMA, GEMMA, MISTRAL, DEEPSEEK, HARMONY];

fn parser(format: AnswerFormat, opening: Opening) -> AnswerParser {
    AnswerParser::new(format, ["f", "get-it_2"].map(SecretString::from).into(), opening)
}

/// The parts of an answer as one text: reasoning in `(…)`, calls as `@name:arguments@`.
fn shown(parts: &AnswerParts) -> String {
    let mut shown = String::new();
    for part in parts.iter() {
        let text = part.text.expose();
        match part.kind {
            PartKind::Text => shown += text,
            PartKind::Reasoning => shown += &format!("({text})"),
            PartKind::CallName => shown += &format!("@{text}:"),
            PartKind::CallArguments => shown += &format!("{text}@"),
        }
    }
    shown
}

fn read_by(mut parser: AnswerParser, pieces: &[&str]) -> AnswerParts {
    let mut parts = AnswerParts::default();
    for piece in pieces {
        parts.append(&parser.push(piece));
    }
    parts.append(&parser.finish());
    parts
}

fn read(format: AnswerFormat, answer: &str) -> String {
    shown(&read_by(parser(format, Opening::Free), &[answer]))
}

#[test]
fn hermes_calls_and_thoughts_are_told_from_text() {
    let call =
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\\\"\", \"b\": [1, {}]}}\n</tool_call>";
    let said = "@f:{\"a\": \"}</tool_call>\\\"\", \"b\": [1, {}]}@";
    assert_eq!(read(QWEN, call), said);
    assert_eq!(
        read(QWEN, &format!("<think>\nhm <b>\n</think>\n\nI look.\n{call}\n{call}")),
        format!("(hm <b>)I look.{said}{said}")
    );
    assert_eq!(read(QWEN, " a < b\n"), " a < b\n");
    assert_eq!(shown(&read_by(parser(QWEN, Opening::Reasoning), &["\nso\n</think>\n\nit is"])), "(so)it is");
    assert_eq!(shown(&read_by(parser(QWEN, Opening::Reasoning), &["so it"])), "(so it)");
    // Nothing is called in thought.
    assert_eq!(read(QWEN, &format!("<think>{call}</think>")), format!("({call})"));
}

#[test]
fn llama_calls_stand_by_themselves() {
    let call = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}";
    assert_eq!(read(LLAMA, call), "@f:{\"a\": 1}@");
    assert_eq!(read(LLAMA, &format!("<|python_tag|>{call}; {call}")), "@f:{\"a\": 1}@@f:{\"a\": 1}@");
    assert_eq!(read(LLAMA, "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}"), "@f:{}@");
    for text in [
        "{\"name\": \"Ada\", \"parameters\": {}}",
        "{\"name\": \"f\", \"age\": 3}",
        "Like so: {\"name\": \"f\", \"parameters\": {}}",
        "{\"name\": \"f",
        "{",
        "{}",
    ] {
        assert_eq!(read(LLAMA, text), text);
    }
    assert_eq!(read(LLAMA, "<|python_tag|>print(1)"), "print(1)");
}

#[test]
fn gemma_calls_stand_by_themselves_or_in_a_fence() {
    let call = "{\"name\": \"get-it_2\", \"parameters\": {\"a\": null}}";
    let said = "@get-it_2:{\"a\": null}@";
    assert_eq!(read(GEMMA, call), said);
    assert_eq!(read(GEMMA, &format!("```tool_code\n{call}\n```\n```json\n{call}\n```")), format!("{said}{said}"));
    assert_eq!(read(GEMMA, &format!("I ask:\n```json\n{call}\n``` there")), format!("I ask:{said}there"));
    for text in
        ["```json\n{\"name\": \"Ada\"}\n```", "```rust\nlet a = 1;\n```", "```json\n[1]\n```\n\n```json", "`` `"]
    {
        assert_eq!(read(GEMMA, text), text);
    }
}

#[test]
fn mistral_calls_come_in_an_array_or_one_by_one() {
    let array = "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {}, \"id\": \"abc\"}, {\"name\": \"g\", \"arguments\": {\"a\": \"]\"}}]";
    assert_eq!(read(MISTRAL, array), "@f:{}@@g:{\"a\": \"]\"}@");
    assert_eq!(read(MISTRAL, &format!("Well.{array} so")), "Well.@f:{}@@g:{\"a\": \"]\"}@so");
    assert_eq!(read(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g{}"), "@f:{\"a\": 1}@@g:{}@");
    assert_eq!(read(MISTRAL, "[TOOL_CALLS]f[CALL_ID]x9[ARGS]{}"), "@f:{}@");
    assert_eq!(read(MISTRAL, "[THINK]hm[/THINK]so [1]"), "(hm)so [1]");
}

#[test]
fn deepseek_calls_are_fenced_or_not() {
    let old = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n\
               <｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    assert_eq!(read(DEEPSEEK, old), "@f:{\"a\": 1}@@g:{}@");
    let new = "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
               <｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    assert_eq!(read(DEEPSEEK, &format!("<think>\nhm\n</think>\n{new}")), "(hm)So.@f:{\"a\": 1}@@function:{}@");
}

#[test]
fn harmony_messages_are_told_apart_by_their_heads() {
    let answer = "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.\
                  <|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>";
    assert_eq!(read(HARMONY, answer), "(They ask.)I look.@f:{\"a\": 1}@");
    assert_eq!(read(HARMONY, " to=functions.f<|channel|>commentary json<|message|> {}<|call|>"), "@f:{}@");
    assert_eq!(read(HARMONY, "<|channel|>final<|message|>It is 7.<|return|>"), "It is 7.");
    assert_eq!(read(HARMONY, "Just so."), "Just so.");
    assert_eq!(read(HARMONY, "<|channel|>commentary to=browser.search<|message|>{}<|call|>"), "{}");
    assert_eq!(read(HARMONY, "<|channel|>commentary to=functions.f<|message|>none<|call|>"), "none");
    assert_eq!(read(HARMONY, "<|channel|>final<|mess"), "");
}

#[test]
fn what_is_no_call_is_text_without_its_markers() {
    assert_eq!(read(QWEN, "<tool_call>\nnot json\n</tool_call>"), "\nnot json\n");
    assert_eq!(
        read(QWEN, "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>"),
        "{\"name\": \"a b\", \"arguments\": {}}"
    );
    assert_eq!(read(QWEN, "<tool_call>{\"arguments\": {}}</tool_call>"), "{\"arguments\": {}}");
    assert_eq!(read(QWEN, "<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"), "@f:{}@");
    assert_eq!(read(QWEN, "<tool_call>{\"name\": \"f"), "{\"name\": \"f");
    assert_eq!(read(MISTRAL, "[TOOL_CALLS]so it is"), "so it is");
    assert_eq!(read(MISTRAL, "[TOOL_CALLS][1, 2]"), "[1, 2]");
    assert_eq!(read(DEEPSEEK, "<｜tool▁call▁begin｜>so<｜tool▁sep｜>it is"), "soit is");
    // Arguments that are no JSON end where they cease to be, and what follows is text.
    assert_eq!(read(QWEN, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": <b}}</tool_call>"), "@f:{\"a\": @<b}}");
    assert_eq!(read(QWEN, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1</tool_call>x"), "@f:{\"a\": 1@x");
    assert_eq!(read(QWEN, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ]}}"), "@f:{\"a\": @]}}");
}

#[test]
fn a_request_without_tools_has_no_calls_and_no_markers() {
    let none = |format| AnswerParser::new(format, Vec::new(), Opening::Free);
    let call = "{\"name\": \"f\", \"parameters\": {}}";
    for (format, answer, expected) in [
        (QWEN, format!("<tool_call>{call}</tool_call>"), call),
        (LLAMA, call.to_owned(), call),
        (GEMMA, format!("```json\n{call}\n```"), &*format!("```json\n{call}\n```")),
        (MISTRAL, "[TOOL_CALLS]f[ARGS]{}".to_owned(), "f{}"),
        (HARMONY, "<|channel|>commentary to=functions.f<|message|>{}<|call|>".to_owned(), "{}"),
        (PLAIN, "<tool_call>".to_owned(), "<tool_call>"),
    ] {
        assert_eq!(shown(&read_by(none(format), &[&answer])), expected);
    }
}

#[test]
fn nothing_is_read_without_a_limit() {
    let head = |name: &str| format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{}}}}</tool_call>");
    assert!(read(QWEN, &head(&"n".repeat(64))).starts_with("@nnn"));
    let long = head(&"n".repeat(65));
    assert_eq!(read(QWEN, &long), long.replace("<tool_call>", "").replace("</tool_call>", ""));
    let spaced = format!("<tool_call>{}{{\"name\"", " ".repeat(1_000));
    assert_eq!(read(QWEN, &spaced), &spaced["<tool_call>".len()..]);

    let many = read(QWEN, &head("f").repeat(CALLS_MAX + 1));
    assert_eq!(many.matches("@f:{}@").count(), CALLS_MAX);
    assert!(many.ends_with("@{\"name\": \"f\", \"arguments\": {}}"));

    let deep = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": {}", "[".repeat(100));
    assert_eq!(read(QWEN, &deep), format!("@f:{{\"a\": {}@{}", "[".repeat(63), "[".repeat(37)));

    let big =
        format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": \"{}", "é".repeat(CALL_ARGUMENTS_BYTES_MAX));
    let parts = read_by(parser(QWEN, Opening::Free), &[&big]);
    let arguments = parts.iter().find(|part| part.kind == PartKind::CallArguments).unwrap();
    assert!((CALL_ARGUMENTS_BYTES_MAX - 1..=CALL_ARGUMENTS_BYTES_MAX).contains(&arguments.text.len()));

    let white = read(QWEN, &format!("a{}b", "\n".repeat(1_000)));
    assert_eq!(white.len(), 1_002);
}

#[test]
fn text_is_handed_on_as_soon_as_it_can_be_nothing_else() {
    let mut parser = parser(QWEN, Opening::Free);
    assert_eq!(shown(&parser.push("It is <")), "It is");
    assert_eq!(shown(&parser.push("b> or <tool")), " <b> or");
    assert_eq!(shown(&parser.push("_call>{\"name\": \"f\", \"arguments\": {")), "@f:{@");
    assert_eq!(shown(&parser.push("\"a\"")), "\"a\"@");
    let mut parser = AnswerParser::new(QWEN, vec!["f".into()], Opening::Reasoning);
    assert_eq!(shown(&parser.push("hm, ")), "(hm,)");
}

/// Pieces that answers of all families, and broken ones, are made of.
fn fragment() -> impl Strategy<Value = String> {
    let markers = ALL.iter().flat_map(|format| format.markers().map(|(text, _)| text.to_owned()));
    let others = [
        "{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}",
        "{\"name\": \"f\", \"parameters\": {}}",
        "[{\"name\": \"g\", \"arguments\": {}}",
        ", {\"name\": \"f\", \"arguments\": {}}]",
        "f[ARGS]{\"b\": 2}",
        "function<｜tool▁sep｜>f\n```json\n{}\n```",
        "f<｜tool▁sep｜>{}",
        "commentary to=functions.f <|constrain|>json<|message|>{}",
        "assistant<|channel|>final<|message|>",
        "analysis<|message|>",
        "```json\n",
        "```tool_code\n",
        "```",
        "{\"name\": \"",
        "{",
        "}",
        "]",
        "\"",
        "\\",
        ";",
        "<",
        "<tool_",
        "[TOOL",
        " ",
        "\n\n",
        "grün 中 👍",
        "word",
    ];
    let all: Vec<String> = markers.chain(others.map(str::to_owned)).collect();
    prop_oneof![9 => prop::sample::select(all), 1 => any::<String>()]
}

fn is_half(fragment: &str) -> bool {
    let mut markers = ALL.iter().flat_map(|format| format.markers());
    markers.any(|(marker, _)| {
        marker != fragment && (1..marker.len()).any(|end| fragment.as_bytes().ends_with(&marker.as_bytes()[..end]))
    })
}

fn answer() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..12).prop_map(|fragments| fragments.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_cut_gives_the_same_parts(
        answer in answer(),
        format in prop::sample::select(ALL.to_vec()),
        reasoning in any::<bool>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let opening = if reasoning { Opening::Reasoning } else { Opening::Free };
        let whole = read_by(parser(format, opening), &[&answer]);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| answer.floor_char_boundary(cut.index(answer.len() + 1))).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &answer[cut[0]..cut[1]]).collect();
        prop_assert_eq!(shown(&read_by(parser(format, opening), &pieces)), shown(&whole));
    }

    #[test]
    fn no_marker_is_ever_shown_as_text(
        // Halves of markers are text, and may meet when a whole one between them is taken out.
        fragments in prop::collection::vec(fragment().prop_filter("a half", |it| !is_half(it)), 0..12),
        format in prop::sample::select(ALL.to_vec()),
    ) {
        let parts = read_by(parser(format, Opening::Free), &[&fragments.concat()]);
        for part in parts.iter().filter(|part| part.kind == PartKind::Text) {
            let marker = format.markers().find(|(marker, _)| part.text.expose().contains(marker));
            prop_assert!(marker.is_none(), "{}", part.text.expose());
        }
    }

    #[test]
    fn each_name_is_a_tools_and_has_arguments(answer in answer(), format in prop::sample::select(ALL.to_vec())) {
        let parts = read_by(parser(format, Opening::Free), &[&answer]);
        let parts: Vec<_> = parts.iter().collect();
        for (at, part) in parts.iter().enumerate() {
            let next = parts.get(at + 1).map(|next| next.kind);
            prop_assert!(!part.text.is_empty());
            if part.kind == PartKind::CallName {
                prop_assert_eq!(next, Some(PartKind::CallArguments));
                prop_assert!(darkbloom_content::is_tool_name(part.text.expose()));
                let opened = parts[at + 1].text.expose().starts_with('{');
                prop_assert!(opened);
            }
        }
    }

    #[test]
    fn a_plain_models_answer_is_all_text(answer in answer()) {
        prop_assert_eq!(read(PLAIN, &answer), answer);
    }

    #[test]
    fn little_is_held_back(answer in answer(), format in prop::sample::select(ALL.to_vec())) {
        let mut parser = parser(format, Opening::Free);
        for character in answer.chars() {
            parser.push(character.encode_utf8(&mut [0; 4]));
            let held = parser.pending.len() + parser.white.len() + parser.head.len() + parser.again.len();
            prop_assert!(held <= ANSWER_HELD_BYTES_MAX - STOP_BYTES_MAX);
            // None of them grew, which would have left a copy behind.
            prop_assert!(parser.pending.capacity() == MARKER_BYTES_MAX + 4 && parser.white.capacity() == WHITE_BYTES_MAX + 4);
            prop_assert!(parser.head.capacity() == HEAD_BYTES_MAX + 4);
        }
    }
}
