//! The network's vocabulary: ids, digests, money, token counts, times, tiers, and the wrappers that keep secrets unprintable.
//!
//! Owns the meaning and the units of every value that more than one part exchanges. It must never read a clock, a file,
//! a socket or global randomness, and must never offer a way to print a secret. Everything may depend on it; it depends
//! on nothing of ours.

#![forbid(unsafe_code)]

/// Whether the check of this name is made: always, in everything that ships. It stands before each check that the attack
/// suite switches off, in a build of its own, to see that it is what stops an attack.
#[cfg(not(feature = "weakened"))]
#[macro_export]
macro_rules! armed {
    ($name:literal) => {
        true
    };
}

/// Whether the check of this name is made: unless the attack suite has switched it off.
#[cfg(feature = "weakened")]
#[macro_export]
macro_rules! armed {
    ($name:literal) => {
        $crate::weakened::armed($name)
    };
}

/// Whether checks can be switched off in this build.
pub const WEAKENED: bool = cfg!(feature = "weakened");

#[cfg(feature = "weakened")]
pub use darkbloom_weakened as weakened;

mod gate;
mod id;
mod kept;
mod money;
mod rate;
mod refusal;
mod secret;
mod standing;
mod tier;
mod time;
mod turns;

pub use gate::Gate;
pub use id::{
    AccountId, AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, KeyId, NetworkId, OperationId,
    ParseIdError, ProviderId, ReceiptId, RequestId, StreamId,
};
pub use kept::{Keeper, Kept, OnHeap, scrub_stack};
pub use money::{MoneyError, NanoDollars, Price, TokenCount};
pub use rate::{Meter, PerMinute, RateLeft};
pub use refusal::{Refusal, RefusalClass, RefusalCode, error_type};
pub use secret::{SecretBytes, SecretString, SecretTokens, SecretVector, TokenId};
pub use standing::{Distrust, Failed, Standing};
pub use tier::{ParseTierError, Tier};
pub use time::{Micros, Millis, MonoMillis, UnixMillis};
pub use turns::Turns;
