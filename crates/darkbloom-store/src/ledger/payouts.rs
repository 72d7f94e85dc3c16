//! Payouts as rows.

use darkbloom_ledger::{Book, PayoutRefusal, PayoutState};
use darkbloom_types::{AccountId, NanoDollars, UnixMillis};

use super::books::{self, Movement};
use crate::accounts::{NAME_BYTES_MAX, REFERENCE_BYTES_MAX};
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Most payouts that one list has.
const PAYOUTS_LIST_MAX: u32 = 1_000;

/// A payout, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayoutRow {
    /// Its number.
    pub id: i64,
    /// Whose money it is.
    pub account: AccountId,
    /// The owner's name for it.
    pub reference: String,
    /// How much.
    pub amount: NanoDollars,
    /// Where it goes, in words that whoever carries it out understands.
    pub goes_to: String,
    /// The name that whoever carries it out has for it.
    pub outside: Option<String>,
    /// How far it is.
    pub state: PayoutState,
    /// When it was asked for.
    pub asked_at: UnixMillis,
    /// When it came to be where it is.
    pub changed_at: UnixMillis,
}

/// Why a payout is not asked for, or does not move on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayoutError {
    /// There is none of this number.
    #[error("there is no such payout")]
    Unknown,
    /// The account's name for it belongs to another one.
    #[error("the reference was used for a different payout")]
    ReferenceReused,
    /// The books say no.
    #[error(transparent)]
    Refused(#[from] PayoutRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Keeps earnings aside to be paid out, once for each of the account's references.
    ///
    /// # Errors
    /// [`PayoutError`].
    pub async fn payout_request(
        &self,
        account: AccountId,
        reference: impl Into<String>,
        amount: NanoDollars,
        goes_to: impl Into<String>,
        at: UnixMillis,
    ) -> Result<PayoutRow, PayoutError> {
        let (reference, goes_to) = (reference.into(), goes_to.into());
        at_most("a payout's reference, in bytes,", reference.len(), REFERENCE_BYTES_MAX)?;
        at_most("where a payout goes, in bytes,", goes_to.len(), NAME_BYTES_MAX)?;
        self.write(move |connection| request(connection, account, &reference, amount, &goes_to, at)).await
    }

    /// Says how far a payout is, and what its name is outside. The same again changes nothing.
    ///
    /// # Errors
    /// [`PayoutError`].
    pub async fn payout_advance(
        &self,
        id: i64,
        to: PayoutState,
        outside: Option<String>,
        at: UnixMillis,
    ) -> Result<PayoutRow, PayoutError> {
        at_most("a payout's name outside, in bytes,", outside.as_ref().map_or(0, String::len), REFERENCE_BYTES_MAX)?;
        self.write(move |connection| advance(connection, id, to, outside.as_deref(), at)).await
    }

    /// Payouts of an account, or of all; newest first, 1,000 at most. Only those under way, where that is asked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payouts(&self, account: Option<AccountId>, under_way: bool) -> Result<Vec<PayoutRow>, StoreError> {
        const SQL: &str =
            "SELECT id, account, reference, amount, goes_to, outside, state, asked_at, changed_at FROM payout
            WHERE (?1 = 0 OR account = ?1) AND state <= ?2 ORDER BY id DESC LIMIT ?3";
        let account = account.map_or(0, |account| account.0);
        let last = state_code(if under_way { PayoutState::Sending } else { PayoutState::Returned });
        self.read(move |connection| connection.rows(SQL, values![account, last, PAYOUTS_LIST_MAX], payout)).await
    }

    /// Makes earnings an account's own credit, once for each of its references. Returns whether that was done before.
    ///
    /// # Errors
    /// [`PayoutError`].
    pub async fn earnings_spend(
        &self,
        account: AccountId,
        reference: impl Into<String>,
        amount: NanoDollars,
        at: UnixMillis,
    ) -> Result<bool, PayoutError> {
        // Beside deposits, whose references are of all accounts together.
        let reference = format!("earnings/{}/{}", account.0, reference.into());
        at_most("a reference, in bytes,", reference.len(), REFERENCE_BYTES_MAX)?;
        self.write(move |connection| spend(connection, account, &reference, amount, at)).await
    }
}

