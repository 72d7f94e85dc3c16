//! What comes with an answer about the model's candidates, merged into the list that the request was sealed from.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use darkbloom_attest::{TrustPolicy, Verdict};
use darkbloom_types::{Price, UnixMillis};
use darkbloom_wire::{CandidateNow, CandidateUpdate, limits};

use super::{Candidates, KNOWN_MAX, Usable, examine, rank};

/// Why an update changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The clocks differ too much.
    #[error("the coordinator's clock says {said}, this machine's {now}")]
    ClockSkew {
        /// The time in the update.
        said: i64,
        /// The client's clock.
        now: i64,
    },
    /// It is older than what it should replace.
    #[error("it says {said}, and what it should replace {known}")]
    Older {
        /// The time in the update.
        said: i64,
        /// The time in the list.
        known: i64,
    },
    /// A price that the consumer did not agree to: an update is not signed, so it lowers prices only.
    #[error("its price of version {said} is not covered by that of version {known}")]
    Price {
        /// The version in the update.
        said: u32,
        /// The version that was agreed to.
        known: u32,
    },
}

/// Whether whoever agreed to a price agreed to this one: it is the same, or another version that is nowhere higher. So no
/// request of any size has a higher maximum price by it.
fn covers(agreed: Price, said: Price) -> bool {
    if said.version == agreed.version {
        return said == agreed;
    }
    said.input_nano_per_token <= agreed.input_nano_per_token
        && said.output_nano_per_token <= agreed.output_nano_per_token
}

impl Candidates {
    /// The list as the update has it: its order, and nobody whom it does not name. An entry needs a statement that
    /// verifies as those of a list do, or it names an epoch whose statement is known; any other is dropped, and then the
    /// list does not count as fresh, so that it is fetched before long.
    pub(super) fn updated(
        &self,
        update: &CandidateUpdate,
        policy: &TrustPolicy,
        now: UnixMillis,
        at: Instant,
    ) -> Result<Self, UpdateError> {
        if update.time.distance(now) > limits::CLOCK_SKEW_MAX {
            return Err(UpdateError::ClockSkew { said: update.time.0, now: now.0 });
        }
        if update.time < self.time {
            return Err(UpdateError::Older { said: update.time.0, known: self.time.0 });
        }
        if !covers(self.price, update.price) {
            return Err(UpdateError::Price { said: update.price.version, known: self.price.version });
        }
        let policy = &policy.with_network_activator(self.activator);
        let entries = &update.candidates.0;
        let current = entries.iter().filter_map(|entry| {
            let verdict = self.entry_now(entry, policy, now)?;
            Some(Usable { verdict, row_tokens: entry.row_tokens })
        });
        let current: Vec<_> = current.collect();
        let read_at = if current.len() == entries.len() { at } else { self.read_at };
        let mut known: Vec<_> = current.iter().map(|candidate| Arc::clone(&candidate.verdict)).collect();
        let (usable, below) = rank(current, policy);
        for verdict in &self.known {
            let same = |other: &Arc<Verdict>| other.provider == verdict.provider && other.epoch == verdict.epoch;
            if known.len() < KNOWN_MAX && now < verdict.statement.use_until && !known.iter().any(same) {
                known.push(Arc::clone(verdict));
            }
        }
        Ok(Self {
            digest: self.digest,
            entry: self.entry.clone(),
            price: update.price,
            usable,
            below,
            time: update.time,
            known,
            read_at,
            refreshed_at: Mutex::default(),
            signed: Arc::clone(&self.signed),
            signed_at: self.signed_at,
            activator: self.activator,
            examined: Arc::clone(&self.examined),
        })
    }

    /// Who an entry is, as far as that is proven.
    fn entry_now(&self, entry: &CandidateNow, policy: &TrustPolicy, now: UnixMillis) -> Option<Arc<Verdict>> {
        let names = |verdict: &Verdict| verdict.provider == entry.provider && verdict.epoch == entry.epoch;
        match &entry.statement {
            Some(statement) => {
                let found = examine(&self.examined, statement, self.activator, &self.digest, policy, now);
                found.filter(|verdict| names(verdict))
            }
            None => {
                let mut known = self.known.iter();
                known.find(|verdict| names(verdict) && now < verdict.statement.use_until).cloned()
            }
        }
    }
}
