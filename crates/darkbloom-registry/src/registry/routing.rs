//! Who gets the next request, who waits for a row, and who is woken when there is one.

use std::collections::HashMap;

use darkbloom_types::{
    AccountId, CatalogueDigest, EpochId, Millis, MonoMillis, ProviderId, RequestId, Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::limits;

use super::keeping::pace_of;
use super::{Registry, RouteError, RouteRequest, Row};
use crate::affinity::Conversation;
use crate::cost;
use crate::eligibility::{Ineligible, Work, eligible};
use crate::fleet::Fleet;
use crate::health::Outcome;
use crate::pace::Pace;
use crate::provider::{Provider, times};
use crate::queue::{Call, Waiting};

/// Providers that are looked at because of time under one lock: half a millisecond.
const CATCH_UP_MAX: usize = 128;
/// Of whoever answered a conversation last, the prompt is expected to cost this part: the rest is in its memory.
const PREFIX_MISSED: u32 = 4;

/// A recipient that has room.
#[derive(Debug, Clone, Copy)]
struct Offered {
    provider: ProviderId,
    doubted: bool,
    cost: u64,
    /// Rows in use, in parts of a million: integers compare alike on every machine.
    used: u64,
    /// Whether it answered the conversation last.
    last: bool,
}

/// What looking at the recipients of a request came to.
#[derive(Debug, Default)]
struct Looked {
    chosen: Option<ProviderId>,
    /// Somebody will have room.
    busy: bool,
    /// Somebody could load the model.
    stored: Option<ProviderId>,
    no_memory: bool,
}

/// What a recipient is to a request.
enum Able<'p> {
    /// It may have it.
    Now(&'p Provider),
    /// Another tries whether it has recovered; waiting for that is of use.
    Later,
    No,
}

impl Registry {
    /// Chooses a provider among the recipients and reserves a row there: one that is not doubted before others, then where the
    /// answer is expected first. Among those that are alike, whoever answered the conversation last, then whoever has the
    /// smallest share of its rows in use, in the client's order. Without room the request is queued, at its old place when it
    /// was woken, and a recipient that has the model on its disk alone is asked to load it.
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
        let looked = self.look(request, now, wall);
        if let Some(provider) = looked.chosen.and_then(|id| self.providers.get_mut(&id)) {
            provider.reserve(&request.model);
            let probes = provider.record.wants_probe(&request.model, now);
            provider.record.given(&request.model, request.request, now);
            let id = provider.registration.provider;
            if probes { self.refresh(&id, now, wall) } else { self.refresh_rows(&id, &request.model, now, wall) }
        }
        if let Some(row_at) = before.and_then(|woken| woken.row_at).filter(|id| looked.chosen != Some(*id)) {
            // Another may have the row that it was woken for.
            self.wake_at_most(&row_at, &request.model, 1, now, wall);
        }
        if let Some(id) = looked.chosen {
            self.affinity.answered(conversation(request), id);
            self.storms.routed(request.account, request.model);
            return Ok(id);
        }
        if before.is_none() && looked.busy {
            self.demand.short_of(&request.model);
        }
        if looked.busy || looked.stored.is_some() {
            if before.is_none() && looked.stored.is_none() && self.queue.is_hopeless(&request.model, now) {
                return Err(RouteError::WaitTooLong);
            }
            let untried = request.recipients.iter().filter(|(id, _)| !request.tried.contains(id));
            let waiting = Waiting {
                request: request.request,
                account: request.account,
                tier_min: request.tier_min,
                recipients: untried.copied().collect(),
            };
            if !self.queue.push(request.model, waiting, before, now) {
                return Err(RouteError::QueueFull);
            }
            let Some(id) = looked.stored else { return Err(RouteError::Queued) };
            self.load_at(&id, &request.model, now, wall);
            return Err(RouteError::Loading);
        }
        Err(match (self.others_could(request, now, wall), looked.no_memory) {
            (true, _) => RouteError::OthersCould,
            (false, true) => RouteError::NoMemory,
            (false, false) => RouteError::Nobody,
        })
    }

    /// Looks at each recipient, and at nobody else.
    fn look(&self, request: &RouteRequest<'_>, now: MonoMillis, wall: UnixMillis) -> Looked {
        let mut looked = Looked::default();
        let mut offered: [Option<Offered>; limits::WRAPS_MAX] = [None; limits::WRAPS_MAX];
        let mut stored: Option<((bool, bool, u64), ProviderId)> = None;
        let last = self.affinity.last(&conversation(request));
        let untried = request.recipients.iter().filter(|(id, _)| !request.tried.contains(id));
        for ((id, epoch), place) in untried.zip(&mut offered) {
            let provider = match able(&self.providers, id, epoch, &request.model, request.tier_min, now, wall) {
                Able::Now(provider) => provider,
                Able::Later => {
                    looked.busy = true;
                    continue;
                }
                Able::No => {
                    let found = self.providers.get(id).filter(|provider| provider.opens(epoch, wall));
                    looked.no_memory |= found.is_some_and(|provider| provider.could_not_load(&request.model, now));
                    continue;
                }
            };
            let (free, rows) = (provider.rows_free(&request.model), provider.rows_max(&request.model));
            if rows.is_some() && free == 0 {
                looked.busy = true;
                continue;
            }
            let last = last == Some(*id);
            let input = if last { TokenCount(request.input.0 / PREFIX_MISSED) } else { request.input };
            let load = provider.cost_load(&request.model, pace_of(&self.paces, provider, &request.model), now);
            let cost = cost::expected_ms(&load, input, request.output);
            let doubted = provider.record.is_doubted(now);
            let Some(rows) = rows else {
                // One that loads already before others, then one that is not doubted.
                let order = (!provider.is_loading(&request.model, now), doubted, cost);
                if stored.is_none_or(|(least, _)| order < least) {
                    stored = Some((order, *id));
                }
                continue;
            };
            let used = u64::from(rows - free) * 1_000_000 / u64::from(rows.max(1));
            *place = Some(Offered { provider: *id, doubted, cost, used, last });
        }
        let least = offered.iter().flatten().map(|one| (one.doubted, one.cost)).min();
        if let Some((doubted, cost)) = least {
            let most = cost::alike(cost);
            let alike = offered.iter().flatten().filter(|one| one.doubted == doubted && one.cost <= most);
            looked.chosen = alike.min_by_key(|one| (!one.last, one.used)).map(|one| one.provider);
        }
        looked.stored = stored.map(|(_, id)| id);
        looked
    }

    /// Whether a fresh sealing could reach somebody whom this one cannot.
    fn others_could(&mut self, request: &RouteRequest<'_>, now: MonoMillis, wall: UnixMillis) -> bool {
        self.advance(now, wall, times::LOOKED_AT);
        let Some(servers) = self.index.of(&request.model) else { return false };
        let is_sealed_to = |(id, epoch): &&(ProviderId, EpochId)| {
            let current = self.providers.get(id).is_some_and(|found| found.registration.stated.epoch == *epoch);
            current && servers.standing(id).is_some_and(|standing| standing.tier >= request.tier_min)
        };
        let sealed_to = request.recipients.iter().filter(is_sealed_to).count();
        servers.at_least(request.tier_min) > sealed_to
    }

    /// A provider called a request wrong that another answered: for [`times::DOUBT`] others are preferred to it. It stays
    /// eligible.
    pub fn doubt(&mut self, provider: &ProviderId, now: MonoMillis) {
        let until = Some(now.after(times::DOUBT));
        if let Some(found) = self.providers.get_mut(provider) {
            found.record.doubted_until = until;
            self.look_at(provider, now);
        } else {
            let mut gone = self.gone.take(provider).unwrap_or_default();
            gone.record.doubted_until = until;
            self.gone.put(*provider, gone);
        }
    }

    /// A row is free again. What the provider did counts for and against it, whichever connection it has now.
    pub fn release(&mut self, row: &Row, outcome: Outcome, now: MonoMillis, wall: UnixMillis) {
        let (id, model) = (row.provider, row.model);
        let Some(found) = self.providers.get_mut(&id) else { return self.release_at_gone(row, outcome, now) };
        let running = found.running(&model);
        if found.registration.connection == row.connection {
            found.release(&model);
        }
        let blocked = !found.record.health.is_clean() || !found.record.models.is_empty();
        let opened = found.record.ended(&model, row.request, &row.connection, outcome, now);
        if let Outcome::Served(Some(seen)) = outcome {
            found.round_trip = match found.round_trip {
                Millis(0) => seen.round_trip,
                // The shortest is how far it is; a longer way is believed slowly.
                known => Millis(seen.round_trip.0.min(known.0 + known.0.div_ceil(16))),
            };
            if let Some(pace) = Pace::of(&seen, running) {
                let kind = found.hardware;
                let served = found.served(&model).is_some();
                match found.paces.iter_mut().find(|(known, _)| *known == model) {
                    Some((_, known)) => known.learn(pace),
                    None if served => {
                        let mut first = self.paces.usual(&model, kind);
                        first.learn(pace);
                        found.paces.push((model, first));
                    }
                    None => {}
                }
                self.paces.learn(&model, kind, pace);
            }
        }
        self.queue.freed(&model, now);
        if blocked || matches!(outcome, Outcome::Failed(_)) {
            self.refresh(&id, now, wall);
        } else {
            self.refresh_rows(&id, &model, now, wall);
        }
        if opened || blocked {
            self.wake_all_at(&id, now, wall);
        } else {
            self.wake_at_most(&id, &model, 1, now, wall);
        }
        if matches!(outcome, Outcome::Failed(_)) {
            self.wake_hopeless_at(&id, now, wall);
        }
    }

    /// A provider whose connection broke under its requests has failed them, though it is not here to hear it.
    fn release_at_gone(&mut self, row: &Row, outcome: Outcome, now: MonoMillis) {
        let known = self.gone.take(&row.provider);
        let failed = matches!(outcome, Outcome::Failed(_));
        let Some(mut gone) = known.or_else(|| failed.then(Default::default)) else { return };
        // Who is gone is not there to be cleared.
        let outcome = if failed { outcome } else { Outcome::Unused };
        gone.record.ended(&row.model, row.request, &row.connection, outcome, now);
        self.gone.put(row.provider, gone);
    }

    /// A request no longer waits.
    pub fn leave_queue(&mut self, model: &CatalogueDigest, request: &RequestId, now: MonoMillis, wall: UnixMillis) {
        self.queue.remove(model, request);
        let woken = self.queue.take_woken(model, request);
        if let Some(row_at) = woken.and_then(|woken| woken.row_at) {
            // It was woken and did not use its chance: the next one may.
            self.wake_at_most(&row_at, model, 1, now, wall);
        }
    }

    /// Requests waiting for a model.
    #[must_use]
    pub fn queued(&self, model: &CatalogueDigest) -> usize {
        self.queue.len(model)
    }

    /// Wakes whom time alone has made room for, or has left without anybody: pauses and epochs end without an event, and
    /// whoever was woken may be slow to use its chance. Has models loaded that are wanted. To be called once a second.
    pub fn tick(&mut self, now: MonoMillis, wall: UnixMillis) {
        self.catch_up(now, wall);
        // Before it is asked who waits for nobody: whoever is asked for the model now is worth waiting for.
        self.preload(now, wall);
        for model in self.queue.models() {
            let providers = &self.providers;
            let mut given: HashMap<ProviderId, u32> = HashMap::new();
            let woken = self.queue.wake(&model, |waiting| {
                let mut hope = false;
                for (id, epoch) in &waiting.recipients {
                    let provider = match able(providers, id, epoch, &model, waiting.tier_min, now, wall) {
                        Able::Now(provider) => provider,
                        Able::Later => {
                            hope = true;
                            continue;
                        }
                        Able::No => continue,
                    };
                    let given = given.entry(*id).or_default();
                    if rows_to_give(provider, &model, now) > *given {
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

    /// Looks at some of those providers about whom time has changed something; those who wait for them are woken by the next
    /// tick. Whether there are more: so that many, after a cut of the network, hold the registry for a moment each time.
    pub fn catch_up(&mut self, now: MonoMillis, wall: UnixMillis) -> bool {
        for _ in 0..CATCH_UP_MAX {
            let Some(id) = self.next_due(now) else { return false };
            if let Some(provider) = self.providers.get_mut(&id) {
                provider.give_up_loading(now);
            }
            self.refresh(&id, now, wall);
        }
        true
    }

    /// Wakes those who can use the free rows of one provider, in their order.
    pub(super) fn wake_all_at(&mut self, id: &ProviderId, now: MonoMillis, wall: UnixMillis) {
        let Some(provider) = self.providers.get(id) else { return };
        let probes = provider.record.health.wants_probe(now);
        for model in provider.models() {
            // Of all models together one request tries whether a provider has recovered.
            if self.wake_at_most(id, &model, u32::MAX, now, wall) > 0 && probes {
                return;
            }
        }
    }

    /// Wakes as many as can use the free rows of one provider for one model, and no more than `rows_max`.
    pub(super) fn wake_at_most(
        &mut self,
        id: &ProviderId,
        model: &CatalogueDigest,
        rows_max: u32,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> usize {
        if self.queue.len(model) == 0 {
            return 0;
        }
        let Some(provider) = self.providers.get(id) else { return 0 };
        if eligible(provider, Work::Loaded(model), Tier::None, now, wall).is_err() {
            return 0;
        }
        let mut free = rows_to_give(provider, model, now).min(rows_max);
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
        let count = woken.len();
        self.wakes.extend(woken);
        count
    }

    /// Whoever waited for this provider alone must learn now that nobody else can take it.
    pub(super) fn wake_hopeless_for(
        &mut self,
        id: &ProviderId,
        model: &CatalogueDigest,
        now: MonoMillis,
        wall: UnixMillis,
    ) {
        if self.queue.len(model) == 0 {
            return;
        }
        let providers = &self.providers;
        let woken = self.queue.wake(model, |waiting| {
            let lost = waiting.epoch_at(id).is_some() && !can_wait(providers, model, waiting, now, wall);
            if lost { Call::Wake(None) } else { Call::Stay }
        });
        self.wakes.extend(woken);
    }

    pub(super) fn wake_hopeless_at(&mut self, id: &ProviderId, now: MonoMillis, wall: UnixMillis) {
        for model in self.providers.get(id).map(Provider::models).unwrap_or_default() {
            self.wake_hopeless_for(id, &model, now, wall);
        }
    }

    /// Requests that left the queue because there may be room now; each must be routed again.
    pub fn take_wakes(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.wakes)
    }

    /// When a refused request may try again: when those who wait now have had their turns, as the line has moved so far.
    #[must_use]
    pub fn retry_after(&self, model: &CatalogueDigest) -> Millis {
        self.queue.retry_after(model)
    }

    /// A request of an account was refused for want of room: how long it is to wait, which is remembered.
    pub fn refused(&mut self, account: AccountId, model: &CatalogueDigest, now: MonoMillis) -> Millis {
        let wait = self.queue.retry_after(model);
        self.storms.refused(account, *model, wait, now);
        wait
    }

    /// Whether an account may ask for a model now; to be asked before anything is held for it.
    ///
    /// # Errors
    /// How long it has to wait, since it came back too often before it was to.
    pub fn may_ask(&mut self, account: AccountId, model: &CatalogueDigest, now: MonoMillis) -> Result<(), Millis> {
        self.storms.enter(account, *model, now)
    }
}

fn conversation(request: &RouteRequest<'_>) -> Conversation {
    Conversation { model: request.model, account: request.account, tag: request.affinity }
}

/// Rows that may be given out now: one, where it is to be tried whether a provider has recovered.
fn rows_to_give(provider: &Provider, model: &CatalogueDigest, now: MonoMillis) -> u32 {
    let free = provider.rows_free(model);
    if provider.record.wants_probe(model, now) { free.min(1) } else { free }
}

/// Whether a provider could take a request that is sealed to this epoch; neither room is asked, nor whether the model is
/// loaded.
fn able<'p>(
    providers: &'p Fleet,
    id: &ProviderId,
    epoch: &EpochId,
    model: &CatalogueDigest,
    tier_min: Tier,
    now: MonoMillis,
    wall: UnixMillis,
) -> Able<'p> {
    let Some(provider) = providers.get(id).filter(|provider| provider.opens(epoch, wall)) else { return Able::No };
    match eligible(provider, Work::Served(model), tier_min, now, wall) {
        Ok(()) => Able::Now(provider),
        Err(Ineligible::Probing) => Able::Later,
        Err(_) => Able::No,
    }
}

/// Whether waiting is of use: somebody could take the request if there were room. The same is asked when it is queued.
fn can_wait(providers: &Fleet, model: &CatalogueDigest, waiting: &Waiting, now: MonoMillis, wall: UnixMillis) -> bool {
    let mut recipients = waiting.recipients.iter();
    recipients.any(|(id, epoch)| !matches!(able(providers, id, epoch, model, waiting.tier_min, now, wall), Able::No))
}
