//! The coordinator's view: hold, route, offer, relay, settle.

use darkbloom_types::{AttemptNumber, Millis, ProviderId, Refusal, RefusalClass, RefusalCode, TokenCount, UnixMillis};
use darkbloom_wire::{AttemptRecord, limits};

/// How long each step may take.
pub mod waits {
    use darkbloom_types::Millis;

    /// From offer to acceptance or refusal: opening takes a millisecond, admission waits for a row at most this long.
    pub const ACCEPT: Millis = Millis::from_secs(15);
    /// From acceptance to the first content: the prefill of a long prompt on a slow machine.
    pub const FIRST_CONTENT: Millis = Millis::from_minutes(3);
    /// Between two frames.
    pub const IDLE: Millis = Millis::from_secs(60);
    /// From the last content frame to the receipt.
    pub const RECEIPT: Millis = Millis::from_secs(10);
    /// From a cancel to its acknowledgement: one engine step, and the network.
    pub const CANCEL: Millis = Millis::from_secs(10);
    /// In the queue for room.
    pub const QUEUE: Millis = Millis::from_secs(20);
    /// A request in all.
    pub const TOTAL: Millis = Millis::from_minutes(30);
}

/// Frames of one answer that may carry text without a new token: the text of a long token that its own frame had no room
/// for. A provider that sends more of them fills memories that nobody pays for.
const EMPTY_FRAMES_MAX: u32 = 64;

/// What the machine must know of a request.
#[derive(Debug, Clone, Copy)]
pub struct RelayTerms {
    /// Most output tokens; a provider that counts further has failed.
    pub output_ceiling: TokenCount,
}

/// Why there is no provider to offer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteFailure {
    /// Providers of this request exist and are busy: wait.
    Busy,
    /// The queue is full.
    QueueFull,
    /// None of the recipients can take it any more; others, or newer epochs of the same, could.
    OthersCould(RefusalCode),
    /// Nobody could.
    Nobody(RefusalCode),
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEvent {
    /// The hold is durable.
    HoldPlaced,
    /// There will be no hold.
    HoldRefused(Refusal),
    /// The router chose a provider and reserved its row.
    Routed(ProviderId),
    /// The router found none.
    NotRouted(RouteFailure),
    /// There may be room now.
    Wake,
    /// The provider accepted.
    Accepted,
    /// The provider refused, or ended what it had accepted.
    Refused(Refusal),
    /// A piece of the answer came.
    Data {
        /// Its number.
        sequence: u32,
        /// Output tokens so far.
        tokens: TokenCount,
        /// Whether it is the last.
        end: bool,
    },
    /// The receipt came, and checked out.
    Receipt,
    /// A receipt came that does not check out.
    BadReceipt,
    /// The provider's connection is gone.
    ProviderGone,
    /// The consumer is gone.
    ConsumerGone,
    /// The provider acknowledged the cancel.
    CancelAcknowledged,
    /// Ledger and bill are done.
    Settled,
    /// Time passed.
    Tick,
}

/// What was delivered, for the settlement rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Whether a frame with content reached the consumer's side.
    pub content_relayed: bool,
    /// The last token count that did.
    pub tokens_relayed: TokenCount,
    /// Whether a checked receipt is at hand.
    pub receipt: bool,
}

/// What a row's release says about its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// It delivered its receipt.
    Served,
    /// It failed.
    Failed,
    /// It refused by the rules, or was cancelled: that says nothing.
    Unused,
}

/// What to do now, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayAction {
    /// Ask the ledger for the hold.
    PlaceHold,
    /// Ask the router for a provider other than those tried.
    Route,
    /// Wait in the router's queue for a [`RelayEvent::Wake`].
    Queue,
    /// Leave the router's queue.
    LeaveQueue,
    /// Send the offer.
    Offer(ProviderId, AttemptNumber),
    /// This provider's row is free again.
    Release(ProviderId, Released),
    /// Tell the client who answers.
    RelayAccepted,
    /// Pass the frame on.
    RelayData,
    /// Tell the provider to stop.
    Cancel,
    /// Settle the hold for what was delivered.
    Settle(Delivered),
    /// Give the hold back.
    Void(RefusalCode),
    /// Tell the client: settled, with receipt and bill.
    RelayFinal,
    /// Tell the client: refused.
    Refuse(Refusal),
    /// Tell the client: seal again. The hold stays for the next sealing to take over.
    Reseal(RefusalCode),
    /// The machine is done.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Holding,
    Routing,
    Queued,
    Offered,
    Accepted,
    Streaming,
    Ending,
    /// Cancelled; the provider has still to say that its row is free.
    Cancelling,
    Settling,
    Over,
}

