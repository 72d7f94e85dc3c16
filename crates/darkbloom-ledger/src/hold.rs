//! Holds: money kept aside for one request before anything is dispatched.

use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, MoneyError, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount,
    UnixMillis,
};

use crate::agreement::Shares;

/// Everything a hold is placed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRequest {
    /// The sealed request that the money is kept for; never used twice.
    pub request: RequestId,
    /// What the consumer asked for once; stays the same when the request is sealed again.
    pub operation: OperationId,
    /// Whose money.
    pub account: AccountId,
    /// The key that asked.
    pub key: KeyId,
    /// The model that was asked, for the usage list.
    pub model: CatalogueDigest,
    /// How much is kept aside; at least the [`worst_case`] of price and ceilings.
    pub amount: NanoDollars,
    /// The price that was agreed to.
    pub price: Price,
    /// Most input tokens that can be charged.
    pub input_ceiling: TokenCount,
    /// Most output tokens that can be charged, over all choices.
    pub output_ceiling: TokenCount,
    /// When the hold is placed.
    pub placed_at: UnixMillis,
    /// When an open hold may be voided by whoever sweeps.
    pub expires_at: UnixMillis,
    /// The earlier hold of the same operation that this one replaces.
    pub supersedes: Option<RequestId>,
}

impl HoldRequest {
    /// The terms by which the hold will be charged.
    ///
    /// # Errors
    /// [`TermsError`] when the amount does not cover them.
    pub fn terms(&self) -> Result<HoldTerms, TermsError> {
        HoldTerms::new(self.amount, self.price, self.input_ceiling, self.output_ceiling)
    }
}

/// The most that a request can cost.
///
/// # Errors
/// [`MoneyError::TooLarge`] when that leaves 63 bits of nano-dollars.
pub fn worst_case(
    price: Price,
    input_ceiling: TokenCount,
    output_ceiling: TokenCount,
) -> Result<NanoDollars, MoneyError> {
    price.cost(input_ceiling, output_ceiling)
}

/// Price, ceilings and an amount that is known to cover them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldTerms {
    amount: NanoDollars,
    price: Price,
    input_ceiling: TokenCount,
    output_ceiling: TokenCount,
}

/// Why a hold cannot have these terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Price times ceilings leaves the range of money.
    #[error("the highest price of the request is too large")]
    TooLarge,
    /// A charge could exceed the hold.
    #[error("a hold of {amount} does not cover the highest price {worst_case}")]
    AmountBelowWorstCase {
        /// What was to be held.
        amount: NanoDollars,
        /// What the request can cost.
        worst_case: NanoDollars,
    },
}

impl HoldTerms {
    /// Terms whose amount covers the worst case.
    ///
    /// # Errors
    /// [`TermsError`] when it does not, or when the worst case is no amount of money.
    pub fn new(
        amount: NanoDollars,
        price: Price,
        input_ceiling: TokenCount,
        output_ceiling: TokenCount,
    ) -> Result<Self, TermsError> {
        let worst_case = worst_case(price, input_ceiling, output_ceiling).map_err(|_| TermsError::TooLarge)?;
        if amount < worst_case {
            return Err(TermsError::AmountBelowWorstCase { amount, worst_case });
        }
        Ok(Self { amount, price, input_ceiling, output_ceiling })
    }

    /// The same terms at a price that is no higher.
    pub(crate) fn at(self, price: Price) -> Self {
        debug_assert!(price.is_within(&self.price), "a hold covers what was agreed to");
        Self { price, ..self }
    }

    /// How much is kept aside; never negative, never below the worst case.
    #[must_use]
    pub fn amount(&self) -> NanoDollars {
        self.amount
    }

    /// The price that was agreed to.
    #[must_use]
    pub fn price(&self) -> Price {
        self.price
    }

    /// Most input tokens that can be charged.
    #[must_use]
    pub fn input_ceiling(&self) -> TokenCount {
        self.input_ceiling
    }

    /// Most output tokens that can be charged.
    #[must_use]
    pub fn output_ceiling(&self) -> TokenCount {
        self.output_ceiling
    }
}

/// Where a hold is in its life; see the diagram at the head of the crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HoldState {
    /// The money is kept aside.
    Open,
    /// The money was charged, and the rest given back.
    Settled,
    /// All the money was given back.
    Voided,
}

/// Why all the money of a hold went back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VoidCause {
    /// The coordinator knows that nothing was delivered: that is final.
    NothingDelivered,
    /// The coordinator does not know what was delivered, because it was down or heard nothing. A receipt can still settle
    /// it within the window for late settlements.
    Silence,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The request whose hold it was.
    pub request: RequestId,
    /// The operation that the request belonged to.
    pub operation: OperationId,
    /// Whose money.
    pub account: AccountId,
    /// Who is paid; `None` for a void.
    pub provider: Option<ProviderId>,
    /// [`HoldState::Settled`] or [`HoldState::Voided`].
    pub state: HoldState,
    /// Why it was voided, if it was.
    pub void: Option<VoidCause>,
    /// Input tokens charged.
    pub input_tokens: TokenCount,
    /// Output tokens charged.
    pub output_tokens: TokenCount,
    /// The price that was charged by: what was agreed, or less.
    pub price: Price,
    /// What the account paid: `payout`, `fee` and `referral` together.
    pub charge: NanoDollars,
    /// What a late settlement could not take because the account had no more.
    pub unpaid: NanoDollars,
    /// What went back from the hold to the account.
    pub released: NanoDollars,
    /// What the provider earned.
    pub payout: NanoDollars,
    /// What the operator earned.
    pub fee: NanoDollars,
    /// What whoever brought the consumer earned.
    pub referral: NanoDollars,
    /// Who that is.
    pub referrer: Option<AccountId>,
    /// How the charge was divided.
    pub shares: Shares,
    /// When the hold ended.
    pub at: UnixMillis,
    /// Whether an earlier event had already ended the hold; this is then that event's result.
    pub already: bool,
}

/// A hold as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRecord {
    /// What it was placed with.
    pub request: HoldRequest,
    /// How it ended; `None` while it is open.
    pub closed: Option<Settled>,
    /// The request that replaced it, if one did.
    pub superseded_by: Option<RequestId>,
    /// Whose answer was being relayed, as far as that was written down: the only one whose late receipt counts.
    pub accepted_by: Option<ProviderId>,
    /// What of its payout and its referral cannot be paid out yet, and could still be taken back.
    pub kept: Kept,
}

/// What a settlement keeps until it can be disputed no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Of the provider's payout.
    pub payout: NanoDollars,
    /// Of the referrer's part.
    pub referral: NanoDollars,
}

impl HoldRecord {
    /// An open hold, as it is placed.
    #[must_use]
    pub fn open(request: HoldRequest) -> Self {
        Self { request, closed: None, superseded_by: None, accepted_by: None, kept: Kept::default() }
    }

    /// Where the hold is in its life.
    #[must_use]
    pub fn state(&self) -> HoldState {
        self.closed.map_or(HoldState::Open, |closed| closed.state)
    }
}

/// What an account has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// What it may still spend.
    pub available: NanoDollars,
    /// What its open holds keep aside.
    pub held: NanoDollars,
}
