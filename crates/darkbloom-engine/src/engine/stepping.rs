//! The thread that executes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use darkbloom_batch::{Load, RowFailure, StepPlan};

use super::{ERASE_AFTER, Shared};
use crate::{ExecuteError, Executor};

/// What the thread does next.
enum Next {
    Step(StepPlan),
    /// No row runs: what rows left is overwritten, after what is kept of it has been saved.
    Erase(Option<StepPlan>),
    Stop,
}

/// However the thread ends, over a bug too, nobody waits for another step.
struct StepsEnd<'s>(&'s Shared);

impl Drop for StepsEnd<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if !state.stopping {
            (state.stopping, state.stats.last_error) = (true, Some(ExecuteError::Panicked));
            let events = state.scheduler.end_all(RowFailure::EngineStopped);
            state.events.extend(events);
        }
        state.steps_ended = true;
        drop(state);
        self.0.news.notify_all();
    }
}

impl Shared {
    /// Executes plans until the engine stops.
    pub(super) fn run_steps(&self, mut executor: impl Executor) {
        let _end = StepsEnd(self);
        let mut used = false;
        loop {
            match self.next(used) {
                Next::Step(plan) => {
                    used |= !plan.rows.is_empty();
                    self.step(&mut executor, &plan);
                }
                Next::Erase(saving) => {
                    if let Some(plan) = saving {
                        self.step(&mut executor, &plan);
                    }
                    // A row that comes in now waits behind this, as it would behind a step.
                    used = false;
                    self.lock().step_began = Some(Instant::now());
                    let erased = catch_unwind(AssertUnwindSafe(|| executor.erase()));
                    let mut state = self.lock();
                    state.step_began = None;
                    self.set_interrupt(false);
                    state.scheduler.erased();
                    if erased.is_err() {
                        state.stats.last_error = Some(ExecuteError::Panicked);
                        state.stopping = true;
                    }
                }
                Next::Stop => break,
            }
        }
        let mut state = self.lock();
        let events = state.scheduler.end_all(RowFailure::EngineStopped);
        state.events.extend(events);
        drop(state);
        // Whoever hears that the engine has stopped finds the model's memory free.
        drop(catch_unwind(AssertUnwindSafe(|| drop(executor))));
    }

    /// Waits for work.
    fn next(&self, used: bool) -> Next {
        let mut idle_since = None;
        let mut state = self.lock();
        loop {
            if state.stopping {
                return Next::Stop;
            }
            let now = self.now();
            let plan = state.scheduler.plan(now);
            state.collect_events();
            if state.waits_to_be_told() {
                self.news.notify_all();
            }
            if let Some(plan) = plan {
                state.step_began = Some(Instant::now());
                return Next::Step(plan);
            }
            let Load { running, waiting, .. } = state.scheduler.load();
            let idle_for = idle_since.get_or_insert_with(Instant::now).elapsed();
            if used && running + waiting == 0 && idle_for >= ERASE_AFTER {
                let saving = state.scheduler.plan_before_erasing(now);
                state.step_began = Some(Instant::now());
                return Next::Erase(saving);
            }
            // Woken by a submission, a cancellation or a stop; each changes something under the lock.
            let wake = state.scheduler.next_wake().map(|at| Duration::from_millis(at.since(now).0.max(1)));
            let erase = used.then(|| ERASE_AFTER.saturating_sub(idle_for));
            state = match wake.into_iter().chain(erase).min() {
                Some(wait) => self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Executes one plan and takes its result in.
    fn step(&self, executor: &mut impl Executor, plan: &StepPlan) {
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| executor.step(plan)));
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        state.step_began = None;
        // Under the lock, since it is set under the lock, and only while a step runs.
        self.set_interrupt(false);
        if state.given_up {
            return;
        }
        let events = match result {
            Ok(Ok(output)) => {
                if !plan.rows.is_empty() {
                    state.stats.steps += 1;
                    state.stats.tokens += plan.token_count() as u64;
                    state.stats.rows += plan.rows.len() as u64;
                }
                state.scheduler.update(output, took_us, self.now())
            }
            Ok(Err(ExecuteError::NoRoom)) => {
                state.stats.last_error = Some(ExecuteError::NoRoom);
                state.scheduler.no_room()
            }
            failed => {
                let error =
                    failed.map_or(ExecuteError::Panicked, |result| result.err().unwrap_or(ExecuteError::Panicked));
                state.stats.failed_steps += 1;
                state.stats.last_error = Some(error);
                state.stopping |= error == ExecuteError::Panicked;
                state.scheduler.fail_step()
            }
        };
        state.events.extend(events);
        let tell = state.waits_to_be_told();
        drop(state);
        if tell {
            self.news.notify_all();
        }
    }
}
