//! Options of `account` and `login`: somebody's own affairs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// How somebody with an account reaches the coordinator.
#[derive(Debug, Args)]
pub struct AccountOptions {
    /// The coordinator's address
    #[arg(long, env = "DARKBLOOM_COORDINATOR", default_value = "http://127.0.0.1:7701")]
    pub coordinator: String,
    /// The account's key; better by DARKBLOOM_ACCOUNT_KEY
    #[arg(long, env = "DARKBLOOM_ACCOUNT_KEY", hide_env_values = true)]
    pub account_key: Option<String>,
}

/// Options of `account`.
#[derive(Debug, Args)]
pub struct Account {
    /// What to do.
    #[command(subcommand)]
    pub action: AccountAction,
    /// Where.
    #[command(flatten)]
    pub at: AccountOptions,
}

/// What somebody does with an account of his own.
#[derive(Debug, Subcommand)]
pub enum AccountAction {
    /// Show what the account has, earned and may have paid out
    Balance,
    /// List the account's machines and what each earned
    Machines,
    /// List each job that was paid, as a table for a spreadsheet (CSV)
    Jobs {
        /// Only jobs after this one
        #[arg(long, default_value_t = 0)]
        after: i64,
    },
    /// Have earnings paid out
    Payout {
        /// How much, in US dollars
        dollars: String,
        /// Where it goes, in words that the operator understands
        #[arg(long)]
        to: String,
        /// Your own name for it; the same one never counts twice
        #[arg(long)]
        reference: String,
    },
    /// List the payouts and how far they are
    Payouts,
    /// Make earnings credit of your own
    Spend {
        /// How much, in US dollars
        dollars: String,
        /// Your own name for it; the same one never counts twice
        #[arg(long)]
        reference: String,
    },
    /// Redeem an invite code
    Redeem {
        /// The code
        code: String,
    },
    /// Make a fresh referral code: who applies it says that you brought him
    Refer,
    /// Say who brought you
    ReferredBy {
        /// The code that you were given
        code: String,
    },
    /// Dispute what an answer cost, with your own count of its tokens
    Dispute {
        /// The request, as in `x-darkbloom-request`
        request: String,
        /// Input tokens
        #[arg(long)]
        input: u32,
        /// Output tokens
        #[arg(long)]
        output: u32,
    },
    /// Have one of your machines ask less for a model; without numbers, what everybody does
    Price {
        /// The model's name
        model: String,
        /// The machine
        #[arg(long)]
        provider: String,
        /// Nano-dollars for one input token
        #[arg(long, requires = "output_price")]
        input_price: Option<u32>,
        /// Nano-dollars for one output token
        #[arg(long, requires = "input_price")]
        output_price: Option<u32>,
    },
    /// Show what a machine's code would be given, and give or deny it
    Approve {
        /// The code that the machine shows
        code: String,
        /// Give it without asking
        #[arg(long, conflicts_with = "deny")]
        yes: bool,
        /// Deny it
        #[arg(long)]
        deny: bool,
    },
    /// List the account's keys
    Keys,
    /// Make a key of the account; it is shown once
    Key {
        /// What it opens
        #[arg(long, value_enum, default_value = "consumer")]
        kind: LoginKind,
        /// What you call it
        #[arg(long, default_value = "key")]
        name: String,
    },
    /// Give a key another secret; the one before opens nothing any more
    RotateKey {
        /// Its id
        id: i64,
    },
    /// Make a key open nothing any more
    RevokeKey {
        /// Its id
        id: i64,
    },
}

/// What a key opens that somebody signs in for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LoginKind {
    /// Requests, paid by the account.
    Consumer,
    /// A provider's first joining; it earns for the account.
    Join,
    /// The account's own affairs.
    Account,
}

/// Options of `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// What the key opens
    #[arg(long, value_enum, default_value = "consumer")]
    pub kind: LoginKind,
    /// What this machine is called
    #[arg(long, default_value = "this machine")]
    pub name: String,
    /// The file for the key, which must not exist; without one it is shown
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The coordinator's address
    #[arg(long, env = "DARKBLOOM_COORDINATOR", default_value = "http://127.0.0.1:7701")]
    pub coordinator: String,
}
