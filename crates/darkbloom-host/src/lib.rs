//! What every app takes from the machine that it runs on: time, randomness, and a listening socket.
//!
//! Owns the system's clock and randomness as pure machines are given them, and serving HTTP with limits from start to
//! stop: how many connections there are, and how long a peer may take for a request's head, its body, and for taking an
//! answer. It must never know what is served. The three apps depend on it.

#![forbid(unsafe_code)]

pub mod body;
pub mod clock;
pub mod listen;
pub mod request_id;
