//! The connection to the coordinator: introduction, offers, epochs, and starting over when it breaks.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_batch::RowId;
use darkbloom_keys::{IdentityKey, SoftwareKey};
use darkbloom_seal::{Epoch, EpochRing};
use darkbloom_session::{CancelAction, OfferError, ProviderStreams};
use darkbloom_store::ReceiptOutbox;
use darkbloom_types::{
    CatalogueDigest, ConnectionId, NetworkId, ProviderId, Refusal, RefusalCode, SecretString, StreamId,
};
use darkbloom_wire::{
    CancelAck, CatalogueEntry, ChallengeAnswer, ChallengeProof, CoordinatorFrame, Decoded, EpochUpdate, Heartbeat,
    Hello, ModelLoad, Offer, ProviderFrame, PublicKey, Receipts, Welcome, catalogue_digest, challenge_digest, limits,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::StartError;
use crate::model::LoadedModel;
use crate::request::{self, Job};
use darkbloom_host::clock;

/// Least and most wait before dialling again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Dialling and the welcome take no longer.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// Load is reported this often; the coordinator's patience is three and a half times that.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Without any frame for this long the connection counts as dead; challenges and verdicts alone come more often.
const SILENCE: Duration = Duration::from_secs(600);
/// Frames that may wait to be written; answers wait in turn when the network does.
const OUTGOING_MAX: usize = 256;
/// How long running answers may take when the provider stops.
const DRAIN: Duration = Duration::from_secs(30);
/// How often a stopping provider looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The WebSocket address of a coordinator's address.
pub fn endpoint(coordinator: &str) -> Result<String, String> {
    let rest = |scheme: &str| coordinator.strip_prefix(scheme).map(|rest| rest.trim_end_matches('/'));
    if let Some(host) = rest("https://") {
        return Ok(format!("wss://{host}/v1/provider"));
    }
    let Some(host) = rest("http://") else {
        return Err(format!("`{coordinator}` is not an http or https address"));
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        Ok(format!("ws://{host}/v1/provider"))
    } else {
        Err(format!("`{coordinator}` is another machine, and plain http would show it who you are"))
    }
}

/// The network that this provider serves, once known.
pub struct Pin {
    network: Option<NetworkId>,
    file: PathBuf,
}

impl Pin {
    /// The configured network, or the one met before.
    pub fn load(configured: Option<NetworkId>, file: PathBuf) -> Result<Self, StartError> {
        if configured.is_some() {
            return Ok(Self { network: configured, file });
        }
        match fs::read_to_string(&file) {
            Ok(text) => match text.trim().parse() {
                Ok(network) => Ok(Self { network: Some(network), file }),
                Err(_) => Err(StartError::PinDamaged { path: file }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { network: None, file }),
            Err(source) => Err(StartError::Pin { path: file, source }),
        }
    }

    /// Whether this is the pinned network; the first one met is pinned.
    fn admits(&mut self, network: NetworkId) -> bool {
        if let Some(pinned) = self.network {
            return pinned == network;
        }
        if let Err(error) = fs::write(&self.file, format!("{network}\n")) {
            tracing::error!(%error, "cannot write the coordinator's pin");
            return false;
        }
        tracing::info!(%network, "pinned the coordinator that was met first");
        self.network = Some(network);
        true
    }
}

/// What requests need while the provider serves a network.
pub struct Serving {
    pub id: ProviderId,
    pub digest: CatalogueDigest,
    pub model: Arc<LoadedModel>,
    pub ring: Mutex<EpochRing>,
    pub outbox: Arc<ReceiptOutbox>,
}

impl Serving {
    fn ring(&self) -> std::sync::MutexGuard<'_, EpochRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent.
pub struct Agent {
    identity: Arc<SoftwareKey>,
    outbox: Arc<ReceiptOutbox>,
    pin: Pin,
    model: Arc<LoadedModel>,
    join_token: Option<SecretString>,
    endpoint: String,
    serving: Option<Arc<Serving>>,
    next_row: Arc<AtomicU64>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("cannot reach the coordinator: {0}")]
    Unreachable(String),
    #[error("the connection was lost")]
    Lost,
    #[error("the coordinator is not the pinned one (its network is {0})")]
    OtherNetwork(NetworkId),
    #[error("the coordinator's catalogue does not name the loaded model (weights {0})")]
    ModelNotInCatalogue(String),
    #[error("the coordinator's clock says {coordinator} ms, this machine's {here} ms: set the one that is wrong")]
    Clock { coordinator: i64, here: i64 },
    #[error("the coordinator sent what no coordinator sends: {0}")]
    Protocol(String),
    #[error("{0}")]
    Key(#[from] darkbloom_wire::SignError),
}

impl Agent {
    pub fn new(
        identity: Arc<SoftwareKey>,
        outbox: ReceiptOutbox,
        pin: Pin,
        model: LoadedModel,
        join_token: Option<SecretString>,
        endpoint: String,
    ) -> Self {
        let next_row = Arc::new(AtomicU64::new(1));
        Self {
            identity,
            outbox: Arc::new(outbox),
            pin,
            model: Arc::new(model),
            join_token,
            endpoint,
            serving: None,
            next_row,
        }
    }

    /// Keeps the connection up until told to stop.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut wait = BACKOFF.0;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.connect() => ended,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let error = match ended {
                Ok(link) => match link.serve(&mut stop).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // A connection that held for a while was a good one.
            wait = if began.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (wait * 2).min(BACKOFF.1) };
            let jitter = wait.mul_f64(0.5 + f64::from(clock::rng().next_u32() % 1_000) / 2_000.0);
            tracing::warn!(%error, next_try_ms = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX), "not connected");
            tokio::select! {
                () = tokio::time::sleep(jitter) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Dials, checks who answers, and introduces this provider.
    async fn connect(&mut self) -> Result<Link, Broken> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(limits::FRAME_BYTES_MAX))
            .max_frame_size(Some(limits::FRAME_BYTES_MAX));
        // Without Nagle's algorithm: small frames must not wait for the acknowledgement of the one before.
        let dial = connect_async_tls_with_config(&self.endpoint, Some(config), true, None);
        let (mut socket, _) = tokio::time::timeout(CONNECT_WAIT, dial)
            .await
            .map_err(|_| Broken::Unreachable("no answer in time".to_owned()))?
            .map_err(|error| Broken::Unreachable(error.to_string()))?;
        let welcome = match tokio::time::timeout(CONNECT_WAIT, next_frame(&mut socket)).await {
            Ok(Ok(Some(CoordinatorFrame::Welcome(welcome)))) => welcome,
            Ok(Ok(_)) => return Err(Broken::Protocol("another frame than a welcome".to_owned())),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Broken::Lost),
        };
        let serving = self.admit(&welcome)?;
        let hello = self.hello(&serving, &welcome)?;
        send(&mut socket, hello).await?;
        let receipts = self.outbox.unacknowledged(limits::RECEIPTS_PER_FRAME_MAX as u32).await.unwrap_or_default();
        if !receipts.is_empty() {
            tracing::info!(count = receipts.len(), "presenting unacknowledged receipts again");
            let receipts: Vec<_> = receipts.into_iter().map(|(_, bytes)| bytes).collect();
            send(&mut socket, Receipts { receipts: receipts.into() }).await?;
        }
        Ok(Link::new(socket, serving, Arc::clone(&self.identity), welcome.connection, Arc::clone(&self.next_row)))
    }

    /// Checks the pin, finds the loaded model in the catalogue, and keeps or makes the epochs.
    fn admit(&mut self, welcome: &Welcome) -> Result<Arc<Serving>, Broken> {
        let now = clock::now();
        if welcome.time.distance(now) > limits::CLOCK_SKEW_MAX {
            return Err(Broken::Clock { coordinator: welcome.time.0, here: now.0 });
        }
        let network = NetworkId::of_coordinator_key(&welcome.coordinator);
        if !self.pin.admits(network) {
            return Err(Broken::OtherNetwork(network));
        }
        let key = PublicKey::P256(welcome.coordinator);
        let digest = welcome.catalogue.0.iter().find_map(|signed| {
            let entry = CatalogueEntry::open(signed, &key).ok()?;
            let ours = entry.weights == self.model.weights && entry.text_pack == self.model.text_pack;
            (ours && entry.network == network).then(|| catalogue_digest(signed))
        });
        let digest = digest.ok_or_else(|| Broken::ModelNotInCatalogue(self.model.weights.to_string()))?;
        if let Some(serving) = &self.serving
            && serving.digest == digest
        {
            return Ok(Arc::clone(serving));
        }
        let identity = self.identity.public_point();
        let epoch = Epoch::begin(identity, clock::now(), &mut clock::rng());
        let serving = Arc::new(Serving {
            id: ProviderId::of_public_key(&identity),
            digest,
            model: Arc::clone(&self.model),
            ring: Mutex::new(EpochRing::new(network, epoch)),
            outbox: Arc::clone(&self.outbox),
        });
        self.serving = Some(Arc::clone(&serving));
        Ok(serving)
    }

    fn hello(&self, serving: &Serving, welcome: &Welcome) -> Result<Hello, Broken> {
        let ring = serving.ring();
        let network = NetworkId::of_coordinator_key(&welcome.coordinator);
        let digest = challenge_digest(&network, &welcome.nonce, &welcome.connection, &ring.current().id());
        Ok(Hello {
            statement: statement(&self.identity, serving, &ring)?,
            proof: ChallengeProof { digest }.sign(&*self.identity)?,
            join_token: self.join_token.clone(),
            models: vec![load(serving)].into(),
            capabilities: Vec::new().into(),
        })
    }
}

