//! The price list: per model name, every edition that ever was. An edition is everybody's, one account's or one provider's
//! own. A number alone says which edition of a model's prices a bill was made by: those of accounts and providers begin at
//! [`Price::OWN_EDITIONS`], and everybody's stay below.

use darkbloom_types::{AccountId, Price, ProviderId};

use crate::accounts::NAME_BYTES_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// Whose price an edition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PriceScope {
    /// Everybody's.
    Network,
    /// What one account pays instead.
    Account(AccountId),
    /// What one provider asks instead: it counts where it is no higher than what the consumer agreed to.
    Provider(ProviderId),
}

/// One edition of one model's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// The model's name.
    pub model: String,
    /// Whose it is.
    pub scope: PriceScope,
    /// The price.
    pub price: Price,
    /// Whether it is the one that counts.
    pub current: bool,
}

/// Why a price is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutPriceError {
    /// Editions only go up, and none is ever changed: requests have agreed to it.
    #[error("the price list of this model is at version {current}; a new price needs a higher one")]
    VersionNotNew {
        /// The newest version.
        current: u32,
    },
    /// From this number on, editions are somebody's own.
    #[error("everybody's prices have versions up to {}", Price::OWN_EDITIONS - 1)]
    VersionTooHigh,
    /// There is no price for everybody yet.
    #[error("the model has no price")]
    UnknownModel,
    /// A provider's own price is never higher than everybody's.
    #[error("a provider may ask for no more than everybody pays")]
    TooHigh,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes a price everybody's from now on. The current price again is accepted and changes nothing.
    ///
    /// # Errors
    /// [`PutPriceError`].
    pub async fn price_put(&self, model: impl Into<String>, price: Price) -> Result<(), PutPriceError> {
        let model = model.into();
        at_most("a model's name, in bytes,", model.len(), NAME_BYTES_MAX)?;
        self.write(move |connection| {
            if current(connection, &model, PriceScope::Network)? == Some(price) {
                return Ok(());
            }
            if price.version >= Price::OWN_EDITIONS {
                return Err(PutPriceError::VersionTooHigh);
            }
            match newest(connection, &model, 0, Price::OWN_EDITIONS)? {
                Some(newest) if newest >= price.version => Err(PutPriceError::VersionNotNew { current: newest }),
                Some(_) | None => Ok(insert(connection, &model, PriceScope::Network, &price)?),
            }
        })
        .await
    }

    /// Gives an account or a provider a price of its own for a model, or takes it away. Returns the new edition; the current
    /// numbers again change nothing.
    ///
    /// # Errors
    /// [`PutPriceError`].
    pub async fn price_of(
        &self,
        model: impl Into<String>,
        scope: PriceScope,
        price: Option<(u32, u32)>,
    ) -> Result<Option<Price>, PutPriceError> {
        let model = model.into();
        self.write(move |connection| own(connection, &model, scope, price)).await
    }

    /// A model's current price for everybody.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn price_current(&self, model: impl Into<String>) -> Result<Option<Price>, StoreError> {
        let model = model.into();
        self.read(move |connection| current(connection, &model, PriceScope::Network)).await
    }

    /// Every price that counts and is an account's or everybody's, by model.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prices_current(&self) -> Result<Vec<PriceRow>, StoreError> {
        const SQL: &str = "SELECT version, input, output, model, scope, owner, active FROM price
            WHERE active = 1 AND scope < 2 ORDER BY model, version DESC";
        self.read(|connection| connection.rows(SQL, &[], price_row)).await
    }

    /// Every price, by model, newest first; 10,000 at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn price_list(&self) -> Result<Vec<PriceRow>, StoreError> {
        const SQL: &str = "SELECT version, input, output, model, scope, owner, active FROM price ORDER BY model, version DESC LIMIT 10000";
        self.read(|connection| connection.rows(SQL, &[], price_row)).await
    }
}

fn own(
    connection: &Connection,
    model: &str,
    scope: PriceScope,
    numbers: Option<(u32, u32)>,
) -> Result<Option<Price>, PutPriceError> {
    let everybodys = current(connection, model, PriceScope::Network)?.ok_or(PutPriceError::UnknownModel)?;
    let Some((input, output)) = numbers else {
        end(connection, model, scope)?;
        return Ok(None);
    };
    let newest = newest(connection, model, Price::OWN_EDITIONS, u32::MAX)?;
    let version = newest.map_or(Price::OWN_EDITIONS, |newest| newest + 1);
    let price = Price { version, input_nano_per_token: input, output_nano_per_token: output };
    if let Some(before) = current(connection, model, scope)?
        && before.is_within(&price)
        && price.is_within(&before)
    {
        return Ok(Some(before));
    }
    if matches!(scope, PriceScope::Provider(_)) && !price.is_within(&everybodys) {
        return Err(PutPriceError::TooHigh);
    }
    insert(connection, model, scope, &price)?;
    Ok(Some(price))
}

fn current(connection: &Connection, model: &str, scope: PriceScope) -> Result<Option<Price>, StoreError> {
    let (kind, owner) = columns(scope);
    let sql = "SELECT version, input, output FROM price WHERE model = ?1 AND scope = ?2 AND owner = ?3 AND active = 1";
    connection.row(sql, values![model, kind, &owner], price)
}

/// The highest number of a model's editions from one on and below another.
fn newest(connection: &Connection, model: &str, from: u32, below: u32) -> Result<Option<u32>, StoreError> {
    let sql =
        "SELECT version FROM price WHERE model = ?1 AND version >= ?2 AND version < ?3 ORDER BY version DESC LIMIT 1";
    connection.row(sql, values![model, from, below], |row| row.get(0))
}

fn end(connection: &Connection, model: &str, scope: PriceScope) -> Result<(), StoreError> {
    let (kind, owner) = columns(scope);
    let sql = "UPDATE price SET active = 0 WHERE model = ?1 AND scope = ?2 AND owner = ?3 AND active = 1";
    connection.execute(sql, values![model, kind, &owner])?;
    Ok(())
}

fn insert(connection: &Connection, model: &str, scope: PriceScope, price: &Price) -> Result<(), StoreError> {
    end(connection, model, scope)?;
    let (kind, owner) = columns(scope);
    connection.execute(
        "INSERT INTO price (model, version, input, output, scope, owner) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        values![model, price.version, price.input_nano_per_token, price.output_nano_per_token, kind, &owner],
    )?;
    Ok(())
}

fn columns(scope: PriceScope) -> (i64, Vec<u8>) {
    match scope {
        PriceScope::Network => (0, Vec::new()),
        PriceScope::Account(account) => (1, account.0.to_be_bytes().to_vec()),
        PriceScope::Provider(provider) => (2, provider.0.to_vec()),
    }
}

fn price(row: &Row<'_>) -> Result<Price, StoreError> {
    Ok(Price { version: row.get(0)?, input_nano_per_token: row.get(1)?, output_nano_per_token: row.get(2)? })
}

fn price_row(row: &Row<'_>) -> Result<PriceRow, StoreError> {
    let scope = match row.get::<i64>(4)? {
        0 => PriceScope::Network,
        1 => PriceScope::Account(AccountId(i64::from_be_bytes(row.get(5)?))),
        2 => PriceScope::Provider(ProviderId(row.get(5)?)),
        _ => return Err(StoreError::ImpossibleRow { what: "price scope" }),
    };
    Ok(PriceRow { model: row.get(3)?, scope, price: price(row)?, current: row.get(6)? })
}
