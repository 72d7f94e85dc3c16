//! The threads that run steps and tell rows of them, and the handle through which rows come and go.
//!
//! One thread executes: it takes a step's result in, makes the next plan and goes on at once. The other tells the rows what
//! happened, while the next step runs, and watches that steps come back.

mod stepping;
mod telling;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use darkbloom_batch::{
    Decisions, Limits, LimitsError, Load, Pace, RowEvent, RowId, RowRequest, Scheduler, SubmitError,
};
use darkbloom_types::{MonoMillis, TokenId};

use crate::{Capacity, ExecuteError, Executor};

/// Hears what happens to one row, on a thread of the engine's: it must return quickly and never wait, since every row waits
/// for it. It may call the engine's handle. It is dropped after the row's end.
pub type EventSink = Box<dyn FnMut(RowEvent) + Send>;

/// Is called once, on a thread of the engine's, when the engine has stopped for good: it must return quickly and never wait.
pub type StopNotice = Box<dyn FnOnce() + Send>;

/// How long no row must have run before what the rows left in the model's memory is overwritten. All of that memory is
/// written, not only what was used: 0.13 s for 3.8 GB (8 rows of 4,096 tokens, 0.6 B parameters), during which a row that
/// comes in waits. So it is not done between requests that follow each other.
pub const ERASE_AFTER: Duration = Duration::from_secs(1);

/// How long a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepLimits {
    /// Then it is interrupted, where the executor can be: its rows fail and the engine goes on.
    pub interrupt_after: Duration,
    /// So much later it is given up: every row fails, the engine stops, and its thread and model are left to the process's
    /// end, since nothing can stop a thread.
    pub give_up_after: Duration,
}

impl Default for StepLimits {
    /// Half a minute, and ten seconds more: the scheduler aims at two seconds or little more, and whoever waits for an answer
    /// takes a provider for dead after a minute of silence.
    fn default() -> Self {
        Self { interrupt_after: Duration::from_secs(30), give_up_after: Duration::from_secs(10) }
    }
}

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
    /// Steps executed, for all rows together.
    pub steps: u64,
    /// Tokens that they took in: prompts, answers and guesses.
    pub tokens: u64,
    /// Rows summed over the steps; divided by `steps` it is how well the batch is shared.
    pub rows: u64,
    /// Steps that failed.
    pub failed_steps: u64,
    /// Why the last of them did, or that the executor panicked between steps.
    pub last_error: Option<ExecuteError>,
    /// What the scheduler decided.
    pub decisions: Decisions,
}

