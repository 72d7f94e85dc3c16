//! Answers of each family, whole, cut anywhere, and broken; with markers as letters, as tokens of text and as control
//! tokens.

use darkbloom_content::{CALL_ARGUMENTS_BYTES_MAX, CALLS_MAX, PART_HEAD_BYTES_MAX};
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
const WAYS: [Written; 3] = [Written::Letters, Written::Whole, Written::Control];

fn reading(format: AnswerFormat, written: Written) -> Reading {
    let marks = format.markers().map(|(text, marker)| Mark { text, marker, written }).collect();
    Reading { format, marks, one_call: false }
}

fn offering(reading: Reading, tools: &[&str], stops: &[&str], opening: Opening) -> AnswerParser {
    let stops: Vec<SecretString> = stops.iter().map(|stop| SecretString::from(*stop)).collect();
    AnswerParser::new(reading, tools.iter().map(|tool| SecretString::from(*tool)), &stops, opening)
}

fn parser(format: AnswerFormat, written: Written, opening: Opening) -> AnswerParser {
    offering(reading(format, written), &["f", "g", "get-it_2", "function"], &[], opening)
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

/// What comes of an answer in which the markers are written like this, in pieces.
fn read_by(mut parser: AnswerParser, pieces: &[&str]) -> AnswerParts {
    let mut parts = AnswerParts::default();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(letter) = rest.chars().next() {
            let fits = |mark: &Mark| mark.written != Written::Letters && rest.starts_with(mark.text);
            let length = match parser.marks.iter().position(fits) {
                Some(at) => {
                    let length = parser.marks[at].text.len();
                    parts.append(&parser.mark(u8::try_from(at).unwrap()));
                    length
                }
                None => {
                    parts.append(&parser.push(&rest[..letter.len_utf8()]));
                    letter.len_utf8()
                }
            };
            rest = &rest[length..];
        }
    }
    parts.append(&parser.finish());
    parts
}

fn read_as(format: AnswerFormat, written: Written, answer: &str) -> String {
    shown(&read_by(parser(format, written, Opening::Free), &[answer]))
}

/// With markers as letters.
fn read(format: AnswerFormat, answer: &str) -> String {
    read_as(format, Written::Letters, answer)
}

/// With markers in each way.
fn reads(format: AnswerFormat, answer: &str) -> [String; 3] {
    WAYS.map(|written| read_as(format, written, answer))
}

fn thrice(text: &str) -> [String; 3] {
    [text, text, text].map(str::to_owned)
}

#[test]
fn hermes_calls_and_thoughts_are_told_from_text() {
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}x\\\"\", \"b\": [1, {}]}}\n</tool_call>";
    let said = "@f:{\"a\": \"}x\\\"\", \"b\": [1, {}]}@";
    assert_eq!(reads(QWEN, call), thrice(said));
    assert_eq!(
        reads(QWEN, &format!("<think>\nhm <b>\n</think>\n\nI look.\n{call}\n{call}")),
        thrice(&format!("(hm <b>)I look.{said}{said}"))
    );
    assert_eq!(reads(QWEN, " a < b\n"), thrice(" a < b\n"));
    for written in WAYS {
        let thinking = || parser(QWEN, written, Opening::Reasoning);
        assert_eq!(shown(&read_by(thinking(), &["\nso\n</think>\n\nit is"])), "(so)it is");
        assert_eq!(shown(&read_by(thinking(), &["so it"])), "(so it)");
        assert_eq!(shown(&read_by(thinking(), &["\n<think>\nso</think>it is"])), "(so)it is");
    }
    // Nothing is called in thought, unless a control token says so.
    let thought = format!("<think>hm {call}</think>");
    assert_eq!(reads(QWEN, &thought), [format!("(hm {call})"), format!("(hm {call})"), format!("(hm){said}")]);
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
    let python = "<|python_tag|>print(1)";
    assert_eq!(reads(LLAMA, python), [python, python, "print(1)"]);
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
    assert_eq!(reads(MISTRAL, array), thrice("@f:{}@@g:{\"a\": \"]\"}@"));
    assert_eq!(reads(MISTRAL, &format!("Well.{array} so")), thrice("Well.@f:{}@@g:{\"a\": \"]\"}@so"));
    assert_eq!(reads(MISTRAL, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}"), thrice("@f:{\"a\": 1}@@g:{}@"));
    let bare = "[TOOL_CALLS]g{}";
    assert_eq!(reads(MISTRAL, bare), [bare, "@g:{}@", "@g:{}@"]);
    assert_eq!(reads(MISTRAL, "[TOOL_CALLS]f[CALL_ID]x9[ARGS]{}"), thrice("@f:{}@"));
    assert_eq!(reads(MISTRAL, "[THINK]hm[/THINK]so [1]"), thrice("(hm)so [1]"));
}

