//! Records from a string of bytes: property tests feed random ones, which shrink to zeros, and golden vectors fixed ones.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, Micros, Millis, NanoDollars, NetworkId, OperationId,
    Price, ProviderId, ReceiptId, RequestId, SecretString, StreamId, Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::*;

/// Most bytes in a made string: enough for two forms of a length's head; the smallest limit of a field is 48.
const LENGTH_MAX: usize = 48;
/// Most items in a made list: the smallest limit of a field.
const LIST_MAX: usize = 3;

/// Where values come from; zeros when it runs dry.
pub struct Source {
    bytes: Vec<u8>,
    at: usize,
    full: bool,
}

impl Source {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, full: false }
    }

    /// SHA-256(label ‖ counter as 8 bytes), block after block. Lists have two items and nothing optional is left out.
    pub fn labelled(label: &str) -> Self {
        let block = |counter: u64| Digest::of(&[label.as_bytes(), &counter.to_be_bytes()]).0;
        Self { bytes: (0..256).flat_map(block).collect(), at: 0, full: true }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number whose size in bytes varies, so that every form of an integer's head occurs.
    fn number(&mut self) -> u64 {
        let size = usize::from(self.byte() % 9);
        (0..size).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub fn make<T: Make>(&mut self) -> T {
        T::make(self)
    }
}

pub trait Make {
    fn make(from: &mut Source) -> Self;
}

macro_rules! made {
    ($($type:ty: $from:ident => $value:expr;)*) => { $(
        impl Make for $type {
            fn make($from: &mut Source) -> Self {
                $value
            }
        }
    )* };
}

macro_rules! made_ids {
    ($($type:ident)*) => { $(
        impl Make for $type {
            fn make(from: &mut Source) -> Self {
                Self(from.make())
            }
        }
    )* };
}

impl<const N: usize> Make for [u8; N] {
    fn make(from: &mut Source) -> Self {
        std::array::from_fn(|_| from.byte())
    }
}

impl<T: Make> Make for Option<T> {
    fn make(from: &mut Source) -> Self {
        (from.full || !from.byte().is_multiple_of(4)).then(|| from.make())
    }
}

impl<T: Make> Make for List<T> {
    fn make(from: &mut Source) -> Self {
        let count = if from.full { 2 } else { from.below(LIST_MAX + 1) };
        (0..count).map(|_| from.make()).collect::<Vec<_>>().into()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any bits make a number")]
mod numbers {
    use super::{Make, Source};
    made! {
        u16: from => from.number() as u16;
        u32: from => from.number() as u32;
        u64: from => from.number();
        i64: from => if from.byte().is_multiple_of(4) { -(from.number() as i64 >> 1) } else { (from.number() >> 1) as i64 };
    }
}

made! {
    bool: from => from.byte() % 2 == 1;
    Vec<u8>: from => {
        let length = from.below(LENGTH_MAX);
        (0..length).map(|_| from.byte()).collect()
    };
    String: from => {
        let length = from.below(LENGTH_MAX);
        (0..length).map(|_| char::from_u32(u32::from(from.byte()) * 3).unwrap_or('é')).collect()
    };
    SecretString: from => SecretString::from(from.make::<String>());
    Price: from => Price {
        version: from.make(), input_nano_per_token: from.make(), output_nano_per_token: from.make()
    };
    Tier: from => Tier::ALL[from.below(Tier::ALL.len())];
    Suite: _from => Suite::XWingAes256Gcm;
    RequestKind: _from => RequestKind::Chat;
    Residence: from => [Residence::Loaded, Residence::Stored, Residence::Loading][from.below(3)];
    LoadOutcome: from => LoadOutcome::ALL[from.below(LoadOutcome::ALL.len())].0;
}

made_ids! {
    AttemptNumber CatalogueDigest ConnectionId Digest EpochId Micros Millis NanoDollars NetworkId OperationId
    ProviderId ReceiptId RequestId StreamId TokenCount UnixMillis
}

/// Structs by their fields' names; the compiler says when one is forgotten.
macro_rules! made_records {
    ($($name:ident { $($field:ident)* })*) => { $(
        impl Make for $name {
            #[allow(unused_variables, reason = "one frame has no fields")]
            fn make(from: &mut Source) -> Self {
                $(let $field = from.make();)*
                Self { $($field),* }
            }
        }
    )* };
}

made_records! {
    Evidence { format bytes }
    Program { executable libraries system }
    Statement { identity network sealing_key receipt_key not_before use_until open_until models evidence release hardening key_home successions program }
    Succession { old new at }
    ChallengeProof { digest }
    CoordinatorProof { digest }
    Receipt {
        request request_id attempt transcript model weights provider epoch input_tokens output_tokens queue_us
        prefill_us decode_us finished_at
    }
    Bill { operation request receipt price hold charge input_tokens output_tokens settled_at }
    CatalogueEntry { network name weights text_pack context quantisation }
    Candidate { statement rows_free waiting row_tokens }
    CandidateList { network time entry price candidates activator }
    ListedProvider { statement reason }
    ProviderList { network time activator providers more }
    Activation { activator endorsement attestation_key made_at valid_until }
    SealedHeader {
        network suite request operation model kind stream input_ceiling output_ceiling price_version price_max tier_min
        affinity sealed_at recipients key_commitment
    }
    Welcome { coordinator connection time nonce catalogue capabilities proof }
    Challenge { nonce }
    Offer { stream attempt header body wrap scope }
    Cancel { stream }
    ReceiptAck { receipt }
    VerdictNotice { eligible reason sentence next_step }
    LoadModel { model }
    LoadReport { model outcome }
    ModelLoad { model rows_max rows_used waiting row_tokens residence pace }
    ModelPace { prefill_us decode_us }
    MachineLoad { memory_permille thermal }
    Hello { statement proof join_token models capabilities epoch_proof presence hardware }
    ChallengeAnswer { proof presence }
    Heartbeat { models draining machine }
    Accepted { stream attempt epoch salt }
    Refused { stream code detail sealed }
    Data { stream sequence tokens end ciphertext }
    Final { stream receipt }
    CancelAck { stream }
    Receipts { receipts }
    EpochUpdate { statement }
    Dial { nonce }
    Wrap { provider epoch encapsulation ciphertext }
    Submit { header body wraps supersedes candidates_as_of }
    AttemptRecord { provider outcome }
    CoordinatorTiming { reserve_us route_us queue_us dispatch_us }
    RelayedAccepted { provider epoch attempt salt attempts timing }
    RelayedData { sequence tokens end ciphertext }
    RelayedFinal { receipt bill update }
    CandidateNow { provider epoch rows_free waiting statement row_tokens }
    CandidateUpdate { time price candidates }
    Reseal { candidates code attempts timing }
    RelayedRefused { code detail retry_after sealed attempts bill timing }
    KeepAlive { }
}

/// What became of a frame's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Understood: its bytes when written again, and how many unknown keys were skipped.
    Known(Vec<u8>, u32),
    /// Of a kind that is not known.
    Unknown(u64),
    /// No frame.
    Error(DecodeError),
}

/// One kind of frame: its name, its fields, one made from bytes, and how its receiver reads bytes.
pub struct FrameKind {
    pub direction: &'static str,
    pub name: &'static str,
    pub kind: u64,
    pub fields: &'static [(i64, &'static str)],
    pub make: fn(&mut Source) -> Vec<u8>,
    pub read: fn(&[u8]) -> Read,
}

