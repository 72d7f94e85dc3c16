//! The texts of a model that makes vectors of them.

use std::sync::Arc;

use darkbloom_types::{Digest, SecretTokens, TokenCount, TokenId};

use crate::bpe::Workspace;
use crate::gguf::{Metadata, ReadGgufError};
use crate::pack::{InvalidPackError, TextPack};
use crate::tokenizer::Tokenizer;

/// The tokenizer of a model that makes vectors of texts. Its file needs no chat template. Cheap to clone; keeps nothing of
/// what it is given.
#[derive(Clone)]
pub struct EmbeddingTokenizer(Arc<Parts>);

struct Parts {
    tokenizer: Tokenizer,
    vocabulary: usize,
    begin: Option<TokenId>,
    end: Option<TokenId>,
    text_pack: Digest,
}

impl EmbeddingTokenizer {
    /// Takes the tokenizer out of metadata that was already read. Which tokens stand around a text, the keys
    /// `tokenizer.ggml.add_bos_token` and `add_eos_token` say, as they do to llama.cpp (ggml-org/ggml docs/gguf.md).
    ///
    /// # Errors
    /// [`ReadGgufError`] when something is missing or not sound.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, ReadGgufError> {
        let pack = TextPack::with_or_without_template(metadata)?;
        let add_end = metadata.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        if add_end && pack.end.is_none() {
            return Err(InvalidPackError::UnknownToken("last").into());
        }
        Ok(Self(Arc::new(Parts {
            tokenizer: Tokenizer::new(&pack),
            vocabulary: pack.vocabulary(),
            begin: pack.begin.filter(|_| pack.add_begin).map(TokenId),
            end: pack.end.filter(|_| add_end).map(TokenId),
            text_pack: pack.digest(),
        })))
    }

    /// The digest of the text pack: with no template where its file has none.
    #[must_use]
    pub fn text_pack(&self) -> Digest {
        self.0.text_pack
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary
    }

    /// A text's tokens with those that stand around it, if they are `most` at most. Otherwise the work ends early, as
    /// [`crate::TextModel::prompt_tokens_within`] does.
    #[must_use]
    pub fn tokens_within(&self, text: &str, most: TokenCount) -> Option<SecretTokens> {
        let Parts { tokenizer, begin, end, .. } = &*self.0;
        let around = usize::from(begin.is_some()) + usize::from(end.is_some());
        let most = most.0 as usize;
        if around.saturating_add(tokenizer.tokens_min(text.len()).0 as usize) > most {
            return None;
        }
        // A token has at least one byte, so the buffer never grows and leaves no copy behind.
        let mut tokens = Vec::with_capacity(around + text.len());
        tokens.extend(begin);
        let whole = tokenizer.encode(text, most - usize::from(end.is_some()), &mut Workspace::default(), &mut tokens);
        tokens.extend(end);
        let tokens = SecretTokens::new(tokens);
        // Without the room for a token of each byte, since it may have to wait for its turn.
        whole.then(|| SecretTokens::new(tokens.expose().to_vec()))
    }
}

impl std::fmt::Debug for EmbeddingTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingTokenizer").field("vocabulary", &self.vocabulary()).finish_non_exhaustive()
    }
}
