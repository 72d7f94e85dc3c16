//! An answer as a stream of server-sent events, for as long as somebody takes them.

use std::time::Duration;

use axum::body::Bytes;
use darkbloom_dialect::{ApiError, openai};
use darkbloom_types::SecretBytes;
use darkbloom_wire::limits;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::engine::Begun;
use super::super::places::Place;
use super::calls::CallIds;
use super::{Call, lost, timing_json};
use crate::{Completed, Failed, Part};

/// A stream that is silent this long sends a comment, so that nothing on the way closes it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A consumer that takes nothing for this long is cut off, its request cancelled and its place given to others.
const CONSUMER_WAIT: Duration = Duration::from_millis(limits::CONSUMER_WAIT.0);
/// Pieces that may wait for the consumer here; behind them wait the parts of the call, then the network.
const PIECES_MAX: usize = 8;

/// The answer breaks off. Its connection is closed for it, so that no consumer takes what came for all.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the answer was cut off")]
pub struct CutOff;

/// What a consumer gets. A task of its own reads the answer, keeps the place while it does, and ends when the answer does,
/// when the consumer goes, or when it takes nothing for too long. That drops the parts, which cancels the call.
pub fn pieces(about: Call, answer: Begun, place: Place) -> impl Stream<Item = Result<Bytes, CutOff>> + use<> {
    pieces_within(about, answer, place, CONSUMER_WAIT)
}

fn pieces_within(
    about: Call,
    answer: Begun,
    place: Place,
    wait: Duration,
) -> impl Stream<Item = Result<Bytes, CutOff>> + use<> {
    let writer = openai::ChunkWriter::new(&*about.id, about.created_unix_s, &*about.model, about.include_usage);
    let calls = CallIds::new(&about.id);
    let streaming = Streaming { about, answer, writer, calls, opened: false, over: false, _place: place };
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    tokio::spawn(streaming.run(sender, wait));
    futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece { bytes, last }) => Some((Ok(bytes), (!last).then_some(receiver))),
            None => Some((Err(CutOff), None)),
        }
    })
}

/// One or more events.
struct Piece {
    bytes: Bytes,
    /// Whether the answer is over with it.
    last: bool,
}

/// What a stream still has to say.
struct Streaming {
    about: Call,
    answer: Begun,
    writer: openai::ChunkWriter,
    calls: CallIds,
    opened: bool,
    over: bool,
    /// Counts this request as long as it is worked on.
    _place: Place,
}

impl Streaming {
    async fn run(mut self, consumer: mpsc::Sender<Piece>, wait: Duration) {
        while !self.over {
            let bytes = tokio::select! {
                bytes = self.next() => bytes,
                () = consumer.closed() => return,
            };
            match timeout(wait, consumer.send(Piece { bytes, last: self.over })).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!(id = %self.about.request_id, "a consumer takes nothing and is cut off");
                    return;
                }
            }
        }
    }

    async fn next(&mut self) -> Bytes {
        if !self.opened {
            self.opened = true;
            return bytes(&self.writer.role());
        }
        let part = match timeout(KEEP_ALIVE, self.answer.parts.recv()).await {
            Err(_) => return Bytes::from_static(openai::keep_alive()),
            Ok(part) => part,
        };
        match part {
            Some(Part::Text(text)) => bytes(&self.writer.content(text.expose())),
            Some(Part::Reasoning(text)) => bytes(&self.writer.reasoning(text.expose())),
            Some(Part::Call(name)) => {
                let (index, id) = self.calls.next();
                bytes(&self.writer.call(index, &id, name.expose()))
            }
            Some(Part::Arguments(more)) => bytes(&self.writer.arguments(self.calls.last(), more.expose())),
            Some(Part::Completed(completed)) => self.end(&completed),
            Some(Part::Failed(failed)) => self.fail(&failed),
            None => self.fail(&lost(&self.answer)),
        }
    }

    /// The end comes only once receipt and bill are verified.
    fn end(&mut self, completed: &Completed) -> Bytes {
        self.over = true;
        let mut out = self.writer.finish(completed.finish).expose().to_vec();
        let usage = openai::Usage { input: completed.input_tokens, output: completed.output_tokens };
        if let Some(usage) = self.writer.usage(usage) {
            out.extend_from_slice(usage.expose());
        }
        if let Some(settled) = &completed.settled {
            let verified = serde_json::json!({
                (self.about.vouching.field): self.about.vouching.sealed_by,
                "receipt": settled.receipt,
                "charge_nano_usd": settled.charge,
            });
            out.extend_from_slice(format!(": x-darkbloom {verified}\n").as_bytes());
        }
        out.extend_from_slice(format!(": x-timing {}\n\n", timing_json(&completed.timing)).as_bytes());
        out.extend_from_slice(self.writer.done().expose());
        Bytes::from(out)
    }

    fn fail(&mut self, failed: &Failed) -> Bytes {
        self.over = true;
        let error = ApiError::midway(&failed.refusal, self.answer.charged());
        // Before the error: a client need not read on after it.
        let mut out = format!(": x-timing {}\n\n", timing_json(&failed.timing)).into_bytes();
        out.extend_from_slice(self.writer.error(&error, Some(&self.about.request_id)).expose());
        Bytes::from(out)
    }
}

