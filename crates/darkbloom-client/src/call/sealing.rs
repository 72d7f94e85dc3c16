//! From an operation to a sealed request: limits, recipients, header.

use std::sync::Arc;
use std::time::Instant;

use darkbloom_seal::{RequestSeal, SealError, seal_request};
use darkbloom_types::{
    Digest, NanoDollars, OperationId, Refusal, RefusalCode, RequestId, SecretString, Tier, TokenCount,
};
use darkbloom_wire::{CatalogueEntry, RequestKind, SealedHeader, Suite};
use rand_core::Rng as _;

use super::Call;
use crate::candidates::{Candidates, Need, recipient};
use darkbloom_host::clock;

/// The input ceiling is rounded up to a multiple of this, so that the exact length of a prompt does not show.
const INPUT_BUCKET: u32 = 256;

/// Limits of an operation, from its own tokens.
#[derive(Debug, Clone, Copy)]
pub struct Ceilings {
    pub input: TokenCount,
    pub output: TokenCount,
}

/// One sealing that was submitted.
pub struct Sealing {
    pub seal: RequestSeal,
    pub candidates: Arc<Candidates>,
    pub price_max: NanoDollars,
}

impl Call {
    /// What the request takes of a row, and who has had it.
    pub(super) fn need(&self) -> Need<'_> {
        Need {
            prompt: self.prompt_tokens,
            input_ceiling: self.ceilings.input,
            answer: self.operation.max_output_tokens.map(TokenCount),
            passed_over: &self.passed_over,
        }
    }

    pub(super) fn seal(&mut self, supersedes: Option<RequestId>) -> Result<Sealing, Refusal> {
        let began = Instant::now();
        let sealed = self.seal_to_the_best(supersedes);
        // Also in vain.
        self.timing.encrypt(began.elapsed());
        sealed
    }

    fn seal_to_the_best(&mut self, supersedes: Option<RequestId>) -> Result<Sealing, Refusal> {
        let chosen = self.candidates.choose(self.network.config.candidates, self.need(), clock::now())?;
        self.ceilings.output = chosen.output_ceiling;
        let chosen = chosen.recipients;
        // A pinned provider may be below the demanded tier: then the request demands what the recipients have.
        let tier_min = chosen.iter().map(|verdict| verdict.proven).fold(self.network.config.tier_min, Tier::min);
        let recipients: Vec<_> = chosen.into_iter().map(recipient).collect();
        let (price, ceilings) = (self.candidates.price, self.ceilings);
        let price_max = price
            .cost(ceilings.input, ceilings.output)
            .map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
        let mut request = [0; 16];
        clock::rng().fill_bytes(&mut request);
        let header = SealedHeader {
            network: self.coordinator.network,
            suite: Suite::XWingAes256Gcm,
            request: RequestId(request),
            operation: self.operation_id,
            model: self.candidates.digest,
            kind: RequestKind::Chat,
            stream: self.operation.stream,
            input_ceiling: ceilings.input,
            output_ceiling: ceilings.output,
            price_version: price.version,
            price_max,
            tier_min,
            affinity: self.affinity,
            sealed_at: clock::now(),
            recipients: Digest([0; 32]),
            key_commitment: Digest([0; 32]),
        };
        let plaintext = self.operation.request.to_cbor();
        let mut seal =
            seal_request(header, &plaintext, &recipients, &mut clock::rng()).map_err(|error| seal_refusal(&error))?;
        seal.submit.supersedes = supersedes;
        seal.submit.candidates_as_of = Some(self.candidates.time);
        Ok(Sealing { seal, candidates: Arc::clone(&self.candidates), price_max })
    }
}

/// A body over the largest size is the consumer's; everything else is what the network sent.
fn seal_refusal(error: &SealError) -> Refusal {
    let code = match error {
        SealError::TooLong(_) => RefusalCode::TooLarge,
        SealError::Recipients(_) | SealError::SealingKey(_) | SealError::Twice(_) => RefusalCode::VerificationFailed,
    };
    Refusal::new(code, error.to_string())
}

/// The header's limits as far as the model sets them: the prompt rounded up to a bucket, and what was asked for or what is
/// left of the context. Who it is sealed to may have room for less.
pub fn ceilings(entry: &CatalogueEntry, prompt: TokenCount, asked: Option<u32>) -> Result<Ceilings, Refusal> {
    let context = entry.context.0;
    let too_long = |detail: String| Refusal::new(RefusalCode::ContextLengthExceeded, detail);
    if prompt.0 >= context {
        return Err(too_long(format!("the prompt has {prompt} tokens, the model's context is {context} tokens")));
    }
    let left = context - prompt.0;
    if let Some(asked) = asked.filter(|asked| *asked > left) {
        let both = u64::from(prompt.0) + u64::from(asked);
        let detail = format!(
            "{both} tokens ({prompt} in the prompt, {asked} for the answer), the model's context is {context} tokens"
        );
        return Err(too_long(detail));
    }
    let input = prompt.0.div_ceil(INPUT_BUCKET).max(1).saturating_mul(INPUT_BUCKET);
    Ok(Ceilings { input: TokenCount(input), output: TokenCount(asked.unwrap_or(left)) })
}

/// The operation that an idempotency key stands for: the same for the same API key, and unguessable without it.
pub fn derived_operation(key: &SecretString, idempotency_key: &str) -> OperationId {
    let key = Digest::of(&[b"darkbloom/v1/operation-key", key.expose().as_bytes()]);
    let digest = Digest::of(&[b"darkbloom/v1/operation", key.as_bytes(), idempotency_key.as_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    OperationId(id)
}
