//! Something that listens where a coordinator should.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A listener with an answer of its own, and how often it was called.
pub struct Listener {
    pub address: String,
    calls: Arc<AtomicUsize>,
}

/// What went through a tap towards the coordinator.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub fn holds(&self, words: &str) -> bool {
        self.0.lock().unwrap().windows(words.len()).any(|window| window == words.as_bytes())
    }

    /// What followed these words last, up to the next space.
    pub fn last_after(&self, words: &str) -> Option<String> {
        let heard = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let (_, after) = heard.rsplit_once(words)?;
        Some(after.split(' ').next().unwrap_or_default().to_owned())
    }
}

impl Listener {
    pub fn with(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let calls = Arc::<AtomicUsize>::default();
        let (count, answer) = (Arc::clone(&calls), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || answer(stream));
            }
        });
        Self { address, calls }
    }

    /// Takes everything and says nothing, for ever.
    pub fn silent() -> Self {
        Self::with(|mut stream| {
            let mut block = [0; 4096];
            while stream.read(&mut block).is_ok_and(|read| read > 0) {}
        })
    }

    /// Answers every request with these bytes, and then nothing.
    pub fn saying(bytes: &'static [u8], close: bool) -> Self {
        Self::with(move |mut stream| {
            let mut block = [0; 4096];
            while stream.read(&mut block).is_ok_and(|read| read > 0) {
                if stream.write_all(bytes).is_err() || close {
                    return;
                }
            }
        })
    }

    /// Passes everything on to this address and back, and hears what goes there.
    pub fn tap(to: &str) -> (Self, Heard) {
        let heard = Heard::default();
        let (kept, to) = (heard.clone(), to.to_owned());
        let tap = Self::with(move |client| {
            let server = TcpStream::connect(&to).unwrap();
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let (mut client, mut server) = (client, server);
                let _ = std::io::copy(&mut server, &mut client);
            });
            let mut block = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut block) {
                kept.0.lock().unwrap().extend_from_slice(&block[..read]);
                if into.write_all(&block[..read]).is_err() {
                    return;
                }
            }
        });
        (tap, heard)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}
