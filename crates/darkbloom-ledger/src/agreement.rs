//! What the parties of one request have agreed to beside its price list: whose share of a charge is whose.

use darkbloom_types::{AccountId, NanoDollars, Price};

/// A share in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct BasisPoints(u16);

/// Why a number is not a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} basis points are more than the whole, which is 10000")]
pub struct BasisPointsError(pub u16);

impl BasisPoints {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The whole, in basis points.
    const WHOLE: u16 = 10_000;

    /// So many basis points.
    ///
    /// # Errors
    /// [`BasisPointsError`] beyond the whole.
    pub fn new(points: u16) -> Result<Self, BasisPointsError> {
        if points > Self::WHOLE { Err(BasisPointsError(points)) } else { Ok(Self(points)) }
    }

    /// The number of basis points.
    #[must_use]
    pub fn points(self) -> u16 {
        self.0
    }

    /// This share of an amount, rounded down.
    fn of(self, amount: NanoDollars) -> NanoDollars {
        let share = i128::from(amount.0) * i128::from(self.0) / i128::from(Self::WHOLE);
        NanoDollars(i64::try_from(share).expect("a share of at most the whole is no larger than the amount"))
    }
}

/// How a charge is divided. Kept with each settlement, so that a part of it can be taken back by the same rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shares {
    /// The fee's share of the charge.
    pub fee: BasisPoints,
    /// The referrer's share of the fee; zero where nobody brought the consumer.
    pub referral: BasisPoints,
}

/// A charge, divided; the three always sum to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Division {
    /// The provider's.
    pub payout: NanoDollars,
    /// The operator's.
    pub fee: NanoDollars,
    /// The referrer's.
    pub referral: NanoDollars,
}

impl Shares {
    /// Divides a charge. What is no whole nano-dollar is rounded down for operator and referrer: the provider gets the rest
    /// of the charge, the operator the rest of the fee. A smaller charge makes none of the three larger.
    #[must_use]
    pub fn divide(self, charge: NanoDollars) -> Division {
        let fee = self.fee.of(charge);
        let referral = self.referral.of(fee);
        Division { payout: NanoDollars(charge.0 - fee.0), fee: NanoDollars(fee.0 - referral.0), referral }
    }
}

/// What stands between a consumer, a provider and the operator when a request is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreement {
    /// The operator's share, which the provider's owner gives.
    pub fee: BasisPoints,
    /// Who brought the consumer, and the share of the fee that is that account's.
    pub referral: Option<(AccountId, BasisPoints)>,
    /// What the provider asks for this model itself.
    pub own_price: Option<Price>,
    /// Whether the machine is the consumer's own: then it costs nothing.
    pub own_machine: bool,
}

impl Agreement {
    /// How charges are divided.
    #[must_use]
    pub fn shares(&self) -> Shares {
        Shares { fee: self.fee, referral: self.referral.map_or(BasisPoints::ZERO, |(_, share)| share) }
    }

    /// What tokens cost where `agreed` was agreed to: nothing on one's own machine, the provider's own price where neither of
    /// its numbers is higher, and else what was agreed. Never more, so a hold covers it.
    #[must_use]
    pub fn price(&self, agreed: Price) -> Price {
        if self.own_machine {
            return Price { input_nano_per_token: 0, output_nano_per_token: 0, ..agreed };
        }
        self.own_price.filter(|own| own.is_within(&agreed)).unwrap_or(agreed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: Price = Price { version: 4, input_nano_per_token: 3, output_nano_per_token: 7 };

    fn shares(fee: u16, referral: u16) -> Shares {
        Shares { fee: BasisPoints::new(fee).unwrap(), referral: BasisPoints::new(referral).unwrap() }
    }

    #[test]
    fn what_is_no_whole_nano_dollar_is_the_providers_and_then_the_operators() {
        let divided = |payout, fee, referral| Division {
            payout: NanoDollars(payout),
            fee: NanoDollars(fee),
            referral: NanoDollars(referral),
        };
        assert_eq!(shares(333, 0).divide(NanoDollars(100)), divided(97, 3, 0));
        assert_eq!(shares(1_000, 2_000).divide(NanoDollars(149)), divided(135, 12, 2));
        assert_eq!(shares(10_000, 10_000).divide(NanoDollars(i64::MAX)), divided(0, 0, i64::MAX));
        assert_eq!(BasisPoints::new(10_001), Err(BasisPointsError(10_001)));
    }

    #[test]
    fn a_providers_own_price_counts_where_it_is_no_dearer() {
        let own = |version, input, output| Agreement {
            own_price: Some(Price { version, input_nano_per_token: input, output_nano_per_token: output }),
            ..Agreement::default()
        };
        assert_eq!(own(5, 3, 6).price(LIST).version, 5);
        assert_eq!(own(6, 4, 1).price(LIST), LIST, "dearer in one of the two");
        assert_eq!(own(7, 1, 8).price(LIST), LIST);
        let free = Agreement { own_machine: true, ..own(5, 3, 6) }.price(LIST);
        assert_eq!((free.version, free.input_nano_per_token, free.output_nano_per_token), (4, 0, 0));
    }

    proptest! {
        #[test]
        fn a_division_is_whole_and_grows_with_its_charge(
            charge in 0..i64::MAX, less in any::<i64>(), fee in 0..=10_000u16, referral in 0..=10_000u16,
        ) {
            let shares = shares(fee, referral);
            let (all, part) = (shares.divide(NanoDollars(charge)), shares.divide(NanoDollars(less.rem_euclid(charge.max(1)))));
            prop_assert_eq!(all.payout.0 + all.fee.0 + all.referral.0, charge);
            prop_assert!(all.payout >= NanoDollars::ZERO && all.fee >= NanoDollars::ZERO && all.referral >= NanoDollars::ZERO);
            prop_assert!(part.payout <= all.payout && part.fee <= all.fee && part.referral <= all.referral);
        }
    }
}
