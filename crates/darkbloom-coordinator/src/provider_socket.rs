//! One provider's WebSocket: introduction, frames in and out, heartbeats.

mod receipts;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use darkbloom_attest::{StatementError, TrustPolicy, Verdict, verify_challenge, verify_statement};
use darkbloom_registry::{Registration, Stated};
use darkbloom_store::KeyKind;
use darkbloom_types::{ConnectionId, ProviderId, Refusal, RefusalCode, SecretString, StreamId, Tier};
use darkbloom_wire::{Decoded, Hello, ProviderFrame, PublicKey, VerdictNotice, Welcome};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::auth;
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

impl From<StatementError> for Introduction {
    fn from(error: StatementError) -> Self {
        let code = match error {
            StatementError::Expired { .. } | StatementError::Future { .. } => RefusalCode::ClockSkew,
            StatementError::OtherNetwork => RefusalCode::WrongNetwork,
            StatementError::Signature(_)
            | StatementError::Times
            | StatementError::SealingKey
            | StatementError::Challenge => RefusalCode::VerificationFailed,
        };
        Self::Refused(Refusal::new(code, error.to_string()))
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
    let verdict = verify(shared, &hello.statement)?;
    verify_challenge(&hello.proof, &verdict, &nonce, &connection.id)?;
    admit(shared, &hello, &verdict).await.map_err(Introduction::Refused)?;
    learn(shared, connection, &verdict).await;
    inherit(shared, connection, verdict.provider);
    // Before the registry knows the provider: from then on requests are routed to this connection.
    shared.add_connection(Arc::clone(connection));
    register(shared, connection, hello, &verdict);
    Ok(verdict.provider)
}

/// The next frame of a connection that is not introduced yet.
async fn introduction(stream: &mut SplitStream<WebSocket>, until: Instant) -> Result<ProviderFrame, Introduction> {
    match tokio::time::timeout_at(until, next_frame(stream)).await {
        Ok(Some(Ok(Decoded::Known(frame, _)))) => Ok(frame),
        Ok(Some(_)) => Err(out_of_order()),
        Ok(None) => Err(Introduction::Gone),
        Err(_) => Err(Introduction::Refused(Refusal::new(RefusalCode::Timeout, "no introduction came"))),
    }
}

fn out_of_order() -> Introduction {
    let detail = "the first frame must be a dial, and the second an introduction";
    Introduction::Refused(Refusal::new(RefusalCode::InvalidRequest, detail))
}

fn verify(shared: &Shared, statement: &[u8]) -> Result<Verdict, StatementError> {
    // The coordinator pins nobody: its verdict is what evidence proves.
    let policy = TrustPolicy {
        network: shared.network,
        tier_min: Tier::None,
        pinned: std::collections::BTreeSet::new(),
        hardware: shared.activation.trust(),
    };
    verify_statement(statement, &policy, clock::now())
}

/// A new identity needs a join token; a known one does not.
async fn admit(shared: &Shared, hello: &Hello, verdict: &Verdict) -> Result<(), Refusal> {
    if shared.store.provider_known(verdict.provider) {
        return Ok(());
    }
    let token =
        hello.join_token.as_ref().map(SecretString::expose).ok_or_else(|| Refusal::from(RefusalCode::InvalidApiKey))?;
    let key = auth::lookup(&shared.store, token, KeyKind::Join)?;
    let seen = shared.store.provider_seen(verdict.provider, key.id, clock::now()).await;
    seen.map_err(|error| {
        tracing::error!(%error, "cannot note a new provider");
        Refusal::from(RefusalCode::Internal)
    })
}

fn register(shared: &Shared, connection: &Arc<Connection>, hello: Hello, verdict: &Verdict) {
    let catalogue = shared.catalogue();
    let mut models = hello.models.0;
    models.retain(|load| catalogue.by_digest(&load.model).is_some());
    let replaced = shared.with_registry(|registry| {
        let registration = Registration {
            provider: verdict.provider,
            connection: connection.id,
            stated: stated(hello.statement, verdict),
            models,
        };
        registry.register(registration, shared.mono(), clock::now(), &mut clock::rng())
    });
    if let Some(replaced) = replaced.and_then(|id| shared.connection(&id)) {
        replaced.close.notify_one();
    }
    tracing::info!(provider = %verdict.provider.short(), tier = %verdict.tier, "provider connected");
}

/// What a verified statement says. To be made while the registry is locked: whoever asks for candidates later, by the
/// clock, is told of it.
fn stated(statement: Vec<u8>, verdict: &Verdict) -> Stated {
    Stated {
        statement,
        epoch: verdict.epoch,
        tier: verdict.tier,
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
async fn next_frame(
    stream: &mut SplitStream<WebSocket>,
) -> Option<Result<Decoded<ProviderFrame>, darkbloom_wire::DecodeError>> {
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
    loop {
        tokio::select! {
            frame = next_frame(stream) => match frame {
                Some(Ok(Decoded::Known(frame, _))) => {
                    if let Err(refusal) = handle(shared, connection, provider, frame, &mut unnamed).await {
                        tracing::warn!(provider = %provider.short(), %refusal, "closing a provider's connection");
                        connection.send(refusal_notice(&refusal));
                        return;
                    }
                }
                Some(Ok(Decoded::Unknown(kind))) => tracing::debug!(kind, "skipped a frame of a newer provider"),
                Some(Err(error)) => {
                    tracing::warn!(provider = %provider.short(), %error, "closing a connection that sent a malformed frame");
                    return;
                }
                None => return,
            },
            () = connection.close.notified() => return,
            _ = verdict_ticks.tick() => {
                let (now, wall) = (shared.mono(), clock::now());
                let verdict =
                    shared.with_registry(|registry| registry.verdict(&provider, shared.tier_min, now, wall));
                if verdict.is_some() && verdict != last_notice {
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
        ProviderFrame::Dial(_) | ProviderFrame::Hello(_) => {
            return Err(Refusal::new(RefusalCode::InvalidRequest, "a second introduction"));
        }
        ProviderFrame::ChallengeAnswer(answer) => challenge_answer(shared, connection, provider, &answer.proof)?,
        ProviderFrame::Heartbeat(beat) => {
            let catalogue = shared.catalogue();
            let mut models = beat.models.0;
            let said = models.len();
            models.retain(|load| catalogue.by_digest(&load.model).is_some());
            if models.len() < said && !std::mem::replace(&mut unnamed.by_catalogue, true) {
                connection.send(catalogue_changed());
            }
            let (now, wall) = (shared.mono(), clock::now());
            let ignored =
                shared.with_registry(|registry| registry.heartbeat(&connection.id, models, beat.draining, now, wall));
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
            let verdict = verify(shared, &frame.statement)
                .map_err(|error| Refusal::new(RefusalCode::VerificationFailed, error.to_string()))?;
            if verdict.provider != provider {
                return Err(Refusal::new(RefusalCode::VerificationFailed, "the statement is another identity's"));
            }
            learn(shared, connection, &verdict).await;
            shared.with_registry(|registry| {
                let stated = stated(frame.statement, &verdict);
                registry.next_epoch(&connection.id, stated, shared.mono(), clock::now());
            });
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

fn challenge_answer(
    shared: &Shared,
    connection: &Connection,
    provider: ProviderId,
    proof: &[u8],
) -> Result<(), Refusal> {
    let failed = |error: StatementError| Refusal::new(RefusalCode::VerificationFailed, error.to_string());
    let Some(nonce) = shared.with_registry(|registry| registry.open_challenge(&connection.id)) else {
        return Err(Refusal::new(RefusalCode::InvalidRequest, "an answer without a challenge"));
    };
    let statement = shared.with_registry(|registry| registry.statement(&connection.id)).unwrap_or_default();
    let verdict = verify(shared, &statement).map_err(failed)?;
    debug_assert_eq!(verdict.provider, provider, "the registry keeps each provider's own statement");
    verify_challenge(proof, &verdict, &nonce, &connection.id).map_err(failed)?;
    shared.with_registry(|registry| registry.challenge_answered(&connection.id, shared.mono(), clock::now()));
    Ok(())
}

#[cfg(test)]
mod tests;
