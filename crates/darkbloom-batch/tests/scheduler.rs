//! Claims about the scheduler, held by a tiny model of a model's memory that notices every broken rule.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::collections::{BTreeMap, BTreeSet};

use darkbloom_batch::{
    EndReason, Limits, LimitsError, Load, RowEvent, RowFailure, RowId, RowRequest, SampleError, Sampled, Sampling,
    SamplingError, Scheduler, StepOutput, StepPlan, SubmitError,
};
use darkbloom_types::{SecretTokens, TokenCount, TokenId};
use proptest::prelude::*;

const LIMITS: Limits = Limits { rows_max: 4, row_tokens_max: 32, step_tokens_max: 8, waiting_max: 5 };
const STOP: TokenId = TokenId(0);

fn request(id: u64, prompt_tokens: usize, max_output: u32) -> RowRequest {
    let prompt = (0..prompt_tokens).map(|at| TokenId(1 + ((id as u32 * 7 + at as u32) % 50))).collect();
    RowRequest {
        id: RowId(id),
        prompt: SecretTokens::new(prompt),
        max_output: TokenCount(max_output),
        sampling: Sampling::greedy(),
        stop_tokens: vec![STOP],
    }
}

/// What a row says after a history of tokens: a token from 0 to 12, of which 0 stops the row.
fn next_token(history: &[TokenId]) -> TokenId {
    let mixed = history.iter().fold(17u32, |hash, token| (hash ^ token.0).wrapping_mul(0x0100_0193).rotate_left(5));
    TokenId(mixed % 13)
}

/// The answer of a row that runs alone.
fn answer(request: &RowRequest, row_tokens_max: usize) -> (Vec<TokenId>, EndReason) {
    let mut history = request.prompt.expose().to_vec();
    let mut tokens = Vec::new();
    loop {
        let token = next_token(&history);
        if request.stop_tokens.contains(&token) {
            return (tokens, EndReason::StopToken);
        }
        tokens.push(token);
        history.push(token);
        if tokens.len() == request.max_output.0 as usize || history.len() == row_tokens_max {
            return (tokens, EndReason::Length);
        }
    }
}

/// A model's memory that checks every plan against it.
struct Memory {
    slots: Vec<Vec<TokenId>>,
    limits: Limits,
}

impl Memory {
    fn new(limits: Limits) -> Self {
        Self { slots: vec![Vec::new(); limits.rows_max], limits }
    }

    fn step(&mut self, plan: &StepPlan) -> StepOutput {
        for slot in &plan.clear {
            self.slots[slot.0 as usize].clear();
        }
        assert!(!plan.rows.is_empty(), "a step without work");
        assert!(plan.token_count() <= self.limits.step_tokens_max, "the step's budget is exceeded");
        let used: BTreeSet<_> = plan.rows.iter().map(|row| row.slot).collect();
        assert_eq!(used.len(), plan.rows.len(), "a slot is used twice in a step");
        let mut sampled = Vec::new();
        for row in &plan.rows {
            let memory = &mut self.slots[row.slot.0 as usize];
            assert!(!row.tokens.is_empty());
            assert_eq!(memory.len(), row.start as usize, "a row starts where its slot does not end");
            memory.extend_from_slice(row.tokens.expose());
            assert!(memory.len() < self.limits.row_tokens_max, "a row outgrows its context");
            if row.sample.is_some() {
                sampled.push(Sampled { slot: row.slot, token: Ok(next_token(memory)) });
            }
        }
        StepOutput { sampled }
    }
}

/// What was said about each row, with the rules of order checked as it comes in.
#[derive(Default)]
struct Story {
    started: BTreeSet<RowId>,
    tokens: BTreeMap<RowId, Vec<TokenId>>,
    ended: BTreeMap<RowId, (EndReason, u32, Option<RowFailure>)>,
}

impl Story {
    fn tell(&mut self, events: Vec<RowEvent>) {
        for event in events {
            assert!(!self.ended.contains_key(&event.id()), "something follows a row's end");
            match event {
                RowEvent::Started { id } => assert!(self.started.insert(id), "a row started twice"),
                RowEvent::Token { id, token, index } => {
                    assert!(self.started.contains(&id));
                    let tokens = self.tokens.entry(id).or_default();
                    assert_eq!(tokens.len(), index as usize);
                    tokens.push(token);
                }
                RowEvent::Ended { id, reason, output_tokens, failure } => {
                    let reported = self.tokens.get(&id).map_or(0, Vec::len) as u32;
                    assert_eq!(output_tokens.0, reported + u32::from(reason == EndReason::StopToken));
                    assert_eq!(failure.is_some(), reason == EndReason::Failed);
                    self.ended.insert(id, (reason, output_tokens.0, failure));
                }
            }
        }
    }
}

