//! Models that are loaded: when a request waits for them, and ahead of time where many find no room.

use std::collections::HashMap;

use darkbloom_types::{CatalogueDigest, ConnectionId, MonoMillis, ProviderId, UnixMillis};
use darkbloom_wire::LoadOutcome;

use super::Registry;
use super::keeping::pace_of;
use crate::cost;
use crate::provider::{Load, times};

/// How models are spread ahead of time.
pub mod preload {
    /// Requests that find no free row in [`super::times::DEMAND`] before that counts as demand: one that waits a moment is
    /// none.
    pub const SHORT_MIN: u32 = 4;
    /// How often in a row there must be demand before anybody is asked: a burst passes by itself.
    pub const TIMES_MIN: u32 = 2;
    /// Loads that are in flight in the whole fleet before another is begun ahead of time. Those that a request waits for
    /// count and are not held up.
    pub const IN_FLIGHT_MAX: usize = 16;
    /// Loads of one model that are begun at a time.
    pub const AT_A_TIME: usize = 2;
    /// Providers that are looked at for each.
    pub const LOOKED_AT: usize = 16;
}

/// What requests found no room for lately.
#[derive(Debug, Default)]
pub(super) struct Demand {
    models: HashMap<CatalogueDigest, Wanted>,
    looked_at: Option<MonoMillis>,
    /// Where the next look at those who could load begins.
    turn: usize,
}

#[derive(Debug, Default)]
struct Wanted {
    short: u32,
    times: u32,
}

impl Demand {
    /// A request found all rows in use.
    pub fn short_of(&mut self, model: &CatalogueDigest) {
        self.models.entry(*model).or_default().short += 1;
    }

    /// The models that have been short for long enough, those that miss most first.
    fn wanted(&mut self, now: MonoMillis) -> Vec<CatalogueDigest> {
        if self.looked_at.is_some_and(|at| now.since(at) < times::DEMAND) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let mut wanted = Vec::new();
        self.models.retain(|model, one| {
            let short = std::mem::take(&mut one.short);
            one.times = if short >= preload::SHORT_MIN { one.times + 1 } else { 0 };
            if one.times >= preload::TIMES_MIN {
                wanted.push((std::cmp::Reverse(short), model.0));
            }
            one.times > 0
        });
        wanted.sort_unstable();
        wanted.into_iter().map(|(_, model)| CatalogueDigest(model)).collect()
    }
}

impl Registry {
    /// What a provider says of loading a model. Whether it was asked to.
    pub fn load_reported(
        &mut self,
        connection: &ConnectionId,
        model: &CatalogueDigest,
        outcome: LoadOutcome,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> bool {
        let Some(provider) = self.on(connection) else { return false };
        provider.heard = now;
        let asked = provider.is_loading(model, now);
        provider.load_ended(model, outcome, now);
        let id = provider.registration.provider;
        self.refresh(&id, now, wall);
        self.wake_all_at(&id, now, wall);
        self.wake_hopeless_for(&id, model, now, wall);
        asked
    }

    /// Asks a provider to load a model, unless it was asked already.
    pub(super) fn load_at(&mut self, id: &ProviderId, model: &CatalogueDigest, now: MonoMillis, wall: UnixMillis) {
        let Some(provider) = self.providers.get_mut(id) else { return };
        if !provider.is_loading(model, now) {
            provider.loading.retain(|load| load.model != *model);
            provider.loading.push(Load { model: *model, until: now.after(times::LOAD), begun: false, asked: now });
            self.loads.push((provider.registration.connection, *model));
            self.refresh(id, now, wall);
        }
    }

    /// Has models loaded by idle providers where requests have found no room for a while. What was loaded stays for
    /// [`times::DWELL`], nobody is asked who is at work, and no more than a few load at once: the fleet does not thrash.
    pub(super) fn preload(&mut self, now: MonoMillis, wall: UnixMillis) {
        for model in self.demand.wanted(now) {
            for _ in 0..preload::AT_A_TIME {
                if self.loads_in_flight >= preload::IN_FLIGHT_MAX {
                    return;
                }
                let Some(id) = self.idle_with(&model, now) else { break };
                self.load_at(&id, &model, now, wall);
            }
        }
    }

    /// Of a few that could load a model and do nothing, the one that would be quickest.
    fn idle_with(&mut self, model: &CatalogueDigest, now: MonoMillis) -> Option<ProviderId> {
        self.demand.turn = self.demand.turn.wrapping_add(preload::LOOKED_AT);
        let stored = self.index.of(model)?.stored(preload::LOOKED_AT, self.demand.turn);
        let found = stored.filter_map(|id| self.providers.get(id).map(|provider| (id, provider)));
        let idle = found.filter(|(_, provider)| {
            let dwells = provider.loaded_at.is_some_and(|at| now.since(at) < times::DWELL);
            let works = provider.reserved.iter().any(|(_, rows)| *rows > 0) || !provider.elsewhere.is_empty();
            provider.loading.is_empty() && !dwells && !works
        });
        let cost = |(id, provider): &(&ProviderId, &crate::provider::Provider)| {
            let load = provider.cost_load(model, pace_of(&self.paces, provider, model), now);
            (cost::expected_ms(&load, cost::INPUT_USUAL, cost::OUTPUT_USUAL), **id)
        };
        idle.min_by_key(cost).map(|(id, _)| *id)
    }

    /// Models that are wanted in memory, each with the connection of the provider to tell.
    pub fn take_loads(&mut self) -> Vec<(ConnectionId, CatalogueDigest)> {
        std::mem::take(&mut self.loads)
    }
}
