//! What must hold, looked at from beside the wiring: at every step, once a virtual second, and at the end.

mod end;
mod loading;

use darkbloom_ledger::{HoldState, Settled};
use darkbloom_registry::times;
use darkbloom_session::{Released, waits};
use darkbloom_types::{EpochId, NanoDollars, RefusalCode, Tier, TokenCount};
use darkbloom_wire::{RelayedData, limits};

use super::agenda::Now;
use super::doors::EPOCH_OPENS_MS;
use super::wiring::{Current, Relay};
use super::world::{Bill, MODELS, PRICE, Receipt, World, model, place_of, submission_of};

/// Rows that the registry believes at most.
const BELIEVED_ROWS_MAX: u32 = 256;
/// A free row may stay unknown to a request that waits for it until the registry looks, every second; whoever was woken
/// before it may be held up for as long again.
const STARVED_MS: u64 = 2_000;
/// A request whose consumer is gone may take: the write that fails, a cancel's acknowledgement, the store.
const LEFT_MS: u64 = limits::CONSUMER_WAIT.0 + waits::CANCEL.0 + 5_000;
/// The longest waits in the queue, for a row and for a model, and a little for the store.
const QUEUED_MS: u64 = waits::QUEUE.0 + 1_000;
const LOADING_MS: u64 = waits::LOADING.0 + 1_000;

/// A property that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// What is held against somebody, as plainly as it can be said: failures in a row, the pause that they brought, and who
/// tries whether it has recovered.
#[derive(Debug, Clone, Copy, Default)]
struct Blame {
    faults: u32,
    pauses: u32,
    until: Option<Now>,
    probe: Option<(u32, Now)>,
}

impl Blame {
    fn pauses(&self, now: Now) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn is_probed(&self, now: Now) -> bool {
        self.probe.is_some_and(|(_, since)| now.since(since) < times::PROBE.0)
    }

    fn given(&mut self, s: u32, now: Now) {
        if self.until.is_some() {
            self.probe = Some((s, now));
        }
    }

    fn failed(&mut self, s: Option<u32>, limit: u32, now: Now) {
        self.faults += 1;
        let was_open = self.until.is_some();
        if !was_open && self.faults < limit {
            return;
        }
        let probed = self.probe.take().is_some_and(|(probe, _)| Some(probe) == s);
        self.pauses += u32::from(!was_open || probed);
        let pause = (times::PAUSE.0 << (self.pauses - 1).min(10)).min(times::PAUSE_MAX.0);
        self.until = Some(now.after(pause));
    }

    /// Whoever tried says nothing.
    fn ended(&mut self, s: u32, now: Now) {
        if self.probe.is_some_and(|(probe, _)| probe == s) {
            (self.probe, self.until) = (None, Some(now));
        }
    }
}

/// That one request tries whether a provider has recovered, which is worth waiting for.
const PROBED: &str = "being tried by another request";

/// What the watch believes the registry must believe of one provider: its own, plainer book.
#[derive(Debug, Clone, Default)]
pub(super) struct Shadow {
    pub link: Option<u32>,
    heard: Now,
    draining: bool,
    challenged: Vec<([u8; 32], Now)>,
    pub use_until: Now,
    epoch: Option<EpochId>,
    /// The epoch before, and until when it is opened.
    before: Option<(EpochId, Now)>,
    /// What is held against it, and against it with each model.
    blame: Blame,
    blames: [Blame; MODELS],
    /// The connection whose end was counted.
    broken: Option<u32>,
    believed: u32,
    reserved: [u32; MODELS],
    /// Which models it serves, which of them it has in memory, which it was asked for, and which it could not load.
    has: [bool; MODELS],
    loaded: [bool; MODELS],
    asked: [Option<Now>; MODELS],
    /// Which of these it said to have begun.
    begun: [bool; MODELS],
    unloadable: [Option<Now>; MODELS],
}

impl Shadow {
    /// Whether a request that is sealed to this epoch may be offered here.
    fn opens(&self, epoch: EpochId, now: Now) -> bool {
        self.epoch == Some(epoch) || self.before.is_some_and(|(before, until)| before == epoch && now < until)
    }

