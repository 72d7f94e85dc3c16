//! What an administrator's key may do.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use darkbloom_ledger::BasisPoints;
use darkbloom_store::{CatalogueRow, CreateAccountError, KeyKind, PutBlobError, PutPriceError};
use darkbloom_types::{AccountId, Digest, Refusal, RefusalCode};
use darkbloom_wire::{CatalogueEntry, catalogue_digest};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{Refused, internal};
use crate::auth;
use crate::catalogue::MODELS_MAX;
use crate::state::Shared;
use darkbloom_host::body;

pub mod bodies;
pub mod money;
pub mod standings;
pub mod trail;

use bodies::{NewAccount, NewModel};

/// Largest file that the catalogue keeps: the text pack of a 256 K vocabulary takes about 6 MiB.
const BLOB_BYTES_MAX: usize = 32 << 20;
/// Largest other body: names and numbers.
const JSON_BYTES_MAX: usize = 64 << 10;
/// Accounts in one list.
const ACCOUNTS_MAX: u32 = 1_000;

/// What an administrator or an account hears: something in JSON, or a refusal.
pub type Answer = Result<Json<Value>, Refused>;

/// An administrator whose key was checked; as the first argument of a handler, before the body is read.
pub struct Administrator;

impl FromRequestParts<Arc<Shared>> for Administrator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        auth::bearer(&shared.store, &parts.headers, KeyKind::Admin)?;
        Ok(Self)
    }
}

/// A body in JSON.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Asked<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &Arc<Shared>) -> Result<Self, Refused> {
        let bytes = body::read(request.into_body(), JSON_BYTES_MAX).await.map_err(Refusal::from)?;
        bodies::read(&bytes).map(Self).map_err(invalid)
    }
}

/// A body that says what cannot be.
pub fn invalid(detail: impl Into<String>) -> Refused {
    Refused(Refusal::new(RefusalCode::InvalidRequest, detail))
}

/// The account of a name that somebody gave.
pub async fn account_of_name(shared: &Shared, name: &str) -> Result<AccountId, Refused> {
    let found = shared.store.account_by_name(name).await.map_err(internal)?;
    found.ok_or_else(|| invalid("there is no account of this name"))
}

pub async fn account_create(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    Asked(asked): Asked<NewAccount>,
) -> Answer {
    match shared.store.account_create(asked.name.clone()).await {
        Ok(id) => Ok(Json(json!({"account": id, "name": asked.name}))),
        Err(CreateAccountError::Store(error)) => Err(internal(error)),
        Err(error) => Err(invalid(error.to_string())),
    }
}

pub async fn accounts(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.accounts_list(AccountId(0), ACCOUNTS_MAX).await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "account": row.id,
                "name": row.name,
                "available_nano_usd": row.balance.available,
                "held_nano_usd": row.balance.held,
                "fee_basis_points": row.fee.map(BasisPoints::points),
                "referred_by": row.referred_by,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

pub async fn blob_put(_: Administrator, State(shared): State<Arc<Shared>>, blob: Body) -> Answer {
    let bytes = body::read(blob, BLOB_BYTES_MAX).await.map_err(Refusal::from)?;
    let digest = Digest::of(&[&bytes]);
    match shared.store.blob_put(digest, bytes.to_vec()).await {
        Ok(()) => Ok(Json(json!({"digest": digest}))),
        Err(PutBlobError::Store(error)) => Err(internal(error)),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// Puts a model on offer: the entry is signed here, with the coordinator's key.
pub async fn catalogue_put(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    Asked(asked): Asked<NewModel>,
) -> Answer {
    let text_pack = asked.text_pack;
    if shared.store.blob_load(text_pack).await.map_err(internal)?.is_none() {
        return Err(invalid("text_pack: upload it with `PUT /admin/v1/blobs` first"));
    }
    let _change = shared.catalogue_change.lock().await;
    if !shared.catalogue().has_room_for(&asked.name) {
        return Err(invalid(format!(
            "`{}` would be one model too many: a network offers at most {MODELS_MAX}",
            asked.name
        )));
    }
    let entry = CatalogueEntry {
        network: shared.network,
        name: asked.name.clone(),
        weights: asked.weights,
        text_pack,
        context: asked.context,
        quantisation: asked.quantisation,
    };
    let signed = entry.sign(&*shared.key).map_err(internal)?;
    // What cannot be read again would keep the coordinator from starting.
    CatalogueEntry::open(&signed, &shared.key.public_key()).map_err(|error| invalid(format!("the entry: {error}")))?;
    let model = catalogue_digest(&signed);
    match shared.store.price_put(asked.name.clone(), asked.price).await {
        Ok(()) => {}
        Err(PutPriceError::Store(error)) => return Err(internal(error)),
        Err(error) => return Err(invalid(error.to_string())),
    }
    let row = CatalogueRow { digest: model, name: asked.name, entry: signed, text_pack, active: true };
    shared.store.catalogue_put(row).await.map_err(internal)?;
    shared.reload_catalogue().await.map_err(internal)?;
    Ok(Json(json!({"digest": model})))
}

pub async fn providers(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let views = shared.provider_views();
    let catalogue = shared.catalogue();
    let views: Vec<_> = views
        .into_iter()
        .map(|view| {
            let models: Vec<_> = view
                .models
                .iter()
                .map(|load| {
                    let name = catalogue.by_digest(&load.model).map(|item| item.entry.name.clone());
                    json!({"model": name, "rows_max": load.rows_max, "rows_used": load.rows_used, "waiting": load.waiting, "residence": load.residence.name()})
                })
                .collect();
            let reason = view.eligible.err();
            json!({
                "provider": view.provider,
                "tier": view.tier,
                "standing": view.standing.name(),
                "shadow": view.shadow.iter().map(|gate| gate.name()).collect::<Vec<_>>(),
                "eligible": reason.is_none(),
                "reason": reason.map(|reason| reason.name()),
                "next_step": reason.map(|reason| reason.next_step()),
                "models": models,
            })
        })
        .collect();
    Ok(Json(json!({"data": views})))
}

pub async fn audit(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let report = shared.store.audit().await.map_err(internal)?;
    let findings: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    Ok(Json(json!({
        "clean": report.is_clean(),
        "books": report.books,
        "transfers": report.transfers,
        "open_holds": report.open_holds,
        "findings": findings,
    })))
}
