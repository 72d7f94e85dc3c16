//! Names that somebody else chose: of repositories, of revisions in them, and of files. Pure, so that it can be fuzzed as it
//! stands. Whatever is parsed here can be opened below a folder without leaving it, on every system.

use std::fmt;
use std::str::FromStr;

/// Longest path of a file: a quarter of what Linux takes (`PATH_MAX`), so that the owner's folder fits before it.
const PATH_BYTES_MAX: usize = 1_024;
/// Longest part of a path: file systems take 255 bytes, and an unfinished download adds an ending to it.
const PART_BYTES_MAX: usize = 200;
/// Most parts of a path: repositories of models have one or two.
const PARTS_MAX: usize = 8;
/// Longest name of an owner or a repository; the hub's own limit (`huggingface_hub`, `validate_repo_id`).
const REPOSITORY_BYTES_MAX: usize = 96;
/// Longest name of a branch, tag or commit: git's own limit is the file system's.
const REVISION_BYTES_MAX: usize = 200;
/// What an unfinished download is called.
pub(super) const PARTIAL: &str = ".partial";
/// What is noted beside an unfinished download.
pub(super) const RECORD: &str = ".partial.json";

/// Why a name is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// Too long.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Too many folders.
    #[error("it has more than {0} parts")]
    TooDeep(usize),
    /// `.`, `..`, an absolute path, or a hidden file.
    #[error("a part of it is empty or begins with a dot")]
    Dots,
    /// Something that a terminal, a shell or a file system takes for more than a letter.
    #[error("it has a character that is not used in names here")]
    Character,
    /// A name that some systems take for a device, or shorten.
    #[error("a part of it is a name that some systems keep for themselves")]
    Reserved,
    /// It would be mistaken for an unfinished download.
    #[error("it ends like a download that is not finished")]
    Unfinished,
    /// A repository is named by its owner and its name.
    #[error("it is not of the form OWNER/NAME")]
    NotARepository,
}

/// A file's path below a folder: one to eight parts of printable ASCII, none of which leads anywhere but down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePath(String);

impl FilePath {
    /// Its parts: folders, and the file's name.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The file's name without its folders.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The whole path, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name says that it is a model file.
    #[must_use]
    pub fn is_gguf(&self) -> bool {
        is_gguf(&self.0)
    }
}

/// Whether a file's name ends in `.gguf`.
pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.as_bytes()[name.len() - 5..].eq_ignore_ascii_case(b".gguf")
}

impl FromStr for FilePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(NameError::TooLong(PATH_BYTES_MAX));
        }
        if text.split('/').count() > PARTS_MAX {
            return Err(NameError::TooDeep(PARTS_MAX));
        }
        text.split('/').try_for_each(check_part)?;
        if text.ends_with(PARTIAL) || text.ends_with(RECORD) {
            return Err(NameError::Unfinished);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_part(part: &str) -> Result<(), NameError> {
    if part.is_empty() || part.starts_with('.') {
        return Err(NameError::Dots);
    }
    if part.len() > PART_BYTES_MAX {
        return Err(NameError::TooLong(PART_BYTES_MAX));
    }
    // Those that mean something to a shell, a drive or a stream of a file on some system, and everything beyond ASCII: letters
    // that look alike, that turn the reading direction, or that two file systems spell in two ways.
    let plain = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && !b"\\:*?\"<>|".contains(&byte);
    if !part.bytes().all(plain) {
        return Err(NameError::Character);
    }
    // Windows drops these at the end, so that two names become one.
    if part.ends_with(['.', ' ']) || part.starts_with(' ') || is_device(part) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// Names of devices on Windows, whatever ending they have ("Naming Files, Paths, and Namespaces").
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    let numbered =
        |name: &str| stem.strip_prefix(name).is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit());
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT")
}

/// A repository of a hub: its owner's name and its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    owner: String,
    name: String,
}

