//! The edges of the CBOR reader: how deep, how long, and where it says that it is.

use darkbloom_wire::{DecodeError, Reader, Writer};

/// How deep an item that is passed over may be nested.
const DEPTH: usize = 3;

fn nested(depth: usize, open: impl Fn(&mut Writer)) -> Vec<u8> {
    let mut to = Writer::default();
    for _ in 0..depth {
        open(&mut to);
    }
    to.uint(7);
    to.finish()
}

#[test]
fn what_is_passed_over_is_nested_as_deep_as_allowed_and_no_deeper() {
    let array = |to: &mut Writer| to.array(1);
    let tag = |to: &mut Writer| to.tag(1);
    let map_value = |to: &mut Writer| {
        to.map(1);
        to.int(0);
    };
    for open in [&array as &dyn Fn(&mut Writer), &tag, &map_value] {
        let skip = |depth| {
            let bytes = nested(depth, open);
            let mut reader = Reader::new(&bytes);
            reader.skip(DEPTH).and_then(|()| reader.end())
        };
        assert_eq!(skip(DEPTH - 1), Ok(()));
        assert!(matches!(skip(DEPTH), Err(DecodeError::TooLong { .. })));
        // However much of it there is: a hostile item must not take the stack.
        assert!(matches!(skip(1_000_000), Err(DecodeError::TooLong { .. })));
    }
    // A map's keys are nested like its values.
    let mut to = Writer::default();
    for _ in 0..DEPTH {
        to.map(1);
    }
    to.uint(7);
    for _ in 0..DEPTH {
        to.uint(7);
    }
    let bytes = to.finish();
    assert!(matches!(Reader::new(&bytes).skip(DEPTH), Err(DecodeError::TooLong { .. })));
    assert_eq!(Reader::new(&bytes).skip(DEPTH + 1), Ok(()));
}

#[test]
fn everything_in_a_container_is_passed_over() {
    let mut to = Writer::default();
    to.array(3);
    to.uint(1);
    to.map(2);
    to.int(0);
    to.text("a");
    to.int(1);
    to.bytes(b"b");
    to.bool(true);
    to.uint(99);
    let bytes = to.finish();
    let mut reader = Reader::new(&bytes);
    reader.skip(DEPTH).unwrap();
    assert_eq!(reader.uint(), Ok(99));
}

#[test]
fn a_text_may_be_as_long_as_its_limit_and_an_error_names_its_key() {
    let mut to = Writer::default();
    to.text("violet");
    let bytes = to.finish();
    let read = |max| {
        let mut reader = Reader::new(&bytes);
        reader.at_key(42);
        assert_eq!(reader.key(), 42);
        reader.text(max).map(str::to_owned)
    };
    assert_eq!(read(6).as_deref(), Ok("violet"));
    assert_eq!(read(5), Err(DecodeError::TooLong { key: 42, max: 5 }));
}
