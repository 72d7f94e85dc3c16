//! What is asked on every request, kept in memory so that authentication costs no disk read.
//!
//! Written only by the writer thread after a commit, in the order of the commits; so once a method has returned, a
//! look-up sees what it did.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use darkbloom_types::{Digest, KeyId, ProviderId, Standing};

use crate::keys::KeyRecord;

/// Keys, revoked ones included, that a store takes: about 200 MB of memory.
pub(crate) const KEYS_MAX: usize = 1_000_000;

/// Provider identities that a store takes: about 50 MB of memory.
pub(crate) const PROVIDERS_MAX: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Cache {
    keys: RwLock<HashMap<Digest, KeyRecord>>,
    providers: RwLock<HashSet<ProviderId>>,
    identities: RwLock<Identities>,
}

/// What is known of identities beyond that they joined.
#[derive(Default)]
struct Identities {
    /// Those that are not clean.
    standings: HashMap<ProviderId, Standing>,
    /// Who took over from whom.
    newer: HashMap<ProviderId, ProviderId>,
    older: HashMap<ProviderId, ProviderId>,
}

impl Cache {
    pub(crate) fn new(
        keys: HashMap<Digest, KeyRecord>,
        providers: HashSet<ProviderId>,
        standings: HashMap<ProviderId, Standing>,
        successions: Vec<(ProviderId, ProviderId)>,
    ) -> Self {
        let newer = successions.iter().copied().collect();
        let older = successions.into_iter().map(|(old, new)| (new, old)).collect();
        let identities = Identities { standings, newer, older };
        Self { keys: RwLock::new(keys), providers: RwLock::new(providers), identities: RwLock::new(identities) }
    }

    /// Puts what was read from the database anew in place of what was known.
    pub(crate) fn refill(&self, read: Self) {
        fn put<T>(into: &RwLock<T>, from: RwLock<T>) {
            *into.write().unwrap_or_else(PoisonError::into_inner) =
                from.into_inner().unwrap_or_else(PoisonError::into_inner);
        }
        put(&self.keys, read.keys);
        put(&self.providers, read.providers);
        put(&self.identities, read.identities);
    }

    pub(crate) fn key(&self, digest: &Digest) -> Option<KeyRecord> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(crate) fn keys_len(&self) -> usize {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn key_put(&self, digest: Digest, record: KeyRecord) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(digest, record);
    }

    pub(crate) fn key_moved(&self, before: &Digest, after: Digest) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = keys.remove(before) {
            keys.insert(after, record);
        }
    }

    pub(crate) fn key_revoked(&self, digest: &Digest, id: KeyId) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = keys.get_mut(digest).filter(|record| record.id == id) {
            record.revoked = true;
        }
    }

    pub(crate) fn provider_known(&self, provider: &ProviderId) -> bool {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).contains(provider)
    }

    pub(crate) fn providers_len(&self) -> usize {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn provider_seen(&self, provider: ProviderId) {
        self.providers.write().unwrap_or_else(PoisonError::into_inner).insert(provider);
    }

    fn identities(&self) -> RwLockReadGuard<'_, Identities> {
        self.identities.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn standing(&self, provider: &ProviderId) -> Standing {
        self.identities().standings.get(provider).copied().unwrap_or_default()
    }

    pub(crate) fn standings_len(&self) -> usize {
        self.identities().standings.len()
    }

    pub(crate) fn standing_put(&self, provider: ProviderId, standing: Standing) {
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        if standing == Standing::Clean {
            identities.standings.remove(&provider);
        } else {
            identities.standings.insert(provider, standing);
        }
    }

    pub(crate) fn succeeded(&self, old: ProviderId, new: ProviderId, standing: Standing) {
        self.provider_seen(new);
        self.standing_put(new, standing);
        let mut identities = self.identities.write().unwrap_or_else(PoisonError::into_inner);
        identities.newer.insert(old, new);
        identities.older.insert(new, old);
    }

    pub(crate) fn successor(&self, provider: &ProviderId) -> Option<ProviderId> {
        self.identities().newer.get(provider).copied()
    }

    pub(crate) fn ancestors(&self, provider: ProviderId, most: usize) -> Vec<ProviderId> {
        let older = &self.identities().older;
        std::iter::successors(older.get(&provider).copied(), |at| older.get(at).copied()).take(most).collect()
    }
}
