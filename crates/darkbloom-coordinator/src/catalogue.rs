//! The models that the network offers, as signed, in memory.

use std::collections::HashMap;

use darkbloom_store::{CatalogueRow, PriceRow, PriceScope};
use darkbloom_types::{AccountId, CatalogueDigest, Digest, Price};
use darkbloom_wire::{CatalogueEntry, PublicKey};

/// Models on offer at once: a welcome names all of them, and a provider reads no longer welcome.
pub const MODELS_MAX: usize = 64;

/// One model on offer.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name in the network: the digest of the signed entry.
    pub digest: CatalogueDigest,
    /// The signed entry's bytes.
    pub signed: Vec<u8>,
    /// What it says.
    pub entry: CatalogueEntry,
    /// The price now, for everybody.
    pub price: Price,
}

/// All models on offer.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    items: Vec<Item>,
    /// What accounts pay that have a price of their own.
    own_prices: HashMap<(AccountId, CatalogueDigest), Price>,
}

/// A stored entry does not verify under the coordinator's key.
#[derive(Debug)]
pub struct Foreign;

impl Catalogue {
    /// The catalogue of what is stored: active entries that have a price.
    pub fn load(rows: Vec<CatalogueRow>, prices: &[PriceRow], key: &PublicKey) -> Result<Self, Foreign> {
        let (mut items, mut own_prices) = (Vec::new(), HashMap::new());
        for row in rows.into_iter().filter(|row| row.active) {
            let entry = CatalogueEntry::open(&row.entry, key).map_err(|_| Foreign)?;
            let mut price = None;
            for found in prices.iter().filter(|price| price.current && price.model == row.name) {
                match found.scope {
                    PriceScope::Network => price = Some(found.price),
                    PriceScope::Account(account) => {
                        own_prices.insert((account, row.digest), found.price);
                    }
                    // It is looked up when a request is settled.
                    PriceScope::Provider(_) => {}
                }
            }
            if let Some(price) = price {
                items.push(Item { digest: row.digest, signed: row.entry, entry, price });
            }
        }
        Ok(Self { items, own_prices })
    }

    /// Every item.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether a model needs this text pack.
    pub fn needs(&self, text_pack: &Digest) -> bool {
        self.items.iter().any(|item| item.entry.text_pack == *text_pack)
    }

    /// Whether a model of this name may come to it, in place of the one of its name or beside the others.
    pub fn has_room_for(&self, name: &str) -> bool {
        self.items.len() < MODELS_MAX || self.by_name(name).is_some()
    }

    /// The model of this name.
    pub fn by_name(&self, name: &str) -> Option<&Item> {
        self.items.iter().find(|item| item.entry.name == name)
    }

    /// The model of this name, at the price that this account pays.
    pub fn for_account(&self, name: &str, account: AccountId) -> Option<Item> {
        self.by_name(name).map(|item| self.priced(item, account))
    }

    /// The model of this digest, at the price that this account pays.
    pub fn by_digest_for(&self, digest: &CatalogueDigest, account: AccountId) -> Option<Item> {
        self.by_digest(digest).map(|item| self.priced(item, account))
    }

    fn priced(&self, item: &Item, account: AccountId) -> Item {
        let own = self.own_prices.get(&(account, item.digest)).copied();
        Item { price: own.unwrap_or(item.price), ..item.clone() }
    }

    /// The model of this digest.
    pub fn by_digest(&self, digest: &CatalogueDigest) -> Option<&Item> {
        self.items.iter().find(|item| item.digest == *digest)
    }
}

#[cfg(test)]
mod tests {
    use darkbloom_types::{ConnectionId, NetworkId, TokenCount, UnixMillis};
    use darkbloom_wire::{CoordinatorFrame, Welcome};

    use super::*;

    fn item(number: usize) -> Item {
        let entry = CatalogueEntry {
            network: NetworkId([1; 32]),
            name: format!("lab/model-{number}"),
            weights: Digest([2; 32]),
            text_pack: Digest([3; 32]),
            context: TokenCount(1),
            quantisation: "Q8_0".to_owned(),
        };
        let price = Price { version: 1, input_nano_per_token: 1, output_nano_per_token: 1 };
        Item { digest: CatalogueDigest([number as u8; 32]), signed: vec![0; 100], entry, price }
    }

    fn welcome_reads(models: usize) -> bool {
        let welcome = Welcome {
            coordinator: [4; 65],
            connection: ConnectionId([5; 16]),
            time: UnixMillis(0),
            nonce: [6; 32],
            catalogue: (0..models).map(|number| item(number).signed).collect::<Vec<_>>().into(),
            capabilities: Vec::new().into(),
            proof: vec![7; 200],
        };
        CoordinatorFrame::decode(&CoordinatorFrame::from(welcome).encode()).is_ok()
    }

    #[test]
    fn a_full_catalogue_fits_into_a_welcome_and_one_more_does_not() {
        assert!(welcome_reads(MODELS_MAX));
        assert!(!welcome_reads(MODELS_MAX + 1), "the limit here may be raised to that of the frame");
    }

    #[test]
    fn a_full_catalogue_takes_new_editions_and_no_new_names() {
        let items = (1..MODELS_MAX).map(item).collect();
        let mut catalogue = Catalogue { items, ..Catalogue::default() };
        assert!(catalogue.has_room_for("lab/model-0"));
        catalogue.items.push(item(0));
        assert!(catalogue.has_room_for("lab/model-0"));
        assert!(!catalogue.has_room_for("lab/another"));
    }
}
