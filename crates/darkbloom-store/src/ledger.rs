//! Holds and their ends: loads what the decision needs, asks the ledger, writes what it answers.

pub(crate) mod agreement;
pub(crate) mod books;
pub(crate) mod budgets;
mod disputes;
mod earnings;
mod flows;
pub(crate) mod holds;
mod invites;
mod payouts;

use darkbloom_ledger::{
    Book, Closing, Delivered, HoldRecord, HoldRequest, HoldState, LateRefusal, PlaceRefusal, PlaceView, Settled,
    Spender, TermsError, Verdict, VoidCause,
};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, ProviderId, ReceiptId, RequestId, TokenCount,
    UnixMillis,
};

use crate::error::{StoreError, at_most};
use crate::sql::{Connection, values};
use crate::store::{Store, StoreOptions};

pub use self::books::Movement;
pub use self::disputes::{DisputeError, DisputeRow};
pub use self::earnings::{Earnings, JobRow, MachineRow};
pub use self::flows::{Flow, Flows, Moved, book_name};
pub use self::invites::{InviteRow, RedeemError, Redeemed};
pub use self::payouts::{PayoutError, PayoutRow};

/// Largest receipt, in bytes; a signed receipt is about 500.
pub(crate) const RECEIPT_BYTES_MAX: usize = 16 << 10;

/// Most of a void's reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 200;

/// Most holds that one list of open or expired holds has. Void those and ask again.
const HOLDS_LIST_MAX: u32 = 10_000;

/// Most rows that one usage list has.
const USAGE_LIST_MAX: u32 = 10_000;

/// A delivery to be settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The request whose hold ends.
    pub request: RequestId,
    /// Who delivered.
    pub provider: ProviderId,
    /// What was delivered.
    pub delivered: Delivered,
    /// The receipt's signed bytes, kept when the hold is settled by them.
    pub receipt: Option<Vec<u8>>,
    /// The receipt's id.
    pub receipt_id: Option<ReceiptId>,
    /// When.
    pub at: UnixMillis,
}

/// One settled request, for its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The operation.
    pub operation: OperationId,
    /// The request that was settled.
    pub request: RequestId,
    /// The key that asked.
    pub key: KeyId,
    /// The model.
    pub model: CatalogueDigest,
    /// When it was settled.
    pub at: UnixMillis,
    /// Input tokens charged.
    pub input_tokens: TokenCount,
    /// Output tokens charged.
    pub output_tokens: TokenCount,
    /// The edition of the price list that was charged by.
    pub price_version: u32,
    /// What was paid.
    pub charge: NanoDollars,
    /// Who delivered.
    pub provider: ProviderId,
}

