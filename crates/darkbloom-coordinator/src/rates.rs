//! How much keys and accounts may ask for in a minute.

use std::collections::HashMap;
use std::sync::Mutex;

use darkbloom_ledger::Spender;
use darkbloom_types::{Meter, Millis, MonoMillis, PerMinute, RateLeft};

use crate::state::lock;

/// Spenders that are remembered before those are forgotten that have used nothing of their rates lately.
const SPENDERS: usize = 16_384;

/// What somebody may use in a minute; nothing is said where it may use as much as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Requests.
    pub requests: Option<PerMinute>,
    /// Tokens of input and output together, as many as a request may use.
    pub tokens: Option<PerMinute>,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
}

/// What is left for a caller: of the key or of its account, whichever has less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Of requests.
    pub requests: Option<RateLeft>,
    /// Of tokens.
    pub tokens: Option<RateLeft>,
}

/// A rate does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Whose rate.
    pub spender: Spender,
    /// Which.
    pub kind: Kind,
    /// The rate.
    pub limit: PerMinute,
    /// When it would be allowed; none: never, since it is more than a minute's worth.
    pub retry_after: Option<Millis>,
}

/// What was used lately.
#[derive(Debug, Default)]
pub struct Rates {
    used: Mutex<HashMap<(Spender, Kind), (PerMinute, Meter)>>,
}

impl Rates {
    /// Uses so much of the rates of all of these, or of none.
    ///
    /// # Errors
    /// [`Over`] for the first that does not allow it.
    pub fn take(
        &self,
        of: &[(Spender, Limits)],
        kind: Kind,
        units: u32,
        now: MonoMillis,
    ) -> Result<Option<RateLeft>, Over> {
        let mut used = lock(&self.used);
        if used.len() >= SPENDERS {
            used.retain(|_, (limit, meter)| !meter.is_unused(*limit, now));
        }
        let mut least: Option<RateLeft> = None;
        for (number, (spender, limits)) in of.iter().enumerate() {
            let Some(limit) = limits.of(kind) else { continue };
            let (known, meter) = used.entry((*spender, kind)).or_insert_with(|| (limit, Meter::unused(now)));
            *known = limit;
            match meter.take(units, limit, now) {
                Ok(left) => {
                    let less = least.is_none_or(|least| left.remaining < least.remaining);
                    least = if less { Some(left) } else { least };
                }
                Err(retry_after) => {
                    for (before, limits) in &of[..number] {
                        if limits.of(kind).is_some()
                            && let Some((_, meter)) = used.get_mut(&(*before, kind))
                        {
                            meter.give_back(units);
                        }
                    }
                    return Err(Over { spender: *spender, kind, limit, retry_after });
                }
            }
        }
        Ok(least)
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&self, of: &[(Spender, Limits)], kind: Kind, units: u32) {
        let mut used = lock(&self.used);
        for (spender, limits) in of {
            if limits.of(kind).is_some()
                && let Some((_, meter)) = used.get_mut(&(*spender, kind))
            {
                meter.give_back(units);
            }
        }
    }
}

impl Limits {
    fn of(self, kind: Kind) -> Option<PerMinute> {
        match kind {
            Kind::Requests => self.requests,
            Kind::Tokens => self.tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::{AccountId, KeyId};

    const KEY: Spender = Spender::Key(KeyId(1));
    const ACCOUNT: Spender = Spender::Account(AccountId(1));

    fn limits(requests: u32) -> Limits {
        Limits { requests: Some(PerMinute(requests)), tokens: None }
    }

    #[test]
    fn the_tighter_of_two_rates_counts_and_a_refusal_uses_neither() {
        let (rates, now) = (Rates::default(), MonoMillis(5));
        let of = [(KEY, limits(10)), (ACCOUNT, limits(2))];
        let left = |rates: &Rates| rates.take(&of, Kind::Requests, 1, now);
        assert_eq!(left(&rates).unwrap().unwrap().remaining, 1);
        assert_eq!(left(&rates).unwrap().unwrap().remaining, 0);
        let over = left(&rates).unwrap_err();
        assert_eq!((over.spender, over.limit, over.retry_after), (ACCOUNT, PerMinute(2), Some(Millis(30_000))));
        let alone = rates.take(&of[..1], Kind::Requests, 1, now).unwrap().unwrap();
        assert_eq!(alone.remaining, 7, "the refused request used nothing of the key's");
        assert_eq!(rates.take(&of, Kind::Tokens, 1_000_000, now), Ok(None), "no rate says nothing");
    }

    #[test]
    fn a_limit_that_was_changed_counts_at_once() {
        let (rates, now) = (Rates::default(), MonoMillis(5));
        rates.take(&[(KEY, limits(10))], Kind::Requests, 8, now).unwrap();
        assert!(rates.take(&[(KEY, limits(5))], Kind::Requests, 1, now).is_err());
        rates.give_back(&[(KEY, limits(5))], Kind::Requests, 8);
        assert!(rates.take(&[(KEY, limits(5))], Kind::Requests, 1, now).is_ok());
    }
}
