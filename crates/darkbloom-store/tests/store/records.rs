//! Keys, catalogue, blobs, prices, providers, settings, and a provider's outbox.

use crate::support::{Home, NOW, funded};
use darkbloom_store::{
    CatalogueRow, CreateKeyError, KeyKind, KeyRecord, KeyTerms, NewKey, OpenStoreError, OutboxPut, PriceRow,
    PriceScope, PutBlobError, PutPriceError, ReceiptOutbox, StoreError,
};
use darkbloom_types::{AccountId, CatalogueDigest, Digest, KeyId, Price, ProviderId, ReceiptId, Tier, UnixMillis};

on_both_stores! {
    a_key_is_found_by_its_digest_until_it_is_revoked_and_after_a_restart,
    keys_that_make_no_sense_are_refused,
    a_key_is_edited_and_rotated_at_once,
    a_price_of_somebodys_own_is_an_edition_like_others,
    a_model_name_means_one_active_entry,
    a_blob_is_stored_under_its_own_digest_only,
    price_versions_only_go_up,
    a_provider_once_seen_is_known_for_good,
    settings_are_kept_and_replaced,
}

fn new_key(account: Option<AccountId>, kind: KeyKind, secret: &[u8]) -> NewKey {
    NewKey { account, kind, terms: KeyTerms::named("laptop"), digest: Digest::of(&[secret]), created_at: NOW }
}

async fn a_key_is_found_by_its_digest_until_it_is_revoked_and_after_a_restart(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 1).await;
    let digest = Digest::of(&[b"secret"]);
    assert_eq!(store.key_by_digest(digest), None);
    let id = store.key_create(new_key(Some(account), KeyKind::Consumer, b"secret")).await.unwrap();
    let record = KeyRecord {
        id,
        account: Some(account),
        kind: KeyKind::Consumer,
        terms: KeyTerms::named("laptop"),
        created_at: NOW,
        revoked: false,
    };
    assert_eq!(store.key_by_digest(digest), Some(record.clone()));
    assert_eq!(store.keys_list().await.unwrap(), std::slice::from_ref(&record));
    assert_eq!(store.key_revoke(id).await, Ok(true));
    assert_eq!(store.key_revoke(KeyId(99)).await, Ok(false));
    let revoked = KeyRecord { revoked: true, ..record };
    assert_eq!(store.key_by_digest(digest), Some(revoked.clone()));
    drop(store);
    assert_eq!(home.open().key_by_digest(digest), Some(revoked));
}

async fn a_key_is_edited_and_rotated_at_once(home: Home) {
    let store = home.open();
    let account = funded(&store, "a", 1).await;
    let id = store.key_create(new_key(Some(account), KeyKind::Consumer, b"secret")).await.unwrap();
    let terms = KeyTerms {
        name: "desk".to_owned(),
        expires_at: Some(UnixMillis(5_000)),
        models: Some(vec!["small".to_owned(), "lab/large".to_owned()]),
        tier_min: Some(Tier::Hardware),
        requests_per_minute: Some(60),
        tokens_per_minute: Some(u32::MAX),
    };
    assert_eq!(store.key_edit(id, terms.clone()).await, Ok(true));
    assert_eq!(store.key_edit(KeyId(99), terms.clone()).await, Ok(false));
    assert_eq!(store.key_by_digest(Digest::of(&[b"secret"])).unwrap().terms, terms);
    assert!(terms.allows_model("small") && !terms.allows_model("smal"));
    let fresh = Digest::of(&[b"fresh"]);
    assert_eq!(store.key_rotate(id, Digest::of(&[b"secret"])).await, Err(CreateKeyError::DigestTaken));
    assert_eq!(store.key_rotate(id, fresh).await, Ok(true));
    assert_eq!(store.key_by_digest(Digest::of(&[b"secret"])), None, "the secret before opens nothing");
    drop(store);
    let store = home.open();
    assert_eq!(store.key_by_digest(fresh).map(|key| (key.id, key.terms)), Some((id, terms)));
    store.key_revoke(id).await.unwrap();
    assert_eq!(store.key_rotate(id, Digest::of(&[b"third"])).await, Ok(false));
}

