//! Claims about the sampler, held against plain arithmetic over fully sorted probabilities.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use darkbloom_batch::{SampleError, Sampler, Sampling};
use darkbloom_types::TokenId;
use proptest::prelude::*;

fn sampling(temperature: f32, top_p: f32, seed: u64) -> Sampling {
    Sampling { temperature, top_p, seed }
}

/// Probabilities by the textbook, restricted to the nucleus and normalised.
fn reference(logits: &[f32], temperature: f32, top_p: f32) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut probabilities: Vec<f64> =
        logits.iter().map(|logit| ((f64::from(*logit) - f64::from(largest)) / f64::from(temperature)).exp()).collect();
    let total: f64 = probabilities.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
    let mut mass = 0.0;
    let mut kept = 0.0;
    for index in order {
        if mass >= f64::from(top_p) * total {
            probabilities[index] = 0.0;
        }
        mass += probabilities[index];
        kept += probabilities[index];
    }
    probabilities.iter().map(|probability| probability / kept).collect()
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

#[test]
fn draws_follow_the_probabilities() {
    const DRAWS: u32 = 60_000;
    let logits = [2.0, 0.5, -1.0, 1.5, 0.5, -4.0, 1.0, 0.0];
    for (temperature, top_p) in [(1.0, 1.0), (0.7, 0.9), (1.5, 0.6), (2.0, 0.97)] {
        let expected = reference(&logits, temperature, top_p);
        let mut sampler = Sampler::new();
        let mut counts = [0u32; 8];
        for position in 0..DRAWS {
            let token = sampler.sample(&logits, &sampling(temperature, top_p, 11), position).unwrap();
            counts[token.0 as usize] += 1;
        }
        for (count, probability) in counts.into_iter().zip(expected) {
            let share = f64::from(count) / f64::from(DRAWS);
            // Five standard deviations; a token outside the nucleus is never drawn at all.
            let slack = 5.0 * (probability * (1.0 - probability) / f64::from(DRAWS)).sqrt();
            assert!((share - probability).abs() <= slack, "{share} drawn, {probability} expected at {top_p}");
        }
    }
}

#[test]
fn a_large_vocabulary_draws_only_from_the_nucleus() {
    let logits = model_like(151_936);
    let mut sampler = Sampler::new();
    for top_p in [0.1, 0.5, 0.9, 0.999] {
        let expected = reference(&logits, 1.0, top_p);
        for position in 0..200 {
            let token = sampler.sample(&logits, &sampling(1.0, top_p, 3), position).unwrap();
            assert!(expected[token.0 as usize] > 0.0, "a token outside the nucleus of {top_p} was drawn");
        }
    }
}

#[test]
fn without_a_nucleus_every_part_of_a_large_vocabulary_is_drawn_from() {
    // Two tokens in three weigh nothing that shows; the rest weigh the same.
    let logits: Vec<f32> = (0..1_536).map(|token| if token % 3 == 0 { 2.0 } else { -60.0 }).collect();
    let (mut sampler, mut drawn) = (Sampler::new(), [0u32; 12]);
    for position in 0..12_000 {
        let token = sampler.sample(&logits, &sampling(1.0, 1.0, 11), position).unwrap();
        assert_eq!(token.0 % 3, 0, "a token of no weight");
        drawn[token.0 as usize / 128] += 1;
    }
    // A thousand each, and six standard deviations of thirty.
    assert!(drawn.iter().all(|count| (820..1_180).contains(count)), "{drawn:?}");
}

#[test]
fn the_most_likely_token_is_taken_at_temperature_zero_and_the_first_of_equals() {
    let mut sampler = Sampler::new();
    let mut logits = vec![-3.0; 1_000];
    (logits[517], logits[130], logits[999]) = (4.0, 4.0, 3.9);
    assert_eq!(sampler.sample(&logits, &Sampling::GREEDY, 0), Ok(TokenId(130)));
    assert_eq!(sampler.sample(&logits, &sampling(1.0, 0.0, 5), 0), Ok(TokenId(130)));
    assert_eq!(
        sampler.sample(&logits, &sampling(1e-30, 1.0, 5), 0).map(|token| token.0 == 130 || token.0 == 517),
        Ok(true)
    );
}

#[test]
fn unusable_logits_are_an_error_and_not_a_panic() {
    let mut sampler = Sampler::new();
    assert_eq!(sampler.sample(&[], &Sampling::GREEDY, 0), Err(SampleError::Empty));
    for length in [1, 15, 16, 129, 1_000] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for at in [0, length / 2, length - 1] {
                let mut logits = vec![0.25; length];
                logits[at] = bad;
                for how in [Sampling::GREEDY, sampling(1.0, 0.9, 1), sampling(0.5, 1.0, 1)] {
                    assert_eq!(sampler.sample(&logits, &how, 0), Err(SampleError::NotFinite));
                }
            }
        }
    }
}

#[test]
fn the_largest_floats_and_the_smallest_temperature_still_give_a_token() {
    let mut sampler = Sampler::new();
    let logits = [f32::MAX, f32::MIN, 0.0, f32::MAX];
    for temperature in [f32::MIN_POSITIVE, 1e-45, 1.0, f32::MAX] {
        for top_p in [1e-45, 0.5, 1.0] {
            let token = sampler.sample(&logits, &sampling(temperature, top_p, 9), 4).unwrap();
            assert!(token.0 < 4);
        }
    }
}

#[test]
fn neighbours_and_earlier_draws_never_change_a_draw() {
    let logits = model_like(4_096);
    let how = sampling(0.9, 0.95, 77);
    let alone: Vec<_> = (0..50).map(|position| Sampler::new().sample(&logits, &how, position).unwrap()).collect();
    let mut shared = Sampler::new();
    for position in (0..50).rev() {
        shared.sample(&model_like(9_000), &sampling(1.3, 1.0, position.into()), 3).unwrap();
        assert_eq!(shared.sample(&logits, &how, position), Ok(alone[position as usize]));
    }
    assert!(alone.iter().any(|token| *token != alone[0]), "all draws alike show nothing");
}

proptest! {
    #[test]
    fn a_draw_is_always_inside_the_nucleus(
        logits in prop::collection::vec(-30.0f32..30.0, 1..700),
        temperature in 0.05f32..3.0,
        top_p in 0.01f32..=1.0,
        seed: u64,
        position: u32,
    ) {
        let token = Sampler::new().sample(&logits, &sampling(temperature, top_p, seed), position).unwrap();
        let index = token.0 as usize;
        // Rounding may move the nucleus's edge by one part in a million, so that is what the reference grants too.
        let edge = reference(&logits, temperature, (top_p + 1e-6).min(1.0));
        prop_assert!(edge[index] > 0.0);
    }
}
