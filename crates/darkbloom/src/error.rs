//! How the program says no: what, why, and what to do.

use std::io::Write as _;
use std::process::ExitCode;

use darkbloom_types::Refusal;

/// The exit status of a command that may succeed when it is given again: `EX_TEMPFAIL` of BSD's `sysexits.h`.
pub const START_AGAIN: u8 = 75;

/// A failure for a person.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: String,
    status: u8,
}

impl Failure {
    /// What went wrong, and a next step.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), status: 1 }
    }

    /// The same failure with another next step.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// The signal of this number came before what was asked for was done. The exit status is what shells say of a command that a signal
    /// ended: 128 and the signal's number (POSIX, Shell Command Language, 2.8.2).
    pub fn interrupted(signal: i32, message: impl Into<String>) -> Self {
        let number = u8::try_from(signal).unwrap_or(0);
        Self { status: 128_u8.saturating_add(number), ..Self::new(message, "") }
    }

    /// It would not happen, or not for long, if the command were given again: whoever supervises it may do so.
    pub fn temporary(self) -> Self {
        Self { status: START_AGAIN, ..self }
    }

    /// The same failure with an exit status of its own.
    pub fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// A command that this one ran has failed with this status, and said why.
    pub fn said(status: u8) -> Self {
        Self { status, ..Self::new("", "") }
    }

    /// Prints it. The exit status is 1, unless a signal is to blame or another command said otherwise.
    pub fn report(&self) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::from(self.status);
        }
        let mut out = std::io::stderr().lock();
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(out, "error: {}", self.message);
        if !self.hint.is_empty() {
            let _ = writeln!(out, "hint: {}", self.hint);
        }
        ExitCode::from(self.status)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let sentence = refusal.code.sentence();
        let message =
            if refusal.detail.is_empty() { sentence.to_owned() } else { format!("{sentence}: {}", refusal.detail) };
        Self::new(message, refusal.code.next_step())
    }
}

/// Writes a line to standard output.
pub fn say(line: impl AsRef<str>) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{}", line.as_ref()).map_err(closed)
}

/// Writes a piece of text to standard output at once.
pub fn say_piece(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(closed)
}

fn closed(error: std::io::Error) -> Failure {
    Failure::new(format!("cannot write to standard output: {error}"), "")
}
