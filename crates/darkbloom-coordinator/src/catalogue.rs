//! The models that the network offers, as signed, in memory.

use darkbloom_store::{CatalogueRow, PriceRow};
use darkbloom_types::{CatalogueDigest, Price};
use darkbloom_wire::{CatalogueEntry, PublicKey};

/// One model on offer.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name in the network: the digest of the signed entry.
    pub digest: CatalogueDigest,
    /// The signed entry's bytes.
    pub signed: Vec<u8>,
    /// What it says.
    pub entry: CatalogueEntry,
    /// The price now.
    pub price: Price,
}

/// All models on offer.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    items: Vec<Item>,
}

/// A stored entry does not verify under the coordinator's key.
#[derive(Debug)]
pub struct Foreign;

impl Catalogue {
    /// The catalogue of what is stored: active entries that have a price.
    pub fn load(rows: Vec<CatalogueRow>, prices: &[PriceRow], key: &PublicKey) -> Result<Self, Foreign> {
        let mut items = Vec::new();
        for row in rows.into_iter().filter(|row| row.active) {
            let entry = CatalogueEntry::open(&row.entry, key).map_err(|_| Foreign)?;
            let price = prices.iter().find(|price| price.current && price.model == row.name);
            if let Some(price) = price {
                items.push(Item { digest: row.digest, signed: row.entry, entry, price: price.price });
            }
        }
        Ok(Self { items })
    }

    /// Every item.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The model of this name.
    pub fn by_name(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.entry.name == name)
    }

    /// The model of this digest.
    pub fn by_digest(&self, digest: &CatalogueDigest) -> Option<&Item> {
        self.items.iter().find(|item| item.digest == *digest)
    }
}
