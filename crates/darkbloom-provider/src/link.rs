//! One connection to the coordinator: frames in and out, offers, cancels, epochs, heartbeats.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_batch::RowId;
use darkbloom_harden::SecretPages;
use darkbloom_host::clock;
use darkbloom_session::{CancelAction, OfferError, ProviderStreams};
use darkbloom_types::{CatalogueDigest, ConnectionId, Refusal, RefusalCode, StreamId};
use darkbloom_wire::{
    CancelAck, Challenge, CoordinatorFrame, Decoded, Heartbeat, LoadOutcome, LoadReport, Offer, ProviderFrame,
    Receipts, VerdictNotice, challenge_digest, limits,
};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::agent::{Admission, Broken, Serving, loads, statement};
use crate::machine;
use crate::presenting::Presenting;
use crate::pulse::Pulse;
use crate::request::{self, Job};
use crate::shelf::Asked;
use crate::signatory::Signatory;
use crate::stating::{Stated, Stating};

/// Load is reported this often; the coordinator's patience is three and a half times that.
const HEARTBEAT: Duration = Duration::from_millis(limits::HEARTBEAT.0);
/// A write that takes longer than this means that the coordinator no longer reads, or is not there any more.
const WRITE_WAIT: Duration = Duration::from_secs(20);
/// Frames that may wait to be written; answers wait in turn when the network does.
const OUTGOING_MAX: usize = 256;
/// How long running answers may take when the provider stops.
const DRAIN: Duration = Duration::from_secs(30);
/// How often a stopping provider looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// How long the last frames of a stopping provider may take to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What came.
pub enum Heard {
    /// A frame that this release knows.
    Frame(CoordinatorFrame),
    /// A frame that it does not know, a ping, or the answer to one: somebody is there.
    Nothing,
}

/// The next message.
pub async fn next_frame<S>(socket: &mut S) -> Result<Heard, Broken>
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    match socket.next().await {
        Some(Ok(Message::Binary(bytes))) => match CoordinatorFrame::decode(&bytes) {
            Ok(Decoded::Known(frame, _)) => Ok(Heard::Frame(frame)),
            Ok(Decoded::Unknown(_)) => Ok(Heard::Nothing),
            Err(error) => Err(Broken::Protocol(error.to_string())),
        },
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Heard::Nothing),
        Some(Ok(Message::Text(_))) => Err(Broken::Protocol("a text message".to_owned())),
        Some(Err(tokio_tungstenite::tungstenite::Error::Capacity(_))) => {
            Err(Broken::Protocol("a message over the limit".to_owned()))
        }
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Broken::Lost),
    }
}

