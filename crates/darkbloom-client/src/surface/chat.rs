//! `POST /v1/chat/completions`.

mod calls;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use darkbloom_dialect::{ApiError, openai};
use darkbloom_host::{body, clock, request_id};
use darkbloom_types::{Refusal, RefusalCode, SecretString};
use darkbloom_wire::AttemptRecord;

use self::calls::CallIds;
use super::engine::Begun;
use super::{BODY_BYTES_MAX, Failure, HINTS, Shared, Vouching, accepted_key, put};
use crate::rates::RateHeaders;
use crate::{AnswerMeta, Failed, Operation, Part, Timing};

/// Longest time after which a caller is told to try again: a program that was told a day would sleep through all of it.
const RETRY_AFTER_S_MAX: u64 = 3_600;
/// Longest idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// What stays the same over an answer's pieces.
struct Call {
    id: String,
    request_id: String,
    created_unix_s: u64,
    model: String,
    include_usage: bool,
    vouching: Vouching,
    hints: Vec<&'static str>,
}

pub async fn completions(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let request_id = request_id::fresh();
    let answered = answer(&shared, &headers, body, request_id.clone()).await;
    answered.unwrap_or_else(|wrong| wrong.into_response(request_id))
}

/// Why there is no answer, and where the time went.
struct Wrong {
    error: ApiError,
    timing: Timing,
    rates: RateHeaders,
}

impl From<Refusal> for Wrong {
    /// Nothing was begun.
    fn from(refusal: Refusal) -> Self {
        Self { error: ApiError::from_refusal(&refusal), timing: Timing::default(), rates: RateHeaders::default() }
    }
}

impl Wrong {
    fn into_response(self, id: String) -> Response {
        let mut response = Failure { error: self.error, id }.into_response();
        put(response.headers_mut(), "x-timing", &timing_json(&self.timing));
        put_rates(response.headers_mut(), &self.rates);
        response
    }
}

impl From<Failed> for Wrong {
    fn from(failed: Failed) -> Self {
        let Failed { refusal, timing, rates, retry_after } = failed;
        let mut error = ApiError::from_refusal(&refusal);
        if let Some(after) = retry_after.filter(|_| error.retry_after_s.is_some()) {
            // The coordinator knows better, within reason.
            error.retry_after_s = Some(after.0.div_ceil(1_000).clamp(1, RETRY_AFTER_S_MAX));
        }
        Self { error, timing, rates }
    }
}

fn put_rates(headers: &mut HeaderMap, rates: &RateHeaders) {
    for (name, value) in rates.iter() {
        put(headers, name, value);
    }
}

