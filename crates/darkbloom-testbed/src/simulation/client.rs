//! Consumers and their clients' program: choose, seal, submit, read, seal again; and what consumers do to it.

use darkbloom_session::{ClientAction, ClientSession};
use darkbloom_types::{OperationId, RefusalCode};
use darkbloom_wire::{Relayed, RelayedData, RelayedFinal, limits};

use super::agenda::{Event, Now};
use super::doors::OPERATION_MS;
use super::faults::{Fault, Planted};
use super::world::{Candidates, Ending, Operation, Reading, Submission, Truth, World, request_id};

/// A client's list is fetched again beside a request when it is older.
const LIST_MS: u64 = 10_000;

impl World {
    /// The next consumer asks.
    pub fn arrive(&mut self) {
        self.arrived += 1;
        self.last_arrival = self.now;
        let client = self.chance.below(self.clients.len() as u64) as u32;
        let account = if self.chance.one_in(50) { 3 } else { self.chance.below(3) as usize };
        if account == 3 {
            self.fault(Fault::PoorAccount);
        }
        let number = usize::from(!self.shape.burst && self.chance.one_in(4));
        let o = self.operations.len() as u32;
        let id = OperationId(self.chance.id());
        self.begin_operation(o, id, self.accounts[account], number, client);
        if self.arrived < self.shape.requests {
            let wait = self.chance.below(self.shape.arrival_ms) + 1;
            self.at(wait, Event::Arrive);
        }
    }

    fn begin_operation(
        &mut self,
        family: u32,
        id: OperationId,
        account: darkbloom_types::AccountId,
        number: usize,
        client: u32,
    ) {
        let o = self.operations.len() as u32;
        let input = self.chance.between(1, 60) as u32;
        let output_ceiling = self.chance.pick(&[1, 4, 12, 40]);
        self.operations.push(Operation {
            family,
            repeated: family != o,
            account,
            id,
            model: number,
            client,
            session: ClientSession::submitted(self.now.into()),
            began: self.now,
            submission: None,
            list: Vec::new(),
            supersedes: None,
            reseals: 0,
            reading: None,
            paused: None,
            silence_at: Now::NEVER,
            input,
            input_ceiling: input.next_multiple_of(16),
            output_ceiling,
            ending: None,
        });
        self.tally.operations += 1;
        if family != o {
            self.operations[family as usize].repeated = true;
        }
        let Some(list) = self.candidates(client, number) else {
            return self.end(o, Ending::Refused(RefusalCode::CoordinatorUnreachable));
        };
        self.choose(o, list);
        if self.submit_again(o) && self.is_rough() && family == o {
            self.draw_consumer(o);
        }
    }

    /// What consumers and their connections do, drawn when they ask.
    fn draw_consumer(&mut self, o: u32) {
        if !self.chance.one_in(self.shape.accidents) {
            return;
        }
        let wait = self.chance.pick(&[5, 60, 300, 1_500, 20_000]);
        let wait = self.chance.below(wait);
        let Some(s) = self.operations[o as usize].submission else { return };
        match self.chance.below(7) {
            0 | 1 => self.at(wait, Event::HangUp(o)),
            2 => self.at(wait, Event::StopReading(o)),
            3 => self.at(wait, Event::CutResponse(s)),
            4 => self.at(wait, Event::MuteResponse(s)),
            5 => self.submit_twice(o, s),
            _ => self.at(wait, Event::Repeat(o)),
        }
    }

    /// The candidates that a client has, or can get.
    fn candidates(&mut self, client: u32, number: usize) -> Option<Candidates> {
        let now = self.now;
        let kept = self.clients[client as usize].lists[number].clone();
        let old = kept.as_ref().is_none_or(|list| now.since(list.fetched) > LIST_MS);
        if !old {
            return kept;
        }
        if self.coordinator.up {
            let fresh = Candidates { found: self.fresh_list(number), fetched: now };
            self.clients[client as usize].lists[number] = Some(fresh.clone());
            // Beside the request that notices; the first waits for it.
            if kept.is_none() {
                return Some(fresh);
            }
        }
        kept
    }

