//! A provider that says what its test tells it to say.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use darkbloom_content::{AnswerEvent, FinishReason};
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::{Acceptance, AnswerSealer, Epoch, EpochRing, Opened, SealedFrame, frame_size};
use darkbloom_types::{
    CatalogueDigest, EpochId, Micros, NetworkId, ProviderId, ReceiptId, RefusalCode, SecretString, StreamId,
    TokenCount, TokenId,
};
use darkbloom_wire::{
    Accepted, CatalogueEntry, ChallengeProof, CoordinatorFrame, CoordinatorProof, Data, Decoded, Dial, EpochUpdate,
    Final, Heartbeat, Hello, ModelLoad, Offer, ProviderFrame, PublicKey, Receipt, Receipts, Refused, Residence,
    SealedHeader, Welcome, catalogue_digest, challenge_digest, coordinator_proof_digest, receipt_id,
};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::{now, random, rng};
use crate::support::PATIENCE;
use crate::support::network::Coordinator;

/// One read waits this long before the clock is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A WebSocket to the coordinator on which nobody introduced himself yet.
pub struct Line {
    socket: WebSocket<TcpStream>,
    pub welcome: Welcome,
    kept: VecDeque<CoordinatorFrame>,
}

/// A WebSocket to the coordinator on which nothing was said yet.
pub fn socket(coordinator: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(coordinator).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (socket, _) = tungstenite::client(format!("ws://{coordinator}/v1/provider"), stream).unwrap();
    socket
}

impl Line {
    pub fn dial(coordinator: &Coordinator) -> Self {
        Self::dial_with(&coordinator.address, random())
    }

    /// Asks who the coordinator is with this nonce.
    pub fn dial_with(coordinator: &str, nonce: [u8; 32]) -> Self {
        let mut socket = socket(coordinator);
        socket.send(Message::binary(ProviderFrame::from(Dial { nonce }).encode())).unwrap();
        let Message::Binary(bytes) = socket.read().unwrap() else { panic!("a welcome is binary") };
        let Ok(Decoded::Known(CoordinatorFrame::Welcome(welcome), _)) = CoordinatorFrame::decode(&bytes) else {
            panic!("the first frame is a welcome");
        };
        let proof = CoordinatorProof::open(&welcome.proof, &PublicKey::P256(welcome.coordinator)).unwrap();
        let network = NetworkId::of_coordinator_key(&welcome.coordinator);
        let answered = coordinator_proof_digest(&network, &nonce, Some((&welcome.connection, &welcome.nonce)));
        assert_eq!(proof.digest, answered);
        socket.get_ref().set_read_timeout(Some(LOOK)).unwrap();
        Self { socket, welcome, kept: VecDeque::new() }
    }

    pub fn network(&self) -> NetworkId {
        NetworkId::of_coordinator_key(&self.welcome.coordinator)
    }

    pub fn send(&mut self, frame: impl Into<ProviderFrame>) {
        self.send_raw(Message::binary(frame.into().encode()));
    }

    /// Sends anything. That the other side has closed meanwhile is what a test may be after.
    pub fn send_raw(&mut self, message: Message) {
        let _ = self.socket.send(message);
    }

