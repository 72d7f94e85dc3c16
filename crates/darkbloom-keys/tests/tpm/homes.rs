//! An identity that was made stays where it is.

use std::fs;
use std::os::unix::fs::symlink;

use darkbloom_keys::{Home, Identity, IdentityError, IdentityKey as _, KeyConfig, KeyHome};

use crate::swtpm::Swtpm;

#[test]
fn a_key_that_cannot_be_seen_now_is_not_replaced() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let config = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    // The disk that it is on is not there.
    symlink(folder.path().join("elsewhere/identity.key"), folder.path().join("identity.key")).unwrap();
    assert!(matches!(Identity::open(folder.path(), &config), Err(IdentityError::Software(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn only_a_tpm_that_is_not_there_is_passed_over() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let config = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    assert!(tpm.tpm2("changeauth", &["-c", "o", "secret"]).0);
    assert!(matches!(Identity::open(folder.path(), &config), Err(IdentityError::Tpm(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    let absent = KeyConfig { tpm: folder.path().join("no-tpm"), ..config };
    let (identity, passed) = Identity::open(folder.path(), &absent).unwrap();
    let passed: Vec<_> = passed.iter().map(|passed| passed.home).collect();
    assert_eq!((identity.home(), &passed[..]), (KeyHome::SoftwareFile, &[Home::SecureEnclave, Home::Tpm][..]));
}
