//! Invite codes as rows, known by their digests alone.

use darkbloom_ledger::{Book, DepositRefusal, Invite, InviteRefusal};
use darkbloom_types::{AccountId, Digest, NanoDollars, UnixMillis};

use super::books::{self, Movement};
use crate::accounts::NAME_BYTES_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, values};
use crate::store::Store;

/// A code, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteRow {
    /// Its number.
    pub id: i64,
    /// What the operator calls it.
    pub name: String,
    /// What it gives.
    pub invite: Invite,
    /// How many accounts have used it.
    pub used: u64,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// What redeeming a code came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redeemed {
    /// What the code gives.
    pub amount: NanoDollars,
    /// Whether the account had it already; nothing moved then.
    pub already: bool,
}

/// Why a code gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    /// The books say no.
    #[error(transparent)]
    Refused(#[from] InviteRefusal),
    /// There is no such account.
    #[error("the account is unknown")]
    UnknownAccount,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes a code known. Returns its number.
    ///
    /// # Errors
    /// [`DepositRefusal::NotPositive`] as a [`RedeemError`], or that the store failed.
    pub async fn invite_create(
        &self,
        digest: Digest,
        name: impl Into<String>,
        invite: Invite,
        at: UnixMillis,
    ) -> Result<i64, RedeemError> {
        let name = name.into();
        at_most("a code's name, in bytes,", name.len(), NAME_BYTES_MAX)?;
        if invite.amount <= NanoDollars::ZERO {
            return Err(InviteRefusal::Deposit(DepositRefusal::NotPositive).into());
        }
        self.write(move |connection| {
            Ok(connection.only(
                "INSERT INTO invite (digest, name, amount, uses_left, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
                values![&digest.0, &name, invite.amount.0, invite.uses_left, at.0, invite.expires_at.0],
            )?)
        })
        .await
    }

    /// Gives an account what a code gives, once.
    ///
    /// # Errors
    /// [`RedeemError`].
    pub async fn invite_redeem(
        &self,
        digest: Digest,
        account: AccountId,
        at: UnixMillis,
    ) -> Result<Redeemed, RedeemError> {
        self.write(move |connection| redeem(connection, digest, account, at)).await
    }

    /// Lets nobody use a code any more; says whether there is such a code.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn invite_end(&self, id: i64) -> Result<bool, StoreError> {
        self.write(move |connection| {
            Ok(connection.execute("UPDATE invite SET uses_left = 0 WHERE id = ?1", values![id])? > 0)
        })
        .await
    }

    /// Codes, newest first; 1,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn invites(&self) -> Result<Vec<InviteRow>, StoreError> {
        const SQL: &str = "SELECT id, name, amount, uses_left, created_at, expires_at,
                (SELECT count(*) FROM invite_use WHERE invite_use.invite = invite.id)
            FROM invite ORDER BY id DESC LIMIT 1000";
        self.read(|connection| {
            connection.rows(SQL, &[], |row| {
                Ok(InviteRow {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    invite: Invite {
                        amount: NanoDollars(row.get(2)?),
                        uses_left: row.get(3)?,
                        expires_at: UnixMillis(row.get(5)?),
                    },
                    used: u64::try_from(row.get::<i64>(6)?).unwrap_or(0),
                    created_at: UnixMillis(row.get(4)?),
                })
            })
        })
        .await
    }
}

fn redeem(
    connection: &Connection,
    digest: Digest,
    account: AccountId,
    at: UnixMillis,
) -> Result<Redeemed, RedeemError> {
    let found = connection.row(
        "SELECT id, amount, uses_left, expires_at FROM invite WHERE digest = ?1",
        values![&digest.0],
        |row| {
            let (amount, uses_left) = (NanoDollars(row.get(1)?), row.get(2)?);
            Ok((row.get::<i64>(0)?, Invite { amount, uses_left, expires_at: UnixMillis(row.get(3)?) }))
        },
    )?;
    let (id, invite) = found.ok_or(InviteRefusal::Unknown)?;
    if books::balance(connection, account)?.is_none() {
        return Err(RedeemError::UnknownAccount);
    }
    let used = "SELECT 1 FROM invite_use WHERE invite = ?1 AND account = ?2";
    if connection.exists(used, values![id, account.0])? {
        return Ok(Redeemed { amount: invite.amount, already: true });
    }
    let amount = invite.redeem(at)?;
    let deposits = books::book(connection, Book::Deposits)?.unwrap_or_default();
    let transfer = darkbloom_ledger::deposit(account, amount, deposits).map_err(InviteRefusal::from)?;
    let number = books::post(connection, Movement::Deposit, None, at, &transfer)?;
    connection.execute("UPDATE invite SET uses_left = uses_left - 1 WHERE id = ?1", values![id])?;
    connection.execute(
        "INSERT INTO invite_use (invite, account, transfer, at) VALUES (?1, ?2, ?3, ?4)",
        values![id, account.0, number, at.0],
    )?;
    Ok(Redeemed { amount, already: false })
}
