//! Claims about the engine's thread and its handle, with executors that need no model.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use darkbloom_batch::{
    EndReason, Limits, Load, RowEvent, RowFailure, RowId, RowRequest, Sampling, Scope, StepOutput, StepPlan,
    SubmitError,
};
use darkbloom_engine::{
    Capacity, CostModel, Engine, EngineHandle, EventSink, ExecuteError, Executor, SimulatedExecutor, StartEngineError,
    StepLimits,
};
use darkbloom_types::{Millis, MonoMillis, SecretTokens, TokenCount, TokenId};
use proptest::prelude::*;

const CAPACITY: Capacity = Capacity { rows_max: 8, row_tokens_max: 256, step_tokens_max: 64, trims: true };
const VOCABULARY: usize = 97;
const NOW: MonoMillis = MonoMillis(0);
/// Far longer than any of these tests takes on a busy machine; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

fn simulated() -> SimulatedExecutor {
    SimulatedExecutor::new(CAPACITY, VOCABULARY, CostModel::default())
}

fn request(id: u64, prompt_tokens: usize, max_output: u32) -> RowRequest {
    let prompt = (0..prompt_tokens).map(|at| TokenId(((id as usize * 31 + at * 7) % VOCABULARY) as u32)).collect();
    let sampling = if id.is_multiple_of(2) {
        Sampling::greedy()
    } else {
        Sampling { temperature: 1.0, top_p: 0.9, seed: id, ..Sampling::greedy() }
    };
    RowRequest {
        sampling: Arc::new(sampling),
        stop_tokens: vec![TokenId(3)],
        ..RowRequest::new(RowId(id), SecretTokens::new(prompt), TokenCount(max_output))
    }
}

fn sink() -> (EventSink, Receiver<RowEvent>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |event| _ = sender.send(event)), receiver)
}

/// Waits for a row's end and for its sink's being dropped; returns the tokens, the reason and the failure.
fn to_the_end(events: &Receiver<RowEvent>) -> (Vec<TokenId>, EndReason, Option<RowFailure>) {
    let mut tokens = Vec::new();
    let mut end = None;
    loop {
        match events.recv_timeout(PATIENCE) {
            Ok(event) => {
                assert!(end.is_none(), "something follows the end");
                match event {
                    RowEvent::Started { .. } => {}
                    RowEvent::Token { token, .. } => tokens.push(token),
                    RowEvent::Ended { reason, failure, .. } => end = Some((reason, failure)),
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let (reason, failure) = end.expect("the sink was dropped before the row's end");
                return (tokens, reason, failure);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the row never ends"),
        }
    }
}

fn submit(handle: &EngineHandle, request: RowRequest) -> Receiver<RowEvent> {
    let (sink, events) = sink();
    handle.submit(request, sink).unwrap();
    events
}

/// An executor whose every step waits until the test lets it go on, and says when it is there.
struct Gated {
    inner: SimulatedExecutor,
    entered: Sender<Vec<RowId>>,
    go_on: Receiver<()>,
}

impl Executor for Gated {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        let mut rows: Vec<_> = plan.rows.iter().map(|row| row.id).collect();
        rows.sort();
        _ = self.entered.send(rows);
        // When the test has let go of its end, steps run freely.
        _ = self.go_on.recv();
        self.inner.step(plan)
    }

    fn erase(&mut self) {
        self.inner.erase();
    }

    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }
}

fn gated(inner: SimulatedExecutor) -> (Gated, Receiver<Vec<RowId>>, Sender<()>) {
    let (entered, entries) = mpsc::channel();
    let (gate, go_on) = mpsc::channel();
    (Gated { inner, entered, go_on }, entries, gate)
}

#[test]
fn rows_join_and_leave_at_step_boundaries_and_share_every_forward() {
    let (executor, entries, gate) = gated(simulated());
    let counters = executor.inner.counters();
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let next = || entries.recv_timeout(PATIENCE).unwrap();
    let ids = |ids: &[u64]| ids.iter().copied().map(RowId).collect::<Vec<_>>();
    let without_stop = |id, output| RowRequest { stop_tokens: vec![], ..request(id, 5, output) };

    let first = submit(&handle, without_stop(1, 4));
    assert_eq!(next(), ids(&[1]));
    let second = submit(&handle, without_stop(2, 2));
    let third = submit(&handle, without_stop(3, 6));
    gate.send(()).unwrap();
    assert_eq!(next(), ids(&[1, 2, 3]), "both joined the batch at the next step");
    gate.send(()).unwrap();
    assert_eq!(next(), ids(&[1, 2, 3]));
    gate.send(()).unwrap();
    assert_eq!(next(), ids(&[1, 3]), "the second has its two tokens and left");
    assert_eq!(to_the_end(&second).0.len(), 2);
    assert!(handle.cancel(RowId(3)));
    gate.send(()).unwrap();
    drop(gate);
    assert_eq!(to_the_end(&first).0.len(), 4);
    assert_eq!(to_the_end(&third).1, EndReason::Cancelled);
    assert_eq!(counters.forwards(), 4, "eleven tokens of three rows took four forwards");
    let stats = handle.stats();
    assert_eq!((stats.steps, stats.rows, counters.rows_widest()), (4, 9, 3));
}

