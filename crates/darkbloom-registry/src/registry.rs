//! All providers of a network.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use darkbloom_types::{
    AccountId, CatalogueDigest, ConnectionId, Distrust, EpochId, Gate, Millis, MonoMillis, ProviderId, RefusalCode,
    RequestId, Standing, Tier, TokenCount, Turns, UnixMillis, armed,
};
use darkbloom_wire::ModelLoad;
use rand_core::CryptoRng;

use crate::affinity::Affinity;
use crate::eligibility::Ineligible;
use crate::fleet::Fleet;
use crate::index::Index;
use crate::pace::Paces;
use crate::provider::{Away, Counted, Gone, Introduced, Machine, Provider, Registration, Stated, times};
use crate::queue::Queue;
use crate::storms::Storms;
use loading::Demand;
use trust::next_challenge;

/// What a request asks of the router.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The sealed request.
    pub request: RequestId,
    /// Its model.
    pub model: CatalogueDigest,
    /// The least tier.
    pub tier_min: Tier,
    /// Who can open it, in the client's order.
    pub recipients: &'a [(ProviderId, EpochId)],
    /// Who was tried already.
    pub tried: &'a [ProviderId],
    /// Whose it is.
    pub account: AccountId,
    /// The client's name for the conversation.
    pub affinity: [u8; 16],
    /// Its ceiling of input.
    pub input: TokenCount,
    /// Its ceiling of output.
    pub output: TokenCount,
}

/// A row that a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// At whom.
    pub provider: ProviderId,
    /// On which connection.
    pub connection: ConnectionId,
    /// For which model.
    pub model: CatalogueDigest,
    /// The sealed request.
    pub request: RequestId,
}

/// Why a request goes nowhere now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteError {
    /// A recipient could take it but has no room: the request is in the queue now.
    Queued,
    /// A recipient loads the model: the request is in the queue now, and may wait as long as that takes.
    Loading,
    /// The queue is full too.
    QueueFull,
    /// It would be given up before its turn came: better told at once.
    WaitTooLong,
    /// A recipient has no memory for the model beside those that are at work, and nobody else could take it.
    NoMemory,
    /// No recipient can take it; other providers, or newer epochs, could.
    OthersCould,
    /// Nobody could.
    Nobody,
}

impl RouteError {
    /// The closed reason that a client sees.
    #[must_use]
    pub fn code(self) -> RefusalCode {
        match self {
            Self::Queued | Self::Loading | Self::QueueFull | Self::WaitTooLong | Self::NoMemory => {
                RefusalCode::NoCapacity
            }
            Self::OthersCould | Self::Nobody => RefusalCode::NoEligibleProvider,
        }
    }
}

/// One candidate for a client's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateView {
    /// Who.
    pub provider: ProviderId,
    /// Its current epoch.
    pub epoch: EpochId,
    /// Its signed statement.
    pub statement: Arc<[u8]>,
    /// When the network could know that statement first.
    pub known_at: UnixMillis,
    /// Rows free now; none where the model is still to be loaded.
    pub rows_free: u32,
    /// Requests waiting there.
    pub waiting: u32,
    /// Tokens of prompt and answer together that one row holds.
    pub row_tokens: TokenCount,
}

/// Providers in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Those that are connected.
    pub connected: usize,
    /// Those of them that get work.
    pub routable: usize,
    /// Those of them against whom something is held.
    pub untrusted: usize,
}

/// One provider for people: connected or not, eligible or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderView {
    /// Who.
    pub provider: ProviderId,
    /// What is proven.
    pub tier: Tier,
    /// What is held against it.
    pub standing: Standing,
    /// Gates of the operator's policy that are shut and not enforced.
    pub shadow: Vec<Gate>,
    /// Whether it gets work.
    pub eligible: Result<(), Ineligible>,
    /// Its models; `rows_used` is what is reserved here, which is newer than the last heartbeat.
    pub models: Vec<ModelLoad>,
}

/// What taking a provider in changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registered {
    /// The connection that this one takes over from.
    pub replaced: Option<Replaced>,
    /// Whether more is held against the identity than was known before.
    pub standing_changed: bool,
}

/// Why a provider is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRegistered {
    /// A later connection of the same identity has introduced itself already: what comes on this one was held up on its way.
    Overtaken,
    /// More epochs of the identity still open than any provider has.
    TooManyEpochs,
}

/// A connection that gets no more work, since another of the same identity takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Which.
    pub connection: ConnectionId,
    /// Whether the same process connected again and so has given the older connection up. Another process, which has other
    /// epochs, leaves it to finish what it has begun.
    pub given_up: bool,
}

