//! Vectors of texts.

use std::sync::Arc;
use std::time::Duration;

use darkbloom_content::{EMBEDDING_TOKENS_MAX, EmbeddingInput, EmbeddingRequest, Embeddings};
use darkbloom_engine::EmbedError;
use darkbloom_types::{Refusal, RefusalCode, SecretTokens, TokenCount};

use super::Local;
use crate::embedder::LoadedEmbedder;
use crate::request::prompt::aside;
use crate::shelf::Shelf;

impl Local {
    /// Makes vectors of texts, once the model is in memory. Dropping the future ends it.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such model, no room for it, or the texts do not fit it.
    pub async fn embed(&self, model: &str, request: EmbeddingRequest) -> Result<Embeddings, Refusal> {
        let at = self.place_of(model)?;
        if !self.shelf.embeds(at) {
            let detail = "this model answers and makes no vectors: send it to `POST /v1/chat/completions`, or name one \
                          that makes vectors";
            return Err(invalid(detail));
        }
        let model = self.loaded(at, Shelf::lend_embedder_unless_leaving).await?;
        let EmbeddingRequest { inputs, dimensions } = request;
        if let Some(dimensions) = dimensions.filter(|dimensions| *dimensions != model.width) {
            let width = model.width;
            let detail = format!("`dimensions` is {dimensions}, and this model's vectors have {width}: leave it out");
            return Err(invalid(detail));
        }
        let (tokenisers, tokenising) = (Arc::clone(&model.tokenisers), model.clone());
        let texts = aside(tokenisers, move || tokens_of(&tokenising, inputs)).await?;
        let count = texts.iter().map(SecretTokens::len).sum::<usize>();
        let input_tokens = TokenCount(u32::try_from(count).expect("all texts together were limited"));
        // The model stays while the job does, also when nobody waits for it any more.
        let mut stopped = model.desk.stopped();
        let made = model.desk.submit(texts, model.clone())?;
        let made = tokio::select! {
            made = made => made.ok(),
            // A step did not come back, and nothing will.
            Ok(_) = stopped.wait_for(|stopped| *stopped) => None,
        };
        match made {
            Some(Ok(vectors)) => Ok(Embeddings { vectors, input_tokens }),
            Some(Err(error)) => Err(failed(error)),
            // It has broken, which is told elsewhere, or ends.
            None => Err(RefusalCode::Draining.into()),
        }
    }

    /// Ends what vectors are being made, and returns when nothing is, or after a few seconds. To be called when nobody asks
    /// any more: a process must not end while its model computes.
    pub async fn stop(&self) {
        self.shelf.end_vectors(END_WAIT).await;
    }
}

/// How long a step may take to end: one of 256 tokens takes 4 s with 0.6 B parameters and one slow thread.
const END_WAIT: Duration = Duration::from_secs(20);

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, detail)
}

/// The tokens of each text. None is cut: what does not fit is refused by its place.
fn tokens_of(model: &LoadedEmbedder, inputs: Vec<EmbeddingInput>) -> Result<Vec<SecretTokens>, Refusal> {
    let one = inputs.len() == 1;
    let place = |at: usize| if one { "`input`".to_owned() } else { format!("`input[{at}]`") };
    let most = model.text_tokens;
    let mut left = EMBEDDING_TOKENS_MAX;
    let mut texts = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.into_iter().enumerate() {
        let tokens = match input {
            EmbeddingInput::Text(text) => model.tokenizer.tokens_within(text.expose(), most),
            EmbeddingInput::Tokens(tokens) => (tokens.len() <= most.0 as usize).then_some(tokens),
        };
        let tokens = tokens.ok_or_else(|| {
            let detail = format!(
                "{} has more than the {most} tokens that a row of this model has room for: cut it, or start with a larger \
                 `--context`",
                place(at)
            );
            Refusal::new(RefusalCode::ContextLengthExceeded, detail)
        })?;
        if tokens.is_empty() {
            return Err(invalid(format!("{} is empty", place(at))));
        }
        if tokens.expose().iter().any(|token| token.0 as usize >= model.tokenizer.vocabulary()) {
            return Err(invalid(format!("{} has a token that this model does not know", place(at))));
        }
        left = left.checked_sub(tokens.len()).ok_or_else(|| {
            let detail = format!(
                "the texts have more than {EMBEDDING_TOKENS_MAX} tokens together: send them in several requests"
            );
            Refusal::new(RefusalCode::TooLarge, detail)
        })?;
        texts.push(tokens);
    }
    Ok(texts)
}

/// What was checked before is a bug where it is said here; the rest is the model's or its backend's fault.
fn failed(error: EmbedError) -> Refusal {
    tracing::error!(%error, "a model made no vectors");
    Refusal::new(RefusalCode::Internal, error.to_string())
}

#[cfg(test)]
mod tests;
