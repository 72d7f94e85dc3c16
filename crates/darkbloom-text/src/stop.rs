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
/// out does not depend on how the answer was cut into pieces. Each byte is looked at once for each stop string, but for
/// steps back that its earlier bytes paid for (Knuth, Morris and Pratt, "Fast pattern matching in strings", 1977): no
/// text and no stop string makes it slow.
#[derive(Debug, Clone)]
pub struct StopScanner {
    stops: Vec<Stop>,
    /// The longest end of the answer so far that begins a stop string.
    held: SecretString,
    stopped: bool,
}

/// A stop string, and how much of it the answer's end is now.
#[derive(Clone)]
struct Stop {
    text: SecretString,
    /// For each length: the longest shorter beginning that is also an end of the first so many bytes.
    borders: Vec<usize>,
    matched: usize,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop(…)")
    }
}

impl Stop {
    fn new(text: &SecretString) -> Self {
        let mut stop = Self { text: text.clone(), borders: vec![0; text.len() + 1], matched: 0 };
        for length in 2..=text.len() {
            // The border of one byte more is the border so far and that byte, as far as it goes on.
            stop.step(text.expose().as_bytes()[length - 1]);
            stop.borders[length] = stop.matched;
        }
        stop.matched = 0;
        stop
    }

    /// Takes the answer's next byte in. The text is not empty.
    fn step(&mut self, byte: u8) {
        let text = self.text.expose().as_bytes();
        while self.matched > 0 && text.get(self.matched) != Some(&byte) {
            self.matched = self.borders[self.matched];
        }
        self.matched += usize::from(text[self.matched] == byte);
    }

    fn is_complete(&self) -> bool {
        self.matched == self.text.len()
    }
}

impl StopScanner {
    /// A scanner for these stop strings; empty ones never match.
    #[must_use]
    pub fn new(stops: &[SecretString]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).map(Stop::new).collect();
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
        let mut end = answer.len();
        for (at, byte) in text.bytes().enumerate() {
            self.stops.iter_mut().for_each(|stop| stop.step(byte));
            if self.stops.iter().any(Stop::is_complete) {
                (self.stopped, end) = (true, fresh + at + 1);
                break;
            }
        }
        let begun = |stop: &&Stop| !self.stopped || stop.is_complete();
        let longest = self.stops.iter().filter(begun).map(|stop| stop.matched).max().unwrap_or(0);
        // What is matched begins as a stop string does: with a whole character.
        let (emit, held) = answer[..end].split_at(end - longest);
        let emit = SecretString::from(emit);
        if !self.stopped {
            self.held = SecretString::from(held);
        }
        Scan { emit, stopped: self.stopped }
    }

    /// What was held back, since no stop string goes on here: nothing after one. The next piece begins anew.
    pub fn flush(&mut self) -> SecretString {
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        std::mem::take(&mut self.held)
    }
}
