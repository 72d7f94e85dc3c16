//! One sealed request: reads it, and carries bytes and time to its [`RelaySession`].

mod submission;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage, VoidCause, worst_case};
use darkbloom_registry::{RouteError, RouteRequest};
use darkbloom_seal::{Acceptance, ReceiptExpectation, SealedFrame, Transcript, check_receipt, request_digest};
use darkbloom_session::{RelayAction, RelayEvent, RelaySession, RelayTerms, Released, RouteFailure};
use darkbloom_store::{KeyRecord, PlaceHoldError, Settlement};
use darkbloom_types::{
    AttemptNumber, EpochId, Micros, Millis, NanoDollars, Price, ProviderId, Refusal, RefusalCode, TokenCount,
};
use darkbloom_wire::{
    Accepted, Bill, Candidate, CandidateList, CoordinatorTiming, Data, Final, KeepAlive, LengthPrefixed, Offer,
    Receipt, ReceiptAck, Refused, Relayed, RelayedAccepted, RelayedData, RelayedFinal, RelayedRefused, Reseal,
    SignError, Wrap, receipt_id,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use self::submission::{Request, read};
use crate::catalogue::Item;
use crate::state::{Connection, Resealing, Shared, Stream, StreamFrame};
use darkbloom_host::clock;

/// Frames that may wait for the consumer before the relay itself waits.
const CLIENT_FRAMES_MAX: usize = 64;
/// How often a silent request tells its client that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A consumer that takes no byte for this long is gone.
const CLIENT_WRITE: Duration = Duration::from_secs(30);
/// How long a hold waits for its request to be sealed again.
const RESEAL_WAIT: Millis = Millis::from_secs(60);
/// An open hold is voided after this long: the longest request and the wait for its receipt.
const HOLD_LIFE: Millis = Millis::from_minutes(35);

/// Reads a submission and begins to relay it. What comes out of the channel is length-prefixed frames.
pub async fn begin(shared: Arc<Shared>, key: KeyRecord, body: &[u8]) -> Result<mpsc::Receiver<Bytes>, Refusal> {
    let request = read(&shared, key, body)?;
    let (client, frames) = mpsc::channel(CLIENT_FRAMES_MAX);
    let room = shared.begin_request(request.header.request).ok_or(RefusalCode::Replayed)?;
    let relay = Relay::new(shared, request, client, room);
    tokio::spawn(relay.run());
    Ok(frames)
}

/// The provider that is being asked, or answers.
struct Current {
    provider: ProviderId,
    epoch: EpochId,
    attempt: AttemptNumber,
    connection: Arc<Connection>,
    stream: Stream,
    transcript: Option<Transcript>,
    salt: [u8; 32],
    last_data: Option<Data>,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.connection.close_stream(self.stream.id);
    }
}

/// Where this request's time went; see `docs/timing.md`.
#[derive(Default)]
struct Clocks {
    reserve: Duration,
    route: Duration,
    queue: Duration,
    dispatch: Duration,
    queued_at: Option<Instant>,
    offered_at: Option<Instant>,
}

struct Relay {
    shared: Arc<Shared>,
    request: Request,
    client: mpsc::Sender<Bytes>,
    session: RelaySession,
    actions: VecDeque<RelayAction>,
    room: Arc<Notify>,
    hold: NanoDollars,
    current: Option<Current>,
    clocks: Clocks,
    receipt: Option<(Vec<u8>, Receipt)>,
    answered_by: Option<(ProviderId, Arc<Connection>)>,
    bill: Option<Vec<u8>>,
    sealed_refusal: Option<Vec<u8>>,
    /// Whose acceptance was written down.
    noted: Option<ProviderId>,
    client_gone: bool,
}

impl Drop for Relay {
    /// Whatever ends the task, a panic included, nothing of the request stays behind.
    fn drop(&mut self) {
        let (model, request) = (self.request.header.model, self.request.header.request);
        self.shared.with_registry(|registry| registry.leave_queue(&model, &request));
        if let Some(provider) = self.current.as_ref().map(|current| current.provider) {
            self.release(provider, Released::Unused);
        }
        self.shared.end_request(&request);
    }
}

