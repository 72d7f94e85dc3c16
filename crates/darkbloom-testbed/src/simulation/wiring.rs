//! The coordinator's loop for one request: what carries bytes and time to its [`RelaySession`]. It does what the program's
//! own loop does, in the same order, and here the planted mistakes are made.

mod actions;

use std::collections::VecDeque;

use darkbloom_session::{RelayAction, RelayEvent, RelaySession, RelayTerms, Released};
use darkbloom_types::{AttemptNumber, EpochId, Refusal, RefusalCode, StreamId, TokenCount};
use darkbloom_wire::{KeepAlive, Relayed, RelayedData, limits};

use super::agenda::{Event, Now};
use super::faults::{Fault, Planted};
use super::store::Outcome;
use super::world::{Down, StreamFrame, World};

pub(super) use super::store::StoreOp;

/// Frames that a consumer may leave unread before its relay waits. The program's own number is larger than most answers
/// here have frames.
const CLIENT_FRAMES_MAX: usize = 6;
/// Frames of a provider that may wait for the relay, and places that content may not take.
const STREAM_FRAMES_MAX: usize = 24;
const STREAM_RESERVE: usize = 8;

/// The provider that is being asked, or answers.
#[derive(Debug)]
pub(super) struct Current {
    pub provider: u32,
    pub epoch: EpochId,
    pub attempt: AttemptNumber,
    pub link: u32,
    pub stream: StreamId,
    pub frames: VecDeque<StreamFrame>,
    /// The connection is gone.
    pub gone: bool,
    pub overflowed: bool,
    pub accepted: bool,
    /// It said no, which ends its work.
    pub refused: bool,
    pub data: Option<RelayedData>,
}

/// What a relay waits for with all its attention.
#[derive(Debug)]
pub(super) enum Block {
    Store,
    Writing(Relayed, u32),
}

/// One relay.
#[derive(Debug)]
pub(super) struct Relay {
    pub session: RelaySession,
    pub actions: VecDeque<RelayAction>,
    pub current: Option<Current>,
    pub answered_by: Option<(u32, u32)>,
    pub receipt: Option<u32>,
    pub bill: Option<u32>,
    pub noted: Option<u32>,
    pub client_gone: bool,
    pub block: Option<Block>,
    pub timer_at: Now,
    pub writes: u32,
    /// It waits for room, and since when the watch saw a free row that it could have.
    pub queued: bool,
    /// Since it first waited.
    pub queued_since: Option<Now>,
    /// A provider loaded its model for it.
    pub waits_for_load: bool,
    pub starved_since: Option<Now>,
}

/// What can happen to a relay next.
#[derive(Debug, Clone, Copy)]
enum Source {
    Frame,
    Room,
    ClientClosed,
    Tick,
}

impl World {
    /// A submission was read: its relay begins.
    pub fn begin_relay(&mut self, s: u32) {
        let ceiling = TokenCount(self.operation_of(s).output_ceiling);
        let (session, actions) = RelaySession::begin(RelayTerms { output_ceiling: ceiling }, self.now.into());
        let relay = Relay {
            session,
            actions: actions.into(),
            current: None,
            answered_by: None,
            receipt: None,
            bill: None,
            noted: None,
            client_gone: false,
            block: None,
            timer_at: Now::NEVER,
            writes: 0,
            queued: false,
            queued_since: None,
            waits_for_load: false,
            starved_since: None,
        };
        self.submissions[s as usize].relay = Some(Box::new(relay));
        self.at(limits::KEEP_ALIVE.0, Event::KeepAlive(s));
        self.drive(s);
    }

    /// Lets a relay do what it can do now.
    pub fn drive(&mut self, s: u32) {
        let Some(mut relay) = self.submissions[s as usize].relay.take() else { return };
        if self.step(&mut relay, s) {
            self.end_relay(*relay, s);
            return;
        }
        // While it waits for something else with all its attention, time does not reach it.
        let wake = relay.session.wake_at().map(Now::from).filter(|wake| *wake < relay.timer_at);
        if let Some(wake) = wake.filter(|_| relay.block.is_none()) {
            relay.timer_at = wake;
            self.at_moment(wake, Event::RelayTimer(s, wake));
        }
        self.submissions[s as usize].relay = Some(relay);
    }

