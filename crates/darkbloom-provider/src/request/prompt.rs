//! From a request's plaintext to the tokens of its prompt, beside the threads that carry frames.
//!
//! A header's ceiling is the client's word, and what it is worth shows only when the prompt is tokenised. So the work is
//! bounded by that word: a text that is too long for it is refused by its length.

use std::sync::Arc;

use darkbloom_batch::SharedGuide;
use darkbloom_content::ChatRequest;
use darkbloom_text::{MakePromptError, Opening};
use darkbloom_types::{Refusal, RefusalCode, SecretBytes, SecretTokens, TokenCount};
use tokio::sync::Semaphore;

use crate::model::LoadedModel;
use crate::shelf::Loan;

/// A request that was read.
pub struct Asked {
    pub request: ChatRequest,
    pub prompt: SecretTokens,
    /// Within what the answer begins.
    pub opening: Opening,
    /// What the answer is held to.
    pub guide: Option<SharedGuide>,
}

/// Reads a request and makes its prompt, once there is a place for that.
pub async fn read(model: Loan, plaintext: SecretBytes, ceiling: TokenCount) -> Result<Asked, Refusal> {
    let tokenisers = Arc::clone(&model.tokenisers);
    aside(tokenisers, move || make(&model, &plaintext, ceiling)).await
}

/// Makes the prompt of a request that was read already.
pub async fn make_within(model: Loan, request: ChatRequest, room: TokenCount) -> Result<Asked, Refusal> {
    let tokenisers = Arc::clone(&model.tokenisers);
    let make = move || match model.text.prompt_tokens_within(&request, room) {
        Ok(prompt) => asked(&model, request, prompt),
        Err(MakePromptError::Render(error)) => Err(Refusal::new(RefusalCode::InvalidRequest, error.to_string())),
        Err(MakePromptError::TooManyTokens { .. }) => {
            let detail = format!("the prompt has more than the {room} tokens that a row here has room for");
            Err(Refusal::new(RefusalCode::ContextLengthExceeded, detail))
        }
    };
    aside(tokenisers, make).await
}

/// Works beside the threads that carry frames, once there is a place for that.
pub async fn aside<T: Send + 'static>(
    tokenisers: Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let place = tokenisers.acquire_owned().await.map_err(|_| RefusalCode::Internal)?;
    let work = tokio::task::spawn_blocking(move || {
        // Held until the work is done, also when nobody waits for it any more: it is the work that is bounded.
        let _place = place;
        work()
    });
    work.await.unwrap_or_else(|_| {
        // What a panic says may quote the prompt.
        tracing::error!("a prompt could not be made");
        Err(RefusalCode::Internal.into())
    })
}

/// A request whose prompt fits, and what its answer is held to.
fn asked(model: &LoadedModel, request: ChatRequest, prompt: SecretTokens) -> Result<Asked, Refusal> {
    let opening = model.text.opening(&prompt);
    let guide = model.guides.guide(&model.text, &request, opening)?;
    Ok(Asked { request, prompt, opening, guide })
}

fn make(model: &LoadedModel, plaintext: &SecretBytes, ceiling: TokenCount) -> Result<Asked, Refusal> {
    let invalid = |detail: String| Refusal::new(RefusalCode::InvalidRequest, detail);
    let request = ChatRequest::from_cbor(plaintext.expose()).map_err(|error| invalid(error.to_string()))?;
    // A row has to have room for one token of the answer.
    let room = TokenCount(model.row_tokens.0.saturating_sub(1));
    match model.text.prompt_tokens_within(&request, ceiling.min(room)) {
        Ok(prompt) => asked(model, request, prompt),
        Err(MakePromptError::Render(error)) => Err(invalid(error.to_string())),
        Err(MakePromptError::TooManyTokens { .. }) if ceiling <= room => {
            Err(invalid(format!("the prompt has more than the {ceiling} tokens that its header allows")))
        }
        Err(MakePromptError::TooManyTokens { .. }) => {
            let detail = format!("more than {room} tokens in the prompt, a row here holds {}", model.row_tokens);
            Err(Refusal::new(RefusalCode::RowTooSmall, detail))
        }
    }
}
