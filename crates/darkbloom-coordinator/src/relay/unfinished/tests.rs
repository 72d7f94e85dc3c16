//! How holds end whose end could not be written at once, with a real store.

use super::*;
use darkbloom_ledger::{Delivered, HoldRequest, ReceiptUsage};
use darkbloom_types::{AccountId, CatalogueDigest, KeyId, NanoDollars, OperationId, Price, ProviderId, TokenCount};

const NOW: UnixMillis = UnixMillis(1_000);

/// A store with one account, and an open hold of 10 × 2 + 16 × 5 = 100 for each request.
async fn store(requests: &[u8]) -> (tempfile::TempDir, Store, AccountId) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let account = store.account_create("a").await.unwrap();
    store.deposit(account, NanoDollars(1_000), "first".to_owned(), NOW).await.unwrap();
    for n in requests {
        let hold = HoldRequest {
            request: RequestId([*n; 16]),
            operation: OperationId([*n; 16]),
            account,
            key: KeyId(1),
            model: CatalogueDigest([3; 32]),
            amount: NanoDollars(100),
            price: Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 },
            input_ceiling: TokenCount(10),
            output_ceiling: TokenCount(16),
            placed_at: NOW,
            expires_at: NOW.after(crate::relay::HOLD_LIFE),
            supersedes: None,
        };
        store.hold_place(hold).await.unwrap();
    }
    (folder, store, account)
}

#[tokio::test]
async fn what_waited_ends_as_it_was_meant_to() {
    let (_folder, store, account) = store(&[1, 2]).await;
    let unfinished = Unfinished::default();
    let usage = ReceiptUsage { input: TokenCount(4), output: TokenCount(9) };
    let settlement = Settlement {
        request: RequestId([1; 16]),
        provider: ProviderId([9; 32]),
        delivered: Delivered { content_relayed: true, relayed_output: TokenCount(6), receipt: Some(usage) },
        receipt: None,
        receipt_id: None,
        at: NOW,
    };
    unfinished.add(RequestId([1; 16]), End::Settle(Box::new(settlement)));
    unfinished.add(RequestId([2; 16]), End::Void(VoidCause::NothingDelivered, "test"));
    // Whoever comes later does not change how it ends.
    unfinished.add(RequestId([1; 16]), End::Void(VoidCause::Silence, "later"));
    unfinished.add(RequestId([3; 16]), End::Void(VoidCause::NothingDelivered, "never placed"));
    unfinished.retry(&store, NOW).await;
    for n in 1..=3 {
        assert!(!unfinished.contains(&RequestId([n; 16])));
    }
    let usage = store.usage(account, 10).await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].request, usage[0].charge), (RequestId([1; 16]), NanoDollars(4 * 2 + 6 * 5)));
    assert!(store.holds_open().await.unwrap().is_empty());
    assert!(store.audit().await.unwrap().is_clean());
}

#[tokio::test]
async fn a_store_that_fails_keeps_them_waiting_until_it_works_again() {
    let (folder, store, account) = store(&[1]).await;
    let change = |sql: &str| {
        let database = rusqlite::Connection::open(folder.path().join("darkbloom.sqlite")).unwrap();
        database.execute_batch(sql).unwrap();
    };
    let unfinished = Unfinished::default();
    let request = RequestId([1; 16]);
    unfinished.add(request, End::Void(VoidCause::NothingDelivered, "test"));
    change("ALTER TABLE hold RENAME TO gone");
    unfinished.retry(&store, NOW).await;
    assert!(unfinished.contains(&request));
    change("ALTER TABLE gone RENAME TO hold");
    assert_eq!(store.balance(account).await.unwrap().unwrap().held, NanoDollars(100));
    unfinished.retry(&store, NOW).await;
    assert!(!unfinished.contains(&request));
    assert_eq!(store.balance(account).await.unwrap().unwrap().held, NanoDollars(0));
}
