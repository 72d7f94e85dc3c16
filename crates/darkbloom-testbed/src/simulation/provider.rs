//! Providers: what the program does on the machine of an owner, and what a dishonest or broken one may do instead.

use std::collections::BTreeMap;

use darkbloom_session::{CancelAction, ProviderStreams};
use darkbloom_types::{AttemptNumber, EpochId, RefusalCode, StreamId};
use darkbloom_wire::limits;

use super::agenda::Event;
use super::doors::EPOCH_OPENS_MS;
use super::faults::Fault;
use super::world::{Down, Job, MODELS, Phase, Receipt, StreamFrame, Up, World};

const EPOCH_MS: u64 = 60 * 60_000;

/// What may go wrong with a job at any provider's.
const ACCIDENTS: [Fault; 11] = [
    Fault::Slow,
    Fault::SilentToOffer,
    Fault::SilentAfterAcceptance,
    Fault::SilentMidway,
    Fault::NoReceipt,
    Fault::Refusal,
    Fault::Refusal,
    Fault::RefusalAfterAcceptance,
    // These need an answer of several frames, which not every job has.
    Fault::RefusalMidway,
    Fault::RefusalMidway,
    Fault::SilentMidway,
];

/// What a dishonest one does.
const LIES: [Fault; 23] = [
    Fault::ForeignRefusal,
    Fault::CountFalls,
    Fault::CountFalls,
    Fault::SequenceGap,
    Fault::EarlyReceipt,
    Fault::CountBeyondCeiling,
    Fault::SequenceGap,
    Fault::EmptyFrames,
    Fault::ContentBeforeAcceptance,
    Fault::ContentAfterEnd,
    Fault::SecondAcceptance,
    Fault::WrongAttempt,
    Fault::InflatedReceipt,
    Fault::ForgedReceipt,
    Fault::ForeignReceipt,
    Fault::EarlyReceipt,
    Fault::ReceiptRunsAhead,
    Fault::InventedReceipt,
    Fault::NoCancelAck,
    Fault::UnaskedCancelAck,
    Fault::StolenReceipt,
    Fault::ReceiptBeforeAcceptance,
    Fault::ReceiptForNothing,
];