    pub fn relay_timer(&mut self, s: u32, at: Now) {
        if let Some(relay) = self.submissions[s as usize].relay.as_mut().filter(|relay| relay.timer_at == at) {
            relay.timer_at = Now::NEVER;
            self.drive(s);
        }
    }

    /// Whether the relay is over.
    fn step(&mut self, relay: &mut Relay, s: u32) -> bool {
        loop {
            if relay.block.is_some() {
                return false;
            }
            if let Some(action) = relay.actions.pop_front() {
                if let Some(event) = self.act(relay, s, action) {
                    self.feed(relay, s, event);
                }
                continue;
            }
            if relay.session.is_over() {
                return true;
            }
            match self.ready(relay, s) {
                None => return false,
                Some(Source::Frame) => self.provider_frame(relay, s),
                Some(Source::Room) => {
                    self.submissions[s as usize].room = false;
                    relay.queued = false;
                    self.feed(relay, s, RelayEvent::Wake);
                }
                Some(Source::ClientClosed) => self.client_left(relay, s),
                Some(Source::Tick) => self.feed(relay, s, RelayEvent::Tick),
            }
        }
    }

    /// One of the things that are ready, drawn, as the program's own loop draws.
    fn ready(&mut self, relay: &Relay, s: u32) -> Option<Source> {
        let mut ready = [Source::Tick; 4];
        let mut count = 0;
        let mut add = |source: Source, is: bool| {
            if is {
                ready[count] = source;
                count += 1;
            }
        };
        let submission = &self.submissions[s as usize];
        let frames = relay.current.as_ref().is_some_and(|current| !current.frames.is_empty() || current.gone);
        add(Source::Frame, frames);
        add(Source::Room, submission.room);
        let closed = submission.client_closed && !relay.client_gone && self.planted != Some(Planted::LeavingNotNoticed);
        add(Source::ClientClosed, closed);
        let due = relay.session.wake_at().map(Now::from).is_some_and(|wake| wake <= self.now);
        add(Source::Tick, due && !(relay.queued && self.planted == Some(Planted::QueueWithoutEnd)));
        (count > 0).then(|| ready[self.chance.below(count as u64) as usize])
    }

    pub fn feed(&mut self, relay: &mut Relay, s: u32, event: RelayEvent) {
        self.tally.relay(&relay.session, &event);
        self.watch.note(self.now, || format!("relay {s} hears {event:?}"));
        let actions = relay.session.handle(event, self.now.into());
        for action in &actions {
            self.watch.digest(self.now, u64::from(s) << 8 | action_number(action));
        }
        relay.actions.extend(actions);
    }

    fn client_left(&mut self, relay: &mut Relay, s: u32) {
        relay.client_gone = true;
        if !self.bug(Planted::LeavingNotNoticed) {
            self.feed(relay, s, RelayEvent::ConsumerGone);
        }
    }

    pub(super) fn send(&mut self, relay: &mut Relay, s: u32, frame: impl Into<Relayed>) {
        if relay.client_gone {
            return;
        }
        let frame = frame.into();
        let submission = &mut self.submissions[s as usize];
        if submission.client_closed {
            self.client_left(relay, s);
        } else if submission.unread.len() >= CLIENT_FRAMES_MAX {
            relay.writes += 1;
            relay.block = Some(Block::Writing(frame, relay.writes));
            self.at(limits::CONSUMER_WAIT.0, Event::WriteTimeout(s, relay.writes));
        } else {
            self.respond(s, Some(frame));
        }
    }

    /// The consumer reads again: what waited to be written goes out.
    pub fn write_on(&mut self, s: u32) {
        let Some(relay) = self.submissions[s as usize].relay.as_mut() else { return };
        match relay.block.take() {
            Some(Block::Writing(frame, _)) => {
                self.respond(s, Some(frame));
                self.drive(s);
            }
            other => relay.block = other,
        }
    }

