//! What is held against providers' identities, and which identity took over from which.

use std::collections::HashMap;

use darkbloom_types::{Distrust, Failed, ProviderId, Standing, UnixMillis, armed};

use crate::cache::PROVIDERS_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Longest word of an operator about an identity, in bytes: a sentence.
pub const NOTE_BYTES_MAX: usize = 500;
/// Standings in one list.
const STANDINGS_LIST_MAX: u32 = 10_000;
/// Identities of one provider, one after the other: a rotation a week for nineteen years.
const LINEAGE_MAX: usize = 1_000;

/// What is held against one identity, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingRow {
    /// Whose.
    pub provider: ProviderId,
    /// What.
    pub standing: Standing,
    /// Since when.
    pub since: UnixMillis,
    /// What the operator said about it.
    pub note: Option<String>,
}

/// Why an identity does not take over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionRefusal {
    /// Nobody knows the older.
    #[error("the identity that it takes over from is not known here")]
    Unknown,
    /// Another took over from it.
    #[error("another identity took over already")]
    Succeeded,
    /// The newer took over from another, or is an older one of the same provider.
    #[error("the new identity took over from another one, is older itself, or another has its place")]
    Taken,
    /// The operator revoked it.
    #[error("the identity that it takes over from is revoked")]
    Revoked,
    /// Two processes have the older key: either could have signed.
    #[error("two running processes use the key that it takes over from")]
    Shared,
    /// Too many took over before.
    #[error("the key was rotated more than {LINEAGE_MAX} times")]
    TooMany,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] SuccessionRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// What is held against an identity. From memory.
    #[must_use]
    pub fn standing(&self, provider: ProviderId) -> Standing {
        self.inner.cache.standing(&provider)
    }

    /// The identity that took over from this one. From memory.
    #[must_use]
    pub fn successor(&self, provider: ProviderId) -> Option<ProviderId> {
        self.inner.cache.successor(&provider)
    }

    /// The identities that this one took over from, the last first. From memory.
    #[must_use]
    pub fn ancestors(&self, provider: ProviderId) -> Vec<ProviderId> {
        self.inner.cache.ancestors(provider, LINEAGE_MAX)
    }

    /// Holds this against an identity from now on. A revocation stays; what stands afterwards is returned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn standing_put(
        &self,
        provider: ProviderId,
        standing: Standing,
        at: UnixMillis,
        note: Option<String>,
    ) -> Result<Standing, StoreError> {
        at_most("a note, in bytes,", note.as_ref().map_or(0, String::len), NOTE_BYTES_MAX)?;
        let (for_work, for_cache) = (self.inner.cache.clone(), self.inner.cache.clone());
        let work = move |connection: &Connection| {
            at_most("the number of identities with a standing", for_work.standings_len() + 1, PROVIDERS_MAX)?;
            put(connection, provider, standing, at, note.as_deref())
        };
        self.inner.writer.write_then(work, move |stands| for_cache.standing_put(provider, *stands)).await
    }

    /// Revokes an identity, those that it took over from, and those that took over from it. Returns all of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke(
        &self,
        provider: ProviderId,
        at: UnixMillis,
        note: Option<String>,
    ) -> Result<Vec<ProviderId>, StoreError> {
        at_most("a note, in bytes,", note.as_ref().map_or(0, String::len), NOTE_BYTES_MAX)?;
        let (for_work, for_cache) = (self.inner.cache.clone(), self.inner.cache.clone());
        let work = move |connection: &Connection| {
            let lineage = lineage(connection, provider)?;
            at_most(
                "the number of identities with a standing",
                for_work.standings_len() + lineage.len(),
                PROVIDERS_MAX,
            )?;
            for identity in &lineage {
                put(connection, *identity, Standing::Revoked, at, note.as_deref())?;
            }
            Ok(lineage)
        };
        let remember = move |lineage: &Vec<ProviderId>| {
            for identity in lineage {
                for_cache.standing_put(*identity, Standing::Revoked);
            }
        };
        self.inner.writer.write_then(work, remember).await
    }

    /// What is held against identities, by id, so many at most, and never more than 10,000.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn standings_list(&self, limit: u32) -> Result<Vec<StandingRow>, StoreError> {
        self.read(move |connection| list(connection, limit.min(STANDINGS_LIST_MAX))).await
    }

    /// One identity takes over from another, with its history and the worse of what is held against the two, where the newer
    /// was here before; what is held against the newer then is returned. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`SuccessionError`].
    pub async fn succeed(
        &self,
        old: ProviderId,
        new: ProviderId,
        signed: Vec<u8>,
        at: UnixMillis,
    ) -> Result<Standing, SuccessionError> {
        let (for_work, for_cache) = (self.inner.cache.clone(), self.inner.cache.clone());
        let work = move |connection: &Connection| -> Result<Standing, SuccessionError> {
            // Asked of the database: caches know what was committed, and others may be in this transaction.
            let step = |sql: &str, from: ProviderId| step(connection, sql, from);
            let (standing, successor) = (find(connection, old)?, step(NEWER, old)?);
            if successor == Some(new) {
                return Ok(find(connection, new)?);
            }
            if !known(connection, old)? {
                return Err(SuccessionRefusal::Unknown.into());
            }
            if armed!("succession_revoked") && standing == Standing::Revoked {
                return Err(SuccessionRefusal::Revoked.into());
            }
            let heir = find(connection, new)?;
            if standing.key_was_shared() || heir.key_was_shared() {
                return Err(SuccessionRefusal::Shared.into());
            }
            if successor.is_some() {
                return Err(SuccessionRefusal::Succeeded.into());
            }
            if heir == Standing::Revoked {
                return Err(SuccessionRefusal::Revoked.into());
            }
            let lineage = lineage(connection, old)?;
            // One that another has the place of is nobody's heir: what comes to it would stay there.
            if step(OLDER, new)?.is_some() || step(NEWER, new)?.is_some() || lineage.contains(&new) {
                return Err(SuccessionRefusal::Taken.into());
            }
            if lineage.len() >= LINEAGE_MAX {
                return Err(SuccessionRefusal::TooMany.into());
            }
            if !known(connection, new)? {
                at_most("the number of providers", for_work.providers_len() + 1, PROVIDERS_MAX)?;
            }
            succeed(connection, old, new, &signed, at)?;
            let both = if armed!("succession_standing") { standing.with(heir) } else { heir };
            Ok(put(connection, new, both, at, None)?)
        };
        let remember = move |standing: &Standing| for_cache.succeeded(old, new, *standing);
        self.inner.writer.write_then(work, remember).await
    }
}

