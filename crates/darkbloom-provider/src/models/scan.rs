//! What models are on this machine: in the Hugging Face cache, in folders that the owner names, and in our own. Only headers
//! are read, nothing is hashed, and whatever lies there is survived.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darkbloom_engine::{GgufError, LoadModelError, ModelHeader, check_model_file};
use darkbloom_types::Digest;

use super::names::{PARTIAL, is_gguf, part_of};

/// Deepest folder that is looked into: caches have snapshots with a folder or two.
const DEPTH_MAX: usize = 8;
/// Most entries that are looked at, all places together: a second's work.
const ENTRIES_MAX: usize = 100_000;
/// Most models that are listed: a header takes some milliseconds.
const MODELS_MAX: usize = 10_000;
/// Most remarks about what was passed over.
const SKIPPED_MAX: usize = 100;

/// Where models are looked for.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Our own folder.
    pub own: PathBuf,
    /// The Hugging Face cache.
    pub cache: Option<PathBuf>,
    /// Folders that the owner names.
    pub folders: Vec<PathBuf>,
}

/// Where a model was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Our own folder: it can be removed.
    Own,
    /// The Hugging Face cache, which its own program looks after.
    HuggingFace,
    /// A folder that the owner names.
    Folder,
}

/// Which of its files a model in several has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// How many are there.
    pub found: u32,
    /// How many there should be.
    pub of: u32,
}

/// A model file, or the files of one model.
#[derive(Debug)]
pub struct FoundModel {
    /// Where it was found.
    pub place: Place,
    /// What it is called: in our own folder and the cache `OWNER/NAME/FILE`, elsewhere its path in the folder. Somebody else's
    /// words: not to be shown as they are.
    pub name: String,
    /// The file; of several the first that is there.
    pub path: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Of a model in several files, which are there.
    pub parts: Option<Parts>,
    /// The SHA-256 that the cache names it by. Nobody has verified it.
    pub claimed: Option<Digest>,
    /// What its header says, or why it cannot be loaded.
    pub header: Result<ModelHeader, LoadModelError>,
}

/// Something that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// What is on this machine.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Models, place by place, each in the order of their names.
    pub models: Vec<FoundModel>,
    /// What was passed over.
    pub skipped: Vec<Skipped>,
    /// Whether there is more than is looked at.
    pub cut: bool,
    entries: usize,
    /// Files that were seen: one may have several names.
    seen: HashSet<(u64, u64)>,
}

/// The Hugging Face cache of this user, from the variables that its own programs go by: `HF_HUB_CACHE`, `HF_HOME`,
/// `XDG_CACHE_HOME`, `HOME`.
pub fn hugging_face_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || {
        path("HF_HOME").or_else(|| {
            Some(path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")))?.join("huggingface"))
        })
    };
    path("HF_HUB_CACHE").or_else(|| Some(home()?.join("hub")))
}

/// Looks for models. Places that do not exist have none. Blocks.
#[must_use]
pub fn scan(places: &Places) -> Inventory {
    let mut inventory = Inventory::default();
    inventory.folder(&places.own, Place::Own);
    if let Some(cache) = &places.cache {
        inventory.cache(cache);
    }
    for folder in &places.folders {
        inventory.folder(folder, Place::Folder);
    }
    inventory
}

/// A file that may be a model, or part of one.
struct Candidate {
    name: String,
    path: PathBuf,
    bytes: u64,
    claimed: Option<Digest>,
}

/// What a place says of a file before it is read: the SHA-256 that it is named by, or why it is passed over.
type Look<'l> = dyn Fn(&Path, fs::FileType) -> Result<Option<Digest>, String> + 'l;

impl Inventory {
    fn skip(&mut self, path: &Path, why: impl Into<String>) {
        if self.skipped.len() < SKIPPED_MAX {
            self.skipped.push(Skipped { path: path.to_owned(), why: why.into() });
        } else {
            self.cut = true;
        }
    }

