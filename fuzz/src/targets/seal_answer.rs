//! Opening an answer and a refusal's words: only the genuine next frame opens, and nothing does after another one.

#![no_main]

use std::sync::LazyLock;

use darkbloom_fuzz::{Input, memory, parties};
use darkbloom_seal::{AnswerError, AnswerOpener, RequestSeal, SealedFrame, open_refusal, seal_refusal};
use darkbloom_types::TokenCount;
use libfuzzer_sys::fuzz_target;

static SEALED: LazyLock<RequestSeal> = LazyLock::new(parties::sealed);
static ANSWER: LazyLock<Vec<SealedFrame>> = LazyLock::new(|| parties::answer(&SEALED));
const SALT: [u8; 32] = [3; 32];

fn refusal(input: Input<'_>) {
    let acceptance = parties::acceptance(&SEALED);
    let secret = SEALED.response_secret(&acceptance.provider, &acceptance.epoch).expect("it was sealed to this one");
    let words = seal_refusal(secret, &SEALED.request_digest, &SALT, b"no room").expect("short words fit");
    let mut sealed = words.clone();
    let mut input = input;
    if input.byte().is_multiple_of(2) {
        sealed = input.rest().to_vec();
    } else {
        while !input.is_empty() {
            let at = input.short() % sealed.len();
            sealed[at] ^= input.byte();
        }
    }
    match open_refusal(secret, &SEALED.request_digest, &sealed) {
        Ok(opened) => assert_eq!((opened.expose(), &sealed), (&b"no room"[..], &words)),
        Err(_) => assert_ne!(sealed, words),
    }
}

fn answer(mut input: Input<'_>) {
    let acceptance = parties::acceptance(&SEALED);
    let secret = SEALED.response_secret(&acceptance.provider, &acceptance.epoch).expect("it was sealed to this one");
    let mut opener = AnswerOpener::new(secret, &acceptance);
    let (mut next, mut broken) = (0, false);
    while !input.is_empty() {
        let mut frame = ANSWER[usize::from(input.byte()) % ANSWER.len()].clone();
        match input.byte() % 8 {
            0 => frame.sequence ^= u32::from(input.byte()),
            1 => frame.tokens = TokenCount(u32::from(input.byte())),
            2 => frame.end = input.byte().is_multiple_of(2),
            3 => {
                let at = input.short() % frame.ciphertext.len();
                frame.ciphertext[at] ^= input.byte();
            }
            4 => frame.ciphertext.truncate(usize::from(input.byte())),
            5 => {
                let length = usize::from(input.byte());
                frame.ciphertext = input.take(length).to_vec();
            }
            _ => {}
        }
        let genuine = ANSWER.get(next) == Some(&frame);
        match opener.open(&frame) {
            Ok(content) => {
                assert!(genuine && !broken, "a frame opens that is not the next one");
                next += 1;
                assert_eq!(content.len(), next * 3);
                assert_eq!(opener.tokens(), frame.tokens);
            }
            Err(error) => {
                assert!(!genuine || broken, "the next frame does not open: {error}");
                assert_eq!(error == AnswerError::Broken, broken);
                broken = true;
            }
        }
        assert_eq!(opener.ended(), next == ANSWER.len() && !broken);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let words = input.byte().is_multiple_of(4);
    memory::within((16 << 10) + 4 * bytes.len(), || if words { refusal(input) } else { answer(input) });
});
