//! A plain HTTP/1.1 client that shows every byte, on a connection of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::PATIENCE;

/// What came back, the body yet unread.
pub struct Reading {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    input: BufReader<TcpStream>,
    length: Option<usize>,
    chunked: bool,
    over: bool,
}

/// What came back, all of it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Who was asked before the answer came, and what each said.
    #[track_caller]
    pub fn attempts(&self) -> Vec<(&str, &str)> {
        let attempts = self.header("x-darkbloom-attempts").expect("attempts");
        attempts.split(", ").map(|attempt| attempt.split_once('=').expect("who and what")).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The text of a chat completion.
    #[track_caller]
    pub fn answer(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// The data of all server-sent events.
    pub fn events(&self) -> Vec<String> {
        self.text().lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The comments among server-sent events that start with this word.
    pub fn comment(&self, word: &str) -> Option<Value> {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(": ")?.strip_prefix(word)?.strip_prefix(' '))?;
        Some(serde_json::from_str(line).unwrap())
    }

    /// All content of a streamed answer.
    pub fn streamed(&self) -> String {
        let events = self.events();
        let chunks = events.iter().filter(|event| *event != "[DONE]");
        chunks
            .filter_map(|event| {
                let chunk: Value = serde_json::from_str(event).unwrap();
                chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
            })
            .collect()
    }
}

/// Sends one request and reads the head of the answer.
pub fn open(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Reading> {
    let mut input = connect(address)?;
    let headers = [headers, &[("connection", "close")]].concat();
    send(&mut input, address, method, path, &headers, body)?;
    read_head(input)
}

/// A connection for one request after the other.
pub fn connect(address: &str) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// One request over a connection that stays open.
pub fn over(
    input: BufReader<TcpStream>,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<(Response, BufReader<TcpStream>)> {
    let mut input = input;
    send(&mut input, address, "POST", path, headers, body)?;
    read_head(input)?.keep()
}

fn send(
    input: &mut BufReader<TcpStream>,
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<()> {
    let stream = input.get_mut();
    let mut head = format!("{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server that refuses by the head alone may close before it took the body.
    let _ = stream.write_all(body);
    Ok(())
}

fn read_head(mut input: BufReader<TcpStream>) -> std::io::Result<Reading> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| broken("no status"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = header(&headers, "content-length").map(|length| length.parse().unwrap());
    let chunked = header(&headers, "transfer-encoding") == Some("chunked");
    Ok(Reading { status, headers, input, length, chunked, over: false })
}

impl Reading {
    /// The next piece of a chunked body; none at its proper end, an error when it was cut off.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        assert!(self.chunked, "the body does not come in chunks");
        if self.over {
            return Ok(None);
        }
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the body was cut off"))?;
        let mut piece = vec![0; size + 2];
        self.input.read_exact(&mut piece)?;
        piece.truncate(size);
        self.over = size == 0;
        Ok((size > 0).then_some(piece))
    }

    /// Reads the rest.
    pub fn finish(self) -> std::io::Result<Response> {
        Ok(self.keep()?.0)
    }

    fn keep(mut self) -> std::io::Result<(Response, BufReader<TcpStream>)> {
        let mut body = Vec::new();
        if self.chunked {
            while let Some(piece) = self.chunk()? {
                body.extend_from_slice(&piece);
            }
        } else if let Some(length) = self.length {
            body.resize(length, 0);
            self.input.read_exact(&mut body)?;
        } else {
            self.input.read_to_end(&mut body)?;
        }
        Ok((Response { status: self.status, headers: self.headers, body }, self.input))
    }
}

/// One request, one answer.
#[track_caller]
pub fn request(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    open(address, method, path, headers, body).unwrap().finish().unwrap()
}

/// The `Authorization` header's value.
pub fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}
