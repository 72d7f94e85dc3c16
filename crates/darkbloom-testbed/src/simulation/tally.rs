//! What a run, or many, contained: faults, endings, transitions of the machines.

use std::collections::BTreeMap;
use std::fmt;

use darkbloom_session::{ClientPhase, ClientSession, RelayEvent, RelayPhase, RelaySession};
use darkbloom_wire::Relayed;

use super::faults::Fault;
use super::world::Ending;

/// Events of the relay's machine.
pub const RELAY_EVENTS: [&str; 20] = [
    "HoldPlaced",
    "HoldRefused",
    "Routed",
    "Busy",
    "QueueFull",
    "OthersCould",
    "Nobody",
    "Wake",
    "Accepted",
    "Refused",
    "Data",
    "DataEnd",
    "Receipt",
    "BadReceipt",
    "ProviderGone",
    "ConsumerGone",
    "CancelAcknowledged",
    "Settled",
    "Tick",
    "Loading",
];

/// Frames that it takes.
pub const CLIENT_EVENTS: [&str; 7] = ["Accepted", "Data", "DataEnd", "Final", "Reseal", "Refused", "KeepAlive"];

/// Counts of everything.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Submissions.
    pub requests: u64,
    /// Operations of consumers.
    pub operations: u64,
    /// Events of all kinds that were stepped through.
    pub events: u64,
    /// Virtual time.
    pub virtual_ms: u64,
    faults: [u64; Fault::ALL.len()],
    endings: BTreeMap<&'static str, u64>,
    relay: [[u64; RELAY_EVENTS.len()]; RelayPhase::ALL.len()],
    client: [[u64; CLIENT_EVENTS.len()]; ClientPhase::ALL.len()],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            requests: 0,
            operations: 0,
            events: 0,
            virtual_ms: 0,
            faults: [0; Fault::ALL.len()],
            endings: BTreeMap::new(),
            relay: [[0; RELAY_EVENTS.len()]; RelayPhase::ALL.len()],
            client: [[0; CLIENT_EVENTS.len()]; ClientPhase::ALL.len()],
        }
    }
}

impl Tally {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// How often a fault happened.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(super) fn ending(&mut self, ending: Ending) {
        let name = match ending {
            Ending::Answered => "answered",
            Ending::Refused(code) => code.name(),
            Ending::Cut => "cut",
            Ending::HungUp => "hung_up",
        };
        *self.endings.entry(name).or_default() += 1;
    }

    /// How often operations ended like this: `answered`, `cut`, `hung_up`, or the name of a refusal.
    #[must_use]
    pub fn endings(&self, name: &str) -> u64 {
        self.endings.get(name).copied().unwrap_or(0)
    }

    pub(super) fn relay(&mut self, session: &RelaySession, event: &RelayEvent) {
        self.relay[session.phase() as usize][relay_event(event)] += 1;
    }

    pub(super) fn client(&mut self, session: &ClientSession, frame: &Relayed) {
        self.client[session.phase() as usize][client_event(frame)] += 1;
    }

    /// How often the relay's machine was given this event in this phase.
    #[must_use]
    pub fn relay_transitions(&self, phase: RelayPhase, event: &str) -> u64 {
        let at = RELAY_EVENTS.iter().position(|known| *known == event);
        at.map_or(0, |event| self.relay[phase as usize][event])
    }

    /// How often the client's machine was given this frame in this phase.
    #[must_use]
    pub fn client_transitions(&self, phase: ClientPhase, event: &str) -> u64 {
        let at = CLIENT_EVENTS.iter().position(|known| *known == event);
        at.map_or(0, |event| self.client[phase as usize][event])
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.operations += other.operations;
        self.events += other.events;
        self.virtual_ms += other.virtual_ms;
        for (mine, theirs) in self.faults.iter_mut().zip(other.faults) {
            *mine += theirs;
        }
        for (name, count) in &other.endings {
            *self.endings.entry(name).or_default() += count;
        }
        for (mine, theirs) in self.relay.iter_mut().flatten().zip(other.relay.iter().flatten()) {
            *mine += theirs;
        }
        for (mine, theirs) in self.client.iter_mut().flatten().zip(other.client.iter().flatten()) {
            *mine += theirs;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.virtual_ms / 3_600_000;
        writeln!(f, "{} requests of {} operations", self.requests, self.operations)?;
        writeln!(f, "{} events in {hours} hours of virtual time", self.events)?;
        for fault in Fault::ALL {
            writeln!(f, "fault {fault:?}: {}", self.faults(*fault))?;
        }
        for (name, count) in &self.endings {
            writeln!(f, "ending {name}: {count}")?;
        }
        for (phase, counts) in RelayPhase::ALL.iter().zip(&self.relay) {
            for (event, count) in RELAY_EVENTS.iter().zip(counts).filter(|(_, count)| **count > 0) {
                writeln!(f, "relay {phase:?} {event}: {count}")?;
            }
        }
        for (phase, counts) in ClientPhase::ALL.iter().zip(&self.client) {
            for (event, count) in CLIENT_EVENTS.iter().zip(counts).filter(|(_, count)| **count > 0) {
                writeln!(f, "client {phase:?} {event}: {count}")?;
            }
        }
        Ok(())
    }
}

fn relay_event(event: &RelayEvent) -> usize {
    use darkbloom_session::RouteFailure;
    match event {
        RelayEvent::HoldPlaced => 0,
        RelayEvent::HoldRefused(_) => 1,
        RelayEvent::Routed(_) => 2,
        RelayEvent::NotRouted(RouteFailure::Busy) => 3,
        RelayEvent::NotRouted(RouteFailure::QueueFull) => 4,
        RelayEvent::NotRouted(RouteFailure::Loading) => 19,
        RelayEvent::NotRouted(RouteFailure::OthersCould(_)) => 5,
        RelayEvent::NotRouted(RouteFailure::Nobody(_)) => 6,
        RelayEvent::Wake => 7,
        RelayEvent::Accepted => 8,
        RelayEvent::Refused(_) => 9,
        RelayEvent::Data { end: false, .. } => 10,
        RelayEvent::Data { end: true, .. } => 11,
        RelayEvent::Receipt { .. } => 12,
        RelayEvent::BadReceipt => 13,
        RelayEvent::ProviderGone => 14,
        RelayEvent::ConsumerGone => 15,
        RelayEvent::CancelAcknowledged => 16,
        RelayEvent::Settled => 17,
        RelayEvent::Tick => 18,
    }
}

fn client_event(frame: &Relayed) -> usize {
    match frame {
        Relayed::RelayedAccepted(_) => 0,
        Relayed::RelayedData(data) if !data.end => 1,
        Relayed::RelayedData(_) => 2,
        Relayed::RelayedFinal(_) => 3,
        Relayed::Reseal(_) => 4,
        Relayed::RelayedRefused(_) => 5,
        Relayed::KeepAlive(_) => 6,
    }
}
