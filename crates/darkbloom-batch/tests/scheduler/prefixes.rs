//! What rows of one scope leave each other, and nobody else.

use darkbloom_batch::{Decisions, Limits, MemoryOp, Owner, Priority, RowId, RowRequest, StepOutput};
use darkbloom_types::{Millis, MonoMillis, TokenCount};

use crate::memory::*;

#[test]
fn a_row_of_the_same_scope_feeds_only_what_differs() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    let second = bench.run(scoped(2, 1, 30, 5));
    assert_eq!(second, 5 + bench.story.tokens[&RowId(2)].len() - 1);
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30);
}

#[test]
fn the_same_prompt_feeds_its_last_token_at_least() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 0));
    bench.run(scoped(2, 1, 30, 0));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 29);
}

#[test]
fn a_row_of_another_scope_or_of_none_takes_exactly_as_many_steps_and_tokens_as_after_a_start() {
    let steps = |prepare: &dyn Fn(&mut Bench), request: RowRequest| {
        let mut bench = Bench::new(LIMITS);
        prepare(&mut bench);
        let (fed, reused) = (bench.memory.fed, bench.scheduler.decisions().reused_tokens);
        bench.submit(request);
        let mut tokens_of_steps = Vec::new();
        while let Some(plan) = bench.step() {
            tokens_of_steps.push(plan.rows.iter().map(|row| row.tokens.len()).sum::<usize>());
        }
        tokens_of_steps.retain(|tokens| *tokens > 0);
        (tokens_of_steps, bench.memory.fed - fed, bench.scheduler.decisions().reused_tokens - reused)
    };
    let used = |bench: &mut Bench| {
        for id in 10..30 {
            bench.run(scoped(id, 1, 30, 5));
        }
    };
    for request in [scoped(1, 2, 30, 5), RowRequest { scope: None, ..scoped(1, 1, 30, 5) }] {
        let fresh = steps(&|_| {}, request.clone());
        assert_eq!(steps(&used, request), fresh, "the time to the first token tells what others asked");
        assert_eq!(fresh.2, 0);
    }
    let own = steps(&used, scoped(1, 1, 30, 5));
    assert_eq!(own.2, 30, "the test would see it");
}

#[test]
fn a_prefix_is_used_beside_the_row_that_has_it() {
    let mut bench = Bench::new(LIMITS);
    let mut long = scoped(2, 1, 30, 1);
    long.max_output.0 = 30;
    long.stop_tokens.clear();
    bench.submit(long);
    for _ in 0..8 {
        bench.step();
    }
    assert!(!bench.story.ended.contains_key(&RowId(2)));
    bench.submit(scoped(3, 1, 30, 5));
    let plan = bench.step().unwrap();
    assert!(matches!(plan.memory[..], [MemoryOp::Copy { keep: 30, .. }]), "{:?}", plan.memory);
    bench.run_to_the_end();
}

/// What rows that come at once feed, and what they say.
fn burst(limits: Limits, rows: &[RowRequest]) -> (usize, Bench) {
    let mut bench = Bench::new(limits);
    rows.iter().for_each(|row| bench.submit(row.clone()));
    bench.run_to_the_end();
    (bench.memory.fed, bench)
}

#[test]
fn rows_that_come_together_feed_what_they_have_in_common_once() {
    let rows: Vec<_> = (1..=4).map(|id| scoped(id, 1, 30, 5)).collect();
    let apart: Vec<_> = rows.iter().map(|row| RowRequest { scope: None, ..row.clone() }).collect();
    let ((fed, bench), (fed_apart, bench_apart)) = (burst(LIMITS, &rows), burst(LIMITS, &apart));
    assert_eq!(fed_apart - fed, 3 * 30);
    assert_eq!(bench.scheduler.decisions().reused_tokens, 3 * 30);
    assert_eq!(bench.story.tokens, bench_apart.story.tokens);
    // One that has more in common with the second than with the first takes it from there.
    let more = RowRequest { prompt: rows[1].prompt.clone(), ..rows[2].clone() };
    let (_, bench) = burst(LIMITS, &[rows[0].clone(), rows[1].clone(), more]);
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30 + 34);
    // Others' rows and memory that cannot be trimmed: everybody feeds everything.
    let strangers: Vec<_> = (1..=4).map(|id| scoped(id, id as u8, 30, 5)).collect();
    assert_eq!(burst(LIMITS, &strangers).0, fed_apart);
    assert_eq!(burst(Limits { trims: false, ..LIMITS }, &rows).1.scheduler.decisions().reused_tokens, 0);
}

