//! Holds as rows.

use darkbloom_ledger::{HoldRecord, HoldRequest, HoldState, Kept, OperationView, Settled, Shares, VoidCause};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};

use super::agreement::share;
use crate::error::StoreError;
use crate::sql::{Connection, Row, Value, values};

/// A statement that reads whole holds, with what follows.
macro_rules! select_hold {
    ($rest:literal) => {
        concat!(
            "SELECT request, operation, account, key, model, amount, price_version, price_input, price_output, \
             input_ceiling, output_ceiling, placed_at, expires_at, supersedes, state, superseded_by, closed_at, provider, \
             input_tokens, output_tokens, charge, unpaid, released, payout, fee, void, accepted_by, charged_version, \
             charged_input, charged_output, referral, referrer, fee_share, referral_share, kept_payout, kept_referral \
             FROM hold ",
            $rest
        )
    };
}

/// A hold, whatever its state.
pub(crate) fn load(connection: &Connection, request: RequestId) -> Result<Option<HoldRecord>, StoreError> {
    connection.row(select_hold!("WHERE request = ?1"), values![&request.0], record)
}

/// Whether the request id has a hold.
pub(crate) fn exists(connection: &Connection, request: RequestId) -> Result<bool, StoreError> {
    connection.exists("SELECT 1 FROM hold WHERE request = ?1", values![&request.0])
}

/// What stands of an account's operation.
pub(crate) fn operation(
    connection: &Connection,
    account: AccountId,
    operation: OperationId,
) -> Result<OperationView, StoreError> {
    let sql = "SELECT state, request FROM hold WHERE account = ?1 AND operation = ?2 AND state < 2";
    let row = connection
        .row(sql, values![account.0, &operation.0], |row| Ok((row.get::<i64>(0)?, RequestId(row.get(1)?))))?;
    Ok(match row {
        None => OperationView::default(),
        Some((0, request)) => OperationView { settled: false, open: Some(request) },
        Some(_) => OperationView { settled: true, open: None },
    })
}

/// Adds an open hold.
pub(crate) fn insert(connection: &Connection, hold: &HoldRequest) -> Result<(), StoreError> {
    set(
        connection,
        "INSERT INTO hold (request, operation, account, key, model, amount, price_version, price_input, price_output,
         input_ceiling, output_ceiling, placed_at, expires_at, supersedes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        [
            Value::from(&hold.request.0),
            Value::from(&hold.operation.0),
            Value::from(hold.account.0),
            Value::from(hold.key.0),
            Value::from(&hold.model.0),
            Value::from(hold.amount.0),
            Value::from(hold.price.version),
            Value::from(hold.price.input_nano_per_token),
            Value::from(hold.price.output_nano_per_token),
            Value::from(hold.input_ceiling.0),
            Value::from(hold.output_ceiling.0),
            Value::from(hold.placed_at.0),
            Value::from(hold.expires_at.0),
            Value::from(hold.supersedes.as_ref().map(|old| &old.0)),
        ],
    )
}

/// Writes how a hold ended.
pub(crate) fn close(connection: &Connection, settled: &Settled, reason: Option<&str>) -> Result<(), StoreError> {
    set(
        connection,
        "UPDATE hold SET state = ?2, void = ?3, closed_at = ?4, provider = ?5, input_tokens = ?6, output_tokens = ?7,
         charge = ?8, unpaid = ?9, released = ?10, payout = ?11, fee = ?12, reason = coalesce(?13, reason),
         charged_version = ?14, charged_input = ?15, charged_output = ?16, referral = ?17, referrer = ?18,
         fee_share = ?19, referral_share = ?20, kept_payout = ?11, kept_referral = ?17
         WHERE request = ?1",
        [
            Value::from(&settled.request.0),
            Value::from(state_code(settled.state)),
            Value::from(settled.void.map(void_code)),
            Value::from(settled.at.0),
            Value::from(settled.provider.as_ref().map(|provider| &provider.0)),
            Value::from(settled.input_tokens.0),
            Value::from(settled.output_tokens.0),
            Value::from(settled.charge.0),
            Value::from(settled.unpaid.0),
            Value::from(settled.released.0),
            Value::from(settled.payout.0),
            Value::from(settled.fee.0),
            Value::from(reason),
            Value::from(settled.price.version),
            Value::from(settled.price.input_nano_per_token),
            Value::from(settled.price.output_nano_per_token),
            Value::from(settled.referral.0),
            Value::from(settled.referrer.map(|account| account.0)),
            Value::from(u32::from(settled.shares.fee.points())),
            Value::from(u32::from(settled.shares.referral.points())),
        ],
    )
}

/// Writes whose answer is being relayed for an open hold.
pub(crate) fn accepted(connection: &Connection, request: RequestId, provider: ProviderId) -> Result<(), StoreError> {
    let sql = "UPDATE hold SET accepted_by = ?2 WHERE request = ?1 AND state = 0";
    set(connection, sql, [Value::from(&request.0), Value::from(&provider.0)])
}

