//! Books and the transfers between them.

use darkbloom_types::{AccountId, NanoDollars, ProviderId};

/// One book of the ledger. What stands in it is the sum of all legs that ever named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Book {
    /// What an account may still spend; never negative.
    Available(AccountId),
    /// What an account's open holds keep aside; never negative, always the sum of those holds.
    Held(AccountId),
    /// What a provider has earned and its owner cannot have yet: always the sum of what its settlements still keep; never
    /// negative.
    Earned(ProviderId),
    /// What the operator has earned in fees; never negative.
    Platform,
    /// The world outside, where deposits come from; never positive.
    Deposits,
    /// What an account has earned, by its machines and by those whom it brought, and may have paid out; never negative.
    Withdrawable(AccountId),
    /// What an account gets of the fees of those whom it brought, and cannot have yet; never negative.
    Referral(AccountId),
    /// What an account says that it was charged too much, until that is decided; never negative.
    Disputed(AccountId),
    /// What is on its way to an account's owner; never negative, always the sum of the payouts under way.
    Withdrawing(AccountId),
    /// The world outside, where payouts went; never negative.
    Withdrawals,
}

impl Book {
    /// Whether an amount may stand in the book.
    #[must_use]
    pub fn may_stand(self, balance: NanoDollars) -> bool {
        match self {
            Self::Deposits => balance <= NanoDollars::ZERO,
            Self::Available(_)
            | Self::Held(_)
            | Self::Earned(_)
            | Self::Platform
            | Self::Withdrawable(_)
            | Self::Referral(_)
            | Self::Disputed(_)
            | Self::Withdrawing(_)
            | Self::Withdrawals => balance >= NanoDollars::ZERO,
        }
    }
}

/// One side of a transfer: so much into a book, or out of it when negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Which book changes.
    pub book: Book,
    /// By how much.
    pub amount: NanoDollars,
}

/// A movement of money between books that creates and destroys none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    legs: Vec<Leg>,
}

/// Why legs are not a transfer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The legs create or destroy money.
    #[error("the legs sum to {sum} nano-dollars instead of zero")]
    Unbalanced {
        /// What they sum to.
        sum: i128,
    },
}

impl Transfer {
    /// The transfer made of these legs. Legs of nothing are left out, so the hold of a free model is an empty transfer.
    ///
    /// # Errors
    /// [`TransferError::Unbalanced`] unless the legs sum to zero.
    pub fn new(mut legs: Vec<Leg>) -> Result<Self, TransferError> {
        let sum: i128 = legs.iter().map(|leg| i128::from(leg.amount.0)).sum();
        if sum != 0 {
            return Err(TransferError::Unbalanced { sum });
        }
        legs.retain(|leg| leg.amount != NanoDollars::ZERO);
        Ok(Self { legs })
    }

    /// The transfer of legs that are known to balance, since the same amounts are taken and put.
    pub(crate) fn balanced<const N: usize>(legs: [(Book, i64); N]) -> Self {
        let legs = legs.into_iter().map(|(book, amount)| Leg { book, amount: NanoDollars(amount) }).collect();
        Self::new(legs).expect("every caller takes from some books exactly what it puts into others")
    }

    /// The legs; none of them is zero and together they are.
    #[must_use]
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(book: Book, amount: i64) -> Leg {
        Leg { book, amount: NanoDollars(amount) }
    }

    #[test]
    fn legs_that_create_money_are_refused() {
        let legs = vec![leg(Book::Platform, 5), leg(Book::Deposits, -4)];
        assert_eq!(Transfer::new(legs), Err(TransferError::Unbalanced { sum: 1 }));
    }

    #[test]
    fn a_sum_that_only_wraps_to_zero_is_refused() {
        let legs = vec![leg(Book::Platform, i64::MAX), leg(Book::Platform, i64::MAX), leg(Book::Deposits, 2)];
        assert_eq!(Transfer::new(legs), Err(TransferError::Unbalanced { sum: 1 << 64 }));
    }

    #[test]
    fn legs_of_nothing_are_left_out() {
        let legs = vec![leg(Book::Platform, 5), leg(Book::Held(AccountId(1)), 0), leg(Book::Deposits, -5)];
        assert_eq!(Transfer::new(legs).unwrap().legs().len(), 2);
        assert!(Transfer::new(Vec::new()).unwrap().legs().is_empty());
    }
}
