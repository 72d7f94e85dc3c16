//! Vectors of texts: the same bits alone and among others, and nothing from input that makes none.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use darkbloom_engine::{EmbedError, LlamaEmbedder, LlamaSettings, LoadModelError};
use darkbloom_types::{SecretVector, TokenId};

use crate::file::Parts;
use crate::models::{Kind, Shape, Stored};
use crate::rows::{request, settings};
use crate::{shipped, with_random};

/// The numbers are llama.cpp's.
const MEAN: u32 = 1;
const FIRST: u32 = 2;
const LAST: u32 = 3;
const RANK: u32 = 4;
/// On both sides of the boundaries at which kernels change, and longer than a step.
const LENGTHS: [usize; 9] = [1, 2, 7, 64, 65, 3, 513, 1, 33];

/// A copy of a model that is made for embeddings.
fn with_pooling(base: &Path, pooling: u32) -> PathBuf {
    let mut parts = Parts::read(&std::fs::read(base).unwrap());
    let architecture = String::from_utf8(parts.value("general.architecture")[8..].to_vec()).unwrap();
    parts.set_number(&format!("{architecture}.pooling_type"), pooling);
    let path = base.with_extension(format!("{pooling}.gguf"));
    std::fs::write(&path, parts.write()).unwrap();
    path
}

fn load(path: &Path, settings: &LlamaSettings) -> Result<LlamaEmbedder, LoadModelError> {
    LlamaEmbedder::load_open(File::open(path).unwrap(), Vec::new(), settings, &mut |_| true)
}

fn texts() -> Vec<Vec<TokenId>> {
    LENGTHS.iter().enumerate().map(|(nth, &length)| request(nth, length, 400).prompt.expose().to_vec()).collect()
}

fn bits(vectors: &[SecretVector]) -> Vec<Vec<u32>> {
    vectors.iter().map(|vector| vector.expose().iter().map(|number| number.to_bits()).collect()).collect()
}

fn assert_exact(base: &Path) {
    let texts = texts();
    let all: Vec<&[TokenId]> = texts.iter().map(Vec::as_slice).collect();
    for pooling in [MEAN, FIRST, LAST] {
        let path = with_pooling(base, pooling);
        let mut alone = load(&path, &settings(1, 1_024, 1)).unwrap();
        let expected: Vec<_> = all.iter().map(|text| alone.embed(&[text], &|| true).unwrap().remove(0)).collect();
        for vector in &expected {
            let numbers = vector.expose();
            assert_eq!(numbers.len(), alone.width());
            let length: f64 = numbers.iter().map(|number| f64::from(*number).powi(2)).sum();
            assert!((length - 1.0).abs() < 1e-5, "its length is {length}");
        }
        for (at, vector) in expected.iter().enumerate() {
            // Texts that begin alike have the same first state.
            let others = expected[..at].iter().filter(|other| *other == vector).count();
            assert!(others == 0 || pooling == FIRST, "text {at} is like another");
        }
        for (rows, step, threads) in [(9, 512, 1), (4, 24, 1), (2, 7, 1), (3, 100, 2)] {
            let mut together = load(&path, &settings(rows, step, threads)).unwrap();
            for _ in 0..2 {
                let vectors = together.embed(&all, &|| true).unwrap();
                assert!(bits(&vectors) == bits(&expected), "pooling {pooling}, {rows} rows, {step} a step");
            }
        }
    }
}

#[test]
fn vectors_have_the_same_bits_alone_and_together() {
    for (shape, kind) in [
        (Shape::Dense, Kind::All(Stored::Q8_0)),
        (Shape::Dense, Kind::Q4KM),
        (Shape::Dense, Kind::All(Stored::F16)),
        (Shape::Window, Kind::All(Stored::Q8_0)),
        (Shape::Experts, Kind::All(Stored::Q8_0)),
    ] {
        with_random(shape, kind, assert_exact);
    }
}

#[test]
fn each_way_to_pool_makes_other_vectors_of_several_tokens_and_the_same_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("shipped.gguf");
    std::fs::copy(shipped(), &base).unwrap();
    let text: Vec<_> = (5..25).map(TokenId).collect();
    let vectors = [MEAN, FIRST, LAST].map(|pooling| {
        let mut embedder = load(&with_pooling(&base, pooling), &settings(2, 64, 1)).unwrap();
        embedder.embed(&[&text, &text[..1]], &|| true).unwrap()
    });
    let [mean, first, last] = &vectors;
    assert!(mean[0] != first[0] && mean[0] != last[0] && first[0] != last[0]);
    assert!(mean[1] == first[1] && first[1] == last[1]);
    assert_eq!(first[0], first[1], "what comes later does not change the first token's state");
}

#[test]
fn what_makes_no_vector_is_refused_by_its_place_and_the_embedder_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("shipped.gguf");
    std::fs::copy(shipped(), &base).unwrap();
    for other in [0, RANK, 5, u32::MAX] {
        let refused = load(&with_pooling(&base, other), &settings(2, 64, 1)).err();
        assert!(matches!(refused, Some(LoadModelError::NoPooling)), "{other}");
    }
    assert!(matches!(load(&base, &settings(2, 64, 1)).err(), Some(LoadModelError::NoPooling)));
    let settings = LlamaSettings { row_tokens_max: 32, ..settings(2, 64, 1) };
    let mut embedder = load(&with_pooling(&base, MEAN), &settings).unwrap();
    let most = embedder.text_tokens_max();
    let good = [TokenId(7), TokenId(8)];
    let long = vec![TokenId(7); most + 1];
    let refused =
        |embedder: &mut LlamaEmbedder, wrong: &[TokenId]| embedder.embed(&[&good, wrong], &|| true).unwrap_err();
    assert_eq!(refused(&mut embedder, &[]), EmbedError::Empty { at: 1 });
    assert_eq!(refused(&mut embedder, &long), EmbedError::TooLong { at: 1, tokens: most + 1, most });
    assert_eq!(refused(&mut embedder, &[TokenId(u32::MAX)]), EmbedError::UnknownToken { at: 1 });
    assert_eq!(embedder.embed(&[&good[..]; 2_049], &|| true).unwrap_err(), EmbedError::TooMany);
    assert_eq!(embedder.embed(&[], &|| true).unwrap(), Vec::<SecretVector>::new());
    assert_eq!(embedder.embed(&[&long[..most], &good], &|| true).unwrap().len(), 2);
}

#[test]
fn a_step_that_is_interrupted_makes_no_vector_and_leaves_nothing_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("shipped.gguf");
    std::fs::copy(shipped(), &base).unwrap();
    let mut embedder = load(&with_pooling(&base, MEAN), &settings(2, 16, 1)).unwrap();
    let texts = [(1, 40), (2, 20)].map(|(nth, length)| request(nth, length, 400).prompt);
    let texts = texts.each_ref().map(|text| text.expose());
    let expected = embedder.embed(&texts, &|| true).unwrap();
    let interrupt = embedder.interrupt();
    // The third of the four steps.
    let steps = AtomicUsize::new(0);
    let interrupted = embedder.embed(&texts, &|| {
        interrupt.store(steps.fetch_add(1, Ordering::Relaxed) == 2, Ordering::Relaxed);
        true
    });
    assert_eq!((interrupted, steps.into_inner()), (Err(EmbedError::Interrupted), 3));
    interrupt.store(false, Ordering::Relaxed);
    assert!(bits(&embedder.embed(&texts, &|| true).unwrap()) == bits(&expected));
}
