//! The index, the counts and the list by time, kept with each event of a provider.

use darkbloom_types::{CatalogueDigest, MonoMillis, ProviderId, Standing, Tier, UnixMillis};

use super::Registry;
use crate::cost;
use crate::eligibility::{Work, eligible};
use crate::index::{self, DOUBTED, FULL, STORED};
use crate::pace::{Pace, Paces};
use crate::provider::{Counted, Provider, times};

/// How fast a provider is believed to run a model.
pub(super) fn pace_of(paces: &Paces, provider: &Provider, model: &CatalogueDigest) -> Pace {
    let seen = provider.paces.iter().find(|(known, _)| known == model).map(|(_, pace)| *pace);
    let said = || provider.served(model).and_then(|load| load.pace.as_ref());
    seen.unwrap_or_else(|| paces.believed(model, provider.hardware, said()))
}

/// Where a provider stands with a model; nowhere, if it gets no work.
fn standing_with(
    paces: &Paces,
    provider: &Provider,
    model: &CatalogueDigest,
    now: MonoMillis,
    wall: UnixMillis,
) -> Option<index::Standing> {
    eligible(provider, Work::Served(model), Tier::None, now, wall).ok()?;
    let class = if provider.record.is_doubted(now) {
        DOUBTED
    } else if provider.rows_max(model).is_none() {
        STORED
    } else if provider.rows_free(model) == 0 {
        FULL
    } else {
        let load = provider.cost_load(model, pace_of(paces, provider, model), now);
        cost::class(cost::expected_ms(&load, cost::INPUT_USUAL, cost::OUTPUT_USUAL))
    };
    let newcomer = provider.record.served < times::NEWCOMER && class < FULL;
    Some(index::Standing { class, tier: provider.registration.stated.tier, newcomer })
}

impl Registry {
    /// Something about a provider has changed: it is found where it belongs, and counted as what it is.
    pub(super) fn refresh(&mut self, id: &ProviderId, now: MonoMillis, wall: UnixMillis) {
        let Some(provider) = self.providers.get_mut(id) else { return };
        let models = provider.models();
        for gone in provider.indexed.iter().filter(|model| !models.contains(model)) {
            self.index.remove(gone, id);
        }
        for model in &models {
            let standing = standing_with(&self.paces, provider, model, now, wall);
            self.index.put(model, *id, standing);
        }
        provider.indexed = models;
        let routable = eligible(provider, Work::Any, Tier::None, now, wall).is_ok();
        let counted = Counted {
            routable: routable.then_some(provider.registration.stated.tier),
            untrusted: matches!(provider.record.standing, Standing::Distrusted(_) | Standing::Revoked),
            loading: provider.loading.len(),
        };
        let before = std::mem::replace(&mut provider.counted, counted);
        let at = provider.changes_at(now, wall);
        self.count(before, counted);
        if let Some(at) = at {
            self.look_at(id, at);
        }
    }

    /// Only its rows of this model have changed.
    pub(super) fn refresh_rows(&mut self, id: &ProviderId, model: &CatalogueDigest, now: MonoMillis, wall: UnixMillis) {
        let Some(provider) = self.providers.get(id) else { return };
        if provider.indexed.contains(model) {
            let standing = standing_with(&self.paces, provider, model, now, wall);
            self.index.put(model, *id, standing);
        }
    }

    fn count(&mut self, before: Counted, now: Counted) {
        if let Some(tier) = before.routable {
            self.routable[usize::from(tier.code())] -= 1;
        }
        if let Some(tier) = now.routable {
            self.routable[usize::from(tier.code())] += 1;
        }
        self.untrusted = self.untrusted + usize::from(now.untrusted) - usize::from(before.untrusted);
        self.loads_in_flight = self.loads_in_flight + now.loading - before.loading;
    }

    /// Has a provider looked at again then, or sooner.
    pub(super) fn look_at(&mut self, id: &ProviderId, at: MonoMillis) {
        let Some(provider) = self.providers.get_mut(id) else { return };
        if provider.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(timer) = provider.timer.replace(at) {
            self.timers.remove(&(timer, *id));
        }
        self.timers.insert((at, *id));
    }

    /// Takes a provider out of everything.
    pub(super) fn take(&mut self, id: &ProviderId) -> Option<Provider> {
        let provider = self.providers.remove(id)?;
        for model in &provider.indexed {
            self.index.remove(model, id);
        }
        if let Some(timer) = provider.timer {
            self.timers.remove(&(timer, *id));
        }
        self.challenges_at.remove(&(provider.challenge_at, *id));
        self.count(provider.counted, Counted::default());
        Some(provider)
    }

    /// Looks at up to `most` of those about whom time has changed something, and tells who waits for them.
    pub(super) fn advance(&mut self, now: MonoMillis, wall: UnixMillis, most: usize) {
        let mut loading = Vec::new();
        for _ in 0..most {
            let Some(id) = self.next_due(now) else { break };
            if self.providers.get(&id).is_some_and(|provider| provider.loading.iter().any(|load| now >= load.until)) {
                // Loads that take too long are given up by the tick alone: that is a failure, and has one time.
                loading.push(id);
            }
            self.refresh(&id, now, wall);
            self.wake_all_at(&id, now, wall);
            self.wake_hopeless_at(&id, now, wall);
        }
        loading.iter().for_each(|id| self.look_at(id, now));
    }

    /// The first about whom time has changed something.
    pub(super) fn next_due(&mut self, now: MonoMillis) -> Option<ProviderId> {
        let first = self.timers.first().copied().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&first);
        if let Some(provider) = self.providers.get_mut(&first.1) {
            provider.timer = None;
        }
        Some(first.1)
    }

    /// When [`Self::tick`] has something to do: a provider to look at, or demand to weigh. Requests that wait are looked at
    /// once a second besides.
    #[must_use]
    pub fn wake_at(&self) -> Option<MonoMillis> {
        self.timers.first().map(|(at, _)| *at)
    }
}
