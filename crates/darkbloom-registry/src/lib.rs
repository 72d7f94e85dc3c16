//! The providers of a network: who is connected, who may get work, who gets the next request.
//!
//! Owns the life cycle of providers, eligibility (one pure function, one closed list of reasons), routing among the
//! candidates of a sealed request, and the queue for room. It must never verify a signature (verdicts come in), touch a
//! socket or read a clock. The coordinator drives it.
//!
//! ```text
//!            hello verified          challenge due            answered in time
//! Connected ───────────────▶ Ready ────────────────▶ Ready(challenged) ──────▶ Ready
//!     │                        │ heartbeat stale, draining,        │ missed
//!     ▼                        ▼ epoch over, faults                ▼
//!   gone                   not eligible, reason said            untrusted until it answers
//! ```

#![forbid(unsafe_code)]

mod eligibility;
mod provider;
mod queue;
mod registry;

pub use eligibility::Ineligible;
pub use provider::{Registration, times};
pub use registry::{CandidateView, ProviderView, Registry, RouteError, RouteRequest};
