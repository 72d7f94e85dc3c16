//! Counting the tokens of prompts: on threads of their own, and no more at once than there are cores.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use darkbloom_content::{ChatRequest, Role};
use darkbloom_text::{Opening, TextModel};
use darkbloom_types::{Refusal, RefusalCode, TokenCount};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{Operation, Timing};

/// Where prompts are counted. A prompt of a mebibyte takes a core for a good while, and cannot be stopped once it is
/// begun: on the workers that carry all answers it would hold up every one of them.
pub struct Counting {
    places: Arc<Semaphore>,
}

impl Default for Counting {
    /// One place a core: more at once would only take turns.
    fn default() -> Self {
        Self::new(available_parallelism().map_or(1, NonZero::get))
    }
}

impl Counting {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)) }
    }

    /// Does this work on another thread, when it is its turn. Whoever goes away before gives up the turn; what has begun
    /// keeps its place to its end.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
        let internal = |error: String| Refusal::new(RefusalCode::Internal, error);
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|error| internal(error.to_string()))?;
        let worked = spawn_blocking(move || {
            let _place = place;
            work()
        });
        worked.await.map_err(|_| {
            // What a panic says may quote the prompt.
            tracing::error!("a prompt could not be counted");
            RefusalCode::Internal.into()
        })
    }

    /// Counts an operation's prompt, and adds how long that took, without the wait for a turn.
    pub async fn count(
        &self,
        text: &TextModel,
        context: TokenCount,
        operation: Operation,
        timing: &mut Timing,
    ) -> Result<(Operation, Counted), Refusal> {
        refuse_early(text, context, &operation.request)?;
        let text = text.clone();
        let counted = self.run(move || {
            let began = Instant::now();
            let counted = count(&text, &operation.request);
            (began.elapsed(), counted.map(|counted| (operation, counted)))
        });
        let (took, counted) = counted.await?;
        timing.parse(took);
        counted
    }
}

/// What a prompt says before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Its tokens.
    pub tokens: TokenCount,
    /// Within what its answer begins.
    pub opening: Opening,
}

/// Makes the prompt, as the model's own tokenizer and template do.
fn count(text: &TextModel, request: &ChatRequest) -> Result<Counted, Refusal> {
    let tokens = text.prompt_tokens(request);
    let tokens = tokens.map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
    let opening = text.opening(&tokens);
    Ok(Counted { tokens: TokenCount(u32::try_from(tokens.len()).unwrap_or(u32::MAX)), opening })
}

/// Refuses a prompt that cannot fit, however it is counted. What users wrote stands in every prompt, but for white space
/// around it: templates trim that, and may leave out what the model thought before or a second system message.
fn refuse_early(text: &TextModel, context: TokenCount, request: &ChatRequest) -> Result<(), Refusal> {
    let said = request.messages.iter().filter(|message| message.role == Role::User);
    let bytes: usize = said.map(|message| message.content.expose().trim().len()).sum();
    let least = text.tokens_min(bytes);
    if least < context {
        return Ok(());
    }
    let detail = format!("the prompt has at least {least} tokens, the model's context is {context} tokens");
    Err(Refusal::new(RefusalCode::ContextLengthExceeded, detail))
}

#[cfg(test)]
mod tests;
