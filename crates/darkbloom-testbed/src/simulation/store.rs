//! The ledger's keeper: operations become durable one after another, some time after they are asked for, or fail; what is
//! durable survives the coordinator.

use darkbloom_ledger::{Delivered, HoldRequest, HoldState, PlaceRefusal, ReceiptUsage, VoidCause};
use darkbloom_types::{RefusalCode, RequestId, TokenCount};

use super::agenda::Event;
use super::faults::{Fault, Planted};
use super::world::{Bill, Down, Resealing, World, provider_id, submission_of};

/// Most that one commit takes; the watch forgives what was lost within a few of them.
pub(super) const COMMIT_MS: u64 = 5;

/// What is asked of the store.
#[derive(Debug, Clone)]
pub(super) enum Job {
    Place { request: Box<HoldRequest>, superseded: Option<(RequestId, Resealing)> },
    Settle { provider: u32, link: u32, delivered: darkbloom_session::Delivered, receipt: Option<u32> },
    Void { request: RequestId, silence: bool },
    Note { request: RequestId, provider: u32 },
    Late { link: u32, receipt: u32 },
}

/// One operation of the store.
#[derive(Debug)]
pub(super) struct StoreOp {
    /// Which life of the coordinator asked.
    run: u32,
    reply: Option<u32>,
    /// Whose hold it is about, where nobody waits for the reply.
    about: Option<u32>,
    job: Job,
    outcome: Option<Outcome>,
}

/// What a relay is told.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Placed,
    NotPlaced(RefusalCode),
    Settled { bill: Option<u32>, link: u32, receipt: Option<u32> },
    Voided,
}

impl World {
    /// Asks the store; `reply` is the submission whose relay is told.
    pub fn write(&mut self, reply: Option<u32>, job: Job) {
        self.enqueue(reply, reply, job);
    }

    /// Asks once more what failed before; nobody waits for it.
    pub fn write_for(&mut self, s: u32, job: Job) {
        self.enqueue(None, Some(s), job);
    }

    fn enqueue(&mut self, reply: Option<u32>, about: Option<u32>, job: Job) {
        let number = self.store.len() as u32;
        self.store.push(StoreOp { run: self.coordinator.run, reply, about, job, outcome: None });
        let stalls = self.is_rough() && self.chance.one_in(400);
        if stalls {
            self.fault(Fault::StoreStalls);
        }
        let wait = if stalls { self.chance.between(100, 4_000) } else { self.chance.below(COMMIT_MS) };
        // One writer: what was asked first is durable first.
        self.store_at = self.store_at.max(self.now.after(wait));
        self.store_at.0 += 1;
        self.at_moment(self.store_at, Event::Commit(number));
    }

    pub fn commit(&mut self, number: u32) {
        let op = &self.store[number as usize];
        if op.run != self.coordinator.run || !self.coordinator.up {
            return;
        }
        let (reply, about, job) = (op.reply, op.about, op.job.clone());
        let outcome = match job {
            Job::Place { request, superseded } => Some(self.commit_place(*request, superseded)),
            Job::Settle { provider, link, delivered, receipt } => {
                let Some(s) = about else { return };
                Some(self.commit_settle(s, provider, link, delivered, receipt))
            }
            Job::Void { request, silence } => {
                self.commit_void(request, silence);
                Some(Outcome::Voided)
            }
            Job::Note { request, provider } => {
                self.ledger.hold_accepted(request, provider_id(provider));
                None
            }
            Job::Late { link, receipt } => {
                self.commit_late(link, receipt);
                None
            }
        };
        if reply.is_some() && outcome.is_some() {
            self.store[number as usize].outcome = outcome;
            let wait = self.chance.below(3);
            self.at(wait, Event::Committed(number));
        }
    }

    pub fn committed(&mut self, number: u32) {
        let op = &mut self.store[number as usize];
        if op.run != self.coordinator.run || !self.coordinator.up {
            return;
        }
        if let (Some(s), Some(outcome)) = (op.reply, op.outcome.take()) {
            self.relay_hears_store(s, outcome);
        }
    }

    fn commit_place(&mut self, request: HoldRequest, superseded: Option<(RequestId, Resealing)>) -> Outcome {
        let failed = self.store_fails();
        let placed = if failed { Err(RefusalCode::Internal) } else { self.place(request) };
        match placed {
            Ok(()) => Outcome::Placed,
            Err(code) => {
                if let Some((old, waiting)) = superseded {
                    self.coordinator.resealing.insert(old, waiting);
                }
                Outcome::NotPlaced(code)
            }
        }
    }

