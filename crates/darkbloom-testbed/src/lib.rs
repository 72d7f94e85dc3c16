//! Whole networks for tests and measurements: real roles over real sockets in one process, or the pure machines alone under
//! a virtual clock ([`simulation`]).
//!
//! Owns how a network is put together for a purpose of ours and how two things are timed side by side. It must never be a
//! dependency of what ships.

#![forbid(unsafe_code)]

mod bare;
pub mod floor;
mod network;
mod questions;
mod rounds;
pub mod simulation;

pub use bare::{BareError, BareLoop};
pub use network::{Admin, Answered, Network, NetworkError, sampled_request};
pub use questions::{Question, ReadQuestionsError, read_questions};
pub use rounds::{Comparison, median};
