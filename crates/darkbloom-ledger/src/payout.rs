//! Payouts: money on its way out of the network. Each is asked for once, under its owner's own name for it, and whoever
//! carries it out says step by step how far it is. What may have been sent is never given back by itself.
//!
//! ```text
//! Requested ──▶ Sending ──▶ Paid        Withdrawable → Withdrawing → Withdrawals
//!     │            │
//!     └────────────┴──────▶ Returned    Withdrawing → Withdrawable
//! ```

use darkbloom_types::{AccountId, NanoDollars};

use crate::book::{Book, Transfer};

/// How far a payout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PayoutState {
    /// The money is kept aside; nobody was told to send it.
    Requested,
    /// Somebody outside was told; whether it arrives is not known yet.
    Sending,
    /// It arrived.
    Paid,
    /// It did not, and is the account's again.
    Returned,
}

impl PayoutState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Requested, Self::Sending, Self::Paid, Self::Returned];

    /// The name in lists and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Sending => "sending",
            Self::Paid => "paid",
            Self::Returned => "returned",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether it may become that.
    fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Requested, Self::Sending | Self::Returned) | (Self::Sending, Self::Paid | Self::Returned)
        )
    }
}

/// Why money is not moved out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayoutRefusal {
    /// Nothing, or less.
    #[error("a payout must be more than zero")]
    NotPositive,
    /// There is less.
    #[error("{withdrawable} may be paid out")]
    Insufficient {
        /// What may be.
        withdrawable: NanoDollars,
    },
    /// It is somewhere else on its way.
    #[error("a payout that is {} does not become {}", .from.name(), .to.name())]
    WrongState {
        /// Where it is.
        from: PayoutState,
        /// Where it was to go.
        to: PayoutState,
    },
}

/// Keeps a payout aside.
///
/// # Errors
/// [`PayoutRefusal`].
pub fn request_payout(
    account: AccountId,
    amount: NanoDollars,
    withdrawable: NanoDollars,
) -> Result<Transfer, PayoutRefusal> {
    covered(amount, withdrawable)?;
    Ok(Transfer::balanced([(Book::Withdrawable(account), -amount.0), (Book::Withdrawing(account), amount.0)]))
}

/// Moves a payout on. The same state again changes nothing, and is answered with no transfer.
///
/// # Errors
/// [`PayoutRefusal::WrongState`].
pub fn advance_payout(
    account: AccountId,
    amount: NanoDollars,
    from: PayoutState,
    to: PayoutState,
) -> Result<Option<Transfer>, PayoutRefusal> {
    if from == to {
        return Ok(None);
    }
    if !from.may_become(to) {
        return Err(PayoutRefusal::WrongState { from, to });
    }
    let goes = match to {
        PayoutState::Requested | PayoutState::Sending => return Ok(None),
        PayoutState::Paid => Book::Withdrawals,
        PayoutState::Returned => Book::Withdrawable(account),
    };
    Ok(Some(Transfer::balanced([(Book::Withdrawing(account), -amount.0), (goes, amount.0)])))
}

/// Makes earnings an account's own credit.
///
/// # Errors
/// [`PayoutRefusal`].
pub fn spend_earnings(
    account: AccountId,
    amount: NanoDollars,
    withdrawable: NanoDollars,
) -> Result<Transfer, PayoutRefusal> {
    covered(amount, withdrawable)?;
    Ok(Transfer::balanced([(Book::Withdrawable(account), -amount.0), (Book::Available(account), amount.0)]))
}

fn covered(amount: NanoDollars, withdrawable: NanoDollars) -> Result<(), PayoutRefusal> {
    if amount <= NanoDollars::ZERO {
        return Err(PayoutRefusal::NotPositive);
    }
    if amount > withdrawable {
        return Err(PayoutRefusal::Insufficient { withdrawable });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId(3);
    const AMOUNT: NanoDollars = NanoDollars(10);

    #[test]
    fn a_payout_goes_forward_only_and_ends_once() {
        use PayoutState::{Paid, Requested, Returned, Sending};
        let allowed = [(Requested, Sending), (Requested, Returned), (Sending, Paid), (Sending, Returned)];
        for from in PayoutState::ALL {
            for to in PayoutState::ALL {
                let advanced = advance_payout(ACCOUNT, AMOUNT, from, to);
                let expected = from == to || allowed.contains(&(from, to));
                assert_eq!(advanced.is_ok(), expected, "{from:?} to {to:?}");
                let moves = advanced.ok().flatten().is_some();
                assert_eq!(moves, from != to && expected && matches!(to, Paid | Returned), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn no_more_is_paid_out_than_was_earned() {
        assert_eq!(request_payout(ACCOUNT, NanoDollars(0), AMOUNT), Err(PayoutRefusal::NotPositive));
        let refusal = PayoutRefusal::Insufficient { withdrawable: AMOUNT };
        assert_eq!(request_payout(ACCOUNT, NanoDollars(11), AMOUNT), Err(refusal));
        assert_eq!(spend_earnings(ACCOUNT, NanoDollars(11), AMOUNT), Err(refusal));
        assert_eq!(spend_earnings(ACCOUNT, NanoDollars(-1), AMOUNT), Err(PayoutRefusal::NotPositive));
        assert_eq!(request_payout(ACCOUNT, AMOUNT, AMOUNT).unwrap().legs().len(), 2);
    }
}
