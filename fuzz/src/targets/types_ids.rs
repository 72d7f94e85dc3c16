//! Ids and tiers as people and files write them: pin files, arguments, addresses.

#![no_main]

use darkbloom_fuzz::{memory, text};
use darkbloom_types::{Digest, EpochId, Tier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = text(bytes);
    // An error repeats the text.
    memory::within((4 << 10) + 8 * bytes.len(), || {
        if let Ok(id) = text.parse::<Digest>() {
            assert_eq!(id.to_string(), text.to_ascii_lowercase());
        }
        if let Ok(id) = text.parse::<EpochId>() {
            assert_eq!(id.to_string(), text.to_ascii_lowercase());
        }
        if let Ok(tier) = text.parse::<Tier>() {
            assert!(Tier::ALL.contains(&tier));
            assert_eq!(Tier::from_code(tier.code()), Some(tier));
        }
    });
});
