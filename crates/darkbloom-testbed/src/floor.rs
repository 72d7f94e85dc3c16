//! The least that a coordinator could be, to measure the real one against: it looks a key up, reads a chat request, takes its
//! worst case off a budget, hands it to a provider that dialled in over a WebSocket, counts what comes back, and gives back what
//! was not used. No seal, no receipts, no routing; one row of a ledger where it is asked for.
//!
//! A frame to the provider is the stream's number, eight bytes, and the request's body; a frame from it is the number, a byte
//! that is 1 for the last, and what is passed on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use darkbloom_types::Digest;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// Keys that it knows: a hash map's cost depends on its size.
const KEYS: usize = 10_000;
/// What each key may spend.
const BUDGET: i64 = 1 << 50;
/// Frames of one stream that may wait for its consumer.
const STREAM_FRAMES_MAX: usize = 1_024;
/// Frames that may wait for the provider.
const OUTGOING_MAX: usize = 4_096;
/// Rows that one commit takes at most.
const GROUP_MAX: usize = 256;
/// Tungstenite's default of 128 KiB would be most of what an idle connection takes.
const READ_BUFFER_BYTES: usize = 4_096;

/// The key with this number.
#[must_use]
pub fn key(number: usize) -> String {
    format!("floor-{:026}", number % KEYS)
}

/// A chat request, as far as anybody needs it who meters it.
#[derive(Debug, Deserialize)]
struct Chat {
    model: String,
    messages: Vec<Said>,
    max_tokens: u32,
    #[serde(default)]
    stream: bool,
}

#[derive(Debug, Deserialize)]
struct Said {
    role: String,
    content: String,
}

struct Floor {
    budgets: HashMap<Digest, AtomicI64>,
    ledger: Option<Ledger>,
    provider: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    streams: Mutex<HashMap<u64, mpsc::Sender<Bytes>>>,
    next: AtomicU64,
    metered: AtomicU64,
}

/// Serves until the process ends. With a folder, a request is passed on once a row of it is durable there.
///
/// # Errors
/// What the database or the listener says.
pub async fn serve(listener: TcpListener, ledger: Option<&Path>) -> std::io::Result<()> {
    let floor = Arc::new(Floor {
        budgets: (0..KEYS).map(|n| (Digest::of(&[key(n).as_bytes()]), AtomicI64::new(BUDGET))).collect(),
        ledger: ledger.map(Ledger::open).transpose().map_err(std::io::Error::other)?,
        provider: Mutex::default(),
        streams: Mutex::default(),
        next: AtomicU64::new(1),
        metered: AtomicU64::new(0),
    });
    let app = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/provider", get(provider))
        .layer(DefaultBodyLimit::max(1 << 20))
        .with_state(floor);
    // Without this a small frame waits for the last one's acknowledgement.
    let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));
    axum::serve(listener, app).await
}

/// A provider that is asked without anybody between: it answers every request with the same bytes.
///
/// # Errors
/// What the listener says.
pub async fn serve_direct(listener: TcpListener, answer: Vec<u8>) -> std::io::Result<()> {
    let answer = Bytes::from(answer);
    let app = Router::new().route("/v1/chat/completions", post(move |_: Bytes| std::future::ready(answer.clone())));
    axum::serve(listener.tap_io(|stream| _ = stream.set_nodelay(true)), app).await
}

