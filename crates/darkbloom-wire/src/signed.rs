//! The signed objects: statement, challenge proof, coordinator proof, receipt, bill, catalogue entry, candidate list; an
//! activator's word is in `tpm`.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, Micros, NanoDollars, NetworkId, OperationId, Price,
    ProviderId, ReceiptId, RequestId, TokenCount, UnixMillis,
};

use crate::cbor::{DecodeError, Unknown};
use crate::cose::{Domain, PublicKey, SignError, Signer, VerifyError, open_signed, sign, unverified_payload};
use crate::limits::{
    CANDIDATES_MAX, CATALOGUE_ENTRY_BYTES_MAX, EVIDENCE_MAX, FRAME_BYTES_MAX, MODELS_PER_PROVIDER_MAX,
    RECEIPT_BYTES_MAX, STATEMENT_BYTES_MAX, SUCCESSION_BYTES_MAX, SUCCESSIONS_MAX, TEXT_BYTES_MAX,
};
use crate::record::{List, Record, nested, plain, record};
use crate::tpm::Activation;

/// Most measures in one statement: six are known.
const HARDENING_MAX: usize = 16;

record! {
    /// One piece of hardware evidence; `darkbloom-attest` knows the formats.
    Evidence {
        /// The format's name.
        1 format: String [TEXT_BYTES_MAX],
        /// The evidence as the platform made it.
        2 bytes: Vec<u8> [STATEMENT_BYTES_MAX],
    }
}

record! {
    /// What runs at a provider, as it sees itself.
    Program {
        /// SHA-256 of its executable.
        1 executable: Digest,
        /// SHA-256 over the SHA-256 of each library that was loaded into it, in ascending order.
        2 libraries: Digest,
        /// The operating system's name and release.
        3 system: String [TEXT_BYTES_MAX],
    }
}

record! {
    /// What a provider says about itself for one epoch, signed by its identity key.
    Statement {
        /// The identity public key: uncompressed SEC 1 point on P-256.
        1 identity: [u8; 65],
        /// The network that it serves.
        2 network: NetworkId,
        /// The epoch's sealing key: X-Wing public key.
        3 sealing_key: Vec<u8> [1216],
        /// The epoch's receipt key: Ed25519 public key.
        4 receipt_key: [u8; 32],
        /// The epoch begins.
        5 not_before: UnixMillis,
        /// Clients seal to it until then (60 minutes).
        6 use_until: UnixMillis,
        /// The provider opens what was sealed to it until then (70 minutes).
        7 open_until: UnixMillis,
        /// The models that it serves.
        8 models: List<CatalogueDigest> [MODELS_PER_PROVIDER_MAX],
        /// Evidence about the machine; its nonce is [`epoch_nonce`].
        9 evidence: List<Evidence> [EVIDENCE_MAX],
        /// The program's release name, as it says.
        10 release: String [TEXT_BYTES_MAX],
        /// What it does to keep others out of its memory, as it says.
        11 hardening: List<String> [HARDENING_MAX, TEXT_BYTES_MAX],
        /// Where its identity key lives, as it says.
        12 key_home: String [TEXT_BYTES_MAX],
        /// The identities that it took over from, one after the other up to this one: signed [`Succession`]s.
        13 successions: List<Vec<u8>> [SUCCESSIONS_MAX, SUCCESSION_BYTES_MAX],
        /// What runs there, as it says.
        14 program: Option<Program>,
    }
}

record! {
    /// One identity takes over from another, signed by the older one's key. Whoever shows it proves that it has the newer.
    Succession {
        /// The older identity's public key: uncompressed SEC 1 point on P-256.
        1 old: [u8; 65],
        /// The newer one's.
        2 new: [u8; 65],
        /// When, by the clock of the machine that has both.
        3 at: UnixMillis,
    }
}