    /// It failed with a model.
    fn fault(&mut self, number: usize, s: Option<u32>, now: Now) {
        self.blame.failed(s, times::FAULTS_IN_ALL_MAX, now);
        self.blames[number].failed(s, times::FAULTS_MAX, now);
    }

    /// Its connection is gone, or another one's.
    fn abandon_loading(&mut self, now: Now) {
        for number in (0..MODELS).filter(|number| self.begun[*number]).collect::<Vec<_>>() {
            self.fault(number, None, now);
        }
        (self.asked, self.begun) = ([None; MODELS], [false; MODELS]);
    }

    /// Whether it has a model, or is on its way to have it.
    fn brings(&self, number: usize, now: Now) -> bool {
        self.loaded[number] || self.asked[number].is_some_and(|at| now.since(at) < times::LOAD.0)
    }

    /// Whether it has a model, or would load it when it is asked.
    fn could_bring(&self, number: usize, now: Now) -> bool {
        self.loaded[number] || self.has[number] && self.unloadable[number].is_none_or(|until| now >= until)
    }

    /// Why it must get no work with a model, if it must not.
    fn barred(&self, number: usize, now: Now) -> Option<&'static str> {
        if self.link.is_none() {
            return Some("gone");
        }
        if self.draining {
            return Some("draining");
        }
        if now.since(self.heard) >= times::SILENCE.0 {
            return Some("silent");
        }
        if self.challenged.first().is_some_and(|(_, at)| now.since(*at) >= times::CHALLENGE_ANSWER.0) {
            return Some("not answering its challenge");
        }
        if now >= self.use_until {
            return Some("at the end of its epoch");
        }
        // The provider first, and then its model: as it is told why.
        [self.blame, self.blames[number]].iter().find_map(|blame| match (blame.pauses(now), blame.is_probed(now)) {
            (true, _) => Some("suspended"),
            (false, true) => Some(PROBED),
            (false, false) => None,
        })
    }
}

/// Findings, the digest of everything that happened, and the log.
#[derive(Debug)]
pub(super) struct Watch {
    pub findings: Vec<Finding>,
    pub digest: u64,
    pub log: Option<Vec<String>>,
    shadows: Vec<Shadow>,
}

impl Watch {
    pub fn new(log: bool) -> Self {
        // The offset basis of FNV-1a, 64 bits (draft-eastlake-fnv).
        Self { findings: Vec::new(), digest: 0xcbf2_9ce4_8422_2325, log: log.then(Vec::new), shadows: Vec::new() }
    }

    pub fn provider(&mut self) {
        self.shadows.push(Shadow::default());
    }

    pub fn shadow(&self, provider: u32) -> Option<&Shadow> {
        self.shadows.get(provider as usize)
    }

    /// The coordinator forgot everything; so does its shadow.
    pub fn forget(&mut self) {
        for shadow in &mut self.shadows {
            *shadow = Shadow::default();
        }
    }

    pub fn find(&mut self, now: Now, what: String) {
        self.note(now, || format!("FOUND: {what}"));
        self.findings.push(Finding { at_ms: now.0, what });
    }

