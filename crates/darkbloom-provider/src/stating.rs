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
    /// What its evidence was worth.
    pub worth: usize,
    /// Whether all evidence that this machine could give was.
    pub complete: bool,
    /// How often activators had had another key by then.
    pub rekeyed: usize,
}

impl Stated {
    /// Whether a statement of this epoch could not say more now.
    fn says_all(&self, epoch: EpochId, worth: usize, rekeyed: usize) -> bool {
        self.epoch == epoch && worth <= self.worth && rekeyed == self.rekeyed
    }
}

/// What is to be signed.
enum Task {
    /// The current epoch's statement, if it says more than the last one.
    State(EpochId, Box<Statement>),
    /// A proof of presence, over what this makes of the epoch that was stated last.
    Prove(Box<dyn FnOnce(&EpochId) -> Digest + Send>),
    /// The coordinator gives no work, so that the next statement may have to say something else.
    Refused,
}

/// Whether the coordinator gave no work on this connection to a statement with evidence. One that started again may have another
/// key as an activator, and takes no word of the older one: then all activators are asked again, once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It did not.
    No,
    /// Nobody was asked since.
    Lately,
    /// They were asked.
    Before,
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

    /// The coordinator says that it gives no work.
    pub fn refused(&self) {
        self.queue(Task::Refused);
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
    let mut refused = Refused::No;
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
            Some(Task::Refused) => {
                // A statement without a word says so by itself, and is not complete.
                if refused == Refused::No && stated.worth > 0 {
                    refused = Refused::Lately;
                }
                continue;
            }
            Some(Task::Prove(digest)) => proof(&signatory, digest(&stated.epoch)).await,
            Some(Task::State(epoch, statement)) => {
                let due = (!stated.complete || signatory.is_due()) && Instant::now() >= again_at;
                let all = refused == Refused::Lately;
                if due || all {
                    again_at = Instant::now() + AGAIN;
                    refused = if all { Refused::Before } else { refused };
                    let (asking, renewed) = (Arc::clone(&signatory), renewed.clone());
                    tokio::spawn(async move {
                        asking.renew(all).await;
                        // One that waits stands for this one too.
                        let _ = renewed.try_send(());
                    });
                }
                last = Some((epoch, (*statement).clone()));
                if stated.says_all(epoch, signatory.worth(), signatory.rekeyed()) {
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
    let (proof, presence) = proof.inspect_err(|error| tracing::error!(%error, "cannot answer a challenge")).ok()?;
    Some(ProviderFrame::from(ChallengeAnswer { proof, presence: presence.into() }))
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
    let SignedStatement { bytes, worth, complete, rekeyed } = signed;
    if stated.says_all(epoch, worth, rekeyed) {
        stated.complete = complete;
        return None;
    }
    *stated = Stated { epoch, worth, complete, rekeyed };
    Some(ProviderFrame::from(EpochUpdate { statement: bytes }))
}

#[cfg(test)]
mod tests {
    use darkbloom_keys::{Identity, IdentityKey as _, SoftwareKey};
    use darkbloom_seal::Epoch;
    use darkbloom_types::NetworkId;
    use darkbloom_wire::{ChallengeProof, Decoded, PublicKey};

    use super::*;
    use darkbloom_host::clock;

    #[tokio::test]
    async fn a_proof_is_for_the_epoch_whose_statement_went_out_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let identity = SoftwareKey::in_memory().unwrap();
        let point = identity.public_point();
        let signatory = Signatory::new(
            Identity::Software(identity),
            crate::evidence::Platform::default(),
            Vec::new(),
            folder.path().join("words"),
        )
        .unwrap();
        let epoch = || Epoch::begin(point, clock::now(), &mut clock::rng());
        let (first, second) = (epoch(), epoch());
        let stated = Stated { epoch: first.id(), worth: 0, complete: true, rekeyed: 0 };
        let (out, mut sent) = mpsc::channel(8);
        let stating = Stating::new(signatory, stated, out);
        let digest = |epoch: &EpochId| Digest::of(&[b"test", epoch.as_bytes()]);
        let statement = |epoch: &Epoch| epoch.statement(NetworkId([1; 32]), Vec::new(), Vec::new(), "test");
        // The ring has turned already when the first challenge comes, and nothing was said about it yet.
        stating.prove(digest);
        stating.state(first.id(), statement(&first));
        stating.state(second.id(), statement(&second));
        stating.prove(digest);
        stating.state(second.id(), statement(&second));
        drop(stating);
        let mut said = Vec::new();
        while let Some(frame) = sent.recv().await {
            let Ok(Decoded::Known(frame, _)) = ProviderFrame::decode(&frame) else { panic!("no frame") };
            said.push(if let ProviderFrame::EpochUpdate(update) = frame {
                let statement = Statement::open_self_signed(&update.statement).unwrap();
                ("statement", Digest::of(&[statement.epoch().as_bytes()]))
            } else if let ProviderFrame::ChallengeAnswer(answer) = frame {
                ("proof", ChallengeProof::open(&answer.proof, &PublicKey::P256(point)).unwrap().digest)
            } else {
                panic!("{frame:?}")
            });
        }
        let expected = [
            ("proof", digest(&first.id())),
            ("statement", Digest::of(&[second.id().as_bytes()])),
            ("proof", digest(&second.id())),
        ];
        assert_eq!(said, expected, "what says nothing new is not said");
    }
}
