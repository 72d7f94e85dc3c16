//! What moved since somebody looked last: for counters that are the ledger's own words.

use darkbloom_ledger::Book;
use darkbloom_types::NanoDollars;

use super::books::{self, Movement};
use crate::error::StoreError;
use crate::sql::values;
use crate::store::Store;

/// Most transfers that one look takes in; the next one goes on behind them. A coordinator that is asked every quarter of a
/// minute makes fewer.
const TRANSFERS_MAX: i64 = 1_000_000;

/// How many movements of one kind there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Which kind.
    pub movement: Movement,
    /// How many.
    pub count: u64,
}

/// What went into, or out of, all books of one kind by movements of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// By which kind of movement.
    pub movement: Movement,
    /// The kind of book: as [`book_name`] calls it.
    pub book: &'static str,
    /// Whether it went into the book.
    pub inwards: bool,
    /// How much; never negative.
    pub amount: NanoDollars,
}

/// What moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flows {
    /// The last transfer that was looked at: the next look begins behind it.
    pub until: i64,
    /// How many movements.
    pub moved: Vec<Moved>,
    /// How much.
    pub flows: Vec<Flow>,
}

/// The name of a kind of book in metrics.
#[must_use]
pub fn book_name(book: Book) -> &'static str {
    match book {
        Book::Available(_) => "available",
        Book::Held(_) => "held",
        Book::Earned(_) => "earned",
        Book::Platform => "platform",
        Book::Deposits => "deposits",
        Book::Withdrawable(_) => "withdrawable",
        Book::Referral(_) => "referral",
        Book::Disputed(_) => "disputed",
        Book::Withdrawing(_) => "withdrawing",
        Book::Withdrawals => "withdrawals",
    }
}

impl Store {
    /// The number of the last transfer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn transfers_until(&self) -> Result<i64, StoreError> {
        self.read(|connection| connection.only("SELECT coalesce(max(id), 0) FROM transfer", &[])).await
    }

    /// What moved after this transfer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn flows(&self, after: i64) -> Result<Flows, StoreError> {
        self.read(move |connection| {
            let until: i64 = connection.only("SELECT coalesce(max(id), 0) FROM transfer", &[])?;
            let until = until.min(after.saturating_add(TRANSFERS_MAX));
            let moved = connection.rows(
                "SELECT kind, count(*) FROM transfer WHERE id > ?1 AND id <= ?2 GROUP BY kind ORDER BY kind",
                values![after, until],
                |row| {
                    let count = u64::try_from(row.get::<i64>(1)?).unwrap_or(0);
                    Ok(Moved { movement: Movement::of_code(row.get(0)?)?, count })
                },
            )?;
            let flows = connection.rows(
                "SELECT transfer.kind, leg.kind, CASE WHEN leg.amount > 0 THEN 1 ELSE 0 END AS inwards,
                        CAST(sum(leg.amount) AS BIGINT)
                 FROM transfer JOIN leg ON leg.transfer = transfer.id
                 WHERE transfer.id > ?1 AND transfer.id <= ?2
                 GROUP BY transfer.kind, leg.kind, inwards ORDER BY transfer.kind, leg.kind, inwards",
                values![after, until],
                |row| {
                    Ok(Flow {
                        movement: Movement::of_code(row.get(0)?)?,
                        book: books::kind_name(row.get(1)?)?,
                        inwards: row.get(2)?,
                        amount: NanoDollars(row.get::<i64>(3)?.abs()),
                    })
                },
            )?;
            Ok(Flows { until, moved, flows })
        })
        .await
    }

    /// What stands in all books of each kind together.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn book_sums(&self) -> Result<Vec<(&'static str, NanoDollars)>, StoreError> {
        const SQL: &str = "SELECT kind, CAST(sum(balance) AS BIGINT) FROM book GROUP BY kind ORDER BY kind";
        self.read(|connection| {
            connection.rows(SQL, &[], |row| Ok((books::kind_name(row.get(0)?)?, NanoDollars(row.get(1)?))))
        })
        .await
    }
}
