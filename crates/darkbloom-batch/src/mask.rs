//! Which tokens may come next.

use std::fmt;

use darkbloom_types::TokenId;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The tokens that an answer's constraints allow in one place: a bit for each token. What it allows says what the
/// answer so far is, so it shows nothing and is wiped on drop.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenMask(Vec<u32>);

impl TokenMask {
    /// Takes the bits in: bit t mod 32, from the lowest, of word t ÷ 32 allows token t. What lies beyond the last word
    /// is not allowed, and bits beyond the vocabulary allow nothing.
    #[must_use]
    pub fn new(words: Vec<u32>) -> Self {
        Self(words)
    }

    /// Whether a token may come next.
    #[must_use]
    pub fn allows(&self, token: TokenId) -> bool {
        let word = usize::try_from(token.0 / u32::BITS).ok().and_then(|at| self.0.get(at));
        word.is_some_and(|word| word >> (token.0 % u32::BITS) & 1 == 1)
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.0
    }
}

impl fmt::Debug for TokenMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMask(…)")
    }
}
