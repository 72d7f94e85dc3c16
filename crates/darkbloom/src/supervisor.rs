//! A provider that is started again when its process dies.
//!
//! llama.cpp ends the whole process when it finds one of its own assumptions broken. What is then lost is what was running: the
//! coordinator sees the connection go and asks others. The identity lies on disk, so the next process is the same provider,
//! with new epoch keys.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use crate::error::{Failure, START_AGAIN};
use crate::roles::Stop;

/// The exit status of a Rust program whose main thread panicked.
const PANICKED: i32 = 101;

/// A provider that was told to stop has this long to end its answers; then it is killed.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// Waits before the process is started again: the first, and the longest of those that double.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A process that ran for so long had no trouble starting: the waits begin anew.
const GOOD_RUN: Duration = Duration::from_secs(30);

/// So many processes in a row that did not run well are enough: about two minutes of trying.
const BAD_RUNS_MAX: u32 = 8;

/// How often it has gone wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Restarts {
    bad_runs: u32,
}

impl Restarts {
    /// A process died after it had run for so long. How long to wait before the next one; nothing means that it is hopeless.
    fn died(&mut self, ran: Duration) -> Option<Duration> {
        self.bad_runs = if ran >= GOOD_RUN { 1 } else { self.bad_runs + 1 };
        let doubled = WAIT_FIRST.saturating_mul(1 << (self.bad_runs - 1).min(16));
        (self.bad_runs < BAD_RUNS_MAX).then(|| doubled.min(WAIT_MAX))
    }
}

/// Whether a process that ended so should be started again. One that was refused something says so and ends with 1: it would be
/// refused again.
fn died(status: ExitStatus) -> bool {
    status.signal().is_some() || status.code() == Some(i32::from(START_AGAIN)) || status.code() == Some(PANICKED)
}

/// Runs this same command as a child, again and again, until it ends in good order or this process is told to stop.
pub async fn run(stop: Stop) -> Result<(), Failure> {
    let mut restarts = Restarts::default();
    let told = stop.told();
    tokio::pin!(told);
    // Asked once: when the program is replaced on the disk, Linux no longer knows where it was.
    let program = std::env::current_exe().map_err(|error| cannot_start(&error))?;
    loop {
        let mut child = start(&program)?;
        // Waiting for the child would close it, and so tell it to stop.
        let stdin = child.stdin.take();
        let began = Instant::now();
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = &mut told => return end(child, stdin).await,
        };
        let status = ended.map_err(|error| Failure::new(format!("cannot wait for the provider: {error}"), ""))?;
        if !died(status) {
            // It has said why itself.
            let code = u8::try_from(status.code().unwrap_or(1)).unwrap_or(1);
            return if code == 0 { Ok(()) } else { Err(Failure::said(code)) };
        }
        let Some(wait) = restarts.died(began.elapsed()) else {
            let message =
                format!("the provider died {BAD_RUNS_MAX} times soon after its start, the last time with {status}");
            return Err(Failure::new(
                message,
                "see its log above; try another model, fewer `--rows` or less `--context`",
            ));
        };
        tracing::warn!(%status, wait_s = wait.as_secs(), "the provider died and is started again");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut told => return Ok(()),
        }
    }
}

fn cannot_start(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start the provider: {error}"), "")
}

fn start(program: &Path) -> Result<Child, Failure> {
    let given: Vec<OsString> =
        std::env::args_os().skip(1).filter(|argument| argument != "--until-stdin-closes").collect();
    Command::new(program)
        .args(given)
        // Its standard input closes when this process ends, however it ends.
        .args(["--foreground", "--until-stdin-closes"])
        .stdin(Stdio::piped())
        // Its own process group: a Ctrl-C in the terminal reaches this process, which stops it in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot_start(&error))
}

/// Tells the process to stop, and waits for it.
async fn end(mut child: Child, stdin: Option<ChildStdin>) -> Result<(), Failure> {
    drop(stdin);
    // While it starts it hears signals only.
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // It may have ended at this very moment.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_WAIT, child.wait()).await.is_err() {
        tracing::warn!(wait_s = STOP_WAIT.as_secs(), "the provider does not stop and is killed");
        // It may have ended at this very moment.
        let _ = child.kill().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let mut restarts = Restarts::default();
        let waits: Vec<_> =
            std::iter::from_fn(|| restarts.died(Duration::from_secs(3))).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn a_good_run_makes_up_for_bad_ones() {
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.died(Duration::from_secs(3));
        }
        assert_eq!(restarts.died(GOOD_RUN), Some(WAIT_FIRST));
        assert_eq!(restarts.died(Duration::ZERO), Some(WAIT_FIRST * 2));
    }

    #[test]
    fn only_a_process_that_died_is_started_again() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(!died(exited(0)) && !died(exited(1)) && !died(exited(2)));
        assert!(died(exited(75)) && died(exited(101)));
        // SIGABRT, SIGKILL and SIGSEGV.
        for signal in [6, 9, 11] {
            assert!(died(ExitStatus::from_raw(signal)), "signal {signal}");
        }
    }
}