impl RepositoryName {
    /// The owner's name.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (owner, name) = text.split_once('/').ok_or(NameError::NotARepository)?;
        for part in [owner, name] {
            check_part(part)?;
            if part.len() > REPOSITORY_BYTES_MAX {
                return Err(NameError::TooLong(REPOSITORY_BYTES_MAX));
            }
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            // `--` stands for `/` in the hub's own cache.
            if !part.bytes().all(known) || part.starts_with('-') || part.contains("--") || part.contains("..") {
                return Err(NameError::NotARepository);
            }
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// A branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// What it is called.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names one commit for good: 40 hex digits.
    #[must_use]
    pub fn is_commit(&self) -> bool {
        self.0.len() == 40 && self.0.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl FromStr for Revision {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > REVISION_BYTES_MAX {
            return Err(NameError::TooLong(REVISION_BYTES_MAX));
        }
        if text.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Err(NameError::Dots);
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if text.bytes().all(known) && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Character)
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of how many files a file's name says to be: the last words of `name-00001-of-00003.gguf`, and what is before them.
pub(super) fn part_of(name: &str) -> Option<(&str, u32, u32)> {
    if !is_gguf(name) {
        return None;
    }
    let stem = name.get(..name.len() - 5)?;
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (before, number) = rest.rsplit_once('-')?;
    let read = |digits: &str| {
        let five = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        five.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (number, of) = (read(number)?, read(of)?);
    (number >= 1 && number <= of).then_some((before, number, of))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Result<String, NameError> {
        text.parse::<FilePath>().map(|path| path.as_str().to_owned())
    }

    #[test]
    fn paths_that_lead_anywhere_but_down_are_refused() {
        for (hostile, error) in [
            ("", NameError::Empty),
            ("/etc/passwd", NameError::Dots),
            ("../x.gguf", NameError::Dots),
            ("a/../../x.gguf", NameError::Dots),
            ("a/./x.gguf", NameError::Dots),
            ("a//x.gguf", NameError::Dots),
            ("a/", NameError::Dots),
            (".ssh/authorized_keys", NameError::Dots),
            ("..\\x.gguf", NameError::Dots),
            ("a\\..\\x.gguf", NameError::Character),
            ("C:\\x.gguf", NameError::Character),
            ("C:x.gguf", NameError::Character),
            ("x.gguf:stream", NameError::Character),
            ("a\0b.gguf", NameError::Character),
            ("a\nb.gguf", NameError::Character),
            ("a\u{1b}[2Jb.gguf", NameError::Character),
            ("a\u{202e}fugg.gguf", NameError::Character),
            ("é.gguf", NameError::Character),
            ("nul.gguf", NameError::Reserved),
            ("a/COM1.tar.gguf", NameError::Reserved),
            ("x.gguf.", NameError::Reserved),
            ("x.gguf ", NameError::Reserved),
            ("x.gguf.partial", NameError::Unfinished),
            ("x.gguf.partial.json", NameError::Unfinished),
            ("a/b/c/d/e/f/g/h/i.gguf", NameError::TooDeep(PARTS_MAX)),
        ] {
            assert_eq!(path(hostile), Err(error), "{hostile:?}");
        }
        assert_eq!(path(&"a".repeat(201)), Err(NameError::TooLong(PART_BYTES_MAX)));
        assert_eq!(path(&["a"; 600].join("/")), Err(NameError::TooLong(PATH_BYTES_MAX)));
        for fine in ["model.gguf", "Q8_0/model Q8.gguf", "a+b@c=(d),e.gguf", "console.gguf", "a..b.gguf"] {
            assert_eq!(path(fine).as_deref(), Ok(fine));
        }
    }

    #[test]
    fn a_repository_is_an_owner_and_a_name() {
        for wrong in
            ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a--b/c", "a/b--c", "-a/b", "a/b c", "a/b?x", "a/CON", "a/é"]
        {
            assert!(wrong.parse::<RepositoryName>().is_err(), "{wrong}");
        }
        let sound: RepositoryName = "Qwen/Qwen3-0.6B-GGUF".parse().unwrap();
        assert_eq!((sound.owner(), sound.name()), ("Qwen", "Qwen3-0.6B-GGUF"));
    }

    #[test]
    fn a_revision_has_no_way_out_of_an_address() {
        for wrong in ["", "..", "a/../b", "/a", "a?b", "a#b", "a%2fb", "a b", "-a", "a\n"] {
            assert!(wrong.parse::<Revision>().is_err(), "{wrong}");
        }
        for fine in ["main", "refs/pr/1", "v1.0"] {
            assert!(!fine.parse::<Revision>().unwrap().is_commit());
        }
        assert!("0123456789abcdef0123456789abcdef01234567".parse::<Revision>().unwrap().is_commit());
    }

    #[test]
    fn parts_of_a_split_model_are_known_by_their_names() {
        assert_eq!(part_of("big-00002-of-00003.gguf"), Some(("big", 2, 3)));
        for whole in
            ["big.gguf", "big-00004-of-00003.gguf", "big-00000-of-00003.gguf", "big-2-of-3.gguf", "a-of-b.gguf"]
        {
            assert_eq!(part_of(whole), None, "{whole}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_below_its_folder(text in "[a./\\\\:\u{0}\u{e9} C-]{0,40}") {
            if let Ok(path) = text.parse::<FilePath>() {
                let below = std::path::Path::new("/folder").join(path.as_str());
                prop_assert!(below.components().skip(2).all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(below.components().count(), 2 + path.parts().count());
            }
        }
    }
}
