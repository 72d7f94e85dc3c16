//! The files that a model is made of: its weights, and the adapters that change them. They are held against removal, named
//! by one root, and compared with what lies at their paths once they were loaded.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darkbloom_attest::{SINGLE_FILE, weights_root};
use darkbloom_engine::{AdapterHeader, Exactness, ModelHeader, check_open_adapters, check_open_model_file};
use darkbloom_types::{Digest, armed};

use super::{LoadError, LoadWatch, ModelOptions};
use crate::models::{Unchanged, digest_of};

/// A LoRA adapter of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// The GGUF file.
    pub path: PathBuf,
    /// How much of it is added: 1 for what it was made for.
    pub scale: f32,
}

impl AdapterFile {
    /// Its path in the manifest of a model: a model that is changed in another order or by another amount is another model.
    fn name(&self, at: usize) -> String {
        format!("adapter-{at}@{}.gguf", self.scale)
    }
}

/// One model's files, open and held.
pub(crate) struct ModelFiles {
    /// The model's own first.
    held: Vec<Held>,
}

struct Held {
    path: PathBuf,
    /// In the manifest.
    name: String,
    /// How much of an adapter is added.
    scale: f32,
    file: File,
    /// Since it was opened.
    unchanged: Unchanged,
}

impl ModelFiles {
    /// Opens a model's files and holds them, as others may who only read them.
    pub(crate) fn hold(path: &Path, adapters: &[AdapterFile]) -> Result<Self, LoadError> {
        let of_model = |path, source| LoadError::Read { path, source };
        let of_adapter = |path, source| LoadError::ReadAdapter { path, source };
        let mut held = vec![Held::new(path, SINGLE_FILE.to_owned(), 1.0, of_model)?];
        for (at, adapter) in adapters.iter().enumerate() {
            held.push(Held::new(&adapter.path, adapter.name(at), adapter.scale, of_adapter)?);
        }
        Ok(Self { held })
    }

    /// Holds a model's files, and hashes them while something reads them: the system fetches each block once for both. With
    /// what was read come the files and what names them all.
    pub(crate) fn hold_and_hash<T>(
        options: &ModelOptions,
        watch: &LoadWatch,
        read: impl FnOnce(&Self) -> Result<T, LoadError>,
    ) -> Result<(T, Arc<Self>, Digest), LoadError> {
        let files = Arc::new(Self::hold(&options.path, &options.adapters)?);
        let hashing = {
            let (files, watch) = (Arc::clone(&files), watch.clone());
            std::thread::Builder::new().name("hashing".to_owned()).spawn(move || files.digests(&watch))
        };
        let hashing = hashing.map_err(|source| LoadError::Read { path: options.path.clone(), source })?;
        let read = read(&files)?;
        let digests = hashing.join().expect("hashing does not panic")?;
        // The engine reads by itself: whoever wrote to a file meanwhile is found out here. A restart would read what lies at
        // the paths, so that must be it still.
        if armed!("weights_unchanged") {
            files.check_unchanged(&digests)?;
        }
        let root = files.root(&digests);
        Ok((read, files, root))
    }

    /// The model's own file.
    pub(crate) fn model(&self) -> &File {
        &self.held[0].file
    }

