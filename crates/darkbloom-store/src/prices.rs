//! The price list: per model name, every edition that ever was; the newest is current.

use darkbloom_types::Price;

use crate::accounts::NAME_BYTES_MAX;
use crate::error::{StoreError, at_most};
use crate::sql::{Connection, Row, values};
use crate::store::Store;

/// One edition of one model's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// The model's name.
    pub model: String,
    /// The price.
    pub price: Price,
    /// Whether it is the model's newest.
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes a price current from now on. The current price again is accepted and changes nothing.
    ///
    /// # Errors
    /// [`PutPriceError`].
    pub async fn price_put(&self, model: impl Into<String>, price: Price) -> Result<(), PutPriceError> {
        let model = model.into();
        at_most("a model's name, in bytes,", model.len(), NAME_BYTES_MAX)?;
        self.write(move |connection| match current(connection, &model)? {
            Some(now) if now == price => Ok(()),
            Some(now) if now.version >= price.version => Err(PutPriceError::VersionNotNew { current: now.version }),
            Some(_) | None => Ok(insert(connection, &model, &price)?),
        })
        .await
    }

    /// A model's current price.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn price_current(&self, model: impl Into<String>) -> Result<Option<Price>, StoreError> {
        let model = model.into();
        self.read(move |connection| current(connection, &model)).await
    }

    /// Every price, by model, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn price_list(&self) -> Result<Vec<PriceRow>, StoreError> {
        self.read(list).await
    }
}

fn current(connection: &Connection, model: &str) -> Result<Option<Price>, StoreError> {
    let sql = "SELECT model, version, input, output FROM price WHERE model = ?1 ORDER BY version DESC LIMIT 1";
    connection.row(sql, values![model], price)
}

fn insert(connection: &Connection, model: &str, price: &Price) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO price (model, version, input, output) VALUES (?1, ?2, ?3, ?4)",
        values![model, price.version, price.input_nano_per_token, price.output_nano_per_token],
    )?;
    Ok(())
}

fn list(connection: &Connection) -> Result<Vec<PriceRow>, StoreError> {
    let mut list: Vec<PriceRow> = Vec::new();
    connection.each("SELECT model, version, input, output FROM price ORDER BY model, version DESC", &[], |row| {
        let model: String = row.get(0)?;
        let current = list.last().is_none_or(|newer| newer.model != model);
        list.push(PriceRow { model, price: price(row)?, current });
        Ok(())
    })?;
    Ok(list)
}

fn price(row: &Row<'_>) -> Result<Price, StoreError> {
    Ok(Price { version: row.get(1)?, input_nano_per_token: row.get(2)?, output_nano_per_token: row.get(3)? })
}
