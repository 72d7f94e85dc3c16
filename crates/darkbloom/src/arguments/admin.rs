//! Options of an administrator's commands.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::settings::Adapter;

/// How an administrator reaches the coordinator.
#[derive(Debug, Args)]
pub struct AdminOptions {
    /// The coordinator's address.
    #[arg(long, env = "DARKBLOOM_COORDINATOR", default_value = "http://127.0.0.1:7701")]
    pub coordinator: String,
    /// The administrator's key; better by DARKBLOOM_ADMIN_KEY.
    #[arg(long, env = "DARKBLOOM_ADMIN_KEY", hide_env_values = true)]
    pub admin_key: Option<String>,
}

/// What a key opens.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KeyKind {
    /// Requests, paid by an account.
    Consumer,
    /// Administration.
    Admin,
    /// A provider's first joining.
    Join,
    /// An account's own affairs.
    Account,
}

/// Options of `keys`.
#[derive(Debug, Args)]
pub struct Keys {
    /// What to do.
    #[command(subcommand)]
    pub action: KeysAction,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysAction {
    /// Make a key; it is shown once.
    Create {
        /// What it opens.
        #[arg(long, value_enum, default_value = "consumer")]
        kind: KeyKind,
        /// The account that pays; needed for a consumer key.
        #[arg(long)]
        account: Option<String>,
        /// What people call it.
        #[arg(long, default_value = "key")]
        name: String,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// List the keys; their secrets are known to nobody.
    List {
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Change what a key is called and may do.
    Edit {
        /// Its id, from `keys list`.
        id: i64,
        /// Another name.
        #[arg(long)]
        name: Option<String>,
        /// As `day:5.00`, `month:100`, `total:20`, in US dollars; `none` for no budget.
        #[arg(long, value_name = "PERIOD:DOLLARS")]
        budget: Option<String>,
        /// Limits as JSON: `expires_at`, `models`, `tier_min`, `requests_per_minute`, `tokens_per_minute`; what is not named stays,
        /// and null takes a limit away.
        #[arg(long, value_name = "JSON")]
        limits: Option<String>,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Give a key another secret, which is shown once; the one before opens nothing any more.
    Rotate {
        /// Its id, from `keys list`.
        id: i64,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Make a key open nothing any more.
    Revoke {
        /// Its id, from `keys list`.
        id: i64,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
}

/// Options of `accounts`.
#[derive(Debug, Args)]
pub struct Accounts {
    /// What to do.
    #[command(subcommand)]
    pub action: AccountsAction,
}

/// What can be done with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountsAction {
    /// Open an account.
    Create {
        /// Its name.
        name: String,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// Give an account credit.
    Credit {
        /// Its name.
        name: String,
        /// How much, in US dollars, with up to nine decimal places.
        dollars: String,
        /// A reference; the same one never counts twice.
        #[arg(long)]
        reference: String,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
    /// List the accounts and what they have.
    List {
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
}

/// Options of `catalogue`.
#[derive(Debug, Args)]
pub struct Catalogue {
    /// What to do.
    #[command(subcommand)]
    pub action: CatalogueAction,
}

/// What can be done with the catalogue.
#[derive(Debug, Subcommand)]
pub enum CatalogueAction {
    /// Put a model on offer: hash the file here, sign the entry at the coordinator.
    Add {
        /// The GGUF file.
        model: PathBuf,
        /// A LoRA adapter that changes it, as providers have to start with it; may be given again.
        #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
        adapters: Vec<Adapter>,
        /// The name in requests.
        #[arg(long)]
        name: String,
        /// How the weights are stored, such as Q8_0.
        #[arg(long)]
        quantisation: String,
        /// Edition of the price; a new price needs a higher one.
        #[arg(long, default_value_t = 1)]
        price_version: u32,
        /// Nano-dollars for one input token.
        #[arg(long)]
        input_price: u32,
        /// Nano-dollars for one output token.
        #[arg(long)]
        output_price: u32,
        /// Where.
        #[command(flatten)]
        admin: AdminOptions,
    },
}
