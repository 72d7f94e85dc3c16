//! `darkbloom`: one program, every role. A thin shell around the roles' crates: arguments, settings, signals, output.

#![forbid(unsafe_code)]

// The attack suite's second build is of libraries alone: no program has switches.
const _: () = assert!(!darkbloom_types::WEAKENED);

mod account;
mod admin;
mod arguments;
mod benchmark;
mod confinement;
mod dev;
mod doctor;
mod error;
mod files;
mod key;
mod local;
mod models;
mod operator;
mod policy;
mod providers;
mod roles;
mod settings;
mod status;
mod store;
mod supervisor;
mod trust;
mod verify;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use darkbloom_harden::{Measure, Report};

use crate::arguments::{Arguments, Command, Doctor};
use crate::error::Failure;
use crate::settings::Settings;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Reads the settings and closes this process to others before it has a second thread, and any secret.
fn start(arguments: Arguments) -> Result<(), Failure> {
    if !arguments.allow_preloaded {
        refuse_preloaded(&arguments.command)?;
    }
    let settings = settings::load(arguments.config.as_deref())?;
    let hardening = darkbloom_harden::close().and(confined(&arguments.command, &settings)?);
    let holds_secrets = holds_secrets(&arguments.command);
    for (measure, why) in hardening.missing() {
        // Whoever has no key for long needs no pages for it.
        if measure == Measure::SecretPages && !holds_secrets {
            continue;
        }
        tracing::warn!(measure = measure.name(), why, "a measure against other processes does not hold");
    }
    // One TLS implementation for everything in this process. A second call would only say that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(format!("cannot start: {error}"), "check the limits of this user's processes"))?;
    runtime.block_on(run(arguments.command, settings, &hardening))
}

/// Whether it has keys or prompts, and for long.
fn holds_secrets(command: &Command) -> bool {
    match command {
        Command::Dev(_) | Command::Coordinator(_) | Command::Activator(_) | Command::Gateway(_) | Command::Proxy(_) => {
            true
        }
        Command::Start(_) | Command::Key(_) | Command::Benchmark(_) | Command::Store(_) => true,
        Command::Doctor(_) | Command::Status(_) | Command::Keys(_) | Command::Providers(_) | Command::Policy(_) => {
            false
        }
        Command::Admin(_) | Command::Account(_) | Command::Login(_) => false,
        Command::Accounts(_) | Command::Catalogue(_) | Command::Verify(_) | Command::Models(_) => false,
    }
}

/// Whoever holds secrets does not begin to in company.
fn refuse_preloaded(command: &Command) -> Result<(), Failure> {
    match darkbloom_harden::preloaded() {
        Err(preloaded) if holds_secrets(command) => Err(Failure::new(
            preloaded.to_string(),
            format!(
                "start it without {}, or give `--allow-preloaded` if you put the library there yourself",
                preloaded.0.join(" and ")
            ),
        )),
        Err(_) | Ok(()) => Ok(()),
    }
}

/// Confines those that need little: providers, but for whoever starts one again when it dies; and `doctor`, which looks at
/// the machine as a provider sees it.
fn confined(command: &Command, settings: &Settings) -> Result<Report, Failure> {
    if let Command::Start(options) = command
        && options.foreground
    {
        return confinement::of_provider(options, &settings.provider);
    }
    if let Command::Doctor(Doctor { about: None, .. }) = command {
        return confinement::of_doctor(&settings.provider);
    }
    Ok(Report::default())
}

async fn run(command: Command, settings: Settings, hardening: &Report) -> Result<(), Failure> {
    match command {
        Command::Dev(options) => dev::run(options).await,
        Command::Coordinator(options) => roles::coordinator(options, settings.coordinator).await,
        Command::Activator(options) => roles::activator(options, settings.activator).await,
        Command::Gateway(options) => roles::gateway(options, settings.gateway).await,
        Command::Proxy(options) => roles::proxy(options, settings.proxy).await,
        Command::Doctor(options) => doctor::run(options, settings.provider, hardening).await,
        Command::Key(options) => key::run(options, settings.provider),
        Command::Status(options) => status::run(options, settings.provider),
        Command::Benchmark(options) => benchmark::run(options).await,
        Command::Start(options) => roles::provider(*options, settings.provider, hardening).await,
        Command::Keys(options) => admin::keys(options).await,
        Command::Admin(options) => operator::run(options).await,
        Command::Account(options) => account::run(options).await,
        Command::Login(options) => account::login(options).await,
        Command::Providers(options) => providers::run(options).await,
        Command::Policy(options) => policy::run(options).await,
        Command::Accounts(options) => admin::accounts(options).await,
        Command::Catalogue(options) => admin::catalogue(options).await,
        Command::Verify(options) => verify::run(options, settings.proxy).await,
        Command::Store(options) => store::run(options, settings.coordinator),
        Command::Models(options) => models::run(options, settings.provider).await,
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