#[test]
fn rows_that_end_with_their_first_token_leave_it_to_those_that_waited() {
    let rows: Vec<_> = (1..=4).map(|id| RowRequest { stop_tokens: vec![], ..scoped(id, 1, 30, 5) }).collect();
    let once = |mut row: RowRequest| {
        row.max_output.0 = 1;
        row
    };
    let rows: Vec<_> = rows.into_iter().map(once).collect();
    // All of a prompt goes into one step, after which nobody is there any more.
    let limits = Limits { step_tokens_max: 64, ..LIMITS };
    assert_eq!(burst(limits, &rows).1.scheduler.decisions().reused_tokens, 3 * 30);
    // Nor does a stranger get the slot before.
    let rows: Vec<_> = rows.into_iter().chain([request(5, 4, 1)]).collect();
    assert_eq!(burst(limits, &rows).1.scheduler.decisions().reused_tokens, 3 * 30);
}

#[test]
fn who_waits_for_what_a_row_feeds_goes_on_when_that_row_goes() {
    // After one step nothing is worth keeping, after three there is.
    for (steps, reused) in [(1, 0), (3, 24)] {
        let mut bench = Bench::new(LIMITS);
        (1..=2).for_each(|id| bench.submit(scoped(id, 1, 30, 5)));
        for _ in 0..steps {
            let plan = bench.step().unwrap();
            assert_eq!(plan.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [RowId(1)], "the second waits");
        }
        assert!(bench.scheduler.cancel(RowId(1)));
        let plan = bench.step().unwrap();
        assert_eq!(plan.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [RowId(2)]);
        bench.run_to_the_end();
        assert_eq!(bench.scheduler.decisions().reused_tokens, reused);
        let alone = burst(LIMITS, &[scoped(2, 1, 30, 5)]).1;
        assert_eq!(bench.story.tokens[&RowId(2)], alone.story.tokens[&RowId(2)]);
    }
}

#[test]
fn a_row_whose_slot_another_takes_is_not_waited_for_and_comes_back() {
    let limits = Limits { rows_max: 2, ..LIMITS };
    let mut bench = Bench::new(limits);
    (1..=2).for_each(|id| bench.submit(RowRequest { priority: Priority::Low, ..scoped(id, 1, 30, 5) }));
    bench.step();
    // It takes the slot of the row that came last, which waited, and then that of the one that it waited for.
    (3..=4).for_each(|id| bench.submit(request(id, 4, 4)));
    bench.run_to_the_end();
    assert_eq!(bench.story.ended.len(), 4);
    for id in 1..=2 {
        let alone = burst(LIMITS, &[scoped(id, 1, 30, 5)]).1;
        assert_eq!(bench.story.tokens[&RowId(id)], alone.story.tokens[&RowId(id)]);
    }
}

#[test]
fn two_rows_never_wait_for_each_other() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(RowRequest { priority: Priority::Low, ..scoped(1, 1, 30, 5) });
    bench.step();
    let mut others = request(2, 2, 20);
    others.stop_tokens.clear();
    bench.submit(others);
    bench.step();
    // This one waits for the first, which gives way for want of memory and comes back to a slot.
    bench.submit(scoped(3, 1, 30, 5));
    let plan = bench.scheduler.plan(bench.now).unwrap();
    plan.memory.iter().for_each(|op| bench.memory.apply(op));
    let events = bench.scheduler.no_room();
    bench.story.tell(events);
    assert!(bench.scheduler.cancel(RowId(2)));
    bench.run_to_the_end();
    assert_eq!(bench.story.ended.len(), 3);
}

