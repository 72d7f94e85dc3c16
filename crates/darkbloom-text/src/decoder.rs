//! From tokens to text that is certain.

use std::sync::Arc;

use darkbloom_types::{SecretString, TokenId};
use zeroize::Zeroize;

/// The text of each token, one after another in one buffer.
pub(crate) struct TokenTable {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl TokenTable {
    /// A table of these tokens, in order of their numbers.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = std::borrow::Cow<'t, [u8]>>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for token in tokens {
            bytes.extend_from_slice(&token);
            ends.push(u32::try_from(bytes.len()).expect("a vocabulary is limited to far less than 4 GiB"));
        }
        Self { bytes, ends }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self, token: TokenId) -> Option<&[u8]> {
        let index = usize::try_from(token.0).ok()?;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }
}

/// Turns tokens into text, one after another, and never splits a character.
///
/// Bytes that cannot be part of any character become U+FFFD, exactly as [`String::from_utf8_lossy`] over the whole
/// answer would have it; bytes that may still become a character are held back.
#[derive(Clone)]
pub struct TokenDecoder {
    table: Arc<TokenTable>,
    /// An incomplete character: at most three bytes.
    pending: Vec<u8>,
}

impl std::fmt::Debug for TokenDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenDecoder(…)")
    }
}

impl TokenDecoder {
    pub(crate) fn new(table: Arc<TokenTable>) -> Self {
        Self { table, pending: Vec::new() }
    }

    /// The text that this token completes. Control tokens that are no markers of the model's format, and
    /// numbers beyond the vocabulary, add no text.
    pub fn push(&mut self, token: TokenId) -> SecretString {
        let mut bytes = std::mem::take(&mut self.pending);
        let added = self.table.bytes(token).unwrap_or_default();
        let mut joined = Vec::with_capacity(bytes.len() + added.len());
        joined.extend_from_slice(&bytes);
        joined.extend_from_slice(added);
        bytes.zeroize();

        let mut text = SecretString::default();
        let mut rest = joined.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("this much was found valid"));
                    let Some(length) = error.error_len() else {
                        self.pending = invalid.to_vec();
                        break;
                    };
                    text.push_str("\u{fffd}");
                    rest = &invalid[length..];
                }
            }
        }
        joined.zeroize();
        text
    }

    /// What was held back, since no character goes on here: nothing, or U+FFFD for one that never became complete.
    pub(crate) fn flush(&mut self) -> SecretString {
        let held = if self.pending.is_empty() { "" } else { "\u{fffd}" };
        self.pending.zeroize();
        SecretString::from(held)
    }
}

impl Drop for TokenDecoder {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}
