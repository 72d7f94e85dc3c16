//! What a process does to keep others out of its memory, and itself out of everything else.
//!
//! Owns the measures of the operating system and the report of which of them hold. It must never decide whom to trust: what
//! a process says about itself is its own word. Two steps: [`close`] for every role, from its first moment; [`confine`] for
//! a provider, which reads what strangers sealed and runs a large library of C++ over it.
//!
//! | Measure | Keeps out |
//! |---|---|
//! | `no_core` | a disk, when the process dies |
//! | `not_dumpable` | other processes of the same user: `ptrace`, `/proc/PID/mem`, `process_vm_readv` |
//! | `secret_pages` | other processes and root, from private keys: they lie in pages that the kernel itself does not map |
//! | `deny_attach` | debuggers (macOS) |
//! | `hardened_runtime` | other processes and libraries of others, as macOS holds it to its signature |
//! | `own_libraries` | libraries that somebody told the loader to load into it |
//! | `no_new_privileges` | programs that run as another user |
//! | `files` | the process itself, from files that it does not need |
//! | `network` | the process itself, from connections that it does not need, and from listening |
//! | `system_calls` | the process itself, from programs, other processes and the kernel's rarely used parts |
//!
//! None of them keeps out the machine's administrator, who can run code in this process.

#[cfg(any(target_os = "macos", test))]
mod code_signing;
#[cfg(target_os = "linux")]
mod linux;
mod loader;
#[cfg(target_os = "macos")]
mod macos;
mod pages;

use std::path::PathBuf;

use darkbloom_types::armed;
pub use loader::{Preloaded, preloaded};
pub use pages::SecretPages;

/// One measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// No core file is written.
    NoCore,
    /// Other processes of the same user read nothing.
    NotDumpable,
    /// Private keys lie in pages that no other process reads.
    SecretPages,
    /// No debugger attaches.
    DenyAttach,
    /// It is signed for the hardened runtime, and not to be debugged.
    HardenedRuntime,
    /// Nobody told the loader where its libraries come from, or to load others.
    OwnLibraries,
    /// No program that it starts has more rights.
    NoNewPrivileges,
    /// Files that it does not need are out of reach.
    Files,
    /// Connections that it does not need are out of reach.
    Network,
    /// System calls that it does not need are out of reach.
    SystemCalls,
}

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 10] = [
        Self::NoCore,
        Self::NotDumpable,
        Self::SecretPages,
        Self::DenyAttach,
        Self::HardenedRuntime,
        Self::OwnLibraries,
        Self::NoNewPrivileges,
        Self::Files,
        Self::Network,
        Self::SystemCalls,
    ];

    /// The name in reports and statements.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCore => "no_core",
            Self::NotDumpable => "not_dumpable",
            Self::SecretPages => "secret_pages",
            Self::DenyAttach => "deny_attach",
            Self::HardenedRuntime => "hardened_runtime",
            Self::OwnLibraries => "own_libraries",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Files => "files",
            Self::Network => "network",
            Self::SystemCalls => "system_calls",
        }
    }
}

/// What became of a measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds, for every thread.
    Active,
    /// It does not, for this reason: the kernel is too old, or refused.
    Missing(String),
}

/// What became of each measure that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report(Vec<(Measure, Outcome)>);

impl Report {
    fn note(&mut self, measure: Measure, outcome: Result<(), String>) {
        self.0.push((measure, outcome.map_or_else(Outcome::Missing, |()| Outcome::Active)));
    }

    /// Every measure that was tried, and what became of it.
    pub fn outcomes(&self) -> impl Iterator<Item = (Measure, &Outcome)> {
        self.0.iter().map(|(measure, outcome)| (*measure, outcome))
    }

    /// Those that hold.
    pub fn active(&self) -> impl Iterator<Item = Measure> {
        self.0.iter().filter(|(_, outcome)| *outcome == Outcome::Active).map(|(measure, _)| *measure)
    }

    /// Those that do not, and why.
    pub fn missing(&self) -> impl Iterator<Item = (Measure, &str)> {
        self.0.iter().filter_map(|(measure, outcome)| match outcome {
            Outcome::Missing(why) => Some((*measure, &**why)),
            Outcome::Active => None,
        })
    }

    /// This report and another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

/// What a provider needs of its machine. Everything else is out of its reach once it is confined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files, and folders with all that is in them, that are read.
    pub read: Vec<PathBuf>,
    /// Files, and folders with all that is in them, that are read and written.
    pub write: Vec<PathBuf>,
    /// TCP ports that are connected to.
    pub connect: Vec<u16>,
    /// Whether it listens.
    pub listens: bool,
}

/// Closes this process to others: no core file, not dumpable, no new privileges. Each by itself; none is needed for another.
#[must_use]
pub fn close() -> Report {
    let mut report = Report::default();
    // First: a process that is closed is not shown by Linux what it was started with.
    report.note(Measure::OwnLibraries, loader::own_libraries());
    report.note(Measure::NoCore, no_core());
    #[cfg(target_os = "linux")]
    linux::close(&mut report);
    #[cfg(target_os = "macos")]
    macos::close(&mut report);
    report
}

/// A limit of zero bytes stops the kernel from writing a core file itself; a program that it pipes cores to may still
/// choose otherwise, for which a process that is not dumpable gives it nothing.
fn no_core() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if !armed!("process_no_core") {
        return Ok(());
    }
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(|error| error.to_string())
}

/// Whether private keys lie in pages that no other process reads; why not, if they do not. The first call makes the pages.
///
/// # Errors
/// What the system said, and where keys lie instead.
pub fn secret_pages() -> Result<(), String> {
    pages::prepare()
}

/// Confines this process to what it needs. To be called while it has one thread: the kernel confines the caller's, and those
/// that it starts.
#[must_use]
pub fn confine(needs: &Needs) -> Report {
    let mut report = Report::default();
    #[cfg(target_os = "linux")]
    linux::confine(needs, &mut report);
    #[cfg(not(target_os = "linux"))]
    let _ = (needs, &mut report);
    report
}