#[test]
fn waiting_is_for_most_of_a_prompt_and_holds_up_nobody_elses() {
    let limits = Limits { row_tokens_max: 128, step_tokens_max: 60, ..LIMITS };
    // A third of it is fed sooner than waited for.
    let mut bench = Bench::new(limits);
    bench.submit(scoped(1, 1, 18, 5));
    bench.submit(scoped(2, 1, 18, 30));
    let plan = bench.step().unwrap();
    assert_eq!(plan.rows.len(), 2);
    // What is waited for goes first, and no more of its prompt: another's short one has the rest.
    let mut bench = Bench::new(limits);
    bench.submit(RowRequest { owner: Owner(1), ..scoped(1, 1, 20, 100) });
    bench.submit(RowRequest { owner: Owner(1), ..scoped(2, 1, 20, 5) });
    bench.submit(RowRequest { owner: Owner(2), ..request(3, 25, 4) });
    let plan = bench.step_taking(|_| 1_000).unwrap();
    let fed: Vec<_> = plan.rows.iter().map(|row| (row.id.0, row.tokens.len())).collect();
    assert_eq!(fed, [(1, 35), (3, 25)]);
    let mut bench = Bench::new(Limits { step_tokens_max: 64, ..limits });
    bench.submit(request(1, 100, 4));
    bench.submit(scoped(2, 1, 20, 100));
    bench.submit(scoped(3, 1, 20, 5));
    bench.submit(request(4, 12, 4));
    let plan = bench.step_taking(|_| 1_000).unwrap();
    let fed: Vec<_> = plan.rows.iter().map(|row| (row.id.0, row.tokens.len())).collect();
    assert_eq!(fed, [(1, 32), (2, 20), (4, 12)], "the second's own prompt would come last");
}

#[test]
fn too_few_common_tokens_are_not_worth_it() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 15, 9));
    bench.run(scoped(2, 1, 15, 9));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 0);
}

/// What rows copy that come after one of scope 1 with so many tokens of its own was fed, where a token takes so long: to which
/// slot, and how many tokens.
fn copied(own: usize, token_us: u64, trims: bool, ends: bool, rows: &[RowRequest]) -> Vec<(u32, u32)> {
    let limits = Limits { rows_max: 8, row_tokens_max: 128, step_tokens_max: 128, trims, ..LIMITS };
    let mut bench = Bench::new(limits);
    let mut first = scoped(1, 1, 4, own);
    first.max_output.0 = if ends { 1 } else { 20 };
    bench.submit(first);
    while bench.memory.fed < 4 + own {
        bench.step_taking(|tokens| token_us * tokens as u64).unwrap();
    }
    rows.iter().for_each(|row| bench.submit(row.clone()));
    let plan = bench.step_taking(|tokens| token_us * tokens as u64).unwrap();
    bench.run_to_the_end();
    for row in rows {
        assert_eq!(bench.story.tokens[&row.id], answer(row, limits.row_tokens_max).0);
    }
    let copy = |op: &MemoryOp| if let MemoryOp::Copy { to, keep, .. } = *op { Some((to.0, keep)) } else { None };
    plan.memory.iter().filter_map(copy).collect()
}

#[test]
fn what_a_template_writes_is_copied_where_feeding_it_takes_longer() {
    let row = |id| RowRequest { max_output: TokenCount(3), ..scoped(id, 1, 4, 20) };
    assert_eq!(copied(20, 1_000, true, false, &[row(2), row(3)]), [(1, 4)], "the third when it is fed");
    assert_eq!(copied(20, 1_000, true, true, &[row(2)]).len(), 1, "from a row that has ended too");
    assert_eq!(copied(110, 1_000, true, false, &[row(2)]), [], "of a long row it takes longer");
    assert_eq!(copied(20, 500, true, false, &[row(2)]), [], "so it does where feeding is fast");
    assert_eq!(copied(20, 9_000, true, false, &[scoped(2, 1, 2, 20)]), [], "two tokens");
    assert_eq!(copied(20, 1_000, false, false, &[row(2)]), [], "memory that cannot be trimmed");
    let others = [scoped(2, 2, 4, 20), RowRequest { scope: None, ..row(3) }];
    assert_eq!(copied(20, 1_000, true, false, &others), [], "nobody else");
}

