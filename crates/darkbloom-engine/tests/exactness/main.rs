//! The claim that a row's logits have the same bits whoever shares the batch, on every kind of model that is let through.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

#[allow(dead_code, reason = "others use the rest of it")]
#[path = "../hostile/adapter.rs"]
mod adapter;
mod adapters;
mod embeddings;
#[allow(dead_code, reason = "the tests of hostile files use the rest of it")]
#[path = "../hostile/file.rs"]
mod file;
mod models;
mod rows;

use std::path::{Path, PathBuf};

use darkbloom_batch::{Limits, Priority, Scope};
use darkbloom_engine::{Exactness, Executor as _, GgufError, LlamaExecutor, LlamaSettings, LoadModelError};
use darkbloom_types::{Millis, SecretTokens, TokenCount};

use models::{Kind, Shape, Stored};
use rows::{assert_same, limits, load, request, requests, run, said_alone, settings};

/// Prompt lengths on both sides of every boundary at which kernels change: 2, 8 and 64 query tokens, 256 and 512 cells.
const ALL_LENGTHS: [usize; 16] = [5, 637, 64, 129, 17, 690, 33, 200, 63, 513, 48, 256, 1, 2, 65, 7];
/// Fewer of them, for models of which there are many.
const LENGTHS: [usize; 9] = [5, 601, 64, 129, 1, 33, 2, 65, 8];

/// Rows, tokens a step, and after how many steps the next row comes in (0: all at once).
type Mix = (usize, usize, usize);
const MIXES: [Mix; 3] = [(8, 1_024, 0), (5, 24, 3), (2, 7, 5)];

fn shipped() -> PathBuf {
    // Another model can be named, to measure more than the one that ships.
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    std::env::var_os("DARKBLOOM_EXACTNESS_MODEL").map_or_else(own, PathBuf::from)
}

/// Runs a claim on a model with random weights.
fn with_random(shape: Shape, kind: Kind, claim: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{shape:?} {kind:?}.gguf"));
    models::write(shape, kind, &path);
    claim(&path);
}

fn assert_rows_do_not_depend_on_neighbours(path: &Path, threads: usize, lengths: &[usize], mixes: &[Mix]) {
    let name = path.file_stem().unwrap().to_string_lossy();
    let load = |rows_max, step_tokens_max| load(path, rows_max, step_tokens_max, threads);
    assert_loaded_rows_do_not_depend_on_neighbours(load, &name, threads, lengths, mixes);
}

/// The same for a model that is loaded in some way, for so many rows and tokens in a step.
fn assert_loaded_rows_do_not_depend_on_neighbours(
    load: impl Fn(usize, usize) -> LlamaExecutor,
    name: &str,
    threads: usize,
    lengths: &[usize],
    mixes: &[Mix],
) {
    let mut alone = load(1, rows::CONTEXT);
    let mut rows = requests(lengths, alone.vocabulary());
    if threads > 1 {
        // Threads that wait for each other are slow on busy cores.
        rows.iter_mut().for_each(|row| row.max_output = TokenCount(3));
    }
    let expected = said_alone(&mut alone, &rows);
    for &(rows_max, step_tokens_max, stagger) in mixes {
        let mut shared = load(rows_max, step_tokens_max);
        let limits = limits(&shared);
        let (said, widest, _) = run(&mut shared, limits, &rows, stagger);
        assert!(widest >= rows_max.min(3), "the rows never shared a step");
        assert_same(&said, &expected, &format!("{name}, {threads} threads, {rows_max} rows, {step_tokens_max} a step"));
    }
}

fn assert_rows_are_the_same_after_they_gave_way(path: &Path) {
    for saved_tokens_max in [0, 4_096] {
        let mut executor = load(path, 2, 256, 1);
        let mut rows = requests(&[129, 200, 513, 64], executor.vocabulary());
        rows[0].priority = Priority::Low;
        rows[1].priority = Priority::Low;
        rows[2].priority = Priority::High;
        let expected = said_alone(&mut load(path, 1, rows::CONTEXT, 1), &rows);
        let limits = Limits { saved_tokens_max, ..limits(&executor) };
        let (said, _, decisions) = run(&mut executor, limits, &rows, 3);
        let gave_way = if saved_tokens_max > 0 { decisions.saved_rows } else { decisions.refed_rows };
        assert!(gave_way > 0, "{decisions:?}");
        assert_same(&said, &expected, &format!("{saved_tokens_max} tokens saved"));
    }
}

