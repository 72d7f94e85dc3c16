//! The coordinator's view: hold, route, offer, relay, settle.

use darkbloom_types::{AttemptNumber, Millis, MonoMillis, ProviderId, Refusal, RefusalClass, RefusalCode, TokenCount};
use darkbloom_wire::{AttemptRecord, limits};

/// How long each step may take.
pub mod waits {
    use darkbloom_types::Millis;
    use darkbloom_wire::limits;

    /// From offer to acceptance or refusal: opening takes a millisecond, admission waits for a row at most this long.
    pub const ACCEPT: Millis = Millis::from_secs(15);
    /// From acceptance to the first content: the prefill of a long prompt on a slow machine.
    pub const FIRST_CONTENT: Millis = Millis::from_minutes(3);
    /// Between two frames.
    pub const IDLE: Millis = Millis::from_secs(60);
    /// From the last content frame to the receipt.
    pub const RECEIPT: Millis = Millis::from_secs(10);
    /// From a cancel to its acknowledgement: what the provider may wait for its row, which is nobody's fault, and then as
    /// long as any receipt may take.
    pub const CANCEL: Millis = Millis(limits::ROW_FREE_WAIT.0 + RECEIPT.0);
    /// In the queue for room.
    pub const QUEUE: Millis = Millis::from_secs(20);
    /// In the queue in all, where a provider loads the model: as long as that may take, and as long as for room.
    pub const LOADING: Millis = Millis(limits::LOAD_WAIT.0 + QUEUE.0);
    /// A request in all, but for the wait for a cancel.
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
    /// One of them loads the model: wait longer.
    Loading,
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
    /// The receipt came, and checked out, but for its count of output tokens: that is compared here.
    Receipt {
        /// Output tokens that the provider signed.
        output: TokenCount,
    },
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
    /// This provider called the request wrong, and another has answered it: others are better asked first for a while.
    Doubt(ProviderId),
    /// The request was called wrong, and nobody has said otherwise: that is its account's affair.
    CalledWrong,
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

/// Where a request stands at the coordinator, as in the diagram of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayPhase {
    /// The ledger is asked for the hold.
    Holding,
    /// The router is asked for a provider.
    Routing,
    /// It waits for room.
    Queued,
    /// A provider has the offer and has not answered.
    Offered,
    /// A provider accepted; no content came yet.
    Accepted,
    /// Content flows.
    Streaming,
    /// The last content was relayed; the receipt is still to come.
    Ending,
    /// Cancelled; the provider has still to say that its row is free.
    Cancelling,
    /// The ledger settles.
    Settling,
    /// Nothing more happens.
    Over,
}

impl RelayPhase {
    /// Every phase, in the order of a request's life.
    pub const ALL: [Self; 10] = [
        Self::Holding,
        Self::Routing,
        Self::Queued,
        Self::Offered,
        Self::Accepted,
        Self::Streaming,
        Self::Ending,
        Self::Cancelling,
        Self::Settling,
        Self::Over,
    ];
}

/// The machine of one sealed request at the coordinator.
#[derive(Debug)]
pub struct RelaySession {
    terms: RelayTerms,
    phase: RelayPhase,
    deadline: MonoMillis,
    total_deadline: MonoMillis,
    provider: Option<ProviderId>,
    attempts: Vec<AttemptRecord>,
    tokens: TokenCount,
    next_sequence: u32,
    /// Frames that carried no new token.
    empty_frames: u32,
    /// When it was queued first, and when the queue is given up.
    queued: Option<(MonoMillis, MonoMillis)>,
    content: bool,
    consumer_gone: bool,
    cut: Option<Refusal>,
    receipt: bool,
    /// Who called the request wrong for everybody, and how, until another answers it.
    doubt: Option<(ProviderId, Refusal)>,
}

impl RelaySession {
    /// A machine for a request that was authenticated and read; its first action is the hold.
    #[must_use]
    pub fn begin(terms: RelayTerms, now: MonoMillis) -> (Self, Vec<RelayAction>) {
        let session = Self {
            terms,
            phase: RelayPhase::Holding,
            deadline: now.after(waits::TOTAL),
            total_deadline: now.after(waits::TOTAL),
            provider: None,
            attempts: Vec::new(),
            tokens: TokenCount(0),
            next_sequence: 0,
            empty_frames: 0,
            queued: None,
            content: false,
            consumer_gone: false,
            cut: None,
            receipt: false,
            doubt: None,
        };
        (session, vec![RelayAction::PlaceHold])
    }

