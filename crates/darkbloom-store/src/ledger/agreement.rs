//! What stands between the parties of a request, read in the transaction that settles it.

use darkbloom_ledger::{Agreement, BasisPoints, HoldRequest};
use darkbloom_types::{AccountId, Price, ProviderId};

use crate::error::StoreError;
use crate::sql::{Connection, Row, values};
use crate::store::StoreOptions;

/// What is agreed if this provider answers the hold.
pub(crate) fn load(
    connection: &Connection,
    hold: &HoldRequest,
    provider: ProviderId,
    options: StoreOptions,
) -> Result<Agreement, StoreError> {
    let found = connection.row(
        "SELECT provider.owner, owner.fee, consumer.referred_by, price.version, price.input, price.output
         FROM account AS consumer
         LEFT JOIN provider ON provider.id = ?1
         LEFT JOIN account AS owner ON owner.id = provider.owner
         LEFT JOIN catalogue ON catalogue.digest = ?3
         LEFT JOIN price ON price.model = catalogue.name AND price.scope = 2 AND price.owner = ?1 AND price.active = 1
         WHERE consumer.id = ?2",
        values![&provider.0, hold.account.0, &hold.model.0],
        |row| agreement(row, hold.account, options),
    )?;
    found.ok_or(StoreError::ImpossibleRow { what: "hold without an account" })
}

fn agreement(row: &Row<'_>, consumer: AccountId, options: StoreOptions) -> Result<Agreement, StoreError> {
    let owner = row.get::<Option<i64>>(0)?.map(AccountId);
    let own_price = match row.get::<Option<u32>>(3)? {
        Some(version) => Some(Price { version, input_nano_per_token: row.get(4)?, output_nano_per_token: row.get(5)? }),
        None => None,
    };
    Ok(Agreement {
        fee: row.get::<Option<u32>>(1)?.map(share).transpose()?.unwrap_or(options.platform_fee),
        referral: row.get::<Option<i64>>(2)?.map(|by| (AccountId(by), options.referral_share)),
        own_price,
        own_machine: owner == Some(consumer),
    })
}

/// A share that was written.
pub(crate) fn share(points: u32) -> Result<BasisPoints, StoreError> {
    let points = u16::try_from(points).ok().and_then(|points| BasisPoints::new(points).ok());
    points.ok_or(StoreError::ImpossibleRow { what: "share" })
}
