//! Texts that are to become vectors, and what became of them.

use darkbloom_types::{SecretString, SecretTokens, SecretVector, TokenCount};

/// Most texts of one request: OpenAI's interface takes as many.
pub const EMBEDDING_INPUTS_MAX: usize = 2_048;
/// Most tokens of all texts of one request: OpenAI's limit.
pub const EMBEDDING_TOKENS_MAX: usize = 300_000;

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// In letters. It gets the tokens around it that the model's tokenizer says.
    Text(SecretString),
    /// In tokens, which are taken as they are.
    Tokens(SecretTokens),
}

/// What is to become vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// 1 to [`EMBEDDING_INPUTS_MAX`] texts, none of which is empty.
    pub inputs: Vec<EmbeddingInput>,
    /// How many numbers each vector is to have, where the caller says so.
    pub dimensions: Option<u32>,
}

/// What became of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// A vector of length 1 for each text, in order.
    pub vectors: Vec<SecretVector>,
    /// Tokens of all texts together.
    pub input_tokens: TokenCount,
}
