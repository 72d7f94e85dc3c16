//! An account's own affairs: its machines, what they earned, payouts, disputes, codes, its machines' prices.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use darkbloom_ledger::Recount;
use darkbloom_store::{
    DisputeError, JobRow, KeyKind, PayoutError, PayoutRow, PriceScope, PutPriceError, RedeemError, ReferralError,
};
use darkbloom_types::{
    AccountId, Digest, KeyId, NanoDollars, ProviderId, Refusal, RefusalCode, RequestId, TokenCount, UnixMillis,
};
use rand_core::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::bodies::{Code, NewDispute, NewPayout, OwnPrice, Spend};
use crate::admin::{Answer, Asked, invalid};
use crate::api::{Refused, internal};
use crate::auth;
use crate::state::Shared;
use darkbloom_host::clock;

pub mod device;

/// Jobs in one list.
const JOBS_MAX: u32 = 1_000;

/// Who has an account's key; as the first argument of a handler, before the body is read.
pub struct Owner {
    /// The account.
    pub account: AccountId,
    /// Until when the key opens anything: nothing that it makes or approves lasts longer.
    pub until: Option<UnixMillis>,
    /// Which key.
    pub key: KeyId,
}

impl Owner {
    /// Takes one of the account's turns for what costs the database more than a look.
    pub fn turn(&self, shared: &Shared) -> Result<(), Refused> {
        turn(shared, self.account)
    }
}

fn turn(shared: &Shared, account: AccountId) -> Result<(), Refused> {
    if shared.turn(account) {
        return Ok(());
    }
    Err(Refusal::new(RefusalCode::RateLimitExceeded, "this account asks for too much of this kind").into())
}

impl FromRequestParts<Arc<Shared>> for Owner {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        let key = auth::bearer(&shared.store, &parts.headers, KeyKind::Account)?;
        let account = key.account.ok_or(RefusalCode::Forbidden)?;
        Ok(Self { account, until: key.terms.expires_at, key: key.id })
    }
}

/// `GET /v1/earnings`: what the account's machines and referrals brought it.
pub async fn earnings(owner: Owner, State(shared): State<Arc<Shared>>) -> Answer {
    let earnings = shared.store.earnings(owner.account).await.map_err(internal)?;
    Ok(Json(json!({
        "object": "earnings",
        "currency": "usd",
        "withdrawable_nano_usd": earnings.withdrawable,
        "earned_nano_usd": earnings.earned,
        "referral_nano_usd": earnings.referral,
        "withdrawing_nano_usd": earnings.withdrawing,
    })))
}

/// `GET /v1/machines`: each of the account's machines and what it earned.
pub async fn machines(owner: Owner, State(shared): State<Arc<Shared>>) -> Answer {
    owner.turn(&shared)?;
    let rows = shared.store.machines(owner.account).await.map_err(internal)?;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "provider": row.provider,
                "jobs": row.jobs,
                "output_tokens": row.output_tokens,
                "earned_nano_usd": row.earned,
                "not_yet_withdrawable_nano_usd": row.kept,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobsQuery {
    #[serde(default)]
    after: i64,
}

/// `GET /v1/earnings/jobs?after=ID`: each job that was paid, oldest first.
pub async fn jobs(
    owner: Owner,
    State(shared): State<Arc<Shared>>,
    query: Result<Query<JobsQuery>, QueryRejection>,
) -> Answer {
    let rows = some_jobs(&shared, &owner, query).await?;
    let last = rows.last().map(|row| row.id);
    let catalogue = shared.catalogue();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            json!({
                "id": row.id,
                "request": row.request,
                "provider": row.provider,
                "model": catalogue.by_digest(&row.model).map(|item| item.entry.name.clone()),
                "catalogue_digest": row.model,
                "settled_at": row.at,
                "input_tokens": row.input_tokens,
                "output_tokens": row.output_tokens,
                "charge_nano_usd": row.charge,
                "earned_nano_usd": row.payout,
                "not_yet_withdrawable_nano_usd": row.kept,
            })
        })
        .collect();
    Ok(Json(json!({"data": rows, "last": last})))
}

