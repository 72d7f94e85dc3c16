//! Providers that follow a script: they introduce themselves truly, and answer with frames that were sealed and receipts that
//! were signed before the clock ran.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darkbloom_host::clock::{now, rng};
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::{
    Acceptance, AnswerSealer, Epoch, EpochRing, Recipient, RequestSeal, SealedFrame, frame_size, seal_request,
};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, Micros, NetworkId, ProviderId, RequestId, SecretString, TokenCount,
};
use darkbloom_wire::{
    Accepted, ChallengeAnswer, ChallengeProof, CoordinatorFrame, Data, Decoded, Dial, Final, Heartbeat, Hello,
    LengthPrefixed, ModelLoad, Offer, ProviderFrame, Receipt, Residence, SealedHeader, Statement, challenge_digest,
    limits,
};
use futures_util::stream::SplitStream;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::Outcome;

/// Rows that each says to have: the most that a registry believes.
pub const ROWS: u32 = 256;
/// Small, for there may be thousands.
const BUFFER_BYTES: usize = 4_096;

/// How an answer's frames follow each other.
#[derive(Clone)]
pub enum Pace {
    /// All at once.
    Whole,
    /// One by one, with this time between.
    Every(Duration),
    /// As fast as they are taken: each needs a permit, which whoever reads gives back.
    Credit(Arc<Semaphore>),
}

/// An answer that was made ready.
pub struct Script {
    pub pace: Pace,
    pub frames: u32,
    /// What each of the recipients would say; none for a provider of the floor.
    sealed: HashMap<ProviderId, Sealed>,
}

struct Sealed {
    salt: [u8; 32],
    frames: Vec<SealedFrame>,
    receipt: Vec<u8>,
}

/// Answers by the request that they are for.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Mutex<HashMap<[u8; 16], Arc<Script>>>>);

impl Scripts {
    pub fn put(&self, request: [u8; 16], script: Script) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(request, Arc::new(script));
    }

    fn take(&self, request: &[u8; 16]) -> Option<Arc<Script>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(request)
    }
}

/// What all providers of one network have in common.
#[derive(Clone)]
pub struct Place {
    pub address: SocketAddr,
    pub network: NetworkId,
    pub model: CatalogueDigest,
    pub weights: Digest,
    pub join: SecretString,
    pub scripts: Scripts,
}

/// Who a provider is, for whoever seals to it and signs for it.
pub struct Identity {
    pub id: ProviderId,
    pub statement: Statement,
    ring: Mutex<EpochRing>,
    key: SoftwareKey,
}

impl Identity {
    pub fn new(place: &Place) -> Outcome<Self> {
        let key = SoftwareKey::in_memory()?;
        let epoch = Epoch::begin(key.public_point(), now(), &mut rng());
        let statement = epoch.statement(place.network, vec![place.model], Vec::new(), "bench/1.0.0");
        let id = ProviderId::of_public_key(&key.public_point());
        Ok(Self { id, statement, ring: Mutex::new(EpochRing::new(place.network, epoch)), key })
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, EpochRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn recipient(&self) -> Recipient<'_> {
        let epoch = self.ring().current().id();
        Recipient { provider: self.id, epoch, sealing_key: &self.statement.sealing_key }
    }

    /// Opens a request as a provider does, and compares what it shares with its client.
    pub fn opens(&self, seal: &RequestSeal, plaintext: &[u8]) -> Outcome<()> {
        let wrap = seal.submit.wraps.0.iter().find(|wrap| wrap.provider == self.id).ok_or("it is not for this one")?;
        let (_, opened) = self.ring().open(&seal.submit.header, &seal.submit.body, wrap, now())?;
        if opened.plaintext.expose() == plaintext { Ok(()) } else { Err("another plaintext".into()) }
    }

    /// The answer that this provider will give, if it is asked first.
    fn answer(&self, seal: &RequestSeal, place: &Place, frames: u32) -> Outcome<Sealed> {
        use rand_core::Rng as _;
        let (epoch, key) = {
            let ring = self.ring();
            (ring.current().id(), ring.current().receipt_key())
        };
        let mut salt = [0; 32];
        rng().fill_bytes(&mut salt);
        let attempt = AttemptNumber(1);
        let acceptance = Acceptance { request_digest: seal.request_digest, provider: self.id, epoch, attempt, salt };
        let secret = seal.response_secret(&self.id, &epoch).ok_or("no secret")?;
        let mut sealer = AnswerSealer::new(secret, &acceptance);
        let sealed = (1..=frames).map(|n| sealer.seal(b"word", frame_size(1), TokenCount(n), n == frames));
        let sealed = sealed.collect::<Result<Vec<_>, _>>()?;
        let receipt = Receipt {
            request: seal.request_digest,
            request_id: seal.header.request,
            attempt,
            transcript: sealer.transcript(),
            model: place.model,
            weights: place.weights,
            provider: self.id,
            epoch,
            input_tokens: TokenCount(100),
            output_tokens: TokenCount(frames),
            queue_us: Micros(1),
            prefill_us: Micros(1),
            decode_us: Micros(1),
            finished_at: now(),
        };
        Ok(Sealed { salt, frames: sealed, receipt: receipt.sign(&*key)? })
    }
}