async fn chat(State(floor): State<Arc<Floor>>, headers: HeaderMap, body: Bytes) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let Some(budget) = bearer.and_then(|key| floor.budgets.get(&Digest::of(&[key]))) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let Ok(chat) = serde_json::from_slice::<Chat>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let said: usize = chat.messages.iter().map(|said| said.role.len() + said.content.len()).sum();
    let hold = (said / 4) as i64 + i64::from(chat.max_tokens) + i64::from(chat.stream) + chat.model.len() as i64;
    if budget.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left >= hold).then(|| left - hold)).is_err() {
        return StatusCode::PAYMENT_REQUIRED.into_response();
    }
    let id = floor.next.fetch_add(1, Ordering::Relaxed);
    if let Some(ledger) = &floor.ledger
        && !ledger.write(id, hold).await
    {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
    lock(&floor.streams).insert(id, sender);
    let mut offer = Vec::with_capacity(body.len() + 8);
    offer.extend_from_slice(&id.to_be_bytes());
    offer.extend_from_slice(&body);
    let provider = lock(&floor.provider).clone();
    let Some(provider) = provider else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    if provider.send(offer).await.is_err() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let metering =
        Metering { floor: Arc::clone(&floor), key: Digest::of(&[bearer.unwrap_or_default()]), id, hold, used: 0 };
    let answer = stream::unfold((metering, frames), |(mut metering, mut frames)| async move {
        let frame = frames.recv().await?;
        metering.used += 1;
        Some((Ok::<_, std::convert::Infallible>(frame), (metering, frames)))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(answer)).into_response()
}

/// Settles when the answer is over, however it ends.
struct Metering {
    floor: Arc<Floor>,
    key: Digest,
    id: u64,
    hold: i64,
    used: i64,
}

impl Drop for Metering {
    fn drop(&mut self) {
        lock(&self.floor.streams).remove(&self.id);
        self.floor.metered.fetch_add(self.used.unsigned_abs(), Ordering::Relaxed);
        if let Some(budget) = self.floor.budgets.get(&self.key) {
            budget.fetch_add(self.hold - self.used, Ordering::AcqRel);
        }
    }
}

async fn provider(State(floor): State<Arc<Floor>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.read_buffer_size(READ_BUFFER_BYTES).on_upgrade(move |socket| carry(floor, socket))
}

/// Carries frames until the provider hangs up.
async fn carry(floor: Arc<Floor>, socket: WebSocket) {
    let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
    *lock(&floor.provider) = Some(outgoing);
    let (mut sink, mut incoming) = socket.split();
    tokio::spawn(async move {
        while let Some(offer) = queue.recv().await {
            if sink.send(Message::Binary(offer.into())).await.is_err() {
                return;
            }
        }
    });
    while let Some(Ok(message)) = incoming.next().await {
        let Message::Binary(frame) = message else { continue };
        let Some((id, rest)) = frame.split_first_chunk::<8>() else { continue };
        let id = u64::from_be_bytes(*id);
        let last = rest.first() == Some(&1);
        let mut streams = lock(&floor.streams);
        // A stream whose consumer is too slow lacks a frame, and who reads it sees that.
        if let Some(stream) = streams.get(&id) {
            let _ = stream.try_send(frame.slice(9..));
        }
        if last {
            streams.remove(&id);
        }
    }
}

/// One row a request, as many as wait in one durable commit.
struct Ledger {
    rows: blocking::Sender<(u64, i64, oneshot::Sender<bool>)>,
}

impl Ledger {
    fn open(folder: &Path) -> rusqlite::Result<Self> {
        let mut database = durable(folder)?;
        let (rows, queue) = blocking::channel::<(u64, i64, oneshot::Sender<bool>)>();
        std::thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                let group: Vec<_> = std::iter::once(first).chain(queue.try_iter().take(GROUP_MAX - 1)).collect();
                let done = commit(&mut database, group.iter().map(|(id, hold, _)| (*id, *hold))).is_ok();
                for (_, _, told) in group {
                    // Whoever waited may be gone.
                    let _ = told.send(done);
                }
            }
        });
        Ok(Self { rows })
    }

    async fn write(&self, id: u64, hold: i64) -> bool {
        let (told, done) = oneshot::channel();
        self.rows.send((id, hold, told)).is_ok() && done.await.unwrap_or(false)
    }
}

fn commit(database: &mut rusqlite::Connection, rows: impl Iterator<Item = (u64, i64)>) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    for (id, hold) in rows {
        insert(&transaction, id, hold)?;
    }
    transaction.commit()
}

/// A database whose commits are on the disk, with one table.
///
/// # Errors
/// What SQLite says.
pub fn durable(folder: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let database = rusqlite::Connection::open(folder.join("floor.sqlite"))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS holds (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL, what BLOB NOT NULL);",
    )?;
    Ok(database)
}

/// Adds one row of about the size that a hold has.
///
/// # Errors
/// What SQLite says.
pub fn insert(database: &rusqlite::Connection, id: u64, amount: i64) -> rusqlite::Result<()> {
    let mut statement = database.prepare_cached("INSERT OR REPLACE INTO holds VALUES (?1, ?2, ?3)")?;
    statement.execute((id.cast_signed(), amount, [0u8; 160])).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
