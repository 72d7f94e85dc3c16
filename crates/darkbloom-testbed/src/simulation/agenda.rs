//! What happens when: the virtual clock and the events that wait for it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use darkbloom_types::{MonoMillis, StreamId, UnixMillis};
use darkbloom_wire::LoadOutcome;

use super::chance::Chance;

/// A moment of the virtual clock: milliseconds since the run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Now(pub u64);

/// The wall clock at the beginning of every run; any moment far from zero does.
const WALL: i64 = 1_800_000_000_000;

impl Now {
    /// The end of time: what is due then never happens.
    pub const NEVER: Self = Self(u64::MAX);

    pub fn after(self, wait_ms: u64) -> Self {
        Self(self.0.saturating_add(wait_ms))
    }

    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<Now> for UnixMillis {
    fn from(now: Now) -> Self {
        Self(WALL.saturating_add_unsigned(now.0))
    }
}

impl From<Now> for MonoMillis {
    fn from(now: Now) -> Self {
        Self(now.0)
    }
}

impl From<MonoMillis> for Now {
    fn from(moment: MonoMillis) -> Self {
        Self(moment.0)
    }
}

impl From<UnixMillis> for Now {
    fn from(moment: UnixMillis) -> Self {
        Self(u64::try_from(moment.0 - WALL).unwrap_or(0))
    }
}

/// What happens. Numbers are places in the world's tables; `run` is which life of a process an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The next consumer asks.
    Arrive,
    /// A submission reaches the coordinator.
    Submit(u32),
    /// The next frame of a response reaches its client.
    ToClient(u32),
    /// The coordinator sees that a client is gone.
    ClientClosed(u32),
    /// Is a client's wait over?
    ClientSilence(u32),
    /// A client seals again.
    SealAgain(u32),
    /// A consumer repeats an operation.
    Repeat(u32),
    /// A consumer hangs up.
    HangUp(u32),
    /// A consumer stops reading.
    StopReading(u32),
    /// It goes on, or its client gives it up.
    ReadAgain(u32),
    /// The connection of a response breaks.
    CutResponse(u32),
    /// The connection of a response goes dead without a word.
    MuteResponse(u32),
    /// A relay may have something to do.
    Drive(u32),
    /// A relay's machine may be due.
    RelayTimer(u32, Now),
    /// A relay tells its client that it lives.
    KeepAlive(u32),
    /// A relay has waited too long to hand a frame to its consumer.
    WriteTimeout(u32, u32),
    /// A store operation becomes durable.
    Commit(u32),
    /// Whoever asked for it hears of it.
    Committed(u32),
    /// The next frame of a connection reaches the coordinator.
    ToCoordinator(u32),
    /// The next frame of a connection reaches the provider.
    ToProvider(u32),
    /// The coordinator sees that a connection is gone.
    CoordinatorSees(u32),
    /// The provider sees it.
    ProviderSees(u32),
    /// A provider dials.
    Connect { provider: u32, run: u32 },
    /// A provider's heartbeat is due.
    Beat { provider: u32, run: u32 },
    /// A provider's job takes its next step.
    Work { provider: u32, run: u32, stream: StreamId },
    /// A provider's load is over.
    Load { provider: u32, run: u32, number: usize, outcome: LoadOutcome },
    /// A provider that crashed is started again.
    Restart(u32),
    /// The coordinator looks for what is overdue.
    Sweep(u32),
    /// A coordinator that crashed is started again.
    CoordinatorStart,
    /// The next accident.
    Mischief,
}

/// The events that wait, soonest first; what is due at one moment happens in a drawn order.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    waiting: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry {
    at: Now,
    /// Drawn, then the order of entry: never equal.
    order: (u32, u64),
    event: Event,
}

impl Entry {
    fn key(&self) -> (Now, (u32, u64)) {
        (self.at, self.order)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Agenda {
    pub fn push(&mut self, at: Now, event: Event, chance: &mut Chance) {
        self.pushed += 1;
        let order = ((chance.next() >> 32) as u32, self.pushed);
        self.waiting.push(Reverse(Entry { at, order, event }));
    }

    pub fn pop(&mut self) -> Option<(Now, Event)> {
        self.waiting.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}
