//! The one internal request and its events: what a consumer's dialect is translated into, what the seal protects, and
//! what the engine works on. Everything in here is plaintext.
//!
//! Owns the meaning, the limits and the one byte encoding of requests and answer events. It must never print content,
//! never carry a token limit of its own (limits stand in the sealed request's clear header only, so that there is no
//! second copy to disagree with), and never accept two encodings of one value. `text`, `dialect`, client, provider and
//! engine may depend on it; the coordinator must not reach it, so that it cannot even name a prompt.
//!
//! The encoding is deterministic CBOR (RFC 8949 section 4.2.1) with integer keys, with one deviation: a float is always
//! 32 bits wide. Decoding is strict: [`ChatRequest::from_cbor`] and [`AnswerEvent::from_cbor`] accept exactly the bytes
//! that `to_cbor` gives and refuse unknown, repeated or misplaced keys, wide integers, indefinite lengths and trailing
//! bytes.

#![forbid(unsafe_code)]

pub mod cbor;
mod embedding;
mod event;
mod message;
mod parts;
mod request;
mod shape;
mod tool;
mod tweaks;

pub use cbor::DecodeContentError;
pub use embedding::{EMBEDDING_INPUTS_MAX, EMBEDDING_TOKENS_MAX, EmbeddingInput, EmbeddingRequest, Embeddings};
pub use event::{AnswerEvent, EVENT_TOKENS_MAX, FinishReason};
pub use message::{Message, Role};
pub use parts::{AnswerPart, AnswerParts, EVENT_PARTS_MAX, PART_HEAD_BYTES_MAX, PartKind};
pub use request::{
    ChatRequest, InvalidRequestError, MESSAGES_MAX, PrefixSecret, STOP_BYTES_MAX, STOPS_MAX, TEMPERATURE_MAX,
};
pub use shape::{AnswerShape, FORMAT_SCHEMA_BYTES_MAX, ToolChoice};
pub use tool::{
    CALL_ARGUMENTS_BYTES_MAX, CALL_ID_BYTES_MAX, CALLS_MAX, InvalidToolError, TOOL_DESCRIPTION_BYTES_MAX,
    TOOL_NAME_BYTES_MAX, TOOL_PARAMETERS_BYTES_MAX, TOOLS_MAX, Tool, ToolCall, is_tool_name,
};
pub use tweaks::{
    InvalidTweakError, LOGIT_BIAS_VALUE_MAX, LOGIT_BIASES_MAX, PENALTY_MAX, REPETITION_PENALTY_MAX, Tweaks,
};
