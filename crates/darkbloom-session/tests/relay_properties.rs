//! Whatever happens in whatever order, a relayed request keeps its promises: every row that was reserved is released,
//! whoever is given up is told to stop, the hold ends exactly once, and the machine comes to an end.

use darkbloom_session::{RelayAction, RelayEvent, RelaySession, RelayTerms, Released, RouteFailure};
use darkbloom_types::{MonoMillis, ProviderId, Refusal, RefusalCode, TokenCount};
use proptest::prelude::*;

/// What the world does next. Answers to the machine's own questions are drawn as well, so that they come late, twice, or
/// never.
fn event() -> impl Strategy<Value = RelayEvent> {
    let provider = (1_u8..4).prop_map(|n| ProviderId([n; 32]));
    let refusal = prop::sample::select(RefusalCode::ALL.to_vec()).prop_map(Refusal::from);
    prop_oneof![
        Just(RelayEvent::HoldPlaced),
        refusal.clone().prop_map(RelayEvent::HoldRefused),
        provider.prop_map(RelayEvent::Routed),
        Just(RelayEvent::NotRouted(RouteFailure::Busy)),
        Just(RelayEvent::NotRouted(RouteFailure::Loading)),
        Just(RelayEvent::NotRouted(RouteFailure::QueueFull)),
        Just(RelayEvent::NotRouted(RouteFailure::OthersCould(RefusalCode::NoEligibleProvider))),
        Just(RelayEvent::NotRouted(RouteFailure::Nobody(RefusalCode::NoEligibleProvider))),
        Just(RelayEvent::Wake),
        Just(RelayEvent::Accepted),
        refusal.prop_map(RelayEvent::Refused),
        (0_u32..4, 0_u32..10, any::<bool>()).prop_map(|(sequence, tokens, end)| RelayEvent::Data {
            sequence,
            tokens: TokenCount(tokens),
            end
        }),
        (0_u32..10).prop_map(|output| RelayEvent::Receipt { output: TokenCount(output) }),
        Just(RelayEvent::BadReceipt),
        Just(RelayEvent::ProviderGone),
        Just(RelayEvent::ConsumerGone),
        Just(RelayEvent::CancelAcknowledged),
        Just(RelayEvent::Settled),
        Just(RelayEvent::Tick),
    ]
}

/// What an honest world would answer to the last actions: drawn at random alone, events would hardly ever reach the far
/// end of the machine.
struct World {
    next: RelayEvent,
    sequence: u32,
    tokens: u32,
}

impl World {
    fn actions(&mut self, actions: &[RelayAction], end: bool) {
        for action in actions {
            self.next = match action {
                RelayAction::PlaceHold => RelayEvent::HoldPlaced,
                RelayAction::Route => RelayEvent::Routed(ProviderId([1; 32])),
                RelayAction::Queue => RelayEvent::Wake,
                RelayAction::Offer(..) => {
                    (self.sequence, self.tokens) = (0, 0);
                    RelayEvent::Accepted
                }
                RelayAction::RelayData | RelayAction::RelayAccepted => {
                    let data =
                        RelayEvent::Data { sequence: self.sequence, tokens: TokenCount(self.tokens.min(8)), end };
                    self.sequence += 1;
                    self.tokens += 1;
                    data
                }
                RelayAction::Cancel => RelayEvent::CancelAcknowledged,
                RelayAction::Settle(_) => RelayEvent::Settled,
                RelayAction::LeaveQueue
                | RelayAction::Doubt(_)
                | RelayAction::CalledWrong
                | RelayAction::Release(..)
                | RelayAction::Void(_)
                | RelayAction::RelayFinal
                | RelayAction::Refuse(_)
                | RelayAction::Reseal(_)
                | RelayAction::Finish => continue,
            };
        }
    }
}

/// What was seen of a machine's actions.
#[derive(Default)]
struct Ledger {
    hold_placed: bool,
    /// Voids, settlements and reseals: ways in which a hold ends or passes on.
    hold_ends: u32,
    last_words: u32,
    finishes: u32,
    reserved: i32,
    cancelled: bool,
    relayed_after_cancel: bool,
    offers: u32,
    /// The last count that was relayed.
    tokens: TokenCount,
    ended: bool,
    cancelling: bool,
    believed: Option<&'static str>,
    /// A provider has an offer, and was not told to stop.
    at_work: bool,
    left_at_work: bool,
}

impl Ledger {
    fn event(&mut self, event: &RelayEvent, holding: bool) {
        if holding && matches!(event, RelayEvent::HoldPlaced) {
            self.hold_placed = true;
        } else if matches!(event, RelayEvent::Routed(_)) {
            self.reserved += 1;
        }
    }

    /// What the consumer has seen.
    fn data(&mut self, event: &RelayEvent, actions: &[RelayAction]) {
        if let (RelayEvent::Data { tokens, end, .. }, [RelayAction::RelayData]) = (event, actions) {
            (self.tokens, self.ended) = (*tokens, *end);
        }
        self.cancelling |= *event == RelayEvent::ConsumerGone && actions == [RelayAction::Cancel];
    }

