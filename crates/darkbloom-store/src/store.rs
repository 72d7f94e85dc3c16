//! The store's handle: opening, closing, and the ways to its threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use darkbloom_ledger::BasisPoints;

use crate::cache::Cache;
use crate::database::{open_reader, open_writer};
use crate::error::{OpenStoreError, StoreError};
use crate::folder::{FileLock, create_private_file, create_private_folder};
use crate::location::{PostgresUrl, StoreLocation};
use crate::migrate::{Older, STORE, migrate_postgres};
use crate::reader::Reader;
use crate::sql::Connection;
use crate::sql::postgres::{Postgres, Purpose};
use crate::writer::Writer;
use crate::{keys, network, standing};

pub(crate) const DATABASE_NAME: &str = "darkbloom.sqlite";
const LOCK_NAME: &str = "darkbloom.lock";

/// What an operator can choose about a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// The operator's share of every charge from now on; none by default.
    pub platform_fee: BasisPoints,
    /// The share of that fee that is whose who brought the consumer; none by default.
    pub referral_share: BasisPoints,
}

/// A coordinator's store: one folder or database, one process, one writer. Clones share it; dropping the last one finishes what is
/// queued, waits for it, and lets go of
/// the place.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Fields are dropped in this order: the threads end before the lock is let go.
    pub(crate) writer: Writer,
    reader: Reader,
    pub(crate) cache: Arc<Cache>,
    pub(crate) options: StoreOptions,
    /// Whether an audit or a backup runs.
    pub(crate) maintenance: Arc<AtomicBool>,
    pub(crate) home: Home,
}

/// Where the database is, and what keeps others out of it.
#[derive(Clone)]
pub(crate) enum Home {
    /// The operating system's lock, held by a file beside the database.
    Folder { database: PathBuf, _lock: Arc<FileLock> },
    /// The server's lock, held by the session that writes.
    Server(PostgresUrl),
}

/// What a migration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema that there was; 0 for none.
    pub from: i64,
    /// The schema that there is.
    pub to: i64,
}

impl Store {
    /// Opens the store in this folder, making both if need be. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn open(folder: &Path) -> Result<Self, OpenStoreError> {
        Self::open_with(folder, StoreOptions::default())
    }

    /// [`Store::open`] with options.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn open_with(folder: &Path, options: StoreOptions) -> Result<Self, OpenStoreError> {
        Self::open_at(&StoreLocation::Folder(folder.to_owned()), options)
    }

    /// Opens the store wherever it is, making it where there is none. Blocks for as long as disk and network take.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn open_at(location: &StoreLocation, options: StoreOptions) -> Result<Self, OpenStoreError> {
        // On a thread of its own: a session drives a runtime, which cannot be done within another.
        on_own_thread(|| {
            let (writing, _, _, home) = open_writing(location, Purpose::Write, Older::Refuse)?;
            let reading = home.open_reading(Purpose::Read)?;
            Self::start(writing, reading, home, options, location)
        })
    }

    /// Brings the database to the newest schema. Nobody may use it meanwhile; whoever has no backup should make one before.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn migrate(location: &StoreLocation) -> Result<Migrated, OpenStoreError> {
        on_own_thread(|| {
            let (_, from, to, _) = open_writing(location, Purpose::Migrate, Older::Migrate)?;
            Ok(Migrated { from, to })
        })
    }

    fn start(
        writing: Connection,
        reading: Connection,
        home: Home,
        options: StoreOptions,
        location: &StoreLocation,
    ) -> Result<Self, OpenStoreError> {
        let unwritable = |error: std::io::Error| OpenStoreError::Unwritable {
            place: location.place(),
            detail: format!("no thread could be started: {error}"),
        };
        let cache = load_cache(&writing)
            .map_err(|error| OpenStoreError::Corrupt { place: location.place(), detail: error.to_string() })?;
        let cache = Arc::new(cache);
        let stale = Arc::clone(&cache);
        let renewed = move |connection: &Connection| {
            stale.refill(load_cache(connection)?);
            Ok(())
        };
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Writer::start(writing, "store-writer", renewed).map_err(unwritable)?,
                reader: Reader::start(reading, "store-reader").map_err(unwritable)?,
                cache,
                options,
                maintenance: Arc::default(),
                home,
            }),
        })
    }

    /// Whether another handle of this database is left: dropping the last one closes it and frees its folder.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    pub(crate) async fn write<T, E>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.inner.writer.write(work).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.reader.read(work).await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("home", &self.inner.home).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder { database, .. } => database.fmt(f),
            Self::Server(url) => url.fmt(f),
        }
    }
}

impl Home {
    /// Another connection to the same database, on the thread that is to use it.
    pub(crate) fn open_reading(&self, purpose: Purpose) -> Result<Connection, OpenStoreError> {
        match self {
            Self::Folder { database, .. } => Ok(Connection::Sqlite(open_reader(database)?)),
            Self::Server(url) => Ok(Connection::Postgres(Box::new(Postgres::connect(url, purpose)?))),
        }
    }
}

/// Opens the database as its only writer. Answers the schema that there was and the one that there is, too.
fn open_writing(
    location: &StoreLocation,
    purpose: Purpose,
    older: Older,
) -> Result<(Connection, i64, i64, Home), OpenStoreError> {
    match location {
        StoreLocation::Folder(folder) => {
            create_private_folder(folder)?;
            let lock = FileLock::take(&folder.join(LOCK_NAME), folder)?;
            let database = folder.join(DATABASE_NAME);
            create_private_file(&database)?;
            let (connection, from, to) = open_writer(&database, &STORE, older)?;
            Ok((Connection::Sqlite(connection), from, to, Home::Folder { database, _lock: Arc::new(lock) }))
        }
        StoreLocation::Postgres(url) => {
            let session = Postgres::connect(url, purpose)?;
            let (from, to) = migrate_postgres(&session, &url.place(), older)?;
            Ok((Connection::Postgres(Box::new(session)), from, to, Home::Server(url.clone())))
        }
    }
}

fn load_cache(connection: &Connection) -> Result<Cache, StoreError> {
    let standings = standing::load(connection)?;
    let successions = standing::load_successions(connection)?;
    Ok(Cache::new(keys::load(connection)?, network::load(connection)?, standings, successions))
}

/// Does this on another thread, and waits for it.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
