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
    /// A file with the URL of a Postgres database, in place of the one in the folder; or the URL by DARKBLOOM_DATABASE_URL. It
    /// may hold a password, so it is never given here.
    #[arg(long, value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
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
    /// The operator's share of each charge, in hundredths of a percent: the owner of the machine gives it.
    #[arg(long, value_name = "BASIS_POINTS")]
    pub platform_fee: Option<u16>,
    /// The share of that fee that is whose who brought the consumer, in hundredths of a percent.
    #[arg(long, value_name = "BASIS_POINTS")]
    pub referral_share: Option<u16>,
    /// Requests that an account may begin in a minute; as many as it likes without a number.
    #[arg(long)]
    pub requests_per_minute: Option<u32>,
    /// Tokens of input and output together that an account may ask for in a minute; as many as it likes without a number.
    #[arg(long)]
    pub tokens_per_minute: Option<u32>,
    /// Where to say what it counts, for Prometheus: a loopback address, without a key.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<SocketAddr>,
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
