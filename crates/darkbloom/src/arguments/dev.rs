//! Options of `dev`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::rows;

/// Options of `dev`.
#[derive(Debug, Args)]
pub struct Dev {
    /// Ask this, print the answer and what was verified, and stop. Told to stop before, exit with 130 (SIGINT) or 143
    /// (SIGTERM).
    #[arg(long)]
    pub prompt: Option<String>,
    /// With --prompt: print one JSON object.
    #[arg(long, requires = "prompt")]
    pub json: bool,
    /// Keep the network's data here; by default it is gone afterwards.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where the gateway listens; by default 127.0.0.1:7700, with --prompt any free port.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Another GGUF model than the one that ships.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Batch rows of the provider, 1 to 256.
    #[arg(long, default_value_t = 8, value_parser = rows())]
    pub rows: usize,
    /// The provider computes with whatever is fastest; by default exactly.
    #[arg(long)]
    pub fast: bool,
}
