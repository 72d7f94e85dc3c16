//! What sealing promises, checked through its public surface.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

mod answers;
mod conversation;
mod epochs;
mod fixed;
#[path = "../../../darkbloom-wire/tests/wire/golden.rs"]
mod golden;
mod javascript;
mod known_answers;
mod parties;
mod receipts;
mod reference;
mod requests;
mod vectors;
