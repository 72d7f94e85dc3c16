//! One provider's WebSocket: introduction, frames in and out, heartbeats.

mod receipts;
pub(crate) mod trust;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use darkbloom_attest::{Assessment, StatementError, Verdict};
use darkbloom_registry::{Machine, NotRegistered, Registration, Stated};
use darkbloom_types::{ConnectionId, ProviderId, Refusal, RefusalCode, Standing, StreamId};
use darkbloom_wire::{DecodeError, Decoded, Hello, ProviderFrame, PublicKey, VerdictNotice, Welcome};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::proof;
use crate::state::{Connection, KnownEpoch, Outgoing, Shared, StreamFrame};
use darkbloom_host::clock;

/// A connection that has not dialled and introduced itself by then is closed.
const HELLO_WAIT: Duration = Duration::from_secs(15);
/// How often a provider is told when its eligibility changed, and receipts that could not be decided on are looked at
/// again.
const VERDICT_EVERY: Duration = Duration::from_secs(2);
/// A write that takes longer than this means that the provider no longer reads.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// A connection that another has taken over from, and that says nothing for so long, is dead, as everywhere.
const REPLACED_SILENCE: Duration = Duration::from_millis(darkbloom_wire::limits::SILENCE.0);
/// WebSocket close code for a violated policy (RFC 6455 section 7.4.1).
const CLOSE_POLICY: u16 = 1008;