/// `GET /v1/earnings/jobs.csv?after=ID`: the same for a spreadsheet (RFC 4180).
pub async fn jobs_csv(
    owner: Owner,
    State(shared): State<Arc<Shared>>,
    query: Result<Query<JobsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let rows = some_jobs(&shared, &owner, query).await?;
    let catalogue = shared.catalogue();
    let mut text =
        "id,settled_at,request,provider,model,input_tokens,output_tokens,charge_usd,earned_usd\r\n".to_owned();
    for row in rows {
        let model =
            catalogue.by_digest(&row.model).map_or_else(|| row.model.to_string(), |item| item.entry.name.clone());
        let dollars = |amount: NanoDollars| amount.to_string().replace('$', "");
        let model = quoted(&model);
        // Writing into a text cannot fail.
        let _ = write!(
            text,
            "{},{},{},{},{model},{},{},{},{}\r\n",
            row.id,
            row.at.0,
            row.request,
            row.provider,
            row.input_tokens,
            row.output_tokens,
            dollars(row.charge),
            dollars(row.payout)
        );
    }
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"earnings.csv\""),
    ];
    Ok((headers, text).into_response())
}

/// A field in quotation marks, so that neither commas nor what a spreadsheet takes for a formula means anything in it.
fn quoted(field: &str) -> String {
    let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    format!("\"{}{}\"", if formula { "'" } else { "" }, field.replace('"', "\"\""))
}

async fn some_jobs(
    shared: &Shared,
    owner: &Owner,
    query: Result<Query<JobsQuery>, QueryRejection>,
) -> Result<Vec<JobRow>, Refused> {
    let Query(query) = query.map_err(|_| invalid("`after` is the id of a job"))?;
    shared.store.jobs(owner.account, query.after, JOBS_MAX).await.map_err(internal)
}

/// A payout, as it is shown.
pub fn payout_shown(row: &PayoutRow) -> Value {
    json!({
        "id": row.id,
        "account": row.account,
        "reference": row.reference,
        "amount_nano_usd": row.amount,
        "goes_to": row.goes_to,
        "outside": row.outside,
        "state": row.state.name(),
        "asked_at": row.asked_at,
        "changed_at": row.changed_at,
    })
}

/// Why a payout is not made, as an answer.
pub fn payout_refused(error: PayoutError) -> Refused {
    match error {
        PayoutError::Store(error) => internal(error),
        PayoutError::Unknown => RefusalCode::NotFound.into(),
        PayoutError::ReferenceReused | PayoutError::Refused(_) => invalid(error.to_string()),
    }
}

/// `GET /v1/payouts`.
pub async fn payouts(owner: Owner, State(shared): State<Arc<Shared>>) -> Answer {
    let rows = shared.store.payouts(Some(owner.account), false).await.map_err(internal)?;
    Ok(Json(json!({"data": rows.iter().map(payout_shown).collect::<Vec<_>>()})))
}

/// `POST /v1/payouts`: keeps earnings aside to be paid out.
pub async fn payout(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<NewPayout>) -> Answer {
    let NewPayout { amount_nano_usd, reference, goes_to } = asked;
    let asked =
        shared.store.payout_request(owner.account, reference, NanoDollars(amount_nano_usd), goes_to, clock::now());
    Ok(Json(payout_shown(&asked.await.map_err(payout_refused)?)))
}

/// `POST /v1/earnings/spend`: makes earnings the account's own credit.
pub async fn spend(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<Spend>) -> Answer {
    let amount = NanoDollars(asked.amount_nano_usd);
    let already = shared.store.earnings_spend(owner.account, asked.reference, amount, clock::now()).await;
    Ok(Json(json!({"already": already.map_err(payout_refused)?, "amount_nano_usd": amount})))
}

/// `POST /v1/disputes`: the account counted less than it paid for.
pub async fn dispute(
    State(shared): State<Arc<Shared>>,
    headers: axum::http::HeaderMap,
    Asked(asked): Asked<NewDispute>,
) -> Answer {
    let key = auth::any(&shared.store, &headers, &[KeyKind::Consumer, KeyKind::Account])?;
    let account = key.account.ok_or(RefusalCode::Forbidden)?;
    turn(&shared, account)?;
    let only = (key.kind == KeyKind::Consumer).then_some(key.id);
    let request = asked.request.parse::<RequestId>().map_err(|_| invalid("request: 32 hex digits"))?;
    let recount = Recount { input: TokenCount(asked.input_tokens), output: TokenCount(asked.output_tokens) };
    let row = shared.store.dispute(request, account, only, recount, clock::now()).await.map_err(dispute_refused)?;
    Ok(Json(json!({"request": row.request, "disputed_nano_usd": row.amount()})))
}

