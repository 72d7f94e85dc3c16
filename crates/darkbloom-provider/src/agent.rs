//! The provider's side of a network: whom it trusts, how it introduces itself, and starting over when a link breaks.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_attest::{CoordinatorError, verify_welcome};
use darkbloom_batch::Pace;
use darkbloom_harden::SecretPages;
use darkbloom_keys::{KeyConfig, settle, unsettled as unsettled_keys};
use darkbloom_seal::{Epoch, EpochRing};
use darkbloom_store::ReceiptOutbox;
use darkbloom_types::{CatalogueDigest, EpochId, NetworkId, ProviderId, SecretString, TokenCount, scrub_stack};
use darkbloom_wire::{
    CatalogueEntry, ChallengeProof, CoordinatorFrame, Dial, Hello, ModelLoad, ModelPace, Program, ProviderFrame,
    PublicKey, Statement, Welcome, catalogue_digest, challenge_digest, limits,
};
use futures_util::SinkExt as _;
use rand_core::Rng as _;
use tokio::sync::watch;
use tokio_tungstenite::connect_async_tls_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::link::{Heard, Link, Socket, next_frame, told};
use crate::machine;
use crate::presenting::Presenting;
use crate::shelf::{Shelf, Status};
use crate::signatory::{Signatory, SignedStatement};
use crate::stating::Stated;
use crate::status::Board;
use crate::{ServeError, StartError};
use darkbloom_host::clock;

/// Least and most wait before dialling again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Dialling and the welcome take no longer.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// Receipts that one connection presents: as many as the outbox keeps.
const PRESENTED_MAX: u32 = 10_000;

