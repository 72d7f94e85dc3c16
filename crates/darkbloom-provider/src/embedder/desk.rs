//! Where a model that makes vectors takes texts: one thread that works on one request after the other, and those that wait.
//!
//! ```text
//!   submit ──▶ waiting (or refused: full) ──▶ the thread, a few texts at a time ──▶ whoever asked
//!                  │ nobody is there any more       │ nobody is there any more, or it ends
//!                  └──────────▶ dropped ◀───────────┘
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use darkbloom_engine::{ERASE_AFTER, EmbedError};
use darkbloom_types::{Refusal, RefusalCode, SecretTokens, SecretVector, TokenId};
use tokio::sync::{oneshot, watch};

/// What makes vectors.
pub trait MakeVectors: Send + 'static {
    /// A vector for each text, as long as it is to go on.
    fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError>;

    /// Overwrites what texts left in memory.
    fn erase(&mut self);
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
    ending: Arc<AtomicBool>,
    stopped: watch::Receiver<bool>,
}

impl Desk {
    /// Starts a thread that works on so many texts at a time, before which so many requests may wait.
    pub fn start(maker: impl MakeVectors, at_a_time: usize, waiting_max: usize) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(waiting_max);
        let (notice, stopped) = watch::channel(false);
        let ending = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ending);
        let work = move || {
            // Told once nothing more is taken.
            let _told = Told(notice);
            work(waiting, maker, at_a_time, &ends);
        };
        let thread = std::thread::Builder::new().name("embedder".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), ending, stopped })
    }

    /// Has vectors made of texts. Dropping the receiver ends that, when its turn comes or within a step; what is kept is dropped
    /// when it is over.
    pub fn submit(
        &self,
        texts: Vec<SecretTokens>,
        kept: impl Send + 'static,
    ) -> Result<oneshot::Receiver<Made>, Refusal> {
        let (answer, made) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(RefusalCode::Draining)?;
        match jobs.try_send(Job { texts, answer, _kept: Box::new(kept) }) {
            Ok(()) => Ok(made),
            Err(TrySendError::Full(_)) => {
                Err(Refusal::new(RefusalCode::Overloaded, "as many requests as may wait for this model do"))
            }
            Err(TrySendError::Disconnected(_)) => Err(RefusalCode::Draining.into()),
        }
    }

    /// Ends what it works on within a step, and all that waits.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Becomes true when the thread has ended by itself.
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
        if thread.thread().id() != std::thread::current().id() {
            // That it panicked was told.
            let _ = thread.join();
        }
    }
}

/// Tells a panic: nothing starts the thread again.
struct Told(watch::Sender<bool>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it goes with the thread, so that what waits is dropped then")]
fn work(waiting: Receiver<Job>, mut maker: impl MakeVectors, at_a_time: usize, ending: &AtomicBool) {
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
                job.run(&mut maker, at_a_time, ending);
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
    fn run(self, maker: &mut impl MakeVectors, at_a_time: usize, ending: &AtomicBool) {
        let Self { texts, answer, _kept } = self;
        let goes_on = || !answer.is_closed() && !ending.load(Ordering::Relaxed);
        let mut made = Vec::with_capacity(texts.len());
        for (nth, group) in texts.chunks(at_a_time).enumerate() {
            if !goes_on() {
                return;
            }
            let group: Vec<_> = group.iter().map(SecretTokens::expose).collect();
            match maker.embed(&group, &goes_on) {
                Ok(vectors) => made.extend(vectors),
                Err(EmbedError::Ended) => return,
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
        EmbedError::TooMany | EmbedError::Ended | EmbedError::Backend { .. } => error,
    }
}

#[cfg(test)]
mod tests;
