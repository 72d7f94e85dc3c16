//! What happens at keys that a reader does not know, at every depth.

use darkbloom_wire::{
    CandidateList, DecodeError, Domain, PublicKey, Reader, SealedHeader, Statement, VerifyError, Writer, open_signed,
    sign,
};

use crate::keys;
use crate::make::{FRAME_KINDS, Read, SIGNED_KINDS, Source};

/// One more pair at the end of a map: its head is made anew, the key and a nested value follow.
fn with_pair(map: &[u8], key: i64) -> Vec<u8> {
    let mut writer = Writer::default();
    let pairs = Reader::new(map).map(64).unwrap();
    writer.map(pairs + 1);
    let mut bytes = writer.finish();
    bytes.extend_from_slice(&map[if pairs < 24 { 1 } else { 2 }..]);
    let mut pair = Writer::default();
    pair.int(key);
    pair.array(2);
    pair.text("newer");
    pair.map(1);
    pair.int(1);
    pair.bool(true);
    bytes.extend_from_slice(&pair.finish());
    bytes
}

fn payload(signed: &[u8], domain: Domain, public: &PublicKey) -> Vec<u8> {
    open_signed(domain, public, signed, 1 << 20).unwrap().to_vec()
}

#[test]
fn an_unknown_critical_key_is_refused_in_every_signed_object() {
    let (signer, public) = keys::ed25519(3);
    for kind in SIGNED_KINDS {
        let signed = (kind.sign)(&mut Source::labelled(kind.name), &signer);
        let map = payload(&signed, kind.domain, &public);
        for key in [-1, -24, -25, i64::MIN] {
            let newer = sign(kind.domain, &signer, &with_pair(&map, key)).unwrap();
            let refused = Err(VerifyError::Envelope(DecodeError::CriticalKey { key }));
            assert_eq!((kind.reopen)(&newer, &public, &signer), refused, "{}", kind.name);
        }
    }
}

#[test]
fn an_unknown_ordinary_key_is_tolerated_in_every_signed_object() {
    let (signer, public) = keys::ed25519(3);
    for kind in SIGNED_KINDS {
        let signed = (kind.sign)(&mut Source::labelled(kind.name), &signer);
        let map = payload(&signed, kind.domain, &public);
        for key in [23, 24, 256, i64::MAX] {
            let newer = sign(kind.domain, &signer, &with_pair(&map, key)).unwrap();
            assert_eq!((kind.reopen)(&newer, &public, &signer).as_ref(), Ok(&signed), "{}", kind.name);
        }
    }
}

/// A record inside a signed object: evidence in a statement, a candidate in a list.
#[test]
fn a_critical_key_inside_a_nested_record_is_refused() {
    let (signer, public) = keys::p256(3);
    let check = |domain: Domain, whole: &[u8], inner: &[u8], open: &dyn Fn(&[u8]) -> Result<(), VerifyError>| {
        let at = whole.windows(inner.len()).position(|part| part == inner).unwrap();
        let splice = |key| [&whole[..at], &with_pair(inner, key), &whole[at + inner.len()..]].concat();
        assert_eq!(open(&sign(domain, &signer, &splice(9)).unwrap()), Ok(()));
        let refused = Err(VerifyError::Envelope(DecodeError::CriticalKey { key: -1 }));
        assert_eq!(open(&sign(domain, &signer, &splice(-1)).unwrap()), refused);
    };

    let mut evidence = Writer::default();
    evidence.map(2);
    evidence.int(1);
    evidence.text("format");
    evidence.int(2);
    evidence.bytes(b"evidence");
    let mut statement: Statement = Source::labelled("nested").make();
    statement.evidence =
        vec![darkbloom_wire::Evidence { format: "format".to_owned(), bytes: b"evidence".to_vec() }].into();
    let whole = payload(&statement.sign(&signer).unwrap(), Domain::Statement, &public);
    check(Domain::Statement, &whole, &evidence.finish(), &|bytes| Statement::open(bytes, &public).map(drop));

    let mut candidate = Writer::default();
    candidate.map(4);
    candidate.int(1);
    candidate.bytes(b"a statement");
    candidate.int(2);
    candidate.uint(3);
    candidate.int(3);
    candidate.uint(4);
    candidate.int(4);
    candidate.uint(5);
    let mut list: CandidateList = Source::labelled("nested").make();
    list.candidates = vec![darkbloom_wire::Candidate {
        statement: b"a statement".to_vec(),
        rows_free: 3,
        waiting: 4,
        row_tokens: darkbloom_types::TokenCount(5),
    }]
    .into();
    let whole = payload(&list.sign(&signer).unwrap(), Domain::CandidateList, &public);
    check(Domain::CandidateList, &whole, &candidate.finish(), &|bytes| CandidateList::open(bytes, &public).map(drop));
}

#[test]
fn an_unknown_key_in_the_header_is_refused() {
    let header: SealedHeader = Source::labelled("header").make();
    for key in [-1, 0, 17, 1_000] {
        let bytes = with_pair(&header.encode(), key);
        let expected = if key == 0 { DecodeError::NotDeterministic } else { DecodeError::UnknownKey { key } };
        assert_eq!(SealedHeader::decode(&bytes), Err(expected));
    }
}

#[test]
fn unknown_keys_in_frames_are_skipped_and_counted() {
    for kind in FRAME_KINDS {
        let frame = (kind.make)(&mut Source::labelled(kind.name));
        let newer = with_pair(&with_pair(&frame, 1_000), -5);
        assert_eq!((kind.read)(&newer), Read::Known(frame, 2), "{}", kind.name);
    }
}

#[test]
fn unknown_keys_inside_nested_records_of_frames_are_counted() {
    use darkbloom_wire::{ClientFrame, Decoded, Submit, Wrap};
    let wrap: Wrap = Source::labelled("wrap").make();
    let submit = Submit {
        header: vec![1],
        body: vec![2],
        wraps: vec![wrap.clone()].into(),
        supersedes: None,
        candidates_as_of: None,
    };
    let bytes = ClientFrame::from(submit.clone()).encode();
    let mut inner = Writer::default();
    inner.map(4);
    for (key, value) in
        (1..).zip([&wrap.provider.0[..], &wrap.epoch.0[..], &wrap.encapsulation[..], &wrap.ciphertext[..]])
    {
        inner.int(key);
        inner.bytes(value);
    }
    let inner = inner.finish();
    let at = bytes.windows(inner.len()).position(|part| part == inner).unwrap();
    let newer = [&bytes[..at], &with_pair(&inner, 7), &bytes[at + inner.len()..]].concat();
    assert_eq!(ClientFrame::decode(&newer), Ok(Decoded::Known(submit.into(), 1)));
}

#[test]
fn a_frame_of_an_unknown_kind_is_named_and_no_error() {
    let mut writer = Writer::default();
    writer.map(2);
    writer.int(0);
    writer.uint(4_711);
    writer.int(1);
    writer.text("newer");
    let bytes = writer.finish();
    for kind in FRAME_KINDS {
        assert_eq!((kind.read)(&bytes), Read::Unknown(4_711));
    }
}

#[test]
fn keys_out_of_order_or_twice_are_refused() {
    for keys in [[2, 1], [1, 1], [-1, 1], [-2, -1]] {
        let mut writer = Writer::default();
        writer.map(3);
        writer.int(0);
        writer.uint(101);
        for key in keys {
            writer.int(key);
            writer.uint(0);
        }
        let read = darkbloom_wire::Relayed::decode(&writer.finish());
        assert_eq!(read, Err(DecodeError::NotDeterministic), "{keys:?}");
    }
}
