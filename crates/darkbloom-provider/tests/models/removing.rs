//! Removing models: all of what was named, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use darkbloom_provider::models::{RemoveError, remove};
use darkbloom_provider::{LoadError, LoadedModel, ModelOptions};

use crate::{everything_below, shipped};

fn put(models: &Path, path: &str, bytes: &[u8]) {
    let at = models.join(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, bytes).unwrap();
}

#[test]
fn a_file_goes_with_what_is_left_of_its_download_and_its_empty_folders() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "lab/one/q8/a.gguf", b"12345");
    put(models.path(), "lab/one/q8/a.gguf.partial", b"1");
    put(models.path(), "lab/one/q8/a.gguf.partial.json", b"{}");
    put(models.path(), "lab/two/b.gguf", b"1");
    let removed = remove(models.path(), "lab/one/q8/a.gguf").unwrap();
    assert_eq!((removed.files.len(), removed.bytes), (3, 8));
    assert_eq!(everything_below(models.path()), ["lab/two/b.gguf"]);
    assert!(!models.path().join("lab/one").exists() && models.path().join("lab").exists());
    remove(models.path(), "lab/two/b.gguf").unwrap();
    assert_eq!(fs::read_dir(models.path()).unwrap().count(), 0);
}

#[test]
fn a_repository_goes_whole_and_others_stay() {
    let models = tempfile::tempdir().unwrap();
    for path in ["lab/one/a.gguf", "lab/one/deep/er/b.gguf", "lab/one/readme", "lab/other/c.gguf", "top.gguf"] {
        put(models.path(), path, b"1");
    }
    assert_eq!(remove(models.path(), "lab/one").unwrap().files.len(), 3);
    assert_eq!(everything_below(models.path()), ["lab/other/c.gguf", "top.gguf"]);
    assert!(!models.path().join("lab/one").exists());
}

#[test]
fn names_that_are_not_below_the_folder_remove_nothing() {
    let base = tempfile::tempdir().unwrap();
    let models = base.path().join("models");
    put(&models, "lab/one/a.gguf", b"1");
    put(base.path(), "victim/x/y.gguf", b"1");
    for hostile in [
        "",
        "lab",
        "..",
        "../victim",
        "../victim/x",
        "lab/..",
        "lab/one/../../../victim/x/y.gguf",
        "/etc/passwd",
        "lab/one/",
        "lab//a.gguf",
        "lab/one/..",
    ] {
        let refused = remove(&models, hostile).unwrap_err();
        assert!(matches!(refused, RemoveError::Name { .. }), "{hostile}: {refused}");
    }
    for missing in ["lab/two", "other/one", "lab/one/b.gguf", "lab/one/deep/b.gguf"] {
        let refused = remove(&models, missing).unwrap_err();
        assert!(matches!(refused, RemoveError::NotFound { .. }), "{missing}: {refused}");
    }
    assert!(matches!(remove(&base.path().join("none"), "lab/one"), Err(RemoveError::NotFound { .. })));
    assert_eq!(everything_below(base.path()), ["models/lab/one/a.gguf", "victim/x/y.gguf"]);
}

#[test]
fn links_are_removed_and_what_they_lead_to_stays() {
    let (models, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(outside.path(), "deep/victim.gguf", b"1");
    put(models.path(), "lab/one/a.gguf", b"1");
    symlink(outside.path(), models.path().join("lab/one/folder")).unwrap();
    symlink(outside.path().join("deep/victim.gguf"), models.path().join("lab/one/file.gguf")).unwrap();
    symlink(".", models.path().join("lab/one/around")).unwrap();
    symlink(outside.path(), models.path().join("evil")).unwrap();
    let refused = remove(models.path(), "evil/deep").unwrap_err();
    assert!(matches!(refused, RemoveError::System { .. }), "{refused}");
    let refused = remove(models.path(), "lab/one/folder/victim.gguf").unwrap_err();
    assert!(matches!(refused, RemoveError::System { .. }), "{refused}");
    assert_eq!(remove(models.path(), "lab/one").unwrap().files.len(), 4);
    assert_eq!(everything_below(outside.path()), ["deep/victim.gguf"]);
}

#[test]
fn what_a_provider_has_loaded_stays_until_it_stops() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "lab/one/a.gguf", &shipped());
    put(models.path(), "lab/one/b.gguf", b"1");
    let path = models.path().join("lab/one/a.gguf");
    let options = ModelOptions { threads: Some(1), ..ModelOptions::new(path.clone(), 1, 64) };
    let loaded = LoadedModel::load(&options).unwrap();
    let again = LoadedModel::load(&options).expect("two providers may use a file");
    drop(again);
    for name in ["lab/one", "lab/one/a.gguf"] {
        let refused = remove(models.path(), name).unwrap_err();
        assert!(matches!(&refused, RemoveError::InUse { path: at } if *at == path), "{refused}");
    }
    assert_eq!(everything_below(models.path()), ["lab/one/a.gguf", "lab/one/b.gguf"], "nothing of it was removed");
    drop(loaded);
    remove(models.path(), "lab/one").unwrap();
}

#[test]
fn what_is_being_removed_or_written_is_not_loaded() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "a.gguf", &shipped());
    let path = models.path().join("a.gguf");
    let held = File::open(&path).unwrap();
    held.lock().unwrap();
    let options = ModelOptions { threads: Some(1), ..ModelOptions::new(path, 1, 64) };
    assert!(matches!(LoadedModel::load(&options), Err(LoadError::InUse { .. })));
    drop(held);
    assert!(LoadedModel::load(&options).is_ok());
}
