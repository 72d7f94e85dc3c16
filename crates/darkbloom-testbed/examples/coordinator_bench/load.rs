//! Consumers: one connection each, one request after the other, every frame looked at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_wire::{CoordinatorTiming, Decoded, LengthPrefixed, Relayed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::Outcome;

/// A request that is ready to be written.
pub struct Ready {
    pub bytes: Vec<u8>,
    /// Frames that must come.
    pub frames: u32,
    /// Gets a permit back for each.
    pub credit: Option<Arc<Semaphore>>,
}

/// What one answer was like.
pub struct Seen {
    /// To the first content.
    pub first: Duration,
    /// To the end.
    pub whole: Duration,
    pub frames: u32,
    /// Frames that were missing, doubled or out of order.
    pub wrong: u32,
    pub timing: Option<CoordinatorTiming>,
}

/// Of the floor's payload.
pub const FLOOR_FRAME_BYTES: usize = 90;

pub fn http(path: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/octet-stream\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub struct Consumer {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Consumer {
    pub async fn connect(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4_096), at: 0 })
    }

    async fn more(&mut self) -> Outcome<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err("the server hung up".into()),
            _ => Ok(()),
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> Outcome<String> {
        loop {
            let rest = &self.buffer[self.at..];
            if let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            self.more().await?;
        }
    }

    /// Sends a request and reads its answer to the end.
    pub async fn ask(&mut self, ready: &Ready) -> Outcome<Seen> {
        let began = Instant::now();
        self.stream.write_all(&ready.bytes).await?;
        let status = self.line().await?;
        let mut length = None;
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = Some(value.parse::<usize>()?);
            }
            if line.is_empty() {
                break;
            }
        }
        let mut reading = Reading { began, first: None, frames: 0, wrong: 0, ended: false, timing: None };
        let mut frames = LengthPrefixed::default();
        let mut take = async |consumer: &mut Self, length: usize| -> Outcome<()> {
            let mut left = length;
            while left > 0 {
                if consumer.at == consumer.buffer.len() {
                    consumer.more().await?;
                }
                let here = left.min(consumer.buffer.len() - consumer.at);
                frames.push(&consumer.buffer[consumer.at..consumer.at + here]);
                consumer.at += here;
                left -= here;
                let before = reading.frames;
                while let Some(frame) = frames.next_frame()? {
                    reading.frame(frame).map_err(|error| format!("{status}: {error}"))?;
                }
                if let Some(credit) = &ready.credit {
                    credit.add_permits((reading.frames - before) as usize);
                }
            }
            Ok(())
        };
        if let Some(length) = length {
            take(self, length).await?;
        } else {
            loop {
                let length = usize::from_str_radix(&self.line().await?, 16)?;
                take(self, length).await?;
                self.line().await?;
                if length == 0 {
                    break;
                }
            }
        }
        let whole = began.elapsed();
        let Reading { first, frames, mut wrong, ended, timing, .. } = reading;
        wrong += frames.abs_diff(ready.frames) + u32::from(!ended);
        Ok(Seen { first: first.ok_or("an answer without content")?, whole, frames, wrong, timing })
    }
}

/// An answer, as far as it was read.
struct Reading {
    began: Instant,
    first: Option<Duration>,
    frames: u32,
    wrong: u32,
    ended: bool,
    timing: Option<CoordinatorTiming>,
}

impl Reading {
    fn frame(&mut self, frame: &[u8]) -> Outcome<()> {
        // The floor's frames have a length that no encoded frame has which begins with such a number.
        if frame.len() == FLOOR_FRAME_BYTES && frame[0] < 0x80 {
            let number = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
            self.content(number);
            self.ended = frame[4] == 1;
            return Ok(());
        }
        let Decoded::Known(frame, _) = Relayed::decode(frame)? else { return Err("an unknown frame".into()) };
        match frame {
            Relayed::RelayedAccepted(accepted) => self.timing = Some(accepted.timing),
            Relayed::RelayedData(data) => self.content(data.sequence),
            Relayed::RelayedFinal(end) => self.ended = !end.receipt.is_empty() && !end.bill.is_empty(),
            Relayed::KeepAlive(_) => {}
            Relayed::RelayedRefused(refused) => return Err(format!("refused: {}", refused.refusal()).into()),
            Relayed::Reseal(reseal) => return Err(format!("to be sealed again for reason {}", reseal.code).into()),
        }
        Ok(())
    }

    fn content(&mut self, number: u32) {
        self.first.get_or_insert(self.began.elapsed());
        self.wrong += u32::from(number != self.frames);
        self.frames += 1;
    }
}
