//! Frames: what travels between provider and coordinator, and between client and coordinator.

use darkbloom_types::{
    AttemptNumber, ConnectionId, EpochId, Micros, Millis, Price, ProviderId, ReceiptId, Refusal, RefusalCode,
    SecretString, StreamId, TokenCount, UnixMillis,
};

use crate::cbor::{DecodeError, Reader, Unknown};
use crate::limits::{
    ANSWER_FRAME_BYTES_MAX, ATTEMPTS_MAX, BODY_BYTES_MAX, CANDIDATES_MAX, CATALOGUE_ENTRY_BYTES_MAX, EVIDENCE_MAX,
    FRAME_BYTES_MAX, HEADER_BYTES_MAX, MODELS_PER_PROVIDER_MAX, RECEIPT_BYTES_MAX, RECEIPTS_PER_FRAME_MAX,
    STATEMENT_BYTES_MAX, TEXT_BYTES_MAX, WRAPS_MAX,
};
use crate::loading::{LoadOutcome, Residence};
use crate::record::{List, Record, nested, read_kind, record};
use crate::signed::Evidence;

/// Capabilities that one side may name; bounded because they come from the network.
const CAPABILITIES_MAX: usize = 32;
/// Signed catalogue entries in a welcome.
const ENTRIES_MAX: usize = 64;
/// Wrap ciphertext: 32 bytes of content key and a 16-byte tag.
const WRAP_BYTES: usize = 48;
/// X-Wing encapsulation: ML-KEM-768 ciphertext (1,088) and X25519 public key (32).
const ENCAPSULATION_BYTES: usize = 1_120;

// ---- coordinator to provider ------------------------------------------------------------------------------------

record! {
    /// The answer to `Dial`: who the coordinator is, the proof of it, what it asks the provider to prove, what it offers.
    Welcome kind 32 {
        /// The coordinator's public key (uncompressed SEC 1 point); the provider compares it with its pin.
        1 coordinator: [u8; 65],
        /// This connection.
        2 connection: ConnectionId,
        /// The coordinator's clock.
        3 time: UnixMillis,
        /// What the proof in `Hello` must answer.
        4 nonce: [u8; 32],
        /// The signed catalogue entries.
        5 catalogue: List<Vec<u8>> [ENTRIES_MAX, CATALOGUE_ENTRY_BYTES_MAX],
        /// Features that the coordinator speaks.
        6 capabilities: List<String> [CAPABILITIES_MAX, TEXT_BYTES_MAX],
        /// The signed [`crate::CoordinatorProof`] over the dial's nonce.
        7 proof: Vec<u8> [RECEIPT_BYTES_MAX],
    }
}

record! {
    /// Asks for a proof of presence.
    Challenge kind 33 {
        /// Fresh, used once.
        1 nonce: [u8; 32],
    }
}

record! {
    /// One sealed request for this provider.
    Offer kind 34 {
        /// The stream on this connection.
        1 stream: StreamId,
        /// Which attempt of the request this is.
        2 attempt: AttemptNumber,
        /// The clear header's bytes.
        3 header: Vec<u8> [HEADER_BYTES_MAX],
        /// The sealed body.
        4 body: Vec<u8> [BODY_BYTES_MAX],
        /// The wrap for this provider alone.
        5 wrap: Wrap,
        /// Pseudonym of the account towards this provider; prefixes are shared only within it.
        6 scope: [u8; 16],
    }
}

record! {
    /// The consumer went away.
    Cancel kind 35 {
        /// The stream.
        1 stream: StreamId,
    }
}

record! {
    /// A receipt is settled or was refused for good: the provider may forget it.
    ReceiptAck kind 36 {
        /// Which.
        1 receipt: ReceiptId,
    }
}

record! {
    /// Whether the provider gets work, and if not, why and what to do.
    VerdictNotice kind 37 {
        /// Whether it is routable.
        1 eligible: bool,
        /// The reason's name, from the closed list of `darkbloom-registry`.
        2 reason: String [TEXT_BYTES_MAX],
        /// What it means.
        3 sentence: String [TEXT_BYTES_MAX],
        /// What to do.
        4 next_step: String [TEXT_BYTES_MAX],
    }
}

