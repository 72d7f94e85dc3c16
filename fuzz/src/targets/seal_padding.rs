//! Padding: a length in front, zeros behind, and one form of each content.

#![no_main]

use darkbloom_fuzz::memory;
use darkbloom_seal::{body_size, pad, unpad};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    memory::within((4 << 10) + 4 * bytes.len(), || {
        if let Ok(content) = unpad(bytes) {
            assert_eq!(pad(content, bytes.len()).as_deref().map(Vec::as_slice), Ok(bytes));
        }
        let size = body_size(bytes.len()).expect("inputs are far below the limit");
        let padded = pad(bytes, size).expect("this size was computed for it");
        assert_eq!((padded.len(), unpad(&padded)), (size, Ok(bytes)));
    });
});
