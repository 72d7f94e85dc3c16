//! Who sees that an attestation key and a maker's endorsement key are in one TPM.
//!
//! That takes a question to the TPM and its answer, so nobody can check it later: an activator asks, and gives its word,
//! signed by a key of its own. It keeps nothing between the question and the answer: the secret in the question is computed
//! from what the question is about and a key that lives as long as the process.
//!
//! ```text
//! provider                                         activator
//!    │ endorsement certificate, attestation key ──────▶ │ chain leads to a maker's root?
//!    │ ◀────────────── credential for that TPM, until ─ │ key signs for its TPM alone?
//!    │ the TPM opens it                                 │
//!    │ the same, and the secret ──────────────────────▶ │ in time, and right?
//!    │ ◀─────────────────────── signed `Activation` ─── │
//! ```

use darkbloom_types::{Digest, Millis, UnixMillis, armed};
use darkbloom_wire::{Activation, ActivationChallenge, ActivationRequest, SignError, Signer};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::certificates::{ChainError, Roots};
use crate::credential;
use crate::tpm::{attestation_key, endorsement};

/// A question is answered within this time: small TPMs need a minute to make an endorsement key.
const ANSWER: Millis = Millis::from_minutes(5);
/// An activator's word may be relied on for so long: what it says does not change, but makers' keys are found broken.
pub const ACTIVATION_LIFE: Millis = Millis::from_minutes(30 * 24 * 60);

/// Why an activator gives no word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// The endorsement key is no maker's.
    #[error("the endorsement key's certificate: {0}")]
    Chain(#[from] ChainError),
    /// The attestation key could sign what the TPM did not say.
    #[error("the attestation key is not one that signs for its TPM alone")]
    AttestationKey,
    /// Too late, or from an activator that was started again since.
    #[error("the answer came too late")]
    Late,
    /// Not what was in the credential.
    #[error("the answer is not what was in the credential")]
    Wrong,
    /// The activator's key failed.
    #[error(transparent)]
    Key(#[from] SignError),
}

/// What an activator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActivationReply {
    /// A question for the TPM.
    Challenge(ActivationChallenge),
    /// The signed word.
    Activation(Vec<u8>),
}

/// An activator.
pub struct Activator {
    roots: Roots,
    secret: Zeroizing<[u8; 32]>,
}

impl Activator {
    /// An activator that believes these makers.
    #[must_use]
    pub fn new(roots: Roots, rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *secret);
        Self { roots, secret }
    }

    /// Asks, or, given an answer, signs what it shows with `signer`, whose public key is `key`.
    ///
    /// # Errors
    /// [`ActivationError`].
    pub fn reply(
        &self,
        request: &ActivationRequest,
        signer: &dyn Signer,
        key: &[u8; 65],
        now: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<ActivationReply, ActivationError> {
        let (certificate, _) = endorsement(&request.endorsement, &request.intermediates.0, &self.roots, now)?;
        attestation_key(&request.attestation_key).map_err(|_| ActivationError::AttestationKey)?;
        let (subject, object) = (Digest::of(&[&request.endorsement]), Digest::of(&[&request.attestation_key]));
        let secret = |until: UnixMillis| {
            let about = [&b"darkbloom/v1/activation"[..], &subject.0, &object.0, &until.0.to_be_bytes()];
            credential::keyed(&self.secret, &about)
        };
        let Some(answer) = &request.answer else {
            let until = now.after(ANSWER);
            let made = credential::make(&certificate.endorsement_key()?, &object.0, &secret(until), rng)
                .ok_or(ChainError::Key)?;
            return Ok(ActivationReply::Challenge(ActivationChallenge {
                credential: made.credential,
                seed: made.seed,
                until,
            }));
        };
        if now >= answer.until || answer.until > now.after(ANSWER) {
            return Err(ActivationError::Late);
        }
        if armed!("activator_secret") && !bool::from(answer.secret.ct_eq(&secret(answer.until))) {
            return Err(ActivationError::Wrong);
        }
        let word = Activation {
            activator: *key,
            endorsement: subject,
            attestation_key: object,
            made_at: now,
            valid_until: now.after(ACTIVATION_LIFE),
        };
        Ok(ActivationReply::Activation(word.sign(signer)?))
    }
}
