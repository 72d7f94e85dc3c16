//! Receipt and bill, against everything that was sent and seen.

use darkbloom_content::FinishReason;
use darkbloom_seal::{BillExpectation, ReceiptExpectation, check_bill, check_receipt};
use darkbloom_types::{NanoDollars, OperationId, Price, Refusal, RefusalCode, RequestId, TokenCount};
use darkbloom_wire::{AnswerProof, PublicKey, Receipt, RelayedFinal, RelayedRefused, receipt_id};

use super::consumer::lie;
use super::opening::{End, Live};
use super::refused;
use super::sealing::Sealing;
use super::{Call, Completed, Settled};

/// What a bill is held to.
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    pub operation: OperationId,
    pub request: RequestId,
    pub price: Price,
    pub price_max: NanoDollars,
}

impl Agreed {
    /// The charge of a cut answer. Without a receipt nobody who should be believed knows the number of input tokens, so
    /// they cost nothing; and no more output is paid for than arrived.
    pub fn charge_of_cut(&self, bill: &[u8], arrived: u32, key: &PublicKey) -> Result<NanoDollars, Refusal> {
        let expected = BillExpectation {
            operation: self.operation,
            request: self.request,
            receipt: None,
            price: self.price,
            price_max: self.price_max,
            input_most: TokenCount(0),
            output_most: TokenCount(arrived),
        };
        let bill = check_bill(bill, key, &expected);
        bill.map(|bill| bill.charge).map_err(|error| lie(format!("of a cut answer: {error}")))
    }

    /// A refusal with what it cost, when it came with a bill. Also one whose sealed words are a lie: what a provider seals
    /// must not hide from the consumer what was charged.
    pub fn with_cost(
        &self,
        words: Result<Refusal, Refusal>,
        bill: Option<&[u8]>,
        arrived: u32,
        key: &PublicKey,
    ) -> (Refusal, Option<NanoDollars>) {
        let lied = words.is_err();
        let refusal = words.unwrap_or_else(|lie| lie);
        let Some(bill) = bill else { return (refusal, None) };
        let and = |more: String| if refusal.detail.is_empty() { more } else { format!("{}; {more}", refusal.detail) };
        match self.charge_of_cut(bill, arrived, key) {
            Ok(charge) => (Refusal::new(refusal.code, and(cost(arrived, charge))), Some(charge)),
            Err(bills) if lied => (Refusal::new(bills.code, and(bills.detail)), None),
            Err(bills) => (bills, None),
        }
    }
}

/// What a failed answer cost, in words.
fn cost(arrived: u32, charge: NanoDollars) -> String {
    format!("{arrived} tokens arrived and cost {charge}")
}

impl Call {
    fn agreed(&self, sealing: &Sealing) -> Agreed {
        Agreed {
            operation: self.operation_id,
            request: sealing.seal.header.request,
            price: sealing.candidates.price,
            price_max: sealing.price_max,
        }
    }

    /// Checks receipt and bill of an answer that its provider ended.
    pub(super) fn verify(&mut self, live: &Live, last: &RelayedFinal, sealing: &Sealing) -> Result<Completed, Refusal> {
        let end = live.end.ok_or_else(|| lie("the answer has no end"))?;
        let header = &sealing.seal.header;
        let seen = ReceiptExpectation {
            request: sealing.seal.request_digest,
            request_id: header.request,
            attempt: live.accepted.attempt,
            transcript: Some(live.opener.transcript()),
            model: header.model,
            weights: Some(sealing.candidates.entry.weights),
            provider: live.accepted.provider,
            epoch: live.accepted.epoch,
            input_ceiling: header.input_ceiling,
            output_tokens: Some(TokenCount(live.tokens)),
        };
        let receipt = check_receipt(&last.receipt, &live.verdict.statement.receipt_key, &seen)
            .map_err(|error| lie(error.to_string()))?;
        let said = match end {
            End::Whole(_, input_tokens) => input_tokens,
            End::Failed(_) => receipt.input_tokens,
        };
        // The same tokenizer on the same text: the provider's count of the prompt must be this client's own.
        if receipt.input_tokens != self.prompt_tokens || said != self.prompt_tokens {
            return Err(lie(format!(
                "{} input tokens in the receipt, {} counted here",
                receipt.input_tokens, self.prompt_tokens
            )));
        }
        let charge = self.check_bill(last, &receipt, sealing)?;
        self.timing.provider(&receipt);
        match end {
            End::Whole(finish, _) => Ok(self.completed(finish, &receipt, last, charge)),
            End::Failed(code) => {
                self.charged(charge);
                Err(Refusal::new(refused::of_provider(code, RefusalCode::AnswerCut), cost(live.tokens, charge)))
            }
        }
    }

    /// Keeps what proves the answer, where its consumer wants that. An answer is no worse without: a disk that is full costs
    /// nobody his answer.
    pub(super) async fn keep_proof(&self, live: &Live, last: &RelayedFinal, sealing: &Sealing) {
        let (Some(folder), PublicKey::P256(coordinator)) = (&self.network.proofs, &self.coordinator.key) else {
            return;
        };
        let proof = AnswerProof {
            coordinator: *coordinator,
            list: sealing.candidates.signed.to_vec(),
            statement: live.verdict.signed.clone(),
            receipt: last.receipt.clone(),
            bill: last.bill.clone(),
        };
        let folder = folder.clone();
        let kept = tokio::task::spawn_blocking(move || folder.keep(&proof)).await;
        if let Err(error) = kept.map_err(std::io::Error::other).flatten() {
            tracing::error!(%error, "what proves an answer cannot be kept");
        }
    }

    fn completed(
        &self,
        finish: FinishReason,
        receipt: &Receipt,
        last: &RelayedFinal,
        charge: NanoDollars,
    ) -> Completed {
        Completed {
            finish,
            input_tokens: receipt.input_tokens,
            output_tokens: receipt.output_tokens,
            settled: Some(Settled { receipt: receipt_id(&last.receipt), charge }),
            timing: self.timing,
        }
    }

    fn check_bill(&self, last: &RelayedFinal, receipt: &Receipt, sealing: &Sealing) -> Result<NanoDollars, Refusal> {
        let Agreed { operation, request, price, price_max } = self.agreed(sealing);
        let expected = BillExpectation {
            operation,
            request,
            receipt: Some(receipt_id(&last.receipt)),
            price,
            price_max,
            input_most: receipt.input_tokens,
            output_most: receipt.output_tokens,
        };
        let bill = check_bill(&last.bill, &self.coordinator.key, &expected).map_err(|error| lie(error.to_string()))?;
        Ok(bill.charge)
    }

    /// A refusal, or the end of a cut answer: what it says must agree with what the provider sealed, and what it costs
    /// with what arrived.
    pub(super) fn refused(&mut self, frame: &RelayedRefused, live: Option<&Live>, sealing: &Sealing) -> Refusal {
        if let Some(timing) = &frame.timing {
            self.timing = self.timing_before.with_coordinator(timing);
        }
        self.retry_after = frame.retry_after;
        let recipients = sealing.candidates.usable.iter().map(|usable| (usable.verdict.provider, usable.verdict.epoch));
        let words = refused::refusal_of(frame, &sealing.seal, recipients);
        let arrived = live.map_or(0, |live| live.tokens);
        let bill = frame.bill.as_deref();
        let (refusal, charge) = self.agreed(sealing).with_cost(words, bill, arrived, &self.coordinator.key);
        if let Some(charge) = charge {
            self.charged(charge);
        }
        refusal
    }
}
