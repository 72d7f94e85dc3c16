//! What is held against providers' identities, for the operator.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use darkbloom_host::clock;
use darkbloom_store::{NOTE_BYTES_MAX, StandingRow};
use darkbloom_types::{ProviderId, Refusal, RefusalCode, Standing};
use serde_json::{Value, json};

use super::bodies::{NewStanding, Wanted};
use super::{Administrator, Answer, Asked, invalid};
use crate::api::internal;
use crate::provider_socket::{identity_revoked, trust};
use crate::state::Shared;

/// Identities in one list.
const STANDINGS_MAX: u32 = 1_000;

/// `GET /admin/v1/standings`: identities against which something is held or was.
pub async fn list(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.standings_list(STANDINGS_MAX).await.map_err(internal)?;
    let row = |row: StandingRow| {
        let mut shown = shown(row.provider, row.standing);
        shown["since"] = json!(row.since);
        shown["note"] = json!(row.note);
        shown["successor"] = json!(shared.store.successor(row.provider));
        shown
    };
    Ok(Json(json!({"data": rows.into_iter().map(row).collect::<Vec<_>>()})))
}

/// What is held against one identity.
pub fn shown(provider: ProviderId, standing: Standing) -> Value {
    let failed = match standing {
        Standing::Distrusted(failed) | Standing::Recovered(failed) => Some(failed),
        Standing::Clean | Standing::Revoked => None,
    };
    json!({
        "provider": provider,
        "standing": standing.name(),
        "reason": failed.map(|failed| failed.reason.name()),
        "until": failed.map(|failed| failed.until),
        "times": failed.map(|failed| failed.times),
    })
}

/// `PUT /admin/v1/standings/{provider}`: the operator trusts an identity again, or revokes it and all that it took over from
/// or that took over from it, for good.
pub async fn put(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    provider: Result<Path<String>, PathRejection>,
    Asked(asked): Asked<NewStanding>,
) -> Answer {
    let provider = provider.ok().and_then(|Path(text)| text.parse::<ProviderId>().ok());
    let provider = provider.ok_or_else(|| invalid("a provider's id is 64 hex digits"))?;
    if asked.note.as_ref().is_some_and(|note| note.len() > NOTE_BYTES_MAX) {
        return Err(invalid(format!("note: at most {NOTE_BYTES_MAX} bytes")));
    }
    let changed = match asked.standing {
        Wanted::Revoked => {
            let revoked = shared.store.revoke(provider, clock::now(), asked.note).await.map_err(internal)?;
            for identity in &revoked {
                close(&shared, identity);
            }
            revoked
        }
        Wanted::Clean => {
            if shared.store.successor(provider).is_some() {
                return Err(trust::revoked(&shared, provider).into());
            }
            let (now, wall) = (shared.mono(), clock::now());
            let put = shared.store.standing_put(provider, Standing::Clean, wall, asked.note).await.map_err(internal)?;
            if put == Standing::Revoked {
                let detail = "a revocation is for good: the provider needs a new identity";
                return Err(Refusal::new(RefusalCode::Forbidden, detail).into());
            }
            shared.with_registry(|registry| registry.set_standing(&provider, Standing::Clean, now, wall));
            // Somebody may have written down meanwhile what was held before.
            trust::write_down(&shared, provider).await;
            vec![provider]
        }
    };
    tracing::info!(%provider, identities = changed.len(), standing = asked.standing.name(), "the operator decided about a provider");
    Ok(Json(json!({"standing": asked.standing.name(), "providers": changed})))
}

/// A revoked identity's connections are told why and closed.
fn close(shared: &Shared, provider: &ProviderId) {
    let (now, wall) = (shared.mono(), clock::now());
    shared.with_registry(|registry| registry.set_standing(provider, Standing::Revoked, now, wall));
    for connection in shared.connections_of(*provider) {
        connection.send(identity_revoked());
        connection.close.notify_one();
    }
}
