//! The coordinator's doors: submissions, providers' connections, the sweeper, death and restart.

use darkbloom_registry::{CandidateView, Registration, Stated};
use darkbloom_session::waits;
use darkbloom_types::{EpochId, ProviderId, RefusalCode, Standing, Tier, TokenCount};
use darkbloom_wire::{ModelLoad, RelayedRefused};

use super::agenda::{Event, Now};
use super::faults::{Fault, Planted};
use super::store::Job;
use super::wiring::Block;
use super::world::{Down, MODELS, Stage, Up, World, connection_id, link_of, model, place_of, provider_id};

const SWEEP_MS: u64 = 1_000;
/// A connection that another process took over from is closed after this long, as the program does.
const REPLACED_MS: u64 = 60_000;
/// A provider opens an epoch for so long after clients stop sealing to it.
pub(super) const EPOCH_OPENS_MS: u64 = 10 * 60_000;
/// The network gives a silent connection up after this long.
const SILENT_LINK_MS: u64 = 60_000;
/// Longest wait of one operation until its end: three sealings of the longest request each, with the waits around it.
pub(super) const OPERATION_MS: u64 = 3 * (waits::TOTAL.0 + 5 * 60_000);

impl World {
    pub fn start_coordinator(&mut self) {
        self.coordinator.up = true;
        self.coordinator.run += 1;
        let orphans: Vec<_> = self.ledger.holds().filter(|hold| hold.closed.is_none()).collect();
        let orphans: Vec<_> = orphans.into_iter().map(|hold| hold.request.request).collect();
        for request in orphans {
            let silence = !self.bug(Planted::OrphansVoidedForGood);
            self.write(None, Job::Void { request, silence });
        }
        self.at(SWEEP_MS, Event::Sweep(self.coordinator.run));
    }

    /// The coordinator dies: whatever it knew is lost.
    pub fn crash_coordinator(&mut self) {
        self.fault(Fault::CoordinatorCrash);
        self.watch.note(self.now, || "the coordinator dies".to_owned());
        self.coordinator.up = false;
        self.coordinator.registry = Default::default();
        self.coordinator.live.clear();
        self.coordinator.resealing.clear();
        self.coordinator.unfinished.clear();
        self.watch.forget();
        for s in 0..self.submissions.len() {
            let (now, died) = (self.now, self.submissions[s].relay.take().is_some());
            if died {
                self.truth(s as u32).died = Some(now);
            }
            let submission = &mut self.submissions[s];
            submission.room = false;
            // Whoever waits for an answer learns that nobody is there.
            if !submission.client_left && !submission.broken {
                submission.broken = true;
                submission.response.clear();
                submission.response.push_back(None);
                self.at(1, Event::ToClient(s as u32));
            }
        }
        for link in 0..self.links.len() as u32 {
            if !self.links[link as usize].cut {
                self.cut_link(link);
            }
        }
        let wait = self.chance.between(200, 8_000);
        self.at(wait, Event::CoordinatorStart);
    }

    /// A submission arrives.
    pub fn submit(&mut self, s: u32) {
        let submission = &self.submissions[s as usize];
        if !self.coordinator.up {
            return self.refuse_at_door(s, RefusalCode::CoordinatorUnreachable);
        }
        let request = submission.request;
        if self.coordinator.live.contains_key(&request) || self.coordinator.is_unfinished(&request) {
            return self.refuse_at_door(s, RefusalCode::Replayed);
        }
        self.coordinator.live.insert(request, s);
        self.begin_relay(s);
    }

    fn refuse_at_door(&mut self, s: u32, code: RefusalCode) {
        self.truth(s).hold_refused = true;
        let frame = RelayedRefused {
            code: code.number(),
            detail: String::new(),
            retry_after: None,
            sealed: None,
            attempts: Vec::new().into(),
            bill: None,
            timing: None,
        };
        self.respond(s, Some(frame.into()));
        self.respond(s, None);
    }