fn put(
    connection: &Connection,
    provider: ProviderId,
    standing: Standing,
    at: UnixMillis,
    note: Option<&str>,
) -> Result<Standing, StoreError> {
    let of_failed = |failed: Failed| (Some(failed.reason.name()), Some(failed.until.0), Some(failed.times));
    let (state, (reason, until, times)): (i64, _) = match standing {
        Standing::Clean => {
            let gone = "DELETE FROM standing WHERE provider = ?1 AND state <> 3";
            connection.execute(gone, values![&provider.0])?;
            return find(connection, provider);
        }
        Standing::Distrusted(failed) => (1, of_failed(failed)),
        Standing::Recovered(failed) => (2, of_failed(failed)),
        Standing::Revoked => (3, (None, None, None)),
    };
    connection.execute(
        "INSERT INTO standing (provider, state, reason, until, times, since, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (provider) DO UPDATE SET state = excluded.state, reason = excluded.reason,
             until = excluded.until, times = excluded.times, since = excluded.since, note = excluded.note
         WHERE standing.state <> 3",
        values![&provider.0, state, reason, until, times, at.0, note],
    )?;
    find(connection, provider)
}

fn find(connection: &Connection, provider: ProviderId) -> Result<Standing, StoreError> {
    let sql = "SELECT provider, state, reason, until, times, since, note FROM standing WHERE provider = ?1";
    let row = connection.row(sql, values![&provider.0], standing)?;
    Ok(row.map_or(Standing::Clean, |row| row.standing))
}

