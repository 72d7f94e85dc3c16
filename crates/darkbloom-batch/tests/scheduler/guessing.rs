//! Guesses, where they pay.

use darkbloom_batch::{Limits, RowId, RowRequest};

use crate::memory::*;

const WIDE: Limits = Limits { step_tokens_max: 32, row_tokens_max: 400, ..LIMITS };

/// Repeats itself when `even`.
fn row(id: u64, even: bool) -> RowRequest {
    let mut request = request(id, 12, 300);
    let mut prompt = request.prompt.expose().to_vec();
    prompt[0].0 = if even { 2 } else { 1 };
    request.prompt = darkbloom_types::SecretTokens::new(prompt);
    request.stop_tokens.clear();
    request
}

#[test]
fn a_row_that_repeats_itself_takes_fewer_steps_and_says_the_same() {
    let mut bench = Bench::new(WIDE);
    bench.submit(row(1, true));
    let steps = bench.run_to_the_end();
    assert_eq!(bench.story.tokens[&RowId(1)], answer(&row(1, true), 400).0);
    let decisions = bench.scheduler.decisions();
    assert!(steps < 150, "{steps} steps for 300 tokens: {decisions:?}");
    assert!(decisions.right_guesses * 10 > decisions.guessed_tokens * 7, "{decisions:?}");
}

#[test]
fn a_row_that_does_not_is_not_guessed_at() {
    let mut bench = Bench::new(WIDE);
    bench.submit(row(1, false));
    bench.run_to_the_end();
    let decisions = bench.scheduler.decisions();
    assert!(decisions.guessed_tokens * 20 < 300, "{decisions:?}");
}

#[test]
fn nothing_is_guessed_where_longer_steps_take_as_much_longer() {
    let mut bench = Bench::new(WIDE);
    bench.submit(row(1, true));
    while let Some(plan) = bench.scheduler.plan(bench.now) {
        let output = bench.memory.step(&plan);
        // What two tokens take is what they take one after the other.
        let took_us = 100 * plan.token_count() as u64;
        bench.scheduler.update(output, took_us, bench.now);
    }
    assert_eq!(bench.scheduler.decisions().guessed_tokens, 0);
}

#[test]
fn guesses_take_no_room_from_rows_that_are_to_come() {
    let mut bench = Bench::new(Limits { step_tokens_max: 5, row_tokens_max: 400, ..LIMITS });
    for id in 1..=4 {
        bench.submit(row(id, true));
    }
    loop {
        let all_decode = bench.story.tokens.len() == 4;
        let running = bench.scheduler.load().running;
        let Some(plan) = bench.step() else { break };
        assert!(!all_decode || plan.rows.len() == running, "a row is left out");
    }
    assert!(bench.scheduler.decisions().right_guesses > 0, "there was room for a guess now and then");
    for id in 1..=4 {
        assert_eq!(bench.story.tokens[&RowId(id)], answer(&row(id, true), 400).0);
    }
}
