//! One sealed request: reads it, and carries bytes and time to its [`RelaySession`].

mod candidates;
mod settling;
mod submission;
mod unfinished;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use darkbloom_registry::{Fault, Outcome, Registry, RouteError, RouteRequest, Row, Seen};
use darkbloom_seal::{Acceptance, ReceiptExpectation, SealedFrame, Transcript, check_receipt, request_digest};
use darkbloom_session::{RelayAction, RelayEvent, RelayPhase, RelaySession, RelayTerms, Released, RouteFailure};
use darkbloom_store::KeyRecord;
use darkbloom_types::{
    AttemptNumber, ConnectionId, EpochId, Micros, Millis, ProviderId, Refusal, RefusalClass, RefusalCode, TokenCount,
};
use darkbloom_wire::{
    Accepted, CoordinatorTiming, Data, Final, KeepAlive, LengthPrefixed, Offer, Receipt, Refused, Relayed,
    RelayedAccepted, RelayedData, RelayedRefused, Wrap, limits,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

pub use self::candidates::candidate_list;
use self::settling::{HoldLife, KeptReceipt};
use self::submission::{Request, read};
pub use self::unfinished::{End, Unfinished};
use crate::rates::{Kind, Left};
use crate::state::{Connection, OfferError, Place, Shared, Stream, StreamFrame};
use darkbloom_host::clock;
pub use darkbloom_wire::limits::HOLD_LIFE;
use darkbloom_wire::limits::RESEAL_WAIT;

/// Frames that may wait for the consumer before the relay itself waits.
const CLIENT_FRAMES_MAX: usize = 64;
/// How often a silent request tells its client that it is alive.
const KEEP_ALIVE: Duration = Duration::from_millis(limits::KEEP_ALIVE.0);
/// A consumer that takes no byte for this long is gone.
const CONSUMER_WAIT: Duration = Duration::from_millis(limits::CONSUMER_WAIT.0);

/// Why a submission is not relayed, and when to come back, where that is known.
#[derive(Debug)]
pub struct Turned {
    pub refusal: Refusal,
    pub retry_after: Option<Millis>,
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, retry_after: None }
    }
}

/// Reads a submission and begins to relay it. What comes out of the channel is length-prefixed frames.
pub fn begin(
    shared: Arc<Shared>,
    key: KeyRecord,
    place: Place,
    body: &[u8],
    left: &mut Left,
) -> Result<mpsc::Receiver<Bytes>, Turned> {
    let request = read(&shared, key, body)?;
    let (account, model) = (request.account, request.header.model);
    // Before anything is held or kept for it.
    if let Err(wait) = shared.with_registry(|registry| registry.may_ask(account, &model, shared.mono())) {
        let detail = format!("asked again before it was time; next in {} s", wait.0.div_ceil(1_000));
        let refusal = Refusal::new(RefusalCode::RateLimitExceeded, detail);
        return Err(Turned { refusal, retry_after: Some(wait) });
    }
    left.tokens = shared.rates.take(&request.limits(&shared), Kind::Tokens, request.tokens(), shared.mono())?;
    let (client, frames) = mpsc::channel(CLIENT_FRAMES_MAX);
    let (limits, tokens) = (request.limits(&shared), request.tokens());
    if let Err(refusal) = start(Arc::clone(&shared), request, place, client) {
        shared.rates.give_back(&limits, Kind::Tokens, tokens);
        return Err(refusal.into());
    }
    Ok(frames)
}

fn start(shared: Arc<Shared>, request: Request, place: Place, client: mpsc::Sender<Bytes>) -> Result<(), Refusal> {
    let id = request.header.request;
    let room = shared.begin_request(id)?;
    // Asked once it is live: a request of the same name leaves its hold's end behind before it stops being live.
    if shared.unfinished.contains(&id) {
        shared.end_request(&id);
        // Its hold is still to be ended: a second life under the same name would be ended with it.
        return Err(RefusalCode::Replayed.into());
    }
    let relay = Relay::new(shared, request, place, client, room);
    tokio::spawn(relay.run());
    Ok(())
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
    /// Its connection is gone.
    gone: bool,
    /// It had no room after all.
    declined: bool,
    seen: Moments,
}

/// When what came, for how fast this provider is.
#[derive(Default)]
struct Moments {
    round_trip: Option<Duration>,
    accepted: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    tokens: TokenCount,
}

impl Moments {
    fn content(&mut self, tokens: TokenCount) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        (self.last, self.tokens) = (Some(now), tokens);
    }

    /// What was seen of an answer to a prompt of at most so many tokens.
    fn seen(&self, input: TokenCount) -> Option<Seen> {
        let (accepted, first, last) = (self.accepted?, self.first?, self.last?);
        Some(Seen {
            round_trip: millis(self.round_trip?),
            first_content: millis(first.duration_since(accepted)),
            stream: millis(last.duration_since(first)),
            input,
            output: self.tokens,
        })
    }
}

