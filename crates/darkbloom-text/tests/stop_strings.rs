//! Stop strings against a reference that looks at the whole answer, letter by letter.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use darkbloom_text::StopScanner;
use darkbloom_types::SecretString;
use proptest::prelude::*;

fn secrets(stops: &[String]) -> Vec<SecretString> {
    stops.iter().map(|stop| SecretString::from(stop.as_str())).collect()
}

/// The answer up to the stop string that is complete first, and whether there was one.
fn reference(stops: &[String], answer: &str) -> (String, bool) {
    for (at, letter) in answer.char_indices() {
        let so_far = &answer[..at + letter.len_utf8()];
        let longest = stops.iter().filter(|stop| so_far.ends_with(stop.as_str())).map(String::len).max();
        if let Some(longest) = longest {
            return (so_far[..so_far.len() - longest].to_owned(), true);
        }
    }
    (answer.to_owned(), false)
}

#[test]
fn a_stop_string_over_three_pieces_never_shows() {
    let mut scanner = StopScanner::new(&secrets(&["STOP".to_owned()]));
    let shown: Vec<_> = ["so S", "TO", "P there"].iter().map(|piece| scanner.push(piece)).collect();
    assert_eq!(shown[0].emit.expose(), "so ");
    assert_eq!(shown[1].emit.expose(), "");
    assert_eq!((shown[2].emit.expose(), shown[2].stopped), ("", true));
    assert!(scanner.push("more").emit.is_empty());
    assert!(scanner.flush().is_empty());
}

#[test]
fn what_only_looked_like_a_stop_string_is_given_back() {
    let mut scanner = StopScanner::new(&secrets(&["aab".to_owned()]));
    assert_eq!(scanner.push("aa").emit.expose(), "");
    // The first letter is free, the two that follow could still be its beginning.
    assert_eq!(scanner.push("a").emit.expose(), "a");
    assert_eq!(scanner.flush().expose(), "aa");
}

#[test]
fn debug_shows_no_text() {
    let mut scanner = StopScanner::new(&secrets(&["violet".to_owned()]));
    let scan = scanner.push("red viol");
    let shown = format!("{scanner:?} {scan:?}");
    assert!(!shown.contains("viol") && !shown.contains("red"), "{shown}");
}

#[test]
fn characters_that_share_their_first_bytes_are_told_apart() {
    // é is c3 a9, è is c3 a8; € is e2 82 ac, ₭ is e2 82 ad; 👍 and 👎 differ in their last byte.
    for (stop, near) in [("é", "è"), ("€", "₭"), ("👍", "👎"), ("a€", "a₭"), ("👍👍", "👍👎")] {
        let mut scanner = StopScanner::new(&secrets(&[stop.to_owned()]));
        let shown = scanner.push(near);
        assert_eq!((shown.emit.expose(), shown.stopped), (near, false));
        let scan = scanner.push(stop);
        assert_eq!((scan.emit.expose(), scan.stopped), ("", true));
    }
}

#[test]
fn overlapping_beginnings_are_found_again() {
    let mut scanner = StopScanner::new(&secrets(&["ééaééb".to_owned(), "éaéc".to_owned()]));
    let shown: String = "ééaééaééb!".chars().map(|c| scanner.push(&c.to_string()).emit.expose().to_owned()).collect();
    assert_eq!(shown, "ééa");
    let mut scanner = StopScanner::new(&secrets(&["ééaééb".to_owned(), "éaéc".to_owned()]));
    let scan = scanner.push("ééaéc and more");
    assert_eq!((scan.emit.expose(), scan.stopped), ("é", true));
}

#[test]
fn repetitions_do_not_make_it_slow() {
    // The worst that a consumer can ask for: every place looks like the beginning of every stop string, to its end.
    let stops: Vec<_> = ["b", "c", "d", "e"].iter().map(|last| format!("{}{last}", "a".repeat(255))).collect();
    let mut scanner = StopScanner::new(&secrets(&stops));
    let mut shown = 0;
    for _ in 0..200_000 {
        shown += scanner.push("aaaa").emit.len();
    }
    assert_eq!(shown + scanner.flush().len(), 800_000);
    let mut whole = StopScanner::new(&secrets(&stops));
    assert_eq!(whole.push(&"a".repeat(16 << 20)).emit.len(), (16 << 20) - 255);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
    #[test]
    fn pieces_of_any_width_make_no_difference(
        // Characters of one to four bytes, some of which differ in the last byte alone.
        stops in prop::collection::vec("[aéè€₭👍👎]{1,5}", 0..5),
        pieces in prop::collection::vec("[aéè€₭👍👎]{0,4}", 0..16),
    ) {
        let mut scanner = StopScanner::new(&secrets(&stops));
        let mut shown: String = pieces.iter().map(|piece| scanner.push(piece).emit.expose().to_owned()).collect();
        shown.push_str(scanner.flush().expose());
        prop_assert_eq!(shown, reference(&stops, &pieces.concat()).0);
    }

    #[test]
    fn pieces_make_no_difference(
        stops in prop::collection::vec("[abé]{1,4}", 0..4),
        pieces in prop::collection::vec("[abcé]{0,5}", 0..12),
    ) {
        let mut scanner = StopScanner::new(&secrets(&stops));
        let (mut shown, mut stopped) = (String::new(), false);
        for piece in &pieces {
            let scan = scanner.push(piece);
            prop_assert!(!stopped || scan.emit.is_empty());
            stopped = scan.stopped;
            shown.push_str(scan.emit.expose());
            // Nothing is shown that the whole answer would not show.
            prop_assert!(reference(&stops, &pieces.concat()).0.starts_with(&shown));
        }
        shown.push_str(scanner.flush().expose());
        prop_assert_eq!((shown, stopped), reference(&stops, &pieces.concat()));
    }
}
