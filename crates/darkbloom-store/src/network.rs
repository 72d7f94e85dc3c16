//! Which providers have ever joined, and small settings.

use std::collections::HashSet;

use darkbloom_types::{AccountId, KeyId, ProviderId, UnixMillis};

use crate::accounts::NAME_BYTES_MAX;
use crate::cache::PROVIDERS_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, values};
use crate::store::Store;

/// Largest setting, in bytes; what is larger is a blob.
const META_BYTES_MAX: usize = 64 << 10;

impl Store {
    /// Notes that a provider's identity was seen; the join token of the first time stays, and the account behind that token
    /// owns the machine.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn provider_seen(
        &self,
        provider: ProviderId,
        joined_with: KeyId,
        at: UnixMillis,
    ) -> Result<(), StoreError> {
        let (for_work, for_cache) = (self.inner.cache.clone(), self.inner.cache.clone());
        let seen = move |connection: &Connection| {
            if !for_work.provider_known(&provider) {
                at_most("the number of providers", for_work.providers_len() + 1, PROVIDERS_MAX)?;
            }
            connection.execute(
                "INSERT INTO provider (id, joined_with, first_seen, last_seen, owner)
                 VALUES (?1, ?2, ?3, ?3, (SELECT account FROM key WHERE id = ?2))
                 ON CONFLICT (id) DO UPDATE SET last_seen = CASE
                     WHEN excluded.last_seen > provider.last_seen THEN excluded.last_seen ELSE provider.last_seen END",
                values![&provider.0, joined_with.0, at.0],
            )?;
            Ok(())
        };
        self.inner.writer.write_then(seen, move |()| for_cache.provider_seen(provider)).await
    }

    /// Whether a provider has ever joined. From memory.
    #[must_use]
    pub fn provider_known(&self, provider: ProviderId) -> bool {
        self.inner.cache.provider_known(&provider)
    }

    /// Whose a machine is from now on; says whether there is such a machine. What it has earned and nobody could have paid out
    /// goes with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn provider_owner(&self, provider: ProviderId, owner: Option<AccountId>) -> Result<bool, StoreError> {
        let owner = owner.map(|owner| owner.0);
        self.write(move |connection| {
            let sql = "UPDATE provider SET owner = ?2 WHERE id = ?1";
            Ok(connection.execute(sql, values![&provider.0, owner])? > 0)
        })
        .await
    }

    /// Whose a machine is; `None` when it is nobody's, or unknown.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn owner_of(&self, provider: ProviderId) -> Result<Option<AccountId>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT owner FROM provider WHERE id = ?1";
            Ok(connection.row(sql, values![&provider.0], |row| row.get::<Option<i64>>(0))?.flatten().map(AccountId))
        })
        .await
    }

    /// A setting.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meta_get(&self, name: impl Into<String>) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.into();
        self.read(move |connection| {
            connection.row("SELECT value FROM meta WHERE name = ?1", values![&name], |row| row.get(0))
        })
        .await
    }

    /// Changes a setting. Never a secret: the file is protected by its permissions only.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn meta_put(&self, name: impl Into<String>, value: Vec<u8>) -> Result<(), StoreError> {
        let name = name.into();
        at_most("a setting's name, in bytes,", name.len(), NAME_BYTES_MAX)?;
        at_most("a setting, in bytes,", value.len(), META_BYTES_MAX)?;
        self.write(move |connection| {
            connection.execute(
                "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                values![&name, &value],
            )?;
            Ok(())
        })
        .await
    }
}

/// Every provider, for the cache.
pub(crate) fn load(connection: &Connection) -> Result<HashSet<ProviderId>, StoreError> {
    let mut providers = HashSet::new();
    connection.each("SELECT id FROM provider", &[], |row| {
        providers.insert(ProviderId(row.get(0)?));
        Ok(())
    })?;
    Ok(providers)
}