    /// What is in a folder, in the order of the names. Nothing where there is none.
    fn entries(&mut self, folder: &Path) -> Vec<(String, PathBuf, fs::FileType)> {
        let listed = match fs::read_dir(folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.skip(folder, format!("it cannot be read: {error}"));
                return Vec::new();
            }
        };
        let mut entries = Vec::new();
        for entry in listed {
            if self.entries >= ENTRIES_MAX {
                self.cut = true;
                break;
            }
            self.entries += 1;
            match entry.and_then(|entry| Ok((entry.file_name(), entry.path(), entry.file_type()?))) {
                Ok((name, path, kind)) => entries.push((name.to_string_lossy().into_owned(), path, kind)),
                Err(error) => self.skip(folder, format!("an entry cannot be read: {error}")),
            }
        }
        entries.sort_by(|one, other| one.1.cmp(&other.1));
        entries
    }

    fn folder(&mut self, folder: &Path, place: Place) {
        let mut candidates = Vec::new();
        self.walk(folder, "", DEPTH_MAX, &mut candidates, &|_, kind| {
            // In our own folder nothing is a link, unless somebody planted it.
            let planted = kind.is_symlink() && place == Place::Own;
            if planted { Err("it is a link, and nothing in this folder should be".to_owned()) } else { Ok(None) }
        });
        self.add(place, candidates);
    }

    /// The cache's layout: `models--OWNER--NAME/snapshots/COMMIT/FILE`, each file a link to `../../blobs/DIGEST`.
    fn cache(&mut self, cache: &Path) {
        let mut candidates = Vec::new();
        for (name, path, kind) in self.entries(cache) {
            let Some(repository) = name.strip_prefix("models--").filter(|_| kind.is_dir()) else { continue };
            let prefix = repository.replacen("--", "/", 1);
            let blobs = fs::canonicalize(path.join("blobs")).ok();
            for (_, snapshot, kind) in self.entries(&path.join("snapshots")) {
                if !kind.is_dir() {
                    self.skip(&snapshot, "it is not a snapshot's folder");
                    continue;
                }
                self.walk(&snapshot, &prefix, DEPTH_MAX, &mut candidates, &|path, kind| {
                    if !kind.is_symlink() {
                        return Ok(None);
                    }
                    let to = fs::canonicalize(path).map_err(|error| format!("its link leads nowhere: {error}"))?;
                    if blobs.as_ref().is_none_or(|blobs| to.parent() != Some(blobs)) {
                        return Err("its link leads out of the cache's blobs".to_owned());
                    }
                    Ok(to.file_name().and_then(|name| name.to_str()?.parse().ok()))
                });
            }
        }
        self.add(Place::HuggingFace, candidates);
    }

    /// Finds model files below a folder. Folders are not reached through links, so that no loop has an end to be found.
    fn walk(&mut self, folder: &Path, prefix: &str, depth: usize, into: &mut Vec<Candidate>, look: &Look<'_>) {
        for (name, path, kind) in self.entries(folder) {
            let shown = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            if kind.is_dir() {
                match depth.checked_sub(1) {
                    Some(depth) => self.walk(&path, &shown, depth, into, look),
                    None => self.skip(&path, format!("it is more than {DEPTH_MAX} folders deep")),
                }
                continue;
            }
            if name.ends_with(PARTIAL) {
                self.skip(&path, "a download that is not finished; the same command goes on with it");
            }
            if !is_gguf(&name) {
                continue;
            }
            let claimed = match look(&path, kind) {
                Ok(claimed) => claimed,
                Err(why) => {
                    self.skip(&path, why);
                    continue;
                }
            };
            match fs::metadata(&path) {
                Ok(facts) if facts.is_file() => {
                    if self.seen.insert((facts.dev(), facts.ino())) {
                        into.push(Candidate { name: shown, path, bytes: facts.len(), claimed });
                    }
                }
                Ok(_) => self.skip(&path, "it is not a plain file"),
                Err(error) => self.skip(&path, format!("it cannot be read: {error}")),
            }
        }
    }

    /// Reads the headers, and puts the parts of models together.
    fn add(&mut self, place: Place, candidates: Vec<Candidate>) {
        let mut split: BTreeMap<(String, u32), Vec<Candidate>> = BTreeMap::new();
        let mut models = Vec::new();
        for candidate in candidates {
            if let Some((before, _, of)) = part_of(&candidate.name) {
                split.entry((before.to_owned(), of)).or_default().push(candidate);
                continue;
            }
            if self.models.len() + models.len() >= MODELS_MAX {
                self.cut = true;
                break;
            }
            let header = check_model_file(&candidate.path);
            let Candidate { name, path, bytes, claimed } = candidate;
            models.push(FoundModel { place, name, path, bytes, parts: None, claimed, header });
        }
        for ((_, of), parts) in split {
            let found = u32::try_from(parts.len()).unwrap_or(u32::MAX);
            let bytes = parts.iter().map(|part| part.bytes).sum();
            let Some(Candidate { name, path, .. }) = parts.into_iter().next() else { continue };
            let header = Err(LoadModelError::Damaged(GgufError::Split(of.into())));
            models.push(FoundModel {
                place,
                name,
                path,
                bytes,
                parts: Some(Parts { found, of }),
                claimed: None,
                header,
            });
        }
        models.sort_by(|one, other| one.name.cmp(&other.name));
        self.models.extend(models);
    }
}

/// The name of a `general.file_type`; the numbers are llama.cpp's (`llama_ftype`).
#[must_use]
pub fn quantisation(file_type: Option<u64>) -> &'static str {
    match file_type {
        Some(0) => "F32",
        Some(1) => "F16",
        Some(2) => "Q4_0",
        Some(3) => "Q4_1",
        Some(7) => "Q8_0",
        Some(8) => "Q5_0",
        Some(9) => "Q5_1",
        Some(10) => "Q2_K",
        Some(11) => "Q3_K_S",
        Some(12) => "Q3_K_M",
        Some(13) => "Q3_K_L",
        Some(14) => "Q4_K_S",
        Some(15) => "Q4_K_M",
        Some(16) => "Q5_K_S",
        Some(17) => "Q5_K_M",
        Some(18) => "Q6_K",
        Some(32) => "BF16",
        Some(_) | None => "unknown",
    }
}
