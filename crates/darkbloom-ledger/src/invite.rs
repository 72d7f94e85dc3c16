//! Invite codes: credit that an operator gives away, once to each account.

use darkbloom_types::{NanoDollars, UnixMillis};

use crate::decide::DepositRefusal;

/// What stands of an invite code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invite {
    /// What each account gets.
    pub amount: NanoDollars,
    /// How many accounts may still have it.
    pub uses_left: u32,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// Why a code gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteRefusal {
    /// There is no such code.
    #[error("there is no such code")]
    Unknown,
    /// Its time is over.
    #[error("the code has expired")]
    Expired,
    /// As many accounts as may have used it.
    #[error("the code was used as often as it may be")]
    UsedUp,
    /// The deposit that it would be.
    #[error(transparent)]
    Deposit(#[from] DepositRefusal),
}

impl Invite {
    /// What an account gets that has not used the code before; one that has is answered by the store.
    ///
    /// # Errors
    /// [`InviteRefusal`].
    pub fn redeem(&self, at: UnixMillis) -> Result<NanoDollars, InviteRefusal> {
        if at >= self.expires_at {
            return Err(InviteRefusal::Expired);
        }
        if self.uses_left == 0 {
            return Err(InviteRefusal::UsedUp);
        }
        Ok(self.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_gives_its_amount_until_it_ends() {
        let invite = Invite { amount: NanoDollars(5), uses_left: 1, expires_at: UnixMillis(100) };
        assert_eq!(invite.redeem(UnixMillis(99)), Ok(NanoDollars(5)));
        assert_eq!(invite.redeem(UnixMillis(100)), Err(InviteRefusal::Expired));
        assert_eq!(Invite { uses_left: 0, ..invite }.redeem(UnixMillis(1)), Err(InviteRefusal::UsedUp));
    }
}