/// At least one.
fn millis(time: Duration) -> Millis {
    Millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1))
}

impl Drop for Current {
    fn drop(&mut self) {
        self.connection.close_stream(self.stream.id);
        // Nobody reads these frames any more, but a receipt among them must not stay unanswered.
        while let Ok(frame) = self.stream.frames.try_recv() {
            if let StreamFrame::Final(frame) = frame {
                self.connection.review(frame.receipt);
            }
        }
    }
}

/// A row that the router gave this request, until it is given back.
#[derive(Clone, Copy)]
struct Reserved {
    provider: ProviderId,
    connection: ConnectionId,
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
    hold: HoldLife,
    reserved: Option<Reserved>,
    current: Option<Current>,
    clocks: Clocks,
    receipt: Option<KeptReceipt>,
    answered_by: Option<ProviderId>,
    bill: Option<Vec<u8>>,
    sealed_refusal: Option<Vec<u8>>,
    /// When it began, until its first content was relayed.
    began: Option<Instant>,
    /// How it ended, for who counts.
    outcome: Option<&'static str>,
    /// Tokens that were charged; what else was taken of the rates is given back.
    used: u32,
    /// Whose acceptance was written down.
    noted: Option<ProviderId>,
    client_gone: bool,
    /// Among the requests of its account; given back when everything else of the request is.
    _place: Place,
}

impl Drop for Relay {
    /// Whatever ends the task, a panic included, nothing of the request stays behind.
    fn drop(&mut self) {
        let request = self.request.header.request;
        self.leave_queue();
        self.release(Released::Unused);
        self.abandon_hold();
        self.shared.metrics.ended(self.outcome.unwrap_or("cancelled"));
        let unused = self.request.tokens().saturating_sub(self.used);
        self.shared.rates.give_back(&self.request.limits(&self.shared), Kind::Tokens, unused);
        self.shared.end_request(&request);
    }
}

