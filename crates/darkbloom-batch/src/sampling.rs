//! How a row asks for its tokens to be drawn.

use darkbloom_types::TokenId;

/// Most tokens with a bias of their own in one row. OpenAI's clients send a few; the rest is room for lists of words.
pub const LOGIT_BIAS_MAX: usize = 1_024;

/// Most likely tokens that can be told beside the one drawn: what OpenAI's `top_logprobs` allows.
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// Most of a row's last tokens that [`Dry`] looks at. The time grows with it: so many take some 30 µs.
pub const DRY_RANGE_MAX: u32 = 8_192;

/// Most tokens that end a repetition for [`Dry`]: as many as may have a bias. A line's end alone stands in dozens of
/// tokens of a vocabulary.
pub const DRY_BREAKERS_MAX: usize = 1_024;

/// How a row's tokens are drawn from logits. [`crate::Sampler::draw`] says what is applied when.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits. 0 takes the most likely token and draws nothing.
    pub temperature: f32,
    /// Draw among so many most likely tokens; 0 draws among all.
    pub top_k: u32,
    /// Draw among the tokens whose surprise is closest to what the distribution leads to expect (its entropy), as many
    /// as together reach this share of the probability; 1 draws among all. (Meister, Pimentel, Wiher, Cotterell:
    /// "Locally typical sampling", TACL 2023.)
    pub typical_p: f32,
    /// Draw among the most likely tokens that together reach this share of the probability; 1 draws among all.
    pub top_p: f32,
    /// Draw among the tokens that are at least so likely as this share of the most likely one; 0 draws among all.
    /// (Nguyen and others: "Turning up the heat: min-p sampling for creative and coherent LLM outputs", 2024.)
    pub min_p: f32,
    /// Divides a positive logit, and multiplies another, of every token that stands in the prompt or the answer; 1
    /// changes nothing. (Keskar and others: "CTRL: a conditional transformer language model", 2019, section 4.1.)
    pub repetition_penalty: f32,
    /// Taken off a logit for each time that its token stands in the answer (OpenAI's `frequency_penalty`).
    pub frequency_penalty: f32,
    /// Taken off a logit once when its token stands in the answer (OpenAI's `presence_penalty`).
    pub presence_penalty: f32,
    /// Makes repeating longer and longer pieces of prompt and answer less and less likely.
    pub dry: Option<Dry>,
    /// Added to the logits of these tokens; at most [`LOGIT_BIAS_MAX`]. A token that stands here twice gets both.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Tell the logarithm of the drawn token's probability, and those of so many most likely tokens, at most
    /// [`TOP_LOGPROBS_MAX`].
    pub logprobs: Option<u32>,
    /// Names the stream of draws: the same seed at the same place in the answer gives the same draw.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token, and nothing else: what other ways to sample start from.
    #[must_use]
    pub const fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry: None,
            logit_bias: Vec::new(),
            logprobs: None,
            seed: 0,
        }
    }

    /// Whether a draw depends on what the row said before, so that [`crate::Draw::history`] must be given.
    #[must_use]
    pub fn looks_back(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || self.dry.as_ref().is_some_and(|dry| dry.multiplier > 0.0)
    }

    /// The tokens that are named one by one. Whoever knows the vocabulary checks that they are in it.
    pub fn named_tokens(&self) -> impl Iterator<Item = TokenId> {
        self.logit_bias.iter().map(|(token, _)| *token)
    }

    /// Whether the values mean something.
    ///
    /// # Errors
    /// Names the value that does not.
    pub fn check(&self) -> Result<(), SamplingError> {
        let share = 0.0..=1.0;
        // OpenAI's range for both.
        let penalty = -2.0..=2.0;
        let at_least = |value: f32, least: f32| value.is_finite() && value >= least;
        let rules = [
            (at_least(self.temperature, 0.0), SamplingError::Temperature),
            (share.contains(&self.typical_p), SamplingError::TypicalP),
            (share.contains(&self.top_p), SamplingError::TopP),
            (share.contains(&self.min_p), SamplingError::MinP),
            (self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0, SamplingError::RepetitionPenalty),
            (penalty.contains(&self.frequency_penalty), SamplingError::FrequencyPenalty),
            (penalty.contains(&self.presence_penalty), SamplingError::PresencePenalty),
            (self.logit_bias.len() <= LOGIT_BIAS_MAX, SamplingError::LogitBiases),
            // OpenAI's range.
            (self.logit_bias.iter().all(|(_, bias)| (-100.0..=100.0).contains(bias)), SamplingError::LogitBias),
            (self.logprobs.is_none_or(|top| top <= TOP_LOGPROBS_MAX), SamplingError::TopLogprobs),
        ];
        let broken = rules.into_iter().find(|(holds, _)| !holds);
        broken.map_or(Ok(()), |(_, error)| Err(error))?;
        self.dry.as_ref().map_or(Ok(()), Dry::check)
    }
}

