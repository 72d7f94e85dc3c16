//! A provider's receipts that no coordinator has acknowledged yet.

use std::path::Path;

use darkbloom_types::{ReceiptId, UnixMillis};

use crate::database::open_writer;
use crate::error::{OpenStoreError, StoreError, at_most};
use crate::folder::{FileLock, create_private_file, create_private_folder, with_suffix};
use crate::ledger::RECEIPT_BYTES_MAX;
use crate::migrate::{OUTBOX, Older};
use crate::sql::{Connection, values};
use crate::writer::Writer;

/// Receipts that are kept: several hours of work of a busy machine without any coordinator. Beyond it the oldest are
/// dropped, which are also the first that no coordinator would settle any more.
const RECEIPTS_MAX: i64 = 10_000;

/// What putting a receipt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxPut {
    /// Older receipts that were dropped to make room: money that was earned and will not be paid.
    pub dropped: u64,
}

/// The receipts of one provider, in one file, used by one process. When a method returns, what it did is durable.
pub struct ReceiptOutbox {
    // Fields are dropped in this order: the thread ends before the lock is let go.
    writer: Writer,
    _lock: FileLock,
}

impl ReceiptOutbox {
    /// Keeps everybody else from opening the outbox in this file, which need not be there; its folder must.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn hold(file: &Path) -> Result<impl Sized + use<>, OpenStoreError> {
        FileLock::take(&with_suffix(file, ".lock"), file)
    }

    /// Opens the outbox in this file, making it and its folder if need be. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn open(file: &Path) -> Result<Self, OpenStoreError> {
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            create_private_folder(folder)?;
        }
        let lock = FileLock::take(&with_suffix(file, ".lock"), file)?;
        create_private_file(file)?;
        let (connection, ..) = open_writer(file, &OUTBOX, Older::Migrate)?;
        let writer = Writer::start(Connection::Sqlite(connection), "receipt-outbox", |_| Ok(())).map_err(|error| {
            OpenStoreError::Unwritable {
                place: file.to_owned().into(),
                detail: format!("no thread could be started: {error}"),
            }
        })?;
        Ok(Self { writer, _lock: lock })
    }

    /// Keeps a receipt until it is acknowledged. One that is kept already is not kept twice.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put(&self, id: ReceiptId, bytes: Vec<u8>, at: UnixMillis) -> Result<OutboxPut, StoreError> {
        at_most("a receipt, in bytes,", bytes.len(), RECEIPT_BYTES_MAX)?;
        self.writer.write(move |connection| put(connection, &id, &bytes, at)).await
    }

    /// Receipts that are kept, oldest first, so many at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unacknowledged(&self, limit: u32) -> Result<Vec<(ReceiptId, Vec<u8>)>, StoreError> {
        self.writer
            .write(move |connection| {
                let sql = "SELECT id, bytes FROM receipt ORDER BY seq LIMIT ?1";
                connection.rows(sql, values![limit], |row| Ok((ReceiptId(row.get(0)?), row.get(1)?)))
            })
            .await
    }

    /// Forgets a receipt; says whether it was there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acknowledge(&self, id: ReceiptId) -> Result<bool, StoreError> {
        self.writer
            .write(move |connection| Ok(connection.execute("DELETE FROM receipt WHERE id = ?1", values![&id.0])? > 0))
            .await
    }

    /// How many receipts were dropped for want of room since the file was made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn dropped_total(&self) -> Result<u64, StoreError> {
        let count = |connection: &Connection| connection.only::<i64>("SELECT count FROM dropped", &[]);
        Ok(self.writer.write(count).await?.unsigned_abs())
    }
}

impl std::fmt::Debug for ReceiptOutbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReceiptOutbox")
    }
}

fn put(connection: &Connection, id: &ReceiptId, bytes: &[u8], at: UnixMillis) -> Result<OutboxPut, StoreError> {
    connection.execute(
        "INSERT INTO receipt (id, bytes, at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
        values![&id.0, bytes, at.0],
    )?;
    let dropped = connection.execute(
        "DELETE FROM receipt WHERE seq IN (
             SELECT seq FROM receipt ORDER BY seq LIMIT max(0, (SELECT count(*) FROM receipt) - ?1))",
        values![RECEIPTS_MAX],
    )?;
    if dropped > 0 {
        let count = i64::try_from(dropped).unwrap_or(i64::MAX);
        connection.execute("UPDATE dropped SET count = count + ?1", values![count])?;
    }
    Ok(OutboxPut { dropped })
}
