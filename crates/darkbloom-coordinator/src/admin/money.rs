//! Money, for the operator: deposits, fees, budgets, prices of somebody's own, invite codes, payouts, disputes, owners.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use darkbloom_host::clock;
use darkbloom_ledger::{BasisPoints, Decision, Invite, PayoutState, Spender};
use darkbloom_store::{DepositError, DepositState, PriceScope, RedeemError};
use darkbloom_types::{NanoDollars, ProviderId, RefusalCode, RequestId, UnixMillis};
use serde_json::json;

use super::bodies::{DecideDispute, EditAccount, EditPayout, NewDeposit, NewInvite, NewOwner, OwnPrice, Side};
use super::{Administrator, Answer, Asked, account_of_name, invalid};
use crate::account::{code_digest, dispute_refused, fresh_code, payout_refused, payout_shown, put_price};
use crate::api::internal;
use crate::keys::budget_shown;
use crate::state::Shared;

/// `POST /admin/v1/deposits`: money that came, or that somebody outside was told to take. Each call may be made again.
pub async fn deposit(_: Administrator, State(shared): State<Arc<Shared>>, Asked(asked): Asked<NewDeposit>) -> Answer {
    let account = account_of_name(&shared, &asked.account).await?;
    let state = asked.state.as_deref().map_or(Some(DepositState::Credited), DepositState::from_name);
    let state = state.ok_or_else(|| invalid("state: expected, credited or abandoned"))?;
    let deposit = darkbloom_store::NewDeposit {
        account,
        amount: NanoDollars(asked.amount_nano_usd),
        reference: asked.reference,
        source: asked.source.unwrap_or_else(|| "administrator".to_owned()),
    };
    match shared.store.deposit_put(deposit, state, clock::now()).await {
        Ok(done) => Ok(Json(
            json!({"already": done.already, "state": state.name(), "available_nano_usd": done.balance.available}),
        )),
        Err(DepositError::Store(error)) => Err(internal(error)),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// `GET /admin/v1/deposits`: those that are expected.
pub async fn deposits(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.deposits_expected().await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "account": row.deposit.account,
                "amount_nano_usd": row.deposit.amount,
                "reference": row.deposit.reference,
                "source": row.deposit.source,
                "state": row.state.name(),
                "at": row.at,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

/// `PATCH /admin/v1/accounts/{name}`: the fee of its machines, the budget of all its keys together.
pub async fn account_edit(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    Asked(asked): Asked<EditAccount>,
) -> Answer {
    let Path(name) = name.map_err(|_| RefusalCode::NotFound)?;
    let account = account_of_name(&shared, &name).await?;
    if let Some(fee) = asked.fee_basis_points {
        let fee =
            fee.map(BasisPoints::new).transpose().map_err(|error| invalid(format!("fee_basis_points: {error}")))?;
        shared.store.account_fee(account, fee).await.map_err(internal)?;
    }
    if let Some(budget) = asked.budget {
        let budget = budget.map(|budget| budget.checked()).transpose().map_err(invalid)?;
        shared.store.budget_put(Spender::Account(account), budget, clock::now()).await.map_err(internal)?;
    }
    let budget = shared.store.budget(Spender::Account(account)).await.map_err(internal)?;
    Ok(Json(json!({"account": account, "name": name, "budget": budget.map(|budget| budget_shown(&budget))})))
}

/// `PUT /admin/v1/prices`: what one account pays, or one provider asks, for a model.
pub async fn price(_: Administrator, State(shared): State<Arc<Shared>>, Asked(asked): Asked<OwnPrice>) -> Answer {
    let scope = match (&asked.account, &asked.provider) {
        (Some(name), None) => PriceScope::Account(account_of_name(&shared, name).await?),
        (None, Some(id)) => {
            PriceScope::Provider(id.parse::<ProviderId>().map_err(|_| invalid("provider: 64 hex digits"))?)
        }
        _ => return Err(invalid("name an account or a provider")),
    };
    put_price(&shared, scope, &asked).await
}

/// `GET /admin/v1/prices`: every edition of every price.
pub async fn prices(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.price_list().await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let (account, provider) = match row.scope {
                PriceScope::Network => (None, None),
                PriceScope::Account(account) => (Some(account), None),
                PriceScope::Provider(provider) => (None, Some(provider)),
            };
            json!({"model": row.model, "account": account, "provider": provider, "price": row.price, "current": row.current})
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

/// `POST /admin/v1/invites`: a code. It is in the answer and nowhere else.
pub async fn invite(_: Administrator, State(shared): State<Arc<Shared>>, Asked(asked): Asked<NewInvite>) -> Answer {
    let code = fresh_code("db-invite-");
    let invite = Invite {
        amount: NanoDollars(asked.amount_nano_usd),
        uses_left: asked.uses,
        expires_at: UnixMillis(asked.expires_at),
    };
    match shared.store.invite_create(code_digest(&code), asked.name.clone(), invite, clock::now()).await {
        Ok(id) => Ok(Json(json!({"id": id, "name": asked.name, "code": code}))),
        Err(RedeemError::Store(error)) => Err(internal(error)),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// `GET /admin/v1/invites`.
pub async fn invites(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.invites().await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "id": row.id,
                "name": row.name,
                "amount_nano_usd": row.invite.amount,
                "uses_left": row.invite.uses_left,
                "used": row.used,
                "created_at": row.created_at,
                "expires_at": row.invite.expires_at,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

/// `DELETE /admin/v1/invites/{id}`: nobody uses the code any more.
pub async fn invite_end(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
) -> Answer {
    let Path(id) = id.map_err(|_| RefusalCode::NotFound)?;
    if shared.store.invite_end(id).await.map_err(internal)? {
        Ok(Json(json!({"id": id, "ended": true})))
    } else {
        Err(RefusalCode::NotFound.into())
    }
}

/// `GET /admin/v1/payouts`: those under way, of all accounts.
pub async fn payouts(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.payouts(None, true).await.map_err(internal)?;
    Ok(Json(json!({"data": rows.iter().map(payout_shown).collect::<Vec<_>>()})))
}

/// `PATCH /admin/v1/payouts/{id}`: how far a payout is.
pub async fn payout_edit(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
    Asked(asked): Asked<EditPayout>,
) -> Answer {
    let Path(id) = id.map_err(|_| RefusalCode::NotFound)?;
    let state = PayoutState::from_name(&asked.state).ok_or_else(|| invalid("state: sending, paid or returned"))?;
    let row = shared.store.payout_advance(id, state, asked.outside, clock::now()).await.map_err(payout_refused)?;
    Ok(Json(payout_shown(&row)))
}

/// `GET /admin/v1/disputes`: those that nobody has decided.
pub async fn disputes(_: Administrator, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.disputes_open().await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "request": row.request,
                "account": row.account,
                "input_tokens": row.recount.input,
                "output_tokens": row.recount.output,
                "disputed_nano_usd": row.amount(),
                "at": row.at,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

/// `POST /admin/v1/disputes/{request}`: who is right.
pub async fn dispute_decide(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    request: Result<Path<String>, PathRejection>,
    Asked(asked): Asked<DecideDispute>,
) -> Answer {
    let request = request.ok().and_then(|Path(text)| text.parse::<RequestId>().ok()).ok_or(RefusalCode::NotFound)?;
    let decision = match asked.decision {
        Side::Consumer => Decision::Consumer,
        Side::Provider => Decision::Provider,
    };
    let row = shared.store.dispute_decide(request, decision, clock::now()).await.map_err(dispute_refused)?;
    Ok(Json(json!({"request": row.request, "disputed_nano_usd": row.amount()})))
}

/// `PUT /admin/v1/owners/{provider}`: whose a machine is.
pub async fn owner(
    _: Administrator,
    State(shared): State<Arc<Shared>>,
    provider: Result<Path<String>, PathRejection>,
    Asked(asked): Asked<NewOwner>,
) -> Answer {
    let provider = provider.ok().and_then(|Path(text)| text.parse::<ProviderId>().ok());
    let provider = provider.ok_or_else(|| invalid("a provider's id is 64 hex digits"))?;
    let owner = match &asked.account {
        Some(name) => Some(account_of_name(&shared, name).await?),
        None => None,
    };
    if shared.store.provider_owner(provider, owner).await.map_err(internal)? {
        Ok(Json(json!({"provider": provider, "account": owner})))
    } else {
        Err(RefusalCode::NotFound.into())
    }
}
