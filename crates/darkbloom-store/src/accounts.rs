//! Accounts and the money that comes into them.

use darkbloom_ledger::{Balance, BasisPoints, Book, DepositRefusal};
use darkbloom_types::{AccountId, Digest, NanoDollars, UnixMillis};

use crate::error::{StoreError, at_most};
use crate::ledger::agreement::share;
use crate::ledger::books::{self, Movement};
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Longest name of an account, key, price or setting, in bytes; more than a person types.
pub(crate) const NAME_BYTES_MAX: usize = 200;

/// Longest reference of a deposit, in bytes; payment processors' ids are under 100.
pub(crate) const REFERENCE_BYTES_MAX: usize = 200;

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
    /// The fee that its machines give, where it is not everybody's.
    pub fee: Option<BasisPoints>,
    /// Who brought it.
    pub referred_by: Option<AccountId>,
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

/// How far a deposit is that somebody outside takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DepositState {
    /// Somebody was told to take it; nothing moved yet.
    Expected,
    /// It came.
    Credited,
    /// It will not come.
    Abandoned,
}

impl DepositState {
    const ALL: [Self; 3] = [Self::Expected, Self::Credited, Self::Abandoned];

    fn code(self) -> i64 {
        match self {
            Self::Expected => 0,
            Self::Credited => 1,
            Self::Abandoned => 2,
        }
    }

    /// The name in lists and bodies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Credited => "credited",
            Self::Abandoned => "abandoned",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A deposit, as somebody outside knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeposit {
    /// Whose it is.
    pub account: AccountId,
    /// How much.
    pub amount: NanoDollars,
    /// The name by which whoever takes it knows it: it is credited once.
    pub reference: String,
    /// Who takes it: `administrator`, or the name of a payment processor.
    pub source: String,
}

/// A deposit, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepositRow {
    /// What it is.
    pub deposit: NewDeposit,
    /// How far it is.
    pub state: DepositState,
    /// Since when.
    pub at: UnixMillis,
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
    /// A deposit that came or will not come goes nowhere else.
    #[error("the deposit is {} already", .0.name())]
    Ended(DepositState),
    /// The amount is none that can be deposited.
    #[error(transparent)]
    Refused(#[from] DepositRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nobody brought an account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferralError {
    /// There is no such code, or it is the account's own.
    #[error("there is no such referral code")]
    Unknown,
    /// There is no such account.
    #[error("the account is unknown")]
    UnknownAccount,
    /// It said so before, of somebody else.
    #[error("the account was brought by somebody else")]
    Already,
    /// It has paid for answers already.
    #[error("the account has paid for answers already")]
    TooLate,
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
        let (reference, source) = (external_ref.into(), "administrator".to_owned());
        let deposit = NewDeposit { account, amount, reference, source };
        self.deposit_put(deposit, DepositState::Credited, now).await
    }

    /// Says how far a deposit is that somebody outside takes: first that it is expected, which moves nothing, and then once how
    /// it ended. Each call can be made again after a crash, and changes nothing when it was heard before.
    ///
    /// # Errors
    /// [`DepositError`].
    pub async fn deposit_put(
        &self,
        deposit: NewDeposit,
        state: DepositState,
        now: UnixMillis,
    ) -> Result<Deposited, DepositError> {
        at_most("a deposit's reference, in bytes,", deposit.reference.len(), REFERENCE_BYTES_MAX)?;
        at_most("a deposit's source, in bytes,", deposit.source.len(), NAME_BYTES_MAX)?;
        self.write(move |connection| put_deposit(connection, &deposit, state, now)).await
    }

    /// Deposits that are expected, oldest first; 1,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deposits_expected(&self) -> Result<Vec<DepositRow>, StoreError> {
        const SQL: &str = "SELECT account, amount, reference, source, state, at FROM deposit WHERE state = 0
            ORDER BY at, reference LIMIT 1000";
        self.read(|connection| connection.rows(SQL, &[], deposit_row)).await
    }

    /// The fee that an account's machines give from now on; none: everybody's. Says whether there is such an account.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account_fee(&self, account: AccountId, fee: Option<BasisPoints>) -> Result<bool, StoreError> {
        let fee = fee.map(|fee| u32::from(fee.points()));
        self.write(move |connection| {
            Ok(connection.execute("UPDATE account SET fee = ?2 WHERE id = ?1", values![account.0, fee])? > 0)
        })
        .await
    }

    /// The code by which others say that this account brought them, by its digest; a later one takes its place.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn referral_code(&self, account: AccountId, digest: Digest) -> Result<bool, StoreError> {
        self.write(move |connection| {
            let sql = "UPDATE account SET referral = ?2 WHERE id = ?1";
            Ok(connection.execute(sql, values![account.0, &digest.0])? > 0)
        })
        .await
    }

    /// An account says who brought it: once, and before it has paid for anything.
    ///
    /// # Errors
    /// [`ReferralError`].
    pub async fn referred(&self, account: AccountId, digest: Digest) -> Result<AccountId, ReferralError> {
        self.write(move |connection| refer(connection, account, digest)).await
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
    let sql = "SELECT id, name, fee, referred_by FROM account WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut rows = connection.rows(sql, values![after.0, limit], |row| {
        Ok(AccountRow {
            id: AccountId(row.get(0)?),
            name: row.get(1)?,
            balance: Balance::default(),
            fee: row.get::<Option<u32>>(2)?.map(share).transpose()?,
            referred_by: row.get::<Option<i64>>(3)?.map(AccountId),
        })
    })?;
    for row in &mut rows {
        row.balance = books::balance(connection, row.id)?.ok_or(StoreError::ImpossibleRow { what: "account" })?;
    }
    Ok(rows)
}

