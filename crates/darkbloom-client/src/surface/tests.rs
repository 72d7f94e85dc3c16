//! What is decided before a body is read, over real sockets. The coordinator behind it does not exist: no test gets there.

use std::collections::BTreeSet;
use std::time::Duration;

use darkbloom_types::Tier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::Config;

/// Longer than any answer here takes, shorter than a body may.
const SOON: Duration = Duration::from_secs(10);

async fn listening(places: usize) -> (SocketAddr, Server) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::new(Config {
        coordinator: "http://127.0.0.1:1".to_owned(),
        network: None,
        pin_file: None,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: crate::HardwareTrust::default(),
        candidates: 1,
        receipts: None,
    });
    let (client, places) = (client.unwrap(), Places::new(places));
    let bound = Bound::to(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let keys = Keys::default();
    for key in [ACCEPTED, "second"] {
        keys.check(&key.into(), async || Ok(())).await.unwrap();
    }
    let app = router(Arc::new(Shared { backend: Backend::Network(client), role: Role::Gateway, places, keys }));
    (bound.address, bound.serve(app, std::future::ready(()), Duration::ZERO))
}

/// A request whose body is announced and does not come.
async fn announced(address: SocketAddr, key: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\n{key}content-length: 100\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// What is answered soon.
async fn answered(stream: &mut TcpStream) -> Option<String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"}}") {
        let mut piece = [0; 4_096];
        match timeout(SOON, stream.read(&mut piece)).await {
            Ok(Ok(read)) if read > 0 => answer.extend_from_slice(&piece[..read]),
            _ => return None,
        }
    }
    Some(String::from_utf8(answer).unwrap())
}

/// The key that the coordinator accepted when it was there.
const ACCEPTED: &str = "any";
const KEY: &str = "authorization: Bearer any\r\n";

#[tokio::test]
async fn nobody_gets_a_body_read_with_a_key_that_is_not_known_to_be_one() {
    let (address, _server) = listening(1).await;
    let long = format!("authorization: Bearer {}\r\n", "k".repeat(129));
    for wrong in [long.as_str(), "authorization: Bearer k k\r\n"] {
        let said = answered(&mut announced(address, wrong).await).await.expect("an answer without the body");
        assert!(said.starts_with("HTTP/1.1 401 ") && said.contains("invalid_api_key"), "{said}");
    }
    let other = "authorization: Bearer other\r\n";
    let said = answered(&mut announced(address, other).await).await.expect("an answer without the body");
    assert!(said.starts_with("HTTP/1.1 502 ") && said.contains("coordinator_unreachable"), "{said}");
}

#[tokio::test]
async fn another_method_is_told_which_ones_there_are() {
    let (address, _server) = listening(1).await;
    for (method, path, allowed) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET,HEAD"),
        ("PUT", "/v1/models/org/name", "GET,HEAD"),
        ("POST", "/healthz", "GET,HEAD"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let said = answered(&mut stream).await.expect("an answer");
        assert!(said.starts_with("HTTP/1.1 405 ") && said.contains("\"method_not_allowed\""), "{said}");
        assert!(said.contains(&format!("allow: {allowed}\r\n")) && said.contains("x-request-id: req_"), "{said}");
    }
}

#[tokio::test]
async fn a_network_makes_no_vectors_and_reads_no_body_for_them() {
    let (address, _server) = listening(1).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST /v1/embeddings HTTP/1.1\r\nhost: here\r\n{KEY}content-length: 100\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = answered(&mut stream).await.expect("an answer without the body");
    assert!(said.starts_with("HTTP/1.1 404 ") && said.contains("\"not_found\""), "{said}");
    assert!(said.contains("darkbloom start --local"), "{said}");
}

#[tokio::test]
async fn nobody_without_a_key_takes_a_place_or_gets_a_body_read() {
    let (address, _server) = listening(0).await;
    let said = answered(&mut announced(address, "").await).await.expect("an answer without the body");
    assert!(said.starts_with("HTTP/1.1 401 ") && said.contains("invalid_api_key"), "{said}");
    let said = answered(&mut announced(address, KEY).await).await.expect("an answer without the body");
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("no_capacity"), "{said}");
    assert!(said.contains("retry-after: "), "{said}");
}

#[tokio::test]
async fn a_place_is_taken_while_the_body_comes_and_given_back_when_nobody_is_left() {
    let (address, _server) = listening(1).await;
    let first = announced(address, KEY).await;
    let refused =
        async || answered(&mut announced(address, KEY).await).await.is_some_and(|it| it.contains("no_capacity"));
    // It is not known when the first one has its place.
    while !refused().await {}
    drop(first);
    let body = [b' '; 100];
    timeout(SOON, async {
        loop {
            let mut stream = announced(address, KEY).await;
            stream.write_all(&body).await.unwrap();
            let said = answered(&mut stream).await.expect("an answer");
            if !said.contains("no_capacity") {
                assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
                return;
            }
        }
    })
    .await
    .expect("its place was given back");
}

#[tokio::test]
async fn one_key_cannot_keep_others_out_with_bodies_that_do_not_come() {
    let (address, _server) = listening(1_024).await;
    let mut slow = Vec::new();
    for _ in 0..places::OF_KEY_MAX {
        let mut stream = announced(address, &format!("{KEY}expect: 100-continue\r\n")).await;
        // Its body is being read: it has its place.
        let mut go_on = [0; 25];
        timeout(SOON, stream.read_exact(&mut go_on)).await.expect("in time").unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        slow.push(stream);
    }
    let said = answered(&mut announced(address, KEY).await).await.expect("an answer without the body");
    assert!(said.starts_with("HTTP/1.1 429 ") && said.contains("rate_limit_exceeded"), "{said}");
    assert!(said.contains("retry-after: "), "{said}");
    let mut other = announced(address, "authorization: Bearer second\r\n").await;
    other.write_all(&[b' '; 100]).await.unwrap();
    let said = answered(&mut other).await.expect("an answer");
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
}
