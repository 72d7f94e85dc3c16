//! What all tasks share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use std::time::{Duration, Instant};

use darkbloom_attest::{Policy, Presence};
use darkbloom_keys::IdentityKey;
use darkbloom_ledger::Spender;
use darkbloom_registry::{ProviderView, Registry};
use darkbloom_store::{KeyRecord, Store};
use darkbloom_types::{
    AccountId, ConnectionId, Digest, EpochId, Millis, MonoMillis, NetworkId, OperationId, PerMinute, ProviderId,
    Refusal, RequestId, StreamId, Tier, Turns,
};
use darkbloom_wire::{Accepted, CoordinatorFrame, Data, Final, LoadModel, Offer, Refused};
use rand_core::Rng as _;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::StartError;
use crate::account::device::Devices;
use crate::activation::Activation;
use crate::blobs::Blobs;
use crate::catalogue::Catalogue;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::policy;
use crate::rates::{Limits, Rates};
use crate::relay::Unfinished;
use darkbloom_host::clock;

/// Frames that may wait to be written to one provider: several offers for each of its rows.
const OUTGOING_MAX: usize = 256;
/// Frames of one answer that may wait for the consumer; a consumer that falls further behind is cut off.
const STREAM_FRAMES_MAX: usize = 256;
/// Places in a stream's queue that content may not take, so that refusals, receipts and acknowledgements always arrive.
const STREAM_RESERVE: usize = 8;
/// How often a stopping process looks whether its requests are over.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long a connection that another process has taken over from may finish its answers. Most take less; a machine that
/// lost its power under them does not come back sooner.
const REPLACED_WAIT: Duration = Duration::from_secs(60);
/// Epochs of one connection whose receipts are still checked.
const EPOCHS_MAX: usize = 8;
/// Receipts of one connection that are still to be decided on, of 2 KiB each: as many as a provider has rows. What is over
/// that is presented again when the provider reconnects.
const RECEIPTS_MAX: usize = 256;
/// Connections that have not introduced themselves yet: each may stay for 15 seconds, so this many providers may come back
/// at once every few seconds after a restart, and nobody without a name holds more sockets.
const STRANGERS_MAX: usize = 256;
/// Bodies of sealed requests that are being read, of 1 MiB each: eight accounts with all that each may have at once, and
/// half a gibibyte. Bodies arrive within seconds, so whoever finds no place tries again.
pub const BODIES_MAX: usize = 512;

/// What an account may do at once that costs more than a look, and then once more in this time: codes are tried, keys made and
/// sums counted by one thread for everybody.
const TURNS: u32 = 30;
const TURN_EVERY: Millis = Millis::from_secs(10);
/// Accounts whose turns are remembered before those are forgotten that have all of them again.
const TURNS_ACCOUNTS: usize = 4_096;

/// Lists of providers that are made for anybody at the same time: each copies up to a megabyte and signs it.
const PUBLISHED_MAX: usize = 4;

/// Providers that are looked at for people under one lock: 256 take a tenth of a millisecond.
const VIEWS_PAGE: usize = 256;

/// What a provider says about one stream.
#[derive(Debug)]
pub enum StreamFrame {
    /// Admitted.
    Accepted(Accepted),
    /// Not admitted, or failed.
    Refused(Refused),
    /// A piece of the answer.
    Data(Data),
    /// The receipt.
    Final(Final),
    /// The row is free after a cancel.
    CancelAck,
}

/// An epoch whose statement this coordinator verified.
#[derive(Debug, Clone, Copy)]
pub struct KnownEpoch {
    /// Its name.
    pub id: EpochId,
    /// The key that signs its receipts.
    pub receipt_key: [u8; 32],
}

/// What comes back for one offer.
#[derive(Debug)]
pub struct Stream {
    /// Its number on the connection.
    pub id: StreamId,
    /// The provider's frames; ends when the connection does.
    pub frames: mpsc::Receiver<StreamFrame>,
    /// Set when frames were lost because the consumer did not keep up.
    pub overflowed: Arc<AtomicBool>,
    /// When the offer's turn on the connection came: before a byte of it was written.
    pub taken: Arc<OnceLock<Instant>>,
}

/// A frame that waits for its turn on a connection.
#[derive(Debug)]
pub struct Outgoing {
    frame: Vec<u8>,
    /// Where somebody wants to know when its turn comes.
    taken: Option<Arc<OnceLock<Instant>>>,
}

impl Outgoing {
    /// The encoded frame, whose turn it is now.
    pub fn take(self) -> Vec<u8> {
        if let Some(taken) = self.taken {
            taken.get_or_init(Instant::now);
        }
        self.frame
    }
}

