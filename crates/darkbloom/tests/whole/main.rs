//! The whole program from outside: the real binary as real processes, over real sockets, with the model that ships.
//!
//! One test binary, so that it is linked once. Each test starts the roles it needs on free ports with data in a
//! temporary folder, and ends them. Nothing of the program is called from here but its command line and its sockets.
//! They look at processes through `/proc`, so they run on Linux.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and tell people what is skipped"
)]

#[allow(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../../../darkbloom-engine/tests/hostile/adapter.rs"]
mod adapter;
mod adapters;
mod attacks;
mod bad_start;
mod concurrency;
mod dev;
mod doctor;
mod doors;
mod embeddings;
mod errors;
mod failure;
#[allow(dead_code, reason = "the engine's own tests use all of it")]
#[path = "../../../darkbloom-engine/tests/hostile/file.rs"]
mod file;
mod formats;
mod http;
#[allow(dead_code, reason = "the provider's own tests use all of it")]
#[path = "../../../darkbloom-provider/tests/models/hub.rs"]
mod hub;
mod key;
mod links;
mod local;
mod models;
mod money;
mod policy;
mod python;
mod restart;
mod roles;
mod rotation;
mod secrecy;
#[allow(dead_code, reason = "the store's own tests use all of it")]
#[path = "../../../darkbloom-store/tests/store/server.rs"]
mod server;
mod settling;
mod several;
mod sockets;
mod status;
mod store;
mod support;
#[allow(dead_code, reason = "the tests of keys use all of it")]
#[path = "../../../darkbloom-keys/tests/tpm/swtpm.rs"]
mod swtpm;
mod tpm;