    pub fn client_closed(&mut self, s: u32) {
        let submission = &mut self.submissions[s as usize];
        submission.client_closed = true;
        submission.client_closed_at.get_or_insert(self.now);
        let writing = submission.relay.as_ref().is_some_and(|relay| matches!(relay.block, Some(Block::Writing(..))));
        if writing { self.write_failed(s, None) } else { self.drive(s) }
    }

    /// What a provider says.
    pub fn coordinator_hears(&mut self, link: u32) {
        let connection = &mut self.links[link as usize];
        if connection.cut || connection.mute || !self.coordinator.up {
            return;
        }
        if self.now < connection.stalled_until {
            let until = connection.stalled_until;
            return self.at_moment(until, Event::ToCoordinator(link));
        }
        let Some(frame) = connection.up.pop_front() else { return };
        connection.heard = self.now;
        let provider = connection.provider;
        let id = connection_id(link);
        self.watch.digest(self.now, 1 << 40 | u64::from(link));
        match frame {
            Up::Hello { epoch, use_until } => self.introduced(link, epoch, use_until),
            Up::Beat => {
                let draining = self.providers[provider as usize].draining && !self.bug(Planted::DrainingIgnored);
                let models = self.loads(provider);
                self.coordinator.registry.heartbeat(&id, models, draining, self.now.into(), self.now.into());
                self.watch_beat(link);
                self.watch_residences(link);
                self.pass_news();
            }
            Up::ChallengeAnswer(nonce) => {
                if !self.coordinator.registry.open_challenges(&id).contains(&nonce) {
                    return self.coordinator_drops(link);
                }
                self.coordinator.registry.challenge_answered(&id, &nonce, self.now.into(), self.now.into());
                self.watch_answered(link, &nonce);
                self.pass_news();
            }
            Up::LoadReport { number, outcome } => self.load_reported(link, number, outcome),
            Up::Stream(stream, frame) => self.deliver(link, stream, frame),
            Up::Receipts(receipts) => {
                for receipt in receipts {
                    self.late_receipt(link, receipt);
                }
            }
            Up::Epoch { epoch, use_until } => {
                // More epochs than a provider may need are a reason to part.
                if !self.coordinator.registry.epoch_turn(&id, self.now.into()) {
                    return self.coordinator_drops(link);
                }
                let stated = self.stated(provider, epoch, use_until);
                let next = self.coordinator.registry.next_epoch(&id, stated, self.now.into(), self.now.into());
                assert_eq!(next, Ok(None), "nobody goes back to an epoch, or has too many");
                self.watch_epoch(link, epoch, use_until);
                self.pass_news();
            }
        }
    }

    fn loads(&self, p: u32) -> Vec<ModelLoad> {
        let provider = &self.providers[p as usize];
        let row_tokens = TokenCount(1_024);
        let load = |number| ModelLoad {
            model: model(number),
            rows_max: provider.claims,
            rows_used: 0,
            waiting: 0,
            row_tokens,
            residence: self.residence(p, number),
            pace: None,
        };
        (0..MODELS).filter(|number| provider.models[*number]).map(load).collect()
    }

    fn stated(&self, provider: u32, epoch: EpochId, use_until: Now) -> Stated {
        let told = if self.bug(Planted::EpochEndIgnored) { use_until.after(u64::from(u32::MAX)) } else { use_until };
        let models = (0..MODELS).filter(|number| self.providers[provider as usize].models[*number]).map(model);
        Stated {
            statement: Vec::new().into(),
            epoch,
            tier: Tier::SelfSigned,
            shut: Vec::new(),
            shadow: Vec::new(),
            use_until: told.into(),
            open_until: use_until.after(EPOCH_OPENS_MS).into(),
            models: models.collect(),
            known_at: self.now.into(),
        }
    }

