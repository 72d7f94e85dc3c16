//! From a text to the tokens of a vocabulary.

use std::collections::HashMap;

use darkbloom_types::{TokenCount, TokenId};

use crate::alphabet;
use crate::bpe::{Bpe, Workspace};
use crate::pack::{TextPack, TokenKind, single_byte};
use crate::split::PreTokenizer;
use crate::user_defined::UserDefined;

/// Makes texts into tokens. No text becomes a control token.
pub(crate) struct Tokenizer {
    pre_tokenizer: PreTokenizer,
    bpe: Bpe,
    /// Whole pieces that are one token, where the family looks them up before merging.
    whole_pieces: Option<HashMap<Box<[u8]>, u32>>,
    user_defined: UserDefined,
    /// Bytes of text that one token stands for, at most.
    token_bytes_max: usize,
}

impl Tokenizer {
    pub(crate) fn new(pack: &TextPack) -> Self {
        let results = pack.merge_results().unwrap_or_default();
        let merges = pack.merges.iter().zip(&results).map(|(&(left, right), &becomes)| (left, right, becomes));
        let mut bytes = [0; 256];
        for (token, number) in pack.of_kind(TokenKind::Normal) {
            if let Some(byte) = single_byte(token) {
                bytes[usize::from(byte)] = number;
            }
        }
        // Llama 3's tokenizer takes a piece that is a token as it is, whatever the merges would give.
        let whole_pieces = (pack.pre_tokenizer == PreTokenizer::Llama3).then(|| {
            pack.of_kind(TokenKind::Normal).map(|(token, number)| (token_text(token).into(), number)).collect()
        });
        // No text becomes any other kind.
        let lengths = pack.tokens.iter().zip(&pack.kinds).map(|(token, kind)| match kind {
            TokenKind::Normal => token_text(token).len(),
            TokenKind::UserDefined => token.len(),
            TokenKind::Control | TokenKind::Unused => 1,
        });
        let token_bytes_max = lengths.max().unwrap_or(1).max(1);
        Self {
            pre_tokenizer: pack.pre_tokenizer,
            bpe: Bpe::new(bytes, merges),
            whole_pieces,
            user_defined: UserDefined::new(pack.of_kind(TokenKind::UserDefined)),
            token_bytes_max,
        }
    }

    /// The tokens that stay whole in every text.
    pub(crate) fn user_defined(&self) -> &UserDefined {
        &self.user_defined
    }

    /// The fewest tokens that a text of so many bytes can have.
    pub(crate) fn tokens_min(&self, bytes: usize) -> TokenCount {
        TokenCount(u32::try_from(bytes.div_ceil(self.token_bytes_max)).unwrap_or(u32::MAX))
    }

    /// Appends a text's tokens, and says whether all of it went in: it stops where there would be more than `most`.
    pub(crate) fn encode(&self, text: &str, most: usize, workspace: &mut Workspace, tokens: &mut Vec<TokenId>) -> bool {
        let mut rest = text;
        while let Some((at, length, token)) = self.user_defined.find(rest) {
            if !self.encode_plain(&rest[..at], most, workspace, tokens) || tokens.len() >= most {
                return false;
            }
            tokens.push(token);
            rest = &rest[at + length..];
        }
        self.encode_plain(rest, most, workspace, tokens)
    }

    /// As [`Self::encode`], without tokens that stay whole.
    pub(crate) fn encode_plain(
        &self,
        text: &str,
        most: usize,
        workspace: &mut Workspace,
        tokens: &mut Vec<TokenId>,
    ) -> bool {
        for piece in self.pre_tokenizer.pieces(text) {
            // A piece can be as long as the text, and all of it is merged before its tokens are known.
            if tokens.len().saturating_add(self.tokens_min(piece.len()).0 as usize) > most {
                return false;
            }
            let whole = self.whole_pieces.as_ref().and_then(|pieces| pieces.get(piece.as_bytes()));
            match whole {
                Some(token) => tokens.push(TokenId(*token)),
                None => self.bpe.encode(piece.as_bytes(), workspace, tokens),
            }
        }
        tokens.len() <= most
    }
}

/// The bytes of a normal token. Characters outside the alphabet, which occur in padding only, stand for themselves.
pub(crate) fn token_text(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match alphabet::byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
