//! What an operator does with a coordinator's data while none runs, or beside one: look after it, copy it, put it back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use darkbloom_store::{BackupError, InspectError, Migrated, OpenStoreError, RestoreError, Store, StorePlace};
pub use darkbloom_store::{PostgresUrl, PostgresUrlError, StoreLocation};

/// The coordinator's key, in its folder.
pub(crate) const COORDINATOR_KEY: &str = "coordinator.key";
/// The database of a backup.
const DATABASE: &str = "darkbloom.sqlite";
/// Everything else that a backup has to have: whoever loses a key loses the network's name.
const KEYS: [&str; 2] = [COORDINATOR_KEY, crate::activation::KEY_FILE];
/// Larger than any key file: one that is larger is none.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// A coordinator's data.
#[derive(Debug, Clone)]
pub struct Data {
    /// The folder of its keys, and of the database where that is on no server.
    pub folder: PathBuf,
    /// The database, where it is on a server.
    pub database: Option<PostgresUrl>,
}

/// What counting everything again came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Transfers that were counted.
    pub transfers: u64,
    /// Holds that are open.
    pub open_holds: u64,
    /// What must not be; the first hundred.
    pub findings: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The database does not open.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    /// It cannot be looked at.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// It cannot be copied.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// It cannot be put back.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A server's database is copied by the server's own tools. The commands do not hold the password.
    #[error("the database is on a server, whose own tools make and restore its backups")]
    OfServer {
        /// What to run.
        command: String,
    },
    /// A folder that is written to has to be empty.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A file of a key.
    #[error("cannot copy {}: {detail}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is in the way.
        detail: io::Error,
    },
}

impl DataError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Open(error) | Self::Inspect(InspectError::Open(error)) => hint(error).to_owned(),
            Self::Backup(BackupError::Source(InspectError::Open(error))) => hint(error).to_owned(),
            Self::Restore(RestoreError::Backup(InspectError::Open(error))) => hint(error).to_owned(),
            Self::OfServer { command } => command.clone(),
            Self::NotEmpty(_)
            | Self::Restore(RestoreError::NotEmpty { .. })
            | Self::Backup(BackupError::Exists { .. }) => "name a folder that is empty, or not there yet".to_owned(),
            Self::Restore(RestoreError::Unsound { .. }) => {
                "restore an older backup; keep this one for whoever looks into it".to_owned()
            }
            Self::Inspect(_) | Self::Backup(_) | Self::Restore(_) | Self::Key { .. } => {
                "check permissions and the room on the disk".to_owned()
            }
        }
    }
}

/// What to do about a database that does not open.
pub(crate) fn hint(error: &OpenStoreError) -> &'static str {
    match error {
        OpenStoreError::Locked { place: StorePlace::Path(_) } => {
            "another coordinator uses this folder; stop it, or choose another with `--data`"
        }
        OpenStoreError::Locked { place: StorePlace::Database { .. } } => {
            "another coordinator uses this database; stop it, or choose another with `--database-url-file`"
        }
        OpenStoreError::OlderSchema { .. } => {
            "stop the coordinator, make a backup with `darkbloom store backup`, then run `darkbloom store migrate`"
        }
        OpenStoreError::NewerSchema { .. } => "run the release that wrote it, or a newer one",
        OpenStoreError::Unreachable { .. } => {
            "check the URL of the database, its server and its user's password; beyond this machine the server needs TLS with a certificate that this system believes (`SSL_CERT_FILE` names another authority)"
        }
        OpenStoreError::Unfit { .. } => "change the server's settings, or use another server",
        OpenStoreError::Unwritable { .. } | OpenStoreError::Corrupt { .. } => {
            "check the folder's permissions and disk, or choose another with `--data`"
        }
    }
}

impl Data {
    /// Where the database is.
    #[must_use]
    pub fn location(&self) -> StoreLocation {
        match &self.database {
            None => StoreLocation::Folder(self.folder.clone()),
            Some(url) => StoreLocation::Postgres(url.clone()),
        }
    }

    /// Brings the database to the newest schema, and answers the one that there was and the one that there is.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn migrate(&self) -> Result<(i64, i64), DataError> {
        let Migrated { from, to } = Store::migrate(&self.location())?;
        Ok((from, to))
    }

    /// Counts everything again. A coordinator may run meanwhile.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn audit(&self) -> Result<Audited, DataError> {
        let report = Store::audit_at(&self.location())?;
        let findings = report.findings.iter().map(|finding| format!("{finding:?}")).collect();
        Ok(Audited { transfers: report.transfers, open_holds: report.open_holds, findings })
    }

    /// Copies database and keys into a folder that is empty or not there. A coordinator may run meanwhile.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn backup(&self, to: &Path) -> Result<(), DataError> {
        if let Some(url) = &self.database {
            let arguments = url.tool_arguments();
            return Err(DataError::OfServer {
                command: format!(
                    "run `pg_dump --format=custom --file=darkbloom.dump {arguments}`, and copy the keys out of {}",
                    self.folder.display()
                ),
            });
        }
        private_and_empty(to)?;
        Store::backup_folder(&self.folder, &to.join(DATABASE))?;
        copy_keys(&self.folder, to)
    }

    /// Puts a backup in place and counts everything again. The folder has to be empty or not there.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn restore(&self, from: &Path) -> Result<Audited, DataError> {
        if let Some(url) = &self.database {
            let arguments = url.tool_arguments();
            return Err(DataError::OfServer {
                command: format!(
                    "make an empty database, run `pg_restore --no-owner --exit-on-error --single-transaction {arguments} darkbloom.dump`, copy the keys into {}, and run `darkbloom store audit`",
                    self.folder.display()
                ),
            });
        }
        let report = Store::restore_folder(&from.join(DATABASE), &self.folder)?;
        copy_keys(from, &self.folder)?;
        Ok(Audited { transfers: report.transfers, open_holds: report.open_holds, findings: Vec::new() })
    }
}

