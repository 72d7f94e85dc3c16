//! What holds for the repository as a whole: which crate may reach which, where `unsafe` may stand, that links lead
//! somewhere, and that pages made from the code are current.
//!
//! `./x pages` runs these tests with `DARKBLOOM_WRITE_DOCS=1`, which writes stale pages instead of failing.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

mod arrows;
mod graph;
mod links;
mod pages;
mod purity;
mod records;
mod settings;
mod sources;
mod threats;

use std::fs;
use std::path::{Path, PathBuf};

/// The clone's top folder.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the crate lies in its workspace")
}

/// A file of the repository.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder with this ending, without what git ignores.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    const IGNORED: [&str; 7] = ["target", "out", "node_modules", ".git", ".venv", "v", "__pycache__"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            if !IGNORED.iter().any(|ignored| name == *ignored) {
                found.extend(files(&path, ending));
            }
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Compares a page that is made from the code with what it should be; writes it where that is asked for.
fn check_page(path: &str, expected: &str) {
    let at = root().join(path);
    let found = fs::read_to_string(&at).unwrap_or_default();
    if found == expected {
        return;
    }
    if std::env::var_os("DARKBLOOM_WRITE_DOCS").is_some() {
        fs::write(&at, expected).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
        return;
    }
    let line = found.lines().zip(expected.lines()).take_while(|(one, other)| one == other).count() + 1;
    panic!("{path} is stale from line {line} on; run `./x pages` and commit what it changes");
}

/// Replaces what stands between the two marker comments of a generated part in a page that people write.
fn check_part(path: &str, part: &str, expected: &str) {
    let page = read(path);
    let (begin, end) = (format!("<!-- generated: {part} -->\n"), format!("<!-- end of {part} -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path} has no part `{part}`"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} does not end its part `{part}`"));
    check_page(path, &format!("{before}{begin}\n{}\n\n{end}{after}", expected.trim()));
}
