//! How likely tokens were.

use darkbloom_batch::{Logprobs, TOP_LOGPROBS_MAX};

use super::reference::softmax;
use super::*;

fn told(logits: &[f32], sampling: &Sampling) -> (TokenId, Logprobs) {
    let drawn = Sampler::new().draw(logits, &draw_at(sampling, 2)).unwrap();
    (drawn.token, drawn.logprobs.unwrap())
}

/// The logarithms of the softmax of the logits as they are.
fn reference(logits: &[f32]) -> Vec<f64> {
    softmax(&logits.iter().copied().map(f64::from).collect::<Vec<_>>()).iter().map(|p| p.ln()).collect()
}

#[test]
fn logprobs_are_told_when_asked_for_and_change_no_draw() {
    let place = Place::new(model_like(3_000));
    let silent = Sampling { top_p: 0.9, ..warm(4) };
    assert_eq!(Sampler::new().draw(&place.logits, &draw_at(&silent, 0)).unwrap().logprobs, None);
    let telling = Sampling { logprobs: Some(20), ..silent.clone() };
    assert_eq!(place.draws(&mut Sampler::new(), &silent, 50), place.draws(&mut Sampler::new(), &telling, 50));
}

#[test]
fn logprobs_are_the_models_own_whatever_is_drawn_from_them() {
    let place = Place {
        history: (0..50).map(|at| at % 20).collect(),
        allowed: Some((0..3_000).map(|token| token % 2 == 1).collect()),
        ..Place::new(model_like(3_000))
    };
    let expected = reference(&place.logits);
    let history: Vec<_> = place.history.iter().copied().map(TokenId).collect();
    let mask = reference::mask_of(place.allowed.as_ref().unwrap());
    let sampling = everything(4);
    let draw = Draw { history: &history, mask: Some(&mask), ..draw_at(&sampling, 0) };
    let drawn = Sampler::new().draw(&place.logits, &draw).unwrap();
    let logprobs = drawn.logprobs.unwrap();
    assert!((f64::from(logprobs.chosen) - expected[drawn.token.0 as usize]).abs() < 1e-5);
    let (_, greedy) = told(&place.logits, &Sampling { logprobs: Some(5), ..Sampling::greedy() });
    assert_eq!(logprobs.top, greedy.top);
    assert_eq!(greedy.chosen, greedy.top[0].1, "the most likely token is the first");
    assert!(greedy.top.iter().any(|(token, _)| token.0 % 2 == 0), "what the mask forbids is told, too");
}

#[test]
fn all_logprobs_of_a_small_vocabulary_are_the_logarithms_of_one() {
    let logits = [0.5, -2.0, 3.0, 3.0, 1.0];
    let (_, logprobs) = told(&logits, &Sampling { logprobs: Some(20), ..warm(1) });
    assert_eq!(logprobs.top.iter().map(|(token, _)| token.0).collect::<Vec<_>>(), [2, 3, 4, 0, 1]);
    let sum: f64 = logprobs.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    assert!(told(&logits, &Sampling { logprobs: Some(0), ..warm(1) }).1.top.is_empty());
    assert_eq!(told(&[-3.0], &Sampling { logprobs: Some(1), ..warm(1) }).1.top, [(TokenId(0), 0.0)]);
}

#[test]
fn the_most_likely_of_a_large_vocabulary_are_told_in_order() {
    let mut logits = model_like(151_936);
    // In one block, at both ends, and equal ones.
    for (at, token) in (0..).zip([0, 151_935, 70_000, 70_001, 70_002, 500, 40, 41]) {
        logits[token] = 20.0 - (at / 2) as f32;
    }
    let (_, logprobs) = told(&logits, &Sampling { logprobs: Some(TOP_LOGPROBS_MAX), ..warm(1) });
    let first: Vec<_> = logprobs.top.iter().map(|(token, _)| token.0).take(8).collect();
    assert_eq!(first, [0, 151_935, 70_000, 70_001, 500, 70_002, 40, 41]);
    assert_eq!(logprobs.top.len(), 20);
}

proptest! {
    #[test]
    fn logprobs_are_those_of_the_textbook(
        logits in prop::collection::vec(-30.0f32..30.0, 1..700),
        count in 0..=TOP_LOGPROBS_MAX,
        seed: u64,
    ) {
        let expected = reference(&logits);
        let (token, logprobs) = told(&logits, &Sampling { logprobs: Some(count), ..warm(seed) });
        prop_assert!((f64::from(logprobs.chosen) - expected[token.0 as usize]).abs() < 1e-5);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(count as usize);
        prop_assert_eq!(logprobs.top.iter().map(|(token, _)| token.0 as usize).collect::<Vec<_>>(), order);
        for (token, logprob) in &logprobs.top {
            prop_assert!((f64::from(*logprob) - expected[token.0 as usize]).abs() < 1e-5);
        }
    }
}
