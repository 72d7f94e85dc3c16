//! What changes logits before anything is drawn: bias, mask, penalties, DRY.

use super::*;

/// What a token's logit has become. A second token, which nothing changes, is moved by a bias that forces it or not:
/// bisection over the bias finds where greedy changes its mind.
fn logit_of(place: &Place, sampling: &Sampling, token: u32, yardstick: u32) -> f64 {
    let (mut low, mut high) = (-50.0f32, 50.0f32);
    let mut allowed = vec![false; place.logits.len()];
    (allowed[token as usize], allowed[yardstick as usize]) = (true, true);
    let place = Place { allowed: Some(allowed), ..place.clone() };
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        let mut sampling = Sampling { temperature: 0.0, ..sampling.clone() };
        sampling.logit_bias.push((TokenId(yardstick), middle));
        let taken = place.draws(&mut Sampler::new(), &sampling, 1)[0];
        if taken == yardstick { high = middle } else { low = middle }
    }
    f64::from(place.logits[yardstick as usize]) + f64::from(0.5 * (low + high))
}

/// Logits of 10 tokens, the last of which nothing speaks about.
fn place(history: &[u32], prompt_tokens: usize) -> Place {
    let logits = vec![2.0, -2.0, 1.0, 0.5, 3.0, -0.5, 0.0, 1.5, 2.5, 0.25];
    Place { history: history.to_vec(), prompt_tokens, ..Place::new(logits) }
}

fn assert_becomes(place: &Place, sampling: &Sampling, token: u32, expected: f64) {
    let became = logit_of(place, sampling, token, 9);
    assert!((became - expected).abs() < 1e-4, "token {token} became {became} and not {expected}: {sampling:?}");
}

#[test]
fn the_repetition_penalty_divides_positive_logits_and_multiplies_others_once_in_prompt_and_answer() {
    let place = place(&[0, 1, 0, 0, 4, 4], 4);
    let sampling = Sampling { repetition_penalty: 1.6, ..warm(0) };
    assert_becomes(&place, &sampling, 0, 2.0 / 1.6);
    assert_becomes(&place, &sampling, 1, -2.0 * 1.6);
    assert_becomes(&place, &sampling, 4, 3.0 / 1.6);
    assert_becomes(&place, &sampling, 2, 1.0);
}

#[test]
fn the_frequency_penalty_counts_the_answer_and_the_presence_penalty_asks_whether_it_has_the_token() {
    let place = place(&[0, 0, 0, 1, 4, 4, 4, 0], 4);
    let frequency = Sampling { frequency_penalty: 0.5, ..warm(0) };
    let presence = Sampling { presence_penalty: -0.75, ..warm(0) };
    let both = Sampling { frequency_penalty: 0.5, presence_penalty: -0.75, repetition_penalty: 2.0, ..warm(0) };
    for (sampling, once, thrice, only_in_the_prompt) in [
        (frequency, 2.0 - 0.5, 3.0 - 1.5, -2.0),
        (presence, 2.0 + 0.75, 3.0 + 0.75, -2.0),
        // The repetition penalty first: a positive logit is divided before anything is taken off it.
        (both, 1.0 - 0.5 + 0.75, 1.5 - 1.5 + 0.75, -4.0),
    ] {
        assert_becomes(&place, &sampling, 0, once);
        assert_becomes(&place, &sampling, 4, thrice);
        assert_becomes(&place, &sampling, 1, only_in_the_prompt);
        assert_becomes(&place, &sampling, 2, 1.0);
    }
}