    /// Whoever is given up is told to stop, unless its own last word ended its work, or it is gone.
    fn stopped(&mut self, event: &RelayEvent, actions: &[RelayAction]) {
        let ended = matches!(event, RelayEvent::Refused(_) | RelayEvent::ProviderGone);
        for action in actions {
            if let RelayAction::Offer(..) = action {
                self.at_work = true;
            } else if *action == RelayAction::Cancel {
                self.at_work = false;
            } else if let RelayAction::Release(_, released) = action {
                self.left_at_work |= self.at_work && !ended && *released != Released::Served;
                self.at_work = false;
            }
        }
    }

    /// A receipt is believed only when it says what was relayed, or after a cancel no less.
    fn receipt(&mut self, event: &RelayEvent, actions: &[RelayAction]) {
        let believed = actions
            .iter()
            .any(|action| if let RelayAction::Settle(delivered) = action { delivered.receipt } else { false });
        if !believed {
            return;
        }
        self.believed = if let RelayEvent::Receipt { output } = event {
            let honest = if self.cancelling { *output >= self.tokens } else { self.ended && *output == self.tokens };
            (!honest).then_some("another count than was relayed")
        } else {
            Some("no receipt came")
        };
    }

    fn actions(&mut self, actions: &[RelayAction]) {
        for action in actions {
            match action {
                RelayAction::Void(_) | RelayAction::Settle(_) => self.hold_ends += 1,
                RelayAction::Reseal(_) => {
                    self.hold_ends += 1;
                    self.last_words += 1;
                }
                RelayAction::RelayFinal | RelayAction::Refuse(_) => self.last_words += 1,
                RelayAction::Finish => self.finishes += 1,
                RelayAction::Release(..) => self.reserved -= 1,
                RelayAction::Offer(..) => {
                    self.offers += 1;
                    self.cancelled = false;
                }
                RelayAction::Cancel => self.cancelled = true,
                RelayAction::RelayData => self.relayed_after_cancel |= self.cancelled,
                RelayAction::PlaceHold
                | RelayAction::Route
                | RelayAction::Queue
                | RelayAction::LeaveQueue
                | RelayAction::Doubt(_)
                | RelayAction::CalledWrong
                | RelayAction::RelayAccepted => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]
    #[test]
    fn a_request_ends_once_and_gives_everything_back(
        events in prop::collection::vec((0_u8..10, any::<bool>(), event()), 0..24)
    ) {
        let now = MonoMillis(1_000);
        let (mut session, first) = RelaySession::begin(RelayTerms { output_ceiling: TokenCount(8) }, now);
        prop_assert_eq!(&first, &[RelayAction::PlaceHold]);
        let mut seen = Ledger::default();
        let mut holding = true;
        // Reservations are answers to `Route`; one that nobody asked for does not happen in the router.
        let mut asked = 0;
        let mut world = World { next: RelayEvent::HoldPlaced, sequence: 0, tokens: 0 };
        let mut ended = false;
        for (chance, end, drawn) in events {
            // Seven in ten events are the honest ones; the receipt follows the end.
            let event = match chance {
                0..3 => drawn,
                _ if ended => RelayEvent::Receipt { output: seen.tokens },
                _ => world.next.clone(),
            };
            ended = matches!(event, RelayEvent::Data { end: true, .. });
            if matches!(event, RelayEvent::Routed(_) | RelayEvent::NotRouted(_)) {
                if asked == 0 {
                    continue;
                }
                asked -= 1;
            }
            seen.event(&event, holding);
            holding &= !matches!(event, RelayEvent::HoldPlaced | RelayEvent::HoldRefused(_));
            let actions = session.handle(event.clone(), now);
            asked += actions.iter().filter(|action| **action == RelayAction::Route).count();
            world.actions(&actions, end);
            seen.data(&event, &actions);
            seen.receipt(&event, &actions);
            seen.stopped(&event, &actions);
            seen.actions(&actions);
        }
        // The world falls silent: only time passes, and the ledger and the router answer what is still open.
        let mut at = now;
        for _ in 0..40 {
            if holding {
                holding = false;
                seen.event(&RelayEvent::HoldPlaced, true);
                let actions = session.handle(RelayEvent::HoldPlaced, at);
                asked += actions.iter().filter(|action| **action == RelayAction::Route).count();
                seen.actions(&actions);
            }
            while asked > 0 {
                asked -= 1;
                let actions = session.handle(RelayEvent::NotRouted(RouteFailure::Busy), at);
                asked += actions.iter().filter(|action| **action == RelayAction::Route).count();
                seen.actions(&actions);
            }
            let Some(wake) = session.wake_at() else { break };
            at = wake;
            let actions = session.handle(RelayEvent::Tick, at);
            seen.stopped(&RelayEvent::Tick, &actions);
            asked += actions.iter().filter(|action| **action == RelayAction::Route).count();
            seen.actions(&actions);
            seen.actions(&session.handle(RelayEvent::Settled, at));
        }
        prop_assert!(session.is_over(), "the machine never ends");
        prop_assert_eq!(seen.finishes, 1);
        prop_assert!(seen.last_words <= 1, "the client is told twice how it ended");
        prop_assert_eq!(seen.hold_ends, u32::from(seen.hold_placed), "a hold ends exactly once");
        prop_assert_eq!(seen.reserved, 0, "a reserved row is released exactly once");
        prop_assert!(!seen.relayed_after_cancel, "content is relayed after the cancel");
        prop_assert!(seen.offers <= 3);
        prop_assert!(!seen.left_at_work, "a provider was given up and not told to stop");
        prop_assert_eq!(seen.believed, None, "a receipt was believed that says something else than was relayed");
    }
}
