//! What a relay's machine says to do, done.

use std::collections::VecDeque;

use darkbloom_ledger::HoldRequest;
use darkbloom_registry::{Fault, Outcome, RouteError, RouteRequest, Row};
use darkbloom_session::{Delivered, RelayAction, RelayEvent, Released, RouteFailure};
use darkbloom_types::{AttemptNumber, KeyId, ProviderId, Refusal, RefusalCode, StreamId, Tier, TokenCount};
use darkbloom_wire::{CoordinatorTiming, RelayedAccepted, RelayedFinal, RelayedRefused, Reseal, limits};

use super::super::agenda::Now;
use super::super::faults::Planted;
use super::super::store::{COMMIT_MS, Job};
use super::super::world::{
    Down, PRICE, Resealing, StreamUse, World, connection_id, link_of, model, place_of, provider_id,
};
use super::{Block, Current, Relay};

impl World {
    /// Does one action; some bring their result at once.
    pub(super) fn act(&mut self, relay: &mut Relay, s: u32, action: RelayAction) -> Option<RelayEvent> {
        self.watch.note(self.now, || format!("relay {s} does {action:?}"));
        match action {
            RelayAction::PlaceHold => return self.place_hold(relay, s),
            RelayAction::Route => return Some(self.route(relay, s)),
            RelayAction::Queue => {
                relay.queued = true;
                relay.queued_since.get_or_insert(self.now);
            }
            RelayAction::LeaveQueue => {
                relay.queued = false;
                self.leave_queue(s);
            }
            RelayAction::Offer(provider, attempt) => return self.offer(relay, s, place_of(&provider), attempt),
            RelayAction::Release(provider, released) => self.release(relay, s, place_of(&provider), released),
            RelayAction::RelayAccepted => {
                if let Some(frame) = accepted_frame(relay) {
                    self.send(relay, s, frame);
                }
            }
            RelayAction::RelayData => self.relay_data(relay, s),
            RelayAction::Doubt(provider) => self.coordinator.registry.doubt(&provider, self.now.into()),
            RelayAction::CalledWrong => {}
            RelayAction::Cancel => self.cancel(relay),
            RelayAction::Settle(delivered) => return self.settle(relay, s, delivered),
            RelayAction::Void(_) => self.void(relay, s),
            RelayAction::RelayFinal => match (relay.receipt.take(), relay.bill.take()) {
                (Some(receipt), Some(bill)) => {
                    let (receipt, bill) = (receipt.to_be_bytes().to_vec(), bill.to_be_bytes().to_vec());
                    self.send(relay, s, RelayedFinal { receipt, bill, update: None });
                }
                _ => self.refuse(relay, s, RefusalCode::Internal.into()),
            },
            RelayAction::Refuse(refusal) => self.refuse(relay, s, refusal),
            RelayAction::Reseal(code) => self.reseal(relay, s, code),
            RelayAction::Finish => {}
        }
        None
    }

    fn place_hold(&mut self, relay: &mut Relay, s: u32) -> Option<RelayEvent> {
        let operation = self.operation_of(s);
        let (account, id) = (operation.account, operation.id);
        let submission = &self.submissions[s as usize];
        let (input, output) = (TokenCount(operation.input_ceiling), TokenCount(operation.output_ceiling));
        let amount = PRICE.cost(input, output).expect("ceilings of a simulation are small");
        let mut superseded = None;
        if let Some(old) = submission.supersedes {
            let waiting = self.coordinator.resealing.get(&old).copied();
            let theirs = waiting.filter(|waiting| (waiting.account, waiting.operation) == (account, id));
            match theirs {
                Some(waiting) => superseded = Some((old, waiting)),
                None if self.bug(Planted::AnyHoldSuperseded) => {}
                None => {
                    self.truth(s).hold_refused = true;
                    return Some(RelayEvent::HoldRefused(RefusalCode::InvalidRequest.into()));
                }
            }
        }
        let life = if self.bug(Planted::HoldsExpireUnderRequests) { 2_000 } else { limits::HOLD_LIFE.0 };
        let mut ledgers_operation = id;
        if self.bug(Planted::OperationPerSealing) {
            ledgers_operation.0 = submission.request.0;
        }
        let request = HoldRequest {
            request: submission.request,
            operation: ledgers_operation,
            account,
            key: KeyId(1),
            model: model(operation.model),
            amount,
            price: PRICE,
            input_ceiling: input,
            output_ceiling: output,
            placed_at: self.now.into(),
            expires_at: self.now.after(life).into(),
            supersedes: submission.supersedes,
        };
        if let Some((old, _)) = superseded {
            self.coordinator.resealing.remove(&old);
        }
        self.write(Some(s), Job::Place { request: Box::new(request), superseded });
        if !self.shape.impatient {
            relay.block = Some(Block::Store);
        }
        None
    }

