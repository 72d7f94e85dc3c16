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

    /// Prompts all rows with the same tokens, decodes `output` tokens of each greedily, and returns output tokens a second,
    /// from the first step to the last, prefill included: what a consumer of all rows would see.
    ///
    /// # Errors
    /// [`BareError`] when a step fails.
    pub fn run(&mut self, rows: usize, prompt: &SecretTokens, output: u32) -> Result<f64, BareError> {
        let greedy = Arc::new(Sampling::greedy());
        let work = |slot: usize, start: u32, tokens: Vec<TokenId>, position: u32| RowWork {
            slot: Slot(u32::try_from(slot).unwrap_or(u32::MAX)),
            id: RowId(slot as u64 + 1),
            start,
            tokens: SecretTokens::new(tokens),
            guesses: 0,
            sample: Some(SampleAt::new(Arc::clone(&greedy), position)),
        };
        let prompt_tokens = prompt.expose();
        let length = u32::try_from(prompt_tokens.len()).unwrap_or(u32::MAX);
        let mut last = vec![TokenId(0); rows];
        let began = Instant::now();
        for index in 0..output {
            let forget = |slot| MemoryOp::Forget { slot: Slot(slot as u32), from: 0 };
            let memory = if index == 0 { (0..rows).map(forget).collect() } else { Vec::new() };
            let rows_work = (0..rows)
                .map(|slot| match index {
                    0 => work(slot, 0, prompt_tokens.to_vec(), 0),
                    _ => work(slot, length + index - 1, vec![last[slot]], index),
                })
                .collect();
            let step = self.executor.step(&StepPlan { memory, rows: rows_work })?;
            for sampled in step.sampled {
                let slot = sampled.slot.0 as usize;
                let tokens = sampled.tokens.map_err(|_| BareError::NoToken)?;
                last[slot] = tokens.last().ok_or(BareError::NoToken)?.token;
            }
        }
        Ok((rows as u32 * output) as f64 / began.elapsed().as_secs_f64())
    }
}
