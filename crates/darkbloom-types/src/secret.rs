//! Values that a program may use and never show: prompts, answers, keys, tokens.
//!
//! Neither type has `Display`; `Debug` shows the length bucket of nothing at all, only that a secret is there. Both wipe
//! their memory on drop, as far as a moved or grown buffer lets them.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Text that is never printed: a prompt, an answer, an API key.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct SecretString(String);

impl SecretString {
    /// Takes the text in.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Each caller answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Appends; the old buffer is wiped when growing moves it.
    pub fn push_str(&mut self, text: &str) {
        if self.0.capacity() - self.0.len() < text.len() {
            let mut grown = String::with_capacity((self.0.len() + text.len()).next_power_of_two());
            grown.push_str(&self.0);
            self.0.zeroize();
            self.0 = grown;
        }
        self.0.push_str(text);
    }

    /// Length in bytes; of interest to limits, not to logs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for SecretString {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(…)")
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}
impl Eq for SecretString {}

/// Bytes that are never printed: a key, a plaintext body.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes in.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves. Each caller answers for where they go.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
impl Eq for SecretBytes {}

/// One token of a vocabulary. A token is content, so it never shows its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenId(…)")
    }
}

impl Zeroize for TokenId {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

/// A tokenized prompt or answer; wiped on drop.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretTokens(Vec<TokenId>);

impl SecretTokens {
    /// Takes the tokens in.
    #[must_use]
    pub fn new(tokens: Vec<TokenId>) -> Self {
        Self(tokens)
    }

    /// The tokens themselves. Each caller answers for where they go.
    #[must_use]
    pub fn expose(&self) -> &[TokenId] {
        &self.0
    }

    /// Adds tokens at the end. When that takes another buffer, the old one is wiped.
    pub fn extend(&mut self, tokens: &[TokenId]) {
        let needed = self.0.len() + tokens.len();
        if needed > self.0.capacity() {
            let mut larger = Vec::with_capacity(needed.max(self.0.capacity() * 2));
            larger.extend_from_slice(&self.0);
            std::mem::replace(&mut self.0, larger).zeroize();
        }
        self.0.extend_from_slice(tokens);
    }

    /// Keeps the first so many tokens and wipes the others.
    pub fn truncate(&mut self, kept: usize) {
        if let Some(rest) = self.0.get_mut(kept..) {
            rest.iter_mut().zeroize();
            self.0.truncate(kept);
        }
    }

    /// How many tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretTokens(…)")
    }
}

/// What a model makes of a text: much of the text can be told from it. Wiped on drop.
#[derive(Clone, Default, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct SecretVector(Vec<f32>);

impl SecretVector {
    /// Takes the numbers in.
    #[must_use]
    pub fn new(numbers: Vec<f32>) -> Self {
        Self(numbers)
    }

    /// The numbers themselves. Each caller answers for where they go.
    #[must_use]
    pub fn expose(&self) -> &[f32] {
        &self.0
    }
}

impl fmt::Debug for SecretVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretVector(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_show_nothing_in_debug() {
        let text = SecretString::from("violet");
        let bytes = SecretBytes::from(b"violet".to_vec());
        let vector = SecretVector::new(vec![0.5]);
        assert_eq!(format!("{text:?} {bytes:?} {vector:?}"), "SecretString(…) SecretBytes(…) SecretVector(…)");
    }

    #[test]
    fn growing_keeps_the_text() {
        let mut text = SecretString::default();
        for _ in 0..100 {
            text.push_str("abc");
        }
        assert_eq!(text.expose(), "abc".repeat(100));
    }
}