#[test]
fn deepseek_calls_are_fenced_or_not() {
    let old = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n\
               <｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    assert_eq!(reads(DEEPSEEK, old), thrice("@f:{\"a\": 1}@@g:{}@"));
    let new = "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>\
               <｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let said = "(hm)So.@f:{\"a\": 1}@@function:{}@";
    assert_eq!(reads(DEEPSEEK, &format!("<think>\nhm\n</think>\n{new}")), thrice(said));
}

#[test]
fn harmony_messages_are_told_apart_by_their_heads() {
    let answer = "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.\
                  <|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>";
    assert_eq!(reads(HARMONY, answer), thrice("(They ask.)I look.@f:{\"a\": 1}@"));
    let same = [
        (" to=functions.f<|channel|>commentary json<|message|> {}<|call|>", "@f:{}@"),
        ("<|channel|>final<|message|>It is 7.<|return|>", "It is 7."),
        ("Just so.", "Just so."),
        ("t", "t"),
        ("<|channel|>commentary to=browser.search<|message|>{}<|call|>", "{}"),
        ("<|channel|>commentary to=functions.nobodys<|message|>{}<|call|>", "{}"),
        ("<|channel|>commentary to=functions.f<|message|>none<|call|>", "none"),
        ("<|channel|>final", ""),
        (" to=functions.", ""),
    ];
    for (answer, said) in same {
        assert_eq!(reads(HARMONY, answer), thrice(said), "{answer}");
    }
}

#[test]
fn what_is_no_call_is_text_with_whatever_anybody_could_write() {
    let same = [
        "<tool_call>\nnot json\n</tool_call>",
        "Call it by <tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"nobodys\", \"arguments\": {}}</tool_call>\n",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"arguments\": {}, \"name\": \"nobodys\"}</tool_call>",
        "<tool_call>{\"arguments\": {\"a\": \"中\"}, \"nam",
        "<tool_call>{\"name\": \"f",
        "<tool_call>",
    ];
    for text in same {
        let bare = text.replace("<tool_call>", "").replace("</tool_call>", "");
        assert_eq!(reads(QWEN, text), [text.to_owned(), text.to_owned(), bare], "{text}");
    }
    for text in ["[TOOL_CALLS]so it is", "[TOOL_CALLS][1, 2]", "[TOOL_CALLS]nobodys[ARGS]{}"] {
        let bare = text.replace("[TOOL_CALLS]", "").replace("[ARGS]", "");
        assert_eq!(reads(MISTRAL, text), [text.to_owned(), text.to_owned(), bare], "{text}");
    }
    let early = "<tool_call>{\"arguments\": {\"a\": \"<think>\"}, \"nam";
    assert_eq!(reads(QWEN, early)[..2], [early, early]);
    let text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>so<｜tool▁sep｜>it is";
    assert_eq!(reads(DEEPSEEK, text), [text, text, "soit is"]);
    assert_eq!(reads(QWEN, "<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>")[2], "@f:{}@");
}

#[test]
fn broken_arguments_end_and_what_follows_is_text() {
    let call = |rest: &str| format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": {rest}");
    let ends = "<b}}</tool_call>";
    let said = format!("@f:{{\"a\": @{ends}");
    assert_eq!(reads(QWEN, &call(ends)), [said.clone(), said, "@f:{\"a\": @<b}}".to_owned()]);
    assert_eq!(reads(QWEN, &call("1</tool_call>x")), thrice("@f:{\"a\": 1@x"));
    assert_eq!(reads(QWEN, &call("]}}")), thrice("@f:{\"a\": @]}}"));
    // Nothing is swallowed behind whole ones either, however it goes on.
    let whole = |rest: &str| format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{}}{rest}");
    let long = format!(", \"{}", "a".repeat(2 * HEAD_BYTES_MAX));
    for rest in ["The end, it is.", ", \"so it is", ", \"中\"}", ", so: it is!", "\"", &long] {
        assert_eq!(reads(QWEN, &whole(rest)), thrice(&format!("@f:{{}}@{rest}")), "{rest}");
    }
    assert_eq!(reads(QWEN, &whole(", \"id\": \"7\"}\n</tool_call> so")), thrice("@f:{}@so"));
}

