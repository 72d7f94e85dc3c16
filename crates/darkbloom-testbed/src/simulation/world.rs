//! Everything there is in a run: consumers, connections, one coordinator, its ledger, providers.

use std::collections::{BTreeMap, VecDeque};

use darkbloom_ledger::{BasisPoints, Model, Settled};
use darkbloom_registry::Registry;
use darkbloom_session::{ClientSession, ProviderStreams};
use darkbloom_types::{
    AccountId, AttemptNumber, CatalogueDigest, ConnectionId, EpochId, NanoDollars, OperationId, Price, ProviderId,
    RefusalCode, RequestId, StreamId,
};
use darkbloom_wire::{LoadOutcome, Relayed};

use super::agenda::{Agenda, Event, Now};
use super::chance::Chance;
use super::faults::{Fault, Planted};
use super::store;
use super::tally::Tally;
use super::watch::Watch;
use super::wiring::{Relay, StoreOp};

/// What everything costs. Both parts differ, so that a mistake between them shows.
pub(super) const PRICE: Price = Price { version: 1, input_nano_per_token: 3, output_nano_per_token: 7 };
/// Models of the catalogue: queues are kept a model each.
pub(super) const MODELS: usize = 2;

pub(super) fn model(number: usize) -> CatalogueDigest {
    CatalogueDigest([number as u8 + 1; 32])
}

pub(super) fn provider_id(place: u32) -> ProviderId {
    ProviderId([place as u8 + 1; 32])
}

pub(super) fn place_of(provider: &ProviderId) -> u32 {
    u32::from(provider.0[0]) - 1
}

/// An id whose first bytes are a place in a table.
fn placed_id(place: u32, rest: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&place.to_be_bytes());
    id[4..8].copy_from_slice(&rest.to_be_bytes());
    id
}

fn place_in(id: &[u8; 16]) -> u32 {
    u32::from_be_bytes([id[0], id[1], id[2], id[3]])
}

pub(super) fn request_id(submission: u32, seed: u64) -> RequestId {
    RequestId(placed_id(submission, seed as u32))
}

pub(super) fn submission_of(request: &RequestId) -> u32 {
    place_in(&request.0)
}

pub(super) fn connection_id(link: u32) -> ConnectionId {
    ConnectionId(placed_id(link, 0))
}

pub(super) fn link_of(connection: &ConnectionId) -> u32 {
    place_in(&connection.0)
}

/// How a run's network is made; drawn.
#[derive(Debug)]
pub(super) struct Shape {
    pub requests: u32,
    /// All ask at once and for the same model.
    pub burst: bool,
    /// Most time between two arrivals.
    pub arrival_ms: u64,
    /// The relay hears other events while the ledger works. The program's own wiring waits; the machine allows both.
    pub impatient: bool,
    /// One accident in so many requests.
    pub accidents: u64,
    pub mischief_ms: u64,
}

/// How an operation ended for its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Answered,
    Refused(RefusalCode),
    Cut,
    HungUp,
}

/// What a client knows of the answer that it is reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub provider: ProviderId,
    pub attempt: AttemptNumber,
    pub sequence: u32,
    pub tokens: u32,
}

/// One operation of one consumer.
#[derive(Debug)]
pub(super) struct Operation {
    /// The first of those that share an operation id.
    pub family: u32,
    pub repeated: bool,
    pub account: AccountId,
    pub id: OperationId,
    pub model: usize,
    pub client: u32,
    pub session: ClientSession,
    pub began: Now,
    /// The present submission.
    pub submission: Option<u32>,
    pub list: Vec<(ProviderId, EpochId)>,
    pub supersedes: Option<RequestId>,
    pub reseals: u32,
    pub reading: Option<Reading>,
    /// When it stopped reading.
    pub paused: Option<Now>,
    pub silence_at: Now,
    pub input: u32,
    pub input_ceiling: u32,
    pub output_ceiling: u32,
    pub ending: Option<Ending>,
}

