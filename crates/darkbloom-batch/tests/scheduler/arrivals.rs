//! Random arrivals, cancellations and failures against rows that run alone.

use std::collections::{BTreeMap, BTreeSet};

use darkbloom_batch::{Limits, Owner, Priority, SampleError, StepOutput, SubmitError};
use darkbloom_types::{Millis, MonoMillis};
use proptest::prelude::*;

use crate::memory::*;
use darkbloom_batch::{EndReason, RowEvent, RowFailure, RowId, Slot};

#[derive(Debug, Clone)]
enum Move {
    Submit { prompt: usize, max_output: u32, owner: u64, priority: Priority, scope: Option<u8>, patience: Option<u64> },
    Cancel { nth: usize },
    Step,
    StepThatFails,
    StepWithoutRoom,
    StepThatLosesARow { nth: usize },
    StepWithOneBadRow,
    CancelDuringStep { nth: usize },
    Wait { ms: u64 },
    EraseWhenIdle,
}

fn moves() -> impl Strategy<Value = Move> {
    let priority = prop_oneof![1 => Just(Priority::Low), 3 => Just(Priority::Normal), 1 => Just(Priority::High)];
    let submit =
        (1usize..70, 1u32..60, 0u64..3, priority, prop::option::of(0u8..3), prop::option::weighted(0.1, 1u64..50));
    prop_oneof![
        6 => submit.prop_map(|(prompt, max_output, owner, priority, scope, patience)| Move::Submit {
            prompt, max_output, owner, priority, scope, patience
        }),
        1 => (0usize..60).prop_map(|nth| Move::Cancel { nth }),
        9 => Just(Move::Step),
        1 => (0usize..60).prop_map(|nth| Move::CancelDuringStep { nth }),
        1 => (0usize..9).prop_map(|nth| Move::StepThatLosesARow { nth }),
        1 => prop_oneof![4 => Just(Move::StepWithOneBadRow), 1 => Just(Move::StepThatFails), 4 => Just(Move::StepWithoutRoom)],
        1 => (1u64..600).prop_map(|ms| Move::Wait { ms }),
        1 => Just(Move::EraseWhenIdle),
    ]
}

/// A request whose prompt has its beginning in common with others of its scope, of all scopes in fact.
fn asked(id: u64, prompt: usize, max_output: u32, scope: Option<u8>) -> darkbloom_batch::RowRequest {
    let common = if id.is_multiple_of(3) { 0 } else { prompt.min(40) };
    let mut request = match scope {
        Some(name) => scoped(id, name, common, prompt - common),
        None => request(id, prompt, max_output),
    };
    request.max_output.0 = max_output;
    request
}

/// What a run of moves has to remember.
struct Run {
    bench: Bench,
    limits: Limits,
    requests: BTreeMap<RowId, darkbloom_batch::RowRequest>,
    cancelled: BTreeSet<RowId>,
    next: u64,
    /// What a token takes: what is worth copying depends on it.
    token_us: u64,
}

impl Run {
    fn make(&mut self, step: Move) -> Result<(), TestCaseError> {
        match step {
            Move::Submit { prompt, max_output, owner, priority, scope, patience } => {
                let mut request = asked(self.next, prompt, max_output, scope);
                (request.owner, request.priority) = (Owner(owner), priority);
                request.start_by = patience.map(|ms| self.bench.now.after(Millis(ms)));
                self.next += 1;
                self.submit(request)
            }
            Move::Cancel { nth } => {
                let id = RowId(nth as u64);
                let lives = self.requests.contains_key(&id) && !self.bench.story.ended.contains_key(&id);
                prop_assert_eq!(self.bench.scheduler.cancel(id), lives);
                let events = self.bench.scheduler.take_events();
                self.bench.story.tell(events);
                self.cancelled.insert(id);
                Ok(())
            }
            Move::Wait { ms } => {
                self.bench.now = self.bench.now.after(Millis(ms));
                Ok(())
            }
            Move::EraseWhenIdle => {
                self.erase_when_idle();
                Ok(())
            }
            step @ (Move::Step
            | Move::StepThatFails
            | Move::StepWithoutRoom
            | Move::StepThatLosesARow { .. }
            | Move::StepWithOneBadRow
            | Move::CancelDuringStep { .. }) => self.step(&step),
        }
    }

