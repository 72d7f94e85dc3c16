//! The store through its public surface, on a real SQLite and a real Postgres.

// Clippy takes only functions marked as tests for tests; what they call belongs to them.
#![allow(clippy::unwrap_used)]

/// Makes a test `sqlite::NAME` and a test `postgres::NAME` of each function: what a store does is the same on both.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(crate::support::Home::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::$name(crate::support::Home::postgres()).await;
            })*
        }
    };
}

mod durability;
mod folder;
mod model;
mod money;
mod opening;
mod receipt_keys;
mod records;
mod server;
mod standing;
mod support;
