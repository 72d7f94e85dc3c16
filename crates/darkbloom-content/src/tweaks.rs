//! What changes how likely tokens are, beyond temperature and top_p.

use std::convert::Infallible;

use darkbloom_types::TokenId;
use minicbor::encode::{Encoder, Write};

use crate::cbor::{DecodeContentError, StrictReader, Written};

/// Highest frequency and presence penalty, and with another sign the lowest: what the OpenAI interface allows.
pub const PENALTY_MAX: f32 = 2.0;
/// Highest bias of a token, and with another sign the lowest: what the OpenAI interface allows.
pub const LOGIT_BIAS_VALUE_MAX: f32 = 100.0;
/// Most tokens with a bias: what the sampler takes.
pub const LOGIT_BIASES_MAX: usize = 1_024;
/// Highest repetition penalty. Beyond it a token that was used once never comes again.
pub const REPETITION_PENALTY_MAX: f32 = 10.0;

/// How likely tokens are changed. The default changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Tweaks {
    /// Taken off for each time that a token stands in the answer: up to [`PENALTY_MAX`] either way.
    pub frequency_penalty: f32,
    /// Taken off once when a token stands in the answer: up to [`PENALTY_MAX`] either way.
    pub presence_penalty: f32,
    /// Makes what stands in prompt or answer less likely: above 0, up to [`REPETITION_PENALTY_MAX`]; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Draw among so many likeliest tokens; 0 draws among all.
    pub top_k: u32,
    /// Draw among tokens at least so likely as this share of the likeliest; 0 draws among all.
    pub min_p: f32,
    /// Added to the likeliness of tokens, by ascending number: up to [`LOGIT_BIAS_VALUE_MAX`] either way.
    pub logit_bias: Vec<(TokenId, f32)>,
}

impl Default for Tweaks {
    fn default() -> Self {
        Self {
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            top_k: 0,
            min_p: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

/// Which of them is out of its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTweakError {
    /// Over [`PENALTY_MAX`] either way, or not a number.
    #[error("a penalty is not between -{PENALTY_MAX} and {PENALTY_MAX}")]
    Penalty,
    /// Not above 0, over [`REPETITION_PENALTY_MAX`], or not a number.
    #[error("the repetition penalty is not above 0 and at most {REPETITION_PENALTY_MAX}")]
    Repetition,
    /// Outside 0 to 1, or not a number.
    #[error("min_p is not between 0 and 1")]
    MinP,
    /// Too many, not in order, or out of [`LOGIT_BIAS_VALUE_MAX`].
    #[error(
        "the biases are not up to {LOGIT_BIASES_MAX} in order, each between -{LOGIT_BIAS_VALUE_MAX} and {LOGIT_BIAS_VALUE_MAX}"
    )]
    Bias,
}

const KEY_FREQUENCY: u64 = 1;
const KEY_PRESENCE: u64 = 2;
const KEY_REPETITION: u64 = 3;
const KEY_TOP_K: u64 = 4;
const KEY_MIN_P: u64 = 5;
const KEY_BIAS: u64 = 6;
const KEYS_MAX: u64 = 6;

impl Tweaks {
    /// Whether anybody would accept them.
    ///
    /// # Errors
    /// [`InvalidTweakError`] names the first that is out of its limits.
    pub fn check(&self) -> Result<(), InvalidTweakError> {
        let within = |value: f32, most: f32| (-most..=most).contains(&value);
        if !within(self.frequency_penalty, PENALTY_MAX) || !within(self.presence_penalty, PENALTY_MAX) {
            return Err(InvalidTweakError::Penalty);
        }
        if !(f32::MIN_POSITIVE..=REPETITION_PENALTY_MAX).contains(&self.repetition_penalty) {
            return Err(InvalidTweakError::Repetition);
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(InvalidTweakError::MinP);
        }
        let in_order = self.logit_bias.is_sorted_by(|(one, _), (next, _)| one < next);
        let all_within = self.logit_bias.iter().all(|(_, bias)| within(*bias, LOGIT_BIAS_VALUE_MAX));
        if self.logit_bias.len() > LOGIT_BIASES_MAX || !in_order || !all_within {
            return Err(InvalidTweakError::Bias);
        }
        Ok(())
    }

    /// Whether nothing is changed: then they are not written.
    pub(crate) fn is_neutral(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        let neutral = Self::default();
        let floats = [
            (KEY_FREQUENCY, self.frequency_penalty, neutral.frequency_penalty),
            (KEY_PRESENCE, self.presence_penalty, neutral.presence_penalty),
            (KEY_REPETITION, self.repetition_penalty, neutral.repetition_penalty),
        ];
        let changed = floats.iter().filter(|(_, value, neutral)| value != neutral);
        let others = [self.top_k != 0, self.min_p != 0.0, !self.logit_bias.is_empty()].map(u64::from);
        encoder.map(changed.clone().count() as u64 + others.iter().sum::<u64>())?;
        for (key, value, _) in changed {
            encoder.u64(*key)?.f32(*value)?;
        }
        if self.top_k != 0 {
            encoder.u64(KEY_TOP_K)?.u32(self.top_k)?;
        }
        if self.min_p != 0.0 {
            encoder.u64(KEY_MIN_P)?.f32(self.min_p)?;
        }
        if !self.logit_bias.is_empty() {
            encoder.u64(KEY_BIAS)?.array(self.logit_bias.len() as u64)?;
            for (token, bias) in &self.logit_bias {
                // Adding zero turns the negative zero into the one zero there is.
                encoder.array(2)?.u32(token.0)?.f32(*bias + 0.0)?;
            }
        }
        Ok(())
    }

    /// Reads what [`Self::write`] writes of tweaks that change something.
    pub(crate) fn read(reader: &mut StrictReader<'_>) -> Result<Self, DecodeContentError> {
        let out_of_range = DecodeContentError::OutOfRange { what: "how likely tokens are changed" };
        let mut map = reader.map(KEYS_MAX)?;
        let mut read = Self::default();
        while let Some(key) = map.key(reader)? {
            let before = read.clone();
            match key {
                KEY_FREQUENCY => read.frequency_penalty = reader.float()?,
                KEY_PRESENCE => read.presence_penalty = reader.float()?,
                KEY_REPETITION => read.repetition_penalty = reader.float()?,
                KEY_TOP_K => read.top_k = reader.uint32("top_k")?,
                KEY_MIN_P => read.min_p = reader.float()?,
                KEY_BIAS => read.logit_bias = read_biases(reader)?,
                key => return Err(DecodeContentError::UnknownKey { key }),
            }
            // What changes nothing is not written, so that there is one encoding. (What is no number is refused below.)
            if read == before {
                return Err(out_of_range);
            }
        }
        if read.is_neutral() || read.check().is_err() {
            return Err(out_of_range);
        }
        Ok(read)
    }
}

fn read_biases(reader: &mut StrictReader<'_>) -> Result<Vec<(TokenId, f32)>, DecodeContentError> {
    let count = reader.array("biases", LOGIT_BIASES_MAX as u64)?;
    let mut biases = Vec::with_capacity(count);
    for _ in 0..count {
        if reader.array("parts of a bias", 2)? != 2 {
            return Err(DecodeContentError::OutOfRange { what: "the number of a bias's parts" });
        }
        let token = TokenId(reader.uint32("a token")?);
        let bias = reader.float()?;
        if bias == 0.0 && bias.is_sign_negative() {
            return Err(DecodeContentError::OutOfRange { what: "a bias" });
        }
        biases.push((token, bias));
    }
    Ok(biases)
}
