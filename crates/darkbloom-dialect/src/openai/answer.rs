//! From an answer to OpenAI's bodies and streams.
//!
//! Bodies that hold an answer are measured first and written into a buffer that never grows, so that no copy of the
//! answer stays behind in freed memory.

use std::io;

use darkbloom_content::FinishReason;
use darkbloom_types::{SecretBytes, SecretString, TokenCount};
use serde::Serialize;

use crate::error::ApiError;

/// What a request used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: TokenCount,
    /// Tokens of the answer.
    pub output: TokenCount,
}

#[derive(Serialize)]
struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input.0,
            completion_tokens: usage.output.0,
            total_tokens: u64::from(usage.input.0) + u64::from(usage.output.0),
        }
    }
}

fn finish_name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [CompletionChoice<'a>; 1],
    usage: UsageBody,
    system_fingerprint: (),
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u32,
    message: CompletionMessage<'a>,
    logprobs: (),
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct CompletionMessage<'a> {
    role: &'static str,
    /// Null where the answer does nothing but call.
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallBody<'a>>,
    refusal: (),
}

#[derive(Serialize)]
struct CallBody<'a> {
    /// In streams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: FunctionBody<'a>,
}

#[derive(Serialize)]
struct FunctionBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// A call of a tool in a whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What the tool's message will name.
    pub id: String,
    /// The tool.
    pub name: SecretString,
    /// Its arguments as JSON.
    pub arguments: SecretString,
}

/// What a whole answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Its text.
    pub text: SecretString,
    /// What the model thought before. OpenAI's interface has no field for it; `reasoning_content` is what others call it.
    pub reasoning: SecretString,
    /// The tools that it calls.
    pub calls: Vec<Call>,
}

/// The body of a whole answer.
#[must_use]
pub fn completion(
    id: &str,
    created_unix_s: u64,
    model: &str,
    said: &Said,
    finish: FinishReason,
    usage: Usage,
) -> SecretBytes {
    let Said { text, reasoning, calls } = said;
    let message = CompletionMessage {
        role: "assistant",
        content: (calls.is_empty() || !text.is_empty()).then_some(text.expose()),
        reasoning_content: (!reasoning.is_empty()).then_some(reasoning.expose()),
        tool_calls: calls.iter().map(CallBody::whole).collect(),
        refusal: (),
    };
    let body = Completion {
        id,
        object: "chat.completion",
        created: created_unix_s,
        model,
        choices: [CompletionChoice { index: 0, message, logprobs: (), finish_reason: finish_name(finish) }],
        usage: usage.into(),
        system_fingerprint: (),
    };
    write(b"", &body, b"")
}

impl<'a> CallBody<'a> {
    fn whole(call: &'a Call) -> Self {
        let function = FunctionBody { name: Some(call.name.expose()), arguments: call.arguments.expose() };
        Self { index: None, id: Some(&call.id), r#type: Some("function"), function }
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: (),
    choices: &'a [ChunkChoice<'a>],
    /// Absent unless the caller asked for usage; then null in every chunk but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageBody>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: (),
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallBody<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<()>,
}

/// Writes the events of one streamed answer, each as a server-sent event (HTML Living Standard section 9.2).
#[derive(Debug, Clone)]
pub struct ChunkWriter {
    id: String,
    created_unix_s: u64,
    model: String,
    include_usage: bool,
}

impl ChunkWriter {
    /// A writer for one answer.
    #[must_use]
    pub fn new(id: impl Into<String>, created_unix_s: u64, model: impl Into<String>, include_usage: bool) -> Self {
        Self { id: id.into(), created_unix_s, model: model.into(), include_usage }
    }

    /// The first event: who speaks.
    #[must_use]
    pub fn role(&self) -> SecretBytes {
        let delta = Delta { role: Some("assistant"), content: Some(""), refusal: Some(()), ..Delta::default() };
        self.choice(delta, None)
    }

    /// More of the answer.
    #[must_use]
    pub fn content(&self, text: &str) -> SecretBytes {
        self.choice(Delta { content: Some(text), ..Delta::default() }, None)
    }

    /// More of what the model thinks. OpenAI's interface has no field for it; `reasoning_content` is what others call it.
    #[must_use]
    pub fn reasoning(&self, text: &str) -> SecretBytes {
        self.choice(Delta { reasoning_content: Some(text), ..Delta::default() }, None)
    }

