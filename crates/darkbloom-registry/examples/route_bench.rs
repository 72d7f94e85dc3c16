//! What the registry takes for a request, a list of candidates, a heartbeat and a tick, among 1,000 and among 10,000
//! providers that serve 50 models, while rows come and go, providers beat, are challenged and reconnect:
//!
//! `cargo run --release -p darkbloom-registry --example route_bench [REQUESTS]`
//!
//! Every call is timed by itself, the clock's own 20 to 40 ns included.

#![allow(clippy::print_stdout, reason = "what it is for")]
#![allow(clippy::unwrap_used, reason = "a measurement that fails may say so in any words")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use darkbloom_registry::{Fault, Outcome, Registration, Registry, RouteRequest, Row, Seen, Stated};
use darkbloom_types::{
    AccountId, CatalogueDigest, ConnectionId, EpochId, Millis, MonoMillis, ProviderId, RequestId, Standing, Tier,
    TokenCount, UnixMillis,
};
use darkbloom_wire::{ModelLoad, ModelPace, Residence};
use rand_core::Rng as _;

const MODELS: u64 = 50;
/// Models of one provider.
const SERVED: u64 = 5;
const RECIPIENTS: usize = 3;
const STATEMENT_BYTES: usize = 6_000;
const WALL: UnixMillis = UnixMillis(1_700_000_000_000);

/// A reproducible source of numbers (splitmix64); nothing here needs secrecy.
struct Numbers(u64);
impl rand_core::TryRng for Numbers {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(z ^ (z >> 31))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out {
            *byte = self.try_next_u64()? as u8;
        }
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Numbers {}

fn bytes<const N: usize>(kind: u8, n: u64) -> [u8; N] {
    let mut numbers = Numbers(n << 8 | u64::from(kind));
    let mut bytes = [0; N];
    numbers.fill_bytes(&mut bytes);
    bytes
}

fn model(n: u64) -> CatalogueDigest {
    CatalogueDigest(bytes(1, n))
}

/// One fleet and what happens in it.
struct Fleet {
    registry: Registry,
    chance: Numbers,
    providers: u64,
    now: MonoMillis,
    requests: u64,
    /// The list that clients of each model have, and the rows that run.
    lists: Vec<Vec<(ProviderId, EpochId)>>,
    running: VecDeque<Row>,
    took: Took,
}

#[derive(Default)]
struct Took {
    route: Vec<Duration>,
    release: Vec<Duration>,
    heartbeat: Vec<Duration>,
    candidates: Vec<Duration>,
    tick: Vec<Duration>,
    unrouted: usize,
}

fn timed<T>(into: &mut Vec<Duration>, what: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = what();
    into.push(began.elapsed());
    result
}

impl Fleet {
    fn new(providers: u64) -> Self {
        let mut fleet = Self {
            registry: Registry::default(),
            chance: Numbers(7),
            providers,
            now: MonoMillis(1_000_000),
            requests: 0,
            lists: vec![Vec::new(); MODELS as usize],
            running: VecDeque::new(),
            took: Took::default(),
        };
        (0..providers).for_each(|n| fleet.register(n));
        (0..MODELS).for_each(|model| fleet.list(model));
        fleet.took = Took::default();
        fleet
    }

    fn below(&mut self, n: u64) -> u64 {
        self.chance.next_u64() % n
    }

    fn wall(&self) -> UnixMillis {
        WALL.after(Millis(self.now.0))
    }

    fn loads(n: u64) -> Vec<ModelLoad> {
        let load = |nth: u64| ModelLoad {
            model: model((n * 7 + nth * 11) % MODELS),
            rows_max: 4 + (n % 4) as u32 * 4,
            rows_used: 0,
            waiting: 0,
            row_tokens: TokenCount(8_192),
            residence: if nth < 3 { Residence::Loaded } else { Residence::Stored },
            pace: Some(ModelPace {
                prefill_us: 500 + (n % 8) as u32 * 300,
                decode_us: 10_000 + (n % 8) as u32 * 5_000,
            }),
        };
        (0..SERVED).map(load).collect()
    }

    fn register(&mut self, n: u64) {
        let until = self.wall().after(Millis::from_minutes(60));
        let models = Self::loads(n);
        let stated = Stated {
            statement: vec![n as u8; STATEMENT_BYTES].into(),
            epoch: EpochId(bytes(2, n)),
            tier: Tier::Hardware,
            shut: Vec::new(),
            shadow: Vec::new(),
            use_until: until,
            open_until: until,
            models: models.iter().map(|load| load.model).collect(),
            known_at: self.wall(),
        };
        let registration = Registration {
            provider: ProviderId(bytes(3, n)),
            connection: ConnectionId(bytes(4, n)),
            number: self.now.0,
            stated,
            models,
            standing: Standing::Clean,
            hardware: Some(format!("kind {}", n % 8)),
        };
        let (now, wall) = (self.now, self.wall());
        self.registry.register(registration, now, wall, &mut self.chance).unwrap();
    }

    fn list(&mut self, of: u64) {
        let (now, wall) = (self.now, self.wall());
        let (registry, chance) = (&mut self.registry, &mut self.chance);
        let found = timed(&mut self.took.candidates, || registry.candidates(&model(of), now, wall, chance));
        self.lists[of as usize] = found.into_iter().map(|view| (view.provider, view.epoch)).collect();
    }

