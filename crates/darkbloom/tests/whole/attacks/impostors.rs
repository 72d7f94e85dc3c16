//! Who names the pinned coordinator's key and does not hold it is shown nothing: no join token, no API key, no statement.

use std::sync::{Arc, Mutex};

use darkbloom_keys::SoftwareKey;
use darkbloom_types::{ConnectionId, NetworkId};
use darkbloom_wire::{
    CoordinatorFrame, CoordinatorProof, Decoded, ProviderFrame, PublicKey, Welcome, coordinator_proof_digest,
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::hostile::listener::{Heard, Listener};
use super::hostile::middle::Middle;
use super::hostile::provider::Line;
use super::hostile::{failed, now, random, surface};
use crate::support::http;
use crate::support::network::{Network, Provider, ask, model_file};
use crate::support::process::Process;
use crate::support::until;

/// A token that nobody may see who is not the coordinator.
const TOKEN: &str = "db-join-7777777777777777777777777777777777777777";
/// How the programs say that they were not convinced.
const NOT_HELD: &str = "it does not hold the key that it names";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pair = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(pair).collect()
}

/// What the coordinator tells a client who sends this nonce.
fn shown_to_clients(coordinator: &str, nonce: &[u8; 32]) -> serde_json::Value {
    http::request(coordinator, "GET", &format!("/v1/network?nonce={}", hex(nonce)), &[], b"").json()
}

/// A proof over this nonce by a key of the impostor's own.
fn own_proof(network: &NetworkId, nonce: &[u8; 32], welcome: Option<(&ConnectionId, &[u8; 32])>) -> Vec<u8> {
    let key = SoftwareKey::in_memory().unwrap();
    CoordinatorProof { digest: coordinator_proof_digest(network, nonce, welcome) }.sign(&key).unwrap()
}

/// Answers a provider's nonce.
type Forge = Box<dyn Fn([u8; 32]) -> Welcome + Send + Sync>;

/// Listens where a coordinator should, welcomes providers with what was forged, and keeps all that they say then.
fn impostor(forge: Forge) -> (Listener, Arc<Mutex<Vec<ProviderFrame>>>) {
    let said = Arc::<Mutex<Vec<ProviderFrame>>>::default();
    let kept = Arc::clone(&said);
    let listener = Listener::with(move |stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        while let Ok(message) = socket.read() {
            match ProviderFrame::decode(&message.into_data()) {
                Ok(Decoded::Known(ProviderFrame::Dial(dial), _)) => {
                    let welcome = CoordinatorFrame::from(forge(dial.nonce));
                    let _ = socket.send(Message::binary(welcome.encode()));
                }
                Ok(Decoded::Known(frame, _)) => kept.lock().unwrap().push(frame),
                _ => {}
            }
        }
    });
    (listener, said)
}

/// All ways to answer a provider without the key, for one who overheard an earlier connection and may ask the coordinator.
fn forgeries(network: &Network) -> Vec<(&'static str, Forge)> {
    let address = network.coordinator.address.clone();
    let earlier = Line::dial(&network.coordinator).welcome;
    let id = NetworkId::of_coordinator_key(&earlier.coordinator);
    let again = move || Welcome { time: now(), ..earlier.clone() };
    let fresh = {
        let again = again.clone();
        move |proof| Welcome { connection: ConnectionId(random()), nonce: random(), proof, ..again() }
    };
    let (none, own, moved, clients) = (fresh.clone(), fresh.clone(), fresh.clone(), fresh);
    let (word_for_word, proof) = (again.clone(), again().proof);
    vec![
        ("no proof", Box::new(move |_| none(Vec::new()))),
        (
            "a proof by another key",
            Box::new(move |nonce| {
                let mut welcome = own(Vec::new());
                welcome.proof = own_proof(&id, &nonce, Some((&welcome.connection, &welcome.nonce)));
                welcome
            }),
        ),
        ("an earlier connection's welcome", Box::new(move |_| word_for_word())),
        ("a proof for another nonce", Box::new(move |_| moved(proof.clone()))),
        (
            "what the coordinator shows a client",
            Box::new(move |nonce| clients(unhex(shown_to_clients(&address, &nonce)["proof"].as_str().unwrap()))),
        ),
    ]
}

fn provider(network: &Network, listener: &Listener, folder: &std::path::Path) -> Process {
    let data = folder.join(hex(&random::<4>()));
    let mut command = Provider::command(&listener.url(), &network.coordinator.pin, &data, &model_file());
    Process::role(command.env("DARKBLOOM_JOIN_TOKEN", TOKEN)).unwrap().0
}

#[test]
fn a_coordinator_that_only_claims_the_pinned_key_gets_no_join_token() {
    let network = Network::start();
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for (what, forge) in forgeries(&network) {
            let (network, folder) = (&network, folder.path());
            scope.spawn(move || {
                let (listener, said) = impostor(forge);
                let process = provider(network, &listener, folder);
                process.logged(NOT_HELD);
                let said = said.lock().unwrap();
                assert!(said.is_empty(), "{what}: the pin was not proven, and the provider said {said:?}");
                assert!(!process.log().contains(TOKEN), "{what}");
            });
        }
    });
}