/// Writes until every sender is gone, or a write fails or takes too long.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut pings: mpsc::Receiver<()>,
) {
    loop {
        let message = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => Message::binary(frame),
                None => break,
            },
            Some(()) = pings.recv() => Message::Ping(Bytes::new()),
        };
        if !matches!(tokio::time::timeout(WRITE_WAIT, sink.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = tokio::time::timeout(WRITE_WAIT, sink.close()).await;
}

/// Returns when the provider is told to stop or its owner is gone, or, of an engine, when it has stopped.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Models that somebody reports on: once each, however often they are asked for.
#[derive(Clone, Default)]
struct Reporting(Arc<Mutex<HashSet<CatalogueDigest>>>);

impl Reporting {
    fn of(&self) -> MutexGuard<'_, HashSet<CatalogueDigest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody did before.
    fn insert(&self, model: CatalogueDigest) -> bool {
        self.of().insert(model)
    }

    fn remove(&self, model: &CatalogueDigest) {
        self.of().remove(model);
    }
}

/// One connection that is served.
pub struct Link {
    incoming: SplitStream<Socket>,
    out: mpsc::Sender<Vec<u8>>,
    pings: mpsc::Sender<()>,
    writer: JoinHandle<()>,
    pulse: Pulse,
    presenting: Presenting,
    admission: Admission,
    serving: Arc<Serving>,
    stating: Stating,
    connection: ConnectionId,
    streams: ProviderStreams,
    cancels: HashMap<StreamId, watch::Sender<bool>>,
    finished: (mpsc::Sender<StreamId>, mpsc::Receiver<StreamId>),
    next_row: Arc<AtomicU64>,
    draining: bool,
    /// Models whose loading is reported until it ends.
    reporting: Reporting,
    /// The catalogue no longer names the model as it was signed when this connection began.
    outdated: bool,
}

impl Link {
    pub fn new(
        socket: Socket,
        serving: Arc<Serving>,
        (signatory, stated): (Arc<Signatory>, Stated),
        connection: ConnectionId,
        next_row: Arc<AtomicU64>,
        presenting: Presenting,
        admission: Admission,
    ) -> Self {
        let (sink, incoming) = socket.split();
        let (out, queue) = mpsc::channel(OUTGOING_MAX);
        // A ping that waits stands for all that came after it.
        let (pings, asked) = mpsc::channel(1);
        let stating = Stating::new(signatory, stated, out.clone());
        Self {
            incoming,
            out,
            pings,
            writer: tokio::spawn(write(sink, queue, asked)),
            pulse: Pulse::new(Instant::now()),
            presenting,
            admission,
            serving,
            stating,
            connection,
            streams: ProviderStreams::default(),
            cancels: HashMap::new(),
            finished: mpsc::channel(darkbloom_session::STREAMS_MAX),
            next_row,
            draining: false,
            reporting: Reporting::default(),
            outdated: false,
        }
    }

    /// Serves until the connection breaks, or until told to stop, or left without an engine, and done. The jobs of a broken connection end with it:
    /// nobody would hear their answers.
    pub async fn serve(mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Broken> {
        tracing::info!(provider = %self.serving.id, "connected");
        let ended = self.run(stop).await;
        let Self { writer, out, cancels, stating, .. } = self;
        // Jobs take the loss of either as the end of the connection and free their rows.
        drop((out, cancels, stating));
        let abort = writer.abort_handle();
        if ended.is_err() || tokio::time::timeout(CLOSE_WAIT, writer).await.is_err() {
            abort.abort();
        }
        ended
    }

    async fn run(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), Broken> {
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut drain_look = tokio::time::interval(DRAIN_LOOK);
        let mut drain_until: Option<Instant> = None;
        let out = self.out.clone();
        let mut engine = self.serving.shelf.broken();
        let mut changes = self.serving.shelf.changes();
        self.present().await?;
        loop {
            tokio::select! {
                heard = next_frame(&mut self.incoming) => self.heard(heard?).await?,
                Some(stream) = self.finished.1.recv() => {
                    self.cancels.remove(&stream);
                    self.streams.finished(stream);
                }
                _ = beat.tick() => {
                    if self.pulse.asks(Instant::now()) {
                        // Full means that one is on its way.
                        let _ = self.pings.try_send(());
                    }
                    self.rotate();
                    self.present().await?;
                    self.heartbeat().await?;
                }
                // A model came or went: requests may wait for it.
                Ok(()) = changes.changed() => self.heartbeat().await?,
                () = tokio::time::sleep_until(self.pulse.dead_at().into()) => {
                    // A machine that slept finds its clock ahead of what waits to be read.
                    match tokio::time::timeout(Duration::ZERO, next_frame(&mut self.incoming)).await {
                        Ok(heard) => self.heard(heard?).await?,
                        Err(_) => return Err(Broken::Silent),
                    }
                }
                () = out.closed() => return Err(Broken::Stuck),
                () = told(stop), if drain_until.is_none() => drain_until = Some(self.drain().await?),
                // Its rows have ended already; their last frames are on their way.
                () = told(&mut engine), if drain_until.is_none() => drain_until = Some(self.drain().await?),
                _ = drain_look.tick(), if drain_until.is_some() => {
                    if self.streams.is_empty() || drain_until.is_some_and(|until| Instant::now() >= until) {
                        return Ok(());
                    }
                }
            }
            if self.outdated && self.streams.is_empty() && drain_until.is_none() {
                return Err(Broken::CatalogueChanged);
            }
        }
    }

    /// Takes no more work, and says so. Returns until when what runs may go on.
    async fn drain(&mut self) -> Result<Instant, Broken> {
        self.draining = true;
        self.heartbeat().await?;
        Ok(Instant::now() + DRAIN)
    }

    async fn heard(&mut self, heard: Heard) -> Result<(), Broken> {
        self.pulse.heard(Instant::now());
        match heard {
            Heard::Frame(frame) => self.handle(frame).await,
            Heard::Nothing => Ok(()),
        }
    }

    async fn send(&self, frame: impl Into<ProviderFrame>) -> Result<(), Broken> {
        self.queue(frame.into().encode()).await
    }

    /// Waits for room no longer than a write may take: while this waits, nothing else of the connection is looked at.
    async fn queue(&self, frame: Vec<u8>) -> Result<(), Broken> {
        match tokio::time::timeout(WRITE_WAIT, self.out.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Broken::Stuck),
        }
    }

    /// Presents the next receipts, if it is time.
    async fn present(&mut self) -> Result<(), Broken> {
        let Some(receipts) = self.presenting.page(Instant::now()) else { return Ok(()) };
        tracing::debug!(count = receipts.len(), left = self.presenting.waiting(), "presenting receipts");
        self.send(Receipts { receipts: receipts.into() }).await
    }

    async fn heartbeat(&self) -> Result<(), Broken> {
        let machine = Some(machine::load());
        self.send(Heartbeat { models: loads(&self.serving).into(), draining: self.draining, machine }).await
    }

    /// Begins the next epoch when it is time, and says so; also what could not be said at the introduction.
    fn rotate(&self) {
        if self.serving.ring().turn(clock::now(), &mut clock::rng(), &SecretPages) {
            tracing::info!("began the next epoch");
        }
        let (unsigned, current) = statement(&self.serving);
        self.stating.state(current, unsigned);
    }

    async fn handle(&mut self, frame: CoordinatorFrame) -> Result<(), Broken> {
        match frame {
            CoordinatorFrame::Welcome(_) => Err(Broken::Protocol("a second welcome".to_owned())),
            CoordinatorFrame::Challenge(challenge) => {
                // Nobody is asked who was not taken in.
                self.admission.accepted();
                self.challenge(&challenge);
                Ok(())
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
                self.presenting.acknowledged(&ack.receipt);
                self.present().await
            }
            CoordinatorFrame::LoadModel(asked) => self.load_model(asked.model).await,
            CoordinatorFrame::VerdictNotice(notice) => {
                self.verdict(&notice);
                Ok(())
            }
        }
    }

    /// Has a model loaded that somebody waits for, and reports what becomes of it.
    async fn load_model(&self, model: CatalogueDigest) -> Result<(), Broken> {
        let place = self.serving.place(&model).filter(|_| !self.draining);
        let report = move |outcome| LoadReport { model, outcome };
        let Some(asked) = place.and_then(|at| self.serving.shelf.ask(at)) else {
            return self.send(report(LoadOutcome::Declined)).await;
        };
        let Asked::Loading(mut loading) = asked else { return self.send(report(LoadOutcome::Succeeded)).await };
        let now = *loading.borrow_and_update();
        self.send(report(now)).await?;
        if now.is_end() || !self.reporting.insert(model) {
            // Asked again: it is being reported.
            return Ok(());
        }
        let (out, reporting) = (self.out.clone(), self.reporting.clone());
        tokio::spawn(async move {
            loop {
                // Whoever loads it has panicked where no end comes.
                let changed = loading.changed().await;
                let outcome = changed.map_or(LoadOutcome::Unusable, |()| *loading.borrow_and_update());
                if outcome.is_end() {
                    reporting.remove(&model);
                }
                // The next connection's heartbeat says it, where this one is gone.
                let sent = out.send(ProviderFrame::from(report(outcome)).encode()).await;
                if sent.is_err() || outcome.is_end() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// For the epoch that the coordinator was told of last.
    fn challenge(&self, challenge: &Challenge) {
        let (network, nonce, connection) = (self.serving.ring().network(), challenge.nonce, self.connection);
        self.stating.prove(move |epoch| challenge_digest(&network, &nonce, &connection, epoch));
    }

    fn verdict(&mut self, notice: &VerdictNotice) {
        if notice.reason == VerdictNotice::CATALOGUE_CHANGED {
            tracing::info!("connecting again to read the operator's catalogue, once running answers have ended");
            self.outdated = true;
            return;
        }
        if let Some(board) = &self.serving.board {
            board.told(notice);
        }
        if notice.eligible {
            tracing::info!("eligible: the provider gets work");
            self.admission.accepted();
            return;
        }
        // A reason of the registry passes; after any other the coordinator closes the connection.
        tracing::warn!(reason = notice.reason, "not eligible: {}; {}", notice.sentence, notice.next_step);
        self.stating.refused();
        if notice.reason == RefusalCode::ModelNotLoaded.name() {
            // The welcome named the model, so the entry was signed again or taken away since. Only a new welcome tells.
            tracing::warn!("connecting again to read the catalogue, once running answers have ended");
            self.outdated = true;
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
        let model = self.serving.place(&header.model).and_then(|at| self.serving.shelf.lend(at));
        let Some(model) = model else {
            self.streams.finished(stream);
            return self.refuse(stream, &RefusalCode::ModelNotLoaded.into()).await;
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
            account: offer.scope,
            row: RowId(self.next_row.fetch_add(1, Ordering::Relaxed)),
            model,
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
        self.queue(request::refused(stream, refusal, None)).await
    }
}
