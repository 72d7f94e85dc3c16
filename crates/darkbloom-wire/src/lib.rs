//! Every frame and every signed encoding of the network, and their limits.
//!
//! Owns the bytes: deterministic CBOR (RFC 8949 section 4.2.1) maps with integer keys, COSE_Sign1 envelopes (RFC 9052)
//! with one domain string a kind, length prefixes. It must never decide anything, open anything, or know what a prompt
//! is: bodies, wraps and answer frames are opaque bytes here. Every part that speaks to another depends on it; it
//! depends on `darkbloom-types` alone.
//!
//! Three rules for what a reader does with a key that it does not know:
//!
//! | where | unknown key ≥ 0 | unknown key < 0 |
//! |---|---|---|
//! | frames | skipped, counted | skipped, counted |
//! | signed objects | tolerated: the signature covers the bytes as received | critical: refused |
//! | sealed objects (the request header) | refused | refused |

#![forbid(unsafe_code)]

mod apple;
mod cbor;
mod cose;
mod frame;
mod header;
pub mod limits;
mod loading;
mod prefixed;
mod record;
mod signed;
mod snp;
mod tdx;
mod tpm;

pub use apple::{APPLE_APP_ATTEST_EVIDENCE, APPLE_MDA_EVIDENCE, AppleAppAttestEvidence, AppleMdaEvidence};
pub use cbor::{DecodeError, Reader, Writer};
pub use cose::{Algorithm, Domain, PublicKey, SignError, Signer, VerifyError, open_signed, sign};
pub use frame::{
    Accepted, AttemptOutcome, AttemptRecord, Cancel, CancelAck, CandidateNow, CandidateUpdate, Challenge,
    ChallengeAnswer, ClientFrame, CoordinatorFrame, CoordinatorTiming, Data, Decoded, Dial, EpochUpdate, Final,
    Heartbeat, Hello, KeepAlive, LoadModel, LoadReport, MachineLoad, ModelLoad, ModelPace, Offer, ProviderFrame,
    ReceiptAck, Receipts, Refused, Relayed, RelayedAccepted, RelayedData, RelayedFinal, RelayedRefused, Reseal, Submit,
    VerdictNotice, Welcome, Wrap,
};
pub use header::{RequestKind, SealedHeader, Suite, recipient_list_digest};
pub use loading::{LoadOutcome, Residence};
pub use prefixed::LengthPrefixed;
pub use record::List;
pub use signed::{
    AnswerProof, Bill, Bundle, Candidate, CandidateList, CatalogueEntry, ChallengeProof, CoordinatorProof, Evidence,
    ListedProvider, Program, ProviderList, Receipt, Statement, Succession, catalogue_digest, challenge_digest,
    coordinator_proof_digest, epoch_nonce, presence_nonce, receipt_id,
};
pub use snp::{SNP_EVIDENCE, SNP_REPORT_BYTES, SnpEvidence};
pub use tdx::{
    TDX_CRL_BYTES_MAX, TDX_EVIDENCE, TDX_QE_IDENTITY_BYTES_MAX, TDX_QUOTE_BYTES_MAX, TDX_TCB_INFO_BYTES_MAX,
    TdxEvidence,
};
pub use tpm::{
    ACTIVATIONS_MAX, Activation, ActivationAnswer, ActivationChallenge, ActivationRequest, BOOT_EVENTS_MAX, BootEvent,
    PCRS_MAX, Pcr, TPM_EVIDENCE, TpmEvidence,
};
