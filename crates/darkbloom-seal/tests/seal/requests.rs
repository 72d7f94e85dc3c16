//! A sealed request opens for whom it was sealed, as it was sealed, once, and never otherwise.

use darkbloom_seal::{OpenError, OpenRequestError, Recipient, SealError, body_size, seal_request};
use darkbloom_types::{EpochId, ProviderId, RefusalCode, SecretBytes};
use darkbloom_wire::{SealedHeader, Wrap, limits};
use hpke::{Kem as _, Serializable as _};
use proptest::prelude::*;

use crate::fixed::FixedRng;
use crate::parties::{BEGIN, Provider, header, open, seal};
use crate::reference::{self, Knobs};

const PLAINTEXT: &[u8] = b"what the consumer asked";

fn cryptography(error: OpenRequestError) -> OpenError {
    OpenError::Cryptography(error)
}

#[test]
fn every_recipient_opens_it_and_shares_its_own_secret() {
    let mut providers = [Provider::new("a"), Provider::new("b"), Provider::new("c")];
    let sealed = seal(header(), PLAINTEXT, &providers.iter().collect::<Vec<_>>(), "client");
    for (index, provider) in providers.iter_mut().enumerate() {
        let opened = open(provider, &sealed, index).unwrap();
        assert_eq!(opened.plaintext.expose(), PLAINTEXT);
        assert!(sealed.response_secret(&provider.id, &provider.current()).is_some());
    }
    assert!(sealed.response_secret(&ProviderId([0; 32]), &EpochId([0; 16])).is_none());
}

#[test]
fn a_second_implementation_opens_what_we_seal() {
    let provider = Provider::new("a");
    let (private, public) = hpke::kem::XWing::gen_keypair_with_rng(&mut FixedRng::new("a"));
    assert_eq!(public.to_bytes().to_vec(), provider.sealing_key(&provider.current()));
    let sealed = seal(header(), PLAINTEXT, &[&provider], "client");
    let opened = reference::open(&private, &sealed.submit.header, &sealed.submit.body, &sealed.submit.wraps.0[0]);
    assert_eq!(opened.plaintext, PLAINTEXT);
}

#[test]
fn we_open_what_a_second_implementation_seals() {
    let mut provider = Provider::new("a");
    let key = provider.sealing_key(&provider.current());
    let to = (provider.id, provider.current(), key.as_slice());
    let sealed = reference::seal(header(), &Knobs::honest(PLAINTEXT), to, &mut FixedRng::new("other"));
    let opened = provider.ring.open(&sealed.header, &sealed.body, &sealed.wrap, BEGIN).unwrap().1;
    assert_eq!(opened.plaintext.expose(), PLAINTEXT);
}

