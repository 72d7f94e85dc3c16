//! The command line: a file for each role.

mod account;
mod admin;
mod client;
mod coordinator;
mod dev;
mod key;
mod models;
mod operator;
mod provider;
mod verify;

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use crate::settings::ROWS;

pub use account::{Account, AccountAction, AccountOptions, Login, LoginKind};
pub use admin::{Accounts, AccountsAction, AdminOptions, Catalogue, CatalogueAction, KeyKind, Keys, KeysAction};
pub use client::{Demands, Gateway, Proxy, TrustOptions};
pub use coordinator::{Activator, Coordinator};
pub use dev::Dev;
pub use key::{Key, KeyAction, KeyOptions, KeyPlace};
pub use models::{CatalogueSource, Download, ModelPlaces, Models, ModelsAction};
pub use operator::{DepositStep, Operate, OperateAction, PayoutStep, Side};
pub use provider::{Benchmark, Doctor, DoctorAbout, EvidenceOptions, Start};
pub use verify::{Verify, VerifyWhat};

/// Private inference on machines you do not own, that anyone can check.
#[derive(Debug, Parser)]
#[command(name = "darkbloom", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// A TOML file with a table for each role; flags win over it.
    #[arg(long, global = true, env = "DARKBLOOM_CONFIG")]
    pub config: Option<PathBuf>,
    /// Start although the loader was told to load a library into this process (LD_PRELOAD and the like), which then sees all
    /// that it knows. Statements say so.
    #[arg(long, global = true)]
    pub allow_preloaded: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole network on this machine: coordinator, gateway and a provider with the model that ships.
    Dev(Dev),
    /// Run a coordinator. The first start prints an administrator key.
    Coordinator(Coordinator),
    /// Run an activator alone: it vouches for TPMs to consumers who pin it and rely on no network's operator.
    Activator(Activator),
    /// Run a gateway: OpenAI clients send it their key, it seals on their behalf.
    Gateway(Gateway),
    /// Run a local OpenAI endpoint that verifies and seals on this machine.
    Proxy(Proxy),
    /// Run a provider. When it dies it is started again.
    Start(Box<Start>),
    /// Show what this machine offers to models: memory, processor, devices; and where a key can live.
    Doctor(Doctor),
    /// Show, test and delete this machine's identity as a provider.
    Key(Key),
    /// Show where this machine's provider stands: its identity, its connection, whether it gets work and why not.
    Status(crate::status::StatusOptions),
    /// Measure what this machine does with a model.
    Benchmark(Benchmark),
    /// Make, list, change and revoke API keys and join tokens.
    Keys(Keys),
    /// Keep a network's money in order: budgets, prices, invites, payouts, disputes; and see what administrators did
    Admin(Operate),
    /// See to your own account: what it has, what your machines earned, payouts, codes, keys
    Account(Account),
    /// Get a key for this machine by a code that you approve elsewhere
    Login(Login),
    /// See who is connected, refuse identities, trust them again.
    Providers(crate::providers::Providers),
    /// Say what providers must be or show before they get work, and see first whom that would leave out.
    Policy(crate::policy::PolicyOptions),
    /// Make accounts and give them credit.
    Accounts(Accounts),
    /// Put models on offer.
    Catalogue(Catalogue),
    /// Look after a coordinator's data: bring it to a newer release, back it up, restore it, count it again.
    Store(crate::store::StoreOptions),
    /// Find, download and remove model files of this machine.
    Models(Models),
    /// Check what is claimed about providers, live or from a file. Exit with 3 when something does not hold.
    Verify(Verify),
}

/// For programs that start a role.
#[derive(Debug, Clone, Copy, Args)]
pub struct Supervised {
    /// Say on standard output, as JSON, when it is ready.
    #[arg(long)]
    pub json: bool,
    /// Stop when standard input ends, so that it never outlives whoever started it.
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// A number of batch rows.
fn rows() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(*ROWS.start() as u64..=*ROWS.end() as u64)
}
