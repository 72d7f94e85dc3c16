//! Every family of frames: what is read completely is written again as the same bytes.

#![no_main]

use darkbloom_fuzz::memory;
use darkbloom_wire::{ClientFrame, CoordinatorFrame, Decoded, ProviderFrame, Relayed};
use libfuzzer_sys::fuzz_target;

macro_rules! check {
    ($family:ident, $bytes:expr) => {
        match $family::decode($bytes) {
            Ok(Decoded::Known(frame, 0)) => assert_eq!(frame.encode(), $bytes, "a second encoding is accepted"),
            Ok(Decoded::Known(frame, _)) => {
                let encoded = frame.encode();
                assert!(encoded.len() < $bytes.len(), "a skipped key takes bytes");
                assert_eq!($family::decode(&encoded), Ok(Decoded::Known(frame, 0)));
            }
            Ok(Decoded::Unknown(_)) | Err(_) => {}
        }
    };
}

fuzz_target!(|bytes: &[u8]| {
    let Some((family, bytes)) = bytes.split_first() else { return };
    // Strings once as read and once as written; lists of at most 64 items.
    memory::within((16 << 10) + 8 * bytes.len(), || match family % 4 {
        0 => check!(CoordinatorFrame, bytes),
        1 => check!(ProviderFrame, bytes),
        2 => check!(ClientFrame, bytes),
        _ => check!(Relayed, bytes),
    });
});