impl Relay {
    fn new(shared: Arc<Shared>, request: Request, client: mpsc::Sender<Bytes>, room: Arc<Notify>) -> Self {
        let terms = RelayTerms { output_ceiling: request.header.output_ceiling };
        let (session, actions) = RelaySession::begin(terms, clock::now());
        Self {
            shared,
            request,
            client,
            session,
            actions: actions.into(),
            room,
            hold: NanoDollars::ZERO,
            current: None,
            clocks: Clocks::default(),
            receipt: None,
            answered_by: None,
            bill: None,
            sealed_refusal: None,
            noted: None,
            client_gone: false,
        }
    }

    async fn run(mut self) {
        let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        keep_alive.reset();
        loop {
            while let Some(action) = self.actions.pop_front() {
                if let Some(event) = self.act(action).await {
                    self.feed(event);
                }
            }
            let Some(wake_at) = self.session.wake_at() else { break };
            let sleep = Duration::from_millis(wake_at.since(clock::now()).0);
            tokio::select! {
                frame = next_frame(&mut self.current) => self.provider_frame(frame),
                () = self.room.notified() => self.feed(RelayEvent::Wake),
                () = self.client.closed(), if !self.client_gone => self.client_left(),
                () = tokio::time::sleep(sleep) => self.feed(RelayEvent::Tick),
                _ = keep_alive.tick() => self.send(KeepAlive {}).await,
            }
        }
    }

    fn feed(&mut self, event: RelayEvent) {
        self.actions.extend(self.session.handle(event, clock::now()));
    }

    fn client_left(&mut self) {
        self.client_gone = true;
        self.feed(RelayEvent::ConsumerGone);
    }

    async fn send(&mut self, frame: impl Into<Relayed>) {
        if self.client_gone {
            return;
        }
        let bytes = Bytes::from(LengthPrefixed::wrap(&frame.into().encode()));
        if !matches!(tokio::time::timeout(CLIENT_WRITE, self.client.send(bytes)).await, Ok(Ok(()))) {
            self.client_left();
        }
    }

    /// Turns a provider's frame into an event.
    fn provider_frame(&mut self, frame: Option<StreamFrame>) {
        let Some(current) = self.current.as_mut() else { return };
        let event = match frame {
            None => RelayEvent::ProviderGone,
            Some(StreamFrame::Accepted(frame)) => {
                self.clocks.dispatch += self.clocks.offered_at.take().map(|at| at.elapsed()).unwrap_or_default();
                accepted(current, &self.request, &frame)
            }
            Some(StreamFrame::Refused(frame)) => {
                self.clocks.dispatch += self.clocks.offered_at.take().map(|at| at.elapsed()).unwrap_or_default();
                self.sealed_refusal.clone_from(&frame.sealed);
                RelayEvent::Refused(refusal_of(frame))
            }
            Some(StreamFrame::Data(frame)) => {
                let event = RelayEvent::Data { sequence: frame.sequence, tokens: frame.tokens, end: frame.end };
                if let Some(transcript) = &mut current.transcript {
                    transcript.push(&SealedFrame {
                        sequence: frame.sequence,
                        tokens: frame.tokens,
                        end: frame.end,
                        ciphertext: frame.ciphertext.clone(),
                    });
                }
                current.last_data = Some(frame);
                event
            }
            Some(StreamFrame::Final(frame)) => match self.check(&frame) {
                Some(receipt) => {
                    self.receipt = Some((frame.receipt, receipt));
                    RelayEvent::Receipt
                }
                None => RelayEvent::BadReceipt,
            },
            Some(StreamFrame::CancelAck) => RelayEvent::CancelAcknowledged,
        };
        let overflowed = self.current.as_ref().is_some_and(|current| current.stream.overflowed.load(Ordering::Acquire));
        if overflowed && !self.client_gone {
            tracing::info!(request = %self.request.header.request, "a consumer did not keep up and is cut off");
            self.client_left();
        }
        self.feed(event);
    }

