//! Claims about the sampler, held against plain arithmetic over fully sorted probabilities.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

mod changes;
mod logprobs;
mod reference;
mod truncation;

use darkbloom_batch::{Draw, Dry, SampleError, Sampler, Sampling, TokenMask, VOCABULARY_MAX};
use darkbloom_types::TokenId;
use proptest::prelude::*;
use reference::Place;

/// A draw from logits alone.
fn draw_at(sampling: &Sampling, position: u32) -> Draw<'_> {
    Draw { sampling, position, history: &[], prompt_tokens: 0, mask: None }
}

fn token(sampler: &mut Sampler, logits: &[f32], sampling: &Sampling, position: u32) -> Result<TokenId, SampleError> {
    sampler.draw(logits, &draw_at(sampling, position)).map(|drawn| drawn.token)
}

/// The sampling that draws from the whole distribution.
fn warm(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::greedy() }
}

/// Everything that can be asked for.
fn everything(seed: u64) -> Sampling {
    Sampling {
        temperature: 0.9,
        top_k: 300,
        typical_p: 0.97,
        top_p: 0.95,
        min_p: 0.001,
        repetition_penalty: 1.2,
        frequency_penalty: 0.3,
        presence_penalty: 0.4,
        dry: Some(Dry { multiplier: 0.8, base: 1.75, allowed_length: 2, range: 500, breakers: vec![TokenId(7)] }),
        logit_bias: vec![(TokenId(3), 2.0), (TokenId(8), -100.0)],
        logprobs: Some(5),
        seed,
    }
}

/// Logits with a few likely tokens over a floor of unlikely ones, as models give them.
fn model_like(vocabulary: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..vocabulary)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = (state >> 40) as f32 / (1u64 << 24) as f32;
            6.0 * uniform.powi(8) * 3.0 - 6.0 * uniform
        })
        .collect()
}

/// Holds shares of many draws against probabilities. A token of no probability is never drawn at all.
fn assert_follows(place: &Place, sampling: &Sampling) {
    const DRAWS: u32 = 40_000;
    let expected = place.probabilities(sampling).expect("the example is on no edge");
    let mut counts = vec![0u32; expected.len()];
    for token in place.draws(&mut Sampler::new(), sampling, DRAWS) {
        counts[token as usize] += 1;
    }
    for (count, probability) in counts.into_iter().zip(expected) {
        let share = f64::from(count) / f64::from(DRAWS);
        // Five standard deviations.
        let slack = 5.0 * (probability * (1.0 - probability) / f64::from(DRAWS)).sqrt();
        assert!((share - probability).abs() <= slack, "{share} drawn, {probability} expected: {sampling:?}");
    }
}

#[test]
fn the_most_likely_token_is_taken_at_temperature_zero_and_the_first_of_equals() {
    let mut sampler = Sampler::new();
    let mut logits = vec![-3.0; 1_000];
    (logits[517], logits[130], logits[999]) = (4.0, 4.0, 3.9);
    // Nothing that keeps a part of the distribution changes which token is the most likely.
    let truncated = Sampling { top_k: 7, typical_p: 0.1, top_p: 0.5, min_p: 0.5, ..Sampling::greedy() };
    for how in [Sampling::greedy(), Sampling { seed: 5, ..Sampling::greedy() }, truncated] {
        assert_eq!(token(&mut sampler, &logits, &how, 3), Ok(TokenId(130)));
    }
    for temperature in [1e-30, f32::MIN_POSITIVE, 1e-45] {
        let drawn = Place::new(logits.clone()).draws(&mut sampler, &Sampling { temperature, ..warm(5) }, 60);
        assert!(drawn.iter().all(|token| [130, 517].contains(token)), "so cold, only the largest are left");
        assert!([130, 517].iter().all(|token| drawn.contains(token)), "and they are equal");
    }
}

#[test]
fn unusable_logits_are_an_error_and_not_a_panic() {
    let mut sampler = Sampler::new();
    let mut allowing_all = everything(1);
    allowing_all.logit_bias.clear();
    assert_eq!(token(&mut sampler, &[], &Sampling::greedy(), 0), Err(SampleError::Empty));
    assert_eq!(token(&mut sampler, &[], &allowing_all, 0), Err(SampleError::Empty));
    for length in [1, 15, 16, 17, 127, 128, 129, 1_000] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for at in [0, length / 2, length - 1] {
                let mut logits = vec![0.25; length];
                logits[at] = bad;
                for how in [&Sampling::greedy(), &warm(1), &allowing_all] {
                    assert_eq!(token(&mut sampler, &logits, how, 0), Err(SampleError::NotFinite));
                }
            }
        }
    }
}