impl VerdictNotice {
    /// The reason that says that the catalogue names other models now than the provider says to serve: only a new welcome
    /// tells which. Whether the provider is eligible is then not said.
    pub const CATALOGUE_CHANGED: &str = "catalogue_changed";
}

record! {
    /// Somebody waits for a model that the provider serves and does not have in memory.
    LoadModel kind 38 {
        /// The model.
        1 model: darkbloom_types::CatalogueDigest,
    }
}

// ---- provider to coordinator ------------------------------------------------------------------------------------

record! {
    /// A model that the provider serves.
    ModelLoad {
        /// The model.
        1 model: darkbloom_types::CatalogueDigest,
        /// Batch rows in all; of a model that is not in memory, those that it will have.
        2 rows_max: u32,
        /// Batch rows in use.
        3 rows_used: u32,
        /// Requests waiting for a row.
        4 waiting: u32,
        /// Tokens of prompt and answer together that one row holds.
        5 row_tokens: TokenCount,
        /// Where it is.
        6 residence: Residence,
        /// How fast it runs there, once that was measured.
        7 pace: Option<ModelPace>,
    }
}

record! {
    /// How fast a machine runs a model, as it measured itself. A hint: what a coordinator sees counts more.
    ModelPace {
        /// Microseconds for a token of a prompt, with nothing else at work.
        1 prefill_us: u32,
        /// Microseconds for a token of an answer of one row alone.
        2 decode_us: u32,
    }
}

record! {
    /// How full and how warm a machine is.
    MachineLoad {
        /// Memory in use, in parts of a thousand of what the machine has.
        1 memory_permille: u16,
        /// Thermal state: 0 nominal or unknown, 1 fair, 2 serious, 3 critical.
        2 thermal: u16,
    }
}

record! {
    /// The provider introduces itself and answers the welcome's nonce.
    Hello kind 1 {
        /// Its signed statement.
        1 statement: Vec<u8> [STATEMENT_BYTES_MAX],
        /// The signed [`crate::ChallengeProof`] over the welcome's nonce.
        2 proof: Vec<u8> [RECEIPT_BYTES_MAX],
        /// The join token, until the coordinator has called this provider eligible.
        3 join_token: Option<SecretString> [TEXT_BYTES_MAX],
        /// What it serves.
        4 models: List<ModelLoad> [MODELS_PER_PROVIDER_MAX],
        /// Features that the provider speaks.
        5 capabilities: List<String> [CAPABILITIES_MAX, TEXT_BYTES_MAX],
        /// The same proof signed by the epoch's receipt key: a statement is public, the keys that it names are not.
        6 epoch_proof: Vec<u8> [RECEIPT_BYTES_MAX],
        /// Hardware evidence about the same proof, [`crate::presence_nonce`], in the formats of the statement's.
        7 presence: List<Evidence> [EVIDENCE_MAX],
        /// What kind of machine it is: those of one kind are expected to be about as fast, until each was measured.
        8 hardware: Option<String> [TEXT_BYTES_MAX],
    }
}

record! {
    /// Answer to a later challenge.
    ChallengeAnswer kind 2 {
        /// The signed [`crate::ChallengeProof`].
        1 proof: Vec<u8> [RECEIPT_BYTES_MAX],
        /// Hardware evidence about it, as in the introduction.
        2 presence: List<Evidence> [EVIDENCE_MAX],
    }
}

record! {
    /// The provider lives; its load now.
    Heartbeat kind 3 {
        /// A model each.
        1 models: List<ModelLoad> [MODELS_PER_PROVIDER_MAX],
        /// The provider takes no new work.
        2 draining: bool,
        /// Its machine.
        3 machine: Option<MachineLoad>,
    }
}

record! {
    /// The offer opened and was admitted.
    Accepted kind 4 {
        /// The stream.
        1 stream: StreamId,
        /// Which attempt.
        2 attempt: AttemptNumber,
        /// In which epoch it was opened.
        3 epoch: EpochId,
        /// Fresh randomness that the response keys depend on.
        4 salt: [u8; 32],
    }
}

