//! An activator: it sees that a provider's attestation key is in a maker's TPM, and gives its word for that. A coordinator
//! has one, whose key is another than its own, so that who pins one need not believe the other; and anybody can run one
//! alone, for those who do not want to rely on a network's operator.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use darkbloom_attest::{ActivationError, ActivationReply, Activator, ActivatorKind, HardwareTrust, Roots};
use darkbloom_host::listen::{self, Bound, ListenError, Server};
use darkbloom_host::{body, clock};
use darkbloom_keys::{IdentityKey as _, KeySecret, SoftwareKey, SoftwareKeyError};
use darkbloom_types::{Refusal, RefusalCode};
use darkbloom_wire::{ActivationRequest, limits};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::api::{self, FRAMES, Refused};

/// The activator's key in the coordinator's folder.
pub(crate) const KEY_FILE: &str = "activator.key";
/// Requests that are worked on at the same time. Each checks a chain and encrypts to its end, and anybody may ask.
const REQUESTS_MAX: usize = 4;

/// How long running requests may take when an activator that runs alone stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Who is believed about hardware, and the activator.
pub struct Activation {
    /// Whom the coordinator believes about hardware, itself among them.
    trust: HardwareTrust,
    activator: Option<(Activator, SoftwareKey)>,
    places: Semaphore,
}

impl Activation {
    /// Where any maker is believed, loads or makes the activator's key.
    pub fn open(data: &Path, roots: Roots, secret: Option<&KeySecret>) -> Result<Self, SoftwareKeyError> {
        let activator = if roots.is_empty() {
            None
        } else {
            let key = SoftwareKey::load_or_create_sealed(&data.join(KEY_FILE), secret)?;
            Some((Activator::new(roots.clone(), &mut clock::rng()), key))
        };
        let own = activator.as_ref().map(|(_, key)| (key.public_point(), ActivatorKind::Coordinator));
        let activators = own.into_iter().collect();
        let trust = HardwareTrust { tpm_roots: Arc::new(roots), activators, ..HardwareTrust::default() };
        Ok(Self { trust, activator, places: Semaphore::new(REQUESTS_MAX) })
    }

    /// Of a coordinator that vouches for nobody, and believes those whose roots ship.
    #[cfg(test)]
    pub fn none() -> Self {
        Self::believing(HardwareTrust::default())
    }

    /// Of a coordinator that vouches for nobody, and believes these about hardware.
    #[cfg(test)]
    pub fn believing(trust: HardwareTrust) -> Self {
        Self { trust, activator: None, places: Semaphore::new(REQUESTS_MAX) }
    }

    /// The activator's public key.
    pub fn key(&self) -> Option<[u8; 65]> {
        self.activator.as_ref().map(|(_, key)| key.public_point())
    }

    /// Whom the coordinator believes: these makers, those whose roots ship, and itself. What may run is for the policy to say.
    pub fn trust(&self) -> HardwareTrust {
        self.trust.clone()
    }

    fn reply(&self, request: &ActivationRequest) -> Result<ActivationReply, Refusal> {
        let (activator, key) = self
            .activator
            .as_ref()
            .ok_or_else(|| Refusal::new(RefusalCode::NotFound, "this network has no activator"))?;
        activator.reply(request, key, &key.public_point(), clock::now(), &mut clock::rng()).map_err(|error| match error
        {
            ActivationError::Key(error) => {
                tracing::error!(%error, "the activator's key failed");
                RefusalCode::Internal.into()
            }
            ActivationError::Chain(_)
            | ActivationError::AttestationKey
            | ActivationError::Late
            | ActivationError::Wrong => Refusal::new(RefusalCode::VerificationFailed, error.to_string()),
        })
    }
}

/// Where an activator is asked.
pub fn routes(activation: Arc<Activation>) -> Router {
    Router::new().route("/v1/activations", post(activate)).with_state(activation)
}

