//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use darkbloom_provider::Home;
use darkbloom_provider::keys::AccessGroup;
use darkbloom_types::{NetworkId, ProviderId, Tier};

use crate::settings::{AcceleratorPolicy, Adapter, Memory, ROWS};
use crate::trust::ActivatorKey;

/// A number of batch rows.
fn rows() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(*ROWS.start() as u64..=*ROWS.end() as u64)
}

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
    /// Make, list and revoke API keys and join tokens.
    Keys(Keys),
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
    /// that is not always there. A key that lies in the open is encrypted by the next start.
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
    /// that is not always there. A key that lies in the open is encrypted by the next start.
    #[arg(long, value_name = "FILE")]
    pub key_secret: Option<PathBuf>,
    /// How it is run by another program.
    #[command(flatten)]
    pub run: Supervised,
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

/// Options of `key`.
#[derive(Debug, Args)]
pub struct Key {
    /// What to do.
    #[command(subcommand)]
    pub action: KeyAction,
}

/// What can be done with the identity key.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// Show where it lives and what it is.
    Show(KeyPlace),
    /// Sign with it, and see that the signature verifies.
    Test(KeyPlace),
    /// Make a new key and have this one sign that it takes over. This one is removed once the coordinator has accepted the new
    /// one. The provider must not run meanwhile.
    Rotate {
        /// Where.
        #[command(flatten)]
        place: KeyPlace,
        /// Where the new key is made; by default where the old one is.
        #[arg(long, value_name = "secure_enclave|tpm|software")]
        to: Option<Home>,
        /// Go back to the key from before, as long as the coordinator has not accepted the new one.
        #[arg(long, conflicts_with = "to")]
        back: bool,
    },
    /// Remove it, from the TPM or the keychain too. The next start makes a new identity.
    Delete {
        /// Where.
        #[command(flatten)]
        place: KeyPlace,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Where an identity key is.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// The folder of identity and receipts.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where keys may live.
    #[command(flatten)]
    pub keys: KeyOptions,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where keys may live.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyOptions {
    /// Where a new identity key may be made, best first; by default in the Secure Enclave, else in the TPM, else in a file.
    #[arg(long = "key-home", value_name = "secure_enclave|tpm|software", value_delimiter = ',')]
    pub key_homes: Vec<Home>,
    /// The TPM: the kernel's device, or a socket behind which one speaks; by default /dev/tpmrm0.
    #[arg(long, value_name = "PATH")]
    pub tpm: Option<PathBuf>,
    /// Registers that a new key in the TPM is bound to: it signs only while they have the values that they have then.
    #[arg(long, value_name = "PCR", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..24))]
    pub key_pcrs: Vec<u32>,
    /// A file whose bytes, 16 to 4,096 of them, encrypt a key in a file: a credential of systemd, a Kubernetes secret, or one on
    /// a volume that is not always there. A key that lies in the open is encrypted by the next start.
    #[arg(long, value_name = "FILE")]
    pub key_secret: Option<PathBuf>,
    /// For development only: the keychain access group of a program that another team signed, whose keys no release can use.
    #[arg(long, value_name = "GROUP")]
    pub enclave_access_group: Option<AccessGroup>,
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

/// Options of `models`.
#[derive(Debug, Args)]
pub struct Models {
    /// What to do.
    #[command(subcommand)]
    pub action: ModelsAction,
}

/// What can be done with model files.
#[derive(Debug, Subcommand)]
pub enum ModelsAction {
    /// List the models of this machine by their headers: in the models folder, in the Hugging Face cache, in folders that are
    /// named. Nothing is hashed.
    List {
        /// Where to look.
        #[command(flatten)]
        places: ModelPlaces,
        /// Print a JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show what a coordinator offers, and which files of this machine could serve it.
    Catalog {
        /// Whose catalogue.
        #[command(flatten)]
        coordinator: CatalogueSource,
        /// Where to look.
        #[command(flatten)]
        places: ModelPlaces,
        /// Hash the files that can be loaded, and say for certain.
        #[arg(long)]
        hash: bool,
        /// Print a JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Download a model file into the models folder, and verify it. One that was broken off goes on where it ended.
    Download(Download),
    /// Remove a model from the models folder.
    Remove {
        /// OWNER/NAME/FILE, as `models list` shows it, or OWNER/NAME for everything of a repository.
        name: String,
        /// The models folder; by default darkbloom/models in the user's data folder.
        #[arg(long)]
        models: Option<PathBuf>,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Where model files are looked for.
#[derive(Debug, Args)]
pub struct ModelPlaces {
    /// The models folder; by default darkbloom/models in the user's data folder.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Another folder with models; may be given again.
    #[arg(long = "folder")]
    pub folders: Vec<PathBuf>,
}

/// Whose catalogue it is about.
#[derive(Debug, Args)]
pub struct CatalogueSource {
    /// The coordinator's address.
    #[arg(long)]
    pub coordinator: Option<String>,
    /// The coordinator's pin: 64 hex digits. Without it the first one met is pinned.
    #[arg(long)]
    pub coordinator_key: Option<NetworkId>,
    /// The provider's folder, where the pin is.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

/// Options of `models download`.
#[derive(Debug, Args)]
pub struct Download {
    /// The repository, as OWNER/NAME.
    pub repository: String,
    /// The file, where the repository has several models.
    #[arg(long)]
    pub file: Option<String>,
    /// A branch, tag or commit.
    #[arg(long, default_value = "main")]
    pub revision: String,
    /// The name of a model in the coordinator's catalogue: its digest chooses the file, and must be the file's.
    #[arg(long = "for")]
    pub offered: Option<String>,
    /// Whose catalogue.
    #[command(flatten)]
    pub coordinator: CatalogueSource,
    /// A server that is compatible with the Hugging Face hub.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co")]
    pub endpoint: String,
    /// The token of an account there; better by HF_TOKEN.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The models folder; by default darkbloom/models in the user's data folder.
    #[arg(long)]
    pub models: Option<PathBuf>,
    /// Print a JSON object a line: what happens, and the result.
    #[arg(long)]
    pub json: bool,
}
