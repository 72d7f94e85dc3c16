//! An event of an answer: only its one encoding is accepted.

#![no_main]

use darkbloom_content::{AnswerEvent, EVENT_TOKENS_MAX};
use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Room for all tokens that are announced is made at once, four bytes each.
    memory::within((4 << 10) + 4 * EVENT_TOKENS_MAX + 8 * bytes.len(), || {
        if let Ok(event) = AnswerEvent::from_cbor(bytes) {
            assert_eq!(event.to_cbor().expose(), bytes, "a second encoding is accepted");
            assert_eq!(event.encoded_len(), bytes.len());
        }
    });
});
