//! A coordinator and providers, for the tests of this crate.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use darkbloom_attest::{HardwareTrust, Trust, TrustPolicy, undefended};
use darkbloom_host::clock;
use darkbloom_seal::{Epoch, EpochRing};
use darkbloom_types::{
    CatalogueDigest, Digest, EpochId, NanoDollars, NetworkId, OperationId, Price, ProviderId, Refusal, RequestId, Tier,
    TokenCount, UnixMillis,
};
use darkbloom_wire::{Candidate, CandidateList, CatalogueEntry, PublicKey, Statement, catalogue_digest};
use p256::ecdsa::SigningKey;
use tokio::sync::mpsc;

use crate::candidates::Candidates;
use crate::network::Coordinator;
use crate::{Answer, AnswerMeta, Part, Timing};

/// When the tests' epochs begin.
pub const BEGIN: UnixMillis = UnixMillis(1_800_000_000_000);
/// A minute in milliseconds.
pub const MINUTE: i64 = 60_000;
pub const MODEL: &str = "darkbloom-tiny";
pub const PRICE: Price = Price { version: 3, input_nano_per_token: 50, output_nano_per_token: 200 };

pub fn minutes(after_begin: i64) -> UnixMillis {
    UnixMillis(BEGIN.0 + after_begin * MINUTE)
}

pub fn key(label: &str) -> (SigningKey, [u8; 65]) {
    let key = SigningKey::from_slice(&Digest::of(&[label.as_bytes()]).0).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, point)
}

/// Who signs lists, entries and bills.
pub struct Operator {
    pub key: SigningKey,
    pub public: Coordinator,
    pub entry: Vec<u8>,
    pub model: CatalogueDigest,
}

impl Operator {
    pub fn new() -> Self {
        let (key, point) = key("coordinator");
        let network = NetworkId::of_coordinator_key(&point);
        let entry = CatalogueEntry {
            network,
            name: MODEL.to_owned(),
            weights: Digest([1; 32]),
            text_pack: Digest([2; 32]),
            context: TokenCount(1_024),
            quantisation: "Q8_0".to_owned(),
        };
        let entry = entry.sign(&key).unwrap();
        let model = catalogue_digest(&entry);
        Self { key, public: Coordinator { network, key: PublicKey::P256(point) }, entry, model }
    }

    /// A signed list of these statements.
    pub fn list(&self, time: UnixMillis, price: Price, statements: &[&[u8]]) -> Vec<u8> {
        let candidate = |statement: &&[u8]| Candidate {
            statement: statement.to_vec(),
            rows_free: 1,
            row_tokens: TokenCount(1_024),
            waiting: 0,
        };
        let list = CandidateList {
            network: self.public.network,
            time,
            entry: self.entry.clone(),
            price,
            candidates: statements.iter().map(candidate).collect::<Vec<_>>().into(),
            activator: None,
        };
        list.sign(&self.key).unwrap()
    }

    /// The list as a client reads it at the same moment.
    pub fn read(&self, time: UnixMillis, statements: &[&[u8]], policy: &TrustPolicy) -> Result<Candidates, Refusal> {
        let examined = Arc::default();
        Candidates::read(&self.list(time, PRICE, statements), &self.public, policy, time, Instant::now(), &examined)
    }

    /// A policy that takes anybody.
    pub fn anybody(&self) -> TrustPolicy {
        let (pinned, hardware) = (BTreeSet::new(), HardwareTrust::default());
        TrustPolicy { network: self.public.network, tier_min: Tier::None, pinned, hardware }
    }
}

/// A provider in one epoch.
pub struct Provider {
    pub key: SigningKey,
    pub id: ProviderId,
    pub epoch: EpochId,
    pub statement: Statement,
    pub ring: EpochRing,
}

impl Provider {
    /// A provider of the operator's model whose epoch begins then.
    pub fn new(operator: &Operator, label: &str, begins: UnixMillis) -> Self {
        let (key, identity) = key(label);
        let network = operator.public.network;
        let epoch = Epoch::begin(identity, begins, &mut clock::rng());
        let statement = epoch.statement(network, vec![operator.model], vec![], "test");
        let (id, name) = (ProviderId::of_public_key(&identity), epoch.id());
        Self { key, id, epoch: name, statement, ring: EpochRing::new(network, epoch) }
    }

    pub fn signed(&self) -> Vec<u8> {
        self.statement.sign(&self.key).unwrap()
    }
}

/// An answer of these parts, with this charge should it fail.
pub fn answer(parts: mpsc::Receiver<Part>, charge: Option<NanoDollars>) -> Answer {
    let meta = AnswerMeta {
        request: RequestId([1; 16]),
        operation: OperationId([2; 16]),
        provider: ProviderId([3; 32]),
        tier: Tier::None,
        trust: Trust::Unpinned,
        undefended: undefended(Tier::None),
        epoch: EpochId([4; 16]),
        catalogue: CatalogueDigest([5; 32]),
        attempts: Vec::new(),
        timing: Timing::default(),
        rates: crate::RateHeaders::default(),
    };
    Answer { meta, parts, charged: Arc::new(charge.map(OnceLock::from).unwrap_or_default()) }
}