#[test]
fn hermes_arguments_come_first_or_as_a_text_or_not_at_all() {
    let call = |object: &str| reads(QWEN, &format!("<tool_call>\n{object}\n</tool_call>"));
    for (object, said) in [
        ("{\"arguments\": {\"a\": [\"}\", 中]}, \"name\": \"f\"}", None),
        ("{\"arguments\": {\"a\": [\"} 中\", {}]}, \"name\": \"f\"}", Some("@f:{\"a\": [\"} 中\", {}]}@")),
        ("{\"type\": \"function\", \"parameters\": {\"a\": 1} , \"name\": \"g\" }", Some("@g:{\"a\": 1}@")),
        ("{\"arguments\": null, \"name\": \"f\"}", Some("@f:{}@")),
        ("{\"name\": \"f\", \"arguments\": null}", Some("@f:{}@")),
        ("{\"name\": \"f\"}", Some("@f:{}@")),
        ("{\"name\": \"f\", \"arguments\": \"\"}", Some("@f:{}@")),
        (
            "{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"\\u4e2d \\\\\\\"}\\\"}\"}",
            Some("@f:{\"a\": \"中 \\\"}\"}@"),
        ),
        ("{\"name\": \"f\", \"arguments\": \"none\"}", None),
    ] {
        match said {
            Some(said) => assert_eq!(call(object), thrice(said), "{object}"),
            None => assert!(call(object).iter().all(|read| read.contains(object)), "{object}"),
        }
    }
    let array = "[TOOL_CALLS][{\"name\": \"f\"}, {\"arguments\": {\"a\": 1}, \"name\": \"g\"}, {\"name\": \"f\"}]";
    assert_eq!(reads(MISTRAL, array), thrice("@f:{}@@g:{\"a\": 1}@@f:{}@"));
    // A text that breaks off within an escape, or is none.
    let quoted = |rest: &str| format!("<tool_call>{{\"name\": \"f\", \"arguments\": \"{{{rest}");
    for rest in ["\\u4e2", "\\x", "\"}", "}x"] {
        let arguments = if rest == "}x" { "{}" } else { "{" };
        let text = if rest == "}x" { "x" } else { rest };
        assert_eq!(reads(QWEN, &quoted(rest)), thrice(&format!("@f:{arguments}@{text}")), "{rest}");
    }
}

#[test]
fn a_word_about_a_marker_is_text() {
    for text in [
        "Models think between <think> and </think>.",
        "They close calls by </tool_call>, so",
        "A literal </think> is text",
    ] {
        assert_eq!(reads(QWEN, text)[..2], [text, text], "{text}");
    }
    assert_eq!(reads(MISTRAL, "Then [ARGS] and [CALL_ID], [THINK] too")[0], "Then [ARGS] and [CALL_ID], [THINK] too");
    // In thought as well, and where arguments have it in a string.
    assert_eq!(
        reads(QWEN, "<think>as <think> says, <tool_call></think>x")[..2],
        thrice("(as <think> says, <tool_call>)x")[..2]
    );
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"}</tool_call>\"}}</tool_call>x";
    assert_eq!(reads(QWEN, call)[..2], thrice("@f:{\"a\": \"}</tool_call>\"}@x")[..2]);
    // Letters are letters where the marker is a token.
    for written in [Written::Whole, Written::Control] {
        let mut parser = parser(QWEN, written, Opening::Free);
        let text = "<think>so</think><tool_call>{\"name\": \"f\", \"arguments\": {}}";
        let mut parts = parser.push(text);
        parts.append(&parser.finish());
        assert_eq!(shown(&parts), text);
    }
}

#[test]
fn a_control_token_ends_what_it_stands_in_and_is_never_shown() {
    let read = |format, answer: &str| read_as(format, Written::Control, answer);
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b";
    assert_eq!(read(QWEN, &format!("{call}</tool_call>so")), "@f:{\"a\": \"b@so");
    assert_eq!(read(QWEN, &format!("{call}<think>so</think>it is")), "@f:{\"a\": \"b@(so)it is");
    assert_eq!(read(QWEN, &format!("{call}{call}")), "@f:{\"a\": \"b@@f:{\"a\": \"b@");
    assert_eq!(read(QWEN, "I say <think>hm</think> so"), "I say(hm)so");
    assert_eq!(read(QWEN, "a</tool_call>b</think>c"), "abc");
    assert_eq!(read(MISTRAL, "[THINK]a[ARGS]b[THINK]c[TOOL_CALLS]f[ARGS]{}"), "(abc)@f:{}@");
}

