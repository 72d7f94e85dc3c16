//! The HTTP surface that consumers' programs speak to: the same for gateway and proxy.

mod chat;
mod embeddings;
mod engine;
mod places;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use darkbloom_dialect::{ApiError, openai};
use darkbloom_types::{Refusal, RefusalCode, SecretString};

use self::engine::Backend;
pub use self::engine::{Answering, Embedding, Engine};
use self::places::Places;
use crate::Client;
use crate::keys::{self, Keys};
use darkbloom_host::listen::{Bound, ListenError, Server};
use darkbloom_host::request_id;

/// How long running requests may take when the surface stops.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(30);
/// Requests worked on at once, from before their body is read; more are refused.
const REQUESTS_MAX: usize = 1_024;

/// Largest body of a consumer: what seals into the largest bucket, JSON escapes included.
const BODY_BYTES_MAX: usize = 4 << 20;

/// OpenAI's clients do not send a request again by themselves whose error says `false` here.
const SHOULD_RETRY: &str = "x-should-retry";

/// Names the fields that were sent and have no effect.
const HINTS: &str = "x-darkbloom-hints";

/// Who runs the surface: that decides whose key is used and what the answers may claim.
#[derive(Debug, Clone)]
pub enum Role {
    /// The operator, for callers who send their own key. It sees their plaintext, and says so.
    Gateway,
    /// The consumer, on the consumer's machine, with the consumer's key.
    Proxy {
        /// The key that all requests are sealed and paid with.
        key: SecretString,
    },
    /// The owner of an engine in this process, for programs of this machine that know its key.
    Local {
        /// The key.
        key: SecretString,
    },
}

impl Role {
    /// Who stands between the consumer's program and the network.
    fn vouching(&self) -> Vouching {
        match self {
            Self::Gateway => Vouching { sealed_by: "gateway", header: "x-darkbloom-asserted-by", field: "asserted_by" },
            // Of what nobody sealed nothing is said.
            Self::Proxy { .. } | Self::Local { .. } => {
                Vouching { sealed_by: "client", header: "x-darkbloom-verified-by", field: "verified_by" }
            }
        }
    }
}

/// What a surface may say about its answers. Only on the consumer's own machine are they verified for it; a gateway
/// verifies them as well, but of that its callers have nothing but its word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vouching {
    /// The value of `x-darkbloom-sealed-by`, and of the two below.
    pub sealed_by: &'static str,
    /// The header that says who verified, or asserts.
    pub header: &'static str,
    /// The same in the comment at the end of a stream.
    pub field: &'static str,
}

/// What the surface needs.
#[derive(Debug, Clone)]
pub struct SurfaceConfig {
    /// Where to listen. Without TLS in front of it this must be a loopback address.
    pub listen: SocketAddr,
    /// Who runs it.
    pub role: Role,
}

/// A running surface.
#[derive(Debug)]
pub struct Surface {
    /// Where it listens.
    pub address: SocketAddr,
    server: Server,
}

pub(crate) struct Shared {
    pub backend: Backend,
    pub role: Role,
    pub places: Places,
    pub keys: Keys,
}

impl Surface {
    /// Listens and serves in the background.
    ///
    /// # Errors
    /// [`ListenError`]; nothing keeps running then.
    pub async fn start(client: Client, config: SurfaceConfig) -> Result<Self, ListenError> {
        Self::serve(Backend::Network(client), config).await
    }

    /// Listens and serves in the background, with an engine of this process behind it. Only programs of this machine that
    /// send the key are answered.
    ///
    /// # Errors
    /// [`ListenError`]; nothing keeps running then.
    pub async fn local(engine: Arc<dyn Engine>, listen: SocketAddr, key: SecretString) -> Result<Self, ListenError> {
        Self::serve(Backend::Engine(engine), SurfaceConfig { listen, role: Role::Local { key } }).await
    }

    async fn serve(backend: Backend, config: SurfaceConfig) -> Result<Self, ListenError> {
        let bound = Bound::to(config.listen).await?;
        let address = bound.address;
        let places = Places::new(REQUESTS_MAX);
        let shared = Arc::new(Shared { backend, role: config.role, places, keys: Keys::default() });
        Ok(Self { address, server: bound.serve(router(shared), std::future::ready(()), DRAIN) })
    }

