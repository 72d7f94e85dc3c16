//! Model files that somebody made to do harm: each is refused with its reason, and none takes the process down.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and talk to their parent"
)]

mod adapter;
mod adapters;
mod file;
mod mutants;

use std::path::{Path, PathBuf};

use darkbloom_engine::{GgufError, LoadModelError, check_model_file};
use file::{BOOL, LIST, Parts, TEXT, U32, read_texts, text, texts};

fn shipped_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

fn shipped() -> Parts {
    Parts::read(&std::fs::read(shipped_path()).unwrap())
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// What the check says of these bytes.
fn said_of(bytes: &[u8]) -> Result<(), GgufError> {
    let folder = tempfile::tempdir().unwrap();
    match check_model_file(&written(folder.path(), "model.gguf", bytes)) {
        Ok(_) => Ok(()),
        Err(LoadModelError::Damaged(error)) => Err(error),
        Err(other) => panic!("not about the bytes: {other}"),
    }
}

/// What the check says of the shipped model with a change.
fn said(change: impl FnOnce(&mut Parts)) -> Result<(), GgufError> {
    let mut parts = shipped();
    change(&mut parts);
    said_of(&parts.write())
}

#[test]
fn the_shipped_model_taken_apart_and_put_together_is_sound() {
    assert_eq!(said(|_| {}), Ok(()));
}

#[test]
fn one_of_several_files_is_refused_before_the_others_are_opened() {
    let split = |files: u16| said(move |parts| parts.set("split.count", 2, files.to_le_bytes()));
    assert_eq!(split(2), Err(GgufError::Split(2)));
    assert_eq!(split(1), Ok(()));
}

#[test]
fn tensors_that_contradict_each_other_are_refused() {
    let twice = said(|parts| parts.tensors[1].name = parts.tensors[0].name.clone());
    assert_eq!(twice, Err(GgufError::Malformed("a tensor's name")));
    for name in [&b""[..], b"a\0b", b"a\nb", b"\xff"] {
        assert_eq!(said(|parts| parts.tensors[0].name = name.to_vec()), Err(GgufError::Malformed("a tensor's name")));
    }
    let long = said(|parts| parts.tensors[0].name = vec![b'a'; 64]);
    assert_eq!(long, Err(GgufError::BeyondLimit("the length of a tensor's name")));
    for sizes in [vec![u64::MAX, 2], vec![1 << 32, 1 << 32], vec![1 << 40, 1 << 20, 1 << 10]] {
        let refused = said(|parts| parts.tensor("token_embd.weight").sizes = sizes.clone()).unwrap_err();
        let about_size = [GgufError::BeyondLimit("a tensor's size"), GgufError::Malformed("a tensor's size")];
        assert!(about_size.contains(&refused) || refused == GgufError::Malformed("a tensor's place"), "{refused:?}");
    }
    for sizes in [vec![], vec![1; 5]] {
        let refused = said(|parts| parts.tensors[0].sizes = sizes.clone());
        assert_eq!(refused, Err(GgufError::Malformed("a tensor's dimensions")));
    }
    let none = said(|parts| parts.tensors[0].sizes = vec![0, 64]);
    assert_eq!(none, Err(GgufError::Malformed("a tensor's size")));
}

#[test]
fn tensors_that_share_bytes_are_refused() {
    let mut parts = shipped();
    parts.tensors.truncate(2);
    let mut bytes = parts.write();
    // The second tensor's place is the last number before the data.
    let length = bytes.len();
    let data = length - parts.tensors.iter().map(|tensor| tensor.data.len().next_multiple_of(32)).sum::<usize>();
    let offset = (parts.tensors[0].data.len() as u64).next_multiple_of(32).to_le_bytes();
    let at = bytes[..data].windows(8).rposition(|window| window == offset).unwrap();
    bytes[at..at + 8].fill(0);
    assert_eq!(said_of(&bytes), Err(GgufError::Malformed("a tensor's place")));
}

#[test]
fn types_that_no_product_exists_for_are_refused() {
    for kind in [4, 5, 9, 15, 24, 25, 26, 27, 28, 36, 37, 38, 1_000, u32::MAX] {
        assert_eq!(said(|parts| parts.tensors[0].kind = kind), Err(GgufError::TensorType(kind)));
    }
    // A norm in half precision.
    let half = said(|parts| {
        let norm = parts.tensor("output_norm.weight");
        (norm.kind, norm.data) = (1, vec![0; norm.data.len() / 2]);
    });
    assert_eq!(half, Err(GgufError::TensorType(1)));
}

#[test]
fn an_alignment_of_nothing_or_of_no_power_of_two_is_refused() {
    for alignment in [0, 3, 131_072, u32::MAX] {
        let refused = said(|parts| parts.set_number("general.alignment", alignment));
        assert_eq!(refused, Err(GgufError::Malformed("the alignment")));
    }
}

#[test]
fn lists_in_lists_and_unknown_types_are_refused() {
    let nested = [LIST.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec(), U32.to_le_bytes().to_vec()].concat();
    assert_eq!(said(|parts| parts.set("x", LIST, nested.clone())), Err(GgufError::Malformed("a list of lists")));
    for kind in [13, 255, u32::MAX] {
        assert_eq!(said(|parts| parts.set("x", kind, [0; 8])), Err(GgufError::Malformed("the type of a value")));
    }
}

#[test]
fn lengths_beyond_their_limits_are_refused_before_anything_is_kept() {
    let huge = u64::MAX.to_le_bytes();
    assert_eq!(said(|parts| parts.set("x", TEXT, huge)), Err(GgufError::BeyondLimit("the length of a text")));
    let list = [&U32.to_le_bytes()[..], &huge].concat();
    assert_eq!(said(|parts| parts.set("x", LIST, list)), Err(GgufError::BeyondLimit("the length of a list")));
    let name = "k".repeat(2_000);
    assert_eq!(said(|parts| parts.set_number(&name, 1)), Err(GgufError::BeyondLimit("the length of a key")));
    let token = said(|parts| parts.set("tokenizer.ggml.tokens", LIST, texts(&[vec![b'a'; 5_000]])));
    assert_eq!(token, Err(GgufError::BeyondLimit("the length of a token")));
    // Five texts of the longest length each are a longer header than any model's.
    let long = said(|parts| (0..5).for_each(|at| parts.set(&format!("long.{at}"), TEXT, text(&vec![b'a'; 16 << 20]))));
    assert_eq!(long, Err(GgufError::BeyondLimit("the header's length")));
}

#[test]
fn a_key_that_appears_twice_is_refused_whatever_it_holds() {
    let twice = said(|parts| {
        let again = parts.keys.iter().find(|key| key.kind == LIST).unwrap().clone();
        parts.keys.push(again);
    });
    assert_eq!(twice, Err(GgufError::Malformed("a key that appears twice")));
}

#[test]
fn a_token_with_the_name_that_an_empty_one_gets_is_refused() {
    let clash = said(|parts| {
        let mut tokens = read_texts(parts.value("tokenizer.ggml.tokens"));
        (tokens[5], tokens[6]) = (Vec::new(), b"[EMPTY_5]".to_vec());
        parts.set("tokenizer.ggml.tokens", LIST, texts(&tokens));
    });
    assert_eq!(clash, Err(GgufError::Malformed("the vocabulary")));
}

#[test]
fn numbers_that_llama_asserts_something_of_are_checked() {
    let number = |name: &'static str, number| said(|parts| parts.set_number(name, number));
    assert_eq!(number("qwen3.nextn_predict_layers", 99), Err(GgufError::BeyondLimit("nextn_predict_layers")));
    assert_eq!(number("qwen3.expert_used_count", 1), Err(GgufError::Malformed("expert_count")));
    assert_eq!(number("qwen3.expert_count", 4), Err(GgufError::Malformed("expert_count")));
    assert_eq!(number("qwen3.expert_group_count", 1), Err(GgufError::Malformed("expert_count")));
    assert_eq!(number("qwen3.rope.dimension_count", 6), Err(GgufError::Malformed("rope.dimension_count")));
    assert_eq!(number("qwen3.attention.value_length", 8), Err(GgufError::Malformed("attention.value_length")));
    assert_eq!(number("qwen3.attention.head_count_kv", 7), Err(GgufError::Malformed("attention.head_count_kv")));
    assert_eq!(number("qwen3.attention.head_count", 0), Err(GgufError::BeyondLimit("attention.head_count")));
    assert_eq!(number("qwen3.block_count", 513), Err(GgufError::BeyondLimit("block_count")));
    let later = said(|parts| parts.set("qwen3.attention.causal", BOOL, [0]));
    assert_eq!(later, Err(GgufError::Unsupported("attention to what comes later")));
    let scaling = said(|parts| parts.set_text("qwen3.rope.scaling.type", "sideways"));
    assert_eq!(scaling, Err(GgufError::Unsupported("the scaling of positions")));
}

#[test]
fn kinds_of_models_and_tokenizers_that_do_not_run_are_named() {
    for other in ["mamba", "bert", "clip", "t5", "\u{1b}[2J"] {
        assert_eq!(said(|parts| parts.rename_architecture(other)), Err(GgufError::Unsupported("the architecture")));
    }
    for other in ["none", "no_vocab", "t5", "rwkv", "hybriddna"] {
        let refused = said(|parts| parts.set_text("tokenizer.ggml.model", other));
        assert_eq!(refused, Err(GgufError::Unsupported("the tokenizer")));
    }
}

#[test]
fn a_pipe_is_refused_without_waiting_for_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(check_model_file(&pipe), Err(LoadModelError::Unreadable(std::io::ErrorKind::InvalidInput))));
}
