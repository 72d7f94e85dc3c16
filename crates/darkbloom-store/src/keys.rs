//! API keys and join tokens. Only their SHA-256 digests come here; the keys themselves are random, so a digest says
//! nothing about its key.

use std::collections::HashMap;

use darkbloom_types::{AccountId, Digest, KeyId, Tier, UnixMillis};

use crate::accounts::NAME_BYTES_MAX;
use crate::cache::KEYS_MAX;
use crate::error::{StoreError, at_most};
use crate::ledger::books;
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// A statement that reads whole keys, with what follows.
macro_rules! select_key {
    ($rest:literal) => {
        concat!(
            "SELECT digest, id, account, kind, name, created_at, revoked, expires_at, models, tier_min, \
             requests_per_minute, tokens_per_minute FROM key ",
            $rest
        )
    };
}

/// What a key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Requests, paid by the key's account.
    Consumer,
    /// Administration.
    Admin,
    /// A provider's first joining.
    Join,
    /// An account's own affairs: its keys, its machines, what they earned.
    Account,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Consumer, Self::Admin, Self::Join, Self::Account];

    fn code(self) -> i64 {
        match self {
            Self::Consumer => 0,
            Self::Admin => 1,
            Self::Join => 2,
            Self::Account => 3,
        }
    }

    /// The name on the command line and in lists.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Admin => "admin",
            Self::Join => "join",
            Self::Account => "account",
        }
    }
}

/// Keys of one account, revoked ones included: far more than anybody tells apart.
const KEYS_PER_ACCOUNT_MAX: i64 = 1_000;

/// Longest list of models that a key may be limited to, in bytes with a line for each.
const MODELS_BYTES_MAX: usize = 16 << 10;

/// What a key is called and may do beyond its kind. Nothing is said where everything of its kind is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyTerms {
    /// What people call it.
    pub name: String,
    /// From when on it opens nothing.
    pub expires_at: Option<UnixMillis>,
    /// The names of the only models that it may ask.
    pub models: Option<Vec<String>>,
    /// The least tier of a provider that may answer it.
    pub tier_min: Option<Tier>,
    /// Requests that it may begin in a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens of input and output together that it may ask for in a minute.
    pub tokens_per_minute: Option<u32>,
}

impl KeyTerms {
    /// Terms without any limit.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Whether it may ask this model.
    #[must_use]
    pub fn allows_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }

    fn check(&self) -> Result<(), StoreError> {
        at_most("a key's name, in bytes,", self.name.len(), NAME_BYTES_MAX)?;
        let models = self.models.as_deref().unwrap_or_default();
        at_most("a key's list of models, in bytes,", models.iter().map(|name| name.len() + 1).sum(), MODELS_BYTES_MAX)
    }

    /// The list as a column: a name a line.
    fn lines(&self) -> Option<String> {
        self.models.as_ref().map(|models| models.join("\n"))
    }
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Who pays for what it does; a consumer's key needs one.
    pub account: Option<AccountId>,
    /// What it opens.
    pub kind: KeyKind,
    /// Its name and what it may do.
    pub terms: KeyTerms,
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
    /// Its name and what it may do.
    pub terms: KeyTerms,
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
    /// A consumer's key without an account could pay for nothing, an account's own would be nobody's.
    #[error("a key of this kind needs an account")]
    AccountMissing,
    /// An administrator's key is no account's: those who see to an account's keys would see to it.
    #[error("an administrator's key has no account")]
    AccountOfAdministrator,
    /// The account has as many as it may, those that are revoked included.
    #[error("an account has at most {KEYS_PER_ACCOUNT_MAX} keys")]
    TooMany,
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
        key.terms.check()?;
        if matches!(key.kind, KeyKind::Consumer | KeyKind::Account) && key.account.is_none() {
            return Err(CreateKeyError::AccountMissing);
        }
        if key.kind == KeyKind::Admin && key.account.is_some() {
            return Err(CreateKeyError::AccountOfAdministrator);
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
            if let Some(account) = key.account {
                let keys = "SELECT count(*) FROM key WHERE account = ?1";
                if connection.only::<i64>(keys, values![account.0])? >= KEYS_PER_ACCOUNT_MAX {
                    return Err(CreateKeyError::TooMany);
                }
            }
            Ok(insert(connection, &key)?)
        };
        let remember = move |id: &KeyId| {
            let NewKey { account, kind, terms, digest, created_at } = cached;
            for_cache.key_put(digest, KeyRecord { id: *id, account, kind, terms, created_at, revoked: false });
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

    /// The keys of an account, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keys_of(&self, account: AccountId) -> Result<Vec<KeyRecord>, StoreError> {
        self.read(move |connection| {
            let keys = connection.rows(select_key!("WHERE account = ?1 ORDER BY id"), values![account.0], record)?;
            Ok(keys.into_iter().map(|(_, record)| record).collect())
        })
        .await
    }

    /// The key of this id, also when it is revoked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.read(move |connection| {
            let key = connection.row(select_key!("WHERE id = ?1"), values![id.0], record)?;
            Ok(key.map(|(_, record)| record))
        })
        .await
    }

    /// Changes what a key is called and may do; says whether there is such a key. Once this returns,
    /// [`Store::key_by_digest`] says so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn key_edit(&self, id: KeyId, terms: KeyTerms) -> Result<bool, StoreError> {
        terms.check()?;
        let cache = self.inner.cache.clone();
        let remember = move |changed: &Option<(Digest, KeyRecord)>| {
            if let Some((digest, record)) = changed {
                cache.key_put(*digest, record.clone());
            }
        };
        let changed = self.inner.writer.write_then(move |connection| edit(connection, id, &terms), remember).await?;
        Ok(changed.is_some())
    }

    /// Gives a key another secret; the one before opens nothing once this returns. Says whether there is such a key, and one
    /// that is not revoked.
    ///
    /// # Errors
    /// [`CreateKeyError`].
    pub async fn key_rotate(&self, id: KeyId, digest: Digest) -> Result<bool, CreateKeyError> {
        let cache = self.inner.cache.clone();
        let remember = move |before: &Option<Digest>| {
            if let Some(before) = before {
                cache.key_moved(before, digest);
            }
        };
        let rotate = move |connection: &Connection| {
            if digest_known(connection, &digest)? {
                return Err(CreateKeyError::DigestTaken);
            }
            Ok(rotate(connection, id, &digest)?)
        };
        Ok(self.inner.writer.write_then(rotate, remember).await?.is_some())
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

fn tier(code: u32) -> Result<Tier, StoreError> {
    let tier = u8::try_from(code).ok().and_then(Tier::from_code);
    tier.ok_or(StoreError::ImpossibleRow { what: "key's tier" })
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
        "INSERT INTO key (digest, account, kind, name, created_at, expires_at, models, tier_min, requests_per_minute,
         tokens_per_minute) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) RETURNING id",
        values![
            &key.digest.0,
            account,
            key.kind.code(),
            &key.terms.name,
            key.created_at.0,
            key.terms.expires_at.map(|at| at.0),
            key.terms.lines().as_deref(),
            key.terms.tier_min.map(|tier| u32::from(tier.code())),
            key.terms.requests_per_minute,
            key.terms.tokens_per_minute
        ],
    )?;
    Ok(KeyId(id))
}

