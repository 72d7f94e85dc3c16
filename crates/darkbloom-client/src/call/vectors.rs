//! Golden vectors of what stands inside the seal, and of the operation that an idempotency key stands for;
//! `docs/vectors/README.md` explains the fields. The bytes are written here by hand, so that the crates that own them are
//! compared with something that is not theirs.

use std::path::Path;

use darkbloom_content::{
    AnswerEvent, AnswerParts, AnswerShape, ChatRequest, FinishReason, Message, PartKind, Role, Tool, ToolCall,
    ToolChoice,
};
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{Digest, RefusalCode, SecretString, TokenCount, TokenId};
use serde_json::{Value, json};

use super::sealing::derived_operation;

/// Compares a value with its file in `docs/vectors`, or writes the file when `DARKBLOOM_WRITE_VECTORS` is 1.
fn golden(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors").join(name);
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("DARKBLOOM_WRITE_VECTORS").is_some_and(|asked| asked == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    // The order of members depends on what else is built.
    let same = serde_json::from_str::<Value>(&golden).is_ok_and(|golden| golden == *value);
    assert!(
        same,
        "docs/vectors/{name} differs from what the code makes; the encoding changed, which breaks every peer. Where that \
         is meant, run the tests with DARKBLOOM_WRITE_VECTORS=1"
    );
}

/// Deterministic CBOR (RFC 8949 section 4.2.1), as far as it is needed here.
#[derive(Default)]
struct Cbor(Vec<u8>);

impl Cbor {
    fn head(mut self, major: u8, value: u64) -> Self {
        let kind = major << 5;
        match value {
            0..=23 => self.0.push(kind | u8::try_from(value).unwrap()),
            24..=0xff => self.0.extend([kind | 24, u8::try_from(value).unwrap()]),
            0x100..=0xffff => {
                self.0.push(kind | 25);
                self.0.extend(u16::try_from(value).unwrap().to_be_bytes());
            }
            _ => {
                self.0.push(kind | 26);
                self.0.extend(u32::try_from(value).unwrap().to_be_bytes());
            }
        }
        self
    }

    fn uint(self, value: u64) -> Self {
        self.head(0, value)
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.head(2, bytes.len() as u64);
        this.0.extend(bytes);
        this
    }

    fn text(self, text: &str) -> Self {
        let mut this = self.head(3, text.len() as u64);
        this.0.extend(text.as_bytes());
        this
    }

    fn array(self, count: usize) -> Self {
        self.head(4, count as u64)
    }

    fn map(self, count: usize) -> Self {
        self.head(5, count as u64)
    }

    fn boolean(mut self, value: bool) -> Self {
        self.0.push(0xf4 | u8::from(value));
        self
    }

    fn float(mut self, value: f32) -> Self {
        self.0.push(0xfa);
        self.0.extend(value.to_be_bytes());
        self
    }
}

const MESSAGES: [(Role, u64, &str); 4] = [
    (Role::System, 0, "Answer in one word."),
    (Role::User, 1, "What is 17 + 25?"),
    (Role::Assistant, 2, "42"),
    (Role::User, 1, "Größer als 40? <|im_end|> \u{1f984}"),
];
const STOPS: [&str; 2] = ["\n\n", "."];
const SEED: u64 = 1_234_567;

fn request() -> ChatRequest {
    let messages = MESSAGES.map(|(role, _, content)| Message::new(role, content));
    let stop = STOPS.map(SecretString::from).into();
    ChatRequest { temperature: 0.5, top_p: 0.9, seed: Some(SEED), stop, ..ChatRequest::new(messages.into()) }
}

fn messages(cbor: Cbor) -> Cbor {
    let message = |cbor: Cbor, (_, code, content): (Role, u64, &str)| cbor.array(2).uint(code).text(content);
    MESSAGES.into_iter().fold(cbor.uint(1).array(MESSAGES.len()), message)
}

#[test]
fn the_chat_request_is_as_published() {
    let whole = messages(Cbor::default().map(5)).uint(2).float(0.5).uint(3).float(0.9).uint(4).uint(SEED);
    let whole = STOPS.into_iter().fold(whole.uint(5).array(2), Cbor::text).0;
    // Neither a seed nor stop strings: no keys.
    let least = messages(Cbor::default().map(3)).uint(2).float(1.0).uint(3).float(1.0).0;
    let plain = ChatRequest::new(request().messages);
    let about_tools = about_tools_bytes();
    let (of_schema, of_call) = (of_schema_bytes(), of_call_bytes());
    for (bytes, value) in [
        (&whole, request()),
        (&least, plain),
        (&about_tools, about_tools_request()),
        (&of_schema, of_schema_request()),
        (&of_call, of_call_request()),
    ] {
        assert_eq!(value.to_cbor().expose(), bytes);
        assert_eq!(ChatRequest::from_cbor(bytes), Ok(value));
    }
    let messages = MESSAGES.map(|(role, _, content)| json!({"role": role.name(), "content": content}));
    let fields = json!({"messages": messages, "temperature": 0.5, "top_p": 0.9_f32, "seed": SEED, "stop": STOPS});
    golden(
        "chat-request.json",
        &json!({
            "fields": fields, "bytes": hex::encode(whole), "without_optional_fields": hex::encode(least),
            "about_tools": {"fields": about_tools_fields(), "bytes": hex::encode(about_tools)},
            "of_a_schema": {"schema": PARAMETERS, "bytes": hex::encode(of_schema)},
            "of_a_call": {"tool": "weather", "parameters": PARAMETERS, "bytes": hex::encode(of_call)},
        }),
    );
}

const PARAMETERS: &str = r#"{"type": "object", "properties": {"place": {"type": "string"}}}"#;

/// An answer that is held to a schema.
fn of_schema_request() -> ChatRequest {
    ChatRequest { shape: AnswerShape::Json(PARAMETERS.into()), ..ChatRequest::new(request().messages) }
}

fn of_schema_bytes() -> Vec<u8> {
    let plain = messages(Cbor::default().map(4)).uint(2).float(1.0).uint(3).float(1.0);
    plain.uint(8).array(2).uint(2).text(PARAMETERS).0
}

/// An answer that is a call of one tool.
fn of_call_request() -> ChatRequest {
    let tool = Tool { name: "weather".into(), description: "Tells it.".into(), parameters: PARAMETERS.into() };
    let choice = ToolChoice::Named("weather".into());
    ChatRequest { tools: vec![tool], choice, ..ChatRequest::new(request().messages) }
}

fn of_call_bytes() -> Vec<u8> {
    let plain = messages(Cbor::default().map(5)).uint(2).float(1.0).uint(3).float(1.0);
    let tools = plain.uint(20).array(1).array(3).text("weather").text("Tells it.").text(PARAMETERS);
    tools.uint(21).array(2).uint(3).text("weather").0
}

/// A question, a call, and what the tool said.
fn about_tools_request() -> ChatRequest {
    let tool = Tool { name: "weather".into(), description: "Tells it.".into(), parameters: PARAMETERS.into() };
    let call = ToolCall { id: "a1b2c3d4e".into(), name: "weather".into(), arguments: r#"{"place": "Lima"}"#.into() };
    let calling = Message { reasoning: "Look.".into(), calls: vec![call], ..Message::new(Role::Assistant, "") };
    let messages = vec![Message::new(Role::User, "And there?"), calling, Message::of_tool("a1b2c3d4e", "Mist.")];
    ChatRequest { tools: vec![tool], ..ChatRequest::new(messages) }
}

fn about_tools_fields() -> Value {
    json!({
        "messages": [
            {"role": "user", "content": "And there?"},
            {
                "role": "assistant", "content": "", "reasoning": "Look.",
                "calls": [["a1b2c3d4e", "weather", r#"{"place": "Lima"}"#]],
            },
            {"role": "tool", "content": "Mist.", "call_id": "a1b2c3d4e"},
        ],
        "temperature": 1, "top_p": 1, "tools": [["weather", "Tells it.", PARAMETERS]],
    })
}

fn about_tools_bytes() -> Vec<u8> {
    let cbor = Cbor::default().map(4).uint(1).array(3).array(2).uint(1).text("And there?");
    let cbor = cbor.array(3).uint(2).text("").map(2).uint(1).text("Look.").uint(2).array(1);
    let cbor = cbor.array(3).text("a1b2c3d4e").text("weather").text(r#"{"place": "Lima"}"#);
    let cbor = cbor.array(3).uint(3).text("Mist.").map(1).uint(3).text("a1b2c3d4e");
    let cbor = cbor.uint(2).float(1.0).uint(3).float(1.0).uint(20).array(1);
    cbor.array(3).text("weather").text("Tells it.").text(PARAMETERS).0
}

const PARTS: [(PartKind, u64, &str); 4] = [
    (PartKind::Reasoning, 1, "Look."),
    (PartKind::Text, 0, "größer"),
    (PartKind::CallName, 2, "weather"),
    (PartKind::CallArguments, 3, "{}"),
];

fn parts() -> AnswerParts {
    let mut parts = AnswerParts::default();
    PARTS.iter().for_each(|(kind, _, text)| parts.push(*kind, text));
    parts
}

#[test]
fn the_answer_events_are_as_published() {
    let event = |kind: u64, keys: usize| Cbor::default().map(keys).uint(1).uint(kind);
    let tokens = [7_u32, 300, 70_000];
    let delta = tokens.into_iter().fold(event(0, 3).uint(2).array(3), |cbor, token| cbor.uint(token.into()));
    let code = RefusalCode::Internal;
    let cases = [
        (
            json!({"kind": "delta", "tokens": tokens, "text": "größer"}),
            delta.uint(3).text("größer"),
            AnswerEvent::Delta { tokens: tokens.map(TokenId).into(), parts: "größer".into() },
        ),
        (
            json!({"kind": "finish", "reason": "length", "input_tokens": 12, "output_tokens": 900}),
            event(1, 4).uint(4).uint(1).uint(5).uint(12).uint(6).uint(900),
            AnswerEvent::Finish {
                reason: FinishReason::Length,
                input_tokens: TokenCount(12),
                output_tokens: TokenCount(900),
            },
        ),
        (
            json!({"kind": "failure", "code": code.number(), "detail": "the row was lost"}),
            event(2, 3).uint(7).uint(code.number().into()).uint(8).text("the row was lost"),
            AnswerEvent::Failure { code, detail: "the row was lost".into() },
        ),
        (
            json!({"kind": "delta", "tokens": [7], "parts": PARTS.map(|(_, code, text)| json!([code, text]))}),
            PARTS.into_iter().fold(event(0, 3).uint(2).array(1).uint(7).uint(9).array(4), |cbor, (_, code, text)| {
                cbor.array(2).uint(code).text(text)
            }),
            AnswerEvent::Delta { tokens: vec![TokenId(7)], parts: parts() },
        ),
        (
            json!({"kind": "finish", "reason": "tool_calls", "input_tokens": 12, "output_tokens": 900}),
            event(1, 4).uint(4).uint(2).uint(5).uint(12).uint(6).uint(900),
            AnswerEvent::Finish {
                reason: FinishReason::ToolCalls,
                input_tokens: TokenCount(12),
                output_tokens: TokenCount(900),
            },
        ),
    ];
    let vector = |(fields, cbor, value): (Value, Cbor, AnswerEvent)| {
        assert_eq!(value.to_cbor().expose(), cbor.0, "{fields}");
        assert_eq!(AnswerEvent::from_cbor(&cbor.0), Ok(value));
        json!({"fields": fields, "bytes": hex::encode(cbor.0)})
    };
    golden("answer-events.json", &Value::from_iter(cases.map(vector)));
}

/// The character that stands for a byte in byte-level vocabularies: itself where it is visible, else one from 256 up.
fn alphabet() -> Vec<String> {
    let visible = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256_u32..;
    let sign = |byte: u8| if visible(&byte) { u32::from(byte) } else { others.next().unwrap() };
    (0..=u8::MAX).map(sign).map(|sign| char::from_u32(sign).unwrap().to_string()).collect()
}

const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
                        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn the_text_pack_is_as_published() {
    let mut tokens = alphabet();
    tokens.extend(["er", "ser", "user", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    let kinds = [vec![1; 259], vec![3, 3]].concat();
    let (letter, end) = (|letter: u8| u64::from(letter), 260);
    let merges = [letter(b'e'), letter(b'r'), letter(b's'), 256, letter(b'u'), 257];
    let cbor = tokens
        .iter()
        .fold(Cbor::default().map(9).uint(1).text("gpt-2").uint(2).array(261), |cbor, token| cbor.text(token));
    let cbor = merges.into_iter().fold(cbor.uint(3).bytes(&kinds).uint(4).array(6), Cbor::uint);
    let cbor = cbor.uint(5).text(TEMPLATE).uint(7).uint(end).uint(8).array(1).uint(end);
    let bytes = cbor.uint(9).boolean(false).uint(10).uint(4_096).0;

    let pack = TextPack::from_bytes(&bytes).unwrap();
    assert_eq!((pack.to_bytes(), pack.digest()), (bytes.clone(), Digest::of(&[&bytes])));
    let model = TextModel::new(pack.clone()).unwrap();
    let prompt = model.prompt_tokens(&request()).unwrap();
    let prompt: Vec<u32> = prompt.expose().iter().map(|token| token.0).collect();
    // A control token that somebody writes is a text like any other.
    assert_eq!(prompt.iter().filter(|token| **token == 260).count(), MESSAGES.len());
    golden(
        "text-pack.json",
        &json!({"bytes": hex::encode(bytes), "digest": pack.digest(), "prompt_tokens_of_chat_request": prompt}),
    );
}

#[test]
fn the_operation_of_an_idempotency_key_is_as_published() {
    let (api_key, idempotency_key) = ("db-key-00000000000000000000000000000000", "order 7, größer");
    let key = Digest::of(&[b"darkbloom/v1/operation-key", api_key.as_bytes()]);
    let digest = Digest::of(&[b"darkbloom/v1/operation", key.as_bytes(), idempotency_key.as_bytes()]);
    let operation = derived_operation(&api_key.into(), idempotency_key);
    assert_eq!(operation.0, digest.0[..16]);
    golden(
        "operation.json",
        &json!({
            "api_key": api_key, "idempotency_key": idempotency_key, "key_digest": key,
            "operation": hex::encode(operation.0),
        }),
    );
}