fn run_to_the_end(scheduler: &mut Scheduler, memory: &mut Memory, story: &mut Story) -> usize {
    let mut steps = 0;
    while let Some(plan) = scheduler.plan() {
        story.tell(scheduler.take_events());
        let output = memory.step(&plan);
        story.tell(scheduler.update(output));
        steps += 1;
        assert!(steps < 100_000, "the scheduler never finishes");
    }
    story.tell(scheduler.take_events());
    steps
}

#[derive(Debug, Clone)]
enum Move {
    Submit { prompt: usize, max_output: u32 },
    Cancel { nth: usize },
    Step,
    StepThatFails,
    StepWithOneBadRow,
    CancelDuringStep { nth: usize },
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (1usize..34, 1u32..40).prop_map(|(prompt, max_output)| Move::Submit { prompt, max_output }),
        1 => (0usize..60).prop_map(|nth| Move::Cancel { nth }),
        6 => Just(Move::Step),
        1 => (0usize..60).prop_map(|nth| Move::CancelDuringStep { nth }),
        1 => prop_oneof![4 => Just(Move::StepWithOneBadRow), 1 => Just(Move::StepThatFails)],
    ]
}

proptest! {
    #[test]
    fn every_row_ends_once_and_undisturbed_rows_say_what_they_say_alone(
        moves in prop::collection::vec(moves(), 1..120),
        rows_max in 1usize..6,
        extra in 0usize..9,
    ) {
        let limits = Limits { rows_max, step_tokens_max: rows_max + extra, ..LIMITS };
        let mut scheduler = Scheduler::new(limits).unwrap();
        let mut memory = Memory::new(limits);
        let mut story = Story::default();
        let mut requests = BTreeMap::new();
        let mut cancelled = BTreeSet::new();
        let mut next = 0;
        for step in moves {
            match step {
                Move::Submit { prompt, max_output } => {
                    let request = request(next, prompt, max_output);
                    let before = scheduler.load();
                    match scheduler.submit(request.clone()) {
                        Ok(()) => { requests.insert(request.id, request); }
                        Err(SubmitError::PromptTooLong { .. }) => prop_assert!(prompt >= limits.row_tokens_max),
                        Err(SubmitError::WaitingListFull { .. }) => prop_assert!(before.waiting >= limits.waiting_max),
                        Err(other) => prop_assert!(false, "{other}"),
                    }
                    next += 1;
                }
                Move::Cancel { nth } => {
                    let id = RowId(nth as u64);
                    let lives = requests.contains_key(&id) && !story.ended.contains_key(&id);
                    prop_assert_eq!(scheduler.cancel(id), lives);
                    story.tell(scheduler.take_events());
                    cancelled.insert(id);
                }
                Move::Step | Move::StepThatFails | Move::StepWithOneBadRow | Move::CancelDuringStep { .. } => {
                    let Some(plan) = scheduler.plan() else { continue };
                    story.tell(scheduler.take_events());
                    prop_assert!(scheduler.plan().is_none(), "a second plan while one is out");
                    if matches!(step, Move::StepThatFails) {
                        // The executor got as far as it got: what it holds must not matter.
                        memory.slots.iter_mut().for_each(|slot| slot.push(TokenId(99)));
                        story.tell(scheduler.fail_step());
                        continue;
                    }
                    let mut output = memory.step(&plan);
                    if let (Move::StepWithOneBadRow, Some(first)) = (&step, output.sampled.first_mut()) {
                        first.token = Err(SampleError::NotFinite);
                    }
                    if let Move::CancelDuringStep { nth } = step {
                        let id = plan.rows[nth % plan.rows.len()].id;
                        prop_assert!(scheduler.cancel(id));
                        cancelled.insert(id);
                    }
                    story.tell(scheduler.update(output));
                }
            }
            prop_assert!(scheduler.load().running <= limits.rows_max);
        }
        run_to_the_end(&mut scheduler, &mut memory, &mut story);
        prop_assert_eq!(scheduler.load(), Load { running: 0, waiting: 0, rows_max });
        prop_assert_eq!(story.ended.keys().copied().collect::<Vec<_>>(), requests.keys().copied().collect::<Vec<_>>());
        for (id, request) in &requests {
            let said = story.tokens.remove(id).unwrap_or_default();
            let (alone, reason_alone) = answer(request, limits.row_tokens_max);
            match story.ended[id].0 {
                EndReason::Cancelled => {
                    prop_assert!(cancelled.contains(id));
                    prop_assert_eq!(&said[..], &alone[..said.len()]);
                }
                EndReason::Failed => prop_assert_eq!(&said[..], &alone[..said.len()]),
                reason @ (EndReason::StopToken | EndReason::Length) => {
                    prop_assert_eq!(said, alone);
                    prop_assert_eq!(reason, reason_alone);
                }
            }
        }
    }

    #[test]
    fn a_full_house_of_decoding_rows_never_starves_a_waiting_one(prompt in 1usize..31, rows_max in 1usize..6) {
        // The tightest budget: one token a row. Rows keep coming; each must start and end in the order it came.
        let limits = Limits { rows_max, step_tokens_max: rows_max, row_tokens_max: 32, waiting_max: 4 };
        let mut scheduler = Scheduler::new(limits).unwrap();
        let mut memory = Memory::new(limits);
        let mut started = Vec::new();
        let mut next = 0;
        let mut steps_without_start = 0;
        while started.len() < 30 {
            while scheduler.submit(request(next, prompt, 32)).is_ok() {
                next += 1;
            }
            let plan = scheduler.plan().unwrap();
            let output = memory.step(&plan);
            let events = scheduler.update(output);
            let before = started.len();
            started.extend(events.iter().filter_map(|event| match event {
                RowEvent::Started { id } => Some(id.0),
                RowEvent::Token { .. } | RowEvent::Ended { .. } => None,
            }));
            steps_without_start = if started.len() > before { 0 } else { steps_without_start + 1 };
            // Each slot's row needs at most a step for each token of its own and of every row that prefills before it.
            prop_assert!(steps_without_start <= 32 * (rows_max + 1), "a waiting row starves");
        }
        prop_assert!(started.windows(2).all(|pair| pair[0] < pair[1]), "not first come, first served");
    }
}

