//! Verified candidates: fetched once, and kept fresh by what comes with each answer.

mod examined;
mod update;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_attest::{TrustPolicy, Verdict};
use darkbloom_seal::Recipient;
use darkbloom_types::{
    CatalogueDigest, EpochId, Millis, Price, ProviderId, Refusal, RefusalCode, SecretString, TokenCount, UnixMillis,
};
use darkbloom_wire::{CandidateList, CandidateUpdate, CatalogueEntry, catalogue_digest, limits};
use rand_core::Rng as _;

use self::examined::Examined;
use self::update::UpdateError;
use crate::network::{Coordinator, Network, open_entry};
use crate::printable::printable;
use darkbloom_host::clock;

/// A list older than this is fetched again beside the request that uses it. Answers bring newer ones, so this happens
/// after a pause only.
const FRESH: Duration = Duration::from_secs(60);
/// A list is fetched anew twice a day, however often it was updated: updates are not signed.
const SIGNED_AGAIN: Millis = Millis::from_minutes(12 * 60);
/// A list older than this is not used any more.
const USABLE: Duration = Duration::from_secs(5 * 60);
/// A refresh that failed is not tried again sooner: it may take twenty seconds itself.
const REFRESH_AGAIN: Duration = Duration::from_secs(30);
/// Tokens that few answers exceed: chat completions have some hundreds.
const ROOM_FOR_MOST: u32 = 1_024;
/// Models whose candidates are kept.
const MODELS_MAX: usize = 64;
/// Statements that a list remembers, those of its candidates included: as many again may be no candidates for a while.
const KNOWN_MAX: usize = 2 * limits::CANDIDATES_MAX;

/// The verified content of one candidate list, or of its last update.
#[derive(Debug)]
pub struct Candidates {
    /// The model.
    pub digest: CatalogueDigest,
    /// Its entry.
    pub entry: CatalogueEntry,
    /// The price that was agreed to: signed by the coordinator, or nowhere higher than that.
    pub price: Price,
    /// Providers that this client would seal to, best first.
    pub usable: Vec<Usable>,
    /// Providers whose statements verify but are below the demanded tier.
    pub below: usize,
    /// The coordinator's clock, when it said so.
    pub time: UnixMillis,
    /// Statements of this model that verified. An update names a provider without repeating its statement, also one that
    /// is below the demanded tier or was no candidate for a while.
    known: Vec<Arc<Verdict>>,
    read_at: Instant,
    refreshed_at: Mutex<Option<Instant>>,
    /// The list as the coordinator signed it; updates are not signed.
    pub signed: Arc<[u8]>,
    /// The coordinator's clock when it signed that.
    signed_at: UnixMillis,
    /// The network's activator, as the coordinator signed it.
    activator: Option<[u8; 65]>,
    /// Statements of all lists.
    examined: Arc<Examined>,
}

/// A provider that a client would seal to.
#[derive(Debug, Clone)]
pub struct Usable {
    /// Who, verified.
    pub verdict: Arc<Verdict>,
    /// Tokens of prompt and answer together that one of its rows holds: the coordinator's hint. Where it is wrong the
    /// provider refuses, and another is asked.
    pub row_tokens: TokenCount,
}

impl Usable {
    fn is_among(&self, these: &[(ProviderId, EpochId)]) -> bool {
        these.contains(&(self.verdict.provider, self.verdict.epoch))
    }
}

/// What a request takes of a row, and who has had it already.
#[derive(Debug, Clone, Copy)]
pub struct Need<'r> {
    /// Tokens of the prompt.
    pub prompt: TokenCount,
    /// As many, or more: what the header says of it.
    pub input_ceiling: TokenCount,
    /// The longest answer, where the consumer set a limit.
    pub answer: Option<TokenCount>,
    /// To whom it was sealed before, in vain. They come into question only where nobody else has room.
    pub passed_over: &'r [(ProviderId, EpochId)],
}

