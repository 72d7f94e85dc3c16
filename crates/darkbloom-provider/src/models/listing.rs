//! What a hub says is in a repository, and which of it to get. Pure, so that it can be fuzzed as it stands.
//!
//! The answer is that of `GET /api/models/OWNER/NAME/revision/REVISION?blobs=true` of the Hugging Face hub's documented
//! interface: `sha`, and `siblings` with `rfilename`, `size` and, for large files, `lfs.sha256`.

use darkbloom_attest::{SINGLE_FILE, weights_root};
use darkbloom_types::Digest;
use serde::Deserialize;

use super::names::{FilePath, NameError, Revision, is_gguf, part_of};

/// Most files of a repository: the hub advises against more in one folder.
const FILES_MAX: usize = 10_000;
/// Largest file: three times the largest model of today, which has about 1.3 TB.
const FILE_BYTES_MAX: u64 = 4 << 40;
/// Names that an error lists.
const NAMED_MAX: usize = 20;

/// Why an answer lists nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// Not the answer of a hub.
    #[error("the answer is not a list of a repository's files")]
    Shape,
    /// Too long.
    #[error("the repository has more than {FILES_MAX} files")]
    TooMany,
}

/// The files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit, or what was asked for where the hub names none.
    pub commit: Revision,
    files: Vec<Listed>,
}

/// A file as the hub lists it; its name may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    size: Option<u64>,
    sha256: Option<Digest>,
}

/// Which file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'w> {
    /// The only model file there is.
    Only,
    /// The one of this name.
    Named(&'w str),
    /// The one with this weights root, from a catalogue.
    Weights(Digest),
}

/// Why there is nothing to get.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// No model file at all.
    #[error("the repository has no GGUF file")]
    None,
    /// More than one.
    #[error("the repository has {count} GGUF files: {}", .names.join(", "))]
    Several {
        /// How many.
        count: usize,
        /// The names of the first of them. Somebody else's words: not to be shown as they are.
        names: Vec<String>,
    },
    /// No file of that name.
    #[error("the repository has no file `{0}`")]
    NoSuchFile(String),
    /// No file has the digest.
    #[error("no file of the repository has the weights root {0}")]
    NoSuchWeights(Digest),
    /// Not a model file.
    #[error("`{0}` is not a GGUF file")]
    NotGguf(String),
    /// Part of a model in several files.
    #[error("`{0}` is one of several files that make a model together, which cannot be loaded yet")]
    Split(String),
    /// A name that is not used here.
    #[error("the file's name {name:?} is refused: {source}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The hub says no size, or none that a model has.
    #[error("the hub says no sound size for `{0}`")]
    Size(String),
}

/// A file that will be got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where it lies in the repository, and where it will lie here.
    pub path: FilePath,
    /// Its size in bytes.
    pub size: u64,
    /// What the hub says of its contents.
    pub sha256: Option<Digest>,
}

impl Listing {
    /// Reads a hub's answer about this revision.
    ///
    /// # Errors
    /// [`ListingError`] when it is none, or too long.
    pub fn read(body: &[u8], asked: &Revision) -> Result<Self, ListingError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: Option<String>,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            lfs: Option<Large>,
        }
        #[derive(Deserialize)]
        struct Large {
            sha256: Option<String>,
        }
        let answer: Answer = serde_json::from_slice(body).map_err(|_| ListingError::Shape)?;
        if answer.siblings.len() > FILES_MAX {
            return Err(ListingError::TooMany);
        }
        let named = answer.sha.and_then(|sha| sha.parse().ok()).filter(Revision::is_commit);
        let files = answer.siblings.into_iter().map(|sibling| Listed {
            name: sibling.rfilename,
            size: sibling.size,
            sha256: sibling.lfs.and_then(|large| large.sha256?.parse().ok()),
        });
        Ok(Self { commit: named.unwrap_or_else(|| asked.clone()), files: files.collect() })
    }

    /// The wanted file, when it can be got and loaded.
    ///
    /// # Errors
    /// [`ChooseError`] says why not, and what there is.
    pub fn choose(&self, wanted: Wanted<'_>) -> Result<PlannedFile, ChooseError> {
        let mut models = self.files.iter().filter(|file| is_gguf(&file.name));
        let file = match wanted {
            Wanted::Named(name) => {
                let found = self.files.iter().find(|file| file.name == name);
                found.ok_or_else(|| ChooseError::NoSuchFile(name.to_owned()))?
            }
            Wanted::Weights(root) => {
                let found = models.find(|file| file.sha256.is_some_and(|digest| single_root(digest) == root));
                found.ok_or(ChooseError::NoSuchWeights(root))?
            }
            Wanted::Only => match (models.next(), models.count()) {
                (None, _) => return Err(ChooseError::None),
                (Some(only), 0) => only,
                (Some(_), others) => {
                    let names = self.files.iter().map(|file| &file.name).filter(|name| is_gguf(name));
                    let names = names.take(NAMED_MAX).cloned().collect();
                    return Err(ChooseError::Several { count: others + 1, names });
                }
            },
        };
        file.plan()
    }
}

