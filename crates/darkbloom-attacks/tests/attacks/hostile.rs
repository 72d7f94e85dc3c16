//! A provider that says what it likes: the one of the attacks on whole programs.

#[allow(dead_code, clippy::wildcard_enum_match_arm, reason = "other tests need more of it")]
#[path = "../../../darkbloom/tests/whole/attacks/hostile/provider.rs"]
pub mod provider;

pub use darkbloom_host::clock::{now, rng};

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand_core::Rng::fill_bytes(&mut rng(), &mut bytes);
    bytes
}