#[test]
fn eight_rows_take_as_many_forwards_as_one() {
    let (executor, _entries, gate) = gated(simulated());
    let counters = executor.inner.counters();
    let engine = Engine::start(executor, CAPACITY.limits(8)).unwrap();
    let rows: Vec<_> =
        (0..8).map(|id| submit(&engine.handle(), RowRequest { stop_tokens: vec![], ..request(id, 4, 20) })).collect();
    drop(gate);
    for row in rows {
        assert_eq!(to_the_end(&row).0.len(), 20);
    }
    // The first step may have begun before the others came.
    assert!((20..=21).contains(&counters.forwards()), "{} forwards", counters.forwards());
}

#[test]
fn submit_cancel_and_load_return_while_a_step_runs() {
    let (executor, entries, gate) = gated(simulated());
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let first = submit(&handle, request(2, 5, 50));
    entries.recv_timeout(PATIENCE).unwrap();
    // The step does not end before the gate opens, so every call that returns here did not wait for it.
    assert_eq!(handle.load(), Load { running: 1, waiting: 0, rows_max: 8 });
    let second = submit(&handle, request(4, 5, 50));
    assert_eq!(handle.load().waiting, 1);
    assert!(handle.cancel(RowId(2)));
    assert!(handle.cancel(RowId(4)));
    assert!(!handle.cancel(RowId(4)), "it is cancelled already");
    assert!(!handle.cancel(RowId(5)), "there is no such row");
    assert_eq!(to_the_end(&first), (vec![], EndReason::Cancelled, None), "its end is told while the step runs");
    assert_eq!(to_the_end(&second), (vec![], EndReason::Cancelled, None));
    gate.send(()).unwrap();
    assert_eq!(handle.load(), Load { running: 0, waiting: 0, rows_max: 8 });
}

#[test]
fn cancelled_rows_whose_end_is_not_told_stay_bounded() {
    let (executor, entries, gate) = gated(simulated());
    let limits = Limits { rows_max: 2, waiting_max: 3, ..CAPACITY.limits(3) };
    let engine = Engine::start(executor, limits).unwrap();
    let handle = engine.handle();
    // A sink that waits, as none should: nothing is told meanwhile.
    let (release, released) = mpsc::channel::<()>();
    handle.submit(request(0, 5, 50), Box::new(move |_| _ = released.recv())).unwrap();
    entries.recv_timeout(PATIENCE).unwrap();
    let mut taken = 1;
    let refused = (1..100).find_map(|id| match handle.submit(request(id, 5, 50), sink().0) {
        Ok(()) => {
            taken += 1;
            assert!(handle.cancel(RowId(id)));
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(SubmitError::WaitingListFull { .. })));
    assert_eq!(taken, 10, "twice what may run and wait");
    drop((gate, release));
}

#[test]
fn a_failed_step_fails_its_rows_and_the_engine_goes_on() {
    let (executor, entries, gate) = gated(simulated().failing_at([1]));
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let first = submit(&handle, request(2, 5, 50));
    entries.recv_timeout(PATIENCE).unwrap();
    let second = submit(&handle, request(4, 5, 50));
    gate.send(()).unwrap();
    entries.recv_timeout(PATIENCE).unwrap();
    drop(gate);
    for events in [first, second] {
        let (_, reason, failure) = to_the_end(&events);
        assert_eq!((reason, failure), (EndReason::Failed, Some(RowFailure::Step)));
    }
    let again = submit(&handle, RowRequest { stop_tokens: vec![], ..request(2, 5, 10) });
    let (tokens, reason, _) = to_the_end(&again);
    assert_eq!((tokens.len(), reason), (10, EndReason::Length));
    let stats = handle.stats();
    assert_eq!((stats.failed_steps, stats.last_error), (1, Some(ExecuteError::Injected)));
}

struct Panics;

impl Executor for Panics {
    fn step(&mut self, _plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        panic!("a bug")
    }

    fn erase(&mut self) {
        panic!("another bug")
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn capacity(&self) -> Capacity {
        CAPACITY
    }
}

#[test]
fn an_executor_that_panics_ends_the_rows_and_stops_the_engine() {
    let engine = Engine::start(Panics, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let row = submit(&handle, request(2, 5, 50));
    assert_eq!(to_the_end(&row).1, EndReason::Failed);
    assert!(handle.is_stopped());
    assert_eq!(handle.submit(request(4, 5, 50), sink().0), Err(SubmitError::Stopped));
    assert_eq!(handle.stats().last_error, Some(ExecuteError::Panicked));
}

/// Works, but for the erasing between rows.
struct PanicsBetweenRows(SimulatedExecutor);

impl Executor for PanicsBetweenRows {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        self.0.step(plan)
    }

    fn erase(&mut self) {
        panic!("a bug")
    }

    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.0.capacity()
    }
}

/// Hears when an engine has stopped.
fn stop_notice(handle: &EngineHandle) -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    handle.when_stopped(Box::new(move || _ = sender.send(())));
    receiver
}