    fn choose(&mut self, o: u32, list: Candidates) {
        let now = self.now;
        let stale = self.clients[self.operations[o as usize].client as usize].stale;
        let mut usable: Vec<_> = list.found.iter().filter(|(_, _, until)| stale || now < *until).collect();
        if stale && self.is_rough() {
            self.fault(Fault::StaleCandidates);
        }
        let most = if self.chance.one_in(10) { 1 } else { 3 };
        let mut chosen = Vec::new();
        while chosen.len() < most && !usable.is_empty() {
            let place = if chosen.len() == 1 { self.chance.below(usable.len() as u64) as usize } else { 0 };
            let (provider, epoch, _) = *usable.remove(place);
            chosen.push((provider, epoch));
        }
        self.operations[o as usize].list = chosen;
    }

    /// Seals to the list and submits. False when there is nobody to seal to.
    pub fn submit_again(&mut self, o: u32) -> bool {
        let operation = &mut self.operations[o as usize];
        if operation.ending.is_some() {
            return false;
        }
        if operation.list.is_empty() {
            self.end(o, Ending::Refused(RefusalCode::NoEligibleProvider));
            return false;
        }
        let s = self.submissions.len() as u32;
        let operation = &mut self.operations[o as usize];
        operation.submission = Some(s);
        operation.reading = None;
        let (recipients, supersedes) = (operation.list.clone(), operation.supersedes);
        let request = request_id(s, self.seed);
        self.push_submission(o, request, recipients, supersedes);
        let wait = self.chance.between(1, 40);
        self.at(wait, Event::Submit(s));
        self.arm_silence(o);
        true
    }

    fn push_submission(
        &mut self,
        operation: u32,
        request: darkbloom_types::RequestId,
        recipients: Vec<(darkbloom_types::ProviderId, darkbloom_types::EpochId)>,
        supersedes: Option<darkbloom_types::RequestId>,
    ) {
        self.tally.requests += 1;
        self.submissions.push(Submission {
            operation,
            request,
            recipients,
            supersedes,
            response: Default::default(),
            response_at: self.now,
            unread: Default::default(),
            broken: false,
            mute: false,
            client_left: false,
            client_closed: false,
            client_closed_at: None,
            given_up: false,
            room: false,
            relay: None,
            truth: Truth::default(),
        });
    }

    /// Somebody submits the same sealing again; nobody reads what comes of it.
    fn submit_twice(&mut self, o: u32, s: u32) {
        self.fault(Fault::SubmittedTwice);
        let first = &self.submissions[s as usize];
        let (request, recipients, supersedes) = (first.request, first.recipients.clone(), first.supersedes);
        let again = self.submissions.len() as u32;
        self.push_submission(o, request, recipients, supersedes);
        self.submissions[again as usize].client_left = true;
        // After the first is over its hold is known; before, its relay is.
        let wait = self.chance.between(1, 3_000);
        self.at(wait + 50, Event::Submit(again));
        self.at(wait + 100, Event::ClientClosed(again));
    }

    /// A consumer asks for the same operation again, with a fresh sealing; sometimes it says that this replaces the first.
    pub fn repeat(&mut self, o: u32) {
        let operation = &self.operations[o as usize];
        let (family, id, account, number, client) =
            (operation.family, operation.id, operation.account, operation.model, operation.client);
        let first = operation.submission.map(|s| self.submissions[s as usize].request);
        self.fault(Fault::OperationRepeated);
        let again = self.operations.len();
        self.begin_operation(family, id, account, number, client);
        let operation = &mut self.operations[again];
        if operation.ending.is_none() && self.chance.one_in(2) {
            operation.supersedes = first;
            if let Some(s) = operation.submission {
                self.submissions[s as usize].supersedes = first;
                self.fault(Fault::FalseSupersede);
            }
        }
    }

    /// The next frame of a response is at the client's machine.
    pub fn client_hears(&mut self, s: u32) {
        let submission = &mut self.submissions[s as usize];
        let Some(frame) = submission.response.pop_front() else { return };
        if submission.client_left || submission.mute {
            return;
        }
        let o = submission.operation;
        if self.operations[o as usize].paused.is_some() {
            submission.unread.push_back(frame);
        } else {
            self.client_takes(s, frame);
        }
    }

