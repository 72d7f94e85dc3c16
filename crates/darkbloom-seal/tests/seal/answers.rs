//! An answer is one stream under one key: complete, in order, from whom it was asked.

use std::collections::BTreeSet;

use darkbloom_seal::{
    Acceptance, AnswerError, AnswerOpener, AnswerSealer, ResponseSecret, SealedFrame, Transcript, frame_size,
    open_refusal, seal_refusal,
};
use darkbloom_types::{AttemptNumber, Digest, EpochId, ProviderId, TokenCount};
use proptest::prelude::*;

use crate::fixed::FixedRng;
use crate::parties::{BEGIN, Provider, acceptance, header, open, seal};

/// The secret that a provider and a client share, and what the provider said when it accepted.
fn shared() -> (ResponseSecret, Acceptance) {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), b"hello", &[&provider], "client");
    let opened = open(&mut provider, &sealed, 0).unwrap();
    (opened.response_secret, acceptance(&sealed, &provider, 1))
}

/// An answer of five pieces; the last is the end.
fn frames(secret: &ResponseSecret, acceptance: &Acceptance) -> Vec<SealedFrame> {
    let mut sealer = AnswerSealer::new(secret, acceptance);
    (1..=5)
        .map(|piece: u32| sealer.seal(format!("piece {piece}").as_bytes(), 64, TokenCount(piece), piece == 5).unwrap())
        .collect()
}

/// Opens frames until one is refused; says whether it ended well.
fn read(secret: &ResponseSecret, acceptance: &Acceptance, frames: &[SealedFrame]) -> Result<bool, AnswerError> {
    let mut opener = AnswerOpener::new(secret, acceptance);
    for frame in frames {
        opener.open(frame)?;
    }
    Ok(opener.ended())
}

#[test]
fn an_answer_reads_back_and_both_sides_name_the_same_transcript() {
    let (secret, acceptance) = shared();
    let mut sealer = AnswerSealer::new(&secret, &acceptance);
    let mut opener = AnswerOpener::new(&secret, &acceptance);
    let mut relay = Transcript::begin(&acceptance);
    assert_eq!(relay.digest(), opener.transcript());
    for (piece, size) in [(1, 64), (2, 256), (27, 1_024), (100, 4_096), (500, 16_384)] {
        let content = vec![b'x'; AnswerSealer::capacity(size)];
        let frame = sealer.seal(&content, size, TokenCount(piece), piece == 500).unwrap();
        assert_eq!(frame.ciphertext.len(), size + 16);
        assert_eq!(opener.open(&frame).unwrap().expose(), content);
        relay.push(&frame);
        assert_eq!(opener.tokens(), TokenCount(piece));
        assert_eq!((opener.transcript(), sealer.transcript()), (relay.digest(), relay.digest()));
    }
    assert!(opener.ended());
    assert_eq!(sealer.seal(b"more", 64, TokenCount(501), false), Err(AnswerError::AfterEnd));
}

#[test]
fn the_client_reads_with_the_secret_that_it_kept() {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), b"hello", &[&provider], "client");
    let opened = open(&mut provider, &sealed, 0).unwrap();
    let acceptance = acceptance(&sealed, &provider, 1);
    let kept = sealed.response_secret(&provider.id, &provider.current()).unwrap();
    assert_eq!(read(kept, &acceptance, &frames(&opened.response_secret, &acceptance)), Ok(true));
}

#[test]
fn a_cut_answer_never_ends() {
    let (secret, acceptance) = shared();
    let whole = frames(&secret, &acceptance);
    assert_eq!(read(&secret, &acceptance, &whole), Ok(true));
    for cut in 0..whole.len() {
        assert_eq!(read(&secret, &acceptance, &whole[..cut]), Ok(false), "{cut} of {} frames", whole.len());
    }
}

#[test]
fn dropped_repeated_and_reordered_frames_are_refused() {
    let (secret, acceptance) = shared();
    let whole = frames(&secret, &acceptance);
    for index in 0..whole.len() - 1 {
        let mut dropped = whole.clone();
        dropped.remove(index);
        let expected = u32::try_from(index).unwrap();
        let order = AnswerError::Order { expected, found: expected + 1 };
        assert_eq!(read(&secret, &acceptance, &dropped), Err(order));

        let mut repeated = whole.clone();
        repeated.insert(index, whole[index].clone());
        assert!(read(&secret, &acceptance, &repeated).is_err());

        let mut swapped = whole.clone();
        swapped.swap(index, index + 1);
        assert!(read(&secret, &acceptance, &swapped).is_err());

        // The numbers put right again: the ciphertexts are still bound to their places.
        for (sequence, frame) in (0..).zip(&mut swapped) {
            frame.sequence = sequence;
        }
        assert_eq!(read(&secret, &acceptance, &swapped), Err(AnswerError::Frame));
    }
    let mut after = whole.clone();
    after.push(whole[4].clone());
    assert_eq!(read(&secret, &acceptance, &after), Err(AnswerError::AfterEnd));
}