#[test]
fn a_request_without_tools_has_no_calls() {
    let none = |format, written| offering(reading(format, written), &[], &[], Opening::Free);
    let call = "{\"name\": \"f\", \"parameters\": {}}";
    let marked = format!("<tool_call>{call}</tool_call>");
    let fenced = format!("```json\n{call}\n```");
    let mistral = "[TOOL_CALLS]f[ARGS]{}";
    for (format, answer, control) in [
        (QWEN, &*marked, call),
        (LLAMA, call, call),
        (GEMMA, &fenced, &fenced),
        (MISTRAL, mistral, "f{}"),
        (PLAIN, "<tool_call>", "<tool_call>"),
    ] {
        let read = WAYS.map(|written| shown(&read_by(none(format, written), &[answer])));
        assert_eq!(read, [answer, answer, control]);
    }
    let message = "<|channel|>commentary to=functions.f<|message|>{}<|call|>";
    assert_eq!(WAYS.map(|written| shown(&read_by(none(HARMONY, written), &[message]))), thrice("{}"));
}

#[test]
fn white_space_before_a_call_is_looked_at_for_stop_strings() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    for written in WAYS {
        let stopping = |stops: &[&str], answer: &str| {
            let mut parser = offering(reading(QWEN, written), &["f"], stops, Opening::Free);
            let mut read = shown(&parser.push(answer.split('<').next().unwrap_or_default()));
            let before = parser.stopped();
            let rest = &answer[answer.find('<').unwrap_or(answer.len())..];
            let again = read_by(parser, &[rest]);
            read += &shown(&again);
            (read, before)
        };
        assert_eq!(stopping(&["\n\n"], &format!("So:\n\n{call}")), ("So:".to_owned(), true));
        assert_eq!(stopping(&["\n\n"], &format!("So: \n{call}")), ("So:@f:{}@".to_owned(), false));
        assert_eq!(stopping(&["\n\n"], "So \n\nit is"), ("So ".to_owned(), true));
        // What stands at the beginning belongs to no stretch of text.
        assert_eq!(stopping(&["\n\n"], &format!("{call}\n\nSo.")), ("@f:{}@So.".to_owned(), false));
        // Nor does a stop string go on behind a call.
        assert_eq!(stopping(&["a.b"], &format!("a.{call}b")), ("a.@f:{}@b".to_owned(), false));
    }
}

#[test]
fn a_stop_string_in_what_was_held_back_ends_the_answer() {
    let mut parser = offering(reading(QWEN, Written::Control), &["f"], &["na"], Opening::Free);
    let call = parser.marks.iter().position(|mark| mark.marker == Marker::Call).unwrap();
    assert!(parser.mark(u8::try_from(call).unwrap()).is_empty());
    assert!(parser.push("{\"name\": \"f").is_empty());
    assert_eq!(shown(&parser.finish()), "{\"");
    assert!(parser.stopped());
}

#[test]
fn the_only_call_that_an_answer_may_have_ends_it() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1";
    for written in WAYS {
        for rest in ["}", "}}</tool_call>\nand", "<", "</tool_call>"] {
            let reading = Reading { one_call: true, ..reading(QWEN, written) };
            let parser = offering(reading, &["f"], &[], Opening::Free);
            let end = if rest.starts_with('}') { "}" } else { "" };
            let read = shown(&read_by(parser, &["So. ", call, rest, call, "}}"]));
            assert_eq!(read, format!("So.@f:{{\"a\": 1{end}@"), "{rest}");
        }
    }
}