    fn place(&mut self, request: HoldRequest) -> Result<(), RefusalCode> {
        self.ledger.hold_place(request).map_err(|refusal| match refusal {
            PlaceRefusal::InsufficientFunds { .. } | PlaceRefusal::OverBudget { .. } => RefusalCode::InsufficientQuota,
            PlaceRefusal::AlreadyCompleted => RefusalCode::AlreadyCompleted,
            PlaceRefusal::InProgress => RefusalCode::OperationInProgress,
            PlaceRefusal::UnknownAccount => RefusalCode::Forbidden,
            PlaceRefusal::DuplicateRequest => RefusalCode::Replayed,
            PlaceRefusal::UnknownSuperseded | PlaceRefusal::Terms(_) => RefusalCode::InvalidRequest,
        })
    }

    fn commit_settle(
        &mut self,
        s: u32,
        provider: u32,
        link: u32,
        delivered: darkbloom_session::Delivered,
        receipt: Option<u32>,
    ) -> Outcome {
        let request = self.submissions[s as usize].request;
        if self.store_fails() {
            self.truth(s).store_failed = true;
            self.coordinator.unfinished.push((s, Job::Settle { provider, link, delivered, receipt }));
            return Outcome::Settled { bill: None, link, receipt: None };
        }
        let usage = receipt.map(|receipt| self.usage(receipt));
        let delivered = Delivered {
            content_relayed: delivered.content_relayed,
            relayed_output: delivered.tokens_relayed,
            receipt: usage,
        };
        let settled = self.ledger.hold_settle(request, provider_id(provider), &delivered, self.now.into());
        let Some(settled) = settled else { return Outcome::Settled { bill: None, link, receipt: None } };
        self.truth(s).receipt = receipt;
        self.watch_settled(&settled, receipt, false);
        let named = if self.bug(Planted::BillNamesHold) {
            self.ledger.hold(request).map_or(settled.charge, |hold| hold.request.amount)
        } else {
            settled.charge
        };
        self.bills.push(Bill { submission: s, charge: named, settled });
        Outcome::Settled { bill: Some(self.bills.len() as u32 - 1), link, receipt }
    }

    fn usage(&self, receipt: u32) -> ReceiptUsage {
        let receipt = &self.receipts[receipt as usize];
        ReceiptUsage { input: TokenCount(receipt.input), output: TokenCount(receipt.output) }
    }

    fn commit_void(&mut self, request: RequestId, silence: bool) {
        if self.store_fails() {
            let s = submission_of(&request);
            self.truth(s).store_failed = true;
            self.coordinator.unfinished.push((s, Job::Void { request, silence }));
            return;
        }
        let cause = if silence { VoidCause::Silence } else { VoidCause::NothingDelivered };
        self.ledger.hold_void(request, cause, self.now.into());
    }

    /// A receipt that was presented again. What the program checks before it asks the store was checked at the door.
    fn commit_late(&mut self, link: u32, number: u32) {
        if self.store_fails() {
            return;
        }
        let receipt = self.receipts[number as usize].clone();
        let request = self.submissions[receipt.submission as usize].request;
        let usage = self.usage(number);
        // As in the relay: an answer without a token delivered nothing.
        let content_relayed = usage.output > TokenCount(0);
        let delivered = Delivered { content_relayed, relayed_output: usage.output, receipt: Some(usage) };
        let mut payee = provider_id(receipt.provider);
        if self.bug(Planted::AnyReceiptBelieved) {
            payee = self.ledger.hold(request).and_then(|hold| hold.accepted_by).unwrap_or(payee);
        }
        let before = self.ledger.hold(request).map(|hold| hold.state());
        let settled = self.ledger.late_settle(request, payee, &delivered, self.now.into());
        if let Some(Ok(settled)) = settled {
            if before == Some(HoldState::Settled) {
                self.fault(Fault::OldReceipt);
            }
            if !settled.already {
                self.truth(receipt.submission).receipt = Some(number);
            }
            self.watch_settled(&settled, Some(number), true);
        }
        self.send_down(link, Down::Ack(number));
    }
}