/// Providers, reservations and the queue.
#[derive(Debug, Default)]
pub struct Registry {
    providers: Fleet,
    by_connection: HashMap<ConnectionId, ProviderId>,
    /// What is remembered of providers that are not connected.
    gone: Away,
    queue: Queue,
    wakes: Vec<RequestId>,
    loads: Vec<(ConnectionId, CatalogueDigest)>,
    /// Who could answer with which model.
    index: Index,
    /// When time alone changes something about a provider.
    timers: BTreeSet<(MonoMillis, ProviderId)>,
    /// When each is challenged next.
    challenges_at: BTreeSet<(MonoMillis, ProviderId)>,
    /// Those who get work, by tier.
    routable: [usize; 5],
    untrusted: usize,
    loads_in_flight: usize,
    paces: Paces,
    affinity: Affinity,
    storms: Storms,
    demand: Demand,
}

impl Registry {
    /// Takes in a provider that introduced itself and whose statement and proof were verified. The newest connection of an
    /// identity counts. One that shows that two processes have the identity's key is taken in and distrusted.
    ///
    /// # Errors
    /// [`NotRegistered`]; then nothing changes.
    pub fn register(
        &mut self,
        registration: Registration,
        now: MonoMillis,
        wall: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<Registered, NotRegistered> {
        let id = registration.provider;
        let connection = registration.connection;
        let present = self.providers.get(&id).map(|provider| provider.registration.number);
        let last = present.or_else(|| self.gone.get(&id).map(|gone| gone.number));
        if last.is_some_and(|last| registration.number < last) {
            return Err(NotRegistered::Overtaken);
        }
        let (epoch, open_until) = (registration.stated.epoch, registration.stated.open_until);
        let mut introduced = match (self.providers.get(&id), self.gone.get(&id)) {
            (Some(provider), _) => provider.introduced.clone(),
            (None, Some(gone)) => gone.introduced.clone(),
            (None, None) => Introduced::default(),
        };
        let Ok(second) = introduced.again(epoch, open_until, wall) else {
            // Whoever has filled the list gets no work either.
            self.hold_against(&id, registration.standing, Distrust::TooManyEpochs, now, wall);
            return Err(NotRegistered::TooManyEpochs);
        };
        let mut before = self.take(&id);
        if let Some(provider) = &mut before {
            provider.abandon_loading(now);
        }
        // The keys of an epoch live in one process's memory: who still has the current one also has the one before. A
        // restarted provider has neither.
        let same = before.as_ref().filter(|provider| provider.registration.stated.epoch == epoch);
        let previous_epoch = same.and_then(|provider| provider.previous_epoch);
        let replaced = before
            .as_ref()
            .map(|provider| Replaced { connection: provider.registration.connection, given_up: same.is_some() });
        if let Some(replaced) = replaced {
            self.by_connection.remove(&replaced.connection);
        }
        // It follows the identity, so that reconnecting cleans nobody.
        let known = before.map(Provider::leave).or_else(|| self.gone.take(&id));
        let known = known.filter(|_| armed!("standing_follows")).unwrap_or_default();
        let Gone { mut record, .. } = known;
        let stored = registration.standing;
        record.standing = record.standing.with(stored);
        if second && armed!("key_shared") {
            record.standing = record.standing.failed(Distrust::KeyShared, wall).unwrap_or(record.standing);
        }
        let standing_changed = record.standing != stored;
        let models = registration.models.clone();
        let hardware = self.paces.kind(registration.hardware.as_deref());
        let mut provider = Provider {
            registration,
            previous_epoch,
            heard: now,
            draining: false,
            reserved: Vec::new(),
            record,
            introduced,
            challenges: Vec::new(),
            answered: Vec::new(),
            challenge_at: next_challenge(now, rng),
            epoch_turns: Turns::full(now),
            loading: Vec::new(),
            unloadable: Vec::new(),
            loaded_at: None,
            machine: Machine::default(),
            hardware,
            paces: Vec::new(),
            elsewhere: Vec::new(),
            round_trip: Millis(0),
            indexed: Vec::new(),
            counted: Counted::default(),
            timer: None,
        };
        provider.load(models);
        self.challenges_at.insert((provider.challenge_at, id));
        self.providers.insert(id, provider);
        self.by_connection.insert(connection, id);
        self.standing_changed(&id, now, wall);
        Ok(Registered { replaced, standing_changed })
    }

    /// The provider on a connection.
    #[must_use]
    pub fn on_connection(&self, connection: &ConnectionId) -> Option<ProviderId> {
        self.by_connection.get(connection).copied()
    }

    /// The connection of a provider.
    #[must_use]
    pub fn connection_of(&self, provider: &ProviderId) -> Option<ConnectionId> {
        self.providers.get(provider).map(|provider| provider.registration.connection)
    }

    fn on(&mut self, connection: &ConnectionId) -> Option<&mut Provider> {
        let id = self.by_connection.get(connection)?;
        self.providers.get_mut(id)
    }

    /// A connection is gone. Returns the provider that is gone with it, unless a newer connection took its place.
    pub fn disconnected(&mut self, connection: &ConnectionId, now: MonoMillis, wall: UnixMillis) -> Option<ProviderId> {
        let id = self.by_connection.remove(connection)?;
        if let Some(mut provider) = self.take(&id) {
            provider.abandon_loading(now);
            for model in provider.models() {
                self.wake_hopeless_for(&id, &model, now, wall);
            }
            self.gone.put(id, provider.leave());
        }
        Some(id)
    }

    /// A heartbeat: what is loaded, what runs. Returns how many models were ignored because the provider's statement does
    /// not name them.
    pub fn heartbeat(
        &mut self,
        connection: &ConnectionId,
        models: Vec<ModelLoad>,
        draining: bool,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> usize {
        let Some(provider) = self.on(connection) else { return 0 };
        provider.heard = now;
        provider.draining = draining;
        let ignored = provider.load(models);
        let id = provider.registration.provider;
        let (had, routable) = (provider.models(), provider.counted.routable.is_some());
        self.refresh(&id, now, wall);
        self.wake_all_at(&id, now, wall);
        if draining && routable {
            had.iter().for_each(|model| self.wake_hopeless_for(&id, model, now, wall));
        }
        ignored
    }

    /// How full and how warm a provider's machine is.
    pub fn machine(&mut self, connection: &ConnectionId, machine: Machine) {
        if let Some(provider) = self.on(connection) {
            provider.machine = machine;
        }
    }

    /// Any other frame shows as well that the provider lives.
    pub fn heard(&mut self, connection: &ConnectionId, now: MonoMillis) {
        let Some(provider) = self.on(connection) else { return };
        let silent = now.since(provider.heard) >= times::SILENCE;
        provider.heard = now;
        if silent {
            // It is looked at with the next event.
            let id = provider.registration.provider;
            self.look_at(&id, now);
        }
    }

    /// Whether this connection may begin another epoch now; each yes counts. More than [`times::EPOCH_BURST`] at once, and
    /// then one every [`times::EPOCH_EVERY`], is an offence.
    #[must_use]
    pub fn epoch_turn(&mut self, connection: &ConnectionId, now: MonoMillis) -> bool {
        let (every, burst) = (times::EPOCH_EVERY, times::EPOCH_BURST);
        self.on(connection).is_some_and(|provider| provider.epoch_turns.take(now, every, burst))
    }

    /// The verified statement of the next epoch. The one before stays openable for requests in flight, for as long as its
    /// own statement says. Returns the provider where that changed what is held against it: an epoch that was stated before
    /// another is another process's.
    ///
    /// # Errors
    /// [`NotRegistered::TooManyEpochs`].
    pub fn next_epoch(
        &mut self,
        connection: &ConnectionId,
        stated: Stated,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Result<Option<ProviderId>, NotRegistered> {
        let Some(provider) = self.on(connection) else { return Ok(None) };
        let Ok(second) = provider.introduced.again(stated.epoch, stated.open_until, wall) else {
            let id = provider.registration.provider;
            self.hold_against(&id, Standing::Clean, Distrust::TooManyEpochs, now, wall);
            return Err(NotRegistered::TooManyEpochs);
        };
        let shared = second && armed!("key_shared");
        let standing = provider.record.standing.failed(Distrust::KeyShared, wall).filter(|_| shared);
        provider.record.standing = standing.unwrap_or(provider.record.standing);
        let before = std::mem::replace(&mut provider.registration.stated, stated);
        if before.epoch != provider.registration.stated.epoch {
            provider.previous_epoch = Some((before.epoch, before.open_until));
        }
        let models = std::mem::take(&mut provider.registration.models);
        provider.load(models);
        let id = provider.registration.provider;
        self.standing_changed(&id, now, wall);
        Ok(standing.map(|_| id))
    }

    /// The signed statement of a connection's current epoch.
    #[must_use]
    pub fn statement(&self, connection: &ConnectionId) -> Option<Arc<[u8]>> {
        let id = self.by_connection.get(connection)?;
        self.providers.get(id).map(|provider| provider.registration.stated.statement.clone())
    }
}

mod keeping;
mod loading;
mod routing;
mod shown;
mod trust;

pub use loading::preload;
pub use shown::Stating;

#[cfg(test)]
mod tests;
