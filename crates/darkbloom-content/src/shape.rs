//! What an answer is held to: a format, or calls that must come.

use std::convert::Infallible;

use darkbloom_types::SecretString;
use minicbor::encode::{Encoder, Write};

use crate::cbor::{DecodeContentError, StrictReader, Written};
use crate::request::InvalidRequestError;
use crate::tool::{Tool, is_tool_name};

/// Longest schema of an answer in bytes: as long as that of a tool's parameters.
pub const FORMAT_SCHEMA_BYTES_MAX: usize = 64 << 10;

/// What the text of an answer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AnswerShape {
    /// Whatever the model says.
    #[default]
    Free,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema (json-schema.org) describes, given as text.
    Json(SecretString),
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it sees fit.
    #[default]
    Free,
    /// It must, and says nothing else.
    Required {
        /// Exactly once. Otherwise as often as it sees fit, where its format has room for several calls.
        once: bool,
    },
    /// It must call this tool, once, and says nothing else.
    Named(SecretString),
}

const CODE_OBJECT: u64 = 1;
const CODE_SCHEMA: u64 = 2;
const CODE_REQUIRED: u64 = 1;
const CODE_ONCE: u64 = 2;
const CODE_NAMED: u64 = 3;

impl AnswerShape {
    pub(crate) fn check(&self) -> Result<(), InvalidRequestError> {
        match self {
            Self::Json(schema) if schema.len() > FORMAT_SCHEMA_BYTES_MAX => {
                Err(InvalidRequestError::SchemaLength(schema.len()))
            }
            Self::Free | Self::JsonObject | Self::Json(_) => Ok(()),
        }
    }

    /// Whether nothing is said: then it is not written.
    pub(crate) fn is_free(&self) -> bool {
        *self == Self::Free
    }

    /// Writes a shape that is not free.
    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        match self {
            Self::Free | Self::JsonObject => encoder.array(1)?.u64(CODE_OBJECT)?,
            Self::Json(schema) => encoder.array(2)?.u64(CODE_SCHEMA)?.str(schema.expose())?,
        };
        Ok(())
    }

    pub(crate) fn read(reader: &mut StrictReader<'_>) -> Result<Self, DecodeContentError> {
        match (reader.array("parts of a format", 2)?, reader.uint()?) {
            (1, CODE_OBJECT) => Ok(Self::JsonObject),
            (2, CODE_SCHEMA) => Ok(Self::Json(reader.text()?.into())),
            _ => Err(DecodeContentError::OutOfRange { what: "the answer's format" }),
        }
    }
}

impl ToolChoice {
    /// Whether the model must call.
    #[must_use]
    pub fn must_call(&self) -> bool {
        !self.is_free()
    }

    pub(crate) fn check(&self, tools: &[Tool]) -> Result<(), InvalidRequestError> {
        let has = match self {
            Self::Free => true,
            Self::Required { .. } => !tools.is_empty(),
            Self::Named(name) => is_tool_name(name.expose()) && tools.iter().any(|tool| tool.name == *name),
        };
        if has { Ok(()) } else { Err(InvalidRequestError::ToolChoice) }
    }

    /// Whether nothing is said: then it is not written.
    pub(crate) fn is_free(&self) -> bool {
        *self == Self::Free
    }

    /// Writes a choice that is not free.
    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        match self {
            Self::Free | Self::Required { once: false } => encoder.array(1)?.u64(CODE_REQUIRED)?,
            Self::Required { once: true } => encoder.array(1)?.u64(CODE_ONCE)?,
            Self::Named(name) => encoder.array(2)?.u64(CODE_NAMED)?.str(name.expose())?,
        };
        Ok(())
    }

    pub(crate) fn read(reader: &mut StrictReader<'_>) -> Result<Self, DecodeContentError> {
        match (reader.array("parts of a tool's choice", 2)?, reader.uint()?) {
            (1, CODE_REQUIRED) => Ok(Self::Required { once: false }),
            (1, CODE_ONCE) => Ok(Self::Required { once: true }),
            (2, CODE_NAMED) => Ok(Self::Named(reader.text()?.into())),
            _ => Err(DecodeContentError::OutOfRange { what: "the choice of a tool" }),
        }
    }
}