record! {
    /// A provider's proof that it is there now, signed by its identity key over the coordinator's nonce.
    ChallengeProof {
        /// Digest of coordinator, nonce, connection and epoch keys: [`challenge_digest`].
        1 digest: Digest,
    }
}

record! {
    /// A coordinator's proof that it holds its key, signed by that key over the nonce of whoever asks.
    CoordinatorProof {
        /// Digest of network, nonce and where it was asked: [`coordinator_proof_digest`].
        1 digest: Digest,
    }
}

record! {
    /// What a provider says it did, signed by the epoch's receipt key. No content.
    Receipt {
        /// SHA-256 of header ‖ body ciphertext.
        1 request: Digest,
        /// The request's id.
        2 request_id: RequestId,
        /// Which attempt.
        3 attempt: AttemptNumber,
        /// Hash chain over what was sent from `Accepted` on.
        4 transcript: Digest,
        /// The model, as the operator signed it.
        5 model: CatalogueDigest,
        /// The digest of the weights that ran.
        6 weights: Digest,
        /// Who answered.
        7 provider: ProviderId,
        /// In which epoch.
        8 epoch: EpochId,
        /// Input tokens.
        9 input_tokens: TokenCount,
        /// Output tokens.
        10 output_tokens: TokenCount,
        /// Waiting for a row at the provider, from its acceptance of the offer.
        11 queue_us: Micros,
        /// From admission to the first output token.
        12 prefill_us: Micros,
        /// From the first to the last output token.
        13 decode_us: Micros,
        /// When it ended, by the provider's clock.
        14 finished_at: UnixMillis,
    }
}

record! {
    /// What a request cost, signed by the coordinator.
    Bill {
        /// The operation that was charged.
        1 operation: OperationId,
        /// The request that was answered.
        2 request: RequestId,
        /// The receipt that it was settled by, if there was one.
        3 receipt: Option<ReceiptId>,
        /// The price agreed to.
        4 price: Price,
        /// What was held.
        5 hold: NanoDollars,
        /// What was charged.
        6 charge: NanoDollars,
        /// Input tokens charged.
        7 input_tokens: TokenCount,
        /// Output tokens charged.
        8 output_tokens: TokenCount,
        /// When it was settled.
        9 settled_at: UnixMillis,
    }
}

record! {
    /// One model as the operator offers it, signed by the coordinator key. Fetched and named by its digest.
    CatalogueEntry {
        /// The network that offers it.
        1 network: NetworkId,
        /// The name in requests.
        2 name: String [TEXT_BYTES_MAX],
        /// Root of the weights' manifest.
        3 weights: Digest,
        /// Digest of the text pack: tokenizer, special tokens and chat template.
        4 text_pack: Digest,
        /// Tokens that prompt and answer may take together.
        5 context: TokenCount,
        /// How the weights are stored, such as `Q8_0`.
        6 quantisation: String [TEXT_BYTES_MAX],
    }
}

record! {
    /// One provider that may answer.
    Candidate {
        /// Its signed statement.
        1 statement: Vec<u8> [STATEMENT_BYTES_MAX],
        /// Batch rows that are free now, as far as the coordinator knows.
        2 rows_free: u32,
        /// Requests that wait at the provider.
        3 waiting: u32,
        /// Tokens of prompt and answer together that one row holds there.
        4 row_tokens: TokenCount,
    }
}
nested!(Evidence Program Candidate);

record! {
    /// Providers of one model, signed by the coordinator.
    CandidateList {
        /// The network.
        1 network: NetworkId,
        /// The coordinator's clock, so that a client can tell a wrong clock.
        2 time: UnixMillis,
        /// The model's signed catalogue entry.
        3 entry: Vec<u8> [CATALOGUE_ENTRY_BYTES_MAX],
        /// The price now.
        4 price: Price,
        /// Who may answer.
        5 candidates: List<Candidate> [CANDIDATES_MAX],
        /// The public key of the network's own activator, if it has one.
        6 activator: Option<[u8; 65]>,
    }
}

