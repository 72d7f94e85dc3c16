//! What is told of providers: to themselves, to their operator, to auditors, and to clients as candidates.

use std::cmp::Reverse;
use std::sync::Arc;

use darkbloom_types::{CatalogueDigest, MonoMillis, ProviderId, Tier, UnixMillis};
use darkbloom_wire::{ModelLoad, limits};
use rand_core::CryptoRng;

use super::{CandidateView, Counts, ProviderView, Registry};
use crate::eligibility::{Ineligible, Work, eligible};
use crate::provider::{Provider, times};

/// Of a list of candidates, so many places are for providers that have answered little yet: an eighth, so that they are
/// found and a fleet of newcomers fools nobody into asking them alone.
const NEWCOMERS: usize = limits::CANDIDATES_MAX / 8;
/// More free rows than this make no candidate better: a boast must not be first in every list.
const FREE_MATTER: u32 = 16;

/// A provider, its signed statement, and why it gets no work.
pub type Stating = (ProviderId, Arc<[u8]>, Result<(), Ineligible>);

impl Registry {
    /// Whether a provider gets work at all, and if not, why.
    #[must_use]
    pub fn verdict(
        &self,
        provider: &ProviderId,
        tier_min: Tier,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<Result<(), Ineligible>> {
        self.providers.get(provider).map(|provider| eligible(provider, Work::Any, tier_min, now, wall))
    }

    /// Whether a provider would get a request for this model, and if not, why.
    #[must_use]
    pub fn verdict_for(
        &self,
        provider: &ProviderId,
        model: &CatalogueDigest,
        tier_min: Tier,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Option<Result<(), Ineligible>> {
        self.providers.get(provider).map(|provider| eligible(provider, Work::Served(model), tier_min, now, wall))
    }

    /// Whether anybody could answer with this model at this tier, room or not: what a client may ask before it sends
    /// anything. As of the last event of each provider.
    #[must_use]
    pub fn preflight(&self, model: &CatalogueDigest, tier_min: Tier) -> bool {
        self.index.of(model).is_some_and(|servers| servers.at_least(tier_min) > 0)
    }

    /// Providers in numbers, those that get work at this tier. Kept with every event, and as new as the last tick for what
    /// time alone changes.
    #[must_use]
    pub fn counts(&self, tier_min: Tier) -> Counts {
        let routable = self.routable[usize::from(tier_min.code())..].iter().sum();
        Counts { connected: self.providers.len(), routable, untrusted: self.untrusted }
    }

    /// All connected providers. Goes through the whole fleet: [`Self::views_after`] does so in pages.
    #[must_use]
    pub fn views(&self, tier_min: Tier, now: MonoMillis, wall: UnixMillis) -> Vec<ProviderView> {
        self.views_after(None, usize::MAX, tier_min, now, wall)
    }

    /// Connected providers with ids above `after`, in the order of their ids; no more than `most`.
    #[must_use]
    pub fn views_after(
        &self,
        after: Option<&ProviderId>,
        most: usize,
        tier_min: Tier,
        now: MonoMillis,
        wall: UnixMillis,
    ) -> Vec<ProviderView> {
        let load = |provider: &Provider, said: &ModelLoad| ModelLoad {
            rows_used: provider.rows_reserved(&said.model),
            ..said.clone()
        };
        let view = |(_, provider): (&ProviderId, &Provider)| ProviderView {
            provider: provider.registration.provider,
            tier: provider.registration.stated.tier,
            standing: provider.record.standing,
            shadow: provider.registration.stated.shadow.clone(),
            eligible: eligible(provider, Work::Any, tier_min, now, wall),
            models: provider.registration.models.iter().map(|said| load(provider, said)).collect(),
        };
        self.providers.after(after).take(most).map(view).collect()
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
    ) -> Vec<Stating> {
        let view = |(id, provider): (&ProviderId, &Provider)| {
            let verdict = eligible(provider, Work::Any, tier_min, now, wall);
            (*id, Arc::clone(&provider.registration.stated.statement), verdict)
        };
        self.providers.after(after).take(most).map(view).collect()
    }

    /// Up to 32 eligible providers of a model: those where a usual request is expected to be answered first, then those
    /// without room, those that would have to load it, and doubted ones. Within a class of cost they are drawn, and an eighth
    /// of the places is for newcomers; the roomiest of a class stand first and equals are shuffled.
    pub fn candidates(
        &mut self,
        model: &CatalogueDigest,
        now: MonoMillis,
        wall: UnixMillis,
        rng: &mut impl CryptoRng,
    ) -> Vec<CandidateView> {
        self.advance(now, wall, times::LOOKED_AT);
        let Some(servers) = self.index.of(model) else { return Vec::new() };
        let may = |id: &ProviderId| {
            let provider = self.providers.get(id);
            provider.is_some_and(|found| eligible(found, Work::Served(model), Tier::None, now, wall).is_ok())
        };
        let drawn = servers.draw(limits::CANDIDATES_MAX, NEWCOMERS, rng, may);
        let mut found: Vec<_> = drawn
            .into_iter()
            .filter_map(|(class, id)| {
                let provider = self.providers.get(&id)?;
                let free = Reverse(provider.rows_free(model).min(FREE_MATTER));
                Some(((class, free, rng.next_u32()), provider))
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        let view = |provider: &Provider| CandidateView {
            provider: provider.registration.provider,
            epoch: provider.registration.stated.epoch,
            known_at: provider.registration.stated.known_at,
            statement: Arc::clone(&provider.registration.stated.statement),
            rows_free: provider.rows_free(model),
            waiting: provider.waiting(model),
            row_tokens: provider.row_tokens(model),
        };
        found.into_iter().map(|(_, provider)| view(provider)).collect()
    }
}