fn edit(connection: &Connection, id: KeyId, terms: &KeyTerms) -> Result<Option<(Digest, KeyRecord)>, StoreError> {
    connection.execute(
        "UPDATE key SET name = ?2, expires_at = ?3, models = ?4, tier_min = ?5, requests_per_minute = ?6,
         tokens_per_minute = ?7 WHERE id = ?1",
        values![
            id.0,
            &terms.name,
            terms.expires_at.map(|at| at.0),
            terms.lines().as_deref(),
            terms.tier_min.map(|tier| u32::from(tier.code())),
            terms.requests_per_minute,
            terms.tokens_per_minute
        ],
    )?;
    connection.row(select_key!("WHERE id = ?1"), values![id.0], record)
}

fn rotate(connection: &Connection, id: KeyId, digest: &Digest) -> Result<Option<Digest>, StoreError> {
    let sql = "SELECT digest FROM key WHERE id = ?1 AND revoked = 0";
    let before = connection.row(sql, values![id.0], |row| Ok(Digest(row.get(0)?)))?;
    if before.is_some() {
        connection.execute("UPDATE key SET digest = ?2 WHERE id = ?1", values![id.0, &digest.0])?;
    }
    Ok(before)
}

fn revoke(connection: &Connection, id: KeyId) -> Result<Option<Digest>, StoreError> {
    let sql = "UPDATE key SET revoked = 1 WHERE id = ?1 RETURNING digest";
    connection.row(sql, values![id.0], |row| Ok(Digest(row.get(0)?)))
}

fn all(connection: &Connection) -> Result<Vec<(Digest, KeyRecord)>, StoreError> {
    connection.rows(select_key!("ORDER BY id"), &[], record)
}

fn record(row: &Row<'_>) -> Result<(Digest, KeyRecord), StoreError> {
    let code: i64 = row.get(3)?;
    let kind = KeyKind::ALL.into_iter().find(|kind| kind.code() == code);
    let record = KeyRecord {
        id: KeyId(row.get(1)?),
        account: row.get::<Option<i64>>(2)?.map(AccountId),
        kind: kind.ok_or(StoreError::ImpossibleRow { what: "key kind" })?,
        terms: KeyTerms {
            name: row.get(4)?,
            expires_at: row.get::<Option<i64>>(7)?.map(UnixMillis),
            models: row.get::<Option<String>>(8)?.map(|lines| lines.lines().map(str::to_owned).collect()),
            tier_min: row.get::<Option<u32>>(9)?.map(tier).transpose()?,
            requests_per_minute: row.get(10)?,
            tokens_per_minute: row.get(11)?,
        },
        created_at: UnixMillis(row.get(5)?),
        revoked: row.get(6)?,
    };
    Ok((Digest(row.get(0)?), record))
}