#[test]
fn the_impostors_lack_nothing_but_the_proof() {
    let network = Network::start();
    let folder = tempfile::tempdir().unwrap();
    let address = network.coordinator.address.clone();
    // With the real coordinator's answer to the provider's own nonce the same words are believed. One who can stand between
    // hears what is said to the coordinator: keeping him out is TLS's part.
    let (listener, said) = impostor(Box::new(move |nonce| Line::dial_with(&address, nonce).welcome));
    let process = provider(&network, &listener, folder.path());
    let hello = until("an introduction", || {
        said.lock().unwrap().iter().find_map(|frame| match frame {
            ProviderFrame::Hello(hello) => Some(hello.clone()),
            _ => None,
        })
    });
    assert_eq!(hello.join_token.unwrap().expose(), TOKEN);
    drop(process);
}

/// Answers a client's nonce: the proof in hex, if any.
type Shown = Box<dyn Fn([u8; 32]) -> Option<String> + Send>;

/// All ways to answer a client without the key.
fn pretences(network: &Network) -> Vec<(&'static str, Shown)> {
    let address = network.coordinator.address.clone();
    let old = shown_to_clients(&address, &random())["proof"].as_str().unwrap().to_owned();
    let welcome = Line::dial(&network.coordinator).welcome;
    let id = NetworkId::of_coordinator_key(&welcome.coordinator);
    vec![
        ("no proof", Box::new(|_| None)),
        ("an empty proof", Box::new(|_| Some(String::new()))),
        ("no hex", Box::new(|_| Some("zz".to_owned()))),
        ("a proof by another key", Box::new(move |nonce| Some(hex(&own_proof(&id, &nonce, None))))),
        ("an earlier answer", Box::new(move |_| Some(old.clone()))),
        ("a welcome's proof", Box::new(move |_| Some(hex(&welcome.proof)))),
        (
            "a welcome's for this nonce",
            Box::new(move |nonce| Some(hex(&Line::dial_with(&address, nonce).welcome.proof))),
        ),
    ]
}

/// What stands before the coordinator, passes everything on, and shows this as the proof; and what it heard.
fn pretender(network: &Network, shown: Shown) -> (Listener, Heard) {
    let middle = Middle::before(&network.coordinator.address);
    let (tap, heard) = Listener::tap(middle.url.strip_prefix("http://").unwrap());
    let asked = heard.clone();
    middle.tell(move |path, body| {
        if path != "/v1/network" {
            return body;
        }
        let nonce = unhex(&asked.last_after("/v1/network?nonce=").unwrap()).try_into().unwrap();
        let mut network: serde_json::Value = serde_json::from_slice(&body).unwrap();
        network["proof"] = shown(nonce).into();
        network.to_string().into_bytes()
    });
    (tap, heard)
}

#[test]
fn a_coordinator_that_only_claims_the_pinned_key_gets_no_api_key() {
    let network = Network::start();
    for role in ["gateway", "proxy"] {
        for (what, shown) in pretences(&network) {
            let (tap, heard) = pretender(&network, shown);
            let surface = surface(role, &tap.url(), &network.coordinator.pin, &network.ids(), |command| {
                command.env("DARKBLOOM_API_KEY", &network.key);
            });
            for _ in 0..2 {
                let error = failed(what, &surface.chat(&network.key, &ask("What is 17 + 25?")));
                assert_eq!(error.code, "wrong_network", "{role}, {what}");
                assert!(error.message.contains(&network.coordinator.pin), "{role}, {what}: {}", error.message);
            }
            let models = http::request(&surface.address, "GET", "/v1/models", &[], b"");
            assert_eq!(failed(what, &models).code, "wrong_network", "{role}, {what}");
            assert!(heard.holds("/v1/network?nonce="), "the tap hears");
            assert!(!heard.holds(&network.key), "{role}, {what}: the API key was shown to who proved nothing");
            assert!(!heard.holds("/v1/candidates") && !heard.holds("/v1/sealed"), "{role}, {what}");
        }
        // The same way with the coordinator's own answer is believed, and its key heard: the tap would have heard it.
        let address = network.coordinator.address.clone();
        let honest = move |nonce| Some(shown_to_clients(&address, &nonce)["proof"].as_str().unwrap().to_owned());
        let (tap, heard) = pretender(&network, Box::new(honest));
        let surface = surface(role, &tap.url(), &network.coordinator.pin, &network.ids(), |command| {
            command.env("DARKBLOOM_API_KEY", &network.key);
        });
        assert_eq!(surface.chat(&network.key, &ask("What is 17 + 25?")).answer(), "42", "{role}");
        assert!(heard.holds(&network.key), "{role}");
    }
    network.books_close();
}

#[test]
fn the_coordinator_answers_each_nonce_and_people_without_one() {
    let network = Network::start();
    let address = &network.coordinator.address;
    let get = |query: &str| http::request(address, "GET", &format!("/v1/network{query}"), &[], b"");
    let without = get("").json();
    assert_eq!(without["network"], network.coordinator.pin.as_str());
    assert_eq!(without.get("proof"), None);
    let point: [u8; 65] = unhex(without["coordinator_key"].as_str().unwrap()).try_into().unwrap();
    for _ in 0..2 {
        let nonce = random();
        let proof = unhex(shown_to_clients(address, &nonce)["proof"].as_str().unwrap());
        let digest = CoordinatorProof::open(&proof, &PublicKey::P256(point)).unwrap().digest;
        assert_eq!(digest, coordinator_proof_digest(&NetworkId::of_coordinator_key(&point), &nonce, None));
    }
    let digits = "ab".repeat(32);
    for wrong in [
        "?nonce=".to_owned(),
        format!("?nonce={}", &digits[1..]),
        format!("?nonce={digits}ab"),
        format!("?nonce={}", "xy".repeat(32)),
        format!("?nonce={digits}&nonce={digits}"),
    ] {
        let refused = get(&wrong);
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &"invalid_request".into()), "{wrong}");
    }
}
