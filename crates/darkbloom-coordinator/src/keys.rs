//! Keys as administrators and their own accounts see them: made, listed, edited, rotated, revoked.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use darkbloom_ledger::{Budget, Spender};
use darkbloom_store::{CreateKeyError, KeyKind, KeyRecord, KeyTerms};
use darkbloom_types::{AccountId, KeyId, Refusal, RefusalCode, UnixMillis};
use serde_json::{Value, json};

use crate::account::Owner;
use crate::admin::bodies::{EditKey, KeyLimits, Kind, NewKey};
use crate::admin::{Administrator, Answer, Asked, account_of_name, invalid};
use crate::api::{Refused, internal};
use crate::auth;
use crate::state::Shared;
use darkbloom_host::clock;

impl From<Kind> for KeyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Consumer => Self::Consumer,
            Kind::Admin => Self::Admin,
            Kind::Join => Self::Join,
            Kind::Account => Self::Account,
        }
    }
}

/// What a key may do that may do this, after a change.
fn changed(before: KeyTerms, name: Option<String>, limits: KeyLimits) -> KeyTerms {
    let KeyLimits { expires_at, models, tier_min, requests_per_minute, tokens_per_minute } = limits;
    KeyTerms {
        name: name.unwrap_or(before.name),
        expires_at: expires_at.map_or(before.expires_at, |at| at.map(UnixMillis)),
        models: models.unwrap_or(before.models),
        tier_min: tier_min.unwrap_or(before.tier_min),
        requests_per_minute: requests_per_minute.unwrap_or(before.requests_per_minute),
        tokens_per_minute: tokens_per_minute.unwrap_or(before.tokens_per_minute),
    }
}

/// A key, as it is shown: everything but the key.
fn shown(key: &KeyRecord, budget: Option<Budget>) -> Value {
    let KeyTerms { name, expires_at, models, tier_min, requests_per_minute, tokens_per_minute } = &key.terms;
    json!({
        "id": key.id,
        "kind": key.kind.name(),
        "name": name,
        "account": key.account,
        "created_at": key.created_at,
        "revoked": key.revoked,
        "limits": {
            "expires_at": expires_at,
            "models": models,
            "tier_min": tier_min,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
        },
        "budget": budget.map(|budget| budget_shown(&budget)),
    })
}

/// A budget as it is at this moment.
pub fn budget_shown(budget: &Budget) -> Value {
    let budget = budget.at(clock::now());
    json!({
        "period": budget.period.name(),
        "limit_nano_usd": budget.limit,
        "spent_nano_usd": budget.spent,
        "held_nano_usd": budget.held,
        "left_nano_usd": budget.left(),
    })
}

async fn make(shared: &Shared, asked: NewKey, account: Option<AccountId>, until: Option<UnixMillis>) -> Answer {
    let NewKey { kind, name, limits, budget, .. } = asked;
    let (kind, terms) = (KeyKind::from(kind), changed(KeyTerms::default(), Some(name), limits));
    lasts_no_longer(&terms, until)?;
    let budget = budget.map(|budget| budget.checked()).transpose().map_err(invalid)?;
    let made = auth::create_key(&shared.store, kind, account, terms.clone()).await;
    let (id, key) = made.map_err(refused)?;
    if let Some(budget) = budget {
        // A key that nobody was told yet spends nothing meanwhile.
        shared.store.budget_put(Spender::Key(id), Some(budget), clock::now()).await.map_err(internal)?;
    }
    let record = KeyRecord { id, account, kind, terms, created_at: clock::now(), revoked: false };
    let budget = shared.store.budget(Spender::Key(id)).await.map_err(internal)?;
    let mut shown = shown(&record, budget);
    shown["key"] = key.expose().into();
    Ok(Json(shown))
}

fn refused(error: CreateKeyError) -> Refused {
    match error {
        CreateKeyError::Store(error) => internal(error),
        CreateKeyError::DigestTaken
        | CreateKeyError::UnknownAccount
        | CreateKeyError::AccountMissing
        | CreateKeyError::AccountOfAdministrator
        | CreateKeyError::TooMany => invalid(error.to_string()),
    }
}

/// What a key with an end makes or changes ends no later than it.
fn lasts_no_longer(terms: &KeyTerms, until: Option<UnixMillis>) -> Result<(), Refused> {
    let Some(until) = until else { return Ok(()) };
    if terms.expires_at.is_some_and(|at| at <= until) {
        return Ok(());
    }
    Err(Refusal::new(RefusalCode::Forbidden, format!("limits.expires_at: this key ends at {} itself", until.0)).into())
}

async fn list(shared: &Shared, of: Option<AccountId>) -> Answer {
    let keys = match of {
        Some(account) => shared.store.keys_of(account).await.map_err(internal)?,
        None => shared.store.keys_list().await.map_err(internal)?,
    };
    let budgets = shared.store.budgets().await.map_err(internal)?;
    let budget = |id| budgets.iter().find(|budget| budget.spender == Spender::Key(id)).copied();
    let keys: Vec<_> = keys.iter().map(|key| shown(key, budget(key.id))).collect();
    Ok(Json(json!({"data": keys})))
}

