//! The receipt keys of providers' epochs: receipts are presented again after a restart of either side, and are checked
//! with the key of the epoch that they name.

use darkbloom_ledger::LATE_SETTLEMENT_WINDOW;
use darkbloom_types::{EpochId, Millis, ProviderId, UnixMillis};

use crate::error::StoreError;
use crate::sql::{Connection, values};
use crate::store::Store;

/// Keys of one provider: what one epoch in five minutes makes in the 25 hours and 45 minutes for which one is kept, and
/// two hundred restarts. Beyond it the oldest are dropped, which harms nobody but the provider that made so many.
const KEYS_PER_PROVIDER_MAX: u32 = 512;

/// Keys that one sweep removes, so that it does not hold up the writer.
const PRUNED_MAX: u32 = 1_000;

impl Store {
    /// Keeps the receipt key of a verified epoch, which opens until then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receipt_key_put(
        &self,
        provider: ProviderId,
        epoch: EpochId,
        key: [u8; 32],
        open_until: UnixMillis,
    ) -> Result<(), StoreError> {
        self.write(move |connection| put(connection, provider, epoch, key, open_until)).await
    }

    /// The receipt key of a provider's epoch, while it is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receipt_key(&self, provider: ProviderId, epoch: EpochId) -> Result<Option<[u8; 32]>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT key FROM receipt_key WHERE provider = ?1 AND epoch = ?2";
            connection.row(sql, values![&provider.0, &epoch.0], |row| row.get(0))
        })
        .await
    }

    /// Removes receipt keys that no receipt needs any more, a thousand at most, and says how many. A key is needed until
    /// [`LATE_SETTLEMENT_WINDOW`] after the last hold of its epoch ends, `hold_life` after the epoch, and for as long as
    /// there is a hold that its provider could still settle: a coordinator that was down voids late.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receipt_keys_prune(&self, now: UnixMillis, hold_life: Millis) -> Result<u64, StoreError> {
        self.write(move |connection| prune(connection, now, hold_life)).await
    }
}

fn put(
    connection: &Connection,
    provider: ProviderId,
    epoch: EpochId,
    key: [u8; 32],
    open_until: UnixMillis,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO receipt_key (provider, epoch, key, open_until) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (provider, epoch) DO UPDATE SET key = excluded.key, open_until = excluded.open_until",
        values![&provider.0, &epoch.0, &key, open_until.0],
    )?;
    // The limit is the greatest number that there is: SQLite takes no OFFSET without one.
    connection.execute(
        "DELETE FROM receipt_key WHERE provider = ?1 AND epoch IN (
             SELECT epoch FROM receipt_key WHERE provider = ?1 ORDER BY open_until DESC
             LIMIT 9223372036854775807 OFFSET ?2)",
        values![&provider.0, KEYS_PER_PROVIDER_MAX],
    )?;
    Ok(())
}

fn prune(connection: &Connection, now: UnixMillis, hold_life: Millis) -> Result<u64, StoreError> {
    let window = i64::try_from(LATE_SETTLEMENT_WINDOW.0).unwrap_or(i64::MAX);
    let kept = window.saturating_add_unsigned(hold_life.0);
    connection.execute(
        "DELETE FROM receipt_key WHERE (provider, epoch) IN (
             SELECT provider, epoch FROM receipt_key AS old
             WHERE open_until < ?1
             AND NOT EXISTS (SELECT 1 FROM hold WHERE state = 0 AND accepted_by = old.provider)
             AND NOT EXISTS (SELECT 1 FROM hold
                 WHERE state = 2 AND void = 1 AND accepted_by = old.provider AND closed_at >= ?2)
             LIMIT ?3)",
        values![now.0.saturating_sub(kept), now.0.saturating_sub(window), PRUNED_MAX],
    )
}
