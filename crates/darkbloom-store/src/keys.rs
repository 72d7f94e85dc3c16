//! API keys and join tokens. Only their SHA-256 digests come here; the keys themselves are random, so a digest says
//! nothing about its key.

use std::collections::HashMap;

use darkbloom_types::{AccountId, Digest, KeyId, UnixMillis};

use crate::accounts::NAME_BYTES_MAX;
use crate::cache::KEYS_MAX;
use crate::error::{StoreError, at_most};
use crate::ledger::books;
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Requests, paid by the key's account.
    Consumer,
    /// Administration.
    Admin,
    /// A provider's first joining.
    Join,
}

impl KeyKind {
    const ALL: [Self; 3] = [Self::Consumer, Self::Admin, Self::Join];

    fn code(self) -> i64 {
        match self {
            Self::Consumer => 0,
            Self::Admin => 1,
            Self::Join => 2,
        }
    }

    /// The name on the command line and in lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Admin => "admin",
            Self::Join => "join",
        }
    }
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Who pays for what it does; a consumer's key needs one.
    pub account: Option<AccountId>,
    /// What it opens.
    pub kind: KeyKind,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the key.
    pub digest: Digest,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// A key that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Who pays for what it does.
    pub account: Option<AccountId>,
    /// What it opens.
    pub kind: KeyKind,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created_at: UnixMillis,
    /// Whether it opens nothing any more.
    pub revoked: bool,
}

/// Why a key cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateKeyError {
    /// The digest is that of a key which exists.
    #[error("this key exists already")]
    DigestTaken,
    /// There is no such account.
    #[error("the account is unknown")]
    UnknownAccount,
    /// A consumer's key without an account could pay for nothing.
    #[error("a consumer key needs an account")]
    AccountMissing,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes a key known.
    ///
    /// # Errors
    /// [`CreateKeyError`].
    pub async fn key_create(&self, key: NewKey) -> Result<KeyId, CreateKeyError> {
        at_most("a key's name, in bytes,", key.name.len(), NAME_BYTES_MAX)?;
        if key.kind == KeyKind::Consumer && key.account.is_none() {
            return Err(CreateKeyError::AccountMissing);
        }
        let (for_work, for_cache) = (self.inner.cache.clone(), self.inner.cache.clone());
        let (digest, cached) = (key.digest, key.clone());
        let create = move |connection: &Connection| {
            at_most("the number of keys", for_work.keys_len() + 1, KEYS_MAX)?;
            if digest_known(connection, &digest)? {
                return Err(CreateKeyError::DigestTaken);
            }
            if let Some(account) = key.account
                && books::balance(connection, account)?.is_none()
            {
                return Err(CreateKeyError::UnknownAccount);
            }
            Ok(insert(connection, &key)?)
        };
        let remember = move |id: &KeyId| {
            let NewKey { account, kind, name, digest, created_at } = cached;
            for_cache.key_created(digest, KeyRecord { id: *id, account, kind, name, created_at, revoked: false });
        };
        self.inner.writer.write_then(create, remember).await
    }

    /// The key of this digest, also when it is revoked. From memory.
    #[must_use]
    pub fn key_by_digest(&self, digest: Digest) -> Option<KeyRecord> {
        self.inner.cache.key(&digest)
    }

    /// Every key, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keys_list(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read(|connection| Ok(all(connection)?.into_iter().map(|(_, record)| record).collect())).await
    }

    /// Revokes a key, for good; says whether there is such a key. Once this returns, [`Store::key_by_digest`] says so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_revoke(&self, id: KeyId) -> Result<bool, StoreError> {
        let cache = self.inner.cache.clone();
        let forget = move |digest: &Option<Digest>| {
            if let Some(digest) = digest {
                cache.key_revoked(digest, id);
            }
        };
        let digest = self.inner.writer.write_then(move |connection| revoke(connection, id), forget).await?;
        Ok(digest.is_some())
    }
}

/// Every key, for the cache.
pub(crate) fn load(connection: &Connection) -> Result<HashMap<Digest, KeyRecord>, StoreError> {
    Ok(all(connection)?.into_iter().collect())
}

fn digest_known(connection: &Connection, digest: &Digest) -> Result<bool, StoreError> {
    connection.exists("SELECT 1 FROM key WHERE digest = ?1", values![&digest.0])
}

fn insert(connection: &Connection, key: &NewKey) -> Result<KeyId, StoreError> {
    let account = key.account.map(|account| account.0);
    let id = connection.only(
        "INSERT INTO key (digest, account, kind, name, created_at) VALUES (?1, ?2, ?3, ?4, ?5) RETURNING id",
        values![&key.digest.0, account, key.kind.code(), &key.name, key.created_at.0],
    )?;
    Ok(KeyId(id))
}

fn revoke(connection: &Connection, id: KeyId) -> Result<Option<Digest>, StoreError> {
    let sql = "UPDATE key SET revoked = 1 WHERE id = ?1 RETURNING digest";
    connection.row(sql, values![id.0], |row| Ok(Digest(row.get(0)?)))
}

fn all(connection: &Connection) -> Result<Vec<(Digest, KeyRecord)>, StoreError> {
    let sql = "SELECT digest, id, account, kind, name, created_at, revoked FROM key ORDER BY id";
    connection.rows(sql, &[], record)
}

fn record(row: &Row<'_>) -> Result<(Digest, KeyRecord), StoreError> {
    let code: i64 = row.get(3)?;
    let kind = KeyKind::ALL.into_iter().find(|kind| kind.code() == code);
    let record = KeyRecord {
        id: KeyId(row.get(1)?),
        account: row.get::<Option<i64>>(2)?.map(AccountId),
        kind: kind.ok_or(StoreError::ImpossibleRow { what: "key kind" })?,
        name: row.get(4)?,
        created_at: UnixMillis(row.get(5)?),
        revoked: row.get(6)?,
    };
    Ok((Digest(row.get(0)?), record))
}