#[test]
fn nothing_is_read_without_a_limit() {
    let head = |name: &str| format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{}}}}</tool_call>");
    let longest = "n".repeat(64);
    let offered = offering(reading(QWEN, Written::Letters), &[&longest], &[], Opening::Free);
    assert!(shown(&read_by(offered, &[&head(&longest)])).starts_with("@nnn"));
    let long = head(&"n".repeat(65));
    assert_eq!(read(QWEN, &long), long);
    let spaced = format!("<tool_call>{}{{\"name\"", " ".repeat(1_000));
    assert_eq!(read(QWEN, &spaced), spaced);

    let early = |length: usize| {
        format!("<tool_call>{{\"arguments\": {{\"a\": \"{}\"}}, \"name\": \"f\"}}</tool_call>", "é".repeat(length))
    };
    assert!(read(QWEN, &early(EARLY_BYTES_MAX / 2)).starts_with("@f:{\"a\": \"é"));
    assert_eq!(read(QWEN, &early(EARLY_BYTES_MAX)), early(EARLY_BYTES_MAX));

    let many = read(QWEN, &head("f").repeat(CALLS_MAX + 1));
    assert_eq!(many.matches("@f:{}@").count(), CALLS_MAX);
    assert!(many.ends_with("@<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"));

    let deep = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": {}", "[".repeat(100));
    assert_eq!(read(QWEN, &deep), format!("@f:{{\"a\": {}@{}", "[".repeat(63), "[".repeat(37)));

    let big =
        format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"a\": \"{}", "é".repeat(CALL_ARGUMENTS_BYTES_MAX));
    let parts = read_by(parser(QWEN, Written::Letters, Opening::Free), &[&big]);
    let arguments = parts.iter().find(|part| part.kind == PartKind::CallArguments).unwrap();
    assert!((CALL_ARGUMENTS_BYTES_MAX - 1..=CALL_ARGUMENTS_BYTES_MAX).contains(&arguments.text.len()));

    let white = read(QWEN, &format!("a{}b", "\n".repeat(1_000)));
    assert_eq!(white.len(), 1_002);
}

