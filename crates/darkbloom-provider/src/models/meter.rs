//! How fast something goes and how long it will take. Pure: time comes in as an argument.

use std::time::Duration;

/// Over how long the rate is smoothed: long enough that a figure can be read, short enough to follow a line that changes.
const SMOOTHED_OVER: Duration = Duration::from_secs(10);
/// Nothing is said of the rate before so much time has passed: the first block comes at once.
const FIRST_AFTER: Duration = Duration::from_millis(500);
/// Longer than a century is not said.
const LEFT_MAX: f64 = 3.2e9;

/// How far something is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes that will be there.
    pub total: u64,
    /// Bytes a second, smoothed, once there is something to say.
    pub rate: Option<f64>,
    /// Time until the end at this rate.
    pub left: Option<Duration>,
}

/// Counts bytes by a clock that the caller reads.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    total: u64,
    done: u64,
    /// When bytes were last counted, since the beginning.
    at: Duration,
    /// Bytes since then, while no time has passed.
    pending: u64,
    rate: Option<f64>,
}

impl Meter {
    /// So many bytes are there at the beginning.
    pub fn new(done: u64, total: u64) -> Self {
        Self { total, done, at: Duration::ZERO, pending: 0, rate: None }
    }

    /// So many bytes are there now, that long after the beginning. Fewer than before when it began anew.
    pub fn count(&mut self, done: u64, now: Duration) -> Progress {
        self.pending += done.saturating_sub(self.done);
        self.done = done;
        let passed = now.saturating_sub(self.at);
        if passed >= FIRST_AFTER || (self.rate.is_some() && !passed.is_zero()) {
            let seconds = passed.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let latest = self.pending as f64 / seconds;
            // An exponential average whose weight follows the time that passed.
            let weight = 1.0 - (-seconds / SMOOTHED_OVER.as_secs_f64()).exp();
            self.rate = Some(self.rate.map_or(latest, |rate| rate + weight * (latest - rate)));
            (self.at, self.pending) = (now, 0);
        }
        self.progress()
    }

    fn progress(&self) -> Progress {
        #[expect(clippy::cast_precision_loss, reason = "a time for people")]
        let left = self.rate.map(|rate| self.total.saturating_sub(self.done) as f64 / rate);
        let left = left.filter(|seconds| (0.0..LEFT_MAX).contains(seconds)).map(Duration::from_secs_f64);
        Progress { done: self.done, total: self.total, rate: self.rate, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_steady_stream_has_its_rate_and_its_end() {
        let mut meter = Meter::new(0, 10_000);
        let progress = (1..=20_u32).map(|at| meter.count(u64::from(at) * 100, SECOND * at)).last().unwrap();
        assert!((progress.rate.unwrap() - 100.0).abs() < 1e-6, "{progress:?}");
        assert_eq!(progress.left.map(|left| left.as_secs()), Some(80));
    }

    #[test]
    fn what_was_there_before_counts_for_no_rate() {
        let progress = Meter::new(9_000, 10_000).count(9_100, SECOND);
        assert_eq!((progress.rate, progress.left), (Some(100.0), Some(Duration::from_secs(9))));
    }

    #[test]
    fn a_line_that_becomes_faster_is_followed_slowly() {
        let mut meter = Meter::new(0, 1 << 30);
        meter.count(100, SECOND);
        let next = meter.count(1_100, SECOND * 2).rate.unwrap();
        assert!(next > 150.0 && next < 250.0, "{next}");
        let later = (3..=60_u32).map(|at| meter.count(u64::from(at) * 1_000, SECOND * at)).last().unwrap();
        assert!(later.rate.unwrap() > 950.0, "{later:?}");
    }

    #[test]
    fn nothing_is_said_too_early_and_never_something_endless() {
        let mut meter = Meter::new(0, 1_000);
        assert_eq!(meter.count(10, Duration::from_millis(1)).rate, None);
        assert_eq!(meter.count(10, Duration::ZERO).left, None);
        let mut stalled = Meter::new(0, 1_000);
        let progress = stalled.count(0, SECOND * 60);
        assert_eq!((progress.rate, progress.left), (Some(0.0), None));
        // Beginning anew is no negative rate.
        stalled.count(500, SECOND * 61);
        let anew = stalled.count(0, SECOND * 62);
        assert!(anew.rate.unwrap() >= 0.0 && anew.done == 0);
    }

    #[test]
    fn bytes_that_come_at_the_same_moment_are_all_counted() {
        let mut meter = Meter::new(0, 1_000);
        meter.count(100, SECOND);
        meter.count(200, SECOND);
        meter.count(300, SECOND);
        let progress = meter.count(300, SECOND * 2);
        assert!(progress.rate.unwrap() > 100.0, "{progress:?}");
    }
}
