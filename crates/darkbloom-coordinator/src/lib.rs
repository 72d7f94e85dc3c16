//! The coordinator: matches sealed requests with providers, meters and bills them, and never reads a prompt.
//!
//! Owns the sockets, the wiring and the background tasks around the pure machines of `darkbloom-session`,
//! `darkbloom-registry` and `darkbloom-ledger`. It must never depend on a crate that knows what a prompt is; a test over
//! the dependency graph holds it to that. Only the command line depends on it.

#![forbid(unsafe_code)]

mod account;
mod activation;
mod admin;
mod api;
mod auth;
mod blobs;
mod catalogue;
pub mod data;
mod keys;
mod live;
mod metrics;
mod policy;
mod proof;
mod provider_socket;
mod published;
mod rates;
mod relay;
mod state;
mod sweep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_attest::PolicyError;
pub use darkbloom_attest::Roots;
use darkbloom_host::listen::{self, Bound, ListenError, Server};
use darkbloom_keys::{IdentityKey as _, KeySecret, SoftwareKey, SoftwareKeyError};
pub use darkbloom_ledger::BasisPoints;
use darkbloom_store::{OpenStoreError, PostgresUrl, Store, StoreError, StoreOptions};
use darkbloom_types::{NetworkId, PerMinute, SecretString, Tier};
use tokio::task::JoinHandle;

pub use activation::{ActivatorConfig, ActivatorStartError, StandaloneActivator};
pub use auth::KEY_PREFIXES;

use crate::activation::Activation;
pub use crate::metrics::{METRICS, Metric, MetricKind};
use crate::rates::Limits;
use crate::state::Shared;

/// How long the last tasks may take to let go of the data after that, and how often it is looked at.
const CLOSE: Duration = Duration::from_secs(5);
const CLOSE_LOOK: Duration = Duration::from_millis(5);
/// How long running requests may take when the coordinator stops.
const DRAIN: Duration = Duration::from_secs(30);

/// What an operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Without TLS in front of it this must be a loopback address.
    pub listen: SocketAddr,
    /// The folder of the coordinator's key, and of the database where that is on no server.
    pub data: PathBuf,
    /// The database, where it is on a server.
    pub database: Option<PostgresUrl>,
    /// The least tier that a provider must reach to get any work.
    pub tier_min: Tier,
    /// Roots of makers of TPMs. With any, the coordinator runs an activator for their TPMs.
    pub tpm_roots: Roots,
    /// The file with the secret under which its keys are sealed; without one they lie in the open.
    pub key_secret: Option<PathBuf>,
    /// What accounts give and may ask for, where nothing else is said of them.
    pub terms: Terms,
    /// Where it says what it counts, for Prometheus: a loopback address.
    pub metrics: Option<SocketAddr>,
}

/// What accounts give and may ask for, where nothing else is said of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// The operator's share of each charge.
    pub platform_fee: BasisPoints,
    /// The share of that fee that is whose who brought the consumer.
    pub referral_share: BasisPoints,
    /// Requests that an account may begin in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of input and output together that an account may ask for in a minute.
    pub tokens_per_minute: Option<u32>,
}

impl Terms {
    fn limits(self) -> Limits {
        let Self { requests_per_minute, tokens_per_minute, .. } = self;
        Limits { requests: requests_per_minute.map(PerMinute), tokens: tokens_per_minute.map(PerMinute) }
    }
}

/// Why the coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no listening on the address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// Reading the data.
    #[error("cannot read the database: {0}")]
    Database(#[from] StoreError),
    /// The coordinator's key.
    #[error(transparent)]
    Key(#[from] SoftwareKeyError),
    /// What is stored does not fit this coordinator's key.
    #[error(
        "the catalogue in the database was signed by another coordinator key; restore `coordinator.key` from a backup"
    )]
    ForeignCatalogue,
    /// The policy in the database is none that this release reads.
    #[error("the policy in the database: {0}")]
    Policy(#[from] PolicyError),
    /// The books do not add up.
    #[error("the books do not balance: {0}")]
    BrokenBooks(String),
}