/// A running engine. Stopping or dropping it ends every row and waits for the step that runs.
pub struct Engine {
    handle: EngineHandle,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads, with the usual limits on a step.
    ///
    /// # Errors
    /// When the limits and the executor do not fit together, or there is no thread to be had.
    pub fn start(executor: impl Executor + 'static, limits: Limits) -> Result<Self, StartEngineError> {
        Self::start_with(executor, limits, StepLimits::default())
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        executor: impl Executor + 'static,
        limits: Limits,
        step_limits: StepLimits,
    ) -> Result<Self, StartEngineError> {
        let scheduler = Scheduler::new(limits)?;
        let capacity = executor.capacity();
        if !capacity.holds(limits) {
            return Err(StartEngineError::BeyondCapacity { capacity });
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(scheduler)),
            work: Condvar::new(),
            news: Condvar::new(),
            vocabulary: executor.vocabulary(),
            interrupt: executor.interrupt(),
            step_limits,
            started: Instant::now(),
        });
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartEngineError::Thread)
        };
        // Dropping it ends the threads that have started.
        let mut engine = Self { handle: EngineHandle { shared: Arc::clone(&shared) }, threads: Vec::new() };
        let telling = Arc::clone(&shared);
        engine.threads.push(spawn("darkbloom-rows", Box::new(move || telling.tell_rows()))?);
        engine.threads.push(spawn("darkbloom-engine", Box::new(move || shared.run_steps(executor)))?);
        Ok(engine)
    }

    /// A handle to it; as many as wanted.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Ends every row with [`darkbloom_batch::RowFailure::EngineStopped`], frees the model, and returns when that is done:
    /// after the step that runs at most.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        {
            let mut state = shared.lock();
            state.stopping = true;
            // Without its thread, nobody else says that the steps have ended.
            state.steps_ended |= self.threads.len() < 2;
        }
        shared.wake();
        // A sink may drop the last engine on the engine's own thread, which can wait neither for itself nor, being the one that
        // watches the steps, for a step.
        let own = self.threads.iter().any(|thread| thread.thread().id() == std::thread::current().id());
        for thread in self.threads.drain(..).filter(|_| !own) {
            // A step that was given up is not waited for.
            if !shared.lock().given_up {
                // The threads catch their own panics; there is nothing to learn from the result.
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
        let unknown = |token: TokenId| token.0 as usize >= vocabulary;
        if request.prompt.expose().iter().copied().any(unknown) || request.sampling.named_tokens().any(unknown) {
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
            state.scheduler.submit(request, self.shared.now())?;
            state.known.insert(id);
            state.arrivals.push((id, sink));
        }
        self.shared.wake();
        Ok(())
    }

    /// Ends a row: it leaves the batch at the next step boundary. Its sink hears of it at once. Whether there was one.
    pub fn cancel(&self, id: RowId) -> bool {
        let found = {
            let mut state = self.shared.lock();
            let found = state.scheduler.cancel(id);
            state.collect_events();
            found
        };
        self.shared.wake();
        found
    }

    /// How busy it is.
    #[must_use]
    pub fn load(&self) -> Load {
        self.shared.lock().scheduler.load()
    }

    /// How fast it has been so far.
    #[must_use]
    pub fn pace(&self) -> Option<Pace> {
        self.shared.lock().scheduler.pace()
    }

    /// The engine's clock, in which rows must start: time since its start.
    #[must_use]
    pub fn now(&self) -> MonoMillis {
        self.shared.now()
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats { decisions: state.scheduler.decisions(), ..state.stats }
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

struct Shared {
    state: Mutex<State>,
    /// There may be a step to plan.
    work: Condvar,
    /// There may be something to tell, or a step to watch.
    news: Condvar,
    vocabulary: usize,
    interrupt: Option<Arc<AtomicBool>>,
    step_limits: StepLimits,
    started: Instant,
}

/// Locked for moments only: no step runs and no sink is called while it is.
struct State {
    scheduler: Scheduler,
    /// Sinks of rows that are not known to the telling thread yet, all of them known here.
    arrivals: Vec<(RowId, EventSink)>,
    /// What is still to be told, in order.
    events: Vec<RowEvent>,
    /// Rows whose sink has not heard the end: at most twice what may run and wait.
    known: HashSet<RowId>,
    stats: Stats,
    /// The telling thread has just told something, and looks again soon without being woken.
    napping: bool,
    /// When the step that runs began.
    step_began: Option<Instant>,
    stopping: bool,
    /// No step runs any more, and none will.
    steps_ended: bool,
    /// A step did not come back, and nobody waits for it any more.
    given_up: bool,
    /// Every row has heard its end.
    stopped: bool,
    /// Whom to tell then: each part of the program that waits for it, a handful.
    notices: Vec<StopNotice>,
}

impl State {
    fn new(scheduler: Scheduler) -> Self {
        Self {
            scheduler,
            arrivals: Vec::new(),
            events: Vec::new(),
            known: HashSet::new(),
            stats: Stats::default(),
            napping: false,
            step_began: None,
            stopping: false,
            steps_ended: false,
            given_up: false,
            stopped: false,
            notices: Vec::new(),
        }
    }

    /// Whether the telling thread has to be woken for what there is to tell.
    fn waits_to_be_told(&self) -> bool {
        !self.events.is_empty() && !self.napping
    }

    /// Queues what the scheduler has to say.
    fn collect_events(&mut self) {
        let events = self.scheduler.take_events();
        self.events.extend(events);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> MonoMillis {
        MonoMillis::from(self.started.elapsed())
    }

    /// Has both threads look at the state.
    fn wake(&self) {
        self.work.notify_all();
        self.news.notify_all();
    }

    fn set_interrupt(&self, on: bool) {
        if let Some(interrupt) = &self.interrupt {
            interrupt.store(on, Ordering::Relaxed);
        }
    }
}