/// What really happened to a submission, seen from beside the wiring.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// The last count that the machine said to pass on, and whose it was.
    pub relayed: u32,
    pub by: Option<u32>,
    pub first_content: Option<Now>,
    /// By then it is durable whose answer it is.
    pub noted_by: Now,
    pub hold_refused: bool,
    /// Its relay came to its end; else it died with its coordinator.
    pub finished: bool,
    pub died: Option<Now>,
    pub store_failed: bool,
    pub offered: Vec<u32>,
    /// A checked receipt was settled with.
    pub receipt: Option<u32>,
}

/// One sealing, its response's connection, and its relay.
#[derive(Debug)]
pub(super) struct Submission {
    pub operation: u32,
    pub request: RequestId,
    pub recipients: Vec<(ProviderId, EpochId)>,
    pub supersedes: Option<RequestId>,
    /// Frames on their way to the client; the end is `None`.
    pub response: VecDeque<Option<Relayed>>,
    pub response_at: Now,
    /// Frames that reached the client's machine and were not read.
    pub unread: VecDeque<Option<Relayed>>,
    pub broken: bool,
    pub mute: bool,
    pub client_left: bool,
    /// The coordinator sees that the client is gone.
    pub client_closed: bool,
    pub client_closed_at: Option<Now>,
    /// The coordinator gave the client up.
    pub given_up: bool,
    pub room: bool,
    pub relay: Option<Box<Relay>>,
    pub truth: Truth,
}

/// What a provider says about one stream.
#[derive(Debug, Clone)]
pub(super) enum StreamFrame {
    Accepted { attempt: AttemptNumber, epoch: EpochId },
    Refused(u16),
    Data { sequence: u32, tokens: u32, end: bool, origin: [u8; 12] },
    Final(u32),
    CancelAck,
}

/// From provider to coordinator.
#[derive(Debug, Clone)]
pub(super) enum Up {
    Hello { epoch: EpochId, use_until: Now },
    Beat,
    ChallengeAnswer([u8; 32]),
    Stream(StreamId, StreamFrame),
    Receipts(Vec<u32>),
    Epoch { epoch: EpochId, use_until: Now },
    LoadReport { number: usize, outcome: LoadOutcome },
}

/// From coordinator to provider.
#[derive(Debug, Clone)]
pub(super) enum Down {
    Offer { stream: StreamId, submission: u32, attempt: AttemptNumber, epoch: EpochId },
    Cancel(StreamId),
    Ack(u32),
    Challenge([u8; 32]),
    Load(usize),
}

/// One stream as the coordinator and the watch see it.
#[derive(Debug)]
pub(super) struct StreamUse {
    pub submission: u32,
    pub cancelled: bool,
    pub ended: bool,
}

/// One connection of a provider.
#[derive(Debug)]
pub(super) struct Link {
    pub provider: u32,
    pub up: VecDeque<Up>,
    pub down: VecDeque<Down>,
    pub up_at: Now,
    pub down_at: Now,
    pub latency_ms: u64,
    /// Broken: what was on its way is lost.
    pub cut: bool,
    /// Dead without anybody having been told.
    pub mute: bool,
    pub stalled_until: Now,
    /// The coordinator has it among its connections.
    pub known: bool,
    pub next_stream: u64,
    pub streams: BTreeMap<StreamId, StreamUse>,
    pub heard: Now,
}

/// What a receipt says, and whether its signature would verify.
#[derive(Debug, Clone)]
pub(super) struct Receipt {
    pub submission: u32,
    pub provider: u32,
    pub epoch: EpochId,
    pub attempt: AttemptNumber,
    pub input: u32,
    pub output: u32,
    pub forged: bool,
    /// It says what its provider made.
    pub honest: bool,
}

/// What a bill says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bill {
    pub submission: u32,
    pub charge: NanoDollars,
    pub settled: Settled,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Begin,
    Accepted,
    Streaming,
    Ended,
}

