//! Options of a provider and of what is asked of its machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use darkbloom_types::NetworkId;

use super::{KeyOptions, KeyPlace, Supervised, rows};
use crate::settings::{AcceleratorPolicy, Adapter, Memory};

/// Options of `start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Be one process, which is not started again when it dies: for service managers, which do that themselves.
    #[arg(long)]
    pub foreground: bool,
    /// Serve programs of this machine, without a coordinator: OpenAI's interface on a loopback address, with a key.
    #[arg(long, conflicts_with_all = ["coordinator", "coordinator_key"])]
    pub local: bool,
    /// Where, with --local; by default 7703.
    #[arg(long, requires = "local")]
    pub port: Option<u16>,
    /// The key that programs send, with --local; by default one that is made once and kept in the data folder. Better by
    /// DARKBLOOM_LOCAL_KEY than by a flag that others can see.
    #[arg(long, env = "DARKBLOOM_LOCAL_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// The coordinator's address.
    #[arg(long)]
    pub coordinator: Option<String>,
    /// The coordinator's pin: 64 hex digits. Without it the first one met is pinned.
    #[arg(long)]
    pub coordinator_key: Option<NetworkId>,
    /// The join token, for the first time; better by DARKBLOOM_JOIN_TOKEN.
    #[arg(long, env = "DARKBLOOM_JOIN_TOKEN", hide_env_values = true)]
    pub join_token: Option<String>,
    /// The folder of identity and receipts.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where its identity key may live.
    #[command(flatten)]
    pub keys: KeyOptions,
    /// Where evidence about this machine is found.
    #[command(flatten)]
    pub evidence: EvidenceOptions,
    /// The address of an activator besides the coordinator's own, which consumers may pin; may be given again.
    #[arg(long = "activator", value_name = "URL")]
    pub activators: Vec<String>,
    /// The GGUF model; may be given again. The first is loaded at the start, the others when somebody asks for them.
    #[arg(long)]
    pub model: Vec<PathBuf>,
    /// A LoRA adapter that changes the model, and how much of it is added, 1 where nothing is said; may be given again. With
    /// one model only.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    pub adapters: Vec<Adapter>,
    /// Memory for all models together, such as 12GiB or 800MiB; by default three quarters of what is free.
    #[arg(long)]
    pub memory: Option<Memory>,
    /// Minutes without a request after which a model is unloaded; 0 for never. By default 60.
    #[arg(long, value_name = "MINUTES")]
    pub idle_unload: Option<u64>,
    /// Batch rows: requests that a model answers at the same time, 1 to 256; by default 8, or what there is memory for.
    #[arg(long, value_parser = rows())]
    pub rows: Option<usize>,
    /// Most tokens of prompt and answer together; by default 8192, or what there is memory for.
    #[arg(long)]
    pub context: Option<usize>,
    /// Threads of the engine; by default cores minus one.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Compute with whatever is fastest. Otherwise an answer is the same, bit for bit, whoever shares the batch.
    #[arg(long)]
    pub fast: bool,
    /// What models run on; by default the CPU, and with --fast an accelerator where there is one.
    #[arg(long, value_name = "required|preferred|cpu")]
    pub accelerator: Option<AcceleratorPolicy>,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
}

/// Where evidence about a provider's machine is found.
#[derive(Debug, Clone, Default, Args)]
pub struct EvidenceOptions {
    /// The log of the firmware that stands beside what a TPM says; by default where the kernel shows it to administrators.
    #[arg(long, value_name = "FILE")]
    pub tpm_log: Option<PathBuf>,
    /// The folder in which the kernel makes reports of an encrypted machine; by default /sys/kernel/config/tsm/report.
    #[arg(long, value_name = "FOLDER")]
    pub tsm: Option<PathBuf>,
    /// A file in PEM with the certificate of an AMD chip's key and those between it and AMD's root, in this order, where the
    /// host gives its guest none.
    #[arg(long, value_name = "FILE")]
    pub snp_certificates: Option<PathBuf>,
    /// The service that says what Intel says about platforms, which stands beside quotes of Intel TDX: by default Intel's own;
    /// or a cache of it (PCCS).
    #[arg(long, value_name = "URL")]
    pub tdx_collateral: Option<String>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Doctor {
    /// Look at something else.
    #[command(subcommand)]
    pub about: Option<DoctorAbout>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What else `doctor` looks at.
#[derive(Debug, Subcommand)]
pub enum DoctorAbout {
    /// Each home of keys: whether the hardware is there, this program may use it, and a key signs.
    Keys(KeyPlace),
}

/// Options of `benchmark`.
#[derive(Debug, Args)]
pub struct Benchmark {
    /// The GGUF model.
    pub model: PathBuf,
    /// Numbers of rows that decode together.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = rows())]
    pub rows: Vec<usize>,
    /// Tokens that each row decodes.
    #[arg(long, default_value_t = 64)]
    pub output: u32,
    /// Rounds, after one to warm up: medians of them are shown, with the lowest and the highest.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Threads of the engine; by default cores minus one.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Compute with whatever is fastest; by default as providers do, exactly.
    #[arg(long)]
    pub fast: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}
