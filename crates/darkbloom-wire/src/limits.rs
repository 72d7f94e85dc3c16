//! Limits of the wire. A peer that exceeds one is refused by name; `docs/protocol.md` lists them.

use darkbloom_types::Millis;

/// A sealed request body, padded: the plaintext of a 256 K-token context at 4 bytes a token, as the next bucket.
pub const BODY_BYTES_MAX: usize = (1 << 20) + 16;
/// A sealed request's clear header: 16 fixed fields take under 400 bytes.
pub const HEADER_BYTES_MAX: usize = 512;
/// One encrypted answer frame: the largest padded size and its tag.
pub const ANSWER_FRAME_BYTES_MAX: usize = 16_384 + 16;
/// Candidates that one request may be wrapped to.
pub const WRAPS_MAX: usize = 8;
/// Candidates in one list.
pub const CANDIDATES_MAX: usize = 32;
/// Models that one provider may offer.
pub const MODELS_PER_PROVIDER_MAX: usize = 64;
/// Attempts of one sealed request.
pub const ATTEMPTS_MAX: u32 = 3;
/// Times that one operation may be sealed again after the first.
pub const RESEALS_MAX: u32 = 2;
/// A provider statement, evidence included (certificate chains are a few KiB each).
pub const STATEMENT_BYTES_MAX: usize = 32 * 1024;
/// A catalogue entry.
pub const CATALOGUE_ENTRY_BYTES_MAX: usize = 4 * 1024;
/// A receipt or bill.
pub const RECEIPT_BYTES_MAX: usize = 2 * 1024;
/// Receipts presented again in one frame.
pub const RECEIPTS_PER_FRAME_MAX: usize = 64;
/// Any text in a frame: a refusal's detail, a release name.
pub const TEXT_BYTES_MAX: usize = 512;
/// One WebSocket message or length-prefixed frame: the largest is a submission or a list of candidates.
pub const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX + 64 * 1024;
/// How far a sealed header's time may be from the peer's clock.
pub const CLOCK_SKEW_MAX: Millis = Millis::from_minutes(10);
