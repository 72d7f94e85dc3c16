//! What a peer may not do to a listener, over real sockets.

use std::future::pending;
use std::time::Instant;

use axum::body::Body;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

/// Waits short enough for a test, long enough for a busy machine to answer in between.
const SHORT: Patience = Patience {
    head: Duration::from_millis(600),
    idle: Duration::from_millis(1_500),
    write: Duration::from_millis(600),
    look: Duration::from_millis(20),
};
/// As good as for ever, for what a test is not about.
const LONG: Duration = Duration::from_secs(1_000);

fn routes() -> Router {
    let endless = || async {
        Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'a'; 16 << 10]))
        }))
    };
    let echo = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(Message::Binary(bytes))) = socket.recv().await {
                if socket.send(Message::Binary(bytes)).await.is_err() {
                    return;
                }
            }
        })
    };
    Router::new()
        .route("/", get(|| async { "here" }))
        .route("/never", get(pending::<String>))
        .route("/endless", get(endless))
        .route("/echo", get(echo))
}

async fn listening(connections_max: usize, patience: Patience) -> (SocketAddr, Server) {
    let bound = Bound::to(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = bound.address;
    (address, bound.serve_with(routes(), std::future::ready(()), LONG, connections_max, patience))
}

const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

/// One request over this connection, answered in full.
async fn asked(stream: &mut TcpStream) -> bool {
    if stream.write_all(ASK).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        let mut piece = [0; 1_024];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
    answer.starts_with(b"HTTP/1.1 200")
}

/// How long it takes until the peer closes; bytes that come before are passed over.
async fn closed(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it closes");
    began.elapsed()
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_costs_the_connection() {
    let (address, _server) = listening(9, Patience { idle: LONG, ..SHORT }).await;
    // Nothing, a part of either protocol's first bytes, and a head that trickles.
    for begin in [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\nx-a: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let took = closed(&mut stream).await;
        assert!(took >= Duration::from_millis(300), "{begin:?} was given {took:?}");
    }
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\nx-a: ").await.unwrap();
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "bytes that come now and then must not keep it open");
    trickle.await.unwrap();
    // The second head on a connection has no more time than the first.
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(asked(&mut stream).await);
    stream.write_all(b"GET / HT").await.unwrap();
    closed(&mut stream).await;
}

#[tokio::test]
async fn a_connection_rests_for_a_while_between_requests_and_then_closes() {
    let (address, _server) = listening(9, SHORT).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(asked(&mut stream).await);
    tokio::time::sleep(SHORT.head + Duration::from_millis(200)).await;
    assert!(asked(&mut stream).await, "the wait for a head begins with its first byte");
    let took = closed(&mut stream).await;
    assert!(took >= Duration::from_secs(1), "it rested for {took:?} only");
}

#[tokio::test]
async fn a_request_that_is_worked_on_is_not_idle() {
    let (address, _server) = listening(9, SHORT).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let mut piece = [0; 1];
    let read = tokio::time::timeout(3 * SHORT.idle, stream.read(&mut piece)).await;
    assert!(read.is_err(), "it must stay open: {read:?}");
}

#[tokio::test]
async fn a_peer_that_takes_no_answer_is_cut_off() {
    let (address, _server) = listening(1, Patience { idle: LONG, ..SHORT }).await;
    let mut deaf = TcpStream::connect(address).await.unwrap();
    deaf.write_all(b"GET /endless HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    // There is one place: the next connection is served when the first one lost it.
    let mut next = TcpStream::connect(address).await.unwrap();
    let served = tokio::time::timeout(Duration::from_secs(20), asked(&mut next)).await;
    assert_eq!(served, Ok(true));
    // A peer that reads is served as long as it likes.
    drop(next);
    let mut reader = TcpStream::connect(address).await.unwrap();
    reader.write_all(b"GET /endless HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    let (began, mut piece) = (Instant::now(), vec![0; 64 << 10]);
    while began.elapsed() < 3 * SHORT.write {
        assert_ne!(reader.read(&mut piece).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let (address, _server) = listening(2, Patience { head: LONG, idle: LONG, ..SHORT }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert!(asked(&mut first).await && asked(&mut second).await);
    let mut third = TcpStream::connect(address).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), asked(&mut third)).await;
    assert!(early.is_err(), "there was no place, and it was served");
    drop(first);
    let mut fourth = TcpStream::connect(address).await.unwrap();
    drop(second);
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), asked(&mut fourth)).await, Ok(true));
}

#[tokio::test]
async fn an_upgraded_connection_outlives_the_waits_and_keeps_its_place() {
    let (address, _server) = listening(1, SHORT).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let upgrade = b"GET /echo HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(upgrade).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    tokio::time::sleep(SHORT.idle * 3).await;
    // A binary frame of one byte, masked with zeros, and its echo (RFC 6455 section 5.2).
    stream.write_all(&[0x82, 0x81, 0, 0, 0, 0, 7]).await.unwrap();
    let mut echo = [0; 3];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, [0x82, 0x01, 7]);
    let mut next = TcpStream::connect(address).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), asked(&mut next)).await;
    assert!(early.is_err(), "an upgraded connection counts");
    drop(stream);
    // Its wait for a head begins when it is taken.
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), asked(&mut next)).await, Ok(true));
}

#[tokio::test]
async fn http2_is_not_spoken_here() {
    let (address, _server) = listening(1, SHORT).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The preface and an empty SETTINGS frame (RFC 9113 sections 3.4 and 6.5).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await.expect("it closes").ok();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn a_stop_takes_nobody_new_drains_and_closes_what_rests() {
    let bound = Bound::to(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = bound.address;
    let (begun, drained) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let drain = {
        let (begun, drained) = (Arc::clone(&begun), Arc::clone(&drained));
        async move {
            begun.notify_one();
            drained.notified().await;
        }
    };
    let server = bound.serve(routes(), drain, Duration::from_secs(20));
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(asked(&mut stream).await);
    let stopping = tokio::spawn(server.stop());
    begun.notified().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    assert!(asked(&mut stream).await, "who is connected is served while it drains");
    drained.notify_one();
    closed(&mut stream).await;
    tokio::time::timeout(Duration::from_secs(4), stopping).await.expect("nothing is left to wait for").unwrap();
}

#[tokio::test]
async fn a_request_that_does_not_end_delays_a_stop_by_the_stated_time_only() {
    let bound = Bound::to(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = bound.address;
    let server = bound.serve(routes(), std::future::ready(()), Duration::ZERO);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: here\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() >= Duration::from_secs(4) && began.elapsed() < CLOSE + Duration::from_secs(5));
    closed(&mut stream).await;
}

#[test]
fn connections_leave_room_for_the_sockets_of_those_who_are_served() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max open files            1024                 1048576              files     \n";
    assert_eq!(open_files_in(limits), Some(1_024));
    assert_eq!(open_files_in(&limits.replace("1024 ", "unlimited ")), None);
    assert_eq!(open_files_in(""), None);
    assert_eq!(connections_max(Some(1_024)), 480);
    assert_eq!(connections_max(Some(10)), 1);
    assert_eq!((connections_max(Some(1 << 20)), connections_max(None)), (CONNECTIONS_MAX, CONNECTIONS_MAX));
}
