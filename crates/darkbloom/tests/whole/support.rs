//! What the tests stand on: processes, an HTTP client, and a network made of them.

pub mod http;
pub mod network;
pub mod process;

use std::time::{Duration, Instant};

/// No wait in these tests is longer: a hundred times what a step takes on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until it sees something, or fails the test.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
