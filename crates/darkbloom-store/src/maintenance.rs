//! What takes long and must not hold anybody up: the audit and the backup. Each runs on a thread and a connection of
//! its own; one at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darkbloom_ledger::{AuditFinding, AuditReport, Book, audit};
use darkbloom_types::{AccountId, NanoDollars, ProviderId};
use tokio::sync::oneshot;

use crate::database::open_checked;
use crate::error::{OpenStoreError, StoreError};
use crate::folder::{create_private_file, create_private_folder, with_suffix};
use crate::ledger::books;
use crate::location::StoreLocation;
use crate::migrate::{STORE, check_postgres};
use crate::sql::Connection;
use crate::sql::postgres::{Postgres, Purpose};
use crate::store::{DATABASE_NAME, Store, on_own_thread};

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
    /// A server's database is backed up by the server's tools.
    #[error("the database is on a server, whose own tools make backups of it")]
    OfServer,
    /// There is nothing that could be backed up.
    #[error(transparent)]
    Source(InspectError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a store cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    /// It does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nothing is restored. Nothing was left behind then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A restore never overwrites anything.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot copy to {}: {detail}", path.display())]
    Copy {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        detail: String,
    },
    /// Money is missing in it, or it is damaged.
    #[error("the audit of the backup found {findings} faults")]
    Unsound {
        /// How many.
        findings: u64,
    },
    /// It is no backup of a store.
    #[error(transparent)]
    Backup(#[from] InspectError),
}

impl Store {
    /// Counts everything again: that books sum to zero, that each is the sum of its legs, that held money is that of
    /// the open holds, and that the file is whole. Reads all of it, at one moment.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another audit or backup runs; [`StoreError`].
    pub async fn audit(&self) -> Result<AuditReport, StoreError> {
        self.aside(recount_at_one_moment).await
    }

    /// Writes a copy of the whole database, as it is at one moment, to a file that does not exist yet. The copy is
    /// complete and on the disk once it bears its name; the store goes on meanwhile. To restore it, put it in place of
    /// the database of a stopped store.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self, to: &Path) -> Result<(), BackupError> {
        let to = to.to_owned();
        self.aside(move |connection| match connection {
            Connection::Sqlite(connection) => back_up(connection, &to),
            Connection::Postgres(_) => Err(BackupError::OfServer),
        })
        .await
    }

    /// Counts everything again of a store that may be open elsewhere. Blocks.
    ///
    /// # Errors
    /// [`InspectError`].
    pub fn audit_at(location: &StoreLocation) -> Result<AuditReport, InspectError> {
        on_own_thread(|| Ok(recount_at_one_moment(&open_checked_at(location)?)?))
    }

    /// As [`Store::backup`], of a folder that may or may not be in use. Blocks.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn backup_folder(folder: &Path, to: &Path) -> Result<(), BackupError> {
        let database = folder.join(DATABASE_NAME);
        let connection = open_checked(&database, &STORE).map_err(InspectError::from).map_err(BackupError::Source)?;
        back_up(&connection, to)
    }

    /// Makes a store of a backup in a folder that is empty or not there, brings it to the newest schema and counts everything
    /// again. Where that finds anything, the folder is left empty. Blocks.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore_folder(backup: &Path, folder: &Path) -> Result<AuditReport, RestoreError> {
        refuse_full(folder)?;
        create_private_folder(folder).map_err(InspectError::from)?;
        let database = folder.join(DATABASE_NAME);
        let checked = copy_private(backup, &database).and_then(|()| {
            let location = StoreLocation::Folder(folder.to_owned());
            Self::migrate(&location).map_err(InspectError::from)?;
            Ok(Self::audit_at(&location)?)
        });
        match checked {
            Ok(report) if report.is_clean() => Ok(report),
            Ok(report) => {
                empty(folder)?;
                Err(RestoreError::Unsound { findings: report.findings_total })
            }
            Err(error) => {
                empty(folder)?;
                Err(error)
            }
        }
    }

    /// Does long work with a connection of its own, unless other such work runs.
    async fn aside<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let turn = Turn::take(&self.inner.maintenance).ok_or(StoreError::Busy)?;
        // The folder stays locked until the work is done, also when the store is closed meanwhile.
        let home = self.inner.home.clone();
        let (reply, answer) = oneshot::channel();
        let run = move || {
            let result = match home.open_reading(Purpose::ReadLong) {
                Ok(connection) => work(&connection),
                Err(error) => Err(StoreError::Database { detail: error.to_string() }.into()),
            };
            drop((turn, home));
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

/// Opens a store that may be open elsewhere, to read.
fn open_checked_at(location: &StoreLocation) -> Result<Connection, OpenStoreError> {
    match location {
        StoreLocation::Folder(folder) => Ok(Connection::Sqlite(open_checked(&folder.join(DATABASE_NAME), &STORE)?)),
        StoreLocation::Postgres(url) => {
            let session = Postgres::connect(url, Purpose::ReadLong)?;
            check_postgres(&session, &url.place())?;
            Ok(Connection::Postgres(Box::new(session)))
        }
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

fn recount_at_one_moment(connection: &Connection) -> Result<AuditReport, StoreError> {
    connection.begin_reading()?;
    let report = recount(connection)?;
    connection.roll_back()?;
    Ok(report)
}

fn recount(connection: &Connection) -> Result<AuditReport, StoreError> {
    let mut report = audit(all_books(connection)?, all_behind(connection)?);
    report.transfers = connection.only::<i64>("SELECT count(*) FROM transfer", &[])?.unsigned_abs();
    compare_with_legs(connection, &mut report)?;
    check_transfers(connection, &mut report)?;
    check_holds(connection, &mut report)?;
    check_budgets(connection, &mut report)?;
    // A server has checksums of its own for what lies on its disk.
    if matches!(connection, Connection::Sqlite(_)) {
        connection.each(&format!("PRAGMA quick_check({DAMAGES_MAX})"), &[], |row| {
            let detail: String = row.get(0)?;
            if detail != "ok" {
                report.find(AuditFinding::Damaged { detail });
            }
            Ok(())
        })?;
    }
    Ok(report)
}

fn all_books(connection: &Connection) -> Result<Vec<(Book, NanoDollars)>, StoreError> {
    connection.rows("SELECT kind, owner, balance FROM book", &[], |row| {
        let owner: Vec<u8> = row.get(1)?;
        Ok((books::from_columns(row.get(0)?, &owner)?, NanoDollars(row.get(2)?)))
    })
}

/// What is behind the books: each open hold, and the sums of what else they keep.
fn all_behind(connection: &Connection) -> Result<Vec<(Book, NanoDollars)>, StoreError> {
    let of_account = |sql, book: fn(AccountId) -> Book| {
        connection.rows(sql, &[], |row| Ok((book(AccountId(row.get(0)?)), NanoDollars(row.get(1)?))))
    };
    let mut behind = of_account("SELECT account, amount FROM hold WHERE state = 0", Book::Held)?;
    behind.extend(connection.rows(
        "SELECT provider, CAST(sum(kept_payout) AS BIGINT) FROM hold WHERE kept_payout > 0 GROUP BY provider",
        &[],
        |row| Ok((Book::Earned(ProviderId(row.get(0)?)), NanoDollars(row.get(1)?))),
    )?);
    behind.extend(of_account(
        "SELECT referrer, CAST(sum(kept_referral) AS BIGINT) FROM hold WHERE kept_referral > 0 GROUP BY referrer",
        Book::Referral,
    )?);
    behind.extend(of_account(
        "SELECT account, CAST(sum(payout + fee + referral) AS BIGINT) FROM dispute WHERE decision IS NULL GROUP BY account",
        Book::Disputed,
    )?);
    behind.extend(of_account(
        "SELECT account, CAST(sum(amount) AS BIGINT) FROM payout WHERE state < 2 GROUP BY account",
        Book::Withdrawing,
    )?);
    Ok(behind)
}

/// What budgets count as held is what their spenders' open holds keep aside. What was spent is not counted again: a clock that
/// was set back may have had charges counted in a later window.
fn check_budgets(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let count: i64 = connection.only(
        "SELECT count(*) FROM budget WHERE held <> (
             SELECT coalesce(sum(hold.amount), 0) FROM hold WHERE hold.state = 0
             AND CASE budget.kind WHEN 0 THEN hold.key ELSE hold.account END = budget.spender)",
        &[],
    )?;
    if count != 0 {
        report.find(AuditFinding::BudgetsDiffer { count: count.unsigned_abs() });
    }
    Ok(())
}

// A sum that does not fit is an error in both databases; Postgres adds in another type.
fn compare_with_legs(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let sql = "SELECT kind, owner, CAST(sum(balance) AS BIGINT), CAST(sum(legs) AS BIGINT) FROM (
             SELECT kind, owner, balance, 0 AS legs FROM book
             UNION ALL SELECT kind, owner, 0, amount FROM leg
         ) AS lines GROUP BY kind, owner HAVING sum(balance) <> sum(legs)";
    connection.each(sql, &[], |row| {
        let owner: Vec<u8> = row.get(1)?;
        report.find(AuditFinding::BookDiffersFromLegs {
            book: books::from_columns(row.get(0)?, &owner)?,
            balance: NanoDollars(row.get(2)?),
            legs: i128::from(row.get::<i64>(3)?),
        });
        Ok(())
    })
}

fn check_transfers(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let sql = "SELECT transfer, CAST(sum(amount) AS BIGINT) FROM leg GROUP BY transfer HAVING sum(amount) <> 0";
    connection.each(sql, &[], |row| {
        let sum = i128::from(row.get::<i64>(1)?);
        report.find(AuditFinding::TransferUnbalanced { transfer: row.get(0)?, sum });
        Ok(())
    })
}

/// A hold that ended gave back what it did not charge; one that was settled late had given back all of it.
fn check_holds(connection: &Connection, report: &mut AuditReport) -> Result<(), StoreError> {
    let count: i64 = connection.only(
        "SELECT count(*) FROM hold WHERE NOT CASE state
             WHEN 0 THEN charge = 0 AND released = 0
             WHEN 1 THEN payout + fee + referral = charge AND kept_payout <= payout AND kept_referral <= referral
                         AND (referrer IS NOT NULL OR referral = 0) AND provider IS NOT NULL AND charge + unpaid <= amount
                         AND (released = amount - charge AND unpaid = 0 OR released = amount)
             ELSE charge = 0 AND unpaid = 0 AND released = amount END",
        &[],
    )?;
    if count != 0 {
        report.find(AuditFinding::HoldsInconsistent { count: count.unsigned_abs() });
    }
    Ok(())
}

fn back_up(connection: &rusqlite::Connection, to: &Path) -> Result<(), BackupError> {
    let unwritable =
        |error: &std::io::Error| BackupError::Unwritable { path: to.to_owned(), detail: error.to_string() };
    if to.try_exists().map_err(|error| unwritable(&error))? {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let partial = with_suffix(to, ".partial");
    remove_if_there(&partial).map_err(|error| unwritable(&error))?;
    // Made empty first, so that it is private before there is anything in it.
    create_private_file(&partial)
        .map_err(|error| BackupError::Unwritable { path: to.to_owned(), detail: error.to_string() })?;
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

fn copy_into(connection: &rusqlite::Connection, partial: &Path) -> Result<(), BackupError> {
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

fn copy_failed(path: &Path, error: &std::io::Error) -> RestoreError {
    RestoreError::Copy { path: path.to_owned(), detail: error.to_string() }
}

fn refuse_full(folder: &Path) -> Result<(), RestoreError> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(RestoreError::NotEmpty { path: folder.to_owned() }),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(copy_failed(folder, &error)),
        Ok(false) | Err(_) => Ok(()),
    }
}

/// Copies a file into one that only its owner can read.
fn copy_private(from: &Path, to: &Path) -> Result<(), RestoreError> {
    create_private_file(to).map_err(InspectError::from)?;
    let copy = || -> std::io::Result<()> {
        let mut target = std::fs::OpenOptions::new().write(true).truncate(true).open(to)?;
        std::io::copy(&mut std::fs::File::open(from)?, &mut target)?;
        target.sync_all()?;
        sync_folder_of(to)
    };
    copy().map_err(|error| copy_failed(from, &error))
}

/// Takes back what a failed restore made in a folder that was empty.
fn empty(folder: &Path) -> Result<(), RestoreError> {
    let remove = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    };
    remove().map_err(|error| copy_failed(folder, &error))
}