/// Where a stream's frames go, and the mark that some were lost.
type StreamSink = (mpsc::Sender<StreamFrame>, Arc<AtomicBool>);

/// A hold that waits for its request to be sealed again.
#[derive(Debug, Clone, Copy)]
pub struct Resealing {
    /// Whose money it is.
    pub account: AccountId,
    /// What the consumer asked for once.
    pub operation: OperationId,
    /// How long it waits.
    pub until: MonoMillis,
}

/// One provider's connection, as the rest of the program sees it.
#[derive(Debug)]
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// Later connections have greater numbers.
    pub number: u64,
    /// Whose it is, once that was verified.
    provider: OnceLock<ProviderId>,
    outgoing: mpsc::Sender<Outgoing>,
    /// None once the connection is over: nobody would hear of a stream that begins then.
    streams: Mutex<Option<HashMap<StreamId, StreamSink>>>,
    next_stream: AtomicU64,
    epochs: Mutex<Vec<KnownEpoch>>,
    /// What its provider's hardware said when it was asked last.
    presence: Mutex<Presence>,
    /// Receipts that are still to be decided on.
    receipts: Mutex<Vec<Vec<u8>>>,
    /// Notified when the connection must close.
    pub close: Notify,
    /// Since when another connection has taken over from it: it finishes what it has.
    replaced: OnceLock<Instant>,
}

/// Why an offer reaches nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferError {
    /// The connection is over.
    Closed,
    /// The provider does not read: its connection is closed.
    NotRead,
}

impl Connection {
    /// What its provider's hardware said when it was asked last.
    pub fn presence(&self) -> Presence {
        lock(&self.presence).clone()
    }

    /// It was asked, and said this.
    pub fn present(&self, presence: Presence) {
        *lock(&self.presence) = presence;
    }

    /// A connection and the queue that its writer drains.
    pub fn new(id: ConnectionId) -> (Arc<Self>, mpsc::Receiver<Outgoing>) {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let connection = Self {
            id,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            provider: OnceLock::new(),
            outgoing,
            streams: Mutex::new(Some(HashMap::new())),
            next_stream: AtomicU64::new(1),
            epochs: Mutex::default(),
            presence: Mutex::default(),
            receipts: Mutex::default(),
            close: Notify::new(),
            replaced: OnceLock::new(),
        };
        (Arc::new(connection), queue)
    }

    /// Queues a frame for the provider. False when the provider does not read: then its connection is closed.
    pub fn send(&self, frame: impl Into<CoordinatorFrame>) -> bool {
        self.queue(Outgoing { frame: frame.into().encode(), taken: None })
    }

    fn queue(&self, outgoing: Outgoing) -> bool {
        let sent = self.outgoing.try_send(outgoing).is_ok();
        if !sent {
            self.close.notify_one();
        }
        sent
    }

    /// Opens a stream with the offer that `make` writes for its number. Numbers reach the provider in ascending order, which
    /// is how it knows that none is used twice: so numbering and queueing are one step.
    ///
    /// # Errors
    /// [`OfferError`] when the provider cannot hear it.
    pub fn offer(&self, make: impl FnOnce(StreamId) -> Offer) -> Result<Stream, OfferError> {
        let mut streams = lock(&self.streams);
        let open = streams.as_mut().ok_or(OfferError::Closed)?;
        let id = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let taken = Arc::<OnceLock<Instant>>::default();
        let frame = CoordinatorFrame::from(make(id)).encode();
        if !self.queue(Outgoing { frame, taken: Some(Arc::clone(&taken)) }) {
            return Err(OfferError::NotRead);
        }
        let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        open.insert(id, (sender, Arc::clone(&overflowed)));
        Ok(Stream { id, frames, overflowed, taken })
    }

    /// It was verified whose it is.
    pub fn belongs_to(&self, provider: ProviderId) {
        self.provider.get_or_init(|| provider);
    }

    /// Another connection of the same identity has taken over.
    pub fn replace(&self) {
        self.replaced.get_or_init(Instant::now);
    }

    /// Whether another connection has taken over.
    pub fn is_replaced(&self) -> bool {
        self.replaced.get().is_some()
    }

    /// Whether another connection has taken over and this one has nothing left to do, or has had long enough for it.
    pub fn is_finished(&self) -> bool {
        let idle = || lock(&self.streams).as_ref().is_none_or(HashMap::is_empty);
        self.replaced.get().is_some_and(|since| since.elapsed() >= REPLACED_WAIT || idle())
    }