    fn check(&self, frame: &Final) -> Option<Receipt> {
        let current = self.current.as_ref()?;
        let key = current.connection.receipt_key(&current.epoch)?;
        let seen = ReceiptExpectation {
            request: request_digest(&self.request.submit.header, &self.request.submit.body),
            request_id: self.request.header.request,
            attempt: current.attempt,
            // Frames that were lost on the way to a slow consumer are missing from the chain.
            transcript: if current.stream.overflowed.load(Ordering::Acquire) {
                None
            } else {
                // A receipt before the acceptance has nothing to be about.
                Some(current.transcript?.digest())
            },
            model: self.request.header.model,
            weights: Some(self.request.item.entry.weights),
            provider: current.provider,
            epoch: current.epoch,
            input_ceiling: self.request.header.input_ceiling,
            output_tokens: None,
        };
        check_receipt(&frame.receipt, &key, &seen)
            .inspect_err(
                |error| tracing::warn!(provider = %current.provider.short(), %error, "a receipt does not hold"),
            )
            .ok()
    }

    /// Does one action; some bring their result at once.
    async fn act(&mut self, action: RelayAction) -> Option<RelayEvent> {
        match action {
            RelayAction::PlaceHold => Some(self.place_hold().await),
            RelayAction::Route => Some(self.route()),
            RelayAction::Queue => {
                self.clocks.queued_at = Some(Instant::now());
                None
            }
            RelayAction::LeaveQueue => {
                let (model, request) = (self.request.header.model, self.request.header.request);
                self.shared.with_registry(|registry| registry.leave_queue(&model, &request));
                None
            }
            RelayAction::Offer(provider, attempt) => self.offer(provider, attempt),
            RelayAction::Release(provider, released) => {
                self.release(provider, released);
                None
            }
            RelayAction::RelayAccepted => {
                let frame = self.accepted_frame()?;
                self.send(frame).await;
                None
            }
            RelayAction::RelayData => {
                self.note_acceptance();
                let data = self.current.as_mut()?.last_data.take()?;
                let Data { sequence, tokens, end, ciphertext, .. } = data;
                self.send(RelayedData { sequence, tokens, end, ciphertext }).await;
                None
            }
            RelayAction::Cancel => {
                let current = self.current.as_ref()?;
                current.connection.send(darkbloom_wire::Cancel { stream: current.stream.id });
                None
            }
            RelayAction::Settle(delivered) => Some(self.settle(delivered).await),
            RelayAction::Void(code) => {
                self.void(code).await;
                None
            }
            RelayAction::RelayFinal => {
                match (self.receipt.take(), self.bill.take()) {
                    (Some((receipt, _)), Some(bill)) => self.send(RelayedFinal { receipt, bill, update: None }).await,
                    // The ledger or the key failed; the answer is whole, but nothing proves what it cost.
                    _ => self.refuse(RefusalCode::Internal.into()).await,
                }
                None
            }
            RelayAction::Refuse(refusal) => {
                self.refuse(refusal).await;
                None
            }
            RelayAction::Reseal(code) => {
                self.reseal(code).await;
                None
            }
            RelayAction::Finish => None,
        }
    }

    async fn place_hold(&mut self) -> RelayEvent {
        let began = Instant::now();
        let (header, price, now) = (&self.request.header, self.request.item.price, clock::now());
        let Ok(amount) = worst_case(price, header.input_ceiling, header.output_ceiling) else {
            return RelayEvent::HoldRefused(RefusalCode::InvalidRequest.into());
        };
        self.hold = amount;
        let (account, operation) = (self.request.account, header.operation);
        let superseded = match self.request.submit.supersedes {
            None => None,
            Some(old) => match self.shared.take_reseal(&old, account, operation) {
                Some(waiting) => Some((old, waiting)),
                None => {
                    let detail = "the superseded request does not wait to be sealed again";
                    return RelayEvent::HoldRefused(Refusal::new(RefusalCode::InvalidRequest, detail));
                }
            },
        };
        let placed = self.shared.store.hold_place(HoldRequest {
            request: header.request,
            operation: header.operation,
            account: self.request.account,
            key: self.request.key.id,
            model: header.model,
            amount,
            price,
            input_ceiling: header.input_ceiling,
            output_ceiling: header.output_ceiling,
            placed_at: now,
            expires_at: now.after(HOLD_LIFE),
            supersedes: self.request.submit.supersedes,
        });
        let placed = placed.await;
        self.clocks.reserve = began.elapsed();
        match placed {
            Ok(()) => RelayEvent::HoldPlaced,
            Err(error) => {
                if let Some((old, waiting)) = superseded {
                    self.shared.begin_reseal(old, waiting);
                }
                RelayEvent::HoldRefused(hold_refusal(error))
            }
        }
    }

