//! One connection, and what is expected of the peer behind it.
//!
//! HTTP/1.1 alone: one request at a time, so that a peer which takes no answer holds up nobody but itself. A proxy in front
//! that speaks HTTP/2 to the world uses a connection for each request here.
//!
//! hyper's own wait for a request's head also runs while a connection rests between two requests, and it knows nothing of
//! a peer that takes no answer. So it is this module that watches: the socket tells it what moves, the service what runs.

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::MissedTickBehavior;

/// What a connection buffers of a request's head, and of an answer that is not taken yet: heads have some 2 KiB.
const BUFFER_BYTES_MAX: usize = 64 << 10;
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
        let running = Running::begin(&traffic);
        let answer = app.call(request.map(Body::new));
        async move { answer.await.map(|response| response.map(|body| Answer { body, _running: running })) }
    });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
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
}

impl Traffic {
    fn new(now: Instant) -> Self {
        let state = State { running: 0, rests_since: now, head_since: Some(now), blocked_since: None };
        Self { state: Mutex::new(state) }
    }

    /// Locks; every critical section is a few assignments, so the data is whole after a panic elsewhere.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes_came(&self) {
        let mut state = self.state();
        if state.running == 0 && state.head_since.is_none() {
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
struct Running(Arc<Traffic>);

impl Running {
    fn begin(traffic: &Arc<Traffic>) -> Self {
        let mut state = traffic.state();
        state.running += 1;
        state.head_since = None;
        drop(state);
        Self(Arc::clone(traffic))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.running -= 1;
        state.rests_since = Instant::now();
    }
}

/// An answer's body; as long as it is there, its request runs.
struct Answer {
    body: Body,
    _running: Running,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
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
