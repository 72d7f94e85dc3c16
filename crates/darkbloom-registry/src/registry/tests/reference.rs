//! Random events, and after each the registry against a plain look at the whole fleet.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cost;
use crate::eligibility::{Work, eligible};
use crate::provider::Provider;
use crate::registry::keeping::pace_of;

const MODELS: [CatalogueDigest; 3] = [CatalogueDigest([21; 32]), CatalogueDigest([22; 32]), CatalogueDigest([23; 32])];
const PROVIDERS: u8 = 6;

struct Bench {
    registry: Registry,
    chance: Numbers,
    now: MonoMillis,
    connections: u8,
    requests: u64,
    /// Rows that were given out.
    rows: Vec<Row>,
    /// Those who wait, and those who were woken.
    waiting: BTreeMap<[u8; 16], Asked>,
    woken: BTreeMap<[u8; 16], Asked>,
}

#[derive(Debug, Clone)]
struct Asked {
    model: CatalogueDigest,
    tier_min: Tier,
    recipients: Vec<(ProviderId, EpochId)>,
}

impl Bench {
    fn below(&mut self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn wall(&self) -> UnixMillis {
        wall(self.now)
    }

    fn loads(&mut self) -> Vec<ModelLoad> {
        let mut loads = Vec::new();
        for model in MODELS {
            if self.below(3) > 0 {
                let residence = self.pick(&[Residence::Loaded, Residence::Loaded, Residence::Stored]);
                let (rows_max, rows_used) = (self.below(3) as u32 + 1, self.below(3) as u32);
                let row_tokens = TokenCount(64);
                loads.push(ModelLoad { model, rows_max, rows_used, waiting: 0, row_tokens, residence, pace: None });
            }
        }
        loads
    }

    fn connection(&mut self) -> Option<(ProviderId, ConnectionId)> {
        let n = self.below(u64::from(PROVIDERS)) as u8;
        self.registry.connection_of(&provider(n)).map(|connection| (provider(n), connection))
    }

    fn register(&mut self) {
        let n = self.below(u64::from(PROVIDERS)) as u8;
        self.connections = self.connections.wrapping_add(1);
        let until = self.wall().after(Millis::from_minutes(20));
        let tier = self.pick(&[Tier::None, Tier::SelfSigned, Tier::Hardware]);
        let stated = Stated { use_until: until, open_until: until, tier, models: MODELS.to_vec(), ..stated(n, n) };
        let (number, models) = (self.now.0, self.loads());
        let connection = ConnectionId([self.connections; 16]);
        let registration = Registration { connection, number, stated, models, ..registration(n, 1) };
        self.registry.register(registration, self.now, wall(self.now), &mut self.chance).unwrap();
    }

    fn free(&self, asked: &Asked, tried: &[ProviderId]) -> Vec<&Provider> {
        let (now, wall) = (self.now, self.wall());
        let able = |(id, provider): (&ProviderId, &'_ Provider)| {
            let epoch = asked.recipients.iter().find(|(known, _)| known == id)?.1;
            let ok = !tried.contains(id)
                && provider.opens(&epoch, wall)
                && eligible(provider, Work::Loaded(&asked.model), asked.tier_min, now, wall).is_ok()
                && provider.rows_free(&asked.model) > 0;
            ok.then_some(*id)
        };
        let able: Vec<_> = self.registry.providers.after(None).filter_map(able).collect();
        able.into_iter().filter_map(|id| self.registry.providers.get(&id)).collect()
    }

    fn ask(&mut self) {
        self.requests += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.requests.to_be_bytes());
        let first = self.below(u64::from(PROVIDERS)) as u8;
        let count = self.below(3) as u8 + 1;
        let recipients = (0..count).map(|n| (first + n) % PROVIDERS).map(|n| (provider(n), EpochId([n; 16]))).collect();
        let tier_min = self.pick(&[Tier::None, Tier::None, Tier::SelfSigned, Tier::Hardware]);
        let asked = Asked { model: self.pick(&MODELS), tier_min, recipients };
        self.route(request, asked);
    }

    fn route(&mut self, id: [u8; 16], asked: Asked) {
        let request = RouteRequest {
            request: RequestId(id),
            model: asked.model,
            tier_min: asked.tier_min,
            recipients: &asked.recipients,
            account: AccountId(i64::from(id[7] % 3)),
            affinity: id,
            ..ASKED
        };
        let free = self.free(&asked, &[]);
        let cost = |provider: &Provider| {
            let pace = pace_of(&self.registry.paces, provider, &asked.model);
            let load = provider.cost_load(&asked.model, pace, self.now);
            (provider.record.is_doubted(self.now), cost::expected_ms(&load, request.input, request.output))
        };
        let costs: BTreeMap<_, _> = free.iter().map(|one| (one.registration.provider, cost(one))).collect();
        let fresh = |registry: &Registry| {
            registry.providers.after(None).any(|(id, found)| {
                let sealed_to = asked.recipients.contains(&(*id, found.registration.stated.epoch));
                let work = Work::Served(&asked.model);
                !sealed_to && eligible(found, work, asked.tier_min, self.now, wall(self.now)).is_ok()
            })
        };
        let others = fresh(&self.registry);
        let routed = self.registry.route(&request, self.now, wall(self.now));
        match routed {
            Ok(chosen) => {
                let (doubted, least) = costs.values().min().copied().expect("somebody was free");
                let (is_doubted, its) = costs[&chosen];
                assert!(is_doubted == doubted && its <= cost::alike(least), "{its} is not like {least}");
                let provider = &self.registry.providers[&chosen];
                let (reserved, rows) = (provider.rows_reserved(&asked.model), provider.rows_max(&asked.model));
                assert!(rows.is_some_and(|rows| reserved <= rows), "{reserved} of {rows:?}");
                let connection = provider.registration.connection;
                self.rows.push(Row { provider: chosen, connection, model: asked.model, request: RequestId(id) });
            }
            Err(error) => {
                assert!(costs.is_empty(), "{error:?} though {costs:?} were free");
                match error {
                    RouteError::Queued | RouteError::Loading => drop(self.waiting.insert(id, asked)),
                    RouteError::OthersCould => assert!(others),
                    RouteError::Nobody | RouteError::NoMemory => assert!(!others),
                    RouteError::QueueFull | RouteError::WaitTooLong => {}
                }
            }
        }
    }

