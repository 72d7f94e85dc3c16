//! What a network holds against a provider's identity, whichever connection it has and however often either side starts
//! again.
//!
//! ```text
//!         a check fails                its time is over, and it answers a challenge
//! Clean ───────────────▶ Distrusted ───────────────────────────────────────────────▶ Recovered
//!   ▲                        ▲                a check fails, for twice as long           │ │
//!   │                        └───────────────────────────────────────────────────────────┘ │
//!   └────────────────────── nothing for a week: counts from the beginning ─────────────────┘
//! any ──── the operator revokes it ───▶ Revoked, for good
//! ```
//!
//! Only what somebody did who had proven the identity on that connection counts: else anybody could have any provider
//! distrusted by presenting its statement.

use crate::{Millis, UnixMillis};

/// How long the first failed check is held against an identity.
const FIRST: Millis = Millis::from_minutes(10);
/// The longest that one is: each makes it twice as long.
const LONGEST: Millis = Millis::from_minutes(24 * 60);
/// After this long without another, the next counts as the first.
const FORGOTTEN: Millis = Millis::from_minutes(7 * 24 * 60);

/// Which check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Distrust {
    /// It answered a challenge with what does not verify.
    ChallengeFailed,
    /// It sent a next statement that does not verify, or is another identity's.
    StatementFailed,
    /// Two processes that live at the same time have its key.
    KeyShared,
    /// More of its epochs still open than any provider has.
    TooManyEpochs,
}

impl Distrust {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::ChallengeFailed, Self::StatementFailed, Self::KeyShared, Self::TooManyEpochs];

    /// The name in frames and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ChallengeFailed => "challenge_failed",
            Self::StatementFailed => "statement_failed",
            Self::KeyShared => "key_shared",
            Self::TooManyEpochs => "too_many_epochs",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What happened.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ChallengeFailed => "the provider answered a challenge with what does not verify",
            Self::StatementFailed => "the provider sent a statement that does not verify or is another identity's",
            Self::KeyShared => "two running processes use the provider's identity key",
            Self::TooManyEpochs => {
                "more of the provider's epochs still open than any provider has: each start makes one"
            }
        }
    }

    /// What to do.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::ChallengeFailed => {
                "look at the provider's log; it is trusted again when its time is over and it has answered a challenge"
            }
            Self::StatementFailed => {
                "update the provider; it is trusted again when its time is over and it has answered a challenge"
            }
            Self::TooManyEpochs => {
                "find out why it starts again and again; if it does not, its key was copied: tell the operator"
            }
            Self::KeyShared => {
                "stop the other process; if it is not yours the key was copied: tell the operator, and begin a new identity with `darkbloom key delete`"
            }
        }
    }
}

/// A check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Which.
    pub reason: Distrust,
    /// Until when it is held against the identity at least.
    pub until: UnixMillis,
    /// How many failed, this one included, none of them forgotten.
    pub times: u32,
}

/// What is held against an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// Nothing.
    #[default]
    Clean,
    /// A check failed: it gets no work.
    Distrusted(Failed),
    /// It gets work again; the next failure is held against it for longer.
    Recovered(Failed),
    /// The operator wants it no more. It is refused for good.
    Revoked,
}

impl Standing {
    /// After a check failed; nothing where that changes nothing: what follows from one failure is not counted again.
    #[must_use]
    pub fn failed(self, reason: Distrust, now: UnixMillis) -> Option<Self> {
        let before = match self {
            // A copied key is the worst that can be said: it is said also of those that are distrusted for something else.
            Self::Distrusted(failed) if reason == Distrust::KeyShared && failed.reason != reason => {
                let until = failed.until.max(now.after(FIRST));
                return Some(Self::Distrusted(Failed { reason, until, ..failed }));
            }
            Self::Distrusted(_) | Self::Revoked => return None,
            Self::Recovered(failed) if now < failed.until.after(FORGOTTEN) => failed.times,
            Self::Clean | Self::Recovered(_) => 0,
        };
        // That two processes had its key stays true until the operator says otherwise.
        let reason = if self.key_was_shared() { Distrust::KeyShared } else { reason };
        let longer = FIRST.0.saturating_mul(1 << before.min(31)).min(LONGEST.0);
        let failed = Failed { reason, until: now.after(Millis(longer)), times: before.saturating_add(1) };
        Some(Self::Distrusted(failed))
    }

