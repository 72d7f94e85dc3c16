//! What a step feeds, and what its result does.

use darkbloom_batch::{
    Drawn, EndReason, Limits, Load, MemoryOp, Owner, RowFailure, RowId, RowRequest, SampleError, Sampled, Scheduler,
    Slot, StepOutput,
};
use darkbloom_types::{SecretTokens, TokenId};

use crate::memory::*;

#[test]
fn rows_decode_together_and_prefill_takes_what_is_left() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(request(1, 2, 20));
    bench.submit(request(2, 3, 20));
    // Nothing is known about what steps take.
    assert_eq!(bench.step_taking(|_| 0).unwrap().token_count(), 5);
    bench.submit(request(3, 20, 20));
    let plan = bench.step().unwrap();
    let sizes: Vec<_> = plan.rows.iter().map(|row| (row.id.0, row.tokens.len(), row.sample.is_some())).collect();
    assert_eq!(sizes, [(1, 1, true), (2, 1, true), (3, 6, false)]);
}

/// What steps take that decode so many rows and feed so many tokens of a prompt: in microseconds, about that of a 0.6 B model on
/// one thread, with a pass over the weights for each part.
fn cost(decoding: usize, fed: usize) -> u64 {
    let decoding_us = if decoding > 0 { 20_000 + 25_000 * decoding as u64 } else { 0 };
    let fed_us = if fed > 0 { 45_000 + 15_000 * fed as u64 } else { 0 };
    decoding_us + fed_us
}

/// What came of prompts among rows that decode.
struct Among {
    /// A step's time before and, on average, until the last of the prompts had its first token.
    gap_before: u64,
    gap: u64,
    /// Time until each of the prompts had it.
    first_tokens: Vec<u64>,
}

/// Prompts that come at once beside so many rows that decode, of one owner or of two.
fn prompts_among(decoders: u64, prompts: &[usize], others: bool) -> Among {
    // Guesses make steps longer too, and are not what this is about.
    let limits =
        Limits { rows_max: 16, row_tokens_max: 2_048, step_tokens_max: 512, waiting_max: 16, trims: false, ..LIMITS };
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut memory = Memory::new(limits);
    let row = |id: u64, prompt: usize| {
        let mut request = request(id, prompt, 1_000);
        request.stop_tokens.clear();
        request
    };
    (0..decoders).for_each(|id| scheduler.submit(row(id, 64), NOW).unwrap());
    let mut among = Among { gap_before: 0, gap: 0, first_tokens: Vec::new() };
    let (mut time, mut steps) = (0, 0);
    let come_at = if decoders == 0 { 0 } else { 100 };
    for nth in 0..2_000 {
        if nth == come_at {
            let owner = Owner(u64::from(others));
            (100..).zip(prompts).for_each(|(id, &prompt)| {
                scheduler.submit(RowRequest { owner, ..row(id, prompt) }, NOW).unwrap();
            });
        }
        let plan = scheduler.plan(NOW).unwrap();
        let (decoding, fed): (Vec<_>, Vec<_>) =
            plan.rows.iter().partition(|row| row.start as usize >= row_prompt(row.id, prompts));
        let took_us = cost(decoding.len(), fed.iter().map(|row| row.tokens.len()).sum());
        let firsts = fed.iter().filter(|row| row.id.0 >= 100 && row.sample.is_some()).count();
        let output = memory.step(&plan);
        scheduler.update(output, took_us, NOW);
        if nth < come_at {
            among.gap_before = took_us;
            continue;
        }
        time += took_us;
        steps += 1;
        among.first_tokens.extend(std::iter::repeat_n(time, firsts));
        if among.first_tokens.len() == prompts.len() {
            among.gap = time / steps;
            return among;
        }
    }
    panic!("a prompt is starved");
}

fn row_prompt(id: RowId, prompts: &[usize]) -> usize {
    id.0.checked_sub(100).map_or(64, |at| prompts[at as usize])
}

/// A prompt's first token with nobody else there, in the steps that it gets.
fn first_token_alone(prompt: usize) -> u64 {
    prompts_among(0, &[prompt], true).first_tokens[0]
}