    /// A call of a tool begins: which of the answer's, from 0, and what the tool's message will name.
    #[must_use]
    pub fn call(&self, index: usize, id: &str, name: &str) -> SecretBytes {
        let function = FunctionBody { name: Some(name), arguments: "" };
        let call = CallBody { index: Some(index), id: Some(id), r#type: Some("function"), function };
        self.choice(Delta { tool_calls: Some([call]), ..Delta::default() }, None)
    }

    /// More of a call's arguments.
    #[must_use]
    pub fn arguments(&self, index: usize, more: &str) -> SecretBytes {
        let function = FunctionBody { name: None, arguments: more };
        let call = CallBody { index: Some(index), id: None, r#type: None, function };
        self.choice(Delta { tool_calls: Some([call]), ..Delta::default() }, None)
    }

    /// Why the answer ended.
    #[must_use]
    pub fn finish(&self, finish: FinishReason) -> SecretBytes {
        self.choice(Delta::default(), Some(finish_name(finish)))
    }

    /// What the request used, if the caller asked for it.
    #[must_use]
    pub fn usage(&self, usage: Usage) -> Option<SecretBytes> {
        self.include_usage.then(|| self.chunk(&[], Some(Some(usage.into()))))
    }

    /// The last event of a stream that ended well.
    #[must_use]
    pub fn done(&self) -> SecretBytes {
        SecretBytes::new(b"data: [DONE]\n\n".to_vec())
    }

    /// The last event of a stream that failed after it began.
    #[must_use]
    pub fn error(&self, error: &ApiError, request_id: Option<&str>) -> SecretBytes {
        let body = error.to_json(request_id);
        SecretBytes::new([b"data: ".as_slice(), &body, b"\n\n"].concat())
    }

    fn choice(&self, delta: Delta<'_>, finish_reason: Option<&'static str>) -> SecretBytes {
        let usage = self.include_usage.then_some(None);
        self.chunk(&[ChunkChoice { index: 0, delta, logprobs: (), finish_reason }], usage)
    }

    fn chunk(&self, choices: &[ChunkChoice<'_>], usage: Option<Option<UsageBody>>) -> SecretBytes {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created_unix_s,
            model: &self.model,
            system_fingerprint: (),
            choices,
            usage,
        };
        write(b"data: ", &chunk, b"\n\n")
    }
}

/// A comment that keeps a quiet connection open and that every client skips.
#[must_use]
pub fn keep_alive() -> &'static [u8] {
    b": keep-alive\n\n"
}

/// A model in a list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its name.
    pub id: String,
    /// When it was signed into the catalogue, in seconds since 1970.
    pub created_unix_s: u64,
    /// Who offers it.
    pub owned_by: String,
}

#[derive(Serialize)]
struct ModelBody<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

impl<'a> From<&'a ModelEntry> for ModelBody<'a> {
    fn from(entry: &'a ModelEntry) -> Self {
        Self { id: &entry.id, object: "model", created: entry.created_unix_s, owned_by: &entry.owned_by }
    }
}

#[derive(Serialize)]
struct ModelsBody<'a> {
    object: &'static str,
    data: Vec<ModelBody<'a>>,
}

/// The body of `GET /v1/models/{model}`.
#[must_use]
pub fn model(entry: &ModelEntry) -> Vec<u8> {
    write(b"", &ModelBody::from(entry), b"").expose().to_vec()
}

/// The body of `GET /v1/models`.
#[must_use]
pub fn models_list(entries: &[ModelEntry]) -> Vec<u8> {
    let body = ModelsBody { object: "list", data: entries.iter().map(ModelBody::from).collect() };
    write(b"", &body, b"").expose().to_vec()
}

/// Counts bytes instead of keeping them.
struct Measure(usize);

impl io::Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn write(before: &[u8], body: &impl Serialize, after: &[u8]) -> SecretBytes {
    let mut length = Measure(before.len() + after.len());
    serde_json::to_writer(&mut length, body).expect("these bodies have text keys and a counter takes everything");
    let mut bytes = Vec::with_capacity(length.0);
    bytes.extend_from_slice(before);
    serde_json::to_writer(&mut bytes, body).expect("these bodies have text keys and a vector takes everything");
    bytes.extend_from_slice(after);
    SecretBytes::new(bytes)
}