async fn answer(shared: &Arc<Shared>, headers: &HeaderMap, body: Body, request_id: String) -> Result<Response, Wrong> {
    // Nothing of the body is read for somebody without a key that counts, nor when there is no room for it.
    let key = accepted_key(shared, headers).await?;
    let idempotency_key = idempotency_key(headers)?;
    let place = shared.places.take(&key)?;
    let body = body::read(body, BODY_BYTES_MAX).await.map_err(Refusal::from)?;
    let began = Instant::now();
    let parsed = openai::parse_chat(&body);
    drop(body);
    let parse = began.elapsed();
    let call = parsed.map_err(|error| {
        let mut timing = Timing::default();
        timing.parse(parse);
        Wrong { error, timing, rates: RateHeaders::default() }
    })?;
    let about = Call {
        id: format!("chatcmpl-{}", request_id.trim_start_matches("req_")),
        request_id,
        created_unix_s: u64::try_from(clock::now().0 / 1_000).unwrap_or(0),
        model: call.model.clone(),
        include_usage: call.include_usage,
        vouching: shared.role.vouching(),
        hints: call.hints,
    };
    let streams = call.stream;
    let operation = Operation {
        key: key.clone(),
        model: call.model,
        request: call.request,
        stream: call.stream,
        max_output_tokens: call.max_output_tokens,
        idempotency_key,
        parse,
    };
    let answer = shared.backend.answer(operation).await;
    let answer = answer.map_err(|failed| {
        shared.keys.refused(&key, failed.refusal.code);
        Wrong::from(*failed)
    })?;
    if streams {
        let headers = stream_headers(&about, &answer);
        let pieces = stream::pieces(about, answer, place);
        Ok((StatusCode::OK, headers, Body::from_stream(pieces)).into_response())
    } else {
        // The place is held until the text is whole: what is left is to hand it over, which the listener watches.
        let response = whole(&about, answer).await?;
        drop(place);
        Ok(response)
    }
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

/// The documented headers: what was verified, and whose word that is.
fn meta_headers(about: &Call, meta: Option<&AnswerMeta>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    put(&mut headers, request_id::HEADER, &about.request_id);
    if let Some(meta) = meta {
        put(&mut headers, "x-darkbloom-sealed-by", about.vouching.sealed_by);
        put(&mut headers, about.vouching.header, about.vouching.sealed_by);
        put(&mut headers, "x-darkbloom-request", &meta.request.to_string());
        put(&mut headers, "x-darkbloom-provider", &meta.provider.to_string());
        put(&mut headers, "x-darkbloom-tier", meta.tier.name());
        put(&mut headers, "x-darkbloom-trust", meta.trust.name());
        put(&mut headers, "x-darkbloom-epoch", &meta.epoch.to_string());
        put(&mut headers, "x-darkbloom-catalogue", &meta.catalogue.to_string());
        put(&mut headers, "x-darkbloom-attempts", &attempts(&meta.attempts));
        put_rates(&mut headers, &meta.rates);
    }
    if !about.hints.is_empty() {
        put(&mut headers, HINTS, &about.hints.join(", "));
    }
    headers
}

/// Who was asked and what came of it, in order: `PROVIDER=accepted`, or the reason of a refusal in its place.
fn attempts(attempts: &[AttemptRecord]) -> String {
    let attempts = attempts.iter().map(|attempt| format!("{}={}", attempt.provider, attempt.outcome().name()));
    attempts.collect::<Vec<_>>().join(", ")
}

fn timing_json(timing: &Timing) -> String {
    serde_json::to_string(timing).expect("numbers and names are always JSON")
}

async fn whole(about: &Call, mut answer: Begun) -> Result<Response, Wrong> {
    let mut said = openai::Said::default();
    let mut ids = CallIds::new(&about.id);
    let completed = loop {
        match answer.parts.recv().await {
            Some(Part::Text(more)) => said.text.push_str(more.expose()),
            Some(Part::Reasoning(more)) => said.reasoning.push_str(more.expose()),
            Some(Part::Call(name)) => {
                let (_, id) = ids.next();
                said.calls.push(openai::Call { id, name, arguments: SecretString::default() });
            }
            Some(Part::Arguments(more)) => {
                // Behind a call's name: the recount lets nothing else through.
                said.calls.last_mut().into_iter().for_each(|call| call.arguments.push_str(more.expose()));
            }
            Some(Part::Completed(completed)) => break Ok(completed),
            Some(Part::Failed(failed)) => break Err(failed),
            None => break Err(lost(&answer)),
        }
    };
    let completed = completed.map_err(|failed| Wrong {
        error: ApiError::midway(&failed.refusal, answer.charged()),
        timing: failed.timing,
        rates: failed.rates,
    })?;
    let mut headers = meta_headers(about, answer.meta.as_ref());
    headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
    if let Some(settled) = &completed.settled {
        put(&mut headers, "x-darkbloom-receipt", &settled.receipt.to_string());
    }
    put(&mut headers, "x-timing", &timing_json(&completed.timing));
    let usage = openai::Usage { input: completed.input_tokens, output: completed.output_tokens };
    let body = openai::completion(&about.id, about.created_unix_s, &about.model, &said, completed.finish, usage);
    Ok((StatusCode::OK, headers, body.expose().to_vec()).into_response())
}

/// How an answer ends whose call went away without a word.
fn lost(answer: &Begun) -> Box<Failed> {
    Box::new(Failed::new(RefusalCode::Internal.into(), answer.timing))
}

fn stream_headers(about: &Call, answer: &Begun) -> HeaderMap {
    let mut headers = meta_headers(about, answer.meta.as_ref());
    headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, axum::http::HeaderValue::from_static("no-store"));
    put(&mut headers, "x-timing", &timing_json(&answer.timing));
    headers
}

