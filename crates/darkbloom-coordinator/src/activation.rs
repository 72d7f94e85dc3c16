//! The coordinator's activator: it sees that a provider's attestation key is in a maker's TPM, and gives its word for that.
//!
//! Its key is another than the coordinator's, so that who pins one need not believe the other.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use darkbloom_attest::{ActivationError, ActivationReply, Activator, ActivatorKind, HardwareTrust, Roots};
use darkbloom_host::{body, clock};
use darkbloom_keys::{IdentityKey as _, SoftwareKey, SoftwareKeyError};
use darkbloom_types::{Refusal, RefusalCode};
use darkbloom_wire::{ActivationRequest, limits};
use tokio::sync::Semaphore;

use crate::api::{FRAMES, Refused};
use crate::state::Shared;

/// The activator's key in the coordinator's folder.
const KEY_FILE: &str = "activator.key";
/// Requests that are worked on at the same time. Each checks a chain and encrypts to its end, and anybody may ask.
const REQUESTS_MAX: usize = 4;

/// Whom the coordinator believes about hardware, and its activator.
pub struct Activation {
    roots: Arc<Roots>,
    activator: Option<(Activator, SoftwareKey)>,
    places: Semaphore,
}

impl Activation {
    /// Where any maker is believed, loads or makes the activator's key.
    pub fn open(data: &Path, roots: Roots) -> Result<Self, SoftwareKeyError> {
        let activator = if roots.is_empty() {
            None
        } else {
            let key = SoftwareKey::load_or_create(&data.join(KEY_FILE))?;
            Some((Activator::new(roots.clone(), &mut clock::rng()), key))
        };
        Ok(Self { roots: Arc::new(roots), activator, places: Semaphore::new(REQUESTS_MAX) })
    }

    /// Nobody is believed.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { roots: Arc::default(), activator: None, places: Semaphore::new(REQUESTS_MAX) }
    }

    /// The activator's public key.
    pub fn key(&self) -> Option<[u8; 65]> {
        self.activator.as_ref().map(|(_, key)| key.public_point())
    }

    /// Whom the coordinator believes: these makers, AMD and itself. What may run is for the policy to say.
    pub fn trust(&self) -> HardwareTrust {
        let activators = self.key().map(|key| (key, ActivatorKind::Coordinator)).into_iter().collect();
        HardwareTrust { tpm_roots: Arc::clone(&self.roots), activators, ..HardwareTrust::default() }
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

/// `POST /v1/activations`: a question for a TPM, or, to its answer, the activator's word.
pub async fn activate(State(shared): State<Arc<Shared>>, body: Body) -> Result<Response, Refused> {
    let body = body::read(body, limits::STATEMENT_BYTES_MAX).await.map_err(Refusal::from)?;
    // After the body, which may come slowly: a place is for what takes a processor.
    let Ok(_place) = shared.activation.places.try_acquire() else {
        return Err(Refusal::new(RefusalCode::NoCapacity, "other TPMs are being activated").into());
    };
    let request = ActivationRequest::decode(&body)
        .map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
    let asked = Arc::clone(&shared);
    let reply = tokio::task::spawn_blocking(move || asked.activation.reply(&request)).await;
    let bytes = match reply.map_err(crate::api::internal)?? {
        ActivationReply::Challenge(challenge) => challenge.encode(),
        ActivationReply::Activation(word) => word,
    };
    Ok(([(header::CONTENT_TYPE, FRAMES)], bytes).into_response())
}