#[test]
fn a_long_prompt_at_most_doubles_the_gap_between_the_tokens_of_eight_rows_and_is_not_starved() {
    let among = prompts_among(8, &[512], false);
    assert!(among.gap <= 2 * among.gap_before, "a gap of {} µs after {}", among.gap, among.gap_before);
    let (first, alone) = (among.first_tokens[0], first_token_alone(512));
    assert!(first <= 3 * alone, "{first} µs to the first token, {alone} alone");
}

#[test]
fn a_prompt_beside_few_rows_is_fed_in_pieces_that_are_worth_a_pass_over_the_weights() {
    for decoders in 1..8 {
        let among = prompts_among(decoders, &[512], true);
        let (first, alone) = (among.first_tokens[0], first_token_alone(512));
        let most = if decoders <= 4 { 2 } else { 3 };
        assert!(first <= most * alone, "{first} µs to the first token beside {decoders} rows, {alone} alone");
        assert!(among.gap <= 500_000, "a gap of {} µs beside {decoders} rows", among.gap);
    }
}

#[test]
fn of_prompts_that_come_together_the_first_does_not_hold_up_the_last() {
    let alone: u64 = [240; 8].into_iter().map(first_token_alone).sum();
    let among = prompts_among(0, &[240; 8], true);
    let (first, last) = (among.first_tokens[0], among.first_tokens[7]);
    assert!(first <= alone / 6, "{first} µs to the first, {alone} one after the other");
    assert!(last <= alone * 13 / 10, "{last} µs to the last, {alone} one after the other");
}

#[test]
fn of_prompts_that_are_about_as_long_the_first_is_first_and_in_one_piece() {
    let mut bench = Bench::new(Limits { rows_max: 3, row_tokens_max: 128, step_tokens_max: 60, ..LIMITS });
    (1..=3).zip([58, 57, 56]).for_each(|(id, prompt)| bench.submit(request(id, prompt, 20)));
    let ends = |bench: &mut Bench| {
        let plan = bench.step_taking(|_| 1_000_000).unwrap();
        let whole: Vec<_> = plan.rows.iter().filter(|row| row.sample.is_some()).map(|row| row.id.0).collect();
        whole
    };
    assert_eq!(ends(&mut bench), [1], "though two need less");
    assert!(!ends(&mut bench).contains(&3));
}

#[test]
fn who_asks_for_much_at_once_slows_down_their_own_rows_and_not_anothers() {
    let own = prompts_among(8, &[240; 4], false);
    let others = prompts_among(8, &[240; 4], true);
    assert!(own.gap > 3 * own.gap_before && own.gap <= 1_100_000, "a gap of {} µs", own.gap);
    // Those whose prompts are done decode as well.
    let most = others.gap_before * 5 / 2;
    assert!(others.gap <= most, "a gap of {} µs after {}", others.gap, others.gap_before);
    assert!(4 * own.first_tokens[3] < 3 * others.first_tokens[3], "{:?} {:?}", own.first_tokens, others.first_tokens);
}

#[test]
fn prompts_of_one_owner_who_has_all_rows_go_two_in_a_step() {
    let fed = |owners: &[u64]| {
        let mut bench = Bench::new(Limits { step_tokens_max: 512, ..LIMITS });
        bench.submit(request(1, 48, 1));
        bench.step_taking(|tokens| cost(0, tokens));
        (2..).zip(owners).for_each(|(id, &owner)| {
            bench.submit(RowRequest { owner: Owner(owner), ..request(id, 48, 4) });
        });
        let plan = bench.step_taking(|tokens| cost(0, tokens)).unwrap();
        plan.rows.iter().map(|row| row.tokens.len()).collect::<Vec<_>>()
    };
    assert_eq!(fed(&[1, 1, 1]), [48, 48], "the step takes less than two seconds");
    assert_eq!(fed(&[1, 2, 1]), [48], "and less than one where others are there too");
    assert_eq!(fed(&[1, 1, 1, 1, 2]), [48], "or wait for a slot");
    let among = prompts_among(8, &[48; 4], false).first_tokens;
    assert!(among[0] == among[1] && among[1] < among[2] && among[2] == among[3], "{among:?}");
}

