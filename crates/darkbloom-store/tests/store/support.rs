//! What the tests of the store share.

use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage};
use darkbloom_store::{PostgresUrl, Settlement, Store, StoreLocation, StoreOptions};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, SecretString,
    TokenCount, UnixMillis,
};
use tempfile::TempDir;

use crate::server::Server;

pub const PROVIDER: ProviderId = ProviderId([9; 32]);
pub const NOW: UnixMillis = UnixMillis(1_000);

/// Where a test's store is.
pub enum Home {
    Sqlite(TempDir),
    Postgres { server: Server, schema: String },
}

impl Home {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn postgres() -> Self {
        Self::Postgres { server: Server::start(), schema: "public".to_owned() }
    }

    /// The same place with nothing in it.
    pub fn emptied(self, number: usize) -> Self {
        match self {
            Self::Sqlite(_) => Self::sqlite(),
            Self::Postgres { server, .. } => {
                let schema = format!("empty_{number}");
                server.query(&format!("CREATE SCHEMA {schema}")).unwrap();
                Self::Postgres { server, schema }
            }
        }
    }

    pub fn location(&self) -> StoreLocation {
        match self {
            Self::Sqlite(folder) => StoreLocation::Folder(folder.path().to_owned()),
            Self::Postgres { server, schema } => {
                StoreLocation::Postgres(PostgresUrl::new(&SecretString::from(server.url(schema))).unwrap())
            }
        }
    }

    pub fn open(&self) -> Store {
        self.open_with(StoreOptions::default())
    }

    pub fn open_with(&self, options: StoreOptions) -> Store {
        Store::open_at(&self.location(), options).unwrap()
    }

    /// Changes the database behind the store's back.
    pub fn change(&self, sql: &str) {
        match self {
            Self::Sqlite(folder) => {
                rusqlite::Connection::open(folder.path().join("darkbloom.sqlite")).unwrap().execute_batch(sql).unwrap();
            }
            Self::Postgres { server, .. } => server.query(sql).unwrap(),
        }
    }
}

/// An id that spells a number.
pub fn id16(number: u64) -> [u8; 16] {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    id
}

/// A hold of 10 × 2 + 16 × 5 = 100.
pub fn hold(account: AccountId, operation: u64, request: u64) -> HoldRequest {
    HoldRequest {
        request: RequestId(id16(request)),
        operation: OperationId(id16(operation)),
        account,
        key: KeyId(1),
        model: CatalogueDigest([3; 32]),
        amount: NanoDollars(100),
        price: Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 },
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(16),
        placed_at: NOW,
        expires_at: UnixMillis(2_000),
        supersedes: None,
    }
}

pub fn delivered(input: u32, output: u32) -> Delivered {
    let receipt = Some(ReceiptUsage { input: TokenCount(input), output: TokenCount(output) });
    Delivered { content_relayed: true, relayed_output: TokenCount(output), receipt }
}

pub fn settlement(request: u64, delivered: Delivered) -> Settlement {
    Settlement {
        request: RequestId(id16(request)),
        provider: PROVIDER,
        delivered,
        receipt: None,
        receipt_id: None,
        at: NOW,
    }
}

pub async fn funded(store: &Store, name: &str, nanos: i64) -> AccountId {
    let account = store.account_create(name).await.unwrap();
    store.deposit(account, NanoDollars(nanos), format!("first deposit of {name}"), NOW).await.unwrap();
    account
}

pub async fn assert_clean(store: &Store) {
    let report = store.audit().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}
