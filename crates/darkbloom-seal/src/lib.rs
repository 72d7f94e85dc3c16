//! Sealing and opening: requests, answers, epochs, and the checks of receipts and bills.
//!
//! Owns every key derivation of the network and the form of every plaintext's padding. It must never choose a peer, keep
//! time, read global randomness, or know what is inside a body or an answer: those are opaque bytes here. Client and
//! provider depend on it; the coordinator uses the receipt and request digests alone and holds no key that opens
//! anything.
//!
//! ```text
//! content key K ──HKDF──▶ body key ──AES-256-GCM──▶ body            (K is fresh for each request)
//!       │
//!       └─ HPKE(X-Wing) to each candidate, AAD = header digest ‖ body digest ‖ recipient digest ──▶ wrap
//!                       │
//!                       └─ exporter ──▶ response secret ──HKDF(salt, attempt)──▶ answer key, nonce base
//! ```
//!
//! The answer never uses the content key, and its key depends on a salt that the provider draws for each acceptance: two
//! providers, or one provider that opens the same request twice, never encrypt under one key.

#![forbid(unsafe_code)]

mod answer;
mod epoch;
mod padding;
mod receipt;
mod request;

pub use answer::{
    Acceptance, AnswerError, AnswerOpener, AnswerSealer, FRAME_SIZES, SealedFrame, Transcript, frame_size,
    open_refusal, seal_refusal,
};
pub use epoch::{EPOCH_OPEN, EPOCH_USE, Epoch, EpochRing, OpenError, REPLAYS_MAX, ReceiptKey};
pub use padding::{PaddingError, body_size, pad, unpad};
pub use receipt::{BillError, BillExpectation, ReceiptError, ReceiptExpectation, check_bill, check_receipt};
pub use request::{
    OpenRequestError, Opened, Recipient, RequestSeal, ResponseSecret, SealError, request_digest, seal_request,
};
