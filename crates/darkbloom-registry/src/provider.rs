//! One connected provider.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use darkbloom_types::{
    CatalogueDigest, ConnectionId, EpochId, Gate, Millis, MonoMillis, ProviderId, RequestId, Standing, Tier,
    TokenCount, Turns, UnixMillis, armed,
};
use darkbloom_wire::{LoadOutcome, ModelLoad, Residence};

use crate::cost;
use crate::health::{Fault, Health, Outcome};
use crate::pace::Pace;

/// How long things may take.
pub mod times {
    use darkbloom_types::Millis;
    pub use darkbloom_wire::limits::SILENCE;

    /// Least and most time between two challenges of one provider; the moment between is drawn.
    pub const CHALLENGE_AFTER: (Millis, Millis) = (Millis::from_minutes(2), Millis::from_minutes(6));
    /// A challenge is answered within this time: a slow hardware key takes a second.
    pub const CHALLENGE_ANSWER: Millis = Millis::from_secs(30);
    /// Challenges that may wait for an answer: a machine that slept answers them one after the other.
    pub const CHALLENGES_OPEN_MAX: usize = 4;
    /// Epochs by which a second process with the same key is noticed: those of an hour in which a provider starts again every
    /// minute.
    pub const INTRODUCED_MAX: usize = 64;
    /// Providers that are remembered while they are away.
    pub const AWAY_MAX: usize = 10_000;
    /// Failures in a row with one model after which a provider pauses with it.
    pub const FAULTS_MAX: u32 = 3;
    /// Failures in a row with whatever model after which it pauses altogether.
    pub const FAULTS_IN_ALL_MAX: u32 = 5;
    /// How long it pauses; then one request may try. Each pause in a row is twice as long.
    pub const PAUSE: Millis = Millis::from_secs(30);
    /// The longest pause.
    pub const PAUSE_MAX: Millis = Millis::from_minutes(10);
    /// A request that tries whether a provider has recovered is over by then, as any is.
    pub const PROBE: Millis = darkbloom_wire::limits::HOLD_LIFE;
    /// Providers that are looked at again, because of time alone, before a list is made or a request refused; the rest is for
    /// the next tick.
    pub const LOOKED_AT: usize = 32;
    /// Requests that a provider has answered when it is no newcomer any more.
    pub const NEWCOMER: u32 = 16;
    /// How long others are preferred to a provider that called a request wrong which another answered. As short as a pause:
    /// a consumer and a provider that answers anything could make any other look so, at the price of the answers.
    pub const DOUBT: Millis = PAUSE;
    /// A provider may begin an epoch this often. It does so every 50 minutes; sooner only when its set against replays is
    /// full, which takes an hour of 31 requests a second.
    pub const EPOCH_EVERY: Millis = Millis::from_minutes(5);
    /// Epochs that it may begin at once after a quiet time.
    pub const EPOCH_BURST: u32 = 4;
    /// How long a model may take to be loaded, with its file read from a slow disk: 40 GB at 250 MB a second. Requests wait
    /// for it as long.
    pub const LOAD: Millis = darkbloom_wire::limits::LOAD_WAIT;
    /// How long a provider is not asked again for a model that it could not load.
    pub const LOAD_PAUSE: Millis = Millis::from_secs(30);
    /// How long a model that was loaded stays before demand for another may take its place.
    pub const DWELL: Millis = Millis::from_minutes(5);
    /// How often demand is looked at.
    pub const DEMAND: Millis = Millis::from_secs(10);
}

/// A provider's signed statement of one epoch, as it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The signed statement, for candidates: shared, so that naming it copies nothing.
    pub statement: Arc<[u8]>,
    /// The epoch.
    pub epoch: EpochId,
    /// What is proven in it.
    pub tier: Tier,
    /// The gates of the operator's policy that keep it from work.
    pub shut: Vec<Gate>,
    /// Those that would if they were enforced.
    pub shadow: Vec<Gate>,
    /// When clients stop sealing to it.
    pub use_until: UnixMillis,
    /// When the provider stops opening it.
    pub open_until: UnixMillis,
    /// The models that it names: no others are believed to be served.
    pub models: Vec<CatalogueDigest>,
    /// When the network could know it first.
    pub known_at: UnixMillis,
}

/// What was verified about a provider when it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub provider: ProviderId,
    /// On which connection.
    pub connection: ConnectionId,
    /// The connection's number: of two, the later one has the greater.
    pub number: u64,
    /// The statement of its current epoch.
    pub stated: Stated,
    /// What it says that it has loaded.
    pub models: Vec<ModelLoad>,
    /// What is held against the identity since longer than this process runs.
    pub standing: Standing,
    /// What kind of machine it says that it is, for those that have not been measured yet.
    pub hardware: Option<String>,
}