#[test]
fn as_many_logits_as_are_taken_are_drawn_from_and_one_more_is_refused() {
    let mut logits = vec![0.0; VOCABULARY_MAX + 1];
    logits[VOCABULARY_MAX - 1] = 50.0;
    let mut sampler = Sampler::new();
    let last = TokenId(VOCABULARY_MAX as u32 - 1);
    for how in [Sampling::greedy(), warm(1), Sampling { top_k: 3, top_p: 0.9, ..warm(1) }] {
        assert_eq!(token(&mut sampler, &logits[..VOCABULARY_MAX], &how, 0), Ok(last));
        assert_eq!(token(&mut sampler, &logits, &how, 0), Err(SampleError::TooMany));
    }
}

#[test]
fn the_largest_floats_and_the_smallest_temperature_still_give_a_token() {
    let mut sampler = Sampler::new();
    let logits = [f32::MAX, f32::MIN, 0.0, f32::MAX, -0.0, f32::MIN_POSITIVE, 1e-45];
    let history: Vec<_> = [1, 0, 1, 3, 1, 0, 1, 6, u32::MAX].map(TokenId).to_vec();
    let heavy = Dry { multiplier: f32::MAX, base: f32::MAX, allowed_length: 1, range: 9, breakers: Vec::new() };
    for temperature in [0.0, f32::MIN_POSITIVE, 1e-45, 1.0, f32::MAX] {
        for share in [0.0, 1e-45, 0.5, 1.0] {
            for penalty in [f32::MIN_POSITIVE, 1e-45, 1.0, f32::MAX] {
                let sampling = Sampling {
                    temperature,
                    typical_p: share,
                    top_p: share,
                    min_p: share,
                    repetition_penalty: penalty,
                    frequency_penalty: 2.0,
                    dry: Some(heavy.clone()),
                    logit_bias: vec![(TokenId(0), 100.0), (TokenId(1), -100.0)],
                    logprobs: Some(20),
                    ..warm(9)
                };
                // A prompt that is said to be longer than the history leaves no output.
                for prompt_tokens in [0, 4, usize::MAX] {
                    let draw = Draw { sampling: &sampling, position: 4, history: &history, prompt_tokens, mask: None };
                    let drawn = sampler.draw(&logits, &draw).unwrap();
                    assert!(drawn.token.0 < 7);
                    assert!(drawn.logprobs.unwrap().top.iter().all(|(_, logprob)| !logprob.is_nan()));
                }
            }
        }
    }
}

#[test]
fn values_without_a_meaning_still_give_an_allowed_token() {
    let mut place = Place { history: vec![1, 2, 1, 2, 1], prompt_tokens: 2, ..Place::new(model_like(400)) };
    place.allowed = Some((0..400).map(|token| token % 2 == 1).collect());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -3.0, 0.0, 40.0] {
        let dry =
            |allowed_length, range| Dry { multiplier: bad, base: bad, allowed_length, range, breakers: Vec::new() };
        for sampling in [
            Sampling { temperature: bad, ..everything(1) },
            Sampling { typical_p: bad, ..everything(1) },
            Sampling { top_p: bad, top_k: 0, ..everything(1) },
            Sampling { min_p: bad, top_k: 0, ..everything(1) },
            Sampling { repetition_penalty: bad, ..everything(1) },
            Sampling { frequency_penalty: bad, presence_penalty: bad, ..everything(1) },
            Sampling { logit_bias: vec![(TokenId(1), bad)], ..everything(1) },
            Sampling { dry: Some(dry(0, 0)), ..everything(1) },
            Sampling { dry: Some(dry(1, u32::MAX)), logprobs: Some(u32::MAX), ..everything(1) },
        ] {
            let drawn = place.draws(&mut Sampler::new(), &sampling, 20);
            assert!(drawn.iter().all(|token| token % 2 == 1), "{sampling:?}");
        }
    }
}