    fn route(&mut self) {
        self.requests += 1;
        let of = self.below(MODELS).min(self.below(MODELS));
        let list = self.lists[of as usize].clone();
        if list.len() < RECIPIENTS {
            return;
        }
        // As clients choose: the best, and one at random.
        let mut recipients = list[..RECIPIENTS].to_vec();
        recipients[RECIPIENTS - 1] = list[self.below(list.len() as u64) as usize];
        let request = RouteRequest {
            request: RequestId(bytes(5, self.requests)),
            model: model(of),
            tier_min: Tier::Hardware,
            recipients: &recipients,
            tried: &[],
            account: AccountId(self.below(500) as i64),
            affinity: bytes(6, self.requests % 2_000),
            input: TokenCount(1_024),
            output: TokenCount(512),
        };
        let (now, wall, registry) = (self.now, self.wall(), &mut self.registry);
        match timed(&mut self.took.route, || registry.route(&request, now, wall)) {
            Ok(provider) => {
                let connection = self.registry.connection_of(&provider).unwrap();
                self.running.push_back(Row { provider, connection, model: request.model, request: request.request });
            }
            Err(_) => {
                self.took.unrouted += 1;
                self.registry.leave_queue(&request.model, &request.request, now, wall);
            }
        }
    }

    fn release(&mut self) {
        let Some(row) = self.running.pop_front() else { return };
        let seen = Seen {
            round_trip: Millis(20 + self.below(60)),
            first_content: Millis(600),
            stream: Millis(3_000),
            input: TokenCount(1_024),
            output: TokenCount(200),
        };
        let outcome = match self.below(100) {
            0 => Outcome::Failed(Fault::Error),
            1..4 => Outcome::Declined,
            4..10 => Outcome::Unused,
            _ => Outcome::Served(Some(seen)),
        };
        let (now, wall, registry) = (self.now, self.wall(), &mut self.registry);
        timed(&mut self.took.release, || registry.release(&row, outcome, now, wall));
    }

    fn heartbeat(&mut self, n: u64) {
        let models = Self::loads(n);
        let connection = ConnectionId(bytes(4, n));
        let (now, wall, registry) = (self.now, self.wall(), &mut self.registry);
        timed(&mut self.took.heartbeat, || registry.heartbeat(&connection, models, false, now, wall));
        // Those that are challenged answer with their next beat.
        if let Some(nonce) = self.registry.open_challenges(&connection).last() {
            self.registry.challenge_answered(&connection, nonce, now, wall);
        }
    }

    /// One second in the life of the fleet: every tenth provider beats, one in a hundred thousand reconnects.
    fn second(&mut self, requests: u64) {
        let beats = self.providers / 10;
        for n in 0..requests.max(beats) {
            if n < requests {
                self.route();
                self.registry.take_wakes();
                self.registry.take_loads();
            }
            // Half of what the fleet takes runs at a time.
            if self.running.len() as u64 > self.providers * 4 {
                self.release();
            }
            if n < beats {
                self.heartbeat((self.now.0 / 1_000 % 10) * beats + n);
            }
            if n % 64 == 0 {
                let of = self.below(MODELS);
                self.list(of);
            }
        }
        self.now = self.now.after(Millis(1_000));
        let (now, wall) = (self.now, self.wall());
        self.registry.challenges_due(now, &mut self.chance);
        let registry = &mut self.registry;
        while timed(&mut self.took.tick, || registry.catch_up(now, wall)) {}
        timed(&mut self.took.tick, || registry.tick(now, wall));
        if self.below(100) == 0 {
            let n = self.below(self.providers);
            self.registry.disconnected(&ConnectionId(bytes(4, n)), now, wall);
            self.register(n);
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |took| took.as_nanos() as f64 / 1_000.0)
}

fn main() {
    let requests: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(200_000);
    let mut p50 = Vec::new();
    let mut fleets: Vec<_> = [1_000, 10_000].map(Fleet::new).into();
    // In turns, so that both meet the same moods of the machine.
    for _ in 0..requests.div_ceil(2_000) {
        fleets.iter_mut().for_each(|fleet| fleet.second(2_000));
    }
    println!(
        "{:>10} {:>11} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "providers", "what", "calls", "p50 µs", "p99 µs", "p99.9", "max"
    );
    for fleet in &mut fleets {
        let Took { route, release, heartbeat, candidates, tick, unrouted } = &mut fleet.took;
        p50.push({
            route.sort_unstable();
            percentile(route, 50)
        });
        for (name, took) in [
            ("route", route),
            ("release", release),
            ("heartbeat", heartbeat),
            ("candidates", candidates),
            ("tick", tick),
        ] {
            took.sort_unstable();
            let (calls, high) = (took.len(), percentile(&took[took.len() * 999 / 1_000..], 0));
            println!(
                "{:>10} {name:>11} {calls:>9} {:>9.2} {:>9.2} {high:>9.2} {:>9.1}",
                fleet.providers,
                percentile(took, 50),
                percentile(took, 99),
                percentile(took, 100)
            );
        }
        println!("{:>10} {:>11} {unrouted:>9}", fleet.providers, "no room");
    }
    println!("a route among 10,000 takes {:.2} times one among 1,000", p50[1] / p50[0]);
}