/// Rows that a provider is believed to have: no engine of today has more, and a boast must not draw all work.
const ROWS_MAX: u32 = 256;

/// What is held against an identity, whichever connection it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// What failed checks and the operator have to say.
    pub standing: Standing,
    /// Whether it may be asked at all.
    pub health: Health,
    /// Whether it may be asked for a model; models with which nothing is wrong are left out.
    pub models: Vec<(CatalogueDigest, Health)>,
    /// Until when others are preferred to it.
    pub doubted_until: Option<MonoMillis>,
    /// Of its latest requests, how many it declined or failed, in parts of a thousand.
    pub declined_permille: u16,
    /// Requests that it has answered.
    pub served: u32,
    /// The connection whose end was counted as a failure.
    pub broken: Option<ConnectionId>,
}

impl Record {
    /// How it stands with a model.
    pub fn health_of(&self, model: &CatalogueDigest) -> Health {
        self.models.iter().find(|(known, _)| known == model).map(|(_, health)| *health).unwrap_or_default()
    }

    fn change<T>(&mut self, model: &CatalogueDigest, change: impl FnOnce(&mut Health) -> T) -> T {
        let at = self.models.iter().position(|(known, _)| known == model).unwrap_or_else(|| {
            self.models.push((*model, Health::default()));
            self.models.len() - 1
        });
        let result = change(&mut self.models[at].1);
        if self.models[at].1.is_clean() {
            self.models.swap_remove(at);
        }
        result
    }

    /// Whether the next request to it tries whether it has recovered.
    pub fn wants_probe(&self, model: &CatalogueDigest, now: MonoMillis) -> bool {
        self.health.wants_probe(now) || self.health_of(model).wants_probe(now)
    }

    /// A request got a row.
    pub fn given(&mut self, model: &CatalogueDigest, request: RequestId, now: MonoMillis) {
        self.health.given(request, now);
        if !self.models.is_empty() {
            self.change(model, |health| health.given(request, now));
        }
    }

    /// A load failed.
    pub fn load_failed(&mut self, model: &CatalogueDigest, now: MonoMillis) {
        self.failed(model, RequestId([0; 16]), now);
    }

    fn failed(&mut self, model: &CatalogueDigest, request: RequestId, now: MonoMillis) {
        self.health.failed(request, times::FAULTS_IN_ALL_MAX, now);
        if self.models.len() < darkbloom_wire::limits::MODELS_PER_PROVIDER_MAX || !self.health_of(model).is_clean() {
            self.change(model, |health| health.failed(request, times::FAULTS_MAX, now));
        }
    }

    /// A row came back. Whether that opened what was shut: all that were idle may then be used.
    pub fn ended(
        &mut self,
        model: &CatalogueDigest,
        request: RequestId,
        on: &ConnectionId,
        outcome: Outcome,
        now: MonoMillis,
    ) -> bool {
        let learn = |known: u16, of: u32| ((u32::from(known) * 7 + of) / 8) as u16;
        let counts = match outcome {
            Outcome::Served(_) => {
                self.served = self.served.saturating_add(1);
                self.declined_permille = learn(self.declined_permille, 0);
                let opened = self.health.served();
                return !self.models.is_empty() && self.change(model, Health::served) || opened;
            }
            // All answers on a connection break with it.
            Outcome::Failed(Fault::Broken) => self.broken.replace(*on) != Some(*on),
            Outcome::Failed(Fault::Error | Fault::Silence | Fault::Lie) => true,
            Outcome::Declined | Outcome::Unused => false,
        };
        if counts || outcome == Outcome::Declined {
            self.declined_permille = learn(self.declined_permille, 1_000);
        }
        if counts {
            self.failed(model, request, now);
            return false;
        }
        self.health.said_nothing(request, now);
        if !self.models.is_empty() {
            self.change(model, |health| health.said_nothing(request, now));
        }
        false
    }

    /// What is held against an identity that this one took over from.
    pub fn inherit(&mut self, old: Self) {
        if self.health.failures() < old.health.failures() {
            self.health = old.health;
        }
        for (model, health) in old.models {
            if self.health_of(&model).failures() < health.failures() {
                self.change(&model, |own| *own = health);
            }
        }
    }

    pub fn is_doubted(&self, now: MonoMillis) -> bool {
        self.doubted_until.is_some_and(|until| now < until)
    }
}

/// A challenge that was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Challenged {
    pub nonce: [u8; 32],
    /// When first.
    pub sent: MonoMillis,
    /// How many answers may come.
    pub times: u32,
}