#[test]
fn whoever_asked_is_told_that_a_step_stopped_the_engine_after_its_rows_have_ended() {
    let engine = Engine::start(Panics, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let (early, also) = (stop_notice(&handle), stop_notice(&handle));
    handle.when_stopped(Box::new(|| panic!("a bug of whoever asked")));
    let last = stop_notice(&handle);
    let row = submit(&handle, request(2, 5, 50));
    early.recv_timeout(PATIENCE).unwrap();
    let said: Vec<_> = row.try_iter().collect();
    assert!(matches!(said.last(), Some(RowEvent::Ended { .. })), "{said:?}");
    for notice in [also, last, stop_notice(&handle)] {
        notice.recv_timeout(PATIENCE).unwrap();
    }
    assert!(handle.is_stopped());
}

#[test]
fn whoever_asked_is_told_that_the_engine_stopped_between_rows() {
    let engine = Engine::start(PanicsBetweenRows(simulated()), CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let notice = stop_notice(&handle);
    let row = submit(&handle, request(2, 5, 50));
    assert_ne!(to_the_end(&row).1, EndReason::Failed);
    notice.recv_timeout(PATIENCE).unwrap();
    assert!(handle.is_stopped());
    assert_eq!(handle.stats().last_error, Some(ExecuteError::Panicked));
}

#[test]
fn whoever_asked_is_told_that_the_engine_was_asked_to_stop() {
    let engine = Engine::start(simulated(), CAPACITY.limits(4)).unwrap();
    let notice = stop_notice(&engine.handle());
    assert!(notice.try_recv().is_err());
    engine.stop();
    notice.try_recv().unwrap();
}

#[test]
fn a_sink_that_panics_loses_only_its_own_row() {
    let (executor, entries, gate) = gated(simulated());
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    handle.submit(request(1, 5, 200), Box::new(|_| panic!("a bug"))).unwrap();
    let other = submit(&handle, RowRequest { stop_tokens: vec![], ..request(2, 5, 40) });
    entries.recv_timeout(PATIENCE).unwrap();
    drop(gate);
    assert_eq!(to_the_end(&other).0.len(), 40);
    let began = Instant::now();
    while handle.load().running > 0 {
        assert!(began.elapsed() < PATIENCE, "the unheard row runs on");
        std::thread::yield_now();
    }
}

#[test]
fn a_sink_that_panics_when_it_is_dropped_loses_nobody_elses_row() {
    struct Bug;
    impl Drop for Bug {
        fn drop(&mut self) {
            panic!("a bug");
        }
    }
    let (executor, entries, gate) = gated(simulated());
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let bug = Bug;
    handle
        .submit(
            request(1, 5, 3),
            Box::new(move |_| {
                let _held = &bug;
            }),
        )
        .unwrap();
    let other = submit(&handle, RowRequest { stop_tokens: vec![], ..request(2, 5, 40) });
    entries.recv_timeout(PATIENCE).unwrap();
    drop(gate);
    assert_eq!(to_the_end(&other).0.len(), 40);
}

#[test]
fn stopping_ends_all_rows_and_refuses_new_ones() {
    let cost = CostModel { step: Duration::from_millis(2), ..CostModel::default() };
    let executor = SimulatedExecutor::new(CAPACITY, VOCABULARY, cost);
    let engine = Engine::start(executor, CAPACITY.limits(8)).unwrap();
    let handle = engine.handle();
    let rows: Vec<_> =
        (0..12).map(|id| submit(&handle, RowRequest { stop_tokens: vec![], ..request(id, 5, 250) })).collect();
    engine.stop();
    for row in rows {
        let (_, reason, failure) = to_the_end(&row);
        assert_eq!((reason, failure), (EndReason::Failed, Some(RowFailure::EngineStopped)));
    }
    assert_eq!(handle.submit(request(99, 5, 5), sink().0), Err(SubmitError::Stopped));
    assert!(!handle.cancel(RowId(1)));
}

#[test]
fn an_engine_may_be_dropped_by_a_sink() {
    // The row would run for two seconds; the engine is dropped at its first event.
    let cost = CostModel { step: Duration::from_millis(10), ..CostModel::default() };
    let executor = SimulatedExecutor::new(CAPACITY, VOCABULARY, cost);
    let engine = Arc::new(Mutex::new(Some(Engine::start(executor, CAPACITY.limits(4)).unwrap())));
    let handle = engine.lock().unwrap().as_ref().unwrap().handle();
    let in_sink = Arc::clone(&engine);
    let (sender, receiver) = mpsc::channel();
    let sink = move |event: RowEvent| {
        drop(in_sink.lock().unwrap().take());
        _ = sender.send(event);
    };
    handle.submit(RowRequest { stop_tokens: vec![], ..request(2, 5, 200) }, Box::new(sink)).unwrap();
    assert_eq!(to_the_end(&receiver).2, Some(RowFailure::EngineStopped));
}

#[test]
fn a_token_outside_the_vocabulary_is_refused_before_it_can_hurt_the_batch() {
    let engine = Engine::start(simulated(), CAPACITY.limits(4)).unwrap();
    let mut bad = request(1, 5, 5);
    bad.prompt = SecretTokens::new(vec![TokenId(VOCABULARY as u32)]);
    assert_eq!(engine.handle().submit(bad, sink().0), Err(SubmitError::UnknownToken));
}

#[test]
fn limits_beyond_the_executor_are_refused() {
    for limits in [
        Limits { rows_max: 9, ..CAPACITY.limits(4) },
        Limits { row_tokens_max: 257, ..CAPACITY.limits(4) },
        Limits { step_tokens_max: 65, ..CAPACITY.limits(4) },
    ] {
        let refused = Engine::start(simulated(), limits).err().unwrap();
        assert!(matches!(refused, StartEngineError::BeyondCapacity { capacity } if capacity == CAPACITY));
    }
    let none = Limits { rows_max: 0, ..CAPACITY.limits(4) };
    assert!(matches!(Engine::start(simulated(), none), Err(StartEngineError::Limits(_))));
}

#[test]
fn a_step_costs_what_the_script_says() {
    let ms = Duration::from_millis;
    let cost = CostModel { step: ms(5), decode_token: ms(2), prefill_token: ms(1) };
    let mut scheduler = darkbloom_batch::Scheduler::new(CAPACITY.limits(4)).unwrap();
    scheduler.submit(request(2, 5, 5), NOW).unwrap();
    assert_eq!(cost.cost(&scheduler.plan(NOW).unwrap()), ms(5 + 5));
    let mut executor = SimulatedExecutor::new(CAPACITY, VOCABULARY, cost);
    let mut scheduler = darkbloom_batch::Scheduler::new(CAPACITY.limits(4)).unwrap();
    scheduler.submit(RowRequest { stop_tokens: vec![], ..request(2, 5, 5) }, NOW).unwrap();
    let output = executor.step(&scheduler.plan(NOW).unwrap()).unwrap();
    scheduler.update(output, 1, NOW);
    assert_eq!(cost.cost(&scheduler.plan(NOW).unwrap()), ms(5 + 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_row_says_the_same_alone_and_in_a_crowd(
        rows in prop::collection::vec((1usize..120, 1u32..60, 0u64..400), 1..16),
        step_tokens_max in 8usize..64,
    ) {
        let alone: Vec<_> = rows.iter().enumerate().map(|(id, &(prompt, output, _))| {
            let engine = Engine::start(simulated(), CAPACITY.limits(1)).unwrap();
            to_the_end(&submit(&engine.handle(), request(id as u64, prompt, output)))
        }).collect();
        let limits = Limits { step_tokens_max, ..CAPACITY.limits(16) };
        let engine = Engine::start(simulated(), limits).unwrap();
        let crowd: Vec<_> = rows.iter().enumerate().map(|(id, &(prompt, output, pause))| {
            std::thread::sleep(Duration::from_micros(pause));
            submit(&engine.handle(), request(id as u64, prompt, output))
        }).collect();
        for (events, alone) in crowd.iter().zip(alone) {
            prop_assert_eq!(to_the_end(events), alone);
        }
    }
}

#[test]
fn what_rows_left_is_overwritten_once_when_no_more_come() {
    let executor = simulated();
    let counters = executor.counters();
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let idle = || std::thread::sleep(Duration::from_millis(1_500));
    let erased_after = |before| {
        let began = Instant::now();
        while counters.erased() == before {
            assert!(began.elapsed() < PATIENCE, "what a row left stays");
            std::thread::sleep(Duration::from_millis(10));
        }
        idle();
        counters.erased()
    };
    idle();
    assert_eq!(counters.erased(), 0, "nothing was there");
    let row = |id| RowRequest { id: RowId(id), stop_tokens: vec![], ..request(1, 20, 30) };
    let first = to_the_end(&submit(&handle, row(1)));
    let once = erased_after(0);
    idle();
    assert_eq!(counters.erased(), once, "not again and again");
    assert_eq!(to_the_end(&submit(&handle, row(2))), first, "nothing of the row was needed any more");
    assert!(erased_after(once) > once);
}

const SHORT: StepLimits =
    StepLimits { interrupt_after: Duration::from_millis(30), give_up_after: Duration::from_millis(30) };

#[test]
fn a_step_that_never_returns_is_noticed_its_rows_fail_and_nobody_waits_for_it() {
    let (executor, entries, gate) = gated(simulated());
    let engine = Engine::start_with(executor, CAPACITY.limits(4), SHORT).unwrap();
    let handle = engine.handle();
    let notice = stop_notice(&handle);
    let rows = [submit(&handle, request(2, 5, 50)), submit(&handle, request(4, 5, 50))];
    entries.recv_timeout(PATIENCE).unwrap();
    for row in rows {
        assert_eq!(to_the_end(&row), (vec![], EndReason::Failed, Some(RowFailure::Stuck)));
    }
    notice.recv_timeout(PATIENCE).unwrap();
    assert_eq!(handle.stats().last_error, Some(ExecuteError::Stuck));
    assert_eq!(handle.submit(request(6, 5, 5), sink().0), Err(SubmitError::Stopped));
    // The step has not come back, and is not waited for.
    drop(engine);
    drop(gate);
}

/// An executor whose first step lasts until it is interrupted.
struct Interruptible {
    inner: SimulatedExecutor,
    interrupt: Arc<AtomicBool>,
    first: bool,
}

impl Executor for Interruptible {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        if std::mem::take(&mut self.first) {
            while !self.interrupt.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            return Err(ExecuteError::Interrupted);
        }
        assert!(!self.interrupt.load(Ordering::Relaxed), "the next step is interrupted as well");
        self.inner.step(plan)
    }

    fn erase(&mut self) {
        self.inner.erase();
    }

    fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        Some(Arc::clone(&self.interrupt))
    }

    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }
}

#[test]
fn a_step_that_takes_too_long_is_interrupted_and_the_engine_goes_on() {
    let executor = Interruptible { inner: simulated(), interrupt: Arc::default(), first: true };
    // An executor that was interrupted has as long as it takes on a busy machine.
    let limits = StepLimits { give_up_after: PATIENCE, ..SHORT };
    let engine = Engine::start_with(executor, CAPACITY.limits(4), limits).unwrap();
    let handle = engine.handle();
    let row = submit(&handle, request(2, 5, 50));
    assert_eq!(to_the_end(&row), (vec![], EndReason::Failed, Some(RowFailure::Step)));
    assert_eq!(handle.stats().last_error, Some(ExecuteError::Interrupted));
    let next = submit(&handle, RowRequest { stop_tokens: vec![], ..request(2, 5, 10) });
    assert_eq!(to_the_end(&next).0.len(), 10);
}

#[test]
fn rows_of_a_scope_start_from_what_another_left_even_after_it_was_overwritten() {
    let executor = simulated();
    let counters = executor.counters();
    let engine = Engine::start(executor, CAPACITY.limits(4)).unwrap();
    let handle = engine.handle();
    let row =
        |id| RowRequest { id: RowId(id), scope: Some(Scope::new([7; 32])), stop_tokens: vec![], ..request(1, 40, 30) };
    let first = to_the_end(&submit(&handle, row(1)));
    assert_eq!(to_the_end(&submit(&handle, row(2))), first);
    let began = Instant::now();
    while counters.erased() == 0 {
        assert!(began.elapsed() < PATIENCE, "what a row left stays");
        std::thread::yield_now();
    }
    assert_eq!(to_the_end(&submit(&handle, row(3))), first);
    assert_eq!(handle.stats().decisions.reused_tokens, 2 * 39);
    let other = RowRequest { scope: Some(Scope::new([8; 32])), ..row(4) };
    assert_eq!(to_the_end(&submit(&handle, other)), first);
    assert_eq!(handle.stats().decisions.reused_tokens, 2 * 39, "another scope's");
}

#[test]
fn a_row_that_waits_too_long_hears_so_though_nothing_else_happens() {
    let (executor, entries, gate) = gated(simulated());
    let limits = Limits { rows_max: 1, ..CAPACITY.limits(4) };
    let engine = Engine::start(executor, limits).unwrap();
    let handle = engine.handle();
    let first = submit(&handle, request(2, 5, 50));
    entries.recv_timeout(PATIENCE).unwrap();
    let late = RowRequest { start_by: Some(handle.now().after(Millis(0))), ..request(4, 5, 50) };
    let second = submit(&handle, late);
    let submitted = handle.now();
    while handle.now() <= submitted.after(Millis(1)) {
        std::thread::yield_now();
    }
    gate.send(()).unwrap();
    assert_eq!(to_the_end(&second), (vec![], EndReason::Failed, Some(RowFailure::Late)));
    drop(gate);
    to_the_end(&first);
}

#[test]
fn penalties_look_at_what_the_row_said_and_probabilities_are_told() {
    let engine = Engine::start(simulated(), CAPACITY.limits(4)).unwrap();
    let sampling = Sampling {
        logit_bias: vec![(TokenId(5), 100.0)],
        frequency_penalty: 2.0,
        logprobs: Some(3),
        ..Sampling::greedy()
    };
    let row = RowRequest { sampling: Arc::new(sampling), stop_tokens: vec![], ..request(2, 5, 80) };
    let events = submit(&engine.handle(), row.clone());
    let mut said = Vec::new();
    for event in events {
        if let RowEvent::Token { token, logprobs, .. } = event {
            assert_eq!(logprobs.unwrap().top.len(), 3);
            said.push(token);
        }
    }
    // Logits are between 0 and 4: what is 100 ahead falls behind after 48 to 52 times.
    let same = said.iter().take_while(|token| **token == TokenId(5)).count();
    assert!((48..=52).contains(&same), "{same} times the same of {}", said.len());
    assert_eq!(said.len(), 80);
    let unknown = Sampling { logit_bias: vec![(TokenId(VOCABULARY as u32), 1.0)], ..Sampling::greedy() };
    let row = RowRequest { id: RowId(3), sampling: Arc::new(unknown), ..row };
    assert_eq!(engine.handle().submit(row, sink().0), Err(SubmitError::UnknownToken));
}

/// An executor whose erasing waits until the test lets it go on.
struct HangsBetweenRows {
    inner: SimulatedExecutor,
    entered: Sender<()>,
    go_on: Receiver<()>,
}

impl Executor for HangsBetweenRows {
    fn step(&mut self, plan: &StepPlan) -> Result<StepOutput, ExecuteError> {
        self.inner.step(plan)
    }

    fn erase(&mut self) {
        _ = self.entered.send(());
        _ = self.go_on.recv();
    }

    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }
}

#[test]
fn a_row_that_waits_behind_an_erasing_that_never_returns_fails_by_name() {
    let (entered, entries) = mpsc::channel();
    let (gate, go_on) = mpsc::channel();
    let executor = HangsBetweenRows { inner: simulated(), entered, go_on };
    let engine = Engine::start_with(executor, CAPACITY.limits(4), SHORT).unwrap();
    let handle = engine.handle();
    to_the_end(&submit(&handle, request(2, 5, 5)));
    entries.recv_timeout(PATIENCE).unwrap();
    let (sink, events) = sink();
    // It is given up with or without a row that waits.
    if handle.submit(request(4, 5, 5), sink).is_ok() {
        assert_eq!(to_the_end(&events).2, Some(RowFailure::Stuck));
    }
    stop_notice(&handle).recv_timeout(PATIENCE).unwrap();
    assert_eq!(handle.stats().last_error, Some(ExecuteError::Stuck));
    drop((engine, gate));
}
