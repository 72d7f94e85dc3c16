//! A coordinator that does not answer, or not as one: clear errors in bounded time, and no spinning.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::{self, Message};

use super::hostile::listener::Listener;
use super::hostile::middle::Middle;
use super::hostile::{Scene, failed, random, surface};
use crate::support::http;
use crate::support::network::{Coordinator, Network, Provider, ask, ask_with, model_file};
use crate::support::process::{Process, preloaded};

/// By how much the preloaded library hurries.
const HURRY: u32 = 10;

/// What stands for silence and for what speaks another language.
const UNREACHABLE: [&str; 1] = ["coordinator_unreachable"];
/// What stands for an answer that no coordinator gives.
const NO_COORDINATOR: [&str; 2] = ["coordinator_unreachable", "verification_failed"];

const HTML: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 32\r\n\r\n<html><body>Welcome</body></html>";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"coord";

#[test]
fn gateway_and_proxy_say_in_bounded_time_that_the_coordinator_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let hurry = preloaded(folder.path(), "hurry");
    let cases = [
        ("silence", Listener::silent(), &UNREACHABLE[..]),
        ("half an answer, then silence", Listener::saying(HALF, false), &UNREACHABLE[..]),
        ("half an answer, then the end", Listener::saying(HALF, true), &UNREACHABLE[..]),
        ("a page", Listener::saying(HTML, false), &NO_COORDINATOR[..]),
        ("no HTTP", Listener::saying(b"SSH-2.0-OpenSSH_9.6\r\n", false), &UNREACHABLE[..]),
        (
            "an endless head",
            Listener::with(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                while stream.write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }),
            &UNREACHABLE[..],
        ),
        (
            "an endless body",
            Listener::with(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n");
                while stream.write_all(&[b'x'; 65_536]).is_ok() {}
            }),
            &NO_COORDINATOR[..],
        ),
    ];
    std::thread::scope(|scope| {
        for (what, listener, code) in &cases {
            for role in ["gateway", "proxy"] {
                let hurry = &hurry;
                scope.spawn(move || {
                    let surface = surface(role, &listener.url(), &"ab".repeat(32), &[], |command| {
                        command
                            .arg("--allow-preloaded")
                            .env("LD_PRELOAD", hurry)
                            .env("DARKBLOOM_API_KEY", "db-key-any");
                    });
                    for stream in [false, true] {
                        let began = Instant::now();
                        let body = ask_with("Hi", serde_json::json!({"stream": stream}));
                        let error = failed(what, &surface.chat("db-key-any", &body));
                        assert!(code.contains(&&*error.code), "{what}, {role}: {error:?}");
                        let took = began.elapsed() * HURRY;
                        assert!(took < Duration::from_secs(30), "{what}, {role}: {took:?}");
                    }
                    let models = http::request(&surface.address, "GET", "/v1/models", &[], b"");
                    assert!(code.contains(&&*failed(what, &models).code), "{what}, {role}");
                });
            }
        }
    });
}

/// A coordinator that is honest until a submission comes, and then says this much and keeps the line open.
fn stuck(network: &Network, pieces: usize) -> Listener {
    let to = network.coordinator.address.clone();
    Listener::with(move |stream| {
        let mut client = std::io::BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if std::io::BufRead::read_line(&mut client, &mut head).unwrap_or(0) == 0 {
                    return;
                }
            }
            let field = |name: &str| {
                let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            };
            let mut body = vec![0; field("content-length").map_or(0, |length| length.parse().unwrap())];
            client.read_exact(&mut body).unwrap();
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let key = field("authorization").unwrap_or_default();
            let answer = http::request(&to, method, path, &[("authorization", &key)], &body);
            let mut out = format!("HTTP/1.1 {} X\r\n", answer.status).into_bytes();
            let kind = answer.header("content-type").unwrap_or_default().to_owned();
            let sealed = path == "/v1/sealed";
            let said = if sealed {
                let frames = super::hostile::middle::read(&answer.body);
                let whole = frames.iter().take(pieces);
                let mut said: Vec<u8> =
                    whole.flat_map(|frame| darkbloom_wire::LengthPrefixed::wrap(&frame.encode())).collect();
                // And half of another frame.
                said.extend_from_slice(&[0, 0, 1, 0, 0xa1]);
                said
            } else {
                answer.body
            };
            let length = if sealed { 1 << 20 } else { said.len() };
            out.extend_from_slice(format!("content-type: {kind}\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            out.extend_from_slice(&said);
            if std::io::Write::write_all(client.get_mut(), &out).is_err() {
                return;
            }
        }
    })
}

