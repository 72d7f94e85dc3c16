//! The check of a model file before llama.cpp sees it, and of an adapter's. The module is taken as it stands: its crate would bring
//! llama.cpp along.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the module belongs to another crate")]

#[path = "../../../crates/darkbloom-engine/src/gguf.rs"]
mod gguf;

use std::collections::HashMap;
use std::sync::LazyLock;

use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

/// A length that no tensor of a small header reaches.
const LARGE: u64 = 1 << 40;

/// A model that adapters may be for.
static BASE: LazyLock<gguf::ModelHeader> = LazyLock::new(|| gguf::ModelHeader {
    architecture: "qwen3".to_owned(),
    name: None,
    file_type: None,
    context_length: 64,
    parameters: 64,
    weight_bytes: 64,
    token_width: 8,
    block_width: 8,
    vocabulary: 8,
    pooling: None,
    tensor_types: gguf::TensorTypes::default(),
    counts_long_rows_otherwise: false,
    matrices: HashMap::from([("blk.0.attn_q.weight".to_owned(), [8, 8, 1, 1])]),
});

fuzz_target!(|bytes: &[u8]| {
    // Keys and tokens are kept until the check is over, in hash tables.
    memory::within((128 << 10) + 32 * bytes.len(), || {
        let exact = gguf::check(bytes, bytes.len() as u64);
        // Only the header is read, so the same header in a longer file is as good.
        let large = gguf::check(bytes, LARGE);
        if exact.is_ok() {
            assert_eq!(exact, large);
        }
        if let Ok(adapter) = gguf::check_adapter(bytes, LARGE, &BASE) {
            assert!(adapter.rank > 0 && adapter.weight_bytes > 0 && adapter.matrices.len() == 1);
        }
        if let Ok(header) = large {
            assert!((1..=i32::MAX as u64).contains(&header.context_length));
        }
    });
});