    fn route(&mut self) -> RelayEvent {
        if let Some(at) = self.clocks.queued_at.take() {
            self.clocks.queue += at.elapsed();
        }
        let began = Instant::now();
        let recipients: Vec<_> = self.request.submit.wraps.0.iter().map(|wrap| (wrap.provider, wrap.epoch)).collect();
        let tried: Vec<_> = self.session.attempts().iter().map(|attempt| attempt.provider).collect();
        let request = RouteRequest {
            request: self.request.header.request,
            model: self.request.header.model,
            tier_min: self.shared.tier_min.max(self.request.header.tier_min),
            recipients: &recipients,
            tried: &tried,
        };
        let routed = self.shared.with_registry(|registry| registry.route(&request, clock::now()));
        self.clocks.route += began.elapsed();
        match routed {
            Ok(provider) => RelayEvent::Routed(provider),
            Err(RouteError::Queued) => RelayEvent::NotRouted(RouteFailure::Busy),
            Err(RouteError::QueueFull) => RelayEvent::NotRouted(RouteFailure::QueueFull),
            Err(error @ RouteError::OthersCould) => RelayEvent::NotRouted(RouteFailure::OthersCould(error.code())),
            Err(error @ RouteError::Nobody) => RelayEvent::NotRouted(RouteFailure::Nobody(error.code())),
        }
    }

    fn offer(&mut self, provider: ProviderId, attempt: AttemptNumber) -> Option<RelayEvent> {
        self.clocks.offered_at = Some(Instant::now());
        let reserved_on = self.shared.with_registry(|registry| registry.connection_of(&provider));
        let connection = reserved_on.and_then(|id| self.shared.connection(&id));
        let wrap: Option<Wrap> = self.request.submit.wraps.0.iter().find(|wrap| wrap.provider == provider).cloned();
        let (Some(connection), Some(wrap)) = (connection, wrap) else {
            // The connection is closing. Its row was reserved a moment ago, and there is no stream to give it back by.
            if let Some(id) = reserved_on {
                let model = self.request.header.model;
                self.shared.with_registry(|registry| registry.release(&provider, &id, &model, None, clock::now()));
            }
            return Some(RelayEvent::ProviderGone);
        };
        let scope = self.shared.scope(self.request.account, &provider);
        let (stream, sent) = connection.offer(|stream| Offer {
            stream,
            attempt,
            header: self.request.submit.header.clone(),
            body: self.request.submit.body.clone(),
            wrap: wrap.clone(),
            scope,
        });
        self.current = Some(Current {
            provider,
            epoch: wrap.epoch,
            attempt,
            connection,
            stream,
            transcript: None,
            salt: [0; 32],
            last_data: None,
        });
        (!sent).then_some(RelayEvent::ProviderGone)
    }

    fn release(&mut self, provider: ProviderId, released: Released) {
        let Some(current) = self.current.take() else { return };
        let fault = match released {
            Released::Served => Some(false),
            Released::Failed => Some(true),
            Released::Unused => None,
        };
        let (connection, model) = (current.connection.id, self.request.header.model);
        self.answered_by = Some((provider, Arc::clone(&current.connection)));
        drop(current);
        self.shared.with_registry(|registry| registry.release(&provider, &connection, &model, fault, clock::now()));
    }

    /// At the first content: writes down whose answer it is, beside the answer itself. After a crash no other provider's
    /// receipt settles the hold; a crash before it is written leaves the hold to its owner.
    fn note_acceptance(&mut self) {
        let Some(provider) = self.current.as_ref().map(|current| current.provider) else { return };
        if self.noted.replace(provider) == Some(provider) {
            return;
        }
        let (shared, request) = (Arc::clone(&self.shared), self.request.header.request);
        tokio::spawn(async move {
            if let Err(error) = shared.store.hold_accepted(request, provider).await {
                tracing::error!(%request, %error, "cannot note whose answer is relayed");
            }
        });
    }

    fn timing(&self) -> CoordinatorTiming {
        CoordinatorTiming {
            reserve_us: Micros::from(self.clocks.reserve),
            route_us: Micros::from(self.clocks.route),
            queue_us: Micros::from(self.clocks.queue),
            dispatch_us: Micros::from(self.clocks.dispatch),
        }
    }

