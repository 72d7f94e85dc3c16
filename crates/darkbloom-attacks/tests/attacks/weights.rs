//! Attacks on model files while they are loaded.

use std::fs;
use std::path::{Path, PathBuf};

use darkbloom_attacks::attacks;
use darkbloom_provider::{LoadWatch, LoadedModel, ModelOptions};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// Whether a model is served though this happened to its file behind the engine's back, between its hash and its first step.
fn served(change: impl FnOnce(&Path, &Path)) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("model.gguf"), folder.path().join("other.gguf"));
    fs::copy(shipped(), &path).unwrap();
    fs::copy(shipped(), &other).unwrap();
    let options = ModelOptions { threads: Some(1), ..ModelOptions::new(path.clone(), 1, 64) };
    let loaded = LoadedModel::load_into(&options, &LoadWatch::default(), |executor| {
        change(&path, &other);
        executor
    });
    loaded.is_ok()
}

/// The attacks below show nothing where a model is not served anyhow.
#[test]
fn a_file_that_nobody_touches_is_served() {
    assert!(served(|_, _| {}));
}

attacks! {
    attack_weights_are_written_to_while_they_are_loaded against "weights_unchanged": || {
        served(|path, _| {
            let mut weights = fs::read(path).unwrap();
            let last = weights.len() - 1;
            weights[last] ^= 1;
            fs::write(path, weights).unwrap();
        })
    };
    attack_another_file_takes_the_place_of_weights_while_they_are_loaded against "weights_unchanged": || {
        served(|path, other| fs::rename(other, path).unwrap())
    };
}
