//! What is held against identities outlives the process, and follows one that takes over from another.

use darkbloom_store::{Store, SuccessionError, SuccessionRefusal};
use darkbloom_types::{Distrust, Failed, KeyId, ProviderId, Standing, UnixMillis};

use crate::support::Home;

on_both_stores! {
    what_is_held_against_an_identity_is_there_after_a_restart,
    nothing_undoes_a_revocation,
    an_identity_takes_over_from_one_and_has_its_history,
    who_may_not_take_over_does_not,
    an_heir_that_was_here_before_has_the_worse_of_both,
    a_revocation_and_a_succession_at_the_same_moment_leave_nobody_trusted,
}

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn provider(n: u8) -> ProviderId {
    ProviderId([n; 32])
}

fn distrusted(reason: Distrust) -> Standing {
    Standing::Distrusted(Failed { reason, until: UnixMillis(NOW.0 + 600_000), times: 2 })
}

async fn joined(store: &Store, n: u8) {
    store.provider_seen(provider(n), KeyId(1), NOW).await.unwrap();
}

async fn succeed(store: &Store, old: u8, new: u8) -> Result<(), SuccessionRefusal> {
    match store.succeed(provider(old), provider(new), vec![old, new], NOW).await {
        Ok(_) => Ok(()),
        Err(SuccessionError::Refused(refusal)) => Err(refusal),
        Err(SuccessionError::Store(error)) => panic!("{error}"),
    }
}

async fn what_is_held_against_an_identity_is_there_after_a_restart(home: Home) {
    let store = home.open();
    let held = distrusted(Distrust::ChallengeFailed);
    assert_eq!(store.standing(provider(1)), Standing::Clean);
    assert_eq!(store.standing_put(provider(1), held, NOW, None).await, Ok(held));
    store.revoke(provider(2), NOW, Some("sold".to_owned())).await.unwrap();
    store.standing_put(provider(3), held, NOW, None).await.unwrap();
    store.standing_put(provider(3), Standing::Clean, NOW, None).await.unwrap();
    for _ in 0..2 {
        let listed = store.standings_list(10).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|row| (row.provider, row.standing, row.note.as_deref())).collect();
        assert_eq!(listed, [(provider(1), held, None), (provider(2), Standing::Revoked, Some("sold"))]);
    }
    drop(store);
    let store = home.open();
    assert_eq!([1, 2, 3].map(|n| store.standing(provider(n))), [held, Standing::Revoked, Standing::Clean]);
}

async fn nothing_undoes_a_revocation(home: Home) {
    let store = home.open();
    store.revoke(provider(1), NOW, None).await.unwrap();
    for standing in [Standing::Clean, distrusted(Distrust::StatementFailed)] {
        assert_eq!(store.standing_put(provider(1), standing, NOW, None).await, Ok(Standing::Revoked));
        assert_eq!(store.standing(provider(1)), Standing::Revoked);
    }
}

async fn an_identity_takes_over_from_one_and_has_its_history(home: Home) {
    let store = home.open();
    joined(&store, 1).await;
    let held = distrusted(Distrust::ChallengeFailed);
    store.standing_put(provider(1), held, NOW, None).await.unwrap();
    assert_eq!(succeed(&store, 1, 2).await, Ok(()));
    assert_eq!(succeed(&store, 1, 2).await, Ok(()), "again is no other");
    assert_eq!(succeed(&store, 2, 3).await, Ok(()));
    drop(store);
    let store = home.open();
    assert!(store.provider_known(provider(3)), "it needs no join token");
    assert_eq!(store.standing(provider(3)), held);
    assert_eq!(store.ancestors(provider(3)), [provider(2), provider(1)]);
    assert_eq!(store.successor(provider(1)), Some(provider(2)));
    // Whichever is named, all are gone.
    let revoked = store.revoke(provider(2), NOW, None).await.unwrap();
    assert_eq!(revoked.len(), 3);
    assert!((1..=3).all(|n| store.standing(provider(n)) == Standing::Revoked));
    assert_eq!(succeed(&store, 3, 4).await, Err(SuccessionRefusal::Revoked));
}

async fn who_may_not_take_over_does_not(home: Home) {
    let store = home.open();
    for n in [1, 2, 5] {
        joined(&store, n).await;
    }
    assert_eq!(succeed(&store, 9, 10).await, Err(SuccessionRefusal::Unknown));
    assert_eq!(succeed(&store, 1, 1).await, Err(SuccessionRefusal::Taken));
    assert_eq!(succeed(&store, 1, 3).await, Ok(()));
    assert_eq!(succeed(&store, 1, 4).await, Err(SuccessionRefusal::Succeeded));
    assert_eq!(succeed(&store, 3, 1).await, Err(SuccessionRefusal::Taken), "no circles");
    assert_eq!(succeed(&store, 2, 1).await, Err(SuccessionRefusal::Taken), "another has its place");
    assert_eq!(succeed(&store, 2, 3).await, Err(SuccessionRefusal::Taken), "it took over from another");
    store.revoke(provider(6), NOW, None).await.unwrap();
    assert_eq!(succeed(&store, 2, 6).await, Err(SuccessionRefusal::Revoked), "what is revoked comes back as nobody");
    store.standing_put(provider(5), distrusted(Distrust::KeyShared), NOW, None).await.unwrap();
    assert_eq!(succeed(&store, 5, 7).await, Err(SuccessionRefusal::Shared));
    assert_eq!(succeed(&store, 2, 5).await, Err(SuccessionRefusal::Shared), "nor is anything added to it");
}

async fn an_heir_that_was_here_before_has_the_worse_of_both(home: Home) {
    let store = home.open();
    let held = distrusted(Distrust::ChallengeFailed);
    for (old, new, of_old, of_new) in [(1, 2, held, Standing::Clean), (3, 4, Standing::Clean, held), (5, 6, held, held)]
    {
        joined(&store, old).await;
        joined(&store, new).await;
        store.standing_put(provider(old), of_old, NOW, None).await.unwrap();
        store.standing_put(provider(new), of_new, NOW, None).await.unwrap();
        assert_eq!(succeed(&store, old, new).await, Ok(()));
        assert_eq!((store.standing(provider(new)), store.successor(provider(old))), (held, Some(provider(new))));
    }
}

async fn a_revocation_and_a_succession_at_the_same_moment_leave_nobody_trusted(home: Home) {
    let store = home.open();
    for round in 0..20u8 {
        let (old, new) = (100 + round, 200 + round);
        joined(&store, old).await;
        // Both are in the queue before either is awaited, so that one commit may have both.
        let (revoked, _) = tokio::join!(store.revoke(provider(old), NOW, None), succeed(&store, old, new));
        revoked.unwrap();
        let trusted = store.provider_known(provider(new)) && store.standing(provider(new)) != Standing::Revoked;
        assert!(!trusted, "round {round}");
    }
}
