//! The name of one HTTP request: what a person quotes when they ask for help, and what the log says beside an error.

use rand_core::Rng as _;

use crate::clock;

/// Where it stands in an answer.
pub const HEADER: &str = "x-request-id";

/// A fresh one: `req_` and 24 hex digits.
#[must_use]
pub fn fresh() -> String {
    let id: [u8; 12] = {
        let mut id = [0; 12];
        clock::rng().fill_bytes(&mut id);
        id
    };
    id.iter().fold(String::from("req_"), |text, byte| text + &format!("{byte:02x}"))
}