/// The WebSocket address of a coordinator's address.
pub fn endpoint(coordinator: &str) -> Result<String, String> {
    // Each of these can make the host another than the one that is read below: `http://localhost:80@elsewhere.example`.
    // The address is not repeated: what stands before an `@` may be a password.
    if coordinator.chars().any(|sign| "@?#\\".contains(sign) || sign.is_whitespace() || sign.is_control()) {
        return Err("an address has no `@`, `?`, `#`, `\\`, white space or control character".to_owned());
    }
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

    /// Whether this is the pinned network, or the first one met.
    fn admits(&self, network: NetworkId) -> bool {
        self.network.is_none_or(|pinned| pinned == network)
    }

    /// Pins the first network met, once it has proven itself.
    fn keep(&mut self, network: NetworkId) -> bool {
        if self.network.is_some() {
            return true;
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
    /// Its models, by what the network calls them, and their places on the shelf.
    pub models: Vec<(CatalogueDigest, usize)>,
    pub shelf: Arc<Shelf>,
    /// Of the network: it stays when the operator signs a model's entry again.
    pub ring: Arc<Mutex<EpochRing>>,
    pub outbox: Arc<ReceiptOutbox>,
    /// What it says about itself.
    pub about: Arc<About>,
    /// Where its owner sees how it stands.
    pub board: Option<Arc<Board>>,
}

/// What a provider says about itself in each statement, beside keys and evidence.
#[derive(Debug, Default)]
pub struct About {
    /// What this process does to keep others out of its memory, by name.
    pub hardening: Vec<String>,
    /// Where its identity key lives, by name.
    pub key_home: String,
    /// The words of the identities that this one took over from.
    pub successions: Vec<Vec<u8>>,
    /// What runs here.
    pub program: Option<Program>,
}

impl Serving {
    pub fn ring(&self) -> MutexGuard<'_, EpochRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A model's place on the shelf.
    pub fn place(&self, model: &CatalogueDigest) -> Option<usize> {
        self.models.iter().find(|(digest, _)| digest == model).map(|(_, at)| *at)
    }
}

/// What ends when the coordinator has taken this provider in: nobody needs the join token any more, and it is erased; and of
/// a rotated key the other one is destroyed.
#[derive(Clone, Default)]
pub struct Admission(Arc<Mutex<Pending>>);

#[derive(Default)]
struct Pending {
    join_token: Option<SecretString>,
    /// The folder and the homes of two keys, of which one is to go, and what holds the folder.
    unsettled: Option<(PathBuf, KeyConfig, Arc<ReceiptOutbox>)>,
    board: Option<Arc<Board>>,
    /// Whose coordinator is being spoken to.
    network: Option<NetworkId>,
    /// Where the network is written down whose coordinator accepted the identity last, while it had one key.
    accepted_by: Option<PathBuf>,
}

impl Admission {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token_to_send(&self) -> Option<SecretString> {
        self.pending().join_token.clone()
    }

    /// The coordinator took this provider in, as the identity that it showed.
    pub fn accepted(&self) {
        let (unsettled, board) = {
            let mut pending = self.pending();
            drop(pending.join_token.take());
            if !pending.is_known_here() {
                tracing::warn!(
                    "another network than the one that knew this identity accepts it: both keys of the rotation stay"
                );
                return;
            }
            (pending.unsettled.take(), pending.board.clone())
        };
        let Some((data, keys, held)) = unsettled else { return };
        let again = self.clone();
        // A TPM takes a second for that.
        tokio::task::spawn_blocking(move || match settle(&data, &keys) {
            // The device of the other key may be away: then it is destroyed at another time.
            Ok(()) if unsettled_keys(&data).is_ok_and(|left| left.is_some()) => {
                again.pending().unsettled = Some((data, keys, held));
            }
            Ok(()) => {
                drop(held);
                tracing::info!(
                    "the coordinator accepted this identity: the other key of the rotation is kept no longer"
                );
                if let Some(board) = board {
                    board.settled();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the other key of a rotation cannot be destroyed now: {}", error.next_step());
                again.pending().unsettled = Some((data, keys, held));
            }
        });
    }
}

impl Pending {
    /// Whether this network's coordinator may decide which of two keys is the identity's: any may where there is one key, and
    /// is then the one that knows it.
    fn is_known_here(&self) -> bool {
        let (Some(network), Some(file)) = (self.network, &self.accepted_by) else { return true };
        let text = format!("{network}\n");
        let known = fs::read_to_string(file).ok();
        if self.unsettled.is_some() {
            return known.is_none_or(|known| known == text);
        }
        if known.as_ref() != Some(&text)
            && let Err(error) = fs::write(file, text)
        {
            tracing::warn!(%error, "cannot note which network knows this identity");
        }
        true
    }
}

/// The agent.
pub struct Agent {
    signatory: Arc<Signatory>,
    outbox: Arc<ReceiptOutbox>,
    pin: Pin,
    shelf: Arc<Shelf>,
    admission: Admission,
    endpoint: String,
    about: Arc<About>,
    board: Option<Arc<Board>>,
    serving: Option<Arc<Serving>>,
    next_row: Arc<AtomicU64>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("cannot reach the coordinator: {0}")]
    Unreachable(String),
    #[error("the connection was lost")]
    Lost,
    #[error("nothing was heard from the coordinator for too long")]
    Silent,
    #[error("the coordinator takes nothing any more")]
    Stuck,
    #[error("the operator's catalogue changed")]
    CatalogueChanged,
    #[error("the coordinator is not the pinned one (its network is {0})")]
    OtherNetwork(NetworkId),
    #[error("this is not the pinned coordinator, or not that of network {network}: {reason}")]
    Unproven { network: NetworkId, reason: CoordinatorError },
    #[error("the coordinator's pin cannot be kept")]
    PinNotKept,
    #[error("the coordinator's catalogue names none of this provider's models (weights {0})")]
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
        signatory: Arc<Signatory>,
        outbox: ReceiptOutbox,
        pin: Pin,
        shelf: Arc<Shelf>,
        join_token: Option<SecretString>,
        endpoint: String,
    ) -> Self {
        let next_row = Arc::new(AtomicU64::new(1));
        Self {
            signatory,
            outbox: Arc::new(outbox),
            pin,
            shelf,
            admission: Admission(Arc::new(Mutex::new(Pending { join_token, ..Pending::default() }))),
            endpoint,
            about: Arc::default(),
            board: None,
            serving: None,
            next_row,
        }
    }

    /// Says this in its statements.
    pub fn saying(mut self, about: About) -> Self {
        self.about = about.into();
        self
    }

    /// Shows its owner there how it stands.
    pub fn shown_on(mut self, board: Board) -> Self {
        let board = Arc::new(board);
        self.admission.pending().board = Some(Arc::clone(&board));
        self.board = Some(board);
        self
    }

    /// Has the other key of a rotation in this folder destroyed once the coordinator has accepted this identity.
    pub fn settling(self, data: PathBuf, unsettled: Option<KeyConfig>) -> Self {
        {
            let mut pending = self.admission.pending();
            pending.accepted_by = Some(data.join("accepted_by"));
            pending.unsettled = unsettled.map(|keys| (data, keys, Arc::clone(&self.outbox)));
        }
        self
    }

    /// Keeps the connection up until told to stop, or left without an engine, which is an error.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
        let shelf = Arc::clone(&self.shelf);
        let mut engine = shelf.broken();
        tokio::select! {
            () = self.keep_connected(&mut stop, &mut engine) => {}
            () = shelf.keep_tidy() => {}
        }
        if let Some(board) = &self.board {
            board.not_connected("the process ended".to_owned());
        }
        shelf.stop_loading();
        if *shelf.broken().borrow() {
            return Err(ServeError::EngineStopped { reason: shelf.broken_by() });
        }
        Ok(())
    }

    async fn keep_connected(&mut self, stop: &mut watch::Receiver<bool>, engine: &mut watch::Receiver<bool>) {
        let mut wait = BACKOFF.0;
        loop {
            let began = Instant::now();
            self.turn_epochs();
            let ended = tokio::select! {
                ended = self.connect() => ended,
                () = told(stop) => return,
                () = told(engine) => return,
            };
            let error = match ended {
                Ok(link) => match link.serve(stop).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if let Some(board) = &self.board {
                board.not_connected(error.to_string());
            }
            // A connection that held for a while was a good one.
            wait = if began.elapsed() > BACKOFF.1 { BACKOFF.0 } else { (wait * 2).min(BACKOFF.1) };
            let jitter = wait.mul_f64(0.5 + f64::from(clock::rng().next_u32() % 1_000) / 2_000.0);
            tracing::warn!(%error, next_try_ms = u64::try_from(jitter.as_millis()).unwrap_or(u64::MAX), "not connected");
            tokio::select! {
                () = tokio::time::sleep(jitter) => {}
                () = told(stop) => return,
                () = told(engine) => return,
            }
        }
    }

    /// Epochs end by the clock, connected or not: a coordinator that is away for a day must not make keys a day old. A live
    /// link does the same with each heartbeat.
    fn turn_epochs(&self) {
        if let Some(serving) = &self.serving
            && serving.ring().turn(clock::now(), &mut clock::rng(), &SecretPages)
        {
            tracing::info!("began the next epoch");
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
        // Nothing is said about this provider before the coordinator has answered this.
        let mut nonce = [0; 32];
        clock::rng().fill_bytes(&mut nonce);
        say(&mut socket, Dial { nonce }).await?;
        let welcome = match tokio::time::timeout(CONNECT_WAIT, next_frame(&mut socket)).await {
            Ok(Ok(Heard::Frame(CoordinatorFrame::Welcome(welcome)))) => welcome,
            Ok(Ok(_)) => return Err(Broken::Protocol("another frame than a welcome".to_owned())),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Broken::Lost),
        };
        let serving = self.admit(&welcome, &nonce)?;
        self.admission.pending().network = Some(NetworkId::of_coordinator_key(&welcome.coordinator));
        let (hello, stated) = self.hello(&serving, &welcome).await?;
        say(&mut socket, hello).await?;
        if let Some(board) = &self.board {
            board.connected();
        }
        let receipts = self.outbox.unacknowledged(PRESENTED_MAX).await.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read the receipts that were not acknowledged");
            Vec::new()
        });
        if !receipts.is_empty() {
            tracing::info!(count = receipts.len(), "presenting unacknowledged receipts again");
        }
        let presenting = Presenting::new(receipts, limits::RECEIPTS_PER_FRAME_MAX);
        let (signatory, next_row) = (Arc::clone(&self.signatory), Arc::clone(&self.next_row));
        let admission = self.admission.clone();
        Ok(Link::new(socket, serving, (signatory, stated), welcome.connection, next_row, presenting, admission))
    }

    /// Checks the pin and the proof, finds this provider's models in the catalogue, and keeps or makes the epochs.
    fn admit(&mut self, welcome: &Welcome, nonce: &[u8; 32]) -> Result<Arc<Serving>, Broken> {
        let network = NetworkId::of_coordinator_key(&welcome.coordinator);
        if !self.pin.admits(network) {
            return Err(Broken::OtherNetwork(network));
        }
        verify_welcome(welcome, nonce).map_err(|reason| Broken::Unproven { network, reason })?;
        let now = clock::now();
        if welcome.time.distance(now) > limits::CLOCK_SKEW_MAX {
            return Err(Broken::Clock { coordinator: welcome.time.0, here: now.0 });
        }
        if !self.pin.keep(network) {
            return Err(Broken::PinNotKept);
        }
        let key = PublicKey::P256(welcome.coordinator);
        let models = self.named(&welcome.catalogue.0, &key, network)?;
        let identity = self.signatory.public_point();
        let ring = match &self.serving {
            Some(serving) if serving.ring().network() == network => {
                // It may have been due for hours when this machine slept.
                self.turn_epochs();
                if serving.models == models {
                    return Ok(Arc::clone(serving));
                }
                tracing::info!("the operator's catalogue changed");
                Arc::clone(&serving.ring)
            }
            _ => {
                let epoch = Epoch::begin_kept(identity, now, &mut clock::rng(), &SecretPages);
                Arc::new(Mutex::new(EpochRing::new(network, epoch)))
            }
        };
        let serving = Arc::new(Serving {
            id: ProviderId::of_public_key(&identity),
            models,
            shelf: Arc::clone(&self.shelf),
            ring,
            outbox: Arc::clone(&self.outbox),
            about: Arc::clone(&self.about),
            board: self.board.clone(),
        });
        self.serving = Some(Arc::clone(&serving));
        Ok(serving)
    }

    /// What a catalogue calls this provider's models.
    fn named(
        &self,
        catalogue: &[Vec<u8>],
        key: &PublicKey,
        network: NetworkId,
    ) -> Result<Vec<(CatalogueDigest, usize)>, Broken> {
        let entries: Vec<_> = catalogue
            .iter()
            .filter_map(|signed| Some((CatalogueEntry::open(signed, key).ok()?, catalogue_digest(signed))))
            .filter(|(entry, _)| entry.network == network)
            .collect();
        let identities = self.shelf.identities();
        let mut models = Vec::new();
        for (at, (identity, path)) in identities.iter().enumerate() {
            let ours =
                |entry: &CatalogueEntry| entry.weights == identity.weights && entry.text_pack == identity.text_pack;
            match entries.iter().find(|(entry, _)| ours(entry)) {
                Some((_, digest)) => models.push((*digest, at)),
                None => {
                    let (path, weights) = (path.display(), identity.weights);
                    tracing::warn!(%path, %weights, "the operator's catalogue does not name this model: it gets no work");
                }
            }
        }
        // A statement names no more.
        models.truncate(limits::MODELS_PER_PROVIDER_MAX);
        if models.is_empty() {
            let weights: Vec<_> = identities.iter().map(|(identity, _)| identity.weights.to_string()).collect();
            return Err(Broken::ModelNotInCatalogue(weights.join(", ")));
        }
        Ok(models)
    }

    /// The introduction, and what is said in it.
    async fn hello(&self, serving: &Serving, welcome: &Welcome) -> Result<(Hello, Stated), Broken> {
        let network = NetworkId::of_coordinator_key(&welcome.coordinator);
        let (unsigned, epoch, receipt_key) = {
            let ring = serving.ring();
            let (unsigned, epoch) = statement_of(serving, &ring);
            (unsigned, epoch, ring.current().receipt_key())
        };
        let digest = challenge_digest(&network, &welcome.nonce, &welcome.connection, &epoch);
        let SignedStatement { bytes, worth, complete, rekeyed } = self.signatory.state(unsigned).await?;
        let (proof, presence) = self.signatory.prove(digest).await?;
        let epoch_proof = ChallengeProof { digest }.sign(&*receipt_key)?;
        scrub_stack();
        let hello = Hello {
            statement: bytes,
            proof,
            join_token: self.admission.token_to_send(),
            models: loads(serving).into(),
            capabilities: Vec::new().into(),
            epoch_proof,
            presence: presence.into(),
            hardware: Some(machine::hardware()),
        };
        Ok((hello, Stated { epoch, worth, complete, rekeyed }))
    }
}