fn assert_rows_are_the_same_from_a_prefix(path: &Path) {
    let mut executor = load(path, 2, 256, 1);
    let vocabulary = executor.vocabulary();
    let common = request(9, 513, vocabulary).prompt;
    let mut rows = requests(&[5, 64, 17, 33, 48], vocabulary);
    for (nth, row) in rows.iter_mut().enumerate() {
        // Rows of two scopes, all of which begin alike.
        row.scope = Some(Scope::new([nth as u8 % 2; 32]));
        let own = row.prompt.expose().iter().take(40);
        row.prompt = SecretTokens::new(common.expose().iter().chain(own).copied().collect());
    }
    let expected = said_alone(&mut load(path, 1, rows::CONTEXT, 1), &rows);
    let limits = Limits { saved_tokens_max: 4_096, prefix_keep: Millis(1_000), ..limits(&executor) };
    let (said, _, decisions) = run(&mut executor, limits, &rows, 4);
    if executor.capacity().trims {
        assert!(decisions.reused_tokens >= 2 * 513, "{decisions:?}");
    }
    assert_same(&said, &expected, "from a prefix");
}

mod shipped_model {
    use super::*;

    #[test]
    fn a_row_says_the_same_bit_for_bit_alone_and_among_ragged_neighbours() {
        let mixes = [(8, 1_024, 0), (8, 24, 3), (4, 100, 2), (2, 3, 5), (12, 512, 1)];
        assert_rows_do_not_depend_on_neighbours(&shipped(), 1, &ALL_LENGTHS, &mixes);
    }

    #[test]
    fn a_row_says_the_same_bit_for_bit_with_two_threads() {
        // Few rows, all near or over 512 cells.
        assert_rows_do_not_depend_on_neighbours(&shipped(), 2, &[637, 129, 513], &[(3, 1_024, 1)]);
    }

    #[test]
    fn a_row_says_the_same_bit_for_bit_with_and_without_guesses() {
        let mut executor = load(&shipped(), 2, 256, 1);
        // A row whose prompt repeats itself, so that guesses are made.
        let mut row = request(4, 17, executor.vocabulary());
        row.prompt = SecretTokens::new(row.prompt.expose().iter().cycle().take(120).copied().collect());
        row.max_output = TokenCount(200);
        let rows = [row];
        let expected = said_alone(&mut load(&shipped(), 1, rows::CONTEXT, 1), &rows);
        let limits = limits(&executor);
        let (said, _, decisions) = run(&mut executor, limits, &rows, 0);
        assert!(decisions.guessed_tokens > 0 && decisions.right_guesses > 0, "{decisions:?}");
        assert_same(&said, &expected, &format!("{decisions:?}"));
    }

    #[test]
    fn a_row_says_the_same_bit_for_bit_after_it_gave_way_and_came_back() {
        assert_rows_are_the_same_after_they_gave_way(&shipped());
    }

    #[test]
    fn a_row_says_the_same_bit_for_bit_from_a_prefix_that_was_left_copied_or_saved() {
        assert_rows_are_the_same_from_a_prefix(&shipped());
    }
}

/// Of a shape with random weights: every kind that people use, alone and together; what gives way, comes back and begins
/// where another ended; and two threads.
fn assert_exact(shape: Shape, kinds: &[Kind]) {
    for &kind in kinds {
        with_random(shape, kind, |path| assert_rows_do_not_depend_on_neighbours(path, 1, &LENGTHS, &MIXES));
    }
    for kind in [Kind::Q4KM, Kind::All(Stored::F16)] {
        with_random(shape, kind, |path| {
            assert_rows_do_not_depend_on_neighbours(path, 2, &[601, 65, 5], &[(3, 1_024, 1)]);
            assert_rows_are_the_same_after_they_gave_way(path);
            assert_rows_are_the_same_from_a_prefix(path);
        });
    }
}

const COMMON: [Kind; 5] =
    [Kind::All(Stored::F16), Kind::All(Stored::Q8_0), Kind::All(Stored::Q4_0), Kind::Q4KM, Kind::All(Stored::Q6K)];

#[test]
fn dense_models_are_exact() {
    assert_exact(Shape::Dense, &COMMON);
}

#[test]
fn mixtures_of_experts_are_exact() {
    assert_exact(Shape::Experts, &COMMON);
}

#[test]
fn models_with_a_window_are_exact() {
    assert_exact(Shape::Window, &COMMON);
}

#[test]
fn mixtures_of_experts_with_a_window_are_exact() {
    assert_exact(Shape::ExpertsAndWindow, &[Kind::Mxfp4Experts, Kind::Q4KM]);
}