fn statement(
    identity: &SoftwareKey,
    serving: &Serving,
    ring: &EpochRing,
) -> Result<Vec<u8>, darkbloom_wire::SignError> {
    let release = concat!("darkbloom/", env!("CARGO_PKG_VERSION"));
    ring.current().statement(ring.network(), vec![serving.digest], Vec::new(), release).sign(identity)
}

fn load(serving: &Serving) -> ModelLoad {
    let load = serving.model.engine.load();
    ModelLoad {
        model: serving.digest,
        rows_max: serving.model.rows,
        rows_used: u32::try_from(load.running).unwrap_or(u32::MAX),
        waiting: u32::try_from(load.waiting).unwrap_or(u32::MAX),
    }
}

async fn send(socket: &mut Socket, frame: impl Into<ProviderFrame>) -> Result<(), Broken> {
    socket.send(Message::binary(frame.into().encode())).await.map_err(|_| Broken::Lost)
}

/// The next frame that this release knows; `None` for one that it does not.
async fn next_frame<S>(socket: &mut S) -> Result<Option<CoordinatorFrame>, Broken>
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                return match CoordinatorFrame::decode(&bytes) {
                    Ok(Decoded::Known(frame, _)) => Ok(Some(frame)),
                    Ok(Decoded::Unknown(_)) => Ok(None),
                    Err(error) => Err(Broken::Protocol(error.to_string())),
                };
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => return Err(Broken::Lost),
        }
    }
}

