//! One connected provider.

use std::collections::{BTreeMap, HashMap};

use darkbloom_types::{
    CatalogueDigest, ConnectionId, EpochId, Gate, MonoMillis, ProviderId, Standing, Tier, TokenCount, Turns,
    UnixMillis, armed,
};
use darkbloom_wire::{LoadOutcome, ModelLoad, Residence};

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
    /// Failures in a row after which a provider pauses.
    pub const FAULTS_MAX: u32 = 3;
    /// How long it pauses; then one request may try.
    pub const PAUSE: Millis = Millis::from_secs(30);
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
}

/// A provider's signed statement of one epoch, as it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The signed statement, for candidates.
    pub statement: Vec<u8>,
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
}

/// Rows that a provider is believed to have: no engine of today has more, and a boast must not draw all work.
const ROWS_MAX: u32 = 256;

/// What is held against an identity, whichever connection it has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Record {
    /// What failed checks and the operator have to say.
    pub standing: Standing,
    /// Failures in a row.
    pub faults: u32,
    /// When its pause ends, since its last failure of too many.
    pub suspended_until: Option<MonoMillis>,
    /// Until when others are preferred to it.
    pub doubted_until: Option<MonoMillis>,
}

impl Record {
    pub fn fault(&mut self, now: MonoMillis) {
        self.faults = self.faults.saturating_add(1);
        if self.faults >= times::FAULTS_MAX {
            self.suspended_until = Some(now.after(times::PAUSE));
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
}

/// A model that a provider was asked to load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub model: CatalogueDigest,
    /// Until when it may take.
    pub until: MonoMillis,
    /// Whether it said that it has begun: before that, others are in the way, which is nobody's fault.
    pub begun: bool,
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

    fn served(&self, model: &CatalogueDigest) -> Option<&ModelLoad> {
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
        if late.iter().any(|load| load.begun) {
            self.record.fault(now);
        }
        for load in late {
            self.load_ended(&load.model, LoadOutcome::Unusable, now);
        }
    }

    /// Its connection is gone. Loads that it had begun are a failure: else it could make requests wait and never answer.
    pub fn abandon_loading(&mut self, now: MonoMillis) {
        if std::mem::take(&mut self.loading).iter().any(|load| load.begun) {
            self.record.fault(now);
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