#[test]
fn a_hybrid_of_recurrent_and_attention_blocks_is_refused_by_name() {
    for exactness in [Exactness::Exact, Exactness::Fast] {
        with_random(Shape::Hybrid, Kind::All(Stored::Q8_0), |path| {
            let refused = LlamaExecutor::load(path, &LlamaSettings { exactness, ..settings(2, 64, 1) });
            assert!(matches!(refused.err(), Some(LoadModelError::Damaged(GgufError::Hybrid("lfm2")))));
        });
    }
}

#[test]
fn sixteen_rows_in_one_step_say_what_each_says_alone() {
    for (shape, kind) in [(Shape::Dense, Kind::Q4KM), (Shape::Experts, Kind::All(Stored::Q8_0))] {
        with_random(shape, kind, |path| {
            let mut alone = load(path, 1, rows::CONTEXT, 1);
            let mut rows = requests(&std::array::from_fn::<_, 16, _>(|nth| 1 + nth * 3), alone.vocabulary());
            // Long enough that the first is not over when the last comes in.
            rows.iter_mut().for_each(|row| row.max_output = TokenCount(40));
            let expected = said_alone(&mut alone, &rows);
            for rows_max in [2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16] {
                let mut shared = load(path, rows_max, 512, 1);
                let limits = limits(&shared);
                let (said, widest, _) = run(&mut shared, limits, &rows, 0);
                assert_eq!(widest, rows_max);
                assert_same(&said, &expected, &format!("{rows_max} rows"));
            }
        });
    }
}

#[test]
fn a_row_whose_last_token_gets_company_fills_its_context() {
    with_random(Shape::Dense, Kind::All(Stored::F16), |path| {
        // Not a cell more than the rows ask for.
        let fill = |exactness| {
            let settings = LlamaSettings { threads: 1, exactness, ..LlamaSettings::new(2, 256) };
            let mut executor = LlamaExecutor::load(path, &settings).unwrap();
            let holds = executor.capacity().row_tokens_max;
            let mut rows = requests(&[holds - 9, 7], executor.vocabulary());
            // Its last token is drawn and not fed.
            rows[0].max_output = TokenCount(9);
            rows[1].max_output = TokenCount(2);
            let limits = limits(&executor);
            (holds, run(&mut executor, limits, &rows, 0).0[&rows[0].id].tokens.len())
        };
        assert_eq!(fill(Exactness::Fast), (256, 9));
        assert_eq!(fill(Exactness::Exact), (255, 9));
    });
}

#[test]
fn every_way_to_store_weights_is_exact() {
    let stored = [
        Stored::F32,
        Stored::Bf16,
        Stored::Q4_1,
        Stored::Q5_0,
        Stored::Q5_1,
        Stored::Q2K,
        Stored::Q3K,
        Stored::Q4K,
        Stored::Q5K,
        Stored::Iq1S,
        Stored::Iq1M,
        Stored::Iq2Xxs,
        Stored::Iq2Xs,
        Stored::Iq2S,
        Stored::Iq3Xxs,
        Stored::Iq3S,
        Stored::Iq4Nl,
        Stored::Iq4Xs,
        Stored::Tq1_0,
        Stored::Tq2_0,
        Stored::Mxfp4,
    ];
    for stored in stored {
        for shape in [Shape::Dense, Shape::Experts] {
            with_random(shape, Kind::All(stored), |path| {
                assert_rows_do_not_depend_on_neighbours(path, 1, &[5, 65, 1, 17, 2], &[(4, 1_024, 0), (3, 12, 2)]);
            });
        }
    }
}

#[test]
fn fast_rows_depend_on_their_neighbours_so_that_these_tests_would_see_it() {
    for (shape, kind) in [
        (Shape::Dense, Kind::All(Stored::Q8_0)),
        (Shape::Dense, Kind::All(Stored::F16)),
        (Shape::Dense, Kind::All(Stored::Q6K)),
        (Shape::Dense, Kind::All(Stored::Q4K)),
        (Shape::Experts, Kind::All(Stored::Q8_0)),
    ] {
        with_random(shape, kind, |path| {
            let fast = |rows_max, step| {
                let settings = LlamaSettings { exactness: Exactness::Fast, ..settings(rows_max, step, 1) };
                LlamaExecutor::load(path, &settings).unwrap()
            };
            let mut alone = fast(1, rows::CONTEXT);
            let rows = requests(&LENGTHS, alone.vocabulary());
            let expected = said_alone(&mut alone, &rows);
            let mut shared = fast(5, 24);
            let limits = limits(&shared);
            let (said, ..) = run(&mut shared, limits, &rows, 3);
            assert!(said != expected, "{shape:?} {kind:?} is exact anyway");
        });
    }
}
