//! Who gets a slot, and who waits.

use darkbloom_batch::{
    AGED_AFTER, EndReason, Limits, LimitsError, Load, Owner, Priority, RowFailure, RowId, RowRequest, Sampling,
    SamplingError, Scheduler, SubmitError,
};
use darkbloom_types::MonoMillis;

use crate::memory::*;

const ONE: Limits = Limits { rows_max: 1, ..LIMITS };

fn with(id: u64, owner: u64, priority: Priority) -> RowRequest {
    RowRequest { owner: Owner(owner), priority, ..request(id, 4, 4) }
}

fn order(bench: &mut Bench) -> Vec<u64> {
    bench.run_to_the_end();
    bench.story.started.iter().map(|id| id.0).collect()
}

#[test]
fn one_owner_is_served_first_come_first_served() {
    let mut bench = Bench::new(ONE);
    (1..=5).for_each(|id| bench.submit(with(id, 7, Priority::Normal)));
    assert_eq!(order(&mut bench), [1, 2, 3, 4, 5]);
}

#[test]
fn an_owner_with_many_rows_does_not_hold_up_one_with_few() {
    let mut bench = Bench::new(ONE);
    (1..=5).for_each(|id| bench.submit(with(id, 7, Priority::Normal)));
    bench.step();
    bench.submit(with(6, 8, Priority::Normal));
    let order = order(&mut bench);
    assert_eq!(order[1], 6, "the other's first row is next: {order:?}");
}

#[test]
fn owners_with_many_rows_each_take_turns_by_what_they_were_served() {
    let mut bench = Bench::new(Limits { waiting_max: 12, ..ONE });
    // One owner's rows are three times as long.
    for id in 0..6 {
        let prompt = if id < 3 { 30 } else { 10 };
        bench.submit(RowRequest { owner: Owner(u64::from(id >= 3)), stop_tokens: vec![], ..request(id, prompt, 1) });
    }
    assert_eq!(order(&mut bench), [0, 3, 4, 5, 1, 2]);
}

#[test]
fn who_was_away_has_saved_nothing_up() {
    let mut bench = Bench::new(ONE);
    bench.submit(with(1, 7, Priority::Normal));
    (2..=5).for_each(|id| bench.submit(with(id, 8, Priority::Normal)));
    for _ in 0..12 {
        bench.step();
    }
    // Owner 9 comes new: its rows take turns with owner 8's, they do not all go first.
    (6..=7).for_each(|id| bench.submit(with(id, 9, Priority::Normal)));
    let order = order(&mut bench);
    let place = |id: u64| order.iter().position(|other| *other == id).unwrap();
    assert!(place(7) > place(5) || place(7) > place(4), "{order:?}");
}

#[test]
fn a_higher_priority_goes_first_and_takes_a_slot_from_the_row_that_came_last() {
    let mut bench = Bench::new(Limits { rows_max: 2, ..LIMITS });
    for id in 1..=2 {
        bench.submit(RowRequest { stop_tokens: vec![], ..with(id, 1, Priority::Normal) });
    }
    bench.submit(with(3, 1, Priority::Normal));
    bench.step();
    bench.submit(with(4, 1, Priority::High));
    let plan = bench.step().unwrap();
    let ids: Vec<_> = plan.rows.iter().map(|row| row.id.0).collect();
    assert_eq!(ids, [1, 4]);
    assert_eq!(order(&mut bench), [1, 2, 4, 3], "and the one that gave way comes back");
    assert!(bench.story.ended.values().all(|(reason, ..)| *reason != EndReason::Failed));
}

#[test]
fn a_row_gives_way_once() {
    let mut bench = Bench::new(ONE);
    bench.submit(RowRequest {
        stop_tokens: vec![],
        max_output: darkbloom_types::TokenCount(40),
        ..with(1, 1, Priority::Low)
    });
    bench.step();
    bench.submit(with(2, 2, Priority::Normal));
    while bench.story.ended.is_empty() {
        bench.step();
    }
    bench.step();
    bench.submit(with(3, 3, Priority::High));
    let plan = bench.step().unwrap();
    assert_eq!(plan.rows[0].id, RowId(1));
    let decisions = bench.scheduler.decisions();
    assert_eq!(decisions.saved_rows + decisions.refed_rows, 1);
}

#[test]
fn equal_priorities_take_no_slot_from_each_other() {
    let mut bench = Bench::new(ONE);
    bench.submit(with(1, 1, Priority::High));
    bench.step();
    bench.submit(with(2, 2, Priority::High));
    assert_eq!(bench.step().unwrap().rows[0].id, RowId(1));
}

#[test]
fn a_row_that_has_waited_long_counts_as_important() {
    let mut bench = Bench::new(ONE);
    bench.submit(RowRequest { stop_tokens: vec![], ..with(1, 1, Priority::High) });
    bench.step();
    bench.submit(with(2, 2, Priority::Low));
    bench.now = bench.now.after(AGED_AFTER);
    bench.submit(with(3, 3, Priority::Normal));
    assert_eq!(order(&mut bench), [1, 2, 3]);
}

