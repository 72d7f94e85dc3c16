//! The provider against a coordinator that follows a script: what no honest coordinator sends, links that break, and what
//! the provider remembers from one connection to the next. Real sockets, a real WebSocket server, the real model.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail by panicking, and look for one frame among all"
)]

mod coordinator;
mod engine;
mod hostile;
mod pace;
mod prefix;
mod reconnecting;
mod salts;