    /// After a challenge was answered, if that changes anything.
    #[must_use]
    pub fn answered(self, now: UnixMillis) -> Option<Self> {
        match self {
            Self::Distrusted(failed) if now >= failed.until => Some(Self::Recovered(failed)),
            Self::Clean | Self::Distrusted(_) | Self::Recovered(_) | Self::Revoked => None,
        }
    }

    /// After the operator's word that it is trusted again. Nothing where that changes nothing; a revocation stays.
    #[must_use]
    pub fn reinstated(self) -> Option<Self> {
        match self {
            Self::Distrusted(_) | Self::Recovered(_) => Some(Self::Clean),
            Self::Clean | Self::Revoked => None,
        }
    }

    /// Why it gets no work, if it is distrusted.
    #[must_use]
    pub fn distrust(self) -> Option<Failed> {
        match self {
            Self::Distrusted(failed) => Some(failed),
            Self::Clean | Self::Recovered(_) | Self::Revoked => None,
        }
    }

    /// Whether two processes were seen with its key, and the operator has not said that this is over.
    #[must_use]
    pub fn key_was_shared(self) -> bool {
        match self {
            Self::Distrusted(failed) | Self::Recovered(failed) => failed.reason == Distrust::KeyShared,
            Self::Clean | Self::Revoked => false,
        }
    }

