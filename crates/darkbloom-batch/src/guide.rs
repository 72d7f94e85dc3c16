//! What holds an answer to a shape: a schema, or a call that must come.

use std::fmt;
use std::sync::{Arc, Mutex};

use darkbloom_types::{SecretTokens, TokenId};

use crate::TokenMask;

/// Why there is no mask for a place of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuideError {
    /// To find out what may come next is more work than a step may take.
    #[error("what may come next is too much work to find out")]
    TooComplex,
    /// Nothing may come next: the shape cannot be completed from here.
    #[error("nothing may come next")]
    DeadEnd,
    /// The answer so far is none that the guide allowed: the engine's bug, or the guide's.
    #[error("the answer has left its shape")]
    Strayed,
    /// It was not found out in time.
    #[error("what may come next was not found out in time")]
    Late,
}

/// Says what may come next in one row's answer. The engine asks on a thread of its own while the model's forward runs, so a
/// guide must depend on nothing but what it is given.
pub trait Guide: Send {
    /// What may follow on this answer, whose tokens are each one that was allowed at its place. Where it is complete, the
    /// row's stop tokens may follow, and where nothing else may, only they may: that is how the row ends.
    ///
    /// Usually the answer is the one of the call before and a token more. It may also have lost tokens that were guessed,
    /// and have others in their place.
    ///
    /// # Errors
    /// [`GuideError`]; the row then fails.
    fn mask(&mut self, answer: &[TokenId]) -> Result<TokenMask, GuideError>;
}

/// A row's guide, from its request to each of its steps.
#[derive(Clone)]
pub struct SharedGuide(Arc<Mutex<Box<dyn Guide>>>);

impl SharedGuide {
    /// Shares a guide, which is nobody else's.
    #[must_use]
    pub fn new(guide: impl Guide + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(guide))))
    }

    /// What may come after an answer, and then after each of these guesses at its next tokens, as far as they are allowed:
    /// one mask for each place in which a token can be drawn. The last entry alone can be an error.
    #[must_use]
    pub fn masks(&self, answer: &[TokenId], guesses: &[TokenId]) -> Vec<Result<TokenMask, GuideError>> {
        // A guide that panicked is in no known state.
        let Ok(mut guide) = self.0.lock() else { return vec![Err(GuideError::Strayed)] };
        let mut masks = Vec::with_capacity(guesses.len() + 1);
        let mut answer = SecretTokens::new(answer.to_vec());
        for guess in guesses.iter().copied().map(Some).chain([None]) {
            let mask = guide.mask(answer.expose());
            let goes_on = guess.filter(|guess| mask.as_ref().is_ok_and(|mask| mask.allows(*guess)));
            masks.push(mask);
            let Some(guess) = goes_on else { break };
            answer.extend(&[guess]);
        }
        masks
    }
}

impl PartialEq for SharedGuide {
    /// Whether both are one guide.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for SharedGuide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedGuide(…)")
    }
}