#[test]
fn who_waits_for_much_does_not_copy_little_of_it_first() {
    let mut bench = Bench::new(LIMITS);
    (1..=2).for_each(|id| bench.submit(scoped(id, 1, 30, 5)));
    let mut copies = 0;
    while let Some(plan) = bench.step_taking(|tokens| 1_000 * tokens as u64) {
        copies += plan.memory.iter().filter(|op| matches!(op, MemoryOp::Copy { .. })).count();
    }
    assert_eq!((copies, bench.scheduler.decisions().reused_tokens), (1, 30));
}

#[test]
fn a_copy_that_is_lost_is_not_made_again() {
    let mut bench = Bench::new(Limits { step_tokens_max: 64, ..LIMITS });
    bench.submit(RowRequest { stop_tokens: vec![], max_output: TokenCount(30), ..scoped(1, 1, 4, 20) });
    bench.step_taking(|tokens| 1_000 * tokens as u64).unwrap();
    bench.submit(scoped(2, 1, 4, 20));
    let mut lost = 0;
    for _ in 0..10 {
        let Some(mut plan) = bench.scheduler.plan(bench.now) else { break };
        bench.story.tell(bench.scheduler.take_events());
        let copied =
            plan.memory.iter().find_map(|op| if let MemoryOp::Copy { to, .. } = *op { Some(to) } else { None });
        plan.memory.iter().for_each(|op| bench.memory.apply(op));
        plan.memory.clear();
        if let Some(slot) = copied {
            plan.rows.retain(|row| row.slot != slot);
            bench.memory.slots[slot.0 as usize].clear();
            lost += 1;
        }
        let mut output = bench.memory.step(&plan);
        output.lost.extend(copied);
        bench.story.tell(bench.scheduler.update(output, 1_000, bench.now));
    }
    assert_eq!(lost, 1);
    let alone = answer(&scoped(2, 1, 4, 20), LIMITS.row_tokens_max).0;
    assert!(bench.story.tokens[&RowId(2)].starts_with(&alone[..1]), "it fed them itself");
}

#[test]
fn steps_with_such_copies_teach_what_a_prompts_token_takes() {
    let mut bench = Bench::new(Limits { rows_max: 8, row_tokens_max: 128, step_tokens_max: 128, ..LIMITS });
    let mut copies = 0;
    for id in 1..=6 {
        bench.submit(RowRequest { max_output: TokenCount(1), ..scoped(id, 1, 4, 20) });
        let token_us = if id == 1 { 10_000 } else { 40_000 };
        let plan = bench.step_taking(|tokens| token_us * tokens as u64).unwrap();
        copies += plan.memory.iter().filter(|op| matches!(op, MemoryOp::Copy { .. })).count();
    }
    bench.submit(request(9, 100, 1));
    let fed = bench.step().unwrap().token_count();
    assert_eq!(copies, 5);
    assert!(fed < 50, "{fed} tokens at 40 ms each are far more than a second");
}

#[test]
fn rows_that_come_together_copy_what_a_template_writes_from_the_first() {
    let limits = Limits { step_tokens_max: 24, ..LIMITS };
    let mut bench = Bench::new(limits);
    (1..=4).for_each(|id| bench.submit(scoped(id, 1, 4, 20)));
    while bench.step_taking(|tokens| 1_000 * tokens as u64).is_some() {}
    assert_eq!(bench.scheduler.decisions().reused_tokens, 3 * 4);
    (1..=4).for_each(|id| {
        assert_eq!(bench.story.tokens[&RowId(id)], answer(&scoped(id, 1, 4, 20), limits.row_tokens_max).0);
    });
}

