//! All providers of a network.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use darkbloom_types::{
    CatalogueDigest, ConnectionId, Distrust, EpochId, Gate, Millis, MonoMillis, ProviderId, RefusalCode, RequestId,
    Standing, Tier, TokenCount, Turns, UnixMillis, armed,
};
use darkbloom_wire::{ModelLoad, limits};
use rand_core::CryptoRng;

use crate::eligibility::{Ineligible, eligible};
use crate::provider::{Away, Gone, Introduced, Provider, Registration, Stated, times};
use crate::queue::{Call, Queue, Waiting};
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
            Self::Queued | Self::Loading | Self::QueueFull | Self::NoMemory => RefusalCode::NoCapacity,
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
    pub statement: Vec<u8>,
    /// When the network could know that statement first.
    pub known_at: UnixMillis,
    /// Rows free now; none where the model is still to be loaded.
    pub rows_free: u32,
    /// Requests waiting there.
    pub waiting: u32,
    /// Tokens of prompt and answer together that one row holds.
    pub row_tokens: TokenCount,
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
    providers: BTreeMap<ProviderId, Provider>,
    by_connection: HashMap<ConnectionId, ProviderId>,
    /// What is remembered of providers that are not connected.
    gone: Away,
    queue: Queue,
    wakes: Vec<RequestId>,
    loads: Vec<(ConnectionId, CatalogueDigest)>,
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
        let mut before = self.providers.remove(&id);
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
        };
        provider.load(models);
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
        if let Some(mut provider) = self.providers.remove(&id) {
            provider.abandon_loading(now);
            for model in provider.models() {
                self.wake_hopeless_for(&id, &model, now, wall);
            }
            self.gone.put(id, provider.leave());
        }
        Some(id)
    }

    /// Whoever waited for this provider alone must learn now that nobody else can take it.
    fn wake_hopeless_for(&mut self, id: &ProviderId, model: &CatalogueDigest, now: MonoMillis, wall: UnixMillis) {
        let providers = &self.providers;
        let woken = self.queue.wake(model, |waiting| {
            let lost = waiting.epoch_at(id).is_some() && !can_wait(providers, model, waiting, now, wall);
            if lost { Call::Wake(None) } else { Call::Stay }
        });
        self.wakes.extend(woken);
    }

    /// A provider whose connection broke under its requests has failed them, though it is not here to hear it.
    fn fault_of_gone(&mut self, provider: ProviderId, now: MonoMillis) {
        let mut gone = self.gone.take(&provider).unwrap_or_default();
        gone.record.fault(now);
        self.gone.put(provider, gone);
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
        self.wake_all_at(&id, now, wall);
        ignored
    }

    /// Any other frame shows as well that the provider lives.
    pub fn heard(&mut self, connection: &ConnectionId, now: MonoMillis) {
        if let Some(provider) = self.on(connection) {
            provider.heard = now;
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
    pub fn statement(&self, connection: &ConnectionId) -> Option<Vec<u8>> {
        let id = self.by_connection.get(connection)?;
        self.providers.get(id).map(|provider| provider.registration.stated.statement.clone())
    }

    /// Whether a provider gets work at all, and if not, why.
    #[must_use]
    pub fn verdict(
        &self,
        provider: &ProviderId,
        tier_min: Tier,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<Result<(), Ineligible>> {
        self.providers.get(provider).map(|provider| eligible(provider, None, tier_min, now, wall))
    }

    /// All connected providers.
    #[must_use]
    pub fn views(&self, tier_min: Tier, now: MonoMillis, wall: UnixMillis) -> Vec<ProviderView> {
        let load = |provider: &Provider, said: &ModelLoad| ModelLoad {
            rows_used: provider.rows_reserved(&said.model),
            ..said.clone()
        };
        let view = |provider: &Provider| ProviderView {
            provider: provider.registration.provider,
            tier: provider.registration.stated.tier,
            standing: provider.record.standing,
            shadow: provider.registration.stated.shadow.clone(),
            eligible: eligible(provider, None, tier_min, now, wall),
            models: provider.registration.models.iter().map(|said| load(provider, said)).collect(),
        };
        self.providers.values().map(view).collect()
    }

    /// Connected providers with ids above `after`, each with its signed statement and why it gets no work, in the order of their
    /// ids; no more than `most`.
    #[must_use]
    pub fn statements(
        &self,
        after: Option<&ProviderId>,
        most: usize,
        tier_min: Tier,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Vec<(ProviderId, Vec<u8>, Result<(), Ineligible>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let view = |(id, provider): (&ProviderId, &Provider)| {
            let verdict = eligible(provider, None, tier_min, now, wall);
            (*id, provider.registration.stated.statement.clone(), verdict)
        };
        self.providers.range::<ProviderId, _>((from, Bound::Unbounded)).take(most).map(view).collect()
    }

    /// Up to 32 eligible providers of a model, those with most room first, then those that would have to load it, doubted ones
    /// last; equals are shuffled.
    pub fn candidates(
        &self,
        model: &CatalogueDigest,
        now: MonoMillis,
        wall: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Vec<CandidateView> {
        let mut found: Vec<_> = self
            .providers
            .values()
            .filter(|provider| serves(provider, model, Tier::None, now, wall))
            .map(|provider| {
                let free = std::cmp::Reverse(provider.rows_free(model));
                let stored = provider.rows_max(model).is_none();
                ((provider.record.is_doubted(now), stored, free, rng.next_u32()), provider)
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.truncate(limits::CANDIDATES_MAX);
        let view = |provider: &Provider| CandidateView {
            provider: provider.registration.provider,
            epoch: provider.registration.stated.epoch,
            known_at: provider.registration.stated.known_at,
            statement: provider.registration.stated.statement.clone(),
            rows_free: provider.rows_free(model),
            waiting: provider.waiting(model),
            row_tokens: provider.row_tokens(model),
        };
        found.into_iter().map(|(_, provider)| view(provider)).collect()
    }

    /// Chooses a provider among the recipients and reserves a row there: one that is not doubted before others, then the one
    /// with the smallest share of its rows in use, in the client's order among equals. Without room the request is queued, at its old place when it was woken,
    /// and a recipient that has the model on its disk alone is asked to load it.
    ///
    /// # Errors
    /// [`RouteError`] says why there is none.
    pub fn route(
        &mut self,
        request: &RouteRequest<'_>,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Result<ProviderId, RouteError> {
        let before = self.queue.take_woken(&request.model, &request.request);
        let untried = || request.recipients.iter().filter(|(id, _)| !request.tried.contains(id));
        let mut best: Option<((bool, u64), ProviderId)> = None;
        let (mut busy, mut stored, mut no_memory) = (false, None, false);
        for (id, epoch) in untried() {
            let able = able(&self.providers, id, epoch, &request.model, request.tier_min, now, wall);
            let Some(provider) = able else {
                let found = self.providers.get(id).filter(|provider| provider.opens(epoch, wall));
                no_memory |= found.is_some_and(|provider| provider.could_not_load(&request.model, now));
                continue;
            };
            if provider.rows_max(&request.model).is_none() {
                // One that loads already before others, then one that is not doubted.
                let cost = (!provider.is_loading(&request.model, now), provider.record.is_doubted(now));
                if stored.is_none_or(|(least, _)| cost < least) {
                    stored = Some((cost, *id));
                }
                continue;
            }
            let (free, all) = (provider.rows_free(&request.model), provider.rows_max(&request.model).unwrap_or(0));
            if free == 0 {
                busy = true;
                continue;
            }
            // Used share in parts of a million: integers compare alike on every machine.
            let used = u64::from(all - free) * 1_000_000 / u64::from(all.max(1));
            let cost = (provider.record.is_doubted(now), used);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *id));
            }
        }
        let chosen = best.map(|(_, id)| id);
        if let Some(provider) = chosen.and_then(|id| self.providers.get_mut(&id)) {
            provider.reserve(&request.model);
        }
        if let Some(row_at) = before.and_then(|woken| woken.row_at).filter(|id| chosen != Some(*id)) {
            // Another may have the row that it was woken for.
            self.wake_at(&row_at, &request.model, 1, now, wall);
        }
        if let Some(id) = chosen {
            return Ok(id);
        }
        if busy || stored.is_some() {
            let recipients = untried().copied().collect();
            let waiting = Waiting { request: request.request, tier_min: request.tier_min, recipients };
            if !self.queue.push(request.model, waiting, before) {
                return Err(RouteError::QueueFull);
            }
            let Some((_, id)) = stored else { return Err(RouteError::Queued) };
            self.load_at(&id, &request.model, now);
            return Err(RouteError::Loading);
        }
        Err(match (self.others_could(request, now, wall), no_memory) {
            (true, _) => RouteError::OthersCould,
            (false, true) => RouteError::NoMemory,
            (false, false) => RouteError::Nobody,
        })
    }

    /// Whether a fresh sealing could reach somebody whom this one cannot.
    fn others_could(&self, request: &RouteRequest<'_>, now: MonoMillis, wall: UnixMillis) -> bool {
        self.providers.iter().any(|(id, provider)| {
            let current = provider.registration.stated.epoch;
            let sealed_to = request.recipients.iter().any(|(p, epoch)| p == id && *epoch == current);
            !sealed_to && serves(provider, &request.model, request.tier_min, now, wall)
        })
    }

    /// A provider called a request wrong that another answered: for [`times::DOUBT`] others are preferred to it. It stays
    /// eligible.
    pub fn doubt(&mut self, provider: &ProviderId, now: MonoMillis) {
        let until = Some(now.after(times::DOUBT));
        if let Some(found) = self.providers.get_mut(provider) {
            found.record.doubted_until = until;
        } else {
            let mut gone = self.gone.take(provider).unwrap_or_default();
            gone.record.doubted_until = until;
            self.gone.put(*provider, gone);
        }
    }

    /// A row that was reserved on this connection is free again. A fault counts against the provider, whichever connection
    /// it has now; a success clears its record; a refusal or a cancel says nothing (`None`).
    pub fn release(
        &mut self,
        provider: &ProviderId,
        connection: &ConnectionId,
        model: &CatalogueDigest,
        at_fault: Option<bool>,
        now: MonoMillis,
        wall: UnixMillis,
    ) {
        let Some(found) = self.providers.get_mut(provider) else {
            if at_fault == Some(true) {
                self.fault_of_gone(*provider, now);
            }
            return;
        };
        if found.registration.connection == *connection {
            found.release(model);
        }
        let mut rows = 1;
        match at_fault {
            Some(true) => found.record.fault(now),
            Some(false) => {
                found.record.faults = 0;
                if found.record.suspended_until.take().is_some() {
                    // All that were idle in its pause may be used.
                    rows = u32::MAX;
                }
            }
            None => {}
        }
        self.wake_at(provider, model, rows, now, wall);
    }

    /// A request no longer waits.
    pub fn leave_queue(&mut self, model: &CatalogueDigest, request: &RequestId, now: MonoMillis, wall: UnixMillis) {
        self.queue.remove(model, request);
        let woken = self.queue.take_woken(model, request);
        if let Some(row_at) = woken.and_then(|woken| woken.row_at) {
            // It was woken and did not use its chance: the next one may.
            self.wake_at(&row_at, model, 1, now, wall);
        }
    }

    /// Requests waiting for a model.
    #[must_use]
    pub fn queued(&self, model: &CatalogueDigest) -> usize {
        self.queue.len(model)
    }

    /// Wakes whom time alone has made room for, or has left without anybody: pauses and epochs end without an event, and
    /// whoever was woken may be slow to use its chance. To be called once a second.
    pub fn tick(&mut self, now: MonoMillis, wall: UnixMillis) {
        for provider in self.providers.values_mut() {
            provider.give_up_loading(now);
        }
        for model in self.queue.models() {
            let providers = &self.providers;
            let mut given: HashMap<ProviderId, u32> = HashMap::new();
            let woken = self.queue.wake(&model, |waiting| {
                let mut hope = false;
                for (id, epoch) in &waiting.recipients {
                    let able = able(providers, id, epoch, &model, waiting.tier_min, now, wall);
                    let Some(provider) = able else { continue };
                    let given = given.entry(*id).or_default();
                    if provider.rows_free(&model) > *given {
                        *given += 1;
                        return Call::Wake(Some(*id));
                    }
                    // Somebody who could load it, and was not asked or has dropped it since, must be asked.
                    hope |= provider.rows_max(&model).is_some() || provider.is_loading(&model, now);
                }
                if hope { Call::Stay } else { Call::Wake(None) }
            });
            self.wakes.extend(woken);
        }
    }

    /// Wakes those who can use the free rows of one provider, in their order.
    fn wake_all_at(&mut self, id: &ProviderId, now: MonoMillis, wall: UnixMillis) {
        let models = self.providers.get(id).map(Provider::models).unwrap_or_default();
        for model in models {
            self.wake_at(id, &model, u32::MAX, now, wall);
        }
    }

    /// Wakes as many as can use the free rows of one provider for one model, and no more than `rows_max`.
    fn wake_at(&mut self, id: &ProviderId, model: &CatalogueDigest, rows_max: u32, now: MonoMillis, wall: UnixMillis) {
        let Some(provider) = self.providers.get(id) else { return };
        if eligible(provider, Some(model), Tier::None, now, wall).is_err() {
            return;
        }
        let mut free = provider.rows_free(model).min(rows_max);
        let woken = self.queue.wake(model, |waiting| {
            if free == 0 {
                return Call::Enough;
            }
            let opens = waiting.epoch_at(id).is_some_and(|epoch| provider.opens(epoch, wall));
            if !opens || provider.registration.stated.tier < waiting.tier_min {
                return Call::Stay;
            }
            free -= 1;
            Call::Wake(Some(*id))
        });
        self.wakes.extend(woken);
    }

    /// Requests that left the queue because there may be room now; each must be routed again.
    pub fn take_wakes(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.wakes)
    }

    /// Seconds after which a refused request may try again: a row's typical work is a few seconds.
    #[must_use]
    pub fn retry_after(&self, model: &CatalogueDigest) -> Millis {
        Millis::from_secs(1 + self.queue.len(model) as u64 / 8)
    }
}

/// Whether the provider may get a request for the model, though it may have to load it first.
fn serves(provider: &Provider, model: &CatalogueDigest, tier_min: Tier, now: MonoMillis, wall: UnixMillis) -> bool {
    eligible(provider, Some(model), tier_min, now, wall).is_ok()
        || (provider.could_load(model, now) && eligible(provider, None, tier_min, now, wall).is_ok())
}

/// The provider, if it could take a request that is sealed to this epoch; neither room is asked, nor whether the model is
/// loaded.
fn able<'a>(
    providers: &'a BTreeMap<ProviderId, Provider>,
    id: &ProviderId,
    epoch: &EpochId,
    model: &CatalogueDigest,
    tier_min: Tier,
    now: MonoMillis,
    wall: UnixMillis,
) -> Option<&'a Provider> {
    let provider = providers.get(id)?;
    let may = provider.opens(epoch, wall) && serves(provider, model, tier_min, now, wall);
    may.then_some(provider)
}

/// Whether waiting is of use: somebody could take the request if there were room. The same is asked when it is queued.
fn can_wait(
    providers: &BTreeMap<ProviderId, Provider>,
    model: &CatalogueDigest,
    waiting: &Waiting,
    now: MonoMillis,
    wall: UnixMillis,
) -> bool {
    let mut recipients = waiting.recipients.iter();
    recipients.any(|(id, epoch)| able(providers, id, epoch, model, waiting.tier_min, now, wall).is_some())
}

mod loading;
mod trust;

#[cfg(test)]
mod tests;
