//! Keys in a TPM 2.0, and what they prove, on a real software TPM.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

mod evidence;
mod homes;
mod keys;
mod rotation;
#[path = "../shared/steps.rs"]
mod steps;
mod swtpm;