    fn accepted_frame(&self) -> Option<RelayedAccepted> {
        let current = self.current.as_ref()?;
        Some(RelayedAccepted {
            provider: current.provider,
            epoch: current.epoch,
            attempt: current.attempt,
            salt: current.salt,
            attempts: self.session.attempts().to_vec().into(),
            timing: self.timing(),
        })
    }

    async fn settle(&mut self, delivered: darkbloom_session::Delivered) -> RelayEvent {
        let Some((provider, connection)) = self.answered_by.clone() else { return RelayEvent::Settled };
        let usage = self.receipt.as_ref().filter(|_| delivered.receipt);
        let usage =
            usage.map(|(_, receipt)| ReceiptUsage { input: receipt.input_tokens, output: receipt.output_tokens });
        let receipt_bytes = self.receipt.as_ref().filter(|_| delivered.receipt).map(|(bytes, _)| bytes.clone());
        let id = receipt_bytes.as_deref().map(receipt_id);
        let settlement = Settlement {
            request: self.request.header.request,
            provider,
            delivered: Delivered {
                content_relayed: delivered.content_relayed,
                relayed_output: delivered.tokens_relayed,
                receipt: usage,
            },
            receipt: receipt_bytes,
            receipt_id: id,
            at: clock::now(),
        };
        match self.shared.store.hold_settle(settlement).await {
            Ok(settled) if settled.already && settled.void.is_some() => {
                tracing::error!(request = %self.request.header.request, "the hold of a delivered answer was void");
            }
            Ok(settled) => {
                tracing::info!(
                    request = %self.request.header.request,
                    model = %self.request.item.entry.name,
                    provider = %provider.short(),
                    input_tokens = settled.input_tokens.0,
                    output_tokens = settled.output_tokens.0,
                    charge = %settled.charge,
                    "request settled"
                );
                let terms = Charged {
                    price: self.request.item.price,
                    hold: self.hold,
                    charge: settled.charge,
                    input: settled.input_tokens,
                    output: settled.output_tokens,
                };
                match self.bill(&terms, id) {
                    Ok(bill) => self.bill = Some(bill),
                    Err(error) => tracing::error!(%error, "cannot sign a bill"),
                }
                if let Some(receipt) = id {
                    connection.send(ReceiptAck { receipt });
                }
            }
            // The hold stays; the provider keeps its receipt and presents it again.
            Err(error) => tracing::error!(request = %self.request.header.request, %error, "cannot settle"),
        }
        RelayEvent::Settled
    }

    fn bill(&self, terms: &Charged, receipt: Option<darkbloom_types::ReceiptId>) -> Result<Vec<u8>, SignError> {
        let bill = Bill {
            operation: self.request.header.operation,
            request: self.request.header.request,
            receipt,
            price: terms.price,
            hold: terms.hold,
            charge: terms.charge,
            input_tokens: terms.input,
            output_tokens: terms.output,
            settled_at: clock::now(),
        };
        bill.sign(&*self.shared.key)
    }

    async fn void(&mut self, code: RefusalCode) {
        let voided = self
            .shared
            .store
            .hold_void(self.request.header.request, VoidCause::NothingDelivered, code.name(), clock::now())
            .await;
        if let Err(error) = voided {
            // The sweeper voids it when its time is over.
            tracing::error!(request = %self.request.header.request, %error, "cannot void a hold");
        }
    }

    async fn refuse(&mut self, refusal: Refusal) {
        tracing::info!(request = %self.request.header.request, reason = %refusal.code, "request refused");
        let waits = matches!(refusal.code, RefusalCode::NoCapacity | RefusalCode::Overloaded);
        let model = self.request.header.model;
        let retry_after = waits.then(|| self.shared.with_registry(|registry| registry.retry_after(&model)));
        let frame = RelayedRefused {
            code: refusal.code.number(),
            detail: refusal.detail,
            retry_after,
            sealed: self.sealed_refusal.take(),
            attempts: self.session.attempts().to_vec().into(),
            bill: self.bill.take(),
        };
        self.send(frame).await;
    }