#[test]
fn a_small_piece_of_a_prompt_waits_where_another_prompt_ends() {
    let fed = |prompts: &[usize]| {
        let mut bench = Bench::new(Limits { row_tokens_max: 128, step_tokens_max: 60, ..LIMITS });
        (1..).zip(prompts).for_each(|(id, &prompt)| bench.submit(request(id, prompt, 20)));
        let plan = bench.step().unwrap();
        plan.rows.iter().map(|row| (row.id.0, row.tokens.len())).collect::<Vec<_>>()
    };
    assert_eq!(fed(&[40, 39]), [(1, 40)], "half of it");
    assert_eq!(fed(&[36, 32]), [(1, 36), (2, 24)], "three quarters of it");
    assert_eq!(fed(&[100, 20]), [(1, 40), (2, 20)], "the first never waits");
    assert_eq!(fed(&[100, 20, 50]), [(1, 40), (2, 20)], "and gets what is left");
    assert_eq!(fed(&[100, 99]), [(1, 60)]);
    assert_eq!(fed(&[100, 50]), [(1, 30), (2, 30)], "neither ends");
}

#[test]
fn nobody_is_passed_over_twice() {
    let mut bench = Bench::new(Limits { row_tokens_max: 128, step_tokens_max: 60, ..LIMITS });
    bench.submit(request(1, 120, 20));
    bench.submit(request(2, 50, 20));
    let fed = [3, 4].map(|id| {
        bench.submit(request(id, 10, 1));
        let plan = bench.step_taking(|_| 0).unwrap();
        plan.rows.iter().map(|row| (row.id.0, row.tokens.len())).collect::<Vec<_>>()
    });
    assert_eq!(fed, [vec![(1, 50), (3, 10)], vec![(1, 30), (2, 20), (4, 10)]]);
}

#[test]
fn a_short_prompt_goes_in_one_piece_beside_rows_of_its_own_owner() {
    let (own, others) = (prompts_among(8, &[48], false), prompts_among(8, &[48], true));
    assert_eq!(own.first_tokens[0], cost(8, 48), "in one step");
    assert!(others.first_tokens[0] > own.first_tokens[0]);
    assert!(others.gap <= 2 * others.gap_before, "a gap of {} µs after {}", others.gap, others.gap_before);
}

#[test]
fn prompts_share_a_step_so_that_a_short_one_does_not_wait_for_a_long_one() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(request(1, 60, 2));
    bench.submit(request(2, 4, 2));
    let plan = bench.step().unwrap();
    let mut sizes: Vec<_> = plan.rows.iter().map(|row| (row.id.0, row.tokens.len())).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(1, 4), (2, 4)]);
}

#[test]
fn a_cancelled_row_frees_its_slot_for_the_next_plan_which_forgets_it() {
    let mut bench = Bench::new(Limits { rows_max: 1, ..LIMITS });
    bench.submit(request(1, 4, 20));
    bench.submit(request(2, 4, 20));
    let plan = bench.scheduler.plan(NOW).unwrap();
    assert!(bench.scheduler.cancel(RowId(1)), "cancelled while its step is out");
    let output = bench.memory.step(&plan);
    let events = bench.scheduler.update(output, 1, NOW);
    assert_eq!(events.last().unwrap().id(), RowId(1));
    let plan = bench.scheduler.plan(NOW).unwrap();
    assert_eq!(plan.memory, [MemoryOp::Forget { slot: Slot(0), from: 0 }]);
    assert_eq!(plan.rows[0].id, RowId(2));
    assert!(!bench.scheduler.cancel(RowId(1)), "it ended already");
}

#[test]
fn a_failed_step_ends_the_running_rows_and_the_waiting_ones_go_on() {
    let mut bench = Bench::new(Limits { rows_max: 2, ..LIMITS });
    (1..=3).for_each(|id| bench.submit(request(id, 4, 20)));
    bench.scheduler.plan(NOW).unwrap();
    let events = bench.scheduler.fail_step();
    bench.story.tell(events);
    assert_eq!(bench.story.ended[&RowId(1)], (EndReason::Failed, 0, Some(RowFailure::Step)));
    assert_eq!(bench.story.ended[&RowId(2)], (EndReason::Failed, 0, Some(RowFailure::Step)));
    bench.run_to_the_end();
    assert_ne!(bench.story.ended[&RowId(3)].0, EndReason::Failed);
}

