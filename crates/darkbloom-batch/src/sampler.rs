//! One token from one row's logits.

mod history;
mod weights;
mod wide;

use std::fmt;

use darkbloom_types::TokenId;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::stream::uniform;
use crate::{GuideError, Sampling, TokenMask};
use history::Penalties;
use weights::Weights;
use wide::{Scale, Wide, logarithm};

/// Most logits of a row: sixteen times the largest vocabularies of today's models, and what bounds a sampler's memory
/// (40 bytes for each).
pub const VOCABULARY_MAX: usize = 1 << 22;

/// Why logits give no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// There are none.
    #[error("there are no logits")]
    Empty,
    /// One of them is infinite or not a number.
    #[error("a logit is not a finite number")]
    NotFinite,
    /// More than a sampler has memory for.
    #[error("there are more than {VOCABULARY_MAX} logits")]
    TooMany,
    /// The row's mask allows not one token of the vocabulary: its constraints cannot be met any more.
    #[error("no token is allowed")]
    NothingAllowed,
    /// There is no mask for the row.
    #[error(transparent)]
    Guide(#[from] GuideError),
    /// The row's logit bias names a token that has no logit.
    #[error("logit_bias names a token outside the model's vocabulary")]
    UnknownToken,
}

/// What decides a draw, beside the logits.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    /// The row's own sampling, as [`Sampling::check`] accepts it. With another the token is some allowed one.
    pub sampling: &'a Sampling,
    /// The place in the answer, from 0, which with the seed decides the draw.
    pub position: u32,
    /// The prompt and the answer so far.
    pub history: &'a [TokenId],
    /// How many tokens of the history are the prompt's.
    pub prompt_tokens: usize,
    /// What may come next; everything when there is no mask.
    pub mask: Option<&'a TokenMask>,
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: TokenId,
    /// How likely it and others were, if the sampling asks for it.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of probabilities in one place of an answer. They say what the answer is, or may have been, so they
/// show nothing and are wiped on drop.
///
/// They are those of the model itself: the softmax of its logits as they came, before bias, mask, penalties, temperature
/// and truncation. That is what OpenAI's programs measure and compare with, and what vLLM gives (`raw_logprobs`):
/// figures that do not change with how a caller samples.
#[derive(Clone, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct Logprobs {
    /// Of the token that was drawn.
    pub chosen: f32,
    /// Of the most likely tokens, the most likely first and among equals the lower id. The one drawn need not be there.
    pub top: Vec<(TokenId, f32)>,
}

impl fmt::Debug for Logprobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logprobs(…)")
    }
}

/// Draws tokens. The result is a function of the arguments alone; what the sampler keeps is memory to work in.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
pub struct Sampler {
    #[zeroize(skip)]
    wide: Wide,
    /// The logits after what changes them.
    changed: Vec<f32>,
    /// The largest logit of each block.
    peaks: Vec<f32>,
    weights: Weights,
    penalties: Penalties,
}

impl Sampler {
    /// A sampler without working memory; it grows to the vocabulary's size when first needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Overwrites the working memory, which from one draw to the next holds logits and likely tokens.
    pub fn erase(&mut self) {
        self.zeroize();
    }

    /// The token for one place in an answer. `position` and the seed decide the draw among what the rest leaves, and no
    /// other row does.
    ///
    /// What changes logits comes first, in this order: the bias; the mask; the repetition, frequency and presence
    /// penalties; DRY. The most likely token is taken then if the temperature is 0. Otherwise the temperature divides the
    /// logits, and each of these keeps some of the tokens that the one before it left, whose probabilities add up to 1
    /// again: top-k, typical, top-p, min-p. This is vLLM's order of changes and of temperature before truncation, which
    /// OpenAI's programs expect, and llama.cpp's order of truncations (whose own default divides by the temperature last).
    /// Every truncation leaves at least one token; among equally likely ones those with lower ids stay.
    ///
    /// Weights are powers of two, computed with arithmetic that gives the same bits on every machine, and the draw walks
    /// what is left in the vocabulary's order. No more than the neighbourhood of what is left is ever ordered, and that
    /// only as far as a selection needs.
    ///
    /// # Errors
    /// When the logits are not usable, or nothing is allowed.
    pub fn draw(&mut self, logits: &[f32], draw: &Draw<'_>) -> Result<Drawn, SampleError> {
        if logits.is_empty() {
            return Err(SampleError::Empty);
        }
        if logits.len() > VOCABULARY_MAX {
            return Err(SampleError::TooMany);
        }
        if !self.wide.survey(logits, &mut self.peaks) {
            return Err(SampleError::NotFinite);
        }
        let told = draw.sampling.logprobs.map(|count| self.tell(logits, count));
        let mut changed = std::mem::take(&mut self.changed);
        let token = match self.change(logits, draw, &mut changed) {
            Ok(false) => self.choose(logits, draw),
            Ok(true) => self.choose(&changed, draw),
            Err(error) => Err(error),
        };
        self.changed = changed;
        let token = token?;
        let logprobs = told.map(|told| Logprobs { chosen: told.of(logits[token as usize]), top: told.top });
        Ok(Drawn { token: TokenId(token), logprobs })
    }

