//! The attack suite: what an attacker tries, and that it fails for the reason that it should.
//!
//! Owns the rule by which an attack counts. An attack is a function that says whether the attacker got what he wanted. It is
//! made against the code as it ships, where it must fail; and against a second build, with the one check switched off that
//! is said to stop it, where it must succeed: so no attack passes for a wrong reason. It must never be linked into anything
//! that ships. Attacks on whole programs over real sockets are in `darkbloom/tests/whole/attacks`.

#![forbid(unsafe_code)]

/// Sees that an attack fails; in the second build, also that it succeeds without this check.
///
/// # Panics
/// When it does not.
pub fn fails(check: &'static str, attack: impl Fn() -> bool) {
    #[cfg(feature = "weakened")]
    darkbloom_types::weakened::alone(|| {
        assert!(!attack(), "the attack succeeds");
        let without = darkbloom_types::weakened::without(check, &attack);
        assert!(without, "the attack fails without `{check}` too: that is not what stops it");
    });
    #[cfg(not(feature = "weakened"))]
    assert!(!attack(), "the attack succeeds, against which there is `{check}`");
}

/// Declares attacks: each is a test of its name, and names the check that stops it.
#[macro_export]
macro_rules! attacks {
    ($($(#[$doc:meta])* $name:ident against $check:literal: $attack:expr;)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                $crate::fails($check, $attack);
            }
        )*

        /// The checks that these attacks are against.
        #[cfg(feature = "weakened")]
        pub const CHECKS: &[&str] = &[$($check),*];
    };
}
