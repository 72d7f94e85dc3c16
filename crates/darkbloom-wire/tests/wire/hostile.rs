//! Changed, cut and random bytes: never a panic, and every acceptance is explained.

use darkbloom_types::Digest;
use darkbloom_wire::{
    CoordinatorFrame, DecodeError, ProviderFrame, Receipt, Receipts, SealedHeader, Statement, VerdictNotice, Welcome,
    Writer, limits,
};
use proptest::prelude::*;

use crate::keys;
use crate::make::{FRAME_KINDS, Read, SIGNED_KINDS, Source};

fn flips(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// Why a reader may accept bytes: they are another frame in its one form; or a known key became an unknown one of an
/// optional field, which is skipped and counted; or the kind became an unknown one.
fn explained(bytes: &[u8], read: &Read) -> bool {
    match read {
        Read::Error(_) => true,
        Read::Known(again, 0) => again == bytes,
        Read::Known(again, _) => again.len() < bytes.len(),
        Read::Unknown(kind) => FRAME_KINDS.iter().all(|known| known.kind != *kind || (known.read)(bytes) != *read),
    }
}

#[test]
fn a_signed_object_with_any_bit_changed_is_refused() {
    let (signer, public) = keys::ed25519(5);
    for kind in SIGNED_KINDS {
        let signed = (kind.sign)(&mut Source::labelled(kind.name), &signer);
        assert!((kind.reopen)(&signed, &public, &signer).is_ok());
        for flipped in flips(&signed) {
            assert!((kind.reopen)(&flipped, &public, &signer).is_err(), "{}", kind.name);
        }
    }
}

#[test]
fn a_self_signed_statement_with_any_bit_changed_is_refused() {
    let (signer, public) = keys::p256(5);
    let darkbloom_wire::PublicKey::P256(identity) = public else { unreachable!() };
    let statement = Statement { identity, ..Source::labelled("self-signed").make() };
    let signed = statement.sign(&signer).unwrap();
    assert_eq!(Statement::open_self_signed(&signed), Ok(statement));
    for flipped in flips(&signed) {
        assert!(Statement::open_self_signed(&flipped).is_err());
    }
}

#[test]
fn a_signed_object_that_is_cut_or_longer_is_refused() {
    let (signer, public) = keys::ed25519(5);
    for kind in SIGNED_KINDS {
        let mut signed = (kind.sign)(&mut Source::labelled(kind.name), &signer);
        for cut in 0..signed.len() {
            assert!((kind.reopen)(&signed[..cut], &public, &signer).is_err(), "{} of {cut} bytes", kind.name);
        }
        signed.push(0);
        assert!((kind.reopen)(&signed, &public, &signer).is_err());
    }
}

#[test]
fn a_frame_with_a_bit_changed_is_another_frame_in_its_one_form_or_refused() {
    for kind in FRAME_KINDS {
        let frame = (kind.make)(&mut Source::labelled(kind.name));
        for flipped in flips(&frame) {
            let read = (kind.read)(&flipped);
            assert!(explained(&flipped, &read), "{}: {read:?}", kind.name);
        }
    }
}

#[test]
fn a_frame_that_is_cut_or_longer_is_refused() {
    for kind in FRAME_KINDS {
        let mut frame = (kind.make)(&mut Source::labelled(kind.name));
        for cut in 0..frame.len() {
            assert!(matches!((kind.read)(&frame[..cut]), Read::Error(_)), "{} of {cut} bytes", kind.name);
        }
        frame.push(0);
        assert_eq!((kind.read)(&frame), Read::Error(DecodeError::Trailing));
    }
}

#[test]
fn a_header_with_a_bit_changed_is_another_header_in_its_one_form_or_refused() {
    let header: SealedHeader = Source::labelled("header").make();
    let bytes = header.encode();
    for flipped in flips(&bytes) {
        if let Ok(other) = SealedHeader::decode(&flipped) {
            assert_eq!(other.encode(), flipped);
            assert_ne!(other, header);
        }
    }
    for cut in 0..bytes.len() {
        assert!(SealedHeader::decode(&bytes[..cut]).is_err());
    }
}

#[test]
fn every_field_of_a_header_must_be_there() {
    let bytes = Source::labelled("header").make::<SealedHeader>().encode();
    for (missing, _) in SealedHeader::FIELDS {
        let mut whole = minicbor::Decoder::new(&bytes);
        let pairs = whole.map().unwrap().unwrap();
        let mut writer = Writer::default();
        writer.map(usize::try_from(pairs).unwrap() - 1);
        let mut rest = writer.finish();
        for _ in 0..pairs {
            let start = whole.position();
            let key = whole.i64().unwrap();
            whole.skip().unwrap();
            if key != *missing {
                rest.extend_from_slice(&bytes[start..whole.position()]);
            }
        }
        assert_eq!(SealedHeader::decode(&rest), Err(DecodeError::MissingKey { key: *missing }));
    }
}

#[test]
fn what_is_over_its_limit_is_refused_by_name() {
    fn over<T>(key: i64, max: usize) -> Result<T, DecodeError> {
        Err(DecodeError::TooLong { key, max })
    }
    let text = "x".repeat(limits::TEXT_BYTES_MAX + 1);
    let notice = VerdictNotice { eligible: false, reason: text.clone(), sentence: String::new(), next_step: text };
    assert_eq!(CoordinatorFrame::decode(&CoordinatorFrame::from(notice).encode()), over(2, limits::TEXT_BYTES_MAX));

    let mut welcome: Welcome = Source::of(Vec::new()).make();
    welcome.catalogue = vec![vec![0; limits::CATALOGUE_ENTRY_BYTES_MAX + 1]].into();
    let bytes = CoordinatorFrame::from(welcome.clone()).encode();
    assert_eq!(CoordinatorFrame::decode(&bytes), over(5, limits::CATALOGUE_ENTRY_BYTES_MAX), "an item of a list");
    welcome.catalogue = vec![vec![0; limits::CATALOGUE_ENTRY_BYTES_MAX]; 65].into();
    let bytes = CoordinatorFrame::from(welcome.clone()).encode();
    assert_eq!(CoordinatorFrame::decode(&bytes), over(5, 64), "a list");
    welcome.catalogue = vec![].into();
    welcome.capabilities = vec!["x".repeat(limits::TEXT_BYTES_MAX + 1)].into();
    let bytes = CoordinatorFrame::from(welcome).encode();
    assert_eq!(CoordinatorFrame::decode(&bytes), over(6, limits::TEXT_BYTES_MAX), "a text in a list");

    let receipts = Receipts { receipts: vec![vec![0; limits::RECEIPT_BYTES_MAX + 1]].into() };
    assert_eq!(ProviderFrame::decode(&ProviderFrame::from(receipts).encode()), over(1, limits::RECEIPT_BYTES_MAX));
    assert_eq!(SealedHeader::decode(&[0; 513]), over(0, limits::HEADER_BYTES_MAX));
    assert_eq!(ProviderFrame::decode(&vec![0; limits::FRAME_BYTES_MAX + 1]), over(0, limits::FRAME_BYTES_MAX));
}

#[test]
fn the_largest_frames_fit_their_limits() {
    let (signer, _) = keys::ed25519(5);
    let receipt: Receipt = Source::of(vec![0xff; 4_096]).make();
    let signed = receipt.sign(&signer).unwrap();
    assert!(signed.len() <= limits::RECEIPT_BYTES_MAX, "{}", signed.len());
    let most = Receipts { receipts: vec![vec![0; limits::RECEIPT_BYTES_MAX]; limits::RECEIPTS_PER_FRAME_MAX].into() };
    let bytes = ProviderFrame::from(most.clone()).encode();
    assert_eq!(ProviderFrame::decode(&bytes), Ok(darkbloom_wire::Decoded::Known(most.into(), 0)));
}

#[test]
fn names_of_objects_depend_on_every_byte() {
    let bytes = vec![7; 64];
    let named: std::collections::BTreeSet<_> =
        flips(&bytes).map(|flipped| darkbloom_wire::receipt_id(&flipped)).collect();
    assert_eq!(named.len(), 512);
    assert_eq!(darkbloom_wire::catalogue_digest(&bytes).0, Digest::of(&[&bytes]).0);
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_explained(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (signer, public) = keys::ed25519(5);
        for kind in FRAME_KINDS {
            prop_assert!(explained(&bytes, &(kind.read)(&bytes)));
        }
        for kind in SIGNED_KINDS {
            prop_assert!((kind.reopen)(&bytes, &public, &signer).is_err());
        }
        prop_assert!(Statement::open_self_signed(&bytes).is_err());
        let _ = Receipt::peek(&bytes);
        if let Ok(header) = SealedHeader::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn spliced_frames_are_refused_or_explained(
        material in proptest::collection::vec(any::<u8>(), 0..400),
        which in 0..FRAME_KINDS.len(),
        at in any::<prop::sample::Index>(),
        length in 0_usize..8,
        splice in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let kind = &FRAME_KINDS[which];
        let frame = (kind.make)(&mut Source::of(material));
        let at = at.index(frame.len());
        let mut spliced = frame[..at].to_vec();
        spliced.extend_from_slice(&splice);
        spliced.extend_from_slice(&frame[(at + length).min(frame.len())..]);
        let read = (kind.read)(&spliced);
        prop_assert!(explained(&spliced, &read), "{}: {:?}", kind.name, read);
    }
}