impl Relay {
    fn new(
        shared: Arc<Shared>,
        request: Request,
        place: Place,
        client: mpsc::Sender<Bytes>,
        room: Arc<Notify>,
    ) -> Self {
        let terms = RelayTerms { output_ceiling: request.header.output_ceiling };
        let (session, actions) = RelaySession::begin(terms, shared.mono());
        Self {
            shared,
            request,
            client,
            session,
            actions: actions.into(),
            room,
            hold: HoldLife::default(),
            reserved: None,
            current: None,
            clocks: Clocks::default(),
            receipt: None,
            answered_by: None,
            bill: None,
            sealed_refusal: None,
            began: Some(Instant::now()),
            outcome: None,
            used: 0,
            noted: None,
            client_gone: false,
            _place: place,
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
            let sleep = Duration::from_millis(wake_at.since(self.shared.mono()).0);
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
        self.actions.extend(self.session.handle(event, self.shared.mono()));
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
        if !matches!(tokio::time::timeout(CONSUMER_WAIT, self.client.send(bytes)).await, Ok(Ok(()))) {
            self.client_left();
        }
    }

    /// Turns a provider's frame into an event.
    fn provider_frame(&mut self, frame: Option<StreamFrame>) {
        let Some(current) = self.current.as_mut() else { return };
        let event = match frame {
            None => {
                current.gone = true;
                RelayEvent::ProviderGone
            }
            Some(StreamFrame::Accepted(frame)) => {
                // Only until the offer was on its way: from its acceptance on the provider counts, on its own clock.
                let taken = current.stream.taken.get().copied();
                if let Some((at, taken)) = self.clocks.offered_at.take().zip(taken) {
                    self.clocks.dispatch += taken.saturating_duration_since(at);
                    current.seen.round_trip = Some(taken.elapsed());
                }
                self.shared.metrics.attempted("accepted");
                current.seen.accepted = Some(Instant::now());
                accepted(current, &self.request, &frame)
            }
            Some(StreamFrame::Refused(frame)) => {
                self.clocks.dispatch += self.clocks.offered_at.take().map(|at| at.elapsed()).unwrap_or_default();
                self.sealed_refusal = words(&frame, self.session.phase());
                current.declined = said(&frame).is_some_and(wants_room) && current.transcript.is_none();
                let refusal = refusal_of(frame);
                self.shared.metrics.attempted(refusal.code.name());
                RelayEvent::Refused(refusal)
            }
            Some(StreamFrame::Data(frame)) => {
                current.seen.content(frame.tokens);
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
            Some(StreamFrame::Final(frame)) => {
                let connection = Arc::clone(&current.connection);
                match self.check(&frame) {
                    Some(receipt) => {
                        let output = receipt.output_tokens;
                        self.receipt = Some(KeptReceipt::new(frame.receipt, receipt, connection));
                        RelayEvent::Receipt { output }
                    }
                    None => {
                        connection.review(frame.receipt);
                        RelayEvent::BadReceipt
                    }
                }
            }
            Some(StreamFrame::CancelAck) => RelayEvent::CancelAcknowledged,
        };
        let overflowed = self.current.as_ref().is_some_and(|current| current.stream.overflowed.load(Ordering::Acquire));
        if overflowed && !self.client_gone {
            let cut = self.session.consumer_behind(self.shared.mono());
            if !cut.is_empty() {
                tracing::info!(request = %self.request.header.request, "a consumer did not keep up and is cut off");
            }
            self.actions.extend(cut);
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
            // The machine knows whether the end was relayed, and compares.
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
                self.waited();
                self.leave_queue();
                None
            }
            RelayAction::Offer(provider, attempt) => self.offer(provider, attempt),
            RelayAction::Release(_, released) => {
                self.release(released);
                None
            }
            RelayAction::Doubt(provider) => {
                let now = self.shared.mono();
                self.shared.with_registry(|registry| registry.doubt(&provider, now));
                None
            }
            RelayAction::CalledWrong => {
                self.shared.called_wrong(self.request.account);
                None
            }
            RelayAction::RelayAccepted => {
                let frame = self.accepted_frame()?;
                self.send(frame).await;
                None
            }
            RelayAction::RelayData => {
                // Content follows: words that stand for a refusal say nothing of this answer.
                self.sealed_refusal = None;
                let data = self.current.as_mut()?.last_data.take()?;
                // Nothing is owed for an answer without a token: no receipt shall settle it later.
                if data.tokens.0 > 0 {
                    self.note_acceptance();
                }
                let Data { sequence, tokens, end, ciphertext, .. } = data;
                if let Some(began) = self.began.take() {
                    self.shared.metrics.first_content.observe(began.elapsed().as_secs_f64());
                }
                self.shared.metrics.relayed();
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
                self.send_final().await;
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

    fn route(&mut self) -> RelayEvent {
        self.waited();
        let began = Instant::now();
        let recipients: Vec<_> = self.request.submit.wraps.0.iter().map(|wrap| (wrap.provider, wrap.epoch)).collect();
        let tried: Vec<_> = self.session.attempts().iter().map(|attempt| attempt.provider).collect();
        let request = RouteRequest {
            request: self.request.header.request,
            model: self.request.header.model,
            tier_min: self.request.tier_min(self.shared.tier_min),
            recipients: &recipients,
            tried: &tried,
            account: self.request.account,
            affinity: self.request.header.affinity,
            input: self.request.header.input_ceiling,
            output: self.request.header.output_ceiling,
        };
        let (now, wall) = (self.shared.mono(), clock::now());
        let routed = self.shared.with_registry(|registry| {
            // Reserved on the connection that it has at this moment.
            registry.route(&request, now, wall).map(|provider| (provider, registry.connection_of(&provider)))
        });
        let took = began.elapsed();
        self.shared.metrics.route.observe(took.as_secs_f64());
        self.clocks.route += took;
        match routed {
            Ok((provider, connection)) => {
                self.reserved = connection.map(|connection| Reserved { provider, connection });
                RelayEvent::Routed(provider)
            }
            Err(RouteError::Loading) => RelayEvent::NotRouted(RouteFailure::Loading),
            Err(RouteError::Queued) => RelayEvent::NotRouted(RouteFailure::Busy),
            Err(RouteError::QueueFull | RouteError::WaitTooLong | RouteError::NoMemory) => {
                RelayEvent::NotRouted(RouteFailure::QueueFull)
            }
            Err(error @ RouteError::OthersCould) => RelayEvent::NotRouted(RouteFailure::OthersCould(error.code())),
            Err(error @ RouteError::Nobody) => RelayEvent::NotRouted(RouteFailure::Nobody(error.code())),
        }
    }

    fn offer(&mut self, provider: ProviderId, attempt: AttemptNumber) -> Option<RelayEvent> {
        self.clocks.offered_at = Some(Instant::now());
        // They are about an attempt before this one.
        self.sealed_refusal = None;
        let connection = self.reserved.and_then(|reserved| self.shared.connection(&reserved.connection));
        let wrap: Option<Wrap> = self.request.submit.wraps.0.iter().find(|wrap| wrap.provider == provider).cloned();
        let (Some(connection), Some(wrap)) = (connection, wrap) else {
            // The connection is closing: that is no failure of a request that it never saw.
            self.release(Released::Unused);
            return Some(RelayEvent::ProviderGone);
        };
        let scope = self.shared.scope(self.request.account, &provider);
        let offered = connection.offer(|stream| Offer {
            stream,
            attempt,
            header: self.request.submit.header.clone(),
            body: self.request.submit.body.clone(),
            wrap: wrap.clone(),
            scope,
        });
        let stream = match offered {
            Ok(stream) => stream,
            Err(error) => {
                if error == OfferError::Closed {
                    self.release(Released::Unused);
                }
                return Some(RelayEvent::ProviderGone);
            }
        };
        self.current = Some(Current {
            provider,
            epoch: wrap.epoch,
            attempt,
            connection,
            stream,
            transcript: None,
            salt: [0; 32],
            last_data: None,
            gone: false,
            declined: false,
            seen: Moments::default(),
        });
        None
    }

    fn release(&mut self, released: Released) {
        // Where no offer could be queued the provider does not read, and its connection is closed.
        let (mut gone, mut declined, mut seen) = (true, false, None);
        if let Some(current) = self.current.take() {
            self.answered_by = Some(current.provider);
            (gone, declined) = (current.gone, current.declined);
            seen = current.seen.seen(self.request.header.input_ceiling);
        }
        let Some(Reserved { provider, connection }) = self.reserved.take() else { return };
        let outcome = match released {
            Released::Served => Outcome::Served(seen),
            Released::Failed if gone => Outcome::Failed(Fault::Broken),
            Released::Failed => Outcome::Failed(self.fault()),
            Released::Unused if declined => Outcome::Declined,
            Released::Unused => Outcome::Unused,
        };
        let row = Row { provider, connection, model: self.request.header.model, request: self.request.header.request };
        let (now, wall) = (self.shared.mono(), clock::now());
        self.shared.with_registry(|registry| registry.release(&row, outcome, now, wall));
    }

    /// What the provider did whose connection still stands.
    fn fault(&self) -> Fault {
        let last = self.session.attempts().last().and_then(|attempt| RefusalCode::from_number(attempt.outcome));
        match last {
            Some(RefusalCode::Timeout) => Fault::Silence,
            Some(RefusalCode::VerificationFailed) => Fault::Lie,
            _ => Fault::Error,
        }
    }

    /// A wait in the queue is over.
    fn waited(&mut self) {
        let Some(at) = self.clocks.queued_at.take() else { return };
        let took = at.elapsed();
        self.shared.metrics.queue.observe(took.as_secs_f64());
        self.clocks.queue += took;
    }

    fn leave_queue(&self) {
        let (model, request) = (self.request.header.model, self.request.header.request);
        let (now, wall) = (self.shared.mono(), clock::now());
        self.shared.with_registry(|registry| registry.leave_queue(&model, &request, now, wall));
    }

    /// At the first token: writes down whose answer it is, beside the answer itself. After a crash no other provider's
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

    async fn refuse(&mut self, refusal: Refusal) {
        tracing::info!(request = %self.request.header.request, reason = %refusal.code, "request refused");
        self.outcome = Some(refusal.code.name());
        let (model, account, now) = (self.request.header.model, self.request.account, self.shared.mono());
        let told = |registry: &mut Registry| registry.refused(account, &model, now);
        let retry_after = wants_room(refusal.code).then(|| self.shared.with_registry(told));
        // A final reason under the seal contradicts any other in clear; where the last who was asked gave one, and the request
        // ends for another, it says nothing of this end.
        let last = self.session.attempts().last().and_then(|attempt| RefusalCode::from_number(attempt.outcome));
        let fits = last.is_none_or(|last| last == refusal.code || last.class() != RefusalClass::Final);
        let frame = RelayedRefused {
            code: refusal.code.number(),
            detail: refusal.detail,
            retry_after,
            sealed: self.sealed_refusal.take().filter(|_| fits),
            attempts: self.session.attempts().to_vec().into(),
            bill: self.bill.take(),
            timing: Some(self.timing()),
        };
        self.send(frame).await;
    }
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

/// Whether a refusal says that there is no room now.
fn wants_room(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::NoCapacity | RefusalCode::Overloaded)
}

/// A provider's refusal; one that is not its to say counts as its failure.
fn refusal_of(frame: Refused) -> Refusal {
    match said(&frame) {
        Some(code) => Refusal::new(code, frame.detail),
        None => RefusalCode::ProviderLost.into(),
    }
}

/// The reason that a provider gives, if it is one that a provider may give.
fn said(frame: &Refused) -> Option<RefusalCode> {
    RefusalCode::from_number(frame.code).filter(|code| code.providers_may_say())
}

/// What a provider sealed about its refusal, for the consumer alone, where it belongs to the refusal of this attempt.
fn words(frame: &Refused, phase: RelayPhase) -> Option<Vec<u8>> {
    let ends = matches!(phase, RelayPhase::Offered | RelayPhase::Accepted | RelayPhase::Streaming | RelayPhase::Ending);
    said(frame).filter(|_| ends).and(frame.sealed.clone())
}

#[cfg(test)]
mod tests;