/// The machine of one sealed request at the coordinator.
#[derive(Debug)]
pub struct RelaySession {
    terms: RelayTerms,
    state: State,
    deadline: UnixMillis,
    total_deadline: UnixMillis,
    provider: Option<ProviderId>,
    attempts: Vec<AttemptRecord>,
    tokens: TokenCount,
    next_sequence: u32,
    /// Frames that carried no new token.
    empty_frames: u32,
    /// When the queue is given up, counted from the first time in it.
    queue_until: Option<UnixMillis>,
    content: bool,
    consumer_gone: bool,
    cut: Option<Refusal>,
    receipt: bool,
}

impl RelaySession {
    /// A machine for a request that was authenticated and read; its first action is the hold.
    #[must_use]
    pub fn begin(terms: RelayTerms, now: UnixMillis) -> (Self, Vec<RelayAction>) {
        let session = Self {
            terms,
            state: State::Holding,
            deadline: now.after(waits::TOTAL),
            total_deadline: now.after(waits::TOTAL),
            provider: None,
            attempts: Vec::new(),
            tokens: TokenCount(0),
            next_sequence: 0,
            empty_frames: 0,
            queue_until: None,
            content: false,
            consumer_gone: false,
            cut: None,
            receipt: false,
        };
        (session, vec![RelayAction::PlaceHold])
    }

    /// The attempts so far, for the answer's metadata and for the router.
    #[must_use]
    pub fn attempts(&self) -> &[AttemptRecord] {
        &self.attempts
    }

