//! Tools that a model may call, and its calls of them.

use std::convert::Infallible;

use darkbloom_types::SecretString;
use minicbor::encode::{Encoder, Write};

use crate::cbor::{DecodeContentError, StrictReader, Written};

/// Most tools in one request: what the OpenAI interface allows.
pub const TOOLS_MAX: usize = 128;
/// Longest name of a tool in bytes: what the OpenAI interface allows.
pub const TOOL_NAME_BYTES_MAX: usize = 64;
/// Longest description of a tool in bytes: sixteen times the 1,024 characters that OpenAI's older interface allowed.
pub const TOOL_DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// Longest schema of a tool's parameters in bytes: about 16,000 tokens, more than any tool of today describes.
pub const TOOL_PARAMETERS_BYTES_MAX: usize = 64 << 10;
/// Most calls in one message: one of each tool.
pub const CALLS_MAX: usize = 128;
/// Longest arguments of one call in bytes: a file of 256 KiB that a tool is to write. No answer calls with more, so that
/// all of its calls can come back in the next request.
pub const CALL_ARGUMENTS_BYTES_MAX: usize = 256 << 10;
/// Longest id of a call in bytes: twice those of the OpenAI interface.
pub const CALL_ID_BYTES_MAX: usize = 64;

/// Why a tool, a call, or a message with one, cannot be served by anybody. Names places, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToolError {
    /// Over [`TOOLS_MAX`].
    #[error("{0} tools, the limit is {TOOLS_MAX}")]
    TooManyTools(usize),
    /// A name that is not [`is_tool_name`].
    #[error("the name of a tool has 1 to {TOOL_NAME_BYTES_MAX} letters, digits, `_` and `-`")]
    Name,
    /// Two tools of one name.
    #[error("two tools have one name")]
    Twice,
    /// Over [`TOOL_DESCRIPTION_BYTES_MAX`].
    #[error("a description of {0} bytes, the limit is {TOOL_DESCRIPTION_BYTES_MAX}")]
    Description(usize),
    /// Over [`TOOL_PARAMETERS_BYTES_MAX`].
    #[error("a schema of {0} bytes, the limit is {TOOL_PARAMETERS_BYTES_MAX}")]
    Parameters(usize),
    /// Over [`CALLS_MAX`].
    #[error("{0} calls in one message, the limit is {CALLS_MAX}")]
    TooManyCalls(usize),
    /// Over [`CALL_ARGUMENTS_BYTES_MAX`].
    #[error("arguments of {0} bytes, the limit is {CALL_ARGUMENTS_BYTES_MAX}")]
    Arguments(usize),
    /// Empty, or over [`CALL_ID_BYTES_MAX`]; or a message that is not of a tool has one, or one of a tool has none.
    #[error("the messages of tools, and no others, name a call, by 1 to {CALL_ID_BYTES_MAX} bytes")]
    CallId,
    /// No message before it made this call.
    #[error("a tool answers a call that no message before it made")]
    UnknownCall,
    /// Reasoning or calls in a message that is not the model's.
    #[error("only the model's own messages have reasoning and calls")]
    NotTheModels,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// What it is called by.
    pub name: SecretString,
    /// What it is for; may be empty.
    pub description: SecretString,
    /// The JSON schema (json-schema.org) of its arguments, as text.
    pub parameters: SecretString,
}

/// Whether a text may be the name of a tool.
#[must_use]
pub fn is_tool_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=TOOL_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(letter)
}

impl Tool {
    fn check(&self) -> Result<(), InvalidToolError> {
        if !is_tool_name(self.name.expose()) {
            return Err(InvalidToolError::Name);
        }
        if self.description.len() > TOOL_DESCRIPTION_BYTES_MAX {
            return Err(InvalidToolError::Description(self.description.len()));
        }
        if self.parameters.len() > TOOL_PARAMETERS_BYTES_MAX {
            return Err(InvalidToolError::Parameters(self.parameters.len()));
        }
        Ok(())
    }
}

/// Whether anybody would accept these tools.
pub(crate) fn check_tools(tools: &[Tool]) -> Result<(), InvalidToolError> {
    if tools.len() > TOOLS_MAX {
        return Err(InvalidToolError::TooManyTools(tools.len()));
    }
    for (index, tool) in tools.iter().enumerate() {
        tool.check()?;
        if tools[..index].iter().any(|other| other.name == tool.name) {
            return Err(InvalidToolError::Twice);
        }
    }
    Ok(())
}

/// A call of a tool in a message of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// What the tool's message will name.
    pub id: SecretString,
    /// The tool.
    pub name: SecretString,
    /// Its arguments: meant to be JSON, and what the model wrote in any case.
    pub arguments: SecretString,
}

impl ToolCall {
    pub(crate) fn check(&self) -> Result<(), InvalidToolError> {
        if !is_tool_name(self.name.expose()) {
            return Err(InvalidToolError::Name);
        }
        if !(1..=CALL_ID_BYTES_MAX).contains(&self.id.len()) {
            return Err(InvalidToolError::CallId);
        }
        if self.arguments.len() > CALL_ARGUMENTS_BYTES_MAX {
            return Err(InvalidToolError::Arguments(self.arguments.len()));
        }
        Ok(())
    }

    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        let Self { id, name, arguments } = self;
        encoder.array(3)?.str(id.expose())?.str(name.expose())?.str(arguments.expose())?;
        Ok(())
    }
}

pub(crate) fn read_calls(reader: &mut StrictReader<'_>) -> Result<Vec<ToolCall>, DecodeContentError> {
    let count = reader.array("calls", CALLS_MAX as u64)?;
    let read = |_| {
        let [id, name, arguments] = read_three(reader)?;
        Ok(ToolCall { id, name, arguments })
    };
    (0..count).map(read).collect()
}

pub(crate) fn write_tools<W: Write<Error = Infallible>>(tools: &[Tool], encoder: &mut Encoder<W>) -> Written {
    encoder.array(tools.len() as u64)?;
    for Tool { name, description, parameters } in tools {
        encoder.array(3)?.str(name.expose())?.str(description.expose())?.str(parameters.expose())?;
    }
    Ok(())
}

pub(crate) fn read_tools(reader: &mut StrictReader<'_>) -> Result<Vec<Tool>, DecodeContentError> {
    let count = reader.array("tools", TOOLS_MAX as u64)?;
    if count == 0 {
        // No tools are written as no key.
        return Err(DecodeContentError::OutOfRange { what: "the number of tools" });
    }
    let read = |_| {
        let [name, description, parameters] = read_three(reader)?;
        Ok(Tool { name, description, parameters })
    };
    (0..count).map(read).collect()
}

fn read_three(reader: &mut StrictReader<'_>) -> Result<[SecretString; 3], DecodeContentError> {
    if reader.array("texts", 3)? != 3 {
        return Err(DecodeContentError::OutOfRange { what: "the number of texts of a tool or a call" });
    }
    Ok([reader.text()?.into(), reader.text()?.into(), reader.text()?.into()])
}
