//! What takes a provider that was offline for hours.

use std::collections::BTreeSet;
use std::path::Path;

use darkbloom_attest::{HardwareTrust, TrustPolicy, verify_statement};
use darkbloom_keys::{Identity, IdentityKey as _, SoftwareKey};
use darkbloom_types::{ConnectionId, Millis, Tier, TokenCount};
use darkbloom_wire::{CoordinatorProof, coordinator_proof_digest};

use super::*;
use crate::model::{LoadedModel, ModelOptions};

/// An agent that was welcomed once, and what it needs to be welcomed again.
struct Welcomed {
    agent: Agent,
    serving: Arc<Serving>,
    welcome: Welcome,
    /// Of its receipts and pin.
    _folder: tempfile::TempDir,
}

const NONCE: [u8; 32] = [3; 32];

fn welcomed() -> Welcomed {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = SoftwareKey::in_memory().unwrap();
    let network = NetworkId::of_coordinator_key(&coordinator.public_point());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let model = LoadedModel::load(&ModelOptions { threads: Some(1), ..ModelOptions::new(path, 1, 64) }).unwrap();
    let entry = CatalogueEntry {
        network,
        name: "tiny".to_owned(),
        weights: model.weights,
        text_pack: model.text_pack,
        context: TokenCount(64),
        quantisation: "Q8_0".to_owned(),
    };
    let digest = coordinator_proof_digest(&network, &NONCE, Some((&ConnectionId([1; 16]), &[2; 32])));
    let welcome = Welcome {
        coordinator: coordinator.public_point(),
        connection: ConnectionId([1; 16]),
        time: clock::now(),
        nonce: [2; 32],
        catalogue: vec![entry.sign(&coordinator).unwrap()].into(),
        capabilities: Vec::new().into(),
        proof: CoordinatorProof { digest }.sign(&coordinator).unwrap(),
    };
    let identity = Identity::Software(SoftwareKey::in_memory().unwrap());
    let signatory =
        Signatory::new(identity, crate::evidence::Platform::default(), Vec::new(), folder.path().join("activations"))
            .unwrap();
    let outbox = ReceiptOutbox::open(&folder.path().join("receipts.sqlite")).unwrap();
    let pin = Pin::load(Some(network), folder.path().join("pin")).unwrap();
    let mut agent = Agent::new(signatory, outbox, pin, Shelf::holding(model), None, "ws://127.0.0.1:1".to_owned());
    let serving = agent.admit(&welcome, &NONCE).unwrap();
    Welcomed { agent, serving, welcome, _folder: folder }
}

impl Welcomed {
    /// As if its only epoch had begun three hours ago; the epoch's id.
    fn age(&self) -> EpochId {
        let long_ago = clock::now().0 - i64::try_from(Millis::from_minutes(3 * 60).0).unwrap();
        let at = darkbloom_types::UnixMillis(long_ago);
        let old = Epoch::begin(self.agent.signatory.public_point(), at, &mut clock::rng());
        let id = old.id();
        *self.serving.ring() = EpochRing::new(self.network(), old);
        id
    }

    fn network(&self) -> NetworkId {
        NetworkId::of_coordinator_key(&self.welcome.coordinator)
    }
}

#[tokio::test]
async fn after_hours_offline_the_first_introduction_has_a_statement_that_is_believed() {
    let mut welcomed = welcomed();
    let old_id = welcomed.age();
    let (pinned, hardware) = (BTreeSet::new(), HardwareTrust::default());
    let policy = TrustPolicy { network: welcomed.network(), tier_min: Tier::None, pinned, hardware };
    let expired = welcomed.agent.signatory.state(statement(&welcomed.serving).0).await.unwrap().bytes;
    assert!(verify_statement(&expired, &policy, clock::now()).is_err(), "what it would have said");

    let serving = welcomed.agent.admit(&welcomed.welcome, &NONCE).unwrap();
    let (hello, _) = welcomed.agent.hello(&serving, &welcomed.welcome).await.unwrap();
    let verdict = verify_statement(&hello.statement, &policy, clock::now()).unwrap();
    assert_ne!(verdict.epoch, old_id);
    assert!(serving.ring().by_id(&old_id).is_none(), "the old keys are erased");
}

#[tokio::test]
async fn old_keys_are_erased_while_no_coordinator_can_be_reached() {
    let welcomed = welcomed();
    let (old_id, serving) = (welcomed.age(), Arc::clone(&welcomed.serving));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(welcomed.agent.run(stopped));
    // Port 1 of this machine refuses, so the agent dials again and again.
    let erased = async {
        while serving.ring().by_id(&old_id).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), erased).await.expect("the old epoch is still there");
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
}

#[test]
fn an_address_that_hides_another_host_is_refused() {
    assert_eq!(endpoint("https://a.example/").as_deref(), Ok("wss://a.example/v1/provider"));
    assert_eq!(endpoint("http://localhost:80").as_deref(), Ok("ws://localhost:80/v1/provider"));
    assert_eq!(endpoint("http://[::1]:80/").as_deref(), Ok("ws://[::1]:80/v1/provider"));
    for bad in [
        "http://localhost:80@evil.example",
        "http://localhost:violet@evil.example:80",
        "https://violet@evil.example",
        "http://localhost:80?@evil.example",
        "https://a.example/#",
        "https://a.example\\b",
        "https://a.example ",
        "http://localhost:80\r\nx: y",
        "https://a.example\u{1b}[2J",
        "http://evil.example",
        "ws://localhost",
    ] {
        let refused = endpoint(bad).unwrap_err();
        assert!(!refused.contains("violet") && !refused.chars().any(char::is_control), "{refused}");
    }
}

#[test]
fn another_network_decides_nothing_about_two_keys() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Arc::new(ReceiptOutbox::open(&folder.path().join("receipts.db")).unwrap());
    let on = |network: u8, two_keys: bool| {
        let unsettled = two_keys.then(|| (PathBuf::new(), KeyConfig::software(), Arc::clone(&outbox)));
        let (network, accepted_by) = (Some(NetworkId([network; 32])), Some(folder.path().join("accepted_by")));
        Pending { network, accepted_by, unsettled, ..Pending::default() }.is_known_here()
    };
    assert!(on(1, true), "nobody knew it");
    assert!(on(1, false) && on(1, true));
    assert!(!on(2, true), "the first one may take the other key alone");
    assert!(on(1, true));
    assert!(on(2, false) && on(2, true) && !on(1, true), "with one key it moves to whom its owner likes");
}
