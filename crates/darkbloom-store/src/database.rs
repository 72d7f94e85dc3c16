//! Connections, and how every one of them is set up.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::OpenStoreError;
use crate::migrate::{Older, Schema, check, migrate};

/// Distinct statements kept prepared on a connection; more than there are in this crate.
const PREPARED_STATEMENTS_MAX: usize = 128;

/// Opens the database as its only writer. One that is empty gets the newest schema. Answers the schema that
/// there was and the one that there is, too.
pub(crate) fn open_writer(
    path: &Path,
    schema: &Schema,
    older: Older,
) -> Result<(Connection, i64, i64), OpenStoreError> {
    let mut connection = connect(path)?;
    let set_up = |connection: &Connection| -> rusqlite::Result<()> {
        // FULL: the write-ahead log is flushed at every commit, which is what "durable" means here.
        // fullfsync: on macOS a plain fsync stops at the drive's cache.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA fullfsync = ON;
             PRAGMA checkpoint_fullfsync = ON; PRAGMA cache_size = -16384; PRAGMA journal_size_limit = 67108864;",
        )
    };
    // The application id is judged first: journal_mode would already write into somebody else's database.
    let (from, to) = migrate(&mut connection, path, schema, older, set_up)?;
    Ok((connection, from, to))
}

/// Opens a database that may be used by another process, to read only. One that is empty or of another schema is refused.
pub(crate) fn open_checked(path: &Path, schema: &Schema) -> Result<Connection, OpenStoreError> {
    let connection = open_reader(path)?;
    check(&connection, path, schema)?;
    Ok(connection)
}

/// Opens a database that [`open_writer`] has set up, to read only.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenStoreError> {
    let connection = connect(path)?;
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192;")
        .map_err(|error| opening_failed(path, &error))?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, OpenStoreError> {
    // Without URI names, so that a folder called `file:…` is a folder.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| opening_failed(path, &error))?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
    // Only a backup or a checkpoint of our own can be in the way, and neither for long.
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(|error| opening_failed(path, &error))?;
    Ok(connection)
}

/// Says what is wrong with a database that does not open.
pub(crate) fn opening_failed(path: &Path, error: &rusqlite::Error) -> OpenStoreError {
    let (place, detail) = (path.to_owned().into(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenStoreError::Locked { place },
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::NoLargeFileSupport,
        ) => OpenStoreError::Unwritable { place, detail },
        Some(_) | None => OpenStoreError::Corrupt { place, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::STORE;

    /// A kill of the process alone cannot tell whether commits reach the disk, so what makes them do so is checked.
    #[test]
    fn every_commit_is_flushed_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database");
        std::fs::write(&path, "").unwrap();
        let (connection, ..) = open_writer(&path, &STORE, Older::Refuse).unwrap();
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        const FULL: i64 = 2;
        assert_eq!((mode.as_str(), number("synchronous"), number("fullfsync")), ("wal", FULL, 1));
    }
}