/// Who a request is sealed to.
pub struct Chosen<'c> {
    /// Recipients, best first.
    pub recipients: Vec<&'c Verdict>,
    /// The longest answer that each of them has room for, and no longer than asked.
    pub output_ceiling: TokenCount,
}

impl Candidates {
    /// Verifies a list and every statement in it that was not verified before. `at` is the same moment as `now`, on the monotonic clock.
    pub fn read(
        signed: &[u8],
        coordinator: &Coordinator,
        policy: &TrustPolicy,
        now: UnixMillis,
        at: Instant,
        examined: &Arc<Examined>,
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
        let policy = &policy.with_network_activator(list.activator);
        let entry = open_entry(&list.entry, coordinator)?;
        let digest = catalogue_digest(&list.entry);
        let statements = list.candidates.0.iter();
        let current: Vec<_> = statements
            .filter_map(|candidate| {
                let verdict = examine(examined, &candidate.statement, list.activator, &digest, policy, now)?;
                Some(Usable { verdict, row_tokens: candidate.row_tokens })
            })
            .collect();
        let known = current.iter().map(|candidate| Arc::clone(&candidate.verdict)).collect();
        let (usable, below) = rank(current, policy);
        let refreshed_at = Mutex::default();
        Ok(Self {
            digest,
            entry,
            price: list.price,
            usable,
            below,
            time: list.time,
            known,
            read_at: at,
            refreshed_at,
            signed: signed.into(),
            signed_at: list.time,
            activator: list.activator,
            examined: Arc::clone(examined),
        })
    }

