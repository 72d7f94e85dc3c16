//! Whether the other side of the connection still lives.

use std::time::{Duration, Instant};

use darkbloom_wire::limits;

/// Without any message for this long the connection counts as dead: the coordinator's patience is the same.
const DEAD: Duration = Duration::from_millis(limits::SILENCE.0);
/// Silence after which a heartbeat asks. With a heartbeat every 10 seconds it asks twice at least before giving up.
const LATELY: Duration = Duration::from_secs(5);

/// When something was heard last. Every message counts, the answer to a ping as well.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    heard: Instant,
}

impl Pulse {
    pub fn new(now: Instant) -> Self {
        Self { heard: now }
    }

    /// A message came.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Whether a heartbeat at this time should ask for an answer.
    pub fn asks(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= LATELY
    }

    /// When the connection counts as dead unless something is heard before.
    pub fn dead_at(&self) -> Instant {
        self.heard + DEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_millis(limits::HEARTBEAT.0);

    /// Beats from an arbitrary time after the last message on, until the connection is dead: when was asked.
    fn silence(first_beat: Duration) -> (Vec<Duration>, Duration) {
        let began = Instant::now();
        let pulse = Pulse::new(began);
        let beats = (0..10).map(|beat| first_beat + BEAT * beat);
        let asked = beats.filter(|beat| began + *beat < pulse.dead_at() && pulse.asks(began + *beat)).collect();
        (asked, pulse.dead_at() - began)
    }

    #[test]
    fn a_silent_link_is_asked_twice_and_dead_after_35_seconds() {
        for offset in 0..=10 {
            let (asked, dead) = silence(Duration::from_secs(offset));
            assert_eq!(dead, Duration::from_secs(35));
            assert!(asked.len() >= 2, "asked {asked:?}");
            assert!(asked[0] <= Duration::from_secs(15), "asked {asked:?}");
        }
    }

    #[test]
    fn a_link_that_talks_is_not_asked_and_lives() {
        let began = Instant::now();
        let mut pulse = Pulse::new(began);
        for second in 0..1_000 {
            let now = began + Duration::from_secs(second);
            assert!(now < pulse.dead_at());
            assert!(!pulse.asks(now));
            if second % 4 == 0 {
                pulse.heard(now);
            }
        }
    }

    #[test]
    fn an_answer_to_a_ping_keeps_the_link_alive() {
        let began = Instant::now();
        let mut pulse = Pulse::new(began);
        let mut asked = 0;
        for beat in 0..100 {
            let now = began + BEAT * beat;
            assert!(now < pulse.dead_at());
            if pulse.asks(now) {
                asked += 1;
                pulse.heard(now + Duration::from_millis(30));
            }
        }
        assert!(asked >= 49, "nothing but pings is on this line: {asked}");
    }
}
