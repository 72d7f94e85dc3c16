//! Texts as vectors: what a model makes of a text, pooled over its tokens.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use darkbloom_types::{SecretVector, TokenId};
use zeroize::Zeroize as _;

use super::loaded::Loaded;
use super::raw::{Batch, Context};
use super::{Adapter, LlamaSettings, LoadModelError};
use crate::gguf::Pooling;

/// Most texts of one call: OpenAI's interface takes as many.
const TEXTS_MAX: usize = 2_048;
/// Tokens in one step. llama.cpp computes the logits of each token whose state is asked for, though nobody reads them: with the
/// largest vocabularies these take 256 MiB.
pub(super) const STEP_TOKENS: usize = 256;

/// Tokens of a model's first step, while nothing is known about what they take: with 8 B parameters and one slow thread, 3 s.
const FIRST_STEP_TOKENS: usize = 16;
/// What a step should take at most: so long goes on what nobody waits for any more, and the limit after which a step is
/// interrupted is far away.
const STEP_SECONDS: f64 = 5.0;

/// The code of a forward that left no state where one was asked for.
const NO_STATE: i32 = -100;

/// Why texts were not embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// More texts than one call takes.
    #[error("there are more than {TEXTS_MAX} texts")]
    TooMany,
    /// A text has no tokens.
    #[error("text {at} is empty")]
    Empty {
        /// Which, from 0.
        at: usize,
    },
    /// A text is longer than a row.
    #[error("text {at} has {tokens} tokens, and the limit is {most}")]
    TooLong {
        /// Which, from 0.
        at: usize,
        /// How many tokens it has.
        tokens: usize,
        /// How many it may have.
        most: usize,
    },
    /// A text has a token that the model does not know.
    #[error("text {at} has a token outside the vocabulary")]
    UnknownToken {
        /// Which, from 0.
        at: usize,
    },
    /// Whoever asked for it ended it.
    #[error("it was ended before it was done")]
    Ended,
    /// A step of it was interrupted: it took too long.
    #[error("a step took too long and was interrupted")]
    Interrupted,
    /// llama.cpp failed.
    #[error("the model's backend failed with code {code}")]
    Backend {
        /// What it returned.
        code: i32,
    },
    /// What came of a text has no direction: its numbers are zeros, or none at all.
    #[error("what the model makes of text {at} is no vector")]
    NoVector {
        /// Which, from 0.
        at: usize,
    },
}

/// A model that makes vectors of texts.
///
/// Where it is exact, a text's vector has the same bits alone and among others: tokens meet the same kernels, and are pooled
/// here, one after the other. llama.cpp's own pooling adds over all texts of a step.
pub struct LlamaEmbedder {
    context: Context,
    batch: Batch,
    pooling: Pooling,
    vocabulary: usize,
    sequences: usize,
    text_tokens_max: usize,
    step_tokens_max: usize,
    step_size: StepSize,
    company: bool,
}

impl LlamaEmbedder {
    /// Loads a model as [`super::LlamaExecutor::load_open`] does, for `rows_max` texts at a time of up to `row_tokens_max`
    /// tokens. How their tokens are pooled, its file says.
    ///
    /// # Errors
    /// As there, and [`LoadModelError::NoPooling`].
    pub fn load_open(
        file: File,
        adapters: Vec<Adapter>,
        settings: &LlamaSettings,
        progress: &mut dyn FnMut(f32) -> bool,
    ) -> Result<Self, LoadModelError> {
        let step_tokens_max = settings.step_tokens_max.min(STEP_TOKENS.max(settings.rows_max));
        let settings = LlamaSettings { step_tokens_max, ..*settings };
        let loaded = Loaded::open(file, adapters, &settings, progress)?;
        let pooling = loaded.header.pooling.ok_or(LoadModelError::NoPooling)?;
        let context = loaded.context(&settings, step_tokens_max + settings.rows_max, true)?;
        Ok(Self {
            context,
            batch: Batch::default(),
            pooling,
            vocabulary: loaded.model.vocabulary(),
            sequences: settings.rows_max,
            text_tokens_max: loaded.row_tokens_max(&settings),
            step_tokens_max,
            step_size: StepSize(FIRST_STEP_TOKENS),
            company: loaded.needs.company,
        })
    }