#[test]
fn after_a_refused_frame_nothing_opens_and_nothing_ends() {
    let (secret, acceptance) = shared();
    let whole = frames(&secret, &acceptance);
    let mut opener = AnswerOpener::new(&secret, &acceptance);
    opener.open(&whole[0]).unwrap();
    assert!(opener.open(&whole[2]).is_err());
    for frame in &whole[1..] {
        assert_eq!(opener.open(frame), Err(AnswerError::Broken), "also the frame that belongs here");
    }
    assert!(!opener.ended());

    let mut opener = AnswerOpener::new(&secret, &acceptance);
    whole.iter().for_each(|frame| drop(opener.open(frame).unwrap()));
    assert!(opener.ended() && opener.open(&whole[4]).is_err());
    assert!(!opener.ended(), "more after the end is no normal end");
}

#[test]
fn any_change_to_a_frame_is_refused() {
    let (secret, acceptance) = shared();
    let whole = frames(&secret, &acceptance);
    let first = &whole[0];
    let refused = |frame: SealedFrame| assert!(read(&secret, &acceptance, &[frame]).is_err());
    for bit in 0..first.ciphertext.len() * 8 {
        let mut changed = first.clone();
        changed.ciphertext[bit / 8] ^= 1 << (bit % 8);
        refused(changed);
    }
    for cut in 0..first.ciphertext.len() {
        refused(SealedFrame { ciphertext: first.ciphertext[..cut].to_vec(), ..first.clone() });
    }
    refused(SealedFrame { tokens: TokenCount(2), ..first.clone() });
    refused(SealedFrame { end: true, ..first.clone() });
    refused(SealedFrame { end: false, ..whole[4].clone() });
}

#[test]
fn a_token_count_that_goes_backwards_is_refused_on_both_sides() {
    let (secret, acceptance) = shared();
    let mut sealer = AnswerSealer::new(&secret, &acceptance);
    let first = sealer.seal(b"a", 64, TokenCount(5), false).unwrap();
    assert_eq!(sealer.seal(b"b", 64, TokenCount(4), false), Err(AnswerError::Count));
    let second = SealedFrame { sequence: 1, tokens: TokenCount(4), ..first.clone() };
    assert_eq!(read(&secret, &acceptance, &[first, second]), Err(AnswerError::Count));
}

/// One request, opened by two providers, by one provider in two epochs, and accepted with other salts and attempts.
fn acceptances() -> Vec<(ResponseSecret, Acceptance)> {
    let (mut a, mut b) = (Provider::new("a"), Provider::new("b"));
    let first = a.current();
    let second = a.rotate("a2", BEGIN);
    let keys = [a.sealing_key(&first), a.sealing_key(&second), b.sealing_key(&b.current())];
    let to = [(a.id, first), (a.id, second), (b.id, b.current())];
    let recipients: Vec<_> = to
        .iter()
        .zip(&keys)
        .map(|((provider, epoch), key)| darkbloom_seal::Recipient {
            provider: *provider,
            epoch: *epoch,
            sealing_key: key,
        })
        .collect();
    let text = darkbloom_types::SecretBytes::new(b"hello".to_vec());
    let sealed = darkbloom_seal::seal_request(header(), &text, &recipients, &mut FixedRng::new("client")).unwrap();
    let mut all = Vec::new();
    for (index, (provider, epoch)) in to.into_iter().enumerate() {
        let opened = open(if index < 2 { &mut a } else { &mut b }, &sealed, index).unwrap();
        for attempt in [1, 2] {
            for salt in [1, 2] {
                let acceptance = Acceptance {
                    request_digest: sealed.request_digest,
                    provider,
                    epoch,
                    attempt: AttemptNumber(attempt),
                    salt: [salt; 32],
                };
                all.push((opened.response_secret.clone(), acceptance));
            }
        }
    }
    all
}

#[test]
fn no_two_acceptances_of_one_request_ever_use_one_key_and_nonce() {
    // Equal plaintexts under one key and nonce would have equal ciphertexts, whatever else differs.
    let all = acceptances();
    let mut seen = BTreeSet::new();
    for (secret, acceptance) in &all {
        let mut sealer = AnswerSealer::new(secret, acceptance);
        for piece in 0..4 {
            let frame = sealer.seal(b"the same text", 64, TokenCount(piece), false).unwrap();
            assert!(seen.insert(frame.ciphertext[..64].to_vec()));
        }
    }
    assert_eq!(seen.len(), all.len() * 4);
}

#[test]
fn no_frame_of_one_acceptance_opens_in_another() {
    let all = acceptances();
    for (index, (secret, acceptance)) in all.iter().enumerate() {
        let ours = frames(secret, acceptance);
        for (other_index, (other_secret, other)) in all.iter().enumerate() {
            let expected = if index == other_index { Ok(true) } else { Err(AnswerError::Frame) };
            assert_eq!(read(other_secret, other, &ours), expected);
            if index != other_index {
                assert_ne!(Transcript::begin(acceptance).digest(), Transcript::begin(other).digest());
                // Spliced into a stream that began with the other attempt.
                let theirs = frames(other_secret, other);
                let spliced = [&theirs[..2], &ours[2..]].concat();
                assert_eq!(read(other_secret, other, &spliced), Err(AnswerError::Frame));
            }
        }
    }
}