#[test]
fn a_prompt_that_is_said_to_be_longer_than_the_history_leaves_no_answer_to_count() {
    let sampling = Sampling { frequency_penalty: 0.5, repetition_penalty: 1.6, ..warm(0) };
    let history: Vec<_> = [0, 0].map(TokenId).to_vec();
    let draws = |prompt_tokens| {
        let logits = [2.0, 1.0];
        let draw = |position| Draw { history: &history, prompt_tokens, ..draw_at(&sampling, position) };
        (0..50).map(|position| Sampler::new().draw(&logits, &draw(position)).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(draws(3), draws(2));
    assert_ne!(draws(3), draws(0));
}

#[test]
fn the_bias_comes_before_the_penalties() {
    let place = place(&[1], 1);
    let sampling = Sampling { repetition_penalty: 2.0, logit_bias: vec![(TokenId(1), 6.0)], ..warm(0) };
    assert_becomes(&place, &sampling, 1, (-2.0 + 6.0) / 2.0);
}

fn dry(allowed_length: u32, range: u32, breakers: &[u32]) -> Sampling {
    let breakers = breakers.iter().copied().map(TokenId).collect();
    Sampling { dry: Some(Dry { multiplier: 0.8, base: 1.75, allowed_length, range, breakers }), ..warm(0) }
}

#[test]
fn dry_makes_the_continuation_of_a_repeated_piece_less_likely_the_longer_the_piece() {
    // "1 2 3" came before and was followed by 0; "3" alone was followed by 4 as well.
    let place = place(&[1, 2, 3, 0, 3, 4, 1, 2, 3], 5);
    assert_becomes(&place, &dry(2, 100, &[]), 0, 2.0 - 0.8 * 1.75);
    assert_becomes(&place, &dry(2, 100, &[]), 4, 3.0);
    assert_becomes(&place, &dry(1, 100, &[]), 0, 2.0 - 0.8 * 1.75 * 1.75);
    assert_becomes(&place, &dry(1, 100, &[]), 4, 3.0 - 0.8);
    assert_becomes(&place, &dry(3, 100, &[]), 0, 2.0 - 0.8);
    assert_becomes(&place, &dry(4, 100, &[]), 0, 2.0);
    assert_becomes(&place, &dry(2, 100, &[]), 1, -2.0);
}

#[test]
fn dry_looks_no_further_back_than_its_range_and_over_no_breaker() {
    let place = place(&[1, 2, 3, 0, 3, 4, 1, 2, 3], 5);
    assert_becomes(&place, &dry(1, 8, &[]), 0, 2.0 - 0.8 * 1.75);
    assert_becomes(&place, &dry(1, 7, &[]), 0, 2.0 - 0.8);
    assert_becomes(&place, &dry(1, 6, &[]), 0, 2.0);
    assert_becomes(&place, &dry(1, 100, &[2]), 0, 2.0 - 0.8);
    assert_becomes(&place, &dry(1, 100, &[3]), 0, 2.0);
    assert_becomes(&place, &dry(1, 100, &[0]), 0, 2.0);
    assert_becomes(&place, &dry(1, 100, &[0]), 4, 3.0 - 0.8);
    let endless = [vec![TokenId(0); 3], vec![TokenId(u32::MAX)]].concat();
    let mut sampling = dry(1, 100, &[]);
    sampling.dry.as_mut().unwrap().breakers = endless;
    assert_becomes(&place, &sampling, 0, 2.0);
}

#[test]
fn a_breaker_of_one_row_is_none_of_the_next() {
    let place = place(&[1, 2, 3, 0, 3, 4, 1, 2, 3], 5);
    let (with, without) = (dry(1, 100, &[0, 2, 3]), dry(1, 100, &[]));
    let expected = place.draws(&mut Sampler::new(), &without, 100);
    let mut shared = Sampler::new();
    assert_ne!(place.draws(&mut shared, &with, 100), expected);
    assert_eq!(place.draws(&mut shared, &without, 100), expected);
}

#[test]
fn dry_that_costs_nothing_changes_nothing_however_long_the_match() {
    let mut sampling = dry(1, 100, &[]);
    sampling.dry.as_mut().unwrap().base = f32::MAX;
    sampling.dry.as_mut().unwrap().multiplier = 0.0;
    assert_becomes(&place(&[0; 100], 50), &sampling, 0, 2.0);
}

#[test]
fn dry_takes_the_longest_of_several_matches() {
    // 0 followed "3", "2 3" and "1 2 3", in an order in which the longest is neither the first nor the last.
    let place = place(&[2, 3, 0, 1, 2, 3, 0, 4, 3, 0, 5, 1, 2, 3], 14);
    assert_becomes(&place, &dry(1, 100, &[]), 0, 2.0 - 0.8 * 1.75 * 1.75);
}

#[test]
fn eight_thousand_equal_tokens_make_the_next_one_as_unlikely_as_can_be_and_no_more() {
    let history = vec![4; 8_192];
    let mut place = place(&history, 10);
    place.logits[4] = 1e30;
    let costly = dry(1, 8_192, &[]);
    assert_ne!(place.draws(&mut Sampler::new(), &costly, 20), [4; 20]);
    place.allowed = Some((0..10).map(|token| token == 4).collect());
    assert_eq!(place.draws(&mut Sampler::new(), &costly, 20), [4; 20], "less likely is not forbidden");
}

#[test]
fn a_bias_of_a_hundred_forces_and_one_of_minus_a_hundred_bans() {
    let place = Place::new(model_like(5_000));
    let forced = Sampling { logit_bias: vec![(TokenId(4_999), 100.0)], ..warm(6) };
    assert_eq!(place.draws(&mut Sampler::new(), &forced, 200), [4_999; 200]);
    let likely = place.draws(&mut Sampler::new(), &warm(6), 200);
    let banned: Vec<_> = likely.iter().map(|&token| (TokenId(token), -100.0)).collect();
    let others = place.draws(&mut Sampler::new(), &Sampling { logit_bias: banned, ..warm(6) }, 200);
    assert!(others.iter().all(|token| !likely.contains(token)));
    let twice = Sampling { logit_bias: vec![(TokenId(1), 60.0), (TokenId(1), -40.0), (TokenId(2), 21.0)], ..warm(6) };
    assert_eq!(Place::new(vec![0.0; 9]).draws(&mut Sampler::new(), &Sampling { temperature: 0.0, ..twice }, 1), [2]);
}

#[test]
fn a_bias_for_a_token_without_a_logit_is_an_error_and_leaves_nothing_behind() {
    let mut sampler = Sampler::new();
    let mut sampling = everything(1);
    sampling.logit_bias = vec![(TokenId(0), 1.0), (TokenId(300), 1.0)];
    let logits = model_like(300);
    assert_eq!(token(&mut sampler, &logits, &sampling, 0), Err(SampleError::UnknownToken));
    sampling.logit_bias.pop();
    assert_eq!(token(&mut sampler, &logits, &sampling, 0), token(&mut Sampler::new(), &logits, &sampling, 0));
}

#[test]
fn a_mask_of_one_token_forces_it() {
    for vocabulary in [1, 31, 32, 33, 128, 129, 1_000] {
        for forced in [0, vocabulary / 2, vocabulary - 1] {
            let allowed = (0..vocabulary).map(|token| token == forced).collect();
            let place = Place { allowed: Some(allowed), ..Place::new(model_like(vocabulary)) };
            let flat = Sampling { temperature: 1e30, ..warm(2) };
            let truncated = Sampling { top_k: 9, typical_p: 0.9, top_p: 0.9, min_p: 0.1, ..warm(2) };
            let banned = Sampling { logit_bias: vec![(TokenId(forced as u32), -100.0)], ..warm(2) };
            for how in [Sampling::greedy(), warm(2), flat, truncated, banned] {
                assert_eq!(place.draws(&mut Sampler::new(), &how, 20), [forced as u32; 20]);
            }
        }
    }
}

#[test]
fn a_mask_that_allows_nothing_is_an_error() {
    let logits = model_like(100);
    // A bit beyond the vocabulary allows nothing, nor does a mask without words.
    for words in [vec![0; 4], vec![0, 0, 0, 1 << 4], vec![0, 0, 0, 0, u32::MAX], vec![]] {
        let mask = TokenMask::new(words);
        for sampling in [Sampling::greedy(), warm(1), Sampling { top_k: 5, logprobs: Some(3), ..warm(1) }] {
            let draw = Draw { mask: Some(&mask), ..draw_at(&sampling, 0) };
            assert_eq!(Sampler::new().draw(&logits, &draw), Err(SampleError::NothingAllowed));
        }
    }
}

#[test]
fn a_mask_says_what_it_allows() {
    let mask = TokenMask::new(vec![0b101, 1 << 31]);
    let allowed: Vec<_> = (0..200).chain([u32::MAX]).filter(|&token| mask.allows(TokenId(token))).collect();
    assert_eq!(allowed, [0, 2, 63]);
}

#[test]
fn draws_follow_the_probabilities_after_the_changes() {
    let mut place = place(&[0, 1, 4, 0, 1, 2, 0, 1], 3);
    place.allowed = Some((0..10).map(|token| token != 8).collect());
    let sampling = Sampling {
        repetition_penalty: 1.3,
        frequency_penalty: 0.2,
        presence_penalty: 0.3,
        logit_bias: vec![(TokenId(3), 1.5)],
        ..dry(1, 100, &[])
    };
    assert_follows(&place, &sampling);
    assert_follows(&place, &Sampling { top_k: 6, top_p: 0.9, ..sampling });
}

#[test]
fn tokens_of_the_history_that_have_no_logit_change_nothing() {
    let with = place(&[0, 700, 1, u32::MAX, 0, 700, 1], 2);
    let sampling = Sampling { repetition_penalty: 1.3, frequency_penalty: 0.5, ..dry(1, 100, &[]) };
    assert_eq!(with.draws(&mut Sampler::new(), &sampling, 5).len(), 5);
}
