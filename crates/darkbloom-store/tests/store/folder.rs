//! Opening: one process a folder, private files, and errors that say what is wrong.

use crate::support::{assert_clean, funded, hold};
use darkbloom_store::{BackupError, OpenStoreError, Store};

#[test]
fn a_second_opening_of_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let locked = OpenStoreError::Locked { place: folder.path().to_owned().into() };
    assert_eq!(Store::open(folder.path()).unwrap_err(), locked);
    let clone = store.clone();
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap_err(), locked);
    drop(clone);
    Store::open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("store")).unwrap_err();
    assert!(matches!(error, OpenStoreError::Unwritable { .. }), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn folder_and_files_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("deep").join("store");
    let store = Store::open(&folder).unwrap();
    funded(&store, "a", 1).await;
    store.backup(&outer.path().join("copy")).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&outer.path().join("copy")), 0o600);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

fn change(folder: &std::path::Path, sql: &str) {
    rusqlite::Connection::open(folder.join("darkbloom.sqlite")).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_newer_programs_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    change(folder.path(), "PRAGMA user_version = 99");
    assert_eq!(Store::open(folder.path()).unwrap_err(), OpenStoreError::NewerSchema { found: 99, known: 4 });
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    change(folder.path(), "CREATE TABLE theirs (n INTEGER)");
    let before = std::fs::read(folder.path().join("darkbloom.sqlite")).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenStoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read(folder.path().join("darkbloom.sqlite")).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("darkbloom.sqlite"), vec![0x5a; 8192]).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenStoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_backup_opens_as_a_store_with_the_same_money() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(folder.path()).unwrap();
    let account = funded(&store, "a", 150).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    let file = copy.path().join("darkbloom.sqlite");
    store.backup(&file).await.unwrap();
    assert_eq!(store.backup(&file).await, Err(BackupError::Exists { path: file.clone() }));
    assert_eq!(std::fs::read_dir(copy.path()).unwrap().count(), 1);
    let restored = Store::open(copy.path()).unwrap();
    assert_eq!(restored.balance(account).await.unwrap(), store.balance(account).await.unwrap());
    assert_eq!(restored.holds_open().await.unwrap().len(), 1);
    assert_clean(&restored).await;
}

#[tokio::test]
async fn a_backup_into_nowhere_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let result = store.backup(&folder.path().join("none").join("copy")).await;
    assert!(matches!(result, Err(BackupError::Unwritable { .. })), "{result:?}");
}
