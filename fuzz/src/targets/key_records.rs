//! Files that should hold the records of keys in a TPM or in a Secure Enclave, neither of which is here: what is a record is
//! kept, and what is none is called damaged.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use darkbloom_fuzz::memory;
use darkbloom_keys::{Enclave, EnclaveKey, EnclaveKeyError, TpmError, TpmKeyError, delete_tpm_key};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("there is room for a small file"));

/// A file with these bytes.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.path().join(name);
    std::fs::write(&path, bytes).expect("there is room for a small file");
    path
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fuzz_target!(|bytes: &[u8]| {
    let (tpm, enclave) = (file("identity.tpm", bytes), file("identity.enclave", bytes));
    let still = |path: &PathBuf| std::fs::read(path).is_ok_and(|kept| kept == bytes);
    memory::within((16 << 10) + 8 * bytes.len(), || {
        match delete_tpm_key(&FOLDER.path().join("no-tpm"), &tpm) {
            // It was no record, so whoever wanted to be rid of it is.
            Ok(()) => assert!(!tpm.exists()),
            Err(TpmKeyError::Tpm(TpmError::Absent { .. })) => assert!(still(&tpm) && lines(bytes) == 4, "a record"),
            Err(error) => panic!("{error}"),
        }
        match EnclaveKey::load_or_create(&Enclave::default(), &enclave) {
            Ok(_) => panic!("there is no enclave here"),
            Err(EnclaveKeyError::Damaged { .. }) => assert!(still(&enclave)),
            Err(_) => assert!(still(&enclave) && lines(bytes) == 4, "a record"),
        }
    });
});
