use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    std::fs::read(path).unwrap()
});

#[test]
fn the_shipped_model_is_whole() {
    let header = check(MODEL.as_slice(), MODEL.len() as u64);
    assert_eq!(
        header.map(|header| (header.architecture, header.file_type, header.context_length)),
        Ok(("qwen3".to_owned(), Some(7), 1_024))
    );
}

#[test]
fn a_file_with_one_byte_missing_is_cut_short() {
    let shorter = &MODEL[..MODEL.len() - 1];
    assert_eq!(check(shorter, shorter.len() as u64), Err(GgufError::Truncated));
}

proptest! {
    #[test]
    fn changed_bytes_never_make_the_check_panic(
        changes in prop::collection::vec((0usize..16_000, any::<u8>()), 1..6),
        low in prop::collection::vec((0usize..1_000, any::<u8>()), 0..6),
    ) {
        let mut bytes = MODEL[..20_000].to_vec();
        for (at, value) in changes.into_iter().chain(low) {
            bytes[at] = value;
        }
        // The tensors' data is not read: the length alone decides.
        if let Ok(header) = check(bytes.as_slice(), MODEL.len() as u64) {
            prop_assert!((1..=i32::MAX as u64).contains(&header.context_length));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(&bytes);
        prop_assert!(check(file.as_slice(), file.len() as u64).is_err());
        prop_assert!(check(bytes.as_slice(), bytes.len() as u64).is_err());
    }
}
