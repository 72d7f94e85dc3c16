//! What an answer is made of: text, reasoning, and calls of tools.

use std::convert::Infallible;

use darkbloom_types::SecretString;
use minicbor::encode::{Encoder, Write};

use crate::cbor::{DecodeContentError, StrictReader, Written};

/// Most parts of one event: none is shorter than four bytes, and the largest frame has 16 KiB.
pub const EVENT_PARTS_MAX: usize = 4_096;
/// Bytes that one part's encoding takes beside its text, at most: the heads of the pair and of a text below 64 KiB, and
/// the kind.
pub const PART_HEAD_BYTES_MAX: usize = 1 + 1 + 3;

/// What a piece of an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartKind {
    /// What is said to whoever asked.
    Text,
    /// What the model thinks before it says something.
    Reasoning,
    /// The name of a tool that is called. A name after anything but a name begins another call.
    CallName,
    /// The arguments of the call whose name came last, as JSON. They follow each name, and are never empty.
    CallArguments,
}

impl PartKind {
    const ALL: [Self; 4] = [Self::Text, Self::Reasoning, Self::CallName, Self::CallArguments];

    fn code(self) -> u64 {
        match self {
            Self::Text => 0,
            Self::Reasoning => 1,
            Self::CallName => 2,
            Self::CallArguments => 3,
        }
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerPart {
    /// What it belongs to.
    pub kind: PartKind,
    /// Never empty.
    pub text: SecretString,
}

/// Pieces of an answer in order. No two neighbours are of one kind and none is empty, so that however the pieces came,
/// equal answers are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerParts(Vec<AnswerPart>);

impl AnswerParts {
    /// Adds more of the answer.
    pub fn push(&mut self, kind: PartKind, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.kind == kind => last.text.push_str(text),
            Some(_) | None => self.0.push(AnswerPart { kind, text: text.into() }),
        }
    }

    /// Adds what follows.
    pub fn append(&mut self, more: &Self) {
        for part in &more.0 {
            self.push(part.kind, part.text.expose());
        }
    }

    /// The pieces.
    pub fn iter(&self) -> impl Iterator<Item = &AnswerPart> {
        self.0.iter()
    }

    /// Bytes of all pieces together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|part| part.text.len()).sum()
    }

    /// Whether an answer that goes on like this can begin with those.
    #[must_use]
    pub fn begins_with(&self, beginning: &Self) -> bool {
        let Some((last, before)) = beginning.0.split_last() else { return true };
        let Some(here) = self.0.get(before.len()) else { return false };
        let before = before.iter().zip(&self.0).all(|(one, other)| one == other);
        before && here.kind == last.kind && here.text.expose().starts_with(last.text.expose())
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text, if there is no other kind of part.
    pub(crate) fn only_text(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [AnswerPart { kind: PartKind::Text, text }] => Some(text.expose()),
            _ => None,
        }
    }

    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        encoder.array(self.0.len() as u64)?;
        for part in &self.0 {
            encoder.array(2)?.u64(part.kind.code())?.str(part.text.expose())?;
        }
        Ok(())
    }

    pub(crate) fn read(reader: &mut StrictReader<'_>) -> Result<Self, DecodeContentError> {
        let count = reader.array("parts", EVENT_PARTS_MAX as u64)?;
        let mut parts = Self::default();
        for read in 0..count {
            if reader.array("a part's values", 2)? != 2 {
                return Err(DecodeContentError::OutOfRange { what: "the number of a part's values" });
            }
            let code = reader.uint()?;
            let kind = PartKind::ALL.into_iter().find(|kind| kind.code() == code);
            parts.push(kind.ok_or(DecodeContentError::OutOfRange { what: "a part's kind" })?, reader.text()?);
            if parts.0.len() != read + 1 {
                return Err(DecodeContentError::OutOfRange {
                    what: "a part that is empty or belongs to the one before",
                });
            }
        }
        if parts.only_text().is_some() {
            // That is written as text.
            return Err(DecodeContentError::OutOfRange { what: "the kinds of parts" });
        }
        Ok(parts)
    }
}

impl From<&str> for AnswerParts {
    fn from(text: &str) -> Self {
        let mut parts = Self::default();
        parts.push(PartKind::Text, text);
        parts
    }
}

impl From<SecretString> for AnswerParts {
    fn from(text: SecretString) -> Self {
        Self::from(text.expose())
    }
}

impl IntoIterator for AnswerParts {
    type Item = AnswerPart;
    type IntoIter = std::vec::IntoIter<AnswerPart>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
