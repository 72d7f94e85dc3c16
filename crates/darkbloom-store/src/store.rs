//! The store's handle: opening, closing, and the ways to its threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use darkbloom_ledger::BasisPoints;
use rusqlite::Connection;

use crate::cache::Cache;
use crate::database::{open_reader, open_writer};
use crate::error::{OpenStoreError, StoreError};
use crate::folder::{FileLock, create_private_file, create_private_folder};
use crate::migrate::STORE;
use crate::reader::Reader;
use crate::writer::Writer;
use crate::{keys, network, standing};

const DATABASE_NAME: &str = "darkbloom.sqlite";
const LOCK_NAME: &str = "darkbloom.lock";

/// What an operator can choose about a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// The operator's share of every charge from now on; none by default.
    pub platform_fee: BasisPoints,
}

/// A coordinator's store: one folder, one process, one writer. Clones share it; dropping the last one finishes what is
/// queued, waits for it, and lets go of the folder.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    // Fields are dropped in this order: the threads end before the lock is let go.
    pub(crate) writer: Writer,
    reader: Reader,
    pub(crate) cache: Arc<Cache>,
    pub(crate) database: PathBuf,
    pub(crate) options: StoreOptions,
    /// Whether an audit or a backup runs.
    pub(crate) maintenance: Arc<AtomicBool>,
    pub(crate) lock: Arc<FileLock>,
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
        create_private_folder(folder)?;
        let lock = FileLock::take(&folder.join(LOCK_NAME), folder)?;
        let database = folder.join(DATABASE_NAME);
        create_private_file(&database)?;
        let writing = open_writer(&database, &STORE)?;
        let reading = open_reader(&database)?;
        let cache = load_cache(&reading, &database)?;
        let unwritable = |error: std::io::Error| OpenStoreError::Unwritable {
            path: folder.to_owned(),
            detail: format!("no thread could be started: {error}"),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                writer: Writer::start(writing, "store-writer").map_err(unwritable)?,
                reader: Reader::start(reading, "store-reader").map_err(unwritable)?,
                cache: Arc::new(cache),
                database,
                options,
                maintenance: Arc::default(),
                lock: Arc::new(lock),
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
        f.debug_struct("Store").field("database", &self.inner.database).finish_non_exhaustive()
    }
}

fn load_cache(connection: &Connection, database: &Path) -> Result<Cache, OpenStoreError> {
    let load = || -> Result<Cache, StoreError> {
        let standings = standing::load(connection)?;
        let successions = standing::load_successions(connection)?;
        Ok(Cache::new(keys::load(connection)?, network::load(connection)?, standings, successions))
    };
    load().map_err(|error| OpenStoreError::Corrupt { path: database.to_owned(), detail: error.to_string() })
}
