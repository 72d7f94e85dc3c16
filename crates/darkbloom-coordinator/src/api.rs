//! The coordinator's HTTP surface. It serves keys, candidates, sealed requests and administration; no dialect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, MatchedPath, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use darkbloom_ledger::Spender;
use darkbloom_store::{KeyKind, KeyRecord};
use darkbloom_types::{AccountId, Digest, Millis, Refusal, RefusalCode, error_type};
use darkbloom_wire::{Decoded, LengthPrefixed, PublicKey, Relayed, RelayedRefused, limits};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::rates::{Kind, Left, Over};
use crate::relay::Turned;
use crate::state::{BODIES_MAX, Shared};
use crate::{account, activation, admin, auth, keys, policy, proof, provider_socket, published, relay};
use darkbloom_host::{body, clock, request_id};

/// Media type of frames; `docs/protocol.md` describes them.
pub const FRAMES: &str = "application/vnd.darkbloom.frames";
/// Rows of a usage list.
const USAGE_MAX: u32 = 1_000;
/// When to try again where waiting helps: a request takes seconds.
const AGAIN: Duration = Duration::from_secs(2);
/// What is read at once from a provider's connection, and kept for it as long as it is there: a dozen frames of one token. By
/// itself a WebSocket takes 128 KiB, which is most of what an idle connection costs.
const PROVIDER_READ_BYTES: usize = 4 << 10;
/// Readiness is looked at no more often, whoever asks.
const READY_EVERY: Duration = Duration::from_secs(1);