    fn submit(&mut self, request: darkbloom_batch::RowRequest) -> Result<(), TestCaseError> {
        let before = self.bench.scheduler.load();
        match self.bench.scheduler.submit(request.clone(), self.bench.now) {
            Ok(()) => {
                if let Some(scope) = request.scope {
                    self.bench.memory.scopes.insert(request.id, scope);
                }
                self.requests.insert(request.id, request);
            }
            Err(SubmitError::PromptTooLong { .. }) => prop_assert!(request.prompt.len() >= self.limits.row_tokens_max),
            Err(SubmitError::WaitingListFull { .. }) => prop_assert!(before.waiting >= self.limits.waiting_max),
            Err(other) => prop_assert!(false, "{other}"),
        }
        Ok(())
    }

    fn erase_when_idle(&mut self) {
        let bench = &mut self.bench;
        if bench.scheduler.load().running > 0 {
            return;
        }
        bench.erase();
    }

    fn step(&mut self, step: &Move) -> Result<(), TestCaseError> {
        let bench = &mut self.bench;
        let plan = bench.scheduler.plan(bench.now);
        bench.story.tell(bench.scheduler.take_events());
        let Some(plan) = plan else { return Ok(()) };
        prop_assert!(bench.scheduler.plan(bench.now).is_none(), "a second plan while one is out");
        if matches!(step, Move::StepThatFails) {
            // The executor got as far as it got: what it holds must not matter.
            plan.memory.iter().for_each(|op| bench.memory.apply(op));
            let stray = (STOP, Owned::Row(RowId(u64::MAX)));
            bench.memory.slots.iter_mut().for_each(|slot| slot.push(stray));
            bench.story.tell(bench.scheduler.fail_step());
            return Ok(());
        }
        if matches!(step, Move::StepWithoutRoom) {
            plan.memory.iter().for_each(|op| bench.memory.apply(op));
            bench.story.tell(bench.scheduler.no_room());
            return Ok(());
        }
        let lost = if let Move::StepThatLosesARow { nth } = step { plan.rows.get(*nth) } else { None };
        let lost = lost.map(|row| row.slot);
        let output = match lost {
            Some(slot) => self.step_that_loses(plan.clone(), slot),
            None => bench.memory.step(&plan),
        };
        self.finish(step, &plan, output)
    }

    fn step_that_loses(&mut self, mut plan: darkbloom_batch::StepPlan, slot: Slot) -> StepOutput {
        plan.rows.retain(|row| row.slot != slot);
        plan.memory.iter().for_each(|op| self.bench.memory.apply(op));
        plan.memory.clear();
        self.bench.memory.slots[slot.0 as usize].clear();
        let output = if plan.rows.is_empty() { StepOutput::default() } else { self.bench.memory.step(&plan) };
        StepOutput { lost: vec![slot], ..output }
    }

    fn finish(
        &mut self,
        step: &Move,
        plan: &darkbloom_batch::StepPlan,
        mut output: StepOutput,
    ) -> Result<(), TestCaseError> {
        let bench = &mut self.bench;
        if let (Move::StepWithOneBadRow, Some(first)) = (step, output.sampled.first_mut()) {
            first.tokens = Err(SampleError::NotFinite);
        }
        if let (Move::CancelDuringStep { nth }, false) = (step, plan.rows.is_empty()) {
            let id = plan.rows[nth % plan.rows.len()].id;
            prop_assert!(bench.scheduler.cancel(id));
            self.cancelled.insert(id);
        }
        let took_us = 100 + self.token_us * plan.token_count() as u64;
        bench.story.tell(bench.scheduler.update(output, took_us, bench.now));
        Ok(())
    }

