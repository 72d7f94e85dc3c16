//! Options of `admin`: what an operator does with a network's money, and what was done.

use clap::{Args, Subcommand, ValueEnum};

use super::AdminOptions;

/// Options of `admin`.
#[derive(Debug, Args)]
pub struct Operate {
    /// What to do.
    #[command(subcommand)]
    pub action: OperateAction,
    /// Where.
    #[command(flatten)]
    pub admin: AdminOptions,
}

/// Who is right in a dispute.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Side {
    /// The consumer gets the difference back.
    Consumer,
    /// All that were paid keep what they got.
    Provider,
}

/// How far a payout is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PayoutStep {
    /// Somebody outside was told to send it.
    Sending,
    /// It arrived.
    Paid,
    /// It did not, and is the account's again.
    Returned,
}

/// How far a deposit is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DepositStep {
    /// Somebody outside was told to take it.
    Expected,
    /// It came.
    Credited,
    /// It will not come.
    Abandoned,
}

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum OperateAction {
    /// Count the books against each other and against what is behind them. Exit with 3 when something is wrong
    Audit,
    /// Show what administrators did, newest first
    Trail {
        /// Check that no row was changed, left out or put in between instead. Exit with 3 when one was
        #[arg(long)]
        check: bool,
        /// Only rows before this one
        #[arg(long)]
        before: Option<i64>,
    },
    /// Change the fee that an account's machines give, or the budget of all its keys
    Account {
        /// The account's name
        name: String,
        /// The fee in hundredths of a percent; `none` for everybody's
        #[arg(long, value_name = "BASIS_POINTS")]
        fee: Option<String>,
        /// As `day:5.00`, `month:100`, `total:20`, in US dollars; `none` for no budget
        #[arg(long, value_name = "PERIOD:DOLLARS")]
        budget: Option<String>,
    },
    /// Say how far a deposit is that somebody outside takes. Each call can be made again
    Deposit {
        /// The account's name
        account: String,
        /// How much, in US dollars
        dollars: String,
        /// The name by which whoever takes it knows it; it is credited once
        #[arg(long)]
        reference: String,
        /// Who takes it
        #[arg(long)]
        source: String,
        /// How far it is
        #[arg(long, value_enum)]
        state: DepositStep,
    },
    /// List the deposits that are expected
    Deposits,
    /// List every edition of every price
    Prices,
    /// Give one account or one provider a price of its own for a model; without numbers, take it away
    Price {
        /// The model's name
        model: String,
        /// The account that pays it
        #[arg(long, conflicts_with = "provider", required_unless_present = "provider")]
        account: Option<String>,
        /// The provider that asks it; it may be no higher than everybody's
        #[arg(long)]
        provider: Option<String>,
        /// Nano-dollars for one input token
        #[arg(long, requires = "output_price")]
        input_price: Option<u32>,
        /// Nano-dollars for one output token
        #[arg(long, requires = "input_price")]
        output_price: Option<u32>,
    },
    /// Make an invite code, which gives credit to each account that redeems it; it is shown once
    Invite {
        /// What you call it
        name: String,
        /// What each account gets, in US dollars
        dollars: String,
        /// How many accounts may redeem it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how many days
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// List the invite codes; the codes themselves are known to nobody
    Invites,
    /// Let nobody redeem an invite code any more
    EndInvite {
        /// Its number, from `admin invites`
        id: i64,
    },
    /// List the payouts under way
    Payouts,
    /// Say how far a payout is
    Payout {
        /// Its number, from `admin payouts`
        id: i64,
        /// How far it is
        #[arg(value_enum)]
        state: PayoutStep,
        /// The name that whoever carries it out has for it
        #[arg(long)]
        outside: Option<String>,
    },
    /// List the disputes that nobody has decided
    Disputes,
    /// Decide a dispute
    Decide {
        /// The request, from `admin disputes`
        request: String,
        /// Who is right
        #[arg(value_enum)]
        side: Side,
    },
    /// Say whose a machine is; it earns for that account, and answers its requests free of charge
    Owner {
        /// The provider's id
        provider: String,
        /// The account's name; none for nobody's
        account: Option<String>,
    },
}
