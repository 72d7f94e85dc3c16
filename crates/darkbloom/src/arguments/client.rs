//! Options of those that seal: gateway and proxy; and whom a client believes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use darkbloom_types::{NetworkId, ProviderId, Tier};

use super::Supervised;
use crate::trust::ActivatorKey;

/// Options of `gateway`.
#[derive(Debug, Args)]
pub struct Gateway {
    /// Where to listen.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// A folder in which what proves each answer is kept, without its text: `darkbloom verify receipt` reads it.
    #[arg(long, value_name = "FOLDER")]
    pub receipts: Option<PathBuf>,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustOptions,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
}

/// Options of `proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// Where to listen.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// The API key; better by DARKBLOOM_API_KEY than by a flag that others can see.
    #[arg(long, env = "DARKBLOOM_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// A folder in which what proves each answer is kept, without its text: `darkbloom verify receipt` reads it.
    #[arg(long, value_name = "FOLDER")]
    pub receipts: Option<PathBuf>,
    /// Whom to trust.
    #[command(flatten)]
    pub trust: TrustOptions,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
}

/// Which network a client trusts and how much it demands.
#[derive(Debug, Args)]
pub struct TrustOptions {
    /// The coordinator's address.
    #[arg(long)]
    pub coordinator: Option<String>,
    /// Whom it believes.
    #[command(flatten)]
    pub demands: Demands,
}

/// Whom a client believes and how much it demands.
#[derive(Debug, Args)]
pub struct Demands {
    /// The coordinator's pin: 64 hex digits, as it prints them at its start. Without it the first one met is pinned, and any
    /// coordinator's bundle is read.
    #[arg(long)]
    pub coordinator_key: Option<NetworkId>,
    /// Least tier of providers to seal to.
    #[arg(long)]
    pub tier_min: Option<Tier>,
    /// A provider to trust by name, whatever its tier; may be given again.
    #[arg(long = "pin-provider")]
    pub pinned: Vec<ProviderId>,
    /// A file in PEM with roots of makers of TPMs that are believed; may be given again.
    #[arg(long, value_name = "FILE")]
    pub tpm_roots: Vec<PathBuf>,
    /// An activator to believe by its key, whoever runs it; may be given again. With any, the network's own is not believed.
    #[arg(long = "pin-activator", value_name = "KEY")]
    pub activators: Vec<ActivatorKey>,
    /// A file with what may run on providers' machines: those that hardware measured as one of its releases reach more tiers.
    #[arg(long, value_name = "FILE")]
    pub measurements: Option<PathBuf>,
}
