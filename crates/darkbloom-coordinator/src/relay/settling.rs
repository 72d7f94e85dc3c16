//! The money of a relayed request: its hold, its settlement, its bill. Whatever happens to the store or to this task, the
//! hold's end is written, or handed to whoever writes it later.

use std::sync::Arc;
use std::time::Instant;

use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage, Settled, Spender, VoidCause, worst_case};
use darkbloom_session::RelayEvent;
use darkbloom_store::{PlaceHoldError, SettleError, Settlement, StoreError};
use darkbloom_types::{NanoDollars, ReceiptId, Refusal, RefusalCode};
use darkbloom_wire::{Bill, Receipt, ReceiptAck, RelayedFinal, Reseal, SignError, receipt_id};

use super::candidates::candidate_list;
use super::unfinished::End;
use super::{HOLD_LIFE, RESEAL_WAIT, Relay};
use crate::state::{Connection, Resealing};
use darkbloom_host::clock;

/// The request's hold.
#[derive(Default)]
pub struct HoldLife {
    amount: NanoDollars,
    /// Whether nothing has ended it yet.
    open: bool,
}

impl HoldLife {
    pub fn placed(amount: NanoDollars) -> Self {
        Self { amount, open: true }
    }
}

/// A receipt that checked out. Unless it was acknowledged, it is decided on once the request is over.
pub struct KeptReceipt {
    bytes: Vec<u8>,
    receipt: Receipt,
    connection: Arc<Connection>,
    acknowledged: bool,
}

impl KeptReceipt {
    pub fn new(bytes: Vec<u8>, receipt: Receipt, connection: Arc<Connection>) -> Self {
        Self { bytes, receipt, connection, acknowledged: false }
    }

    fn acknowledge(&mut self) {
        self.acknowledged = true;
        self.connection.send(ReceiptAck { receipt: receipt_id(&self.bytes) });
    }
}

impl Drop for KeptReceipt {
    fn drop(&mut self) {
        if !self.acknowledged {
            self.connection.review(std::mem::take(&mut self.bytes));
        }
    }
}

impl Relay {
    pub(super) async fn place_hold(&mut self) -> RelayEvent {
        let began = Instant::now();
        let (header, price, now) = (&self.request.header, self.request.item.price, clock::now());
        let Ok(amount) = worst_case(price, header.input_ceiling, header.output_ceiling) else {
            return RelayEvent::HoldRefused(RefusalCode::InvalidRequest.into());
        };
        let (account, operation) = (self.request.account, header.operation);
        let superseded = match self.request.submit.supersedes {
            None => None,
            Some(old) => match self.shared.take_reseal(&old, account, operation) {
                Some(waiting) => Some((old, waiting)),
                None => {
                    let detail = "the superseded request does not wait to be sealed again";
                    return RelayEvent::HoldRefused(Refusal::new(RefusalCode::InvalidRequest, detail));
                }
            },
        };
        let placed = self.shared.store.hold_place(HoldRequest {
            request: header.request,
            operation: header.operation,
            account: self.request.account,
            key: self.request.key.id,
            model: header.model,
            amount,
            price,
            input_ceiling: header.input_ceiling,
            output_ceiling: header.output_ceiling,
            placed_at: now,
            expires_at: now.after(HOLD_LIFE),
            supersedes: self.request.submit.supersedes,
        });
        let placed = placed.await;
        self.clocks.reserve = began.elapsed();
        self.shared.metrics.reserve.observe(self.clocks.reserve.as_secs_f64());
        match placed {
            Ok(()) => {
                self.hold = HoldLife::placed(amount);
                RelayEvent::HoldPlaced
            }
            Err(error) => {
                if let Some((old, waiting)) = superseded {
                    self.shared.begin_reseal(old, waiting);
                }
                if matches!(&error, PlaceHoldError::Store(error) if *error != StoreError::Busy) {
                    // After a failed commit the disk may still hold it.
                    let end = End::Void(VoidCause::NothingDelivered, "not placed");
                    self.shared.unfinished.add(header.request, end);
                }
                RelayEvent::HoldRefused(hold_refusal(error))
            }
        }
    }

