//! Finds stop strings in an answer that arrives in pieces.

use darkbloom_types::SecretString;

/// What a piece of an answer gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Text that is certainly no part of a stop string.
    pub emit: SecretString,
    /// Whether a stop string is complete: the answer ends here.
    pub stopped: bool,
}

/// Holds back what could begin a stop string, and ends the answer before the first one that is complete.
///
/// "First" means the one that is complete first; among those that end at the same place, the longest. So what comes
/// out does not depend on how the answer was cut into pieces.
#[derive(Debug)]
pub struct StopScanner {
    stops: Vec<SecretString>,
    /// The longest end of the answer so far that begins a stop string.
    held: SecretString,
    stopped: bool,
}

impl StopScanner {
    /// A scanner for these stop strings; empty ones never match.
    #[must_use]
    pub fn new(stops: &[SecretString]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: SecretString::default(), stopped: false }
    }

    /// Takes the next piece. After a stop string everything is swallowed.
    pub fn push(&mut self, text: &str) -> Scan {
        if self.stopped {
            return Scan { emit: SecretString::default(), stopped: true };
        }
        if self.stops.is_empty() {
            return Scan { emit: SecretString::from(text), stopped: false };
        }
        let mut joined = std::mem::take(&mut self.held);
        let fresh = joined.len();
        joined.push_str(text);
        let answer = joined.expose();
        if let Some(start) = self.first_stop(answer, fresh) {
            self.stopped = true;
            return Scan { emit: SecretString::from(&answer[..start]), stopped: true };
        }
        let (emit, held) = answer.split_at(self.hold_from(answer));
        self.held = SecretString::from(held);
        Scan { emit: SecretString::from(emit), stopped: false }
    }

    /// What was held back: nothing after a stop string.
    #[must_use]
    pub fn finish(self) -> SecretString {
        self.held
    }

    /// Where the stop string starts that is complete first, given that none is complete within `fresh` bytes.
    fn first_stop(&self, answer: &str, fresh: usize) -> Option<usize> {
        let bytes = answer.as_bytes();
        let ends = self.stops.iter().filter_map(|stop| {
            let stop = stop.expose().as_bytes();
            // A match ends in the fresh bytes, so it starts less than its own length before them.
            let from = (fresh + 1).saturating_sub(stop.len());
            let at = bytes[from..].windows(stop.len()).position(|window| window == stop)? + from;
            Some((at + stop.len(), at))
        });
        // The earliest end; of equal ends the earliest start.
        ends.min().map(|(_, start)| start)
    }

    /// Where the longest end of `answer` starts that begins a stop string.
    fn hold_from(&self, answer: &str) -> usize {
        let bytes = answer.as_bytes();
        let longest = self.stops.iter().map(SecretString::len).max().unwrap_or(0);
        let from = (bytes.len() + 1).saturating_sub(longest);
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.expose().as_bytes().starts_with(&bytes[*at..]));
        (from..bytes.len()).find(begins).unwrap_or(bytes.len())
    }
}
