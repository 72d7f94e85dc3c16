//! One connection, and what is expected of the peer behind it.
//!
//! hyper's own wait for a request's head also runs while a connection rests between two requests, and knows nothing of
//! the first bytes by which HTTP/1 and HTTP/2 are told apart, nor of a peer that takes no answer. So it is this module
//! that watches: the socket tells it what moves, the service what runs.

use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Version};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::MissedTickBehavior;

/// What a connection buffers of a request's head, and of an answer that is not taken yet: heads have some 2 KiB.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection. RFC 9113 section 6.5.2 advises 100; with [`ANSWER_BYTES_MAX`] each, this many
/// cost half a mebibyte a connection. A proxy that has more to ask opens another connection.
const STREAMS_MAX: u32 = 32;
/// What one HTTP/2 request may send before it is read (RFC 9113 section 6.9.2).
const STREAM_WINDOW: u32 = 64 << 10;
/// What all requests on one HTTP/2 connection may send together before it is read: on 4,096 connections half a gibibyte,
/// however many requests there are. Two whole windows, so that one request which waits does not stop the others.
const CONNECTION_WINDOW: u32 = 128 << 10;
/// What is kept of each answer on an HTTP/2 connection that its peer does not take: on 4,096 connections of 32 requests
/// two gibibytes, for as long as [`Patience::write`] at most.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// How long a peer may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From a request's first byte, or from the connection's begin, to the end of its head.
    pub head: Duration,
    /// Between two requests. Twice this after the last one, whatever is left is dropped.
    pub idle: Duration,
    /// For taking any byte of an answer.
    pub write: Duration,
    /// How often it is looked at.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            write: Duration::from_secs(30),
            look: Duration::from_secs(1),
        }
    }
}

/// Serves a connection until it ends, its peer's time is over, or everything closes. The place is held until the socket is
/// closed, also by whoever it was handed to by an upgrade.
pub async fn serve(
    stream: TcpStream,
    app: Router,
    patience: Patience,
    mut closing: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    let traffic = Arc::new(Traffic::new(Instant::now()));
    let io = TokioIo::new(Socket { stream, traffic: Arc::clone(&traffic), _place: place });
    let app = TowerToHyperService::new(app);
    let service = service_fn(|request: Request<Incoming>| {
        let running = Running::begin(&traffic, request.version());
        let answer = app.call(request.map(Body::new));
        async move { answer.await.map(|response| response.map(|body| Taken { body, running })) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(ANSWER_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut looks = tokio::time::interval(patience.look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection failed");
                }
                return;
            }
            polite = close(&mut closing, told) => {
                if !polite {
                    return;
                }
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = looks.tick() => match traffic.overdue(Instant::now(), &patience) {
                Some(Overdue::Idle) => connection.as_mut().graceful_shutdown(),
                Some(Overdue::Peer(what)) => {
                    tracing::debug!("a connection is dropped: {what}");
                    return;
                }
                None => {}
            },
        }
    }
}

/// Waits until the connection is to close: true when it may end what runs, false when the server's own end has come.
async fn close(closing: &mut watch::Receiver<bool>, told: bool) -> bool {
    if told {
        // Nothing more is said: the sender goes when everything ends.
        while closing.changed().await.is_ok() {}
        false
    } else {
        closing.wait_for(|close| *close).await.is_ok()
    }
}

/// Whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// Nothing was asked for a while: the connection closes politely.
    Idle,
    /// The peer holds things up.
    Peer(&'static str),
}

/// What moves on a connection.
struct Traffic {
    state: Mutex<State>,
}

struct State {
    /// Requests whose answers are not over.
    running: usize,
    /// When the last of them ended, or the connection began.
    rests_since: Instant,
    /// When the first byte of a head arrived that is not whole yet; from the begin on for the first.
    head_since: Option<Instant>,
    /// When a byte of an answer found no room in the socket.
    blocked_since: Option<Instant>,
    /// Whether it speaks HTTP/2: bytes between requests are then no heads, and a socket that takes bytes says nothing
    /// about the answers on it.
    http2: bool,
    /// Answers of which a piece was handed over and nothing asked for since.
    untaken: HashMap<u64, Instant>,
    next_answer: u64,
}

impl Traffic {
    fn new(now: Instant) -> Self {
        let state = State {
            running: 0,
            rests_since: now,
            head_since: Some(now),
            blocked_since: None,
            http2: false,
            untaken: HashMap::new(),
            next_answer: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Locks; every critical section is a few assignments, so the data is whole after a panic elsewhere.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_came(&self) {
        let mut state = self.state();
        if state.running == 0 && !state.http2 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    fn write_ended(&self, written: bool) {
        let mut state = self.state();
        state.blocked_since = if written { None } else { state.blocked_since.or_else(|| Some(Instant::now())) };
    }

    fn overdue(&self, now: Instant, patience: &Patience) -> Option<Overdue> {
        let state = self.state();
        let passed = |since: Option<Instant>, most: Duration| since.is_some_and(|since| now >= since + most);
        if passed(state.head_since, patience.head) {
            return Some(Overdue::Peer("no whole head of a request in time"));
        }
        if passed(state.blocked_since, patience.write) {
            return Some(Overdue::Peer("the peer takes no byte"));
        }
        if state.untaken.values().any(|&since| passed(Some(since), patience.write)) {
            return Some(Overdue::Peer("the peer takes nothing of an answer"));
        }
        if state.running > 0 || now < state.rests_since + patience.idle {
            return None;
        }
        if now < state.rests_since + 2 * patience.idle {
            Some(Overdue::Idle)
        } else {
            Some(Overdue::Peer("it does not close"))
        }
    }
}

/// A request from its head to its answer's last byte, or to whatever ends it before.
struct Running {
    traffic: Arc<Traffic>,
    answer: u64,
    http2: bool,
}

impl Running {
    fn begin(traffic: &Arc<Traffic>, version: Version) -> Self {
        let http2 = version == Version::HTTP_2;
        let mut state = traffic.state();
        state.running += 1;
        state.head_since = None;
        state.http2 = http2;
        state.next_answer += 1;
        let answer = state.next_answer;
        drop(state);
        Self { traffic: Arc::clone(traffic), answer, http2 }
    }

    /// On HTTP/1 the socket itself shows whether the peer takes its only answer.
    fn handed_over(&self) {
        if self.http2 {
            self.traffic.state().untaken.insert(self.answer, Instant::now());
        }
    }

    fn asked_for(&self) {
        if self.http2 {
            self.traffic.state().untaken.remove(&self.answer);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.traffic.state();
        state.untaken.remove(&self.answer);
        state.running -= 1;
        state.rests_since = Instant::now();
    }
}

/// An answer's body that tells how it is taken.
struct Taken {
    body: Body,
    running: Running,
}

impl hyper::body::Body for Taken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        this.running.asked_for();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if frame.is_some() {
            this.running.handed_over();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket, which tells what moves, and holds the connection's place.
struct Socket {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        if into.filled().len() > before {
            this.traffic.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl Socket {
    fn wrote(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.traffic.write_ended(wrote.is_ready());
        wrote
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
