//! Evidence in, verdict out: how much about a provider is proven, by whom, and what is not defended.
//!
//! Owns the verification of statements, challenge proofs and coordinators, and the meaning of tiers. It must never read a clock, touch a
//! network, or take a provider's word for a claim that raises its tier. Client and coordinator run this same code.

#![forbid(unsafe_code)]

mod activator;
mod apple;
mod boot_log;
mod certificates;
mod coordinator;
mod credential;
mod evidence;
mod limits;
mod manifest;
mod measurements;
mod policy;
mod snp;
mod statement;
mod tdx;
mod tpm;

pub use activator::{ACTIVATION_LIFE, ActivationError, ActivationReply, Activator};
pub use apple::{
    AppleAppAttestError, AppleAppAttestFindings, AppleMdaError, AppleMdaFindings, verify_apple_app_attest,
    verify_apple_mda,
};
pub use boot_log::BootLog;
pub use certificates::{ChainError, Roots, read_pem};
pub use coordinator::{CoordinatorError, verify_coordinator, verify_welcome};
pub use evidence::{Presence, verify_presence};
pub use limits::{Defence, Undefended, undefended};
pub use manifest::{SINGLE_FILE, weights_root};
pub use measurements::{MEASUREMENTS_BYTES_MAX, Measured, Measurements, MeasurementsError};
pub use policy::{Assessment, Mode, POLICY_BYTES_MAX, Policy, PolicyError};
pub use snp::{Product, SnpBits, SnpError, SnpFindings, SnpLevels, verify_snp};
pub use statement::{
    Claim, ClaimSource, Freshness, OpenedStatement, StatementError, Trust, TrustPolicy, Verdict, verify_challenge,
    verify_epoch_proof, verify_opened, verify_statement,
};
pub use tdx::{QuoteOrigin, TdxError, TdxFindings, TdxStatus, tdx_until, verify_tdx};
pub use tpm::{ActivatorKind, HardwareTrust, TpmEvidenceError, TpmFindings, verify_tpm};
