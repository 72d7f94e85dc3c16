//! A consumer who counts fewer tokens than it paid for: what is in doubt goes to a book of its own until somebody decides.

use darkbloom_types::{AccountId, Millis, NanoDollars, TokenCount, UnixMillis};

use crate::agreement::Division;
use crate::book::{Book, Transfer};
use crate::decide::LATE_SETTLEMENT_WINDOW;
use crate::hold::{HoldRecord, HoldState, Settled};

/// How long after a settlement it may be disputed; until then what it paid stays where it can be taken back from.
pub const DISPUTE_WINDOW: Millis = LATE_SETTLEMENT_WINDOW;

/// What a consumer counted itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recount {
    /// Input tokens.
    pub input: TokenCount,
    /// Output tokens.
    pub output: TokenCount,
}

/// Why a charge is not disputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DisputeRefusal {
    /// Nothing was charged by this request for this account.
    #[error("nothing was charged for this request")]
    NotCharged,
    /// [`DISPUTE_WINDOW`] is over.
    #[error("the charge is more than 24 hours old")]
    WindowPassed,
    /// The count comes to no less than the charge.
    #[error("the count costs no less than what was charged")]
    NoDifference,
    /// It was disputed before.
    #[error("the charge was disputed before")]
    Already,
}

/// Who is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The consumer gets the difference back.
    Consumer,
    /// All that were paid keep what they got.
    Provider,
}

/// Decides on a recount of a settled request: the parts of the difference that leave their books, and the transfer. Its
/// consumer's account is `account`.
///
/// # Errors
/// [`DisputeRefusal`].
pub fn dispute(
    record: &HoldRecord,
    account: AccountId,
    disputed_before: bool,
    recount: Recount,
    at: UnixMillis,
) -> Result<(Division, Transfer), DisputeRefusal> {
    let settled = record.closed.filter(|closed| closed.state == HoldState::Settled && closed.account == account);
    let settled = settled.filter(|closed| closed.charge > NanoDollars::ZERO).ok_or(DisputeRefusal::NotCharged)?;
    if disputed_before {
        return Err(DisputeRefusal::Already);
    }
    if at.since(settled.at) > DISPUTE_WINDOW {
        return Err(DisputeRefusal::WindowPassed);
    }
    let (input, output) = (recount.input.min(settled.input_tokens), recount.output.min(settled.output_tokens));
    let fair = settled.price.cost(input, output).map_or(settled.charge, |cost| cost.min(settled.charge));
    if fair == settled.charge {
        return Err(DisputeRefusal::NoDifference);
    }
    let (paid, fair) = (settled.shares.divide(settled.charge), settled.shares.divide(fair));
    // Nothing is taken back that is not there any more.
    let parts = Division {
        payout: NanoDollars(paid.payout.0 - fair.payout.0).min(record.kept.payout),
        fee: NanoDollars(paid.fee.0 - fair.fee.0),
        referral: NanoDollars(paid.referral.0 - fair.referral.0).min(record.kept.referral),
    };
    Ok((parts, moved(&settled, parts, -1)))
}

/// The transfer that a decision about a dispute comes to.
#[must_use]
pub fn decide_dispute(settled: &Settled, parts: Division, decision: Decision) -> Transfer {
    match decision {
        Decision::Provider => moved(settled, parts, 1),
        Decision::Consumer => {
            let amount = parts.payout.0 + parts.fee.0 + parts.referral.0;
            Transfer::balanced([(Book::Disputed(settled.account), -amount), (Book::Available(settled.account), amount)])
        }
    }
}

/// Parts of a settlement, out of the books of those who were paid (`sign` −1) or back into them (1).
fn moved(settled: &Settled, parts: Division, sign: i64) -> Transfer {
    let paid = [
        (settled.provider.map(Book::Earned), parts.payout.0),
        (Some(Book::Platform), parts.fee.0),
        (settled.referrer.map(Book::Referral), parts.referral.0),
    ];
    let mut legs = [(Book::Disputed(settled.account), 0); 4];
    for (leg, (book, amount)) in legs[1..].iter_mut().zip(paid) {
        // Whoever is not there was paid nothing.
        if let Some(book) = book {
            *leg = (book, sign * amount);
        }
    }
    legs[0].1 = -legs[1..].iter().map(|(_, amount)| amount).sum::<i64>();
    Transfer::balanced(legs)
}

/// What a settlement lets go of once it can be disputed no more: what its provider and its referrer may now have paid out.
/// Without an owner the provider's part stays.
#[must_use]
pub fn mature(record: &HoldRecord, owner: Option<AccountId>, at: UnixMillis) -> Option<Matured> {
    let settled = record.closed.filter(|closed| closed.state == HoldState::Settled)?;
    if at.since(settled.at) <= DISPUTE_WINDOW {
        return None;
    }
    let payout = if owner.is_some() { record.kept.payout } else { NanoDollars::ZERO };
    let matured = Matured { payout, referral: record.kept.referral };
    (matured != Matured { payout: NanoDollars::ZERO, referral: NanoDollars::ZERO }).then_some(matured)
}

/// What becomes free of one settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matured {
    /// The provider's.
    pub payout: NanoDollars,
    /// The referrer's.
    pub referral: NanoDollars,
}

/// The transfer by which what a book keeps becomes what an account may have paid out.
#[must_use]
pub fn release(kept_in: Book, account: AccountId, amount: NanoDollars) -> Transfer {
    Transfer::balanced([(kept_in, -amount.0), (Book::Withdrawable(account), amount.0)])
}
