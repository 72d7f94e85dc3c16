//! What grammars allow, walked at random: whatever they let through is read back and compared with the schema.

use std::path::Path;

use darkbloom_content::{AnswerParts, AnswerShape, Message, PartKind, Role, Tool, ToolChoice};
use darkbloom_text::{AnswerAssembler, TextPack};
use serde_json::{Value, json};

use super::*;

#[path = "../../../darkbloom-text/tests/support/families.rs"]
mod families;
#[path = "../../../darkbloom-text/tests/support/gguf_writer.rs"]
mod gguf_writer;

use families::{DEEPSEEK, FAMILIES, HARMONY, MISTRAL, QWEN};

/// Most tokens of a walk; none of the schemas here allows as many.
const WALK_MAX: usize = 600;

fn shipped() -> TextModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    TextModel::new(TextPack::from_gguf(std::io::BufReader::new(std::fs::File::open(path).unwrap())).unwrap()).unwrap()
}

fn asked(shape: AnswerShape) -> ChatRequest {
    ChatRequest { shape, ..ChatRequest::new(vec![Message::new(Role::User, "How is it?")]) }
}

fn of_schema(schema: &Value) -> ChatRequest {
    asked(AnswerShape::Json(schema.to_string().into()))
}

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "place": {"enum": ["Lima", "Łódź", "x\"y\\z"]},
            "days": {"type": "integer", "minimum": -3, "maximum": 120},
            "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,4}$"}, "maxItems": 3},
            "near": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
        "required": ["place", "days"],
        "additionalProperties": false,
    })
}

fn is_weather(value: &Value) -> bool {
    let Some(members) = value.as_object() else { return false };
    let known = members.keys().all(|key| matches!(&**key, "place" | "days" | "tags" | "near"));
    let tag = |tag: &Value| {
        tag.as_str().is_some_and(|tag| (2..=4).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_lowercase()))
    };
    known
        && ["Lima", "Łódź", "x\"y\\z"].contains(&value["place"].as_str().unwrap_or_default())
        && value["days"].as_f64().is_some_and(|days| days.fract() == 0.0 && (-3.0..=120.0).contains(&days))
        && value
            .get("tags")
            .is_none_or(|tags| tags.as_array().is_some_and(|tags| tags.len() <= 3 && tags.iter().all(tag)))
        && value.get("near").is_none_or(|near| near.is_null() || near.is_boolean())
}

fn tools() -> Vec<Tool> {
    let tool = |name: &str, parameters: Value| Tool {
        name: name.into(),
        description: "Does it.".into(),
        parameters: parameters.to_string().into(),
    };
    let clock = json!({"type": "object", "properties": {"zone": {"enum": ["utc", "lima"]}}, "required": ["zone"], "additionalProperties": false});
    vec![tool("tell_weather", weather()), tool("tell-time", clock)]
}

fn calling(choice: ToolChoice) -> ChatRequest {
    ChatRequest { tools: tools(), choice, ..asked(AnswerShape::Free) }
}