    /// Mixes something that happened into the digest (a word at a time, after FNV-1a).
    pub fn digest(&mut self, now: Now, what: u64) {
        for word in [now.0, what] {
            self.digest = (self.digest ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub fn note(&mut self, now: Now, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(format!("{:>9} {}", now.0, what()));
        }
    }
}

impl World {
    fn shadow_on(&mut self, link: u32) -> Option<&mut Shadow> {
        let provider = self.links[link as usize].provider;
        self.watch.shadows.get_mut(provider as usize).filter(|shadow| shadow.link == Some(link))
    }

    pub fn watch_registered(&mut self, link: u32, epoch: EpochId, use_until: Now, claims: u32) {
        let (provider, now) = (self.links[link as usize].provider, self.now);
        let shadow = &mut self.watch.shadows[provider as usize];
        shadow.abandon_loading(now);
        // Only who is still there, and has the keys of its epoch, has those of the one before.
        let same = shadow.link.is_some() && shadow.epoch == Some(epoch);
        *shadow = Shadow {
            epoch: Some(epoch),
            before: shadow.before.filter(|_| same),
            link: Some(link),
            heard: now,
            use_until,
            blame: shadow.blame,
            blames: shadow.blames,
            broken: shadow.broken,
            believed: claims.min(BELIEVED_ROWS_MAX),
            ..Shadow::default()
        };
    }

    pub fn watch_beat(&mut self, link: u32) {
        let now = self.now;
        let draining = self.providers[self.links[link as usize].provider as usize].draining;
        if let Some(shadow) = self.shadow_on(link) {
            (shadow.heard, shadow.draining) = (now, draining);
        }
    }

    pub fn watch_answered(&mut self, link: u32, nonce: &[u8; 32]) {
        let now = self.now;
        if let Some(shadow) = self.shadow_on(link) {
            shadow.heard = now;
            let answered = shadow.challenged.iter().position(|(open, _)| open == nonce);
            shadow.challenged.drain(..answered.map_or(0, |at| at + 1));
        }
    }

    pub fn watch_challenged(&mut self, link: u32, nonce: [u8; 32]) {
        let now = self.now;
        if let Some(shadow) = self.shadow_on(link) {
            shadow.challenged.push((nonce, now));
        }
    }

    pub fn watch_epoch(&mut self, link: u32, epoch: EpochId, use_until: Now) {
        if let Some(shadow) = self.shadow_on(link) {
            let until = shadow.use_until.after(EPOCH_OPENS_MS);
            // The statement of the same epoch may come again.
            if let Some(before) = shadow.epoch.replace(epoch).filter(|before| *before != epoch) {
                shadow.before = Some((before, until));
            }
            shadow.use_until = use_until;
        }
    }

    /// A request is told that there is room: so there is, or nobody is left for whom it could wait.
    pub fn watch_woken(&mut self, s: u32) {
        if self.could_start(s).is_none() && self.could_take(s).is_some() {
            self.watch.find(self.now, format!("relay {s} is woken and can use no row that is free"));
        }
        if let Some(earlier) = self.overtaken(s) {
            self.watch.find(self.now, format!("relay {s} is woken before {earlier}, which came before it"));
        }
    }

    /// Whoever has waited longer than this request, waits on, and could use any row that it could.
    fn overtaken(&self, s: u32) -> Option<u32> {
        let since = |s: u32| self.submissions[s as usize].relay.as_ref().and_then(|relay| relay.queued_since);
        let (number, came) = (self.operation_of(s).model, since(s)?);
        let rows: Vec<u32> = self.able_with_room(s).collect();
        let waits = |t: &u32| {
            let submission = &self.submissions[*t as usize];
            !submission.room && submission.relay.as_ref().is_some_and(|relay| relay.queued)
        };
        let mut others = self.coordinator.live.values().copied().filter(waits);
        others.find(|t| {
            self.operation_of(*t).model == number
                // Accounts take turns.
                && self.operation_of(*t).account == self.operation_of(s).account
                && since(*t).is_some_and(|at| at < came)
                && !rows.is_empty()
                && rows.iter().all(|row| self.able_with_room(*t).any(|theirs| theirs == *row))
        })
    }

    pub fn watch_disconnected(&mut self, link: u32, gone: bool) {
        let is_present = self.shadow_on(link).is_some();
        if gone != is_present {
            self.watch.find(self.now, format!("the loss of connection {link} is taken for another provider's"));
        }
        let now = self.now;
        if let Some(shadow) = self.shadow_on(link) {
            shadow.link = None;
            shadow.reserved = [0; MODELS];
            shadow.abandon_loading(now);
        }
    }

    /// The router chose.
    pub fn watch_route(&mut self, s: u32, provider: u32, number: usize) {
        let now = self.now;
        let mut wrong = Vec::new();
        let recipients = &self.submissions[s as usize].recipients;
        let epoch = recipients.iter().find(|(id, _)| place_of(id) == provider).map(|(_, epoch)| *epoch);
        let shadow = &mut self.watch.shadows[provider as usize];
        if epoch.is_none_or(|epoch| !shadow.opens(epoch, now)) {
            wrong.push(format!("provider {provider} gets an offer that it cannot open"));
        }
        if let Some(why) = shadow.barred(number, now) {
            wrong.push(format!("provider {provider} gets an offer although it is {why}"));
        }
        if !shadow.loaded[number] {
            wrong.push(format!("provider {provider} gets an offer for a model that it does not have in memory"));
        }
        shadow.blame.given(s, now);
        shadow.blames[number].given(s, now);
        shadow.reserved[number] += 1;
        if shadow.reserved[number] > shadow.believed {
            wrong.push(format!(
                "provider {provider} has {} rows and {} are given out",
                shadow.believed, shadow.reserved[number]
            ));
        }
        let truth = self.truth(s);
        if truth.offered.contains(&provider) {
            wrong.push(format!("submission {s} is offered to provider {provider} again"));
        }
        truth.offered.push(provider);
        if truth.offered.len() > limits::ATTEMPTS_MAX as usize {
            wrong.push(format!("submission {s} is offered {} times", truth.offered.len()));
        }
        for what in wrong {
            self.watch.find(now, what);
        }
    }

    /// The machine says that a row is free again.
    pub fn watch_release(&mut self, s: u32, current: &Current, number: usize, released: Released) {
        let now = self.now;
        let shadow = &mut self.watch.shadows[current.provider as usize];
        if shadow.link == Some(current.link) {
            match shadow.reserved[number].checked_sub(1) {
                Some(left) => shadow.reserved[number] = left,
                None => self.watch.find(now, format!("submission {s} releases a row that was not given out")),
            }
        }
        let shadow = &mut self.watch.shadows[current.provider as usize];
        match released {
            // All answers on a connection break with it: that is one failure.
            Released::Failed if !current.gone || shadow.broken.replace(current.link) != Some(current.link) => {
                shadow.fault(number, Some(s), now);
            }
            // Who is gone is not there to be cleared.
            Released::Served if shadow.link.is_some() => {
                (shadow.blame, shadow.blames[number]) = (Blame::default(), Blame::default());
            }
            Released::Served | Released::Unused | Released::Failed => {
                shadow.blame.ended(s, now);
                shadow.blames[number].ended(s, now);
            }
        }
        // Honest or not: its row is busy until it hears of it, unless its own last word was that it is free.
        let link = &self.links[current.link as usize];
        let cancelled = link.streams.get(&current.stream).is_some_and(|used| used.cancelled);
        let free = cancelled || current.refused || released == Released::Served;
        if !free && !link.cut && link.known {
            let what = format!("submission {s} leaves provider {} at work and does not tell it", current.provider);
            self.watch.find(now, what);
        }
    }

    /// The machine says to pass a frame on.
    pub fn watch_relayed(&mut self, relay: &Relay, s: u32, provider: u32, data: &RelayedData) {
        let now = self.now;
        let honest = data.ciphertext.get(4..8) == Some(provider.to_be_bytes().as_slice());
        let truth = self.truth(s);
        let one = truth.by.is_none_or(|by| by == provider);
        if data.tokens.0 > 0 {
            truth.first_content.get_or_insert(now);
        }
        (truth.by, truth.relayed) = (Some(provider), data.tokens.0);
        if !one || !honest {
            self.watch.find(now, format!("submission {s} gets one answer from two providers"));
        }
        if relay.current.as_ref().is_some_and(|current| !current.accepted) {
            self.watch.find(now, format!("submission {s} gets content before an acceptance"));
        }
    }

    /// The ledger settled, now or before.
    pub fn watch_settled(&mut self, settled: &Settled, receipt: Option<u32>, late: bool) {
        if settled.already || settled.state == HoldState::Voided {
            return;
        }
        let now = self.now;
        let s = submission_of(&settled.request);
        let operation = self.operation_of(s);
        let (input_ceiling, output_ceiling) = (operation.input_ceiling, operation.output_ceiling);
        let truth = &self.submissions[s as usize].truth;
        let mut wrong = Vec::new();
        let Some(by) = truth.by.filter(|_| truth.relayed > 0) else {
            self.watch.find(now, format!("submission {s} is charged and nothing was relayed"));
            return;
        };
        if settled.provider.map(|provider| place_of(&provider)) != Some(by) {
            wrong.push(format!("submission {s} was answered by {by} and pays another"));
        }
        let signed = receipt.map(|number| &self.receipts[number as usize]);
        if signed.is_some_and(|receipt| receipt.forged || receipt.provider != by) {
            wrong.push(format!("submission {s} is settled by a receipt that its provider did not sign"));
        }
        // After a crash nobody but the provider knows what was relayed.
        let relayed = if late && (truth.died.is_some() || truth.store_failed) { u32::MAX } else { truth.relayed };
        let input = signed.map_or(0, |receipt| receipt.input.min(input_ceiling));
        let output = signed.map_or(u32::MAX, |receipt| receipt.output).min(relayed).min(output_ceiling);
        if (settled.input_tokens, settled.output_tokens) != (TokenCount(input), TokenCount(output)) {
            let (is, was) = (settled.output_tokens, settled.input_tokens);
            wrong.push(format!("submission {s} is charged {was} + {is} tokens instead of {input} + {output}"));
        }
        let price = PRICE.cost(TokenCount(input), TokenCount(output)).expect("a simulation's counts are small");
        if NanoDollars(settled.charge.0 + settled.unpaid.0) != price
            || settled.payout.0 + settled.fee.0 != settled.charge.0
        {
            wrong.push(format!("submission {s} is charged {} instead of {price}", settled.charge));
        }
        if settled.unpaid > NanoDollars::ZERO && !late {
            wrong.push(format!("submission {s} is not paid in full out of its own hold"));
        }
        for what in wrong {
            self.watch.find(now, what);
        }
    }

    /// A client was refused.
    pub fn watch_refused(&mut self, s: u32, code: RefusalCode) {
        use RefusalCode as Code;
        let ledgers = [Code::InsufficientQuota, Code::AlreadyCompleted, Code::OperationInProgress, Code::Forbidden];
        let nobodys = [Code::RateLimitExceeded];
        let refused = self.truth(s).hold_refused;
        if (ledgers.contains(&code) && !refused) || nobodys.contains(&code) {
            self.watch.find(self.now, format!("submission {s} is refused with {code}, which a provider made up"));
        }
    }

    /// A client checks the last word.
    pub fn watch_verified(&mut self, s: u32, tokens: u32, receipt: Option<&Receipt>, bill: Option<&Bill>) {
        let (Some(receipt), Some(bill)) = (receipt, bill) else {
            self.watch.find(self.now, format!("submission {s} ends without a receipt or a bill"));
            return;
        };
        let mut wrong = Vec::new();
        if receipt.forged || receipt.submission != submission_of(&bill.settled.request) || receipt.output != tokens {
            wrong.push(format!("submission {s} is given a receipt that does not verify"));
        }
        if bill.submission != s || bill.charge != bill.settled.charge {
            wrong.push(format!("submission {s} is given a bill over {} and paid {}", bill.charge, bill.settled.charge));
        }
        let paid = self.ledger.hold(bill.settled.request).and_then(|hold| hold.closed);
        let stands = paid.is_some_and(|paid| paid.state == bill.settled.state && paid.charge == bill.settled.charge);
        if !stands {
            wrong.push(format!("submission {s} has a bill that the books do not know"));
        }
        if tokens > 0 && bill.settled.state != HoldState::Settled {
            wrong.push(format!("submission {s} was answered and its hold is void"));
        }
        for what in wrong {
            self.watch.find(self.now, what);
        }
    }

    /// Once a second: who waits for what, and how long already.
    pub fn watch_sweep(&mut self) {
        let live: Vec<u32> = self.coordinator.live.values().copied().collect();
        for s in live {
            self.watch_relay(s);
        }
        self.watch_rows();
        self.watch_queues();
    }

    /// Nobody stands in a queue but requests that wait.
    fn watch_queues(&mut self) {
        for number in 0..MODELS {
            let waits = |s: &&u32| {
                let relay = self.submissions[**s as usize].relay.as_ref();
                relay.is_some_and(|relay| relay.queued) && self.operation_of(**s).model == number
            };
            let (waiting, stand) = (
                self.coordinator.live.values().filter(waits).count(),
                self.coordinator.registry.queued(&model(number)),
            );
            if stand > waiting {
                self.watch.find(self.now, format!("{stand} requests stand in the queue and {waiting} wait"));
            }
        }
    }

    fn watch_relay(&mut self, s: u32) {
        let now = self.now;
        let submission = &self.submissions[s as usize];
        let Some(relay) = submission.relay.as_ref() else { return };
        let mut wrong = Vec::new();
        if let Some(current) = relay.current.as_ref() {
            let link = &self.links[current.link as usize];
            // A write that blocks may hold the news up for a while.
            let lost = link.cut && !link.known && relay.block.is_none() && !current.gone;
            if lost {
                wrong.push(format!("relay {s} waits for a connection that is gone"));
            }
        }
        if submission.client_closed_at.is_some_and(|at| now.since(at) > LEFT_MS) {
            wrong.push(format!("relay {s} works on for a consumer that is gone"));
        }
        let longest = if relay.waits_for_load { LOADING_MS } else { QUEUED_MS };
        if relay.block.is_none() && relay.queued_since.is_some_and(|at| now.since(at) > longest) {
            wrong.push(format!("relay {s} is in the queue for too long"));
        }
        let forgotten = (relay.queued && !submission.room).then(|| match (self.could_start(s), self.could_take(s)) {
            (Some(provider), _) => Some(format!("while provider {provider} has a free row")),
            (None, None) => Some("for nobody".to_owned()),
            (None, Some(_)) => None,
        });
        for what in wrong {
            self.watch.find(now, what);
        }
        let Some(relay) = self.submissions[s as usize].relay.as_mut() else { return };
        let Some(why) = forgotten.flatten() else {
            relay.starved_since = None;
            return;
        };
        let since = *relay.starved_since.get_or_insert(now);
        if now.since(since) > STARVED_MS {
            let what = format!("relay {s} waits for {} ms {why}", now.since(since));
            self.watch.find(now, what);
        }
    }

    /// Whether a row is free that this request could have.
    fn could_start(&self, s: u32) -> Option<u32> {
        self.able_with_room(s).next()
    }

    /// Who could take this request now.
    fn able_with_room(&self, s: u32) -> impl Iterator<Item = u32> {
        let number = self.operation_of(s).model;
        let able = self.able(s).filter(move |(_, shadow)| shadow.loaded[number]);
        let free = able.filter(move |(_, shadow)| shadow.reserved[number] < shadow.believed);
        free.map(|(place, _)| place)
    }

    /// Whether somebody could take this request if there were room, or when its model is there.
    fn could_take(&self, s: u32) -> Option<u32> {
        let (number, now) = (self.operation_of(s).model, self.now);
        let brings = |shadow: &Shadow| match shadow.barred(number, now) {
            Some(_) => shadow.blame.is_probed(now) || shadow.could_bring(number, now),
            None => shadow.brings(number, now),
        };
        self.hoped(s).find(|(_, shadow)| brings(shadow)).map(|(place, _)| place)
    }

    /// Who could take this request, but for room.
    fn able(&self, s: u32) -> impl Iterator<Item = (u32, &Shadow)> {
        let (number, now) = (self.operation_of(s).model, self.now);
        self.hoped(s).filter(move |(_, shadow)| shadow.barred(number, now).is_none())
    }

    /// The same, and those whom another request tries.
    fn hoped(&self, s: u32) -> impl Iterator<Item = (u32, &Shadow)> {
        let number = self.operation_of(s).model;
        let (submission, now) = (&self.submissions[s as usize], self.now);
        let truth = &self.submissions[submission_of(&submission.request) as usize].truth;
        submission.recipients.iter().filter_map(move |(id, epoch)| {
            let place = place_of(id);
            let shadow = &self.watch.shadows[place as usize];
            let may = shadow.barred(number, now).is_none_or(|why| why == PROBED) && shadow.opens(*epoch, now);
            let may = may && !truth.offered.contains(&place);
            may.then_some((place, shadow))
        })
    }

    /// The registry's rows are those that the machines reserved and did not release.
    fn watch_rows(&mut self) {
        let mut wrong = Vec::new();
        for view in self.coordinator.registry.views(Tier::None, self.now.into(), self.now.into()) {
            let place = place_of(&view.provider);
            let shadow = &self.watch.shadows[place as usize];
            for (number, reserved) in shadow.reserved.iter().enumerate() {
                let load = view.models.iter().find(|load| load.model == model(number));
                if load.is_some_and(|load| load.rows_used != *reserved) {
                    let used = load.map_or(0, |load| load.rows_used);
                    wrong.push(format!("provider {place} has {used} rows in use, {reserved} were given out"));
                }
            }
        }
        for what in wrong {
            self.watch.find(self.now, what);
        }
    }
}
