//! Where a model that makes vectors takes texts: one thread that works on one request after the other, and those that wait.
//!
//! ```text
//!   submit ──▶ waiting (or refused: full) ──▶ the thread, a few texts at a time ──▶ whoever asked
//!                  │ nobody is there any more       │ nobody is there any more, or it ends
//!                  └──────────▶ dropped ◀───────────┘
//! ```
//!
//! A second thread watches that steps come back: one that takes too long is interrupted, and if it does not end even then, the
//! desk stops.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use darkbloom_engine::{ERASE_AFTER, EmbedError, StepLimits};
use darkbloom_types::{Refusal, RefusalCode, SecretTokens, SecretVector, TokenId};
use tokio::sync::{oneshot, watch};

/// What makes vectors.
pub trait MakeVectors: Send + 'static {
    /// A vector for each text, as long as it is to go on, which is asked before each step.
    fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError>;

    /// Overwrites what texts left in memory.
    fn erase(&mut self);

    /// Ends the step that runs when it becomes true.
    fn interrupt(&self) -> Arc<AtomicBool>;
}

/// What comes of a request.
pub type Made = Result<Vec<SecretVector>, EmbedError>;

struct Job {
    texts: Vec<SecretTokens>,
    answer: oneshot::Sender<Made>,
    /// Lives until the job is over.
    _kept: Box<dyn Send>,
}

/// Takes requests; dropping it ends the thread.
pub struct Desk {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    stopped: watch::Receiver<bool>,
}