#[test]
fn text_is_handed_on_as_soon_as_it_can_be_nothing_else() {
    let mut parser = parser(QWEN, Written::Letters, Opening::Free);
    assert_eq!(shown(&parser.push("It is <")), "It is");
    assert_eq!(shown(&parser.push("b> or <tool")), " <b> or");
    assert_eq!(shown(&parser.push("_call>{\"name\": \"f\", \"arguments\": {")), "@f:{@");
    assert_eq!(shown(&parser.push("\"a\"")), "\"a\"@");
    let mut parser = offering(reading(QWEN, Written::Letters), &["f"], &[], Opening::Reasoning);
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
        "f{}",
        "function<｜tool▁sep｜>f\n```json\n{}\n```",
        "f<｜tool▁sep｜>{}",
        "commentary to=functions.f <|constrain|>json<|message|>{}",
        "assistant<|channel|>final<|message|>",
        "analysis<|message|>",
        "```json\n",
        "```tool_code\n",
        "```",
        "{\"arguments\": {\"a\": \"中\"}, \"name\": \"f\"}",
        "{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"é\\\"}\"}",
        "{\"name\": \"f\", \"arguments\": \"{",
        "{\"name\": \"f\"}",
        ", \"id\": \"7\"}",
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

/// A format, and how its markers are written.
fn way() -> impl Strategy<Value = (AnswerFormat, Written)> {
    (prop::sample::select(ALL.to_vec()), prop::sample::select(WAYS.to_vec()))
}

/// Letters of an answer that stand in no marker and in nothing that a call is written with, and so are said in any case.
fn said(text: &str) -> String {
    let plain =
        ALL.iter().flat_map(|format| format.markers()).fold(text.to_owned(), |text, (it, _)| text.replace(it, ""));
    plain
        .chars()
        .filter(|letter| !letter.is_ascii() && !letter.is_whitespace() && !matches!(letter, '｜' | '▁'))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_cut_gives_the_same_parts(
        answer in answer(),
        (format, written) in way(),
        opening in prop::sample::select(vec![Opening::Free, Opening::Reasoning]),
        stops in prop::sample::select(vec![vec![], vec!["\n\n", "word"], vec!["{", "n 中"]]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let new = || offering(reading(format, written), &["f", "g"], &stops, opening);
        let letter_by_letter = read_by(new(), &[&answer]);
        // What stands between markers that are tokens, in pieces.
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| answer.floor_char_boundary(cut.index(answer.len() + 1))).collect();
        cuts.sort_unstable();
        let (mut parser, mut parts, mut from, mut at) = (new(), AnswerParts::default(), 0, 0);
        while at < answer.len() {
            let fits = |mark: &Mark| written != Written::Letters && answer[at..].starts_with(mark.text);
            if let Some(mark) = parser.marks.iter().position(fits) {
                parts.append(&parser.push(&answer[from..at]));
                at += parser.marks[mark].text.len();
                parts.append(&parser.mark(u8::try_from(mark).unwrap()));
                from = at;
                continue;
            }
            if cuts.contains(&at) {
                parts.append(&parser.push(&answer[from..at]));
                from = at;
            }
            at += answer[at..].chars().next().map_or(0, char::len_utf8);
        }
        parts.append(&parser.push(&answer[from..]));
        parts.append(&parser.finish());
        prop_assert_eq!(shown(&parts), shown(&letter_by_letter));
    }

    #[test]
    fn no_marker_is_ever_shown_as_text(
        // Halves of markers are text, and may meet when a whole one between them is taken out.
        fragments in prop::collection::vec(fragment().prop_filter("a half", |it| !is_half(it)), 0..12),
        format in prop::sample::select(ALL.to_vec()),
    ) {
        let parts = read_by(parser(format, Written::Control, Opening::Free), &[&fragments.concat()]);
        for part in parts.iter() {
            let marker = format.markers().find(|(marker, _)| part.text.expose().contains(marker));
            prop_assert!(marker.is_none(), "{}", part.text.expose());
        }
    }

    #[test]
    fn every_letter_comes_out_once_and_in_order(answer in answer(), (format, written) in way()) {
        // An escape in arguments that are a text becomes a letter.
        prop_assume!(!answer.contains("\\u"));
        let parts = read_by(parser(format, written, Opening::Free), &[&answer]);
        let shown: String = parts.iter().map(|part| part.text.expose()).collect();
        prop_assert_eq!(said(&shown), said(&answer), "{}", shown);
        if written == Written::Whole || format == PLAIN {
            // Nobody hides anything but what a call is written with, and markers where they belong.
            let calls = parts.iter().any(|part| part.kind == PartKind::CallName);
            let thinks = parts.iter().any(|part| part.kind == PartKind::Reasoning);
            let marked = format.markers().any(|(marker, _)| answer.contains(marker));
            prop_assert!(calls || thinks || marked || format == HARMONY || shown == answer, "{}", shown);
        }
    }

    #[test]
    fn a_call_names_a_tool_on_offer_and_has_arguments(answer in answer(), (format, written) in way()) {
        let parts = read_by(offering(reading(format, written), &["f"], &[], Opening::Free), &[&answer]);
        let parts: Vec<_> = parts.iter().collect();
        for (at, part) in parts.iter().enumerate() {
            let next = parts.get(at + 1).map(|next| next.kind);
            prop_assert!(!part.text.is_empty());
            if part.kind == PartKind::CallName {
                prop_assert_eq!(next, Some(PartKind::CallArguments));
                prop_assert_eq!(part.text.expose(), "f");
                let opened = parts[at + 1].text.expose().starts_with('{');
                prop_assert!(opened);
            }
        }
    }

    #[test]
    fn what_parts_take_beside_their_text_is_paid_by_what_is_no_text(answer in answer(), (format, written) in way()) {
        // A provider reckons room by it. There a token counts as much as the longest, 16 bytes at least.
        let tokens = parser(format, written, Opening::Free).marks.iter().filter(|mark| mark.written != Written::Letters)
            .map(|mark| answer.matches(mark.text).count() * 16_usize.saturating_sub(mark.text.len())).sum::<usize>();
        let parts = read_by(parser(format, written, Opening::Free), &[&answer]);
        let heads = PART_HEAD_BYTES_MAX * parts.iter().count().saturating_sub(1);
        prop_assert!(parts.len() + heads <= answer.len() + tokens, "{} from {}", shown(&parts), answer);
    }

    #[test]
    fn a_plain_models_answer_is_all_text(answer in answer()) {
        prop_assert_eq!(read(PLAIN, &answer), answer);
    }

    #[test]
    fn little_is_held_back(answer in answer(), (format, written) in way()) {
        let mut parser = parser(format, written, Opening::Free);
        for letter in answer.chars() {
            parser.push(letter.encode_utf8(&mut [0; 4]));
            let (white, same) = parser.voice.held();
            let held = parser.pending.len() + parser.held + parser.led.map_or(0, |led| led.text.len()) + white;
            prop_assert!(parser.again.is_empty() && held <= ANSWER_HELD_BYTES_MAX - STOP_BYTES_MAX);
            // None of them grew, which would have left a copy behind; nor in a copy.
            for parser in [&parser, &parser.clone()] {
                prop_assert!(same && parser.pending.capacity() == MARKER_BYTES_MAX + 4);
                prop_assert_eq!([parser.head.capacity(), parser.again.capacity()], [UNITS_MAX; 2]);
            }
            let ended = parser.clone().finish();
            prop_assert!(ended.len() <= ANSWER_HELD_BYTES_MAX);
        }
    }
}
