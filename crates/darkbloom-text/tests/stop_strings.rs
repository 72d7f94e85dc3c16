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
    assert!(scanner.finish().is_empty());
}

#[test]
fn what_only_looked_like_a_stop_string_is_given_back() {
    let mut scanner = StopScanner::new(&secrets(&["aab".to_owned()]));
    assert_eq!(scanner.push("aa").emit.expose(), "");
    // The first letter is free, the two that follow could still be its beginning.
    assert_eq!(scanner.push("a").emit.expose(), "a");
    assert_eq!(scanner.finish().expose(), "aa");
}

#[test]
fn debug_shows_no_text() {
    let mut scanner = StopScanner::new(&secrets(&["violet".to_owned()]));
    let scan = scanner.push("red viol");
    let shown = format!("{scanner:?} {scan:?}");
    assert!(!shown.contains("viol") && !shown.contains("red"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]
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
        shown.push_str(scanner.finish().expose());
        prop_assert_eq!((shown, stopped), reference(&stops, &pieces.concat()));
    }
}
