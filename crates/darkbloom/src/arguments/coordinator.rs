//! Options of those that an operator runs: coordinator and activator.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use darkbloom_types::Tier;

use super::Supervised;

/// Options of `coordinator`.
#[derive(Debug, Args)]
pub struct Coordinator {
    /// Where to listen.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// The folder of database and key.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Least tier of providers that get work.
    #[arg(long)]
    pub tier_min: Option<Tier>,
    /// A file in PEM with roots of makers of TPMs; may be given again. With any, the coordinator vouches for their TPMs.
    #[arg(long, value_name = "FILE")]
    pub tpm_roots: Vec<PathBuf>,
    /// A file whose bytes, 16 to 4,096 of them, encrypt its key: a credential of systemd, a Kubernetes secret, or one on a volume
    /// that is not always there. A key that lies in the open is refused then: `darkbloom key seal`
    /// encrypts one.
    #[arg(long, value_name = "FILE")]
    pub key_secret: Option<PathBuf>,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
}

/// Options of `activator`.
#[derive(Debug, Args)]
pub struct Activator {
    /// Where to listen.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// The folder of its key.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// A file in PEM with roots of makers of TPMs that it vouches for; may be given again.
    #[arg(long, value_name = "FILE")]
    pub tpm_roots: Vec<PathBuf>,
    /// A file whose bytes, 16 to 4,096 of them, encrypt its key: a credential of systemd, a Kubernetes secret, or one on a volume
    /// that is not always there. A key that lies in the open is refused then: `darkbloom key seal`
    /// encrypts one.
    #[arg(long, value_name = "FILE")]
    pub key_secret: Option<PathBuf>,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
}
