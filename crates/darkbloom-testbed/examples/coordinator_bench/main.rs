//! The coordinator beside the least that it could be, and beside the durable commit that it waits for: one run, interleaved
//! rounds, medians.
//!
//! `cargo run --release -p darkbloom-testbed --example coordinator_bench -- [rounds=5] [only=hop,rate,stream,memory,segments]
//! [wraps=3] [idle=2000] [streams=1024] [folder=/tmp] [shm=/dev/shm]`
//!
//! Coordinator and floor (`darkbloom_testbed::floor`) run in processes of their own, whose processor time and memory alone are
//! counted; consumers and providers are scripted and share this process. Requests are sealed, answers sealed and receipts signed
//! before the clock runs; the coordinator is the one that ships, with its ledger on a disk and its log at its usual level.

#![allow(clippy::print_stdout, reason = "a table for whoever measures")]

mod bed;
mod goals;
mod load;
mod process;
mod provider;

use std::path::{Path, PathBuf};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What to measure.
pub struct Options {
    rounds: usize,
    only: String,
    wraps: usize,
    idle: usize,
    streams: usize,
    folder: PathBuf,
    shm: PathBuf,
    role: Option<String>,
}

impl Options {
    fn parse() -> Outcome<Self> {
        let mut options = Self {
            rounds: 5,
            only: "hop,rate,stream,memory,segments".to_owned(),
            wraps: darkbloom_client::CANDIDATES_DEFAULT,
            idle: 2_000,
            streams: 1_024,
            folder: std::env::temp_dir(),
            shm: "/dev/shm".into(),
            role: None,
        };
        for argument in std::env::args().skip(1) {
            match argument.split_once('=').ok_or("arguments are key=value")? {
                ("rounds", value) => options.rounds = value.parse()?,
                ("only", value) => options.only = value.to_owned(),
                ("wraps", value) => options.wraps = value.parse()?,
                ("idle", value) => options.idle = value.parse()?,
                ("streams", value) => options.streams = value.parse()?,
                ("folder", value) => options.folder = value.into(),
                ("shm", value) => options.shm = value.into(),
                ("role", value) => options.role = Some(value.to_owned()),
                (key, _) => return Err(format!("unknown argument {key}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.split(',').any(|one| one == part)
    }
}

fn main() -> Outcome<()> {
    let options = Options::parse()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(role) = &options.role {
        let folder = (role == "coordinator" || std::env::args().any(|word| word.starts_with("folder=")))
            .then_some(options.folder.as_path());
        return runtime.block_on(process::play(role, folder));
    }
    machine();
    runtime.block_on(async {
        if options.wants("segments") {
            goals::segments(&options)?;
        }
        if options.wants("hop") {
            goals::hop(&options).await?;
        }
        if options.wants("rate") {
            goals::rate(&options).await?;
        }
        if options.wants("stream") {
            goals::stream(&options).await?;
        }
        if options.wants("memory") {
            goals::memory(&options).await?;
        }
        Ok(())
    })
}

/// Says what this was measured on.
fn machine() {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    println!("{}, {cores} cores, load {}", model.trim_start_matches(['\t', ':', ' ']), read("/proc/loadavg").trim());
}
