//! The providers of a network: who is connected, who may get work, who gets the next request.
//!
//! Owns the life cycle of providers, eligibility (one pure function, one closed list of reasons), routing among the
//! candidates of a sealed request, and the queue for room. It must never verify a signature (verdicts come in), touch a
//! socket or read a clock. The coordinator drives it. Silence, challenges and pauses are counted on the monotonic clock,
//! so that a jump of the wall clock neither silences nor excuses anybody; epochs end by the wall clock, as signed.
//!
//! ```text
//!            hello verified          challenge due            answered in time
//! Connected ───────────────▶ Ready ────────────────▶ Ready(challenged) ──────▶ Ready
//!     │                        │ heartbeat stale, draining,        │ missed
//!     ▼                        ▼ epoch over, faults                ▼
//!   gone                   not eligible, reason said            not eligible until it answers
//! ```
//!
//! A challenge that is answered wrong, a statement that is wrong, and a key that two processes use make the identity
//! distrusted: [`darkbloom_types::Standing`] has the rules, and it follows the identity through connections and restarts.
//! Another connection of an identity takes over once it has introduced itself, which takes an answered challenge; the older
//! one gets no more work and, if it is another process's, finishes what it has.
//!
//! The queue holds requests that somebody could take if there were room, each with those whom it is sealed to, in the
//! order of first arrival. A row that becomes free wakes the first who can use it; the others keep their places.
//!
//! ```text
//!          route: busy              room for it, or nobody left          route: a row
//! (routed) ───────────▶ Waiting ──────────────────────────────▶ Woken ────────────────▶ (gone)
//!                          ▲                                     │ │ leaves, or took another's row:
//!                          └────── route: busy, at its place ────┘ └──────▶ wakes the next
//! ```

#![forbid(unsafe_code)]

mod eligibility;
mod provider;
mod queue;
mod registry;

pub use eligibility::Ineligible;
pub use provider::{Registration, Stated, times};
pub use registry::{
    CandidateView, NotRegistered, ProviderView, Registered, Registry, Replaced, RouteError, RouteRequest,
};
