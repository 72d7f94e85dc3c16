//! What machines earn, job by job, and what of it their owners may have.

use darkbloom_ledger::{Book, DISPUTE_WINDOW, release};
use darkbloom_types::{AccountId, CatalogueDigest, NanoDollars, ProviderId, RequestId, TokenCount, UnixMillis};

use super::books::{self, Movement};
use crate::error::StoreError;
use crate::sql::{Connection, values};
use crate::store::Store;

/// Most jobs that one list has; the next one begins after its last.
const JOBS_LIST_MAX: u32 = 10_000;

/// One job that was paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRow {
    /// Its place among all jobs: the next list begins after it.
    pub id: i64,
    /// The request.
    pub request: RequestId,
    /// The machine.
    pub provider: ProviderId,
    /// The model.
    pub model: CatalogueDigest,
    /// When it was settled.
    pub at: UnixMillis,
    /// Input tokens that were paid for.
    pub input_tokens: TokenCount,
    /// Output tokens that were paid for.
    pub output_tokens: TokenCount,
    /// What the consumer paid.
    pub charge: NanoDollars,
    /// What the machine earned of it.
    pub payout: NanoDollars,
    /// What of that cannot be paid out yet.
    pub kept: NanoDollars,
}

/// One machine and what it earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineRow {
    /// The machine.
    pub provider: ProviderId,
    /// Jobs that were paid.
    pub jobs: u64,
    /// Output tokens that were paid for.
    pub output_tokens: u64,
    /// What it earned in all.
    pub earned: NanoDollars,
    /// What of that cannot be paid out yet.
    pub kept: NanoDollars,
}

/// What an account's machines and referrals have brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Earnings {
    /// What it may have paid out or spend.
    pub withdrawable: NanoDollars,
    /// What its machines earned and cannot be paid out yet.
    pub earned: NanoDollars,
    /// The same of its referrals.
    pub referral: NanoDollars,
    /// What is on its way out.
    pub withdrawing: NanoDollars,
}

impl Store {
    /// What an account has earned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn earnings(&self, account: AccountId) -> Result<Earnings, StoreError> {
        self.read(move |connection| {
            let book = |book| Ok::<_, StoreError>(books::book(connection, book)?.unwrap_or_default());
            let earned: i64 = connection.only(
                "SELECT CAST(coalesce(sum(book.balance), 0) AS BIGINT) FROM provider
                 JOIN book ON book.kind = 2 AND book.owner = provider.id WHERE provider.owner = ?1",
                values![account.0],
            )?;
            Ok(Earnings {
                withdrawable: book(Book::Withdrawable(account))?,
                earned: NanoDollars(earned),
                referral: book(Book::Referral(account))?,
                withdrawing: book(Book::Withdrawing(account))?,
            })
        })
        .await
    }

    /// The machines of an account, each with what it earned; 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn machines(&self, account: AccountId) -> Result<Vec<MachineRow>, StoreError> {
        const SQL: &str = "SELECT provider.id, count(hold.id), CAST(coalesce(sum(hold.output_tokens), 0) AS BIGINT),
                CAST(coalesce(sum(hold.payout), 0) AS BIGINT), CAST(coalesce(sum(hold.kept_payout), 0) AS BIGINT)
            FROM provider LEFT JOIN hold ON hold.provider = provider.id AND hold.state = 1
            WHERE provider.owner = ?1 GROUP BY provider.id ORDER BY provider.id LIMIT 10000";
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        self.read(move |connection| {
            connection.rows(SQL, values![account.0], |row| {
                Ok(MachineRow {
                    provider: ProviderId(row.get(0)?),
                    jobs: count(row.get(1)?),
                    output_tokens: count(row.get(2)?),
                    earned: NanoDollars(row.get(3)?),
                    kept: NanoDollars(row.get(4)?),
                })
            })
        })
        .await
    }

    /// The paid jobs of an account's machines, oldest first, after this one (0: from the first); 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn jobs(&self, account: AccountId, after: i64, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        const SQL: &str = "SELECT hold.id, hold.request, hold.provider, hold.model, hold.closed_at, hold.input_tokens,
                hold.output_tokens, hold.charge, hold.payout, hold.kept_payout
            FROM provider JOIN hold ON hold.provider = provider.id AND hold.state = 1
            WHERE provider.owner = ?1 AND hold.id > ?2 ORDER BY hold.id LIMIT ?3";
        self.read(move |connection| {
            connection.rows(SQL, values![account.0, after, limit.min(JOBS_LIST_MAX)], |row| {
                Ok(JobRow {
                    id: row.get(0)?,
                    request: RequestId(row.get(1)?),
                    provider: ProviderId(row.get(2)?),
                    model: CatalogueDigest(row.get(3)?),
                    at: UnixMillis(row.get(4)?),
                    input_tokens: TokenCount(row.get(5)?),
                    output_tokens: TokenCount(row.get(6)?),
                    charge: NanoDollars(row.get(7)?),
                    payout: NanoDollars(row.get(8)?),
                    kept: NanoDollars(row.get(9)?),
                })
            })
        })
        .await
    }

    /// Lets go of what can be disputed no more: from then on its owners may have it paid out. Returns how much that was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn earnings_mature(&self, at: UnixMillis) -> Result<NanoDollars, StoreError> {
        // The first moment whose settlements can still be disputed.
        let until = UnixMillis(at.0.saturating_sub(i64::try_from(DISPUTE_WINDOW.0).unwrap_or(i64::MAX)));
        let mut sum = NanoDollars::ZERO;
        for (earner, account) in self.read(waiting).await? {
            // One after the other, so that no request waits for all of them.
            let matured = self.write(move |connection| mature(connection, earner, account, until, at)).await?;
            sum = NanoDollars(sum.0.saturating_add(matured.0));
        }
        Ok(sum)
    }
}