record! {
    /// One connected provider, for whoever wants to check it.
    ListedProvider {
        /// Its signed statement, evidence included.
        1 statement: Vec<u8> [STATEMENT_BYTES_MAX],
        /// Why it gets no work, by name; absent when it does.
        2 reason: Option<String> [TEXT_BYTES_MAX],
    }
}
nested!(ListedProvider);

record! {
    /// Connected providers of a network, signed by the coordinator: what `GET /v1/providers/attestation` publishes.
    ProviderList {
        /// The network.
        1 network: NetworkId,
        /// The coordinator's clock.
        2 time: UnixMillis,
        /// The public key of the network's own activator, if it has one.
        3 activator: Option<[u8; 65]>,
        /// Providers, in the order of their ids.
        4 providers: List<ListedProvider> [CANDIDATES_MAX],
        /// Whether others follow.
        5 more: bool,
    }
}

record! {
    /// A published list and whose it is, in a file: enough to check everything in it without any network.
    Bundle {
        /// The coordinator's public key (uncompressed SEC 1 point).
        1 coordinator: [u8; 65],
        /// The signed [`ProviderList`].
        2 list: Vec<u8> [FRAME_BYTES_MAX],
    }
}

record! {
    /// What proves an answer, in a file: enough to check it without any network.
    AnswerProof {
        /// The coordinator's public key (uncompressed SEC 1 point).
        1 coordinator: [u8; 65],
        /// The signed [`CandidateList`] that the request was sealed by.
        2 list: Vec<u8> [FRAME_BYTES_MAX],
        /// The signed [`Statement`] of the provider that answered, for the epoch in which it did.
        3 statement: Vec<u8> [STATEMENT_BYTES_MAX],
        /// The signed [`Receipt`].
        4 receipt: Vec<u8> [RECEIPT_BYTES_MAX],
        /// The signed [`Bill`].
        5 bill: Vec<u8> [RECEIPT_BYTES_MAX],
    }
}

plain! {
    AnswerProof RefuseCritical 2 * FRAME_BYTES_MAX;
}

impl Bundle {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Reads exactly one.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_bytes(bytes, Unknown::RefuseCritical)
    }
}

/// Signing and opening of one kind of object.
macro_rules! signed_object {
    ($($name:ident $domain:ident $max:expr;)*) => { $(
        impl $name {
            /// Signs it in its own domain.
            ///
            /// # Errors
            /// [`SignError`] when the key fails.
            pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
                sign(Domain::$domain, signer, &self.to_bytes())
            }

            /// Verifies the signature over the bytes as received, then reads them.
            ///
            /// # Errors
            /// [`VerifyError`] says what does not hold.
            pub fn open(bytes: &[u8], key: &PublicKey) -> Result<Self, VerifyError> {
                let payload = open_signed(Domain::$domain, key, bytes, $max)?;
                Ok(Self::from_bytes(payload, Unknown::RefuseCritical)?)
            }
        }
    )* };
}
signed_object! {
    Statement Statement STATEMENT_BYTES_MAX;
    ChallengeProof Challenge RECEIPT_BYTES_MAX;
    CoordinatorProof Coordinator RECEIPT_BYTES_MAX;
    Receipt Receipt RECEIPT_BYTES_MAX;
    Bill Bill RECEIPT_BYTES_MAX;
    CatalogueEntry CatalogueEntry CATALOGUE_ENTRY_BYTES_MAX;
    CandidateList CandidateList FRAME_BYTES_MAX;
    ProviderList ProviderList FRAME_BYTES_MAX;
    Activation Activation RECEIPT_BYTES_MAX;
    Succession Succession SUCCESSION_BYTES_MAX;
}

