//! Who owes whom: double-entry books, holds, charges, settlement, and the auditor of all of them.
//!
//! Owns the rules by which money moves. Every movement is a [`Transfer`] whose legs sum to zero, so all books together
//! always sum to zero. It must never read a clock, a file, a socket or global randomness, and never keeps anything
//! itself: a keeper (the store, or the reference [`Model`]) shows it what stands in the books, and it answers with the
//! transfers to write. The store, the coordinator and tests may depend on it.
//!
//! One hold's life:
//!
//! ```text
//!              place (worst case: Available → Held)
//!                │
//!                ▼
//!             ┌──────┐  settle: content was relayed     ┌─────────┐
//!             │ Open │ ───────────────────────────────▶ │ Settled │   Held → Earned, Platform, rest → Available
//!             └──────┘                                  └─────────┘
//!                │                                           ▲
//!                │ void: refused, silent, expired,           │ settle_late: a receipt presented again within
//!                │ superseded, or nothing was relayed        │ 24 h, not superseded, operation not settled
//!                ▼                                           │
//!             ┌────────┐ ─────────────────────────────────────┘   Available → Earned, Platform
//!             │ Voided │   Held → Available
//!             └────────┘
//! ```
//!
//! The first terminal event wins; every later one is answered with the first one's result. An operation belongs to
//! the account that placed it: it has at most one open hold and is settled at most once, and the same operation id
//! under another account is another operation.
//!
//! What a settlement pays stays where it can be taken back from for as long as its consumer may dispute it:
//!
//! ```text
//! Earned, Referral ──24 h──▶ Withdrawable ──▶ Withdrawing ──▶ Withdrawals     or ──▶ Available, to be spent
//!        │  ▲                                      │
//!        ▼  │ for the provider                     └──▶ Withdrawable, if it did not arrive
//!     Disputed ──▶ Available of the consumer
//! ```

#![forbid(unsafe_code)]

mod agreement;
mod audit;
mod book;
mod budget;
mod charge;
mod decide;
mod dispute;
mod hold;
mod invite;
mod model;
mod payout;

pub use agreement::{Agreement, BasisPoints, BasisPointsError, Division, Shares};
pub use audit::{AuditFinding, AuditReport, audit};
pub use book::{Book, Leg, Transfer, TransferError};
pub use budget::{Budget, BudgetPeriod, Spender};
pub use charge::{Charge, Delivered, ReceiptUsage, charge};
pub use decide::{
    Closing, DepositRefusal, LATE_SETTLEMENT_WINDOW, LateRefusal, OperationView, PlaceRefusal, PlaceView, Placement,
    Verdict, deposit, place, settle, settle_late, void,
};
pub use dispute::{
    DISPUTE_WINDOW, Decision, DisputeRefusal, Matured, Recount, decide_dispute, dispute, mature, release,
};
pub use hold::{
    Balance, HoldRecord, HoldRequest, HoldState, HoldTerms, Kept, Settled, TermsError, VoidCause, worst_case,
};
pub use invite::{Invite, InviteRefusal};
pub use model::{Model, Payout};
pub use payout::{PayoutRefusal, PayoutState, advance_payout, request_payout, spend_earnings};
