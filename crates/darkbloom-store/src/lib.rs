//! What a coordinator must not forget: accounts, keys, holds, settlements, catalogue, prices; and what a provider must
//! not: receipts that nobody has acknowledged.
//!
//! Owns the database, a folder of SQLite or one of a Postgres server, its schema and its durability: when a method of [`Store`] returns, what it did survives a crash
//! of the process and of the machine. It decides nothing about money (`darkbloom-ledger` does) and must never be given
//! a prompt, an answer, or a key in clear: keys arrive as SHA-256 digests. Applications may depend on it.
//!
//! ```text
//!  callers ──bounded queue──▶ writer thread: BEGIN · job · job · … · COMMIT (one fsync) ──▶ replies, caches
//!     │                          each job in its own savepoint: a refused one undoes nothing of the others
//!     └─────bounded queue──▶ reader thread: sees the last COMMIT, so a caller reads what it was told was written
//! ```
//!
//! Both databases are spoken to in one dialect (`sql.rs`): each statement that moves money is written once.
//!
//! Jobs that arrive while a COMMIT runs form the next group, so one fsync serves as many callers as there are waiting.
//! A future that is dropped does not take its job back.

#![forbid(unsafe_code)]

mod accounts;
mod cache;
mod catalogue;
mod database;
mod error;
mod folder;
mod keys;
mod ledger;
mod location;
mod maintenance;
mod migrate;
mod network;
mod outbox;
mod prices;
mod reader;
mod receipt_keys;
mod sql;
mod standing;
mod store;
mod trail;
mod writer;

pub use accounts::{
    AccountRow, CreateAccountError, DepositError, DepositRow, DepositState, Deposited, NewDeposit, ReferralError,
};
pub use catalogue::{CatalogueRow, PutBlobError};
pub use error::{OpenStoreError, StoreError};
pub use keys::{CreateKeyError, KeyKind, KeyRecord, KeyTerms, NewKey};
pub use ledger::{
    DisputeError, DisputeRow, Earnings, Flow, Flows, InviteRow, JobRow, MachineRow, Moved, Movement, PayoutError,
    PayoutRow, PlaceHoldError, RedeemError, Redeemed, SettleError, Settlement, UsageRow, book_name,
};
pub use location::{PostgresUrl, PostgresUrlError, StoreLocation, StorePlace};
pub use maintenance::{BackupError, InspectError, RestoreError};
pub use outbox::{OutboxPut, ReceiptOutbox};
pub use prices::{PriceRow, PriceScope, PutPriceError};
pub use standing::{NOTE_BYTES_MAX, StandingRow, SuccessionError, SuccessionRefusal};
pub use store::{Migrated, Store, StoreOptions};
pub use trail::{TrailError, TrailRow};