    /// Whether it may get work.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        match self {
            Self::Clean | Self::Recovered(_) => true,
            Self::Distrusted(_) | Self::Revoked => false,
        }
    }

    /// Both together, where two accounts of one identity or the identities of one provider come together: nothing of either is
    /// lost.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let of = |standing: Self| match standing {
            Self::Distrusted(failed) | Self::Recovered(failed) => Some(failed),
            Self::Clean | Self::Revoked => None,
        };
        if self == Self::Revoked || other == Self::Revoked {
            return Self::Revoked;
        }
        let failed = match (of(self), of(other)) {
            (None, None) => return Self::Clean,
            (Some(only), None) | (None, Some(only)) => only,
            (Some(one), Some(two)) => Failed {
                reason: if other.key_was_shared() || self.is_trusted() { two.reason } else { one.reason },
                until: one.until.max(two.until),
                times: one.times.max(two.times),
            },
        };
        let failed = if self.key_was_shared() { Failed { reason: Distrust::KeyShared, ..failed } } else { failed };
        let distrusted = !self.is_trusted() || !other.is_trusted();
        if distrusted { Self::Distrusted(failed) } else { Self::Recovered(failed) }
    }

    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Distrusted(_) => "distrusted",
            Self::Recovered(_) => "recovered",
            Self::Revoked => "revoked",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn failed(standing: Standing, at: UnixMillis) -> (Standing, Failed) {
        let after = standing.failed(Distrust::ChallengeFailed, at).unwrap();
        (after, after.distrust().unwrap())
    }

    #[test]
    fn a_failed_check_is_held_for_a_time_and_then_until_a_challenge_is_answered() {
        let (standing, held) = failed(Standing::Clean, NOW);
        assert_eq!((held.until, held.times), (NOW.after(Millis::from_minutes(10)), 1));
        assert_eq!(standing.answered(UnixMillis(held.until.0 - 1)), None, "not before its time is over");
        assert_eq!(standing.answered(held.until), Some(Standing::Recovered(held)));
    }

    #[test]
    fn what_follows_from_one_failure_is_not_counted_again() {
        let (standing, _) = failed(Standing::Clean, NOW);
        let later = NOW.after(Millis::from_minutes(60));
        for reason in [Distrust::ChallengeFailed, Distrust::StatementFailed, Distrust::TooManyEpochs] {
            assert_eq!(standing.failed(reason, later), None);
        }
        let shared = standing.failed(Distrust::KeyShared, later).unwrap();
        let (first, now) = (standing.distrust().unwrap(), shared.distrust().unwrap());
        assert_eq!((now.reason, now.times), (Distrust::KeyShared, first.times));
        assert_eq!(now.until, later.after(Millis::from_minutes(10)), "held for as long as if nothing had been before");
        for reason in Distrust::ALL {
            assert_eq!(shared.failed(reason, later), None);
        }
        let again = Standing::Recovered(now).failed(Distrust::StatementFailed, now.until).unwrap();
        assert!(again.key_was_shared(), "something else does not take its place");
        assert!(shared.key_was_shared() && Standing::Recovered(now).key_was_shared() && !standing.key_was_shared());
    }

    #[test]
    fn each_failure_is_held_for_twice_as_long_up_to_a_day() {
        let (mut standing, mut now, mut minutes) = (Standing::Clean, NOW, Vec::new());
        for _ in 0..9 {
            let (distrusted, held) = failed(standing, now);
            minutes.push(held.until.since(now).0 / 60_000);
            now = held.until;
            standing = distrusted.answered(now).unwrap();
        }
        assert_eq!(minutes, [10, 20, 40, 80, 160, 320, 640, 1280, 1440]);
        let week = Millis::from_minutes(7 * 24 * 60);
        let (_, nearly) = failed(standing, UnixMillis(now.after(week).0 - 1));
        assert_eq!(nearly.times, 10);
        let (_, begun_anew) = failed(standing, now.after(week));
        assert_eq!(begun_anew.times, 1);
    }

    #[test]
    fn a_revocation_stays() {
        let revoked = Standing::Revoked;
        assert_eq!(revoked.failed(Distrust::KeyShared, NOW), None);
        assert_eq!(revoked.answered(NOW), None);
        assert_eq!(revoked.reinstated(), None);
        assert_eq!(revoked.with(failed(Standing::Clean, NOW).0), revoked);
        assert_eq!(Standing::Clean.with(revoked), revoked);
    }

    #[test]
    fn together_nothing_of_either_is_lost() {
        let of = |reason, minutes, times| Failed { reason, until: NOW.after(Millis::from_minutes(minutes)), times };
        let shared = Standing::Recovered(of(Distrust::KeyShared, 1, 9));
        let fresh = Standing::Distrusted(of(Distrust::ChallengeFailed, 10, 1));
        let both = Standing::Distrusted(of(Distrust::KeyShared, 10, 9));
        assert_eq!((shared.with(fresh), fresh.with(shared)), (both, both));
        let calm = Standing::Recovered(of(Distrust::StatementFailed, 1, 2));
        let one = Standing::Distrusted(of(Distrust::ChallengeFailed, 10, 2));
        assert_eq!((calm.with(fresh), fresh.with(calm)), (one, one), "why it is distrusted now is said");
        for standing in [Standing::Clean, shared, fresh, Standing::Revoked] {
            assert_eq!((standing.with(Standing::Clean), Standing::Clean.with(standing)), (standing, standing));
            assert_eq!(standing.with(standing), standing);
        }
    }

    #[test]
    fn the_operator_ends_distrust() {
        assert_eq!(failed(Standing::Clean, NOW).0.reinstated(), Some(Standing::Clean));
        assert_eq!(Standing::Clean.reinstated(), None);
    }

    #[test]
    fn every_reason_has_its_own_name() {
        for reason in Distrust::ALL {
            assert_eq!(Distrust::from_name(reason.name()), Some(reason));
        }
    }
}