    fn client_takes(&mut self, s: u32, frame: Option<Relayed>) {
        let o = self.submissions[s as usize].operation;
        let operation = &mut self.operations[o as usize];
        if operation.ending.is_some() || operation.submission != Some(s) {
            return;
        }
        let Some(frame) = frame else {
            let ended = operation.session.transport_ended();
            return if ended.is_err() {
                self.response_ended(s)
            };
        };
        self.tally.client(&operation.session, &frame);
        self.watch.note(self.now, || format!("client {o} gets {frame:?}"));
        match operation.session.handle(frame, self.now.into()) {
            Ok(action) => self.client_acts(s, o, action),
            Err(error) => {
                self.watch.find(self.now, format!("client {o} is told what no honest coordinator tells: {error}"));
                self.end(o, Ending::Cut);
            }
        }
        self.arm_silence(o);
    }

    fn client_acts(&mut self, s: u32, o: u32, action: ClientAction) {
        match action {
            ClientAction::Wait => {}
            ClientAction::Begin(accepted) => {
                let known = self.submissions[s as usize].recipients.contains(&(accepted.provider, accepted.epoch));
                if !known {
                    self.watch.find(self.now, format!("client {o}: somebody answers to whom it did not seal"));
                }
                let (provider, attempt) = (accepted.provider, accepted.attempt);
                self.operations[o as usize].reading = Some(Reading { provider, attempt, sequence: 0, tokens: 0 });
            }
            ClientAction::Open(data) => self.open(s, o, &data),
            ClientAction::Verify(last) => self.verify(s, o, &last),
            ClientAction::SealAgain(reseal) => {
                let list = number_in(&reseal.candidates).and_then(|list| self.lists.get(list)).cloned();
                let list = Candidates { found: list.unwrap_or_default(), fetched: self.now };
                self.choose(o, list);
                let request = self.submissions[s as usize].request;
                self.submissions[s as usize].client_left = true;
                self.at(1, Event::ClientClosed(s));
                let forgets = self.bug(Planted::ResealsNotCounted);
                let operation = &mut self.operations[o as usize];
                operation.supersedes = Some(request);
                operation.submission = None;
                operation.reseals += 1;
                if forgets {
                    operation.session = ClientSession::submitted(self.now.into());
                }
                let (slow, wait) = (self.is_rough() && self.chance.one_in(20), self.chance.between(1, 40));
                if slow {
                    self.fault(Fault::SlowReseal);
                }
                self.at(if slow { 62_000 } else { wait }, Event::SealAgain(o));
            }
            ClientAction::Fail(refused) => {
                let code = refused.refusal().code;
                self.watch_refused(s, code);
                self.end(o, Ending::Refused(code));
            }
        }
    }

    /// Opening a frame is possible only when it is the next of the one who was said to answer.
    fn open(&mut self, s: u32, o: u32, data: &RelayedData) {
        let Some(reading) = self.operations[o as usize].reading.as_mut() else { return };
        let mut origin = Vec::with_capacity(12);
        origin.extend_from_slice(&s.to_be_bytes());
        origin.extend_from_slice(&super::world::place_of(&reading.provider).to_be_bytes());
        origin.extend_from_slice(&reading.attempt.0.to_be_bytes());
        let fits = data.ciphertext == origin && data.sequence == reading.sequence && data.tokens.0 >= reading.tokens;
        reading.sequence += 1;
        reading.tokens = data.tokens.0;
        if !fits {
            self.watch.find(self.now, format!("client {o} cannot open frame {} of its answer", data.sequence));
            self.end(o, Ending::Cut);
        }
    }

    fn verify(&mut self, s: u32, o: u32, last: &RelayedFinal) {
        let receipt = number_in(&last.receipt).and_then(|number| self.receipts.get(number)).cloned();
        let bill = number_in(&last.bill).and_then(|number| self.bills.get(number)).copied();
        let tokens = self.operations[o as usize].reading.map_or(0, |reading| reading.tokens);
        self.watch_verified(s, tokens, receipt.as_ref(), bill.as_ref());
        self.end(o, Ending::Answered);
    }

    /// A response ended without a last word.
    fn response_ended(&mut self, s: u32) {
        let submission = &self.submissions[s as usize];
        let o = submission.operation;
        if !submission.broken && !submission.given_up {
            self.watch.find(self.now, format!("the response of submission {s} ends without a last word"));
        }
        self.end(o, Ending::Cut);
    }