/// A refusal as an HTTP answer: OpenAI's error shape, so that clients which know it can show it. [`named`] writes the body,
/// with the request's id.
#[derive(Debug, Clone)]
pub struct Refused(pub Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<RefusalCode> for Refused {
    fn from(code: RefusalCode) -> Self {
        Self(code.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let mut response = (status(code), again(code)).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives each request an id: in its answer's header, in an error's body, and in what the log says on the way.
pub async fn named(request: Request, next: Next) -> Response {
    let id = request_id::fresh();
    let span = tracing::error_span!("request", %id);
    let mut response = next.run(request).instrument(span).await;
    if let Some(Refused(refusal)) = response.extensions_mut().remove() {
        let code = refusal.code;
        let error = json!({
            "message": refusal.message(), "type": error_type(code.http_status()), "code": code.name(), "param": null,
            "request_id": id,
        });
        let body = json!({"error": error}).to_string();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The answer was made without a body, and said so.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(body);
    }
    let id = HeaderValue::from_str(&id).expect("an id is letters and digits");
    response.headers_mut().insert(request_id::HEADER, id);
    response
}

/// Counts each request under its route's pattern.
async fn counted(
    State(shared): State<Arc<Shared>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let route = path.as_ref().map_or("unknown", MatchedPath::as_str);
    shared.metrics.answered(route, response.status().as_u16());
    response
}

/// Whether waiting may cure a refusal that stands before any routing.
fn waits(code: RefusalCode) -> bool {
    matches!(code, RefusalCode::RateLimitExceeded | RefusalCode::NoCapacity | RefusalCode::Draining)
}

fn again(code: RefusalCode) -> HeaderMap {
    if waits(code) { after(Millis::from_secs(AGAIN.as_secs())) } else { HeaderMap::new() }
}

/// Whole seconds (RFC 9110 section 10.2.3).
fn after(wait: Millis) -> HeaderMap {
    HeaderMap::from_iter([(header::RETRY_AFTER, wait.0.div_ceil(1_000).max(1).into())])
}

fn status(code: RefusalCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A failure of the store, in the log with its reason and to the caller without.
pub fn internal(error: impl std::fmt::Display) -> Refused {
    tracing::error!(%error, "an internal error answered a request");
    RefusalCode::Internal.into()
}

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { axum::Json(json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .route("/v1/network", get(network))
        .route("/v1/catalogue", get(catalogue))
        .route("/v1/blobs/{digest}", get(blob))
        .route("/v1/candidates", get(candidates))
        .route("/v1/sealed", post(sealed))
        .route("/v1/providers/attestation", get(published::list))
        .route("/v1/provider", get(provider))
        .route("/v1/balance", get(balance))
        .route("/v1/usage", get(usage))
        .route("/v1/key", get(keys::own))
        .route("/v1/keys", get(keys::of_account::list).post(keys::of_account::create))
        .route("/v1/keys/{id}", patch(keys::of_account::edit).delete(keys::of_account::revoke))
        .route("/v1/keys/{id}/rotate", post(keys::of_account::rotate))
        .route("/v1/earnings", get(account::earnings))
        .route("/v1/earnings/jobs", get(account::jobs))
        .route("/v1/earnings/jobs.csv", get(account::jobs_csv))
        .route("/v1/earnings/spend", post(account::spend))
        .route("/v1/machines", get(account::machines))
        .route("/v1/payouts", get(account::payouts).post(account::payout))
        .route("/v1/disputes", post(account::dispute))
        .route("/v1/invites/redeem", post(account::redeem))
        .route("/v1/referral", post(account::referral_code))
        .route("/v1/referral/apply", post(account::referred))
        .route("/v1/prices", put(account::price))
        .route("/v1/device/code", post(account::device::begin))
        .route("/v1/device/token", post(account::device::token))
        .route("/v1/device/approve", post(account::device::approve))
        .merge(administration(&shared))
        .fallback(|| async { Refused::from(RefusalCode::NotFound) })
        .method_not_allowed_fallback(|| async { Refused::from(RefusalCode::MethodNotAllowed) })
        .with_state(Arc::clone(&shared))
        .merge(activation::routes(Arc::clone(&shared.activation)))
        .layer(middleware::from_fn(named))
        .layer(middleware::from_fn_with_state(shared, counted))
}

/// What an administrator's key opens; each call that may change something leaves its trail.
fn administration(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    Router::new()
        .route("/admin/v1/accounts", get(admin::accounts).post(admin::account_create))
        .route("/admin/v1/accounts/{name}", patch(admin::money::account_edit))
        .route("/admin/v1/keys", get(keys::of_all::list).post(keys::of_all::create))
        .route("/admin/v1/keys/{id}", patch(keys::of_all::edit).delete(keys::of_all::revoke))
        .route("/admin/v1/keys/{id}/rotate", post(keys::of_all::rotate))
        .route("/admin/v1/deposits", get(admin::money::deposits).post(admin::money::deposit))
        .route("/admin/v1/prices", get(admin::money::prices).put(admin::money::price))
        .route("/admin/v1/invites", get(admin::money::invites).post(admin::money::invite))
        .route("/admin/v1/invites/{id}", axum::routing::delete(admin::money::invite_end))
        .route("/admin/v1/payouts", get(admin::money::payouts))
        .route("/admin/v1/payouts/{id}", patch(admin::money::payout_edit))
        .route("/admin/v1/disputes", get(admin::money::disputes))
        .route("/admin/v1/disputes/{request}", post(admin::money::dispute_decide))
        .route("/admin/v1/owners/{provider}", put(admin::money::owner))
        .route("/admin/v1/catalogue", put(admin::catalogue_put))
        .route("/admin/v1/blobs", put(admin::blob_put))
        .route("/admin/v1/providers", get(admin::providers))
        .route("/admin/v1/standings", get(admin::standings::list))
        .route("/admin/v1/standings/{provider}", put(admin::standings::put))
        .route("/admin/v1/policy", get(policy::get).put(policy::put))
        .route("/admin/v1/policy/check", post(policy::check))
        .route("/admin/v1/audit", get(admin::audit))
        .route("/admin/v1/trail", get(admin::trail::list))
        .route("/admin/v1/trail/check", get(admin::trail::check))
        .route_layer(middleware::from_fn_with_state(Arc::clone(shared), admin::trail::kept))
}

/// The consumer behind a request.
pub fn consumer(shared: &Shared, headers: &HeaderMap) -> Result<KeyRecord, Refused> {
    Ok(auth::bearer(&shared.store, headers, KeyKind::Consumer)?)
}

async fn ready(State(shared): State<Arc<Shared>>) -> Result<axum::Json<Value>, Refused> {
    if shared.is_draining() {
        return Err(RefusalCode::Draining.into());
    }
    let mut last = shared.readiness.lock().await;
    if let Some((_, known)) = last.as_ref().filter(|(at, _)| at.elapsed() < READY_EVERY) {
        return Ok(axum::Json(known.clone()));
    }
    // A read through the store shows that the database answers.
    shared.store.meta_get("ready").await.map_err(internal)?;
    let counts = shared.with_registry(|registry| registry.counts(shared.tier_min));
    let known = json!({"status": "ok", "providers_connected": counts.connected, "providers_eligible": counts.routable});
    *last = Some((Instant::now(), known.clone()));
    Ok(axum::Json(known))
}

#[derive(Deserialize)]
struct NetworkQuery {
    nonce: Option<String>,
}

async fn network(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<NetworkQuery>, QueryRejection>,
) -> Result<axum::Json<Value>, Refused> {
    let wrong = || Refusal::new(RefusalCode::InvalidRequest, "`nonce` must be 64 hex digits");
    let nonce = query.map_err(|_| wrong())?.0.nonce;
    let PublicKey::P256(key) = shared.key.public_key() else { unreachable!("identity keys are on P-256") };
    let mut network = json!({
        "network": shared.network,
        "coordinator_key": hex::encode(key),
        "activator_key": shared.activation.key().map(hex::encode),
        "time": clock::now(),
        "release": env!("CARGO_PKG_VERSION"),
    });
    if let Some(digits) = nonce {
        let mut nonce = [0; 32];
        hex::decode_to_slice(&digits, &mut nonce).map_err(|_| wrong())?;
        network["proof"] = hex::encode(proof::prove(&shared, &nonce, None)?).into();
    }
    Ok(axum::Json(network))
}

async fn catalogue(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let catalogue = shared.catalogue();
    let models: Vec<_> = catalogue
        .items()
        .iter()
        .map(|item| json!({"name": item.entry.name, "digest": item.digest, "entry": hex::encode(&item.signed), "price": item.price}))
        .collect();
    axum::Json(json!({"network": shared.network, "models": models}))
}

async fn blob(
    State(shared): State<Arc<Shared>>,
    digest: Result<Path<String>, PathRejection>,
) -> Result<Response, Refused> {
    let Path(digest) = digest.map_err(|_| RefusalCode::NotFound)?;
    let digest: Digest = digest.parse().map_err(|_| RefusalCode::NotFound)?;
    // Only what a model needs is read from the database: nobody can make it search for anything else.
    let load =
        async { if shared.catalogue().needs(&digest) { shared.store.blob_load(digest).await } else { Ok(None) } };
    let bytes = shared.blobs.take(digest, load).await.map_err(internal)?.ok_or(RefusalCode::NotFound)?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((headers, bytes).into_response())
}

#[derive(Deserialize)]
struct CandidatesQuery {
    model: String,
}

async fn candidates(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Result<Query<CandidatesQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let key = consumer(&shared, &headers)?;
    let account = key.account.ok_or(RefusalCode::Forbidden)?;
    let Query(query) = query.map_err(|_| Refusal::new(RefusalCode::InvalidRequest, "the query must name `model`"))?;
    let item = shared.catalogue().for_account(&query.model, account).ok_or(RefusalCode::ModelNotFound)?;
    if !key.terms.allows_model(&query.model) {
        return Err(Refusal::new(RefusalCode::Forbidden, "this key may not ask that model").into());
    }
    let list = relay::candidate_list(&shared, &item).map_err(internal)?;
    Ok(([(header::CONTENT_TYPE, FRAMES)], list).into_response())
}

/// A consumer whose key was checked. As the first argument of a handler it is checked before the body is read, so that
/// nobody without a key can make this process buffer anything.
struct Consumer(KeyRecord);

impl FromRequestParts<Arc<Shared>> for Consumer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        match auth::bearer(&shared.store, &parts.headers, KeyKind::Consumer) {
            Ok(key) if shared.is_draining() => {
                tracing::debug!(key = key.id.0, "refused while stopping");
                Err(refused_frame(&RefusalCode::Draining.into()))
            }
            Ok(key) => Ok(Self(key)),
            Err(refusal) => Err(refused_frame(&refusal)),
        }
    }
}

async fn sealed(Consumer(key): Consumer, State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let (mut left, metrics) = (Left::default(), Arc::clone(&shared));
    let submitted = submitted(shared, key, body, &mut left).await;
    let mut answer = match submitted {
        Ok(frames) => relayed(frames).await,
        Err(turned) => {
            metrics.metrics.ended(turned.refusal.code.name());
            turned_frame(&turned)
        }
    };
    rate_headers(answer.headers_mut(), &left);
    answer
}

/// What is left of the caller's rates, in the headers that OpenAI's clients know.
fn rate_headers(headers: &mut HeaderMap, left: &Left) {
    type Names = [&'static str; 3];
    const REQUESTS: Names =
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    const TOKENS: Names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
    for ([limit, remaining, reset], left) in [(REQUESTS, left.requests), (TOKENS, left.tokens)] {
        let Some(left) = left else { continue };
        headers.insert(limit, left.limit.0.into());
        headers.insert(remaining, left.remaining.into());
        if let Ok(value) = HeaderValue::from_str(&format!("{}ms", left.reset.0)) {
            headers.insert(reset, value);
        }
    }
}

impl From<Over> for Turned {
    fn from(over: Over) -> Self {
        let whose = match over.spender {
            Spender::Key(_) => "key",
            Spender::Account(_) => "account",
        };
        let what = match over.kind {
            Kind::Requests => "requests",
            Kind::Tokens => "tokens",
        };
        let detail = match over.retry_after {
            Some(_) => format!("{} {what} a minute are what this {whose} may use", over.limit.0),
            None => format!(
                "one request may use more than the {} {what} that this {whose} may use in a minute",
                over.limit.0
            ),
        };
        Self { refusal: Refusal::new(RefusalCode::RateLimitExceeded, detail), retry_after: over.retry_after }
    }
}

async fn relayed(mut frames: mpsc::Receiver<Bytes>) -> Response {
    // The first frame decides the status: a refusal before anything else is an error to every HTTP client too.
    let Some(first) = frames.recv().await else { return refused_frame(&RefusalCode::Internal.into()) };
    let (code, again) = match first.get(4..).map(Relayed::decode) {
        Some(Ok(Decoded::Known(Relayed::RelayedRefused(frame), _))) => {
            (status(frame.refusal().code), frame.retry_after.map(after).unwrap_or_default())
        }
        _ => (StatusCode::OK, HeaderMap::new()),
    };
    let rest = stream::unfold((Some(first), frames), |(first, mut frames)| async move {
        let frame = match first {
            Some(frame) => frame,
            None => frames.recv().await?,
        };
        Some((Ok::<_, std::convert::Infallible>(frame), (None, frames)))
    });
    (code, again, [(header::CONTENT_TYPE, FRAMES)], Body::from_stream(rest)).into_response()
}

/// Reads a submission and begins to relay it. Both places are taken before the first byte is read: no account, and not all
/// of them together, makes this process hold more bodies than it stated. The body is dropped before anything is answered.
async fn submitted(
    shared: Arc<Shared>,
    key: KeyRecord,
    body: Body,
    left: &mut Left,
) -> Result<mpsc::Receiver<Bytes>, Turned> {
    let account = key.account.ok_or_else(|| Refusal::new(RefusalCode::Forbidden, "the key has no account"))?;
    let limits = shared.limits(&key, account);
    left.requests = shared.rates.take(&limits, Kind::Requests, 1, shared.mono())?;
    let place = shared.place(account)?;
    let reading = Arc::clone(&shared.bodies)
        .try_acquire_owned()
        .map_err(|_| Refusal::new(RefusalCode::NoCapacity, format!("{BODIES_MAX} requests are being read")))?;
    let body = body::read(body, limits::FRAME_BYTES_MAX + 4).await.map_err(Refusal::from)?;
    let frames = relay::begin(shared, key, place, &body, left)?;
    drop((body, reading));
    Ok(frames)
}

fn refused_frame(refusal: &Refusal) -> Response {
    turned_frame(&Turned::from(refusal.clone()))
}

fn turned_frame(Turned { refusal, retry_after }: &Turned) -> Response {
    let usual = || waits(refusal.code).then(|| Millis::from_secs(AGAIN.as_secs()));
    let retry_after = retry_after.or_else(usual);
    let frame = Relayed::from(RelayedRefused {
        code: refusal.code.number(),
        detail: refusal.detail.clone(),
        retry_after,
        sealed: None,
        attempts: Vec::new().into(),
        bill: None,
        timing: None,
    });
    let bytes = LengthPrefixed::wrap(&frame.encode());
    let again = retry_after.map(after).unwrap_or_default();
    (status(refusal.code), again, [(header::CONTENT_TYPE, FRAMES)], bytes).into_response()
}

async fn provider(
    State(shared): State<Arc<Shared>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        return Refused(Refusal::new(RefusalCode::InvalidRequest, "only a WebSocket is served here")).into_response();
    };
    let Ok(stranger) = Arc::clone(&shared.strangers).try_acquire_owned() else {
        let detail = "too many connections have not introduced themselves yet";
        return Refused(Refusal::new(RefusalCode::NoCapacity, detail)).into_response();
    };
    upgrade
        .read_buffer_size(PROVIDER_READ_BYTES)
        .max_message_size(limits::FRAME_BYTES_MAX)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .on_upgrade(move |socket| provider_socket::serve(shared, socket, stranger))
}

/// The account behind a key that may see what it has.
fn reader(shared: &Shared, headers: &HeaderMap) -> Result<AccountId, Refused> {
    let key = auth::any(&shared.store, headers, &[KeyKind::Consumer, KeyKind::Account])?;
    key.account.ok_or_else(|| RefusalCode::Forbidden.into())
}

async fn balance(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<axum::Json<Value>, Refused> {
    let account = reader(&shared, &headers)?;
    let balance = shared.store.balance(account).await.map_err(internal)?.ok_or(RefusalCode::NotFound)?;
    Ok(axum::Json(json!({
        "object": "balance",
        "currency": "usd",
        "available_nano_usd": balance.available,
        "held_nano_usd": balance.held,
        "available": balance.available.to_string(),
        "held": balance.held.to_string(),
    })))
}

async fn usage(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<axum::Json<Value>, Refused> {
    let account = reader(&shared, &headers)?;
    let rows = shared.store.usage(account, USAGE_MAX).await.map_err(internal)?;
    let catalogue = shared.catalogue();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "operation": row.operation,
                "request": row.request,
                "key_id": row.key,
                "model": catalogue.by_digest(&row.model).map(|item| item.entry.name.clone()),
                "catalogue_digest": row.model,
                "provider": row.provider,
                "settled_at": row.at,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "price_version": row.price_version,
                "charge_nano_usd": row.charge,
            })
        })
        .collect();
    Ok(axum::Json(json!({"object": "list", "data": rows})))
}

#[cfg(test)]
mod tests;
