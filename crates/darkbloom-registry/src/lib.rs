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
//! What a provider does wrong opens a machine of its own, and one of each of its models: see `health.rs`. What a request
//! would cost at each recipient is in `cost.rs`; the least wins, and among equals whoever answered the conversation last.
//!
//! Nothing that happens for a request looks at the fleet: recipients are found by name, candidates are drawn from an index
//! that each event of a provider keeps (`index.rs`), and what time alone changes is in a list by time, looked at once a
//! second (`registry/keeping.rs`). Only what an operator or an auditor asks for goes through all providers, in pages.
//!
//! The queue holds requests that somebody could take if there were room, each with those whom it is sealed to. Accounts
//! take turns, each in the order of first arrival. A row that becomes free wakes the first who can use it; the others keep
//! their places. Whoever would wait for too long is refused at once, and told when to come back; who comes back before
//! that, again and again, is refused before anything is held for it (`storms.rs`).
//!
//! ```text
//!          route: busy              room for it, or nobody left          route: a row
//! (routed) ───────────▶ Waiting ──────────────────────────────▶ Woken ────────────────▶ (gone)
//!                          ▲                                     │ │ leaves, or took another's row:
//!                          └────── route: busy, at its place ────┘ └──────▶ wakes the next
//! ```

#![forbid(unsafe_code)]

mod affinity;
pub mod cost;
mod eligibility;
mod fleet;
mod health;
mod index;
mod pace;
mod provider;
mod queue;
mod registry;
mod storms;

pub use eligibility::Ineligible;
pub use health::{Fault, Outcome, Seen};
pub use provider::{Machine, Registration, Stated, times};
pub use queue::{WAIT, WAITING_IN_ALL_MAX, WAITING_MAX};
pub use registry::{
    CandidateView, Counts, NotRegistered, ProviderView, Registered, Registry, Replaced, RouteError, RouteRequest, Row,
    Stating, preload,
};
pub use storms::EARLY_MAX;
