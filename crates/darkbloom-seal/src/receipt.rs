//! Checking receipts and bills against what the client or coordinator saw itself.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, EpochId, MoneyError, NanoDollars, OperationId, Price, ProviderId,
    ReceiptId, RequestId, TokenCount, armed,
};
use darkbloom_wire::{Bill, PublicKey, Receipt, VerifyError};

/// Why a receipt is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Its signature or encoding.
    #[error("the receipt does not verify: {0}")]
    Signature(#[from] VerifyError),
    /// It is about something else.
    #[error("the receipt's {0} is not what was seen")]
    Mismatch(&'static str),
}

/// What a receipt must say. `None` where the checker cannot know.
#[derive(Debug, Clone, Copy)]
pub struct ReceiptExpectation {
    /// SHA-256(header ‖ body).
    pub request: Digest,
    /// The request's id.
    pub request_id: RequestId,
    /// The attempt that was accepted.
    pub attempt: AttemptNumber,
    /// The hash chain over what arrived.
    pub transcript: Option<Digest>,
    /// The model asked for.
    pub model: CatalogueDigest,
    /// The weights in its catalogue entry.
    pub weights: Option<Digest>,
    /// Who accepted.
    pub provider: ProviderId,
    /// In which epoch.
    pub epoch: EpochId,
    /// Most input tokens.
    pub input_ceiling: TokenCount,
    /// Output tokens in the last frame that arrived.
    pub output_tokens: Option<TokenCount>,
}

/// Verifies a receipt's signature and compares it with what was seen.
///
/// # Errors
/// [`ReceiptError`] names what does not hold.
pub fn check_receipt(bytes: &[u8], receipt_key: &[u8; 32], seen: &ReceiptExpectation) -> Result<Receipt, ReceiptError> {
    let receipt = Receipt::open(bytes, &PublicKey::Ed25519(*receipt_key))?;
    let checks = [
        ("request digest", receipt.request == seen.request),
        ("request id", receipt.request_id == seen.request_id),
        ("attempt", receipt.attempt == seen.attempt),
        (
            "transcript digest",
            !armed!("receipt_transcript") || seen.transcript.is_none_or(|digest| receipt.transcript == digest),
        ),
        ("model", receipt.model == seen.model),
        ("weights", !armed!("receipt_weights") || seen.weights.is_none_or(|digest| receipt.weights == digest)),
        ("provider", receipt.provider == seen.provider),
        ("epoch", !armed!("receipt_epoch") || receipt.epoch == seen.epoch),
        ("input token count", receipt.input_tokens <= seen.input_ceiling),
        (
            "output token count",
            !armed!("receipt_output") || seen.output_tokens.is_none_or(|tokens| receipt.output_tokens == tokens),
        ),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(ReceiptError::Mismatch(what)),
        None => Ok(receipt),
    }
}

/// Why a bill is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BillError {
    /// Its signature or encoding.
    #[error("the bill does not verify: {0}")]
    Signature(#[from] VerifyError),
    /// It is about something else, or charges more than the rule allows.
    #[error("the bill's {0} is not what was agreed")]
    Mismatch(&'static str),
    /// Its sums overflow.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// What a bill must say.
#[derive(Debug, Clone, Copy)]
pub struct BillExpectation {
    /// The operation.
    pub operation: OperationId,
    /// The request.
    pub request: RequestId,
    /// The receipt that came with it.
    pub receipt: Option<ReceiptId>,
    /// The price agreed to; a bill may be by a lower one.
    pub price: Price,
    /// The most that was agreed to.
    pub price_max: NanoDollars,
    /// Most input tokens that may be charged.
    pub input_most: TokenCount,
    /// Most output tokens that may be charged.
    pub output_most: TokenCount,
}

/// Verifies a bill's signature and recomputes its charge.
///
/// # Errors
/// [`BillError`] names what does not hold.
pub fn check_bill(bytes: &[u8], coordinator: &PublicKey, agreed: &BillExpectation) -> Result<Bill, BillError> {
    let bill = Bill::open(bytes, coordinator)?;
    let cost = bill.price.cost(bill.input_tokens, bill.output_tokens)?;
    let checks = [
        ("operation", !armed!("bill_operation") || bill.operation == agreed.operation),
        ("request", bill.request == agreed.request),
        ("receipt", bill.receipt == agreed.receipt),
        // A provider's own price may be lower; which edition that is says the bill.
        ("price", agreed.price.allows(&bill.price)),
        ("hold", !armed!("bill_hold") || bill.hold <= agreed.price_max),
        ("input token count", bill.input_tokens <= agreed.input_most),
        ("output token count", bill.output_tokens <= agreed.output_most),
        ("charge", !armed!("bill_charge") || (bill.charge == cost && bill.charge <= bill.hold)),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(BillError::Mismatch(what)),
        None => Ok(bill),
    }
}
