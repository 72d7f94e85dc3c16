//! Who fetches a text pack, and what is kept, over real sockets and with the model that ships.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use darkbloom_types::{NetworkId, Tier, TokenCount};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::Config;

/// Requests at once, as many as the key of one gateway's caller may have.
const AT_ONCE: usize = 64;

fn pack() -> TextPack {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf");
    TextPack::from_gguf(File::open(path).unwrap()).unwrap()
}

fn entry(pack: &[u8]) -> CatalogueEntry {
    CatalogueEntry {
        network: NetworkId([1; 32]),
        name: "small".to_owned(),
        weights: Digest([1; 32]),
        text_pack: Digest::of(&[pack]),
        context: TokenCount(1_024),
        quantisation: "Q8_0".to_owned(),
    }
}

/// A network whose coordinator gives these answers, one to each question and then the last one always; and how many
/// questions came.
async fn network(mut answers: Vec<Vec<u8>>) -> (Arc<Network>, Arc<AtomicUsize>) {
    // A second call only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&asked);
    answers.reverse();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                let mut block = [0; 4_096];
                let size = stream.read(&mut block).await.unwrap();
                read.extend_from_slice(&block[..size]);
            }
            assert!(read.starts_with(b"GET /v1/blobs/"));
            count.fetch_add(1, Ordering::Relaxed);
            let answer = if answers.len() > 1 { answers.pop().unwrap() } else { answers[0].clone() };
            // Another task each, so that one question does not wait for another's answer.
            tokio::spawn(async move { stream.write_all(&answer).await.unwrap() });
        }
    });
    let config = Config {
        coordinator: format!("http://{address}"),
        network: None,
        pin_file: None,
        tier_min: Tier::None,
        pinned: BTreeSet::new(),
        hardware: crate::HardwareTrust::default(),
        candidates: 1,
        receipts: None,
    };
    (Arc::new(Network::new(config).unwrap()), asked)
}

fn blob(bytes: &[u8]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nconnection: close";
    [format!("{head}\r\ncontent-length: {}\r\n\r\n", bytes.len()).as_bytes(), bytes].concat()
}

const BUSY: &[u8] = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

async fn ask_at_once(network: &Arc<Network>, entry: &CatalogueEntry) -> Vec<Outcome> {
    join_all((0..AT_ONCE).map(|_| network.text(entry))).await
}

#[tokio::test]
async fn many_first_requests_at_once_fetch_a_pack_once() {
    let pack = pack().to_bytes();
    let (network, asked) = network(vec![blob(&pack)]).await;
    for _ in 0..2 {
        let outcomes = ask_at_once(&network, &entry(&pack)).await;
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn one_that_failed_is_told_to_all_who_waited_and_fetched_again_by_the_next() {
    let pack = pack().to_bytes();
    let (network, asked) = network(vec![BUSY.to_vec(), blob(b"another"), blob(&pack)]).await;
    for (fetches, code) in [(1, RefusalCode::CoordinatorUnreachable), (2, RefusalCode::VerificationFailed)] {
        let outcomes = ask_at_once(&network, &entry(&pack)).await;
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|refusal| refusal.code == code)));
        assert_eq!(asked.load(Ordering::Relaxed), fetches);
    }
    assert!(network.text(&entry(&pack)).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn whoever_asked_first_and_went_away_takes_the_pack_from_nobody() {
    let pack = pack().to_bytes();
    let (network, asked) = network(vec![blob(&pack)]).await;
    let entry = entry(&pack);
    let mut first = Box::pin(network.text(&entry));
    assert!((&mut first).now_or_never().is_none());
    drop(first);
    assert!(network.text(&entry).await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn a_fetch_that_ended_without_a_word_is_made_again() {
    let texts = Texts::default();
    let digest = Digest([1; 32]);
    let Turn::Fetch(sender, _) = texts.turn(digest) else { panic!("nobody fetches it") };
    assert!(matches!(texts.turn(digest), Turn::Wait(_)));
    drop(sender);
    assert!(matches!(texts.turn(digest), Turn::Fetch(..)));
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let text = TextModel::new(pack()).unwrap();
    let digest = |number: usize| Digest::of(&[&number.to_be_bytes()]);
    let mut shelf = Shelf::default();
    for number in 0..TEXTS_MAX {
        shelf.put(digest(number), text.clone(), 1);
    }
    assert!(shelf.take(&digest(0)).is_some(), "a network's models all have room");
    shelf.put(digest(TEXTS_MAX), text.clone(), 1);
    let kept = |shelf: &Shelf, number| shelf.kept.contains_key(&digest(number));
    assert!(kept(&shelf, 0) && !kept(&shelf, 1) && kept(&shelf, 2) && kept(&shelf, TEXTS_MAX));
    assert_eq!(shelf.kept.len(), TEXTS_MAX);

    // Bytes count as well.
    shelf.put(digest(100), text, TEXTS_BYTES_MAX - 2);
    assert!(shelf.kept.len() == 3 && kept(&shelf, 0) && kept(&shelf, TEXTS_MAX) && kept(&shelf, 100));
    assert!(shelf.bytes() <= TEXTS_BYTES_MAX);
}