/// Who earned what waits.
#[derive(Debug, Clone, Copy)]
enum Earner {
    Machine(ProviderId),
    Referrer,
}

/// Those for whom something waits, each with the account that it will be of.
fn waiting(connection: &Connection) -> Result<Vec<(Earner, AccountId)>, StoreError> {
    let mut found = connection.rows(
        "SELECT provider.id, provider.owner FROM book JOIN provider ON provider.id = book.owner
         WHERE book.kind = 2 AND book.balance > 0 AND provider.owner IS NOT NULL",
        &[],
        |row| Ok((Earner::Machine(ProviderId(row.get(0)?)), AccountId(row.get(1)?))),
    )?;
    let referrals = connection.rows("SELECT owner FROM book WHERE kind = 6 AND balance > 0", &[], |row| {
        Ok((Earner::Referrer, AccountId(i64::from_be_bytes(row.get(0)?))))
    })?;
    found.extend(referrals);
    Ok(found)
}

fn mature(
    connection: &Connection,
    earner: Earner,
    account: AccountId,
    until: UnixMillis,
    at: UnixMillis,
) -> Result<NanoDollars, StoreError> {
    let sum = |sql, owner| connection.only::<i64>(sql, owner).map(NanoDollars);
    let (kept_in, amount) = match earner {
        Earner::Machine(provider) => {
            // It may be another's since somebody looked.
            let owner = "SELECT 1 FROM provider WHERE id = ?1 AND owner = ?2";
            if !connection.exists(owner, values![&provider.0, account.0])? {
                return Ok(NanoDollars::ZERO);
            }
            let amount = sum(
                "SELECT CAST(coalesce(sum(kept_payout), 0) AS BIGINT) FROM hold
                 WHERE provider = ?1 AND kept_payout > 0 AND closed_at < ?2",
                values![&provider.0, until.0],
            )?;
            connection.execute(
                "UPDATE hold SET kept_payout = 0 WHERE provider = ?1 AND kept_payout > 0 AND closed_at < ?2",
                values![&provider.0, until.0],
            )?;
            (Book::Earned(provider), amount)
        }
        Earner::Referrer => {
            let amount = sum(
                "SELECT CAST(coalesce(sum(kept_referral), 0) AS BIGINT) FROM hold
                 WHERE referrer = ?1 AND kept_referral > 0 AND closed_at < ?2",
                values![account.0, until.0],
            )?;
            connection.execute(
                "UPDATE hold SET kept_referral = 0 WHERE referrer = ?1 AND kept_referral > 0 AND closed_at < ?2",
                values![account.0, until.0],
            )?;
            (Book::Referral(account), amount)
        }
    };
    if amount > NanoDollars::ZERO {
        books::post(connection, Movement::Maturing, None, at, &release(kept_in, account, amount))?;
    }
    Ok(amount)
}
