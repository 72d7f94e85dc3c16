//! Accounts that come back before they were told to. A refusal says when to try again; who asks again before that is
//! refused before anything is looked up or held for it, and each time for longer.

use std::collections::HashMap;

use darkbloom_types::{AccountId, CatalogueDigest, Millis, MonoMillis};

/// Requests that an account may send for a model within the wait that it was told: those that were under way already.
pub const EARLY_MAX: u32 = 4;
/// The longest wait that anybody is told.
pub const WAIT_MAX: Millis = Millis::from_minutes(2);
/// Accounts and models that are remembered; over that, nobody is slowed down.
const KNOWN_MAX: usize = 8_192;

#[derive(Debug, Clone, Copy)]
struct Told {
    until: MonoMillis,
    wait: Millis,
    early: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Storms {
    told: HashMap<(AccountId, CatalogueDigest), Told>,
}

impl Storms {
    /// An account was refused and told to wait.
    pub fn refused(&mut self, account: AccountId, model: CatalogueDigest, wait: Millis, now: MonoMillis) {
        let known = self.told.len();
        if known >= KNOWN_MAX {
            self.told.retain(|_, told| now < told.until);
        }
        if self.told.len() < KNOWN_MAX || self.told.contains_key(&(account, model)) {
            let told = self.told.entry((account, model)).or_insert(Told { until: now, wait, early: 0 });
            told.wait = told.wait.max(wait);
            told.until = told.until.max(now.after(told.wait));
        }
    }

    /// Whether an account may ask for a model.
    ///
    /// # Errors
    /// How long it has to wait: twice as long as it was told last.
    pub fn enter(&mut self, account: AccountId, model: CatalogueDigest, now: MonoMillis) -> Result<(), Millis> {
        let Some(told) = self.told.get_mut(&(account, model)) else { return Ok(()) };
        if now >= told.until {
            self.told.remove(&(account, model));
            return Ok(());
        }
        told.early += 1;
        if told.early <= EARLY_MAX {
            return Ok(());
        }
        told.wait = Millis((told.wait.0 * 2).clamp(1_000, WAIT_MAX.0));
        told.until = now.after(told.wait);
        Err(told.wait)
    }

    /// A request of the account got a row: nobody has to wait for this model any more.
    pub fn routed(&mut self, account: AccountId, model: CatalogueDigest) {
        if !self.told.is_empty() {
            self.told.remove(&(account, model));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: MonoMillis = MonoMillis(1_000_000);
    const MODEL: CatalogueDigest = CatalogueDigest([1; 32]);
    const ONE: AccountId = AccountId(1);

    #[test]
    fn who_comes_back_early_again_and_again_waits_longer_and_nobody_else_does() {
        let mut storms = Storms::default();
        storms.refused(ONE, MODEL, Millis::from_secs(4), T0);
        for _ in 0..EARLY_MAX {
            assert_eq!(storms.enter(ONE, MODEL, T0), Ok(()), "it may have been under way");
        }
        assert_eq!(storms.enter(ONE, MODEL, T0), Err(Millis::from_secs(8)));
        assert_eq!(storms.enter(ONE, MODEL, T0), Err(Millis::from_secs(16)));
        assert_eq!(storms.enter(AccountId(2), MODEL, T0), Ok(()));
        assert_eq!(storms.enter(ONE, CatalogueDigest([2; 32]), T0), Ok(()));
        for _ in 0..10 {
            assert!(storms.enter(ONE, MODEL, T0).is_err_and(|wait| wait <= WAIT_MAX));
        }
        assert_eq!(storms.enter(ONE, MODEL, T0.after(WAIT_MAX)), Ok(()), "who waits is let in");
        assert!(storms.told.is_empty());
    }

    #[test]
    fn a_row_ends_the_wait_and_memory_is_bounded() {
        let mut storms = Storms::default();
        storms.refused(ONE, MODEL, Millis::from_secs(4), T0);
        storms.routed(ONE, MODEL);
        assert!(storms.told.is_empty());
        for account in 0..2 * KNOWN_MAX as i64 {
            storms.refused(AccountId(account), MODEL, Millis::from_secs(4), T0);
        }
        assert!(storms.told.len() <= KNOWN_MAX);
    }
}
