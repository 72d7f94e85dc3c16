//! Changed files that the check lets through are loaded by llama.cpp in a process of their own: it may refuse them, or run
//! them, and must not die.
//!
//! `DARKBLOOM_MUTANTS=FIRST-LAST` tries those seeds instead of the first few.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use darkbloom_batch::{RowId, RowWork, SampleAt, Sampling, Slot, StepPlan};
use darkbloom_engine::{Adapter, Executor as _, LlamaEmbedder, LlamaExecutor, LlamaSettings, check_model_file};
use darkbloom_types::{SecretTokens, TokenId};

use crate::file::{LIST, Parts, TEXT, U32, read_texts, texts};
use crate::{shipped, shipped_path, written};

/// How many seeds are tried by default: a few seconds.
const SEEDS: u64 = 300;
/// Names the folder of files to the child.
const FOLDER: &str = "DARKBLOOM_HOSTILE_FOLDER";

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub fn of<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }
}

const NUMBERS: [u32; 20] = [0, 1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 31, 32, 33, 64, 96, 128, 1_023, 1 << 20, u32::MAX];
const ARCHITECTURES: [&str; 28] = [
    "arcee",
    "cohere2",
    "command-r",
    "dots1",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
    "gpt-oss",
    "granite",
    "granitemoe",
    "internlm2",
    "llama",
    "mistral3",
    "olmo2",
    "olmoe",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "seed_oss",
    "smollm3",
    "starcoder2",
];
const MORE_KEYS: [&str; 26] = [
    "rope.dimension_count",
    "expert_count",
    "expert_used_count",
    "expert_shared_count",
    "expert_group_count",
    "expert_group_used_count",
    "expert_feed_forward_length",
    "nextn_predict_layers",
    "leading_dense_block_count",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "rope.dimension_count_swa",
    "embedding_length_out",
    "pooling_type",
    "expert_gating_func",
    "vocab_size",
    "attention.group_norm_groups",
    "interleave_moe_layer_step",
    "embedding_length_per_layer_input",
    "attention.shared_kv_layers",
    "rope.scaling.original_context_length",
    "expert_shared_feed_forward_length",
    "n_deepstack_layers",
    "attention.head_count_kv",
];
/// Types of tensors with the elements and bytes of a block.
pub const TYPES: [(u32, u64, u64); 24] = [
    (0, 1, 4),
    (1, 1, 2),
    (30, 1, 2),
    (2, 32, 18),
    (20, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (39, 32, 17),
    (10, 256, 84),
    (11, 256, 110),
    (21, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (16, 256, 66),
    (35, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (34, 256, 54),
];

/// A file with one to three changes; every other is one for embeddings.
fn mutant(sound: &Parts, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut parts = sound.clone();
    if seed.is_multiple_of(2) {
        parts.set_number("qwen3.pooling_type", 1);
    }
    for _ in 0..=chance.below(3) {
        change(&mut parts, &mut chance);
    }
    parts.write()
}

fn change(parts: &mut Parts, chance: &mut Chance) {
    let architecture = String::from_utf8_lossy(&parts.value("general.architecture")[8..]).into_owned();
    match chance.below(12) {
        0..=2 => {
            let numbers: Vec<_> = parts.keys.iter().filter(|key| key.kind == U32).map(|key| key.name.clone()).collect();
            parts.set_number(&chance.of(&numbers).clone(), *chance.of(&NUMBERS));
        }
        3 | 4 => {
            let name = format!("{architecture}.{}", chance.of(&MORE_KEYS));
            parts.set_number(&name, *chance.of(&NUMBERS));
        }
        5 => parts.rename_architecture(ARCHITECTURES[chance.below(ARCHITECTURES.len())]),
        6 => {
            let at = chance.below(parts.keys.len());
            if parts.keys[at].name != "general.architecture" {
                parts.keys.remove(at);
            }
        }
        7 => {
            let at = chance.below(parts.tensors.len());
            parts.tensors.remove(at);
        }
        8 | 9 => {
            let at = chance.below(parts.tensors.len());
            let tensor = &mut parts.tensors[at];
            let (kind, block, bytes) = *chance.of(&TYPES);
            let elements: u64 = tensor.sizes.iter().product();
            (tensor.kind, tensor.data) = (kind, vec![0; (elements.div_ceil(block) * bytes) as usize]);
        }
        10 => {
            let at = chance.below(parts.keys.len());
            let list = [&U32.to_le_bytes()[..], &2_u64.to_le_bytes(), &[1, 0, 0, 0, 1, 0, 0, 0]].concat();
            let name = parts.keys[at].name.clone();
            if name == "general.architecture" || name == "tokenizer.ggml.tokens" {
                return;
            }
            match chance.below(4) {
                0 => parts.set(&name, LIST, list),
                1 => parts.set(&name, 6, 0_f32.to_le_bytes()),
                2 => parts.set(&name, 5, 1_u32.to_le_bytes()),
                _ => parts.set(&name, TEXT, crate::file::text(b"x")),
            }
        }
        _ => {
            if parts.keys.iter().all(|key| key.name != "tokenizer.ggml.tokens") {
                return;
            }
            let mut tokens = read_texts(parts.value("tokenizer.ggml.tokens"));
            let at = chance.below(tokens.len());
            tokens[at] = match chance.below(4) {
                0 => Vec::new(),
                1 => b"\xff\xfe".to_vec(),
                2 => b"<0xZZ>".to_vec(),
                _ => "\u{10ffff}".repeat(900).into_bytes(),
            };
            parts.set("tokenizer.ggml.tokens", LIST, texts(&tokens));
        }
    }
}

#[test]
fn what_the_check_lets_through_does_not_take_the_process_down() {
    let sound = shipped();
    let passes = |path: &Path| check_model_file(path).is_ok();
    let mut killed = String::new();
    for (seed, last_words) in kills(seeds(), "gguf", |seed| mutant(&sound, seed), passes) {
        let changed = differences(&sound, &mutant(&sound, seed));
        write!(killed, "\n{seed}: {last_words}; {changed}").unwrap();
    }
    assert!(killed.is_empty(), "these seeds killed the process:{killed}");
}

/// The seeds that are tried.
pub fn seeds() -> Range<u64> {
    match std::env::var("DARKBLOOM_MUTANTS") {
        Ok(range) => {
            let (first, last) = range.split_once('-').expect("FIRST-LAST");
            first.parse().unwrap()..last.parse().unwrap()
        }
        Err(_) => 0..SEEDS,
    }
}

/// The seeds whose files pass a check and then take a process down that loads them, with its last words. Files with the
/// extension `gguf` are loaded as models, others as adapters of the model that ships.
pub fn kills(
    seeds: Range<u64>,
    extension: &str,
    mutant: impl Fn(u64) -> Vec<u8>,
    passes: impl Fn(&Path) -> bool,
) -> Vec<(u64, String)> {
    let folder = tempfile::tempdir().unwrap();
    let mut pending: Vec<PathBuf> = Vec::new();
    for seed in seeds {
        let path = written(folder.path(), &format!("{seed}.{extension}"), &mutant(seed));
        if passes(&path) { pending.push(path) } else { std::fs::remove_file(path).unwrap() }
    }
    assert!(!pending.is_empty(), "the check lets nothing through");
    let mut killed = Vec::new();
    while !pending.is_empty() {
        let (done, last_words) = load_all(folder.path());
        for path in &pending {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if done.contains(&name) {
                std::fs::remove_file(path).unwrap();
            }
        }
        pending.retain(|path| path.exists());
        if let Some(seed) = done.last().filter(|last| *last != "end") {
            killed.push((seed.parse().unwrap(), last_words));
        }
    }
    killed
}

/// What was changed, for whoever has to find out why it hurts.
fn differences(sound: &Parts, changed: &[u8]) -> String {
    let changed = Parts::read(changed);
    let mut found = String::new();
    for key in &changed.keys {
        let same =
            sound.keys.iter().any(|other| (&other.name, other.kind, &other.value) == (&key.name, key.kind, &key.value));
        if !same {
            let length = key.value.len().min(16);
            write!(found, " {}: type {} {:02x?}", key.name, key.kind, &key.value[..length]).unwrap();
        }
    }
    for key in sound.keys.iter().filter(|key| changed.keys.iter().all(|other| other.name != key.name)) {
        write!(found, " without {}", key.name).unwrap();
    }
    for tensor in &sound.tensors {
        let name = String::from_utf8_lossy(&tensor.name);
        match changed.tensors.iter().find(|other| other.name == tensor.name) {
            None => write!(found, " without {name}").unwrap(),
            Some(other) if other.kind != tensor.kind => write!(found, " {name}: type {}", other.kind).unwrap(),
            Some(_) => {}
        }
    }
    found
}

/// Starts the test below in a process of its own, and says which files it began with, and what it died of.
fn load_all(folder: &Path) -> (Vec<String>, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mutants::loads_every_file_of_a_folder", "--ignored", "--nocapture"]).env(FOLDER, folder);
    let output = command.output().unwrap();
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let done: Vec<_> = lines.lines().filter_map(|line| line.strip_prefix("file ").map(str::to_owned)).collect();
    assert!(!done.is_empty(), "the child did not begin: {lines}{errors}");
    let assertion = errors.lines().find(|line| line.contains("GGML_") || line.contains("fatal error"));
    (done, assertion.map_or_else(|| output.status.to_string(), str::to_owned))
}

#[test]
#[ignore = "started by the test above, in a process that may die"]
fn loads_every_file_of_a_folder() {
    let folder = std::env::var_os(FOLDER).expect("the parent names a folder");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("\nfile {}", path.file_stem().unwrap().to_str().unwrap());
        std::io::stdout().flush().unwrap();
        load_and_step(&path);
    }
    println!("\nfile end");
}

fn load_and_step(path: &Path) {
    let settings = LlamaSettings { threads: 1, step_tokens_max: 16, ..LlamaSettings::new(2, 64) };
    let loaded = if path.extension().is_some_and(|extension| extension == "gguf") {
        LlamaExecutor::load(path, &settings)
    } else {
        let adapter = Adapter { file: File::open(path).unwrap(), scale: 1.0 };
        LlamaExecutor::load_open(File::open(shipped_path()).unwrap(), vec![adapter], &settings, &mut |_| true)
    };
    let Ok(mut executor) = loaded else { return };
    let _ = executor.end_tokens();
    let work = |slot| RowWork {
        slot: Slot(slot),
        id: RowId(u64::from(slot)),
        start: 0,
        tokens: SecretTokens::new((0..5).map(TokenId).collect()),
        guesses: 0,
        sample: Some(SampleAt::new(Arc::new(Sampling::greedy()), 0)),
    };
    // Whether it computes or fails does not matter.
    let _ = executor.step(&StepPlan { memory: Vec::new(), rows: vec![work(0), work(1)] });
    drop(executor);
    let embedder = LlamaEmbedder::load_open(File::open(path).unwrap(), Vec::new(), &settings, &mut |_| true);
    if let Ok(mut embedder) = embedder {
        let text: Vec<_> = (0..5).map(TokenId).collect();
        let _ = embedder.embed(&[&text, &text[..1]], &|| true);
    }
}
