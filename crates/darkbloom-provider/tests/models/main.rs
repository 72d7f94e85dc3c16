//! Model files from outside: a hub on this machine, folders with whatever may lie in them, and locks between programs.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[allow(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../../../darkbloom-engine/tests/hostile/adapter.rs"]
mod adapter;
mod adapters;
mod downloading;
#[allow(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../../../darkbloom-engine/tests/hostile/file.rs"]
mod file;
mod hub;
mod removing;
mod scanning;

use std::path::Path;

/// The model that ships.
fn shipped() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")).unwrap()
}

/// Every file and link below a folder, by its path from there.
fn everything_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
