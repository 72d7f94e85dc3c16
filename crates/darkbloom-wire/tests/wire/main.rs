//! What the wire promises, checked through its public surface.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

mod cose;
mod described;
mod golden;
mod hostile;
mod keys;
mod known_answers;
mod make;
mod reader;
mod round_trips;
mod unknown_keys;
mod vectors;
