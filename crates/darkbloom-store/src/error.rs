//! What can go wrong with any store, whatever it was asked.

use crate::location::StorePlace;

/// Why a store does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenStoreError {
    /// Another process, or this one, has it open.
    #[error("another process uses {place}")]
    Locked {
        /// The folder, file or database.
        place: StorePlace,
    },
    /// The folder or a file in it cannot be created, read or written.
    #[error("cannot write {place}: {detail}")]
    Unwritable {
        /// The folder or file.
        place: StorePlace,
        /// What the operating system says.
        detail: String,
    },
    /// The server of the database cannot be reached, or lets nobody in.
    #[error("cannot use {place}: {detail}")]
    Unreachable {
        /// The database.
        place: StorePlace,
        /// What is in the way.
        detail: String,
    },
    /// The server is set up so that money could be lost on it.
    #[error("{place} must not be used: {detail}")]
    Unfit {
        /// The database.
        place: StorePlace,
        /// Why not.
        detail: String,
    },
    /// An older program wrote it; nothing is changed unless somebody asks for it, which is [`crate::Store::migrate`].
    #[error("the database has schema {found}, this program needs {known}")]
    OlderSchema {
        /// The schema in the database.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// A newer program wrote it.
    #[error("the database has schema {found}, this program knows {known}")]
    NewerSchema {
        /// The schema in the database.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// It is damaged, or no database of ours.
    #[error("{place} is not a readable database of this program: {detail}")]
    Corrupt {
        /// The database.
        place: StorePlace,
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
    /// The database failed. Nothing was done, except that after a failed commit, or a connection that was lost in one, the
    /// database may still hold it: what is not known is asked for again once it answers.
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
    /// A text with a zero character, which Postgres cannot hold; so nowhere is one taken.
    #[error("a text with a zero character cannot be stored")]
    ZeroCharacter,
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
