//! The store through its public surface, on real files.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

mod durability;
mod folder;
mod model;
mod money;
mod receipt_keys;
mod records;
mod standing;
mod support;
