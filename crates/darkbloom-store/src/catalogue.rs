//! The catalogue: which models the network offers, as the operator signed them, and the files that go with them.

use darkbloom_types::{CatalogueDigest, Digest};

use crate::accounts::NAME_BYTES_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, values};
use crate::store::Store;

/// Largest catalogue entry, in bytes; it names files by digest and holds none.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Largest blob, in bytes; the largest tokenizers in public use are about half of it.
const BLOB_BYTES_MAX: usize = 64 << 20;

/// One catalogue entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueRow {
    /// The digest of the entry's signed bytes.
    pub digest: CatalogueDigest,
    /// The model's name; at most one entry of a name is active.
    pub name: String,
    /// The signed entry.
    pub entry: Vec<u8>,
    /// The blob with tokenizer and templates.
    pub text_pack: Digest,
    /// Whether the model is offered.
    pub active: bool,
}

/// Why a blob is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutBlobError {
    /// Its bytes have another digest.
    #[error("the bytes do not have the digest {expected}")]
    DigestDiffers {
        /// The digest that was claimed.
        expected: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Stores an entry, or replaces what is known about its digest. An active entry takes the place of the active one
    /// of its name, if there is one: a name always means one model.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn catalogue_put(&self, row: CatalogueRow) -> Result<(), StoreError> {
        at_most("a model's name, in bytes,", row.name.len(), NAME_BYTES_MAX)?;
        at_most("a catalogue entry, in bytes,", row.entry.len(), ENTRY_BYTES_MAX)?;
        self.write(move |connection| put(connection, &row)).await
    }

    /// Every entry, by name, active ones first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn catalogue_list(&self) -> Result<Vec<CatalogueRow>, StoreError> {
        self.read(list).await
    }

    /// Stores bytes by their digest, which is checked.
    ///
    /// # Errors
    /// [`PutBlobError`].
    pub async fn blob_put(&self, digest: Digest, bytes: Vec<u8>) -> Result<(), PutBlobError> {
        at_most("a blob, in bytes,", bytes.len(), BLOB_BYTES_MAX)?;
        // Hashed on the reader's thread: a large blob would hold up an asynchronous caller's other tasks.
        let (actual, bytes) = self.read(move |_| Ok((Digest::of(&[&bytes]), bytes))).await?;
        if actual != digest {
            return Err(PutBlobError::DigestDiffers { expected: digest });
        }
        self.write(move |connection| Ok(put_blob(connection, &digest, &bytes)?)).await
    }

    /// The bytes of this digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn blob_load(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            connection.row("SELECT bytes FROM blob WHERE digest = ?1", values![&digest.0], |row| row.get(0))
        })
        .await
    }
}

fn put(connection: &Connection, row: &CatalogueRow) -> Result<(), StoreError> {
    if row.active {
        connection.execute("UPDATE catalogue SET active = 0 WHERE name = ?1 AND active = 1", values![&row.name])?;
    }
    connection.execute(
        "INSERT INTO catalogue (digest, name, entry, text_pack, active) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (digest) DO UPDATE SET
         name = excluded.name, entry = excluded.entry, text_pack = excluded.text_pack, active = excluded.active",
        values![&row.digest.0, &row.name, &row.entry, &row.text_pack.0, row.active],
    )?;
    Ok(())
}

fn list(connection: &Connection) -> Result<Vec<CatalogueRow>, StoreError> {
    let sql = "SELECT digest, name, entry, text_pack, active FROM catalogue ORDER BY name, active DESC, digest";
    connection.rows(sql, &[], |row| {
        Ok(CatalogueRow {
            digest: CatalogueDigest(row.get(0)?),
            name: row.get(1)?,
            entry: row.get(2)?,
            text_pack: Digest(row.get(3)?),
            active: row.get(4)?,
        })
    })
}

fn put_blob(connection: &Connection, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO blob (digest, bytes) VALUES (?1, ?2) ON CONFLICT (digest) DO NOTHING",
        values![&digest.0, bytes],
    )?;
    Ok(())
}
