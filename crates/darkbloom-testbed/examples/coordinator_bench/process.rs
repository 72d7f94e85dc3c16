//! The measured servers, each in a process of its own, so that what it takes is its own: this program again, in another role.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use darkbloom_coordinator::{Config, Coordinator, Terms};
use darkbloom_testbed::floor;
use darkbloom_types::{SecretString, Tier};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Outcome;

/// A server's process. It ends when this is dropped.
pub struct Process {
    child: std::process::Child,
    pub address: SocketAddr,
    said: Value,
}

impl Process {
    pub fn floor(ledger: Option<&Path>) -> Outcome<Self> {
        Self::start("floor", ledger)
    }

    pub fn coordinator(folder: &Path) -> Outcome<Self> {
        Self::start("coordinator", Some(folder))
    }

    fn start(role: &str, folder: Option<&Path>) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(format!("role={role}")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.args(folder.map(|folder| format!("folder={}", folder.display())));
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)?;
        let address = said["address"].as_str().ok_or("no address")?.parse()?;
        Ok(Self { child, address, said })
    }

    pub fn said(&self, name: &str) -> Outcome<&str> {
        Ok(self.said[name].as_str().ok_or("the process did not say it")?)
    }

    /// Seconds of processor time that all of its threads have taken, to the nanosecond, as the scheduler counts them.
    pub fn cpu(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let ran = |task: std::fs::DirEntry| -> Option<f64> {
            std::fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        tasks.map_or(f64::NAN, |tasks| tasks.flatten().filter_map(ran).sum::<f64>() / 1e9)
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) * 1_024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays a server until the process that started this one is gone.
pub async fn play(role: &str, folder: Option<&Path>) -> Outcome<()> {
    let listen = TcpListener::bind(("127.0.0.1", 0)).await?;
    match role {
        "floor" => {
            say(&json!({"address": listen.local_addr()?}))?;
            let folder = folder.map(Path::to_owned);
            tokio::spawn(async move { floor::serve(listen, folder.as_deref()).await });
            wait().await
        }
        "coordinator" => {
            drop(listen);
            // As the program logs by default: that is part of what a request costs.
            tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
            let coordinator = Coordinator::start(Config {
                listen: ([127, 0, 0, 1], 0).into(),
                data: folder.ok_or("a coordinator needs a folder")?.to_owned(),
                tier_min: Tier::None,
                tpm_roots: darkbloom_coordinator::Roots::default(),
                database: None,
                key_secret: None,
                terms: Terms::default(),
                metrics: None,
            })
            .await?;
            let key = coordinator.admin_key.as_ref().map_or("", SecretString::expose);
            say(&json!({"address": coordinator.address, "network": coordinator.network, "key": key}))?;
            wait().await?;
            coordinator.stop().await;
            Ok(())
        }
        _ => Err(format!("no role is called {role}").into()),
    }
}

fn say(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

async fn wait() -> Outcome<()> {
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await??;
    Ok(())
}
