//! How much about a provider is proven.

use std::fmt;
use std::str::FromStr;

/// How much about a provider is proven, from nothing to memory encrypted against its owner. Ordered: a later tier
/// includes what the earlier ones mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Nothing proven.
    None,
    /// Possession of a key; safe only for identities that the client pinned itself.
    SelfSigned,
    /// The key cannot leave a genuine device; the vendor chain was verified.
    Hardware,
    /// Boot and program measured by hardware or operating system, within policy.
    Measured,
    /// Memory encrypted against the owner.
    Confidential,
}

impl Tier {
    /// Every tier, lowest first.
    pub const ALL: [Self; 5] = [Self::None, Self::SelfSigned, Self::Hardware, Self::Measured, Self::Confidential];

    /// The name used on the command line, in configuration and in headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SelfSigned => "self_signed",
            Self::Hardware => "hardware",
            Self::Measured => "measured",
            Self::Confidential => "confidential",
        }
    }

    /// The number in signed and sealed encodings.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::SelfSigned => 1,
            Self::Hardware => 2,
            Self::Measured => 3,
            Self::Confidential => 4,
        }
    }

    /// The tier of a number, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.code() == code)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is not a tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tier `{0}`; the tiers are none, self_signed, hardware, measured, confidential")]
pub struct ParseTierError(pub String);

impl FromStr for Tier {
    type Err = ParseTierError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|tier| tier.name() == text).ok_or_else(|| ParseTierError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_read_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse(), Ok(tier));
            assert_eq!(Tier::from_code(tier.code()), Some(tier));
        }
        assert_eq!(Tier::from_code(9), None);
    }
}
