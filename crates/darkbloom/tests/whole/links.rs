//! Links between provider and coordinator that go silent without ending, and a catalogue that changes under them.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{first_content, rest};
use crate::support::network::{CREDIT, Coordinator, MODEL, PRICE, Provider, Surface, ask_with, endless_model};
use crate::support::until;

/// Silence after which either side gives a link up, and what dialling and introducing may take then.
const NOTICED: Duration = Duration::from_secs(45);

/// Passes bytes on between a provider and its coordinator, and can fall silent as a cut cable does: connections stay open,
/// and nothing comes through them ever again.
pub struct Wire {
    pub address: String,
    /// Connections with a smaller number are silent.
    silent_below: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    /// Whether what the provider says waits.
    held: Arc<AtomicBool>,
}

impl Wire {
    pub fn to(coordinator: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (silent_below, accepted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let held = Arc::<AtomicBool>::default();
        let hold = Arc::clone(&held);
        let (coordinator, silence, count) = (coordinator.to_owned(), Arc::clone(&silent_below), Arc::clone(&accepted));
        // Ends with the test's process; its connections end with the program's.
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let far = TcpStream::connect(&coordinator).unwrap();
                let (from, into) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let silent = |silence: Arc<AtomicUsize>| move || number < silence.load(Ordering::SeqCst);
                let (upwards, downwards) = (silent(Arc::clone(&silence)), silent(Arc::clone(&silence)));
                let hold = Arc::clone(&hold);
                thread::spawn(move || {
                    pass(from, into, || {
                        while hold.load(Ordering::SeqCst) {
                            thread::sleep(Duration::from_millis(1));
                        }
                        upwards()
                    });
                });
                thread::spawn(move || pass(far, near, downwards));
            }
        });
        Self { address, silent_below, accepted, held }
    }

    /// What the provider says waits from now on, or goes on; what the coordinator says passes.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// From now on nothing passes on the connections there are, and on those that are made until [`Self::pass_again`].
    fn fall_silent(&self) {
        self.silent_below.store(usize::MAX, Ordering::SeqCst);
    }

    /// New connections pass; those from before stay as they are.
    fn pass_again(&self) {
        self.silent_below.store(self.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut into: TcpStream, silent: impl Fn() -> bool) {
    let mut block = [0; 16_384];
    loop {
        let read = from.read(&mut block).unwrap_or(0);
        if silent() {
            // Neither the bytes nor the end pass. Both sockets stay open.
            thread::park_timeout(Duration::from_secs(600));
            return;
        }
        if read == 0 || into.write_all(&block[..read]).is_err() {
            let _ = into.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// A network whose only provider, with a model that knows no end, speaks through a [`Wire`].
pub struct Wired {
    pub wire: Wire,
    pub gateway: Surface,
    pub provider: Provider,
    pub coordinator: Coordinator,
    /// The consumer's.
    pub key: String,
    _folder: tempfile::TempDir,
}

impl Wired {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = endless_model(folder.path());
        let mut coordinator = Coordinator::start(&folder.path().join("coordinator"));
        coordinator.offer_model(&model);
        let key = coordinator.account("first", CREDIT);
        let wire = Wire::to(&coordinator.address);
        let direct = std::mem::replace(&mut coordinator.url, format!("http://{}", wire.address));
        let token = coordinator.key("join", None);
        let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model);
        coordinator.url = direct;
        let gateway = Surface::gateway(&coordinator, &[&provider.id]);
        coordinator.eligible(1);
        Self { wire, gateway, provider, coordinator, key, _folder: folder }
    }
}

fn load(coordinator: &Coordinator) -> Value {
    coordinator.providers()[0]["models"][0].clone()
}

#[test]
fn a_provider_comes_back_through_a_link_that_died_in_silence() {
    let Wired { wire, coordinator, provider, gateway, key, .. } = &Wired::start();

    let long = ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": 900}));
    let mut reading = gateway.open_chat(key, &long).unwrap();
    let before = first_content(&mut reading);
    wire.fall_silent();
    let silent_since = Instant::now();
    thread::sleep(Duration::from_secs(5));
    wire.pass_again();
    provider.process.logged("nothing was heard from the coordinator for too long");
    assert!(silent_since.elapsed() > Duration::from_secs(30), "after {:?}", silent_since.elapsed());
    coordinator.eligible(1);
    assert!(silent_since.elapsed() < NOTICED, "after {:?}", silent_since.elapsed());

    // The old link is gone at the coordinator as well: the answer is cut, and what came of it is paid.
    let cut = rest(reading, before);
    assert!(cut.events().last().unwrap().contains("answer_cut"), "{}", cut.text());
    assert_eq!(load(coordinator)["rows_used"], 0, "the row of the cut answer is free");
    let next = gateway.chat(key, &ask_with("What is 17 + 25?", json!({"max_tokens": 2})));
    assert_eq!(next.answer(), "42");
    coordinator.books_close(key, CREDIT);
    assert_eq!(coordinator.usage(key).len(), 2);
}

#[test]
fn the_way_to_a_provider_and_back_belongs_to_no_part_of_the_time() {
    let Wired { wire, coordinator, provider, gateway, key, .. } = &Wired::start();
    let began = Instant::now();
    wire.hold(true);
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(|| gateway.chat(key, &ask_with("Count from 1 to 9.", json!({"max_tokens": 900}))));
        // Its acceptance is on its way all the while that it counts.
        provider.process.logged("request answered");
        wire.hold(false);
        answer.join().unwrap()
    });
    let whole = began.elapsed();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let timing: Value = serde_json::from_str(answer.header("x-timing").unwrap()).unwrap();
    let parts: u64 = timing.as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(Duration::from_micros(parts) < whole, "{timing} of {whole:?}: counted twice");
    coordinator.books_close(key, CREDIT);
}

#[test]
fn an_entry_that_is_signed_again_is_served_without_a_restart_and_cuts_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let model = endless_model(folder.path());
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model);
    let key = coordinator.account("first", CREDIT);
    let token = coordinator.key("join", None);
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model);
    let gateway = Surface::gateway(&coordinator, &[&provider.id]);
    coordinator.eligible(1);

    let long = ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": 900}));
    let mut reading = gateway.open_chat(&key, &long).unwrap();
    let before = first_content(&mut reading);
    // The same model under the same name, described differently: a new digest.
    let (input, output) = (PRICE.0.to_string(), PRICE.1.to_string());
    let ended = crate::support::process::run(
        crate::support::process::command(&["catalogue", "add"])
            .arg(&model)
            .args(["--name", MODEL, "--quantisation", "Q8_0 again", "--input-price", &input, "--output-price", &output])
            .args(["--coordinator", &coordinator.url])
            .env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key),
    );
    assert!(ended.status.success(), "{ended:?}");
    let whole = rest(reading, before);
    assert_eq!(whole.events().last().map(String::as_str), Some("[DONE]"), "{}", whole.text());

    provider.process.logged("the operator's catalogue changed");
    coordinator.eligible(1);
    // A gateway that is new has the new entry; one that is not learns of it by itself in time.
    for gateway in [&Surface::gateway(&coordinator, &[&provider.id]), &gateway] {
        until("the new entry is served", || {
            let next = gateway.chat(&key, &ask_with("What is 17 + 25?", json!({"max_tokens": 2})));
            (next.status == 200).then(|| assert_eq!(next.answer(), "42"))
        });
    }
    coordinator.books_close(&key, CREDIT);
}