fn put_deposit(
    connection: &Connection,
    deposit: &NewDeposit,
    state: DepositState,
    now: UnixMillis,
) -> Result<Deposited, DepositError> {
    let NewDeposit { account, amount, reference, source } = deposit;
    let earlier = connection.row(
        "SELECT account, amount, reference, source, state, at FROM deposit WHERE reference = ?1",
        values![reference],
        deposit_row,
    )?;
    if earlier.as_ref().is_some_and(|earlier| earlier.deposit != *deposit) {
        return Err(DepositError::ReferenceReused);
    }
    let balance = books::balance(connection, *account)?.ok_or(DepositError::UnknownAccount)?;
    let before = earlier.map(|earlier| earlier.state);
    match before {
        Some(before) if before == state => return Ok(Deposited { already: true, balance }),
        // Word that it is expected may come after word that it came.
        Some(DepositState::Credited | DepositState::Abandoned) if state == DepositState::Expected => {
            return Ok(Deposited { already: true, balance });
        }
        Some(ended @ (DepositState::Credited | DepositState::Abandoned)) => return Err(DepositError::Ended(ended)),
        Some(DepositState::Expected) | None => {}
    }
    // Also what moves nothing yet must be a deposit that could.
    let deposits = books::book(connection, Book::Deposits)?.unwrap_or_default();
    let transfer = darkbloom_ledger::deposit(*account, *amount, deposits)?;
    let number = match state {
        DepositState::Credited => Some(books::post(connection, Movement::Deposit, None, now, &transfer)?),
        DepositState::Expected | DepositState::Abandoned => None,
    };
    connection.execute(
        "INSERT INTO deposit (reference, account, amount, source, state, transfer, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (reference) DO UPDATE SET state = excluded.state, transfer = excluded.transfer, at = excluded.at",
        values![reference, account.0, amount.0, source, state.code(), number, now.0],
    )?;
    let balance = books::balance(connection, *account)?.unwrap_or_default();
    Ok(Deposited { already: false, balance })
}

fn deposit_row(row: &Row<'_>) -> Result<DepositRow, StoreError> {
    let code = row.get::<i64>(4)?;
    let state = DepositState::ALL.into_iter().find(|state| state.code() == code);
    Ok(DepositRow {
        deposit: NewDeposit {
            account: AccountId(row.get(0)?),
            amount: NanoDollars(row.get(1)?),
            reference: row.get(2)?,
            source: row.get(3)?,
        },
        state: state.ok_or(StoreError::ImpossibleRow { what: "deposit state" })?,
        at: UnixMillis(row.get(5)?),
    })
}

fn refer(connection: &Connection, account: AccountId, digest: Digest) -> Result<AccountId, ReferralError> {
    let sql = "SELECT id FROM account WHERE referral = ?1";
    let by = connection.row(sql, values![&digest.0], |row| Ok(AccountId(row.get(0)?)))?;
    let by = by.filter(|by| *by != account).ok_or(ReferralError::Unknown)?;
    let sql = "SELECT referred_by FROM account WHERE id = ?1";
    let before = connection.row(sql, values![account.0], |row| Ok(row.get::<Option<i64>>(0)?.map(AccountId)))?;
    match before.ok_or(ReferralError::UnknownAccount)? {
        Some(before) if before == by => return Ok(by),
        Some(_) => return Err(ReferralError::Already),
        None => {}
    }
    let paid = "SELECT 1 FROM hold WHERE account = ?1 AND state = 1 LIMIT 1";
    if connection.exists(paid, values![account.0])? {
        return Err(ReferralError::TooLate);
    }
    connection.execute("UPDATE account SET referred_by = ?2 WHERE id = ?1", values![account.0, by.0])?;
    Ok(by)
}
