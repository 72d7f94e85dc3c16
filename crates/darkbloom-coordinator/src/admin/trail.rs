//! The trail of what administrators did. What is about to be done is written down before it is done, and what came of it
//! afterwards: a call that cannot be written down is not carried out.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use darkbloom_host::{body, clock};
use darkbloom_store::{KeyKind, TrailError, TrailRow};
use darkbloom_types::{Digest, Refusal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Administrator, Answer, JSON_BYTES_MAX, invalid};
use crate::api::{Refused, internal};
use crate::auth;
use crate::state::Shared;

/// Rows in one list.
const ROWS_MAX: u32 = 200;
/// The only call whose body is no JSON; it is named by its digest in the answer.
const BLOBS: &str = "/admin/v1/blobs";

/// Around every administrative call that may change something.
pub async fn kept(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let key = match auth::bearer(&shared.store, request.headers(), KeyKind::Admin) {
        Ok(key) => key.id,
        Err(refusal) => return Refused(refusal).into_response(),
    };
    let action = format!("{} {}", request.method(), request.uri().path());
    let (request, detail) = if request.uri().path() == BLOBS {
        (request, String::new())
    } else {
        let (parts, sent) = request.into_parts();
        let bytes = match body::read(sent, JSON_BYTES_MAX).await.map_err(Refusal::from) {
            Ok(bytes) => bytes,
            Err(refusal) => return Refused(refusal).into_response(),
        };
        let detail = detail(&bytes);
        (Request::from_parts(parts, Body::from(bytes)), detail)
    };
    let asked = match shared.store.trail_add(Some(key), action.clone(), detail, clock::now()).await {
        Ok(row) => row,
        Err(error) => return internal(error).into_response(),
    };
    let response = next.run(request).await;
    let outcome = format!("row {asked} was answered with {}", response.status().as_u16());
    if let Err(error) = shared.store.trail_add(Some(key), action, outcome, clock::now()).await {
        tracing::error!(%error, row = asked, "what came of an administrator's call cannot be written down");
    }
    response
}

/// What is kept of a body: its digest, so that nothing of it can be denied, and as much of it as there is room for, without
/// what white space could hide.
fn detail(body: &[u8]) -> String {
    let digest = Digest::of(&[body]);
    let said = match serde_json::from_slice::<Value>(body) {
        Ok(value) => value.to_string(),
        Err(_) => "no JSON".to_owned(),
    };
    format!("{} bytes, {digest}: {said}", body.len())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrailQuery {
    #[serde(default)]
    before: Option<i64>,
}

/// `GET /admin/v1/trail?before=SEQ`: what administrators did, newest first.
pub async fn list(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    query: Result<Query<TrailQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|_| invalid("`before` is the number of a row"))?;
    let rows = shared.store.trail(query.before, ROWS_MAX).await.map_err(internal)?;
    Ok(Json(json!({"data": rows.iter().map(shown).collect::<Vec<_>>()})))
}

fn shown(row: &TrailRow) -> Value {
    json!({
        "seq": row.seq,
        "at": row.at,
        "key_id": row.actor,
        "action": row.action,
        "detail": row.detail,
        "digest": row.digest,
    })
}

/// `GET /admin/v1/trail/check`: whether each row is the one that was written.
pub async fn check(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    match shared.store.trail_check().await {
        Ok((rows, digest)) => Ok(Json(json!({"whole": true, "rows": rows, "digest": digest}))),
        Err(TrailError::Broken { seq }) => Ok(Json(json!({"whole": false, "broken_at": seq}))),
        Err(TrailError::Store(error)) => Err(internal(error)),
    }
}