record! {
    /// The offer was not admitted, or failed before its end.
    Refused kind 5 {
        /// The stream.
        1 stream: StreamId,
        /// The closed reason's number.
        2 code: u16,
        /// What is particular; public.
        3 detail: String [TEXT_BYTES_MAX],
        /// What only the client may read, sealed as an answer frame; needs no acceptance.
        4 sealed: Option<Vec<u8>> [ANSWER_FRAME_BYTES_MAX],
    }
}

record! {
    /// A sealed piece of an answer.
    Data kind 6 {
        /// The stream.
        1 stream: StreamId,
        /// Number of the piece, from 0.
        2 sequence: u32,
        /// Output tokens so far, this piece included.
        3 tokens: TokenCount,
        /// Whether it is the last.
        4 end: bool,
        /// The ciphertext.
        5 ciphertext: Vec<u8> [ANSWER_FRAME_BYTES_MAX],
    }
}

record! {
    /// The stream is over; the receipt.
    Final kind 7 {
        /// The stream.
        1 stream: StreamId,
        /// The signed receipt.
        2 receipt: Vec<u8> [RECEIPT_BYTES_MAX],
    }
}

record! {
    /// The row is free; nothing more comes on this stream. The receipt of what was delivered, if any, came before.
    CancelAck kind 8 {
        /// The stream.
        1 stream: StreamId,
    }
}

record! {
    /// Receipts that were never acknowledged, presented again after a reconnect.
    Receipts kind 9 {
        /// Signed receipts.
        1 receipts: List<Vec<u8>> [RECEIPTS_PER_FRAME_MAX, RECEIPT_BYTES_MAX],
    }
}

record! {
    /// The statement of the next epoch.
    EpochUpdate kind 10 {
        /// The signed statement.
        1 statement: Vec<u8> [STATEMENT_BYTES_MAX],
    }
}

record! {
    /// First frame on a connection: asks who the coordinator is, before anything is said about the provider.
    Dial kind 11 {
        /// Fresh, used once: what the welcome's proof must answer.
        1 nonce: [u8; 32],
    }
}

record! {
    /// What became of a `LoadModel`: comes at once, and again whenever that changes, until it has ended.
    LoadReport kind 12 {
        /// The model.
        1 model: darkbloom_types::CatalogueDigest,
        /// What became of it.
        2 outcome: LoadOutcome,
    }
}

// ---- client to coordinator --------------------------------------------------------------------------------------

record! {
    /// The content key, sealed to one provider's epoch.
    Wrap {
        /// Who can open it.
        1 provider: ProviderId,
        /// With the key of which epoch.
        2 epoch: EpochId,
        /// HPKE's encapsulated key.
        3 encapsulation: Vec<u8> [ENCAPSULATION_BYTES],
        /// The sealed content key.
        4 ciphertext: Vec<u8> [WRAP_BYTES],
    }
}
nested!(Wrap ModelLoad ModelPace MachineLoad AttemptRecord CoordinatorTiming CandidateNow CandidateUpdate);

record! {
    /// A sealed request and all of its wraps.
    Submit kind 64 {
        /// The clear header's bytes.
        1 header: Vec<u8> [HEADER_BYTES_MAX],
        /// The sealed body.
        2 body: Vec<u8> [BODY_BYTES_MAX],
        /// One wrap a candidate, in the order of the recipient list.
        3 wraps: List<Wrap> [WRAPS_MAX],
        /// The sealing that this one replaces, when the coordinator asked to seal again.
        4 supersedes: Option<darkbloom_types::RequestId>,
        /// The time in the candidate list, or its last update, that the client chose from: the coordinator tells what
        /// changed since then. Left out when the client wants to hear nothing.
        5 candidates_as_of: Option<UnixMillis>,
    }
}

// ---- coordinator to client --------------------------------------------------------------------------------------

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// This provider answers.
    Accepted,
    /// It refused, or was lost, for this reason.
    Refused(RefusalCode),
}

record! {
    /// One attempt, for the answer's metadata.
    AttemptRecord {
        /// Who was asked.
        1 provider: ProviderId,
        /// The refusal's number, or 0 for acceptance.
        2 outcome: u16,
    }
}

impl AttemptOutcome {
    /// The stable name: `accepted`, or the refusal's.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused(code) => code.name(),
        }
    }
}