    /// Forgets a stream.
    pub fn close_stream(&self, stream: StreamId) {
        if let Some(open) = lock(&self.streams).as_mut() {
            open.remove(&stream);
        }
    }

    /// Forgets all streams, and takes no more: their requests learn that the provider is gone.
    pub fn close_streams(&self) {
        drop(lock(&self.streams).take());
    }

    /// Hands a frame to its stream. A frame for a stream that is over comes back: it was overtaken. Content that finds the
    /// queue full is dropped and the stream marked, so that one slow consumer never holds up the others.
    pub fn deliver(&self, stream: StreamId, frame: StreamFrame) -> Option<StreamFrame> {
        let streams = lock(&self.streams);
        let found = streams.as_ref().and_then(|open| open.get(&stream));
        let Some((sender, overflowed)) = found else { return Some(frame) };
        if matches!(frame, StreamFrame::Data(_)) && sender.capacity() <= STREAM_RESERVE {
            overflowed.store(true, Ordering::Release);
            return None;
        }
        let (mpsc::error::TrySendError::Full(frame) | mpsc::error::TrySendError::Closed(frame)) =
            sender.try_send(frame).err()?;
        overflowed.store(true, Ordering::Release);
        Some(frame)
    }

    /// Keeps a receipt until it can be decided on: see `provider_socket::receipts`.
    pub fn review(&self, receipt: Vec<u8>) {
        let mut receipts = lock(&self.receipts);
        if receipts.len() < RECEIPTS_MAX && !receipts.contains(&receipt) {
            receipts.push(receipt);
        }
    }

    /// Takes the receipts that are to be decided on.
    pub fn take_receipts(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.receipts))
    }

    /// Remembers a verified epoch.
    pub fn learn_epoch(&self, epoch: KnownEpoch) {
        let mut epochs = lock(&self.epochs);
        if epochs.iter().any(|known| known.id == epoch.id) {
            return;
        }
        if epochs.len() >= EPOCHS_MAX {
            epochs.remove(0);
        }
        epochs.push(epoch);
    }

    /// Learns what the connection knew that this one replaces: the registry keeps the epoch before the current one of a
    /// provider that reconnects, so answers that are sealed to it go on, and their receipts come here.
    pub fn inherit(&self, replaced: &Self) {
        let before = lock(&replaced.epochs).clone();
        let mut epochs = lock(&self.epochs);
        let own = std::mem::take(&mut *epochs);
        epochs.extend(before.into_iter().filter(|old| own.iter().all(|known| known.id != old.id)));
        epochs.extend(own);
        let over = epochs.len().saturating_sub(EPOCHS_MAX);
        epochs.drain(..over);
    }

    /// The receipt key of an epoch.
    pub fn receipt_key(&self, epoch: &EpochId) -> Option<[u8; 32]> {
        lock(&self.epochs).iter().find(|known| known.id == *epoch).map(|known| known.receipt_key)
    }
}

/// Locks; a panic elsewhere while the lock was held leaves data that is still whole, since every critical section is a
/// few assignments.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all tasks share.
pub struct Shared {
    /// Money, keys, catalogue.
    pub store: Store,
    /// Signs bills, candidate lists and catalogue entries.
    pub key: Box<dyn IdentityKey>,
    /// The network.
    pub network: NetworkId,
    /// The least tier of a provider that gets work.
    pub tier_min: Tier,
    /// What the operator demands of providers beyond the least tier.
    policy: RwLock<Arc<Policy>>,
    /// Held while the policy changes.
    pub policy_change: tokio::sync::Mutex<()>,
    /// Whom this coordinator believes about hardware.
    pub activation: Arc<Activation>,
    /// Providers.
    pub registry: Mutex<Registry>,
    connections: Mutex<HashMap<ConnectionId, Arc<Connection>>>,
    /// Requests that are being relayed.
    live: Mutex<Live>,
    draining: AtomicBool,
    catalogue: RwLock<Arc<Catalogue>>,
    /// Holds that wait for their request to be sealed again, and until when.
    resealing: Mutex<HashMap<RequestId, Resealing>>,
    /// Holds whose end could not be written yet.
    pub unfinished: Unfinished,
    /// Where this process's monotonic clock begins.
    started: Instant,
    /// Keyed into account pseudonyms; for this run alone, so that pseudonyms do not outlive it.
    scope_secret: [u8; 32],
    /// Text packs in memory.
    pub blobs: Blobs,
    /// A place for each connection that has not introduced itself yet.
    pub strangers: Arc<Semaphore>,
    /// A place for each sealed request's body that is being read.
    pub bodies: Arc<Semaphore>,
    /// A place for each list of providers that is being made: anybody may ask, and a megabyte is copied for each.
    pub published: Semaphore,
    /// Identities of which it is not written down yet what is held against them.
    pub unkept: Mutex<HashSet<ProviderId>>,
    /// Held while the catalogue changes, so that its limit holds for changes at the same time.
    pub catalogue_change: tokio::sync::Mutex<()>,
    /// What is counted.
    pub metrics: Metrics,
    /// Machines that wait for somebody to approve their codes.
    pub devices: Mutex<Devices>,
    /// What keys and accounts asked for lately.
    pub rates: Rates,
    /// What an account may ask for in a minute.
    pub account_limits: Limits,
    /// What accounts did lately that costs more than a look.
    turns: Mutex<HashMap<AccountId, Turns>>,
    /// What was last found out about readiness: anybody may ask.
    pub readiness: tokio::sync::Mutex<Option<(Instant, serde_json::Value)>>,
}