fn private_and_empty(folder: &Path) -> Result<(), DataError> {
    let failed = |detail| DataError::Key { path: folder.to_owned(), detail };
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(DataError::NotEmpty(folder.to_owned()));
    }
    Ok(())
}

/// Copies the keys that there are. They stay what they are: sealed ones are sealed in a backup too.
fn copy_keys(from: &Path, to: &Path) -> Result<(), DataError> {
    for name in KEYS {
        let path = from.join(name);
        match copy_key(&path, &to.join(name)) {
            Err(detail) if detail.kind() != io::ErrorKind::NotFound => return Err(DataError::Key { path, detail }),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn copy_key(from: &Path, to: &Path) -> io::Result<()> {
    let source = fs::File::open(from)?;
    if source.metadata()?.len() > KEY_BYTES_MAX {
        return Err(io::Error::other("it is too large for a key"));
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut target = options.open(to)?;
    io::copy(&mut io::Read::take(source, KEY_BYTES_MAX), &mut target)?;
    target.sync_all()?;
    match to.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_keys::{IdentityKey as _, SoftwareKey};
    use darkbloom_types::{NanoDollars, SecretString, UnixMillis};

    #[tokio::test]
    async fn a_backup_made_beside_a_running_coordinator_is_restored_with_the_same_books_and_keys() {
        let folder = tempfile::tempdir().unwrap();
        let data = |name: &str| Data { folder: folder.path().join(name), database: None };
        let (running, restored, backup) = (data("running"), data("restored"), folder.path().join("backup"));
        let store = Store::open(&running.folder).unwrap();
        let key = SoftwareKey::load_or_create_sealed(&running.folder.join(COORDINATOR_KEY), None).unwrap();
        let account = store.account_create("a").await.unwrap();
        store.deposit(account, NanoDollars(5), "r", UnixMillis(1)).await.unwrap();
        running.backup(&backup).unwrap();
        assert!(matches!(running.backup(&backup), Err(DataError::NotEmpty(_))));
        let counted = running.audit().unwrap();
        assert_eq!((counted.transfers, counted.findings.len()), (1, 0));

        assert_eq!(restored.restore(&backup).unwrap(), counted);
        assert_eq!(restored.audit().unwrap(), counted);
        assert!(matches!(restored.restore(&backup), Err(DataError::Restore(RestoreError::NotEmpty { .. }))));
        let same = SoftwareKey::load_or_create_sealed(&restored.folder.join(COORDINATOR_KEY), None).unwrap();
        assert_eq!(same.public_point(), key.public_point());
        let opened = Store::open(&restored.folder).unwrap();
        assert_eq!(opened.balance(account).await, store.balance(account).await);
        for file in fs::read_dir(&backup).unwrap().chain(fs::read_dir(&restored.folder).unwrap()) {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_backup_that_does_not_balance_is_not_restored_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (backup, place) = (folder.path().join("backup"), folder.path().join("place"));
        drop(Store::open(&backup).unwrap());
        let database = rusqlite::Connection::open(backup.join(DATABASE)).unwrap();
        database.execute_batch("INSERT INTO book VALUES (3, x'', 5)").unwrap();
        drop(database);
        let restored = Data { folder: place.clone(), database: None }.restore(&backup);
        assert!(matches!(restored, Err(DataError::Restore(RestoreError::Unsound { .. }))), "{restored:?}");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }

    #[test]
    fn a_server_is_backed_up_by_its_own_tools_and_no_command_has_the_password() {
        let url = PostgresUrl::new(&SecretString::from("postgres://u:s3cret@db.example/money")).unwrap();
        let data = Data { folder: PathBuf::from("/data"), database: Some(url) };
        for error in [data.backup(Path::new("/to")).unwrap_err(), data.restore(Path::new("/from")).unwrap_err()] {
            let hint = error.hint();
            assert!(hint.contains("--host=db.example --port=5432 --username=u --dbname=money"), "{hint}");
            assert!(!format!("{hint} {error} {error:?} {data:?}").contains("s3cret"));
        }
    }
}
