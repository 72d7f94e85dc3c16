//! Evidence in, verdict out: how much about a provider is proven, by whom, and what is not defended.
//!
//! Owns the verification of statements, challenge proofs and coordinators, and the meaning of tiers. It must never read a clock, touch a
//! network, or take a provider's word for a claim that raises its tier. Client and coordinator run this same code.

#![forbid(unsafe_code)]

mod coordinator;
mod limits;
mod manifest;
mod statement;

pub use coordinator::{CoordinatorError, verify_coordinator, verify_welcome};
pub use limits::{Defence, Undefended, undefended};
pub use manifest::{SINGLE_FILE, weights_root};
pub use statement::{
    Claim, ClaimSource, StatementError, Trust, TrustPolicy, Verdict, verify_challenge, verify_statement,
};
