//! Providers that break off at a point which the test chooses: what the consumer hears, what it costs, and that the
//! official client does not pay for the same twice.

use std::process::Command;

use darkbloom_text::{TextModel, TextPack};
use darkbloom_wire::Offer;
use serde_json::{Value, json};

use super::hostile::provider::Hostile;
use super::hostile::surface;
use crate::support::http::Response;
use crate::support::network::{CREDIT, Network, PRICE, Surface, ask_with, model_file};

/// A network whose only provider does what a test tells it to.
struct Breaking {
    hostile: Hostile,
    gateway: Surface,
    network: Network,
}

impl Breaking {
    fn start() -> Self {
        let network = Network::of(tempfile::tempdir().unwrap(), 0, model_file());
        let hostile = Hostile::join(&network.coordinator);
        network.coordinator.eligible(1);
        let (url, pin) = (&network.coordinator.url, &network.coordinator.pin);
        let gateway = surface("gateway", url, pin, &[&hostile.id.to_string()], |_| {});
        Self { hostile, gateway, network }
    }

    /// Does this while a request is sent, and drops the provider's line after `behave`.
    fn during<T: Send>(
        self,
        request: impl FnOnce(&Surface, &str) -> T + Send,
        behave: impl FnOnce(&mut Hostile, Offer),
    ) -> (T, Network) {
        let Self { mut hostile, gateway, network } = self;
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| request(&gateway, &network.key));
            let offer = hostile.offer();
            behave(&mut hostile, offer);
            drop(hostile);
            call.join().unwrap()
        });
        (answer, network)
    }
}

/// Accepts, and is gone once the coordinator knows that it did.
fn accept(hostile: &mut Hostile, offer: Offer) {
    hostile.accept(&offer);
    hostile.heard();
}

/// Accepts and says one word, and is gone once that was relayed. The model's own tokenizer says what the tokens are.
fn say_a_word(hostile: &mut Hostile, offer: Offer) {
    let mut work = hostile.accept(&offer);
    let tokens = word();
    let data = work.say(&tokens, WORD);
    hostile.line.send(data);
    hostile.heard();
}

const WORD: &str = "forty";

fn word() -> Vec<darkbloom_types::TokenId> {
    let pack = TextPack::from_gguf(std::fs::File::open(model_file()).unwrap()).unwrap();
    TextModel::new(pack).unwrap().text_tokens(WORD).expose().to_vec()
}

fn price_of_the_word() -> i64 {
    PRICE.1 * i64::try_from(word().len()).unwrap()
}

fn chat(stream: bool) -> impl Fn(&Surface, &str) -> Response + Send {
    move |gateway, key| gateway.chat(key, &ask_with("What is 17 + 25?", json!({"stream": stream})))
}

#[test]
fn a_provider_that_accepts_and_is_gone_is_lost_and_costs_nothing() {
    for stream in [false, true] {
        let (refused, network) = Breaking::start().during(chat(stream), accept);
        let error = refused.json()["error"].clone();
        assert_eq!((refused.status, error["code"].as_str()), (502, Some("provider_lost")), "{error}");
        assert_eq!(refused.header("x-should-retry"), None, "nothing was paid: whoever likes may ask again");
        network.coordinator.books_close(&network.key, CREDIT);
        assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0), "nothing came, nothing is paid");
        assert!(network.coordinator.usage(&network.key).is_empty());
    }
}

#[test]
fn an_unstreamed_answer_that_breaks_off_is_502_says_what_it_cost_and_asks_not_to_be_repeated() {
    let (refused, network) = Breaking::start().during(chat(false), say_a_word);
    let error = refused.json()["error"].clone();
    assert_eq!((refused.status, error["code"].as_str()), (502, Some("answer_cut")), "{error}");
    assert_eq!(error["charge_nano_usd"].as_i64(), Some(price_of_the_word()), "{error}");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert!(refused.headers.iter().all(|(name, _)| !name.starts_with("x-darkbloom-")), "{:?}", refused.headers);
    network.coordinator.books_close(&network.key, CREDIT);
    assert_eq!(network.coordinator.balance(&network.key).0, CREDIT - price_of_the_word());
    let usage = network.coordinator.usage(&network.key);
    assert_eq!((usage.len(), &usage[0]["input_tokens"]), (1, &json!(0)), "input is paid with a receipt only");
}

/// The official client with its own retries: how often it sent its request, and the error that it came back with.
fn official(python: &std::ffi::OsStr) -> impl Fn(&Surface, &str) -> Value + Send + use<> {
    let python = python.to_owned();
    move |gateway, key| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/one_question.py");
        let output = Command::new(&python)
            .arg(script)
            .env("BASE_URL", format!("http://{}/v1", gateway.address))
            .env("API_KEY", key)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn the_official_client_repeats_a_lost_request_and_no_answer_that_was_paid() {
    let Some(python) = crate::python::interpreter() else { return };
    let (lost, _network) = Breaking::start().during(official(&python), accept);
    assert_eq!(lost["sent"], 3, "it repeats by itself, so that what follows says something: {lost}");
    let (cut, network) = Breaking::start().during(official(&python), say_a_word);
    let expected = json!({"sent": 1, "status": 502, "code": "answer_cut", "charge_nano_usd": price_of_the_word()});
    assert_eq!(cut, expected);
    network.coordinator.books_close(&network.key, CREDIT);
    assert_eq!(network.coordinator.usage(&network.key).len(), 1, "it is paid once");
}