    /// What the model itself says.
    fn tell(&mut self, logits: &[f32], count: u32) -> Told {
        let largest = self.largest();
        let mass = self.wide.mass(logits, Scale::new(largest, 1.0));
        let mut told = Told { largest, log_mass: logarithm(mass), top: Vec::new() };
        if count > 0 {
            let largest = self.weights.largest(self.wide, logits, &self.peaks, count as usize);
            told.top = largest.map(|(token, logit)| (TokenId(token), told.of(logit))).collect();
        }
        told
    }

    /// Leaves in `changed` what bias, penalties and mask make of the logits, and their peaks in `peaks`; nothing when
    /// they change nothing. Returns whether they do.
    fn change(&mut self, logits: &[f32], draw: &Draw<'_>, changed: &mut Vec<f32>) -> Result<bool, SampleError> {
        let sampling = draw.sampling;
        let output = draw.history.get(draw.prompt_tokens..).unwrap_or_default();
        let counts = sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0;
        let repetition = sampling.repetition_penalty != 1.0 && !draw.history.is_empty() || counts && !output.is_empty();
        let dry = sampling.dry.as_ref().filter(|dry| dry.multiplier > 0.0 && !draw.history.is_empty());
        if sampling.logit_bias.is_empty() && !repetition && dry.is_none() && draw.mask.is_none() {
            return Ok(false);
        }
        changed.clear();
        changed.extend_from_slice(logits);
        for &(token, bias) in &sampling.logit_bias {
            let logit = changed.get_mut(token.0 as usize).ok_or(SampleError::UnknownToken)?;
            // A bias is too small to take any number beyond the finite ones.
            *logit += bias;
        }
        if repetition {
            self.penalties.repetition(changed, sampling, draw.history, output);
        }
        if let Some(dry) = dry {
            self.penalties.dry(changed, dry, draw.history);
        }
        // What is not allowed is not allowed before the penalties as after them, and they expect finite numbers.
        if let Some(mask) = draw.mask {
            changed.resize(logits.len().next_multiple_of(wide::BLOCK), f32::NEG_INFINITY);
            self.wide.mask(changed, mask.words());
        }
        self.wide.peaks(changed, &mut self.peaks);
        Ok(true)
    }

    /// One of the tokens whose logits these are, with their peaks in `peaks`.
    fn choose(&mut self, logits: &[f32], draw: &Draw<'_>) -> Result<u32, SampleError> {
        let largest = self.largest();
        if largest == f32::NEG_INFINITY {
            return Err(SampleError::NothingAllowed);
        }
        let sampling = draw.sampling;
        let drawn = if sampling.temperature == 0.0 {
            None
        } else {
            let share = uniform(sampling.seed, draw.position);
            self.draw_share(logits, Scale::new(largest, sampling.temperature), sampling, share)
        };
        // Rounding can leave a share behind the last token.
        Ok(drawn.unwrap_or_else(|| self.first_largest(logits, largest)))
    }

    /// The token at a share of the probability that the truncations leave.
    fn draw_share(&mut self, logits: &[f32], scale: Scale, sampling: &Sampling, share: f64) -> Option<u32> {
        let Self { wide, peaks, weights, .. } = self;
        let wide = *wide;
        let top_k = sampling.top_k as usize;
        if (1..logits.len()).contains(&top_k) {
            weights.weigh_largest(wide, logits, peaks, scale, top_k);
        } else {
            weights.weigh(wide, logits, scale);
        }
        if sampling.typical_p < 1.0 {
            weights.keep_typical(wide, logits, scale, sampling.typical_p);
        }
        if sampling.top_p < 1.0 {
            weights.keep_nucleus(wide, logits, scale, sampling.top_p);
        }
        if sampling.min_p > 0.0 {
            weights.keep_share_of_largest(wide, sampling.min_p);
        }
        weights.walk(wide, share)
    }

    fn largest(&self) -> f32 {
        self.peaks.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The first of the largest logits.
    fn first_largest(&self, logits: &[f32], largest: f32) -> u32 {
        let block = self.peaks.iter().position(|&peak| peak == largest).unwrap_or(0);
        let start = block * wide::BLOCK;
        let place = logits[start..].iter().position(|&logit| logit == largest).unwrap_or(0) + start;
        u32::try_from(place).expect("VOCABULARY_MAX keeps places within 32 bits")
    }
}

/// The model's own probabilities.
struct Told {
    largest: f32,
    /// The logarithm of the sum of e ^ (logit − largest).
    log_mass: f64,
    top: Vec<(TokenId, f32)>,
}

impl Told {
    /// The logarithm of the probability of a token with this logit.
    fn of(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.largest) - self.log_mass) as f32
    }
}
