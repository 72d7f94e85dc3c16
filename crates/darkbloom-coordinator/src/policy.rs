//! The operator's policy: kept in the database, changed by its operator alone, and what a change would come to shown first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use darkbloom_attest::{Assessment, Policy};
use darkbloom_host::clock;
use darkbloom_store::{Store, StoreError};
use darkbloom_types::{ConnectionId, EpochId, Gate, ProviderId, Refusal, RefusalCode, Tier};
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

/// What a policy comes to for one connected provider.
struct Assessed {
    connection: ConnectionId,
    provider: ProviderId,
    epoch: EpochId,
    tier: Tier,
    assessment: Assessment,
}

/// Looks at all connected providers. Their evidence is verified again, which takes a moment for each.
async fn assess_all(shared: &Arc<Shared>, policy: Arc<Policy>) -> Vec<Assessed> {
    let shared = Arc::clone(shared);
    let all = tokio::task::spawn_blocking(move || {
        let statements = shared.with_registry(|registry| registry.all_statements());
        let assess = |(connection, provider, statement): (ConnectionId, ProviderId, Vec<u8>)| {
            // One whose time is over gets no work anyway.
            let verdict = trust::verify(&shared, &statement).ok()?;
            let (epoch, tier, assessment) = (verdict.epoch, verdict.tier, policy.assess(&verdict));
            Some(Assessed { connection, provider, epoch, tier, assessment })
        };
        statements.into_iter().filter_map(assess).collect()
    });
    all.await.unwrap_or_default()
}

fn read(asked: &NewPolicy) -> Result<Policy, Refused> {
    Ok(Policy::parse(&asked.policy).map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?)
}

/// `GET /admin/v1/policy`.
pub async fn get(_: Administrator, State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Refused> {
    let text = stored(&shared.store).await.map_err(internal)?;
    Ok(Json(json!({"policy": text.unwrap_or_default()})))
}

/// `POST /admin/v1/policy/check`: whom this policy would keep from work who has it now, and who would get it.
pub async fn check(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    Asked(asked): Asked<NewPolicy>,
) -> Result<Json<Value>, Refused> {
    let then = assess_all(&shared, Arc::new(read(&asked)?)).await;
    let now: Vec<_> = shared.provider_views();
    let names = |gates: &[Gate]| gates.iter().map(|gate| gate.name()).collect::<Vec<_>>();
    let rows = then.iter().filter_map(|assessed| {
        let view = now.iter().find(|view| view.provider == assessed.provider)?;
        let works = view.eligible.is_ok();
        let barred_by_policy = matches!(view.eligible, Err(darkbloom_registry::Ineligible::Policy(_)));
        let shut = &assessed.assessment.shut;
        Some(json!({
            "provider": assessed.provider,
            "eligible": works,
            "reason": view.eligible.err().map(|reason| reason.name()),
            "shut": names(shut),
            "shadow": names(&assessed.assessment.shadow),
            "loses_work": works && !shut.is_empty(),
            "may_work_again": barred_by_policy && shut.is_empty(),
        }))
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
    let _change = shared.policy_change.lock().await;
    shared.store.meta_put(SETTING, asked.policy.into_bytes()).await.map_err(internal)?;
    // Before anybody is looked at: whoever connects meanwhile is assessed by it.
    shared.set_policy(policy);
    let all = assess_all(&shared, shared.policy()).await;
    let mut barred = 0;
    for Assessed { connection, epoch, tier, assessment: Assessment { shut, shadow }, .. } in all {
        barred += usize::from(!shut.is_empty());
        let (now, wall) = (shared.mono(), clock::now());
        shared.with_registry(|registry| registry.reassess(&connection, &epoch, tier, (shut, shadow), now, wall));
    }
    tracing::info!(barred, "the operator changed the policy");
    Ok(Json(json!({"barred": barred})))
}