    /// The adapters' files in order, and how much of each is added.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = (&File, f32)> {
        self.held[1..].iter().map(|held| (&held.file, held.scale))
    }

    /// What their headers say, once these are found sound.
    pub(crate) fn headers(&self, exactness: Exactness) -> Result<(ModelHeader, Vec<AdapterHeader>), LoadError> {
        let header = check_open_model_file(self.model());
        let header = header.map_err(|source| LoadError::Weights { path: self.held[0].path.clone(), source })?;
        let adapters = check_open_adapters(self.adapters(), &header, exactness)
            .map_err(|(at, source)| LoadError::Adapter { path: self.held[1 + at].path.clone(), source })?;
        Ok((header, adapters))
    }

    /// Reads all of them: the digest of each, in order, until a watch ends it.
    pub(crate) fn digests(&self, watch: &LoadWatch) -> Result<Vec<Digest>, LoadError> {
        let goes_on = &mut |_| if watch.is_ended() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) };
        let digests = self.held.iter().map(|held| {
            let digest = digest_of(&held.file, goes_on);
            if watch.is_ended() {
                return Err(LoadError::Ended { path: held.path.clone() });
            }
            digest.map_err(|source| LoadError::Read { path: held.path.clone(), source })
        });
        digests.collect()
    }

    /// What names them all: a model alone is a manifest of one file, one with adapters has a file more for each.
    pub(crate) fn root(&self, digests: &[Digest]) -> Digest {
        let files: Vec<_> = self.held.iter().zip(digests).map(|(held, digest)| (held.name.as_str(), *digest)).collect();
        weights_root(&files).expect("there is one file, and all names differ")
    }

    /// Fails where something was written to one of them, or lies at its path in its place, since they were opened. A file's
    /// times show that, unless they are too young to; then it is read once more.
    pub(crate) fn check_unchanged(&self, digests: &[Digest]) -> Result<(), LoadError> {
        for (held, digest) in self.held.iter().zip(digests) {
            let unreadable = |source| LoadError::Read { path: held.path.clone(), source };
            let same = held.unchanged.holds_for(&held.path).map_err(unreadable)?
                && (held.unchanged.shows_changes() || digest_at(&held.path).map_err(unreadable)? == *digest);
            if !same {
                return Err(LoadError::Changed { path: held.path.clone() });
            }
        }
        Ok(())
    }
}

fn digest_at(path: &Path) -> io::Result<Digest> {
    digest_of(&File::open(path)?, &mut |_| Ok(()))
}

/// The weights root of a model file without adapters: its digest as a manifest of one file.
///
/// # Errors
/// [`io::Error`] when it cannot be read.
pub fn weights_of_file(path: &Path) -> io::Result<Digest> {
    Ok(weights_root(&[(SINGLE_FILE, digest_at(path)?)]).expect("one file is a manifest"))
}

impl Held {
    fn new(
        path: &Path,
        name: String,
        scale: f32,
        unreadable: impl Fn(PathBuf, io::Error) -> LoadError,
    ) -> Result<Self, LoadError> {
        let unreadable = |source| unreadable(path.to_path_buf(), source);
        // Looked at before it is opened: opening a pipe would wait for somebody to write to it.
        let kind = std::fs::metadata(path).map_err(unreadable)?;
        if kind.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        if !kind.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")));
        }
        let file = File::open(path).map_err(unreadable)?;
        match file.try_lock_shared() {
            // A file system without locks: nothing here removes or writes files that it cannot lock.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => return Err(LoadError::InUse { path: path.to_path_buf() }),
        }
        let unchanged = Unchanged::since_now(&file).map_err(unreadable)?;
        Ok(Self { path: path.to_path_buf(), name, scale, file, unchanged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_its_adapters_their_order_and_how_much_of_each() {
        let folder = tempfile::tempdir().unwrap();
        let [model, one, two] = ["model", "one", "two"].map(|name| {
            let path = folder.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        });
        let root = |adapters: &[(&PathBuf, f32)]| {
            let adapters: Vec<_> =
                adapters.iter().map(|&(path, scale)| AdapterFile { path: path.clone(), scale }).collect();
            let files = ModelFiles::hold(&model, &adapters).ok().unwrap();
            files.root(&files.digests(&LoadWatch::default()).ok().unwrap())
        };
        let digest = |text: &str| Digest::of(&[text.as_bytes()]);
        let named = [
            (SINGLE_FILE, digest("model")),
            ("adapter-0@0.5.gguf", digest("one")),
            ("adapter-1@1.gguf", digest("two")),
        ];
        assert_eq!(Some(root(&[(&one, 0.5), (&two, 1.0)])), weights_root(&named), "as the documentation says");
        assert_eq!(root(&[]), weights_of_file(&model).unwrap(), "without one it is named as ever");
        let others = [vec![(&one, 0.5)], vec![(&one, 1.0), (&two, 0.5)], vec![(&two, 0.5), (&one, 1.0)], vec![]];
        let mut roots: Vec<_> = others.iter().map(|adapters| root(adapters)).collect();
        roots.push(root(&[(&one, 0.5), (&two, 1.0)]));
        let all = roots.len();
        roots.sort_unstable();
        roots.dedup();
        assert_eq!(roots.len(), all);
    }
}