/// Serves one connection until it ends. It holds the place of a stranger until it has introduced itself.
pub async fn serve(shared: Arc<Shared>, socket: WebSocket, stranger: OwnedSemaphorePermit) {
    let mut id = [0; 16];
    clock::rng().fill_bytes(&mut id);
    let (connection, queue) = Connection::new(ConnectionId(id));
    let (sink, mut stream) = socket.split();
    let writer = tokio::spawn(write(sink, queue));
    match introduce(&shared, &connection, &mut stream).await {
        Ok(provider) => {
            drop(stranger);
            read(&shared, &connection, provider, &mut stream).await;
            let gone =
                shared.with_registry(|registry| registry.disconnected(&connection.id, shared.mono(), clock::now()));
            // After the registry: as long as that knows a connection, what it knows of epochs can be inherited.
            shared.remove_connection(&connection.id);
            tracing::info!(provider = %provider.short(), replaced = gone.is_none(), "provider disconnected");
        }
        Err(Introduction::Refused(refusal)) => {
            tracing::info!(reason = %refusal.code, detail = %refusal.detail, "provider refused");
            connection.send(refusal_notice(&refusal));
        }
        Err(Introduction::Gone) => {}
    }
    connection.close_streams();
    // Dropping the last sender lets the writer drain what is queued, close, and end.
    drop(connection);
    if tokio::time::timeout(WRITE_WAIT, writer).await.is_err() {
        tracing::debug!("a provider did not take its last frames");
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(outgoing) = queue.recv().await {
        let write = sink.send(Message::Binary(Bytes::from(outgoing.take())));
        if !matches!(tokio::time::timeout(WRITE_WAIT, write).await, Ok(Ok(()))) {
            return;
        }
    }
    let close = CloseFrame { code: CLOSE_POLICY, reason: "closed by the coordinator".into() };
    let _ = tokio::time::timeout(WRITE_WAIT, sink.send(Message::Close(Some(close)))).await;
}

enum Introduction {
    Refused(Refusal),
    Gone,
}

impl From<Refusal> for Introduction {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StatementError> for Introduction {
    fn from(error: StatementError) -> Self {
        Self::Refused(trust::refusal(&error))
    }
}

/// Welcomes the provider, verifies what it says about itself, and registers it.
async fn introduce(
    shared: &Shared,
    connection: &Arc<Connection>,
    stream: &mut SplitStream<WebSocket>,
) -> Result<ProviderId, Introduction> {
    let until = Instant::now() + HELLO_WAIT;
    let ProviderFrame::Dial(dial) = introduction(stream, until).await? else { return Err(out_of_order()) };
    let mut nonce = [0; 32];
    clock::rng().fill_bytes(&mut nonce);
    let proof = proof::prove(shared, &dial.nonce, Some((&connection.id, &nonce))).map_err(Introduction::Refused)?;
    let PublicKey::P256(coordinator) = shared.key.public_key() else {
        unreachable!("identity keys are on P-256");
    };
    connection.send(Welcome {
        coordinator,
        connection: connection.id,
        time: clock::now(),
        nonce,
        catalogue: shared.catalogue().items().iter().map(|item| item.signed.clone()).collect::<Vec<_>>().into(),
        capabilities: Vec::new().into(),
        proof,
    });
    let ProviderFrame::Hello(hello) = introduction(stream, until).await? else { return Err(out_of_order()) };
    if hello.statement.is_empty() {
        return Err(Refusal::from(RefusalCode::StatementMissing).into());
    }
    let statement = trust::may_join(shared, &hello)?;
    let verdict = trust::introduced(shared, connection, statement, &hello, &nonce)?;
    trust::admit(shared, &hello, &verdict).await?;
    learn(shared, connection, &verdict).await;
    inherit(shared, connection, verdict.provider);
    // Before the registry knows the provider: from then on requests are routed to this connection.
    shared.add_connection(Arc::clone(connection));
    if let Err(refusal) = register(shared, connection, hello, &verdict).await {
        shared.with_registry(|registry| registry.disconnected(&connection.id, shared.mono(), clock::now()));
        shared.remove_connection(&connection.id);
        return Err(refusal.into());
    }
    trust::ask_again(shared, connection, &verdict);
    Ok(verdict.provider)
}

/// The next frame of a connection that is not introduced yet.
async fn introduction(stream: &mut SplitStream<WebSocket>, until: Instant) -> Result<ProviderFrame, Introduction> {
    match tokio::time::timeout_at(until, next_frame(stream)).await {
        Ok(Some(Ok(Decoded::Known(frame, _)))) => Ok(frame),
        Ok(Some(Ok(Decoded::Unknown(_)))) => Err(out_of_order()),
        Ok(Some(Err(error))) => Err(malformed(error).into()),
        Ok(None) => Err(Introduction::Gone),
        Err(_) => Err(Introduction::Refused(Refusal::new(RefusalCode::Timeout, "no introduction came"))),
    }
}

fn malformed(error: DecodeError) -> Refusal {
    Refusal::new(RefusalCode::InvalidRequest, format!("a malformed frame: {error}"))
}

fn out_of_order() -> Introduction {
    let detail = "the first frame must be a dial, and the second an introduction";
    Introduction::Refused(Refusal::new(RefusalCode::InvalidRequest, detail))
}

async fn register(
    shared: &Shared,
    connection: &Arc<Connection>,
    hello: Hello,
    verdict: &Verdict,
) -> Result<(), Refusal> {
    let catalogue = shared.catalogue();
    let mut models = hello.models.0;
    models.retain(|load| catalogue.by_digest(&load.model).is_some());
    connection.belongs_to(verdict.provider);
    let registered = shared.with_registry(|registry| {
        let registration = Registration {
            provider: verdict.provider,
            connection: connection.id,
            number: connection.number,
            stated: stated(shared, hello.statement, verdict),
            models,
            // As it is now: the operator, or an heir, may have come since it was admitted.
            standing: trust::standing(shared, verdict.provider),
            hardware: hello.hardware,
        };
        registry.register(registration, shared.mono(), clock::now(), &mut clock::rng())
    });
    let registered = match registered {
        Ok(registered) => registered,
        Err(why) => {
            if why == NotRegistered::TooManyEpochs {
                trust::keep(shared, verdict.provider).await;
            }
            return Err(not_registered(why));
        }
    };
    tracing::info!(provider = %verdict.provider.short(), tier = %verdict.tier, "provider connected");
    if let Some(old) = registered.replaced
        && let Some(connection) = shared.connection(&old.connection)
    {
        // One older connection may finish what it has.
        for older in shared.connections_of(verdict.provider).iter().filter(|older| older.is_replaced()) {
            older.close.notify_one();
        }
        if old.given_up {
            connection.close.notify_one();
        } else {
            connection.replace();
            connection.send(replaced());
        }
    }
    if registered.standing_changed {
        trust::keep(shared, verdict.provider).await;
    }
    if trust::standing(shared, verdict.provider) == Standing::Revoked {
        return Err(trust::revoked(shared, verdict.provider));
    }
    Ok(())
}

fn not_registered(why: NotRegistered) -> Refusal {
    match why {
        NotRegistered::Overtaken => Refusal::new(
            RefusalCode::InvalidRequest,
            "a later connection of this identity has introduced itself already",
        ),
        NotRegistered::TooManyEpochs => Refusal::new(
            RefusalCode::RateLimitExceeded,
            "more epochs of this identity still open than any provider has; each start makes one",
        ),
    }
}

/// What a verified statement says. To be made while the registry is locked: whoever asks for candidates later, by the
/// clock, is told of it.
fn stated(shared: &Shared, statement: Vec<u8>, verdict: &Verdict) -> Stated {
    let Assessment { tier, shut, shadow } = shared.policy().assess(verdict);
    Stated {
        shut,
        shadow,
        statement: statement.into(),
        epoch: verdict.epoch,
        tier,
        use_until: verdict.statement.use_until,
        open_until: verdict.statement.open_until,
        models: verdict.statement.models.0.clone(),
        known_at: clock::now(),
    }
}

/// Remembers the receipt key of a verified epoch, also beyond this run: receipts are presented again after a restart.
async fn learn(shared: &Shared, connection: &Connection, verdict: &Verdict) {
    let (epoch, receipt_key) = (verdict.epoch, verdict.statement.receipt_key);
    let kept = shared.store.receipt_key_put(verdict.provider, epoch, receipt_key, verdict.statement.open_until);
    if let Err(error) = kept.await {
        tracing::error!(%error, "cannot remember an epoch's receipt key");
    }
    connection.learn_epoch(KnownEpoch { id: epoch, receipt_key });
}

/// A provider's new connection learns what the one before knows of its epochs, while that is there.
fn inherit(shared: &Shared, connection: &Connection, provider: ProviderId) {
    let before = shared.with_registry(|registry| registry.connection_of(&provider));
    if let Some(replaced) = before.and_then(|id| shared.connection(&id)) {
        connection.inherit(&replaced);
    }
}

/// The next binary frame; `None` when the connection is over.
async fn next_frame(stream: &mut SplitStream<WebSocket>) -> Option<Result<Decoded<ProviderFrame>, DecodeError>> {
    loop {
        match stream.next().await?.ok()? {
            Message::Binary(bytes) => return Some(ProviderFrame::decode(&bytes)),
            Message::Text(_) | Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

/// Reads frames until the connection ends, misbehaves or must close.
async fn read(
    shared: &Shared,
    connection: &Arc<Connection>,
    provider: ProviderId,
    stream: &mut SplitStream<WebSocket>,
) {
    let mut verdict_ticks = tokio::time::interval(VERDICT_EVERY);
    verdict_ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_notice = None;
    let mut unnamed = Unnamed::default();
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            frame = next_frame(stream) => match frame {
                Some(Ok(Decoded::Known(frame, _))) => {
                    heard = Instant::now();
                    if let Err(refusal) = handle(shared, connection, provider, frame, &mut unnamed).await {
                        tracing::warn!(provider = %provider.short(), %refusal, "closing a provider's connection");
                        connection.send(refusal_notice(&refusal));
                        return;
                    }
                }
                Some(Ok(Decoded::Unknown(kind))) => tracing::debug!(kind, "skipped a frame of a newer provider"),
                Some(Err(error)) => {
                    tracing::warn!(provider = %provider.short(), %error, "closing a connection that sent a malformed frame");
                    connection.send(refusal_notice(&malformed(error)));
                    return;
                }
                None => return,
            },
            () = connection.close.notified() => return,
            _ = verdict_ticks.tick() => {
                if connection.is_finished() || (connection.is_replaced() && heard.elapsed() >= REPLACED_SILENCE) {
                    return;
                }
                let (now, wall) = (shared.mono(), clock::now());
                let verdict =
                    shared.with_registry(|registry| registry.verdict(&provider, shared.tier_min, now, wall));
                if verdict.is_some() && verdict != last_notice && !connection.is_replaced() {
                    last_notice = verdict;
                    connection.send(notice(verdict.unwrap_or(Ok(()))));
                }
                receipts::review(shared, connection, provider).await;
            }
        }
    }
}

/// A refusal in an owner's words: the key that is missing or wrong is a join token.
fn refusal_notice(refusal: &Refusal) -> VerdictNotice {
    let next_step = if matches!(refusal.code, RefusalCode::InvalidApiKey | RefusalCode::Forbidden) {
        "set DARKBLOOM_JOIN_TOKEN to a token from `darkbloom keys create --kind join`"
    } else {
        refusal.code.next_step()
    };
    let sentence = if refusal.code == RefusalCode::InvalidApiKey {
        "a new provider needs a join token, and none or no valid one came"
    } else {
        refusal.code.sentence()
    };
    let sentence =
        if refusal.detail.is_empty() { sentence.to_owned() } else { format!("{sentence}: {}", refusal.detail) };
    let reason = refusal.code.name().to_owned();
    VerdictNotice { eligible: false, reason, sentence, next_step: next_step.to_owned() }
}

/// Tells a provider that its operator wants it no more.
pub fn identity_revoked() -> VerdictNotice {
    refusal_notice(&trust::by_operator())
}

/// Tells a process that another one has its place.
fn replaced() -> VerdictNotice {
    VerdictNotice {
        eligible: false,
        reason: "replaced".to_owned(),
        sentence: "another process connected with this identity or the one that took over from it, and this one finishes what it has".to_owned(),
        next_step: "stop this one; if the other is not yours, tell the operator that your key was copied".to_owned(),
    }
}

/// Has the provider read the catalogue again.
fn catalogue_changed() -> VerdictNotice {
    VerdictNotice {
        eligible: false,
        reason: VerdictNotice::CATALOGUE_CHANGED.to_owned(),
        sentence: "the catalogue does not name all of the provider's models as they were signed before".to_owned(),
        next_step: "connect again, which happens by itself".to_owned(),
    }
}

fn notice(verdict: Result<(), darkbloom_registry::Ineligible>) -> VerdictNotice {
    match verdict {
        Ok(()) => VerdictNotice {
            eligible: true,
            reason: "eligible".to_owned(),
            sentence: "the provider gets work".to_owned(),
            next_step: "nothing to do".to_owned(),
        },
        Err(reason) => VerdictNotice {
            eligible: false,
            reason: reason.name().to_owned(),
            sentence: reason.sentence().to_owned(),
            next_step: reason.next_step().to_owned(),
        },
    }
}

/// What was said about models of a connection's provider that get no work.
#[derive(Default)]
struct Unnamed {
    /// That its statement does not name some.
    by_statement: bool,
    /// That the catalogue does not name some any more.
    by_catalogue: bool,
}

/// One frame. An error closes the connection.
async fn handle(
    shared: &Shared,
    connection: &Arc<Connection>,
    provider: ProviderId,
    frame: ProviderFrame,
    unnamed: &mut Unnamed,
) -> Result<(), Refusal> {
    match frame {
        // It has been heard by the one that took over.
        ProviderFrame::ChallengeAnswer(_)
        | ProviderFrame::Heartbeat(_)
        | ProviderFrame::LoadReport(_)
        | ProviderFrame::EpochUpdate(_)
            if connection.is_replaced() => {}
        ProviderFrame::Dial(_) | ProviderFrame::Hello(_) => {
            return Err(Refusal::new(RefusalCode::InvalidRequest, "a second introduction"));
        }
        ProviderFrame::ChallengeAnswer(answer) => {
            trust::challenge_answer(shared, connection, &answer).await?;
        }
        ProviderFrame::Heartbeat(beat) => {
            let catalogue = shared.catalogue();
            let mut models = beat.models.0;
            let said = models.len();
            models.retain(|load| catalogue.by_digest(&load.model).is_some());
            if models.len() < said && !std::mem::replace(&mut unnamed.by_catalogue, true) {
                connection.send(catalogue_changed());
            }
            let (now, wall) = (shared.mono(), clock::now());
            let machine =
                beat.machine.map(|said| Machine { memory_permille: said.memory_permille, thermal: said.thermal });
            let ignored = shared.with_registry(|registry| {
                registry.machine(&connection.id, machine.unwrap_or_default());
                registry.heartbeat(&connection.id, models, beat.draining, now, wall)
            });
            if ignored > 0 && !std::mem::replace(&mut unnamed.by_statement, true) {
                tracing::warn!(provider = %provider.short(), ignored, "models that its statement does not name are ignored");
            }
        }
        ProviderFrame::LoadReport(report) => {
            let (now, wall) = (shared.mono(), clock::now());
            let asked = shared.with_registry(|registry| {
                registry.load_reported(&connection.id, &report.model, report.outcome, now, wall)
            });
            // What nobody asked about must not fill the log.
            if asked {
                let outcome = report.outcome.name();
                tracing::info!(provider = %provider.short(), model = %report.model, outcome, "loading a model");
            }
        }
        ProviderFrame::Accepted(frame) => deliver(connection, frame.stream, StreamFrame::Accepted(frame)),
        ProviderFrame::Refused(frame) => deliver(connection, frame.stream, StreamFrame::Refused(frame)),
        ProviderFrame::Data(frame) => deliver(connection, frame.stream, StreamFrame::Data(frame)),
        ProviderFrame::Final(frame) => deliver(connection, frame.stream, StreamFrame::Final(frame)),
        ProviderFrame::CancelAck(frame) => deliver(connection, frame.stream, StreamFrame::CancelAck),
        ProviderFrame::Receipts(frame) => {
            for receipt in frame.receipts.0 {
                receipts::present(shared, connection, provider, receipt).await;
            }
        }
        ProviderFrame::EpochUpdate(frame) => {
            // Before any of the work that it makes.
            if !shared.with_registry(|registry| registry.epoch_turn(&connection.id, shared.mono())) {
                return Err(Refusal::new(RefusalCode::RateLimitExceeded, "epochs begin too often"));
            }
            let verdict = trust::next_statement(shared, connection, provider, &frame.statement).await?;
            learn(shared, connection, &verdict).await;
            let changed = shared.with_registry(|registry| {
                let stated = stated(shared, frame.statement, &verdict);
                registry.next_epoch(&connection.id, stated, shared.mono(), clock::now())
            });
            match changed {
                Ok(None) => {}
                Ok(Some(provider)) => trust::keep(shared, provider).await,
                Err(why) => {
                    trust::keep(shared, provider).await;
                    return Err(not_registered(why));
                }
            }
            trust::ask_again(shared, connection, &verdict);
        }
    }
    Ok(())
}

/// Hands a frame to its request. A receipt whose request is over, or never was, is answered like one that is presented.
fn deliver(connection: &Connection, stream: StreamId, frame: StreamFrame) {
    if let Some(StreamFrame::Final(frame)) = connection.deliver(stream, frame) {
        connection.review(frame.receipt);
    }
}

#[cfg(test)]
mod tests;
