//! A coordinator that lies: it passes requests on to the real one, and changes what comes back.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use darkbloom_wire::{Decoded, LengthPrefixed, Relayed};

use crate::support::http;

/// Given a path and a body: the body as it is told.
pub type Lie = Box<dyn FnMut(&str, Vec<u8>) -> Vec<u8> + Send>;

/// A listener in front of a coordinator.
pub struct Middle {
    pub url: String,
    lie: Arc<Mutex<Option<Lie>>>,
}

impl Middle {
    /// Listens and passes on, honestly until told otherwise.
    pub fn before(coordinator: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lie = Arc::<Mutex<Option<Lie>>>::default();
        let (told, to) = (Arc::clone(&lie), coordinator.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (told, to) = (Arc::clone(&told), to.clone());
                std::thread::spawn(move || {
                    // A client that hangs up is no failure of the test.
                    let _ = pass_on(stream, &to, &told);
                });
            }
        });
        Self { url, lie }
    }

    /// From now on it tells this.
    pub fn tell(&self, lie: impl FnMut(&str, Vec<u8>) -> Vec<u8> + Send + 'static) {
        *self.lie.lock().unwrap() = Some(Box::new(lie));
    }

    /// From now on it changes the frames of sealed answers, and nothing else.
    pub fn tell_frames(&self, mut lie: impl FnMut(&mut Vec<Relayed>) + Send + 'static) {
        self.tell(move |path, body| {
            if path != "/v1/sealed" {
                return body;
            }
            let mut frames = read(&body);
            lie(&mut frames);
            frames.iter().flat_map(|frame| LengthPrefixed::wrap(&frame.encode())).collect()
        });
    }

    pub fn honest(&self) {
        *self.lie.lock().unwrap() = None;
    }
}

/// The frames of a body.
pub fn read(body: &[u8]) -> Vec<Relayed> {
    let mut prefixed = LengthPrefixed::default();
    prefixed.push(body);
    let mut frames = Vec::new();
    while let Some(frame) = prefixed.next_frame().unwrap() {
        if let Decoded::Known(frame, _) = Relayed::decode(frame).unwrap() {
            frames.push(frame);
        }
    }
    frames
}

fn pass_on(stream: TcpStream, to: &str, lie: &Mutex<Option<Lie>>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let (mut headers, mut length) = (Vec::new(), 0);
        loop {
            line.clear();
            input.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
            match &*name {
                "content-length" => length = value.parse().unwrap(),
                "authorization" | "content-type" => headers.push((name, value)),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let answer = http::open(to, &method, &path, &headers, &body)?.finish()?;
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        let body = match lie.lock().unwrap().as_mut() {
            Some(lie) => lie(path.split('?').next().unwrap(), answer.body),
            None => answer.body,
        };
        let head =
            format!("HTTP/1.1 {} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", answer.status, body.len());
        let stream = input.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
    }
}
