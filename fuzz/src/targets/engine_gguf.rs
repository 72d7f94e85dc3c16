//! The check of a model file before llama.cpp sees it. The module is taken as it stands: its crate would bring
//! llama.cpp along.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "the module belongs to another crate")]

#[path = "../../../crates/darkbloom-engine/src/gguf.rs"]
mod gguf;

use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

/// A length that no tensor of a small header reaches.
const LARGE: u64 = 1 << 40;

fuzz_target!(|bytes: &[u8]| {
    // Keys and tokens are kept until the check is over, in hash tables.
    memory::within((128 << 10) + 32 * bytes.len(), || {
        let exact = gguf::check(bytes, bytes.len() as u64);
        // Only the header is read, so the same header in a longer file is as good.
        let large = gguf::check(bytes, LARGE);
        if exact.is_ok() {
            assert_eq!(exact, large);
        }
        if let Ok(header) = large {
            assert!((1..=i32::MAX as u64).contains(&header.context_length));
        }
    });
});
