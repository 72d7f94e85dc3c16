//! The operator's policy: kept in the database, changed by its operator alone, and what a change would come to shown first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use darkbloom_attest::{Assessment, Policy, Verdict};
use darkbloom_host::clock;
use darkbloom_store::{Store, StoreError};
use darkbloom_types::{ConnectionId, Gate, ProviderId, Refusal, RefusalCode};
use serde_json::{Value, json};

use crate::admin::bodies::NewPolicy;
use crate::admin::{Administrator, Asked};
use crate::api::{Refused, internal};
use crate::provider_socket::trust;
use crate::state::Shared;

/// Where it stands among the settings.
const SETTING: &str = "policy";

/// The policy as its operator wrote it, if there is one.
pub async fn stored(store: &Store) -> Result<Option<String>, StoreError> {
    let bytes = store.meta_get(SETTING).await?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// A connected provider, looked at again.
struct Seen {
    connection: ConnectionId,
    provider: ProviderId,
    statement: Arc<[u8]>,
    /// None where it does not verify any more: its time is over.
    verdict: Option<Verdict>,
}

/// Verifies what all connected providers state, which takes a moment for each.
async fn look(shared: &Arc<Shared>) -> Result<Vec<Seen>, Refused> {
    let shared = Arc::clone(shared);
    let all = tokio::task::spawn_blocking(move || {
        let statements = shared.with_registry(|registry| registry.all_statements());
        let seen = |(connection, provider, statement): (ConnectionId, ProviderId, Arc<[u8]>)| {
            let on = shared.connection(&connection);
            let verdict = on.and_then(|on| trust::verify_on(&shared, &on, &statement).ok());
            Seen { connection, provider, statement, verdict }
        };
        statements.into_iter().map(seen).collect()
    });
    all.await.map_err(internal)
}

fn read(asked: &NewPolicy) -> Result<Policy, Refused> {
    Ok(Policy::parse(&asked.policy).map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?)
}

/// `GET /admin/v1/policy`.
pub async fn get(_: Administrator, State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refused> {
    let text = stored(&shared.store).await.map_err(internal)?;
    Ok(Json(json!({"policy": text.unwrap_or_default()})))
}

/// `POST /admin/v1/policy/check`: whom this policy would bar who is not barred now, and whom no longer.
pub async fn check(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    Asked(asked): Asked<NewPolicy>,
) -> Result<Json<Value>, Refused> {
    let policy = read(&asked)?;
    // One at a time, and none while it changes.
    let _change = shared.policy_change.lock().await;
    let (seen, views) = (look(&shared).await?, shared.provider_views());
    let names = |gates: &[Gate]| gates.iter().map(|gate| gate.name()).collect::<Vec<_>>();
    let rows = seen.iter().map(|seen| {
        let reason = views.iter().find(|view| view.provider == seen.provider).and_then(|view| view.eligible.err());
        let assess = |policy: &Policy| seen.verdict.as_ref().map(|verdict| policy.assess(verdict));
        let (now, then) = (assess(&shared.policy()), assess(&policy));
        let shut = |assessed: &Option<Assessment>| assessed.as_ref().map(|it| it.shut.clone()).unwrap_or_default();
        let shadow = then.as_ref().map(|it| it.shadow.clone()).unwrap_or_default();
        let (shut_now, shut_then) = (shut(&now), shut(&then));
        json!({
            "provider": seen.provider,
            "reason": reason.map(|reason| reason.name()),
            "tier": then.as_ref().map(|it| it.tier),
            "shut": names(&shut_then),
            "shadow": names(&shadow),
            // Whatever else keeps it from work at this moment passes; this would not.
            "loses_work": shut_now.is_empty() && !shut_then.is_empty(),
            "may_work_again": !shut_now.is_empty() && shut_then.is_empty(),
        })
    });
    Ok(Json(json!({"data": rows.collect::<Vec<_>>()})))
}

/// `PUT /admin/v1/policy`: from now on, for those who are connected too.
pub async fn put(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    Asked(asked): Asked<NewPolicy>,
) -> Result<Json<Value>, Refused> {
    let policy = read(&asked)?;
    // By itself: whoever asked may go away in the middle, and then what is stored and what holds must be the same.
    let change = tokio::spawn(async move { change(&shared, policy, asked.policy).await });
    change.await.map_err(internal)?
}

async fn change(shared: &Arc<Shared>, policy: Policy, text: String) -> Result<Json<Value>, Refused> {
    let _change = shared.policy_change.lock().await;
    shared.store.meta_put(SETTING, text.into_bytes()).await.map_err(internal)?;
    // Before anybody is looked at: whoever connects meanwhile is assessed by it.
    shared.set_policy(policy);
    let mut barred = 0;
    for Seen { connection, statement, verdict, .. } in look(shared).await? {
        let (Some(mut verdict), Some(on)) = (verdict, shared.connection(&connection)) else { continue };
        let (now, wall) = (shared.mono(), clock::now());
        shared.with_registry(|registry| {
            // It may have answered a challenge since it was looked at.
            verdict.presence = Some(on.presence());
            let Assessment { tier, shut, shadow } = shared.policy().assess(&verdict);
            barred += usize::from(!shut.is_empty());
            registry.reassess(&connection, &statement, tier, (shut, shadow), now, wall);
        });
    }
    tracing::info!(barred, "the operator changed the policy");
    Ok(Json(json!({"barred": barred})))
}
