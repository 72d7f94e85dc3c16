//! What a connection's coordinator was told about this provider, and telling it again when that is no longer all.
//!
//! An epoch begins when the last one is old, and evidence may come late: an activator has to be asked first. Signing takes a
//! TPM up to a second, so it happens beside the connection, by one task that signs one thing after the other. A proof of
//! presence is for the epoch whose statement was sent last: the coordinator knows no later one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_types::{Digest, EpochId};
use darkbloom_wire::{ChallengeAnswer, EpochUpdate, ProviderFrame, Statement};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::signatory::{Signatory, SignedStatement};

/// How often a statement that lacks evidence is tried again. A coordinator takes one every five minutes.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// Things that may wait to be signed: a coordinator that asks for more is not answered.
const WAITING_MAX: usize = 8;

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stated {
    /// Of which epoch.
    pub epoch: EpochId,
    /// How many activators' words were with it.
    pub words: usize,
    /// Whether all evidence that this machine could give was.
    pub complete: bool,
}

/// What is to be signed.
enum Task {
    /// The current epoch's statement, if it says more than the last one.
    State(EpochId, Box<Statement>),
    /// A proof of presence, over what this makes of the epoch that was stated last.
    Prove(Box<dyn FnOnce(&EpochId) -> Digest + Send>),
}

/// One connection's signatures. The task ends with it.
pub struct Stating(mpsc::Sender<Task>);

impl Stating {
    /// After an introduction in which this was said; what is signed goes out here.
    pub fn new(signatory: Arc<Signatory>, stated: Stated, out: mpsc::Sender<Vec<u8>>) -> Self {
        let (tasks, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(work(signatory, stated, waiting, out));
        Self(tasks)
    }

    /// Has the current epoch's statement signed and sent, if that would say more than the last one. Asked with each
    /// heartbeat, so one that finds no place comes again.
    pub fn state(&self, current: EpochId, statement: Statement) {
        self.queue(Task::State(current, Box::new(statement)));
    }

    /// Has a proof of presence signed and sent.
    pub fn prove(&self, digest: impl FnOnce(&EpochId) -> Digest + Send + 'static) {
        self.queue(Task::Prove(Box::new(digest)));
    }

    fn queue(&self, task: Task) {
        if let Err(TrySendError::Full(Task::Prove(_))) = self.0.try_send(task) {
            tracing::warn!("a challenge is not answered: too much waits to be signed");
        }
    }
}

async fn work(
    signatory: Arc<Signatory>,
    mut stated: Stated,
    mut waiting: mpsc::Receiver<Task>,
    out: mpsc::Sender<Vec<u8>>,
) {
    // Activators may take long, and what is signed must not wait for them.
    let (renewed, mut renewals) = mpsc::channel::<()>(1);
    // More evidence is looked for at once: who is connected now may be asked for it.
    let mut again_at = Instant::now();
    let mut last: Option<(EpochId, Statement)> = None;
    loop {
        let task = tokio::select! {
            task = waiting.recv() => task,
            Some(()) = renewals.recv() => match last.clone() {
                Some((epoch, statement)) => Some(Task::State(epoch, Box::new(statement))),
                None => continue,
            },
        };
        let frame = match task {
            None => return,
            Some(Task::Prove(digest)) => proof(&signatory, digest(&stated.epoch)).await,
            Some(Task::State(epoch, statement)) => {
                if !stated.complete && Instant::now() >= again_at {
                    again_at = Instant::now() + AGAIN;
                    let (asking, renewed) = (Arc::clone(&signatory), renewed.clone());
                    tokio::spawn(async move {
                        asking.renew().await;
                        // One that waits stands for this one too.
                        let _ = renewed.try_send(());
                    });
                }
                last = Some((epoch, (*statement).clone()));
                if stated.epoch == epoch && signatory.words() <= stated.words {
                    continue;
                }
                next_statement(&signatory, &mut stated, epoch, *statement).await
            }
        };
        let Some(frame) = frame else { continue };
        if out.send(frame.encode()).await.is_err() {
            return;
        }
    }
}

async fn proof(signatory: &Arc<Signatory>, digest: Digest) -> Option<ProviderFrame> {
    let proof = signatory.prove(digest).await;
    let proof = proof.inspect_err(|error| tracing::error!(%error, "cannot answer a challenge")).ok()?;
    Some(ProviderFrame::from(ChallengeAnswer { proof }))
}

/// Signs a statement; nothing to send when it would say no more than the last one.
async fn next_statement(
    signatory: &Arc<Signatory>,
    stated: &mut Stated,
    epoch: EpochId,
    statement: Statement,
) -> Option<ProviderFrame> {
    // The next heartbeat tries again where this fails.
    let signed = signatory.state(statement).await;
    let signed = signed.inspect_err(|error| tracing::error!(%error, "cannot sign the epoch's statement")).ok()?;
    let SignedStatement { bytes, words, complete } = signed;
    if stated.epoch == epoch && words <= stated.words {
        return None;
    }
    *stated = Stated { epoch, words, complete };
    Some(ProviderFrame::from(EpochUpdate { statement: bytes }))
}