/// More epochs that still open than any provider has: each start makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyEpochs;

/// The epochs that connections of an identity stated, the latest last. The keys of an epoch live in one process's memory, and a
/// process goes from one epoch to the next and never back: one that comes again after another shows that two processes live.
#[derive(Debug, Clone, Default)]
pub(crate) struct Introduced(Vec<(EpochId, UnixMillis)>);

impl Introduced {
    /// An epoch is stated that opens until then. Whether that shows a second process.
    pub fn again(&mut self, epoch: EpochId, open_until: UnixMillis, wall: UnixMillis) -> Result<bool, TooManyEpochs> {
        if self.0.last().is_some_and(|(last, _)| *last == epoch) {
            return Ok(false);
        }
        // An epoch that opens no more is stated no more.
        self.0.retain(|(known, until)| wall < *until || *known == epoch);
        let known = self.0.len();
        if known >= times::INTRODUCED_MAX && !self.0.iter().any(|(known, _)| *known == epoch) {
            // None gives way: whoever fills the list would hide another's epoch.
            return Err(TooManyEpochs);
        }
        self.0.retain(|(known, _)| *known != epoch);
        let second = self.0.len() < known;
        self.0.push((epoch, open_until));
        Ok(second)
    }
}

/// What is remembered of an identity that is not connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gone {
    pub record: Record,
    pub introduced: Introduced,
    /// The number of its last connection.
    pub number: u64,
}

/// Those that are not connected. Where there is no room for another, the one that went first is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Away {
    by_id: HashMap<ProviderId, (u64, Gone)>,
    order: BTreeMap<u64, ProviderId>,
    next: u64,
}

impl Away {
    pub fn get(&self, id: &ProviderId) -> Option<&Gone> {
        self.by_id.get(id).map(|(_, gone)| gone)
    }

    pub fn get_mut(&mut self, id: &ProviderId) -> Option<&mut Gone> {
        self.by_id.get_mut(id).map(|(_, gone)| gone)
    }

    pub fn take(&mut self, id: &ProviderId) -> Option<Gone> {
        let (place, gone) = self.by_id.remove(id)?;
        self.order.remove(&place);
        Some(gone)
    }

    pub fn put(&mut self, id: ProviderId, gone: Gone) {
        self.take(&id);
        if self.by_id.len() >= times::AWAY_MAX
            && let Some((_, first)) = self.order.pop_first()
        {
            self.by_id.remove(&first);
        }
        self.order.insert(self.next, id);
        self.by_id.insert(id, (self.next, gone));
        self.next += 1;
    }
}

#[derive(Debug)]
pub(crate) struct Provider {
    pub registration: Registration,
    /// The epoch before this one and until when clients may still seal to it: requests in flight name it.
    pub previous_epoch: Option<(EpochId, UnixMillis)>,
    pub heard: MonoMillis,
    pub draining: bool,
    /// Rows that this coordinator gave out and did not get back, a model each.
    pub reserved: Vec<(CatalogueDigest, u32)>,
    pub record: Record,
    /// The epochs with which it introduced itself.
    pub introduced: Introduced,
    /// The challenges that are not answered, the latest last.
    pub challenges: Vec<Challenged>,
    /// The last one that was answered, as long as it was sent more often.
    pub answered: Vec<Challenged>,
    pub challenge_at: MonoMillis,
    /// Epochs that its connection may still begin.
    pub epoch_turns: Turns,
    /// Models that it was asked to load.
    pub loading: Vec<Load>,
    /// Models that it could not load, and until when it is not asked again.
    pub unloadable: Vec<(CatalogueDigest, MonoMillis)>,
    /// When it was last seen loading a model.
    pub loaded_at: Option<MonoMillis>,
    /// How full and how warm it is.
    pub machine: Machine,
    /// Its kind of hardware, as the registry numbers them.
    pub hardware: u16,
    /// How fast it was seen to be, a model each.
    pub paces: Vec<(CatalogueDigest, Pace)>,
    /// Rows that others than this coordinator's requests have, a model each, as of the last heartbeat.
    pub elsewhere: Vec<(CatalogueDigest, u32)>,
    /// The shortest time there and back.
    pub round_trip: Millis,
    /// The models in whose index it stands.
    pub indexed: Vec<CatalogueDigest>,
    /// How it was counted.
    pub counted: Counted,
    /// When it is looked at again.
    pub timer: Option<MonoMillis>,
}

/// How full and how warm a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Machine {
    /// Memory in use, in parts of a thousand.
    pub memory_permille: u16,
    /// 0 nominal, 1 fair, 2 serious, 3 critical.
    pub thermal: u16,
}

