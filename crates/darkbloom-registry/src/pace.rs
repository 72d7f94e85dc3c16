//! How fast models run where: what the coordinator saw, what a provider measured itself, and what others like it do.

use std::collections::HashMap;

use darkbloom_types::{CatalogueDigest, Millis};
use darkbloom_wire::ModelPace;

use crate::cost;
use crate::health::Seen;

/// Kinds of hardware that are told apart; all others are one.
const KINDS_MAX: usize = 256;
/// Models and kinds that something is known of.
const KNOWN_MAX: usize = 4_096;
/// Answers shorter than this say nothing about a rate: their frames come in one piece.
const TOKENS_MIN: u32 = 16;
/// What is seen counts so much against what was known.
const WEIGHT: u64 = 8;
/// A provider is believed to be no more than this many times as fast as others of its kind, whatever it says, until it was
/// seen to be.
const BOAST: u32 = 4;

/// Microseconds a token of a row alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub prefill_us: u32,
    pub decode_us: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { prefill_us: cost::PREFILL_US, decode_us: cost::DECODE_US }
    }
}

impl Pace {
    /// What an answer that was seen says, among so many rows: the time for a token of a row alone.
    pub fn of(seen: &Seen, running: u32) -> Option<Self> {
        if seen.output.0 < TOKENS_MIN || seen.input.0 == 0 {
            return None;
        }
        let shared = 1_000 + cost::SHARED * u64::from(running.saturating_sub(1).min(1_000));
        let alone = |took: Millis, tokens: u32| {
            let us = took.0.min(3_600_000) * 1_000 * 1_000 / shared / u64::from(tokens.max(1));
            u32::try_from(us.max(1)).unwrap_or(u32::MAX)
        };
        Some(Self {
            prefill_us: alone(seen.first_content, seen.input.0),
            decode_us: alone(seen.stream, seen.output.0 - 1),
        })
    }

    /// Mixes in what was seen now.
    pub fn learn(&mut self, seen: Self) {
        let mix = |known: u32, now: u32| {
            ((u64::from(known) * (WEIGHT - 1) + u64::from(now)) / WEIGHT).min(u64::from(u32::MAX)) as u32
        };
        self.prefill_us = mix(self.prefill_us, seen.prefill_us);
        self.decode_us = mix(self.decode_us, seen.decode_us);
    }
}

/// Kinds of hardware, and how fast each runs a model.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    kinds: HashMap<String, u16>,
    known: HashMap<(CatalogueDigest, u16), Pace>,
}

impl Paces {
    /// The number of a kind of hardware; 0 for one that is not named, or is one too many.
    pub fn kind(&mut self, name: Option<&str>) -> u16 {
        let Some(name) = name else { return 0 };
        if let Some(known) = self.kinds.get(name) {
            return *known;
        }
        let next = self.kinds.len() + 1;
        if next > KINDS_MAX {
            return 0;
        }
        self.kinds.insert(name.to_owned(), next as u16);
        next as u16
    }

    /// How fast such a machine usually runs a model.
    pub fn usual(&self, model: &CatalogueDigest, kind: u16) -> Pace {
        self.known.get(&(*model, kind)).copied().unwrap_or_default()
    }

    /// A provider of a kind was seen to be so fast.
    pub fn learn(&mut self, model: &CatalogueDigest, kind: u16, seen: Pace) {
        if self.known.len() < KNOWN_MAX || self.known.contains_key(&(*model, kind)) {
            self.known.entry((*model, kind)).or_insert(seen).learn(seen);
        }
    }

    /// What is believed of a provider that was not seen yet, from what it says.
    pub fn believed(&self, model: &CatalogueDigest, kind: u16, said: Option<&ModelPace>) -> Pace {
        let usual = self.usual(model, kind);
        let Some(said) = said else { return usual };
        let within = |said: u32, usual: u32| said.max(usual / BOAST).max(1);
        Pace {
            prefill_us: within(said.prefill_us, usual.prefill_us),
            decode_us: within(said.decode_us, usual.decode_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::TokenCount;

    const MODEL: CatalogueDigest = CatalogueDigest([1; 32]);

    fn seen(first_content: u64, stream: u64) -> Seen {
        let (input, output) = (TokenCount(1_000), TokenCount(101));
        let (first_content, stream) = (Millis(first_content), Millis(stream));
        Seen { round_trip: Millis(3), first_content, stream, input, output }
    }

    #[test]
    fn what_is_seen_among_others_is_reckoned_to_a_row_alone() {
        assert_eq!(Pace::of(&seen(2_000, 1_000), 1), Some(Pace { prefill_us: 2_000, decode_us: 10_000 }));
        assert_eq!(Pace::of(&seen(2_000, 1_000), 5), Some(Pace { prefill_us: 1_000, decode_us: 5_000 }));
        assert_eq!(Pace::of(&Seen { output: TokenCount(3), ..seen(2_000, 1_000) }, 1), None);
        assert!(Pace::of(&seen(0, 0), 0).is_some_and(|pace| pace.decode_us > 0));
    }

    #[test]
    fn a_boast_is_believed_up_to_a_factor_and_kinds_are_bounded() {
        let mut paces = Paces::default();
        let boast = ModelPace { prefill_us: 1, decode_us: 1 };
        let believed = paces.believed(&MODEL, 0, Some(&boast));
        assert_eq!((believed.prefill_us, believed.decode_us), (1_250, 12_500));
        let slow = ModelPace { prefill_us: 9_000_000, decode_us: 9_000_000 };
        assert_eq!(paces.believed(&MODEL, 0, Some(&slow)).decode_us, 9_000_000, "who says that it is slow is believed");
        let kind = paces.kind(Some("a"));
        (0..40).for_each(|_| paces.learn(&MODEL, kind, Pace { prefill_us: 800, decode_us: 8_000 }));
        assert_eq!(paces.believed(&MODEL, kind, None), Pace { prefill_us: 800, decode_us: 8_000 });
        assert_eq!(paces.usual(&MODEL, 0), Pace::default(), "another kind is another matter");
        for n in 0..2 * KINDS_MAX {
            paces.kind(Some(&n.to_string()));
        }
        assert_eq!((paces.kind(Some("a")), paces.kind(Some("one too many"))), (kind, 0));
    }
}
