//! Accounts and the money that comes into them.

use darkbloom_ledger::{Balance, Book, DepositRefusal};
use darkbloom_types::{AccountId, NanoDollars, UnixMillis};

use crate::error::{StoreError, at_most};
use crate::ledger::books::{self, TransferKind};
use crate::sql::{Connection, values};
use crate::store::Store;

/// Longest name of an account, key, price or setting, in bytes; more than a person types.
pub(crate) const NAME_BYTES_MAX: usize = 200;

/// Longest reference of a deposit, in bytes; payment processors' ids are under 100.
const REFERENCE_BYTES_MAX: usize = 200;

/// Most accounts that one list has; the next list begins after its last.
const ACCOUNTS_LIST_MAX: u32 = 10_000;

/// An account as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// What it has.
    pub balance: Balance,
}

/// Why an account cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateAccountError {
    /// Another account has the name.
    #[error("an account of this name exists")]
    NameTaken,
    /// No name.
    #[error("an account needs a name")]
    NameEmpty,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a deposit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposited {
    /// Whether the same deposit had been made before; nothing moved then.
    pub already: bool,
    /// What the account has now.
    pub balance: Balance,
}

/// Why a deposit is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DepositError {
    /// There is no such account.
    #[error("the account is unknown")]
    UnknownAccount,
    /// The reference belongs to a deposit of another amount or account.
    #[error("the reference was used for a different deposit")]
    ReferenceReused,
    /// The amount is none that can be deposited.
    #[error(transparent)]
    Refused(#[from] DepositRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens an account.
    ///
    /// # Errors
    /// [`CreateAccountError`].
    pub async fn account_create(&self, name: impl Into<String>) -> Result<AccountId, CreateAccountError> {
        let name = name.into();
        if name.is_empty() {
            return Err(CreateAccountError::NameEmpty);
        }
        at_most("an account name, in bytes,", name.len(), NAME_BYTES_MAX)?;
        self.write(move |connection| {
            if find(connection, &name)?.is_some() {
                return Err(CreateAccountError::NameTaken);
            }
            Ok(insert(connection, &name)?)
        })
        .await
    }

    /// The account of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account_by_name(&self, name: impl Into<String>) -> Result<Option<AccountId>, StoreError> {
        let name = name.into();
        self.read(move |connection| find(connection, &name)).await
    }

    /// Accounts after this one (0: from the first), by id, so many at most, and never more than 10,000.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accounts_list(&self, after: AccountId, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
        self.read(move |connection| list(connection, after, limit.min(ACCOUNTS_LIST_MAX))).await
    }

    /// Puts money into an account, once for each `external_ref`.
    ///
    /// # Errors
    /// [`DepositError`].
    pub async fn deposit(
        &self,
        account: AccountId,
        amount: NanoDollars,
        external_ref: impl Into<String>,
        now: UnixMillis,
    ) -> Result<Deposited, DepositError> {
        let reference = external_ref.into();
        at_most("a deposit's reference, in bytes,", reference.len(), REFERENCE_BYTES_MAX)?;
        self.write(move |connection| deposit(connection, account, amount, &reference, now)).await
    }

    /// What an account has; `None` when there is no such account.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn balance(&self, account: AccountId) -> Result<Option<Balance>, StoreError> {
        self.read(move |connection| books::balance(connection, account)).await
    }
}

fn find(connection: &Connection, name: &str) -> Result<Option<AccountId>, StoreError> {
    connection.row("SELECT id FROM account WHERE name = ?1", values![name], |row| Ok(AccountId(row.get(0)?)))
}

fn insert(connection: &Connection, name: &str) -> Result<AccountId, StoreError> {
    let account = AccountId(connection.only("INSERT INTO account (name) VALUES (?1) RETURNING id", values![name])?);
    books::open_account(connection, account)?;
    Ok(account)
}

fn list(connection: &Connection, after: AccountId, limit: u32) -> Result<Vec<AccountRow>, StoreError> {
    let sql = "SELECT id, name FROM account WHERE id > ?1 ORDER BY id LIMIT ?2";
    let named = connection.rows(sql, values![after.0, limit], |row| Ok((AccountId(row.get(0)?), row.get(1)?)))?;
    let row = |(id, name)| {
        let balance = books::balance(connection, id)?.ok_or(StoreError::ImpossibleRow { what: "account" })?;
        Ok(AccountRow { id, name, balance })
    };
    named.into_iter().map(row).collect()
}

fn deposit(
    connection: &Connection,
    account: AccountId,
    amount: NanoDollars,
    reference: &str,
    now: UnixMillis,
) -> Result<Deposited, DepositError> {
    let earlier = earlier_deposit(connection, reference)?;
    if earlier.is_some_and(|earlier| earlier != (account, amount)) {
        return Err(DepositError::ReferenceReused);
    }
    if books::balance(connection, account)?.is_none() {
        return Err(DepositError::UnknownAccount);
    }
    if earlier.is_none() {
        let deposits = books::book(connection, Book::Deposits)?.unwrap_or_default();
        let transfer = darkbloom_ledger::deposit(account, amount, deposits)?;
        let number = books::post(connection, TransferKind::Deposit, None, now, &transfer)?;
        insert_deposit(connection, account, amount, reference, number, now)?;
    }
    let balance = books::balance(connection, account)?.unwrap_or_default();
    Ok(Deposited { already: earlier.is_some(), balance })
}

fn earlier_deposit(connection: &Connection, reference: &str) -> Result<Option<(AccountId, NanoDollars)>, StoreError> {
    let sql = "SELECT account, amount FROM deposit WHERE reference = ?1";
    connection.row(sql, values![reference], |row| Ok((AccountId(row.get(0)?), NanoDollars(row.get(1)?))))
}

fn insert_deposit(
    connection: &Connection,
    account: AccountId,
    amount: NanoDollars,
    reference: &str,
    transfer: i64,
    now: UnixMillis,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO deposit (reference, account, amount, transfer, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        values![reference, account.0, amount.0, transfer, now.0],
    )?;
    Ok(())
}