fn standing(row: &Row<'_>) -> Result<StandingRow, StoreError> {
    let impossible = || StoreError::ImpossibleRow { what: "standing" };
    let failed = || -> Result<Failed, StoreError> {
        let reason = Distrust::from_name(&row.get::<String>(2)?).ok_or_else(impossible)?;
        Ok(Failed { reason, until: UnixMillis(row.get(3)?), times: row.get(4)? })
    };
    let held = match row.get::<i64>(1)? {
        1 => Standing::Distrusted(failed()?),
        2 => Standing::Recovered(failed()?),
        3 => Standing::Revoked,
        _ => return Err(impossible()),
    };
    Ok(StandingRow {
        provider: ProviderId(row.get(0)?),
        standing: held,
        since: UnixMillis(row.get(5)?),
        note: row.get(6)?,
    })
}

fn list(connection: &Connection, limit: u32) -> Result<Vec<StandingRow>, StoreError> {
    let sql = "SELECT provider, state, reason, until, times, since, note FROM standing ORDER BY provider LIMIT ?1";
    connection.rows(sql, values![limit], standing)
}

const OLDER: &str = "SELECT old FROM succession WHERE new = ?1";
const NEWER: &str = "SELECT new FROM succession WHERE old = ?1";

fn step(connection: &Connection, sql: &str, from: ProviderId) -> Result<Option<ProviderId>, StoreError> {
    connection.row(sql, values![&from.0], |row| Ok(ProviderId(row.get(0)?)))
}

fn known(connection: &Connection, provider: ProviderId) -> Result<bool, StoreError> {
    connection.exists("SELECT 1 FROM provider WHERE id = ?1", values![&provider.0])
}

/// An identity, those before it and those after it.
fn lineage(connection: &Connection, provider: ProviderId) -> Result<Vec<ProviderId>, StoreError> {
    let mut lineage = vec![provider];
    for sql in [OLDER, NEWER] {
        let mut at = provider;
        while let Some(next) = step(connection, sql, at)? {
            at = next;
            lineage.push(next);
        }
    }
    Ok(lineage)
}

fn succeed(
    connection: &Connection,
    old: ProviderId,
    new: ProviderId,
    signed: &[u8],
    at: UnixMillis,
) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO succession (old, new, signed, at) VALUES (?1, ?2, ?3, ?4)",
        values![&old.0, &new.0, signed, at.0],
    )?;
    connection.execute(
        "INSERT INTO provider (id, joined_with, first_seen, last_seen, owner)
         SELECT ?2, joined_with, first_seen, ?3, owner FROM provider WHERE id = ?1
         ON CONFLICT (id) DO UPDATE SET owner = coalesce(provider.owner, excluded.owner), first_seen = CASE
             WHEN excluded.first_seen < provider.first_seen THEN excluded.first_seen ELSE provider.first_seen END",
        values![&old.0, &new.0, at.0],
    )?;
    Ok(())
}

/// What is held against identities, for the cache.
pub(crate) fn load(connection: &Connection) -> Result<HashMap<ProviderId, Standing>, StoreError> {
    let rows = list(connection, u32::MAX)?;
    Ok(rows.into_iter().map(|row| (row.provider, row.standing)).collect())
}

/// Which identity took over from which, older first, for the cache.
pub(crate) fn load_successions(connection: &Connection) -> Result<Vec<(ProviderId, ProviderId)>, StoreError> {
    let sql = "SELECT old, new FROM succession";
    connection.rows(sql, &[], |row| Ok((ProviderId(row.get(0)?), ProviderId(row.get(1)?))))
}
