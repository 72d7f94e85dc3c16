//! Where a request's time went. `docs/timing.md` says who measures each part, and from which event to which.

use std::time::Duration;

use darkbloom_types::Micros;
use darkbloom_wire::{CoordinatorTiming, Receipt};
use serde::Serialize;

/// Disjoint durations in microseconds, each from one machine's monotonic clock. A part that is not known yet is absent; a
/// zero is a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// Reading the consumer's body and counting its tokens. Measured here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parse_us: Option<Micros>,
    /// Making the hold durable. Said by the coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve_us: Option<Micros>,
    /// Choosing a provider. Said by the coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_us: Option<Micros>,
    /// Waiting for room. Said by the coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<Micros>,
    /// Choosing recipients and sealing to them; sealing again adds to it. Measured here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt_us: Option<Micros>,
    /// From the choice of a provider to its acceptance. Said by the coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatch_us: Option<Micros>,
    /// From its acceptance to the last token. Said by the provider, in its receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_us: Option<Micros>,
}

impl Timing {
    /// Adds what the coordinator says.
    pub fn coordinator(&mut self, said: &CoordinatorTiming) {
        self.reserve_us = Some(said.reserve_us);
        self.route_us = Some(said.route_us);
        self.queue_us = Some(said.queue_us);
        self.dispatch_us = Some(said.dispatch_us);
    }

    /// Adds what the provider's receipt says.
    pub fn provider(&mut self, receipt: &Receipt) {
        let sum = receipt.queue_us.0.saturating_add(receipt.prefill_us.0).saturating_add(receipt.decode_us.0);
        self.provider_us = Some(Micros(sum));
    }

    /// Adds to the time that sealing took: sealing again counts as well.
    pub fn encrypt(&mut self, took: Duration) {
        let before = self.encrypt_us.map_or(0, |micros| micros.0);
        self.encrypt_us = Some(Micros(before.saturating_add(Micros::from(took).0)));
    }
}