/// A number from a seed: one step of SplitMix64.
fn number(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Walks from this beginning through what a guide allows until an end token.
fn walk(text: &TextModel, request: &ChatRequest, begin: &[TokenId], seed: u64) -> Vec<TokenId> {
    let guide = Guides::default().guide(text, request, Opening::Free).unwrap().expect("the answer is not free");
    assert_eq!(guide.masks(&[], begin).len(), begin.len() + 1, "it may begin like this");
    let (mut answer, mut seed) = (begin.to_vec(), seed);
    while answer.len() < WALK_MAX {
        let mask = guide.masks(&answer, &[]).pop().unwrap().unwrap();
        let count = u32::try_from(text.vocabulary()).unwrap();
        let allowed: Vec<_> = (0..count).map(TokenId).filter(|token| mask.allows(*token)).collect();
        let token = allowed[usize::try_from(number(&mut seed) % allowed.len() as u64).unwrap()];
        if text.end_tokens().contains(&token) {
            return answer;
        }
        answer.push(token);
    }
    panic!("the walk does not end");
}

fn parts(text: &TextModel, request: &ChatRequest, answer: &[TokenId], opening: Opening) -> AnswerParts {
    let mut assembler = AnswerAssembler::new(text, request, opening);
    let mut parts = AnswerParts::default();
    for token in answer {
        parts.append(&assembler.push(*token).0);
    }
    parts.append(&assembler.finish().parts);
    parts
}

/// The calls of an answer that has nothing else, each with its name and arguments.
fn calls(parts: &AnswerParts) -> Vec<(String, Value)> {
    let mut calls = Vec::new();
    for part in parts.iter() {
        match part.kind {
            PartKind::CallName => calls.push((part.text.expose().to_owned(), Value::Null)),
            PartKind::CallArguments => calls.last_mut().unwrap().1 = serde_json::from_str(part.text.expose()).unwrap(),
            PartKind::Text => assert!(part.text.expose().trim().is_empty(), "{:?}", part.text.expose()),
            PartKind::Reasoning => {}
        }
    }
    calls
}

#[test]
fn every_way_through_a_schema_is_json_that_fits_it() {
    let (text, request) = (shipped(), of_schema(&weather()));
    let mut different = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let said = parts(&text, &request, &walk(&text, &request, &[], seed), Opening::Free);
        let said: String = said.iter().map(|part| part.text.expose()).collect();
        assert!(is_weather(&serde_json::from_str(&said).unwrap()), "{said}");
        different.insert(said);
    }
    assert!(different.len() > 50, "the walks are not one and the same");
}