    fn event(&mut self) {
        let (now, wall) = (self.now, self.wall());
        match self.below(20) {
            0 => self.register(),
            1 if self.below(4) == 0 => {
                if let Some((_, connection)) = self.connection() {
                    self.registry.disconnected(&connection, now, wall);
                }
            }
            2 | 3 => {
                if let Some((_, connection)) = self.connection() {
                    let (models, draining) = (self.loads(), self.below(8) == 0);
                    self.registry.heartbeat(&connection, models, draining, now, wall);
                }
            }
            4..=9 => self.ask(),
            10..=13 if !self.rows.is_empty() => {
                let at = self.below(self.rows.len() as u64) as usize;
                let row = self.rows.swap_remove(at);
                let served = Outcome::Served(None);
                let failed = Outcome::Failed(self.pick(&Fault::ALL));
                let outcome = self.pick(&[served, served, failed, failed, Outcome::Unused, Outcome::Declined]);
                self.registry.release(&row, outcome, now, wall);
            }
            14 => {
                let step = self.pick(&[1, 100, 5_000, 31_000]);
                self.now = now.after(Millis(step));
                self.registry.tick(self.now, self.wall());
            }
            15 => {
                self.registry.challenges_due(now, &mut self.chance);
            }
            16 => {
                if let Some((_, connection)) = self.connection()
                    && let Some(nonce) = self.registry.open_challenges(&connection).last()
                {
                    self.registry.challenge_answered(&connection, nonce, now, wall);
                }
            }
            17 => {
                if let Some((id, connection)) = self.connection() {
                    if self.below(2) == 0 {
                        self.registry.failed_check(&connection, Distrust::ChallengeFailed, now, wall);
                    } else {
                        self.registry.set_standing(&id, Standing::Clean, now, wall);
                    }
                }
            }
            18 => {
                if let Some((_, connection)) = self.connection() {
                    let outcome = self.pick(&[LoadOutcome::Started, LoadOutcome::Succeeded, LoadOutcome::Busy]);
                    let model = self.pick(&MODELS);
                    self.registry.load_reported(&connection, &model, outcome, now, wall);
                }
            }
            _ => {
                let woken: Vec<_> = self.woken.keys().copied().collect();
                for id in woken {
                    let asked = self.woken.remove(&id).expect("it was woken");
                    self.route(id, asked);
                    self.hear();
                }
            }
        }
    }

    /// Who was woken.
    fn hear(&mut self) {
        for request in self.registry.take_wakes() {
            let asked = self.waiting.remove(&request.0).expect("who is woken waited");
            self.woken.insert(request.0, asked);
        }
    }

    fn check(&mut self) {
        self.hear();
        if self.registry.wake_at().is_some_and(|at| at <= self.now) {
            return;
        }
        let (now, wall) = (self.now, self.wall());
        let all: Vec<_> = self.registry.providers.after(None).map(|(_, provider)| provider).collect();
        let can = |provider: &Provider, work: Work<'_>| eligible(provider, work, Tier::None, now, wall).is_ok();
        for tier in Tier::ALL {
            let at_tier = |provider: &&&Provider| provider.registration.stated.tier >= tier;
            let counted = Counts {
                connected: all.len(),
                routable: all.iter().filter(at_tier).filter(|one| can(one, Work::Any)).count(),
                untrusted: all.iter().filter(|one| !one.record.standing.is_trusted()).count(),
            };
            assert_eq!(self.registry.counts(tier), counted);
            for model in MODELS {
                let served = |one: &&&Provider| can(one, Work::Served(&model));
                let could = all.iter().filter(at_tier).filter(served).count();
                assert_eq!(self.registry.index.of(&model).map_or(0, |servers| servers.at_least(tier)), could);
            }
        }
        for asked in self.waiting.values() {
            for provider in self.free(asked, &[]) {
                let id = provider.registration.provider;
                let theirs = |one: &&Asked| one.recipients.iter().any(|(known, _)| *known == id);
                let told = self.woken.values().filter(theirs).count();
                assert!(told > 0, "a row of {id:?} is free, somebody waits for it and nobody was woken");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whoever is chosen is among the best of those whom a look at all would find; rows are never given out twice; what is
    /// counted and indexed is what a recount finds; and whoever could use a row is woken by the event that made it free.
    #[test]
    fn the_registry_agrees_with_a_look_at_the_whole_fleet(seed in any::<u64>()) {
        let (registry, chance) = (Registry::default(), Numbers(seed));
        let (rows, waiting, woken) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut bench = Bench { registry, chance, now: T0, connections: 0, requests: 0, rows, waiting, woken };
        (0..PROVIDERS).for_each(|_| bench.register());
        for _ in 0..400 {
            bench.event();
            bench.check();
        }
    }
}
