//! A request in plaintext: only its one encoding is accepted, and only within its limits.

#![no_main]

use darkbloom_content::ChatRequest;
use darkbloom_fuzz::memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Room for 1,024 messages is made at once; a message takes at least three bytes.
    memory::within((64 << 10) + 16 * bytes.len(), || {
        if let Ok(request) = ChatRequest::from_cbor(bytes) {
            assert_eq!(request.check(), Ok(()));
            assert_eq!(request.to_cbor().expose(), bytes, "a second encoding is accepted");
            assert_eq!(request.encoded_len(), bytes.len());
        }
    });
});