#[test]
fn a_client_that_commits_to_another_key_is_refused() {
    let mut provider = Provider::new("a");
    let key = provider.sealing_key(&provider.current());
    let to = (provider.id, provider.current(), key.as_slice());
    let mut refused = |knobs: Knobs, error| {
        let sealed = reference::seal(header(), &knobs, to, &mut FixedRng::new("other"));
        let opened = provider.ring.open(&sealed.header, &sealed.body, &sealed.wrap, BEGIN);
        assert_eq!(opened.unwrap_err(), cryptography(error));
    };
    refused(Knobs { committed_key: [8; 32], ..Knobs::honest(PLAINTEXT) }, OpenRequestError::Commitment);
    refused(Knobs { content_key: vec![9; 31], ..Knobs::honest(PLAINTEXT) }, OpenRequestError::Wrap);
    let mut dirty = Knobs::honest(PLAINTEXT);
    dirty.padded[1_023] = 1;
    refused(dirty, OpenRequestError::Padding);
    let mut long = Knobs::honest(PLAINTEXT);
    long.padded[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    refused(long, OpenRequestError::Padding);
    refused(Knobs { padded: vec![0; 3], ..Knobs::honest(PLAINTEXT) }, OpenRequestError::Padding);
    refused(Knobs { padded: vec![], ..Knobs::honest(PLAINTEXT) }, OpenRequestError::Padding);
}

#[test]
fn a_wrap_moved_to_another_request_does_not_open() {
    let mut provider = Provider::new("a");
    let one = seal(header(), PLAINTEXT, &[&provider], "one");
    let two = seal(header(), PLAINTEXT, &[&provider], "two");
    let mut try_with =
        |header: &[u8], body: &[u8], wrap: &Wrap| provider.ring.open(header, body, wrap, BEGIN).map(drop);
    let wrap = &one.submit.wraps.0[0];
    assert_eq!(try_with(&two.submit.header, &two.submit.body, wrap), Err(cryptography(OpenRequestError::Wrap)));
    assert_eq!(try_with(&one.submit.header, &two.submit.body, wrap), Err(cryptography(OpenRequestError::Wrap)));
    assert_eq!(try_with(&two.submit.header, &one.submit.body, wrap), Err(cryptography(OpenRequestError::Wrap)));
    let mixed = Wrap { ciphertext: two.submit.wraps.0[0].ciphertext.clone(), ..wrap.clone() };
    assert_eq!(try_with(&one.submit.header, &one.submit.body, &mixed), Err(cryptography(OpenRequestError::Wrap)));
    assert_eq!(try_with(&one.submit.header, &one.submit.body, wrap), Ok(()));
}

#[test]
fn a_wrap_for_one_provider_or_epoch_opens_with_no_other() {
    let (mut a, mut b) = (Provider::new("a"), Provider::new("b"));
    let sealed = seal(header(), PLAINTEXT, &[&a, &b], "client");
    let submit = &sealed.submit;
    let stolen = Wrap { epoch: b.current(), ..submit.wraps.0[0].clone() };
    let opened = b.ring.open(&submit.header, &submit.body, &stolen, BEGIN);
    assert_eq!(opened.unwrap_err(), cryptography(OpenRequestError::Wrap));

    let second = a.rotate("a2", BEGIN);
    let moved = Wrap { epoch: second, ..submit.wraps.0[0].clone() };
    let opened = a.ring.open(&submit.header, &submit.body, &moved, BEGIN);
    assert_eq!(opened.unwrap_err(), cryptography(OpenRequestError::Wrap));
}

#[test]
fn a_changed_recipient_list_is_refused() {
    let (mut a, b, c) = (Provider::new("a"), Provider::new("b"), Provider::new("c"));
    let honest = seal(header(), PLAINTEXT, &[&a, &b], "client");
    let other = seal(header(), PLAINTEXT, &[&a, &c], "client");
    assert_ne!(honest.header.recipients, other.header.recipients);
    assert_eq!(honest.header.key_commitment, other.header.key_commitment, "the same randomness");
    let changed = SealedHeader { recipients: other.header.recipients, ..honest.header.clone() };
    let opened = a.ring.open(&changed.encode(), &honest.submit.body, &honest.submit.wraps.0[0], BEGIN);
    assert_eq!(opened.unwrap_err(), cryptography(OpenRequestError::Wrap));
}

/// Every bit of header, body, encapsulation and wrap; X25519 ignores a bit of its input, X-Wing does not.
#[test]
fn a_sealed_request_with_any_bit_changed_is_refused() {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), PLAINTEXT, &[&provider], "client");
    let (header, body, wrap) = (&sealed.submit.header, &sealed.submit.body, &sealed.submit.wraps.0[0]);
    let flip = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    let ring = &mut provider.ring;
    for bit in 0..header.len() * 8 {
        assert!(ring.open(&flip(header, bit), body, wrap, BEGIN).is_err(), "bit {bit} of the header");
    }
    for bit in 0..body.len() * 8 {
        let opened = ring.open(header, &flip(body, bit), wrap, BEGIN);
        assert_eq!(opened.unwrap_err(), cryptography(OpenRequestError::Wrap), "bit {bit} of the body");
    }
    for bit in 0..wrap.encapsulation.len() * 8 {
        let wrap = Wrap { encapsulation: flip(&wrap.encapsulation, bit), ..wrap.clone() };
        let opened = ring.open(header, body, &wrap, BEGIN);
        assert_eq!(opened.unwrap_err(), cryptography(OpenRequestError::Wrap), "bit {bit} of the encapsulation");
    }
    for bit in 0..wrap.ciphertext.len() * 8 {
        let wrap = Wrap { ciphertext: flip(&wrap.ciphertext, bit), ..wrap.clone() };
        assert!(ring.open(header, body, &wrap, BEGIN).is_err(), "bit {bit} of the wrap");
    }
    assert!(ring.open(header, body, wrap, BEGIN).is_ok(), "none of them was remembered as opened");
}

