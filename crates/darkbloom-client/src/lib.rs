//! The client: verifies providers, seals requests to them, opens and checks their answers.
//!
//! Owns the consumer's side of the network: pins, candidates, the life of one operation, and the HTTP surface that speaks
//! the consumers' dialects. The local proxy is this crate on the consumer's machine, the gateway is this crate run by the
//! operator. It must never seal to a provider below the demanded tier, hand on an answer that does not verify, or fall
//! back to anything weaker unasked; it never reaches the coordinator's crate.

#![forbid(unsafe_code)]

mod call;
mod candidates;
mod keys;
mod network;
#[cfg(test)]
mod parties;
mod printable;
mod proof;
mod published;
mod rates;
mod surface;
mod timing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use darkbloom_types::{NetworkId, ProviderId, Refusal, SecretString, Tier};

pub use darkbloom_attest::{
    ActivatorKind, Claim, Freshness, HardwareTrust, MEASUREMENTS_BYTES_MAX, Measured, Measurements, Roots, TrustPolicy,
    Undefended, Verdict,
};

pub use crate::call::{Answer, AnswerMeta, Completed, Failed, Operation, Part, Settled};
pub use crate::network::{ModelOffer, check_address};
pub use crate::printable::{printable, printable_answer};
pub use crate::proof::Proven;
pub use crate::published::{Checked, Published, Which};
pub use crate::rates::RateHeaders;
pub use crate::surface::{Answering, Embedding, Engine, Role, Surface, SurfaceConfig};
pub use crate::timing::Timing;

/// What a consumer or operator decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordinator's address.
    pub coordinator: String,
    /// The network that is trusted; without it the first one met is pinned in `pin_file`, or for this run.
    pub network: Option<NetworkId>,
    /// Where the network that was met first is remembered.
    pub pin_file: Option<PathBuf>,
    /// The least tier that is sealed to.
    pub tier_min: Tier,
    /// Providers that this consumer trusts by name, whatever their tier.
    pub pinned: BTreeSet<ProviderId>,
    /// Roots of makers of hardware, and activators that this consumer pinned. Where there is none, the network's own is
    /// believed, and verdicts say so.
    pub hardware: HardwareTrust,
    /// How many candidates a request is sealed to: 1 to 8.
    pub candidates: usize,
    /// A folder in which what proves each answer is kept; nowhere without one.
    pub receipts: Option<PathBuf>,
}

/// Default number of candidates: two of the best and one at random.
pub const CANDIDATES_DEFAULT: usize = 3;

/// A client of one network. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: Arc<network::Network>,
}

impl Client {
    /// A client; it reaches out with its first call.
    ///
    /// # Errors
    /// [`Refusal`] when the address or the pin file is not usable.
    pub fn new(config: Config) -> Result<Self, Refusal> {
        Ok(Self { inner: Arc::new(network::Network::new(config)?) })
    }

    /// Whether the network takes this key.
    pub(crate) async fn accepts(&self, key: &SecretString) -> Result<(), Refusal> {
        self.inner.accepts(key).await
    }

    /// The models on offer, their entries verified.
    ///
    /// # Errors
    /// [`Refusal`] when the coordinator cannot be reached or does not verify.
    pub async fn models(&self) -> Result<Vec<ModelOffer>, Refusal> {
        self.inner.models().await
    }

    /// The least tier that is sealed to.
    #[must_use]
    pub fn tier_min(&self) -> Tier {
        self.inner.config.tier_min
    }

    /// What the coordinator publishes of its providers, and what of it holds. Nothing is sealed and no key is sent.
    ///
    /// # Errors
    /// [`Refusal`] when the coordinator cannot be reached or its list does not verify.
    pub async fn published(&self, which: Which) -> Result<Published, Refusal> {
        self.inner.published(which).await
    }

    /// Seals an operation, has it answered, and returns at the first content. What follows comes through the answer.
    ///
    /// # Errors
    /// [`Failed`] when there is no answer.
    pub async fn chat(&self, operation: Operation) -> Result<Answer, Box<Failed>> {
        call::begin(Arc::clone(&self.inner), operation).await
    }
}
