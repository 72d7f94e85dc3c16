//! People without a key make nobody buffer anything: they are refused by their headers alone.

use std::time::{Duration, Instant};

use super::hostile::{Scene, says, surface};
use crate::support::network::Network;

/// An answer that does not wait for the body comes within this time; the body would never come.
const AT_ONCE: Duration = Duration::from_secs(3);
/// Bytes that the headers promise.
const PROMISED: usize = 4 << 20;

/// Sends a head that promises a body, and the first bytes of it.
#[track_caller]
fn refused_at_once(address: &str, method: &str, path: &str, more: &str, chunked: bool, status: u16) {
    let length = if chunked {
        "transfer-encoding: chunked\r\n\r\n100000\r\n0123456789".to_owned()
    } else {
        format!("content-length: {PROMISED}\r\n\r\n0123456789")
    };
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{more}{length}");
    let began = Instant::now();
    let said = says(address, head.as_bytes(), AT_ONCE);
    let said = said.unwrap_or_else(|| panic!("{method} {path} `{}` waits for the body", more.trim()));
    assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} `{}`: {said}", more.trim());
    assert!(began.elapsed() < AT_ONCE);
}

/// Headers of people who have no key that opens anything.
fn strangers() -> [String; 6] {
    [
        String::new(),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Basic ZGI6ZGI=\r\n".to_owned(),
        format!("authorization: Bearer db-key-{}\r\n", "0".repeat(48)),
        format!("authorization: Bearer {}\r\n", "k".repeat(4_000)),
        "authorization: Bearer db-key-\u{e9}\r\n".to_owned(),
    ]
}

#[test]
fn the_coordinator_reads_no_body_of_anybody_without_a_key() {
    let scene = Scene::start();
    let address = &scene.coordinator.address;
    let bodies = [
        ("POST", "/v1/sealed"),
        ("PUT", "/admin/v1/blobs"),
        ("PUT", "/admin/v1/catalogue"),
        ("POST", "/admin/v1/accounts"),
        ("POST", "/admin/v1/keys"),
        ("POST", "/admin/v1/deposits"),
    ];
    for (method, path) in bodies {
        for stranger in strangers() {
            for chunked in [false, true] {
                refused_at_once(address, method, path, &stranger, chunked, 401);
            }
        }
    }
    let join = format!("authorization: Bearer {}\r\n", scene.coordinator.key("join", None));
    let consumer = format!("authorization: Bearer {}\r\n", scene.key);
    let admin = format!("authorization: Bearer {}\r\n", scene.coordinator.admin_key);
    for (method, path) in bodies {
        let wrong = if path == "/v1/sealed" { [&join, &admin] } else { [&join, &consumer] };
        for key in wrong {
            refused_at_once(address, method, path, key, false, 403);
        }
    }
    refused_at_once(address, "POST", "/v1/nothing", "", false, 404);
    // The right key is heard out: it is the key that decides, and not the promise.
    let head = format!("PUT /admin/v1/blobs HTTP/1.1\r\nhost: x\r\n{admin}content-length: 100000\r\n\r\n0123456789");
    assert_eq!(says(address, head.as_bytes(), Duration::from_millis(500)), None, "the rest may come");
}

#[test]
fn the_gateway_reads_no_body_of_anybody_without_a_key() {
    let scene = Scene::start();
    let gateway = surface("gateway", &scene.coordinator.url, &scene.coordinator.pin, &[], |_| {});
    for stranger in &strangers()[..3] {
        for chunked in [false, true] {
            refused_at_once(&gateway.address, "POST", "/v1/chat/completions", stranger, chunked, 401);
        }
    }
    refused_at_once(&gateway.address, "POST", "/v1/nothing", "", false, 404);
    let key = format!("authorization: Bearer {}\r\n", scene.key);
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{key}content-length: 100000\r\n\r\n{{\"model\"");
    assert_eq!(says(&gateway.address, head.as_bytes(), Duration::from_millis(500)), None, "the rest may come");
}

#[test]
fn the_gateway_reads_no_body_of_anybody_with_a_wrong_key() {
    let scene = Scene::start();
    let gateway = surface("gateway", &scene.coordinator.url, &scene.coordinator.pin, &[], |_| {});
    for stranger in &strangers()[3..] {
        refused_at_once(&gateway.address, "POST", "/v1/chat/completions", stranger, false, 401);
    }
}

#[test]
fn the_proxy_reads_no_body_of_a_page_in_a_browser() {
    let network = Network::start();
    let proxy = surface("proxy", &network.coordinator.url, &network.coordinator.pin, &network.ids(), |command| {
        command.env("DARKBLOOM_API_KEY", &network.key);
    });
    let origin = "origin: http://evil.example\r\n";
    refused_at_once(&proxy.address, "POST", "/v1/chat/completions", origin, false, 403);
    refused_at_once(&proxy.address, "POST", "/v1/chat/completions", origin, true, 403);
}