impl StartError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen(error) => error.hint(),
            Self::Store(error) => data::hint(error),
            Self::Database(_) => "check the database's server, or the folder's permissions and disk",
            Self::Key(error) if error.is_about_secret() => error.next_step(),
            Self::Key(_) => "see the message; never delete the key of a network that is in use",
            Self::ForeignCatalogue => "a network's key and database belong together",
            Self::Policy(_) => {
                "start the release that wrote it, and apply one with `darkbloom policy apply` that both read"
            }
            Self::BrokenBooks(_) => "do not run on these books; restore the last good backup",
        }
    }
}

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    /// Where it listens.
    pub address: SocketAddr,
    /// The network: the digest of its key, which clients and providers pin.
    pub network: NetworkId,
    /// The public key of its activator, if it believes any maker of TPMs.
    pub activator: Option<[u8; 65]>,
    /// The administrator's key, on the first start only; it is stored nowhere in clear.
    pub admin_key: Option<SecretString>,
    /// Where it says what it counts.
    pub metrics: Option<SocketAddr>,
    server: Server,
    counts: Option<Server>,
    sweeper: JoinHandle<()>,
    /// The last hold on the data, so that its end is the data's end.
    store: Store,
}

impl Coordinator {
    /// Opens the data, listens, and serves in the background.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        listen::loopback(config.listen)?;
        config.metrics.map(listen::loopback).transpose()?;
        let (data, key_path) = (config.data.clone(), config.data.join(data::COORDINATOR_KEY));
        let location = data::Data { folder: config.data, database: config.database }.location();
        let opened = tokio::task::spawn_blocking(move || -> Result<_, StartError> {
            let Terms { platform_fee, referral_share, .. } = config.terms;
            let store = Store::open_at(&location, StoreOptions { platform_fee, referral_share })?;
            let secret = config.key_secret.as_deref().map(KeySecret::read).transpose()?;
            let key = SoftwareKey::load_or_create_sealed(&key_path, secret.as_ref())?;
            Ok((store, key, Activation::open(&data, config.tpm_roots, secret.as_ref())?))
        });
        let (store, key, activation) = opened.await.expect("opening the data does not panic")?;
        let audit = store.audit().await?;
        if !audit.is_clean() {
            return Err(StartError::BrokenBooks(format!("{audit:?}")));
        }
        let limits = config.terms.limits();
        let network = NetworkId::of_coordinator_key(&key.public_point());
        let admin_key = auth::first_admin_key(&store).await?;
        let activator = activation.key();
        let shared = Arc::new(Shared::new(store, Box::new(key), network, config.tier_min, activation, limits).await?);
        sweep::end_orphans(&shared).await;

        let bound = Bound::to(config.listen).await?;
        let address = bound.address;
        let (mut metrics, mut counts) = (None, None);
        if let Some(listen) = config.metrics {
            let bound = Bound::to(listen).await?;
            metrics = Some(bound.address);
            counts = Some(bound.serve(metrics::router(Arc::clone(&shared)), std::future::ready(()), CLOSE));
        }
        let sweeper = tokio::spawn(sweep::run(Arc::clone(&shared)));
        let app = api::router(Arc::clone(&shared));
        let store = shared.store.clone();
        let drain = async move {
            shared.drain(DRAIN).await;
            shared.close_connections();
        };
        let server = bound.serve(app, drain, DRAIN);
        Ok(Self { address, network, activator, admin_key, metrics, server, counts, sweeper, store })
    }

    /// Stops taking requests, lets running ones end, and closes the data.
    pub async fn stop(self) {
        self.server.stop().await;
        if let Some(counts) = self.counts {
            counts.stop().await;
        }
        self.sweeper.abort();
        // Tasks of dropped connections end at their next step; only then is the folder free for another process.
        let until = Instant::now() + CLOSE;
        while self.store.is_shared() && Instant::now() < until {
            tokio::time::sleep(CLOSE_LOOK).await;
        }
        if self.store.is_shared() {
            tracing::warn!("something still uses the data folder");
        }
        // Closing joins the database's threads.
        if tokio::task::spawn_blocking(move || drop(self.store)).await.is_err() {
            tracing::error!("closing the database failed");
        }
    }
}
