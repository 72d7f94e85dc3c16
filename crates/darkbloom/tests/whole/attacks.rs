//! Attacks that are carried out: hostile consumers, providers and coordinators, over real sockets, against the real
//! binary. Every test is a claim about what an attacker does not get; the tools of the attackers are in `hostile`.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "an attacker waits for one kind of frame and passes over the others"
)]

mod accounts;
mod breaking;
mod browser;
pub mod hostile;
mod impostors;
mod keyless;
mod lies;
mod lists;
mod money;
mod providers;
mod receipts;
mod refusals;
mod replays;
mod secrets;
mod standings;
mod stops;
mod unanswered;
mod updates;
