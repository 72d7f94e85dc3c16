//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use darkbloom_dialect::{ApiError, openai};
use darkbloom_types::{Refusal, RefusalCode, SecretBytes, SecretString};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::{Failure, Shared, key, put, request_id};
use crate::{Answer, AnswerMeta, Completed, Operation, Part};
use darkbloom_host::clock;

/// A stream that is silent this long sends a comment, so that nothing on the way closes it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// What stays the same over an answer's pieces.
struct Call {
    id: String,
    request_id: String,
    created_unix_s: u64,
    model: String,
    include_usage: bool,
    sealed_by: &'static str,
    hints: Vec<&'static str>,
}

pub async fn completions(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let request_id = request_id();
    match answer(&shared, &headers, body, request_id.clone()).await {
        Ok(response) => response,
        Err(Reply::Refused(refusal)) => {
            Failure::with_id(ApiError::from_refusal(&refusal), request_id, refusal.code).into_response()
        }
        Err(Reply::Dialect(error)) => Failure::with_id(error, request_id, RefusalCode::InvalidRequest).into_response(),
    }
}

enum Reply {
    Refused(Refusal),
    Dialect(ApiError),
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn answer(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
    request_id: String,
) -> Result<Response, Reply> {
    let key = key(shared, headers)?;
    let body = body.map_err(|_| Refusal::from(RefusalCode::TooLarge))?;
    let room = Arc::clone(&shared.room).try_acquire_owned();
    let room = room.map_err(|_| Refusal::new(RefusalCode::NoCapacity, "too many requests at once here"))?;
    let idempotency_key = idempotency_key(headers)?;
    let began = Instant::now();
    let call = openai::parse_chat(&body).map_err(Reply::Dialect)?;
    drop(body);
    let parse = began.elapsed();
    let about = Call {
        id: format!("chatcmpl-{}", request_id.trim_start_matches("req_")),
        request_id,
        created_unix_s: u64::try_from(clock::now().0 / 1_000).unwrap_or(0),
        model: call.model.clone(),
        include_usage: call.include_usage,
        sealed_by: shared.role.sealed_by(),
        hints: call.hints,
    };
    let streams = call.stream;
    let operation = Operation {
        key,
        model: call.model,
        request: call.request,
        stream: call.stream,
        max_output_tokens: call.max_output_tokens,
        idempotency_key,
        parse,
    };
    let answer = shared.client.chat(operation).await?;
    if streams { Ok(streamed(about, answer, room)) } else { Ok(whole(&about, answer).await?) }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= IDEMPOTENCY_KEY_BYTES_MAX => Ok(Some(text.to_owned())),
        _ => {
            let detail = format!("`idempotency-key` has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters");
            Err(Refusal::new(RefusalCode::InvalidRequest, detail))
        }
    }
}

/// The documented headers: what was verified, and by whom.
fn meta_headers(about: &Call, meta: &AnswerMeta) -> HeaderMap {
    let mut headers = HeaderMap::new();
    put(&mut headers, "x-request-id", &about.request_id);
    put(&mut headers, "x-darkbloom-sealed-by", about.sealed_by);
    put(&mut headers, "x-darkbloom-verified-by", about.sealed_by);
    put(&mut headers, "x-darkbloom-request", &meta.request.to_string());
    put(&mut headers, "x-darkbloom-provider", &meta.provider.to_string());
    put(&mut headers, "x-darkbloom-tier", meta.tier.name());
    put(&mut headers, "x-darkbloom-trust", meta.trust.name());
    put(&mut headers, "x-darkbloom-epoch", &meta.epoch.to_string());
    put(&mut headers, "x-darkbloom-catalogue", &meta.catalogue.to_string());
    put(&mut headers, "x-darkbloom-attempts", &meta.attempts.len().to_string());
    if !about.hints.is_empty() {
        put(&mut headers, "x-darkbloom-hints", &about.hints.join(", "));
    }
    headers
}

fn timing_json(timing: &crate::Timing) -> String {
    serde_json::to_string(timing).expect("a struct of numbers is always JSON")
}

async fn whole(about: &Call, mut answer: Answer) -> Result<Response, Refusal> {
    let mut text = SecretString::default();
    let completed = loop {
        match answer.parts.recv().await {
            Some(Part::Text(more)) => text.push_str(more.expose()),
            Some(Part::Completed(completed)) => break completed,
            Some(Part::Failed(refusal)) => return Err(refusal),
            None => return Err(RefusalCode::Internal.into()),
        }
    };
    let mut headers = meta_headers(about, &answer.meta);
    headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
    put(&mut headers, "x-darkbloom-receipt", &completed.receipt.to_string());
    put(&mut headers, "x-timing", &timing_json(&completed.timing));
    let usage = openai::Usage { input: completed.input_tokens, output: completed.output_tokens };
    let body =
        openai::completion(&about.id, about.created_unix_s, &about.model, text.expose(), completed.finish, usage);
    Ok((StatusCode::OK, headers, body.expose().to_vec()).into_response())
}

/// What a stream still has to say.
struct Streaming {
    about: Call,
    answer: Answer,
    writer: openai::ChunkWriter,
    opened: bool,
    over: bool,
    /// Counts this stream as long as it runs.
    _room: OwnedSemaphorePermit,
}

fn streamed(about: Call, answer: Answer, room: OwnedSemaphorePermit) -> Response {
    let mut headers = meta_headers(&about, &answer.meta);
    headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store"));
    put(&mut headers, "x-timing", &timing_json(&answer.meta.timing));
    let writer = openai::ChunkWriter::new(&*about.id, about.created_unix_s, &*about.model, about.include_usage);
    let state = Streaming { about, answer, writer, opened: false, over: false, _room: room };
    let events = stream::unfold(state, |mut state| async move {
        let piece = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), state))
    });
    (StatusCode::OK, headers, Body::from_stream(events)).into_response()
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if !self.opened {
            self.opened = true;
            return Some(bytes(&self.writer.role()));
        }
        loop {
            let part = match timeout(KEEP_ALIVE, self.answer.parts.recv()).await {
                Err(_) => return Some(Bytes::from_static(openai::keep_alive())),
                Ok(part) => part,
            };
            match part {
                Some(Part::Text(text)) if text.is_empty() => {}
                Some(Part::Text(text)) => return Some(bytes(&self.writer.content(text.expose()))),
                Some(Part::Completed(completed)) => return Some(self.end(&completed)),
                Some(Part::Failed(refusal)) => return Some(self.fail(&refusal)),
                None => return Some(self.fail(&RefusalCode::Internal.into())),
            }
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
        let verified = serde_json::json!({
            "verified_by": self.about.sealed_by,
            "receipt": completed.receipt,
            "charge_nano_usd": completed.charge,
        });
        out.extend_from_slice(
            format!(": x-darkbloom {verified}\n: x-timing {}\n\n", timing_json(&completed.timing)).as_bytes(),
        );
        out.extend_from_slice(self.writer.done().expose());
        Bytes::from(out)
    }

    fn fail(&mut self, refusal: &Refusal) -> Bytes {
        self.over = true;
        bytes(&self.writer.error(&ApiError::from_refusal(refusal), Some(&self.about.request_id)))
    }
}

fn bytes(secret: &SecretBytes) -> Bytes {
    Bytes::copy_from_slice(secret.expose())
}
