//! A file that should hold an identity key.

#![no_main]

use std::fs::{OpenOptions, read};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::LazyLock;

use darkbloom_fuzz::memory;
use darkbloom_keys::SoftwareKey;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("there is room for a small file"));

fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.path().join("identity.key");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(bytes)).expect("there is room for a small file");
    // A line, and errors that name the file.
    memory::within(16 << 10, || match SoftwareKey::load_or_create(&path) {
        // A word, a space, 64 digits, a line end: nothing else is a key.
        Ok(_) => assert_eq!(bytes.len(), "darkbloom-p256-v1".len() + 1 + 64 + 1),
        Err(_) => assert_eq!(read(&path).expect("the file is there"), bytes, "a file that is no key was replaced"),
    });
});
