//! The thread that runs steps, and the handle through which rows come and go.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use darkbloom_batch::{
    Limits, LimitsError, Load, RowEvent, RowFailure, RowId, RowRequest, Scheduler, StepPlan, SubmitError,
};

use crate::{Capacity, ExecuteError, Executor};

/// Hears what happens to one row, on the engine's thread: it must return quickly and never wait, since every row waits
/// for it. It may call the engine's handle. It is dropped after the row's end.
pub type EventSink = Box<dyn FnMut(RowEvent) + Send>;

/// Is called once, on the engine's thread, when the engine has stopped for good: it must return quickly and never wait.
pub type StopNotice = Box<dyn FnOnce() + Send>;

/// How long no row must have run before what the rows left in the model's memory is overwritten. All of that memory is
/// written, not only what was used: 0.13 s for 3.8 GB (8 rows of 4,096 tokens, 0.6 B parameters), during which a row that
/// comes in waits. So it is not done between requests that follow each other.
const ERASE_AFTER: Duration = Duration::from_secs(1);

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartEngineError {
    /// The limits make no sense.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The limits ask for more than the executor has memory for.
    #[error("the limits exceed what the model was loaded for: {capacity:?}")]
    BeyondCapacity {
        /// What it has.
        capacity: Capacity,
    },
    /// The system gave no thread.
    #[error("the engine's thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// What an engine has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Steps executed: one forward each, for all rows together.
    pub steps: u64,
    /// Tokens that they took in, prompts and answers.
    pub tokens: u64,
    /// Rows summed over the steps; divided by `steps` it is how well the batch is shared.
    pub rows: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Why the last of them did, or that the executor panicked between steps.
    pub last_error: Option<ExecuteError>,
}

/// A running engine. Stopping or dropping it ends every row and waits for the step that runs.
pub struct Engine {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the limits and the executor do not fit together, or there is no thread to be had.
    pub fn start(executor: impl Executor + 'static, limits: Limits) -> Result<Self, StartEngineError> {
        let scheduler = Scheduler::new(limits)?;
        let capacity = executor.capacity();
        if !capacity.holds(limits) {
            return Err(StartEngineError::BeyondCapacity { capacity });
        }
        let vocabulary = executor.vocabulary();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                scheduler,
                arrivals: Vec::new(),
                known: HashSet::new(),
                stats: Stats::default(),
                stopping: false,
                stopped: false,
                notices: Vec::new(),
            }),
            wake: Condvar::new(),
            vocabulary,
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("darkbloom-engine".to_owned())
            .spawn(move || of_thread.run(executor))
            .map_err(StartEngineError::Thread)?;
        Ok(Self { handle: EngineHandle { shared }, thread: Some(thread) })
    }

    /// A handle to it; as many as wanted.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Ends every row with [`RowFailure::EngineStopped`], frees the model, and returns when that is done: after the
    /// step that runs at most.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.handle.shared.lock().stopping = true;
        self.handle.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A sink may drop the last engine on the engine's own thread, which cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                // The thread catches its own panics; there is nothing to learn from the result.
                drop(thread.join());
            }
        }
    }
}

/// Submits and cancels rows; none of its calls waits for a step.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

impl EngineHandle {
    /// Takes a row in. Its sink hears of it from the next step boundary on. The id is free again when the sink was
    /// dropped, after the row's end.
    ///
    /// # Errors
    /// When there is no room, the row could never run, or the engine was stopped; the sink is then dropped unheard.
    pub fn submit(&self, request: RowRequest, sink: EventSink) -> Result<(), SubmitError> {
        let vocabulary = self.shared.vocabulary;
        if request.prompt.expose().iter().any(|token| token.0 as usize >= vocabulary) {
            return Err(SubmitError::UnknownToken);
        }
        let id = request.id;
        {
            let mut state = self.shared.lock();
            if state.stopping {
                return Err(SubmitError::Stopped);
            }
            if state.known.contains(&id) {
                return Err(SubmitError::DuplicateRow);
            }
            // Rows that were cancelled during a step are gone from the scheduler and still to be told: they count too.
            let Limits { rows_max, waiting_max, .. } = state.scheduler.limits();
            if state.known.len() >= rows_max.saturating_add(waiting_max).saturating_mul(2) {
                return Err(SubmitError::WaitingListFull { waiting: state.scheduler.load().waiting });
            }
            state.scheduler.submit(request)?;
            state.known.insert(id);
            state.arrivals.push((id, sink));
        }
        self.shared.wake.notify_all();
        Ok(())
    }

    /// Ends a row: it leaves the batch at the next step boundary, where its sink hears of it. Whether there was one.
    pub fn cancel(&self, id: RowId) -> bool {
        let found = self.shared.lock().scheduler.cancel(id);
        self.shared.wake.notify_all();
        found
    }

    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        self.shared.lock().scheduler.load()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Whether it takes no more rows.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.lock().stopping
    }

    /// Has somebody told when the engine has stopped, by itself or because it was asked to: after every row has heard its
    /// end. At once where that is so already.
    pub fn when_stopped(&self, notice: StopNotice) {
        let mut state = self.shared.lock();
        if state.stopped {
            drop(state);
            notice();
        } else {
            state.notices.push(notice);
        }
    }
}

