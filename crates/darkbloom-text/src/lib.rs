//! Between text and tokens: tokenizer, chat template, reasoning, calls of tools, stop strings, assembly of characters.
//!
//! Owns how a conversation becomes the model's tokens and how tokens become an answer's text. Client and provider run
//! this same code on the same [`TextPack`], named by its digest, so their counts agree. It must never read a file or a
//! clock, keep a cache of anything it was given to read, or let text that somebody wrote become a control token.
//! Client, provider and engine may depend on it; the coordinator must not reach it.
//!
//! ```text
//! GGUF metadata ─▶ TextPack ─▶ TextModel ── prompt_tokens(request) ─▶ tokens of the prompt
//!                  (digest)        └── decoder() ─▶ TokenDecoder ─▶ parser ─▶ StopScanner ─▶ parts of the answer
//!                                       markers that are tokens ─▶ (text,       (of text)
//!                                                                reasoning, calls)
//!                                      └─────────────── AnswerAssembler ───────────────┘
//!                                    tokens and parts of an answer ─▶ AnswerRecount ─▶ whether they say the same
//! ```

#![forbid(unsafe_code)]

mod alphabet;
mod answer;
mod bpe;
mod decoder;
mod embedding;
mod format;
pub mod gguf;
mod model;
mod pack;
mod parser;
mod recount;
mod split;
mod stop;
mod template;
mod tokenizer;
mod unicode;
mod user_defined;

pub use answer::{AnswerAssembler, AnswerEnd};
pub use decoder::TokenDecoder;
pub use embedding::EmbeddingTokenizer;
pub use format::{AnswerFormat, CallSyntax, ReasoningSyntax};
pub use gguf::ReadGgufError;
pub use model::{BuildTextModelError, MakePromptError, RenderPromptError, TextModel};
pub use pack::{DecodePackError, InvalidPackError, TextPack};
pub use parser::{ANSWER_HELD_BYTES_MAX, Opening};
pub use recount::{AnswerRecount, RecountError, Recounted};
pub use split::PreTokenizer;
pub use stop::{Scan, StopScanner};