#[test]
fn rows_decode_together_and_prefill_takes_what_is_left() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut memory = Memory::new(LIMITS);
    scheduler.submit(request(1, 2, 20)).unwrap();
    scheduler.submit(request(2, 3, 20)).unwrap();
    let plan = scheduler.plan().unwrap();
    assert_eq!(plan.token_count(), 5);
    let output = memory.step(&plan);
    scheduler.update(output);
    scheduler.submit(request(3, 20, 20)).unwrap();
    let plan = scheduler.plan().unwrap();
    let sizes: Vec<_> = plan.rows.iter().map(|row| (row.id.0, row.tokens.len(), row.sample.is_some())).collect();
    assert_eq!(sizes, [(1, 1, true), (2, 1, true), (3, 6, false)]);
}

#[test]
fn a_cancelled_row_frees_its_slot_for_the_next_plan_which_clears_it() {
    let limits = Limits { rows_max: 1, ..LIMITS };
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut memory = Memory::new(limits);
    scheduler.submit(request(1, 4, 20)).unwrap();
    scheduler.submit(request(2, 4, 20)).unwrap();
    let plan = scheduler.plan().unwrap();
    assert!(scheduler.cancel(RowId(1)), "cancelled while its step is out");
    let output = memory.step(&plan);
    let events = scheduler.update(output);
    assert_eq!(events.last().unwrap().id(), RowId(1));
    let plan = scheduler.plan().unwrap();
    assert_eq!((plan.clear.len(), plan.rows[0].id), (1, RowId(2)));
    assert!(!scheduler.cancel(RowId(1)), "it ended already");
}

#[test]
fn a_failed_step_ends_the_running_rows_and_the_waiting_ones_go_on() {
    let limits = Limits { rows_max: 2, ..LIMITS };
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut memory = Memory::new(limits);
    let mut story = Story::default();
    for id in 1..=3 {
        scheduler.submit(request(id, 4, 20)).unwrap();
    }
    scheduler.plan().unwrap();
    story.tell(scheduler.fail_step());
    assert_eq!(story.ended[&RowId(1)], (EndReason::Failed, 0, Some(RowFailure::Step)));
    assert_eq!(story.ended[&RowId(2)], (EndReason::Failed, 0, Some(RowFailure::Step)));
    run_to_the_end(&mut scheduler, &mut memory, &mut story);
    assert_ne!(story.ended[&RowId(3)].0, EndReason::Failed);
}

#[test]
fn unusable_logits_end_only_their_own_row() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut memory = Memory::new(LIMITS);
    scheduler.submit(request(1, 2, 20)).unwrap();
    scheduler.submit(request(2, 2, 20)).unwrap();
    let plan = scheduler.plan().unwrap();
    let mut output = memory.step(&plan);
    output.sampled[0].token = Err(SampleError::NotFinite);
    let mut story = Story::default();
    story.tell(scheduler.update(output));
    let failure = Some(RowFailure::Logits(SampleError::NotFinite));
    assert_eq!(story.ended.get(&RowId(1)), Some(&(EndReason::Failed, 0, failure)));
    assert!(!story.ended.contains_key(&RowId(2)));
}

