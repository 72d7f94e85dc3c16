//! The attackers' tools: peers that speak the protocol by hand and keep to none of its rules.

pub mod consumer;
pub mod listener;
pub mod middle;
pub mod provider;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use darkbloom_types::{RefusalCode, UnixMillis};
use serde_json::{Value, json};

use self::consumer::{Answered, Consumer};
use self::provider::Hostile;
use crate::support::network::{CREDIT, Coordinator, MODEL, PRICE};
use crate::support::process::{Process, command};

pub use darkbloom_host::clock::{now, rng};

/// Random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand_core::Rng::fill_bytes(&mut rng(), &mut bytes);
    bytes
}

/// A time that is this far from now.
pub fn minutes_from_now(minutes: i64) -> UnixMillis {
    UnixMillis(now().0 + minutes * 60_000)
}

/// A coordinator with an account, and with a model on offer that nobody has: what attackers send needs none.
pub struct Scene {
    pub key: String,
    pub coordinator: Coordinator,
    /// Last, so that the processes end before their data.
    _folder: tempfile::TempDir,
}

impl Scene {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start(&folder.path().join("coordinator"));
        let headers = [("authorization", &*crate::support::http::bearer(&coordinator.admin_key))];
        let pack = crate::support::http::request(&coordinator.address, "PUT", "/admin/v1/blobs", &headers, b"any");
        let model = json!({
            "name": MODEL, "weights": "11".repeat(32), "text_pack": pack.json()["digest"], "context": 4096,
            "quantisation": "Q8_0", "price_version": 1,
            "input_nano_per_token": PRICE.0, "output_nano_per_token": PRICE.1,
        });
        coordinator.admin("PUT", "/admin/v1/catalogue", &model);
        let key = coordinator.account("first", CREDIT);
        Self { key, coordinator, _folder: folder }
    }

    /// A hostile provider that joined and gets work.
    pub fn hostile(&self) -> Hostile {
        let before = self.coordinator.providers().iter().filter(|provider| provider["eligible"] == true).count();
        let hostile = Hostile::join(&self.coordinator);
        self.coordinator.eligible(before + 1);
        hostile
    }

    pub fn consumer(&self) -> Consumer {
        Consumer::new(&self.coordinator, &self.key)
    }

    /// One request, sealed to this provider alone, and what the provider does about it.
    pub fn exchange<T: Send>(
        &self,
        hostile: &mut Hostile,
        behave: impl FnOnce(&mut Hostile, darkbloom_wire::Offer) -> T,
    ) -> (Answered, T) {
        let consumer = self.consumer();
        let seal = consumer.seal(consumer.header(), &[hostile.id]);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| consumer.submit(&seal.submit));
            let offer = hostile.offer();
            let result = behave(hostile, offer);
            (call.join().unwrap(), result)
        })
    }

    pub fn spent(&self) -> i64 {
        self.coordinator.books_close(&self.key, CREDIT);
        CREDIT - self.coordinator.balance(&self.key).0
    }

    /// Whether this provider still gets work and can be paid.
    pub fn serves(&self, hostile: &mut Hostile) {
        let (answered, ()) = self.exchange(hostile, |hostile, offer| {
            let mut work = hostile.accept(&offer);
            hostile.answer(&mut work, 3, 2);
        });
        assert!(answered.is_whole(), "{answered:?}");
    }
}

/// A gateway or proxy whose coordinator is at this address.
pub fn surface(
    role: &str,
    coordinator: &str,
    pin: &str,
    pinned: &[&str],
    change: impl FnOnce(&mut std::process::Command),
) -> crate::support::network::Surface {
    let mut command =
        command(&[role, "--listen", "127.0.0.1:0", "--coordinator", coordinator, "--coordinator-key", pin]);
    for provider in pinned {
        command.args(["--pin-provider", provider]);
    }
    change(&mut command);
    let (process, ready) = Process::role(&mut command).unwrap();
    crate::support::network::Surface { process, address: ready["address"].as_str().unwrap().to_owned() }
}

/// Sends these bytes and no more, and reads what comes back within the time; `None` when nothing did.
pub fn says(address: &str, sent: &[u8], within: Duration) -> Option<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(within)).unwrap();
    stream.write_all(sent).unwrap();
    let (mut answer, mut block) = (Vec::new(), [0; 4096]);
    let began = Instant::now();
    while began.elapsed() < within {
        match stream.read(&mut block) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&block[..read]),
        }
        if answer.windows(4).any(|window| window == b"\r\n\r\n") {
            break;
        }
    }
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

/// How an answer that a consumer must not believe ended.
#[derive(Debug)]
pub struct Failed {
    pub code: String,
    pub message: String,
}

/// The error at the end of a chat answer, whole or streamed.
///
/// # Panics
/// When the answer ended as if all were well.
#[track_caller]
pub fn failed(lie: &str, response: &crate::support::http::Response) -> Failed {
    let error = if response.status == 200 {
        let events = response.events();
        assert!(!events.iter().any(|event| event == "[DONE]"), "{lie}: it ended as if all were well: {events:?}");
        assert!(!response.text().contains("\"finish_reason\":\"stop\""), "{lie}: {events:?}");
        assert!(!response.text().contains("\"finish_reason\":\"length\""), "{lie}: {events:?}");
        let last = events.last().unwrap_or_else(|| panic!("{lie}: no event, and so no error"));
        serde_json::from_str::<Value>(last).unwrap()["error"].clone()
    } else {
        assert!(response.status >= 400, "{lie}: {}", response.status);
        response.json()["error"].clone()
    };
    let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{lie}: {error}")).to_owned();
    assert!(response.header("x-darkbloom-receipt").is_none(), "{lie}: nothing was verified");
    assert!(response.comment("x-darkbloom").is_none(), "{lie}: nothing was verified");
    Failed { code: text("code"), message: text("message") }
}

/// The name of a refusal's number, as the consumer sees it.
pub fn named(code: u16) -> &'static str {
    RefusalCode::from_number(code).map_or("unknown", RefusalCode::name)
}
