//! The folder and the files in it: private to their owner, used by one process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::OpenStoreError;

/// Whoever only looks whether a lock is taken holds it for a moment: it is tried so often, so long apart.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(20);

/// Holds a lock file for as long as it lives. The operating system lets go of it when the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks `lock_file`, creating it if need be; `path` is what a person knows the locked thing by.
    pub(crate) fn take(lock_file: &Path, path: &Path) -> Result<Self, OpenStoreError> {
        let file = open_private(lock_file).map_err(|error| unwritable(lock_file, &error))?;
        for _ in 0..LOOKS {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
                Err(TryLockError::Error(error)) => return Err(unwritable(lock_file, &error)),
            }
        }
        Err(OpenStoreError::Locked { place: path.to_owned().into() })
    }
}

/// Creates a folder, and those above it, that only its owner can enter. One that exists is left as it is.
pub(crate) fn create_private_folder(path: &Path) -> Result<(), OpenStoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| unwritable(path, &error))
}

/// Creates an empty file that only its owner can read, or tightens one that exists. SQLite gives the files that it
/// makes beside a database the database's own permissions.
pub(crate) fn create_private_file(path: &Path) -> Result<(), OpenStoreError> {
    let file = open_private(path).map_err(|error| unwritable(path, &error))?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|error| unwritable(path, &error))?;
    drop(file);
    Ok(())
}

fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn unwritable(path: &Path, error: &std::io::Error) -> OpenStoreError {
    OpenStoreError::Unwritable { place: path.to_owned().into(), detail: error.to_string() }
}

/// The same path with something after its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
