//! One request's life, as the client, the coordinator and the provider each see it.
//!
//! Owns the order of events, the waits and the attempts: three machines that take events and `now` and return what to do.
//! They must never touch a socket, a clock, a key or a plaintext: payloads pass as opaque bytes. The apps drive them;
//! simulations step them against each other.
//!
//! ```text
//! coordinator:  Holding ─▶ Routing ─▶ Offered ─▶ Accepted ─▶ Streaming ─▶ Ending ─▶ Settling ─▶ Over
//!                  │          │ ▲        │           │            │          (receipt)
//!                  ▼          ▼ │        ▼           ▼            ▼
//!               refused    Queued    next attempt  next attempt  cut: settle what was relayed
//!                                    or reseal     (no content)
//!                                    (after a cancel: Cancelling until the provider says that its row is free)
//!
//! client:       Submitted ─▶ Accepted ─▶ Streaming ─▶ Ended ─▶ Over   (reseal: back to Submitted, at most twice)
//!
//! provider:     Offered ─▶ Running ─▶ Finished                     (cancel: acknowledged once, row freed)
//! ```
//!
//! [`RelayPhase`] and [`ClientPhase`] are the names in the first two.

#![forbid(unsafe_code)]

mod client;
mod provider;
mod relay;

pub use client::{ClientAction, ClientPhase, ClientSession, Protocol};
pub use provider::{CancelAction, OfferError, ProviderStreams, STREAMS_MAX};
pub use relay::{
    Delivered, RelayAction, RelayEvent, RelayPhase, RelaySession, RelayTerms, Released, RouteFailure, waits,
};