/// Seals a request to these providers and has their answers ready.
pub fn seal(
    header: SealedHeader,
    plaintext: &[u8],
    providers: &[Arc<Identity>],
    place: &Place,
    (frames, pace): (u32, Pace),
) -> Outcome<RequestSeal> {
    let recipients: Vec<_> = providers.iter().map(|provider| provider.recipient()).collect();
    let seal = seal_request(header, &plaintext.to_vec().into(), &recipients, &mut rng())?;
    let answers = providers.iter().map(|provider| Ok((provider.id, provider.answer(&seal, place, frames)?)));
    let script = Script { pace, frames, sealed: answers.collect::<Outcome<_>>()? };
    place.scripts.put(seal.header.request.0, script);
    Ok(seal)
}

type Socket = WebSocketStream<TcpStream>;

async fn dial(address: SocketAddr, path: &str) -> Outcome<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES);
    let url = format!("ws://{address}{path}");
    Ok(tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?.0)
}

async fn hear(
    socket: &mut (impl Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin),
) -> Outcome<CoordinatorFrame> {
    loop {
        if let Message::Binary(bytes) = socket.next().await.ok_or("the coordinator hung up")??
            && let Decoded::Known(frame, _) = CoordinatorFrame::decode(&bytes)?
        {
            return Ok(frame);
        }
    }
}

fn message(frame: impl Into<ProviderFrame>) -> Message {
    Message::binary(frame.into().encode())
}

/// Introduces a provider, and serves until the connection ends.
pub async fn join(place: Place, identity: Arc<Identity>) -> Outcome<()> {
    let mut socket = dial(place.address, "/v1/provider").await?;
    socket.send(message(Dial { nonce: [1; 32] })).await?;
    let CoordinatorFrame::Welcome(welcome) = hear(&mut socket).await? else { return Err("no welcome".into()) };
    let (epoch, receipt_key) = {
        let ring = identity.ring();
        (ring.current().id(), ring.current().receipt_key())
    };
    let prove = |nonce: &[u8; 32]| ChallengeProof {
        digest: challenge_digest(&place.network, nonce, &welcome.connection, &epoch),
    };
    let load = ModelLoad {
        model: place.model,
        rows_max: ROWS,
        rows_used: 0,
        waiting: 0,
        row_tokens: TokenCount(1 << 17),
        residence: Residence::Loaded,
        pace: None,
    };
    socket
        .send(message(Hello {
            statement: identity.statement.sign(&identity.key)?,
            proof: prove(&welcome.nonce).sign(&identity.key)?,
            join_token: Some(place.join.clone()),
            models: vec![load.clone()].into(),
            capabilities: Vec::new().into(),
            epoch_proof: prove(&welcome.nonce).sign(&*receipt_key)?,
            presence: Vec::new().into(),
            hardware: None,
        }))
        .await?;
    let (challenges, mut asked) = mpsc::channel::<[u8; 32]>(4);
    let beat = tokio::time::interval(Duration::from_millis(limits::HEARTBEAT.0));
    let (sink, incoming) = socket.split();
    let (out, queue) = mpsc::channel(1_024);
    let writer = tokio::spawn(write(sink, queue));
    let reading = serve(incoming, out.clone(), challenges, (place.scripts.clone(), identity.id, epoch));
    let beating = async {
        let mut beat = beat;
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    let heartbeat = Heartbeat { models: vec![load.clone()].into(), draining: false, machine: None };
                    if out.send(message(heartbeat)).await.is_err() { return Ok(()) }
                }
                Some(nonce) = asked.recv() => {
                    let answer = ChallengeAnswer { proof: prove(&nonce).sign(&identity.key)?, presence: Vec::new().into() };
                    if out.send(message(answer)).await.is_err() { return Ok(()) }
                }
            }
        }
    };
    let ended = tokio::select! { ended = reading => ended, ended = beating => ended };
    writer.abort();
    ended
}

