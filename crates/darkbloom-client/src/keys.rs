//! Keys that the coordinator accepted lately, so that a gateway reads no body of somebody who has none.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_types::{Digest, Refusal, RefusalCode, SecretString};
use tokio::sync::watch;

/// Longest key: the coordinator's have 55 characters.
const KEY_BYTES_MAX: usize = 128;
/// Accepted keys that are remembered: with 40 bytes each, and as many for their order, less than a mebibyte.
const ACCEPTED_MAX: usize = 10_000;
/// How long an accepted key is not asked about again. One that was revoked meanwhile gets a body read and no answer.
const ACCEPTED_FOR: Duration = Duration::from_secs(10 * 60);
/// Outcome keys that are remembered.
const REFUSED_MAX: usize = 1_000;
/// How long a refused key is not asked about again: a key that was just made works after this time at the latest.
const REFUSED_FOR: Duration = Duration::from_secs(3);
/// Keys that the coordinator is being asked about. Each question takes a round trip, and happens once in ten minutes for
/// each key: beyond this it is a flood of wrong ones.
const QUESTIONS_MAX: usize = 64;

/// Whether this can be a key at all. What cannot is refused without asking anybody.
pub fn is_well_formed(key: &SecretString) -> bool {
    let bytes = key.expose().as_bytes();
    (1..=KEY_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// What is known about keys, by their digests.
#[derive(Default)]
pub struct Keys {
    known: Mutex<Known>,
}

struct Known {
    accepted: Lately<()>,
    refused: Lately<RefusalCode>,
    asked: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
}

/// What comes of a question.
type Outcome = Result<(), Refusal>;

impl Default for Known {
    fn default() -> Self {
        Self {
            accepted: Lately::new(ACCEPTED_MAX, ACCEPTED_FOR),
            refused: Lately::new(REFUSED_MAX, REFUSED_FOR),
            asked: HashMap::new(),
        }
    }
}

/// What there is to do about a key.
enum Turn<'a> {
    /// It is known.
    Known(Outcome),
    /// Somebody else asks.
    Wait(watch::Receiver<Option<Outcome>>),
    /// The caller asks.
    Ask(Asking<'a>),
}

/// A question that its asker must put. Dropped without an answer, the next one who waits for it asks.
struct Asking<'a> {
    keys: &'a Keys,
    digest: Digest,
    answer: watch::Sender<Option<Outcome>>,
}

impl Asking<'_> {
    fn answered(self, outcome: Outcome, now: Instant) -> Outcome {
        let mut known = self.keys.lock();
        match &outcome {
            Ok(()) => known.accepted.put(self.digest, (), now),
            Err(refusal) if is_of_key(refusal.code) => known.refused.put(self.digest, refusal.code, now),
            Err(_) => {}
        }
        drop(known);
        self.answer.send_replace(Some(outcome.clone()));
        outcome
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.keys.lock().asked.remove(&self.digest);
    }
}

/// Whether the key is to blame, and will be the next time.
fn is_of_key(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::InvalidApiKey | RefusalCode::Forbidden)
}

impl Keys {
    /// Whether the coordinator takes this key; it is asked about one that is not known. Whoever comes with the same key
    /// meanwhile waits for the same answer.
    pub async fn check(&self, key: &SecretString, ask: impl AsyncFnOnce() -> Outcome) -> Outcome {
        if !is_well_formed(key) {
            return Err(RefusalCode::InvalidApiKey.into());
        }
        let digest = digest(key);
        loop {
            match self.turn(digest, Instant::now()) {
                Turn::Known(outcome) => return outcome,
                Turn::Ask(asking) => {
                    let outcome = ask().await;
                    return asking.answered(outcome, Instant::now());
                }
                Turn::Wait(mut answer) => {
                    // An error says that whoever asked went away.
                    if let Ok(outcome) = answer.wait_for(Option::is_some).await
                        && let Some(outcome) = outcome.clone()
                    {
                        return outcome;
                    }
                }
            }
        }
    }

    /// A request with this key was refused. If that is the key's fault, it is asked about when it comes again.
    pub fn refused(&self, key: &SecretString, code: RefusalCode) {
        if is_of_key(code) {
            self.lock().accepted.remove(&digest(key));
        }
    }

    fn turn(&self, digest: Digest, now: Instant) -> Turn<'_> {
        let mut known = self.lock();
        if known.accepted.get(&digest, now).is_some() {
            return Turn::Known(Ok(()));
        }
        if let Some(code) = known.refused.get(&digest, now) {
            return Turn::Known(Err(code.into()));
        }
        if let Some(answer) = known.asked.get(&digest) {
            return Turn::Wait(answer.clone());
        }
        if known.asked.len() >= QUESTIONS_MAX {
            let detail = "too many keys are being asked about here";
            return Turn::Known(Err(Refusal::new(RefusalCode::NoCapacity, detail)));
        }
        let (answer, waiting) = watch::channel(None);
        known.asked.insert(digest, waiting);
        Turn::Ask(Asking { keys: self, digest, answer })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a key is remembered by.
pub fn digest(key: &SecretString) -> Digest {
    Digest::of(&[b"darkbloom/v1/accepted-key", key.expose().as_bytes()])
}

/// What was learnt lately, of so many keys at most: the oldest goes first.
struct Lately<T> {
    kept: HashMap<Digest, (Instant, T)>,
    /// In order of time; what is not kept any more, or again since, may stand here still.
    order: VecDeque<(Instant, Digest)>,
    most: usize,
    lasts: Duration,
}

impl<T: Copy> Lately<T> {
    fn new(most: usize, lasts: Duration) -> Self {
        Self { kept: HashMap::new(), order: VecDeque::new(), most, lasts }
    }

    fn get(&self, digest: &Digest, now: Instant) -> Option<T> {
        let (since, known) = self.kept.get(digest)?;
        (now.saturating_duration_since(*since) < self.lasts).then_some(*known)
    }

    fn put(&mut self, digest: Digest, what: T, now: Instant) {
        while let Some(&(since, oldest)) = self.order.front()
            && (self.order.len() >= self.most || now.saturating_duration_since(since) >= self.lasts)
        {
            self.order.pop_front();
            if self.kept.get(&oldest).is_some_and(|(at, _)| *at == since) {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(digest, (now, what));
        self.order.push_back((now, digest));
    }

    fn remove(&mut self, digest: &Digest) {
        self.kept.remove(digest);
    }
}

#[cfg(test)]
mod tests;