/// One request's place among those of its account, until it is dropped.
pub struct Place {
    shared: Arc<Shared>,
    account: AccountId,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.live).leave(self.account);
    }
}

impl Shared {
    pub async fn new(
        store: Store,
        key: Box<dyn IdentityKey>,
        network: NetworkId,
        tier_min: Tier,
        activation: Activation,
        account_limits: Limits,
    ) -> Result<Self, StartError> {
        let metrics = Metrics::new(store.transfers_until().await?);
        let mut scope_secret = [0; 32];
        clock::rng().fill_bytes(&mut scope_secret);
        let shared = Self {
            store,
            key,
            network,
            tier_min,
            policy: RwLock::default(),
            policy_change: tokio::sync::Mutex::default(),
            activation: Arc::new(activation),
            registry: Mutex::default(),
            connections: Mutex::default(),
            live: Mutex::default(),
            draining: AtomicBool::new(false),
            catalogue: RwLock::default(),
            resealing: Mutex::default(),
            unfinished: Unfinished::default(),
            started: Instant::now(),
            scope_secret,
            blobs: Blobs::default(),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
            published: Semaphore::new(PUBLISHED_MAX),
            unkept: Mutex::default(),
            catalogue_change: tokio::sync::Mutex::default(),
            metrics,
            devices: Mutex::default(),
            rates: Rates::default(),
            account_limits,
            turns: Mutex::default(),
            readiness: tokio::sync::Mutex::default(),
        };
        shared.reload_catalogue().await?;
        if let Some(text) = policy::stored(&shared.store).await? {
            // It was read before it was stored; one that a later release wrote must not be passed over.
            shared.set_policy(Policy::parse(&text)?);
        }
        Ok(shared)
    }

    /// Now, by the clock that never jumps.
    pub fn mono(&self) -> MonoMillis {
        MonoMillis::from(self.started.elapsed())
    }

    /// The catalogue as it is now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the operator demands now.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the operator demands from now on. Those who are connected are looked at again by whoever calls this.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Reads the catalogue again after a change.
    pub async fn reload_catalogue(&self) -> Result<(), StartError> {
        let rows = self.store.catalogue_list().await?;
        let prices = self.store.prices_current().await?;
        let catalogue =
            Catalogue::load(rows, &prices, &self.key.public_key()).map_err(|_| StartError::ForeignCatalogue)?;
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
        Ok(())
    }

    pub fn add_connection(&self, connection: Arc<Connection>) {
        lock(&self.connections).insert(connection.id, connection);
    }

    pub fn remove_connection(&self, id: &ConnectionId) {
        lock(&self.connections).remove(id);
    }

    pub fn connection(&self, id: &ConnectionId) -> Option<Arc<Connection>> {
        lock(&self.connections).get(id).cloned()
    }

    /// All connections of a provider, also those that another has taken over from.
    pub fn connections_of(&self, provider: ProviderId) -> Vec<Arc<Connection>> {
        let connections = lock(&self.connections);
        connections.values().filter(|connection| connection.provider.get() == Some(&provider)).cloned().collect()
    }

    /// Closes every provider's connection.
    pub fn close_connections(&self) {
        for connection in lock(&self.connections).values() {
            connection.close.notify_one();
        }
    }