    /// A write took too long, or its client is seen to be gone.
    pub fn write_failed(&mut self, s: u32, ticket: Option<u32>) {
        let Some(mut relay) = self.submissions[s as usize].relay.take() else { return };
        let writing = matches!(&relay.block, Some(Block::Writing(_, at)) if ticket.is_none_or(|ticket| ticket == *at));
        if writing {
            relay.block = None;
            self.submissions[s as usize].given_up = true;
            self.client_left(&mut relay, s);
        }
        self.submissions[s as usize].relay = Some(relay);
        self.drive(s);
    }

    pub fn keep_alive(&mut self, s: u32) {
        let Some(mut relay) = self.submissions[s as usize].relay.take() else { return };
        if relay.block.is_none() && !self.bug(Planted::KeepAlivesForgotten) {
            self.send(&mut relay, s, KeepAlive {});
        }
        self.submissions[s as usize].relay = Some(relay);
        self.at(limits::KEEP_ALIVE.0, Event::KeepAlive(s));
        self.drive(s);
    }

    /// Hands a frame to the request that its stream belongs to.
    pub fn deliver(&mut self, link: u32, stream: StreamId, frame: StreamFrame) {
        let Some(used) = self.links[link as usize].streams.get_mut(&stream) else { return };
        used.ended |= matches!(frame, StreamFrame::Refused(_) | StreamFrame::Final(_) | StreamFrame::CancelAck);
        let s = used.submission;
        let by_name = self.bug(Planted::OldOfferHeard);
        let Some(relay) = self.submissions[s as usize].relay.as_mut() else { return };
        let Some(current) = relay.current.as_mut() else { return };
        if !by_name && (current.link, current.stream) != (link, stream) {
            return;
        }
        let content = matches!(frame, StreamFrame::Data { .. });
        if current.frames.len() >= STREAM_FRAMES_MAX - if content { STREAM_RESERVE } else { 0 } {
            current.overflowed = true;
        } else {
            current.frames.push_back(frame);
        }
        self.drive(s);
    }

    fn provider_frame(&mut self, relay: &mut Relay, s: u32) {
        let Some(current) = relay.current.as_mut() else { return };
        let event = match current.frames.pop_front() {
            None => RelayEvent::ProviderGone,
            Some(StreamFrame::Accepted { attempt, epoch }) => {
                if attempt != current.attempt || epoch != current.epoch || current.accepted {
                    RelayEvent::BadReceipt
                } else {
                    current.accepted = true;
                    RelayEvent::Accepted
                }
            }
            Some(StreamFrame::Refused(code)) => {
                current.refused = true;
                RelayEvent::Refused(self.refusal_of(code))
            }
            Some(StreamFrame::Data { sequence, tokens, end, origin }) => {
                let tokens = TokenCount(tokens);
                current.data = Some(RelayedData { sequence, tokens, end, ciphertext: origin.to_vec() });
                if self.planted == Some(Planted::RelayedUnasked) {
                    let data = current.data.clone().expect("it was just put there");
                    self.respond(s, Some(data.into()));
                }
                RelayEvent::Data { sequence, tokens, end }
            }
            Some(StreamFrame::Final(receipt)) => self.check(relay, s, receipt),
            Some(StreamFrame::CancelAck) => RelayEvent::CancelAcknowledged,
        };
        if relay.current.as_ref().is_some_and(|current| current.overflowed) && !relay.client_gone {
            self.submissions[s as usize].given_up = true;
            self.client_left(relay, s);
        }
        self.feed(relay, s, event);
    }

    fn refusal_of(&self, code: u16) -> Refusal {
        let code = RefusalCode::from_number(code).unwrap_or(RefusalCode::Internal);
        let theirs = code.providers_may_say() || self.bug(Planted::ForeignRefusalPassed);
        if theirs { code.into() } else { RefusalCode::ProviderLost.into() }
    }

