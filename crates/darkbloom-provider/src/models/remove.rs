//! Removing model files from this machine's own folder: whole, and nothing else.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::folder::{Folder, Kind};
use super::names::{FilePath, NameError, PARTIAL, RECORD, RepositoryName};

/// Deepest folder in a repository's: a file's path has no more parts.
const DEPTH_MAX: usize = 8;

/// Why nothing was removed, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Not a name that anything here has.
    #[error("{name:?} is not the name of a model here: {source}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// Nothing of that name.
    #[error("{} has no model `{name}`", .models.display())]
    NotFound {
        /// Where.
        models: PathBuf,
        /// The name.
        name: String,
    },
    /// A provider has loaded it, or it is being downloaded.
    #[error("{path} is in use by a running provider or download", path = .path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The system, or a link where a folder should be.
    #[error("cannot remove {path}: {source}", path = .path.display())]
    System {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RemoveError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Name { .. } | Self::NotFound { .. } => {
                "`darkbloom models list` shows the names; only those in the models folder can be removed"
            }
            Self::InUse { .. } => "stop the provider that uses it first",
            Self::System { .. } => "check the folder's permissions, and that no folder in it is a link",
        }
    }
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Each file.
    pub files: Vec<PathBuf>,
    /// What they took.
    pub bytes: u64,
}

/// A file that will be removed: looked at and held before the first one is.
struct Condemned {
    /// The folders from the models folder down to it.
    folders: Vec<String>,
    name: String,
    bytes: u64,
    /// Holds its lock. Nothing for a link, which is removed itself.
    _held: Option<File>,
}

/// Removes the model `OWNER/NAME/FILE`, or everything of `OWNER/NAME`, from the folder of this machine's models. Links are
/// removed and never followed. What a running provider has loaded stays, and everything else with it.
///
/// # Errors
/// [`RemoveError`]
pub fn remove(models: &Path, name: &str) -> Result<Removed, RemoveError> {
    let wrong = |source| RemoveError::Name { name: name.to_owned(), source };
    let not_found = || RemoveError::NotFound { models: models.to_owned(), name: name.to_owned() };
    let failed = |source: io::Error| {
        let missing = source.kind() == io::ErrorKind::NotFound;
        if missing { not_found() } else { RemoveError::System { path: models.join(name), source } }
    };
    let mut parts = name.splitn(3, '/');
    let (owner, repository, file) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next());
    let repository: RepositoryName = format!("{owner}/{repository}").parse().map_err(wrong)?;
    let file: Option<FilePath> = file.map(str::parse).transpose().map_err(wrong)?;
    let root = Folder::open(models).map_err(failed)?;
    let mut folders = vec![repository.owner().to_owned(), repository.name().to_owned()];
    let mut condemned = Vec::new();
    match &file {
        None => gather(&walk(&root, &folders).map_err(failed)?, &mut folders, DEPTH_MAX, &mut condemned)?,
        Some(file) => {
            let above = file.parts().count() - 1;
            folders.extend(file.parts().take(above).map(str::to_owned));
            let folder = walk(&root, &folders).map_err(failed)?;
            let name = file.file_name();
            let with_endings = [name.to_owned(), format!("{name}{PARTIAL}"), format!("{name}{RECORD}")];
            for name in with_endings {
                condemn(&folder, &folders, name, &mut condemned)?;
            }
        }
    }
    if condemned.is_empty() && file.is_some() {
        return Err(not_found());
    }
    let removed = execute(models, &root, &condemned)?;
    remove_empty_folders(&root, &repository, &folders);
    Ok(removed)
}

fn walk(root: &Folder, folders: &[String]) -> io::Result<Folder> {
    let (first, rest) = folders.split_first().expect("a repository is two folders deep");
    rest.iter().try_fold(root.enter(first)?, |folder, name| folder.enter(name))
}

/// Finds everything below a folder.
fn gather(
    folder: &Folder,
    folders: &mut Vec<String>,
    depth: usize,
    into: &mut Vec<Condemned>,
) -> Result<(), RemoveError> {
    let failed = |source| RemoveError::System { path: folder.path().to_owned(), source };
    for name in folder.names().map_err(failed)? {
        if folder.kind(&name).map_err(failed)? == Some(Kind::Folder) && depth > 0 {
            let below = folder.enter(&name).map_err(failed)?;
            folders.push(name);
            gather(&below, folders, depth - 1, into)?;
            folders.pop();
        } else {
            condemn(folder, folders, name, into)?;
        }
    }
    Ok(())
}

/// Holds a file, unless somebody else does; what does not exist is passed over.
fn condemn(folder: &Folder, folders: &[String], name: String, into: &mut Vec<Condemned>) -> Result<(), RemoveError> {
    let path = folder.path().join(&name);
    let failed = |source| RemoveError::System { path: path.clone(), source };
    let (bytes, held) = match folder.kind(&name).map_err(failed)? {
        None => return Ok(()),
        Some(Kind::Folder) => return Err(failed(io::ErrorKind::IsADirectory.into())),
        Some(Kind::Other) => (0, None),
        Some(Kind::File) => {
            let file = folder.read(&name).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RemoveError::InUse { path }),
                // A file system without locks: nobody can hold it there.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            (file.metadata().map_err(failed)?.len(), Some(file))
        }
    };
    into.push(Condemned { folders: folders.to_vec(), name, bytes, _held: held });
    Ok(())
}

fn execute(models: &Path, root: &Folder, condemned: &[Condemned]) -> Result<Removed, RemoveError> {
    let mut removed = Removed::default();
    for Condemned { folders, name, bytes, .. } in condemned {
        let path = folders.iter().fold(models.to_owned(), |path, name| path.join(name)).join(name);
        let folder = walk(root, folders);
        let done = folder.and_then(|folder| folder.remove(name).and_then(|()| folder.sync()));
        done.map_err(|source| RemoveError::System { path: path.clone(), source })?;
        removed.files.push(path);
        removed.bytes += bytes;
    }
    Ok(removed)
}

/// Tidies up from below. Folders with something in them stay.
fn remove_empty_folders(root: &Folder, repository: &RepositoryName, folders: &[String]) {
    fn empty(folder: &Folder, depth: usize) {
        for name in folder.names().unwrap_or_default() {
            if depth > 0 && folder.kind(&name).is_ok_and(|kind| kind == Some(Kind::Folder)) {
                if let Ok(below) = folder.enter(&name) {
                    empty(&below, depth - 1);
                }
                folder.remove_empty(&name);
            }
        }
    }
    if let Ok(folder) = walk(root, &folders[..2]) {
        empty(&folder, DEPTH_MAX);
    }
    if let Ok(owner) = root.enter(repository.owner()) {
        owner.remove_empty(repository.name());
    }
    root.remove_empty(repository.owner());
}
