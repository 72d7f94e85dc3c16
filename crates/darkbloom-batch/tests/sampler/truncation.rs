//! What keeps a part of the distribution.

use super::*;

const LOGITS: [f32; 8] = [2.0, 0.5, -1.0, 1.5, 0.6, -4.0, 1.0, 0.0];

/// Logits whose softmax these probabilities are.
fn with_probabilities(probabilities: &[f64]) -> Place {
    Place::new(probabilities.iter().map(|probability| probability.ln() as f32).collect())
}

/// Which of some tokens many draws show.
fn drawn(place: &Place, sampling: &Sampling) -> Vec<u32> {
    let mut tokens = place.draws(&mut Sampler::new(), sampling, 2_000);
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[test]
fn draws_follow_the_probabilities() {
    let place = Place::new(LOGITS.to_vec());
    for temperature in [0.5, 1.0, 2.0] {
        let base = Sampling { temperature, ..warm(11) };
        assert_follows(&place, &base);
        for top_k in [2, 5, 7] {
            assert_follows(&place, &Sampling { top_k, ..base.clone() });
        }
        for share in [0.3, 0.6, 0.9, 0.99] {
            assert_follows(&place, &Sampling { top_p: share, ..base.clone() });
            assert_follows(&place, &Sampling { typical_p: share, ..base.clone() });
        }
        for min_p in [0.01, 0.1, 0.5] {
            assert_follows(&place, &Sampling { min_p, ..base.clone() });
        }
        assert_follows(&place, &Sampling { top_k: 6, typical_p: 0.9, top_p: 0.9, min_p: 0.15, ..base });
    }
}

#[test]
fn every_part_of_a_large_vocabulary_is_drawn_from() {
    // Two tokens in three weigh nothing that shows; the rest weigh the same.
    let place = Place::new((0..1_536).map(|token| if token % 3 == 0 { 2.0 } else { -60.0 }).collect());
    for how in [warm(11), Sampling { top_p: 0.999_9, ..warm(11) }, Sampling { min_p: 0.1, ..warm(11) }] {
        let mut drawn = [0u32; 12];
        for token in place.draws(&mut Sampler::new(), &how, 12_000) {
            assert_eq!(token % 3, 0, "a token of no weight");
            drawn[token as usize / 128] += 1;
        }
        // A thousand each, and six standard deviations of thirty.
        assert!(drawn.iter().all(|count| (820..1_180).contains(count)), "{drawn:?}");
    }
}

#[test]
fn a_large_vocabulary_draws_only_from_what_is_left() {
    // Flat enough that some of these leave a great part of the vocabulary, and some hardly any.
    let place = Place::new(model_like(151_936));
    for temperature in [0.7, 3.0] {
        let base = Sampling { temperature, ..warm(3) };
        for sampling in [
            Sampling { top_p: 0.1, ..base.clone() },
            Sampling { top_p: 0.95, ..base.clone() },
            Sampling { typical_p: 0.2, ..base.clone() },
            Sampling { typical_p: 0.95, ..base.clone() },
            Sampling { typical_p: 0.6, top_p: 0.8, min_p: 0.3, ..base.clone() },
            Sampling { min_p: 0.2, ..base.clone() },
            Sampling { top_k: 40, ..base.clone() },
            Sampling { top_k: 1_500, typical_p: 0.7, ..base.clone() },
            Sampling { top_k: 100_000, ..base.clone() },
        ] {
            // So many tokens lie so close together that the reference is granted what rounding can move.
            let expected = place.loosely(&sampling);
            for token in place.draws(&mut Sampler::new(), &sampling, 100) {
                assert!(expected[token as usize], "a token that is out was drawn: {sampling:?}");
            }
        }
    }
}

#[test]
fn top_k_of_one_is_greedy_and_top_k_draws_from_exactly_the_k_most_likely() {
    let place = Place::new(LOGITS.to_vec());
    assert_eq!(drawn(&place, &Sampling { top_k: 1, temperature: 2.0, ..warm(1) }), [0]);
    assert_eq!(drawn(&place, &Sampling { top_k: 2, temperature: 2.0, ..warm(1) }), [0, 3]);
    assert_eq!(drawn(&place, &Sampling { top_k: 4, temperature: 2.0, ..warm(1) }), [0, 3, 4, 6]);
    // Of two equal ones at the edge the first, also when the other is negative zero.
    let equal = Place::new(vec![-1.0, -0.0, 3.0, 0.0, -1.0]);
    assert_eq!(drawn(&equal, &Sampling { top_k: 2, temperature: 3.0, ..warm(1) }), [1, 2]);
    let negative = Place::new(vec![-3.0, -1.0, -2.0, -4.0]);
    assert_eq!(drawn(&negative, &Sampling { top_k: 2, ..warm(1) }), [1, 2]);
}

#[test]
fn truncations_that_leave_everything_change_no_draw() {
    let place = Place::new(model_like(5_000));
    let all = place.draws(&mut Sampler::new(), &warm(8), 100);
    for neutral in [
        Sampling { top_k: 5_000, ..warm(8) },
        Sampling { top_k: u32::MAX, ..warm(8) },
        Sampling { top_p: 1.0, typical_p: 1.0, min_p: 0.0, ..warm(8) },
        Sampling { min_p: 1e-30, ..warm(8) },
    ] {
        assert_eq!(place.draws(&mut Sampler::new(), &neutral, 100), all);
    }
}

#[test]
fn top_p_collapses_to_the_most_likely_and_reaches_over_what_it_needs() {
    let place = with_probabilities(&[0.1, 0.5, 0.15, 0.25]);
    assert_eq!(drawn(&place, &Sampling { top_p: 0.0, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { top_p: 1e-6, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { top_p: 0.49, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { top_p: 0.51, ..warm(2) }), [1, 3]);
    assert_eq!(drawn(&place, &Sampling { top_p: 0.76, ..warm(2) }), [1, 2, 3]);
    assert_eq!(drawn(&place, &Sampling { top_p: 0.91, ..warm(2) }), [0, 1, 2, 3]);
}

#[test]
fn min_p_is_a_share_of_the_most_likely_probability() {
    let place = with_probabilities(&[0.1, 0.5, 0.15, 0.25]);
    assert_eq!(drawn(&place, &Sampling { min_p: 1.0, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { min_p: 0.51, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { min_p: 0.49, ..warm(2) }), [1, 3]);
    assert_eq!(drawn(&place, &Sampling { min_p: 0.29, ..warm(2) }), [1, 2, 3]);
    assert_eq!(drawn(&place, &Sampling { min_p: 0.19, ..warm(2) }), [0, 1, 2, 3]);
}

#[test]
fn typical_leaves_out_what_says_too_little_as_well_as_what_says_too_much() {
    // One token that is far too expected, sixty that say about as much as the whole does, one that nobody expects.
    let mut probabilities = vec![0.0109; 62];
    (probabilities[0], probabilities[61]) = (0.35, 0.0001);
    let place = with_probabilities(&probabilities);
    let left = drawn(&place, &Sampling { typical_p: 0.3, ..warm(2) });
    assert_eq!(left, (1..29).collect::<Vec<_>>(), "28 × 0.0109 reaches 0.3, and the most likely token is not needed");
    assert_eq!(drawn(&place, &Sampling { typical_p: 0.0, ..warm(2) }), [1]);
    let most = drawn(&place, &Sampling { typical_p: 0.99, ..warm(2) });
    assert!(most.contains(&0) && !most.contains(&61));
}

#[test]
fn each_truncation_sees_what_the_one_before_it_left() {
    let place = with_probabilities(&[0.1, 0.5, 0.15, 0.25]);
    // Of two tokens the likelier has two thirds.
    assert_eq!(drawn(&place, &Sampling { top_k: 2, top_p: 0.6, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { top_k: 2, top_p: 0.7, ..warm(2) }), [1, 3]);
    // The temperature comes first: at a half, probabilities are squared, and the most likely has 0.725 of them.
    assert_eq!(drawn(&place, &Sampling { temperature: 0.5, top_p: 0.7, ..warm(2) }), [1]);
    assert_eq!(drawn(&place, &Sampling { temperature: 0.5, min_p: 0.3, ..warm(2) }), [1]);
    // Where typical has left out the most likely one, min-p measures by the most likely that is left.
    let mut probabilities = vec![0.65 / 60.0; 61];
    probabilities[0] = 0.35;
    let typical = Sampling { typical_p: 0.3, min_p: 0.9, ..warm(2) };
    assert_eq!(drawn(&with_probabilities(&probabilities), &typical).len(), 28);
}
