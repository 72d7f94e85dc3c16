//! What administrators did: rows that are only ever added, each bound to the one before it, so that none can be changed,
//! left out or put in between without all later ones showing it.

use darkbloom_types::{Digest, KeyId, UnixMillis};

use crate::error::StoreError;
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Longest action and detail, in bytes; bodies of administrators' calls are up to 64 KiB, and the trail keeps their beginning.
const ACTION_BYTES_MAX: usize = 1 << 10;
const DETAIL_BYTES_MAX: usize = 4 << 10;
/// Most rows that one list has; the next one begins after its last.
const TRAIL_LIST_MAX: u32 = 1_000;

/// One thing that an administrator did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrailRow {
    /// Its number: 1, 2, 3 and so on, without a gap.
    pub seq: i64,
    /// When.
    pub at: UnixMillis,
    /// Whose key it was; none where the program itself acted.
    pub actor: Option<KeyId>,
    /// What was asked for.
    pub action: String,
    /// With what, or what came of it. Never a secret.
    pub detail: String,
    /// SHA-256 over the digest before it and all of the above.
    pub digest: Digest,
}

/// Where the trail does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrailError {
    /// A row is not where it was written, or says something else.
    #[error("row {seq} of the trail is not what was written")]
    Broken {
        /// Which.
        seq: i64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TrailRow {
    /// What its digest must be after this one.
    fn expected(&self, before: Digest) -> Digest {
        let actor = self.actor.map_or(0, |key| key.0);
        let length = |text: &str| u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes();
        Digest::of(&[
            b"darkbloom/v1/audit-trail",
            &before.0,
            &self.seq.to_be_bytes(),
            &self.at.0.to_be_bytes(),
            &actor.to_be_bytes(),
            &length(&self.action),
            self.action.as_bytes(),
            &length(&self.detail),
            self.detail.as_bytes(),
        ])
    }
}

impl Store {
    /// Adds a row. What is over 1 KiB of the action and 4 KiB of the detail is cut off.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn trail_add(
        &self,
        actor: Option<KeyId>,
        action: impl Into<String>,
        detail: impl Into<String>,
        at: UnixMillis,
    ) -> Result<i64, StoreError> {
        let (mut action, mut detail) = (action.into(), detail.into());
        action.truncate(action.floor_char_boundary(ACTION_BYTES_MAX));
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
        self.write(move |connection| {
            let last = last(connection)?;
            let seq = last.map_or(1, |(seq, _)| seq + 1);
            let row = TrailRow { seq, at, actor, action, detail, digest: Digest([0; 32]) };
            let digest = row.expected(last.map_or(Digest([0; 32]), |(_, digest)| digest));
            connection.execute(
                "INSERT INTO audit (seq, at, actor, action, detail, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                values![seq, at.0, actor.map(|key| key.0), &row.action, &row.detail, &digest.0],
            )?;
            Ok(seq)
        })
        .await
    }

    /// Rows before this one (none: from the last), newest first; 1,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn trail(&self, before: Option<i64>, limit: u32) -> Result<Vec<TrailRow>, StoreError> {
        const SQL: &str =
            "SELECT seq, at, actor, action, detail, digest FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
        let before = before.unwrap_or(i64::MAX);
        self.read(move |connection| connection.rows(SQL, values![before, limit.min(TRAIL_LIST_MAX)], trail)).await
    }

    /// Reads the whole trail and checks that each row is the one that was written after the one before it. Returns how many
    /// there are and the last digest, which a copy elsewhere can be compared with.
    ///
    /// # Errors
    /// [`TrailError`].
    pub async fn trail_check(&self) -> Result<(i64, Digest), TrailError> {
        self.read(|connection| {
            let (mut seq, mut digest, mut broken) = (0, Digest([0; 32]), None);
            connection.each("SELECT seq, at, actor, action, detail, digest FROM audit ORDER BY seq", &[], |row| {
                let row = trail(row)?;
                seq += 1;
                if broken.is_none() && (row.seq != seq || row.digest != row.expected(digest)) {
                    broken = Some(seq);
                }
                digest = row.digest;
                Ok(())
            })?;
            Ok((seq, digest, broken))
        })
        .await
        .map_err(TrailError::from)
        .and_then(|(seq, digest, broken)| match broken {
            Some(seq) => Err(TrailError::Broken { seq }),
            None => Ok((seq, digest)),
        })
    }
}

fn last(connection: &Connection) -> Result<Option<(i64, Digest)>, StoreError> {
    let sql = "SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1";
    connection.row(sql, &[], |row| Ok((row.get(0)?, Digest(row.get(1)?))))
}

fn trail(row: &Row<'_>) -> Result<TrailRow, StoreError> {
    Ok(TrailRow {
        seq: row.get(0)?,
        at: UnixMillis(row.get(1)?),
        actor: row.get::<Option<i64>>(2)?.map(KeyId),
        action: row.get(3)?,
        detail: row.get(4)?,
        digest: Digest(row.get(5)?),
    })
}
