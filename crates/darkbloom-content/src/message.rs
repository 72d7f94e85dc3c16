//! One turn of a conversation.

use std::convert::Infallible;

use darkbloom_types::SecretString;
use minicbor::encode::{Encoder, Write};

use crate::cbor::{DecodeContentError, StrictReader, Written};
use crate::tool::{self, CALLS_MAX, InvalidToolError, ToolCall};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Whoever wrote the application.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 4] = [Self::System, Self::User, Self::Assistant, Self::Tool];

    /// The name that chat templates know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    pub(crate) fn code(self) -> u64 {
        match self {
            Self::System => 0,
            Self::User => 1,
            Self::Assistant => 2,
            Self::Tool => 3,
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said; may be empty.
    pub content: SecretString,
    /// What the model thought before; only the model's message has any.
    pub reasoning: SecretString,
    /// The tools that the model called; only its message has any, at most [`CALLS_MAX`].
    pub calls: Vec<ToolCall>,
    /// The call that this message answers. Every message of a tool has it, and no other; one before it made the call.
    pub call_id: Option<SecretString>,
}

impl Message {
    /// A message with nothing but its content.
    #[must_use]
    pub fn new(role: Role, content: impl Into<SecretString>) -> Self {
        Self { role, content: content.into(), reasoning: SecretString::default(), calls: Vec::new(), call_id: None }
    }

    /// What a tool found out.
    #[must_use]
    pub fn of_tool(call_id: impl Into<SecretString>, content: impl Into<SecretString>) -> Self {
        Self { call_id: Some(call_id.into()), ..Self::new(Role::Tool, content) }
    }

    /// Whether anybody would accept this message by itself.
    pub(crate) fn check(&self) -> Result<(), InvalidToolError> {
        if self.role != Role::Assistant && !(self.reasoning.is_empty() && self.calls.is_empty()) {
            return Err(InvalidToolError::NotTheModels);
        }
        if (self.role == Role::Tool) != self.call_id.is_some() {
            return Err(InvalidToolError::CallId);
        }
        if self.calls.len() > CALLS_MAX {
            return Err(InvalidToolError::TooManyCalls(self.calls.len()));
        }
        self.calls.iter().try_for_each(ToolCall::check)
    }

    fn extras(&self) -> u64 {
        u64::from(!self.reasoning.is_empty()) + u64::from(!self.calls.is_empty()) + u64::from(self.call_id.is_some())
    }

    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        let extras = self.extras();
        encoder.array(2 + u64::from(extras > 0))?.u64(self.role.code())?.str(self.content.expose())?;
        if extras == 0 {
            return Ok(());
        }
        encoder.map(extras)?;
        if !self.reasoning.is_empty() {
            encoder.u64(KEY_REASONING)?.str(self.reasoning.expose())?;
        }
        if !self.calls.is_empty() {
            encoder.u64(KEY_CALLS)?.array(self.calls.len() as u64)?;
            self.calls.iter().try_for_each(|call| call.write(encoder))?;
        }
        if let Some(id) = &self.call_id {
            encoder.u64(KEY_CALL_ID)?.str(id.expose())?;
        }
        Ok(())
    }

    pub(crate) fn read(reader: &mut StrictReader<'_>) -> Result<Self, DecodeContentError> {
        let parts = reader.array("message parts", 3)?;
        if parts < 2 {
            return Err(DecodeContentError::OutOfRange { what: "the number of a message's parts" });
        }
        let code = reader.uint()?;
        let role = Role::ALL.into_iter().find(|role| role.code() == code);
        let role = role.ok_or(DecodeContentError::OutOfRange { what: "a role" })?;
        let mut message = Self::new(role, reader.text()?);
        if parts == 2 {
            return Ok(message);
        }
        let mut map = reader.map(EXTRAS_MAX)?;
        while let Some(key) = map.key(reader)? {
            match key {
                KEY_REASONING => message.reasoning = reader.text()?.into(),
                KEY_CALLS => message.calls = tool::read_calls(reader)?,
                KEY_CALL_ID => message.call_id = Some(reader.text()?.into()),
                key => return Err(DecodeContentError::UnknownKey { key }),
            }
        }
        // What is empty has no key, and what has nothing more is written as two parts.
        if message.extras() != map.entries() || map.entries() == 0 {
            return Err(DecodeContentError::OutOfRange { what: "a message's further parts" });
        }
        Ok(message)
    }
}

const KEY_REASONING: u64 = 1;
const KEY_CALLS: u64 = 2;
const KEY_CALL_ID: u64 = 3;
const EXTRAS_MAX: u64 = 3;