#[test]
fn every_part_of_an_acceptance_changes_its_keys() {
    let (secret, acceptance) = shared();
    let whole = frames(&secret, &acceptance);
    for other in [
        Acceptance { request_digest: Digest([7; 32]), ..acceptance },
        Acceptance { provider: ProviderId([7; 32]), ..acceptance },
        Acceptance { epoch: EpochId([7; 16]), ..acceptance },
        Acceptance { attempt: AttemptNumber(7), ..acceptance },
        Acceptance { salt: [7; 32], ..acceptance },
    ] {
        assert_eq!(read(&secret, &other, &whole), Err(AnswerError::Frame));
        assert_ne!(Transcript::begin(&other).digest(), Transcript::begin(&acceptance).digest());
    }
}

#[test]
fn a_frames_size_depends_on_its_token_count_alone() {
    let (secret, acceptance) = shared();
    for tokens in [1, 2, 6, 7, 25, 26, 100, 101, 400, 401, u32::MAX] {
        let size = frame_size(tokens);
        let sizes: BTreeSet<_> = ["", "a", "a longer text"]
            .map(|text| AnswerSealer::new(&secret, &acceptance).seal(text.as_bytes(), size, TokenCount(tokens), true))
            .map(|frame| frame.unwrap().ciphertext.len())
            .into();
        assert_eq!(sizes, BTreeSet::from([size + 16]));
    }
    assert!((0..500).map(frame_size).is_sorted());
    assert_eq!((0..500).map(frame_size).collect::<BTreeSet<_>>().len(), 5);
    assert!(frame_size(u32::MAX) + 16 <= darkbloom_wire::limits::ANSWER_FRAME_BYTES_MAX);
}

#[test]
fn content_over_its_size_is_refused_and_uses_no_number_up() {
    let (secret, acceptance) = shared();
    let mut sealer = AnswerSealer::new(&secret, &acceptance);
    let content = vec![b'x'; AnswerSealer::capacity(64) + 1];
    assert_eq!(sealer.seal(&content, 64, TokenCount(1), false), Err(AnswerError::TooLong));
    assert_eq!(
        sealer.seal(&[], 3, TokenCount(1), false).map(|frame| frame.ciphertext.len()),
        Err(AnswerError::TooLong)
    );
    assert_eq!(sealer.seal(&content[1..], 64, TokenCount(1), false).unwrap().sequence, 0);
}

#[test]
fn a_refusal_opens_for_its_request_alone() {
    let (secret, acceptance) = shared();
    let request = acceptance.request_digest;
    let sealed = seal_refusal(&secret, &request, &[3; 32], b"the prompt is too long").unwrap();
    assert_eq!(open_refusal(&secret, &request, &sealed).unwrap().expose(), b"the prompt is too long");
    assert!(open_refusal(&secret, &Digest([7; 32]), &sealed).is_err());
    let (other_secret, _) = acceptances().pop().unwrap();
    assert!(open_refusal(&other_secret, &request, &sealed).is_err());
    for bit in 0..sealed.len() * 8 {
        let mut changed = sealed.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open_refusal(&secret, &request, &changed).is_err());
    }
    for cut in 0..sealed.len() {
        assert!(open_refusal(&secret, &request, &sealed[..cut]).is_err());
    }
    let again = seal_refusal(&secret, &request, &[4; 32], b"the prompt is too long").unwrap();
    assert_ne!(sealed[32..], again[32..], "each has its own salt and key");
    assert_eq!(sealed.len(), seal_refusal(&secret, &request, &[3; 32], b"").unwrap().len());
    assert!(seal_refusal(&secret, &request, &[3; 32], &[b'x'; 1_021]).is_err());
    assert!(sealed.len() <= darkbloom_wire::limits::ANSWER_FRAME_BYTES_MAX);
}

proptest! {
    #[test]
    fn any_pieces_read_back(pieces in proptest::collection::vec((0_usize..=1_020, 0_u32..50), 1..20)) {
        let (secret, acceptance) = shared();
        let mut sealer = AnswerSealer::new(&secret, &acceptance);
        let mut opener = AnswerOpener::new(&secret, &acceptance);
        let mut tokens = 0;
        for (index, (length, more)) in pieces.iter().enumerate() {
            tokens += more;
            let content = vec![b'x'; *length];
            let end = index + 1 == pieces.len();
            let frame = sealer.seal(&content, 1_024, TokenCount(tokens), end).unwrap();
            let opened = opener.open(&frame).unwrap();
            prop_assert_eq!(opened.expose(), content.as_slice());
        }
        prop_assert!(opener.ended());
        prop_assert_eq!(opener.transcript(), sealer.transcript());
    }
}
