//! Signing in by device code, over HTTP (RFC 8628): the machine's side in the forms and errors of OAuth, the side of who
//! approves in ours.

mod codes;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use darkbloom_store::{CreateKeyError, KeyKind, KeyTerms};
use darkbloom_types::{Refusal, RefusalCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

pub use self::codes::Devices;
use self::codes::{INTERVAL, LIFE, NotApproved, Polled, shown};
use super::Owner;
use crate::admin::bodies::DecideDevice;
use crate::admin::{Answer, Asked};
use crate::auth;
use crate::state::{Shared, lock};
use darkbloom_host::{body, clock};

/// A form has two or three short fields.
const FORM_BYTES_MAX: usize = 4 << 10;
/// Longest name of a machine, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// What a machine says that it asks for (RFC 8628 section 3.4).
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What a machine asks a code for (RFC 8628 section 3.1). `scope` is the kind of its key, `client_id` its name.
#[derive(Deserialize)]
struct Begin {
    client_id: String,
    #[serde(default)]
    scope: Option<String>,
}

/// What it asks with (RFC 8628 section 3.4).
#[derive(Deserialize)]
struct Poll {
    grant_type: String,
    device_code: String,
}

/// An error of OAuth (RFC 6749 section 5.2).
fn oauth(error: &'static str, description: &str) -> Response {
    let body = Json(json!({"error": error, "error_description": description}));
    (StatusCode::BAD_REQUEST, [(header::CACHE_CONTROL, "no-store")], body).into_response()
}

async fn form<T: DeserializeOwned>(body: Body) -> Result<T, Response> {
    let bytes =
        body::read(body, FORM_BYTES_MAX).await.map_err(|_| oauth("invalid_request", "the form is too large"))?;
    serde_urlencoded::from_bytes(&bytes).map_err(|error| oauth("invalid_request", &error.to_string()))
}

/// `POST /v1/device/code`.
pub async fn begin(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let Begin { client_id, scope } = match form(body).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    let printable = client_id.chars().all(|c| !c.is_control());
    if client_id.is_empty() || client_id.len() > NAME_BYTES_MAX || !printable {
        return oauth("invalid_request", "client_id: the machine's name, 1 to 100 bytes");
    }
    let kind = match scope.as_deref().unwrap_or("consumer") {
        "consumer" => KeyKind::Consumer,
        "join" => KeyKind::Join,
        "account" => KeyKind::Account,
        _ => return oauth("invalid_scope", "the scopes are consumer, join and account"),
    };
    let begun = lock(&shared.devices).begin(kind, &client_id, shared.mono(), &mut clock::rng());
    let Some(begun) = begun else {
        return oauth("temporarily_unavailable", "too many machines wait to be approved");
    };
    let answer = json!({
        "device_code": begun.device_code.expose(),
        "user_code": shown(&begun.user_code),
        "verification_uri": "darkbloom admin approve",
        "expires_in": LIFE.0 / 1_000,
        "interval": INTERVAL.0 / 1_000,
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// `POST /v1/device/token`.
pub async fn token(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let Poll { grant_type, device_code } = match form(body).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if grant_type != GRANT_TYPE {
        return oauth("unsupported_grant_type", "only device codes are granted here");
    }
    let polled = lock(&shared.devices).poll(&device_code, shared.mono());
    let grant = match polled {
        Polled::Pending => return oauth("authorization_pending", "nobody has approved the code yet"),
        Polled::SlowDown => return oauth("slow_down", "wait five seconds longer between two questions"),
        Polled::Denied => return oauth("access_denied", "the code was denied"),
        Polled::Expired => return oauth("expired_token", "the code is over; begin again"),
        Polled::Approved(grant) => grant,
    };
    let terms = KeyTerms { expires_at: grant.until, ..KeyTerms::named(grant.name.clone()) };
    match auth::create_key(&shared.store, grant.kind, Some(grant.account), terms).await {
        Ok((id, key)) => {
            tracing::info!(key = id.0, kind = grant.kind.name(), "a key was made for a device code");
            let answer = json!({"access_token": key.expose(), "token_type": "Bearer", "scope": grant.kind.name()});
            ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "no key for a device code");
            if let CreateKeyError::Store(_) = error {
                lock(&shared.devices).give_back(&device_code, grant, shared.mono());
            }
            oauth("server_error", "the key could not be made; ask again")
        }
    }
}

/// `POST /v1/device/approve`: what a code would be given, and, with `approve`, whether it is.
pub async fn approve(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<DecideDevice>) -> Answer {
    let (account, now) = (owner.account, shared.mono());
    let mut devices = lock(&shared.devices);
    let refused = |error| match error {
        NotApproved::Unknown => Refusal::new(RefusalCode::NotFound, "no machine waits with this code"),
        NotApproved::TooManyGuesses => Refusal::new(RefusalCode::RateLimitExceeded, "too many wrong codes were tried"),
    };
    let (kind, name) = devices.look(&asked.user_code, account, now).map_err(refused)?;
    if let Some(yes) = asked.approve {
        devices.decide(&asked.user_code, account, owner.until, yes, now).map_err(refused)?;
    }
    Ok(Json(json!({"name": name, "scope": kind.name(), "approved": asked.approve})))
}
