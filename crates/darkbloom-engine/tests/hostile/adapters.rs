//! Adapters that somebody made to do harm.

use std::fs::File;
use std::path::Path;

use darkbloom_engine::{
    Adapter, AdapterError, AdapterHeader, Exactness, GgufError, LlamaExecutor, LlamaSettings, LoadModelError,
    MemoryNeed, ModelHeader, check_model_file, check_open_adapters,
};

use crate::adapter::random_adapter;
use crate::file::{LIST, Parts, TEXT, Tensor, U32, text};
use crate::mutants::{Chance, TYPES, kills, seeds};
use crate::{shipped, shipped_path, written};

fn said(change: impl FnOnce(&mut Parts)) -> Result<AdapterHeader, AdapterError> {
    let mut parts = random_adapter(&shipped(), 4);
    change(&mut parts);
    said_of(&parts.write())
}

fn said_of(bytes: &[u8]) -> Result<AdapterHeader, AdapterError> {
    let folder = tempfile::tempdir().unwrap();
    said_of_file(&written(folder.path(), "adapter.gguf", bytes), &check_model_file(&shipped_path()).unwrap())
}

fn said_of_file(path: &Path, base: &ModelHeader) -> Result<AdapterHeader, AdapterError> {
    let checked = check_open_adapters([(&File::open(path).unwrap(), 1.0)], base, Exactness::Exact);
    checked.map(|mut headers| headers.remove(0)).map_err(|(at, error)| {
        assert_eq!(at, 0);
        error
    })
}

fn refused(change: impl FnOnce(&mut Parts)) -> AdapterError {
    said(change).expect_err("the adapter was taken")
}

/// An adapter's tensor by the end of its name.
fn tensor<'p>(parts: &'p mut Parts, end: &str) -> &'p mut Tensor {
    parts.tensors.iter_mut().find(|tensor| tensor.name.ends_with(end.as_bytes())).unwrap()
}

#[test]
fn a_sound_adapter_is_counted() {
    let header = said(|_| {}).unwrap();
    assert_eq!((header.rank, header.weight_bytes), (4, 4 * header.parameters));
    let base = check_model_file(&shipped_path()).unwrap();
    let bare = MemoryNeed::of(&base, 256);
    let with = bare.with_adapters(&base, std::slice::from_ref(&header));
    assert_eq!((with.weights - bare.weights, with.row), (header.weight_bytes, bare.row));
    assert!(with.work > bare.work);
}