/// The weights root of a model that is one file with this SHA-256.
pub(super) fn single_root(digest: Digest) -> Digest {
    weights_root(&[(SINGLE_FILE, digest)]).expect("one file is a manifest")
}

impl Listed {
    fn plan(&self) -> Result<PlannedFile, ChooseError> {
        if !is_gguf(&self.name) {
            return Err(ChooseError::NotGguf(self.name.clone()));
        }
        if part_of(&self.name).is_some() {
            return Err(ChooseError::Split(self.name.clone()));
        }
        let path = self.name.parse().map_err(|source| ChooseError::Name { name: self.name.clone(), source })?;
        let size = self.size.filter(|size| (1..=FILE_BYTES_MAX).contains(size));
        let size = size.ok_or_else(|| ChooseError::Size(self.name.clone()))?;
        Ok(PlannedFile { path, size, sha256: self.sha256 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn listing(siblings: Value) -> Listing {
        let body = json!({"id": "a/b", "sha": COMMIT, "siblings": siblings, "tags": []}).to_string();
        Listing::read(body.as_bytes(), &"main".parse().unwrap()).unwrap()
    }

    fn file(name: &str, size: u64, byte: u8) -> Value {
        let digest = Digest([byte; 32]).to_string();
        json!({"rfilename": name, "size": size, "blobId": "x", "lfs": {"sha256": digest, "size": size, "pointerSize": 1}})
    }

    #[test]
    fn the_only_model_file_is_chosen_and_the_commit_is_the_hubs() {
        let listing = listing(json!([{"rfilename": "README.md", "size": 5}, file("m.gguf", 9, 1)]));
        assert_eq!(listing.commit.as_str(), COMMIT);
        let planned = listing.choose(Wanted::Only).unwrap();
        assert_eq!((planned.path.as_str(), planned.size, planned.sha256), ("m.gguf", 9, Some(Digest([1; 32]))));
    }

    #[test]
    fn one_of_several_is_chosen_by_name_or_by_digest() {
        let listing = listing(json!([file("a.gguf", 9, 1), file("b.gguf", 9, 2), file("c/b.gguf", 9, 3)]));
        let several = listing.choose(Wanted::Only).unwrap_err();
        assert!(matches!(&several, ChooseError::Several { count: 3, names } if names[1] == "b.gguf"), "{several}");
        assert_eq!(listing.choose(Wanted::Named("c/b.gguf")).unwrap().sha256, Some(Digest([3; 32])));
        let by_root = listing.choose(Wanted::Weights(single_root(Digest([2; 32])))).unwrap();
        assert_eq!(by_root.path.as_str(), "b.gguf");
        let unknown = listing.choose(Wanted::Weights(Digest([2; 32])));
        assert_eq!(unknown, Err(ChooseError::NoSuchWeights(Digest([2; 32]))));
        assert_eq!(listing.choose(Wanted::Named("d.gguf")), Err(ChooseError::NoSuchFile("d.gguf".to_owned())));
    }

    #[test]
    fn what_cannot_be_got_or_loaded_is_refused_by_name() {
        let hostile = ["../../evil.gguf", "/etc/evil.gguf", "a\\evil.gguf", "a\0.gguf", "\u{1b}[2J.gguf"];
        for name in hostile {
            let chosen = listing(json!([file(name, 9, 1)])).choose(Wanted::Only);
            assert!(matches!(chosen, Err(ChooseError::Name { .. })), "{chosen:?}");
            assert!(!chosen.unwrap_err().to_string().contains('\u{1b}'));
        }
        let other = listing(json!([{"rfilename": "README.md", "size": 5}]));
        assert_eq!(other.choose(Wanted::Only), Err(ChooseError::None));
        assert_eq!(other.choose(Wanted::Named("README.md")), Err(ChooseError::NotGguf("README.md".to_owned())));
        let split = listing(json!([file("m-00001-of-00002.gguf", 9, 1)])).choose(Wanted::Only);
        assert!(matches!(split, Err(ChooseError::Split(_))));
        for size in [json!(null), json!(0), json!(u64::MAX)] {
            let chosen = listing(json!([{"rfilename": "m.gguf", "size": size}])).choose(Wanted::Only);
            assert!(matches!(chosen, Err(ChooseError::Size(_))), "{chosen:?}");
        }
    }

    #[test]
    fn an_answer_of_another_shape_or_length_is_refused() {
        let main: Revision = "main".parse().unwrap();
        for body in [
            "",
            "[]",
            "{}",
            "{\"siblings\": 1}",
            "{\"siblings\": [{}]}",
            "{\"siblings\": [{\"rfilename\": \"a\", \"size\": -1}]}",
        ] {
            assert_eq!(Listing::read(body.as_bytes(), &main), Err(ListingError::Shape), "{body}");
        }
        let long = json!({"siblings": vec![json!({"rfilename": "a"}); FILES_MAX + 1]}).to_string();
        assert_eq!(Listing::read(long.as_bytes(), &main), Err(ListingError::TooMany));
        let odd = json!({"sha": "../x", "siblings": []}).to_string();
        assert_eq!(Listing::read(odd.as_bytes(), &main).unwrap().commit, main);
    }
}
