//! A hub on this machine, for tests: lists a repository's files and serves them with ranges, entity tags and digests as the
//! Hugging Face hub documents it, and misbehaves as it is told to.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use darkbloom_types::Digest;
use serde_json::{Value, json};

/// The commit that the hub names.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What becomes of one request for a file; requests beyond those that were told are served well.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection ends after so many bytes.
    CutAfter(usize),
    /// Nothing more comes after so many bytes, and the connection stays.
    StallAfter(usize),
    /// The whole file, whatever part was asked for.
    IgnoreRange,
    /// A part with another entity tag than before.
    OtherTag,
    /// Another part than was asked for.
    OtherPart,
    /// A length that the file does not have.
    Announce(u64),
    /// The file and so many bytes more, without a length.
    TooMuch(usize),
    /// This status, and how many seconds to wait.
    Status(u16, Option<u32>),
    /// Elsewhere.
    SendOn(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    files: Vec<(String, Vec<u8>)>,
    /// Listed instead of the files.
    siblings: Option<Value>,
    /// Whether answers about files name their digests.
    linked: bool,
    faults: VecDeque<Fault>,
    list_faults: VecDeque<Fault>,
    seen: Vec<Seen>,
}

/// A running hub. It ends with the process.
pub struct TestHub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl TestHub {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, state) = (socket.unwrap(), Arc::clone(&serving));
                // A client that goes away is none of the hub's concern.
                thread::spawn(move || drop(serve(&socket, &state)));
            }
        });
        Self { endpoint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a file, or gives one other contents.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        state.files.retain(|(known, _)| known != path);
        state.files.push((path.to_owned(), bytes));
    }

    /// Lists this instead of the files.
    pub fn list(&self, siblings: Value) {
        self.state().siblings = Some(siblings);
    }

    /// Names digests in answers about files.
    pub fn link(&self) {
        self.state().linked = true;
    }

    /// What becomes of the next requests for files.
    pub fn misbehave(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// What becomes of the next requests for the list.
    pub fn misbehave_listing(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().list_faults.extend(faults);
    }

    /// Every request for a file so far.
    pub fn asked_for_files(&self) -> Vec<Seen> {
        self.state().seen.iter().filter(|seen| seen.target.contains("/resolve/")).cloned().collect()
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }
}

/// An entry of a list.
pub fn sibling(path: &str, bytes: &[u8]) -> Value {
    let (size, sha256) = (bytes.len(), Digest::of(&[bytes]).to_string());
    json!({"rfilename": path, "size": size, "blobId": "0", "lfs": {"sha256": sha256, "size": size, "pointerSize": 134}})
}

fn serve(mut socket: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = BufReader::new(socket.try_clone()?).take(64 << 10);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        head.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let seen = Seen { target: target.clone(), headers };
    let file = target.contains("/resolve/") || target.starts_with("/elsewhere/");
    let (fault, found, linked) = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let fault = if file { state.faults.pop_front() } else { state.list_faults.pop_front() };
        let found = if file {
            let path = target.split('?').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            state.files.iter().find(|(path, _)| path.rsplit('/').next() == Some(name)).map(|(_, bytes)| bytes.clone())
        } else {
            let siblings = state.siblings.clone();
            let siblings =
                siblings.unwrap_or_else(|| state.files.iter().map(|(path, bytes)| sibling(path, bytes)).collect());
            Some(json!({"id": "lab/model", "sha": COMMIT, "siblings": siblings}).to_string().into_bytes())
        };
        (fault, found, state.linked)
    };
    let Some(bytes) = found else {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    answer(socket, &seen, &bytes, linked, fault)
}

fn answer(mut socket: &TcpStream, seen: &Seen, bytes: &[u8], linked: bool, fault: Option<Fault>) -> io::Result<()> {
    match &fault {
        Some(Fault::Status(status, after)) => {
            let after = after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
            return write!(socket, "HTTP/1.1 {status} No\r\n{after}content-length: 0\r\nconnection: close\r\n\r\n");
        }
        Some(Fault::SendOn(location)) => {
            let digest = Digest::of(&[bytes]);
            return write!(
                socket,
                "HTTP/1.1 302 Found\r\nlocation: {location}\r\nx-linked-etag: \"{digest}\"\r\nx-linked-size: {}\r\n\
                 content-length: 0\r\nconnection: close\r\n\r\n",
                bytes.len()
            );
        }
        _ => {}
    }
    let (size, mut etag) = (bytes.len(), format!("\"{}\"", Digest::of(&[bytes])));
    let link = if linked { format!("x-linked-etag: {etag}\r\n") } else { String::new() };
    let current = seen.header("if-range").is_none_or(|asked| asked == etag);
    let from =
        seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|from| *from < size && (current || matches!(fault, Some(Fault::OtherTag))));
    let from = from.filter(|_| !matches!(fault, Some(Fault::IgnoreRange))).unwrap_or(0);
    let from = if matches!(fault, Some(Fault::OtherPart)) { from / 2 } else { from };
    if matches!(fault, Some(Fault::OtherTag)) {
        etag = "\"another\"".to_owned();
    }
    let body = &bytes[from..];
    let length = match fault {
        Some(Fault::Announce(length)) => format!("content-length: {length}\r\n"),
        Some(Fault::TooMuch(_)) => String::new(),
        _ => format!("content-length: {}\r\n", body.len()),
    };
    let (status, place) = if from > 0 {
        ("206 Partial Content", format!("content-range: bytes {from}-{}/{size}\r\n", size - 1))
    } else {
        ("200 OK", String::new())
    };
    write!(socket, "HTTP/1.1 {status}\r\netag: {etag}\r\n{link}{place}{length}connection: close\r\n\r\n")?;
    let stay = |mut socket: &TcpStream| socket.read(&mut [0; 1]).map(drop);
    match fault {
        Some(Fault::CutAfter(most)) => socket.write_all(&body[..most.min(body.len())]),
        Some(Fault::StallAfter(most)) => {
            socket.write_all(&body[..most.min(body.len())])?;
            stay(socket)
        }
        Some(Fault::TooMuch(more)) => {
            socket.write_all(body)?;
            socket.write_all(&vec![0; more])
        }
        _ => socket.write_all(body),
    }
}