#[test]
fn prefixes_are_kept_for_their_time_and_then_forgotten() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    let until = bench.scheduler.next_wake().unwrap();
    assert_eq!(until, MonoMillis(LIMITS.prefix_keep.0 + 1));
    bench.now = MonoMillis(until.0 - 1);
    assert!(bench.step().is_none(), "it is still kept");
    bench.now = until;
    let plan = bench.step().unwrap();
    assert!(plan.rows.is_empty() && matches!(plan.memory[..], [MemoryOp::Forget { from: 0, .. }]));
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 0);
}

#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let mut bench = Bench::new(Limits { prefix_keep: Millis(0), ..LIMITS });
    bench.run(scoped(1, 1, 30, 5));
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions(), Decisions::default());
}

#[test]
fn a_prefix_that_must_leave_its_slot_is_saved_for_a_row_of_its_scope_and_dropped_for_another() {
    let mut bench = Bench::new(Limits { rows_max: 1, ..LIMITS });
    bench.run(scoped(1, 1, 30, 5));
    // The same scope, and nothing in common.
    bench.run(RowRequest { scope: Some(scope(1)), ..request(2, 20, 3) });
    assert_eq!(bench.memory.saved.len(), 1);
    bench.run(scoped(3, 1, 30, 7));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30);
    // Saving takes time, by which another scope's row could tell that somebody was there.
    bench.submit(scoped(4, 2, 30, 5));
    let plan = bench.step().unwrap();
    assert!(plan.memory.iter().all(|op| matches!(op, MemoryOp::Forget { .. })), "{:?}", plan.memory);
}

#[test]
fn what_is_saved_stays_within_its_limit_and_the_oldest_goes_first() {
    // Room for one prefix of about 38 tokens.
    let mut bench = Bench::new(Limits { rows_max: 1, saved_tokens_max: 50, ..LIMITS });
    for (at, name) in [1, 2, 3].into_iter().enumerate() {
        bench.now = MonoMillis(at as u64);
        bench.run(scoped(u64::from(name), name, 30, 5));
        bench.erase();
    }
    bench.run(scoped(4, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 0, "the first of three was dropped");
    bench.run(scoped(5, 3, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30);
}

#[test]
fn prefixes_outlive_the_overwriting_of_the_memory() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    bench.erase();
    assert!(bench.scheduler.plan_before_erasing(bench.now).is_none(), "once is enough");
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30);
}

#[test]
fn what_a_failed_step_was_to_save_is_not_looked_for() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    bench.scheduler.plan_before_erasing(bench.now).unwrap();
    // It failed before it did anything, and the memory was overwritten all the same.
    bench.story.tell(bench.scheduler.fail_step());
    bench.memory.slots.iter_mut().for_each(Vec::clear);
    bench.scheduler.erased();
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 0);
}

/// Has a row of scope 1 start from a saved prefix whose state cannot be brought back.
fn loses(bench: &mut Bench, cancelled: bool) {
    let plan = bench.scheduler.plan(bench.now).unwrap();
    bench.story.tell(bench.scheduler.take_events());
    let slot = plan.memory.iter().find_map(|op| match op {
        MemoryOp::Restore { slot, .. } => Some(*slot),
        MemoryOp::Forget { .. }
        | MemoryOp::Save { .. }
        | MemoryOp::Copy { .. }
        | MemoryOp::Drop { .. }
        | MemoryOp::DropAll => None,
    });
    let slot = slot.expect("a state is brought back");
    let mut undamaged = plan.clone();
    undamaged.rows.retain(|row| row.slot != slot);
    undamaged.memory.clear();
    plan.memory.iter().for_each(|op| bench.memory.apply(op));
    bench.memory.slots[slot.0 as usize].clear();
    let mut output = if undamaged.rows.is_empty() { StepOutput::default() } else { bench.memory.step(&undamaged) };
    output.lost.push(slot);
    if cancelled {
        assert!(bench.scheduler.cancel(RowId(2)));
    }
    bench.story.tell(bench.scheduler.update(output, 5, bench.now));
}

