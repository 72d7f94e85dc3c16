//! Digests of model files that were read before: reading one again takes minutes, and what is loaded is hashed anyway.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use darkbloom_types::Digest;
use serde::{Deserialize, Serialize};

use super::Unchanged;
use crate::shelf::Identity;

/// Largest file that is read: some thousand entries.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// One file as it was when it was read.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// What it was told apart by then.
    mark: String,
    weights: String,
    text_pack: String,
}

/// What is known, by the files' paths. It names models to a coordinator before they are loaded, and nothing else: a model whose
/// file has another digest when it is loaded is not served.
pub struct KnownWeights {
    file: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl KnownWeights {
    /// What this file says; nothing where it is not there or is damaged.
    pub fn open(file: PathBuf) -> Self {
        let small = std::fs::metadata(&file).is_ok_and(|facts| facts.is_file() && facts.len() <= FILE_BYTES_MAX);
        let text = small.then(|| std::fs::read(&file).ok()).flatten();
        let entries = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, entries }
    }

    /// What a model file is known by, if it is as it was.
    pub fn get(&self, path: &Path) -> Option<Identity> {
        let entry = self.entries.get(path.to_str()?)?;
        let now = Unchanged::since_now(&File::open(path).ok()?).ok()?;
        let same = now.shows_changes() && now.mark() == entry.mark;
        let digest = |text: &str| text.parse::<Digest>().ok();
        same.then_some(())?;
        Some(Identity { weights: digest(&entry.weights)?, text_pack: digest(&entry.text_pack)? })
    }

    /// Remembers what a model file was found to be, where it is still as it was before it was read, and its times would have
    /// shown otherwise.
    pub fn put(&mut self, seen: Option<Seen>, identity: &Identity) {
        let Some(Seen { path, then }) = seen else { return };
        if !then.shows_changes() || !then.holds_for(&path).unwrap_or(false) {
            return;
        }
        // Whatever else a path is, JSON cannot name it.
        let Some(name) = path.to_str() else { return };
        let entry = Entry {
            mark: then.mark(),
            weights: identity.weights.to_string(),
            text_pack: identity.text_pack.to_string(),
        };
        self.entries.insert(name.to_owned(), entry);
        if let Err(error) = self.write() {
            tracing::warn!(%error, "cannot remember a model file's digest");
        }
    }

    /// Writes all of it, or leaves what was there.
    fn write(&self) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let next = self.file.with_extension("json.next");
        std::fs::write(&next, serde_json::to_vec_pretty(&self.entries)?)?;
        std::fs::rename(&next, &self.file)
    }
}

/// A model file as it is before it is read.
pub struct Seen {
    path: PathBuf,
    then: Unchanged,
}

impl Seen {
    /// The file at this path now, if it can be opened.
    pub fn now(path: &Path) -> Option<Self> {
        let then = Unchanged::since_now(&File::open(path).ok()?).ok()?;
        Some(Self { path: path.to_owned(), then })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A file that has lain there for as long as building this took: its times would show a change.
    fn old_file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
    }

    #[test]
    fn what_was_read_is_known_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (model, file) = (folder.path().join("a.gguf"), folder.path().join("weights.json"));
        std::fs::write(&model, "one").unwrap();
        let identity = Identity { weights: Digest([1; 32]), text_pack: Digest([2; 32]) };
        let mut known = KnownWeights::open(file.clone());
        known.put(Seen::now(&model), &identity);
        assert_eq!(known.get(&model), None, "its times are too young to show another change");
        // Its change time cannot be set, so what is known is made to look old.
        let mark = Unchanged::since_now(&File::open(&model).unwrap()).unwrap().mark();
        let entry =
            |digest: &str| Entry { mark: mark.clone(), weights: digest.to_owned(), text_pack: digest.to_owned() };
        known.entries.insert(model.to_str().unwrap().to_owned(), entry(&"01".repeat(32)));
        let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        File::options().write(true).open(&model).unwrap().set_modified(hour_ago).unwrap();
        assert_eq!(known.get(&model), None, "it was changed");
        std::fs::write(&file, "{damaged").unwrap();
        assert!(KnownWeights::open(file).entries.is_empty());
    }

    #[test]
    fn a_file_that_is_swapped_while_it_is_read_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (model, file) = (folder.path().join("a.gguf"), folder.path().join("new/weights.json"));
        std::os::unix::fs::symlink(old_file(), &model).unwrap();
        let identity = Identity { weights: Digest([1; 32]), text_pack: Digest([2; 32]) };
        let seen = Seen::now(&model);
        let mut known = KnownWeights::open(file.clone());
        known.put(Seen::now(&model), &identity);
        assert!(file.exists(), "its folder is made");
        std::fs::remove_file(&model).unwrap();
        std::fs::write(&model, "another").unwrap();
        let mut known = KnownWeights::open(folder.path().join("other.json"));
        known.put(seen, &identity);
        assert!(known.entries.is_empty());
    }

    #[test]
    fn a_file_that_has_lain_there_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights.json");
        let model = old_file();
        let identity = Identity { weights: Digest([1; 32]), text_pack: Digest([2; 32]) };
        KnownWeights::open(file.clone()).put(Seen::now(&model), &identity);
        assert_eq!(KnownWeights::open(file).get(&model), Some(identity));
    }
}