#[test]
fn a_row_that_has_no_slot_in_time_ends_and_says_so_and_one_that_had_one_is_not_late() {
    let mut bench = Bench::new(ONE);
    let late =
        |id, by| RowRequest { start_by: Some(MonoMillis(by)), stop_tokens: vec![], ..with(id, 1, Priority::Low) };
    bench.submit(late(1, 50));
    bench.step();
    bench.submit(late(2, 50));
    assert_eq!(bench.scheduler.next_wake(), Some(MonoMillis(51)));
    bench.now = MonoMillis(50);
    bench.step();
    assert!(bench.story.ended.is_empty());
    bench.now = MonoMillis(51);
    bench.submit(RowRequest { priority: Priority::High, ..with(3, 1, Priority::High) });
    bench.run_to_the_end();
    assert_eq!(bench.story.ended[&RowId(2)], (EndReason::Failed, 0, Some(RowFailure::Late)));
    assert_eq!(bench.story.ended[&RowId(1)].0, EndReason::Length, "it gave way meanwhile");
}

#[test]
fn rows_that_could_never_run_are_refused() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut submit = |request| scheduler.submit(request, NOW);
    assert_eq!(submit(request(1, 0, 5)), Err(SubmitError::EmptyPrompt));
    assert_eq!(submit(request(1, 64, 5)), Err(SubmitError::PromptTooLong { tokens: 64, max: 63 }));
    assert_eq!(submit(request(1, 5, 0)), Err(SubmitError::NoOutput));
    let mut bad = request(1, 5, 5);
    bad.stop_tokens = vec![STOP; 65];
    assert_eq!(submit(bad), Err(SubmitError::TooManyStopTokens { tokens: 65 }));
    let mut bad = request(1, 5, 5);
    bad.sampling = Sampling { temperature: f32::NAN, ..Sampling::greedy() }.into();
    assert_eq!(submit(bad), Err(SubmitError::Sampling(SamplingError::Temperature)));
    let mut most = request(1, 63, 5);
    most.stop_tokens = vec![STOP; 64];
    submit(most).unwrap();
    assert_eq!(submit(request(1, 5, 5)), Err(SubmitError::DuplicateRow), "it waits");
    scheduler.plan(NOW).unwrap();
    assert_eq!(scheduler.load(), Load { running: 1, waiting: 0, rows_max: 4 });
    assert_eq!(scheduler.submit(request(1, 5, 5), NOW), Err(SubmitError::DuplicateRow), "it runs");
}

#[test]
fn a_full_waiting_list_is_a_reason() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    for id in 1..=9 {
        scheduler.submit(request(id, 5, 5), NOW).unwrap();
    }
    assert_eq!(scheduler.submit(request(10, 5, 5), NOW), Err(SubmitError::WaitingListFull { waiting: 9 }));
}

#[test]
fn limits_with_which_nothing_advances_are_refused() {
    let refused = |limits| Scheduler::new(limits).err();
    assert_eq!(refused(Limits { rows_max: 4, row_tokens_max: 2, step_tokens_max: 4, ..LIMITS }), None);
    assert_eq!(refused(Limits { rows_max: 0, ..LIMITS }), Some(LimitsError::Rows));
    assert_eq!(refused(Limits { row_tokens_max: 1, ..LIMITS }), Some(LimitsError::RowTokens));
    assert_eq!(refused(Limits { step_tokens_max: 3, ..LIMITS }), Some(LimitsError::StepTokens));
}

#[test]
fn rows_that_have_waited_long_go_in_their_order_whoever_was_served_less() {
    let mut bench = Bench::new(ONE);
    // One owner has been served for long, and waits.
    bench.submit(RowRequest { stop_tokens: vec![], ..with(1, 1, Priority::Normal) });
    bench.step();
    bench.submit(with(2, 1, Priority::Normal));
    bench.submit(with(3, 2, Priority::Normal));
    bench.now = bench.now.after(AGED_AFTER);
    bench.submit(with(4, 3, Priority::Normal));
    assert_eq!(order(&mut bench), [1, 2, 3, 4]);
}

#[test]
fn a_row_that_ran_for_long_gives_way_as_any_other() {
    let mut bench = Bench::new(ONE);
    bench.submit(RowRequest { stop_tokens: vec![], ..with(1, 1, Priority::Low) });
    bench.step();
    bench.now = bench.now.after(AGED_AFTER).after(AGED_AFTER);
    bench.submit(with(2, 1, Priority::High));
    assert_eq!(bench.step().unwrap().rows[0].id, RowId(2));
    assert_eq!(order(&mut bench), [1, 2]);
}

#[test]
fn a_row_that_waits_for_a_slot_that_nobody_gives_up_holds_up_none_that_takes_one() {
    let mut bench = Bench::new(ONE);
    bench.submit(RowRequest { stop_tokens: vec![], ..with(1, 1, Priority::Low) });
    bench.step();
    bench.submit(with(2, 2, Priority::Low));
    bench.now = bench.now.after(AGED_AFTER);
    bench.submit(with(3, 3, Priority::High));
    assert_eq!(bench.step().unwrap().rows[0].id, RowId(3));
}

#[test]
fn an_owner_that_sends_one_row_after_the_other_is_no_newcomer_each_time() {
    let mut bench = Bench::new(ONE);
    bench.submit(with(1, 9, Priority::Normal));
    for _ in 0..3 {
        bench.step();
    }
    bench.submit(RowRequest { stop_tokens: vec![], ..with(2, 1, Priority::Normal) });
    // Owner 9's row ends, and it sends the next at once; owner 1 and then 2 have been served nothing.
    while !bench.story.ended.contains_key(&RowId(1)) {
        bench.step();
    }
    bench.submit(with(3, 9, Priority::Normal));
    bench.submit(with(4, 2, Priority::Normal));
    assert_eq!(order(&mut bench), [1, 2, 4, 3]);
}