async fn a_price_of_somebodys_own_is_an_edition_like_others(home: Home) {
    let store = home.open();
    let (account, provider) = (PriceScope::Account(AccountId(1)), PriceScope::Provider(ProviderId([4; 32])));
    assert_eq!(store.price_of("small", account, Some((1, 1))).await, Err(PutPriceError::UnknownModel));
    store.price_put("small", Price { version: 4, input_nano_per_token: 2, output_nano_per_token: 5 }).await.unwrap();
    let edition = |version, input, output| {
        Ok(Some(Price { version, input_nano_per_token: input, output_nano_per_token: output }))
    };
    assert_eq!(store.price_of("small", account, Some((9, 9))).await, edition(1 << 31, 9, 9));
    assert_eq!(store.price_of("small", provider, Some((3, 1))).await, Err(PutPriceError::TooHigh));
    assert_eq!(store.price_of("small", provider, Some((2, 1))).await, edition((1 << 31) + 1, 2, 1));
    assert_eq!(
        store.price_of("small", provider, Some((2, 1))).await,
        edition((1 << 31) + 1, 2, 1),
        "the same again is no new one"
    );
    let next = |version| Price { version, input_nano_per_token: 3, output_nano_per_token: 3 };
    assert_eq!(store.price_put("small", next(1 << 31)).await, Err(PutPriceError::VersionTooHigh));
    store.price_put("small", next(5)).await.unwrap();
    assert_eq!(store.price_of("small", account, None).await, Ok(None));
    let current: Vec<_> =
        store.price_list().await.unwrap().into_iter().filter(|row| row.current).map(|row| row.scope).collect();
    assert_eq!(current, [provider, PriceScope::Network]);
}

async fn keys_that_make_no_sense_are_refused(home: Home) {
    let store = home.open();
    store.key_create(new_key(None, KeyKind::Admin, b"1")).await.unwrap();
    assert_eq!(store.key_create(new_key(None, KeyKind::Join, b"1")).await, Err(CreateKeyError::DigestTaken));
    assert_eq!(store.key_create(new_key(None, KeyKind::Consumer, b"2")).await, Err(CreateKeyError::AccountMissing));
    let administrator = new_key(Some(AccountId(7)), KeyKind::Admin, b"2");
    assert_eq!(store.key_create(administrator).await, Err(CreateKeyError::AccountOfAdministrator));
    let unknown = new_key(Some(AccountId(7)), KeyKind::Consumer, b"2");
    assert_eq!(store.key_create(unknown).await, Err(CreateKeyError::UnknownAccount));
    assert_eq!(store.key_by_digest(Digest::of(&[b"2"])), None);
}

async fn a_model_name_means_one_active_entry(home: Home) {
    let store = home.open();
    let row = |number: u8| CatalogueRow {
        digest: CatalogueDigest([number; 32]),
        name: "small".to_owned(),
        entry: vec![number; 10],
        text_pack: Digest([number; 32]),
        active: true,
    };
    store.catalogue_put(row(1)).await.unwrap();
    store.catalogue_put(row(2)).await.unwrap();
    assert_eq!(store.catalogue_list().await.unwrap(), [row(2), CatalogueRow { active: false, ..row(1) }]);
    store.catalogue_put(row(1)).await.unwrap();
    assert_eq!(store.catalogue_list().await.unwrap()[0], row(1));
    let large = CatalogueRow { entry: vec![0; (1 << 20) + 1], ..row(3) };
    assert!(matches!(store.catalogue_put(large).await, Err(StoreError::TooLarge { .. })));
}

async fn a_blob_is_stored_under_its_own_digest_only(home: Home) {
    let store = home.open();
    let bytes = vec![7; 3 << 20];
    let digest = Digest::of(&[&bytes]);
    store.blob_put(digest, bytes.clone()).await.unwrap();
    store.blob_put(digest, bytes.clone()).await.unwrap();
    assert_eq!(store.blob_load(digest).await.unwrap(), Some(bytes.clone()));
    let expected = Digest([0; 32]);
    assert_eq!(store.blob_put(expected, bytes).await, Err(PutBlobError::DigestDiffers { expected }));
    assert_eq!(store.blob_load(expected).await.unwrap(), None);
    let large = store.blob_put(digest, vec![0; (64 << 20) + 1]).await;
    assert!(matches!(large, Err(PutBlobError::Store(StoreError::TooLarge { .. }))), "{large:?}");
}