#[test]
fn one_token_is_always_drawn_and_equal_ones_are_drawn_alike() {
    let mut sampler = Sampler::new();
    let mut one = everything(3);
    one.logit_bias.clear();
    assert_eq!(token(&mut sampler, &[-7.0], &one, 0), Ok(TokenId(0)));
    for length in [2, 16, 128, 1_187, 20_000] {
        for logit in [-1e30, 0.0, 3.5] {
            let logits = vec![logit; length];
            // Among equals those with lower ids are kept.
            for (how, kept) in [
                (Sampling { top_k: 2, ..warm(3) }, 2),
                (Sampling { top_p: 0.5, ..warm(3) }, length.div_ceil(2)),
                (Sampling { typical_p: 0.5, ..warm(3) }, length.div_ceil(2)),
                (Sampling { min_p: 1.0, ..warm(3) }, length),
            ] {
                let drawn = Place::new(logits.clone()).draws(&mut sampler, &how, 40);
                assert!(drawn.iter().all(|&token| (token as usize) < kept), "{length} equal logits, {how:?}");
                assert!(drawn.iter().any(|&token| token as usize >= kept / 2), "{length} equal logits, {how:?}");
            }
        }
    }
}

#[test]
fn the_same_seed_draws_the_same_and_another_seed_others() {
    let place = Place::new(model_like(4_096));
    let draws = |seed| place.draws(&mut Sampler::new(), &Sampling { temperature: 1.5, ..warm(seed) }, 40);
    assert_eq!(draws(1), draws(1));
    for other in [0, 2, 1 << 32, 1 << 63] {
        assert_ne!(draws(1), draws(other));
    }
}

#[test]
fn neighbours_and_earlier_draws_never_change_a_draw() {
    let alone = Place {
        history: (0..200).map(|at| at % 13).collect(),
        prompt_tokens: 60,
        allowed: Some((0..4_096).map(|token| token % 3 != 0).collect()),
        ..Place::new(model_like(4_096))
    };
    let other =
        Place { history: (0..600).map(|at| at % 31).collect(), prompt_tokens: 7, ..Place::new(model_like(9_000)) };
    for how in [Sampling { top_p: 0.95, ..warm(77) }, everything(77), Sampling { top_k: 0, ..everything(77) }] {
        let expected = alone.draws(&mut Sampler::new(), &how, 50);
        let mut shared = Sampler::new();
        for round in 0..3 {
            let breakers = (0..13).map(TokenId).collect();
            let dry = Dry { multiplier: 9.0, base: 2.0, allowed_length: 1, range: 900, breakers };
            other.draws(&mut shared, &Sampling { dry: Some(dry), ..everything(round) }, 3);
            other.draws(&mut shared, &Sampling { temperature: 1.3, ..warm(round) }, 3);
            assert_eq!(alone.draws(&mut shared, &how, 50), expected);
            shared.erase();
        }
        assert!(expected.iter().any(|token| *token != expected[0]), "all draws alike show nothing");
    }
}

#[test]
fn draws_stay_what_they_were() {
    // Not derived from anything: these are the tokens of the first release, on every machine. What changes them changes
    // the answers of everybody who asks with a seed.
    let place = Place {
        history: (0..300).map(|at| at * at % 97).collect(),
        prompt_tokens: 100,
        ..Place::new(model_like(32_000))
    };
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling { temperature: 0.8, ..warm(42) };
        change(&mut sampling);
        place.draws(&mut Sampler::new(), &sampling, 4)
    };
    let drawn = [
        with(|_| {}),
        with(|s| s.top_k = 40),
        with(|s| s.typical_p = 0.5),
        with(|s| s.top_p = 0.9),
        with(|s| s.min_p = 0.05),
        with(|s| *s = Sampling { top_k: 0, ..everything(42) }),
    ];
    let expected = [
        [19_703, 31_819, 25_733, 22_738],
        [15_192, 31_758, 23_398, 20_073],
        [20_363, 31_819, 26_165, 23_625],
        [19_703, 31_819, 25_724, 22_647],
        [19_703, 31_819, 25_724, 22_738],
        [19_775, 31_819, 25_756, 22_738],
    ];
    assert_eq!(drawn, expected);
}

