//! Limits of the wire: a peer that exceeds one is refused by name. And the waits that its two sides, or more than one part,
//! count on. `docs/protocol.md` lists them.

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
/// Most pieces of evidence in one statement: one a platform module, and room for a second of each kind.
pub const EVIDENCE_MAX: usize = 8;
/// Identities that one took over from, in a statement: a coordinator that met none of them knows nobody.
pub const SUCCESSIONS_MAX: usize = 4;
/// The word of one identity that another takes over: two keys of 65 bytes, a time and a signature take 230.
pub const SUCCESSION_BYTES_MAX: usize = 512;
/// One certificate of a maker of hardware, in DER: those with the longest keys take 2 KiB.
pub const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// Certificates between a device's own and its maker's root.
pub const CERTIFICATES_MAX: usize = 4;
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
/// Providers send a heartbeat this often.
pub const HEARTBEAT: Millis = Millis::from_secs(10);
/// Three heartbeats and a little: after so long without a message a provider gets no work, and its coordinator counts as
/// gone for the provider.
pub const SILENCE: Millis = Millis::from_secs(35);
/// A relay that has nothing to pass on tells its client this often that it is alive: six times within a client's patience.
pub const KEEP_ALIVE: Millis = Millis::from_secs(10);
/// Whoever takes nothing of an answer for this long is gone: a client for its coordinator, a consumer for its client.
pub const CONSUMER_WAIT: Millis = Millis::from_secs(30);
/// How long a provider waits until a cancelled row is free. A row leaves the batch between two steps of the engine, and one
/// step of a large model on a slow machine, with a long prompt in it, may take this long. The coordinator waits longer.
pub const ROW_FREE_WAIT: Millis = Millis::from_secs(60);
/// How long a provider may take to load a model that a request waits for: a file of 40 GB from a disk that reads 250 MB a
/// second. Longer, and most consumers have given up.
pub const LOAD_WAIT: Millis = Millis::from_secs(160);
/// How long a hold waits for its request to be sealed again.
pub const RESEAL_WAIT: Millis = Millis::from_secs(60);
/// An open hold is voided after this long: the longest request (30 minutes), the wait for a cancel (70 seconds), and a
/// few minutes for a database that is slow.
pub const HOLD_LIFE: Millis = Millis::from_minutes(35);
