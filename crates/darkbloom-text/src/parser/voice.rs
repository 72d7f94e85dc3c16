//! What an answer says: nothing of a stop string, and no white space beside thoughts and calls.

use darkbloom_content::{AnswerParts, PartKind};
use darkbloom_types::SecretString;
use zeroize::Zeroizing;

use crate::stop::StopScanner;

/// Longest white space that is held back because a thought or a call may follow: some empty lines and an indentation.
pub(super) const WHITE_BYTES_MAX: usize = 64;

/// Hands on what is said. White space at the end of a stretch is seen by the scanner for stop strings when it comes, though
/// it is shown only when something follows; that at its beginning is no part of it.
pub(super) struct Voice {
    scanner: StopScanner,
    /// Whether there are stop strings at all.
    scans: bool,
    /// Of the present stretch.
    kind: PartKind,
    white: Zeroizing<String>,
    /// Whether white space is left out until something follows it.
    gap: bool,
    stopped: bool,
    out: AnswerParts,
}

impl Clone for Voice {
    fn clone(&self) -> Self {
        let mut white = Zeroizing::new(String::with_capacity(WHITE_BYTES_MAX + 4));
        white.push_str(&self.white);
        let Self { scanner, scans, kind, gap, stopped, out, .. } = self;
        let (scanner, out) = (scanner.clone(), out.clone());
        Self { scanner, scans: *scans, kind: *kind, white, gap: *gap, stopped: *stopped, out }
    }
}

impl Voice {
    /// A voice that begins with a stretch of this kind.
    pub(super) fn new(stops: &[SecretString], kind: PartKind) -> Self {
        Self {
            scanner: StopScanner::new(stops),
            scans: stops.iter().any(|stop| !stop.is_empty()),
            kind,
            // It never grows, so no copy stays behind.
            white: Zeroizing::new(String::with_capacity(WHITE_BYTES_MAX + 4)),
            gap: kind == PartKind::Reasoning,
            stopped: false,
            out: AnswerParts::default(),
        }
    }

    /// A letter of text or reasoning. Another kind than before begins another stretch.
    pub(super) fn say(&mut self, kind: PartKind, letter: char) {
        if kind != self.kind {
            self.apart();
            self.kind = kind;
        }
        if self.stopped || self.gap && letter.is_whitespace() {
            return;
        }
        self.gap = false;
        if kind != PartKind::Text || !self.scans {
            return self.show(letter);
        }
        let scan = self.scanner.push(letter.encode_utf8(&mut [0; 4]));
        scan.emit.expose().chars().for_each(|letter| self.show(letter));
        if scan.stopped {
            self.stop();
        }
    }

    /// What follows belongs to another stretch.
    pub(super) fn apart(&mut self) {
        if !self.stopped {
            self.flush();
            self.white.clear();
            self.gap = true;
        }
    }

    /// A call of this name.
    pub(super) fn call(&mut self, name: &str) {
        self.apart();
        self.out.push(PartKind::CallName, name);
    }

    /// Arguments of the last call.
    pub(super) fn argue(&mut self, text: &str) {
        self.out.push(PartKind::CallArguments, text);
    }

    /// The answer is over.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.out.push(self.kind, &self.white);
        self.white.clear();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// What is certain, once.
    pub(super) fn take(&mut self) -> AnswerParts {
        std::mem::take(&mut self.out)
    }

    /// The rest.
    pub(super) fn finish(&mut self) -> AnswerParts {
        if !self.stopped {
            self.flush();
            self.out.push(self.kind, &self.white);
            self.white.clear();
        }
        self.take()
    }

    /// No stop string goes on here.
    fn flush(&mut self) {
        if self.scans {
            self.scanner.flush().expose().chars().for_each(|letter| self.show(letter));
        }
    }

    fn show(&mut self, letter: char) {
        if letter.is_whitespace() {
            if self.white.len() + letter.len_utf8() > WHITE_BYTES_MAX {
                self.out.push(self.kind, &self.white);
                self.white.clear();
            }
            self.white.push(letter);
            return;
        }
        self.out.push(self.kind, &self.white);
        self.white.clear();
        self.out.push(self.kind, letter.encode_utf8(&mut [0; 4]));
    }

    /// Bytes that are held back beside the beginning of a stop string, and whether their buffer is the one of the beginning.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, bool) {
        (self.white.len(), self.white.capacity() == WHITE_BYTES_MAX + 4)
    }
}
