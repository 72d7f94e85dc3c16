//! How many bodies of sealed requests are read at once.

use super::*;

use darkbloom_keys::SoftwareKey;
use darkbloom_store::{KeyTerms, Store};
use darkbloom_types::{AccountId, KeyId, NetworkId, Tier, UnixMillis};

use crate::activation::Activation;
use crate::live::LIVE_PER_ACCOUNT_MAX;
use crate::rates::Limits;

async fn coordinator(folder: &tempfile::TempDir) -> Arc<Shared> {
    let store = Store::open(folder.path()).unwrap();
    let identity = Box::new(SoftwareKey::in_memory().unwrap());
    Arc::new(
        Shared::new(store, identity, NetworkId([8; 32]), Tier::None, Activation::none(), Limits::default())
            .await
            .unwrap(),
    )
}

fn key(account: i64) -> KeyRecord {
    KeyRecord {
        id: KeyId(1),
        account: Some(AccountId(account)),
        kind: KeyKind::Consumer,
        terms: KeyTerms::named("k"),
        created_at: UnixMillis(0),
        revoked: false,
    }
}

/// A body of which nothing comes.
fn silent() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, std::convert::Infallible>>())
}

async fn take(shared: Arc<Shared>, account: i64, body: Body) -> Result<mpsc::Receiver<Bytes>, Turned> {
    submitted(shared, key(account), body, &mut Left::default()).await
}

async fn refused(shared: &Arc<Shared>, account: i64, body: Body) -> RefusalCode {
    take(Arc::clone(shared), account, body).await.unwrap_err().refusal.code
}

#[tokio::test]
async fn bodies_that_are_being_read_count_as_requests_of_their_account() {
    let folder = tempfile::tempdir().unwrap();
    let shared = coordinator(&folder).await;
    let reading: Vec<_> =
        (0..LIVE_PER_ACCOUNT_MAX).map(|_| tokio::spawn(take(Arc::clone(&shared), 1, silent()))).collect();
    while shared.bodies.available_permits() > BODIES_MAX - LIVE_PER_ACCOUNT_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(&shared, 1, Body::empty()).await, RefusalCode::RateLimitExceeded);
    assert_eq!(refused(&shared, 2, Body::empty()).await, RefusalCode::InvalidRequest, "another account is heard");
    for one in reading {
        one.abort();
        assert!(one.await.is_err());
    }
    assert_eq!(refused(&shared, 1, Body::empty()).await, RefusalCode::InvalidRequest, "the places are given back");
    assert_eq!(shared.bodies.available_permits(), BODIES_MAX);
}

#[tokio::test]
async fn no_more_bodies_are_read_at_once_than_is_stated() {
    let folder = tempfile::tempdir().unwrap();
    let shared = coordinator(&folder).await;
    let all = Arc::clone(&shared.bodies).try_acquire_many_owned(u32::try_from(BODIES_MAX).unwrap()).unwrap();
    let refusal = take(Arc::clone(&shared), 1, silent()).await.unwrap_err();
    let answer = turned_frame(&refusal);
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    drop(all);
    for _ in 0..=LIVE_PER_ACCOUNT_MAX {
        assert_eq!(refused(&shared, 1, Body::empty()).await, RefusalCode::InvalidRequest);
    }
}
