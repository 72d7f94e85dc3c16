//! The auditor: what must hold of all books at all times.

use std::collections::BTreeMap;

use darkbloom_types::{AccountId, NanoDollars};

use crate::book::Book;

/// Something that must never be, found in the books.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFinding {
    /// Money was created or destroyed.
    #[error("all books together sum to {sum} nano-dollars instead of zero")]
    BooksDoNotSumToZero {
        /// What they sum to.
        sum: i128,
    },
    /// A book is on the side of zero where it can never be.
    #[error("{book:?} stands at {balance}")]
    WrongSign {
        /// Which book.
        book: Book,
        /// What stands in it.
        balance: NanoDollars,
    },
    /// Held money and open holds differ.
    #[error("account {account} holds {held}, its open holds are {open_holds} nano-dollars")]
    HeldDiffers {
        /// Whose.
        account: AccountId,
        /// What stands in the book.
        held: NanoDollars,
        /// What its open holds sum to.
        open_holds: i128,
    },
    /// A book's balance is not the sum of its legs.
    #[error("{book:?} stands at {balance}, its legs sum to {legs} nano-dollars")]
    BookDiffersFromLegs {
        /// Which book.
        book: Book,
        /// What stands in it.
        balance: NanoDollars,
        /// What its legs sum to.
        legs: i128,
    },
    /// A written transfer does not sum to zero.
    #[error("transfer {transfer} sums to {sum} nano-dollars instead of zero")]
    TransferUnbalanced {
        /// Its number.
        transfer: i64,
        /// What it sums to.
        sum: i128,
    },
    /// A hold's own row contradicts itself.
    #[error("{count} holds are neither wholly charged nor wholly released")]
    HoldsInconsistent {
        /// How many.
        count: u64,
    },
    /// The database file itself is damaged.
    #[error("the database is damaged: {detail}")]
    Damaged {
        /// What the database says.
        detail: String,
    },
}

/// What an audit counted and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditReport {
    /// Books that were counted.
    pub books: u64,
    /// Transfers that were counted.
    pub transfers: u64,
    /// Holds that are open.
    pub open_holds: u64,
    /// What must not be: the first [`AuditReport::FINDINGS_MAX`].
    pub findings: Vec<AuditFinding>,
    /// How many findings there were in all.
    pub findings_total: u64,
}

impl AuditReport {
    /// Most findings that a report lists; one is already an alarm, and a hundred fill a screen.
    pub const FINDINGS_MAX: usize = 100;

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings_total == 0
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: AuditFinding) {
        self.findings_total += 1;
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Counts books against each other and against the open holds.
#[must_use]
pub fn audit(
    books: impl IntoIterator<Item = (Book, NanoDollars)>,
    open_holds: impl IntoIterator<Item = (AccountId, NanoDollars)>,
) -> AuditReport {
    let mut report = AuditReport::default();
    let mut sum: i128 = 0;
    let mut held: BTreeMap<AccountId, (NanoDollars, i128)> = BTreeMap::new();
    for (book, balance) in books {
        report.books += 1;
        sum += i128::from(balance.0);
        let in_order = match book {
            Book::Available(_) | Book::Held(_) | Book::Earned(_) | Book::Platform => balance >= NanoDollars::ZERO,
            Book::Deposits => balance <= NanoDollars::ZERO,
        };
        if !in_order {
            report.find(AuditFinding::WrongSign { book, balance });
        }
        if let Book::Held(account) = book {
            held.entry(account).or_default().0 = balance;
        }
    }
    if sum != 0 {
        report.find(AuditFinding::BooksDoNotSumToZero { sum });
    }
    for (account, amount) in open_holds {
        report.open_holds += 1;
        held.entry(account).or_default().1 += i128::from(amount.0);
    }
    for (account, (held, open_holds)) in held {
        if i128::from(held.0) != open_holds {
            report.find(AuditFinding::HeldDiffers { account, held, open_holds });
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId(7);

    #[test]
    fn books_in_order_are_clean() {
        let books = [
            (Book::Deposits, NanoDollars(-10)),
            (Book::Available(ACCOUNT), NanoDollars(6)),
            (Book::Held(ACCOUNT), NanoDollars(4)),
        ];
        let report = audit(books, [(ACCOUNT, NanoDollars(1)), (ACCOUNT, NanoDollars(3))]);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.books, report.open_holds), (3, 2));
    }

    #[test]
    fn each_kind_of_disorder_is_found() {
        let books = [(Book::Available(ACCOUNT), NanoDollars(-6)), (Book::Held(ACCOUNT), NanoDollars(4))];
        let report = audit(books, [(ACCOUNT, NanoDollars(5)), (AccountId(8), NanoDollars(1))]);
        assert_eq!(
            report.findings,
            [
                AuditFinding::WrongSign { book: Book::Available(ACCOUNT), balance: NanoDollars(-6) },
                AuditFinding::BooksDoNotSumToZero { sum: -2 },
                AuditFinding::HeldDiffers { account: ACCOUNT, held: NanoDollars(4), open_holds: 5 },
                AuditFinding::HeldDiffers { account: AccountId(8), held: NanoDollars(0), open_holds: 1 },
            ]
        );
    }
}
