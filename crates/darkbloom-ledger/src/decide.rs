//! The decisions: given what stands in the books, what an event writes into them.

use darkbloom_types::{AccountId, Millis, NanoDollars, Price, ProviderId, RequestId, UnixMillis, armed};

use crate::agreement::{Agreement, Division};
use crate::book::{Book, Transfer};
use crate::budget::{Budget, Spender};
use crate::charge::{Charge, Delivered, charge};
use crate::hold::{HoldRecord, HoldRequest, HoldState, Settled, TermsError, VoidCause};

/// How long after a void a receipt can still settle it. A provider that lost its connection presents its receipts again
/// when it returns; a day covers a night's outage, and after it the consumer's books stay closed.
pub const LATE_SETTLEMENT_WINDOW: Millis = Millis::from_minutes(24 * 60);

/// Why a deposit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DepositRefusal {
    /// Nothing, or less.
    #[error("a deposit must be more than zero")]
    NotPositive,
    /// All deposits together would leave the range of money. Because no other book can exceed them, this is the only
    /// place where a balance could overflow.
    #[error("all deposits together would be too large")]
    TooLarge,
}

/// The transfer of a deposit; `deposits` is what stands in [`Book::Deposits`].
///
/// # Errors
/// [`DepositRefusal`].
pub fn deposit(account: AccountId, amount: NanoDollars, deposits: NanoDollars) -> Result<Transfer, DepositRefusal> {
    if amount <= NanoDollars::ZERO {
        return Err(DepositRefusal::NotPositive);
    }
    // One below the lowest number would have no positive counterpart.
    match deposits.minus(amount) {
        Ok(sum) if sum.0 > i64::MIN => {}
        Ok(_) | Err(_) => return Err(DepositRefusal::TooLarge),
    }
    Ok(Transfer::balanced([(Book::Deposits, -amount.0), (Book::Available(account), amount.0)]))
}

/// What the books say about one account's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperationView {
    /// Whether one of its holds was settled.
    pub settled: bool,
    /// Its open hold.
    pub open: Option<RequestId>,
}

/// What the books say before a hold is placed.
#[derive(Debug, Clone, Copy)]
pub struct PlaceView<'a> {
    /// What the account may spend; `None` when there is no such account.
    pub available: Option<NanoDollars>,
    /// Whether the request id already has a hold, of whichever account.
    pub request_known: bool,
    /// The account's operation.
    pub operation: OperationView,
    /// The hold that the request says it supersedes, where there is one.
    pub superseded: Option<&'a HoldRecord>,
    /// The budgets of its key and of its account, where they have any.
    pub budgets: &'a [Budget],
}

/// Why a hold is refused. Nothing is written then; in particular a hold that was to be superseded stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceRefusal {
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
    Terms(#[from] TermsError),
}

/// What placing a hold writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The superseded hold's end, first.
    pub superseded: Option<Closing>,
    /// The money kept aside.
    pub transfer: Transfer,
}

/// What ending a hold writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// How it ended.
    pub settled: Settled,
    /// The money moved.
    pub transfer: Transfer,
}

/// What an event that ends a hold comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An earlier event ended it; this is that one's result, and nothing is written.
    Already(Settled),
    /// It ends now.
    Close(Closing),
}