/// What the threads of a desk know of each other.
struct Progress {
    /// Nothing more is to be made.
    ending: AtomicBool,
    interrupt: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the step that runs began.
    step_began: Option<Instant>,
    /// The thread has ended.
    over: bool,
    /// It never will: its step did not come back.
    stuck: bool,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step begins, or none runs any more.
    fn step(&self, began: Option<Instant>) {
        let mut state = self.lock();
        state.step_began = began;
        // Under the lock, as it is set: it is meant for the step that ran.
        self.interrupt.store(false, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }

    fn ends(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Watches until the thread has ended or is stuck. Returns whether it is.
    fn watch(&self, limits: StepLimits) -> bool {
        let whole = limits.interrupt_after + limits.give_up_after;
        let mut state = self.lock();
        while !state.over {
            let took = state.step_began.map(|began| began.elapsed());
            let wait = match took {
                None => None,
                Some(took) if took >= whole => {
                    state.stuck = true;
                    self.changed.notify_all();
                    return true;
                }
                Some(took) if took >= limits.interrupt_after => {
                    self.interrupt.store(true, Ordering::Relaxed);
                    Some(whole - took)
                }
                Some(took) => Some(limits.interrupt_after - took),
            };
            state = match wait {
                Some(wait) => self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        false
    }
}

impl Desk {
    /// Starts a thread that works on so many texts at a time, before which so many requests may wait.
    pub fn start(
        maker: impl MakeVectors,
        at_a_time: usize,
        waiting_max: usize,
        limits: StepLimits,
    ) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(waiting_max);
        let (notice, stopped) = watch::channel(false);
        let progress = Arc::new(Progress {
            ending: AtomicBool::new(false),
            interrupt: maker.interrupt(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let (worked, watched, stuck) = (Arc::clone(&progress), Arc::clone(&progress), notice.clone());
        let work = move || {
            // Told once nothing more is taken.
            let _over = Over { progress: Arc::clone(&worked), notice };
            work(waiting, maker, at_a_time, &worked);
        };
        let watch = move || {
            if watched.watch(limits) {
                stuck.send_replace(true);
            }
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let working = thread("embedder").spawn(work)?;
        // Ends with the other one.
        thread("embedder-watch").spawn(watch)?;
        Ok(Self { jobs: Some(jobs), thread: Some(working), progress, stopped })
    }

    /// Has vectors made of texts. Dropping the receiver ends that, when its turn comes or within a step; what is kept is dropped
    /// when it is over. Nothing comes of it once [`Self::stopped`] is true.
    pub fn submit(
        &self,
        texts: Vec<SecretTokens>,
        kept: impl Send + 'static,
    ) -> Result<oneshot::Receiver<Made>, Refusal> {
        let (answer, made) = oneshot::channel();
        let jobs = self.jobs.as_ref().filter(|_| !*self.stopped.borrow()).ok_or(RefusalCode::Draining)?;
        match jobs.try_send(Job { texts, answer, _kept: Box::new(kept) }) {
            Ok(()) => Ok(made),
            Err(TrySendError::Full(_)) => {
                Err(Refusal::new(RefusalCode::Overloaded, "as many requests as may wait for this model do"))
            }
            Err(TrySendError::Disconnected(_)) => Err(RefusalCode::Draining.into()),
        }
    }

    /// Ends what it works on, and all that waits.
    pub fn end(&self) {
        self.progress.ending.store(true, Ordering::Relaxed);
        let state = self.progress.lock();
        if state.step_began.is_some() {
            self.progress.interrupt.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a step did not come back, and never will.
    pub fn is_stuck(&self) -> bool {
        self.progress.lock().stuck
    }

    /// Becomes true when the thread has ended by itself, or never will.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.clone()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.end();
        drop(self.jobs.take());
        let Some(thread) = self.thread.take() else { return };
        // What a job kept may have been the last to hold this.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        let mut state = self.progress.lock();
        while !state.over && !state.stuck {
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A thread that is stuck is left to the process's end.
        let over = state.over;
        drop(state);
        if over {
            // That it panicked was told.
            let _ = thread.join();
        }
    }
}

/// Says that the thread has ended, and tells a panic: nothing starts it again.
struct Over {
    progress: Arc<Progress>,
    notice: watch::Sender<bool>,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.progress.lock().over = true;
        self.progress.changed.notify_all();
        if std::thread::panicking() {
            self.notice.send_replace(true);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it goes with the thread, so that what waits is dropped then")]
fn work(waiting: Receiver<Job>, mut maker: impl MakeVectors, at_a_time: usize, progress: &Progress) {
    let mut used = false;
    loop {
        let next = if used {
            waiting.recv_timeout(ERASE_AFTER)
        } else {
            waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(job) => {
                used = true;
                job.run(&mut maker, at_a_time, progress);
            }
            Err(RecvTimeoutError::Timeout) => {
                used = false;
                maker.erase();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Job {
    fn run(self, maker: &mut impl MakeVectors, at_a_time: usize, progress: &Progress) {
        let Self { texts, answer, _kept } = self;
        let goes_on = || !answer.is_closed() && !progress.ends();
        // Asked before each step.
        let step_goes_on = || {
            progress.step(Some(Instant::now()));
            goes_on()
        };
        let mut made = Vec::with_capacity(texts.len());
        for (nth, group) in texts.chunks(at_a_time).enumerate() {
            if !goes_on() {
                return;
            }
            let group: Vec<_> = group.iter().map(SecretTokens::expose).collect();
            let vectors = maker.embed(&group, &step_goes_on);
            progress.step(None);
            match vectors {
                Ok(vectors) => made.extend(vectors),
                Err(EmbedError::Ended) => return,
                // Nobody is told of a step that was interrupted because nobody waits.
                Err(_) if !goes_on() => return,
                Err(error) => {
                    // Nobody may be there to hear it.
                    let _ = answer.send(Err(among_all(error, nth * at_a_time)));
                    return;
                }
            }
        }
        let _ = answer.send(Ok(made));
    }
}

/// The same error of a text, counted from the request's first.
fn among_all(error: EmbedError, before: usize) -> EmbedError {
    match error {
        EmbedError::Empty { at } => EmbedError::Empty { at: before + at },
        EmbedError::TooLong { at, tokens, most } => EmbedError::TooLong { at: before + at, tokens, most },
        EmbedError::UnknownToken { at } => EmbedError::UnknownToken { at: before + at },
        EmbedError::NoVector { at } => EmbedError::NoVector { at: before + at },
        EmbedError::TooMany | EmbedError::Ended | EmbedError::Interrupted | EmbedError::Backend { .. } => error,
    }
}

#[cfg(test)]
mod tests;