impl World {
    fn next_epoch(&mut self) -> EpochId {
        self.epochs += 1;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&self.epochs.to_be_bytes());
        EpochId(id)
    }

    pub fn start_provider(&mut self, p: u32) {
        let epoch = self.next_epoch();
        let until = self.now.after(EPOCH_MS);
        let provider = &mut self.providers[p as usize];
        provider.run += 1;
        provider.up = true;
        provider.epoch = epoch;
        provider.use_until = until;
        provider.epoch_stuck = false;
        provider.earlier.clear();
        provider.draining = false;
        provider.ignores_challenges = false;
        provider.loading = [false; MODELS];
        let run = provider.run;
        let wait = self.chance.between(10, 1_500);
        self.at(wait, Event::Connect { provider: p, run });
        self.at(limits::HEARTBEAT.0, Event::Beat { provider: p, run });
    }

    /// The process is gone; its disk is not.
    pub fn stop_provider(&mut self, p: u32) {
        let provider = &mut self.providers[p as usize];
        provider.up = false;
        provider.run += 1;
        provider.jobs = BTreeMap::new();
        provider.streams = ProviderStreams::default();
        if let Some(link) = provider.link.take().filter(|link| !self.links[*link as usize].cut) {
            self.cut_link(link);
        }
        let wait = self.chance.between(500, 20_000);
        self.at(wait, Event::Restart(p));
    }

    pub fn connect(&mut self, p: u32, run: u32) {
        let provider = &self.providers[p as usize];
        if provider.run != run || provider.link.is_some() {
            return;
        }
        if !self.coordinator.up || self.now < provider.hung_until {
            let wait = self.chance.between(500, 5_000);
            return self.at(wait, Event::Connect { provider: p, run });
        }
        let claims = provider.claims > provider.rows;
        let (epoch, use_until) = (provider.epoch, provider.use_until);
        let receipts: Vec<_> = provider.outbox.iter().copied().take(limits::RECEIPTS_PER_FRAME_MAX).collect();
        let link = self.open_link(p);
        self.providers[p as usize].link = Some(link);
        if claims {
            self.fault(Fault::BoastedRows);
        }
        self.send_up(link, Up::Hello { epoch, use_until });
        if !receipts.is_empty() {
            self.send_up(link, Up::Receipts(receipts));
        }
    }

    /// The provider sees that a connection is gone.
    pub fn provider_drops(&mut self, link: u32) {
        let p = self.links[link as usize].provider;
        let provider = &mut self.providers[p as usize];
        if provider.link != Some(link) {
            return;
        }
        provider.link = None;
        provider.streams = ProviderStreams::default();
        provider.jobs = BTreeMap::new();
        let run = provider.run;
        let wait = self.chance.between(500, 3_000);
        self.at(wait, Event::Connect { provider: p, run });
    }

    pub fn beat(&mut self, p: u32, run: u32) {
        let provider = &mut self.providers[p as usize];
        if provider.run != run {
            return;
        }
        if self.now < provider.hung_until {
            let until = provider.hung_until;
            return self.at_moment(until, Event::Beat { provider: p, run });
        }
        if self.now >= provider.use_until && !provider.epoch_stuck {
            self.rotate(p);
        }
        let provider = &self.providers[p as usize];
        if let Some(link) = provider.link {
            self.send_up(link, Up::Beat);
        }
        self.at(limits::HEARTBEAT.0, Event::Beat { provider: p, run });
    }

    /// The next epoch begins; the one before stays openable for a while.
    pub fn rotate(&mut self, p: u32) {
        let epoch = self.next_epoch();
        let (until, opens) = (self.now.after(EPOCH_MS), self.now.after(EPOCH_OPENS_MS));
        let provider = &mut self.providers[p as usize];
        provider.earlier.push((provider.epoch, opens));
        provider.epoch = epoch;
        provider.use_until = until;
        provider.epoch_stuck = false;
        if let Some(link) = provider.link {
            self.send_up(link, Up::Epoch { epoch, use_until: until });
        }
    }

    /// What the coordinator says.
    pub fn provider_hears(&mut self, link: u32) {
        let connection = &mut self.links[link as usize];
        let p = connection.provider;
        if connection.cut || connection.mute || self.providers[p as usize].link != Some(link) {
            return;
        }
        let wait_until = connection.stalled_until.max(self.providers[p as usize].hung_until);
        if self.now < wait_until {
            return self.at_moment(wait_until, Event::ToProvider(link));
        }
        let Some(frame) = connection.down.pop_front() else { return };
        self.watch.digest(self.now, 2 << 40 | u64::from(link));
        let run = self.providers[p as usize].run;
        match frame {
            Down::Offer { stream, submission, attempt, epoch } => {
                self.offered(p, link, stream, submission, attempt, epoch);
            }
            Down::Cancel(stream) => match self.providers[p as usize].streams.cancel(stream) {
                CancelAction::Stop => {
                    if let Some(job) = self.providers[p as usize].jobs.get_mut(&stream) {
                        job.cancelled_at = Some(self.now);
                    }
                    let wait = self.chance.between(1, 60);
                    self.at(wait, Event::Work { provider: p, run, stream });
                }
                CancelAction::AcknowledgeNow => self.say(link, stream, StreamFrame::CancelAck),
                CancelAction::Nothing => {}
            },
            Down::Load(number) => self.asked_to_load(p, link, number),
            Down::Ack(receipt) => self.providers[p as usize].outbox.retain(|kept| *kept != receipt),
            Down::Challenge(nonce) => {
                if self.providers[p as usize].ignores_challenges {
                    self.fault(Fault::ChallengeIgnored);
                } else {
                    self.send_up(link, Up::ChallengeAnswer(nonce));
                }
            }
        }
    }

    fn offered(&mut self, p: u32, link: u32, stream: StreamId, s: u32, attempt: AttemptNumber, epoch: EpochId) {
        let now = self.now;
        let number = self.operation_of(s).model;
        let provider = &mut self.providers[p as usize];
        if provider.streams.offered(stream).is_err() {
            self.watch.find(now, format!("provider {p} is offered a stream number twice"));
            return;
        }
        let opens = provider.epoch == epoch || provider.earlier.iter().any(|(id, until)| *id == epoch && now < *until);
        let refusal = if !opens {
            Some(RefusalCode::UnknownEpoch)
        } else if provider.draining {
            Some(RefusalCode::Draining)
        } else if provider.stored[number] {
            Some(RefusalCode::ModelNotLoaded)
        } else if provider.jobs.len() >= provider.rows as usize {
            Some(RefusalCode::Overloaded)
        } else {
            None
        };
        if let Some(code) = refusal {
            provider.streams.finished(stream);
            return self.say(link, stream, StreamFrame::Refused(code.number()));
        }
        let run = provider.run;
        let job = self.job(p, s, attempt, epoch);
        let wait = job.step_ms.min(200);
        self.providers[p as usize].jobs.insert(stream, job);
        self.at(wait, Event::Work { provider: p, run, stream });
    }

    fn job(&mut self, p: u32, s: u32, attempt: AttemptNumber, epoch: EpochId) -> Job {
        let liar = self.providers[p as usize].liar;
        let fault = if !self.is_rough() {
            None
        } else if liar && self.chance.one_in(2) {
            Some(self.chance.pick(&LIES))
        } else if self.chance.one_in(self.shape.accidents * 3) {
            Some(self.chance.pick(&ACCIDENTS))
        } else {
            None
        };
        let mut step_ms = if self.shape.burst { 200 } else { self.chance.pick(&[2, 10, 40, 150]) };
        if fault == Some(Fault::Slow) {
            step_ms = self.chance.pick(&[2_000, 9_000, 30_000, 55_000, 70_000]);
            self.fault(Fault::Slow);
        }
        if fault == Some(Fault::NoCancelAck) {
            // Only a consumer that leaves in time shows it.
            step_ms = 3_000;
            let (o, wait) = (self.submissions[s as usize].operation, self.chance.between(100, 2_500));
            self.at(wait, Event::HangUp(o));
        }
        let ceiling = self.operation_of(s).output_ceiling;
        let planned =
            if fault == Some(Fault::EmptyFrames) { ceiling } else { self.chance.between(0, u64::from(ceiling)) as u32 };
        Job {
            submission: s,
            attempt,
            epoch,
            phase: Phase::Begin,
            fault,
            planned,
            tokens: 0,
            sequence: 0,
            step_ms,
            steps: 0,
            cancelled_at: None,
            lied: false,
        }
    }

    /// A job takes a step.
    pub fn work(&mut self, p: u32, run: u32, stream: StreamId) {
        let provider = &mut self.providers[p as usize];
        let Some(link) = provider.link.filter(|_| provider.run == run) else { return };
        if self.now < provider.hung_until {
            let until = provider.hung_until;
            return self.at_moment(until, Event::Work { provider: p, run, stream });
        }
        let Some(mut job) = provider.jobs.remove(&stream) else { return };
        if !provider.streams.is_live(stream) {
            return self.cancelled(p, link, stream, &job);
        }
        job.steps += 1;
        let wait = match job.phase {
            Phase::Begin => self.begin_job(link, stream, &mut job),
            Phase::Accepted => self.first_content(p, link, stream, &mut job),
            Phase::Streaming => self.more_content(p, link, stream, &mut job),
            Phase::Ended => {
                self.sign(p, link, stream, &job);
                Next::Done
            }
        };
        match wait {
            Next::Step => {
                let wait = job.step_ms;
                self.providers[p as usize].jobs.insert(stream, job);
                self.at(wait, Event::Work { provider: p, run, stream });
            }
            // It stays where it is until somebody cancels it.
            Next::Silence => {
                self.providers[p as usize].jobs.insert(stream, job);
            }
            Next::Done => {
                self.providers[p as usize].streams.finished(stream);
            }
        }
    }

    fn cancelled(&mut self, p: u32, link: u32, stream: StreamId, job: &Job) {
        if job.fault == Some(Fault::NoCancelAck) {
            self.fault(Fault::NoCancelAck);
        } else {
            if job.tokens > 0 {
                self.sign(p, link, stream, job);
            }
            self.say(link, stream, StreamFrame::CancelAck);
        }
        self.providers[p as usize].streams.finished(stream);
    }

    fn refuse_offer(&mut self, link: u32, stream: StreamId, codes: &[RefusalCode]) -> Next {
        let code = self.chance.pick(codes);
        self.say(link, stream, StreamFrame::Refused(code.number()));
        Next::Done
    }

    fn accept(&mut self, link: u32, stream: StreamId, attempt: AttemptNumber, epoch: EpochId) {
        self.say(link, stream, StreamFrame::Accepted { attempt, epoch });
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a fault shows in one place, and is nothing in the others")]
    fn begin_job(&mut self, link: u32, stream: StreamId, job: &mut Job) -> Next {
        use RefusalCode as Code;
        let (attempt, epoch) = (job.attempt, job.epoch);
        job.phase = Phase::Accepted;
        let Some(fault) = job.fault else {
            self.accept(link, stream, attempt, epoch);
            return Next::Step;
        };
        match fault {
            Fault::SilentToOffer => {
                self.fault(fault);
                return Next::Silence;
            }
            Fault::Refusal => {
                self.fault(fault);
                let codes =
                    [Code::Overloaded, Code::ModelNotLoaded, Code::UnknownEpoch, Code::CannotOpen, Code::Internal];
                return self.refuse_offer(link, stream, &codes);
            }
            Fault::ForeignRefusal => {
                self.fault(fault);
                let codes = [Code::InsufficientQuota, Code::AlreadyCompleted, Code::Forbidden, Code::RateLimitExceeded];
                return self.refuse_offer(link, stream, &codes);
            }
            Fault::InventedReceipt => {
                self.fault(fault);
                let p = self.links[link as usize].provider;
                let tokens = self.operation_of(job.submission).output_ceiling;
                let invented = self.receipt(p, &Job { tokens, ..job.clone() }, false);
                self.providers[p as usize].outbox.push(invented);
                return self.refuse_offer(link, stream, &[Code::Overloaded]);
            }
            Fault::ContentBeforeAcceptance => {
                self.fault(fault);
                self.data(link, stream, job, 0, 1, false);
            }
            Fault::WrongAttempt => {
                self.fault(fault);
                self.accept(link, stream, AttemptNumber(attempt.0 + 1), epoch);
                return Next::Silence;
            }
            Fault::ReceiptBeforeAcceptance => {
                self.fault(fault);
                job.lied = true;
                let p = self.links[link as usize].provider;
                self.sign(p, link, stream, job);
                return Next::Silence;
            }
            Fault::UnaskedCancelAck => {
                self.fault(fault);
                self.say(link, stream, StreamFrame::CancelAck);
            }
            Fault::SecondAcceptance => {
                self.fault(fault);
                self.accept(link, stream, attempt, epoch);
            }
            _ => {}
        }
        self.accept(link, stream, attempt, epoch);
        Next::Step
    }

    fn first_content(&mut self, p: u32, link: u32, stream: StreamId, job: &mut Job) -> Next {
        match job.fault {
            Some(fault @ Fault::SilentAfterAcceptance) => {
                self.fault(fault);
                return Next::Silence;
            }
            Some(fault @ Fault::ReceiptForNothing) => {
                self.fault(fault);
                self.data(link, stream, job, 0, 0, false);
                let tokens = self.operation_of(job.submission).output_ceiling;
                let invented = self.receipt(p, &Job { tokens, ..job.clone() }, false);
                self.providers[p as usize].outbox.push(invented);
                return Next::Silence;
            }
            Some(fault @ Fault::RefusalAfterAcceptance) => {
                self.fault(fault);
                return self.refuse_offer(link, stream, &[RefusalCode::Internal, RefusalCode::Overloaded]);
            }
            _ => {}
        }
        job.phase = Phase::Streaming;
        self.more_content(p, link, stream, job)
    }

    fn more_content(&mut self, p: u32, link: u32, stream: StreamId, job: &mut Job) -> Next {
        if job.sequence > 0
            && let Some(fault) = job.fault
            && let Some(next) = self.midway(p, link, stream, job, fault)
        {
            return next;
        }
        let step = self.chance.between(1, 6) as u32;
        let end = job.tokens + step >= job.planned;
        let mut tokens = if end { job.planned } else { job.tokens + step };
        if job.fault == Some(Fault::CountBeyondCeiling) && end {
            self.fault(Fault::CountBeyondCeiling);
            tokens = self.operation_of(job.submission).output_ceiling + 1;
        }
        let sequence = job.sequence;
        self.data(link, stream, job, sequence, tokens, end);
        job.sequence += 1;
        job.tokens = tokens;
        if !end {
            return Next::Step;
        }
        job.phase = Phase::Ended;
        match job.fault {
            Some(fault @ Fault::NoReceipt) => {
                self.fault(fault);
                Next::Silence
            }
            Some(fault @ Fault::ContentAfterEnd) => {
                self.fault(fault);
                self.data(link, stream, job, sequence + 1, tokens, false);
                Next::Step
            }
            _ => Next::Step,
        }
    }

    /// What goes wrong once content has come.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fault shows in one place, and is nothing in the others")]
    fn midway(&mut self, p: u32, link: u32, stream: StreamId, job: &mut Job, fault: Fault) -> Option<Next> {
        match fault {
            Fault::SilentMidway => {
                self.fault(fault);
                return Some(Next::Silence);
            }
            Fault::RefusalMidway => {
                self.fault(fault);
                return Some(self.refuse_offer(link, stream, &[RefusalCode::Internal]));
            }
            Fault::CountFalls if job.tokens > 0 => {
                self.fault(fault);
                let (sequence, tokens) = (job.sequence, job.tokens - 1);
                self.data(link, stream, job, sequence, tokens, false);
                (job.fault, job.lied) = (None, true);
                return Some(Next::Silence);
            }
            Fault::SequenceGap => {
                self.fault(fault);
                job.sequence += 1;
                (job.fault, job.lied) = (None, true);
            }
            Fault::EmptyFrames => {
                self.fault(fault);
                for _ in 0..3 {
                    let (sequence, tokens) = (job.sequence, job.tokens);
                    self.data(link, stream, job, sequence, tokens, false);
                    job.sequence += 1;
                }
                // Over many steps, or the queue between would overflow first.
                return (job.steps < 40).then_some(Next::Step);
            }
            Fault::EarlyReceipt => {
                self.fault(fault);
                self.sign(p, link, stream, job);
                (job.fault, job.lied) = (None, true);
            }
            Fault::ReceiptRunsAhead if job.tokens > 0 => {
                let tokens = self.operation_of(job.submission).output_ceiling;
                let ahead = self.receipt(p, &Job { tokens, ..job.clone() }, false);
                self.send_up(link, Up::Receipts(vec![ahead]));
                (job.fault, job.lied) = (None, true);
            }
            _ => {}
        }
        None
    }

    fn data(&mut self, link: u32, stream: StreamId, job: &Job, sequence: u32, tokens: u32, end: bool) {
        let mut origin = [0; 12];
        origin[..4].copy_from_slice(&job.submission.to_be_bytes());
        origin[4..8].copy_from_slice(&self.links[link as usize].provider.to_be_bytes());
        origin[8..].copy_from_slice(&job.attempt.0.to_be_bytes());
        self.say(link, stream, StreamFrame::Data { sequence, tokens, end, origin });
    }

    fn receipt(&mut self, p: u32, job: &Job, honest: bool) -> u32 {
        let input = self.operation_of(job.submission).input;
        self.receipts.push(Receipt {
            submission: job.submission,
            provider: p,
            epoch: job.epoch,
            attempt: job.attempt,
            input,
            output: job.tokens,
            forged: false,
            honest,
        });
        self.receipts.len() as u32 - 1
    }

    /// Signs a receipt, keeps it, and sends it.
    fn sign(&mut self, p: u32, link: u32, stream: StreamId, job: &Job) {
        let lie = job.fault.filter(|fault| {
            matches!(
                fault,
                Fault::InflatedReceipt
                    | Fault::ForgedReceipt
                    | Fault::ForeignReceipt
                    | Fault::StolenReceipt
                    | Fault::CountBeyondCeiling
                    | Fault::EarlyReceipt
            )
        });
        let number = self.receipt(p, job, lie.is_none() && !job.lied);
        match lie {
            Some(fault @ Fault::InflatedReceipt) => {
                self.fault(fault);
                self.receipts[number as usize].output += self.chance.between(1, 50) as u32;
            }
            Some(fault @ Fault::ForgedReceipt) => {
                self.fault(fault);
                self.receipts[number as usize].forged = true;
            }
            Some(fault @ Fault::ForeignReceipt) => {
                let other = self.chance.below(u64::from(number) + 1) as u32;
                if self.receipts[other as usize].submission != job.submission {
                    self.fault(fault);
                    return self.say(link, stream, StreamFrame::Final(other));
                }
            }
            // A receipt that another provider signed is presented as if it were to be paid here.
            Some(Fault::StolenReceipt) => {
                let other = self.chance.below(u64::from(number) + 1) as u32;
                self.send_up(link, Up::Receipts(vec![other]));
            }
            _ => {}
        }
        self.providers[p as usize].outbox.push(number);
        self.say(link, stream, StreamFrame::Final(number));
        if self.is_rough() && self.chance.one_in(40) {
            // Presented once more, as after a connection that broke before the acknowledgement came.
            self.send_up(link, Up::Receipts(vec![number]));
        }
    }
}

/// What a job does after a step.
enum Next {
    Step,
    Silence,
    Done,
}
