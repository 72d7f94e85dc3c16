//! Whether who answers is the coordinator that it says it is.

use darkbloom_types::{ConnectionId, NetworkId};
use darkbloom_wire::{CoordinatorProof, PublicKey, VerifyError, Welcome, coordinator_proof_digest};

/// Why a coordinator is not believed to hold the key that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// Somebody else signed, or nobody.
    #[error("it does not hold the key that it names: {0}")]
    Signature(#[from] VerifyError),
    /// The key's holder signed it for somebody else, or earlier.
    #[error("it does not hold the key that it names: its proof answers another question")]
    Proof,
}

/// Verifies that a welcome is the answer to this nonce by the holder of the key in it.
///
/// # Errors
/// [`CoordinatorError`] says what does not hold; then the welcome may be anybody's.
pub fn verify_welcome(welcome: &Welcome, nonce: &[u8; 32]) -> Result<(), CoordinatorError> {
    verify(&welcome.proof, &welcome.coordinator, nonce, Some((&welcome.connection, &welcome.nonce)))
}

/// Verifies that the holder of a coordinator's key answered a client's nonce.
///
/// # Errors
/// [`CoordinatorError`] says what does not hold; then the key may be anybody's claim.
pub fn verify_coordinator(proof: &[u8], key: &[u8; 65], nonce: &[u8; 32]) -> Result<(), CoordinatorError> {
    verify(proof, key, nonce, None)
}

fn verify(
    proof: &[u8],
    key: &[u8; 65],
    nonce: &[u8; 32],
    welcome: Option<(&ConnectionId, &[u8; 32])>,
) -> Result<(), CoordinatorError> {
    let proof = CoordinatorProof::open(proof, &PublicKey::P256(*key))?;
    let expected = coordinator_proof_digest(&NetworkId::of_coordinator_key(key), nonce, welcome);
    if proof.digest == expected { Ok(()) } else { Err(CoordinatorError::Proof) }
}