macro_rules! frame_kinds {
    ($($direction:literal $set:ident { $($kind:literal $name:ident)* })*) => {
        /// Every kind of frame.
        pub const FRAME_KINDS: &[FrameKind] = &[$($(FrameKind {
            direction: $direction,
            name: stringify!($name),
            kind: $kind,
            fields: $name::FIELDS,
            make: |from| $set::from(from.make::<$name>()).encode(),
            read: |bytes| match $set::decode(bytes) {
                Ok(Decoded::Known(frame, skipped)) => Read::Known(frame.encode(), skipped),
                Ok(Decoded::Unknown(kind)) => Read::Unknown(kind),
                Err(error) => Read::Error(error),
            },
        },)*)*];

        /// Stops compiling when a kind is added to a set and not to the list above.
        #[allow(dead_code, reason = "its match is the check")]
        mod complete {
            use super::*;
            $(
                #[allow(non_snake_case, reason = "named like the set")]
                fn $set(frame: &super::$set) {
                    match frame {
                        $($set::$name(_) => {})*
                    }
                }
            )*
        }
    };
}

frame_kinds! {
    "coordinator to provider" CoordinatorFrame {
        32 Welcome 33 Challenge 34 Offer 35 Cancel 36 ReceiptAck 37 VerdictNotice 38 LoadModel
    }
    "provider to coordinator" ProviderFrame {
        1 Hello 2 ChallengeAnswer 3 Heartbeat 4 Accepted 5 Refused 6 Data 7 Final 8 CancelAck 9 Receipts 10 EpochUpdate
        11 Dial 12 LoadReport
    }
    "client to coordinator" ClientFrame { 64 Submit }
    "coordinator to client" Relayed {
        96 RelayedAccepted 97 RelayedData 98 RelayedFinal 99 Reseal 100 RelayedRefused 101 KeepAlive
    }
}

/// Verifies bytes, reads them and signs what was read.
type Reopen = fn(&[u8], &PublicKey, &dyn Signer) -> Result<Vec<u8>, VerifyError>;

/// One kind of signed object: how to make and sign one, and how to verify bytes. Opening returns its payload's bytes when
/// signed again, which is how a test sees that all of it was read.
pub struct SignedKind {
    pub name: &'static str,
    pub domain: Domain,
    pub fields: &'static [(i64, &'static str)],
    pub sign: fn(&mut Source, &dyn Signer) -> Vec<u8>,
    pub reopen: Reopen,
}

macro_rules! signed_kinds {
    ($($name:ident $domain:ident)*) => {
        /// Every kind of signed object.
        pub const SIGNED_KINDS: &[SignedKind] = &[$(SignedKind {
            name: stringify!($name),
            domain: Domain::$domain,
            fields: $name::FIELDS,
            sign: |from, signer| from.make::<$name>().sign(signer).unwrap(),
            reopen: |bytes, key, signer| Ok($name::open(bytes, key)?.sign(signer).unwrap()),
        },)*];
    };
}

signed_kinds! {
    Statement Statement
    ChallengeProof Challenge
    CoordinatorProof Coordinator
    Receipt Receipt
    Bill Bill
    CatalogueEntry CatalogueEntry
    CandidateList CandidateList
    ProviderList ProviderList
    Activation Activation
    Succession Succession
}
