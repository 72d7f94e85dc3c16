//! Another language's implementation agrees with ours.

use crate::conversation::{Outcome, run};

#[test]
#[allow(clippy::print_stderr, reason = "a check that did not run must not look like one that did")]
fn a_javascript_client_opens_what_we_seal_and_seals_what_we_open() {
    match run() {
        Outcome::Agreed(summary) => eprintln!("{summary}"),
        Outcome::Skipped(why) => eprintln!("SKIPPED, the JavaScript check did not run: {why}"),
    }
}