/// As what a provider counts in [`crate::Counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// At which tier it gets work, if it does.
    pub routable: Option<Tier>,
    pub untrusted: bool,
    /// Models that it was asked to load.
    pub loading: usize,
}

/// A model that a provider was asked to load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub model: CatalogueDigest,
    /// Until when it may take.
    pub until: MonoMillis,
    /// Whether it said that it has begun: before that, others are in the way, which is nobody's fault.
    pub begun: bool,
    /// Since when.
    pub asked: MonoMillis,
}

impl Provider {
    /// What is remembered of it when its connection is over.
    pub fn leave(self) -> Gone {
        Gone { record: self.record, introduced: self.introduced, number: self.registration.number }
    }

    pub fn challenge_missed(&self, now: MonoMillis) -> bool {
        armed!("challenge_missed")
            && self.challenges.first().is_some_and(|open| now.since(open.sent) >= times::CHALLENGE_ANSWER)
    }

    pub fn served(&self, model: &CatalogueDigest) -> Option<&ModelLoad> {
        self.registration.models.iter().find(|load| load.model == *model)
    }

    /// Rows of a model, when it is loaded.
    pub fn rows_max(&self, model: &CatalogueDigest) -> Option<u32> {
        let loaded = self.served(model).filter(|load| load.residence == Residence::Loaded);
        loaded.map(|load| load.rows_max.min(ROWS_MAX))
    }

    /// Whether a model is not loaded and could be when somebody asks.
    pub fn could_load(&self, model: &CatalogueDigest, now: MonoMillis) -> bool {
        let elsewhere = self.served(model).is_some_and(|load| load.residence != Residence::Loaded);
        elsewhere && !self.unloadable.iter().any(|(known, until)| known == model && now < *until)
    }

    /// Whether it could not load a model a moment ago.
    pub fn could_not_load(&self, model: &CatalogueDigest, now: MonoMillis) -> bool {
        self.served(model).is_some() && self.unloadable.iter().any(|(known, until)| known == model && now < *until)
    }

    /// Whether it was asked to load a model and may still be at it.
    pub fn is_loading(&self, model: &CatalogueDigest, now: MonoMillis) -> bool {
        self.loading.iter().any(|load| load.model == *model && now < load.until)
    }

    /// A model that did not come in time counts as one that cannot be loaded, and where it was begun as a failure: requests
    /// waited for it.
    pub fn give_up_loading(&mut self, now: MonoMillis) {
        let late: Vec<_> = self.loading.extract_if(.., |load| now >= load.until).collect();
        for load in late.iter().filter(|load| load.begun) {
            self.record.load_failed(&load.model, now);
        }
        for load in late {
            self.load_ended(&load.model, LoadOutcome::Unusable, now);
        }
    }

    /// Its connection is gone. Loads that it had begun are a failure: else it could make requests wait and never answer.
    pub fn abandon_loading(&mut self, now: MonoMillis) {
        for load in std::mem::take(&mut self.loading).iter().filter(|load| load.begun) {
            self.record.load_failed(&load.model, now);
        }
    }

    /// What became of loading a model.
    pub fn load_ended(&mut self, model: &CatalogueDigest, outcome: LoadOutcome, now: MonoMillis) {
        if !outcome.is_end() {
            let asked = self.loading.iter_mut().find(|load| load.model == *model);
            if let Some(load) = asked.filter(|load| outcome == LoadOutcome::Started && !load.begun) {
                (load.begun, load.until) = (true, now.after(times::LOAD));
            }
            return;
        }
        self.loading.retain(|load| load.model != *model);
        self.unloadable.retain(|(known, until)| known != model && now < *until);
        if outcome != LoadOutcome::Succeeded {
            // No more than its statement has models: only those are served.
            if self.served(model).is_some() {
                self.unloadable.push((*model, now.after(times::LOAD_PAUSE)));
            }
        } else if let Some(load) = self.registration.models.iter_mut().find(|load| load.model == *model) {
            load.residence = Residence::Loaded;
            self.loaded_at = Some(now);
        }
    }

    pub fn rows_reserved(&self, model: &CatalogueDigest) -> u32 {
        self.reserved.iter().find(|(reserved, _)| reserved == model).map_or(0, |(_, rows)| *rows)
    }

    /// Rows that are free, as far as this coordinator knows: what it gave out counts before any heartbeat shows it.
    pub fn rows_free(&self, model: &CatalogueDigest) -> u32 {
        self.rows_max(model).unwrap_or(0).saturating_sub(self.rows_reserved(model))
    }

