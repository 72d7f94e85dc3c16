//! GGUF files that lie.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;

use std::io::Read;
use std::time::{Duration, Instant};

use darkbloom_text::gguf::{Value, read_metadata};
use darkbloom_text::{InvalidPackError, ReadGgufError, TextPack};
use gguf_writer::{Header, array, entry, file, text, texts};
use proptest::prelude::*;

const TEMPLATE: &str = "{% for m in messages %}<user>{{ m.content }}{% endfor %}<model>";

fn pack_error(header: &Header) -> InvalidPackError {
    match TextPack::from_gguf_header(&header.bytes()) {
        Err(ReadGgufError::Pack(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_type_of_value_is_read() {
    let values: [(u32, Vec<u8>, Value); 13] = [
        (0, vec![200], Value::Unsigned(200)),
        (1, vec![200], Value::Signed(-56)),
        (2, vec![1, 2], Value::Unsigned(513)),
        (3, vec![0xff, 0xff], Value::Signed(-1)),
        (4, vec![1, 0, 0, 0], Value::Unsigned(1)),
        (5, vec![0xff; 4], Value::Signed(-1)),
        (6, 1.5f32.to_le_bytes().to_vec(), Value::Float(1.5)),
        (7, vec![1], Value::Bool(true)),
        (8, text("word"), Value::Text("word".to_owned())),
        (9, array(0, 2, &[3, 4]), Value::Integers(vec![3, 4])),
        (10, u64::MAX.to_le_bytes().to_vec(), Value::Unsigned(u64::MAX)),
        (11, i64::MIN.to_le_bytes().to_vec(), Value::Signed(i64::MIN)),
        (12, 2.5f64.to_le_bytes().to_vec(), Value::Float(2.5)),
    ];
    for (kind, bytes, value) in values {
        let metadata = read_metadata(file(3, 1, &entry("key", kind, &bytes)).as_slice()).unwrap();
        assert_eq!(metadata.entries["key"], value);
    }
    let nested = array(9, 2, &[array(7, 1, &[1]), texts(&["a".to_owned()])].concat());
    let metadata = read_metadata(file(2, 1, &entry("key", 9, &nested)).as_slice()).unwrap();
    let inner = vec![Value::Bools(vec![true]), Value::Texts(vec!["a".to_owned()])];
    assert_eq!(metadata.entries["key"], Value::Nested(inner));
}

#[test]
fn giant_counts_are_refused_at_once() {
    let huge = u64::MAX.to_le_bytes();
    let cases = [
        file(3, u64::MAX, &[]),
        file(3, 1, &huge),
        file(3, 1, &[text("key"), 8u32.to_le_bytes().to_vec(), huge.to_vec()].concat()),
        file(3, 1, &entry("key", 9, &array(8, u64::MAX, &[]))),
        file(3, 1, &entry("key", 9, &array(9, 1 << 20, &array(9, 1 << 20, &array(9, 1 << 20, &[]))))),
    ];
    let start = Instant::now();
    for case in &cases {
        let error = read_metadata(case.as_slice()).unwrap_err();
        assert!(matches!(error, ReadGgufError::TooLarge { .. }), "{error}");
    }
    // Within the limits, and not there: nothing is allocated for them.
    for (kind, count) in [(8, 1 << 20), (12, 1 << 20), (9, 1 << 20)] {
        let error = read_metadata(file(3, 1, &entry("key", 9, &array(kind, count, &[]))).as_slice()).unwrap_err();
        assert!(matches!(error, ReadGgufError::Truncated), "{error}");
    }
    assert!(start.elapsed() < Duration::from_millis(200));
}

#[test]
fn more_metadata_than_any_honest_file_has_is_cut_off() {
    // Ten arrays of 8 MiB, each within its own limits.
    let array_head = array(12, 1 << 20, &[]);
    let mut reader: Box<dyn Read> = Box::new(std::io::Cursor::new(file(3, 1, &entry("key", 9, &array(9, 10, &[])))));
    for _ in 0..10 {
        let body = std::io::repeat(0).take(8 << 20);
        reader = Box::new(reader.chain(std::io::Cursor::new(array_head.clone())).chain(body));
    }
    assert!(matches!(read_metadata(reader), Err(ReadGgufError::TooLarge { what: "metadata", .. })));
}

#[test]
fn malformed_headers_are_named() {
    let read = |bytes: Vec<u8>| read_metadata(bytes.as_slice()).unwrap_err().to_string();
    assert_eq!(read(b"PK\x03\x04".to_vec()), "this is not a GGUF file");
    assert_eq!(read(file(1, 0, &[])), "GGUF version 1 is not supported, only 2 and 3 (little-endian)");
    assert_eq!(read(file(3, 1, &entry("key", 13, &[]))), "value type 13 does not exist");
    assert_eq!(read(file(3, 1, &entry("key", 7, &[2]))), "a truth value in the metadata is 2");
    let twice = [entry("key", 7, &[1]), entry("key", 7, &[1])].concat();
    assert_eq!(read(file(3, 2, &twice)), "key `key` is repeated");
    assert_eq!(read(file(3, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])), "a text in the metadata is not UTF-8");
}

#[test]
fn unsound_vocabularies_are_refused() {
    let small = Header::small(TEMPLATE);
    assert!(TextPack::from_gguf_header(&small.bytes()).is_ok());

    let mut header = small.clone();
    header.tokens[65] = "a".to_owned();
    assert_eq!(pack_error(&header), InvalidPackError::RepeatedToken(97));
    let mut header = small.clone();
    header.tokens[65] = "AA".to_owned();
    assert_eq!(pack_error(&header), InvalidPackError::MissingByte(65));
    let mut header = small.clone();
    header.tokens[257] = String::new();
    header.merges.pop();
    assert_eq!(pack_error(&header), InvalidPackError::EmptyToken(257));
    let mut header = small.clone();
    header.kinds.pop();
    assert_eq!(pack_error(&header), InvalidPackError::KindCount { kinds: 261, tokens: 262 });
    let mut header = small.clone();
    header.kinds[3] = 6;
    assert_eq!(pack_error(&header), InvalidPackError::UnknownTokenKind { index: 3, kind: 6 });
    let mut header = small.clone();
    header.merges = vec!["t h".to_owned(), "t h".to_owned()];
    assert_eq!(pack_error(&header), InvalidPackError::RepeatedMerge(1));
    let mut header = small.clone();
    header.merges.push("z z".to_owned());
    assert_eq!(pack_error(&header), InvalidPackError::UnknownMerge(2));
    let mut header = small.clone();
    header.end = 262;
    assert_eq!(pack_error(&header), InvalidPackError::UnknownToken("last"));
    let mut header = small.clone();
    header.begin = None;
    assert_eq!(pack_error(&header), InvalidPackError::UnknownToken("first"));
    let mut header = small.clone();
    header.pre_tokenizer = "tekken";
    assert_eq!(pack_error(&header), InvalidPackError::UnsupportedPreTokenizer("tekken".to_owned()));
    let mut header = small;
    header.tokenizer = "llama";
    let error = TextPack::from_gguf_header(&header.bytes()).unwrap_err();
    assert!(matches!(error, ReadGgufError::UnsupportedTokenizer(name) if name == "llama"));
}

#[test]
fn no_merge_makes_a_control_token() {
    let mut header = Header::small(TEMPLATE);
    header.tokens[259] = "<>".to_owned();
    header.merges.push("< >".to_owned());
    assert_eq!(pack_error(&header), InvalidPackError::UnknownMerge(2));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), entries in 0..5u64) {
        let _ = read_metadata(bytes.as_slice());
        let _ = read_metadata(file(3, entries, &bytes).as_slice());
        let _ = TextPack::from_bytes(&bytes);
    }
}
