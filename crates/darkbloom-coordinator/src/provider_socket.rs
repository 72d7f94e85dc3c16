//! One provider's WebSocket: introduction, frames in and out, heartbeats.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use darkbloom_attest::{StatementError, TrustPolicy, Verdict, verify_challenge, verify_statement};
use darkbloom_ledger::{Delivered, ReceiptUsage};
use darkbloom_registry::Registration;
use darkbloom_store::{KeyKind, SettleError, Settlement};
use darkbloom_types::{ConnectionId, ProviderId, Refusal, RefusalCode, SecretString, Tier};
use darkbloom_wire::{
    Decoded, Hello, ProviderFrame, PublicKey, Receipt, ReceiptAck, VerdictNotice, Welcome, receipt_id,
};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use rand_core::Rng as _;
use tokio::sync::mpsc;

use crate::auth;
use crate::state::{Connection, KnownEpoch, Shared, StreamFrame};
use darkbloom_host::clock;

/// A connection that has not introduced itself by then is closed.
const HELLO_WAIT: Duration = Duration::from_secs(15);
/// How often a provider is told when its eligibility changed.
const VERDICT_EVERY: Duration = Duration::from_secs(2);
/// A write that takes longer than this means that the provider no longer reads.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// WebSocket close code for a violated policy (RFC 6455 section 7.4.1).
const CLOSE_POLICY: u16 = 1008;