    async fn reseal(&mut self, code: RefusalCode) {
        match candidate_list(&self.shared, &self.request.item) {
            Ok(candidates) => {
                let waiting = Resealing {
                    account: self.request.account,
                    operation: self.request.header.operation,
                    until: clock::now().after(RESEAL_WAIT),
                };
                self.shared.begin_reseal(self.request.header.request, waiting);
                self.send(Reseal { candidates, code: code.number() }).await;
            }
            Err(error) => {
                tracing::error!(%error, "cannot sign a candidate list");
                self.void(code).await;
                self.refuse(code.into()).await;
            }
        }
    }
}

struct Charged {
    price: Price,
    hold: NanoDollars,
    charge: NanoDollars,
    input: TokenCount,
    output: TokenCount,
}

/// The next frame of the current provider; waits for ever where there is none.
async fn next_frame(current: &mut Option<Current>) -> Option<StreamFrame> {
    match current {
        Some(current) => current.stream.frames.recv().await,
        None => std::future::pending().await,
    }
}

fn accepted(current: &mut Current, request: &Request, frame: &Accepted) -> RelayEvent {
    // A second acceptance would begin the transcript anew in the middle of an answer.
    if frame.attempt != current.attempt || frame.epoch != current.epoch || current.transcript.is_some() {
        return RelayEvent::BadReceipt;
    }
    current.salt = frame.salt;
    current.transcript = Some(Transcript::begin(&Acceptance {
        request_digest: request_digest(&request.submit.header, &request.submit.body),
        provider: current.provider,
        epoch: current.epoch,
        attempt: current.attempt,
        salt: frame.salt,
    }));
    RelayEvent::Accepted
}

/// What a provider may say no with. Anything else is not its to say: clock, network and price were checked here.
const PROVIDERS_REFUSALS: [RefusalCode; 10] = [
    RefusalCode::InvalidRequest,
    RefusalCode::ContextLengthExceeded,
    RefusalCode::CannotOpen,
    RefusalCode::TooLarge,
    RefusalCode::UnknownEpoch,
    RefusalCode::Overloaded,
    RefusalCode::ModelNotLoaded,
    RefusalCode::Draining,
    RefusalCode::Internal,
    RefusalCode::Unsupported,
];

/// A provider's refusal; one that is not its to say counts as its failure.
fn refusal_of(frame: Refused) -> Refusal {
    let code = RefusalCode::from_number(frame.code).unwrap_or(RefusalCode::Internal);
    if PROVIDERS_REFUSALS.contains(&code) { Refusal::new(code, frame.detail) } else { RefusalCode::ProviderLost.into() }
}

fn hold_refusal(error: PlaceHoldError) -> Refusal {
    match error {
        PlaceHoldError::InsufficientFunds { available, needed } => {
            Refusal::new(RefusalCode::InsufficientQuota, format!("{available} is available, {needed} may be needed"))
        }
        PlaceHoldError::AlreadyCompleted => RefusalCode::AlreadyCompleted.into(),
        PlaceHoldError::InProgress => RefusalCode::OperationInProgress.into(),
        PlaceHoldError::DuplicateRequest => RefusalCode::Replayed.into(),
        PlaceHoldError::UnknownAccount => Refusal::new(RefusalCode::Forbidden, "the key's account is gone"),
        PlaceHoldError::UnknownSuperseded | PlaceHoldError::Terms(_) => {
            Refusal::new(RefusalCode::InvalidRequest, error.to_string())
        }
        PlaceHoldError::Store(error) => {
            tracing::error!(%error, "cannot place a hold");
            RefusalCode::Internal.into()
        }
    }
}

/// A fresh signed list of a model's candidates.
pub fn candidate_list(shared: &Shared, item: &Item) -> Result<Vec<u8>, SignError> {
    let now = clock::now();
    let found = shared.with_registry(|registry| registry.candidates(&item.digest, now, &mut clock::rng()));
    let candidates: Vec<_> = found
        .into_iter()
        .map(|view| Candidate { statement: view.statement, rows_free: view.rows_free, waiting: view.waiting })
        .collect();
    let list = CandidateList {
        network: shared.network,
        time: now,
        entry: item.signed.clone(),
        price: item.price,
        candidates: candidates.into(),
    };
    list.sign(&*shared.key)
}
