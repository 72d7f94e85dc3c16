//! How much may be asked for in a minute: a bucket that fills evenly and holds a minute's worth.

use crate::{Millis, MonoMillis};

const MINUTE_MS: u64 = 60_000;

/// What somebody may use in a minute: requests, or tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PerMinute(pub u32);

/// What is left of a rate at one moment, for the headers of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLeft {
    /// The rate.
    pub limit: PerMinute,
    /// What may be used at once now.
    pub remaining: u32,
    /// After how long all of a minute's worth may be again, if nothing more is used.
    pub reset: Millis,
}

/// What somebody used of a rate lately. The rate is the caller's to state, the same on each call or another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// What is used up at `at`, in parts of a unit of which there are [`MINUTE_MS`], so that a millisecond gives back `limit` of
    /// them and nothing is rounded.
    used: u64,
    at: MonoMillis,
}

impl Meter {
    /// With nothing used.
    #[must_use]
    pub fn unused(now: MonoMillis) -> Self {
        Self { used: 0, at: now }
    }

    /// Uses so many units.
    ///
    /// # Errors
    /// After how long there will be that many; with more than a minute's worth, [`None`]: never.
    pub fn take(&mut self, units: u32, limit: PerMinute, now: MonoMillis) -> Result<RateLeft, Option<Millis>> {
        self.pass(limit, now);
        if units > limit.0 {
            return Err(None);
        }
        let (all, asked) = (u64::from(limit.0) * MINUTE_MS, u64::from(units) * MINUTE_MS);
        let over = (self.used + asked).saturating_sub(all);
        if over > 0 {
            return Err(Some(Millis(over.div_ceil(u64::from(limit.0)))));
        }
        self.used += asked;
        Ok(self.left(limit))
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, units: u32) {
        self.used = self.used.saturating_sub(u64::from(units) * MINUTE_MS);
    }

    /// What is left at a moment.
    #[must_use]
    pub fn at(&self, limit: PerMinute, now: MonoMillis) -> RateLeft {
        let mut copy = *self;
        copy.pass(limit, now);
        copy.left(limit)
    }

    /// Whether nothing is used any more: then nothing needs to be remembered.
    #[must_use]
    pub fn is_unused(&self, limit: PerMinute, now: MonoMillis) -> bool {
        let mut copy = *self;
        copy.pass(limit, now);
        copy.used == 0
    }

    fn left(&self, limit: PerMinute) -> RateLeft {
        let all = u64::from(limit.0) * MINUTE_MS;
        let remaining = u32::try_from(all.saturating_sub(self.used) / MINUTE_MS).unwrap_or(u32::MAX);
        let reset = if limit.0 == 0 { Millis(0) } else { Millis(self.used.div_ceil(u64::from(limit.0))) };
        RateLeft { limit, remaining, reset }
    }

    fn pass(&mut self, limit: PerMinute, now: MonoMillis) {
        self.used = self.used.saturating_sub(now.since(self.at).0.saturating_mul(u64::from(limit.0)));
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIX: PerMinute = PerMinute(6);

    fn later(millis: u64) -> MonoMillis {
        MonoMillis(7).after(Millis(millis))
    }

    #[test]
    fn a_minutes_worth_may_be_used_at_once_and_comes_back_evenly() {
        let mut meter = Meter::unused(later(0));
        let left = meter.take(4, SIX, later(0)).unwrap();
        assert_eq!((left.remaining, left.reset), (2, Millis(40_000)));
        assert_eq!(meter.take(3, SIX, later(0)), Err(Some(Millis(10_000))), "a unit comes back in ten seconds");
        assert_eq!(meter.take(3, SIX, later(9_999)), Err(Some(Millis(1))));
        assert_eq!(meter.take(3, SIX, later(10_000)).unwrap().remaining, 0);
        assert!(!meter.is_unused(SIX, later(69_999)) && meter.is_unused(SIX, later(70_000)));
        assert_eq!(
            meter.take(6, SIX, later(600_000)).unwrap().remaining,
            0,
            "no more than a minute's worth is saved up"
        );
    }

    #[test]
    fn more_than_a_minutes_worth_never_comes() {
        let mut meter = Meter::unused(later(0));
        assert_eq!(meter.take(7, SIX, later(0)), Err(None));
        assert_eq!(meter.take(1, PerMinute(0), later(0)), Err(None));
        assert_eq!(meter.at(PerMinute(0), later(0)), RateLeft { limit: PerMinute(0), remaining: 0, reset: Millis(0) });
    }

    #[test]
    fn what_was_not_used_is_given_back() {
        let mut meter = Meter::unused(later(0));
        meter.take(6, SIX, later(0)).unwrap();
        meter.give_back(5);
        assert_eq!(meter.at(SIX, later(0)).remaining, 5);
        meter.give_back(100);
        assert_eq!(meter.at(SIX, later(0)).remaining, 6);
    }
}
