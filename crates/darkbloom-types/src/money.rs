//! Money and token counts: integers, checked, never rounded in anyone's favour unsaid.

use std::fmt;

/// An amount in nano-dollars (10⁻⁹ US dollars). Negative amounts occur in ledger legs only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(transparent)]
pub struct NanoDollars(pub i64);

/// Why an amount could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit into 63 bits of nano-dollars (about 9.2 billion dollars).
    #[error("the amount is too large")]
    TooLarge,
}

impl NanoDollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Nano-dollars in a dollar.
    pub const PER_DOLLAR: i64 = 1_000_000_000;

    /// Whole dollars.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] beyond the range.
    pub fn from_dollars(dollars: i64) -> Result<Self, MoneyError> {
        dollars.checked_mul(Self::PER_DOLLAR).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// Sum.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] beyond the range.
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// Difference; may be negative.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] beyond the range.
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyError::TooLarge)
    }
}

impl fmt::Display for NanoDollars {
    /// Dollars with all nine places, as in `$0.000012500`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let per_dollar = Self::PER_DOLLAR.unsigned_abs();
        write!(f, "{sign}${}.{:09}", nanos / per_dollar, nanos % per_dollar)
    }
}

/// A number of tokens, counted with the model's own tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
#[serde(transparent)]
pub struct TokenCount(pub u32);

impl fmt::Display for TokenCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a model costs: nano-dollars a token, so that no charge is ever rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Price {
    /// Which edition of the price list this is; a request names the one it agreed to.
    pub version: u32,
    /// Nano-dollars for one input token.
    pub input_nano_per_token: u32,
    /// Nano-dollars for one output token.
    pub output_nano_per_token: u32,
}

impl Price {
    /// The first number of editions that are one account's or one provider's own; everybody's stay below.
    pub const OWN_EDITIONS: u32 = 1 << 31;

    /// Whether who agreed to this price may be billed by another: by itself, by nothing (on a machine of one's own), or by a
    /// provider's own price that is no higher.
    #[must_use]
    pub fn allows(&self, billed: &Self) -> bool {
        if billed.version == self.version {
            return billed == self || (billed.input_nano_per_token, billed.output_nano_per_token) == (0, 0);
        }
        billed.version >= Self::OWN_EDITIONS && billed.is_within(self)
    }

    /// Whether neither kind of token costs more than by another price.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.input_nano_per_token <= other.input_nano_per_token
            && self.output_nano_per_token <= other.output_nano_per_token
    }

    /// What so many tokens cost. Cannot overflow: 2 × (2³² − 1)² would, so the sum is checked.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`] when the sum leaves 63 bits.
    pub fn cost(&self, input: TokenCount, output: TokenCount) -> Result<NanoDollars, MoneyError> {
        let input = u64::from(self.input_nano_per_token) * u64::from(input.0);
        let output = u64::from(self.output_nano_per_token) * u64::from(output.0);
        let sum = input.checked_add(output).ok_or(MoneyError::TooLarge)?;
        i64::try_from(sum).map(NanoDollars).map_err(|_| MoneyError::TooLarge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact_and_refuses_to_overflow() {
        let price = Price { version: 1, input_nano_per_token: 50, output_nano_per_token: 200 };
        assert_eq!(price.cost(TokenCount(10), TokenCount(3)), Ok(NanoDollars(1_100)));
        let dear = Price { version: 1, input_nano_per_token: u32::MAX, output_nano_per_token: u32::MAX };
        assert_eq!(dear.cost(TokenCount(u32::MAX), TokenCount(u32::MAX)), Err(MoneyError::TooLarge));
    }

    #[test]
    fn a_price_allows_itself_nothing_and_what_is_lower_and_a_providers_own() {
        let price =
            |version, input, output| Price { version, input_nano_per_token: input, output_nano_per_token: output };
        let (agreed, own) = (price(3, 5, 20), Price::OWN_EDITIONS);
        for allowed in [agreed, price(3, 0, 0), price(own, 5, 20), price(own + 7, 0, 19)] {
            assert!(agreed.allows(&allowed), "{allowed:?}");
        }
        for refused in [price(3, 5, 19), price(4, 5, 20), price(4, 0, 0), price(own, 6, 1), price(own, 1, 21)] {
            assert!(!agreed.allows(&refused), "{refused:?}");
        }
    }

    #[test]
    fn amounts_print_as_dollars() {
        assert_eq!(NanoDollars(12_500).to_string(), "$0.000012500");
        assert_eq!(NanoDollars(-1_500_000_000).to_string(), "-$1.500000000");
    }
}
