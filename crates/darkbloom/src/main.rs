//! `darkbloom`: one program, every role. A thin shell around the roles' crates: arguments, settings, signals, output.

#![forbid(unsafe_code)]

mod admin;
mod arguments;
mod benchmark;
mod dev;
mod doctor;
mod error;
mod local;
mod models;
mod roles;
mod settings;
mod supervisor;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    leave_no_core();
    // One TLS implementation for everything in this process. A second call would only say that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return error::Failure::new(format!("cannot start: {error}"), "check the limits of this user's processes")
                .report();
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(arguments: Arguments) -> Result<(), error::Failure> {
    let settings = settings::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Dev(options) => dev::run(options).await,
        Command::Coordinator(options) => roles::coordinator(options, settings.coordinator).await,
        Command::Gateway(options) => roles::gateway(options, settings.gateway).await,
        Command::Proxy(options) => roles::proxy(options, settings.proxy).await,
        Command::Doctor(options) => doctor::run(options).await,
        Command::Benchmark(options) => benchmark::run(options).await,
        Command::Start(options) => roles::provider(options, settings.provider).await,
        Command::Keys(options) => admin::keys(options).await,
        Command::Accounts(options) => admin::accounts(options).await,
        Command::Catalogue(options) => admin::catalogue(options).await,
        Command::Models(options) => models::run(options, settings.provider).await,
    }
}

/// A process that dies must not leave its memory on a disk: keys, prompts and answers are in it. A limit of zero bytes stops the
/// kernel from writing a core file itself; a program that it pipes cores to may still choose otherwise.
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "cannot forbid core files");
    }
}

/// The log goes to standard error; `DARKBLOOM_LOG` chooses what is in it, as `info` or `darkbloom_provider=debug`.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DARKBLOOM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(colours).with_target(false).init();
}
