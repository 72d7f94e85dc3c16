//! Whether somebody who failed may be asked again.
//!
//! ```text
//!            failed too often in a row           its pause is over: one request
//! Closed ──────────────────────────────▶ Open ──────────────────────────────────▶ HalfOpen
//!   ▲                                     ▲ ▲                                       │ │ │
//!   │                                     │ └── the request says nothing of it ─────┘ │ │
//!   │                                     └──── it failed: a longer pause ────────────┘ │
//!   └────────────────────────────────────────── it was served ──────────────────────────┘
//! ```
//!
//! One machine stands for a provider and one for each of its models. Where all are open nobody is asked: a fleet that fails
//! is not opened again by failing together, and each recovers by its own probe.

use darkbloom_types::{Millis, MonoMillis, RequestId};

use crate::provider::times;

/// What a provider did. Nothing else counts against it: a consumer that left, a request that was wrong or not sealed to it,
/// and a row that it did not have are not its failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It accepted and then failed, or said that it cannot.
    Error,
    /// It said nothing for too long.
    Silence,
    /// Its connection broke. That is one failure, however many answers were on it.
    Broken,
    /// What it sent does not verify.
    Lie,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Error, Self::Silence, Self::Broken, Self::Lie];
}

/// How a row came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The receipt came and verified; how fast it was, where that is known.
    Served(Option<Seen>),
    /// The provider failed.
    Failed(Fault),
    /// The provider had no room after all.
    Declined,
    /// It was cancelled, or could not be opened: that says nothing.
    Unused,
}

/// What the coordinator saw of one answer, by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// From the offer on its way until it was accepted.
    pub round_trip: Millis,
    /// From the acceptance to the first content.
    pub first_content: Millis,
    /// From the first content to the last.
    pub stream: Millis,
    /// The request's ceiling of input.
    pub input: darkbloom_types::TokenCount,
    /// Output tokens.
    pub output: darkbloom_types::TokenCount,
}

/// Why nobody is asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// It pauses.
    Pausing,
    /// One request tries whether it has recovered.
    Probing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Closed,
    Open {
        until: MonoMillis,
    },
    HalfOpen {
        probe: RequestId,
        since: MonoMillis,
    },
}

/// The machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Health {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// Pauses since the last success.
    pauses: u32,
}

impl Health {
    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether nothing is held against it.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a request may go there now.
    pub fn check(&self, now: MonoMillis) -> Result<(), Blocked> {
        match self.state {
            State::Closed => Ok(()),
            State::Open { until } if now < until => Err(Blocked::Pausing),
            State::Open { .. } => Ok(()),
            // Whoever probes always comes back; where that was missed, the next may.
            State::HalfOpen { since, .. } if now.since(since) < times::PROBE => Err(Blocked::Probing),
            State::HalfOpen { .. } => Ok(()),
        }
    }

    /// Whether the next request is the one that tries.
    pub fn wants_probe(&self, now: MonoMillis) -> bool {
        self.state != State::Closed && self.check(now).is_ok()
    }

    /// When time alone changes what [`Self::check`] says.
    pub fn changes_at(&self) -> Option<MonoMillis> {
        match self.state {
            State::Closed => None,
            State::Open { until } => Some(until),
            State::HalfOpen { since, .. } => Some(since.after(times::PROBE)),
        }
    }

    /// A request got a row.
    pub fn given(&mut self, request: RequestId, now: MonoMillis) {
        if self.wants_probe(now) {
            self.state = State::HalfOpen { probe: request, since: now };
        }
    }

    /// A request was served. Whether that opened what was shut.
    pub fn served(&mut self) -> bool {
        let was = std::mem::take(self);
        was.state != State::Closed
    }

    /// A request failed; more than `limit` in a row are too many.
    pub fn failed(&mut self, request: RequestId, limit: u32, now: MonoMillis) {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed if self.failures < limit => {}
            State::Closed => self.pause(now),
            State::HalfOpen { probe, .. } if probe == request => self.pause(now),
            // What was begun before the pause ends in it: that makes it no longer.
            State::Open { .. } | State::HalfOpen { .. } => {
                let until = now.after(pause(self.pauses));
                self.state = State::Open { until };
            }
        }
    }

    fn pause(&mut self, now: MonoMillis) {
        self.pauses = self.pauses.saturating_add(1);
        self.state = State::Open { until: now.after(pause(self.pauses)) };
    }

    /// A request came back and says nothing of it. Whether another may try now.
    pub fn said_nothing(&mut self, request: RequestId, now: MonoMillis) -> bool {
        let probed = matches!(self.state, State::HalfOpen { probe, .. } if probe == request);
        if probed {
            self.state = State::Open { until: now };
        }
        probed
    }
}

/// Each pause in a row is twice as long as the one before, up to a limit.
fn pause(nth: u32) -> Millis {
    let doubled = times::PAUSE.0.saturating_mul(1 << nth.saturating_sub(1).min(16));
    Millis(doubled.min(times::PAUSE_MAX.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: MonoMillis = MonoMillis(1_000_000);
    const LIMIT: u32 = times::FAULTS_MAX;

    fn request(n: u8) -> RequestId {
        RequestId([n; 16])
    }

    fn open() -> Health {
        let mut health = Health::default();
        for n in 0..LIMIT {
            assert_eq!(health.check(T0), Ok(()), "after {n}");
            health.failed(request(99), LIMIT, T0);
        }
        health
    }

    #[test]
    fn a_pause_ends_with_one_probe_and_a_success_closes() {
        let mut health = open();
        let over = T0.after(times::PAUSE);
        assert_eq!(health.check(MonoMillis(over.0 - 1)), Err(Blocked::Pausing));
        assert!(health.wants_probe(over));
        health.given(request(1), over);
        assert_eq!(health.check(over), Err(Blocked::Probing));
        assert!(health.served());
        assert!(health.is_clean());
    }

    #[test]
    fn pauses_grow_up_to_a_limit_and_a_success_forgets_them() {
        let mut health = open();
        let (mut now, mut lengths) = (T0, Vec::new());
        for n in 0..8 {
            let until = health.changes_at().unwrap();
            lengths.push(until.since(now).0 / 1_000);
            now = until;
            health.given(request(n), now);
            health.failed(request(n), LIMIT, now);
        }
        assert_eq!(lengths, [30, 60, 120, 240, 480, 600, 600, 600]);
        health.served();
        assert_eq!(open().changes_at(), Some(T0.after(times::PAUSE)));
    }

    #[test]
    fn a_probe_that_says_nothing_lets_the_next_one_try_and_others_cannot() {
        let mut health = open();
        let over = T0.after(times::PAUSE);
        health.given(request(1), over);
        assert!(!health.said_nothing(request(2), over), "it was begun before");
        assert_eq!(health.check(over), Err(Blocked::Probing));
        assert!(health.said_nothing(request(1), over));
        assert!(health.wants_probe(over));
    }

    #[test]
    fn what_was_begun_before_a_pause_and_fails_in_it_makes_the_next_no_longer() {
        let mut health = open();
        for _ in 0..5 {
            health.failed(request(50), LIMIT, T0);
        }
        assert_eq!(health.changes_at(), Some(T0.after(times::PAUSE)));
    }

    #[test]
    fn a_probe_that_never_comes_back_blocks_nobody_for_ever() {
        let mut health = open();
        let over = T0.after(times::PAUSE);
        health.given(request(1), over);
        assert!(health.wants_probe(over.after(times::PROBE)));
    }
}
