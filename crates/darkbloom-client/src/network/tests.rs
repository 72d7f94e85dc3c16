//! What a client makes of answers that no coordinator gives, over real sockets.

use std::collections::BTreeSet;

use darkbloom_types::Tier;
use darkbloom_wire::{CoordinatorProof, PublicKey, coordinator_proof_digest};
use p256::ecdsa::SigningKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A network whose coordinator gives this one HTTP answer to everything.
async fn network(answer: &str) -> Network {
    let answer = answer.to_owned();
    // A second call only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.windows(4).any(|window| window == b"\r\n\r\n") {
                let mut block = [0; 4_096];
                match stream.read(&mut block).await {
                    Ok(count @ 1..) => read.extend_from_slice(&block[..count]),
                    _ => break,
                }
            }
            // Whether the client still listens is its own affair.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Network::new(Config {
        coordinator: format!("http://{address}"),
        network: None,
        pin_file: None,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: crate::HardwareTrust::default(),
        candidates: 1,
        receipts: None,
    })
    .unwrap()
}

/// One whose coordinator has proven itself before.
async fn proven(answer: &'static str) -> Network {
    let network = network(answer).await;
    let known = Coordinator { network: NetworkId([1; 32]), key: PublicKey::P256([4; 65]) };
    *lock(&network.coordinator) = Some(known);
    network
}

async fn submitted(answer: &'static str) -> Refusal {
    proven(answer).await.submit(&SecretString::from("key"), vec![0; 8]).await.unwrap_err()
}

const HTML: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: 20\r\n\
                    connection: close\r\n\r\n<h1>violet page</h1>";
const CAPTIVE: &str = "HTTP/1.1 200 OK\r\nContent-Type: Text/HTML\r\ncontent-length: 20\r\nconnection: close\r\n\r\n\
                       <h1>violet page</h1>";
const BARE: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const FOREIGN_JSON: &str = "HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\ncontent-length: 35\r\n\
                            connection: close\r\n\r\n{\"error\": {\"code\": \"violet_error\"}}";
const OUR_JSON: &str = "HTTP/1.1 401 No\r\ncontent-type: application/json\r\ncontent-length: 38\r\n\
                        connection: close\r\n\r\n{\"error\": {\"code\": \"invalid_api_key\"}}";
const ODD_TYPE: &str = "HTTP/1.1 502 No\r\ncontent-type: \x1b[2Jviolet/html\r\ncontent-length: 0\r\n\
                        connection: close\r\n\r\n";

#[tokio::test]
async fn an_answer_of_something_in_between_says_so_and_is_no_lie_of_the_network() {
    for (answer, said) in [
        (HTML, "HTTP 502 with text/html"),
        (CAPTIVE, "HTTP 200 with text/html"),
        (BARE, "HTTP 503 with no media type"),
        (FOREIGN_JSON, "HTTP 500 with application/json"),
    ] {
        let expected =
            Refusal::new(RefusalCode::CoordinatorUnreachable, format!("the answer is not a coordinator's: {said}"));
        assert_eq!(submitted(answer).await, expected);
        let asked = network(answer).await.coordinator().await.unwrap_err();
        assert_eq!(asked, expected);
        let listed = proven(answer).await.candidate_list("m", &SecretString::from("key")).await.unwrap_err();
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn a_refusal_that_is_no_frame_but_the_coordinators_keeps_its_reason() {
    assert_eq!(submitted(OUR_JSON).await, RefusalCode::InvalidApiKey.into());
    let listed = proven(OUR_JSON).await.candidate_list("m", &SecretString::from("key")).await.unwrap_err();
    assert_eq!(listed, RefusalCode::InvalidApiKey.into());
}

#[tokio::test]
async fn nothing_that_somebody_chose_is_repeated() {
    for answer in [HTML, CAPTIVE, FOREIGN_JSON, ODD_TYPE] {
        let refusal = submitted(answer).await;
        assert!(!refusal.message().contains("violet"), "{refusal}");
        assert!(!refusal.message().chars().any(char::is_control));
    }
}

/// An answer to `GET /v1/network` that names this key, with this beside it.
fn claim(point: &[u8; 65], more: &str) -> String {
    let body = format!("{{\"coordinator_key\": \"{}\"{more}}}", hex::encode(point));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn who_is_met_first_and_proves_nothing_is_neither_pinned_nor_kept_nor_shown_a_key() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let point: [u8; 65] = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    let digest = coordinator_proof_digest(&NetworkId::of_coordinator_key(&point), &[1; 32], None);
    let earlier = hex::encode(CoordinatorProof { digest }.sign(&key).unwrap());
    for (more, said) in [
        (String::new(), "no proof came"),
        (", \"proof\": null".to_owned(), "no proof came"),
        (", \"proof\": \"zz\"".to_owned(), "its proof is not one"),
        (", \"proof\": \"\"".to_owned(), "it does not hold the key that it names"),
        (format!(", \"proof\": \"{earlier}\""), "its proof answers another question"),
    ] {
        let network = network(&claim(&point, &more)).await;
        for refusal in [
            network.coordinator().await.unwrap_err(),
            network.candidate_list("m", &SecretString::from("key")).await.unwrap_err(),
            network.submit(&SecretString::from("key"), vec![0; 8]).await.unwrap_err(),
            network.models().await.unwrap_err(),
        ] {
            assert_eq!(refusal.code, RefusalCode::WrongNetwork);
            assert!(refusal.detail.contains(said), "{refusal}");
        }
        assert!(lock(&network.coordinator).is_none() && lock(&network.pin).is_none(), "{said}");
    }
}

#[test]
fn an_address_that_hides_another_host_is_refused() {
    for good in ["https://a.example", "http://localhost:80", "http://127.0.0.1:1/", "http://[::1]:80", "https://a:1/b"]
    {
        assert_eq!(check_address(good), Ok(()), "{good}");
    }
    for bad in [
        "http://localhost:80@evil.example",
        "http://localhost:violet@evil.example/",
        "https://violet@evil.example",
        "http://localhost:80?@evil.example",
        "http://localhost:80#a",
        "https://a.example/?a=b",
        "https://a.example\\b",
        "https://a.example b",
        "https://a.example\u{a0}",
        "http://localhost:80\r\nx: y",
        "https://a.example\u{1b}[2J",
        "https://a.example\u{85}",
        "http://evil.example",
        "ftp://a.example",
    ] {
        let refused = check_address(bad).unwrap_err();
        assert_eq!(refused.code, RefusalCode::InvalidRequest, "{bad}");
        assert!(!refused.detail.contains("violet") && !refused.detail.chars().any(char::is_control), "{refused}");
    }
}