/// Why a hold is not placed. Nothing was written then: a hold that was to be superseded is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceHoldError {
    /// The account cannot cover it.
    #[error("{available} is available, {needed} is needed")]
    InsufficientFunds {
        /// What the account may spend, with what a superseded hold would give back.
        available: NanoDollars,
        /// The hold's amount.
        needed: NanoDollars,
    },
    /// A budget does not cover it.
    #[error("{left} is left of the budget, {needed} is needed")]
    OverBudget {
        /// Whose budget.
        spender: Spender,
        /// What is left, with what a superseded hold would give back.
        left: NanoDollars,
        /// The hold's amount.
        needed: NanoDollars,
    },
    /// The operation was settled.
    #[error("the operation was already settled")]
    AlreadyCompleted,
    /// The operation has another open hold.
    #[error("the operation is in progress")]
    InProgress,
    /// There is no such account.
    #[error("the account is unknown")]
    UnknownAccount,
    /// The request id was used before.
    #[error("the request id was used before")]
    DuplicateRequest,
    /// What it supersedes is not a hold of the same account and operation.
    #[error("the superseded request is not one of this operation")]
    UnknownSuperseded,
    /// The amount does not cover price and ceilings.
    #[error(transparent)]
    Terms(TermsError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PlaceRefusal> for PlaceHoldError {
    fn from(refusal: PlaceRefusal) -> Self {
        match refusal {
            PlaceRefusal::InsufficientFunds { available, needed } => Self::InsufficientFunds { available, needed },
            PlaceRefusal::OverBudget { spender, left, needed } => Self::OverBudget { spender, left, needed },
            PlaceRefusal::AlreadyCompleted => Self::AlreadyCompleted,
            PlaceRefusal::InProgress => Self::InProgress,
            PlaceRefusal::UnknownAccount => Self::UnknownAccount,
            PlaceRefusal::DuplicateRequest => Self::DuplicateRequest,
            PlaceRefusal::UnknownSuperseded => Self::UnknownSuperseded,
            PlaceRefusal::Terms(error) => Self::Terms(error),
        }
    }
}

/// Why a hold does not end. Nothing was written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The request has no hold.
    #[error("the request has no hold")]
    UnknownRequest,
    /// Too late, or the operation has moved on; only from [`Store::late_settle`].
    #[error(transparent)]
    Late(LateRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Keeps money aside for a request. With `supersedes`, the operation's earlier hold is voided in the same
    /// transaction.
    ///
    /// # Errors
    /// [`PlaceHoldError`].
    pub async fn hold_place(&self, request: HoldRequest) -> Result<(), PlaceHoldError> {
        self.write(move |connection| place(connection, &request)).await
    }

    /// Ends a hold after a delivery. The first event that ends a hold wins: a later one is answered with the first
    /// one's result, marked `already`. A delivery without content is a void.
    ///
    /// # Errors
    /// [`SettleError`].
    pub async fn hold_settle(&self, settlement: Settlement) -> Result<Settled, SettleError> {
        check_receipt(&settlement)?;
        let options = self.inner.options;
        self.write(move |connection| settle(connection, &settlement, options)).await
    }

    /// Ends a hold without a delivery; idempotent as [`Store::hold_settle`]. The reason is for the operator, and never
    /// content; what is over 200 bytes of it is cut off.
    ///
    /// # Errors
    /// [`SettleError`].
    pub async fn hold_void(
        &self,
        request: RequestId,
        cause: VoidCause,
        reason: impl Into<String>,
        at: UnixMillis,
    ) -> Result<Settled, SettleError> {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        self.write(move |connection| void(connection, request, cause, &reason, at)).await
    }

    /// Notes whose answer is being relayed for an open hold, so that after a crash no other provider's receipt settles it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hold_accepted(&self, request: RequestId, provider: ProviderId) -> Result<(), StoreError> {
        self.write(move |connection| holds::accepted(connection, request, provider)).await
    }

    /// Settles a hold that may have been voided meanwhile, by a receipt that was presented again: within 24 hours of
    /// the void, unless the operation has moved on to another request, and only as far as the account can pay now.
    ///
    /// # Errors
    /// [`SettleError`].
    pub async fn late_settle(&self, settlement: Settlement) -> Result<Settled, SettleError> {
        check_receipt(&settlement)?;
        let options = self.inner.options;
        self.write(move |connection| settle_late(connection, &settlement, options)).await
    }

    /// A hold, whatever its state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hold(&self, request: RequestId) -> Result<Option<HoldRecord>, StoreError> {
        self.read(move |connection| holds::load(connection, request)).await
    }

    /// Open holds whose time is over, longest over first; 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn holds_expired(&self, now: UnixMillis) -> Result<Vec<RequestId>, StoreError> {
        self.read(move |connection| {
            let expired = holds::open_until(connection, now, HOLDS_LIST_MAX)?;
            Ok(expired.into_iter().map(|hold| hold.request.request).collect())
        })
        .await
    }

    /// Open holds, soonest to expire first; 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn holds_open(&self) -> Result<Vec<HoldRequest>, StoreError> {
        self.read(|connection| {
            let open = holds::open_until(connection, UnixMillis(i64::MAX), HOLDS_LIST_MAX)?;
            Ok(open.into_iter().map(|hold| hold.request).collect())
        })
        .await
    }

    /// What an account has paid for, newest first; 10,000 rows at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn usage(&self, account: AccountId, limit: u32) -> Result<Vec<UsageRow>, StoreError> {
        self.read(move |connection| usage(connection, account, limit.min(USAGE_LIST_MAX))).await
    }
}

fn check_receipt(settlement: &Settlement) -> Result<(), StoreError> {
    at_most("a receipt, in bytes,", settlement.receipt.as_ref().map_or(0, Vec::len), RECEIPT_BYTES_MAX)
}

fn place(connection: &Connection, request: &HoldRequest) -> Result<(), PlaceHoldError> {
    let superseded = match request.supersedes {
        Some(old) => holds::load(connection, old)?,
        None => None,
    };
    let budgets = budgets::of(connection, request)?;
    let view = PlaceView {
        available: books::book(connection, Book::Available(request.account))?,
        request_known: holds::exists(connection, request.request)?,
        operation: holds::operation(connection, request.account, request.operation)?,
        superseded: superseded.as_ref(),
        budgets: &budgets,
    };
    let placement = darkbloom_ledger::place(request, &view)?;
    if let Some((closing, old)) = placement.superseded.as_ref().zip(superseded.as_ref()) {
        write_closing(connection, Movement::Void, old, closing, Some("superseded"))?;
    }
    if let Some(old) = request.supersedes {
        // Also a hold that was voided before: it can no longer be settled late.
        holds::supersede(connection, old, request.request)?;
    }
    holds::insert(connection, request)?;
    if !budgets.is_empty() {
        // The superseded hold may have changed them.
        budgets::opened(connection, &budgets::of(connection, request)?, request)?;
    }
    books::post(connection, Movement::Hold, Some(request.request), request.placed_at, &placement.transfer)?;
    Ok(())
}

