//! The auditor: what must hold of all books at all times.

use std::collections::BTreeMap;

use darkbloom_types::NanoDollars;

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
    /// What stands in a book and what is behind it differ.
    #[error("{book:?} stands at {balance}, what is behind it sums to {behind} nano-dollars")]
    BackingDiffers {
        /// Which book.
        book: Book,
        /// What stands in it.
        balance: NanoDollars,
        /// What its open holds, settlements, disputes or payouts sum to.
        behind: i128,
    },
    /// What was counted of somebody's spending is not what was spent.
    #[error("{count} budgets count something else than was held and charged")]
    BudgetsDiffer {
        /// How many.
        count: u64,
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

/// Counts books against each other, and against what is `behind` them: each open hold, with the book of held money; what each
/// settlement still keeps, with the books of what was earned; each open dispute and each payout under way, with theirs.
#[must_use]
pub fn audit(
    books: impl IntoIterator<Item = (Book, NanoDollars)>,
    behind: impl IntoIterator<Item = (Book, NanoDollars)>,
) -> AuditReport {
    let mut report = AuditReport::default();
    let mut sum: i128 = 0;
    let mut backed: BTreeMap<Book, (NanoDollars, i128)> = BTreeMap::new();
    for (book, balance) in books {
        report.books += 1;
        sum += i128::from(balance.0);
        if !book.may_stand(balance) {
            report.find(AuditFinding::WrongSign { book, balance });
        }
        if is_backed(book) {
            backed.entry(book).or_default().0 = balance;
        }
    }
    if sum != 0 {
        report.find(AuditFinding::BooksDoNotSumToZero { sum });
    }
    for (book, amount) in behind {
        report.open_holds += u64::from(matches!(book, Book::Held(_)));
        backed.entry(book).or_default().1 += i128::from(amount.0);
    }
    for (book, (balance, behind)) in backed {
        if i128::from(balance.0) != behind {
            report.find(AuditFinding::BackingDiffers { book, balance, behind });
        }
    }
    report
}

/// Whether what stands in a book is always the sum of something else: of open holds, of what settlements still keep, of open
/// disputes, of payouts under way.
fn is_backed(book: Book) -> bool {
    match book {
        Book::Held(_) | Book::Earned(_) | Book::Referral(_) | Book::Disputed(_) | Book::Withdrawing(_) => true,
        Book::Available(_) | Book::Withdrawable(_) | Book::Platform | Book::Deposits | Book::Withdrawals => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::{AccountId, ProviderId};

    const ACCOUNT: AccountId = AccountId(7);

    #[test]
    fn books_in_order_are_clean() {
        let books = [
            (Book::Deposits, NanoDollars(-10)),
            (Book::Available(ACCOUNT), NanoDollars(6)),
            (Book::Held(ACCOUNT), NanoDollars(4)),
        ];
        let held = Book::Held(ACCOUNT);
        let report = audit(books, [(held, NanoDollars(1)), (held, NanoDollars(3))]);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.books, report.open_holds), (3, 2));
    }

    #[test]
    fn each_kind_of_disorder_is_found() {
        let (held, earned) = (Book::Held(ACCOUNT), Book::Earned(ProviderId([1; 32])));
        let books = [(Book::Available(ACCOUNT), NanoDollars(-6)), (held, NanoDollars(4))];
        let report = audit(books, [(held, NanoDollars(5)), (earned, NanoDollars(1))]);
        assert_eq!(
            report.findings,
            [
                AuditFinding::WrongSign { book: Book::Available(ACCOUNT), balance: NanoDollars(-6) },
                AuditFinding::BooksDoNotSumToZero { sum: -2 },
                AuditFinding::BackingDiffers { book: held, balance: NanoDollars(4), behind: 5 },
                AuditFinding::BackingDiffers { book: earned, balance: NanoDollars(0), behind: 1 },
            ]
        );
    }
}