#[test]
fn a_row_whose_state_is_lost_feeds_everything_again_even_if_it_had_no_part_in_the_step() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    bench.erase();
    // The first prompt takes the whole step.
    bench.submit(request(9, 63, 1));
    bench.submit(request(10, 2, 1));
    bench.submit(scoped(2, 1, 30, 20));
    loses(&mut bench, false);
    bench.run_to_the_end();
    assert_eq!(bench.story.tokens[&RowId(2)], answer(&scoped(2, 1, 30, 20), LIMITS.row_tokens_max).0);
}

#[test]
fn a_row_that_was_cancelled_while_its_state_was_lost_leaves_nothing() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    bench.erase();
    bench.submit(scoped(2, 1, 30, 20));
    loses(&mut bench, true);
    let before = bench.scheduler.decisions().reused_tokens;
    bench.run(scoped(3, 1, 30, 7));
    assert_eq!(bench.story.tokens[&RowId(3)], answer(&scoped(3, 1, 30, 7), LIMITS.row_tokens_max).0);
    assert!(bench.scheduler.decisions().reused_tokens <= before + 30);
}

#[test]
fn what_could_not_be_brought_back_is_tried_once() {
    let mut bench = Bench::new(LIMITS);
    bench.run(scoped(1, 1, 30, 5));
    bench.erase();
    bench.submit(scoped(2, 1, 30, 20));
    loses(&mut bench, true);
    let before = bench.scheduler.decisions().reused_tokens;
    bench.run(scoped(3, 1, 30, 7));
    assert_eq!(bench.scheduler.decisions().reused_tokens, before);
    // What that row left is sound, and is used.
    bench.run(scoped(4, 1, 30, 9));
    assert!(bench.scheduler.decisions().reused_tokens > before);
}

#[test]
fn memory_that_cannot_be_trimmed_is_used_whole_or_not_at_all() {
    let mut bench = Bench::new(Limits { trims: false, ..LIMITS });
    let first = scoped(1, 1, 30, 0);
    bench.run(first.clone());
    // What the first row said but for its last token, which was never fed.
    let said = bench.story.tokens[&RowId(1)].clone();
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 0, "it ends differently");
    let mut next = scoped(3, 1, 30, 0);
    let history = first.prompt.expose().iter().chain(&said).copied().chain(next.prompt.expose()[..3].iter().copied());
    next.prompt = darkbloom_types::SecretTokens::new(history.collect());
    bench.run(next);
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30 + said.len() as u64 - 1);
}

#[test]
fn a_row_that_was_cancelled_during_a_step_leaves_what_came_before_it() {
    let mut bench = Bench::new(LIMITS);
    bench.submit(scoped(1, 1, 30, 5));
    for _ in 0..4 {
        bench.step();
    }
    let plan = bench.scheduler.plan(bench.now).unwrap();
    let output = bench.memory.step(&plan);
    assert!(bench.scheduler.cancel(RowId(1)));
    bench.story.tell(bench.scheduler.update(output, 100, bench.now));
    bench.run(scoped(2, 1, 30, 5));
    assert_eq!(bench.scheduler.decisions().reused_tokens, 30);
}

#[test]
fn a_saved_row_comes_back_where_it_was() {
    let mut bench = Bench::new(Limits { rows_max: 1, ..LIMITS });
    let mut low = request(1, 20, 20);
    (low.priority, low.owner) = (Priority::Low, Owner(1));
    bench.submit(low.clone());
    for _ in 0..5 {
        bench.step();
    }
    bench.submit(request(3, 5, 5));
    let before = bench.memory.fed;
    bench.run_to_the_end();
    let (alone, _) = answer(&low, LIMITS.row_tokens_max);
    assert_eq!(bench.story.tokens[&RowId(1)], alone);
    let of_other = 5 + bench.story.tokens[&RowId(3)].len();
    assert!(bench.memory.fed - before <= of_other + alone.len(), "its prompt was fed again");
    let decisions = bench.scheduler.decisions();
    assert_eq!((decisions.saved_rows, decisions.refed_rows, decisions.reused_tokens), (1, 0, 0));
    assert!(bench.memory.saved.is_empty(), "its copy is dropped");
}