/// Serves one connection until it ends.
pub async fn serve(shared: Arc<Shared>, socket: WebSocket) {
    let mut id = [0; 16];
    clock::rng().fill_bytes(&mut id);
    let (connection, queue) = Connection::new(ConnectionId(id));
    let (sink, mut stream) = socket.split();
    let writer = tokio::spawn(write(sink, queue));
    match introduce(&shared, &connection, &mut stream).await {
        Ok(provider) => {
            read(&shared, &connection, provider, &mut stream).await;
            shared.remove_connection(&connection.id);
            let gone = shared.with_registry(|registry| registry.disconnected(&connection.id));
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

async fn write(mut sink: SplitSink<WebSocket, Message>, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        let write = sink.send(Message::Binary(Bytes::from(frame)));
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
    let mut nonce = [0; 32];
    clock::rng().fill_bytes(&mut nonce);
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
    });
    let hello = match tokio::time::timeout(HELLO_WAIT, next_frame(stream)).await {
        Ok(Some(Ok(Decoded::Known(ProviderFrame::Hello(hello), _)))) => hello,
        Ok(None) => return Err(Introduction::Gone),
        Ok(Some(_)) => {
            let refusal = Refusal::new(RefusalCode::InvalidRequest, "the first frame must be an introduction");
            return Err(Introduction::Refused(refusal));
        }
        Err(_) => return Err(Introduction::Refused(Refusal::new(RefusalCode::Timeout, "no introduction came"))),
    };
    let verdict = verify(shared, &hello.statement)?;
    verify_challenge(&hello.proof, &verdict, &nonce, &connection.id)?;
    admit(shared, &hello, &verdict).await.map_err(Introduction::Refused)?;
    learn(shared, connection, &verdict).await;
    // Before the registry knows the provider: from then on requests are routed to this connection.
    shared.add_connection(Arc::clone(connection));
    register(shared, connection, hello, &verdict);
    Ok(verdict.provider)
}

fn verify(shared: &Shared, statement: &[u8]) -> Result<Verdict, StatementError> {
    // The coordinator pins nobody: its verdict is what evidence proves.
    let policy =
        TrustPolicy { network: shared.network, tier_min: Tier::None, pinned: std::collections::BTreeSet::new() };
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
    models.retain(|load| {
        let known = catalogue.by_digest(&load.model).is_some();
        known && verdict.statement.models.0.contains(&load.model)
    });
    let registration = Registration {
        provider: verdict.provider,
        connection: connection.id,
        tier: verdict.tier,
        statement: hello.statement,
        epoch: verdict.epoch,
        use_until: verdict.statement.use_until,
        models,
    };
    let replaced = shared.with_registry(|registry| registry.register(registration, clock::now(), &mut clock::rng()));
    if let Some(replaced) = replaced.and_then(|id| shared.connection(&id)) {
        replaced.close.notify_one();
    }
    tracing::info!(provider = %verdict.provider.short(), tier = %verdict.tier, "provider connected");
}

async fn learn(shared: &Shared, connection: &Connection, verdict: &Verdict) {
    let epoch = KnownEpoch { id: verdict.epoch, receipt_key: verdict.statement.receipt_key };
    shared.store_receipt_key(verdict.provider, epoch).await;
    connection.learn_epoch(epoch);
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
    loop {
        tokio::select! {
            frame = next_frame(stream) => match frame {
                Some(Ok(Decoded::Known(frame, _))) => {
                    if let Err(refusal) = handle(shared, connection, provider, frame).await {
                        tracing::warn!(provider = %provider.short(), %refusal, "closing a provider's connection");
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
                let verdict = shared.with_registry(|registry| registry.verdict(&provider, shared.tier_min, clock::now()));
                if verdict.is_some() && verdict != last_notice {
                    last_notice = verdict;
                    connection.send(notice(verdict.unwrap_or(Ok(()))));
                }
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

/// One frame. An error closes the connection.
async fn handle(
    shared: &Shared,
    connection: &Arc<Connection>,
    provider: ProviderId,
    frame: ProviderFrame,
) -> Result<(), Refusal> {
    match frame {
        ProviderFrame::Hello(_) => return Err(Refusal::new(RefusalCode::InvalidRequest, "a second introduction")),
        ProviderFrame::ChallengeAnswer(answer) => challenge_answer(shared, connection, provider, &answer.proof)?,
        ProviderFrame::Heartbeat(beat) => {
            let catalogue = shared.catalogue();
            let mut models = beat.models.0;
            models.retain(|load| catalogue.by_digest(&load.model).is_some());
            shared.with_registry(|registry| registry.heartbeat(&connection.id, models, beat.draining, clock::now()));
        }
        ProviderFrame::Accepted(frame) => connection.deliver(frame.stream, StreamFrame::Accepted(frame)),
        ProviderFrame::Refused(frame) => connection.deliver(frame.stream, StreamFrame::Refused(frame)),
        ProviderFrame::Data(frame) => connection.deliver(frame.stream, StreamFrame::Data(frame)),
        ProviderFrame::Final(frame) => connection.deliver(frame.stream, StreamFrame::Final(frame)),
        ProviderFrame::CancelAck(frame) => connection.deliver(frame.stream, StreamFrame::CancelAck),
        ProviderFrame::Receipts(frame) => {
            for receipt in frame.receipts.0 {
                late_receipt(shared, connection, provider, receipt).await;
            }
        }
        ProviderFrame::EpochUpdate(frame) => {
            let verdict = verify(shared, &frame.statement)
                .map_err(|error| Refusal::new(RefusalCode::VerificationFailed, error.to_string()))?;
            if verdict.provider != provider {
                return Err(Refusal::new(RefusalCode::VerificationFailed, "the statement is another identity's"));
            }
            learn(shared, connection, &verdict).await;
            let (use_until, previous_until) = (verdict.statement.use_until, verdict.statement.open_until);
            shared.with_registry(|registry| {
                registry.next_epoch(&connection.id, frame.statement, verdict.epoch, use_until, previous_until);
            });
        }
    }
    Ok(())
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
    shared.with_registry(|registry| registry.challenge_answered(&connection.id, clock::now()));
    Ok(())
}

/// A receipt that was presented again: settles a hold that was left open or voided for silence, if it still can.
async fn late_receipt(shared: &Shared, connection: &Connection, provider: ProviderId, bytes: Vec<u8>) {
    let id = receipt_id(&bytes);
    let Ok(claimed) = Receipt::peek(&bytes) else { return };
    let Some(key) = receipt_key(shared, connection, provider, &claimed).await else {
        tracing::info!(provider = %provider.short(), receipt = %id.short(), "a receipt of an unknown epoch");
        connection.send(ReceiptAck { receipt: id });
        return;
    };
    let Ok(receipt) = Receipt::open(&bytes, &PublicKey::Ed25519(key)) else { return };
    if receipt.provider != provider {
        return;
    }
    // A request that is being relayed is settled by what is relayed; a receipt that runs ahead of it is not believed.
    if shared.is_live(&receipt.request_id) || shared.is_resealing(&receipt.request_id) {
        return;
    }
    let hold = match shared.store.hold(receipt.request_id).await {
        Ok(hold) => hold,
        Err(error) => return tracing::error!(%error, "cannot look up the hold of a late receipt"),
    };
    let of_model = hold.is_some_and(|hold| hold.request.model == receipt.model);
    let weights = shared.catalogue().by_digest(&receipt.model).map(|item| item.entry.weights);
    if !of_model || weights.is_some_and(|weights| weights != receipt.weights) {
        connection.send(ReceiptAck { receipt: id });
        return;
    }
    let usage = ReceiptUsage { input: receipt.input_tokens, output: receipt.output_tokens };
    // What was relayed before the silence is not known any more; the receipt and the ceilings bound the charge.
    let delivered = Delivered { content_relayed: true, relayed_output: receipt.output_tokens, receipt: Some(usage) };
    let settlement = Settlement {
        request: receipt.request_id,
        provider,
        delivered,
        receipt: Some(bytes),
        receipt_id: Some(id),
        at: clock::now(),
    };
    match shared.store.late_settle(settlement).await {
        Ok(settled) if settled.already => {}
        Ok(settled) => {
            tracing::info!(request = %receipt.request_id, charge = %settled.charge, "settled by a late receipt")
        }
        Err(SettleError::Store(error)) => {
            // Not acknowledged: the provider presents it again.
            tracing::error!(%error, "cannot settle a late receipt");
            return;
        }
        Err(error) => tracing::info!(request = %receipt.request_id, %error, "a late receipt settles nothing"),
    }
    connection.send(ReceiptAck { receipt: id });
}

async fn receipt_key(
    shared: &Shared,
    connection: &Connection,
    provider: ProviderId,
    receipt: &Receipt,
) -> Option<[u8; 32]> {
    if let Some(key) = connection.receipt_key(&receipt.epoch) {
        return Some(key);
    }
    shared.stored_receipt_key(provider, &receipt.epoch).await
}
