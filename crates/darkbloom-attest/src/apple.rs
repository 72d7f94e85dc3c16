//! Evidence of Apple: of a Mac that is managed, and of an app on it.
//!
//! ```text
//! Apple's enterprise root ─▶ … ─▶ device's certificate ─▶ identity key, SIP, Secure Boot, kernel extensions
//! Apple's App Attest root ─▶ … ─▶ app's key ─┬─ attestation ─▶ identity key
//!                                            └─ assertion ───▶ epoch
//! ```
//!
//! Neither raises a tier. No evidence of a real Mac has been verified by this code: its own tests make the chains that they
//! verify. Until that changes, what comes of it is shown and nothing more, and `evidence::shadow` has no way to do more.

mod app_attest;
mod mda;
mod object;

pub use app_attest::{AppleAppAttestError, AppleAppAttestFindings, verify_apple_app_attest};
pub use mda::{AppleMdaError, AppleMdaFindings, verify_apple_mda};

use darkbloom_types::UnixMillis;

use crate::certificates::{Certificate, ChainError, Purpose, Roots};

/// A certificate of Apple's for a device or an app, and the root that it leads to.
fn follow<'a>(
    leaf: &[u8],
    between: impl IntoIterator<Item = &'a [u8]>,
    roots: &Roots,
    now: UnixMillis,
) -> Result<(Certificate, String), ChainError> {
    let leaf = Certificate::read(leaf)?;
    let between: Vec<_> = between.into_iter().map(Certificate::read).collect::<Result<_, _>>()?;
    // Apple's older certificates state no purpose: its extensions say what they are, and both verifiers look at them.
    let root = roots.follow(&leaf, &between, Purpose::Unstated, now)?;
    Ok((leaf, root))
}