    fn arm_silence(&mut self, o: u32) {
        let operation = &mut self.operations[o as usize];
        let Some(wake) = operation.session.wake_at().map(Now::from) else { return };
        if operation.silence_at == Now::NEVER {
            operation.silence_at = wake;
            self.at_moment(wake, Event::ClientSilence(o));
        }
    }

    pub fn client_silence(&mut self, o: u32) {
        let operation = &mut self.operations[o as usize];
        operation.silence_at = Now::NEVER;
        let (Some(s), None) = (operation.submission, operation.ending) else { return };
        if operation.paused.is_some() || !operation.session.is_overdue(self.now.into()) {
            if operation.paused.is_none() {
                self.arm_silence(o);
            }
            return;
        }
        let submission = &self.submissions[s as usize];
        if submission.relay.is_some() && !submission.mute && !submission.broken {
            self.watch.find(self.now, format!("client {o} hears nothing of a relay that lives"));
        }
        self.watch.note(self.now, || format!("client {o} has heard nothing for too long"));
        self.end(o, Ending::Cut);
    }

    pub fn hang_up(&mut self, o: u32) {
        if self.operations[o as usize].ending.is_none() {
            self.fault(Fault::ConsumerHangsUp);
            self.end(o, Ending::HungUp);
        }
    }

    pub fn stop_reading(&mut self, o: u32) {
        let operation = &mut self.operations[o as usize];
        if operation.ending.is_some() || operation.paused.is_some() {
            return;
        }
        operation.paused = Some(self.now);
        self.fault(Fault::ConsumerStopsReading);
        let wait = self.chance.between(100, limits::CONSUMER_WAIT.0 + 10_000);
        self.at(wait.min(limits::CONSUMER_WAIT.0), Event::ReadAgain(o));
    }

    pub fn read_again(&mut self, o: u32) {
        let operation = &mut self.operations[o as usize];
        let Some(since) = operation.paused.take() else { return };
        if operation.ending.is_some() {
            return;
        }
        if self.now.since(since) >= limits::CONSUMER_WAIT.0 {
            return self.end(o, Ending::HungUp);
        }
        while let Some(s) = self.operations[o as usize].submission {
            let Some(frame) = self.submissions[s as usize].unread.pop_front() else { break };
            self.client_takes(s, frame);
        }
        if let Some(s) = self.operations[o as usize].submission {
            self.write_on(s);
        }
        self.arm_silence(o);
    }

    /// An operation is over for its consumer.
    pub fn end(&mut self, o: u32, ending: Ending) {
        let operation = &mut self.operations[o as usize];
        if operation.ending.is_some() {
            self.watch.find(self.now, format!("operation {o} ends twice"));
            return;
        }
        operation.ending = Some(ending);
        let lasted = self.now.since(operation.began);
        if lasted > OPERATION_MS {
            self.watch.find(self.now, format!("operation {o} takes {lasted} ms"));
        }
        self.watch.note(self.now, || format!("operation {o} ends: {ending:?}"));
        self.watch.digest(self.now, 3 << 40 | u64::from(o));
        self.tally.ending(ending);
        if let Some(s) = self.operations[o as usize].submission {
            let submission = &mut self.submissions[s as usize];
            submission.client_left = true;
            submission.response.clear();
            let wait = if submission.mute { 60_000 } else { self.chance.below(30) };
            self.at(wait, Event::ClientClosed(s));
        }
        self.forget_list(o, ending);
        let again = matches!(ending, Ending::Cut | Ending::HungUp);
        if again && self.is_rough() && self.operations[o as usize].family == o && self.chance.one_in(8) {
            let wait = self.chance.between(10, 20_000);
            self.at(wait, Event::Repeat(o));
        }
    }

    /// Refusals that mean that the list is out of date.
    fn forget_list(&mut self, o: u32, ending: Ending) {
        let stale = [RefusalCode::UnknownEpoch, RefusalCode::NoEligibleProvider];
        let operation = &self.operations[o as usize];
        if matches!(ending, Ending::Refused(code) if stale.contains(&code)) {
            self.clients[operation.client as usize].lists[operation.model] = None;
        }
    }
}

/// The place in a table that opaque bytes name.
fn number_in(bytes: &[u8]) -> Option<usize> {
    bytes.try_into().ok().map(|bytes| u32::from_be_bytes(bytes) as usize)
}
