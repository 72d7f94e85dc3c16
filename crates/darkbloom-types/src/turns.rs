//! How often something may happen: some times at once after a quiet time, and then at a steady rate.

use crate::{Millis, MonoMillis};

/// Turns of one party: `burst` of them, and one more every `every`. Which those are is the caller's to state, the same on
/// each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// When all turns are there again.
    full_at: MonoMillis,
}

impl Turns {
    /// With all turns there.
    #[must_use]
    pub fn full(now: MonoMillis) -> Self {
        Self { full_at: now }
    }

    /// Takes a turn; false when there is none.
    #[must_use]
    pub fn take(&mut self, now: MonoMillis, every: Millis, burst: u32) -> bool {
        let full_at = self.full_at.max(now).after(every);
        let allowed = full_at.since(now).0 <= every.0 * u64::from(burst);
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }

    /// Whether there is a turn, which stays there.
    #[must_use]
    pub fn has(&self, now: MonoMillis, every: Millis, burst: u32) -> bool {
        let mut copy = *self;
        copy.take(now, every, burst)
    }

    /// Whether all turns are there: then nothing needs to be remembered.
    #[must_use]
    pub fn is_full(&self, now: MonoMillis) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Millis = Millis(100);

    #[test]
    fn a_burst_is_allowed_and_then_a_steady_rate() {
        let (start, later) = (MonoMillis(5), |millis| MonoMillis(5).after(Millis(millis)));
        let mut turns = Turns::full(start);
        assert!((0..3).all(|_| turns.has(start, EVERY, 3) && turns.take(start, EVERY, 3)));
        assert!(!turns.has(start, EVERY, 3) && !turns.take(start, EVERY, 3));
        assert!(!turns.take(later(99), EVERY, 3));
        assert!(turns.take(later(100), EVERY, 3) && !turns.take(later(100), EVERY, 3));
        assert!(!turns.is_full(later(399)) && turns.is_full(later(400)));
        assert!((0..3).all(|_| turns.take(later(1_000), EVERY, 3)), "no more than a burst is saved up");
        assert!(!turns.take(later(1_000), EVERY, 3));
    }
}