impl Succession {
    /// Opens one with the older key that it names itself.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn open_self_signed(bytes: &[u8]) -> Result<Self, VerifyError> {
        let claimed = Self::from_bytes(unverified_payload(bytes, SUCCESSION_BYTES_MAX)?, Unknown::RefuseCritical)?;
        Self::open(bytes, &PublicKey::P256(claimed.old))
    }
}

impl Statement {
    /// Opens a statement with the identity key that it names itself: proves possession of that key, no more.
    ///
    /// # Errors
    /// [`VerifyError`] says what does not hold.
    pub fn open_self_signed(bytes: &[u8]) -> Result<Self, VerifyError> {
        let claimed = Self::from_bytes(unverified_payload(bytes, STATEMENT_BYTES_MAX)?, Unknown::RefuseCritical)?;
        Self::open(bytes, &PublicKey::P256(claimed.identity))
    }

    /// The provider that this statement is about.
    #[must_use]
    pub fn provider(&self) -> ProviderId {
        ProviderId::of_public_key(&self.identity)
    }

    /// The epoch that this statement is about.
    #[must_use]
    pub fn epoch(&self) -> EpochId {
        let nonce = epoch_nonce(&self.sealing_key, &self.receipt_key, &self.identity, self.not_before);
        let mut id = [0; 16];
        id.copy_from_slice(&nonce.0[..16]);
        EpochId(id)
    }
}

impl Receipt {
    /// Reads a receipt without checking its signature, to find the request it belongs to.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_bytes(unverified_payload(bytes, RECEIPT_BYTES_MAX)?, Unknown::RefuseCritical)
    }
}

impl Activation {
    /// Reads an activator's word without checking its signature, to find out whose it says it is.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::from_bytes(unverified_payload(bytes, RECEIPT_BYTES_MAX)?, Unknown::RefuseCritical)
    }
}

/// The nonce of hardware evidence for an epoch: a client can compute it from the statement alone.
#[must_use]
pub fn epoch_nonce(sealing_key: &[u8], receipt_key: &[u8; 32], identity: &[u8; 65], not_before: UnixMillis) -> Digest {
    Digest::of(&[b"darkbloom/v1/epoch", sealing_key, receipt_key, identity, &not_before.0.to_be_bytes()])
}

/// What a provider signs when challenged: coordinator, nonce, connection and epoch keys.
#[must_use]
pub fn challenge_digest(network: &NetworkId, nonce: &[u8; 32], connection: &ConnectionId, epoch: &EpochId) -> Digest {
    Digest::of(&[b"darkbloom/v1/challenge", network.as_bytes(), nonce, connection.as_bytes(), epoch.as_bytes()])
}

/// The nonce of hardware evidence beside a proof of presence over this digest: it is made for the question, and so after it.
#[must_use]
pub fn presence_nonce(challenge: &Digest) -> Digest {
    Digest::of(&[b"darkbloom/v1/presence", &challenge.0])
}

/// What a coordinator signs when asked for its key: the network, the nonce of whoever asks, and the connection and nonce of
/// its welcome; a client has no connection, so what a provider was shown proves nothing to a client, nor the other way.
#[must_use]
pub fn coordinator_proof_digest(
    network: &NetworkId,
    nonce: &[u8; 32],
    welcome: Option<(&ConnectionId, &[u8; 32])>,
) -> Digest {
    let (connection, challenge) =
        welcome.map_or((&[][..], &[][..]), |(connection, challenge)| (&connection.as_bytes()[..], &challenge[..]));
    Digest::of(&[b"darkbloom/v1/coordinator-proof", network.as_bytes(), nonce, connection, challenge])
}

/// The name of a signed catalogue entry.
#[must_use]
pub fn catalogue_digest(signed_entry: &[u8]) -> CatalogueDigest {
    CatalogueDigest(Digest::of(&[signed_entry]).0)
}

/// The name of a signed receipt.
#[must_use]
pub fn receipt_id(signed_receipt: &[u8]) -> ReceiptId {
    ReceiptId(Digest::of(&[signed_receipt]).0)
}
