//! Budgets as rows: kept counted, so that no hold has to look at earlier ones.

use darkbloom_ledger::{Budget, BudgetPeriod, HoldRequest, Spender};
use darkbloom_types::{AccountId, KeyId, NanoDollars, UnixMillis};

use crate::error::StoreError;
use crate::sql::{Connection, Row, values};
use crate::store::Store;

impl Store {
    /// Limits somebody's spending from now on, or no more. What open holds keep aside and what was charged since the period
    /// began counts from the first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn budget_put(
        &self,
        spender: Spender,
        budget: Option<(BudgetPeriod, NanoDollars)>,
        at: UnixMillis,
    ) -> Result<(), StoreError> {
        self.write(move |connection| {
            let (kind, id) = columns(spender);
            connection.execute("DELETE FROM budget WHERE kind = ?1 AND spender = ?2", values![kind, id])?;
            match budget {
                Some((period, limit)) => insert(connection, &counted(connection, spender, period, limit, at)?),
                None => Ok(()),
            }
        })
        .await
    }

    /// Somebody's budget, if it has one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn budget(&self, spender: Spender) -> Result<Option<Budget>, StoreError> {
        self.read(move |connection| load(connection, spender)).await
    }

    /// Every budget, keys' before accounts'; 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn budgets(&self) -> Result<Vec<Budget>, StoreError> {
        const SQL: &str = "SELECT kind, spender, period, most, spent_in, spent, held FROM budget
            ORDER BY kind, spender LIMIT 10000";
        self.read(|connection| connection.rows(SQL, &[], budget)).await
    }
}

/// The budgets that a hold has to fit into.
pub(crate) fn of(connection: &Connection, request: &HoldRequest) -> Result<Vec<Budget>, StoreError> {
    connection.rows(
        "SELECT kind, spender, period, most, spent_in, spent, held FROM budget
         WHERE (kind = 0 AND spender = ?1) OR (kind = 1 AND spender = ?2)",
        values![request.key.0, request.account.0],
        budget,
    )
}

/// A hold was placed.
pub(crate) fn opened(connection: &Connection, budgets: &[Budget], request: &HoldRequest) -> Result<(), StoreError> {
    for budget in budgets {
        save(connection, &budget.opened(request.amount, request.placed_at))?;
    }
    Ok(())
}

/// A hold ended, or a late receipt was charged.
pub(crate) fn closed(
    connection: &Connection,
    request: &HoldRequest,
    held: NanoDollars,
    charge: NanoDollars,
    at: UnixMillis,
) -> Result<(), StoreError> {
    for budget in of(connection, request)? {
        save(connection, &budget.closed(held, charge, at))?;
    }
    Ok(())
}

/// A budget whose counts are those of the holds.
pub(crate) fn counted(
    connection: &Connection,
    spender: Spender,
    period: BudgetPeriod,
    limit: NanoDollars,
    at: UnixMillis,
) -> Result<Budget, StoreError> {
    let window = period.window(at);
    let from = period.begins(window).0;
    let (kind, id) = columns(spender);
    let (charged, held) = if kind == 0 {
        (
            "SELECT CAST(coalesce(sum(charge), 0) AS BIGINT) FROM hold WHERE key = ?1 AND state = 1 AND closed_at >= ?2",
            "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM hold WHERE key = ?1 AND state = 0",
        )
    } else {
        (
            "SELECT CAST(coalesce(sum(charge), 0) AS BIGINT) FROM hold WHERE account = ?1 AND state = 1 AND closed_at >= ?2",
            "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM hold WHERE account = ?1 AND state = 0",
        )
    };
    let spent = NanoDollars(connection.only(charged, values![id, from])?);
    let held = NanoDollars(connection.only(held, values![id])?);
    Ok(Budget { spender, period, limit, window, spent, held })
}

fn load(connection: &Connection, spender: Spender) -> Result<Option<Budget>, StoreError> {
    let (kind, id) = columns(spender);
    connection.row(
        "SELECT kind, spender, period, most, spent_in, spent, held FROM budget WHERE kind = ?1 AND spender = ?2",
        values![kind, id],
        budget,
    )
}

fn insert(connection: &Connection, budget: &Budget) -> Result<(), StoreError> {
    let (kind, id) = columns(budget.spender);
    let period = period_code(budget.period);
    connection.execute(
        "INSERT INTO budget (kind, spender, period, most, spent_in, spent, held) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        values![kind, id, period, budget.limit.0, budget.window, budget.spent.0, budget.held.0],
    )?;
    Ok(())
}

fn save(connection: &Connection, budget: &Budget) -> Result<(), StoreError> {
    let (kind, id) = columns(budget.spender);
    connection.execute(
        "UPDATE budget SET spent_in = ?3, spent = ?4, held = ?5 WHERE kind = ?1 AND spender = ?2",
        values![kind, id, budget.window, budget.spent.0, budget.held.0],
    )?;
    Ok(())
}

fn columns(spender: Spender) -> (i64, i64) {
    match spender {
        Spender::Key(key) => (0, key.0),
        Spender::Account(account) => (1, account.0),
    }
}

fn period_code(period: BudgetPeriod) -> i64 {
    match period {
        BudgetPeriod::Total => 0,
        BudgetPeriod::Day => 1,
        BudgetPeriod::Month => 2,
    }
}

/// The budget of a row.
pub(crate) fn budget(row: &Row<'_>) -> Result<Budget, StoreError> {
    let id = row.get(1)?;
    let spender = match row.get::<i64>(0)? {
        0 => Spender::Key(KeyId(id)),
        1 => Spender::Account(AccountId(id)),
        _ => return Err(StoreError::ImpossibleRow { what: "spender" }),
    };
    let code = row.get::<i64>(2)?;
    let period = BudgetPeriod::ALL.into_iter().find(|period| period_code(*period) == code);
    Ok(Budget {
        spender,
        period: period.ok_or(StoreError::ImpossibleRow { what: "budget period" })?,
        limit: NanoDollars(row.get(3)?),
        window: row.get(4)?,
        spent: NanoDollars(row.get(5)?),
        held: NanoDollars(row.get(6)?),
    })
}