#[test]
fn a_sealed_request_that_is_cut_or_longer_is_refused() {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), PLAINTEXT, &[&provider], "client");
    let (header, body, wrap) = (&sealed.submit.header, &sealed.submit.body, &sealed.submit.wraps.0[0]);
    let mut refused = |header: &[u8], body: &[u8], encapsulation: &[u8], ciphertext: &[u8]| {
        let wrap = Wrap { encapsulation: encapsulation.to_vec(), ciphertext: ciphertext.to_vec(), ..wrap.clone() };
        assert!(provider.ring.open(header, body, &wrap, BEGIN).is_err());
    };
    for cut in 0..header.len() {
        refused(&header[..cut], body, &wrap.encapsulation, &wrap.ciphertext);
    }
    for cut in [0, 1, 15, 16, 17, 1_023, 1_024, body.len() - 1] {
        refused(header, &body[..cut], &wrap.encapsulation, &wrap.ciphertext);
    }
    for cut in [0, 1, 32, 1_088, 1_119] {
        refused(header, body, &wrap.encapsulation[..cut], &wrap.ciphertext);
    }
    for cut in 0..wrap.ciphertext.len() {
        refused(header, body, &wrap.encapsulation, &wrap.ciphertext[..cut]);
    }
    let longer = |bytes: &[u8]| [bytes, &[0]].concat();
    refused(&longer(header), body, &wrap.encapsulation, &wrap.ciphertext);
    refused(header, &longer(body), &wrap.encapsulation, &wrap.ciphertext);
    refused(header, body, &longer(&wrap.encapsulation), &wrap.ciphertext);
    refused(header, body, &wrap.encapsulation, &longer(&wrap.ciphertext));
}

#[test]
fn a_second_opening_in_the_same_epoch_is_refused_as_a_replay() {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), PLAINTEXT, &[&provider], "client");
    assert!(open(&mut provider, &sealed, 0).is_ok());
    let error = open(&mut provider, &sealed, 0).unwrap_err();
    assert_eq!((error.code(), error), (RefusalCode::Replayed, OpenError::Replayed));
}

#[test]
fn nothing_in_clear_depends_on_the_text_but_its_bucket() {
    let provider = Provider::new("a");
    let sizes = |plaintext: &[u8]| {
        let sealed = seal(header(), plaintext, &[&provider], "client");
        (sealed.submit.header.len(), sealed.submit.body.len(), sealed.submit.wraps.0[0].ciphertext.len())
    };
    assert_eq!(sizes(b""), sizes(&[b'x'; 1_020]));
    assert_ne!(sizes(b""), sizes(&[b'x'; 1_021]));
    // Equal texts sealed with other randomness share nothing.
    let [one, two] = ["one", "two"].map(|label| seal(header(), PLAINTEXT, &[&provider], label));
    assert_ne!(one.submit.body, two.submit.body);
    assert_ne!(one.header.key_commitment, two.header.key_commitment);
    assert_ne!(one.submit.wraps.0[0].encapsulation, two.submit.wraps.0[0].encapsulation);
}