fn request(
    connection: &Connection,
    account: AccountId,
    reference: &str,
    amount: NanoDollars,
    goes_to: &str,
    at: UnixMillis,
) -> Result<PayoutRow, PayoutError> {
    let before = connection.row(
        "SELECT id, account, reference, amount, goes_to, outside, state, asked_at, changed_at FROM payout
         WHERE account = ?1 AND reference = ?2",
        values![account.0, reference],
        payout,
    )?;
    if let Some(before) = before {
        let same = before.amount == amount && before.goes_to == goes_to;
        return if same { Ok(before) } else { Err(PayoutError::ReferenceReused) };
    }
    let withdrawable = books::book(connection, Book::Withdrawable(account))?.unwrap_or_default();
    let transfer = darkbloom_ledger::request_payout(account, amount, withdrawable)?;
    let state = PayoutState::Requested;
    let id = connection.only(
        "INSERT INTO payout (account, reference, amount, goes_to, state, asked_at, changed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) RETURNING id",
        values![account.0, reference, amount.0, goes_to, state_code(state), at.0],
    )?;
    books::post(connection, Movement::Payout, None, at, &transfer)?;
    let (reference, goes_to) = (reference.to_owned(), goes_to.to_owned());
    Ok(PayoutRow { id, account, reference, amount, goes_to, outside: None, state, asked_at: at, changed_at: at })
}

fn advance(
    connection: &Connection,
    id: i64,
    to: PayoutState,
    outside: Option<&str>,
    at: UnixMillis,
) -> Result<PayoutRow, PayoutError> {
    let row = connection.row(
        "SELECT id, account, reference, amount, goes_to, outside, state, asked_at, changed_at FROM payout WHERE id = ?1",
        values![id],
        payout,
    )?;
    let row = row.ok_or(PayoutError::Unknown)?;
    let transfer = darkbloom_ledger::advance_payout(row.account, row.amount, row.state, to)?;
    if row.state == to {
        return Ok(row);
    }
    connection.execute(
        "UPDATE payout SET state = ?2, outside = coalesce(?3, outside), changed_at = ?4 WHERE id = ?1",
        values![id, state_code(to), outside, at.0],
    )?;
    if let Some(transfer) = transfer {
        books::post(connection, Movement::PayoutEnded, None, at, &transfer)?;
    }
    let outside = outside.map(str::to_owned).or(row.outside);
    Ok(PayoutRow { state: to, outside, changed_at: at, ..row })
}

fn spend(
    connection: &Connection,
    account: AccountId,
    reference: &str,
    amount: NanoDollars,
    at: UnixMillis,
) -> Result<bool, PayoutError> {
    let before =
        connection.row("SELECT account, amount FROM deposit WHERE reference = ?1", values![reference], |row| {
            Ok((AccountId(row.get(0)?), NanoDollars(row.get(1)?)))
        })?;
    if let Some(before) = before {
        return if before == (account, amount) { Ok(true) } else { Err(PayoutError::ReferenceReused) };
    }
    let withdrawable = books::book(connection, Book::Withdrawable(account))?.unwrap_or_default();
    let transfer = darkbloom_ledger::spend_earnings(account, amount, withdrawable)?;
    let number = books::post(connection, Movement::EarningsSpent, None, at, &transfer)?;
    connection.execute(
        "INSERT INTO deposit (reference, account, amount, source, state, transfer, at) VALUES (?1, ?2, ?3, 'earnings', 1, ?4, ?5)",
        values![reference, account.0, amount.0, number, at.0],
    )?;
    Ok(false)
}

fn state_code(state: PayoutState) -> i64 {
    match state {
        PayoutState::Requested => 0,
        PayoutState::Sending => 1,
        PayoutState::Paid => 2,
        PayoutState::Returned => 3,
    }
}

fn payout(row: &Row<'_>) -> Result<PayoutRow, StoreError> {
    let code = row.get::<i64>(6)?;
    let state = PayoutState::ALL.into_iter().find(|state| state_code(*state) == code);
    Ok(PayoutRow {
        id: row.get(0)?,
        account: AccountId(row.get(1)?),
        reference: row.get(2)?,
        amount: NanoDollars(row.get(3)?),
        goes_to: row.get(4)?,
        outside: row.get(5)?,
        state: state.ok_or(StoreError::ImpossibleRow { what: "payout state" })?,
        asked_at: UnixMillis(row.get(7)?),
        changed_at: UnixMillis(row.get(8)?),
    })
}
