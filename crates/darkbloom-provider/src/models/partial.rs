//! A file on its way: its bytes under another name until all of them are there and proven, and beside it what the hub said of
//! them, so that a download that was broken off goes on where it ended.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use darkbloom_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::folder::{Folder, Kind};
use super::manifest::digest_of;
use super::names::{PARTIAL, RECORD};

/// Longest record: three short values.
const RECORD_BYTES_MAX: u64 = 4_096;
/// How much of what is there already is read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What is noted beside a file on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Bytes of the whole file.
    size: u64,
    /// The whole file's SHA-256, where the hub named it.
    sha256: Option<String>,
    /// The entity tag of the answer that the bytes are from (RFC 9110, section 8.8.3).
    etag: Option<String>,
}

/// Why there is no file on its way.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenPartialError {
    #[error(transparent)]
    System(#[from] io::Error),
    /// Another process has it.
    #[error("it is being downloaded already")]
    InUse,
    /// The finished file, or something else of its name, is there.
    #[error("there is something else of this name")]
    Exists,
}

/// A file on its way, held by this process alone.
#[derive(Debug)]
pub(super) struct Partial {
    folder: Folder,
    name: String,
    file: File,
    hasher: Sha256,
    written: u64,
    record: Record,
}

/// What became of opening one.
#[derive(Debug)]
pub(super) enum Opened {
    Partial(Box<Partial>),
    /// The finished file is there, with the contents that the hub names.
    Already,
}

impl Partial {
    /// Opens a file of so many bytes on its way into a folder. What is there of it already is read once more.
    pub fn open(folder: Folder, name: &str, size: u64, sha256: Option<Digest>) -> Result<Opened, OpenPartialError> {
        let file = folder.write(&format!("{name}{PARTIAL}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenPartialError::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let record = Record { size, sha256: sha256.map(|digest| digest.to_string()), etag: None };
        let mut partial = Self { folder, name: name.to_owned(), file, hasher: Sha256::new(), written: 0, record };
        if let Some(kind) = partial.folder.kind(name)? {
            let same = kind == Kind::File && partial.is_finished(sha256)?;
            if partial.file.metadata()?.len() == 0 {
                partial.discard()?;
            }
            return if same { Ok(Opened::Already) } else { Err(OpenPartialError::Exists) };
        }
        let known = partial.read_record().filter(|known| (known.size, &known.sha256) == (size, &partial.record.sha256));
        match known {
            Some(known) if partial.file.metadata()?.len() <= size => {
                partial.record = known;
                partial.read_what_is_there()?;
            }
            _ => partial.restart()?,
        }
        Ok(Opened::Partial(Box::new(partial)))
    }

    fn is_finished(&self, sha256: Option<Digest>) -> io::Result<bool> {
        let finished = self.folder.read(&self.name)?;
        if finished.metadata()?.len() != self.record.size || sha256.is_none() {
            return Ok(false);
        }
        Ok(Some(digest_of(&finished, &mut |_| Ok(()))?) == sha256)
    }

    fn read_record(&self) -> Option<Record> {
        let mut text = Vec::new();
        let file = self.folder.read(&format!("{}{RECORD}", self.name)).ok()?;
        file.take(RECORD_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write_record(&self) -> io::Result<()> {
        let mut file = self.folder.write(&format!("{}{RECORD}", self.name))?;
        file.set_len(0)?;
        file.write_all(serde_json::to_string(&self.record).map_err(io::Error::other)?.as_bytes())
    }

    fn read_what_is_there(&mut self) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let length = self.file.read_at(&mut block, self.written)?;
            if length == 0 {
                return Ok(());
            }
            self.hasher.update(&block[..length]);
            self.written += length as u64;
        }
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher.reset();
        self.written = 0;
        self.record.etag = None;
        self.write_record()
    }

    /// Bytes that are there.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// The entity tag of what is there.
    pub fn etag(&self) -> Option<&str> {
        self.record.etag.as_deref()
    }

    /// Notes the entity tag of what comes now.
    pub fn set_etag(&mut self, etag: Option<String>) -> io::Result<()> {
        if self.record.etag == etag {
            return Ok(());
        }
        self.record.etag = etag;
        self.write_record()
    }

    /// Bytes that this user may still write beside it.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.folder.free_bytes()
    }

    /// Adds bytes to its end.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what is there.
    pub fn digest(&self) -> Digest {
        Digest(self.hasher.clone().finalize().into())
    }

    /// The file, to be looked at.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the finished file will be.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Gives the file its own name, durably.
    pub fn finish(self) -> io::Result<PathBuf> {
        self.file.sync_all()?;
        // Nobody else is on the way to this name: whoever is holds the lock of the same file.
        if self.folder.kind(&self.name)?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.folder.rename(&format!("{}{PARTIAL}", self.name), &self.name)?;
        self.folder.remove(&format!("{}{RECORD}", self.name))?;
        self.folder.sync()?;
        Ok(self.path())
    }

    /// Removes what is there.
    pub fn discard(&self) -> io::Result<()> {
        self.folder.remove(&format!("{}{PARTIAL}", self.name))?;
        self.folder.remove(&format!("{}{RECORD}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn open(folder: &Path, size: u64, sha256: Option<Digest>) -> Result<Opened, OpenPartialError> {
        Partial::open(Folder::open(folder).unwrap(), "m.gguf", size, sha256)
    }

    fn opened(folder: &Path, size: u64, sha256: Option<Digest>) -> Partial {
        match open(folder, size, sha256) {
            Ok(Opened::Partial(partial)) => *partial,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_was_written_is_found_again_with_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let whole = Digest::of(&[b"one two"]);
        let mut first = opened(folder.path(), 7, Some(whole));
        first.set_etag(Some("\"a\"".to_owned())).unwrap();
        first.write(b"one ").unwrap();
        assert!(matches!(open(folder.path(), 7, Some(whole)), Err(OpenPartialError::InUse)));
        drop(first);
        let mut second = opened(folder.path(), 7, Some(whole));
        assert_eq!((second.written(), second.etag()), (4, Some("\"a\"")));
        second.write(b"two").unwrap();
        assert_eq!(second.digest(), whole);
        let path = second.finish().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "one two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(matches!(open(folder.path(), 7, Some(whole)), Ok(Opened::Already)));
        assert!(matches!(open(folder.path(), 7, Some(Digest([0; 32]))), Err(OpenPartialError::Exists)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_of_another_file_or_has_no_sound_record_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let one = Some(Digest([1; 32]));
        for spoil in ["size", "digest", "record", "length"] {
            let mut partial = opened(folder.path(), 7, one);
            partial.restart().unwrap();
            partial.write(b"abc").unwrap();
            drop(partial);
            let (mut size, mut sha256) = (7, one);
            match spoil {
                "size" => size = 8,
                "digest" => sha256 = None,
                "record" => fs::write(folder.path().join("m.gguf.partial.json"), "{").unwrap(),
                _ => fs::write(folder.path().join("m.gguf.partial"), "more than seven").unwrap(),
            }
            assert_eq!(opened(folder.path(), size, sha256).written(), 0, "{spoil}");
        }
    }

    #[test]
    fn planted_links_are_refused_and_what_they_lead_to_is_left_alone() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        for planted in ["m.gguf.partial", "m.gguf.partial.json", "m.gguf"] {
            fs::write(&victim, "before").unwrap();
            std::os::unix::fs::symlink(&victim, folder.path().join(planted)).unwrap();
            assert!(open(folder.path(), 7, None).is_err(), "{planted}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "before", "{planted}");
            fs::remove_file(folder.path().join(planted)).unwrap();
        }
    }
}