    /// The next frame within the time; an error when the connection is over.
    pub fn frame_within(&mut self, within: Duration) -> Result<Option<CoordinatorFrame>, String> {
        if let Some(kept) = self.kept.pop_front() {
            return Ok(Some(kept));
        }
        let began = Instant::now();
        while began.elapsed() < within {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => match CoordinatorFrame::decode(&bytes) {
                    Ok(Decoded::Known(frame, _)) => return Ok(Some(frame)),
                    other => panic!("the coordinator sent {other:?}"),
                },
                Ok(Message::Close(frame)) => return Err(format!("{frame:?}")),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(None)
    }

    /// The next frame that the choice takes; others are dropped, but offers, which are kept for later.
    pub fn wait_for<T>(&mut self, what: &str, mut choose: impl FnMut(&CoordinatorFrame) -> Option<T>) -> T {
        let began = Instant::now();
        let mut offers = VecDeque::new();
        loop {
            assert!(began.elapsed() < PATIENCE, "no {what} came");
            let frame = self.frame_within(Duration::from_secs(1));
            let frame = frame.unwrap_or_else(|error| panic!("closed while waiting for {what}: {error}"));
            let Some(frame) = frame else { continue };
            if let Some(found) = choose(&frame) {
                self.kept.extend(offers);
                return found;
            }
            if matches!(frame, CoordinatorFrame::Offer(_)) {
                offers.push_back(frame);
            }
        }
    }

    /// Waits until the coordinator closes, and returns the reasons that it gave in notices before.
    pub fn closed(&mut self) -> Vec<String> {
        let (began, mut reasons) = (Instant::now(), Vec::new());
        loop {
            assert!(began.elapsed() < PATIENCE, "the connection is not closed");
            match self.frame_within(Duration::from_secs(1)) {
                Ok(Some(CoordinatorFrame::VerdictNotice(notice))) if !notice.eligible => reasons.push(notice.reason),
                Ok(_) => {}
                Err(_) => return reasons,
            }
        }
    }

    pub fn epoch_proof(&self, epoch: &Epoch) -> Vec<u8> {
        let digest = challenge_digest(&self.network(), &self.welcome.nonce, &self.welcome.connection, &epoch.id());
        ChallengeProof { digest }.sign(&*epoch.receipt_key()).unwrap()
    }

    pub fn proof(&self, key: &SoftwareKey, epoch: &EpochId) -> Vec<u8> {
        let digest = challenge_digest(&self.network(), &self.welcome.nonce, &self.welcome.connection, epoch);
        ChallengeProof { digest }.sign(key).unwrap()
    }
}

/// Begins a connection with this in place of a dial: all that the coordinator says until it closes.
pub fn instead_of_a_dial(coordinator: &Coordinator, message: Message) -> Vec<CoordinatorFrame> {
    let mut socket = socket(&coordinator.address);
    // That the other side closes meanwhile is what comes of it.
    let _ = socket.send(message);
    let mut said = Vec::new();
    while let Ok(message) = socket.read() {
        if let Ok(Decoded::Known(frame, _)) = CoordinatorFrame::decode(&message.into_data()) {
            said.push(frame);
        }
    }
    said
}

/// An identity and its epochs, able to do everything that an honest provider does, and everything else.
pub struct Hostile {
    pub line: Line,
    pub key: SoftwareKey,
    pub id: ProviderId,
    pub ring: EpochRing,
    pub models: Vec<CatalogueDigest>,
    entry: CatalogueEntry,
}

/// An offer that was accepted.
pub struct Work {
    pub offer: Offer,
    pub header: SealedHeader,
    pub opened: Opened,
    sealer: AnswerSealer,
    tokens: u32,
}

impl Hostile {
    /// A new identity with eight rows, introduced with a join token of its own.
    pub fn join(coordinator: &Coordinator) -> Self {
        Self::join_with(coordinator, 8)
    }

    pub fn join_with(coordinator: &Coordinator, rows: u32) -> Self {
        Self::new(coordinator).joined(coordinator, rows)
    }

    /// Introduced with a join token of its own.
    pub fn joined(mut self, coordinator: &Coordinator, rows: u32) -> Self {
        let token = coordinator.key("join", None);
        let hello = self.hello(Some(&token), rows);
        self.line.send(hello);
        self
    }

    /// Connected, and not introduced.
    pub fn new(coordinator: &Coordinator) -> Self {
        Self::with_key(coordinator, SoftwareKey::in_memory().unwrap())
    }

    pub fn with_key(coordinator: &Coordinator, key: SoftwareKey) -> Self {
        let line = Line::dial(coordinator);
        let signed = &line.welcome.catalogue.0[0];
        let entry = CatalogueEntry::open(signed, &PublicKey::P256(line.welcome.coordinator)).unwrap();
        let models = vec![catalogue_digest(signed)];
        let ring = EpochRing::new(line.network(), Epoch::begin(key.public_point(), now(), &mut rng()));
        let id = ProviderId::of_public_key(&key.public_point());
        Self { line, key, id, ring, models, entry }
    }