    fn route(&mut self, relay: &mut Relay, s: u32) -> RelayEvent {
        relay.queued = false;
        let submission = &self.submissions[s as usize];
        let mut tried: Vec<ProviderId> = relay.session.attempts().iter().map(|attempt| attempt.provider).collect();
        if self.bug(Planted::TriedAgain) {
            tried.clear();
        }
        let operation = self.operation_of(s);
        let number = operation.model;
        let request = RouteRequest {
            request: submission.request,
            model: model(number),
            tier_min: Tier::None,
            recipients: &submission.recipients,
            tried: &tried,
            account: operation.account,
            affinity: operation.id.0,
            input: TokenCount(operation.input_ceiling),
            output: TokenCount(operation.output_ceiling),
        };
        let routed = self.coordinator.registry.route(&request, self.now.into(), self.now.into());
        self.pass_news();
        match routed {
            Ok(provider) => {
                self.watch_route(s, place_of(&provider), number);
                RelayEvent::Routed(provider)
            }
            Err(RouteError::Loading) => {
                relay.waits_for_load = true;
                RelayEvent::NotRouted(RouteFailure::Loading)
            }
            Err(RouteError::Queued) => RelayEvent::NotRouted(RouteFailure::Busy),
            Err(RouteError::QueueFull | RouteError::WaitTooLong | RouteError::NoMemory) => {
                RelayEvent::NotRouted(RouteFailure::QueueFull)
            }
            Err(error @ RouteError::OthersCould) => RelayEvent::NotRouted(RouteFailure::OthersCould(error.code())),
            Err(error @ RouteError::Nobody) => RelayEvent::NotRouted(RouteFailure::Nobody(error.code())),
        }
    }

    pub(super) fn leave_queue(&mut self, s: u32) {
        if self.bug(Planted::QueueNotLeft) {
            return;
        }
        let (number, request) = (self.operation_of(s).model, self.submissions[s as usize].request);
        self.coordinator.registry.leave_queue(&model(number), &request, self.now.into(), self.now.into());
        self.pass_news();
    }

    fn offer(&mut self, relay: &mut Relay, s: u32, provider: u32, attempt: AttemptNumber) -> Option<RelayEvent> {
        relay.queued_since = None;
        let link = self.coordinator.registry.connection_of(&provider_id(provider)).map(|id| link_of(&id));
        let wrap = self.submissions[s as usize].recipients.iter().find(|(id, _)| place_of(id) == provider).copied();
        let (Some(link), Some((_, epoch))) = (link, wrap) else { return Some(RelayEvent::ProviderGone) };
        let connection = &mut self.links[link as usize];
        connection.next_stream += 1;
        let stream = StreamId(connection.next_stream);
        connection.streams.insert(stream, StreamUse { submission: s, cancelled: false, ended: false });
        self.send_down(link, Down::Offer { stream, submission: s, attempt, epoch });
        relay.current = Some(Current {
            provider,
            epoch,
            attempt,
            link,
            stream,
            frames: VecDeque::new(),
            gone: false,
            overflowed: false,
            accepted: false,
            refused: false,
            data: None,
        });
        None
    }

    pub(super) fn release(&mut self, relay: &mut Relay, s: u32, provider: u32, released: Released) {
        let Some(current) = relay.current.take() else { return };
        let number = self.operation_of(s).model;
        self.watch_release(s, &current, number, released);
        let outcome = match released {
            Released::Served => Outcome::Served(None),
            Released::Failed if self.bug(Planted::FaultsNotCounted) => Outcome::Unused,
            Released::Failed if current.gone => Outcome::Failed(Fault::Broken),
            Released::Failed => Outcome::Failed(Fault::Error),
            Released::Unused => Outcome::Unused,
        };
        relay.answered_by = Some((provider, current.link));
        self.close_stream(&current);
        if released == Released::Unused && self.bug(Planted::RowKeptAfterRefusal) {
            return;
        }
        let (provider, connection) = (provider_id(provider), connection_id(current.link));
        let request = self.submissions[s as usize].request;
        let row = Row { provider, connection, model: model(number), request };
        let times = if self.bug(Planted::RowReleasedTwice) { 2 } else { 1 };
        for _ in 0..times {
            let (now, wall) = (self.now.into(), self.now.into());
            self.coordinator.registry.release(&row, outcome, now, wall);
        }
        self.pass_news();
    }

    fn close_stream(&mut self, current: &Current) {
        if !self.bug(Planted::OldOfferHeard) {
            self.links[current.link as usize].streams.remove(&current.stream);
        }
    }