/// Why a dispute does not come to be, or is not decided, as an answer.
pub fn dispute_refused(error: DisputeError) -> Refused {
    match error {
        DisputeError::Store(error) => internal(error),
        DisputeError::Unknown => RefusalCode::NotFound.into(),
        DisputeError::TooMany => Refusal::new(RefusalCode::RateLimitExceeded, error.to_string()).into(),
        DisputeError::Refused(_) | DisputeError::DecidedOtherwise => invalid(error.to_string()),
    }
}

/// `POST /v1/invites/redeem`.
pub async fn redeem(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<Code>) -> Answer {
    owner.turn(&shared)?;
    let digest = code_digest(&asked.code);
    match shared.store.invite_redeem(digest, owner.account, clock::now()).await {
        Ok(redeemed) => Ok(Json(json!({"already": redeemed.already, "amount_nano_usd": redeemed.amount}))),
        Err(RedeemError::Store(error)) => Err(internal(error)),
        Err(error @ (RedeemError::Refused(_) | RedeemError::UnknownAccount)) => Err(invalid(error.to_string())),
    }
}

/// `POST /v1/referral`: a fresh code by which others say that this account brought them. It is in the answer and nowhere else.
pub async fn referral_code(owner: Owner, State(shared): State<Arc<Shared>>) -> Answer {
    owner.turn(&shared)?;
    let code = fresh_code("db-ref-");
    shared.store.referral_code(owner.account, code_digest(&code)).await.map_err(internal)?;
    Ok(Json(json!({"code": code})))
}

/// `POST /v1/referral/apply`: who brought the account.
pub async fn referred(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<Code>) -> Answer {
    owner.turn(&shared)?;
    match shared.store.referred(owner.account, code_digest(&asked.code)).await {
        Ok(_) => Ok(Json(json!({"applied": true}))),
        Err(ReferralError::Store(error)) => Err(internal(error)),
        Err(
            error @ (ReferralError::Unknown
            | ReferralError::UnknownAccount
            | ReferralError::Already
            | ReferralError::TooLate),
        ) => Err(invalid(error.to_string())),
    }
}

/// A code that nobody guesses: 120 random bits.
pub fn fresh_code(prefix: &str) -> String {
    let mut random = [0; 15];
    clock::rng().fill_bytes(&mut random);
    format!("{prefix}{}", hex::encode(random))
}

/// What is kept of a code.
pub fn code_digest(code: &str) -> Digest {
    Digest::of(&[code.trim().as_bytes()])
}

/// `PUT /v1/prices`: what one of the account's machines asks for a model.
pub async fn price(owner: Owner, State(shared): State<Arc<Shared>>, Asked(asked): Asked<OwnPrice>) -> Answer {
    let provider = asked.provider.as_deref().and_then(|text| text.parse::<ProviderId>().ok());
    let provider = provider.filter(|_| asked.account.is_none()).ok_or_else(|| invalid("provider: 64 hex digits"))?;
    owner.turn(&shared)?;
    if shared.store.owner_of(provider).await.map_err(internal)? != Some(owner.account) {
        return Err(Refusal::new(RefusalCode::Forbidden, "the machine is not this account's").into());
    }
    put_price(&shared, PriceScope::Provider(provider), &asked).await
}

/// Gives a model a price of somebody's own.
pub async fn put_price(shared: &Shared, scope: PriceScope, asked: &OwnPrice) -> Answer {
    let _change = shared.catalogue_change.lock().await;
    let numbers = asked.price.map(|price| (price.input_nano_per_token, price.output_nano_per_token));
    match shared.store.price_of(asked.model.clone(), scope, numbers).await {
        Ok(price) => {
            if matches!(scope, PriceScope::Account(_)) {
                shared.reload_catalogue().await.map_err(internal)?;
            }
            Ok(Json(json!({"model": asked.model, "price": price})))
        }
        Err(PutPriceError::Store(error)) => Err(internal(error)),
        Err(
            error @ (PutPriceError::UnknownModel
            | PutPriceError::TooHigh
            | PutPriceError::VersionNotNew { .. }
            | PutPriceError::VersionTooHigh),
        ) => Err(invalid(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_table_means_nothing_to_a_spreadsheet() {
        assert_eq!(quoted("lab/model, large"), "\"lab/model, large\"");
        assert_eq!(quoted("=HYPERLINK(\"x\")"), "\"'=HYPERLINK(\"\"x\"\")\"");
    }

    #[test]
    fn codes_are_known_by_their_digests_whatever_stands_around_them() {
        let code = fresh_code("db-ref-");
        assert_eq!(code.len(), 7 + 30);
        assert_eq!(code_digest(&code), code_digest(&format!(" {code}\n")));
        assert_ne!(code, fresh_code("db-ref-"));
    }
}