#[test]
fn a_row_that_the_executor_forgets_fails() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    scheduler.submit(request(1, 2, 20)).unwrap();
    scheduler.plan().unwrap();
    let mut story = Story::default();
    story.tell(scheduler.update(StepOutput::default()));
    assert_eq!(story.ended[&RowId(1)].2, Some(RowFailure::NoOutput));
}

#[test]
fn stopping_ends_running_and_waiting_rows() {
    let limits = Limits { rows_max: 1, ..LIMITS };
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut story = Story::default();
    scheduler.submit(request(1, 2, 20)).unwrap();
    scheduler.submit(request(2, 2, 20)).unwrap();
    scheduler.plan().unwrap();
    story.tell(scheduler.end_all(RowFailure::EngineStopped));
    assert_eq!(story.ended.len(), 2);
    assert_eq!(scheduler.load(), Load { running: 0, waiting: 0, rows_max: 1 });
}

#[test]
fn a_context_that_is_used_up_ends_the_row_by_length() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut memory = Memory::new(LIMITS);
    let mut story = Story::default();
    let mut long = request(1, 30, 1_000);
    long.stop_tokens.clear();
    scheduler.submit(long).unwrap();
    run_to_the_end(&mut scheduler, &mut memory, &mut story);
    assert_eq!(story.ended[&RowId(1)], (EndReason::Length, 2, None));
}

#[test]
fn rows_that_could_never_run_are_refused() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    assert_eq!(scheduler.submit(request(1, 0, 5)), Err(SubmitError::EmptyPrompt));
    assert_eq!(scheduler.submit(request(1, 32, 5)), Err(SubmitError::PromptTooLong { tokens: 32, max: 31 }));
    assert_eq!(scheduler.submit(request(1, 5, 0)), Err(SubmitError::NoOutput));
    let mut bad = request(1, 5, 5);
    bad.stop_tokens = vec![STOP; 65];
    assert_eq!(scheduler.submit(bad), Err(SubmitError::TooManyStopTokens { tokens: 65 }));
    for (temperature, top_p, why) in [
        (f32::NAN, 1.0, SamplingError::Temperature),
        (-0.5, 1.0, SamplingError::Temperature),
        (f32::INFINITY, 1.0, SamplingError::Temperature),
        (1.0, f32::NAN, SamplingError::TopP),
        (1.0, 1.5, SamplingError::TopP),
        (1.0, -0.1, SamplingError::TopP),
    ] {
        let mut bad = request(1, 5, 5);
        bad.sampling = Sampling { temperature, top_p, ..Sampling::greedy() };
        assert_eq!(scheduler.submit(bad), Err(SubmitError::Sampling(why)));
    }
    let mut most = request(1, 31, 5);
    most.stop_tokens = vec![STOP; 64];
    scheduler.submit(most).unwrap();
    assert_eq!(scheduler.submit(request(1, 5, 5)), Err(SubmitError::DuplicateRow), "it waits");
    scheduler.plan().unwrap();
    assert_eq!(scheduler.load(), Load { running: 1, waiting: 0, rows_max: 4 });
    assert_eq!(scheduler.submit(request(1, 5, 5)), Err(SubmitError::DuplicateRow), "it runs");
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    for id in 1..=9 {
        scheduler.submit(request(id, 5, 5)).unwrap();
    }
    assert_eq!(scheduler.submit(request(10, 5, 5)), Err(SubmitError::WaitingListFull { waiting: 9 }));
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
fn nothing_printable_shows_a_token() {
    let mut scheduler = Scheduler::new(LIMITS).unwrap();
    let mut asked = request(1, 4, 5);
    asked.prompt = SecretTokens::new(vec![TokenId(48_151), TokenId(62_342)]);
    asked.stop_tokens = vec![TokenId(48_151)];
    let mut shown = format!("{asked:?}");
    scheduler.submit(asked).unwrap();
    let plan = scheduler.plan().unwrap();
    let output = StepOutput { sampled: vec![Sampled { slot: plan.rows[0].slot, token: Ok(TokenId(62_342)) }] };
    shown += &format!("{plan:?} {scheduler:?} {output:?}");
    shown += &format!("{:?} {scheduler:?}", scheduler.update(output));
    assert!(!shown.contains("48151") && !shown.contains("62342"), "{shown}");
}
