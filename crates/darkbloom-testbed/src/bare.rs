//! The floor: the executor in a plain loop, without scheduler, threads, text or sealing.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use darkbloom_batch::{MemoryOp, RowId, RowWork, SampleAt, Sampling, Slot, StepPlan};
use darkbloom_engine::{ExecuteError, Executor as _, LlamaExecutor, LlamaSettings, LoadModelError};
use darkbloom_types::{SecretTokens, TokenId};

/// Why the loop failed.
#[derive(Debug, thiserror::Error)]
pub enum BareError {
    /// The model.
    #[error(transparent)]
    Load(#[from] LoadModelError),
    /// A step.
    #[error(transparent)]
    Step(#[from] ExecuteError),
    /// The executor returned no token for a row.
    #[error("a row got no token")]
    NoToken,
}

/// A loaded model that is stepped by hand.
pub struct BareLoop {
    executor: LlamaExecutor,
}

impl BareLoop {
    /// Loads the model with the same settings as a provider would.
    ///
    /// # Errors
    /// [`BareError::Load`].
    pub fn load(model: &Path, settings: &LlamaSettings) -> Result<Self, BareError> {
        Ok(Self { executor: LlamaExecutor::load(model, settings)? })
    }

    /// Prompts the rows, decodes `output` tokens of each, and returns output tokens a second, from the first step to the last,
    /// prefill included: what a consumer of all rows would see.
    ///
    /// # Errors
    /// [`BareError`] when a step fails.
    pub fn run(&mut self, prompts: &[SecretTokens], sampling: &Arc<Sampling>, output: u32) -> Result<f64, BareError> {
        let work = |slot: usize, start: usize, tokens: &[TokenId], position: u32, draws: bool| RowWork {
            slot: Slot(slot as u32),
            id: RowId(slot as u64 + 1),
            start: start as u32,
            tokens: SecretTokens::new(tokens.to_vec()),
            guesses: 0,
            sample: draws.then(|| SampleAt::new(Arc::clone(sampling), position)),
        };
        let step_tokens = self.executor.capacity().step_tokens_max;
        let mut last = vec![TokenId(0); prompts.len()];
        let forget = |slot| MemoryOp::Forget { slot: Slot(slot as u32), from: 0 };
        let mut memory: Vec<_> = (0..prompts.len()).map(forget).collect();
        let began = Instant::now();
        for position in 0..output {
            let from = last.clone();
            let mut left: Vec<_> = prompts
                .iter()
                .enumerate()
                .map(|(slot, prompt)| match position {
                    0 => (slot, 0, prompt.expose()),
                    _ => (slot, prompt.len() + position as usize - 1, &from[slot..=slot]),
                })
                .collect();
            // As much at a time as fits into a step.
            while !left.is_empty() {
                let mut room = step_tokens;
                let rows = left
                    .iter_mut()
                    .map_while(|(slot, start, tokens)| {
                        let (fed, rest) = tokens.split_at(tokens.len().min(room));
                        room -= fed.len();
                        let row = (!fed.is_empty()).then(|| work(*slot, *start, fed, position, rest.is_empty()));
                        (*start, *tokens) = (*start + fed.len(), rest);
                        row
                    })
                    .collect();
                left.retain(|(_, _, tokens)| !tokens.is_empty());
                let step = self.executor.step(&StepPlan { memory: std::mem::take(&mut memory), rows })?;
                for sampled in step.sampled {
                    let tokens = sampled.tokens.map_err(|_| BareError::NoToken)?;
                    last[sampled.slot.0 as usize] = tokens.last().ok_or(BareError::NoToken)?.token;
                }
            }
        }
        Ok((prompts.len() as u32 * output) as f64 / began.elapsed().as_secs_f64())
    }
}
