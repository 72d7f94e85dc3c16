//! The provider's agent: dials the coordinator, opens sealed requests, answers them with the engine, signs receipts.
//!
//! Owns the connection, the epochs' keys and the models of one machine. It must never listen on a socket, write a prompt
//! or an answer anywhere, or answer for a network that is not the pinned one. Only the command line depends on it.

#![forbid(unsafe_code)]

mod agent;
mod answer;
pub mod benchmark;
mod embedder;
mod evidence;
pub mod guides;
mod link;
mod local;
pub mod machine;
mod model;
pub mod models;
mod owner;
mod presenting;
mod pulse;
mod request;
mod shelf;
mod signatory;
mod stating;
pub mod status;
mod stock;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darkbloom_engine::ExecuteError;
pub use darkbloom_keys as keys;
pub use darkbloom_keys::{Home, KeyConfig};
use darkbloom_keys::{Identity, IdentityError, IdentityKey as _, successions, unsettled};
use darkbloom_store::{OpenStoreError, ReceiptOutbox};
use darkbloom_types::{Millis, NetworkId, ProviderId, SecretString};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

pub use darkbloom_engine::{Accelerator, Device, Exactness, devices, processor_features};

use crate::agent::About;
use crate::evidence::Platform;
use crate::shelf::{Allowance, Shelf, Shelved};
use crate::signatory::Signatory;
use crate::status::{Board, Status};
use crate::stock::Kinds;
use darkbloom_host::clock;

pub use crate::evidence::{EvidenceConfig, EvidenceFound, evidence_found};
pub use crate::local::{Local, LocalConfig, Said, local_key};
pub use crate::model::{
    AdapterFile, CheckedModel, LoadError, LoadWatch, LoadedModel, ModelConfig, ModelOptions, weights_of_file,
};
pub use crate::owner::{Rotated, delete_key, go_back_key, rotate_key, seal_keys};

/// The file of receipts that were not acknowledged yet, in a provider's folder. Whoever has it open has the folder.
const OUTBOX_FILE: &str = "receipts.sqlite";

/// What an owner decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordinator, such as `https://example.org` or `http://127.0.0.1:7700`.
    pub coordinator: String,
    /// The network to serve. Without it the first one met is pinned in the data folder.
    pub network: Option<NetworkId>,
    /// The join token, for the first time.
    pub join_token: Option<SecretString>,
    /// The folder of identity, pin and unacknowledged receipts.
    pub data: PathBuf,
    /// Where its identity key may be made.
    pub keys: KeyConfig,
    /// Where evidence about this machine is found.
    pub evidence: EvidenceConfig,
    /// Addresses of activators that are asked besides the coordinator: independent ones, which consumers may pin.
    pub activators: Vec<String>,
    /// What this process does to keep others out of its memory, by name: it stands in statements, as the provider's word.
    pub hardening: Vec<&'static str>,
    /// The models. The first is loaded at the start, the others when somebody asks for them.
    pub models: Vec<ModelConfig>,
    /// Bytes of memory for all of them together; three quarters of what is free at the start, where nothing is said.
    pub memory: Option<u64>,
    /// How long a model may be without a request before it is unloaded; never where there is none.
    pub idle_unload: Option<Duration>,
}

/// Why the provider does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The coordinator's address.
    #[error("{0}")]
    Address(String),
    /// The identity key.
    #[error(transparent)]
    Key(#[from] IdentityError),
    /// The receipts' file.
    #[error(transparent)]
    Outbox(#[from] OpenStoreError),
    /// The model.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// A file with certificates of a chip.
    #[error("cannot use the certificates in {path}: {why}", path = .path.display())]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No client for activators.
    #[error("this machine's TLS or proxy settings make no HTTP client")]
    Http,
    /// No model.
    #[error("no model is given")]
    NoModel,
    /// The pin's file.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Pin {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The pin's file holds no pin.
    #[error("{path} does not hold the 64 hex digits of a network", path = .path.display())]
    PinDamaged {
        /// Which file.
        path: PathBuf,
    },
}

impl StartError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "give it as `--coordinator https://HOST` (plain http only on this machine)",
            Self::Key(error) => error.next_step(),
            Self::Outbox(OpenStoreError::Locked { .. }) => {
                "another provider uses this folder; stop it, or choose another with `--data`"
            }
            Self::Outbox(_) | Self::Pin { .. } => {
                "check the folder's permissions and disk, or choose another with `--data`"
            }
            Self::Model(error) => error.hint(),
            Self::Certificates { .. } => "name a file in PEM with `snp_certificates`, the chip's certificate first",
            Self::Http => "check the variables HTTPS_PROXY and SSL_CERT_FILE",
            Self::NoModel => "add `--model FILE.gguf`",
            Self::PinDamaged { .. } => {
                "remove the file to pin the next coordinator that is met, or give `--coordinator-key`"
            }
        }
    }
}

/// Why a provider ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its engine stopped over a bug. It took no more work, let what it had begun end, and disconnected.
    #[error("the engine stopped by itself{}", .reason.map(|reason| format!(": {reason}")).unwrap_or_default())]
    EngineStopped {
        /// What the engine says about it.
        reason: Option<ExecuteError>,
    },
    /// A bug of its own.
    #[error("the provider's task failed: {0}")]
    Task(#[from] JoinError),
}

impl ServeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::EngineStopped { .. } | Self::Task(_) => {
                "start it again; if that happens again, report it with the log from above this line"
            }
        }
    }
}

