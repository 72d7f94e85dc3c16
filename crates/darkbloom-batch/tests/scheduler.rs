//! Claims about the scheduler, held by a tiny model of a model's memory that notices every broken rule.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

#[path = "scheduler/admission.rs"]
mod admission;
#[path = "scheduler/arrivals.rs"]
mod arrivals;
#[path = "scheduler/guessing.rs"]
mod guessing;
#[path = "scheduler/memory.rs"]
mod memory;
#[path = "scheduler/prefixes.rs"]
mod prefixes;
#[path = "scheduler/steps.rs"]
mod steps;
