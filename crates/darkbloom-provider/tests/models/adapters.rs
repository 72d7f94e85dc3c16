//! Models that adapters change: named by all of their files, and served only as long as these are as they were.

use std::path::{Path, PathBuf};

use darkbloom_engine::{AdapterError, GgufError};
use darkbloom_provider::{AdapterFile, CheckedModel, LoadError, LoadWatch, LoadedModel, ModelOptions, weights_of_file};

use crate::adapter::random_adapter;
use crate::file::Parts;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

fn write_adapter(path: &Path, rank: u64) {
    let base = Parts::read(&std::fs::read(shipped()).unwrap());
    std::fs::write(path, random_adapter(&base, rank).write()).unwrap();
}

fn options(adapters: &[AdapterFile]) -> ModelOptions {
    ModelOptions { adapters: adapters.to_vec(), threads: Some(1), ..ModelOptions::new(shipped(), 1, 64) }
}

#[test]
fn what_is_loaded_has_the_name_that_was_read_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    write_adapter(&path, 4);
    let mut names = vec![weights_of_file(&shipped()).unwrap()];
    for scale in [1.0, 0.5] {
        let adapters = [AdapterFile { path: path.clone(), scale }];
        let checked = CheckedModel::read(&shipped(), &adapters).ok().unwrap();
        let loaded = LoadedModel::load(&options(&adapters)).ok().unwrap();
        assert_eq!(loaded.weights, checked.weights);
        assert_eq!(loaded.text_pack, checked.text_pack.digest());
        // With floats among its matrices, a row holds one token less.
        assert_eq!(loaded.row_tokens.0, 63);
        names.push(loaded.weights);
    }
    names.dedup();
    assert_eq!(names.len(), 3, "each amount of it is another model");
}

#[test]
fn an_adapter_that_changes_while_it_is_loaded_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("adapter.gguf"), folder.path().join("other.gguf"));
    write_adapter(&path, 4);
    write_adapter(&other, 8);
    let adapters = [AdapterFile { path: path.clone(), scale: 1.0 }];
    let load = |change: &dyn Fn()| {
        LoadedModel::load_into(&options(&adapters), &LoadWatch::default(), |executor| {
            change();
            executor
        })
    };
    assert!(load(&|| {}).is_ok());
    let changed = load(&|| std::fs::rename(&other, &path).unwrap()).err();
    assert!(matches!(&changed, Some(LoadError::Changed { path: at }) if *at == path), "{changed:?}");
}

#[test]
fn an_adapter_that_cannot_be_used_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    let refused = |scale| {
        let adapters = [AdapterFile { path: path.clone(), scale }];
        LoadedModel::load(&options(&adapters)).err().expect("it was loaded")
    };
    let missing = refused(1.0);
    assert!(matches!(&missing, LoadError::ReadAdapter { path: at, .. } if *at == path), "{missing}");
    assert!(missing.hint().contains("--adapter"));
    std::fs::copy(shipped(), &path).unwrap();
    let model = refused(1.0);
    assert!(matches!(&model, LoadError::Adapter { source: AdapterError::Kind, .. }), "{model}");
    assert!(CheckedModel::read(&shipped(), &[AdapterFile { path: path.clone(), scale: 1.0 }]).is_err());
    write_adapter(&path, 4);
    assert!(matches!(refused(f32::NAN), LoadError::Adapter { source: AdapterError::Scale, .. }));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let cut = refused(1.0);
    let truncated = AdapterError::Format(GgufError::Truncated);
    assert!(matches!(&cut, LoadError::Adapter { source, .. } if *source == truncated), "{cut}");
}