    /// Stops taking requests and lets running ones end.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let local_only = matches!(shared.role, Role::Proxy { .. } | Role::Local { .. });
    let mut router = Router::new()
        .route("/healthz", get(|| async { axum::Json(serde_json::json!({"status": "ok"})) }))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/embeddings", post(embeddings::make))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .fallback(|| async { Failure::new(RefusalCode::NotFound.into()) })
        .method_not_allowed_fallback(|| async { Failure::new(RefusalCode::MethodNotAllowed.into()) })
        .with_state(shared);
    if local_only {
        // A page in a browser must not reach the proxy through a name that resolves to this machine.
        router = router.layer(middleware::from_fn(local_host_only));
    }
    router
}

async fn local_host_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let foreign_page = request.headers().contains_key(header::ORIGIN);
    if foreign_page || !matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        return Failure::new(Refusal::new(RefusalCode::Forbidden, "only programs on this machine are served here"))
            .into_response();
    }
    next.run(request).await
}

/// An error as an HTTP answer, with the request's id in header and body.
pub(crate) struct Failure {
    pub error: ApiError,
    pub id: String,
}

impl Failure {
    pub fn new(refusal: Refusal) -> Self {
        Self { error: ApiError::from_refusal(&refusal), id: request_id::fresh() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        put(&mut headers, request_id::HEADER, &self.id);
        if let Some(seconds) = self.error.retry_after_s {
            put(&mut headers, "retry-after", &seconds.to_string());
        }
        if !self.error.repeatable {
            put(&mut headers, SHOULD_RETRY, "false");
        }
        (status, headers, self.error.to_json(Some(&self.id))).into_response()
    }
}

/// Sets a header of ours; values are hex, numbers and names, so they always fit.
pub(crate) fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The caller's key: its own at the gateway, where the coordinator has accepted it lately or does now; the configured one
/// at the proxy.
pub(crate) async fn accepted_key(shared: &Shared, headers: &HeaderMap) -> Result<SecretString, Refusal> {
    let key = key(shared, headers)?;
    if let (Role::Gateway, Backend::Network(client)) = (&shared.role, &shared.backend) {
        shared.keys.check(&key, async || client.accepts(&key).await).await?;
    }
    Ok(key)
}

fn key(shared: &Shared, headers: &HeaderMap) -> Result<SecretString, Refusal> {
    let sent = || {
        headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(|key| SecretString::from(key.trim()))
            .filter(|key| !key.is_empty())
    };
    let key = match &shared.role {
        Role::Proxy { key } => Some(key.clone()),
        Role::Gateway => sent(),
        // By their digests: how long that takes says nothing of the key.
        Role::Local { key } => sent().filter(|sent| keys::digest(sent) == keys::digest(key)),
    };
    key.ok_or_else(|| RefusalCode::InvalidApiKey.into())
}

fn json(body: impl Into<axum::body::Body>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    put(&mut headers, request_id::HEADER, &request_id::fresh());
    (headers, body.into()).into_response()
}

/// Who stands for a network shows its models to anybody; an engine of this machine only to those who know its key.
fn may_see_models(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    if let Role::Local { .. } = shared.role {
        key(shared, headers)?;
    }
    Ok(())
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, Failure> {
    may_see_models(&shared, &headers).map_err(Failure::new)?;
    let entries = shared.backend.models().await.map_err(Failure::new)?;
    Ok(json(openai::models_list(&entries)))
}

async fn model(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    may_see_models(&shared, &headers).map_err(Failure::new)?;
    let Path(name) = name.map_err(|_| Failure::new(RefusalCode::ModelNotFound.into()))?;
    let entries = shared.backend.models().await.map_err(Failure::new)?;
    let entry = entries.iter().find(|entry| entry.id == name);
    let entry = entry.ok_or_else(|| Failure::new(RefusalCode::ModelNotFound.into()))?;
    Ok(json(openai::model(entry)))
}

#[cfg(test)]
mod tests;