/// Decides on a new hold.
///
/// # Errors
/// [`PlaceRefusal`].
pub fn place(request: &HoldRequest, view: &PlaceView<'_>) -> Result<Placement, PlaceRefusal> {
    let terms = request.terms()?;
    let available = view.available.ok_or(PlaceRefusal::UnknownAccount)?;
    if view.request_known {
        return Err(PlaceRefusal::DuplicateRequest);
    }
    if armed!("operation_settled_once") && view.operation.settled {
        return Err(PlaceRefusal::AlreadyCompleted);
    }
    if view.operation.open.is_some() && view.operation.open != request.supersedes {
        return Err(PlaceRefusal::InProgress);
    }
    let superseded = match (request.supersedes, view.superseded) {
        (None, _) => None,
        (Some(_), Some(old)) if same_operation(&old.request, request) => {
            match void(old, VoidCause::NothingDelivered, request.placed_at) {
                Verdict::Already(_) => None,
                Verdict::Close(closing) => Some(closing),
            }
        }
        (Some(_), _) => return Err(PlaceRefusal::UnknownSuperseded),
    };
    let returned = superseded.as_ref().map_or(0, |closing| closing.settled.released.0);
    let available = NanoDollars(available.0 + returned);
    if available < terms.amount() {
        return Err(PlaceRefusal::InsufficientFunds { available, needed: terms.amount() });
    }
    for budget in view.budgets {
        let budget = budget.at(request.placed_at);
        // An account's budget counts what a superseded hold gave back, as does the key's if it placed that hold.
        let gives_back = match (budget.spender, view.superseded) {
            (Spender::Account(_), _) => true,
            (Spender::Key(key), Some(old)) => old.request.key == key,
            (Spender::Key(_), None) => false,
        };
        let returned = NanoDollars(if gives_back { returned } else { 0 });
        let left = budget.closed(returned, NanoDollars::ZERO, request.placed_at).left();
        if left < terms.amount() && armed!("budget") {
            return Err(PlaceRefusal::OverBudget { spender: budget.spender, left, needed: terms.amount() });
        }
    }
    let amount = terms.amount().0;
    let transfer =
        Transfer::balanced([(Book::Available(request.account), -amount), (Book::Held(request.account), amount)]);
    Ok(Placement { superseded, transfer })
}

fn same_operation(old: &HoldRequest, new: &HoldRequest) -> bool {
    (old.account, old.operation) == (new.account, new.operation)
}

/// Decides how a hold ends after a delivery. When nothing was relayed it is a void, so that the operation can be tried
/// again; content that costs nothing (a free model) is settled.
///
/// # Errors
/// [`TermsError`] when the record's own terms are impossible, so it was not made by [`place`].
pub fn settle(
    record: &HoldRecord,
    provider: ProviderId,
    delivered: &Delivered,
    agreement: &Agreement,
    at: UnixMillis,
) -> Result<Verdict, TermsError> {
    if let Some(closed) = record.closed {
        return Ok(Verdict::Already(Settled { already: true, ..closed }));
    }
    if !delivered.content_relayed {
        return Ok(void(record, VoidCause::NothingDelivered, at));
    }
    let terms = record.request.terms()?;
    let terms = terms.at(agreement.price(terms.price()));
    let charge = charge(&terms, delivered);
    let settled = settlement(record, provider, terms.price(), charge, charge.amount, agreement, at);
    let released = NanoDollars(terms.amount().0 - charge.amount.0);
    let account = record.request.account;
    let transfer = Transfer::balanced([
        (Book::Held(account), -terms.amount().0),
        (Book::Earned(provider), settled.payout.0),
        (Book::Platform, settled.fee.0),
        referral_leg(&settled),
        (Book::Available(account), released.0),
    ]);
    Ok(Verdict::Close(Closing { settled: Settled { released, ..settled }, transfer }))
}

/// Decides how a hold ends without a delivery: all of it goes back.
#[must_use]
pub fn void(record: &HoldRecord, cause: VoidCause, at: UnixMillis) -> Verdict {
    if let Some(closed) = record.closed {
        return Verdict::Already(Settled { already: true, ..closed });
    }
    let HoldRequest { account, amount, .. } = record.request;
    let settled = Settled { void: Some(cause), released: amount, ..nothing_charged(record, at) };
    let transfer = Transfer::balanced([(Book::Held(account), -amount.0), (Book::Available(account), amount.0)]);
    Verdict::Close(Closing { settled, transfer })
}

/// Why a voided hold cannot be settled any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LateRefusal {
    /// The coordinator saw that nothing was delivered: a receipt that says otherwise is not believed.
    #[error("the hold was voided because nothing was delivered")]
    NothingDelivered,
    /// No answer of this provider was being relayed when the outcome was lost.
    #[error("no answer of this provider was being relayed")]
    NotAccepted,
    /// [`LATE_SETTLEMENT_WINDOW`] is over.
    #[error("the hold was voided more than 24 hours ago")]
    WindowPassed,
    /// The consumer sealed the operation again, and agreed to pay the other request.
    #[error("the hold was superseded by another request of the same operation")]
    Superseded,
    /// Another request of the operation is open.
    #[error("another request of the operation is in progress")]
    InProgress,
    /// Another request of the operation was settled.
    #[error("another request of the operation was already settled")]
    AlreadyCompleted,
    /// The record's own terms are impossible.
    #[error(transparent)]
    Terms(#[from] TermsError),
}

