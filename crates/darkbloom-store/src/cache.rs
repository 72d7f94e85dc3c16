//! What is asked on every request, kept in memory so that authentication costs no disk read.
//!
//! Written only by the writer thread after a commit, in the order of the commits; so once a method has returned, a
//! look-up sees what it did.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use darkbloom_types::{Digest, KeyId, ProviderId};

use crate::keys::KeyRecord;

/// Keys, revoked ones included, that a store takes: about 200 MB of memory.
pub(crate) const KEYS_MAX: usize = 1_000_000;

/// Provider identities that a store takes: about 50 MB of memory.
pub(crate) const PROVIDERS_MAX: usize = 1_000_000;

#[derive(Default)]
pub(crate) struct Cache {
    keys: RwLock<HashMap<Digest, KeyRecord>>,
    providers: RwLock<HashSet<ProviderId>>,
}

impl Cache {
    pub(crate) fn new(keys: HashMap<Digest, KeyRecord>, providers: HashSet<ProviderId>) -> Self {
        Self { keys: RwLock::new(keys), providers: RwLock::new(providers) }
    }

    pub(crate) fn key(&self, digest: &Digest) -> Option<KeyRecord> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(crate) fn keys_len(&self) -> usize {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(crate) fn key_created(&self, digest: Digest, record: KeyRecord) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).insert(digest, record);
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
}