    fn check(&mut self, relay: &mut Relay, s: u32, number: u32) -> RelayEvent {
        let Some(current) = relay.current.as_ref() else { return RelayEvent::BadReceipt };
        let receipt = &self.receipts[number as usize];
        let holds = (!receipt.forged || self.bug(Planted::SignatureNotChecked))
            && self.submissions[receipt.submission as usize].request == self.submissions[s as usize].request
            && receipt.provider == current.provider
            && (receipt.attempt, receipt.epoch) == (current.attempt, current.epoch)
            && receipt.input <= self.operation_of(s).input_ceiling
            && (current.accepted || current.overflowed);
        if !holds {
            return RelayEvent::BadReceipt;
        }
        relay.receipt = Some(number);
        RelayEvent::Receipt { output: TokenCount(receipt.output) }
    }

    /// The store's answer to a relay.
    pub fn relay_hears_store(&mut self, s: u32, outcome: Outcome) {
        let Some(mut relay) = self.submissions[s as usize].relay.take() else { return };
        if matches!(relay.block, Some(Block::Store)) {
            relay.block = None;
        }
        match outcome {
            Outcome::Placed => self.feed(&mut relay, s, RelayEvent::HoldPlaced),
            Outcome::NotPlaced(code) => {
                self.truth(s).hold_refused = true;
                self.feed(&mut relay, s, RelayEvent::HoldRefused(code.into()));
            }
            Outcome::Settled { bill, link, receipt } => {
                relay.bill = bill;
                if let Some(receipt) = receipt.filter(|_| bill.is_some()) {
                    self.send_down(link, Down::Ack(receipt));
                }
                if !self.bug(Planted::SettlementNotTold) {
                    self.feed(&mut relay, s, RelayEvent::Settled);
                }
            }
            Outcome::Voided => {}
        }
        self.submissions[s as usize].relay = Some(relay);
        self.drive(s);
    }

    /// Whatever ends a relay, nothing of the request stays behind.
    fn end_relay(&mut self, mut relay: Relay, s: u32) {
        self.leave_queue(s);
        if let Some(provider) = relay.current.as_ref().map(|current| current.provider) {
            self.release(&mut relay, s, provider, Released::Unused);
        }
        self.truth(s).finished = true;
        let request = self.submissions[s as usize].request;
        self.coordinator.live.remove(&request);
        self.respond(s, None);
    }

    /// Requests that the registry found room for are told, and providers whose models it wants.
    pub fn pass_news(&mut self) {
        self.pass_loads();
        let woken = self.coordinator.registry.take_wakes();
        if self.bug(Planted::WakesLost) {
            return;
        }
        let woken: Vec<u32> = woken.iter().filter_map(|request| self.coordinator.live.get(request).copied()).collect();
        for s in &woken {
            self.submissions[*s as usize].room = true;
            self.at(0, Event::Drive(*s));
        }
        for s in woken {
            self.watch_woken(s);
        }
    }

    pub fn store_fails(&mut self) -> bool {
        let fails = self.is_rough() && self.chance.one_in(300);
        if fails {
            self.fault(Fault::StoreFails);
        }
        fails
    }
}

fn action_number(action: &RelayAction) -> u64 {
    match action {
        RelayAction::PlaceHold => 1,
        RelayAction::Route => 2,
        RelayAction::Queue => 3,
        RelayAction::LeaveQueue => 4,
        RelayAction::Offer(..) => 5,
        RelayAction::Release(..) => 6,
        RelayAction::RelayAccepted => 7,
        RelayAction::RelayData => 8,
        RelayAction::Cancel => 9,
        RelayAction::Settle(_) => 10,
        RelayAction::Void(_) => 11,
        RelayAction::RelayFinal => 12,
        RelayAction::Refuse(_) => 13,
        RelayAction::Reseal(_) => 14,
        RelayAction::Finish => 15,
        RelayAction::Doubt(_) => 16,
        RelayAction::CalledWrong => 17,
    }
}