    /// Chooses recipients with room for the request: the best, and one at random, so that newcomers are found and no list
    /// order is a monopoly. Where the consumer sets no limit the answer may take what all of them have, but for what the
    /// prompt's ceiling is above the prompt: the ceilings together shall not tell how long that is.
    pub fn choose(&self, count: usize, need: Need<'_>, now: UnixMillis) -> Result<Chosen<'_>, Refusal> {
        self.anybody(now)?;
        let mut fitting = self.with_room(self.fresh(need, now), need);
        if fitting.is_empty() {
            fitting = self.with_room(self.in_use(now).collect(), need);
        }
        if fitting.is_empty() {
            let most = self.in_use(now).map(|usable| usable.row_tokens.0).max().unwrap_or(0);
            let needed = u64::from(need.prompt.0) + u64::from(need.answer.map_or(1, |answer| answer.0));
            let detail = format!("prompt and answer need {needed} tokens, the longest rows hold {most}");
            return Err(Refusal::new(RefusalCode::RowTooSmall, detail));
        }
        let count = count.clamp(1, limits::WRAPS_MAX).min(fitting.len());
        let (best, rest) = fitting.split_at(count);
        let mut chosen = best.to_vec();
        if count > 1 && !rest.is_empty() {
            let index = clock::rng().next_u64() % rest.len() as u64;
            chosen[count - 1] = rest[usize::try_from(index).unwrap_or(0)];
        }
        let shortest = chosen.iter().map(|usable| self.tokens_of(usable)).min().unwrap_or(0);
        // Where the bucket takes most of the room, the exact rest is better than hardly an answer.
        let exact = shortest.saturating_sub(need.prompt.0);
        let unlimited = shortest.checked_sub(need.input_ceiling.0).filter(|left| *left > exact / 2).unwrap_or(exact);
        Ok(Chosen {
            recipients: chosen.into_iter().map(|usable| &*usable.verdict).collect(),
            output_ceiling: need.answer.unwrap_or(TokenCount(unlimited)),
        })
    }

    /// Those who have room for the answer that was asked for. Where no limit was set that is half of what the roomiest has,
    /// or as much as most answers take: one long row must not draw all requests to itself.
    fn with_room<'c>(&self, usable: Vec<&'c Usable>, need: Need<'_>) -> Vec<&'c Usable> {
        let room = |usable: &Usable| self.tokens_of(usable).saturating_sub(need.prompt.0);
        let roomiest = usable.iter().map(|usable| room(usable)).max().unwrap_or(0);
        let least = need.answer.map_or(roomiest.div_ceil(2).min(ROOM_FOR_MOST), |answer| answer.0).max(1);
        usable.into_iter().filter(|usable| room(usable) >= least).collect()
    }

    /// What prompt and answer may take there: a row, or the model's context, which is never exceeded.
    fn tokens_of(&self, usable: &Usable) -> u32 {
        usable.row_tokens.min(self.entry.context).0
    }

    /// Whether anybody has room for the request who has not had it.
    pub fn has_others(&self, need: Need<'_>, now: UnixMillis) -> bool {
        !self.with_room(self.fresh(need, now), need).is_empty()
    }

    fn fresh(&self, need: Need<'_>, now: UnixMillis) -> Vec<&Usable> {
        self.in_use(now).filter(|usable| !usable.is_among(need.passed_over)).collect()
    }

    /// Whether anybody is there to be sealed to.
    pub fn anybody(&self, now: UnixMillis) -> Result<(), Refusal> {
        if self.in_use(now).next().is_some() {
            return Ok(());
        }
        Err(if self.below > 0 { RefusalCode::TierNotMet } else { RefusalCode::NoEligibleProvider }.into())
    }

    /// Candidates whose epochs are not over.
    fn in_use(&self, now: UnixMillis) -> impl Iterator<Item = &Usable> {
        self.usable.iter().filter(move |usable| now < usable.verdict.statement.use_until)
    }

    /// Whether the caller is the one who should fetch the next list beside its request.
    fn claim_refresh(&self, at: Instant) -> bool {
        if at.saturating_duration_since(self.read_at) < FRESH {
            return false;
        }
        let mut last = lock(&self.refreshed_at);
        let due = last.is_none_or(|last| at.saturating_duration_since(last) >= REFRESH_AGAIN);
        if due {
            *last = Some(at);
        }
        due
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A statement of a provider that serves the model; nothing for any other, which a warning names.
fn examine(
    examined: &Examined,
    statement: &[u8],
    activator: Option<[u8; 65]>,
    model: &CatalogueDigest,
    policy: &TrustPolicy,
    now: UnixMillis,
) -> Option<Arc<Verdict>> {
    match examined.verify(statement, activator, policy, now) {
        Ok(verdict) if verdict.statement.models.0.contains(model) => Some(verdict),
        Ok(verdict) => {
            tracing::warn!(provider = %verdict.provider.short(), "a candidate that does not serve the model");
            None
        }
        Err(error) => {
            tracing::warn!(error = printable(&error.to_string()), "a candidate's statement does not verify");
            None
        }
    }
}

/// Those that this client would seal to, in the same order and each provider once; and how many are below its tier.
fn rank(candidates: Vec<Usable>, policy: &TrustPolicy) -> (Vec<Usable>, usize) {
    let mut seen = BTreeSet::new();
    let once = candidates.into_iter().filter(|candidate| seen.insert(candidate.verdict.provider));
    let (usable, below): (Vec<_>, Vec<_>) = once.partition(|candidate| policy.admits(&candidate.verdict));
    (usable, below.len())
}

/// A verdict as somebody to seal to.
pub fn recipient(verdict: &Verdict) -> Recipient<'_> {
    Recipient { provider: verdict.provider, epoch: verdict.epoch, sealing_key: &verdict.statement.sealing_key }
}

/// Whether a refresh that failed for this reason says something about the list. The caller's key and the network do not.
fn disproves(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::ModelNotFound | RefusalCode::VerificationFailed | RefusalCode::WrongNetwork)
}

/// Candidates by model name.
#[derive(Default)]
pub struct CandidateCache {
    /// Statements of all lists.
    pub examined: Arc<Examined>,
    lists: Mutex<HashMap<String, Arc<Candidates>>>,
}

impl CandidateCache {
    /// The usable list of a model, and whether the caller is the one who should fetch the next.
    fn get(&self, model: &str, now: UnixMillis, at: Instant) -> Option<(Arc<Candidates>, bool)> {
        let lists = lock(&self.lists);
        let list = lists.get(model)?;
        let signed_long_ago = now.since(list.signed_at) >= SIGNED_AGAIN;
        let usable = at.saturating_duration_since(list.read_at) < USABLE && list.in_use(now).next().is_some();
        let usable = usable && !signed_long_ago;
        usable.then(|| (Arc::clone(list), list.claim_refresh(at)))
    }

