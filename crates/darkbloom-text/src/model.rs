//! A text pack, ready for work.

use std::borrow::Cow;
use std::sync::Arc;

use darkbloom_content::ChatRequest;
use darkbloom_types::{SecretTokens, TokenCount, TokenId};

use crate::alphabet;
use crate::bpe::{Bpe, Workspace};
use crate::decoder::{TokenDecoder, TokenTable};
use crate::pack::{self, TextPack, TokenKind};
use crate::split::PreTokenizer;
use crate::template::{ChatTemplate, ControlTokens, Segment};
use crate::user_defined::UserDefined;

pub use crate::template::RenderPromptError;

/// Why a pack cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildTextModelError {
    /// The chat template does not compile, fails on a plain conversation, or hides its control tokens.
    #[error("the chat template cannot be used")]
    Template(#[source] RenderPromptError),
}

/// Tokenizer, chat template and decoder of one model. Cheap to clone; keeps nothing of what it is given.
#[derive(Clone)]
pub struct TextModel(Arc<Parts>);

struct Parts {
    pre_tokenizer: PreTokenizer,
    bpe: Bpe,
    /// Whole pieces that are one token, where the family looks them up before merging.
    whole_pieces: Option<std::collections::HashMap<Box<[u8]>, u32>>,
    user_defined: UserDefined,
    template: ChatTemplate,
    table: Arc<TokenTable>,
    begin: Option<TokenId>,
    ends: Vec<TokenId>,
    context: TokenCount,
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel").field("vocabulary", &self.vocabulary()).finish_non_exhaustive()
    }
}

impl TextModel {
    /// Builds the tables and tries the chat template.
    ///
    /// # Errors
    /// [`BuildTextModelError`].
    pub fn new(pack: TextPack) -> Result<Self, BuildTextModelError> {
        let results = pack.merge_results().unwrap_or_default();
        let merges = pack.merges.iter().zip(&results).map(|(&(left, right), &becomes)| (left, right, becomes));
        let mut bytes = [0; 256];
        let of_kind = |wanted: TokenKind| {
            let tokens = (0..).zip(pack.tokens.iter().zip(&pack.kinds));
            tokens.filter(move |(_, (_, kind))| **kind == wanted).map(|(number, (token, _))| (token, number))
        };
        for (token, number) in of_kind(TokenKind::Normal) {
            if let Some(byte) = pack::single_byte(token) {
                bytes[usize::from(byte)] = number;
            }
        }
        // Llama 3's tokenizer takes a piece that is a token as it is, whatever the merges would give.
        let whole_pieces = (pack.pre_tokenizer == PreTokenizer::Llama3)
            .then(|| of_kind(TokenKind::Normal).map(|(token, number)| (token_text(token).into(), number)).collect());
        let controls = ControlTokens::new(of_kind(TokenKind::Control).map(|(token, number)| (token.clone(), number)));
        let name = |token: Option<u32>| token.and_then(|token| pack.tokens.get(token as usize)).map(String::as_str);
        let template = ChatTemplate::new(&pack.template, controls, name(pack.begin), name(pack.end))
            .map_err(BuildTextModelError::Template)?;
        let table = TokenTable::new(pack.tokens.iter().zip(&pack.kinds).map(|(token, kind)| match kind {
            TokenKind::Control => Cow::Borrowed([].as_slice()),
            TokenKind::UserDefined => Cow::Borrowed(token.as_bytes()),
            TokenKind::Normal | TokenKind::Unused => Cow::Owned(token_text(token)),
        }));
        Ok(Self(Arc::new(Parts {
            pre_tokenizer: pack.pre_tokenizer,
            bpe: Bpe::new(bytes, merges),
            whole_pieces,
            user_defined: UserDefined::new(of_kind(TokenKind::UserDefined)),
            template,
            table: Arc::new(table),
            begin: pack.begin.filter(|_| pack.add_begin).map(TokenId),
            ends: pack.end_tokens().collect(),
            context: pack.context_length(),
        })))
    }

    /// The tokens that ask this model for its next answer.
    ///
    /// # Errors
    /// [`RenderPromptError`] when the model's template does not take this conversation.
    pub fn prompt_tokens(&self, request: &ChatRequest) -> Result<SecretTokens, RenderPromptError> {
        let segments = self.0.template.render(request)?;
        // A token has at least one byte, so the buffer never grows and leaves no copy behind.
        let most = segments.iter().map(|segment| match segment {
            Segment::Plain(text) => text.len(),
            Segment::Control(_) => 1,
        });
        let mut tokens = Vec::with_capacity(1 + most.sum::<usize>());
        let first_control = segments.first().and_then(|segment| match segment {
            Segment::Control(token) => Some(TokenId(*token)),
            Segment::Plain(_) => None,
        });
        // Many templates write the first token themselves.
        tokens.extend(self.0.begin.filter(|begin| first_control != Some(*begin)));
        let mut workspace = Workspace::default();
        for segment in &segments {
            match segment {
                Segment::Control(token) => tokens.push(TokenId(*token)),
                Segment::Plain(text) => self.encode_user_defined(text.expose(), &mut workspace, &mut tokens),
            }
        }
        Ok(SecretTokens::new(tokens))
    }

    /// The tokens of a text in which no token is special, neither a control token nor one that always stays whole.
    #[must_use]
    pub fn text_tokens(&self, text: &str) -> SecretTokens {
        let mut tokens = Vec::with_capacity(text.len());
        self.encode(text, &mut Workspace::default(), &mut tokens);
        SecretTokens::new(tokens)
    }

    /// The tokens that end an answer, ascending.
    #[must_use]
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.0.ends
    }

    /// How long prompt and answer may be together.
    #[must_use]
    pub fn context_length(&self) -> TokenCount {
        self.0.context
    }

    /// A decoder for one answer.
    #[must_use]
    pub fn decoder(&self) -> TokenDecoder {
        TokenDecoder::new(Arc::clone(&self.0.table))
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.0.table.len()
    }

    /// What a token adds to an answer's text: nothing for a control token. `None` beyond the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.0.table.bytes(token)
    }

    fn encode_user_defined(&self, text: &str, workspace: &mut Workspace, tokens: &mut Vec<TokenId>) {
        let mut rest = text;
        while let Some((at, length, token)) = self.0.user_defined.find(rest) {
            self.encode(&rest[..at], workspace, tokens);
            tokens.push(token);
            rest = &rest[at + length..];
        }
        self.encode(rest, workspace, tokens);
    }

    fn encode(&self, text: &str, workspace: &mut Workspace, tokens: &mut Vec<TokenId>) {
        for piece in self.0.pre_tokenizer.pieces(text) {
            let whole = self.0.whole_pieces.as_ref().and_then(|pieces| pieces.get(piece.as_bytes()));
            match whole {
                Some(token) => tokens.push(TokenId(*token)),
                None => self.0.bpe.encode(piece.as_bytes(), workspace, tokens),
            }
        }
    }
}

/// The bytes of a normal token. Characters outside the alphabet, which occur in padding only, stand for themselves.
fn token_text(token: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match alphabet::byte(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