/// An offer that a provider works on.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub submission: u32,
    pub attempt: AttemptNumber,
    pub epoch: EpochId,
    pub phase: Phase,
    pub fault: Option<Fault>,
    pub planned: u32,
    pub tokens: u32,
    pub sequence: u32,
    pub step_ms: u64,
    pub steps: u32,
    pub cancelled_at: Option<Now>,
    /// It has lied; what follows is not honest, whatever it is.
    pub lied: bool,
}

/// One provider's machine.
#[derive(Debug)]
pub(super) struct Provider {
    pub run: u32,
    pub up: bool,
    pub liar: bool,
    pub models: [bool; MODELS],
    /// Of these, what is on its disk alone.
    pub stored: [bool; MODELS],
    /// And what is on its way from there.
    pub loading: [bool; MODELS],
    pub rows: u32,
    pub claims: u32,
    pub epoch: EpochId,
    pub use_until: Now,
    /// It does not begin its next epoch in time.
    pub epoch_stuck: bool,
    pub earlier: Vec<(EpochId, Now)>,
    pub link: Option<u32>,
    pub streams: ProviderStreams,
    pub jobs: BTreeMap<StreamId, Job>,
    pub hung_until: Now,
    pub ignores_challenges: bool,
    pub draining: bool,
    /// Receipts that were not acknowledged, on its disk.
    pub outbox: Vec<u32>,
}

/// A hold that waits for its request to be sealed again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resealing {
    pub account: AccountId,
    pub operation: OperationId,
    pub until: Now,
}

/// The coordinator's memory.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    pub up: bool,
    pub run: u32,
    pub registry: Registry,
    pub live: BTreeMap<RequestId, u32>,
    pub resealing: BTreeMap<RequestId, Resealing>,
    /// Holds whose end the store could not write; it is asked again.
    pub unfinished: Vec<(u32, store::Job)>,
}

impl Coordinator {
    pub fn is_unfinished(&self, request: &RequestId) -> bool {
        self.unfinished.iter().any(|(s, _)| *s == submission_of(request))
    }
}

/// A client's program: its list of candidates a model each, until when it may be sealed to, and when it was fetched.
#[derive(Debug, Default)]
pub(super) struct ClientProgram {
    pub lists: [Option<Candidates>; MODELS],
    /// It goes on using lists that are over.
    pub stale: bool,
}

/// A list that a client keeps.
#[derive(Debug, Clone)]
pub(super) struct Candidates {
    pub found: Vec<(ProviderId, EpochId, Now)>,
    pub fetched: Now,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Requests come and things go wrong.
    Load,
    /// Nothing new goes wrong; requests come to their ends.
    Calm,
    /// All providers reconnect and present their receipts.
    Receipts {
        until: Now,
    },
    /// What the sweeper alone can end is waited for.
    Overdue {
        until: Now,
    },
    /// Once more.
    LastReceipts {
        until: Now,
    },
    Over,
}

/// A whole network.
#[derive(Debug)]
pub(super) struct World {
    pub seed: u64,
    pub now: Now,
    pub agenda: Agenda,
    pub chance: Chance,
    pub shape: Shape,
    pub planted: Option<Planted>,
    pub stage: Stage,
    pub arrived: u32,
    pub last_arrival: Now,
    pub tally: Tally,
    pub watch: Watch,
    pub operations: Vec<Operation>,
    pub submissions: Vec<Submission>,
    pub links: Vec<Link>,
    pub providers: Vec<Provider>,
    pub clients: Vec<ClientProgram>,
    pub receipts: Vec<Receipt>,
    pub bills: Vec<Bill>,
    pub lists: Vec<Vec<(ProviderId, EpochId, Now)>>,
    pub coordinator: Coordinator,
    pub ledger: Model,
    pub store: Vec<StoreOp>,
    pub store_at: Now,
    pub accounts: Vec<AccountId>,
    pub epochs: u32,
}

