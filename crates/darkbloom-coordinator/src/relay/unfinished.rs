//! Holds whose end the store could not write: a busy or failing disk must not keep a consumer's money, or a provider's
//! pay, for as long as a hold may live.

use std::collections::HashMap;
use std::sync::Mutex;

use darkbloom_ledger::VoidCause;
use darkbloom_store::{SettleError, Settlement, Store, StoreError};
use darkbloom_types::{RequestId, UnixMillis};

use crate::state::lock;

/// Ends that are kept: far more than requests run at once; each is at most a receipt. What is over that ends when its
/// hold's time is over.
const UNFINISHED_MAX: usize = 10_000;

/// How a hold is to end.
#[derive(Debug, Clone)]
pub enum End {
    /// By what was delivered.
    Settle(Box<Settlement>),
    /// By giving it back, for this cause and reason.
    Void(VoidCause, &'static str),
}

/// Holds that are still to be ended.
#[derive(Debug, Default)]
pub struct Unfinished {
    holds: Mutex<HashMap<RequestId, End>>,
}

impl Unfinished {
    /// Keeps a hold's end. The first one stays.
    pub fn add(&self, request: RequestId, end: End) {
        let mut holds = lock(&self.holds);
        if holds.len() < UNFINISHED_MAX {
            holds.entry(request).or_insert(end);
        } else {
            tracing::error!(%request, "too many holds wait for the store; this one ends when its time is over");
        }
    }

    /// Whether a hold waits here.
    pub fn contains(&self, request: &RequestId) -> bool {
        lock(&self.holds).contains_key(request)
    }

    /// Tries to end them all, until the store fails again.
    pub async fn retry(&self, store: &Store, at: UnixMillis) {
        let waiting: Vec<_> = lock(&self.holds).iter().map(|(request, end)| (*request, end.clone())).collect();
        for (request, end) in waiting {
            let ended = match end {
                End::Settle(settlement) => store.hold_settle(*settlement).await,
                End::Void(cause, reason) => store.hold_void(request, cause, reason, at).await,
            };
            match ended {
                Ok(settled) => {
                    tracing::info!(%request, charge = %settled.charge, "a hold that had to wait for the store has ended");
                }
                Err(SettleError::Store(
                    error @ (StoreError::Busy | StoreError::Closed | StoreError::Database { .. }),
                )) => {
                    return tracing::warn!(%error, "the store still cannot end holds");
                }
                // It fails for this hold alone, and always will.
                Err(SettleError::Store(
                    error
                    @ (StoreError::ImpossibleRow { .. } | StoreError::ZeroCharacter | StoreError::TooLarge { .. }),
                )) => {
                    tracing::error!(%request, %error, "a hold cannot be ended");
                }
                // It was never placed.
                Err(SettleError::UnknownRequest | SettleError::Late(_)) => {}
            }
            lock(&self.holds).remove(&request);
        }
    }
}

#[cfg(test)]
mod tests;
