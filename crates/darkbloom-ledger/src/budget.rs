//! Budgets: how much a key or an account may spend in a time, what its open holds keep aside included.

use darkbloom_types::{AccountId, KeyId, NanoDollars, UnixMillis};

/// Over which time spending is counted. Days and months are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BudgetPeriod {
    /// For ever.
    Total,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the next.
    Month,
}

impl BudgetPeriod {
    /// Every period.
    pub const ALL: [Self; 3] = [Self::Total, Self::Day, Self::Month];

    /// The name on the command line and in bodies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.name() == name)
    }

    /// The number of the window that a moment is in: days, or months, since 1970.
    #[must_use]
    pub fn window(self, at: UnixMillis) -> i64 {
        const DAY_MS: i64 = 86_400_000;
        let days = at.0.div_euclid(DAY_MS);
        match self {
            Self::Total => 0,
            Self::Day => days,
            Self::Month => months(days),
        }
    }

    /// When a window begins.
    #[must_use]
    pub fn begins(self, window: i64) -> UnixMillis {
        const DAY_MS: i64 = 86_400_000;
        match self {
            Self::Total => UnixMillis(i64::MIN),
            Self::Day => UnixMillis(window.saturating_mul(DAY_MS)),
            Self::Month => UnixMillis(days_of_month(window).saturating_mul(DAY_MS)),
        }
    }
}

/// Months since 1970 of a day since 1970, in the Gregorian calendar. Years are counted from March, so that the day that some
/// have more is their last.
fn months(days: i64) -> i64 {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    // Days since the first of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(DAYS_OF_400_YEARS), days.rem_euclid(DAYS_OF_400_YEARS));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    (era * 400 + year - 1970) * 12 + month + 2
}

/// The first day, since 1970, of a month since 1970.
fn days_of_month(month: i64) -> i64 {
    // Counted from March again.
    let (year, month) = ((month - 2).div_euclid(12) + 1970, (month - 2).rem_euclid(12));
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 - 719_468
}

/// Whose spending a budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spender {
    /// One key's.
    Key(KeyId),
    /// All of an account's.
    Account(AccountId),
}

/// A budget, and what was spent of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Whose.
    pub spender: Spender,
    /// Over which time.
    pub period: BudgetPeriod,
    /// The most that may be charged and held in it.
    pub limit: NanoDollars,
    /// The window that `spent` is of.
    pub window: i64,
    /// What was charged in that window.
    pub spent: NanoDollars,
    /// What open holds keep aside, whenever they were placed.
    pub held: NanoDollars,
}

impl Budget {
    /// The same budget at a moment: a window that is over takes what was spent with it. A clock that was set back opens no
    /// earlier window again.
    #[must_use]
    pub fn at(self, at: UnixMillis) -> Self {
        let window = self.period.window(at);
        if window > self.window { Self { window, spent: NanoDollars::ZERO, ..self } } else { self }
    }

    /// What may still be held.
    #[must_use]
    pub fn left(&self) -> NanoDollars {
        let left = i128::from(self.limit.0) - i128::from(self.spent.0) - i128::from(self.held.0);
        NanoDollars(i64::try_from(left.max(0)).unwrap_or(i64::MAX))
    }

    /// A hold was placed.
    #[must_use]
    pub fn opened(self, amount: NanoDollars, at: UnixMillis) -> Self {
        let now = self.at(at);
        Self { held: NanoDollars(now.held.0.saturating_add(amount.0)), ..now }
    }

    /// A hold of so much was given up, and so much of it, or of what was free after a late receipt, was charged.
    #[must_use]
    pub fn closed(self, held: NanoDollars, charge: NanoDollars, at: UnixMillis) -> Self {
        let now = self.at(at);
        Self {
            held: NanoDollars(now.held.0.saturating_sub(held.0)),
            spent: NanoDollars(now.spent.0.saturating_add(charge.0)),
            ..now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000;

    fn budget(period: BudgetPeriod) -> Budget {
        Budget {
            spender: Spender::Key(KeyId(1)),
            period,
            limit: NanoDollars(100),
            window: period.window(UnixMillis(0)),
            spent: NanoDollars(0),
            held: NanoDollars(0),
        }
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        let month = |days| BudgetPeriod::Month.window(UnixMillis(days * DAY));
        // 1970-01-31 and 02-01; 2000-02-29 and 03-01; 2026-11-30 and 12-01; 1969-12-31.
        assert_eq!([month(30), month(31), month(11_016), month(11_017)], [0, 1, 361, 362]);
        assert_eq!([month(20_787), month(20_788), month(-1)], [682, 683, -1]);
    }

    #[test]
    fn what_is_held_counts_and_what_was_spent_goes_with_its_window() {
        let first = budget(BudgetPeriod::Day).opened(NanoDollars(60), UnixMillis(5));
        assert_eq!(first.left(), NanoDollars(40));
        let both = first.closed(NanoDollars(60), NanoDollars(30), UnixMillis(6)).opened(NanoDollars(50), UnixMillis(7));
        assert_eq!((both.spent, both.held, both.left()), (NanoDollars(30), NanoDollars(50), NanoDollars(20)));
        let tomorrow = both.at(UnixMillis(DAY));
        assert_eq!(
            (tomorrow.spent, tomorrow.held, tomorrow.left()),
            (NanoDollars(0), NanoDollars(50), NanoDollars(50))
        );
        assert_eq!(tomorrow.at(UnixMillis(3)), tomorrow, "a clock that was set back opens no earlier window");
    }

    proptest! {
        #[test]
        fn a_window_begins_in_itself_and_not_before(at in -4_000_000_000_000i64..100_000_000_000_000) {
            for period in [BudgetPeriod::Day, BudgetPeriod::Month] {
                let begins = period.begins(period.window(UnixMillis(at)));
                prop_assert!(begins.0 <= at);
                prop_assert_eq!(period.window(begins), period.window(UnixMillis(at)));
                prop_assert_eq!(period.window(UnixMillis(begins.0 - 1)), period.window(begins) - 1);
            }
        }
    }
}