#[test]
fn what_is_no_adapter_of_this_model_is_refused_by_name() {
    assert_eq!(said_of(&shipped().write()), Err(AdapterError::Kind));
    assert_eq!(refused(|parts| parts.set_text("general.type", "model")), AdapterError::Kind);
    assert_eq!(refused(|parts| parts.set_text("adapter.type", "ia3")), AdapterError::Kind);
    assert_eq!(refused(|parts| parts.set_text("general.architecture", "llama")), AdapterError::Architecture);
    let list = [&U32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
    assert_eq!(refused(|parts| parts.set("adapter.alora.invocation_tokens", LIST, list)), AdapterError::Waits);
    assert_eq!(said_of(b"GGML"), Err(GgufError::Magic.into()));
    let whole = random_adapter(&shipped(), 4).write();
    for keep in [0, 20, 100, whole.len() / 2, whole.len() - 1] {
        assert_eq!(said_of(&whole[..keep]), Err(GgufError::Truncated.into()), "cut at {keep}");
    }
}

#[test]
fn keys_that_llama_would_abort_over_are_refused() {
    for name in ["general.type", "adapter.type"] {
        assert_eq!(refused(|parts| parts.set_number(name, 1)), AdapterError::Kind);
        assert_eq!(refused(|parts| parts.keys.retain(|key| key.name != name)), AdapterError::Kind);
    }
    let types = GgufError::Malformed("the type of a value");
    assert_eq!(refused(|parts| parts.set_number("general.architecture", 1)), types.into());
    assert_eq!(refused(|parts| parts.set_number("adapter.lora.alpha", 8)), types.into());
    assert_eq!(refused(|parts| parts.set("adapter.lora.alpha", 12, 8_f64.to_le_bytes())), types.into());
    assert_eq!(refused(|parts| parts.set("general.alignment", 10, 32_u64.to_le_bytes())), types.into());
    for alpha in [f32::NAN, f32::INFINITY] {
        let number = refused(|parts| parts.set("adapter.lora.alpha", 6, alpha.to_le_bytes()));
        assert_eq!(number, GgufError::Malformed("a number").into());
    }
    let without = refused(|parts| parts.keys.retain(|key| key.name != "adapter.lora.alpha"));
    assert_eq!(without, GgufError::Missing("adapter.lora.alpha").into());
    let long = refused(|parts| parts.set("x", TEXT, u64::MAX.to_le_bytes()));
    assert_eq!(long, GgufError::BeyondLimit("the length of a text").into());
    let nested = [LIST.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec(), U32.to_le_bytes().to_vec()].concat();
    assert_eq!(refused(|parts| parts.set("x", LIST, nested)), GgufError::Malformed("a list of lists").into());
    let twice = refused(|parts| parts.keys.push(parts.keys[0].clone()));
    assert_eq!(twice, GgufError::Malformed("a key that appears twice").into());
    assert!(said(|parts| parts.set("general.name", TEXT, text(b"anything"))).is_ok());
}

#[test]
fn tensors_that_llama_would_abort_over_are_refused() {
    // The embeddings, which are the output too, with their halves as llama.cpp wants them for embeddings.
    let embeddings = refused(|parts| {
        let vocabulary = shipped().tensor("token_embd.weight").sizes[1];
        let data = vec![0; 4 * 4 * vocabulary as usize];
        let name = b"token_embd.weight.lora_a".to_vec();
        parts.tensors.push(Tensor { name, sizes: vec![4, vocabulary], kind: 0, data });
    });
    assert_eq!(embeddings, AdapterError::Target);
    for name in
        ["blk.0.attn_norm.weight", "blk.0.attn_q.bias.lora_a", "blk.0.attn_q.weight", "x", "blk.0.lora_a.weight.lora_a"]
    {
        assert_eq!(refused(|parts| tensor(parts, "lora_a").name = name.into()), AdapterError::Target, "{name}");
    }
    assert_eq!(refused(|parts| drop(parts.tensors.pop())), AdapterError::Half);
    let unknown = refused(|parts| {
        for half in ["lora_a", "lora_b"] {
            tensor(parts, half).name = format!("blk.99.attn_q.weight.{half}").into();
        }
    });
    assert_eq!(unknown, AdapterError::UnknownMatrix);
    // A norm of the model, which is no matrix.
    let norm = refused(|parts| {
        for half in ["lora_a", "lora_b"] {
            tensor(parts, half).name = format!("blk.0.attn_norm.weight.{half}").into();
        }
    });
    assert_eq!(norm, AdapterError::UnknownMatrix);
    for (half, change) in [("lora_a", 0), ("lora_a", 1), ("lora_b", 0), ("lora_b", 1)] {
        let shape = refused(|parts| {
            let tensor = tensor(parts, half);
            tensor.sizes[change] *= 2;
            tensor.data.resize(tensor.data.len() * 2, 0);
        });
        assert_eq!(shape, AdapterError::Shape, "{half} {change}");
    }
    // As many numbers, in a third dimension that llama.cpp does not look at.
    let deep = refused(|parts| {
        let tensor = tensor(parts, "lora_a");
        tensor.sizes = vec![tensor.sizes[0], tensor.sizes[1] / 2, 2];
    });
    assert_eq!(deep, AdapterError::Shape);
    let stored = refused(|parts| {
        let tensor = tensor(parts, "lora_a");
        let elements: u64 = tensor.sizes.iter().product();
        (tensor.kind, tensor.data) = (2, vec![0; (elements / 32 * 18) as usize]);
    });
    assert_eq!(stored, AdapterError::Stored(2));
    assert_eq!(refused(|parts| parts.tensors.clear()), GgufError::Missing("every tensor").into());
}

#[test]
fn scales_that_are_no_sensible_numbers_and_too_many_adapters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), "adapter.gguf", &random_adapter(&shipped(), 4).write());
    let load = |scales: &[f32]| {
        let adapters = scales.iter().map(|&scale| Adapter { file: File::open(&path).unwrap(), scale }).collect();
        let settings = LlamaSettings { exactness: Exactness::Fast, ..LlamaSettings::new(2, 64) };
        LlamaExecutor::load_open(File::open(shipped_path()).unwrap(), adapters, &settings, &mut |_| true)
    };
    for scale in [f32::NAN, f32::INFINITY, -101.0] {
        let refused = load(&[1.0, scale]).err();
        assert!(matches!(refused, Some(LoadModelError::Adapter { at: 1, source: AdapterError::Scale })), "{scale}");
    }
    assert!(load(&[100.0, -100.0]).is_ok());
    let many = load(&[1.0; 9]).err();
    assert!(matches!(many, Some(LoadModelError::Adapter { at: 8, source: AdapterError::TooMany })));
}

/// An adapter with one to three changes.
fn mutant(sound: &Parts, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut parts = sound.clone();
    for _ in 0..=chance.below(3) {
        let at = chance.below(parts.tensors.len());
        let key = chance.below(parts.keys.len());
        let tensor = &mut parts.tensors[at];
        match chance.below(8) {
            0 => {
                let (kind, block, bytes) = *chance.of(&TYPES);
                let elements: u64 = tensor.sizes.iter().product();
                (tensor.kind, tensor.data) = (kind, vec![0; (elements.div_ceil(block) * bytes) as usize]);
            }
            1 => {
                let size = chance.below(tensor.sizes.len());
                let [from, to] = [tensor.sizes[size], 1 + chance.below(300) as u64];
                tensor.sizes[size] = to;
                tensor.data = vec![0; tensor.data.len() / from as usize * to as usize];
            }
            2 => tensor.sizes.push(1 + chance.below(2) as u64),
            3 => tensor.data.fill(0xff),
            4 => {
                let bytes = tensor.data.len();
                tensor.data.iter_mut().skip(chance.below(bytes)).for_each(|byte| *byte = chance.next() as u8);
            }
            5 => {
                let other = chance.below(parts.tensors.len());
                let name = parts.tensors[other].name.clone();
                parts.tensors[other].name = std::mem::replace(&mut parts.tensors[at].name, name);
            }
            6 => {
                let name = parts.keys[key].name.clone();
                parts.set(&name, U32, (chance.next() as u32).to_le_bytes());
            }
            _ => parts.set("adapter.lora.alpha", 6, (chance.next() as u32 & 0x7f7f_ffff).to_le_bytes()),
        }
    }
    parts.write()
}

#[test]
fn adapters_that_the_check_lets_through_do_not_take_the_process_down() {
    let (sound, base) = (random_adapter(&shipped(), 4), check_model_file(&shipped_path()).unwrap());
    let passes = |path: &Path| said_of_file(path, &base).is_ok();
    let killed = kills(seeds(), "lora", |seed| mutant(&sound, seed), passes);
    assert!(killed.is_empty(), "these seeds killed the process: {killed:?}");
}