    /// From now on new requests are refused; returns when the running ones are over, or after the longest wait.
    pub async fn drain(&self, most: Duration) {
        self.draining.store(true, Ordering::Release);
        let until = Instant::now() + most;
        while !lock(&self.live).is_empty() && Instant::now() < until {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Whether the process is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many requests this process is relaying.
    pub fn live_requests(&self) -> usize {
        lock(&self.live).len()
    }

    /// Whether this process is relaying a request right now.
    pub fn is_live(&self, request: &RequestId) -> bool {
        lock(&self.live).contains(request)
    }

    /// A place for one more request of an account, to be taken before anything of it is read. Refused when the account has
    /// as many as it may.
    pub fn place(self: &Arc<Self>, account: AccountId) -> Result<Place, Refusal> {
        lock(&self.live).enter(account, self.mono())?;
        Ok(Place { shared: Arc::clone(self), account })
    }

    /// A provider called a request of this account wrong.
    pub fn called_wrong(&self, account: AccountId) {
        lock(&self.live).called_wrong(account, self.mono());
    }

    /// A request is live from now on; what is returned is notified when it waits for room and there may be some. Refused
    /// when it is live already.
    pub fn begin_request(&self, request: RequestId) -> Result<Arc<Notify>, Refusal> {
        lock(&self.live).begin(request)
    }

    /// A hold waits for its request to be sealed again.
    pub fn begin_reseal(&self, request: RequestId, waiting: Resealing) {
        lock(&self.resealing).insert(request, waiting);
    }

    /// Takes a hold that waits to be sealed again, if it is this account's and operation's: no other hold may be
    /// superseded, or a consumer could take back the money of an answer that it is being given.
    pub fn take_reseal(&self, request: &RequestId, account: AccountId, operation: OperationId) -> Option<Resealing> {
        let mut resealing = lock(&self.resealing);
        let waiting = *resealing.get(request)?;
        if waiting.account != account || waiting.operation != operation {
            return None;
        }
        resealing.remove(request)
    }

    /// Whether a hold waits for its request to be sealed again.
    pub fn is_resealing(&self, request: &RequestId) -> bool {
        lock(&self.resealing).contains_key(request)
    }

    /// Takes the holds that have waited too long.
    pub fn overdue_reseals(&self, now: MonoMillis) -> Vec<RequestId> {
        lock(&self.resealing).extract_if(|_, waiting| now >= waiting.until).map(|(request, _)| request).collect()
    }

    /// A request is over.
    pub fn end_request(&self, request: &RequestId) {
        lock(&self.live).end(request);
    }

    /// All connected providers, for people. In pages, so that no request waits for the whole fleet to be gone through.
    pub fn provider_views(&self) -> Vec<ProviderView> {
        let mut views: Vec<ProviderView> = Vec::new();
        loop {
            let after = views.last().map(|view| view.provider);
            let page =
                lock(&self.registry).views_after(after.as_ref(), VIEWS_PAGE, self.tier_min, self.mono(), clock::now());
            let is_last = page.len() < VIEWS_PAGE;
            views.extend(page);
            if is_last {
                return views;
            }
        }
    }

    /// Changes the registry, tells the requests that the change made room for, and the providers whose models are wanted.
    pub fn with_registry<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        let (result, wakes, loads) = {
            let mut registry = lock(&self.registry);
            let result = change(&mut registry);
            (result, registry.take_wakes(), registry.take_loads())
        };
        for (connection, model) in loads {
            if let Some(connection) = self.connection(&connection) {
                connection.send(LoadModel { model });
            }
        }
        if !wakes.is_empty() {
            let waiting = lock(&self.live);
            for request in wakes {
                waiting.wake(&request);
            }
        }
        result
    }

    /// The rates that a key's requests count against: its own, and its account's.
    pub fn limits(&self, key: &KeyRecord, account: AccountId) -> [(Spender, Limits); 2] {
        let of_key = Limits {
            requests: key.terms.requests_per_minute.map(PerMinute),
            tokens: key.terms.tokens_per_minute.map(PerMinute),
        };
        [(Spender::Key(key.id), of_key), (Spender::Account(account), self.account_limits)]
    }

    /// Whether an account may do something now that costs more than a look: try a code, make a key, change a price.
    pub fn turn(&self, account: AccountId) -> bool {
        let (mut turns, now) = (lock(&self.turns), self.mono());
        if turns.len() >= TURNS_ACCOUNTS {
            turns.retain(|_, turns| !turns.is_full(now));
        }
        turns.entry(account).or_insert_with(|| Turns::full(now)).take(now, TURN_EVERY, TURNS)
    }

    /// An account's pseudonym towards one provider: prefixes are shared only within it.
    pub fn scope(&self, account: AccountId, provider: &ProviderId) -> [u8; 16] {
        let digest =
            Digest::of(&[b"darkbloom/v1/scope", &self.scope_secret, &account.0.to_be_bytes(), provider.as_bytes()]);
        let mut scope = [0; 16];
        scope.copy_from_slice(&digest.0[..16]);
        scope
    }
}
