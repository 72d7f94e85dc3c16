//! What happens to receipts and money when an answer ends in an unusual way, and what a provider may say of itself
//! while it is connected.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use darkbloom_host::clock;
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_types::{CatalogueDigest, NetworkId, ProviderId, SecretString, TokenCount};
use darkbloom_wire::{
    ChallengeProof, CoordinatorFrame, Decoded, Dial, EpochUpdate, Heartbeat, Hello, ModelLoad, ProviderFrame,
    Residence, Welcome, catalogue_digest, challenge_digest,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::links::Wired;
use crate::support::http::{self, bearer};
use crate::support::network::{CREDIT, Network, ask_with};
use crate::support::{PATIENCE, until};

/// Twice as long as the coordinator waits before it looks again at receipts that it could not decide on, and a little.
const REVIEWED: Duration = Duration::from_secs(5);
/// In this time the model that ships makes some tokens, and not nearly 900 of them.
const WORKED: Duration = Duration::from_millis(50);

#[test]
fn every_receipt_is_acknowledged_without_a_reconnect_also_when_nothing_was_relayed() {
    let mut network = Wired::start();
    let key = network.key.clone();
    let body = ask_with("Count from 1 to 9.", json!({"max_tokens": 900})).to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for round in 1..=3 {
        // The offer arrives and is worked on, and the coordinator hears nothing of it before the consumer hangs up.
        network.wire.hold(true);
        let mut consumer = TcpStream::connect(&network.gateway.address).unwrap();
        consumer.write_all(format!("{head}{body}").as_bytes()).unwrap();
        until("the money is held", || (network.coordinator.balance(&key).1 > 0).then_some(()));
        thread::sleep(WORKED);
        drop(consumer);
        let signed = || (network.provider.process.log().matches("request answered").count() == round).then_some(());
        until("a receipt is signed", signed);
        network.wire.hold(false);
        network.coordinator.books_close(&key, CREDIT);
    }
    assert_eq!(network.coordinator.usage(&key).len(), 0, "nothing was relayed, so nothing is paid");
    thread::sleep(REVIEWED);
    network.coordinator.process.kill();
    network.coordinator.again();
    network.coordinator.eligible(1);
    let log = network.provider.process.log();
    assert!(!log.contains("presenting unacknowledged receipts again"), "a receipt was never answered");
    network.coordinator.books_close(&key, CREDIT);
}

/// A provider that was just admitted, spoken by hand: its socket, its identity, and the welcome.
struct ByHand {
    socket: WebSocket<TcpStream>,
    key: SoftwareKey,
    welcome: Welcome,
    join_token: String,
}

impl ByHand {
    fn dial(network: &Network) -> Self {
        let stream = TcpStream::connect(&network.coordinator.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}/v1/provider", network.coordinator.address);
        let (mut socket, _) = tungstenite::client(url, stream).unwrap();
        let dial = ProviderFrame::from(Dial { nonce: [1; 32] });
        socket.send(Message::binary(dial.encode())).unwrap();
        let bytes = socket.read().unwrap().into_data();
        let Ok(Decoded::Known(CoordinatorFrame::Welcome(welcome), _)) = CoordinatorFrame::decode(&bytes) else {
            panic!("the first frame is a welcome");
        };
        let join_token = network.coordinator.key("join", None);
        Self { socket, key: SoftwareKey::in_memory().unwrap(), welcome, join_token }
    }

    fn send(&mut self, frame: impl Into<ProviderFrame>) {
        self.socket.send(Message::binary(frame.into().encode())).unwrap();
    }

    /// A new epoch that names these models.
    fn statement(&self, models: &[CatalogueDigest]) -> (Epoch, Vec<u8>) {
        let epoch = Epoch::begin(self.key.public_point(), clock::now(), &mut clock::rng());
        let network = NetworkId::of_coordinator_key(&self.welcome.coordinator);
        let signed = epoch.statement(network, models.to_vec(), Vec::new(), "test").sign(&self.key).unwrap();
        (epoch, signed)
    }

    /// Introduces itself as one that serves `named` and has all of the catalogue loaded.
    fn hello(&mut self, named: &[CatalogueDigest]) {
        let network = NetworkId::of_coordinator_key(&self.welcome.coordinator);
        let (epoch, statement) = self.statement(named);
        let digest = challenge_digest(&network, &self.welcome.nonce, &self.welcome.connection, &epoch.id());
        let proof = ChallengeProof { digest }.sign(&self.key).unwrap();
        let epoch_proof = ChallengeProof { digest }.sign(&*epoch.receipt_key()).unwrap();
        let (models, join_token) = (self.loaded(), Some(SecretString::from(&*self.join_token)));
        let (models, capabilities, presence) = (models.into(), Vec::new().into(), Vec::new().into());
        let hardware = None;
        self.send(Hello { statement, proof, join_token, models, capabilities, epoch_proof, presence, hardware });
    }

    fn catalogue(&self) -> Vec<CatalogueDigest> {
        self.welcome.catalogue.0.iter().map(|entry| catalogue_digest(entry)).collect()
    }

    fn loaded(&self) -> Vec<ModelLoad> {
        let load = |model| ModelLoad {
            model,
            rows_max: 1,
            rows_used: 0,
            waiting: 0,
            row_tokens: TokenCount(1_024),
            residence: Residence::Loaded,
            pace: None,
        };
        self.catalogue().into_iter().map(load).collect()
    }

    /// The reasons of all notices until the coordinator closes.
    fn closed(mut self) -> Vec<String> {
        let mut reasons = Vec::new();
        while let Ok(Message::Binary(bytes)) = self.socket.read() {
            if let Ok(Decoded::Known(CoordinatorFrame::VerdictNotice(notice), _)) = CoordinatorFrame::decode(&bytes) {
                reasons.push(notice.reason);
            }
        }
        reasons
    }
}

#[test]
fn a_provider_that_begins_epochs_without_end_is_disconnected_by_name() {
    let network = Network::start();
    let mut provider = ByHand::dial(&network);
    let models = provider.catalogue();
    provider.hello(&models);
    for _ in 0..4 {
        let (_, statement) = provider.statement(&models);
        provider.send(EpochUpdate { statement });
    }
    network.coordinator.eligible(2);
    let (_, statement) = provider.statement(&models);
    provider.send(EpochUpdate { statement });
    assert_eq!(provider.closed().last().map(String::as_str), Some("rate_limit_exceeded"));
    network.coordinator.process.logged("epochs begin too often");
    network.coordinator.eligible(1);
}

#[test]
fn a_model_that_the_statement_does_not_name_is_not_served() {
    let network = Network::start();
    let headers = [("authorization", &*bearer(&network.coordinator.admin_key))];
    let pack = http::request(&network.coordinator.address, "PUT", "/admin/v1/blobs", &headers, b"any").json();
    let second = json!({
        "name": "second", "weights": "11".repeat(32), "text_pack": pack["digest"], "context": 4096,
        "quantisation": "Q8_0", "price_version": 1, "input_nano_per_token": 1, "output_nano_per_token": 1,
    });
    network.coordinator.admin("PUT", "/admin/v1/catalogue", &second);
    let mut provider = ByHand::dial(&network);
    let models = provider.catalogue();
    assert_eq!(models.len(), 2);
    provider.hello(&models[..1]);
    network.coordinator.eligible(2);
    for _ in 0..2 {
        let models = provider.loaded();
        provider.send(Heartbeat { models: models.into(), draining: false, machine: None });
    }
    network.coordinator.process.logged("models that its statement does not name are ignored");
    let id = ProviderId::of_public_key(&provider.key.public_point()).to_string();
    let view = network.coordinator.providers().into_iter().find(|view| view["provider"] == id.as_str()).unwrap();
    assert_eq!(view["models"].as_array().unwrap().len(), 1, "{view}");
    assert_eq!(network.coordinator.process.log().matches("does not name are ignored").count(), 1, "said once");
}
