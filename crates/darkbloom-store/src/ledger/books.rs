//! Books, transfers and legs as rows.

use darkbloom_ledger::{Balance, Book, Transfer};
use darkbloom_types::{AccountId, NanoDollars, ProviderId, RequestId, UnixMillis};

use crate::error::StoreError;
use crate::sql::{Connection, Value, values};

/// Why money moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Movement {
    /// Credit came.
    Deposit,
    /// Kept aside for a request.
    Hold,
    /// A request was charged.
    Settlement,
    /// A hold was given back.
    Void,
    /// A request was charged by a receipt that came late.
    LateSettlement,
    /// Earnings can be disputed no more.
    Maturing,
    /// A charge was disputed.
    Dispute,
    /// That was decided.
    DisputeDecided,
    /// Earnings are to be paid out.
    Payout,
    /// They were, or came back.
    PayoutEnded,
    /// Earnings became credit.
    EarningsSpent,
}

impl Movement {
    /// Every movement, in the order of the numbers by which they are stored.
    pub const ALL: [Self; 11] = [
        Self::Deposit,
        Self::Hold,
        Self::Settlement,
        Self::Void,
        Self::LateSettlement,
        Self::Maturing,
        Self::Dispute,
        Self::DisputeDecided,
        Self::Payout,
        Self::PayoutEnded,
        Self::EarningsSpent,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Hold => "hold",
            Self::Settlement => "settlement",
            Self::Void => "void",
            Self::LateSettlement => "late_settlement",
            Self::Maturing => "maturing",
            Self::Dispute => "dispute",
            Self::DisputeDecided => "dispute_decided",
            Self::Payout => "payout",
            Self::PayoutEnded => "payout_ended",
            Self::EarningsSpent => "earnings_spent",
        }
    }

    /// The number that stands in a row.
    fn code(self) -> i64 {
        self as i64
    }

    /// The movement of a row.
    pub(crate) fn of_code(code: i64) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|movement| movement.code() == code);
        found.ok_or(StoreError::ImpossibleRow { what: "transfer" })
    }
}

/// Makes an account's books, empty. An account exists when its books do.
pub(crate) fn open_account(connection: &Connection, account: AccountId) -> Result<(), StoreError> {
    for book in [Book::Available(account), Book::Held(account)] {
        insert_book(connection, book, NanoDollars::ZERO)?;
    }
    Ok(())
}

/// What stands in a book; `None` when nothing was ever written into it.
pub(crate) fn book(connection: &Connection, book: Book) -> Result<Option<NanoDollars>, StoreError> {
    let (kind, owner) = columns(book);
    let sql = "SELECT balance FROM book WHERE kind = ?1 AND owner = ?2";
    connection.row(sql, values![kind, &owner], |row| Ok(NanoDollars(row.get(0)?)))
}

/// What an account has; `None` when there is no such account.
pub(crate) fn balance(connection: &Connection, account: AccountId) -> Result<Option<Balance>, StoreError> {
    let (_, owner) = columns(Book::Available(account));
    // One statement, so that both numbers are of the same moment.
    let sql = "SELECT kind, balance FROM book WHERE kind IN (0, 1) AND owner = ?1 ORDER BY kind";
    match connection.rows(sql, values![&owner], |row| Ok(NanoDollars(row.get(1)?)))?[..] {
        [available, held] => Ok(Some(Balance { available, held })),
        [] => Ok(None),
        _ => Err(StoreError::ImpossibleRow { what: "account with one book" }),
    }
}

/// Writes a transfer and moves its money; answers its number.
pub(crate) fn post(
    connection: &Connection,
    kind: Movement,
    request: Option<RequestId>,
    at: UnixMillis,
    transfer: &Transfer,
) -> Result<i64, StoreError> {
    let number: i64 = connection.only(
        "INSERT INTO transfer (kind, request, at) VALUES (?1, ?2, ?3) RETURNING id",
        values![kind.code(), request.as_ref().map(|request| &request.0), at.0],
    )?;
    let legs: Vec<_> = (0i64..).zip(transfer.legs()).map(|(ordinal, leg)| (ordinal, leg, columns(leg.book))).collect();
    let lines: Vec<([Value<'_>; 5], [Value<'_>; 3])> = legs
        .iter()
        .map(|(ordinal, leg, (kind, owner))| {
            let (kind, owner, amount) = (Value::from(*kind), Value::from(owner), Value::from(leg.amount.0));
            ([Value::from(number), Value::from(*ordinal), kind, owner, amount], [kind, owner, amount])
        })
        .collect();
    let statements: Vec<(&str, &[Value<'_>])> =
        lines.iter().flat_map(|(leg, book)| [(INSERT_LEG, &leg[..]), (MOVE, &book[..])]).collect();
    let changed = connection.execute_all(&statements)?;
    for ((_, leg, _), moved) in legs.iter().zip(changed.iter().skip(1).step_by(2)) {
        if *moved == 0 {
            insert_book(connection, leg.book, leg.amount)?;
        }
    }
    Ok(number)
}

const INSERT_LEG: &str = "INSERT INTO leg (transfer, ordinal, kind, owner, amount) VALUES (?1, ?2, ?3, ?4, ?5)";
const MOVE: &str = "UPDATE book SET balance = balance + ?3 WHERE kind = ?1 AND owner = ?2";

fn insert_book(connection: &Connection, book: Book, balance: NanoDollars) -> Result<(), StoreError> {
    let (kind, owner) = columns(book);
    let sql = "INSERT INTO book (kind, owner, balance) VALUES (?1, ?2, ?3)";
    connection.execute(sql, values![kind, &owner, balance.0])?;
    Ok(())
}

fn columns(book: Book) -> (i64, Vec<u8>) {
    match book {
        Book::Available(account) => (0, account.0.to_be_bytes().to_vec()),
        Book::Held(account) => (1, account.0.to_be_bytes().to_vec()),
        Book::Earned(provider) => (2, provider.0.to_vec()),
        Book::Platform => (3, Vec::new()),
        Book::Deposits => (4, Vec::new()),
        Book::Withdrawable(account) => (5, account.0.to_be_bytes().to_vec()),
        Book::Referral(account) => (6, account.0.to_be_bytes().to_vec()),
        Book::Disputed(account) => (7, account.0.to_be_bytes().to_vec()),
        Book::Withdrawing(account) => (8, account.0.to_be_bytes().to_vec()),
        Book::Withdrawals => (9, Vec::new()),
    }
}

/// The name of a kind of book.
pub(crate) fn kind_name(kind: i64) -> Result<&'static str, StoreError> {
    let owner = if kind == 2 { vec![0; 32] } else { vec![0; 8] };
    from_columns(kind, &owner).map(super::flows::book_name)
}

/// The book of a row's kind and owner.
pub(crate) fn from_columns(kind: i64, owner: &[u8]) -> Result<Book, StoreError> {
    let impossible = StoreError::ImpossibleRow { what: "book" };
    let account = || owner.try_into().map(i64::from_be_bytes).map(AccountId).map_err(|_| impossible.clone());
    Ok(match kind {
        0 => Book::Available(account()?),
        1 => Book::Held(account()?),
        2 => Book::Earned(ProviderId::try_from(owner).map_err(|_| impossible)?),
        3 => Book::Platform,
        4 => Book::Deposits,
        5 => Book::Withdrawable(account()?),
        6 => Book::Referral(account()?),
        7 => Book::Disputed(account()?),
        8 => Book::Withdrawing(account()?),
        9 => Book::Withdrawals,
        _ => return Err(impossible),
    })
}