/// Looks at the models, loads the first, and puts them on a shelf. Dropping the future ends the loading.
async fn open_shelf<M: Into<Shelved> + 'static>(
    models: Vec<ModelConfig>,
    kinds: Kinds,
    memory: Option<u64>,
    idle_unload: Option<Duration>,
    known: PathBuf,
    load_model: impl Fn(&ModelOptions, &LoadWatch) -> Result<M, LoadError> + Send + Sync + 'static,
) -> Result<Arc<Shelf>, StartError> {
    let budget = memory.or_else(machine::default_budget).unwrap_or(u64::MAX);
    let watch = EndsWithStart(LoadWatch::default());
    let watched = watch.0.clone();
    let load = tokio::task::spawn_blocking(move || {
        let known = models::KnownWeights::open(known);
        let books = stock::books(&models, kinds, budget, known, &load_model, &watched)?;
        Ok::<_, StartError>((books, load_model))
    });
    let (books, load_model) = load.await.expect("loading does not panic")?;
    drop(watch);
    Ok(Shelf::new(books, Allowance::new(budget, idle_unload.map(millis)), load_model))
}

fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Ends what is being loaded when nobody waits for the start any more.
struct EndsWithStart(LoadWatch);

impl Drop for EndsWithStart {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    /// Its identity.
    pub id: ProviderId,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Provider {
    /// Loads identity and model, and serves in the background; the connection is kept up by itself.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, LoadedModel::load_watched).await
    }

    /// Starts as [`Self::start`] does, with a model that is loaded in another way.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start_with(
        config: Config,
        load_model: impl Fn(&ModelOptions, &LoadWatch) -> Result<LoadedModel, LoadError> + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let endpoint = agent::endpoint(&config.coordinator).map_err(StartError::Address)?;
        for activator in &config.activators {
            agent::endpoint(activator).map_err(StartError::Address)?;
        }
        let (data, keys, sources) = (config.data.clone(), config.keys.clone(), config.evidence.clone());
        // Before anything is loaded: a folder that cannot be used is found out at once.
        let own = tokio::task::spawn_blocking(move || -> Result<_, StartError> {
            // It holds the folder's lock: nobody rotates or deletes the key of a provider that runs.
            let outbox = ReceiptOutbox::open(&data.join(OUTBOX_FILE))?;
            let (identity, passed) = Identity::open(&data, &keys)?;
            for passed in &passed {
                tracing::warn!(reason = %passed, "a home that comes first cannot have the identity key: {}", passed.next_step);
            }
            // Its own group, which stays what it was when the key was made.
            if matches!(&identity, Identity::Enclave(key) if key.is_for_development()) {
                tracing::warn!(
                    "the identity key is for development only: releases are signed for another access group"
                );
            }
            let successions = successions(&data, &identity.public_point())?;
            let unsettled = unsettled(&data)?;
            let pin = agent::Pin::load(config.network, data.join("coordinator.pin"))?;
            let platform = Platform::look(&sources, identity.tpm().is_some())?;
            Ok((identity, platform, passed, (successions, unsettled), outbox, pin, evidence::program()))
        });
        let (identity, platform, passed, (successions, unsettled), outbox, pin, program) =
            own.await.expect("reading files does not panic")?;
        let id = ProviderId::of_public_key(&identity.public_point());
        let about = About {
            hardening: config.hardening.iter().map(|measure| (*measure).to_owned()).collect(),
            key_home: identity.home().name().to_owned(),
            successions,
            program,
        };
        let board = Board::new(
            &config.data,
            Status {
                provider: id.to_string(),
                key_home: about.key_home.clone(),
                key_unsettled: unsettled.is_some(),
                passed_over: passed.iter().map(ToString::to_string).collect(),
                hardening: about.hardening.clone(),
                coordinator: config.coordinator.clone(),
                connected: false,
                problem: Some("the models are being loaded".to_owned()),
                told: None,
                at: clock::now().0,
            },
        );
        let known = config.data.join("weights.json");
        let Config { models, memory, idle_unload, join_token, .. } = config.clone();
        let shelf = open_shelf(models, Kinds::Answers, memory, idle_unload, known, load_model).await?;
        tracing::info!(provider = %id, "identity: {}", identity.home().describe());
        let activators = std::iter::once(config.coordinator).chain(config.activators).collect();
        let signatory = Signatory::new(identity, platform, activators, config.data.join("activations"))?;
        let (stop, stopped) = watch::channel(false);
        let agent =
            agent::Agent::new(signatory, outbox, pin, shelf, join_token, endpoint).saying(about).shown_on(board);
        let agent = agent.settling(config.data, unsettled.map(|_| config.keys));
        let task = tokio::spawn(agent.run(stopped));
        Ok(Self { id, stop, task })
    }

    /// Serves until told to stop, and then takes no new work, lets running answers end, and disconnects.
    ///
    /// # Errors
    /// [`ServeError`] when it ended by itself, as soon as it has.
    pub async fn serve_until(mut self, told: impl Future<Output = ()>) -> Result<(), ServeError> {
        tokio::select! {
            ended = &mut self.task => return ended?,
            () = told => {}
        }
        // Nobody hears it where it has just ended by itself.
        let _ = self.stop.send(true);
        self.task.await?
    }

    /// Takes no new work, lets running answers end, and disconnects.
    pub async fn stop(self) {
        if let Err(error) = self.serve_until(std::future::ready(())).await {
            tracing::error!(%error, "the provider had ended by itself");
        }
    }
}