/// Changes what a settlement keeps by so much.
pub(crate) fn keep(connection: &Connection, request: RequestId, payout: i64, referral: i64) -> Result<(), StoreError> {
    let sql = "UPDATE hold SET kept_payout = kept_payout + ?2, kept_referral = kept_referral + ?3 WHERE request = ?1";
    set(connection, sql, [Value::from(&request.0), Value::from(payout), Value::from(referral)])
}

/// Writes which request took a hold's place.
pub(crate) fn supersede(connection: &Connection, old: RequestId, new: RequestId) -> Result<(), StoreError> {
    let sql = "UPDATE hold SET superseded_by = ?2 WHERE request = ?1";
    set(connection, sql, [Value::from(&old.0), Value::from(&new.0)])
}

fn set<const N: usize>(connection: &Connection, sql: &str, values: [Value<'_>; N]) -> Result<(), StoreError> {
    connection.execute(sql, &values)?;
    Ok(())
}

/// Open holds that expire at `until` or before, soonest first, so many at most.
pub(crate) fn open_until(
    connection: &Connection,
    until: UnixMillis,
    limit: u32,
) -> Result<Vec<HoldRecord>, StoreError> {
    let sql = select_hold!("WHERE state = 0 AND expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2");
    connection.rows(sql, values![until.0, limit], record)
}

/// An account's settled holds, newest first, so many at most.
pub(crate) fn settled_of(
    connection: &Connection,
    account: AccountId,
    limit: u32,
) -> Result<Vec<(HoldRecord, Settled)>, StoreError> {
    let sql = select_hold!("WHERE account = ?1 AND state = 1 ORDER BY closed_at DESC, id DESC LIMIT ?2");
    connection.rows(sql, values![account.0, limit], |row| {
        let record = record(row)?;
        let settled = record.closed.ok_or(StoreError::ImpossibleRow { what: "settled hold" })?;
        Ok((record, settled))
    })
}

fn state_code(state: HoldState) -> i64 {
    match state {
        HoldState::Open => 0,
        HoldState::Settled => 1,
        HoldState::Voided => 2,
    }
}

fn void_code(cause: VoidCause) -> i64 {
    match cause {
        VoidCause::NothingDelivered => 0,
        VoidCause::Silence => 1,
    }
}

fn void_cause(code: Option<i64>) -> Result<Option<VoidCause>, StoreError> {
    match code {
        None => Ok(None),
        Some(0) => Ok(Some(VoidCause::NothingDelivered)),
        Some(1) => Ok(Some(VoidCause::Silence)),
        Some(_) => Err(StoreError::ImpossibleRow { what: "cause of a void" }),
    }
}

fn record(row: &Row<'_>) -> Result<HoldRecord, StoreError> {
    let request = HoldRequest {
        request: RequestId(row.get(0)?),
        operation: OperationId(row.get(1)?),
        account: AccountId(row.get(2)?),
        key: KeyId(row.get(3)?),
        model: CatalogueDigest(row.get(4)?),
        amount: NanoDollars(row.get(5)?),
        price: Price { version: row.get(6)?, input_nano_per_token: row.get(7)?, output_nano_per_token: row.get(8)? },
        input_ceiling: TokenCount(row.get(9)?),
        output_ceiling: TokenCount(row.get(10)?),
        placed_at: UnixMillis(row.get(11)?),
        expires_at: UnixMillis(row.get(12)?),
        supersedes: row.get::<Option<_>>(13)?.map(RequestId),
    };
    let state = match row.get::<i64>(14)? {
        0 => HoldState::Open,
        1 => HoldState::Settled,
        2 => HoldState::Voided,
        _ => return Err(StoreError::ImpossibleRow { what: "hold state" }),
    };
    let closed = match row.get::<Option<i64>>(16)? {
        None => None,
        Some(at) => Some(closed(row, &request, state, UnixMillis(at))?),
    };
    Ok(HoldRecord {
        request,
        closed,
        superseded_by: row.get::<Option<_>>(15)?.map(RequestId),
        accepted_by: row.get::<Option<_>>(26)?.map(ProviderId),
        kept: Kept { payout: NanoDollars(row.get(34)?), referral: NanoDollars(row.get(35)?) },
    })
}

fn closed(row: &Row<'_>, hold: &HoldRequest, state: HoldState, at: UnixMillis) -> Result<Settled, StoreError> {
    Ok(Settled {
        request: hold.request,
        operation: hold.operation,
        account: hold.account,
        provider: row.get::<Option<_>>(17)?.map(ProviderId),
        state,
        void: void_cause(row.get(25)?)?,
        input_tokens: TokenCount(row.get(18)?),
        output_tokens: TokenCount(row.get(19)?),
        price: Price { version: row.get(27)?, input_nano_per_token: row.get(28)?, output_nano_per_token: row.get(29)? },
        charge: NanoDollars(row.get(20)?),
        unpaid: NanoDollars(row.get(21)?),
        released: NanoDollars(row.get(22)?),
        payout: NanoDollars(row.get(23)?),
        fee: NanoDollars(row.get(24)?),
        referral: NanoDollars(row.get(30)?),
        referrer: row.get::<Option<_>>(31)?.map(AccountId),
        shares: Shares { fee: share(row.get(32)?)?, referral: share(row.get(33)?)? },
        at,
        already: false,
    })
}
