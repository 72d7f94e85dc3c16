//! What the tests of the store share.

use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage};
use darkbloom_store::{Settlement, Store};
use darkbloom_types::{
    AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, RequestId, TokenCount, UnixMillis,
};

pub const PROVIDER: ProviderId = ProviderId([9; 32]);
pub const NOW: UnixMillis = UnixMillis(1_000);

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