#[test]
fn what_does_not_fit_is_not_allowed_and_the_end_only_at_the_end() {
    let text = shipped();
    let guide = Guides::default().guide(&text, &of_schema(&weather()), Opening::Free).unwrap().unwrap();
    let end = text.end_tokens()[0];
    let good = text.text_tokens(r#"{"place": "Lima", "days": 12}"#);
    for at in 0..good.len() {
        let masks = guide.masks(&good.expose()[..at], &good.expose()[at..]);
        assert_eq!(masks.len(), good.len() - at + 1, "all of it is allowed");
        let ends: Vec<_> = masks.iter().map(|mask| mask.as_ref().unwrap().allows(end)).collect();
        assert_eq!(ends.iter().filter(|ends| **ends).count(), 1);
        assert_eq!(ends.last(), Some(&true));
    }
    for wrong in [r#"{"place": "Rome""#, r#"{"days": 500"#, "Lima", r#"{"place": "Lima"}"#, r#"{"place": "Lima", "x""#]
    {
        let tokens = text.text_tokens(wrong);
        let masks = guide.masks(&[], tokens.expose());
        assert!(masks.len() <= tokens.len(), "{wrong} is allowed");
        assert!(masks.iter().all(Result::is_ok));
    }
    // Control tokens are no text.
    let masks = guide.masks(text.text_tokens(r#"{"place": ""#).expose(), &[]);
    let allowed = text.control_tokens().filter(|token| masks[0].as_ref().unwrap().allows(*token)).count();
    assert_eq!(allowed, 0);
}

#[test]
fn a_guide_goes_back_where_guesses_were_wrong() {
    let text = shipped();
    let of = |request: &ChatRequest| Guides::default().guide(&text, request, Opening::Free).unwrap().unwrap();
    let request = of_schema(&weather());
    let answer = text.text_tokens(r#"{"place": "Lima", "days": 12, "tags": ["ab"], "near": null}"#);
    let answer = answer.expose();
    let back_and_forth = of(&request);
    let others = text.text_tokens(r#"7, "near": true}"#);
    for at in 0..answer.len() {
        let once = of(&request).masks(&answer[..at], &[]);
        // Guesses at another way, then at this one, then none.
        drop(back_and_forth.masks(&answer[..at], others.expose()));
        drop(back_and_forth.masks(&answer[..at], &answer[at..]));
        assert!(back_and_forth.masks(&answer[..at], &[]) == once, "the mask after {at} tokens");
    }
}

/// How a family's answer begins that does not think first: what a model thinks is long when it is drawn at random.
fn calling_begins(family: &families::Family, text: &TextModel) -> Vec<TokenId> {
    let (mark, words) = match family.name {
        "qwen" => (None, "<tool_call>"),
        "mistral" => (Some("[TOOL_CALLS]"), ""),
        "deepseek" => (Some("<｜tool▁calls▁begin｜>"), ""),
        "gpt-oss" => (Some("<|channel|>"), "comm"),
        _ => (None, ""),
    };
    let mark = mark.map(|mark| text.special_token(mark).unwrap());
    mark.into_iter().chain(text.text_tokens(words).expose().iter().copied()).collect()
}

#[test]
fn each_family_calls_a_tool_as_its_answers_are_read() {
    for family in FAMILIES {
        let text = family.model(true);
        let begin = calling_begins(family, &text);
        for seed in 0..12 {
            for choice in [ToolChoice::Required { once: true }, ToolChoice::Named("tell-time".into())] {
                let request = calling(choice.clone());
                let answer = walk(&text, &request, &begin, seed);
                let made = calls(&parts(&text, &request, &answer, Opening::Free));
                assert_eq!(made.len(), 1, "{}", family.name);
                check_call(&made[0]);
                assert!(choice == ToolChoice::Required { once: true } || made[0].0 == "tell-time", "{}", family.name);
            }
        }
    }
}

fn check_call((name, arguments): &(String, Value)) {
    match &**name {
        "tell_weather" => assert!(is_weather(arguments), "{arguments}"),
        "tell-time" => assert!(["utc", "lima"].contains(&arguments["zone"].as_str().unwrap()), "{arguments}"),
        other => panic!("there is no tool {other}"),
    }
}

#[test]
fn several_calls_come_where_a_format_has_room_for_them() {
    let most = |family: &families::Family| {
        let (text, request) = (family.model(true), calling(ToolChoice::Required { once: false }));
        let walks = (0..10).map(|seed| walk(&text, &request, &calling_begins(family, &text), seed));
        let made: Vec<_> = walks.map(|walk| calls(&parts(&text, &request, &walk, Opening::Free))).collect();
        made.iter().flatten().for_each(check_call);
        made.iter().map(Vec::len).max().unwrap()
    };
    assert!(most(&MISTRAL) > 1 && most(&DEEPSEEK) > 1);
}

#[test]
fn what_a_model_thinks_first_is_free() {
    let (text, request) = (QWEN.model(true), of_schema(&weather()));
    let json = r#"{"place": "Lima", "days": 3}"#;
    for (opening, before, free) in [
        (Opening::Reasoning, "Let me see. {\"place\": 1}\n</think>\n\n", true),
        (Opening::Free, "<think>\nHm.\n</think>\n\n", true),
        (Opening::Free, "", true),
        (Opening::Free, "Let me see.</think>", false),
        (Opening::Reasoning, "Hm.</think> So: ", false),
    ] {
        let guide = Guides::default().guide(&text, &request, opening).unwrap().unwrap();
        let answer = text.text_tokens(&format!("{before}{json}"));
        let masks = guide.masks(&[], answer.expose());
        assert_eq!(masks.len() == answer.len() + 1, free, "{before}");
        if free {
            let last = masks.last().unwrap().as_ref().unwrap();
            assert!(text.end_tokens().iter().any(|end| last.allows(*end)));
            let said = parts(&text, &request, answer.expose(), opening);
            let said: Vec<_> = said.iter().filter(|part| part.kind == PartKind::Text).collect();
            assert_eq!(said.len(), 1);
            assert_eq!(said[0].text.expose(), json);
        }
    }
}

#[test]
fn gpt_oss_thinks_and_then_answers_in_its_channels() {
    let text = HARMONY.model(true);
    let mark = |mark: &str| text.special_token(mark).unwrap();
    let mut answer = Vec::new();
    let mut say = |begin: &[TokenId], words: &str| {
        answer.extend(begin);
        answer.extend(text.text_tokens(words).expose());
    };
    say(&[mark("<|channel|>")], "analysis");
    say(&[mark("<|message|>")], "I look.");
    say(&[mark("<|end|>"), mark("<|start|>")], "assistant");
    say(&[mark("<|channel|>")], "final");
    say(&[mark("<|message|>")], r#"{"place": "Lima", "days": 3}"#);
    let request = of_schema(&weather());
    let guide = Guides::default().guide(&text, &request, Opening::Free).unwrap().unwrap();
    let masks = guide.masks(&[], &answer);
    assert_eq!(masks.len(), answer.len() + 1);
    assert!(masks.iter().all(Result::is_ok));
    let letters = HARMONY.model(false);
    let fault = Guides::default().guide(&letters, &request, Opening::Free).unwrap_err();
    assert_eq!(fault, GuideFault::Calls);
}

#[test]
fn schemas_that_cannot_be_followed_are_refused_for_their_reason() {
    let text = shipped();
    let guides = Guides::default();
    let nested = |levels: usize, base: &str| format!("{}{base}{}", "{\"items\": ".repeat(levels), "}".repeat(levels));
    let many = |schema: Value, count: usize| json!({"allOf": vec![schema; count]}).to_string();
    let pattern = |at: usize| json!({"type": "string", "pattern": format!("^.*a.{{{at}}}b.*$")});
    use SchemaFault as F;
    for (schema, fault) in [
        ("{".to_owned(), F::NotJson),
        ("[1]".to_owned(), F::NotJson),
        ("true".to_owned(), F::NotJson),
        (nested(60, "1"), F::Invalid),
        (nested(100, "{}"), F::TooDeep),
        (nested(1_000, "{}"), F::NotJson),
        (json!({"enum": vec![0; 5_000]}).to_string(), F::TooMany("values", 4_096)),
        (json!({"not": {"type": "string"}}).to_string(), F::Keyword("not")),
        (json!({"properties": {"a": {"uniqueItems": true}}}).to_string(), F::Keyword("uniqueItems")),
        (json!({"$ref": "https://example.org/s.json"}).to_string(), F::Reference),
        (json!({"$ref": "#"}).to_string(), F::Unsatisfiable),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}).to_string(), F::Unsatisfiable),
        (json!({"enum": []}).to_string(), F::Unsatisfiable),
        (json!({"allOf": [{"type": "string"}, {"type": "integer"}]}).to_string(), F::Unsatisfiable),
        (json!({"type": "integer", "minimum": 5, "maximum": 4}).to_string(), F::Unsatisfiable),
        (json!({"type": "object", "required": ["a"], "additionalProperties": false}).to_string(), F::Unsatisfiable),
        (json!({"type": "string", "pattern": "^[a-z]{3}$", "minLength": 9}).to_string(), F::Unsatisfiable),
        (json!({"type": "string", "pattern": "(?=a)b"}).to_string(), F::Pattern),
        (json!({"type": "string", "pattern": "(".repeat(20_000)}).to_string(), F::Pattern),
        (json!({"type": "string", "format": "wombat"}).to_string(), F::Format),
        (json!({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 3}]}).to_string(), F::OneOf),
        (json!({"type": "wombat"}).to_string(), F::Invalid),
        (json!({"type": "integer", "multipleOf": 9_999_991}).to_string(), F::Multiple),
        (json!({"type": "number", "multipleOf": 0.000_123_456_7}).to_string(), F::Multiple),
        (many(pattern(3), 400), F::TooMany("patterns and formats, where it says several things about one value", 8)),
        (
            json!({"allOf": [{"type": "integer", "multipleOf": 9_973}, {"type": "integer", "multipleOf": 9_967}]}).to_string(),
            F::TooMany("`multipleOf`, where it says several things about one value", 1),
        ),
        (
            json!({"patternProperties": (0..300).map(|at| (format!("^a{at}$"), json!({}))).collect::<serde_json::Map<_, _>>()}).to_string(),
            F::TooMany("members of one `patternProperties`", 16),
        ),
        // What it takes shows only when it is tried: the parser's own budgets end it.
        (json!({"allOf": (0..8).map(pattern).collect::<Vec<_>>()}).to_string(), F::TooComplex),
        (json!({"type": "string", "pattern": "(.*a.{500})*(.*b.{300})*", "minLength": 700}).to_string(), F::TooComplex),
        (laughs(30), F::TooComplex),
    ] {
        let request = asked(AnswerShape::Json(schema.as_str().into()));
        let found = guides.guide(&text, &request, Opening::Free).map(|_| ()).unwrap_err();
        assert_eq!(found, GuideFault::Schema(fault), "{}", &schema[..schema.len().min(200)]);
        let refusal = Refusal::from(found);
        assert_eq!(refusal.code, RefusalCode::InvalidRequest);
        assert!(!refusal.detail.contains("wombat") && !refusal.detail.contains("example.org"), "{}", refusal.detail);
    }
    assert_eq!(guides.compiling.load(Ordering::Relaxed), 0, "nothing is left behind");
}

/// Each definition says two things about two of the next: without a limit 4³⁰ intersections.
fn laughs(levels: usize) -> String {
    let definition = |level: usize| {
        let next = json!({"$ref": format!("#/$defs/a{}", level + 1)});
        json!({"allOf": [{"type": "array", "prefixItems": [next, next]}, {"type": "array", "prefixItems": [next, next]}]})
    };
    let mut definitions: serde_json::Map<_, _> =
        (0..levels).map(|level| (format!("a{level}"), definition(level))).collect();
    definitions.insert(format!("a{levels}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/a0", "$defs": definitions}).to_string()
}

#[test]
fn hard_schemas_are_followed_within_the_budgets_or_end_by_name() {
    let text = shipped();
    let words: Vec<_> = (0..4_000).map(|word| format!("w{word}x")).collect();
    for schema in [
        json!({"type": "string", "pattern": words.join("|"), "maxLength": 1_000}),
        json!({"type": "string", "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"}),
        json!({"type": "string", "pattern": "^(.*a.{1000}|.*b.{999})*$"}),
        json!({"type": "string", "pattern": "^\\p{L}{1,3000}\\p{N}{1,3000}$"}),
        json!({"type": "string", "minLength": 1_000_000, "maxLength": 100_000_000}),
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}),
        json!({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": false}),
        json!({"type": "object", "properties": (0..1_000).map(|at| (format!("p{at}"), json!({}))).collect::<serde_json::Map<_, _>>()}),
        json!({"type": "integer", "multipleOf": 9_973, "minimum": -1e15, "maximum": 1e15}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/a"}}, {"type": "array", "prefixItems": [{"$ref": "#/$defs/a"}]}, {"type": "string"},
        ]}}}),
    ] {
        let guide = Guides::default().guide(&text, &of_schema(&schema), Opening::Free).unwrap().unwrap();
        let (mut answer, mut seed) = (Vec::new(), 7);
        for _ in 0..200 {
            let mask = match guide.masks(&answer, &[]).pop().unwrap() {
                Ok(mask) => mask,
                Err(fault) => {
                    assert_eq!(fault, GuideError::TooComplex);
                    break;
                }
            };
            let allowed: Vec<_> = (0..u32::try_from(text.vocabulary()).unwrap())
                .map(TokenId)
                .filter(|token| mask.allows(*token))
                .collect();
            let token = allowed[usize::try_from(number(&mut seed) % allowed.len() as u64).unwrap()];
            if text.end_tokens().contains(&token) {
                break;
            }
            answer.push(token);
        }
    }
}

#[test]
fn any_object_is_any_object_and_a_free_answer_has_no_guide() {
    let text = shipped();
    let guides = Guides::default();
    assert!(guides.guide(&text, &asked(AnswerShape::Free), Opening::Free).unwrap().is_none());
    assert!(guides.factory.get().is_none(), "nothing was made for it");
    let guide = guides.guide(&text, &asked(AnswerShape::JsonObject), Opening::Free).unwrap().unwrap();
    for (said, fits) in
        [(r#"{"a": [1, {"b": null}], "c": "d"}"#, true), ("{ \"a\":1 }", true), ("[]", false), ("\"a\"", false)]
    {
        let tokens = text.text_tokens(said);
        assert_eq!(guide.masks(&[], tokens.expose()).len() == tokens.len() + 1, fits, "{said}");
    }
    let white = text.text_tokens(&format!("{{{}", " ".repeat(20)));
    assert!(guide.masks(&[], white.expose()).len() < white.len(), "white space has an end");
}