/// Decides on a receipt for a hold that may have been voided. An open hold is settled as by [`settle`]. A voided one is
/// charged by the same rule, out of what the account has available now and never below zero: the hold's protection
/// ended with the void, so the provider carries the rest ([`Settled::unpaid`]). Only a void for silence is charged: where
/// the coordinator knows that nothing was delivered, no receipt changes that.
///
/// # Errors
/// [`LateRefusal`].
pub fn settle_late(
    record: &HoldRecord,
    operation: &OperationView,
    available: NanoDollars,
    provider: ProviderId,
    delivered: &Delivered,
    agreement: &Agreement,
    at: UnixMillis,
) -> Result<Verdict, LateRefusal> {
    let voided = match record.closed {
        Some(closed) if closed.state == HoldState::Voided => Some(closed),
        Some(_) => return Ok(settle(record, provider, delivered, agreement, at)?),
        None => None,
    };
    if record.accepted_by != Some(provider) {
        return Err(LateRefusal::NotAccepted);
    }
    let Some(voided) = voided else { return Ok(settle(record, provider, delivered, agreement, at)?) };
    if record.superseded_by.is_some() {
        return Err(LateRefusal::Superseded);
    }
    if operation.settled {
        return Err(LateRefusal::AlreadyCompleted);
    }
    if operation.open.is_some() {
        return Err(LateRefusal::InProgress);
    }
    if voided.void != Some(VoidCause::Silence) {
        return Err(LateRefusal::NothingDelivered);
    }
    if at.since(voided.at) > LATE_SETTLEMENT_WINDOW {
        return Err(LateRefusal::WindowPassed);
    }
    if !delivered.content_relayed {
        return Ok(Verdict::Already(Settled { already: true, ..voided }));
    }
    let terms = record.request.terms()?;
    let terms = terms.at(agreement.price(terms.price()));
    let charge = charge(&terms, delivered);
    let taken = charge.amount.min(available).max(NanoDollars::ZERO);
    let settled = settlement(record, provider, terms.price(), charge, taken, agreement, at);
    let settled = Settled { released: voided.released, ..settled };
    let transfer = Transfer::balanced([
        (Book::Available(record.request.account), -taken.0),
        (Book::Earned(provider), settled.payout.0),
        (Book::Platform, settled.fee.0),
        referral_leg(&settled),
    ]);
    Ok(Verdict::Close(Closing { settled, transfer }))
}

/// The referrer's leg; of nothing where nobody brought the consumer.
fn referral_leg(settled: &Settled) -> (Book, i64) {
    settled.referrer.map_or((Book::Platform, 0), |account| (Book::Referral(account), settled.referral.0))
}

fn settlement(
    record: &HoldRecord,
    provider: ProviderId,
    price: Price,
    charge: Charge,
    taken: NanoDollars,
    agreement: &Agreement,
    at: UnixMillis,
) -> Settled {
    let shares = agreement.shares();
    let Division { payout, fee, referral } = shares.divide(taken);
    Settled {
        price,
        provider: Some(provider),
        state: HoldState::Settled,
        input_tokens: charge.input_tokens,
        output_tokens: charge.output_tokens,
        charge: taken,
        unpaid: NanoDollars(charge.amount.0 - taken.0),
        payout,
        fee,
        referral,
        referrer: agreement.referral.map(|(account, _)| account),
        shares,
        ..nothing_charged(record, at)
    }
}

fn nothing_charged(record: &HoldRecord, at: UnixMillis) -> Settled {
    Settled {
        request: record.request.request,
        operation: record.request.operation,
        account: record.request.account,
        provider: None,
        state: HoldState::Voided,
        void: None,
        input_tokens: Default::default(),
        output_tokens: Default::default(),
        price: record.request.price,
        charge: NanoDollars::ZERO,
        unpaid: NanoDollars::ZERO,
        released: NanoDollars::ZERO,
        payout: NanoDollars::ZERO,
        fee: NanoDollars::ZERO,
        referral: NanoDollars::ZERO,
        referrer: None,
        shares: Default::default(),
        at,
        already: false,
    }
}