impl World {
    pub fn new(seed: u64, requests: u32, planted: Option<Planted>, log: bool) -> Self {
        let mut chance = Chance::new(seed);
        let burst = chance.one_in(40);
        let shape = Shape {
            requests: if burst { requests * 2 } else { requests },
            burst,
            arrival_ms: if burst { 2 } else { chance.pick(&[40, 100, 200, 400, 800, 6_000, 20_000]) },
            impatient: chance.one_in(4),
            accidents: chance.pick(&[3, 6, 12, 40]),
            mischief_ms: chance.pick(&[500, 1_500, 5_000, 20_000]),
        };
        let fee = BasisPoints::new(500).expect("5 % is a share");
        let mut world = Self {
            seed,
            now: Now(0),
            agenda: Agenda::default(),
            shape,
            planted,
            stage: Stage::Load,
            arrived: 0,
            last_arrival: Now(0),
            tally: Tally::default(),
            watch: Watch::new(log),
            operations: Vec::new(),
            submissions: Vec::new(),
            links: Vec::new(),
            providers: Vec::new(),
            clients: (0..3).map(|_| ClientProgram::default()).collect(),
            receipts: Vec::new(),
            bills: Vec::new(),
            lists: Vec::new(),
            coordinator: Coordinator::default(),
            ledger: Model::new(fee),
            store: Vec::new(),
            store_at: Now(0),
            accounts: Vec::new(),
            epochs: 0,
            chance,
        };
        world.open_accounts();
        world.start_providers();
        world.start_coordinator();
        world.at(3_000, Event::Arrive);
        world.at(4_000, Event::Mischief);
        world
    }

    fn open_accounts(&mut self) {
        for dollars in [1_000, 1_000, 1_000, 0] {
            let account = self.ledger.account_create();
            // The poor one has money for a few requests.
            let amount = NanoDollars(dollars * NanoDollars::PER_DOLLAR + 5_000);
            self.ledger.deposit(account, amount).expect("the amount is more than nothing and far from the limit");
            self.accounts.push(account);
        }
    }

    fn start_providers(&mut self) {
        let count = self.chance.between(2, 6) as u32;
        for place in 0..count {
            let rows = self.chance.between(1, 5) as u32;
            let boasts = self.chance.one_in(8);
            let liar = place > 0 && self.chance.one_in(3);
            let both = self.chance.one_in(2);
            let only = self.chance.below(MODELS as u64) as usize;
            let stored = std::array::from_fn(|_| self.chance.one_in(3));
            self.watch.provider();
            self.providers.push(Provider {
                run: 0,
                up: false,
                liar,
                models: std::array::from_fn(|number| place == 0 || both || number == only),
                stored,
                loading: [false; MODELS],
                rows,
                claims: if boasts { rows * 60 + 8 } else { rows },
                epoch: EpochId([0; 16]),
                use_until: Now(0),
                epoch_stuck: false,
                earlier: Vec::new(),
                link: None,
                streams: ProviderStreams::default(),
                jobs: BTreeMap::new(),
                hung_until: Now(0),
                ignores_challenges: false,
                draining: false,
                outbox: Vec::new(),
            });
            self.start_provider(place);
        }
    }

    /// Lets something happen so much later.
    pub fn at(&mut self, wait_ms: u64, event: Event) {
        self.agenda.push(self.now.after(wait_ms), event, &mut self.chance);
    }

    pub fn at_moment(&mut self, moment: Now, event: Event) {
        self.agenda.push(moment.max(self.now), event, &mut self.chance);
    }

    pub fn bug(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub fn fault(&mut self, fault: Fault) {
        self.tally.fault(fault);
    }

    /// Whether new things may go wrong.
    pub fn is_rough(&self) -> bool {
        self.stage == Stage::Load
    }

    /// What happened to a sealing, by whichever of its submissions.
    pub fn truth(&mut self, s: u32) -> &mut Truth {
        let first = submission_of(&self.submissions[s as usize].request);
        &mut self.submissions[first as usize].truth
    }

    pub fn operation_of(&self, submission: u32) -> &Operation {
        &self.operations[self.submissions[submission as usize].operation as usize]
    }
}
