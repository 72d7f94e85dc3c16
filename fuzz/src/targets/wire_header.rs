//! The sealed header: nothing but its one encoding is accepted.

#![no_main]

use darkbloom_fuzz::memory;
use darkbloom_wire::SealedHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    memory::within(4 << 10, || {
        if let Ok(header) = SealedHeader::decode(bytes) {
            assert_eq!(header.encode(), bytes, "a second encoding is accepted");
        }
    });
});