#[test]
fn nothing_printable_shows_a_token() {
    let sampling = everything(1);
    let mask = TokenMask::new(vec![48_151; 300]);
    let draw = Draw { mask: Some(&mask), ..draw_at(&sampling, 0) };
    let mut logits = vec![0.0; 9_000];
    logits[8_161] = 62.25;
    let drawn = Sampler::new().draw(&logits, &draw).unwrap();
    let shown = format!("{drawn:?} {mask:?} {sampling:?}");
    assert!(["48151", "8161", "62.25"].iter().all(|secret| !shown.contains(secret)), "{shown}");
}

fn some_dry(vocabulary: u32) -> impl Strategy<Value = Option<Dry>> {
    let breakers = prop::collection::vec((0..vocabulary).prop_map(TokenId), 0..2);
    let dry = (0.1f32..2.0, 1.0f32..2.0, 1u32..4, 1u32..60, breakers);
    let dry = dry.prop_map(|(multiplier, base, allowed_length, range, breakers)| Dry {
        multiplier,
        base,
        allowed_length,
        range,
        breakers,
    });
    prop::option::of(dry)
}

/// Any sampling over a vocabulary; each part of it is off in half of the cases.
fn any_sampling(vocabulary: u32) -> impl Strategy<Value = Sampling> {
    let or = |off: f32, on: std::ops::Range<f32>| prop_oneof![Just(off), on];
    let bias = prop::collection::vec(((0..vocabulary).prop_map(TokenId), -4.0f32..4.0), 0..3);
    let shares = (or(1.0, 0.05..1.0), or(1.0, 0.05..1.0), or(0.0, 0.01..1.0));
    let penalties = (or(1.0, 0.5..2.0), or(0.0, -2.0..2.0), or(0.0, -2.0..2.0));
    let top_k = prop_oneof![Just(0), 1..=vocabulary];
    (0.3f32..2.5, top_k, shares, penalties, some_dry(vocabulary), bias, any::<u64>()).prop_map(
        |(temperature, top_k, (typical_p, top_p, min_p), penalties, dry, logit_bias, seed)| {
            let (repetition_penalty, frequency_penalty, presence_penalty) = penalties;
            Sampling {
                temperature,
                top_k,
                typical_p,
                top_p,
                min_p,
                repetition_penalty,
                frequency_penalty,
                presence_penalty,
                dry,
                logit_bias,
                logprobs: None,
                seed,
            }
        },
    )
}

fn any_place(vocabulary: u32) -> impl Strategy<Value = Place> {
    let count = vocabulary as usize;
    let logits = prop::collection::vec(-4.0f32..4.0, count);
    // Few different tokens, so that pieces come again.
    let history = prop::collection::vec(0..vocabulary.min(3), 0..40);
    let allowed = prop::option::of(prop::collection::vec(prop::bool::weighted(0.7), count));
    (logits, history, allowed, any::<prop::sample::Index>()).prop_map(|(logits, history, allowed, prompt)| {
        let allowed = allowed.filter(|allowed| allowed.contains(&true));
        let prompt_tokens = prompt.index(history.len() + 1);
        Place { logits, history, prompt_tokens, allowed }
    })
}

fn any_row() -> impl Strategy<Value = (Place, Sampling)> {
    (2u32..24).prop_flat_map(|vocabulary| (any_place(vocabulary), any_sampling(vocabulary)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn exactly_the_tokens_that_the_textbook_leaves_are_drawn((place, sampling) in any_row()) {
        const DRAWS: u32 = 600;
        if let Some(expected) = place.probabilities(&sampling) {
            let drawn = place.draws(&mut Sampler::new(), &sampling, DRAWS);
            prop_assert!(drawn.iter().all(|&token| expected[token as usize] > 0.0), "a token that is out was drawn");
            for (token, probability) in (0..).zip(expected) {
                // Missed by chance once in ten million million times.
                prop_assert!(probability < 0.05 || drawn.contains(&token), "a token that is left is not drawn");
            }
        }
    }

    #[test]
    fn the_most_likely_after_all_changes_is_what_greedy_takes((place, sampling) in any_row()) {
        let changed = place.changed(&sampling);
        let taken = place.draws(&mut Sampler::new(), &Sampling { temperature: 0.0, ..sampling }, 1)[0];
        let largest = changed.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(largest - changed[taken as usize] < 1e-5);
    }
}