    /// How many numbers a vector has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.context.state_width()
    }

    /// How many tokens a text may have.
    #[must_use]
    pub fn text_tokens_max(&self) -> usize {
        self.text_tokens_max
    }

    /// A vector of length 1 for each text, in order, as long as it is to go on, which is asked before each step. Their keys and
    /// values stay in memory until [`Self::erase`] or other texts overwrite them.
    ///
    /// # Errors
    /// [`EmbedError`] says which text is at fault; then there is no vector of any.
    pub fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError> {
        self.check(texts)?;
        let mut vectors = Vec::with_capacity(texts.len());
        let mut fed = Ok(());
        for (nth, group) in texts.chunks(self.sequences).enumerate() {
            fed = self.embed_group(nth * self.sequences, group, goes_on, &mut vectors);
            if fed.is_err() {
                break;
            }
        }
        self.batch.clear();
        if fed.is_err() {
            // What was begun must not be taken for the next text's.
            (0..self.sequences).for_each(|sequence| self.context.forget(sequence, 0));
        }
        fed.map(|()| vectors)
    }

    /// Ends the step that runs when it becomes true: then nothing comes of its texts. Whoever sets it takes it back.
    #[must_use]
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        self.context.interrupt()
    }

    /// Overwrites what texts left in memory. With many long rows that takes a while.
    pub fn erase(&mut self) {
        self.context.erase();
    }

    fn check(&self, texts: &[&[TokenId]]) -> Result<(), EmbedError> {
        if texts.len() > TEXTS_MAX {
            return Err(EmbedError::TooMany);
        }
        for (at, text) in texts.iter().enumerate() {
            if text.is_empty() {
                return Err(EmbedError::Empty { at });
            }
            if text.len() > self.text_tokens_max {
                return Err(EmbedError::TooLong { at, tokens: text.len(), most: self.text_tokens_max });
            }
            if text.iter().any(|token| token.0 as usize >= self.vocabulary) {
                return Err(EmbedError::UnknownToken { at });
            }
        }
        Ok(())
    }

    /// Embeds as many texts as there are sequences, or fewer, the first of which is text `first` of the call.
    fn embed_group(
        &mut self,
        first: usize,
        texts: &[&[TokenId]],
        goes_on: &dyn Fn() -> bool,
        vectors: &mut Vec<SecretVector>,
    ) -> Result<(), EmbedError> {
        let mut pools: Vec<_> = texts.iter().map(|_| Pool::new(self.context.state_width())).collect();
        let mut held = vec![0; texts.len()];
        while held.iter().zip(texts).any(|(held, text)| *held < text.len()) {
            if !goes_on() {
                return Err(EmbedError::Ended);
            }
            self.step(texts, &mut held, &mut pools)?;
        }
        for sequence in 0..texts.len() {
            self.context.forget(sequence, 0);
        }
        for (at, (pool, text)) in pools.into_iter().zip(texts).enumerate() {
            let tokens = if self.pooling == Pooling::Mean { text.len() } else { 1 };
            vectors.push(pool.vector(tokens).ok_or(EmbedError::NoVector { at: first + at })?);
        }
        Ok(())
    }

    /// One forward: of each text in turn as many tokens as there is room for.
    fn step(&mut self, texts: &[&[TokenId]], held: &mut [usize], pools: &mut [Pool]) -> Result<(), EmbedError> {
        self.batch.clear();
        let mut wanted = Vec::new();
        let most = self.step_tokens_max.min(self.step_size.0);
        let mut room = most;
        for (sequence, text) in texts.iter().enumerate() {
            let from = held[sequence];
            let to = text.len().min(from + room);
            room -= to - from;
            for at in from..to {
                let pooled = match self.pooling {
                    Pooling::Mean => true,
                    Pooling::First => at == 0,
                    Pooling::Last => at + 1 == text.len(),
                };
                let place = self.batch.push(text[at].0, at, sequence, pooled);
                if pooled {
                    wanted.push((place, sequence));
                }
            }
            held[sequence] = to;
        }
        let filled = if self.company { self.batch.add_company() } else { Vec::new() };
        let fed = most - room;
        let began = Instant::now();
        let code = self.context.decode(&mut self.batch);
        match code {
            0 => self.step_size.learn(fed, most, began.elapsed().as_secs_f64()),
            2 => {
                self.step_size.interrupted(fed);
                return Err(EmbedError::Interrupted);
            }
            code => return Err(EmbedError::Backend { code }),
        }
        for (place, sequence) in wanted {
            let state = self.context.state_of(place);
            // Without one token's state the mean would be another.
            pools[sequence].add(state.ok_or(EmbedError::Backend { code: NO_STATE })?);
        }
        for sequence in filled {
            self.context.forget(sequence, held[sequence]);
        }
        Ok(())
    }
}

/// How many tokens take [`STEP_SECONDS`], by what was seen of steps; one at least.
struct StepSize(usize);

impl StepSize {
    /// A step of `fed` tokens, of at `most` so many, took so many seconds. A shorter one says little about longer ones, unless
    /// they could be longer still or even it took too long.
    fn learn(&mut self, fed: usize, most: usize, took: f64) {
        // A number beyond every integer becomes the largest one.
        let tokens = (fed as f64 * STEP_SECONDS / took.max(f64::MIN_POSITIVE)).max(1.0) as usize;
        if fed == most || tokens > self.0 || took > STEP_SECONDS {
            self.0 = tokens;
        }
    }

    /// A step of so many tokens took too long.
    fn interrupted(&mut self, fed: usize) {
        self.0 = (fed / 2).max(1);
    }
}

/// The sum over a text's tokens, wiped on drop.
struct Pool(Vec<f64>);

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Pool {
    fn new(width: usize) -> Self {
        Self(vec![0.0; width])
    }

    fn add(&mut self, state: &[f32]) {
        for (sum, number) in self.0.iter_mut().zip(state) {
            *sum += f64::from(*number);
        }
    }

    /// Its mean over so many tokens, with a length of 1.
    fn vector(&self, tokens: usize) -> Option<SecretVector> {
        let length = self.0.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
        // The mean's direction is the sum's.
        (tokens > 0 && length.is_finite() && length > 0.0)
            .then(|| SecretVector::new(self.0.iter().map(|sum| (sum / length) as f32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_as_long_as_the_last_full_one_lets_hope_and_never_empty() {
        let mut size = StepSize(16);
        let mut after = |fed, most, took| {
            size.learn(fed, most, took);
            size.0
        };
        assert_eq!(after(16, 16, 1.0), 80);
        assert_eq!(after(80, 80, 50.0), 8);
        assert_eq!(after(8, 8, 4.0), 10);
        assert_eq!(after(1, 10, 2.0), 10, "mostly what any step takes");
        assert_eq!(after(3, 10, 15.0), 1, "even that was too long");
        assert_eq!(after(1, 1, 60.0), 1);
        assert_eq!(after(1, 1, 0.0), usize::MAX);
        size.interrupted(256);
        assert_eq!(size.0, 128);
        size.interrupted(1);
        assert_eq!(size.0, 1);
    }
}