/// Writes what waits, and flushes when nothing more does.
async fn write(
    mut sink: impl Sink<Message, Error = tokio_tungstenite::tungstenite::Error> + Unpin,
    mut queue: mpsc::Receiver<Message>,
) {
    while let Some(message) = queue.recv().await {
        let mut next = Some(message);
        while let Some(message) = next {
            if sink.feed(message).await.is_err() {
                return;
            }
            next = queue.try_recv().ok();
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
}

async fn serve(
    mut incoming: SplitStream<Socket>,
    out: mpsc::Sender<Message>,
    challenges: mpsc::Sender<[u8; 32]>,
    (scripts, id, epoch): (Scripts, ProviderId, darkbloom_types::EpochId),
) -> Outcome<()> {
    loop {
        match hear(&mut incoming).await? {
            CoordinatorFrame::Offer(offer) => {
                let header = SealedHeader::decode(&offer.header)?;
                let script = scripts.take(&header.request.0).ok_or("a request without a script")?;
                // Its own task, so that one that waits holds up nobody.
                tokio::spawn(answer(script, offer, (id, epoch), out.clone()));
            }
            CoordinatorFrame::Challenge(challenge) => challenges.send(challenge.nonce).await?,
            CoordinatorFrame::Cancel(_)
            | CoordinatorFrame::ReceiptAck(_)
            | CoordinatorFrame::VerdictNotice(_)
            | CoordinatorFrame::LoadModel(_)
            | CoordinatorFrame::Welcome(_) => {}
        }
    }
}

/// Waits until the next frame may go.
async fn may_go(pace: &Pace, first: bool) {
    match pace {
        Pace::Whole => {}
        Pace::Every(_) if first => {}
        Pace::Every(gap) => tokio::time::sleep(*gap).await,
        Pace::Credit(permits) => {
            if let Ok(permit) = permits.acquire().await {
                permit.forget();
            }
        }
    }
}

async fn answer(
    script: Arc<Script>,
    offer: Offer,
    (id, epoch): (ProviderId, darkbloom_types::EpochId),
    out: mpsc::Sender<Message>,
) {
    let stream = offer.stream;
    let Some(sealed) = script.sealed.get(&id) else { return };
    // Nobody is left to tell when the connection is gone.
    let _ = out.send(message(Accepted { stream, attempt: offer.attempt, epoch, salt: sealed.salt })).await;
    for frame in &sealed.frames {
        may_go(&script.pace, frame.sequence == 0).await;
        let SealedFrame { sequence, tokens, end, ciphertext } = frame.clone();
        let _ = out.send(message(Data { stream, sequence, tokens, end, ciphertext })).await;
    }
    let _ = out.send(message(Final { stream, receipt: sealed.receipt.clone() })).await;
}

/// The floor's provider: the same paces, frames as long as sealed ones.
pub async fn join_floor(address: SocketAddr, scripts: Scripts) -> Outcome<()> {
    let (sink, mut incoming) = dial(address, "/provider").await?.split();
    let (out, queue) = mpsc::channel(1_024);
    let writer = tokio::spawn(write(sink, queue));
    while let Some(Ok(message)) = incoming.next().await {
        let Message::Binary(bytes) = message else { continue };
        let (stream, body) = bytes.split_first_chunk::<8>().ok_or("no number")?;
        let script = scripts.take(&named(body)?).ok_or("a request without a script")?;
        let (stream, out) = (*stream, out.clone());
        tokio::spawn(async move {
            for nth in 0..script.frames {
                may_go(&script.pace, nth == 0).await;
                let _ = out.send(Message::binary(floor_frame(&stream, nth, nth + 1 == script.frames))).await;
            }
        });
    }
    writer.abort();
    Ok(())
}

/// As many bytes of payload as the relayed frame of one token has.
fn floor_frame(stream: &[u8; 8], nth: u32, last: bool) -> Vec<u8> {
    let mut payload = [0; crate::load::FLOOR_FRAME_BYTES];
    payload[..4].copy_from_slice(&nth.to_be_bytes());
    payload[4] = u8::from(last);
    let mut frame = stream.to_vec();
    frame.push(u8::from(last));
    frame.extend_from_slice(&LengthPrefixed::wrap(&payload));
    frame
}

/// A chat request of some kilobyte, which names its script.
pub fn floor_body(request: RequestId) -> String {
    let words = "privacy for less than nothing ".repeat(32);
    format!(
        r#"{{"user":"{}","model":"model","messages":[{{"role":"user","content":"{words}"}}],"max_tokens":4096,"stream":true}}"#,
        hex::encode(request.0)
    )
}

fn named(body: &[u8]) -> Outcome<[u8; 16]> {
    let mut name = [0; 16];
    hex::decode_to_slice(body.get(9..41).ok_or("a short body")?, &mut name)?;
    Ok(name)
}

/// Plays the floor's answer to nobody's request, for who is asked without anybody between.
pub fn direct_answer() -> Vec<u8> {
    floor_frame(&[0; 8], 0, true)[9..].to_vec()
}

/// An answer of the floor that is to be given.
pub fn floor_script(scripts: &Scripts, request: RequestId, frames: u32, pace: Pace) {
    scripts.put(request.0, Script { pace, frames, sealed: HashMap::new() });
}