#[test]
fn the_largest_request_fits_and_the_next_does_not() {
    let mut provider = Provider::new("a");
    let largest = vec![b'x'; (1 << 20) - 4];
    let sealed = seal(header(), &largest, &[&provider], "client");
    assert_eq!(sealed.submit.body.len(), limits::BODY_BYTES_MAX);
    assert_eq!(open(&mut provider, &sealed, 0).unwrap().plaintext.expose(), largest);
    assert!(body_size(largest.len() + 1).is_err());
}

#[test]
fn sealing_to_nobody_to_too_many_twice_or_to_rubbish_is_refused() {
    let provider = Provider::new("a");
    let key = provider.sealing_key(&provider.current());
    let one = Recipient { provider: provider.id, epoch: provider.current(), sealing_key: &key };
    let attempt = |recipients: &[Recipient<'_>]| {
        seal_request(header(), &SecretBytes::new(PLAINTEXT.to_vec()), recipients, &mut FixedRng::new("client"))
            .map(drop)
            .unwrap_err()
    };
    assert_eq!(attempt(&[]), SealError::Recipients(0));
    let many: Vec<_> = (0..9).map(|index| Recipient { provider: ProviderId([index; 32]), ..one }).collect();
    assert_eq!(attempt(&many), SealError::Recipients(9));
    assert_eq!(attempt(&[many[0], one, one]), SealError::Twice(one.provider));
    // Coefficients of 4,095 are over ML-KEM's modulus (FIPS 203 section 7.2).
    for rubbish in [vec![], key[1..].to_vec(), [key.clone(), vec![0]].concat(), vec![0xff; 1_216]] {
        assert_eq!(attempt(&[Recipient { sealing_key: &rubbish, ..one }]), SealError::SealingKey(one.provider));
    }
    assert!(
        seal_request(header(), &SecretBytes::new(vec![0; 1 << 20]), &[one], &mut FixedRng::new("client"))
            .is_err_and(|error| matches!(error, SealError::TooLong(_)))
    );
}

#[test]
fn nothing_secret_stands_in_debug_output() {
    let mut provider = Provider::new("a");
    let sealed = seal(header(), PLAINTEXT, &[&provider], "client");
    let opened = open(&mut provider, &sealed, 0).unwrap();
    let shown = format!("{opened:?} {:?}", provider.ring);
    assert!(!shown.contains("what the consumer"));
    let secret = sealed.response_secret(&provider.id, &provider.current()).unwrap();
    assert_eq!(format!("{secret:?}"), "ResponseSecret(…)");
    assert!(shown.contains("ResponseSecret(…)") && shown.contains("SecretBytes(…)"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_opens_as_it_was_sealed(text in proptest::collection::vec(any::<u8>(), 0..5_000), recipients in 1_usize..=8) {
        let mut providers: Vec<_> = (0..recipients).map(|index| Provider::new(&index.to_string())).collect();
        let sealed = seal(header(), &text, &providers.iter().collect::<Vec<_>>(), "client");
        prop_assert_eq!(sealed.submit.body.len(), body_size(text.len()).unwrap() + 16);
        let opened = open(&mut providers[recipients - 1], &sealed, recipients - 1).unwrap();
        prop_assert_eq!(opened.plaintext.expose(), text);
    }

    #[test]
    fn rubbish_is_refused(
        header in proptest::collection::vec(any::<u8>(), 0..600),
        body in proptest::collection::vec(any::<u8>(), 0..100),
        encapsulation in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1_120),
            proptest::collection::vec(any::<u8>(), 0..1_200)
        ],
        ciphertext in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut provider = Provider::new("a");
        let sealed = seal(crate::parties::header(), PLAINTEXT, &[&provider], "client");
        let wrap = Wrap { provider: provider.id, epoch: provider.current(), encapsulation, ciphertext };
        prop_assert!(provider.ring.open(&header, &body, &wrap, BEGIN).is_err());
        prop_assert!(provider.ring.open(&sealed.submit.header, &body, &wrap, BEGIN).is_err());
        prop_assert!(provider.ring.open(&sealed.submit.header, &sealed.submit.body, &wrap, BEGIN).is_err());
    }
}