/// Returns when the provider is told to stop, or its owner is gone.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// One connection that is served.
struct Link {
    incoming: futures_util::stream::SplitStream<Socket>,
    out: mpsc::Sender<Vec<u8>>,
    serving: Arc<Serving>,
    identity: Arc<SoftwareKey>,
    connection: ConnectionId,
    streams: ProviderStreams,
    cancels: HashMap<StreamId, watch::Sender<bool>>,
    finished: (mpsc::Sender<StreamId>, mpsc::Receiver<StreamId>),
    next_row: Arc<AtomicU64>,
    draining: bool,
}

impl Link {
    fn new(
        socket: Socket,
        serving: Arc<Serving>,
        identity: Arc<SoftwareKey>,
        connection: ConnectionId,
        next_row: Arc<AtomicU64>,
    ) -> Self {
        let (mut sink, incoming) = socket.split();
        let (out, mut queue) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if sink.send(Message::binary(frame)).await.is_err() {
                    return;
                }
            }
            // Every sender is gone: the connection is over.
            let _ = sink.close().await;
        });
        Self {
            incoming,
            out,
            serving,
            identity,
            connection,
            streams: ProviderStreams::default(),
            cancels: HashMap::new(),
            finished: mpsc::channel(darkbloom_session::STREAMS_MAX),
            next_row,
            draining: false,
        }
    }

    /// Serves until the connection breaks, or until told to stop and done.
    async fn serve(mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Broken> {
        tracing::info!(provider = %self.serving.id, "connected");
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_look = tokio::time::interval(DRAIN_LOOK);
        let mut drain_until: Option<Instant> = None;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                frame = next_frame(&mut self.incoming) => {
                    heard = Instant::now();
                    match frame {
                        Ok(Some(frame)) => self.handle(frame).await?,
                        Ok(None) => {}
                        Err(error) => return Err(error),
                    }
                }
                Some(stream) = self.finished.1.recv() => {
                    self.cancels.remove(&stream);
                    self.streams.finished(stream);
                }
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(Broken::Lost);
                    }
                    self.rotate().await?;
                    self.heartbeat().await?;
                }
                () = told(stop), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + DRAIN);
                    self.draining = true;
                    self.heartbeat().await?;
                }
                _ = drain_look.tick(), if drain_until.is_some() => {
                    if self.streams.is_empty() || drain_until.is_some_and(|until| Instant::now() >= until) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn send(&self, frame: impl Into<ProviderFrame>) -> Result<(), Broken> {
        self.out.send(frame.into().encode()).await.map_err(|_| Broken::Lost)
    }

    async fn heartbeat(&self) -> Result<(), Broken> {
        self.send(Heartbeat { models: vec![load(&self.serving)].into(), draining: self.draining }).await
    }

    /// Begins the next epoch when it is time.
    async fn rotate(&self) -> Result<(), Broken> {
        let now = clock::now();
        let signed = {
            let mut ring = self.serving.ring();
            ring.expire(now);
            if now < ring.rotate_at() {
                return Ok(());
            }
            let next = Epoch::begin(self.identity.public_point(), now, &mut clock::rng());
            ring.rotate(next, now);
            statement(&self.identity, &self.serving, &ring)?
        };
        tracing::info!("began the next epoch");
        self.send(EpochUpdate { statement: signed }).await
    }

    async fn handle(&mut self, frame: CoordinatorFrame) -> Result<(), Broken> {
        match frame {
            CoordinatorFrame::Welcome(_) => Err(Broken::Protocol("a second welcome".to_owned())),
            CoordinatorFrame::Challenge(challenge) => {
                let proof = {
                    let ring = self.serving.ring();
                    let digest =
                        challenge_digest(&ring.network(), &challenge.nonce, &self.connection, &ring.current().id());
                    ChallengeProof { digest }.sign(&*self.identity)?
                };
                self.send(ChallengeAnswer { proof }).await
            }
            CoordinatorFrame::Offer(offer) => self.offer(offer).await,
            CoordinatorFrame::Cancel(cancel) => match self.streams.cancel(cancel.stream) {
                CancelAction::Stop => {
                    if let Some(sender) = self.cancels.get(&cancel.stream) {
                        let _ = sender.send(true);
                    }
                    Ok(())
                }
                CancelAction::AcknowledgeNow => self.send(CancelAck { stream: cancel.stream }).await,
                CancelAction::Nothing => Ok(()),
            },
            CoordinatorFrame::ReceiptAck(ack) => {
                if let Err(error) = self.serving.outbox.acknowledge(ack.receipt).await {
                    tracing::error!(%error, "cannot forget an acknowledged receipt");
                }
                Ok(())
            }
            CoordinatorFrame::VerdictNotice(notice) => {
                if notice.eligible {
                    tracing::info!("eligible: the provider gets work");
                    return Ok(());
                }
                // A reason of the registry passes; after any other the coordinator closes the connection.
                tracing::warn!(reason = notice.reason, "not eligible: {}; {}", notice.sentence, notice.next_step);
                Ok(())
            }
        }
    }

    async fn offer(&mut self, offer: Offer) -> Result<(), Broken> {
        let stream = offer.stream;
        match self.streams.offered(stream) {
            Ok(()) => {}
            Err(OfferError::NumberUsed) => return Err(Broken::Protocol("a stream number was used twice".to_owned())),
            Err(OfferError::TooMany) => return self.refuse(stream, &RefusalCode::Overloaded.into()).await,
        }
        if self.draining {
            self.streams.finished(stream);
            return self.refuse(stream, &RefusalCode::Draining.into()).await;
        }
        let (header, opened, receipt_key) = match request::open(&self.serving, &offer) {
            Ok(opened) => opened,
            Err(refusal) => {
                self.streams.finished(stream);
                return self.refuse(stream, &refusal).await;
            }
        };
        let (cancel, cancelled) = watch::channel(false);
        self.cancels.insert(stream, cancel);
        let job = Job {
            serving: Arc::clone(&self.serving),
            stream,
            attempt: offer.attempt,
            epoch: offer.wrap.epoch,
            header,
            opened,
            receipt_key,
            row: RowId(self.next_row.fetch_add(1, Ordering::Relaxed)),
            out: self.out.clone(),
            cancelled,
        };
        let finished = self.finished.0.clone();
        tokio::spawn(async move {
            job.run().await;
            // The link is gone when the connection is; then nobody counts streams any more.
            let _ = finished.send(stream).await;
        });
        Ok(())
    }

    async fn refuse(&self, stream: StreamId, refusal: &Refusal) -> Result<(), Broken> {
        self.out.send(request::refused(stream, refusal, None)).await.map_err(|_| Broken::Lost)
    }
}
