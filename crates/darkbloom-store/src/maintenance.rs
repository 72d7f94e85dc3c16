//! What takes long and must not hold anybody up: the audit and the backup. Each runs on a thread and a connection of
//! its own; one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darkbloom_ledger::{AuditFinding, AuditReport, audit};
use darkbloom_types::{AccountId, NanoDollars};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::database::open_reader;
use crate::error::{OpenStoreError, StoreError};
use crate::folder::{create_private_file, with_suffix};
use crate::ledger::books;
use crate::store::Store;

/// Faults of the file that one audit reports; one is enough to restore a backup.
const DAMAGES_MAX: u32 = 10;

/// Why there is no backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// A backup never overwrites anything.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {detail}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Counts everything again: that books sum to zero, that each is the sum of its legs, that held money is that of
    /// the open holds, and that the file is whole. Reads all of it, at one moment.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another audit or backup runs; [`StoreError`].
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        self.aside(|connection| {
            connection.execute_batch("BEGIN")?;
            let report = recount(connection)?;
            connection.execute_batch("COMMIT")?;
            Ok(report)
        })
        .await
    }

    /// Writes a copy of the whole database, as it is at one moment, to a file that does not exist yet. The copy is
    /// complete and on the disk once it bears its name; the store goes on meanwhile. To restore it, put it in place of
    /// the database of a stopped store.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let to = to.to_owned();
        self.aside(move |connection| back_up(connection, &to)).await
    }

    /// Does long work with a connection of its own, unless other such work runs.
    async fn aside<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let turn = Turn::take(&self.inner.maintenance).ok_or(StoreError::Busy)?;
        // The folder stays locked until the work is done, also when the store is closed meanwhile.
        let (database, lock) = (self.inner.database.clone(), self.inner.lock.clone());
        let (reply, answer) = oneshot::channel();
        let run = move || {
            let result = match open_reader(&database) {
                Ok(connection) => work(&connection),
                Err(error) => Err(StoreError::Database { detail: error.to_string() }.into()),
            };
            drop((turn, lock));
            // A caller that has gone away wants no answer.
            drop(reply.send(result));
        };
        std::thread::Builder::new()
            .name("store-aside".to_owned())
            .spawn(run)
            .map_err(|error| StoreError::Database { detail: format!("no thread could be started: {error}") })?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
    }
}

/// The right to do long work; given back when dropped.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(taken: &Arc<AtomicBool>) -> Option<Self> {
        taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(Self(taken.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn recount(connection: &Connection) -> Result<AuditReport, StoreError> {
    let mut report = audit(all_books(connection)?, all_open_holds(connection)?);
    report.transfers =
        connection.query_row("SELECT count(*) FROM transfer", [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    compare_with_legs(connection, &mut report)?;
    check_transfers(connection, &mut report)?;
    check_holds(connection, &mut report)?;
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({DAMAGES_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let detail: String = row.get(0)?;
        if detail != "ok" {
            report.find(AuditFinding::Damaged { detail });
        }
    }
    Ok(report)
}

fn all_books(connection: &Connection) -> Result<Vec<(darkbloom_ledger::Book, NanoDollars)>, StoreError> {
    let mut statement = connection.prepare("SELECT kind, owner, balance FROM book")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let owner: Vec<u8> = row.get(1)?;
        all.push((books::from_columns(row.get(0)?, &owner)?, NanoDollars(row.get(2)?)));
    }
    Ok(all)
}

fn all_open_holds(connection: &Connection) -> Result<Vec<(AccountId, NanoDollars)>, StoreError> {
    let mut statement = connection.prepare("SELECT account, amount FROM hold WHERE state = 0")?;
    let rows = statement.query_map([], |row| Ok((AccountId(row.get(0)?), NanoDollars(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn compare_with_legs(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let mut statement = connection.prepare(
        "SELECT kind, owner, sum(balance), sum(legs) FROM (
             SELECT kind, owner, balance, 0 AS legs FROM book
             UNION ALL SELECT kind, owner, 0, amount FROM leg
         ) GROUP BY kind, owner HAVING sum(balance) <> sum(legs)",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let owner: Vec<u8> = row.get(1)?;
        report.find(AuditFinding::BookDiffersFromLegs {
            book: books::from_columns(row.get(0)?, &owner)?,
            balance: NanoDollars(row.get(2)?),
            legs: i128::from(row.get::<_, i64>(3)?),
        });
    }
    Ok(())
}

fn check_transfers(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare("SELECT transfer, sum(amount) FROM leg GROUP BY transfer HAVING sum(amount) <> 0")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sum = i128::from(row.get::<_, i64>(1)?);
        report.find(AuditFinding::TransferUnbalanced { transfer: row.get(0)?, sum });
    }
    Ok(())
}

/// A hold that ended gave back what it did not charge; one that was settled late had given back all of it.
fn check_holds(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let count: i64 = connection.query_row(
        "SELECT count(*) FROM hold WHERE NOT CASE state
             WHEN 0 THEN charge = 0 AND released = 0
             WHEN 1 THEN payout + fee = charge AND provider IS NOT NULL AND charge + unpaid <= amount
                         AND (released = amount - charge AND unpaid = 0 OR released = amount)
             ELSE charge = 0 AND unpaid = 0 AND released = amount END",
        [],
        |row| row.get(0),
    )?;
    if count != 0 {
        report.find(AuditFinding::HoldsInconsistent { count: count.unsigned_abs() });
    }
    Ok(())
}

fn back_up(connection: &Connection, to: &Path) -> Result<(), BackupError> {
    let unwritable =
        |error: &std::io::Error| BackupError::Unwritable { path: to.to_owned(), detail: error.to_string() };
    if to.try_exists().map_err(|error| unwritable(&error))? {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let partial = with_suffix(to, ".partial");
    remove_if_there(&partial).map_err(|error| unwritable(&error))?;
    // Made empty first, so that it is private before there is anything in it.
    create_private_file(&partial).map_err(|error| match error {
        OpenStoreError::Unwritable { detail, .. } => BackupError::Unwritable { path: to.to_owned(), detail },
        OpenStoreError::Locked { .. } | OpenStoreError::NewerSchema { .. } | OpenStoreError::Corrupt { .. } => {
            BackupError::Unwritable { path: to.to_owned(), detail: error.to_string() }
        }
    })?;
    let copied = copy_into(connection, &partial).and_then(|()| {
        let moved = std::fs::File::open(&partial)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&partial, to))
            .and_then(|()| sync_folder_of(to));
        moved.map_err(|error| unwritable(&error))
    });
    if copied.is_err() {
        // The failure above is the one to report.
        drop(remove_if_there(&partial));
    }
    copied
}

fn copy_into(connection: &Connection, partial: &Path) -> Result<(), BackupError> {
    let Some(name) = partial.to_str() else {
        let detail = "the path is not UTF-8".to_owned();
        return Err(BackupError::Unwritable { path: partial.to_owned(), detail });
    };
    // VACUUM INTO counts as writing, although not into this database.
    let copied =
        connection.execute_batch("PRAGMA query_only = OFF").and_then(|()| connection.execute("VACUUM INTO ?1", [name]));
    copied.map_err(StoreError::from)?;
    Ok(())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a rename durable.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}