fn settle(connection: &Connection, settlement: &Settlement, options: StoreOptions) -> Result<Settled, SettleError> {
    let record = holds::load(connection, settlement.request)?.ok_or(SettleError::UnknownRequest)?;
    let Settlement { provider, delivered, at, .. } = settlement;
    let agreement = agreement::load(connection, &record.request, *provider, options)?;
    let verdict = darkbloom_ledger::settle(&record, *provider, delivered, &agreement, *at)
        .map_err(|_| StoreError::ImpossibleRow { what: "hold terms" })?;
    carry_out(connection, Movement::Settlement, &record, verdict, settlement)
}

fn settle_late(
    connection: &Connection,
    settlement: &Settlement,
    options: StoreOptions,
) -> Result<Settled, SettleError> {
    let record = holds::load(connection, settlement.request)?.ok_or(SettleError::UnknownRequest)?;
    let HoldRequest { account, operation, .. } = record.request;
    let operation = holds::operation(connection, account, operation)?;
    let available = books::book(connection, Book::Available(account))?
        .ok_or(StoreError::ImpossibleRow { what: "hold without an account" })?;
    let Settlement { provider, delivered, at, .. } = settlement;
    let agreement = agreement::load(connection, &record.request, *provider, options)?;
    let verdict = darkbloom_ledger::settle_late(&record, &operation, available, *provider, delivered, &agreement, *at)
        .map_err(|refusal| match refusal {
            LateRefusal::Terms(_) => SettleError::Store(StoreError::ImpossibleRow { what: "hold terms" }),
            refusal @ (LateRefusal::WindowPassed
            | LateRefusal::Superseded
            | LateRefusal::InProgress
            | LateRefusal::AlreadyCompleted
            | LateRefusal::NothingDelivered
            | LateRefusal::NotAccepted) => SettleError::Late(refusal),
        })?;
    let kind = match record.state() {
        HoldState::Open => Movement::Settlement,
        HoldState::Voided | HoldState::Settled => Movement::LateSettlement,
    };
    carry_out(connection, kind, &record, verdict, settlement)
}

fn void(
    connection: &Connection,
    request: RequestId,
    cause: VoidCause,
    reason: &str,
    at: UnixMillis,
) -> Result<Settled, SettleError> {
    let record = holds::load(connection, request)?.ok_or(SettleError::UnknownRequest)?;
    match darkbloom_ledger::void(&record, cause, at) {
        Verdict::Already(settled) => Ok(settled),
        Verdict::Close(closing) => {
            write_closing(connection, Movement::Void, &record, &closing, Some(reason))?;
            Ok(closing.settled)
        }
    }
}

fn carry_out(
    connection: &Connection,
    kind: Movement,
    record: &HoldRecord,
    verdict: Verdict,
    settlement: &Settlement,
) -> Result<Settled, SettleError> {
    let closing = match verdict {
        Verdict::Already(settled) => return Ok(settled),
        Verdict::Close(closing) => closing,
    };
    if closing.settled.state == HoldState::Voided {
        write_closing(connection, Movement::Void, record, &closing, Some("nothing was relayed"))?;
        return Ok(closing.settled);
    }
    write_closing(connection, kind, record, &closing, None)?;
    if settlement.receipt.is_some() || settlement.receipt_id.is_some() {
        insert_receipt(connection, settlement)?;
    }
    Ok(closing.settled)
}

fn write_closing(
    connection: &Connection,
    kind: Movement,
    record: &HoldRecord,
    closing: &Closing,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let settled = &closing.settled;
    holds::close(connection, settled, reason)?;
    // What a void gave back is free already when a receipt comes late.
    let held = if record.closed.is_none() { record.request.amount } else { NanoDollars::ZERO };
    budgets::closed(connection, &record.request, held, settled.charge, settled.at)?;
    books::post(connection, kind, Some(closing.settled.request), closing.settled.at, &closing.transfer)?;
    Ok(())
}

fn insert_receipt(connection: &Connection, settlement: &Settlement) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO receipt (request, receipt_id, bytes) VALUES (?1, ?2, ?3)",
        values![&settlement.request.0, settlement.receipt_id.as_ref().map(|id| &id.0), settlement.receipt.as_deref()],
    )?;
    Ok(())
}

fn usage(connection: &Connection, account: AccountId, limit: u32) -> Result<Vec<UsageRow>, StoreError> {
    let settled = holds::settled_of(connection, account, limit)?;
    let row = |(HoldRecord { request, .. }, settled): (HoldRecord, Settled)| {
        Ok(UsageRow {
            operation: request.operation,
            request: request.request,
            key: request.key,
            model: request.model,
            at: settled.at,
            input_tokens: settled.input_tokens,
            output_tokens: settled.output_tokens,
            price_version: settled.price.version,
            charge: settled.charge,
            provider: settled.provider.ok_or(StoreError::ImpossibleRow { what: "settlement without a provider" })?,
        })
    };
    settled.into_iter().map(row).collect()
}
