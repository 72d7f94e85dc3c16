//! Frames on a byte stream: however the bytes are cut, the same frames come out.

#![no_main]

use darkbloom_fuzz::{Input, memory};
use darkbloom_wire::{LengthPrefixed, limits};
use libfuzzer_sys::fuzz_target;

/// What should come out, read in one piece; whether a length was too large; how many bytes are left over.
fn expected(mut stream: &[u8]) -> (Vec<&[u8]>, bool, usize) {
    let mut frames = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if length > limits::FRAME_BYTES_MAX {
            return (frames, true, stream.len());
        }
        let Some((frame, rest)) = rest.split_at_checked(length) else { break };
        frames.push(frame);
        stream = rest;
    }
    (frames, false, stream.len())
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let step = input.short().max(1);
    let stream = input.rest();
    let (frames, too_long, left) = expected(stream);
    let mut frames = frames.into_iter();
    memory::within((4 << 10) + 4 * bytes.len(), || {
        let mut reader = LengthPrefixed::default();
        for piece in stream.chunks(step) {
            reader.push(piece);
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => {
                        assert_eq!(Some(frame), frames.next());
                        assert_eq!(&LengthPrefixed::wrap(frame)[4..], frame);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        assert!(too_long, "a length within the limit is refused");
                        assert_eq!(frames.next(), None);
                        return;
                    }
                }
            }
        }
        assert_eq!(frames.next(), None, "a whole frame is held back");
        assert!(!too_long, "a length over the limit is taken");
        assert_eq!(reader.is_empty(), left == 0);
    });
});
