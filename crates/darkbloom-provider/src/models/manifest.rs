//! What a model is named by: the Merkle root over its files' paths and digests. Files are read once, from their beginning to
//! their end, in blocks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use darkbloom_attest::{SINGLE_FILE, weights_root};
use darkbloom_types::Digest;
use sha2::{Digest as _, Sha256};

/// How much is read at a time: more makes no file faster.
const BLOCK_BYTES: usize = 1 << 20;
/// Most files of a model: the largest come in some hundred parts.
const FILES_MAX: usize = 10_000;
/// Deepest folder of a model.
const DEPTH_MAX: usize = 8;
/// A file that was changed so shortly before it was looked at may be changed again without its times showing it: they are as
/// coarse as two seconds on some file systems (FAT).
const COARSE_NANOS: i128 = 2_000_000_000;

/// What names a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Each file's path and SHA-256, by path.
    pub files: Vec<(String, Digest)>,
    /// What they have together.
    pub bytes: u64,
    /// The root over them: what catalogue entries and receipts name.
    pub root: Digest,
}

/// Why a model has no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Something cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a file nor a folder, or a link to a folder.
    #[error("{path} is neither a plain file nor a folder", path = .path.display())]
    Kind {
        /// What.
        path: PathBuf,
    },
    /// Its name is not text, so that no path in a manifest can be made of it.
    #[error("the name of {path} is not UTF-8", path = .path.display())]
    Name {
        /// What.
        path: PathBuf,
    },
    /// A folder without files, or with too many or too deep ones.
    #[error("{path} has no files, more than {FILES_MAX}, or some that are more than {DEPTH_MAX} folders deep", path = .path.display())]
    Extent {
        /// Which folder.
        path: PathBuf,
    },
}

/// The manifest of a model file, or of a folder with a model's files. Says after each block how many bytes more were read.
/// Blocks.
///
/// # Errors
/// [`ManifestError`]
pub fn read_manifest(path: &Path, mut read: impl FnMut(u64)) -> Result<Manifest, ManifestError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManifestError::Read { path, source }
    };
    let mut found = Vec::new();
    let kind = fs::metadata(path).map_err(failed(path))?;
    if kind.is_file() {
        found.push((SINGLE_FILE.to_owned(), path.to_owned()));
    } else if kind.is_dir() {
        gather(path, "", DEPTH_MAX, &mut found)?;
    } else {
        return Err(ManifestError::Kind { path: path.to_owned() });
    }
    let (mut files, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for (name, path) in found {
        let file = File::open(&path).map_err(failed(&path))?;
        let digest = digest_of(&file, &mut |more| {
            bytes += more;
            read(more);
            Ok(())
        });
        files.push((name, digest.map_err(failed(&path))?));
    }
    files.sort_unstable();
    let named: Vec<_> = files.iter().map(|(name, digest)| (name.as_str(), *digest)).collect();
    let root = weights_root(&named).ok_or_else(|| ManifestError::Extent { path: path.to_owned() })?;
    Ok(Manifest { files, bytes, root })
}

/// Finds every file below a folder. Links to files are followed, as a cache is made of them; links to folders are not.
fn gather(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> Result<(), ManifestError> {
    let failed = |source| ManifestError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| ManifestError::Name { path: path.clone() })?;
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            let Some(below) = depth.checked_sub(1) else {
                return Err(ManifestError::Extent { path: folder.to_owned() });
            };
            gather(&path, &name, below, found)?;
        } else if fs::metadata(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?.is_file() {
            if found.len() >= FILES_MAX {
                return Err(ManifestError::Extent { path: folder.to_owned() });
            }
            found.push((name, path));
        } else {
            return Err(ManifestError::Kind { path });
        }
    }
    Ok(())
}

