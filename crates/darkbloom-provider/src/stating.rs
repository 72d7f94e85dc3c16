//! What a connection's coordinator was told about this provider, and telling it again when that is no longer all.
//!
//! An epoch begins when the last one is old, and evidence may come late: an activator has to be asked first. Signing happens
//! beside the connection, one statement at a time, and what was signed is sent when it is ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_types::{Digest, EpochId};
use darkbloom_wire::{ChallengeAnswer, EpochUpdate, ProviderFrame, Statement};
use tokio::sync::mpsc;

use crate::signatory::Signatory;

/// How often a statement that lacks evidence is tried again. A coordinator takes one every five minutes.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// What was told.
#[derive(Debug, Clone, Copy)]
pub struct Stated {
    /// Of which epoch.
    pub epoch: EpochId,
    /// Whether all evidence that this machine could give was with it.
    pub complete: bool,
}

/// What was told last, and what is on its way.
struct Now {
    stated: Stated,
    busy: bool,
    /// When more evidence is looked for.
    again_at: Instant,
}

/// One connection's statements.
#[derive(Clone)]
pub struct Stating {
    signatory: Arc<Signatory>,
    now: Arc<Mutex<Now>>,
}

impl Stating {
    /// After an introduction in which this was said.
    pub fn new(signatory: Arc<Signatory>, stated: Stated) -> Self {
        // More evidence is looked for at once: who is connected now may be asked for it.
        let now = Now { stated, busy: false, again_at: Instant::now() };
        Self { signatory, now: Arc::new(Mutex::new(now)) }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs and sends the current epoch's statement, if that would say more than the last one.
    pub fn look(&self, current: EpochId, statement: impl FnOnce() -> Statement, out: &mpsc::Sender<Vec<u8>>) {
        {
            let mut now = self.now();
            let other_epoch = now.stated.epoch != current;
            let more = !now.stated.complete && Instant::now() >= now.again_at;
            if now.busy || !(other_epoch || more) {
                return;
            }
            now.busy = true;
        }
        let (stating, unsigned, out) = (self.clone(), statement(), out.clone());
        tokio::spawn(async move {
            stating.signatory.renew().await;
            let before = stating.now().stated;
            let signed = stating.signatory.state(unsigned).await;
            let mut send = None;
            {
                let mut now = stating.now();
                now.busy = false;
                now.again_at = Instant::now() + AGAIN;
                match signed {
                    Ok(signed) => {
                        let news = before.epoch != current || signed.complete;
                        now.stated = Stated { epoch: current, complete: signed.complete };
                        send = news.then_some(signed.bytes);
                    }
                    // The next heartbeat tries again.
                    Err(error) => tracing::error!(%error, "cannot sign the epoch's statement"),
                }
            }
            if let Some(statement) = send {
                tracing::info!("a statement is on its way");
                // Whoever writes is gone with the connection.
                let _ = out.send(ProviderFrame::from(EpochUpdate { statement }).encode()).await;
            }
        });
    }

    /// Signs a proof of presence and sends it.
    pub fn prove(&self, digest: Digest, out: &mpsc::Sender<Vec<u8>>) {
        let (signatory, out) = (Arc::clone(&self.signatory), out.clone());
        tokio::spawn(async move {
            match signatory.prove(digest).await {
                Ok(proof) => drop(out.send(ProviderFrame::from(ChallengeAnswer { proof }).encode()).await),
                Err(error) => tracing::error!(%error, "cannot answer a challenge"),
            }
        });
    }
}
