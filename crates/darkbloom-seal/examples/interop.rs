//! Checks sealing against the JavaScript implementation in `interop/`, both ways; `interop/run.sh` installs and runs it.
//!
//! `cargo run --release -p darkbloom-seal --example interop`: 0 when both agree, 1 when they do not, 2 when nothing ran.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, reason = "a tool for people at a terminal")]

use std::process::ExitCode;

#[path = "../tests/seal/conversation.rs"]
mod conversation;
#[path = "../tests/seal/fixed.rs"]
mod fixed;
#[path = "../tests/seal/parties.rs"]
#[allow(dead_code, reason = "made for the tests; a conversation takes a part of it")]
mod parties;

fn main() -> ExitCode {
    match std::panic::catch_unwind(conversation::run) {
        Ok(conversation::Outcome::Agreed(summary)) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Ok(conversation::Outcome::Skipped(why)) => {
            eprintln!("nothing ran: {why}");
            ExitCode::from(2)
        }
        Err(_) => ExitCode::FAILURE,
    }
}
