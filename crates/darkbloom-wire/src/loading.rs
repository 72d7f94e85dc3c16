//! Where models are, and what becomes of loading one.

use crate::cbor::{DecodeError, Reader, Writer};
use crate::record::{Bound, Field};

/// Where a model that a provider serves is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Residence {
    /// In memory: it answers at once. Left out in frames.
    #[default]
    Loaded,
    /// On the provider's disk: it is loaded when somebody asks.
    Stored,
    /// On its way into memory.
    Loading,
}

impl Residence {
    /// The name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Stored => "stored",
            Self::Loading => "loading",
        }
    }
}

impl Field for Residence {
    fn put(&self, to: &mut Writer) {
        match self {
            Self::Loaded => to.uint(1),
            Self::Stored => to.uint(2),
            Self::Loading => to.uint(3),
        }
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        match from.uint()? {
            2 => Ok(Self::Stored),
            3 => Ok(Self::Loading),
            _ => Err(DecodeError::BadValue { key }),
        }
    }
    fn absent(&self) -> bool {
        *self == Self::Loaded
    }
    fn missing() -> Option<Self> {
        Some(Self::Loaded)
    }
}

/// What became of loading a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadOutcome {
    /// Others are loaded before it, or answer where it is to go.
    Waiting,
    /// It has begun.
    Started,
    /// The model is in memory; also where it was already.
    Succeeded,
    /// The machine's budget is too small for it.
    TooLarge,
    /// What it would take the place of is at work.
    Busy,
    /// Its file is gone, was changed or cannot be loaded.
    Unusable,
    /// The provider takes no new work, or does not serve it.
    Declined,
}

impl LoadOutcome {
    /// Every outcome, with its number in frames.
    pub const ALL: [(Self, u64); 7] = [
        (Self::Waiting, 7),
        (Self::Started, 1),
        (Self::Succeeded, 2),
        (Self::TooLarge, 3),
        (Self::Busy, 4),
        (Self::Unusable, 5),
        (Self::Declined, 6),
    ];

    /// Whether nothing follows it.
    #[must_use]
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Waiting | Self::Started)
    }

    /// The name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Unusable => "unusable",
            Self::Declined => "declined",
        }
    }
}

impl Field for LoadOutcome {
    fn put(&self, to: &mut Writer) {
        let number = Self::ALL.iter().find(|(outcome, _)| outcome == self).map_or(0, |(_, number)| *number);
        to.uint(number);
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        let number = from.uint()?;
        let known = Self::ALL.iter().find(|(_, of)| *of == number).map(|(outcome, _)| *outcome);
        known.ok_or(DecodeError::BadValue { key })
    }
}
