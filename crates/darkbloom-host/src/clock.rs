//! The two things that pure machines are given from outside: time and randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use darkbloom_types::UnixMillis;

/// The system's clock. A clock before 1970 reads as 1970, and every skew check then fails closed.
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// The system's randomness. It panics when the system has none: nothing can be done safely then.
pub fn rng() -> rand_core::UnwrapErr<getrandom::SysRng> {
    rand_core::UnwrapErr(getrandom::SysRng)
}
