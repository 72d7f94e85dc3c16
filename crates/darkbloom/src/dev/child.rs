//! One role as a child process.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use crate::error::Failure;
use darkbloom_client::printable;

/// A role that was told to stop has this long; then it is killed.
pub const STOP_WAIT: Duration = Duration::from_secs(20);
/// Log lines that are kept of a quiet child, to show when it fails.
const LOG_LINES_MAX: usize = 20;

/// What is the same for all roles.
pub struct Spawning {
    /// Whether their logs are kept back.
    pub quiet: bool,
    /// Each role holds one as long as its process runs.
    pub running: mpsc::Sender<()>,
}

/// A running role.
pub struct Child {
    role: &'static str,
    /// Closing it tells the role to stop; it also closes by itself when this process dies.
    stdin: Mutex<Option<ChildStdin>>,
    status: watch::Receiver<Option<String>>,
    kill: watch::Sender<bool>,
    /// Ends with the last lines of the role's log.
    log: Mutex<Option<JoinHandle<Vec<String>>>>,
}

impl Child {
    /// Starts a role of this same program and waits until it says that it is ready.
    pub async fn start(
        role: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        spawning: &Spawning,
        wait: Duration,
    ) -> Result<(Self, Value), Failure> {
        let cannot = |error: std::io::Error| Failure::new(format!("cannot start the {role}: {error}"), "");
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--json", "--until-stdin-closes"])
            .envs(environment.iter().copied())
            .env_remove("DARKBLOOM_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own process group: a Ctrl-C in the terminal reaches this process, which stops the roles in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut process = command.spawn().map_err(cannot)?;
        let stdin = process.stdin.take();
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let log = Mutex::new(Some(tokio::spawn(log(role, stderr, spawning.quiet))));
        let (said, status) = watch::channel(None);
        let (kill, mut killed) = watch::channel(false);
        let running = spawning.running.clone();
        tokio::spawn(async move {
            let _running = running;
            let told = async {
                // An error means that nobody can tell any more.
                let _ = killed.wait_for(|kill| *kill).await;
            };
            let status = tokio::select! {
                status = process.wait() => status,
                () = told => {
                    let _ = process.start_kill();
                    process.wait().await
                }
            };
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            let _ = said.send(Some(status));
        });
        let child = Self { role, stdin: Mutex::new(stdin), status, kill, log };
        match tokio::time::timeout(wait, ready(stdout)).await {
            Ok(Some(ready)) => Ok((child, ready)),
            Ok(None) => {
                let (why, hint) = child.why_ended().await;
                Err(Failure::new(format!("the {role} did not start: {why}"), hint.unwrap_or_default()))
            }
            Err(_) => {
                Err(Failure::new(format!("the {role} was not ready after {} s", wait.as_secs()), "see its log above"))
            }
        }
    }

    /// Waits until it ends without having been told to, which is a failure.
    pub async fn ended_by_itself(&self) -> Failure {
        let (why, hint) = self.why_ended().await;
        let hint = hint.unwrap_or_else(|| "see its log above".to_owned());
        Failure::new(format!("the {} ended by itself: {why}", self.role), hint)
    }

    /// Waits until it ends: what it said last about it, or its status, and its next step.
    async fn why_ended(&self) -> (String, Option<String>) {
        let status = self.ended().await;
        let log = self.log.lock().await.take();
        let lines = match log {
            Some(log) => log.await.unwrap_or_default(),
            None => Vec::new(),
        };
        let last = |head: &str| lines.iter().rev().find_map(|line| line.strip_prefix(head)).map(str::to_owned);
        (last("error: ").unwrap_or(status), last("hint: "))
    }

    /// Waits until it ends, and says how.
    async fn ended(&self) -> String {
        let mut status = self.status.clone();
        let ended = status.wait_for(Option::is_some).await;
        ended.ok().and_then(|status| status.clone()).unwrap_or_else(|| "unknown".to_owned())
    }

    /// Tells it to stop, and waits.
    pub async fn stop(self) {
        drop(self.stdin.lock().await.take());
        if tokio::time::timeout(STOP_WAIT, self.ended()).await.is_err() {
            tracing::warn!(role = self.role, "did not stop in time and is killed");
            let _ = self.kill.send(true);
            self.ended().await;
        }
    }
}

/// The line that says that the role is ready; `None` when it ends without it.
async fn ready(stdout: Option<impl AsyncRead + Unpin>) -> Option<Value> {
    let mut lines = BufReader::new(stdout?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(value) = serde_json::from_str::<Value>(&line)
            && value.get("ready").is_some()
        {
            return Some(value);
        }
    }
    None
}

/// Shows the role's log, or keeps its last lines.
async fn log(role: &'static str, stderr: Option<impl AsyncRead + Unpin>, quiet: bool) -> Vec<String> {
    let mut kept = Vec::new();
    let Some(stderr) = stderr else { return kept };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A role logs what the network says, and this is a terminal.
        let line = printable(&line);
        if !quiet {
            use std::io::Write as _;
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr().lock(), "{role:<11} | {line}");
        }
        if kept.len() >= LOG_LINES_MAX {
            kept.remove(0);
        }
        kept.push(line);
    }
    kept
}