    /// The attempts so far, for the answer's metadata and for the router.
    #[must_use]
    pub fn attempts(&self) -> &[AttemptRecord] {
        &self.attempts
    }

    /// Where the request stands.
    #[must_use]
    pub fn phase(&self) -> RelayPhase {
        self.phase
    }

    /// When [`RelayEvent::Tick`] is due; none once the machine is over.
    #[must_use]
    pub fn wake_at(&self) -> Option<MonoMillis> {
        (self.phase != RelayPhase::Over).then(|| self.due())
    }

    fn due(&self) -> MonoMillis {
        match self.phase {
            // A provider that is told to stop late in a long request has as much time for it as any other.
            RelayPhase::Cancelling => self.deadline,
            RelayPhase::Holding
            | RelayPhase::Routing
            | RelayPhase::Queued
            | RelayPhase::Offered
            | RelayPhase::Accepted
            | RelayPhase::Streaming
            | RelayPhase::Ending
            | RelayPhase::Settling
            | RelayPhase::Over => self.deadline.min(self.total_deadline),
        }
    }

    /// Whether the machine is done.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == RelayPhase::Over
    }

    /// Takes an event in. An event that does not belong to the present state changes nothing: it was overtaken.
    pub fn handle(&mut self, event: RelayEvent, now: MonoMillis) -> Vec<RelayAction> {
        let was_over = self.is_over();
        // A provider that was told to stop may have opened the request before: that counts as much.
        let too_late = matches!(&event, RelayEvent::Refused(refusal)
            if self.phase == RelayPhase::Cancelling && is_final(refusal.code));
        let mut actions = self.step(event, now);
        let wrong = too_late || self.last_refusal().is_some_and(is_final);
        if wrong && self.is_over() && !was_over {
            actions.insert(0, RelayAction::CalledWrong);
        }
        actions
    }

    fn step(&mut self, event: RelayEvent, now: MonoMillis) -> Vec<RelayAction> {
        match event {
            RelayEvent::HoldPlaced => self.hold_placed(now),
            RelayEvent::HoldRefused(refusal) => self.hold_refused(refusal),
            RelayEvent::Routed(provider) => self.routed(provider, now),
            RelayEvent::NotRouted(failure) => self.not_routed(failure, now),
            RelayEvent::Wake if self.phase == RelayPhase::Queued => {
                self.phase = RelayPhase::Routing;
                vec![RelayAction::Route]
            }
            RelayEvent::Wake => Vec::new(),
            RelayEvent::Accepted => self.accepted(now),
            RelayEvent::Refused(refusal) => self.refused(refusal, now),
            RelayEvent::Data { sequence, tokens, end } => self.data(sequence, tokens, end, now),
            RelayEvent::Receipt { output } => self.receipt(output, now),
            RelayEvent::BadReceipt => self.lost(RefusalCode::VerificationFailed, now),
            RelayEvent::ProviderGone => self.lost(RefusalCode::ProviderLost, now),
            RelayEvent::ConsumerGone => self.consumer_gone(now),
            RelayEvent::CancelAcknowledged => self.cancel_acknowledged(now),
            RelayEvent::Settled => self.settled(),
            RelayEvent::Tick => self.tick(now),
        }
    }

    fn hold_placed(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        if self.phase != RelayPhase::Holding {
            return Vec::new();
        }
        if self.consumer_gone {
            self.phase = RelayPhase::Over;
            return vec![RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish];
        }
        self.enter(RelayPhase::Routing, waits::TOTAL, now);
        vec![RelayAction::Route]
    }

    fn hold_refused(&mut self, refusal: Refusal) -> Vec<RelayAction> {
        if self.phase != RelayPhase::Holding {
            return Vec::new();
        }
        self.phase = RelayPhase::Over;
        vec![RelayAction::Refuse(refusal), RelayAction::Finish]
    }

    fn routed(&mut self, provider: ProviderId, now: MonoMillis) -> Vec<RelayAction> {
        if self.phase != RelayPhase::Routing {
            // The reservation came too late to be used.
            return vec![RelayAction::Release(provider, Released::Unused)];
        }
        self.provider = Some(provider);
        self.enter(RelayPhase::Offered, waits::ACCEPT, now);
        vec![RelayAction::Offer(provider, self.attempt_number())]
    }

    fn attempt_number(&self) -> AttemptNumber {
        AttemptNumber(u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn not_routed(&mut self, failure: RouteFailure, now: MonoMillis) -> Vec<RelayAction> {
        if self.phase != RelayPhase::Routing {
            return Vec::new();
        }
        match failure {
            RouteFailure::Busy => self.queue(waits::QUEUE, now),
            RouteFailure::Loading => self.queue(waits::LOADING, now),
            RouteFailure::QueueFull => self.give_up(RefusalCode::NoCapacity.into()),
            RouteFailure::OthersCould(code) => {
                self.phase = RelayPhase::Over;
                vec![RelayAction::Reseal(self.last_refusal().unwrap_or(code)), RelayAction::Finish]
            }
            RouteFailure::Nobody(code) => {
                // There is no second opinion: the first one stands.
                let wrong = self.last_refusal().is_some_and(is_final);
                let said = self.doubt.take().filter(|_| wrong).map(|(_, refusal)| refusal);
                self.give_up(said.unwrap_or_else(|| self.last_refusal().unwrap_or(code).into()))
            }
        }
    }

    fn queue(&mut self, wait: Millis, now: MonoMillis) -> Vec<RelayAction> {
        // Being woken and finding no room does not start the wait anew, and what was granted before stays.
        let (since, granted) = self.queued.unwrap_or((now, now));
        let until = granted.max(since.after(wait));
        self.queued = Some((since, until));
        self.phase = RelayPhase::Queued;
        self.deadline = until;
        vec![RelayAction::Queue]
    }

    fn last_refusal(&self) -> Option<RefusalCode> {
        self.attempts.last().and_then(|attempt| RefusalCode::from_number(attempt.outcome))
    }

    fn accepted(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        let (RelayPhase::Offered, Some(provider)) = (self.phase, self.provider) else { return Vec::new() };
        self.attempts.push(AttemptRecord { provider, outcome: 0 });
        self.enter(RelayPhase::Accepted, waits::FIRST_CONTENT, now);
        vec![RelayAction::RelayAccepted]
    }

    fn refused(&mut self, refusal: Refusal, now: MonoMillis) -> Vec<RelayAction> {
        match self.phase {
            RelayPhase::Offered => self.next_attempt(refusal, false, now),
            RelayPhase::Accepted => {
                self.attempts.pop();
                self.next_attempt(refusal, true, now)
            }
            RelayPhase::Streaming | RelayPhase::Ending => self.lost(RefusalCode::AnswerCut, now),
            RelayPhase::Cancelling => self.cancel_acknowledged(now),
            RelayPhase::Holding
            | RelayPhase::Routing
            | RelayPhase::Queued
            | RelayPhase::Settling
            | RelayPhase::Over => Vec::new(),
        }
    }

    /// Goes on with another provider, if the number of attempts allows it and no two agree that the request is wrong. One
    /// provider's word for that is not enough: it would be the cheapest way to keep a model from everybody.
    fn next_attempt(&mut self, refusal: Refusal, at_fault: bool, now: MonoMillis) -> Vec<RelayAction> {
        let Some(provider) = self.provider.take() else { return Vec::new() };
        let wrong = is_final(refusal.code);
        let agreed = wrong && self.doubt.is_some();
        self.attempts.push(AttemptRecord { provider, outcome: refusal.code.number() });
        self.next_sequence = 0;
        let released = if at_fault { Released::Failed } else { Released::Unused };
        let mut actions = vec![RelayAction::Release(provider, released)];
        if agreed || self.attempts.len() >= limits::ATTEMPTS_MAX as usize {
            actions.extend(self.give_up(refusal));
            return actions;
        }
        if wrong {
            self.doubt = Some((provider, refusal));
        }
        self.enter(RelayPhase::Routing, waits::TOTAL, now);
        actions.push(RelayAction::Route);
        actions
    }

    fn give_up(&mut self, refusal: Refusal) -> Vec<RelayAction> {
        self.phase = RelayPhase::Over;
        vec![RelayAction::Void(refusal.code), RelayAction::Refuse(refusal), RelayAction::Finish]
    }

    fn data(&mut self, sequence: u32, tokens: TokenCount, end: bool, now: MonoMillis) -> Vec<RelayAction> {
        if !matches!(self.phase, RelayPhase::Accepted | RelayPhase::Streaming) {
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
            self.enter(RelayPhase::Ending, waits::RECEIPT, now);
        } else {
            self.enter(RelayPhase::Streaming, waits::IDLE, now);
        }
        vec![RelayAction::RelayData]
    }

    fn consumer_gone(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        self.consumer_gone = true;
        match self.phase {
            // The ledger's answer is on its way; the hold is given back when it comes.
            RelayPhase::Holding | RelayPhase::Settling | RelayPhase::Over | RelayPhase::Cancelling => Vec::new(),
            RelayPhase::Queued => {
                self.phase = RelayPhase::Over;
                vec![RelayAction::LeaveQueue, RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]
            }
            RelayPhase::Routing => {
                self.phase = RelayPhase::Over;
                vec![RelayAction::Void(RefusalCode::Cancelled), RelayAction::Finish]
            }
            RelayPhase::Offered | RelayPhase::Accepted | RelayPhase::Streaming => {
                self.enter(RelayPhase::Cancelling, waits::CANCEL, now);
                vec![RelayAction::Cancel]
            }
            // Everything was relayed: the receipt settles it.
            RelayPhase::Ending => Vec::new(),
        }
    }

    /// The consumer is there and missed a part of the answer, because it reads more slowly than the answer comes: it is cut
    /// off, and told so. What reached it is charged without a receipt, like any answer that was cut: it cannot check a
    /// receipt for tokens that it never saw.
    pub fn consumer_behind(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        let cuts = matches!(self.phase, RelayPhase::Offered | RelayPhase::Accepted | RelayPhase::Streaming);
        // Once the end was relayed it has missed nothing.
        if !cuts || self.consumer_gone {
            return Vec::new();
        }
        self.cut = Some(Refusal::new(RefusalCode::AnswerCut, "it came faster than it was read"));
        self.enter(RelayPhase::Cancelling, waits::CANCEL, now);
        vec![RelayAction::Cancel]
    }

    fn tick(&mut self, now: MonoMillis) -> Vec<RelayAction> {
        if now < self.due() {
            return Vec::new();
        }
        match self.phase {
            RelayPhase::Queued => {
                let mut actions = vec![RelayAction::LeaveQueue];
                actions.extend(self.give_up(RefusalCode::NoCapacity.into()));
                actions
            }
            RelayPhase::Offered | RelayPhase::Accepted => {
                let mut actions = vec![RelayAction::Cancel];
                if self.phase == RelayPhase::Accepted {
                    self.attempts.pop();
                }
                actions.extend(self.next_attempt(RefusalCode::Timeout.into(), true, now));
                actions
            }
            RelayPhase::Streaming | RelayPhase::Ending => self.lost(RefusalCode::Timeout, now),
            // It neither freed its row nor said so, however alive it looks otherwise.
            RelayPhase::Cancelling => self.settle(true, now),
            RelayPhase::Routing => self.give_up(RefusalCode::Timeout.into()),
            // The ledger answers or the process ends; there is nothing else to wait for.
            RelayPhase::Holding | RelayPhase::Settling => {
                self.deadline = now.after(waits::TOTAL);
                self.total_deadline = self.deadline;
                Vec::new()
            }
            RelayPhase::Over => Vec::new(),
        }
    }

    fn enter(&mut self, phase: RelayPhase, wait: Millis, now: MonoMillis) {
        self.phase = phase;
        self.deadline = now.after(wait);
    }
}

/// Whether a refusal says that no provider will accept the request as it stands.
fn is_final(code: RefusalCode) -> bool {
    code.class() == RefusalClass::Final
}

mod settling;

#[cfg(test)]
mod tests;
