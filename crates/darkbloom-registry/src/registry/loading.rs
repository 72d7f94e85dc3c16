//! Models that are loaded when a request waits for them.

use darkbloom_types::{CatalogueDigest, ConnectionId, MonoMillis, ProviderId, UnixMillis};
use darkbloom_wire::LoadOutcome;

use super::Registry;
use crate::provider::{Load, times};

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
        self.wake_at(&id, model, u32::MAX, now, wall);
        self.wake_hopeless_for(&id, model, now, wall);
        asked
    }

    /// Asks a provider to load a model, unless it was asked already.
    pub(super) fn load_at(&mut self, id: &ProviderId, model: &CatalogueDigest, now: MonoMillis) {
        let Some(provider) = self.providers.get_mut(id) else { return };
        if !provider.is_loading(model, now) {
            provider.loading.retain(|load| load.model != *model);
            provider.loading.push(Load { model: *model, until: now.after(times::LOAD), begun: false });
            self.loads.push((provider.registration.connection, *model));
        }
    }

    /// Models that are wanted in memory, each with the connection of the provider to tell.
    pub fn take_loads(&mut self) -> Vec<(ConnectionId, CatalogueDigest)> {
        std::mem::take(&mut self.loads)
    }
}
