//! Options of `verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use darkbloom_types::ProviderId;

use super::{Demands, TrustOptions};

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// What to check.
    #[command(subcommand)]
    pub what: VerifyWhat,
}

/// What can be checked.
#[derive(Debug, Subcommand)]
pub enum VerifyWhat {
    /// A connected provider of a network, or the first 32.
    Provider {
        /// Which; all of them where none is named.
        provider: Option<ProviderId>,
        /// Those whose ids come after this one's.
        #[arg(long, conflicts_with = "provider")]
        after: Option<ProviderId>,
        /// Write what was checked into a file, to be checked again without any network.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
        /// Whom to trust.
        #[command(flatten)]
        trust: TrustOptions,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// What proves one answer, in a file that a proxy or gateway kept with `--receipts`: who gave it, as of then, with what
    /// weights, and what it cost.
    Receipt {
        /// The file.
        file: PathBuf,
        /// Whom to trust.
        #[command(flatten)]
        demands: Demands,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// A file that was saved before, as of when its coordinator signed it.
    Bundle {
        /// The file.
        file: PathBuf,
        /// Whom to trust.
        #[command(flatten)]
        demands: Demands,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}
