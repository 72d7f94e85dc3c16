//! Disputes as rows.

use darkbloom_ledger::{Decision, DisputeRefusal, Division, Recount};
use darkbloom_types::{AccountId, KeyId, NanoDollars, RequestId, TokenCount, UnixMillis};

use super::books::{self, Movement};
use super::holds;
use crate::error::StoreError;
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Disputes of one account that may wait to be decided: each keeps others' money from them, and somebody has to look at each.
const OPEN_PER_ACCOUNT_MAX: i64 = 20;

/// Most disputes that one list has.
const DISPUTES_LIST_MAX: u32 = 1_000;

/// A dispute, as a list shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisputeRow {
    /// The request whose charge is disputed.
    pub request: RequestId,
    /// Who paid it.
    pub account: AccountId,
    /// What that account counted.
    pub recount: Recount,
    /// What was taken from each who was paid.
    pub parts: Division,
    /// Since when.
    pub at: UnixMillis,
    /// Who was found right, and when.
    pub decided: Option<(Decision, UnixMillis)>,
}

impl DisputeRow {
    /// How much is in doubt.
    #[must_use]
    pub fn amount(&self) -> NanoDollars {
        NanoDollars(self.parts.payout.0 + self.parts.fee.0 + self.parts.referral.0)
    }
}

/// Why a dispute does not come to be, or is not decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DisputeError {
    /// Nothing is known of such a request, or of a dispute about it.
    #[error("there is nothing of this name")]
    Unknown,
    /// The books say no.
    #[error(transparent)]
    Refused(#[from] DisputeRefusal),
    /// The account has as many open as it may.
    #[error("{OPEN_PER_ACCOUNT_MAX} disputes of this account wait to be decided")]
    TooMany,
    /// It was decided already, for the other side.
    #[error("the dispute was decided the other way")]
    DecidedOtherwise,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// An account counted less than it paid for: the difference leaves those who were paid, until somebody decides. With a key,
    /// only what that key asked for.
    ///
    /// # Errors
    /// [`DisputeError`].
    pub async fn dispute(
        &self,
        request: RequestId,
        account: AccountId,
        key: Option<KeyId>,
        recount: Recount,
        at: UnixMillis,
    ) -> Result<DisputeRow, DisputeError> {
        self.write(move |connection| open(connection, request, account, key, recount, at)).await
    }

    /// Decides a dispute. The same decision again changes nothing.
    ///
    /// # Errors
    /// [`DisputeError`].
    pub async fn dispute_decide(
        &self,
        request: RequestId,
        decision: Decision,
        at: UnixMillis,
    ) -> Result<DisputeRow, DisputeError> {
        self.write(move |connection| decide(connection, request, decision, at)).await
    }

    /// Disputes that nobody has decided, oldest first; 1,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn disputes_open(&self) -> Result<Vec<DisputeRow>, StoreError> {
        const SQL: &str =
            "SELECT request, account, input_tokens, output_tokens, payout, fee, referral, at, decision, decided_at
            FROM dispute WHERE decision IS NULL ORDER BY at, request LIMIT ?1";
        self.read(|connection| connection.rows(SQL, values![DISPUTES_LIST_MAX], dispute)).await
    }
}

fn open(
    connection: &Connection,
    request: RequestId,
    account: AccountId,
    key: Option<KeyId>,
    recount: Recount,
    at: UnixMillis,
) -> Result<DisputeRow, DisputeError> {
    let record = holds::load(connection, request)?.ok_or(DisputeError::Unknown)?;
    if key.is_some_and(|key| key != record.request.key) {
        return Err(DisputeError::Unknown);
    }
    let before = load(connection, request)?.is_some();
    let (parts, transfer) = darkbloom_ledger::dispute(&record, account, before, recount, at)?;
    let open = "SELECT count(*) FROM dispute WHERE account = ?1 AND decision IS NULL";
    if connection.only::<i64>(open, values![account.0])? >= OPEN_PER_ACCOUNT_MAX {
        return Err(DisputeError::TooMany);
    }
    connection.execute(
        "INSERT INTO dispute (request, account, input_tokens, output_tokens, payout, fee, referral, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            &request.0,
            account.0,
            recount.input.0,
            recount.output.0,
            parts.payout.0,
            parts.fee.0,
            parts.referral.0,
            at.0
        ],
    )?;
    holds::keep(connection, request, -parts.payout.0, -parts.referral.0)?;
    books::post(connection, Movement::Dispute, Some(request), at, &transfer)?;
    Ok(DisputeRow { request, account, recount, parts, at, decided: None })
}

fn decide(
    connection: &Connection,
    request: RequestId,
    decision: Decision,
    at: UnixMillis,
) -> Result<DisputeRow, DisputeError> {
    let row = load(connection, request)?.ok_or(DisputeError::Unknown)?;
    match row.decided {
        Some((before, _)) if before == decision => return Ok(row),
        Some(_) => return Err(DisputeError::DecidedOtherwise),
        None => {}
    }
    let record = holds::load(connection, request)?.and_then(|record| record.closed);
    let settled = record.ok_or(StoreError::ImpossibleRow { what: "dispute without a settlement" })?;
    connection.execute(
        "UPDATE dispute SET decision = ?2, decided_at = ?3 WHERE request = ?1",
        values![&request.0, decision_code(decision), at.0],
    )?;
    if decision == Decision::Provider {
        holds::keep(connection, request, row.parts.payout.0, row.parts.referral.0)?;
    }
    let transfer = darkbloom_ledger::decide_dispute(&settled, row.parts, decision);
    books::post(connection, Movement::DisputeDecided, Some(request), at, &transfer)?;
    Ok(DisputeRow { decided: Some((decision, at)), ..row })
}

fn load(connection: &Connection, request: RequestId) -> Result<Option<DisputeRow>, StoreError> {
    connection.row(
        "SELECT request, account, input_tokens, output_tokens, payout, fee, referral, at, decision, decided_at
         FROM dispute WHERE request = ?1",
        values![&request.0],
        dispute,
    )
}

fn decision_code(decision: Decision) -> i64 {
    match decision {
        Decision::Consumer => 0,
        Decision::Provider => 1,
    }
}

fn dispute(row: &Row<'_>) -> Result<DisputeRow, StoreError> {
    let decided = match (row.get::<Option<i64>>(8)?, row.get::<Option<i64>>(9)?) {
        (Some(code), Some(at)) => {
            let decision = [Decision::Consumer, Decision::Provider].into_iter().find(|one| decision_code(*one) == code);
            Some((decision.ok_or(StoreError::ImpossibleRow { what: "decision" })?, UnixMillis(at)))
        }
        _ => None,
    };
    Ok(DisputeRow {
        request: RequestId(row.get(0)?),
        account: AccountId(row.get(1)?),
        recount: Recount { input: TokenCount(row.get(2)?), output: TokenCount(row.get(3)?) },
        parts: Division {
            payout: NanoDollars(row.get(4)?),
            fee: NanoDollars(row.get(5)?),
            referral: NanoDollars(row.get(6)?),
        },
        at: UnixMillis(row.get(7)?),
        decided,
    })
}
