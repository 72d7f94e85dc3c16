//! A GGUF file's metadata, and the text pack in it.

#![no_main]

use darkbloom_fuzz::memory;
use darkbloom_text::{ReadGgufError, TextPack, gguf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The reader's buffer has 64 KiB, and an element of one byte becomes a number of eight in a vector that doubles.
    let metadata = memory::within((192 << 10) + 32 * bytes.len(), || gguf::read_metadata(bytes));
    let Ok(metadata) = metadata else { return };
    let length = usize::try_from(metadata.bytes).expect("it was read from memory");
    assert!(length <= bytes.len());
    // Metadata with a NaN in it does not equal itself.
    let again = gguf::read_metadata(&bytes[..length]).map(|again| format!("{again:?}"));
    assert_eq!(again.ok(), Some(format!("{metadata:?}")), "what follows the metadata changes it");
    let cut = gguf::read_metadata(&bytes[..length - 1]);
    assert!(matches!(cut, Err(ReadGgufError::Truncated)), "metadata that is cut reads");
    memory::within((1 << 20) + 64 * bytes.len(), || {
        if let Ok(pack) = TextPack::from_metadata(&metadata) {
            let encoded = pack.to_bytes();
            assert_eq!(TextPack::from_bytes(&encoded).as_ref(), Ok(&pack));
        }
    });
});
