//! The configuration file, taken as it stands: its crate is a program.

#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the modules belong to another crate")]

#[path = "../../../crates/darkbloom/src/error.rs"]
mod error;
#[path = "../../../crates/darkbloom/src/files.rs"]
mod files;
#[path = "../../../crates/darkbloom/src/settings.rs"]
mod settings;

use std::sync::LazyLock;

use darkbloom_fuzz::{memory, text};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("there is room for a small file"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("darkbloom.toml");
    std::fs::write(&path, text(bytes).as_bytes()).expect("there is room for a small file");
    // The parser keeps a place for every byte of a key; an error quotes the line that it is about.
    memory::within((256 << 10) + 512 * bytes.len(), || {
        if let Ok(settings) = settings::load(Some(&path)) {
            assert!(settings.gateway.pin_providers.len() <= bytes.len());
        }
    });
});