/// The "Don't Repeat Yourself" sampler as its author published it (p-e-w, text-generation-webui's pull request 5677,
/// 2024). When the last n tokens stood in the history before, and n is at least the allowed length, the token that
/// followed them there loses multiplier × base ^ (n − allowed length).
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// What repeating a piece of exactly the allowed length costs. 0 costs nothing. The author's choice is 0.8.
    pub multiplier: f32,
    /// How much more each further token costs, at least 1. The author's choice is 1.75.
    pub base: f32,
    /// The shortest piece whose continuation is made less likely, at least 1. The author's choice is 2.
    pub allowed_length: u32,
    /// How many of the history's last tokens are looked at, from 1 to [`DRY_RANGE_MAX`].
    pub range: u32,
    /// No piece reaches over these, and they are never made less likely; at most [`DRY_BREAKERS_MAX`]. The author's
    /// choice is what ends lines, quotations and speakers: the tokens of `\n`, `:`, `"` and `*`.
    pub breakers: Vec<TokenId>,
}

impl Dry {
    fn check(&self) -> Result<(), SamplingError> {
        let rules = [
            (self.multiplier.is_finite() && self.multiplier >= 0.0, SamplingError::DryMultiplier),
            (self.base.is_finite() && self.base >= 1.0, SamplingError::DryBase),
            (self.allowed_length >= 1, SamplingError::DryAllowedLength),
            ((1..=DRY_RANGE_MAX).contains(&self.range), SamplingError::DryRange),
            (self.breakers.len() <= DRY_BREAKERS_MAX, SamplingError::DryBreakers),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// Which sampling value has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// Negative, infinite or not a number.
    #[error("the temperature must be a finite number and at least 0")]
    Temperature,
    /// Outside 0 to 1 or not a number.
    #[error("typical_p must be between 0 and 1")]
    TypicalP,
    /// Outside 0 to 1 or not a number.
    #[error("top_p must be between 0 and 1")]
    TopP,
    /// Outside 0 to 1 or not a number.
    #[error("min_p must be between 0 and 1")]
    MinP,
    /// Not above 0, infinite or not a number.
    #[error("repetition_penalty must be a finite number above 0")]
    RepetitionPenalty,
    /// Outside −2 to 2 or not a number.
    #[error("frequency_penalty must be between -2 and 2")]
    FrequencyPenalty,
    /// Outside −2 to 2 or not a number.
    #[error("presence_penalty must be between -2 and 2")]
    PresencePenalty,
    /// A bias outside −100 to 100 or not a number.
    #[error("each logit_bias must be between -100 and 100")]
    LogitBias,
    /// More biases than a row may have.
    #[error("logit_bias may name at most {LOGIT_BIAS_MAX} tokens")]
    LogitBiases,
    /// More than can be told.
    #[error("top_logprobs must be at most {TOP_LOGPROBS_MAX}")]
    TopLogprobs,
    /// Negative, infinite or not a number.
    #[error("dry_multiplier must be a finite number and at least 0")]
    DryMultiplier,
    /// Below 1, infinite or not a number.
    #[error("dry_base must be a finite number and at least 1")]
    DryBase,
    /// 0.
    #[error("dry_allowed_length must be at least 1")]
    DryAllowedLength,
    /// 0, or more than are looked at.
    #[error("dry_range must be between 1 and {DRY_RANGE_MAX}")]
    DryRange,
    /// More than a row may have.
    #[error("dry_sequence_breakers may be at most {DRY_BREAKERS_MAX} tokens")]
    DryBreakers,
}