/// Sends a frame before the connection is served.
async fn say(socket: &mut Socket, frame: impl Into<ProviderFrame>) -> Result<(), Broken> {
    let send = socket.send(Message::binary(frame.into().encode()));
    tokio::time::timeout(CONNECT_WAIT, send).await.map_err(|_| Broken::Stuck)?.map_err(|_| Broken::Lost)
}

/// The current epoch's statement, to be signed, and the epoch.
pub fn statement(serving: &Serving) -> (Statement, EpochId) {
    statement_of(serving, &serving.ring())
}

fn statement_of(serving: &Serving, ring: &EpochRing) -> (Statement, EpochId) {
    let release = concat!("darkbloom/", env!("CARGO_PKG_VERSION"));
    let models = serving.models.iter().map(|(digest, _)| *digest).collect();
    let current = ring.current();
    let mut statement = current.statement(ring.network(), models, Vec::new(), release);
    let about = &serving.about;
    statement.hardening = about.hardening.clone().into();
    statement.key_home.clone_from(&about.key_home);
    statement.successions = about.successions.clone().into();
    statement.program.clone_from(&about.program);
    (statement, current.id())
}

/// Where its models are, and how busy.
pub fn loads(serving: &Serving) -> Vec<ModelLoad> {
    let load = |(model, at): &(CatalogueDigest, usize)| {
        let Status { residence, rows: (rows_max, row_tokens), busy: (rows_used, waiting), pace } =
            serving.shelf.status(*at)?;
        let pace = pace.map(|Pace { prefill_us, decode_us }| ModelPace { prefill_us, decode_us });
        let row_tokens = TokenCount(row_tokens);
        Some(ModelLoad { model: *model, rows_max, rows_used, waiting, row_tokens, residence, pace })
    };
    serving.models.iter().filter_map(load).collect()
}

#[cfg(test)]
mod tests;
