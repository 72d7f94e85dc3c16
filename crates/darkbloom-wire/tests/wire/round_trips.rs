//! Whatever is written reads back as the same thing, and one thing has one form.

use darkbloom_wire::{LengthPrefixed, SealedHeader, limits};
use proptest::prelude::*;

use crate::keys;
use crate::make::{FRAME_KINDS, Read, SIGNED_KINDS, Source};

fn material() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

proptest! {
    #[test]
    fn every_frame_reads_back(bytes in material()) {
        for kind in FRAME_KINDS {
            let frame = (kind.make)(&mut Source::of(bytes.clone()));
            prop_assert_eq!((kind.read)(&frame), Read::Known(frame, 0), "{}", kind.name);
        }
    }

    #[test]
    fn every_header_reads_back(bytes in material()) {
        let header: SealedHeader = Source::of(bytes).make();
        let encoded = header.encode();
        prop_assert!(encoded.len() <= limits::HEADER_BYTES_MAX);
        prop_assert_eq!(SealedHeader::decode(&encoded), Ok(header));
    }

    #[test]
    fn frames_on_a_byte_stream_survive_any_cut(bytes in material(), cuts in proptest::collection::vec(1_usize..64, 1..64)) {
        let frames: Vec<_> = FRAME_KINDS.iter().map(|kind| (kind.make)(&mut Source::of(bytes.clone()))).collect();
        let stream: Vec<u8> = frames.iter().flat_map(|frame| LengthPrefixed::wrap(frame)).collect();
        let (mut reader, mut found, mut rest, mut cuts) = (LengthPrefixed::default(), Vec::new(), &stream[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            reader.push(now);
            while let Some(frame) = reader.next_frame().unwrap() {
                found.push(frame.to_vec());
            }
            rest = later;
        }
        prop_assert!(reader.is_empty());
        prop_assert_eq!(found, frames);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_signed_object_reads_back(bytes in material()) {
        let (signer, public) = keys::ed25519(3);
        for kind in SIGNED_KINDS {
            let signed = (kind.sign)(&mut Source::of(bytes.clone()), &signer);
            prop_assert_eq!((kind.reopen)(&signed, &public, &signer), Ok(signed), "{}", kind.name);
        }
    }
}

#[test]
fn a_cut_stream_is_seen() {
    let wrapped = LengthPrefixed::wrap(b"abcdef");
    for cut in 1..wrapped.len() {
        let mut reader = LengthPrefixed::default();
        reader.push(&wrapped[..cut]);
        assert_eq!(reader.next_frame(), Ok(None));
        assert!(!reader.is_empty(), "{cut} bytes are left over");
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let mut reader = LengthPrefixed::default();
    reader.push(&u32::try_from(limits::FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
    assert!(reader.next_frame().is_err());
}