/// `POST /v1/activations`: a question for a TPM, or, to its answer, the activator's word.
async fn activate(State(activation): State<Arc<Activation>>, body: Body) -> Result<Response, Refused> {
    let body = body::read(body, limits::STATEMENT_BYTES_MAX).await.map_err(Refusal::from)?;
    // After the body, which may come slowly: a place is for what takes a processor.
    let Ok(_place) = activation.places.try_acquire() else {
        return Err(Refusal::new(RefusalCode::NoCapacity, "other TPMs are being activated").into());
    };
    let request = ActivationRequest::decode(&body)
        .map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
    let asked = Arc::clone(&activation);
    let reply = tokio::task::spawn_blocking(move || asked.reply(&request)).await;
    let bytes = match reply.map_err(api::internal)?? {
        ActivationReply::Challenge(challenge) => challenge.encode(),
        ActivationReply::Activation(word) => word,
    };
    Ok(([(header::CONTENT_TYPE, FRAMES)], bytes).into_response())
}

/// What whoever runs an activator alone decides.
#[derive(Debug, Clone)]
pub struct ActivatorConfig {
    /// Where to listen. Without TLS in front of it this must be a loopback address.
    pub listen: SocketAddr,
    /// The folder of its key.
    pub data: PathBuf,
    /// Roots of the makers of TPMs that it vouches for.
    pub tpm_roots: Roots,
    /// The file with the secret under which its key is sealed; without one it lies in the open.
    pub key_secret: Option<PathBuf>,
}

/// Why an activator does not start.
#[derive(Debug, thiserror::Error)]
pub enum ActivatorStartError {
    /// There is no listening on the address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its key.
    #[error(transparent)]
    Key(#[from] SoftwareKeyError),
    /// It would vouch for nobody.
    #[error("no maker of TPMs is named")]
    NoMaker,
    /// Its folder.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ActivatorStartError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen(error) => error.hint(),
            Self::Key(error) if error.is_about_secret() => error.next_step(),
            Self::Key(_) => "see the message; consumers know this activator by its key",
            Self::NoMaker => "add `--tpm-roots FILE` with the certificates of makers",
            Self::Folder { .. } => "check the folder's permissions, or choose another with `--data`",
        }
    }
}

/// An activator that runs alone.
#[derive(Debug)]
pub struct StandaloneActivator {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its public key, which consumers pin.
    pub key: [u8; 65],
    server: Server,
}

impl StandaloneActivator {
    /// Loads or makes its key, listens, and serves in the background.
    ///
    /// # Errors
    /// [`ActivatorStartError`]; nothing keeps running then.
    pub async fn start(config: ActivatorConfig) -> Result<Self, ActivatorStartError> {
        listen::loopback(config.listen)?;
        let ActivatorConfig { listen, data, tpm_roots, key_secret } = config;
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&data)
                .map_err(|source| ActivatorStartError::Folder { path: data.clone(), source })?;
            let secret = key_secret.as_deref().map(KeySecret::read).transpose()?;
            Ok::<_, ActivatorStartError>(Activation::open(&data, tpm_roots, secret.as_ref())?)
        });
        let activation = opened.await.expect("reading a key does not panic")?;
        let key = activation.key().ok_or(ActivatorStartError::NoMaker)?;
        let bound = Bound::to(listen).await?;
        let address = bound.address;
        let app = Router::new()
            .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
            .route("/v1/activator", get(move || async move { Json(json!({"activator_key": hex::encode(key)})) }))
            .merge(routes(Arc::new(activation)))
            .fallback(|| async { Refused::from(RefusalCode::NotFound) })
            .method_not_allowed_fallback(|| async { Refused::from(RefusalCode::MethodNotAllowed) })
            .layer(middleware::from_fn(api::named));
        // Nothing that it does takes longer than a moment.
        Ok(Self { address, key, server: bound.serve(app, std::future::ready(()), DRAIN) })
    }

    /// Stops taking requests, and lets running ones end.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}