type Sinks = HashMap<RowId, EventSink>;

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    vocabulary: usize,
}

/// Locked for moments only: no step runs and no sink is called while it is.
struct State {
    scheduler: Scheduler,
    /// Sinks of rows that the thread has not seen, all of them known.
    arrivals: Vec<(RowId, EventSink)>,
    /// Rows whose sink has not heard the end: at most twice what may run and wait.
    known: HashSet<RowId>,
    stats: Stats,
    stopping: bool,
    /// The thread is at its end.
    stopped: bool,
    /// Whom to tell then: each part of the program that waits for it, a handful.
    notices: Vec<StopNotice>,
}

/// At the thread's end, however it comes, nobody waits for an engine that does nothing any more.
struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.stopping, state.stopped) = (true, true);
        let (arrivals, notices) = (std::mem::take(&mut state.arrivals), std::mem::take(&mut state.notices));
        drop(state);
        drop(arrivals);
        for notice in notices {
            // Whose notice panics learns nothing; the others do.
            let _ = catch_unwind(AssertUnwindSafe(notice));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut executor: impl Executor) {
        let _end = End(self);
        let mut sinks = Sinks::new();
        let mut used = false;
        while let Some(plan) = self.next_plan(&mut sinks, &mut executor, &mut used) {
            used = true;
            let result = catch_unwind(AssertUnwindSafe(|| executor.step(&plan)));
            let error = match result {
                Ok(Ok(output)) => {
                    let mut state = self.lock();
                    state.stats.steps += 1;
                    state.stats.tokens += plan.token_count() as u64;
                    state.stats.rows += plan.rows.len() as u64;
                    let events = state.scheduler.update(output);
                    let arrivals = std::mem::take(&mut state.arrivals);
                    drop(state);
                    self.tell(&mut sinks, arrivals, events);
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => ExecuteError::Panicked,
            };
            let mut state = self.lock();
            state.stats.failed_steps += 1;
            state.stats.last_error = Some(error);
            state.stopping |= error == ExecuteError::Panicked;
            let events = state.scheduler.fail_step();
            let arrivals = std::mem::take(&mut state.arrivals);
            drop(state);
            self.tell(&mut sinks, arrivals, events);
        }
        let mut state = self.lock();
        let events = state.scheduler.end_all(RowFailure::EngineStopped);
        let arrivals = std::mem::take(&mut state.arrivals);
        drop(state);
        self.tell(&mut sinks, arrivals, events);
    }

    /// Waits for work. Tells rows what happened to them meanwhile, and erases what they left when no more come. Nothing
    /// means that the engine stops.
    fn next_plan(&self, sinks: &mut Sinks, executor: &mut impl Executor, used: &mut bool) -> Option<StepPlan> {
        loop {
            let mut state = self.lock();
            if state.stopping {
                return None;
            }
            let plan = state.scheduler.plan();
            let events = state.scheduler.take_events();
            let arrivals = std::mem::take(&mut state.arrivals);
            if plan.is_none() && events.is_empty() && arrivals.is_empty() {
                // Woken by a submission, a cancellation or a stop; each changes one of these under the lock.
                if !*used {
                    drop(self.wake.wait(state));
                    continue;
                }
                let (state, waited) =
                    self.wake.wait_timeout(state, ERASE_AFTER).unwrap_or_else(PoisonError::into_inner);
                let Load { running, waiting, .. } = state.scheduler.load();
                drop(state);
                if waited.timed_out() && running + waiting == 0 {
                    // A row that comes in now waits behind this, as it would behind a step.
                    *used = false;
                    if catch_unwind(AssertUnwindSafe(|| executor.erase())).is_err() {
                        let mut state = self.lock();
                        state.stats.last_error = Some(ExecuteError::Panicked);
                        state.stopping = true;
                    }
                }
                continue;
            }
            drop(state);
            self.tell(sinks, arrivals, events);
            if plan.is_some() {
                return plan;
            }
        }
    }

    fn tell(&self, sinks: &mut Sinks, arrivals: Vec<(RowId, EventSink)>, events: Vec<RowEvent>) {
        sinks.extend(arrivals);
        for event in events {
            let id = event.id();
            // A sink that panics is its owner's bug, who must not take the other rows along.
            let heard = match sinks.get_mut(&id) {
                Some(sink) => catch_unwind(AssertUnwindSafe(|| sink(event))).is_ok(),
                None => true,
            };
            if matches!(event, RowEvent::Ended { .. }) {
                // In this order, so that whoever sees the sink dropped may use the id again.
                self.lock().known.remove(&id);
                sinks.remove(&id);
            } else if !heard {
                sinks.remove(&id);
                self.lock().scheduler.cancel(id);
            }
        }
    }
}
