//! Verified candidates, cached for a short time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use darkbloom_attest::{TrustPolicy, Verdict, verify_statement};
use darkbloom_seal::Recipient;
use darkbloom_types::{CatalogueDigest, Millis, Price, Refusal, RefusalCode, SecretString, UnixMillis};
use darkbloom_wire::{CandidateList, CatalogueEntry, catalogue_digest, limits};
use rand_core::Rng as _;

use crate::network::{Coordinator, Network, open_entry};
use darkbloom_host::clock;

/// A list older than this is fetched again beside the request that uses it: load hints age quickly, epochs do not.
const FRESH: Millis = Millis::from_secs(10);
/// A list older than this is not used any more.
const USABLE: Millis = Millis::from_minutes(5);
/// Models whose candidates are kept.
const MODELS_MAX: usize = 64;

/// The verified content of one candidate list.
#[derive(Debug)]
pub struct Candidates {
    /// The model.
    pub digest: CatalogueDigest,
    /// Its entry.
    pub entry: CatalogueEntry,
    /// The price, signed by the coordinator.
    pub price: Price,
    /// Providers that this client would seal to, best first.
    pub usable: Vec<Verdict>,
    /// Providers whose statements verify but are below the demanded tier.
    pub below: usize,
    read_at: UnixMillis,
    refreshing: AtomicBool,
}

impl Candidates {
    /// Verifies a list and every statement in it.
    pub fn read(
        signed: &[u8],
        coordinator: &Coordinator,
        policy: &TrustPolicy,
        now: UnixMillis,
    ) -> Result<Self, Refusal> {
        let lie = |detail: String| Refusal::new(RefusalCode::VerificationFailed, detail);
        let list =
            CandidateList::open(signed, &coordinator.key).map_err(|error| lie(format!("candidate list: {error}")))?;
        if list.network != coordinator.network {
            return Err(RefusalCode::WrongNetwork.into());
        }
        if list.time.distance(now) > limits::CLOCK_SKEW_MAX {
            let detail = format!("the coordinator's clock says {}, this machine's {}", list.time.0, now.0);
            return Err(Refusal::new(RefusalCode::ClockSkew, detail));
        }
        let entry = open_entry(&list.entry, coordinator)?;
        let digest = catalogue_digest(&list.entry);
        let (mut usable, mut below) = (Vec::new(), 0);
        for candidate in &list.candidates.0 {
            match verify_statement(&candidate.statement, policy, now) {
                Ok(verdict) if !verdict.statement.models.0.contains(&digest) => {
                    tracing::warn!(provider = %verdict.provider.short(), "a candidate that does not serve the model");
                }
                Ok(verdict) if policy.admits(&verdict) => usable.push(verdict),
                Ok(_) => below += 1,
                Err(error) => tracing::warn!(%error, "a candidate's statement does not verify"),
            }
        }
        Ok(Self { digest, entry, price: list.price, usable, below, read_at: now, refreshing: AtomicBool::new(false) })
    }

    /// Chooses recipients: the best, and one at random, so that newcomers are found and no list order is a monopoly.
    pub fn choose(&self, count: usize) -> Result<Vec<&Verdict>, Refusal> {
        if self.usable.is_empty() {
            let code = if self.below > 0 { RefusalCode::TierNotMet } else { RefusalCode::NoEligibleProvider };
            return Err(code.into());
        }
        let count = count.clamp(1, limits::WRAPS_MAX).min(self.usable.len());
        let mut chosen: Vec<_> = self.usable.iter().take(count).collect();
        let rest = &self.usable[count..];
        if count > 1 && !rest.is_empty() {
            let index = clock::rng().next_u64() % rest.len() as u64;
            chosen[count - 1] = &rest[usize::try_from(index).unwrap_or(0)];
        }
        Ok(chosen)
    }
}

/// A verdict as somebody to seal to.
pub fn recipient(verdict: &Verdict) -> Recipient<'_> {
    Recipient { provider: verdict.provider, epoch: verdict.epoch, sealing_key: &verdict.statement.sealing_key }
}

/// Candidates by model name.
#[derive(Default)]
pub struct CandidateCache {
    lists: Mutex<HashMap<String, Arc<Candidates>>>,
}

impl CandidateCache {
    /// The usable list of a model, and whether the caller is the one who should fetch the next.
    fn get(&self, model: &str, now: UnixMillis) -> Option<(Arc<Candidates>, bool)> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        let list = lists.get(model)?;
        let age = now.since(list.read_at);
        let usable = age < USABLE
            && !list.usable.is_empty()
            && list.usable.iter().all(|verdict| now < verdict.statement.use_until);
        let refresh = age >= FRESH && !list.refreshing.swap(true, Ordering::AcqRel);
        usable.then(|| (Arc::clone(list), refresh))
    }

    fn put(&self, model: String, list: Arc<Candidates>) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.len() >= MODELS_MAX {
            lists.clear();
        }
        lists.insert(model, list);
    }

    /// Forgets a model's list: what it says has turned out stale.
    pub fn forget(&self, model: &str) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).remove(model);
    }
}

impl Network {
    /// What this client demands of providers.
    pub fn policy(&self, coordinator: &Coordinator) -> TrustPolicy {
        TrustPolicy { network: coordinator.network, tier_min: self.config.tier_min, pinned: self.config.pinned.clone() }
    }

    /// Verified candidates of a model. After the first request they come from the cache: a list that ages is replaced
    /// beside the request, so that no request waits for it.
    pub async fn candidates_of(
        self: &Arc<Self>,
        model: &str,
        key: &SecretString,
        coordinator: &Coordinator,
    ) -> Result<Arc<Candidates>, Refusal> {
        let Some((list, refresh)) = self.candidates.get(model, clock::now()) else {
            return self.fetch_candidates(model, key, coordinator).await;
        };
        if refresh {
            let (network, model) = (Arc::clone(self), model.to_owned());
            let (key, coordinator) = (key.clone(), coordinator.clone());
            tokio::spawn(async move {
                if let Err(error) = network.fetch_candidates(&model, &key, &coordinator).await {
                    tracing::debug!(%error, "cannot refresh the candidates");
                    network.candidates.forget(&model);
                }
            });
        }
        Ok(list)
    }

    async fn fetch_candidates(
        &self,
        model: &str,
        key: &SecretString,
        coordinator: &Coordinator,
    ) -> Result<Arc<Candidates>, Refusal> {
        let signed = self.candidate_list(model, key).await?;
        let list = Candidates::read(&signed, coordinator, &self.policy(coordinator), clock::now())?;
        if list.entry.name != model {
            return Err(Refusal::new(RefusalCode::VerificationFailed, "the candidates are of another model"));
        }
        let list = Arc::new(list);
        self.candidates.put(model.to_owned(), Arc::clone(&list));
        Ok(list)
    }
}