    /// When [`RelayEvent::Tick`] is due; none once the machine is over.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMillis> {
        (self.state != State::Over).then(|| self.deadline.min(self.total_deadline))
    }

    /// Whether the machine is done.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes an event in. An event that does not belong to the present state changes nothing: it was overtaken.
    pub fn handle(&mut self, event: RelayEvent, now: UnixMillis) -> Vec<RelayAction> {
        match event {
            RelayEvent::HoldPlaced => self.hold_placed(now),
            RelayEvent::HoldRefused(refusal) => self.hold_refused(refusal),
            RelayEvent::Routed(provider) => self.routed(provider, now),
            RelayEvent::NotRouted(failure) => self.not_routed(failure, now),
            RelayEvent::Wake if self.state == State::Queued => {
                self.state = State::Routing;
                vec![RelayAction::Route]
            }
            RelayEvent::Wake => Vec::new(),
            RelayEvent::Accepted => self.accepted(now),
            RelayEvent::Refused(refusal) => self.refused(refusal, now),
            RelayEvent::Data { sequence, tokens, end } => self.data(sequence, tokens, end, now),
            RelayEvent::Receipt => self.receipt(now),
            RelayEvent::BadReceipt => self.lost(RefusalCode::VerificationFailed, now),
            RelayEvent::ProviderGone => self.lost(RefusalCode::ProviderLost, now),
            RelayEvent::ConsumerGone => self.consumer_gone(now),
            RelayEvent::CancelAcknowledged => self.cancel_acknowledged(now),
            RelayEvent::Settled => self.settled(),
            RelayEvent::Tick => self.tick(now),
        }
    }

    fn hold_placed(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        if self.state != State::Holding {
            return Vec::new();
        }
        if self.consumer_gone {
            self.state = State::Over;
            return vec![RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish];
        }
        self.enter(State::Routing, waits::TOTAL, now);
        vec![RelayAction::Route]
    }

    fn hold_refused(&mut self, refusal: Refusal) -> Vec<RelayAction> {
        if self.state != State::Holding {
            return Vec::new();
        }
        self.state = State::Over;
        vec![RelayAction::Refuse(refusal), RelayAction::Finish]
    }

    fn routed(&mut self, provider: ProviderId, now: UnixMillis) -> Vec<RelayAction> {
        if self.state != State::Routing {
            // The reservation came too late to be used.
            return vec![RelayAction::Release(provider, Released::Unused)];
        }
        self.provider = Some(provider);
        self.enter(State::Offered, waits::ACCEPT, now);
        vec![RelayAction::Offer(provider, self.attempt_number())]
    }

    fn attempt_number(&self) -> AttemptNumber {
        AttemptNumber(u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn not_routed(&mut self, failure: RouteFailure, now: UnixMillis) -> Vec<RelayAction> {
        if self.state != State::Routing {
            return Vec::new();
        }
        match failure {
            RouteFailure::Busy => {
                self.enter(State::Queued, waits::QUEUE, now);
                // Being woken and finding no room does not start the wait anew.
                self.deadline = *self.queue_until.get_or_insert(self.deadline);
                vec![RelayAction::Queue]
            }
            RouteFailure::QueueFull => self.give_up(RefusalCode::NoCapacity.into()),
            RouteFailure::OthersCould(code) => {
                self.state = State::Over;
                vec![RelayAction::Reseal(self.last_refusal().unwrap_or(code)), RelayAction::Finish]
            }
            RouteFailure::Nobody(code) => {
                let code = self.last_refusal().unwrap_or(code);
                self.give_up(code.into())
            }
        }
    }

    fn last_refusal(&self) -> Option<RefusalCode> {
        self.attempts.last().and_then(|attempt| RefusalCode::from_number(attempt.outcome))
    }

    fn accepted(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        let (State::Offered, Some(provider)) = (self.state, self.provider) else { return Vec::new() };
        self.attempts.push(AttemptRecord { provider, outcome: 0 });
        self.enter(State::Accepted, waits::FIRST_CONTENT, now);
        vec![RelayAction::RelayAccepted]
    }

    fn refused(&mut self, refusal: Refusal, now: UnixMillis) -> Vec<RelayAction> {
        match self.state {
            State::Offered => self.next_attempt(refusal, false, now),
            State::Accepted => {
                self.attempts.pop();
                self.next_attempt(refusal, true, now)
            }
            State::Streaming | State::Ending => self.lost(RefusalCode::AnswerCut, now),
            State::Cancelling => self.cancel_acknowledged(now),
            State::Holding | State::Routing | State::Queued | State::Settling | State::Over => Vec::new(),
        }
    }

    /// Goes on with another provider, if the reason and the number of attempts allow it.
    fn next_attempt(&mut self, refusal: Refusal, at_fault: bool, now: UnixMillis) -> Vec<RelayAction> {
        let Some(provider) = self.provider.take() else { return Vec::new() };
        self.attempts.push(AttemptRecord { provider, outcome: refusal.code.number() });
        self.next_sequence = 0;
        let released = if at_fault { Released::Failed } else { Released::Unused };
        let mut actions = vec![RelayAction::Release(provider, released)];
        if refusal.code.class() == RefusalClass::Final || self.attempts.len() >= limits::ATTEMPTS_MAX as usize {
            actions.extend(self.give_up(refusal));
        } else {
            self.enter(State::Routing, waits::TOTAL, now);
            actions.push(RelayAction::Route);
        }
        actions
    }

    fn give_up(&mut self, refusal: Refusal) -> Vec<RelayAction> {
        self.state = State::Over;
        vec![RelayAction::Void(refusal.code), RelayAction::Refuse(refusal), RelayAction::Finish]
    }

    fn data(&mut self, sequence: u32, tokens: TokenCount, end: bool, now: UnixMillis) -> Vec<RelayAction> {
        if !matches!(self.state, State::Accepted | State::Streaming) {
            return Vec::new();
        }
        if sequence != self.next_sequence || tokens < self.tokens || tokens > self.terms.output_ceiling {
            return self.lost(RefusalCode::VerificationFailed, now);
        }
        if tokens == self.tokens && !end {
            self.empty_frames += 1;
            if self.empty_frames > EMPTY_FRAMES_MAX {
                return self.lost(RefusalCode::VerificationFailed, now);
            }
        }
        self.next_sequence += 1;
        self.tokens = tokens;
        self.content = true;
        if end {
            self.enter(State::Ending, waits::RECEIPT, now);
        } else {
            self.enter(State::Streaming, waits::IDLE, now);
        }
        vec![RelayAction::RelayData]
    }

    fn receipt(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        if !matches!(self.state, State::Ending | State::Cancelling) {
            return Vec::new();
        }
        self.receipt = true;
        self.settle(false, now)
    }

    fn settle(&mut self, at_fault: bool, now: UnixMillis) -> Vec<RelayAction> {
        let mut actions = Vec::new();
        if let Some(provider) = self.provider.take() {
            let released = match (at_fault, self.receipt) {
                (true, _) => Released::Failed,
                (false, true) => Released::Served,
                (false, false) => Released::Unused,
            };
            actions.push(RelayAction::Release(provider, released));
        }
        if self.content {
            self.enter(State::Settling, waits::TOTAL, now);
            // An acceptance that ends without a token delivered nothing: not even the prompt is paid for.
            let content_relayed = self.tokens.0 > 0;
            let delivered = Delivered { content_relayed, tokens_relayed: self.tokens, receipt: self.receipt };
            actions.push(RelayAction::Settle(delivered));
        } else {
            self.state = State::Over;
            actions.extend([RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]);
        }
        actions
    }

    /// The provider failed: before content another may do it, after content the answer is cut.
    fn lost(&mut self, code: RefusalCode, now: UnixMillis) -> Vec<RelayAction> {
        // A lie is final for the client, but before content another provider may tell the truth.
        let elsewhere = if code.class() == RefusalClass::Final { RefusalCode::ProviderLost } else { code };
        match self.state {
            State::Offered => self.next_attempt(elsewhere.into(), true, now),
            State::Accepted => {
                self.attempts.pop();
                let mut actions = vec![RelayAction::Cancel];
                actions.extend(self.next_attempt(elsewhere.into(), true, now));
                actions
            }
            State::Streaming | State::Ending => {
                let complete = self.state == State::Ending;
                let code = if code == RefusalCode::VerificationFailed { code } else { RefusalCode::AnswerCut };
                self.cut = Some(if complete {
                    Refusal::new(code, "the answer is whole, its receipt did not come or does not verify")
                } else {
                    code.into()
                });
                let mut actions = vec![RelayAction::Cancel];
                actions.extend(self.settle(true, now));
                actions
            }
            State::Cancelling => self.settle(false, now),
            State::Holding | State::Routing | State::Queued | State::Settling | State::Over => Vec::new(),
        }
    }

    fn consumer_gone(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        self.consumer_gone = true;
        match self.state {
            // The ledger's answer is on its way; the hold is given back when it comes.
            State::Holding | State::Settling | State::Over | State::Cancelling => Vec::new(),
            State::Queued => {
                self.state = State::Over;
                vec![RelayAction::LeaveQueue, RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]
            }
            State::Routing => {
                self.state = State::Over;
                vec![RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]
            }
            State::Offered | State::Accepted | State::Streaming => {
                self.enter(State::Cancelling, waits::CANCEL, now);
                vec![RelayAction::Cancel]
            }
            // Everything was relayed: the receipt settles it.
            State::Ending => Vec::new(),
        }
    }

    fn cancel_acknowledged(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        if self.state == State::Cancelling { self.settle(false, now) } else { Vec::new() }
    }

    fn settled(&mut self) -> Vec<RelayAction> {
        if self.state != State::Settling {
            return Vec::new();
        }
        self.state = State::Over;
        let last = match self.cut.take() {
            Some(refusal) => RelayAction::Refuse(refusal),
            None => RelayAction::RelayFinal,
        };
        vec![last, RelayAction::Finish]
    }

    fn tick(&mut self, now: UnixMillis) -> Vec<RelayAction> {
        if now < self.deadline.min(self.total_deadline) {
            return Vec::new();
        }
        match self.state {
            State::Queued => {
                let mut actions = vec![RelayAction::LeaveQueue];
                actions.extend(self.give_up(RefusalCode::NoCapacity.into()));
                actions
            }
            State::Offered | State::Accepted => {
                let mut actions = vec![RelayAction::Cancel];
                if self.state == State::Accepted {
                    self.attempts.pop();
                }
                actions.extend(self.next_attempt(RefusalCode::Timeout.into(), true, now));
                actions
            }
            State::Streaming | State::Ending => self.lost(RefusalCode::Timeout, now),
            State::Cancelling => self.settle(true, now),
            State::Routing => self.give_up(RefusalCode::Timeout.into()),
            // The ledger answers or the process ends; there is nothing else to wait for.
            State::Holding | State::Settling => {
                self.deadline = now.after(waits::TOTAL);
                self.total_deadline = self.deadline;
                Vec::new()
            }
            State::Over => Vec::new(),
        }
    }

    fn enter(&mut self, state: State, wait: Millis, now: UnixMillis) {
        self.state = state;
        self.deadline = now.after(wait);
    }
}

#[cfg(test)]
mod tests;
