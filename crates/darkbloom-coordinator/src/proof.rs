//! The proof that this process holds the coordinator's key: nobody should say a secret to one who only names it.

use darkbloom_types::{ConnectionId, Refusal, RefusalCode};
use darkbloom_wire::{CoordinatorProof, coordinator_proof_digest};

use crate::state::Shared;

/// Answers the nonce of a provider, who gets a welcome with this connection and nonce, or of a client, who gets none.
pub fn prove(
    shared: &Shared,
    nonce: &[u8; 32],
    welcome: Option<(&ConnectionId, &[u8; 32])>,
) -> Result<Vec<u8>, Refusal> {
    let digest = coordinator_proof_digest(&shared.network, nonce, welcome);
    CoordinatorProof { digest }.sign(&*shared.key).map_err(|error| {
        tracing::error!(%error, "cannot prove who this coordinator is");
        RefusalCode::Internal.into()
    })
}