/// The SHA-256 of a whole file, wherever others read it meanwhile. `read` hears of each block, and ends it with an error.
pub(crate) fn digest_of(file: &File, read: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut position = 0;
    loop {
        match file.read_at(&mut block, position) {
            Ok(0) => return Ok(Digest(hasher.finalize().into())),
            Ok(length) => {
                hasher.update(&block[..length]);
                position += length as u64;
                read(length as u64)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file as it was at one moment, to find out later whether its path still leads to it and nobody has written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unchanged {
    device: u64,
    number: u64,
    bytes: u64,
    /// When its contents, and anything about it, were last changed, in nanoseconds since 1970.
    changed: (i128, i128),
    seen: i128,
}

impl Unchanged {
    /// An open file now.
    pub fn since_now(file: &File) -> io::Result<Self> {
        let seen = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().cast_signed());
        Self::at(&file.metadata()?, seen)
    }

    fn at(facts: &fs::Metadata, seen: i128) -> io::Result<Self> {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let changed = (nanos(facts.mtime(), facts.mtime_nsec()), nanos(facts.ctime(), facts.ctime_nsec()));
        Ok(Self { device: facts.dev(), number: facts.ino(), bytes: facts.len(), changed, seen })
    }

    /// Whether this path still leads to the same file, and it is as it was.
    pub fn holds_for(&self, path: &Path) -> io::Result<bool> {
        Ok(Self::at(&fs::metadata(path)?, self.seen)? == *self)
    }

    /// What it is told apart by from any other file and from itself at another time, as text.
    pub fn mark(&self) -> String {
        let Self { device, number, bytes, changed, .. } = self;
        format!("{device}:{number}:{bytes}:{}:{}", changed.0, changed.1)
    }

    /// Whether the file's times would show a change. They would not where it had been changed just before, or in the future of
    /// this machine's clock.
    pub fn shows_changes(&self) -> bool {
        self.changed.0.max(self.changed.1) < self.seen - COARSE_NANOS
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(&[text.as_bytes()])
    }

    #[test]
    fn a_file_is_named_by_its_contents_alone_and_a_folder_by_paths_too() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c.gguf"), "two").unwrap();
        fs::write(folder.path().join("a.gguf"), "one").unwrap();
        let mut read = 0;
        let manifest = read_manifest(folder.path(), |more| read += more).unwrap();
        let files = [("a.gguf".to_owned(), digest("one")), ("b/c.gguf".to_owned(), digest("two"))];
        assert_eq!((&manifest.files[..], manifest.bytes, read), (&files[..], 6, 6));
        assert_eq!(Some(manifest.root), weights_root(&[("b/c.gguf", digest("two")), ("a.gguf", digest("one"))]));
        let single = read_manifest(&folder.path().join("a.gguf"), |_| {}).unwrap();
        assert_eq!(Some(single.root), weights_root(&[(SINGLE_FILE, digest("one"))]));
    }

    #[test]
    fn a_cache_of_links_has_the_manifest_of_what_they_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("snapshot")).unwrap();
        fs::write(folder.path().join("blob"), "one").unwrap();
        symlink("../blob", folder.path().join("snapshot/a.gguf")).unwrap();
        let manifest = read_manifest(&folder.path().join("snapshot"), |_| {}).unwrap();
        assert_eq!(manifest.files, [("a.gguf".to_owned(), digest("one"))]);
    }

    #[test]
    fn loops_empty_folders_and_depths_have_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read_manifest(folder.path(), |_| {}), Err(ManifestError::Extent { .. })));
        symlink(".", folder.path().join("around")).unwrap();
        assert!(matches!(read_manifest(folder.path(), |_| {}), Err(ManifestError::Kind { .. })));
        fs::remove_file(folder.path().join("around")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(matches!(read_manifest(folder.path(), |_| {}), Err(ManifestError::Read { .. })));
        fs::remove_file(folder.path().join("loop")).unwrap();
        fs::create_dir_all(folder.path().join("1/2/3/4/5/6/7/8/9")).unwrap();
        assert!(matches!(read_manifest(folder.path(), |_| {}), Err(ManifestError::Extent { .. })));
    }

    #[test]
    fn a_file_that_was_written_to_or_swapped_is_not_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("model"), folder.path().join("other"));
        fs::write(&path, "one").unwrap();
        fs::write(&other, "one").unwrap();
        let file = File::open(&path).unwrap();
        let unchanged = Unchanged::since_now(&file).unwrap();
        assert!(unchanged.holds_for(&path).unwrap());
        assert!(!unchanged.shows_changes(), "it has just been written");
        file.set_modified(SystemTime::now() - std::time::Duration::from_secs(60)).unwrap();
        assert!(!unchanged.holds_for(&path).unwrap());
        fs::rename(&other, &path).unwrap();
        assert!(!unchanged.holds_for(&path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(unchanged.holds_for(&path).is_err());
    }

    #[test]
    fn times_of_long_ago_show_changes_and_those_of_the_future_do_not() {
        let facts = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let now = Unchanged::at(&facts, i128::from(facts.ctime().max(facts.mtime())) * 1_000_000_000).unwrap();
        assert!(!now.shows_changes());
        let later = Unchanged { seen: now.seen + 4 * COARSE_NANOS, ..now };
        assert!(later.shows_changes());
        assert!(!Unchanged { seen: now.seen - 4 * COARSE_NANOS, ..now }.shows_changes());
    }
}