    pub(super) async fn settle(&mut self, delivered: darkbloom_session::Delivered) -> RelayEvent {
        let Some(provider) = self.answered_by else { return RelayEvent::Settled };
        let kept = self.receipt.as_ref().filter(|_| delivered.receipt);
        let usage = kept
            .as_ref()
            .map(|kept| ReceiptUsage { input: kept.receipt.input_tokens, output: kept.receipt.output_tokens });
        let bytes = kept.as_ref().map(|kept| kept.bytes.clone());
        let id = bytes.as_deref().map(receipt_id);
        let settlement = Settlement {
            request: self.request.header.request,
            provider,
            delivered: Delivered {
                content_relayed: delivered.content_relayed,
                relayed_output: delivered.tokens_relayed,
                receipt: usage,
            },
            receipt: bytes,
            receipt_id: id,
            at: clock::now(),
        };
        let header = &self.request.header;
        if usage.is_some_and(|used| used.input > header.input_ceiling || used.output > header.output_ceiling) {
            self.shared.metrics.clamped();
        }
        let began = Instant::now();
        let settled = self.shared.store.hold_settle(settlement.clone()).await;
        self.shared.metrics.settle.observe(began.elapsed().as_secs_f64());
        self.hold.open = false;
        match settled {
            Ok(settled) if settled.already && settled.void.is_some() => {
                tracing::error!(request = %self.request.header.request, "the hold of a delivered answer was void");
            }
            Ok(settled) => {
                tracing::info!(
                    request = %self.request.header.request,
                    model = %self.request.item.entry.name,
                    provider = %provider.short(),
                    input_tokens = settled.input_tokens.0,
                    output_tokens = settled.output_tokens.0,
                    charge = %settled.charge,
                    "request settled"
                );
                // Also one that was not charged by: the hold is settled, and it can never settle anything again.
                if let Some(kept) = &mut self.receipt {
                    kept.acknowledge();
                }
                self.shared.metrics.charged(settled.input_tokens.0, settled.output_tokens.0);
                self.used = settled.input_tokens.0.saturating_add(settled.output_tokens.0);
                match self.bill(&settled, id) {
                    Ok(bill) => self.bill = Some(bill),
                    Err(error) => tracing::error!(%error, "cannot sign a bill"),
                }
            }
            Err(error) => {
                tracing::error!(request = %self.request.header.request, %error, "cannot settle yet");
                if matches!(error, SettleError::Store(_)) {
                    // What was relayed is known in this process alone.
                    self.shared.unfinished.add(settlement.request, End::Settle(Box::new(settlement)));
                }
            }
        }
        RelayEvent::Settled
    }

    fn bill(&self, settled: &Settled, receipt: Option<ReceiptId>) -> Result<Vec<u8>, SignError> {
        let bill = Bill {
            operation: self.request.header.operation,
            request: self.request.header.request,
            receipt,
            price: settled.price,
            hold: self.hold.amount,
            charge: settled.charge,
            input_tokens: settled.input_tokens,
            output_tokens: settled.output_tokens,
            settled_at: clock::now(),
        };
        bill.sign(&*self.shared.key)
    }

    pub(super) async fn send_final(&mut self) {
        match (self.receipt.as_ref().map(|kept| kept.bytes.clone()), self.bill.take()) {
            (Some(receipt), Some(bill)) => {
                let update = self.candidate_update();
                self.send(RelayedFinal { receipt, bill, update }).await;
                self.outcome = Some("settled");
            }
            // The ledger or the key failed; the answer is whole, but nothing proves what it cost.
            _ => self.refuse(RefusalCode::Internal.into()).await,
        }
    }

    pub(super) async fn void(&mut self, code: RefusalCode) {
        let request = self.request.header.request;
        let voided = self.shared.store.hold_void(request, VoidCause::NothingDelivered, code.name(), clock::now()).await;
        self.hold.open = false;
        if let Err(error) = voided {
            tracing::error!(%request, %error, "cannot void a hold yet");
            self.shared.unfinished.add(request, End::Void(VoidCause::NothingDelivered, code.name()));
        }
    }

    /// The task ends. A hold that it did not end has lost its relay in the middle of something: what was delivered is not
    /// known.
    pub(super) fn abandon_hold(&mut self) {
        if std::mem::take(&mut self.hold.open) {
            let end = End::Void(VoidCause::Silence, "the relay failed");
            self.shared.unfinished.add(self.request.header.request, end);
        }
    }

    pub(super) async fn reseal(&mut self, code: RefusalCode) {
        match candidate_list(&self.shared, &self.request.item) {
            Ok(candidates) => {
                let waiting = Resealing {
                    account: self.request.account,
                    operation: self.request.header.operation,
                    until: self.shared.mono().after(RESEAL_WAIT),
                };
                self.shared.begin_reseal(self.request.header.request, waiting);
                self.hold.open = false;
                let attempts = self.session.attempts().to_vec().into();
                self.send(Reseal { candidates, code: code.number(), attempts, timing: self.timing() }).await;
                self.outcome = Some("resealed");
            }
            Err(error) => {
                tracing::error!(%error, "cannot sign a candidate list");
                self.void(code).await;
                self.refuse(code.into()).await;
            }
        }
    }
}

fn hold_refusal(error: PlaceHoldError) -> Refusal {
    match error {
        PlaceHoldError::InsufficientFunds { available, needed } => {
            Refusal::new(RefusalCode::InsufficientQuota, format!("{available} is available, {needed} may be needed"))
        }
        PlaceHoldError::OverBudget { spender, left, needed } => {
            let whose = match spender {
                Spender::Key(_) => "key",
                Spender::Account(_) => "account",
            };
            let detail = format!("{left} is left of this {whose}'s budget, {needed} may be needed");
            Refusal::new(RefusalCode::InsufficientQuota, detail)
        }
        PlaceHoldError::AlreadyCompleted => RefusalCode::AlreadyCompleted.into(),
        PlaceHoldError::InProgress => RefusalCode::OperationInProgress.into(),
        PlaceHoldError::DuplicateRequest => RefusalCode::Replayed.into(),
        PlaceHoldError::UnknownAccount => Refusal::new(RefusalCode::Forbidden, "the key's account is gone"),
        PlaceHoldError::UnknownSuperseded | PlaceHoldError::Terms(_) => {
            Refusal::new(RefusalCode::InvalidRequest, error.to_string())
        }
        PlaceHoldError::Store(error) => {
            tracing::error!(%error, "cannot place a hold");
            RefusalCode::Internal.into()
        }
    }
}