    fn introduced(&mut self, link: u32, epoch: EpochId, use_until: Now) {
        self.links[link as usize].known = true;
        let provider = self.links[link as usize].provider;
        let registration = Registration {
            provider: provider_id(provider),
            connection: connection_id(link),
            number: u64::from(link),
            stated: self.stated(provider, epoch, use_until),
            models: self.loads(provider),
            standing: Standing::Clean,
            hardware: None,
        };
        let (now, wall) = (self.now.into(), self.now.into());
        let registered = self.coordinator.registry.register(registration, now, wall, &mut self.chance);
        let Ok(registered) = registered else {
            return self.coordinator_drops(link);
        };
        assert!(!registered.standing_changed, "each identity has one process at a time");
        let claims = self.providers[provider as usize].claims;
        self.watch_registered(link, epoch, use_until, claims);
        self.watch_residences(link);
        self.pass_news();
        if let Some(old) = registered.replaced {
            let link = link_of(&old.connection);
            // Another process's connection may finish its work; of this one's process there is nobody to do so.
            if old.given_up { self.coordinator_drops(link) } else { self.at(REPLACED_MS, Event::CoordinatorSees(link)) }
        }
    }

    /// The coordinator closes a connection, or sees that it is closed.
    pub fn coordinator_drops(&mut self, link: u32) {
        if !self.links[link as usize].cut {
            self.cut_link(link);
        }
        if !std::mem::take(&mut self.links[link as usize].known) {
            return;
        }
        self.watch.note(self.now, || format!("the coordinator loses connection {link}"));
        let gone = self.coordinator.registry.disconnected(&connection_id(link), self.now.into(), self.now.into());
        self.watch_disconnected(link, gone.is_some());
        self.pass_news();
        if self.bug(Planted::LossNotTold) {
            return;
        }
        let streams: Vec<_> = self.links[link as usize].streams.values().map(|used| used.submission).collect();
        for s in streams {
            let Some(relay) = self.submissions[s as usize].relay.as_mut() else { continue };
            if let Some(current) = relay.current.as_mut().filter(|current| current.link == link) {
                current.gone = true;
                self.at(0, Event::Drive(s));
            }
        }
    }

    /// What the program checks before it settles a receipt that is presented again.
    fn late_receipt(&mut self, link: u32, number: u32) {
        let receipt = &self.receipts[number as usize];
        let presenter = self.links[link as usize].provider;
        if receipt.forged && !self.bug(Planted::SignatureNotChecked) {
            return;
        }
        if receipt.provider != presenter {
            return self.fault(Fault::StolenReceipt);
        }
        let request = self.submissions[receipt.submission as usize].request;
        let live = self.coordinator.live.contains_key(&request) || self.coordinator.resealing.contains_key(&request);
        if live && !self.bug(Planted::LiveRequestSettledByReceipt) {
            return self.fault(Fault::ReceiptRunsAhead);
        }
        if self.ledger.hold(request).is_none() {
            return self.send_down(link, Down::Ack(number));
        }
        self.write(None, Job::Late { link, receipt: number });
    }

    pub fn sweep(&mut self, run: u32) {
        if run != self.coordinator.run || !self.coordinator.up {
            return;
        }
        for (connection, nonce) in self.coordinator.registry.challenges_due(self.now.into(), &mut self.chance) {
            let link = link_of(&connection);
            self.watch_challenged(link, nonce);
            if self.bug(Planted::ChallengesWaved) {
                self.coordinator.registry.challenge_answered(&connection, &nonce, self.now.into(), self.now.into());
            }
            self.send_down(link, Down::Challenge(nonce));
        }
        if self.bug(Planted::SilenceNotSeen) {
            for link in 0..self.links.len() as u32 {
                self.coordinator.registry.heard(&connection_id(link), self.now.into());
            }
        }
        if !self.bug(Planted::TimeNotTold) {
            self.coordinator.registry.tick(self.now.into(), self.now.into());
            self.watch_loads();
            self.pass_news();
        }
        for (s, job) in std::mem::take(&mut self.coordinator.unfinished) {
            self.write_for(s, job);
        }
        self.sweep_holds();
        for link in 0..self.links.len() as u32 {
            let connection = &self.links[link as usize];
            if connection.known && self.now.since(connection.heard) > SILENT_LINK_MS {
                self.coordinator_drops(link);
            }
        }
        self.watch_sweep();
        self.at(SWEEP_MS, Event::Sweep(run));
    }