/// A key that the caller may change: any, or one of its account's that is no administrator's.
async fn found(
    shared: &Shared,
    id: Result<Path<i64>, PathRejection>,
    of: Option<AccountId>,
) -> Result<KeyRecord, Refused> {
    let Path(id) = id.map_err(|_| RefusalCode::NotFound)?;
    let key = shared.store.key(KeyId(id)).await.map_err(internal)?;
    let theirs = |key: &KeyRecord| of.is_none() || (key.account == of && key.kind != KeyKind::Admin);
    key.filter(theirs).ok_or_else(|| RefusalCode::NotFound.into())
}

async fn edit(shared: &Shared, key: KeyRecord, asked: EditKey, until: Option<UnixMillis>) -> Answer {
    let id = key.id;
    let terms = changed(key.terms.clone(), asked.name, asked.limits.unwrap_or_default());
    lasts_no_longer(&terms, until)?;
    if let Some(budget) = asked.budget {
        let budget = budget.map(|budget| budget.checked()).transpose().map_err(invalid)?;
        shared.store.budget_put(Spender::Key(id), budget, clock::now()).await.map_err(internal)?;
    }
    shared.store.key_edit(id, terms.clone()).await.map_err(internal)?;
    let budget = shared.store.budget(Spender::Key(id)).await.map_err(internal)?;
    Ok(Json(shown(&KeyRecord { terms, ..key }, budget)))
}

async fn rotate(shared: &Shared, key: KeyRecord) -> Answer {
    let (digest, secret) = auth::fresh_key(key.kind);
    if !shared.store.key_rotate(key.id, digest).await.map_err(refused)? {
        return Err(invalid("a revoked key is not given another secret"));
    }
    Ok(Json(json!({"id": key.id, "key": secret.expose()})))
}

async fn revoke(shared: &Shared, key: KeyRecord) -> Answer {
    shared.store.key_revoke(key.id).await.map_err(internal)?;
    Ok(Json(json!({"id": key.id, "revoked": true})))
}

/// What an administrator does with any key.
pub mod of_all {
    use super::*;

    pub async fn create(_: Administrator, State(shared): State<Arc<Shared>>, Asked(asked): Asked<NewKey>) -> Answer {
        let account = match &asked.account {
            Some(name) => Some(account_of_name(&shared, name).await?),
            None => None,
        };
        make(&shared, asked, account, None).await
    }

    pub async fn list(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
        super::list(&shared, None).await
    }

    pub async fn edit(
        _: Administrator,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
        Asked(asked): Asked<EditKey>,
    ) -> Answer {
        super::edit(&shared, found(&shared, id, None).await?, asked, None).await
    }

    pub async fn rotate(
        _: Administrator,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
    ) -> Answer {
        super::rotate(&shared, found(&shared, id, None).await?).await
    }

    pub async fn revoke(
        _: Administrator,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
    ) -> Answer {
        super::revoke(&shared, found(&shared, id, None).await?).await
    }
}

/// What an account does with its own.
pub mod of_account {
    use super::*;

    pub async fn create(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<NewKey>) -> Answer {
        if matches!(asked.kind, Kind::Admin) {
            return Err(RefusalCode::Forbidden.into());
        }
        if asked.account.is_some() {
            return Err(invalid("account: a key of yours is your account's"));
        }
        owner.turn(&shared)?;
        make(&shared, asked, Some(owner.account), owner.until).await
    }

    pub async fn list(owner: Owner, State(shared): State<Arc<Shared>>) -> Answer {
        super::list(&shared, Some(owner.account)).await
    }

    pub async fn edit(
        owner: Owner,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
        Asked(asked): Asked<EditKey>,
    ) -> Answer {
        owner.turn(&shared)?;
        let key = found(&shared, id, Some(owner.account)).await?;
        if key.id == owner.key {
            return Err(Refusal::new(RefusalCode::Forbidden, "a key does not change its own limits").into());
        }
        super::edit(&shared, key, asked, owner.until).await
    }

    pub async fn rotate(
        owner: Owner,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
    ) -> Answer {
        owner.turn(&shared)?;
        super::rotate(&shared, found(&shared, id, Some(owner.account)).await?).await
    }

    pub async fn revoke(
        owner: Owner,
        State(shared): State<Arc<Shared>>,
        id: Result<Path<i64>, PathRejection>,
    ) -> Answer {
        super::revoke(&shared, found(&shared, id, Some(owner.account)).await?).await
    }
}

/// `GET /v1/key`: the key that asks.
pub async fn own(State(shared): State<Arc<Shared>>, headers: axum::http::HeaderMap) -> Answer {
    let key = auth::any(&shared.store, &headers, &[KeyKind::Consumer, KeyKind::Account])?;
    let budget = shared.store.budget(Spender::Key(key.id)).await.map_err(internal)?;
    Ok(Json(shown(&key, budget)))
}