    /// Lets this identity connect again.
    pub fn reconnect(self, coordinator: &Coordinator) -> Self {
        drop(self.line);
        let mut new = Self::with_key(coordinator, self.key);
        let hello = new.hello(None, 8);
        new.line.send(hello);
        new
    }

    pub fn statement(&self) -> Vec<u8> {
        self.statement_of(self.ring.current())
    }

    pub fn statement_of(&self, epoch: &Epoch) -> Vec<u8> {
        epoch.statement(self.line.network(), self.models.clone(), Vec::new(), "hostile").sign(&self.key).unwrap()
    }

    pub fn load(&self, rows: u32) -> ModelLoad {
        ModelLoad {
            model: self.models[0],
            rows_max: rows,
            rows_used: 0,
            waiting: 0,
            row_tokens: self.entry.context,
            residence: Residence::Loaded,
            pace: None,
        }
    }

    pub fn hello(&self, token: Option<&str>, rows: u32) -> Hello {
        Hello {
            statement: self.statement(),
            proof: self.line.proof(&self.key, &self.ring.current().id()),
            join_token: token.map(SecretString::from),
            models: vec![self.load(rows)].into(),
            capabilities: Vec::new().into(),
            epoch_proof: self.line.epoch_proof(self.ring.current()),
            presence: Vec::new().into(),
            hardware: None,
        }
    }

    pub fn heartbeat(&mut self, rows: u32) {
        let models = vec![self.load(rows)].into();
        self.line.send(Heartbeat { models, draining: false, machine: None });
    }

    /// Begins the next epoch and says so.
    pub fn rotate(&mut self) {
        let next = Epoch::begin(self.key.public_point(), now(), &mut rng());
        self.ring.rotate(next, now());
        let statement = self.statement();
        self.line.send(EpochUpdate { statement });
    }

    /// The next offer.
    pub fn offer(&mut self) -> Offer {
        self.line.wait_for("offer", |frame| match frame {
            CoordinatorFrame::Offer(offer) => Some(offer.clone()),
            _ => None,
        })
    }

    pub fn refuse(&mut self, stream: StreamId, code: u16) {
        self.line.send(Refused { stream, code, detail: String::new(), sealed: None });
    }

    /// Opens an offer without a word about it.
    pub fn open(&mut self, offer: &Offer) -> (Work, Accepted) {
        let (header, opened) = self.ring.open(&offer.header, &offer.body, &offer.wrap, now()).unwrap();
        let accepted =
            Accepted { stream: offer.stream, attempt: offer.attempt, epoch: offer.wrap.epoch, salt: random() };
        let sealer = AnswerSealer::new(
            &opened.response_secret,
            &Acceptance {
                request_digest: opened.request_digest,
                provider: self.id,
                epoch: offer.wrap.epoch,
                attempt: offer.attempt,
                salt: accepted.salt,
            },
        );
        (Work { offer: offer.clone(), header, opened, sealer, tokens: 0 }, accepted)
    }

    pub fn accept(&mut self, offer: &Offer) -> Work {
        let (work, accepted) = self.open(offer);
        self.line.send(accepted);
        work
    }

    /// So many frames of one token each, the end and the receipt: an honest answer.
    pub fn answer(&mut self, work: &mut Work, frames: u32, input: u32) {
        for _ in 0..frames {
            let data = work.delta(1, "a");
            self.line.send(data);
        }
        let end = work.end(input);
        self.line.send(end);
        let receipt = self.receipt(work, input);
        self.line.send(Final { stream: work.offer.stream, receipt });
    }

    /// What an honest provider says about its work.
    pub fn claim(&self, work: &Work, input: u32) -> Receipt {
        Receipt {
            request: work.opened.request_digest,
            request_id: work.header.request,
            attempt: work.offer.attempt,
            transcript: work.sealer.transcript(),
            model: work.header.model,
            weights: self.entry.weights,
            provider: self.id,
            epoch: work.offer.wrap.epoch,
            input_tokens: TokenCount(input),
            output_tokens: TokenCount(work.tokens),
            queue_us: Micros(0),
            prefill_us: Micros(0),
            decode_us: Micros(0),
            finished_at: now(),
        }
    }

