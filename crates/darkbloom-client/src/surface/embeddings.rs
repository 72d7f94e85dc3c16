//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use darkbloom_dialect::{ApiError, openai};
use darkbloom_host::{body, request_id};
use darkbloom_types::{Refusal, RefusalCode, SecretBytes};

use super::{BODY_BYTES_MAX, Failure, HINTS, Shared, accepted_key, json, put};

pub async fn make(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    let made = vectors(&shared, &headers, body).await;
    made.unwrap_or_else(|error| Failure { error, id: request_id::fresh() }.into_response())
}

async fn vectors(shared: &Shared, headers: &HeaderMap, body: Body) -> Result<Response, ApiError> {
    let refused = |refusal: Refusal| openai::embeddings_error(&refusal);
    // Nothing of the body is read where nobody makes vectors, for somebody without the key, nor when there is no room for it.
    let embedder = shared.backend.embedder().map_err(refused)?;
    let key = accepted_key(shared, headers).await.map_err(refused)?;
    let _place = shared.places.take(&key).map_err(refused)?;
    let body = body::read(body, BODY_BYTES_MAX).await.map_err(|error| refused(error.into()))?;
    let call = openai::parse_embeddings(&body);
    drop(body);
    let openai::EmbeddingsCall { model, request, encoding, hints } = call?;
    let made = embedder.embed(model.clone(), request).await.map_err(refused)?;
    // Thousands of vectors are some ten megabytes: they are written beside the threads that carry frames.
    let write = move || openai::embeddings(&model, &made, encoding);
    let body = tokio::task::spawn_blocking(write).await.map_err(|_| refused(RefusalCode::Internal.into()))?;
    let mut response = json(Bytes::from_owner(Wiped(body)));
    if !hints.is_empty() {
        put(response.headers_mut(), HINTS, &hints.join(", "));
    }
    Ok(response)
}

/// A body that is wiped once it was sent.
struct Wiped(SecretBytes);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}