    fn sweep_holds(&mut self) {
        let now = self.now;
        if !self.bug(Planted::ResealsNeverOverdue) {
            let overdue = self.coordinator.resealing.extract_if(.., |_, waiting| now >= waiting.until);
            let overdue: Vec<_> = overdue.map(|(request, _)| request).collect();
            for request in overdue {
                self.write(None, Job::Void { request, silence: false });
            }
        }
        // The program asks every second; holds live for half an hour, so that here less often is as good.
        let hasty = self.bug(Planted::HoldsExpireUnderRequests);
        if !hasty && !(now.0 / SWEEP_MS).is_multiple_of(32) {
            return;
        }
        let open =
            self.ledger.holds().filter(|hold| hold.closed.is_none() && Now::from(hold.request.expires_at) <= now);
        let expired: Vec<_> = open.map(|hold| hold.request.request).collect();
        for request in expired {
            if hasty || !self.coordinator.live.contains_key(&request) {
                self.write(None, Job::Void { request, silence: true });
            }
        }
    }

    /// The candidates of a model as the coordinator would sign them now, and until when each may be sealed to.
    pub fn fresh_list(&mut self, number: usize) -> Vec<(ProviderId, EpochId, Now)> {
        let found =
            self.coordinator.registry.candidates(&model(number), self.now.into(), self.now.into(), &mut self.chance);
        let entry = |view: CandidateView| {
            let until = self.watch.shadow(place_of(&view.provider)).map_or(Now(0), |shadow| shadow.use_until);
            (view.provider, view.epoch, until)
        };
        found.into_iter().map(entry).collect()
    }

    /// Moves on from one stage to the next when nothing is left to do in it.
    pub fn next_stage(&mut self) {
        let idle = self.coordinator.up && self.coordinator.live.is_empty() && self.coordinator.resealing.is_empty();
        let ended = self.operations.iter().all(|operation| operation.ending.is_some());
        match self.stage {
            Stage::Load if self.arrived >= self.shape.requests && self.now.since(self.last_arrival) > 5_000 => {
                self.stage = Stage::Calm;
            }
            Stage::Calm if idle && ended => {
                self.stage = Stage::Receipts { until: self.now.after(90_000) };
                self.reconnect_all();
            }
            Stage::Calm if self.now.since(self.last_arrival) > OPERATION_MS => {
                let open = self.operations.iter().filter(|operation| operation.ending.is_none()).count();
                let (live, waiting) = (self.coordinator.live.len(), self.coordinator.resealing.len());
                self.watch.find(
                    self.now,
                    format!("{open} operations never end, {live} relays live on, {waiting} wait for a reseal"),
                );
            }
            Stage::Receipts { until } if self.now >= until => {
                let open = self.ledger.holds().any(|hold| hold.closed.is_none());
                self.watch_calm();
                // A hold whose end could not be written is given back when its time is over.
                let wait = if open { 37 * 60_000 } else { 0 };
                self.stage = Stage::Overdue { until: self.now.after(wait) };
            }
            Stage::Overdue { until } if self.now >= until => {
                self.stage = Stage::LastReceipts { until: self.now.after(90_000) };
                self.reconnect_all();
            }
            Stage::LastReceipts { until } if self.now >= until => self.stage = Stage::Over,
            Stage::Load
            | Stage::Calm
            | Stage::Receipts { .. }
            | Stage::Overdue { .. }
            | Stage::LastReceipts { .. }
            | Stage::Over => {}
        }
    }

    /// Every provider's connection breaks once, so that each presents what was not acknowledged.
    fn reconnect_all(&mut self) {
        for link in 0..self.links.len() as u32 {
            if !self.links[link as usize].cut {
                self.cut_link(link);
            }
        }
    }
}
