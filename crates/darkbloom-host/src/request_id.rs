//! The name of one HTTP request: what a person quotes when they ask for help, and what the log says beside an error.

use rand_core::Rng as _;

use crate::clock;

/// Where it stands in an answer.
pub const HEADER: &str = "x-request-id";

/// A fresh one: `req_` and 24 hex digits.
#[must_use]
pub fn fresh() -> String {
    // 96 bits of randomness, as one number.
    let id = u128::from(clock::rng().next_u64()) << 32 | u128::from(clock::rng().next_u32());
    format!("req_{id:024x}")
}