#[cfg(test)]
mod tests {
    use darkbloom_content::FinishReason;
    use darkbloom_types::{NanoDollars, ReceiptId, TokenCount};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{Completed, Role, Settled, parties};

    pub fn about() -> Call {
        Call {
            id: "chatcmpl-1".to_owned(),
            request_id: "req_1".to_owned(),
            created_unix_s: 0,
            model: "small".to_owned(),
            include_usage: false,
            vouching: Role::Proxy { key: "key".into() }.vouching(),
            hints: Vec::new(),
        }
    }

    /// An answer that is cut, seven microseconds of it known.
    pub fn cut() -> Part {
        let mut timing = Timing::default();
        timing.parse(std::time::Duration::from_micros(7));
        Part::Failed(Box::new(Failed::new(RefusalCode::AnswerCut.into(), timing)))
    }

    /// An answer that thinks, says something, and calls twice.
    pub fn calling() -> [Part; 8] {
        let (call, arguments) = (|name: &str| Part::Call(name.into()), |text: &str| Part::Arguments(text.into()));
        let completed = Completed {
            finish: FinishReason::ToolCalls,
            input_tokens: TokenCount(1),
            output_tokens: TokenCount(2),
            settled: Some(Settled { receipt: ReceiptId([0; 32]), charge: NanoDollars::ZERO }),
            timing: Timing::default(),
        };
        [
            Part::Reasoning("hm".into()),
            Part::Text("Look.".into()),
            call("f"),
            arguments("{\"a\""),
            arguments(": 1}"),
            call("g"),
            arguments("{}"),
            Part::Completed(Box::new(completed)),
        ]
    }

    #[tokio::test]
    async fn a_whole_answer_has_its_calls_and_its_reasoning() {
        let (parts, receiver) = mpsc::channel(8);
        for part in calling() {
            parts.send(part).await.unwrap();
        }
        let response = whole(&about(), parties::answer(receiver, None).into()).await.ok().unwrap();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let choice = &serde_json::from_slice::<serde_json::Value>(&body).unwrap()["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        let message = &choice["message"];
        assert_eq!((&message["content"], &message["reasoning_content"]), (&"Look.".into(), &"hm".into()));
        let mut ids = CallIds::new("chatcmpl-1");
        let calls = [("f", "{\"a\": 1}"), ("g", "{}")].map(|(name, arguments)| {
            serde_json::json!({
                "id": ids.next().1, "type": "function", "function": {"name": name, "arguments": arguments},
            })
        });
        assert_eq!(message["tool_calls"], serde_json::Value::from(calls.to_vec()));
    }

    #[tokio::test]
    async fn an_answer_that_fails_midway_says_what_it_cost_and_is_not_repeated_unseen_if_it_cost_anything() {
        for (charge, should_retry) in
            [(Some(NanoDollars(1_250)), Some("false")), (None, Some("false")), (Some(NanoDollars::ZERO), None)]
        {
            let (parts, receiver) = mpsc::channel(2);
            parts.send(Part::Text("word ".into())).await.unwrap();
            parts.send(cut()).await.unwrap();
            let Err(wrong) = whole(&about(), parties::answer(receiver, charge).into()).await else {
                panic!("it is no answer")
            };
            assert_eq!((wrong.error.code, wrong.error.charge), (Some("answer_cut"), charge));
            let response = wrong.into_response("req_1".to_owned());
            assert_eq!(response.headers()["x-timing"], r#"{"parse_us":7}"#);
            let said = response.headers().get("x-should-retry").map(|value| value.to_str().unwrap());
            assert_eq!((response.status(), said), (StatusCode::BAD_GATEWAY, should_retry));
        }
    }
}
