//! A folder that was opened once, and everything in it by its name alone, so that a link that somebody planted there leads
//! nowhere: links are never followed, whatever they point to (`openat` with `O_NOFOLLOW`, POSIX.1-2008).

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatvfs, mkdirat, openat, renameat, statat, unlinkat};

/// Most entries of one folder that are looked at; as many as a hub's repository has.
const ENTRIES_MAX: usize = 10_000;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
    /// Where it was found: for messages, and for whoever opens a finished file later.
    path: PathBuf,
}

/// What a name in a folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A link, a pipe, a device.
    Other,
}

/// Why a name in a folder is not used: it is a link, or not what it should be.
fn not_ours(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl Folder {
    /// The owner's own folder. This one may be reached through links: the owner chose it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { handle, path: path.to_owned() })
    }

    /// The same, created where it is missing.
    pub fn create(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        Self::open(path)
    }

    /// A folder in this one.
    pub fn enter(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&self.handle, name, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => not_ours("it is a link or no folder"),
            other => other.into(),
        })?;
        Ok(Self { handle, path: self.path.join(name) })
    }

    /// The same, created where it is missing.
    pub fn enter_or_create(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.handle, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => self.sync()?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.enter(name)
    }

    /// A plain file in this folder, to be read.
    pub fn read(&self, name: &str) -> io::Result<File> {
        self.file(name, OFlags::RDONLY)
    }

    /// A plain file in this folder, to be read and written, created where it is missing. One that has another name elsewhere
    /// is refused: it would be written there too.
    pub fn write(&self, name: &str) -> io::Result<File> {
        let file = self.file(name, OFlags::RDWR | OFlags::CREATE)?;
        if file.metadata()?.nlink() == 1 { Ok(file) } else { Err(not_ours("it has another name elsewhere")) }
    }

    fn file(&self, name: &str, how: OFlags) -> io::Result<File> {
        // Without waiting for whoever is at the other end of a pipe.
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&self.handle, name, flags, Mode::from_raw_mode(0o644));
        let file = File::from(opened.map_err(|error| match error {
            rustix::io::Errno::LOOP => not_ours("it is a link"),
            other => other.into(),
        })?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(not_ours("it is not a plain file")) }
    }

    /// What a name stands for; nothing where there is none.
    pub fn kind(&self, name: &str) -> io::Result<Option<Kind>> {
        match statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => {
                let kind = FileType::from_raw_mode(found.st_mode);
                let kind = if kind.is_file() {
                    Kind::File
                } else if kind.is_dir() {
                    Kind::Folder
                } else {
                    Kind::Other
                };
                Ok(Some(kind))
            }
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in this folder, sorted; those that are not text are left out, as nothing here is named so.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            if names.len() >= ENTRIES_MAX {
                return Err(io::Error::other("the folder has too many entries"));
            }
            names.push(name.to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Gives a file of this folder another name in it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        renameat(&self.handle, from, &self.handle, to).map_err(io::Error::from)
    }

    /// Takes a file's or link's name away; one that is gone already is no error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder. Whether it did.
    pub fn remove_empty(&self, name: &str) -> bool {
        unlinkat(&self.handle, name, AtFlags::REMOVEDIR).is_ok()
    }

    /// Makes the names in this folder durable.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.handle).map_err(io::Error::from)
    }

    /// Bytes that this user may still write to the folder's file system.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let file_system = fstatvfs(&self.handle)?;
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused<T>(opened: io::Result<T>) -> bool {
        opened.err().is_some_and(|error| error.kind() == io::ErrorKind::InvalidInput)
    }

    #[test]
    fn links_lead_nowhere() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        fs::write(&victim, "before").unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        symlink(outside.path(), inside.path().join("folder")).unwrap();
        symlink(&victim, inside.path().join("file")).unwrap();
        symlink(outside.path().join("missing"), inside.path().join("dangling")).unwrap();
        symlink("loop", inside.path().join("loop")).unwrap();
        fs::hard_link(&victim, inside.path().join("twin")).unwrap();
        assert!(refused(folder.enter("folder")));
        assert!(refused(folder.enter_or_create("folder")));
        for link in ["file", "dangling", "loop"] {
            assert!(refused(folder.read(link)) && refused(folder.write(link)), "{link}");
            assert_eq!(folder.kind(link).unwrap(), Some(Kind::Other));
        }
        assert!(refused(folder.write("twin")));
        folder.remove("file").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "before");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was created outside");
    }

    #[test]
    fn pipes_are_refused_without_waiting() {
        let inside = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(inside.path().join("pipe")).status().unwrap();
        assert!(made.success());
        let folder = Folder::open(inside.path()).unwrap();
        assert!(refused(folder.read("pipe")) && refused(folder.write("pipe")));
    }

    #[test]
    fn folders_are_made_and_removed_when_they_are_empty() {
        let inside = tempfile::tempdir().unwrap();
        let folder = Folder::create(&inside.path().join("a/b")).unwrap();
        let below = folder.enter_or_create("c").unwrap();
        below.write("file").unwrap();
        assert!(!folder.remove_empty("c"));
        assert_eq!((below.names().unwrap(), below.kind("other").unwrap()), (vec!["file".to_owned()], None));
        below.remove("file").unwrap();
        below.remove("file").unwrap();
        assert!(folder.remove_empty("c") && !inside.path().join("a/b/c").exists());
        assert!(folder.free_bytes().unwrap() > 0);
    }
}