    /// Keeps a list that the coordinator signed.
    pub fn put(&self, model: &str, list: Arc<Candidates>) {
        let mut lists = lock(&self.lists);
        if lists.len() >= MODELS_MAX && !lists.contains_key(model) {
            lists.clear();
        }
        lists.insert(model.to_owned(), list);
    }

    /// Takes in what came with an answer to a request that was sealed to candidates of `base`. What is not valid changes
    /// nothing: the answer was verified without it.
    pub fn update(
        &self,
        model: &str,
        base: &Candidates,
        update: &CandidateUpdate,
        policy: &TrustPolicy,
        now: UnixMillis,
        at: Instant,
    ) {
        match base.updated(update, policy, now, at) {
            Ok(list) => {
                let mut lists = lock(&self.lists);
                // Answers end in any order; and a list that was forgotten meanwhile was forgotten for a reason.
                let newer = lists.get(model).is_some_and(|kept| kept.digest == list.digest && kept.time <= list.time);
                if newer {
                    lists.insert(model.to_owned(), Arc::new(list));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "an update of the candidates is not used");
                if matches!(error, UpdateError::Price { .. }) {
                    // The next request asks for the new price with the coordinator's signature under it.
                    self.forget(model);
                }
            }
        }
    }

    /// Forgets a model's list: what it says has turned out stale.
    pub fn forget(&self, model: &str) {
        lock(&self.lists).remove(model);
    }
}

impl Network {
    /// What this client demands of providers.
    pub fn policy(&self, coordinator: &Coordinator) -> TrustPolicy {
        TrustPolicy {
            network: coordinator.network,
            tier_min: self.config.tier_min,
            pinned: self.config.pinned.clone(),
            hardware: self.config.hardware.clone(),
        }
    }

    /// Verified candidates of a model. After the first request they come from the cache, which answers keep fresh; one
    /// that aged in a pause is replaced beside the request, so that no request waits for it.
    pub async fn candidates_of(
        self: &Arc<Self>,
        model: &str,
        key: &SecretString,
        coordinator: &Coordinator,
    ) -> Result<Arc<Candidates>, Refusal> {
        let Some((list, refresh)) = self.candidates.get(model, clock::now(), Instant::now()) else {
            return self.fetch_candidates(model, key, coordinator).await;
        };
        if refresh {
            let (network, model) = (Arc::clone(self), model.to_owned());
            let (key, coordinator) = (key.clone(), coordinator.clone());
            tokio::spawn(async move {
                if let Err(error) = network.fetch_candidates(&model, &key, &coordinator).await {
                    tracing::debug!(%error, "cannot refresh the candidates");
                    if disproves(error.code) {
                        network.candidates.forget(&model);
                    }
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
        let examined = &self.candidates.examined;
        let list =
            Candidates::read(&signed, coordinator, &self.policy(coordinator), clock::now(), Instant::now(), examined)?;
        if list.entry.name != model {
            return Err(Refusal::new(RefusalCode::VerificationFailed, "the candidates are of another model"));
        }
        let list = Arc::new(list);
        self.candidates.put(model, Arc::clone(&list));
        Ok(list)
    }
}

#[cfg(test)]
mod tests;