    /// Signs with the key of the receipt's own epoch, or of the current one.
    pub fn sign(&self, receipt: &Receipt) -> Vec<u8> {
        let epoch = self.ring.by_id(&receipt.epoch).unwrap_or(self.ring.current());
        receipt.sign(&*epoch.receipt_key()).unwrap()
    }

    pub fn receipt(&self, work: &Work, input: u32) -> Vec<u8> {
        self.sign(&self.claim(work, input))
    }

    /// The largest receipt that this work could be claimed with.
    pub fn greedy(&self, work: &Work) -> Receipt {
        let mut receipt = self.claim(work, work.header.input_ceiling.0);
        receipt.output_tokens = work.header.output_ceiling;
        receipt
    }

    /// Presents receipts as after a lost connection, and waits until the coordinator has looked at them all.
    pub fn present(&mut self, receipts: Vec<Vec<u8>>) -> Vec<ReceiptId> {
        self.line.send(Receipts { receipts: receipts.into() });
        // One of an epoch that nobody knows is always acknowledged, and frames are worked off in their order.
        let fence = Receipt { epoch: EpochId(random()), ..self.unrelated() };
        let fence = self.sign(&fence);
        let id = receipt_id(&fence);
        self.line.send(Receipts { receipts: vec![fence].into() });
        let mut acknowledged = Vec::new();
        self.line.wait_for("acknowledgement", |frame| match frame {
            CoordinatorFrame::ReceiptAck(ack) if ack.receipt == id => Some(()),
            CoordinatorFrame::ReceiptAck(ack) => {
                acknowledged.push(ack.receipt);
                None
            }
            _ => None,
        });
        acknowledged
    }

    /// Waits until the coordinator has worked off everything that was sent.
    pub fn heard(&mut self) {
        self.present(Vec::new());
    }

    /// A receipt about nothing.
    pub fn unrelated(&self) -> Receipt {
        Receipt {
            request: darkbloom_types::Digest(random()),
            request_id: darkbloom_types::RequestId(random()),
            attempt: darkbloom_types::AttemptNumber(1),
            transcript: darkbloom_types::Digest(random()),
            model: self.models[0],
            weights: self.entry.weights,
            provider: self.id,
            epoch: self.ring.current().id(),
            input_tokens: TokenCount(1),
            output_tokens: TokenCount(1),
            queue_us: Micros(0),
            prefill_us: Micros(0),
            decode_us: Micros(0),
            finished_at: now(),
        }
    }
}

impl Work {
    /// The next piece, with so many more tokens.
    pub fn delta(&mut self, tokens: u32, text: &str) -> Data {
        self.tokens += tokens;
        let event = AnswerEvent::Delta { tokens: (0..tokens).map(TokenId).collect(), parts: text.into() };
        self.seal(&event, tokens, false)
    }

    /// The next piece, of these tokens that say this.
    pub fn say(&mut self, tokens: &[TokenId], text: &str) -> Data {
        let count = u32::try_from(tokens.len()).unwrap();
        self.tokens += count;
        self.seal(&AnswerEvent::Delta { tokens: tokens.to_vec(), parts: text.into() }, count, false)
    }

    /// The authenticated end.
    pub fn end(&mut self, input: u32) -> Data {
        let (input_tokens, output_tokens) = (TokenCount(input), TokenCount(self.tokens));
        let event = AnswerEvent::Finish { reason: FinishReason::Stop, input_tokens, output_tokens };
        self.seal(&event, 0, true)
    }

    /// The end of an answer that failed, for this reason.
    pub fn failure(&mut self, code: RefusalCode) -> Data {
        self.seal(&AnswerEvent::Failure { code, detail: SecretString::from("so there") }, 0, true)
    }

    fn seal(&mut self, event: &AnswerEvent, tokens: u32, end: bool) -> Data {
        let content = event.to_cbor();
        let size = frame_size(tokens).max((content.len() + 4).next_power_of_two());
        let sealed = self.sealer.seal(content.expose(), size, TokenCount(self.tokens), end).unwrap();
        let SealedFrame { sequence, tokens, end, ciphertext } = sealed;
        Data { stream: self.offer.stream, sequence, tokens, end, ciphertext }
    }
}
