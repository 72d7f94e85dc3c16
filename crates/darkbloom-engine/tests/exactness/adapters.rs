//! Rows of models that adapters change.

use std::fs::File;
use std::path::{Path, PathBuf};

use darkbloom_engine::{Adapter, AdapterError, Exactness, LlamaExecutor, LlamaSettings, LoadModelError};

use crate::adapter::adapter;
use crate::file::Parts;
use crate::models::{Chance, Kind, Shape, Stored};
use crate::rows::{Said, limits, requests, run, said_alone, settings};
use crate::{LENGTHS, MIXES, Mix, assert_loaded_rows_do_not_depend_on_neighbours, rows, shipped, with_random};

/// Writes a random adapter of a model beside it.
fn write(base: &Path, rank: u64, stored: Stored, keep: impl Fn(&str) -> bool) -> PathBuf {
    let parts = Parts::read(&std::fs::read(base).unwrap());
    let mut chance = Chance::named("adapter");
    let mut adapter = adapter(&parts, rank, stored.number(), |_, elements| stored.row(elements, &mut chance));
    adapter.tensors.retain(|tensor| keep(str::from_utf8(&tensor.name).unwrap()));
    let folder = base.parent().unwrap().to_owned();
    let path = tempfile::Builder::new().suffix(".gguf").tempfile_in(folder).unwrap().keep().unwrap().1;
    std::fs::write(&path, adapter.write()).unwrap();
    path
}

fn load(base: &Path, adapters: &[(&Path, f32)], settings: &LlamaSettings) -> Result<LlamaExecutor, LoadModelError> {
    let open = |&(path, scale): &(&Path, f32)| Adapter { file: File::open(path).unwrap(), scale };
    LlamaExecutor::load_open(File::open(base).unwrap(), adapters.iter().map(open).collect(), settings, &mut |_| true)
}

fn assert_exact_with(base: &Path, adapters: &[(&Path, f32)], threads: usize, lengths: &[usize], mixes: &[Mix]) {
    let name = base.file_stem().unwrap().to_string_lossy();
    let load = |rows_max, step| load(base, adapters, &settings(rows_max, step, threads)).unwrap();
    assert_loaded_rows_do_not_depend_on_neighbours(load, &name, threads, lengths, mixes);
}

/// What one row says on the way to its end.
fn said(base: &Path, adapters: &[(&Path, f32)]) -> Said {
    let mut executor = load(base, adapters, &settings(1, rows::CONTEXT, 1)).unwrap();
    let rows = requests(&[33], 400);
    said_alone(&mut executor, &rows).remove(&rows[0].id).unwrap()
}

#[test]
fn models_with_adapters_are_exact() {
    for (shape, kind) in [
        (Shape::Dense, Kind::All(Stored::Q8_0)),
        (Shape::Dense, Kind::Q4KM),
        (Shape::Experts, Kind::All(Stored::Q8_0)),
        (Shape::ExpertsAndWindow, Kind::Mxfp4Experts),
    ] {
        for (stored, rank) in [(Stored::F32, 4), (Stored::F16, 16), (Stored::Bf16, 7), (Stored::Q8_0, 32)] {
            with_random(shape, kind, |base| {
                let adapter = write(base, rank, stored, |_| true);
                assert_exact_with(base, &[(&adapter, 0.5)], 1, &[5, 65, 1, 601, 2], &MIXES);
            });
        }
    }
}

#[test]
fn the_shipped_model_with_an_adapter_is_exact_with_one_and_two_threads() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("shipped.gguf");
    std::fs::copy(shipped(), &base).unwrap();
    let adapter = write(&base, 8, Stored::F16, |_| true);
    assert_exact_with(&base, &[(&adapter, 1.0)], 1, &LENGTHS, &MIXES);
    assert_exact_with(&base, &[(&adapter, 1.0)], 2, &[637, 129, 513], &[(3, 1_024, 1)]);
}

#[test]
fn adapters_that_change_different_matrices_are_exact_together_and_their_order_does_not_matter() {
    with_random(Shape::Dense, Kind::All(Stored::Q8_0), |base| {
        let attention = write(base, 8, Stored::F32, |name| name.contains("attn"));
        let rest = write(base, 4, Stored::F16, |name| !name.contains("attn"));
        let both = [(&*attention, 1.0), (&*rest, -0.5)];
        assert_exact_with(base, &both, 1, &[5, 65, 1, 17], &MIXES);
        assert!(said(base, &both) == said(base, &[both[1], both[0]]));
    });
}

#[test]
fn a_row_says_something_else_with_an_adapter_and_the_same_with_nothing_of_it() {
    for (shape, kind) in [(Shape::Dense, Kind::All(Stored::Q8_0)), (Shape::Experts, Kind::All(Stored::Q8_0))] {
        with_random(shape, kind, |base| {
            let adapter = write(base, 8, Stored::F32, |_| true);
            let bare = said(base, &[]);
            assert!(said(base, &[(&adapter, 0.0)]) == bare, "nothing of it is added");
            let scales = [1.0, 0.5, -1.0].map(|scale| said(base, &[(&adapter, scale)]));
            for (nth, changed) in scales.iter().enumerate() {
                assert!(*changed != bare && scales[..nth].iter().all(|other| other != changed), "scale {nth}");
            }
            // A product that nothing comes of: its second half is zeros.
            let zeros = adapter.with_extension("zeros.gguf");
            let mut nothing = Parts::read(&std::fs::read(&adapter).unwrap());
            for tensor in &mut nothing.tensors {
                if tensor.name.ends_with(b".lora_b") {
                    tensor.data.fill(0);
                }
            }
            std::fs::write(&zeros, nothing.write()).unwrap();
            assert!(said(base, &[(&zeros, 1.0)]) == bare, "zeros are added");
        });
    }
}

#[test]
fn two_adapters_of_one_matrix_are_refused_where_bits_are_promised_and_run_where_not() {
    with_random(Shape::Dense, Kind::All(Stored::Q8_0), |base| {
        let adapter = write(base, 8, Stored::F32, |_| true);
        let (twice, small) = ([(&*adapter, 1.0), (&*adapter, 1.0)], settings(2, 64, 1));
        let refused = load(base, &twice, &small).err().unwrap();
        assert!(matches!(refused, LoadModelError::Adapter { at: 1, source: AdapterError::Overlap }), "{refused}");
        let mut fast = load(base, &twice, &LlamaSettings { exactness: Exactness::Fast, ..small }).unwrap();
        let rows = requests(&[33, 5], 400);
        let limits = limits(&fast);
        assert_eq!(run(&mut fast, limits, &rows, 0).0.len(), 2);
    });
}
