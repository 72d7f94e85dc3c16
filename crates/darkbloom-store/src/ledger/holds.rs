//! Holds as rows.

use darkbloom_ledger::{HoldRecord, HoldRequest, HoldState, OperationView, Settled, VoidCause};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::error::StoreError;

const COLUMNS: &str = "request, operation, account, key, model, amount, price_version, price_input, price_output, \
    input_ceiling, output_ceiling, placed_at, expires_at, supersedes, state, superseded_by, closed_at, provider, \
    input_tokens, output_tokens, charge, unpaid, released, payout, fee, void, accepted_by";

/// A hold, whatever its state.
pub(crate) fn load(connection: &Connection, request: RequestId) -> Result<Option<HoldRecord>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM hold WHERE request = ?1"))?;
    statement.query_row([request.0], |row| Ok(record(row))).optional()?.transpose()
}

/// Whether the request id has a hold.
pub(crate) fn exists(connection: &Connection, request: RequestId) -> Result<bool, StoreError> {
    Ok(connection.prepare_cached("SELECT 1 FROM hold WHERE request = ?1")?.exists([request.0])?)
}

/// What stands of an account's operation.
pub(crate) fn operation(
    connection: &Connection,
    account: AccountId,
    operation: OperationId,
) -> Result<OperationView, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT state, request FROM hold WHERE account = ?1 AND operation = ?2 AND state < 2")?;
    let row = statement.query_row(params![account.0, operation.0], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)));
    Ok(match row.optional()? {
        None => OperationView::default(),
        Some((0, request)) => OperationView { settled: false, open: Some(RequestId(request)) },
        Some(_) => OperationView { settled: true, open: None },
    })
}

/// Adds an open hold.
pub(crate) fn insert(connection: &Connection, hold: &HoldRequest) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO hold (request, operation, account, key, model, amount, price_version, price_input,
             price_output, input_ceiling, output_ceiling, placed_at, expires_at, supersedes)
             VALUES (:request, :operation, :account, :key, :model, :amount, :price_version, :price_input,
             :price_output, :input_ceiling, :output_ceiling, :placed_at, :expires_at, :supersedes)",
        )?
        .execute(named_params! {
            ":request": hold.request.0,
            ":operation": hold.operation.0,
            ":account": hold.account.0,
            ":key": hold.key.0,
            ":model": hold.model.0,
            ":amount": hold.amount.0,
            ":price_version": hold.price.version,
            ":price_input": hold.price.input_nano_per_token,
            ":price_output": hold.price.output_nano_per_token,
            ":input_ceiling": hold.input_ceiling.0,
            ":output_ceiling": hold.output_ceiling.0,
            ":placed_at": hold.placed_at.0,
            ":expires_at": hold.expires_at.0,
            ":supersedes": hold.supersedes.map(|old| old.0),
        })?;
    Ok(())
}

/// Writes how a hold ended.
pub(crate) fn close(connection: &Connection, settled: &Settled, reason: Option<&str>) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE hold SET state = :state, closed_at = :closed_at, provider = :provider,
             input_tokens = :input_tokens, output_tokens = :output_tokens, charge = :charge, unpaid = :unpaid,
             void = :void, released = :released, payout = :payout, fee = :fee, reason = coalesce(:reason, reason)
             WHERE request = :request",
        )?
        .execute(named_params! {
            ":state": state_code(settled.state),
            ":void": settled.void.map(void_code),
            ":closed_at": settled.at.0,
            ":provider": settled.provider.map(|provider| provider.0),
            ":input_tokens": settled.input_tokens.0,
            ":output_tokens": settled.output_tokens.0,
            ":charge": settled.charge.0,
            ":unpaid": settled.unpaid.0,
            ":released": settled.released.0,
            ":payout": settled.payout.0,
            ":fee": settled.fee.0,
            ":reason": reason,
            ":request": settled.request.0,
        })?;
    Ok(())
}

/// Writes whose answer is being relayed for an open hold.
pub(crate) fn accepted(connection: &Connection, request: RequestId, provider: ProviderId) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE hold SET accepted_by = ?2 WHERE request = ?1 AND state = 0")?
        .execute(params![request.0, provider.0])?;
    Ok(())
}

/// Writes which request took a hold's place.
pub(crate) fn supersede(connection: &Connection, old: RequestId, new: RequestId) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE hold SET superseded_by = ?2 WHERE request = ?1")?
        .execute(params![old.0, new.0])?;
    Ok(())
}

/// Open holds that expire at `until` or before, soonest first, so many at most.
pub(crate) fn open_until(
    connection: &Connection,
    until: UnixMillis,
    limit: u32,
) -> Result<Vec<HoldRecord>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM hold WHERE state = 0 AND expires_at <= ?1 ORDER BY expires_at, id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([until.0, i64::from(limit)])?;
    let mut holds = Vec::new();
    while let Some(row) = rows.next()? {
        holds.push(record(row)?);
    }
    Ok(holds)
}

/// An account's settled holds, newest first, so many at most.
pub(crate) fn settled_of(
    connection: &Connection,
    account: AccountId,
    limit: u32,
) -> Result<Vec<(HoldRecord, Settled)>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM hold WHERE account = ?1 AND state = 1 ORDER BY closed_at DESC, id DESC LIMIT ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([account.0, i64::from(limit)])?;
    let mut holds = Vec::new();
    while let Some(row) = rows.next()? {
        let record = record(row)?;
        let settled = record.closed.ok_or(StoreError::ImpossibleRow { what: "settled hold" })?;
        holds.push((record, settled));
    }
    Ok(holds)
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
        supersedes: row.get::<_, Option<_>>(13)?.map(RequestId),
    };
    let state = match row.get::<_, i64>(14)? {
        0 => HoldState::Open,
        1 => HoldState::Settled,
        2 => HoldState::Voided,
        _ => return Err(StoreError::ImpossibleRow { what: "hold state" }),
    };
    let closed = match row.get::<_, Option<i64>>(16)? {
        None => None,
        Some(at) => Some(closed(row, &request, state, UnixMillis(at))?),
    };
    Ok(HoldRecord {
        request,
        closed,
        superseded_by: row.get::<_, Option<_>>(15)?.map(RequestId),
        accepted_by: row.get::<_, Option<_>>(26)?.map(ProviderId),
    })
}

fn closed(row: &Row<'_>, hold: &HoldRequest, state: HoldState, at: UnixMillis) -> Result<Settled, StoreError> {
    Ok(Settled {
        request: hold.request,
        operation: hold.operation,
        account: hold.account,
        provider: row.get::<_, Option<_>>(17)?.map(ProviderId),
        state,
        void: void_cause(row.get(25)?)?,
        input_tokens: TokenCount(row.get(18)?),
        output_tokens: TokenCount(row.get(19)?),
        charge: NanoDollars(row.get(20)?),
        unpaid: NanoDollars(row.get(21)?),
        released: NanoDollars(row.get(22)?),
        payout: NanoDollars(row.get(23)?),
        fee: NanoDollars(row.get(24)?),
        at,
        already: false,
    })
}