impl AttemptRecord {
    /// How the attempt ended; a number that this release does not know reads as an internal failure.
    #[must_use]
    pub fn outcome(&self) -> AttemptOutcome {
        match self.outcome {
            0 => AttemptOutcome::Accepted,
            number => AttemptOutcome::Refused(RefusalCode::from_number(number).unwrap_or(RefusalCode::Internal)),
        }
    }
}

record! {
    /// Where the coordinator's part of the time went; disjoint durations from its monotonic clock.
    CoordinatorTiming {
        /// Until the hold was durable.
        1 reserve_us: Micros,
        /// Choosing a provider.
        2 route_us: Micros,
        /// Waiting for room.
        3 queue_us: Micros,
        /// Handing the request over: from the choice of a provider until its connection takes the offer up, or, where it
        /// refuses, until that has arrived. Attempts add up; a provider that vanished does not count.
        4 dispatch_us: Micros,
    }
}

impl CoordinatorTiming {
    /// Nothing took any time.
    pub const NONE: Self =
        Self { reserve_us: Micros(0), route_us: Micros(0), queue_us: Micros(0), dispatch_us: Micros(0) };
}

record! {
    /// A provider accepted: what the client needs to open the answer.
    RelayedAccepted kind 96 {
        /// Who answers.
        1 provider: ProviderId,
        /// In which epoch.
        2 epoch: EpochId,
        /// Which attempt.
        3 attempt: AttemptNumber,
        /// The provider's salt.
        4 salt: [u8; 32],
        /// All attempts so far, this one included.
        5 attempts: List<AttemptRecord> [ATTEMPTS_MAX as usize],
        /// The coordinator's part of the time.
        6 timing: CoordinatorTiming,
    }
}

record! {
    /// A sealed piece of the answer.
    RelayedData kind 97 {
        /// Number of the piece, from 0.
        1 sequence: u32,
        /// Output tokens so far, this piece included.
        2 tokens: TokenCount,
        /// Whether it is the last.
        3 end: bool,
        /// The ciphertext.
        4 ciphertext: Vec<u8> [ANSWER_FRAME_BYTES_MAX],
    }
}

record! {
    /// The request is settled.
    RelayedFinal kind 98 {
        /// The provider's signed receipt.
        1 receipt: Vec<u8> [RECEIPT_BYTES_MAX],
        /// The coordinator's signed bill.
        2 bill: Vec<u8> [RECEIPT_BYTES_MAX],
        /// What changed among the model's candidates, when the client asked and its list has aged.
        3 update: Option<CandidateUpdate>,
    }
}

record! {
    /// A candidate as it is now.
    CandidateNow {
        /// Who.
        1 provider: ProviderId,
        /// Its current epoch.
        2 epoch: EpochId,
        /// Rows free now.
        3 rows_free: u32,
        /// Requests waiting there.
        4 waiting: u32,
        /// Its signed statement, if that is newer than what the client knows.
        5 statement: Option<Vec<u8>> [STATEMENT_BYTES_MAX],
        /// Tokens of prompt and answer together that one row holds there.
        6 row_tokens: TokenCount,
    }
}

record! {
    /// The candidates of the answered request's model as they are now, best first: who is missing is no candidate any
    /// more. It replaces nothing that must be proven: statements prove themselves, and the rest are hints and the price
    /// that the next bill is held to.
    CandidateUpdate {
        /// The coordinator's clock.
        1 time: UnixMillis,
        /// The price now.
        2 price: Price,
        /// Who may answer.
        3 candidates: List<CandidateNow> [CANDIDATES_MAX],
    }
}

record! {
    /// Nobody took it with these keys: seal again to these candidates.
    Reseal kind 99 {
        /// A fresh signed candidate list.
        1 candidates: Vec<u8> [FRAME_BYTES_MAX],
        /// Why.
        2 code: u16,
        /// Attempts made with these keys.
        3 attempts: List<AttemptRecord> [ATTEMPTS_MAX as usize],
        /// The coordinator's part of the time until now.
        4 timing: CoordinatorTiming,
    }
}

