//! Receipt keys are there for as long as a receipt may need them, and no longer.

use darkbloom_ledger::{LATE_SETTLEMENT_WINDOW, VoidCause};
use darkbloom_store::{Store, StoreLocation};
use darkbloom_types::{EpochId, Millis, ProviderId, RequestId, UnixMillis};

use crate::support::{Home, NOW, PROVIDER, funded, hold, id16};

on_both_stores! {
    a_key_is_its_providers_and_survives_a_restart,
    a_key_is_kept_until_no_late_receipt_can_settle,
    a_hold_that_could_still_be_settled_keeps_the_keys_of_its_provider_alone,
    a_hold_voided_because_nothing_came_keeps_no_key,
    a_provider_keeps_512_keys_and_loses_its_oldest,
}

const LIFE: Millis = Millis(1_000);
const OPEN_UNTIL: UnixMillis = UnixMillis(2_000);
const EPOCH: EpochId = EpochId([4; 16]);

async fn with_key(home: &Home) -> Store {
    let store = home.open();
    store.receipt_key_put(PROVIDER, EPOCH, [5; 32], OPEN_UNTIL).await.unwrap();
    store
}

async fn a_key_is_its_providers_and_survives_a_restart(home: Home) {
    drop(with_key(&home).await);
    let store = home.open();
    assert_eq!(store.receipt_key(PROVIDER, EPOCH).await, Ok(Some([5; 32])));
    assert_eq!(store.receipt_key(ProviderId([1; 32]), EPOCH).await, Ok(None));
    assert_eq!(store.receipt_key(PROVIDER, EpochId([1; 16])).await, Ok(None));
}

async fn a_key_is_kept_until_no_late_receipt_can_settle(home: Home) {
    let store = with_key(&home).await;
    let last = OPEN_UNTIL.after(LIFE).after(LATE_SETTLEMENT_WINDOW);
    assert_eq!(store.receipt_keys_prune(last, LIFE).await, Ok(0));
    assert_eq!(store.receipt_keys_prune(last.after(Millis(1)), LIFE).await, Ok(1));
    assert_eq!(store.receipt_key(PROVIDER, EPOCH).await, Ok(None));
}

async fn a_hold_that_could_still_be_settled_keeps_the_keys_of_its_provider_alone(home: Home) {
    let store = with_key(&home).await;
    let other = ProviderId([1; 32]);
    store.receipt_key_put(other, EPOCH, [6; 32], OPEN_UNTIL).await.unwrap();
    let account = funded(&store, "a", 1_000).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    store.hold_accepted(RequestId(id16(1)), PROVIDER).await.unwrap();
    // The coordinator was down for three days; the hold is still open, and is then voided for silence.
    let back = NOW.after(Millis(3 * LATE_SETTLEMENT_WINDOW.0));
    assert_eq!(store.receipt_keys_prune(back, LIFE).await, Ok(1), "the other's key goes");
    assert_eq!(store.receipt_key(other, EPOCH).await, Ok(None));
    store.hold_void(RequestId(id16(1)), VoidCause::Silence, "restart", back).await.unwrap();
    let last = back.after(LATE_SETTLEMENT_WINDOW);
    assert_eq!(store.receipt_keys_prune(last, LIFE).await, Ok(0));
    assert_eq!(store.receipt_key(PROVIDER, EPOCH).await, Ok(Some([5; 32])));
    assert_eq!(store.receipt_keys_prune(last.after(Millis(1)), LIFE).await, Ok(1));
}

async fn a_hold_voided_because_nothing_came_keeps_no_key(home: Home) {
    let store = with_key(&home).await;
    let account = funded(&store, "a", 1_000).await;
    store.hold_place(hold(account, 1, 1)).await.unwrap();
    store.hold_accepted(RequestId(id16(1)), PROVIDER).await.unwrap();
    let back = NOW.after(Millis(3 * LATE_SETTLEMENT_WINDOW.0));
    store.hold_void(RequestId(id16(1)), VoidCause::NothingDelivered, "nothing", back).await.unwrap();
    assert_eq!(store.receipt_keys_prune(back, LIFE).await, Ok(1));
}

async fn a_provider_keeps_512_keys_and_loses_its_oldest(home: Home) {
    let store = with_key(&home).await;
    let other = ProviderId([1; 32]);
    store.receipt_key_put(other, EPOCH, [6; 32], OPEN_UNTIL).await.unwrap();
    let later = |n: u64| store.receipt_key_put(PROVIDER, EpochId(id16(n)), [7; 32], OPEN_UNTIL.after(Millis(n)));
    for n in 1..512 {
        later(n).await.unwrap();
    }
    assert!(store.receipt_key(PROVIDER, EPOCH).await.unwrap().is_some());
    later(512).await.unwrap();
    assert_eq!(store.receipt_key(PROVIDER, EPOCH).await, Ok(None));
    assert!(store.receipt_key(PROVIDER, EpochId(id16(1))).await.unwrap().is_some());
    assert!(store.receipt_key(other, EPOCH).await.unwrap().is_some(), "another provider's keys are not counted");
}

#[tokio::test]
async fn keys_that_stood_among_the_settings_are_moved() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("receipt_key/{EPOCH}");
    let old = rusqlite::Connection::open(folder.path().join("darkbloom.sqlite")).unwrap();
    old.execute_batch(include_str!("../../src/migrations/store_0001.sql")).unwrap();
    old.execute_batch("PRAGMA application_id = 1145205620; PRAGMA user_version = 1;").unwrap();
    for (name, value) in
        [(name.as_str(), [PROVIDER.0, [5; 32]].concat()), ("receipt_key/no epoch", vec![1]), ("other", vec![2])]
    {
        old.execute("INSERT INTO meta VALUES (?1, ?2)", rusqlite::params![name, value]).unwrap();
    }
    drop(old);
    Store::migrate(&StoreLocation::Folder(folder.path().to_owned())).unwrap();

    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.receipt_key(PROVIDER, EPOCH).await, Ok(Some([5; 32])));
    assert_eq!(store.meta_get(name).await, Ok(None));
    assert_eq!(store.meta_get("receipt_key/no epoch").await, Ok(None));
    assert_eq!(store.meta_get("other").await, Ok(Some(vec![2])));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = UnixMillis(i64::try_from(now).unwrap());
    assert_eq!(store.receipt_keys_prune(now.after(Millis(LATE_SETTLEMENT_WINDOW.0 / 2)), LIFE).await, Ok(0));
    assert_eq!(store.receipt_keys_prune(now.after(Millis(LATE_SETTLEMENT_WINDOW.0 * 2)), LIFE).await, Ok(1));
}
