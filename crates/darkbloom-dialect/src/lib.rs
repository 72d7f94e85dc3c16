//! The dialects that consumers' programs speak, translated to and from the one internal request.
//!
//! Owns what each field of a dialect means here: honoured, accepted at its default, a hint without effect on the
//! answer, or refused by name; nothing is ever dropped in silence. It must never quote a message in an error, keep
//! anything, or know where a request goes. The client (and with it the gateway) may depend on it; provider and
//! coordinator have no use for it, and the coordinator must not reach it.

#![forbid(unsafe_code)]

mod error;
mod json;
pub mod openai;

pub use error::ApiError;