record! {
    /// No answer, or no more of it.
    RelayedRefused kind 100 {
        /// The closed reason's number.
        1 code: u16,
        /// What is particular; public.
        2 detail: String [TEXT_BYTES_MAX],
        /// When to try again, where that is known.
        3 retry_after: Option<Millis>,
        /// The provider's words for the client alone, with who sealed them.
        4 sealed: Option<Vec<u8>> [ANSWER_FRAME_BYTES_MAX],
        /// Attempts made.
        5 attempts: List<AttemptRecord> [ATTEMPTS_MAX as usize],
        /// The bill, where something was charged.
        6 bill: Option<Vec<u8>> [RECEIPT_BYTES_MAX],
        /// The coordinator's part of the time until now; absent where it had begun nothing.
        7 timing: Option<CoordinatorTiming>,
    }
}

record! {
    /// Still at work.
    KeepAlive kind 101 {}
}

impl RelayedRefused {
    /// The refusal that it carries; a number that this release does not know reads as an internal failure.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(RefusalCode::from_number(self.code).unwrap_or(RefusalCode::Internal), self.detail.clone())
    }
}

/// A frame, or the number of one that this release does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<T> {
    /// Understood; with how many unknown keys were skipped.
    Known(T, u32),
    /// From a newer peer: skip and count it.
    Unknown(u64),
}

macro_rules! frames {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant($variant),)* }

        impl $name {
            /// The frame's bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                match self { $(Self::$variant(frame) => frame.to_bytes(),)* }
            }

            /// Reads exactly one frame.
            ///
            /// # Errors
            /// [`DecodeError`] when the bytes are not one, or exceed a limit.
            pub fn decode(bytes: &[u8]) -> Result<Decoded<Self>, DecodeError> {
                if bytes.len() > FRAME_BYTES_MAX {
                    return Err(DecodeError::TooLong { key: 0, max: FRAME_BYTES_MAX });
                }
                let mut reader = Reader::with_rule(bytes, Unknown::Skip);
                let (pairs, kind) = read_kind(&mut reader)?;
                let decoded = match Some(kind) {
                    $(<$variant as Record>::KIND => {
                        let frame = <$variant>::read_pairs(&mut reader, pairs, Some(0))?;
                        Decoded::Known(Self::$variant(frame), reader.skipped())
                    })*
                    _ => return Ok(Decoded::Unknown(kind)),
                };
                reader.end()?;
                Ok(decoded)
            }
        }

        $(impl From<$variant> for $name {
            fn from(frame: $variant) -> Self {
                Self::$variant(frame)
            }
        })*
    };
}

frames! {
    /// From coordinator to provider.
    CoordinatorFrame {
        /// Who the coordinator is.
        Welcome,
        /// Proof of presence wanted.
        Challenge,
        /// Work.
        Offer,
        /// No more of it.
        Cancel,
        /// Settled.
        ReceiptAck,
        /// Eligible or not.
        VerdictNotice,
        /// A model is wanted in memory.
        LoadModel,
    }
}

frames! {
    /// From provider to coordinator.
    ProviderFrame {
        /// Introduction.
        Hello,
        /// Proof of presence.
        ChallengeAnswer,
        /// Load.
        Heartbeat,
        /// Work begins.
        Accepted,
        /// Work refused.
        Refused,
        /// A piece of an answer.
        Data,
        /// The receipt.
        Final,
        /// Row freed.
        CancelAck,
        /// Old receipts.
        Receipts,
        /// Next epoch.
        EpochUpdate,
        /// First frame.
        Dial,
        /// A model's loading.
        LoadReport,
    }
}

frames! {
    /// From client to coordinator, in the body of a request.
    ClientFrame {
        /// A sealed request.
        Submit,
    }
}

frames! {
    /// From coordinator to client, in the body of an answer.
    Relayed {
        /// A provider accepted.
        RelayedAccepted,
        /// A piece of the answer.
        RelayedData,
        /// Settled.
        RelayedFinal,
        /// Seal again.
        Reseal,
        /// Refused.
        RelayedRefused,
        /// Still at work.
        KeepAlive,
    }
}

const _: () = assert!(CANDIDATES_MAX * STATEMENT_BYTES_MAX + CATALOGUE_ENTRY_BYTES_MAX <= FRAME_BYTES_MAX);
