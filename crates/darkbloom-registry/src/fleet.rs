//! The connected providers: found by name in one look, listed in the order of their names.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use darkbloom_types::ProviderId;

use crate::provider::Provider;

#[derive(Debug, Default)]
pub(crate) struct Fleet {
    by_id: HashMap<ProviderId, Box<Provider>>,
    order: BTreeSet<ProviderId>,
}

impl Fleet {
    pub fn get(&self, id: &ProviderId) -> Option<&Provider> {
        self.by_id.get(id).map(|provider| &**provider)
    }

    pub fn get_mut(&mut self, id: &ProviderId) -> Option<&mut Provider> {
        self.by_id.get_mut(id).map(|provider| &mut **provider)
    }

    pub fn insert(&mut self, id: ProviderId, provider: Provider) {
        self.order.insert(id);
        self.by_id.insert(id, Box::new(provider));
    }

    pub fn remove(&mut self, id: &ProviderId) -> Option<Provider> {
        self.order.remove(id);
        self.by_id.remove(id).map(|provider| *provider)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Those after one, in order.
    pub fn after(&self, after: Option<&ProviderId>) -> impl Iterator<Item = (&ProviderId, &Provider)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.order.range::<ProviderId, _>((from, Bound::Unbounded));
        ids.filter_map(|id| self.get(id).map(|provider| (id, provider)))
    }
}

#[cfg(test)]
impl std::ops::Index<&ProviderId> for Fleet {
    type Output = Provider;
    fn index(&self, id: &ProviderId) -> &Provider {
        self.get(id).expect("it is connected")
    }
}
