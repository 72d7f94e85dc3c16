//! Where a request's time went. `docs/timing.md` says who measures each part, and from which event to which.

use std::collections::BTreeMap;
use std::time::Duration;

use darkbloom_types::Micros;
use darkbloom_wire::{CoordinatorTiming, Receipt};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// Durations in microseconds that add up to no more than the whole, each from one machine's monotonic clock. A part that is not known yet is absent; a
/// zero is a value. As JSON, `said_by` names the parts that are somebody else's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Reading the consumer's body and counting its tokens. Measured here.
    pub parse_us: Option<Micros>,
    /// Making the hold durable. Said by the coordinator.
    pub reserve_us: Option<Micros>,
    /// Choosing a provider. Said by the coordinator.
    pub route_us: Option<Micros>,
    /// Waiting for room. Said by the coordinator.
    pub queue_us: Option<Micros>,
    /// Choosing recipients and sealing to them; sealing again adds to it. Measured here.
    pub encrypt_us: Option<Micros>,
    /// Handing the request to the chosen provider's connection, and providers that refused. Said by the coordinator.
    pub dispatch_us: Option<Micros>,
    /// From its acceptance to the last token. Said by the provider, in its receipt.
    pub provider_us: Option<Micros>,
}

/// Who said a part: nothing for one that was measured here.
type SaidBy = Option<&'static str>;

impl Timing {
    fn parts(&self) -> [(&'static str, Option<Micros>, SaidBy); 7] {
        let (coordinator, provider) = (Some("coordinator"), Some("provider"));
        [
            ("parse_us", self.parse_us, None),
            ("encrypt_us", self.encrypt_us, None),
            ("reserve_us", self.reserve_us, coordinator),
            ("route_us", self.route_us, coordinator),
            ("queue_us", self.queue_us, coordinator),
            ("dispatch_us", self.dispatch_us, coordinator),
            ("provider_us", self.provider_us, provider),
        ]
    }

    /// What the coordinator says of one sealing, on top of what it said of those before.
    #[must_use]
    pub fn with_coordinator(mut self, said: &CoordinatorTiming) -> Self {
        add(&mut self.reserve_us, said.reserve_us);
        add(&mut self.route_us, said.route_us);
        add(&mut self.queue_us, said.queue_us);
        add(&mut self.dispatch_us, said.dispatch_us);
        self
    }

    /// Adds what the provider's receipt says.
    pub fn provider(&mut self, receipt: &Receipt) {
        let sum = receipt.queue_us.0.saturating_add(receipt.prefill_us.0).saturating_add(receipt.decode_us.0);
        self.provider_us = Some(Micros(sum));
    }

    /// Adds to the time that reading the body and counting its tokens took.
    pub fn parse(&mut self, took: Duration) {
        add(&mut self.parse_us, took.into());
    }

    /// Adds to the time that sealing took: sealing again counts as well.
    pub fn encrypt(&mut self, took: Duration) {
        add(&mut self.encrypt_us, took.into());
    }
}

fn add(part: &mut Option<Micros>, more: Micros) {
    let before = part.map_or(0, |micros| micros.0);
    *part = Some(Micros(before.saturating_add(more.0)));
}

impl Serialize for Timing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut said_by: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut map = serializer.serialize_map(None)?;
        for (name, part, who) in self.parts() {
            let Some(part) = part else { continue };
            map.serialize_entry(name, &part)?;
            if let Some(who) = who {
                said_by.entry(who).or_default().push(name);
            }
        }
        if !said_by.is_empty() {
            map.serialize_entry("said_by", &said_by)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_somebody_else_said_is_named_as_his_word() {
        let mut timing = Timing::default();
        timing.parse(Duration::from_micros(7));
        timing.encrypt(Duration::from_micros(3));
        assert_eq!(json!(timing), json!({"parse_us": 7, "encrypt_us": 3}), "all of it was measured here");
        let micros = Micros(0);
        let said = CoordinatorTiming { reserve_us: micros, route_us: micros, queue_us: micros, dispatch_us: Micros(5) };
        timing = timing.with_coordinator(&said);
        let coordinators = json!(["reserve_us", "route_us", "queue_us", "dispatch_us"]);
        assert_eq!(json!(timing)["said_by"], json!({"coordinator": coordinators}));
        timing.provider_us = Some(Micros(9));
        let whole = json!({
            "parse_us": 7, "encrypt_us": 3, "reserve_us": 0, "route_us": 0, "queue_us": 0, "dispatch_us": 5,
            "provider_us": 9, "said_by": {"coordinator": coordinators, "provider": ["provider_us"]},
        });
        assert_eq!(json!(timing), whole);
    }
}