    fn check(mut self) -> Result<(), TestCaseError> {
        self.bench.run_to_the_end();
        let Bench { scheduler, story, mut memory, now, .. } = self.bench;
        prop_assert_eq!(story.ended.len(), self.requests.len(), "a row never ended");
        for (id, request) in &self.requests {
            let (reason, _, failure) = story.ended[id];
            let said = story.tokens.get(id).cloned().unwrap_or_default();
            let (alone, why) = answer(request, self.limits.row_tokens_max);
            match reason {
                EndReason::Cancelled => prop_assert!(self.cancelled.contains(id) && alone.starts_with(&said)),
                EndReason::Failed => {
                    prop_assert!(alone.starts_with(&said));
                    match failure.unwrap() {
                        RowFailure::Step | RowFailure::Logits(_) | RowFailure::NoRoom => {}
                        RowFailure::Late => prop_assert!(request.start_by.is_some() && !story.started.contains(id)),
                        other @ (RowFailure::NoOutput | RowFailure::Stuck | RowFailure::EngineStopped) => {
                            prop_assert!(false, "{other}");
                        }
                    }
                }
                EndReason::StopToken | EndReason::Length => prop_assert_eq!((&said, reason), (&alone, why)),
            }
        }
        prop_assert_eq!(scheduler.load().running + scheduler.load().waiting, 0);
        // All that is kept goes in time.
        let mut scheduler = scheduler;
        let later = MonoMillis(now.0 + self.limits.prefix_keep.0 + 1);
        if let Some(plan) = scheduler.plan(later) {
            memory.step(&plan);
            scheduler.update(StepOutput::default(), 5, later);
        }
        prop_assert!(memory.saved.is_empty() && memory.slots.iter().all(Vec::is_empty), "something is kept for ever");
        prop_assert_eq!(scheduler.next_wake(), None);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn every_row_ends_once_and_undisturbed_rows_say_what_they_say_alone(
        moves in prop::collection::vec(moves(), 1..160),
        rows_max in 1usize..6,
        extra in 0usize..12,
        saved_tokens_max in 0usize..200,
        trims: bool,
        token_us in prop_oneof![Just(10u64), Just(1_000)],
    ) {
        let limits = Limits { rows_max, step_tokens_max: rows_max + extra, saved_tokens_max, trims, ..LIMITS };
        let bench = Bench::new(limits);
        let (requests, cancelled) = (BTreeMap::new(), BTreeSet::new());
        let mut run = Run { bench, limits, requests, cancelled, next: 0, token_us };
        for step in moves {
            run.make(step)?;
        }
        run.check()?;
    }

    #[test]
    fn whoever_waits_gets_a_slot_though_others_keep_coming(
        rows_max in 1usize..4,
        extra in 0usize..4,
        prompts in prop::collection::vec((1usize..32, 0u64..3), 40..80),
    ) {
        let limits = Limits { rows_max, step_tokens_max: rows_max + extra, ..LIMITS };
        let mut bench = Bench::new(limits);
        let (mut next, mut steps_without_start, mut last) = (0u64, 0, 0);
        for (prompt, owner) in prompts {
            // The list is full at all times.
            loop {
                let mut request = request(next, prompt, 32);
                request.owner = Owner(owner);
                if bench.scheduler.submit(request, bench.now).is_err() {
                    break;
                }
                next += 1;
            }
            bench.step().unwrap();
            steps_without_start = if bench.story.started.len() > last { 0 } else { steps_without_start + 1 };
            last = bench.story.started.len();
            // Each slot's row needs at most a step for each token of its own and of every row that prefills before it.
            prop_assert!(steps_without_start <= 64 * (rows_max + 1), "a waiting row starves");
        }
    }
}

#[test]
fn events_name_their_row() {
    assert_eq!(RowEvent::Started { id: RowId(4) }.id(), RowId(4));
}