#[test]
fn an_answer_that_gets_stuck_is_an_error_in_bounded_time() {
    let network = Network::start();
    let hurry = preloaded(network.folder.path(), "hurry");
    let cases = [("before anybody accepted", 0), ("before content", 1), ("after content", 2)];
    std::thread::scope(|scope| {
        for (what, pieces) in cases {
            for stream in [false, true] {
                let (network, hurry) = (&network, &hurry);
                scope.spawn(move || {
                    let listener = stuck(network, pieces);
                    let gateway =
                        surface("gateway", &listener.url(), &network.coordinator.pin, &network.ids(), |command| {
                            command.arg("--allow-preloaded").env("LD_PRELOAD", hurry);
                        });
                    let began = Instant::now();
                    let body = ask_with("Count from 1 to 30.", serde_json::json!({"stream": stream}));
                    let error = failed(what, &gateway.chat(&network.key, &body));
                    assert!(["timeout", "answer_cut"].contains(&&*error.code), "{what}: {error:?}");
                    let took = began.elapsed() * HURRY;
                    assert!(took < Duration::from_secs(75), "{what}: {took:?}");
                });
            }
        }
    });
}

/// Starts a provider whose coordinator is this, hurried.
fn provider(folder: &std::path::Path, hurry: &std::path::Path, url: &str, pin: &str) -> Process {
    let mut command =
        Provider::command(url, pin, &folder.join(format!("provider-{}", hex(&random::<4>()))), &model_file());
    let (process, _) =
        Process::role(command.arg("--allow-preloaded").env("LD_PRELOAD", hurry).env("DARKBLOOM_JOIN_TOKEN", TOKEN))
            .unwrap();
    process
}

/// A token that nobody may see who is not the coordinator.
const TOKEN: &str = "db-join-7777777777777777777777777777777777777777";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_provider_keeps_trying_without_spinning() {
    let folder = tempfile::tempdir().unwrap();
    let hurry = preloaded(folder.path(), "hurry");
    let rubbish = Listener::with(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let _ = socket.send(Message::binary(vec![0xff; 1_000]));
        let _ = socket.read();
    });
    let mute = Listener::with(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        while socket.read().is_ok() {}
    });
    let huge = Listener::with(|stream| {
        let Ok(mut socket) = tungstenite::accept(stream) else { return };
        let _ = socket.send(Message::binary(vec![0; 3 << 20]));
        let _ = socket.read();
    });
    let cases = [
        ("silence", Listener::silent()),
        ("a page", Listener::saying(HTML, false)),
        ("hanging up", Listener::with(drop)),
        ("rubbish in place of a welcome", rubbish),
        ("no welcome", mute),
        ("a welcome over the limit", huge),
    ];
    std::thread::scope(|scope| {
        for (what, listener) in &cases {
            let (folder, hurry) = (folder.path(), &hurry);
            scope.spawn(move || {
                let mut process = provider(folder, hurry, &listener.url(), &"ab".repeat(32));
                // A minute and a half as the provider sees it.
                std::thread::sleep(Duration::from_secs(90) / HURRY);
                let calls = listener.calls();
                assert!(calls >= 2, "{what}: it tries again: {calls}");
                assert!(calls <= 12, "{what}: it spins: {calls} calls in 90 s");
                process.logged("not connected");
                let began = Instant::now();
                process.signal("TERM");
                assert!(process.ended().success(), "{what}");
                assert!(began.elapsed() < Duration::from_secs(3), "{what}");
                let log = process.log();
                assert!(!log.contains("panicked") && !log.contains(TOKEN), "{what}: {log}");
            });
        }
    });
}

#[test]
fn a_coordinator_with_another_key_than_the_pinned_one_learns_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start();
    let pin = "ab".repeat(32);
    // A wire tap in front of a real coordinator that is not the pinned one.
    let (tap, heard) = Listener::tap(&scene.coordinator.address);
    let wrong = Coordinator { url: tap.url(), address: tap.address, pin, ..scene.coordinator };
    let data = folder.path().join("provider");
    let provider = Provider::start(&wrong, &data, Some(TOKEN), &model_file());
    provider.process.logged("the coordinator is not the pinned one");
    for role in ["gateway", "proxy"] {
        let surface = surface(role, &wrong.url, &wrong.pin, &[], |command| {
            command.env("DARKBLOOM_API_KEY", &scene.key);
        });
        let error = failed(role, &surface.chat(&scene.key, &ask("What is 17 + 25?")));
        assert_eq!(error.code, "wrong_network");
    }
    assert!(heard.holds("/v1/provider") && heard.holds("/v1/network"), "the tap hears");
    assert!(!heard.holds(TOKEN), "the join token was shown to a stranger");
    assert!(!heard.holds(&scene.key), "the API key was shown to a stranger");
}

#[test]
fn a_middle_that_is_honest_is_believed() {
    // What the lies in this folder are told through changes nothing by itself.
    let network = Network::start();
    let middle = Middle::before(&network.coordinator.address);
    let gateway = surface("gateway", &middle.url, &network.coordinator.pin, &network.ids(), |_| {});
    assert_eq!(gateway.chat(&network.key, &ask("What is 17 + 25?")).answer(), "42");
    network.books_close();
}