#[test]
fn unusable_logits_end_only_their_own_row() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(request(1, 2, 20));
    bench.submit(request(2, 2, 20));
    let plan = bench.scheduler.plan(NOW).unwrap();
    let mut output = bench.memory.step(&plan);
    output.sampled[0].tokens = Err(SampleError::NotFinite);
    let events = bench.scheduler.update(output, 1, NOW);
    bench.story.tell(events);
    let failure = Some(RowFailure::Logits(SampleError::NotFinite));
    assert_eq!(bench.story.ended.get(&RowId(1)), Some(&(EndReason::Failed, 0, failure)));
    assert!(!bench.story.ended.contains_key(&RowId(2)));
}

#[test]
fn a_row_that_the_executor_forgets_fails() {
    for sampled in [vec![], vec![Sampled { slot: Slot(0), tokens: Ok(vec![]) }]] {
        let mut bench = Bench::new(LIMITS);
        bench.submit(request(1, 2, 20));
        bench.scheduler.plan(NOW).unwrap();
        let events = bench.scheduler.update(StepOutput { sampled, lost: vec![] }, 1, NOW);
        bench.story.tell(events);
        assert_eq!(bench.story.ended[&RowId(1)].2, Some(RowFailure::NoOutput));
    }
}

#[test]
fn stopping_ends_running_and_waiting_rows() {
    let mut bench = Bench::new(Limits { rows_max: 1, ..LIMITS });
    bench.submit(request(1, 2, 20));
    bench.submit(request(2, 2, 20));
    bench.scheduler.plan(NOW).unwrap();
    let events = bench.scheduler.end_all(RowFailure::Stuck);
    bench.story.tell(events);
    assert!(bench.story.ended.values().all(|(_, _, failure)| *failure == Some(RowFailure::Stuck)));
    assert_eq!(bench.story.ended.len(), 2);
    assert_eq!(bench.scheduler.load(), Load { running: 0, waiting: 0, rows_max: 1 });
}

#[test]
fn a_context_that_is_used_up_ends_the_row_by_length() {
    let mut bench = Bench::new(LIMITS);
    let mut long = request(1, 62, 1_000);
    long.stop_tokens.clear();
    bench.submit(long);
    bench.run_to_the_end();
    assert_eq!(bench.story.ended[&RowId(1)], (EndReason::Length, 2, None));
}

#[test]
fn without_room_the_row_that_came_last_gives_way_until_another_ends() {
    let mut bench = Bench::new(LIMITS);
    (1..=3).for_each(|id| bench.submit(RowRequest { stop_tokens: vec![], ..request(id, 2, 5) }));
    bench.step();
    let plan = bench.scheduler.plan(NOW).unwrap();
    assert_eq!(plan.rows.len(), 3);
    plan.memory.iter().for_each(|op| bench.memory.apply(op));
    assert!(bench.scheduler.no_room().is_empty(), "nobody fails");
    while bench.story.ended.is_empty() {
        let plan = bench.step().unwrap();
        assert!(plan.rows.iter().all(|row| row.id != RowId(3)), "it came back at once");
    }
    bench.run_to_the_end();
    assert!(bench.story.ended.values().all(|(reason, ..)| *reason == EndReason::Length));
}

#[test]
fn a_row_that_has_no_room_alone_ends_and_says_so() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(request(1, 2, 5));
    bench.scheduler.plan(NOW).unwrap();
    let events = bench.scheduler.no_room();
    bench.story.tell(events);
    assert_eq!(bench.story.ended[&RowId(1)].2, Some(RowFailure::NoRoom));
}

#[test]
fn nothing_printable_shows_a_token() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut asked = request(1, 4, 5);
    asked.prompt = SecretTokens::new(vec![TokenId(48_151), TokenId(62_342)]);
    asked.stop_tokens = vec![TokenId(48_151)];
    asked.scope = Some(darkbloom_batch::Scope::new([173; 32]));
    let mut shown = format!("{asked:?}");
    scheduler.submit(asked, NOW).unwrap();
    let plan = scheduler.plan(NOW).unwrap();
    let sampled =
        vec![Sampled { slot: plan.rows[0].slot, tokens: Ok(vec![Drawn { token: TokenId(62_342), logprobs: None }]) }];
    let output = StepOutput { sampled, lost: vec![] };
    shown += &format!("{plan:?} {scheduler:?} {output:?}");
    shown += &format!("{:?} {scheduler:?}", scheduler.update(output, 1, NOW));
    assert!(!shown.contains("48151") && !shown.contains("62342") && !shown.contains("173"), "{shown}");
}
