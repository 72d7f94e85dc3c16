//! Stop strings: what comes out does not depend on how the answer was cut, and is what a plain search gives.

#![no_main]

use darkbloom_content::{STOP_BYTES_MAX, STOPS_MAX};
use darkbloom_fuzz::{Input, memory, text};
use darkbloom_text::StopScanner;
use darkbloom_types::SecretString;
use libfuzzer_sys::fuzz_target;

/// The answer up to the stop string that is complete first; of several that end there, the longest.
fn expected<'t>(answer: &'t str, stops: &[SecretString]) -> (&'t str, bool) {
    let found = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
        let at = answer.find(stop.expose())?;
        Some((at + stop.len(), at))
    });
    found.min().map_or((answer, false), |(_, at)| (&answer[..at], true))
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let stops: Vec<SecretString> = (0..usize::from(input.byte()) % (STOPS_MAX + 1))
        .map(|_| {
            let length = usize::from(input.byte()).min(STOP_BYTES_MAX);
            SecretString::from(text(input.take(length)).as_ref())
        })
        .collect();
    let step = usize::from(input.byte()).max(1);
    let answer = text(input.rest());
    memory::within((8 << 10) + 16 * bytes.len(), || {
        let mut scanner = StopScanner::new(&stops);
        let (mut shown, mut stopped) = (String::new(), false);
        let mut rest = answer.as_ref();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.ceil_char_boundary(step));
            let scan = scanner.push(piece);
            assert!(!stopped || (scan.stopped && scan.emit.is_empty()), "something follows after a stop string");
            shown.push_str(scan.emit.expose());
            stopped = scan.stopped;
            rest = after;
        }
        shown.push_str(scanner.flush().expose());
        assert_eq!((shown.as_str(), stopped), expected(&answer, &stops));
    });
});
