//! Claims about which ways to sample mean something.

use darkbloom_batch::{
    DRY_BREAKERS_MAX, DRY_RANGE_MAX, Dry, LOGIT_BIAS_MAX, Sampling, SamplingError, TOP_LOGPROBS_MAX,
};
use darkbloom_types::TokenId;

fn dry() -> Dry {
    Dry { multiplier: 0.8, base: 1.75, allowed_length: 2, range: 64, breakers: Vec::new() }
}

fn checked(change: impl FnOnce(&mut Sampling)) -> Result<(), SamplingError> {
    let mut sampling = Sampling::greedy();
    change(&mut sampling);
    sampling.check()
}

fn dry_checked(change: impl FnOnce(&mut Dry)) -> Result<(), SamplingError> {
    let mut dry = dry();
    change(&mut dry);
    checked(|sampling| sampling.dry = Some(dry))
}

#[test]
fn what_lies_on_the_limits_means_something() {
    let many = |count| vec![TokenId(1); count];
    let least = Sampling {
        typical_p: 0.0,
        top_p: 0.0,
        min_p: 0.0,
        repetition_penalty: 1e-45,
        frequency_penalty: -2.0,
        presence_penalty: -2.0,
        dry: Some(Dry { multiplier: 0.0, base: 1.0, allowed_length: 1, range: 1, breakers: Vec::new() }),
        logit_bias: vec![(TokenId(0), -100.0)],
        logprobs: Some(0),
        ..Sampling::greedy()
    };
    let most = Sampling {
        temperature: f32::MAX,
        top_k: u32::MAX,
        typical_p: 1.0,
        top_p: 1.0,
        min_p: 1.0,
        repetition_penalty: f32::MAX,
        frequency_penalty: 2.0,
        presence_penalty: 2.0,
        dry: Some(Dry {
            multiplier: f32::MAX,
            base: f32::MAX,
            allowed_length: u32::MAX,
            range: DRY_RANGE_MAX,
            breakers: many(DRY_BREAKERS_MAX),
        }),
        logit_bias: many(LOGIT_BIAS_MAX).into_iter().map(|token| (token, 100.0)).collect(),
        logprobs: Some(TOP_LOGPROBS_MAX),
        seed: u64::MAX,
    };
    for sampling in [Sampling::greedy(), least, most] {
        assert_eq!(sampling.check(), Ok(()));
    }
}

#[test]
fn what_is_no_number_or_infinite_is_refused_by_name() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(checked(|s| s.temperature = bad), Err(SamplingError::Temperature));
        assert_eq!(checked(|s| s.typical_p = bad), Err(SamplingError::TypicalP));
        assert_eq!(checked(|s| s.top_p = bad), Err(SamplingError::TopP));
        assert_eq!(checked(|s| s.min_p = bad), Err(SamplingError::MinP));
        assert_eq!(checked(|s| s.repetition_penalty = bad), Err(SamplingError::RepetitionPenalty));
        assert_eq!(checked(|s| s.frequency_penalty = bad), Err(SamplingError::FrequencyPenalty));
        assert_eq!(checked(|s| s.presence_penalty = bad), Err(SamplingError::PresencePenalty));
        assert_eq!(checked(|s| s.logit_bias = vec![(TokenId(1), bad)]), Err(SamplingError::LogitBias));
        assert_eq!(dry_checked(|dry| dry.multiplier = bad), Err(SamplingError::DryMultiplier));
        assert_eq!(dry_checked(|dry| dry.base = bad), Err(SamplingError::DryBase));
    }
}

#[test]
fn what_lies_beyond_the_limits_is_refused_by_name() {
    assert_eq!(checked(|s| s.temperature = -0.1), Err(SamplingError::Temperature));
    for bad in [-0.01, 1.01] {
        assert_eq!(checked(|s| s.typical_p = bad), Err(SamplingError::TypicalP));
        assert_eq!(checked(|s| s.top_p = bad), Err(SamplingError::TopP));
        assert_eq!(checked(|s| s.min_p = bad), Err(SamplingError::MinP));
    }
    for bad in [0.0, -1.0] {
        assert_eq!(checked(|s| s.repetition_penalty = bad), Err(SamplingError::RepetitionPenalty));
    }
    for bad in [-2.01, 2.01] {
        assert_eq!(checked(|s| s.frequency_penalty = bad), Err(SamplingError::FrequencyPenalty));
        assert_eq!(checked(|s| s.presence_penalty = bad), Err(SamplingError::PresencePenalty));
    }
    for bad in [-100.5, 100.5] {
        let biases = vec![(TokenId(0), 1.0), (TokenId(1), bad)];
        assert_eq!(checked(|s| s.logit_bias = biases), Err(SamplingError::LogitBias));
    }
    let biases = vec![(TokenId(0), 1.0); LOGIT_BIAS_MAX + 1];
    assert_eq!(checked(|s| s.logit_bias = biases), Err(SamplingError::LogitBiases));
    assert_eq!(checked(|s| s.logprobs = Some(TOP_LOGPROBS_MAX + 1)), Err(SamplingError::TopLogprobs));
    assert_eq!(dry_checked(|dry| dry.multiplier = -0.1), Err(SamplingError::DryMultiplier));
    assert_eq!(dry_checked(|dry| dry.base = 0.99), Err(SamplingError::DryBase));
    assert_eq!(dry_checked(|dry| dry.allowed_length = 0), Err(SamplingError::DryAllowedLength));
    assert_eq!(dry_checked(|dry| dry.range = 0), Err(SamplingError::DryRange));
    assert_eq!(dry_checked(|dry| dry.range = DRY_RANGE_MAX + 1), Err(SamplingError::DryRange));
    let breakers = vec![TokenId(0); DRY_BREAKERS_MAX + 1];
    assert_eq!(dry_checked(|dry| dry.breakers = breakers), Err(SamplingError::DryBreakers));
}