    fn relay_data(&mut self, relay: &mut Relay, s: u32) {
        let Some(current) = relay.current.as_mut() else { return };
        let provider = current.provider;
        let Some(data) = current.data.take() else { return };
        self.watch_relayed(relay, s, provider, &data);
        // A frame without a token is nothing that a receipt could be paid for later.
        let worth = data.tokens > TokenCount(0) || self.bug(Planted::AcceptanceNotedAtOnce);
        if worth && relay.noted.replace(provider) != Some(provider) && !self.bug(Planted::AcceptanceNotNoted) {
            let request = self.submissions[s as usize].request;
            self.write(None, Job::Note { request, provider });
        }
        let durable = self.store_at.max(self.now).after(COMMIT_MS);
        let truth = self.truth(s);
        if worth && truth.noted_by == Now(0) {
            truth.noted_by = durable;
        }
        if self.bug(Planted::FrameLost) && data.sequence == 1 || self.bug(Planted::RelayedUnasked) {
            return;
        }
        self.send(relay, s, data);
    }

    fn cancel(&mut self, relay: &Relay) {
        let Some(current) = relay.current.as_ref() else { return };
        if self.bug(Planted::CancelNotSent) || self.bug(Planted::OfferNotCancelled) && !current.accepted {
            return;
        }
        let (link, stream) = (current.link, current.stream);
        if let Some(used) = self.links[link as usize].streams.get_mut(&stream) {
            used.cancelled = true;
        }
        self.send_down(link, Down::Cancel(stream));
    }

    fn settle(&mut self, relay: &mut Relay, s: u32, mut delivered: Delivered) -> Option<RelayEvent> {
        let Some((mut provider, link)) = relay.answered_by else { return Some(RelayEvent::Settled) };
        let request = self.submissions[s as usize].request;
        if self.bug(Planted::VoidedInsteadOfSettled) {
            self.write(None, Job::Void { request, silence: false });
            return Some(RelayEvent::Settled);
        }
        if self.bug(Planted::FirstTriedPaid) {
            provider = relay.session.attempts().first().map_or(provider, |first| place_of(&first.provider));
        }
        let receipt = relay.receipt.filter(|_| delivered.receipt);
        if self.bug(Planted::ReceiptCharged) {
            let signed = receipt.map_or(0, |receipt| self.receipts[receipt as usize].output);
            delivered.tokens_relayed = delivered.tokens_relayed.max(TokenCount(signed));
        }
        if self.bug(Planted::HoldCharged) {
            delivered.tokens_relayed = TokenCount(u32::MAX);
        }
        if self.bug(Planted::AcknowledgedBeforeDurable)
            && let Some(receipt) = receipt
        {
            self.send_down(link, Down::Ack(receipt));
        }
        self.write(Some(s), Job::Settle { provider, link, delivered, receipt });
        if !self.shape.impatient {
            relay.block = Some(Block::Store);
        }
        None
    }

    fn void(&mut self, relay: &mut Relay, s: u32) {
        if self.bug(Planted::VoidForgotten) {
            return;
        }
        let request = self.submissions[s as usize].request;
        self.write(Some(s), Job::Void { request, silence: false });
        if !self.shape.impatient {
            relay.block = Some(Block::Store);
        }
    }

    fn refuse(&mut self, relay: &mut Relay, s: u32, refusal: Refusal) {
        let frame = RelayedRefused {
            code: refusal.code.number(),
            detail: refusal.detail,
            retry_after: None,
            sealed: None,
            attempts: relay.session.attempts().to_vec().into(),
            bill: relay.bill.take().map(|bill| bill.to_be_bytes().to_vec()),
            timing: None,
        };
        self.send(relay, s, frame);
    }

    fn reseal(&mut self, relay: &mut Relay, s: u32, code: RefusalCode) {
        let operation = self.operation_of(s);
        let (account, id, number) = (operation.account, operation.id, operation.model);
        let waiting = Resealing { account, operation: id, until: self.now.after(limits::RESEAL_WAIT.0) };
        let request = self.submissions[s as usize].request;
        self.coordinator.resealing.insert(request, waiting);
        let list = self.fresh_list(number);
        self.lists.push(list);
        let candidates = (self.lists.len() as u32 - 1).to_be_bytes().to_vec();
        let attempts = relay.session.attempts().to_vec().into();
        let timing = CoordinatorTiming::NONE;
        self.send(relay, s, Reseal { candidates, code: code.number(), attempts, timing });
    }
}

fn accepted_frame(relay: &Relay) -> Option<RelayedAccepted> {
    let current = relay.current.as_ref()?;
    Some(RelayedAccepted {
        provider: provider_id(current.provider),
        epoch: current.epoch,
        attempt: current.attempt,
        salt: [0; 32],
        attempts: relay.session.attempts().to_vec().into(),
        timing: CoordinatorTiming::NONE,
    })
}