fn bytes(secret: &SecretBytes) -> Bytes {
    Bytes::copy_from_slice(secret.expose())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;

    use darkbloom_content::FinishReason;
    use darkbloom_types::{NanoDollars, ReceiptId, SecretString, TokenCount};
    use futures_util::StreamExt as _;
    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::super::super::places::Places;
    use super::super::tests::{about, calling, cut};
    use super::*;
    use crate::parties::answer;
    use crate::{Settled, Timing};

    /// As good as for ever.
    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    fn text() -> Part {
        Part::Text(SecretString::from("word "))
    }

    fn completed() -> Part {
        Part::Completed(Box::new(Completed {
            finish: FinishReason::Stop,
            input_tokens: TokenCount(1),
            output_tokens: TokenCount(2),
            settled: Some(Settled { receipt: ReceiptId([0; 32]), charge: NanoDollars::ZERO }),
            timing: Timing::default(),
        }))
    }

    fn place() -> (Arc<Semaphore>, Place) {
        let places = Places::new(1);
        let place = places.take(&"key".into()).ok().unwrap();
        (places.free, place)
    }

    /// Sends parts until nobody takes them any more, and says how many went.
    async fn sent_until_closed(parts: &mpsc::Sender<Part>) -> usize {
        let mut sent = 0;
        while timeout(LONG, parts.send(text())).await.expect("it is closed in time").is_ok() {
            sent += 1;
        }
        sent
    }

    #[tokio::test]
    async fn a_consumer_that_stops_reading_is_cut_off_and_its_place_given_back() {
        let ((room, place), (parts, receiver)) = (place(), mpsc::channel(1));
        let mut pieces = pin!(pieces_within(about(), answer(receiver, None).into(), place, SHORT));
        assert!(pieces.next().await.unwrap().is_ok());
        assert_eq!(room.available_permits(), 0);
        // The body is not polled any more: what backs up reaches whoever writes the parts, as the end of the call.
        let sent = sent_until_closed(&parts).await;
        assert!(sent <= PIECES_MAX + 3, "{sent} parts were taken with nobody reading");
        let free = timeout(LONG, Arc::clone(&room).acquire_owned()).await;
        assert!(free.is_ok(), "the place is free, although the consumer still holds its connection");
        let rest: Vec<_> = pieces.collect().await;
        assert_eq!(rest.last(), Some(&Err(CutOff)), "what came must not look whole");
        assert!(rest.iter().flatten().all(|piece| !piece.ends_with(b"[DONE]\n\n")));
    }

    #[tokio::test]
    async fn a_slow_consumer_gets_all_of_its_answer() {
        let ((room, place), (parts, receiver)) = (place(), mpsc::channel(1));
        let mut pieces = pin!(pieces_within(about(), answer(receiver, None).into(), place, Duration::from_secs(2)));
        let writer = tokio::spawn(async move {
            for _ in 0..3 * PIECES_MAX {
                parts.send(text()).await.unwrap();
            }
            parts.send(completed()).await.unwrap();
        });
        let mut rest = Vec::new();
        while let Some(piece) = pieces.next().await {
            rest.extend_from_slice(&piece.unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        writer.await.unwrap();
        let text = String::from_utf8(rest).unwrap();
        assert_eq!(text.matches("word ").count(), 3 * PIECES_MAX);
        assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(timeout(LONG, Arc::clone(&room).acquire_owned()).await.map(|_| ()), Ok(()));
    }

    #[tokio::test]
    async fn a_stream_has_its_calls_and_its_reasoning() {
        let ((_room, place), (parts, receiver)) = (place(), mpsc::channel(8));
        for part in calling() {
            parts.send(part).await.unwrap();
        }
        let pieces: Vec<_> = pieces(about(), answer(receiver, None).into(), place).collect().await;
        let mut deltas = Vec::new();
        for piece in pieces.iter().flatten() {
            let events = std::str::from_utf8(piece).unwrap().split("\n\n");
            let events = events.filter_map(|event| event.strip_prefix("data: ")).filter(|event| *event != "[DONE]");
            deltas.extend(events.map(|event| serde_json::from_str::<serde_json::Value>(event).unwrap()));
        }
        assert_eq!(deltas.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
        let deltas: Vec<_> = deltas.iter().map(|event| &event["choices"][0]["delta"]).collect();
        let mut ids = CallIds::new("chatcmpl-1");
        let mut begun = |name: &str| {
            let (index, id) = ids.next();
            let function = json!({"name": name, "arguments": ""});
            json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
        };
        let more =
            |index: usize, text: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
        let expected = [
            json!({"reasoning_content": "hm"}),
            json!({"content": "Look."}),
            begun("f"),
            more(0, "{\"a\""),
            more(0, ": 1}"),
            begun("g"),
            more(1, "{}"),
        ];
        assert_eq!(deltas[1..8], expected.iter().collect::<Vec<_>>()[..]);
    }

    #[tokio::test]
    async fn a_stream_that_fails_midway_says_what_it_cost() {
        for (charge, costs) in [(Some(NanoDollars(1_250)), true), (Some(NanoDollars::ZERO), true), (None, false)] {
            let ((_room, place), (parts, receiver)) = (place(), mpsc::channel(2));
            parts.send(text()).await.unwrap();
            parts.send(cut()).await.unwrap();
            let pieces: Vec<_> = pieces(about(), answer(receiver, charge).into(), place).collect().await;
            let last = pieces.last().unwrap().as_ref().unwrap();
            let body =
                last.strip_prefix(b": x-timing {\"parse_us\":7}\n\ndata: ").expect("timing, and an error as an event");
            let error = &serde_json::from_slice::<serde_json::Value>(body).unwrap()["error"];
            assert_eq!((&error["code"], &error["request_id"]), (&"answer_cut".into(), &"req_1".into()));
            assert_eq!(error.get("charge_nano_usd").is_some(), costs);
            assert_eq!(error["charge_nano_usd"].as_i64(), charge.map(|charge| charge.0));
        }
    }

    #[tokio::test]
    async fn a_consumer_that_goes_away_ends_a_silent_call() {
        let ((room, place), (parts, receiver)) = (place(), mpsc::channel(1));
        let mut pieces = Box::pin(pieces(about(), answer(receiver, None).into(), place));
        assert!(pieces.next().await.unwrap().is_ok());
        drop(pieces);
        assert_eq!(timeout(LONG, parts.closed()).await, Ok(()), "the call learns of it at once");
        assert_eq!(timeout(LONG, Arc::clone(&room).acquire_owned()).await.map(|_| ()), Ok(()));
    }
}
