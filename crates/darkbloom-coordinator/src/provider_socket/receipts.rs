//! Receipts outside of their request: presented again after a reconnect, or come when the request was over. Each is
//! acknowledged as soon as it is settled or can never settle; one that still may is kept and looked at again.

use darkbloom_ledger::{Delivered, LateRefusal, ReceiptUsage};
use darkbloom_store::{SettleError, Settlement, StoreError};
use darkbloom_types::{ProviderId, RequestId};
use darkbloom_wire::{PublicKey, Receipt, ReceiptAck, receipt_id};

use crate::state::{Connection, Shared};
use darkbloom_host::clock;

/// What becomes of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is settled, or nothing can ever settle by it: the provider may forget it.
    Decided,
    /// It may still settle.
    Open,
}

/// Deals with a receipt: acknowledges it, or keeps it until it can be decided on.
pub async fn present(shared: &Shared, connection: &Connection, provider: ProviderId, bytes: Vec<u8>) {
    let id = receipt_id(&bytes);
    match fate(shared, connection, provider, &bytes).await {
        Ok(Fate::Decided) => {
            connection.send(ReceiptAck { receipt: id });
        }
        Ok(Fate::Open) => connection.review(bytes),
        Err(error) => {
            tracing::error!(receipt = %id.short(), %error, "cannot decide on a receipt yet");
            connection.review(bytes);
        }
    }
}

/// Looks again at the receipts that could not be decided on.
pub async fn review(shared: &Shared, connection: &Connection, provider: ProviderId) {
    for receipt in connection.take_receipts() {
        present(shared, connection, provider, receipt).await;
    }
}

/// Whether a request's hold is in this process's hands: then what was relayed decides, and not a receipt that runs ahead.
fn in_hand(shared: &Shared, request: &RequestId) -> bool {
    shared.is_live(request) || shared.is_resealing(request) || shared.unfinished.contains(request)
}

/// Settles by a receipt a hold that was left open or voided for silence, if it still can.
async fn fate(
    shared: &Shared,
    connection: &Connection,
    provider: ProviderId,
    bytes: &[u8],
) -> Result<Fate, StoreError> {
    // What is no receipt, is not signed with this provider's key, or is another's, will never settle anything.
    let Ok(claimed) = Receipt::peek(bytes) else { return Ok(Fate::Decided) };
    if in_hand(shared, &claimed.request_id) {
        return Ok(Fate::Open);
    }
    // What an identity did that this one took over from is this one's to present.
    if claimed.provider != provider && !shared.store.ancestors(provider).contains(&claimed.provider) {
        return Ok(Fate::Decided);
    }
    let provider = claimed.provider;
    let key = match connection.receipt_key(&claimed.epoch) {
        Some(key) => key,
        None => match shared.store.receipt_key(provider, claimed.epoch).await? {
            Some(key) => key,
            None => {
                tracing::info!(provider = %provider.short(), epoch = %claimed.epoch, "a receipt of an unknown epoch");
                return Ok(Fate::Decided);
            }
        },
    };
    let Ok(receipt) = Receipt::open(bytes, &PublicKey::Ed25519(key)) else { return Ok(Fate::Decided) };
    let hold = shared.store.hold(receipt.request_id).await?;
    let of_model = hold.is_some_and(|hold| hold.request.model == receipt.model);
    let weights = shared.catalogue().by_digest(&receipt.model).map(|item| item.entry.weights);
    if !of_model || weights.is_some_and(|weights| weights != receipt.weights) {
        return Ok(Fate::Decided);
    }
    settle(shared, provider, receipt, bytes.to_vec()).await
}

async fn settle(shared: &Shared, provider: ProviderId, receipt: Receipt, bytes: Vec<u8>) -> Result<Fate, StoreError> {
    let usage = ReceiptUsage { input: receipt.input_tokens, output: receipt.output_tokens };
    // What was relayed before the silence is not known any more; the receipt and the ceilings bound the charge. An answer
    // without a token delivered nothing, as in the relay.
    let content_relayed = receipt.output_tokens.0 > 0;
    let delivered = Delivered { content_relayed, relayed_output: receipt.output_tokens, receipt: Some(usage) };
    let settlement = Settlement {
        request: receipt.request_id,
        provider,
        delivered,
        receipt_id: Some(receipt_id(&bytes)),
        receipt: Some(bytes),
        at: clock::now(),
    };
    match shared.store.late_settle(settlement).await {
        Ok(settled) if settled.already => {}
        Ok(settled) => {
            tracing::info!(request = %receipt.request_id, charge = %settled.charge, "settled by a late receipt");
        }
        // Not acknowledged: it is tried again, here and after a reconnect.
        Err(SettleError::Store(error)) => return Err(error),
        // The other request may still come to nothing.
        Err(SettleError::Late(LateRefusal::InProgress)) => return Ok(Fate::Open),
        Err(error @ (SettleError::UnknownRequest | SettleError::Late(_))) => {
            tracing::info!(request = %receipt.request_id, %error, "a late receipt settles nothing");
        }
    }
    Ok(Fate::Decided)
}

#[cfg(test)]
mod tests;
