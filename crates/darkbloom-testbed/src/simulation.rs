//! Whole networks under a virtual clock, from one seed: the real machines of client, coordinator, registry, ledger and
//! provider, stepped against each other in one thread, while processes die, connections break and peers lie.
//!
//! There are no sockets, no cryptography and no plaintext: what is sealed is opaque to the machines, and whether a
//! signature would verify is a flag. What carries bytes and time to the machines is this module's own; it does what the
//! programs' loops do. Beside it stands a watch with books of its own, which looks at every step and at the end whether
//! what must hold does. A watch that finds nothing proves nothing unless it can find something: so a run may contain one
//! of [`Planted`], a mistake in the wiring, and must then fail.
//!
//! ```text
//!  consumers ─▶ ClientSession ═response═ RelaySession ─┬─▶ Registry (rows, queue)
//!                                             ║        └─▶ store ─▶ ledger's Model (durable)
//!                                        connection
//!                                             ║
//!                                      ProviderStreams ─▶ jobs, receipts (durable)
//! ```

mod agenda;
mod chance;
mod client;
mod doors;
mod faults;
mod link;
mod loading;
mod mischief;
mod provider;
mod store;
mod tally;
mod watch;
mod wiring;
mod world;

use self::agenda::Event;
use self::world::{Stage, World};

pub use self::faults::{Fault, Planted};
pub use self::tally::{CLIENT_EVENTS, RELAY_EVENTS, Tally};
pub use self::watch::Finding;

/// Events of one run at most, a hundred times what runs of a few hundred operations take; a network that never comes to
/// rest is a finding.
const EVENTS_MAX: u64 = 2_000_000;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Everything else follows from it.
    pub seed: u64,
    /// Operations of consumers.
    pub requests: u32,
    /// A mistake in the wiring.
    pub planted: Option<Planted>,
    /// Whether every step is written down.
    pub log: bool,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its seed, which replays it.
    pub seed: u64,
    /// What did not hold; the first ends the run.
    pub findings: Vec<Finding>,
    /// What the run contained.
    pub tally: Tally,
    /// Over everything that happened: equal for equal runs.
    pub digest: u64,
    /// Every step, where that was asked for.
    pub log: Vec<String>,
}

/// Runs a network to its rest, or to the first finding.
#[must_use]
pub fn simulate(scenario: Scenario) -> Run {
    let Scenario { seed, requests, planted, log } = scenario;
    let mut world = World::new(seed, requests, planted, log);
    while world.stage != Stage::Over && world.watch.findings.is_empty() {
        let Some((at, event)) = world.agenda.pop() else {
            world.watch.find(world.now, "nothing is left to happen, and the network is not at rest".to_owned());
            break;
        };
        world.now = at;
        world.tally.events += 1;
        if world.tally.events > EVENTS_MAX {
            world.watch.find(at, "the network never comes to rest".to_owned());
        }
        world.happen(event);
    }
    if world.watch.findings.is_empty() {
        world.watch_end();
    }
    world.tally.virtual_ms = world.now.0;
    Run {
        seed,
        findings: world.watch.findings,
        tally: world.tally,
        digest: world.watch.digest,
        log: world.watch.log.unwrap_or_default(),
    }
}

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => self.arrive(),
            Event::Submit(s) => self.submit(s),
            Event::ToClient(s) => self.client_hears(s),
            Event::ClientClosed(s) => self.client_closed(s),
            Event::ClientSilence(o) => self.client_silence(o),
            Event::SealAgain(o) => {
                self.submit_again(o);
            }
            Event::Repeat(o) => self.repeat(o),
            Event::HangUp(o) => self.hang_up(o),
            Event::StopReading(o) => self.stop_reading(o),
            Event::ReadAgain(o) => self.read_again(o),
            Event::CutResponse(s) => {
                self.fault(Fault::ResponseCut);
                self.cut_response(s);
            }
            Event::MuteResponse(s) => {
                self.fault(Fault::ResponseHalfOpen);
                self.mute_response(s);
            }
            Event::Drive(s) => self.drive(s),
            Event::RelayTimer(s, at) => self.relay_timer(s, at),
            Event::KeepAlive(s) => self.keep_alive(s),
            Event::WriteTimeout(s, ticket) => self.write_failed(s, Some(ticket)),
            Event::Commit(number) => self.commit(number),
            Event::Committed(number) => self.committed(number),
            Event::ToCoordinator(link) => self.coordinator_hears(link),
            Event::ToProvider(link) => self.provider_hears(link),
            Event::CoordinatorSees(link) => self.coordinator_drops(link),
            Event::ProviderSees(link) => self.provider_drops(link),
            Event::Connect { provider, run } => self.connect(provider, run),
            Event::Beat { provider, run } => self.beat(provider, run),
            Event::Work { provider, run, stream } => self.work(provider, run, stream),
            Event::Load { provider, run, number, outcome } => self.load_ends(provider, run, number, outcome),
            Event::Restart(provider) => self.restart(provider),
            Event::Sweep(run) => {
                self.sweep(run);
                self.next_stage();
            }
            Event::CoordinatorStart => self.start_coordinator(),
            Event::Mischief => self.mischief(),
        }
    }
}
