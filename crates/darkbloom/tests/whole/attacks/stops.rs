//! A stop that somebody wants to prevent.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::hostile::{Scene, surface};
use crate::support::http;
use crate::support::process::{Process, command, preloaded};

/// What running requests may take by the documents, and a little: thirty seconds and five.
const BOUND: Duration = Duration::from_secs(40);
/// What a stop without running requests takes.
const IDLE: Duration = Duration::from_secs(3);
/// By how much the preloaded library hurries.
const HURRY: u32 = 10;

/// Connections that hold a server up, if anything does.
fn obstacles(address: &str, key: &str) -> Vec<(&'static str, TcpStream)> {
    let half = [
        ("half a head", format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthor")),
        ("half a line", "PO".to_owned()),
        (
            "half a body",
            format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\n{{"
            ),
        ),
        (
            "half a submission",
            format!(
                "POST /v1/sealed HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-length: 1000\r\n\r\n\0"
            ),
        ),
        ("nothing at all", String::new()),
    ];
    half.into_iter()
        .map(|(what, bytes)| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
            (what, stream)
        })
        .collect()
}

/// A connection that was used and stays open.
fn idle(address: &str) -> impl Sized {
    let headers = [("content-type", "application/json")];
    let (answer, kept) = http::over(http::connect(address).unwrap(), address, "/healthz", &headers, b"").unwrap();
    assert!(answer.status > 0);
    kept
}

/// How long the process takes to end after the signal; it must end well.
fn stopped(process: &mut Process, signal: &str) -> Duration {
    let began = Instant::now();
    process.signal(signal);
    assert!(process.ended().success(), "{}", process.log());
    began.elapsed()
}

#[test]
fn idle_connections_hold_up_no_stop() {
    for signal in ["TERM", "INT"] {
        let mut scene = Scene::start();
        let mut gateway = surface("gateway", &scene.coordinator.url, &scene.coordinator.pin, &[], |_| {});
        let mut proxy = surface("proxy", &scene.coordinator.url, &scene.coordinator.pin, &[], |command| {
            command.env("DARKBLOOM_API_KEY", &scene.key);
        });
        let open = [idle(&gateway.address), idle(&proxy.address), idle(&scene.coordinator.address)];
        // A provider's connection that stays, and one that never introduced itself.
        let _joined = scene.hostile();
        let _strange = super::hostile::provider::Line::dial(&scene.coordinator);
        for (role, process) in [
            ("gateway", &mut gateway.process),
            ("proxy", &mut proxy.process),
            ("coordinator", &mut scene.coordinator.process),
        ] {
            let took = stopped(process, signal);
            assert!(took < IDLE * 3, "the {role} took {took:?} after {signal}");
        }
        drop(open);
    }
}

#[test]
fn half_sent_requests_hold_up_a_stop_for_a_bounded_time() {
    let folder = tempfile::tempdir().unwrap();
    let hurry = preloaded(folder.path(), "hurry");
    let mut new = command(&["coordinator", "--listen", "127.0.0.1:0"]);
    new.arg("--data").arg(folder.path().join("data")).arg("--allow-preloaded").env("LD_PRELOAD", &hurry);
    let (mut coordinator, ready) = Process::role(&mut new).unwrap();
    let (address, pin) = (ready["address"].as_str().unwrap().to_owned(), ready["network"].as_str().unwrap().to_owned());
    let url = format!("http://{address}");
    let mut gateway = surface("gateway", &url, &pin, &[], |command| {
        command.arg("--allow-preloaded").env("LD_PRELOAD", &hurry);
    });
    let mut proxy = surface("proxy", &url, &pin, &[], |command| {
        command.arg("--allow-preloaded").env("LD_PRELOAD", &hurry).env("DARKBLOOM_API_KEY", "db-key-any");
    });
    let key = ready["admin_key"].as_str().unwrap();
    let held = [obstacles(&gateway.address, key), obstacles(&proxy.address, key), obstacles(&address, key)];
    std::thread::sleep(Duration::from_millis(200));
    std::thread::scope(|scope| {
        for (role, process) in
            [("gateway", &mut gateway.process), ("proxy", &mut proxy.process), ("coordinator", &mut coordinator)]
        {
            scope.spawn(move || {
                let took = stopped(process, "TERM") * HURRY;
                assert!(took < BOUND, "the {role} took {took:?}");
            });
        }
    });
    drop(held);
}
