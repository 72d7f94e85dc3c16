//! Opening a request: whatever is done to header, body and wrap, only what was sealed opens, and only once.

#![no_main]

use std::sync::LazyLock;

use darkbloom_fuzz::{Input, memory, parties};
use darkbloom_seal::RequestSeal;
use darkbloom_wire::{ClientFrame, Decoded};
use libfuzzer_sys::fuzz_target;

static SEALED: LazyLock<RequestSeal> = LazyLock::new(parties::sealed);

/// Overwrites bytes where the input says.
fn change(bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let (at, length) = (input.short() % (bytes.len() + 1), usize::from(input.byte() % 64));
    let with = input.take(length);
    if input.byte().is_multiple_of(4) {
        bytes.splice(at..at, with.iter().copied());
    } else {
        let end = (at + with.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&with[..end - at]);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let genuine = &SEALED.submit;
    let mut input = Input::new(bytes);
    let submit = if input.byte().is_multiple_of(2) {
        // A whole frame, as it would arrive.
        let Ok(Decoded::Known(ClientFrame::Submit(submit), _)) = ClientFrame::decode(input.rest()) else { return };
        submit
    } else {
        let mut submit = genuine.clone();
        while !input.is_empty() {
            let wrap = &mut submit.wraps.0[0];
            match input.byte() % 6 {
                0 => change(&mut submit.header, &mut input),
                1 => change(&mut submit.body, &mut input),
                2 => change(&mut wrap.encapsulation, &mut input),
                3 => change(&mut wrap.ciphertext, &mut input),
                4 => wrap.epoch.0[usize::from(input.byte() % 16)] ^= input.byte(),
                _ => submit.body.truncate(input.short()),
            }
        }
        submit
    };
    let length = submit.body.len();
    memory::within((256 << 10) + 8 * length, || {
        let mut ring = parties::ring();
        for wrap in &submit.wraps.0 {
            match ring.open(&submit.header, &submit.body, wrap, parties::NOW) {
                Ok((header, opened)) => {
                    assert_eq!((&submit.header, &submit.body), (&genuine.header, &genuine.body));
                    let ours = &genuine.wraps.0[0];
                    assert_eq!((&wrap.encapsulation, &wrap.ciphertext), (&ours.encapsulation, &ours.ciphertext));
                    assert_eq!((header.encode(), opened.plaintext.expose()), (submit.header.clone(), &b"violet"[..]));
                    assert!(ring.open(&submit.header, &submit.body, wrap, parties::NOW).is_err(), "it opens twice");
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
});