async fn price_versions_only_go_up(home: Home) {
    let store = home.open();
    let price = |version, output| Price { version, input_nano_per_token: 1, output_nano_per_token: output };
    assert_eq!(store.price_current("small").await.unwrap(), None);
    store.price_put("small", price(1, 5)).await.unwrap();
    store.price_put("small", price(1, 5)).await.unwrap();
    store.price_put("small", price(3, 6)).await.unwrap();
    store.price_put("other", price(2, 9)).await.unwrap();
    for stale in [price(3, 7), price(2, 7), price(1, 5)] {
        assert_eq!(store.price_put("small", stale).await, Err(PutPriceError::VersionNotNew { current: 3 }));
    }
    assert_eq!(store.price_current("small").await.unwrap(), Some(price(3, 6)));
    let row =
        |model: &str, price, current| PriceRow { model: model.to_owned(), scope: PriceScope::Network, price, current };
    let expected = [row("other", price(2, 9), true), row("small", price(3, 6), true), row("small", price(1, 5), false)];
    assert_eq!(store.price_list().await.unwrap(), expected);
}

async fn a_provider_once_seen_is_known_for_good(home: Home) {
    let store = home.open();
    let provider = ProviderId([4; 32]);
    assert!(!store.provider_known(provider));
    store.provider_seen(provider, KeyId(1), NOW).await.unwrap();
    store.provider_seen(provider, KeyId(2), NOW).await.unwrap();
    assert!(store.provider_known(provider));
    drop(store);
    assert!(home.open().provider_known(provider));
}

async fn settings_are_kept_and_replaced(home: Home) {
    let store = home.open();
    assert_eq!(store.meta_get("a").await.unwrap(), None);
    store.meta_put("a", vec![1]).await.unwrap();
    store.meta_put("a", vec![2]).await.unwrap();
    assert_eq!(store.meta_get("a").await.unwrap(), Some(vec![2]));
    assert!(matches!(store.meta_put("a", vec![0; (64 << 10) + 1]).await, Err(StoreError::TooLarge { .. })));
}

fn receipt_id(number: u32) -> ReceiptId {
    ReceiptId(Digest::of(&[&number.to_be_bytes()]).0)
}

#[tokio::test]
async fn the_outbox_keeps_receipts_until_they_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("provider").join("outbox.sqlite");
    let outbox = ReceiptOutbox::open(&file).unwrap();
    assert_eq!(ReceiptOutbox::open(&file).unwrap_err(), OpenStoreError::Locked { place: file.clone().into() });
    for number in [1, 2, 3, 2] {
        let put = outbox.put(receipt_id(number), vec![u8::try_from(number).unwrap()], NOW).await;
        assert_eq!(put, Ok(OutboxPut { dropped: 0 }));
    }
    assert_eq!(outbox.acknowledge(receipt_id(1)).await, Ok(true));
    assert_eq!(outbox.acknowledge(receipt_id(1)).await, Ok(false));
    drop(outbox);
    let outbox = ReceiptOutbox::open(&file).unwrap();
    let left = outbox.unacknowledged(10).await.unwrap();
    assert_eq!(left, [(receipt_id(2), vec![2]), (receipt_id(3), vec![3])]);
    assert_eq!(outbox.unacknowledged(1).await.unwrap().len(), 1);
    let large = outbox.put(receipt_id(9), vec![0; (16 << 10) + 1], NOW).await;
    assert!(matches!(large, Err(StoreError::TooLarge { .. })), "{large:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_drops_the_oldest_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = std::sync::Arc::new(ReceiptOutbox::open(&folder.path().join("outbox.sqlite")).unwrap());
    let mut dropped = 0;
    // In batches, so that one commit serves many of them; in order, because the queue is.
    for batch in (0..10_003u32).collect::<Vec<_>>().chunks(1_000) {
        let puts = batch.iter().map(|number| {
            let (outbox, number) = (outbox.clone(), *number);
            async move { outbox.put(receipt_id(number), number.to_be_bytes().to_vec(), NOW).await.unwrap().dropped }
        });
        let mut tasks = Vec::new();
        for put in puts {
            let mut put = Box::pin(put);
            // The first poll queues the job.
            match std::future::poll_fn(|context| std::task::Poll::Ready(put.as_mut().poll(context))).await {
                std::task::Poll::Ready(count) => dropped += count,
                std::task::Poll::Pending => tasks.push(put),
            }
        }
        for task in tasks {
            dropped += task.await;
        }
    }
    assert_eq!((dropped, outbox.dropped_total().await), (3, Ok(3)));
    let kept = outbox.unacknowledged(20_000).await.unwrap();
    assert_eq!((kept.len(), kept[0].0), (10_000, receipt_id(3)));
}