    pub fn waiting(&self, model: &CatalogueDigest) -> u32 {
        self.served(model).map_or(0, |load| load.waiting)
    }

    /// Tokens that one row holds, of prompt and answer together.
    pub fn row_tokens(&self, model: &CatalogueDigest) -> TokenCount {
        self.served(model).map_or(TokenCount(0), |load| load.row_tokens)
    }

    pub fn reserve(&mut self, model: &CatalogueDigest) {
        match self.reserved.iter_mut().find(|(reserved, _)| reserved == model) {
            Some((_, rows)) => *rows += 1,
            None => self.reserved.push((*model, 1)),
        }
    }

    pub fn release(&mut self, model: &CatalogueDigest) {
        if let Some((_, rows)) = self.reserved.iter_mut().find(|(reserved, _)| reserved == model) {
            *rows = rows.saturating_sub(1);
        }
    }

    /// Rows at work: those that this coordinator gave out, and those that others had at the last heartbeat.
    pub fn running(&self, model: &CatalogueDigest) -> u32 {
        let others = self.elsewhere.iter().find(|(known, _)| known == model).map_or(0, |(_, rows)| *rows);
        self.rows_reserved(model).saturating_add(others)
    }

    /// What is known of it and a model, for the cost of a request there.
    pub fn cost_load(&self, model: &CatalogueDigest, pace: Pace, now: MonoMillis) -> cost::Load {
        let said = self.served(model);
        let loading = self.loading.iter().find(|load| load.model == *model && now < load.until);
        let ready = match (self.rows_max(model), loading) {
            (Some(_), _) => cost::Ready::Loaded,
            (None, Some(load)) => cost::Ready::Loading(now.since(load.asked)),
            (None, None) => {
                let dwelling = self.loaded_at.is_some_and(|at| now.since(at) < times::DWELL);
                cost::Ready::Stored { dwelling }
            }
        };
        cost::Load {
            ready,
            running: self.running(model),
            rows: said.map_or(1, |load| load.rows_max.min(ROWS_MAX)),
            waiting: said.map_or(0, |load| load.waiting),
            prefill_us: pace.prefill_us,
            decode_us: pace.decode_us,
            memory_permille: self.machine.memory_permille,
            thermal: self.machine.thermal,
            round_trip: self.round_trip,
            declined_permille: self.record.declined_permille,
        }
    }

    /// When time alone changes what becomes of it next; nothing where it never does.
    pub fn changes_at(&self, now: MonoMillis, wall: UnixMillis) -> Option<MonoMillis> {
        let record = &self.record;
        let healths = record.models.iter().map(|(_, health)| health).chain([&record.health]);
        let stated = &self.registration.stated;
        [
            Some(self.heard.after(times::SILENCE)),
            self.challenges.first().map(|open| open.sent.after(times::CHALLENGE_ANSWER)),
            (wall < stated.use_until).then(|| now.after(stated.use_until.since(wall))),
            record.doubted_until,
        ]
        .into_iter()
        .flatten()
        .chain(healths.filter_map(Health::changes_at))
        .chain(self.unloadable.iter().map(|(_, until)| *until))
        .chain(self.loading.iter().map(|load| load.until))
        .filter(|at| *at > now)
        .min()
    }

    /// Whether a request sealed to this epoch can still be opened there.
    pub fn opens(&self, epoch: &EpochId, wall: UnixMillis) -> bool {
        self.registration.stated.epoch == *epoch
            || self.previous_epoch.is_some_and(|(previous, until)| previous == *epoch && wall < until)
    }

    /// Takes in what the provider says that it has loaded, as far as its statement names it. Returns how many models it
    /// does not: clients would not seal them to this provider, so they are no work for it.
    pub fn load(&mut self, mut models: Vec<ModelLoad>) -> usize {
        let said = models.len();
        models.retain(|load| self.registration.stated.models.contains(&load.model));
        let ignored = said - models.len();
        let others = |load: &ModelLoad| {
            let rows = load.rows_used.min(ROWS_MAX).saturating_sub(self.rows_reserved(&load.model));
            (rows > 0).then_some((load.model, rows))
        };
        self.elsewhere = models.iter().filter_map(others).collect();
        self.registration.models = models;
        let loaded = |model: &CatalogueDigest| self.rows_max(model).is_some();
        let arrived: Vec<_> = self.loading.iter().map(|load| load.model).filter(loaded).collect();
        self.loading.retain(|load| !arrived.contains(&load.model));
        ignored
    }

    pub fn models(&self) -> Vec<CatalogueDigest> {
        self.registration.models.iter().map(|load| load.model).collect()
    }
}
