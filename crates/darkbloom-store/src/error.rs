//! What can go wrong with any store, whatever it was asked.

use std::path::PathBuf;

/// Why a store does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenStoreError {
    /// Another process, or this one, has it open.
    #[error("another process uses {}", path.display())]
    Locked {
        /// The folder or file.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be created, read or written.
    #[error("cannot write {}: {detail}", path.display())]
    Unwritable {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system says.
        detail: String,
    },
    /// A newer program wrote it.
    #[error("the database has schema {found}, this program knows {known}")]
    NewerSchema {
        /// The schema in the file.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// It is damaged, or no database of ours.
    #[error("{} is not a readable database of this program: {detail}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the database says.
        detail: String,
    },
}

/// Why a store could not do what it was asked, through no fault of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The queue is full; nothing was done.
    #[error("the store is busy")]
    Busy,
    /// The store has stopped; what was asked last may or may not have been done.
    #[error("the store has stopped")]
    Closed,
    /// The database failed. Nothing was done, except that after a failed commit the disk may still hold it.
    #[error("the database failed: {detail}")]
    Database {
        /// What the database says; statements and column names, never values.
        detail: String,
    },
    /// A row says something that this program never wrote.
    #[error("the database holds an impossible {what}")]
    ImpossibleRow {
        /// What is impossible.
        what: &'static str,
    },
    /// A value over its stated limit.
    #[error("{what} of {found} is over the limit of {limit}")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// What was given.
        found: u64,
        /// The limit.
        limit: u64,
    },
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database { detail: error.to_string() }
    }
}

/// Refuses what is over its limit.
pub(crate) fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), StoreError> {
    if found <= limit {
        return Ok(());
    }
    let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Err(StoreError::TooLarge { what, found: wide(found), limit: wide(limit) })
}
