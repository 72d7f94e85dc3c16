//! What a provider's new connection knows of its epochs.

use super::*;

use darkbloom_keys::SoftwareKey;
use darkbloom_store::Store;
use darkbloom_types::{EpochId, Millis, NetworkId};

use crate::activation::Activation;

const PROVIDER: ProviderId = ProviderId([9; 32]);

fn epoch(n: u8) -> KnownEpoch {
    KnownEpoch { id: EpochId([n; 16]), receipt_key: [n; 32] }
}

#[tokio::test]
async fn a_new_connection_knows_the_epochs_of_the_one_it_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let identity = Box::new(SoftwareKey::in_memory().unwrap());
    let shared = Shared::new(store, identity, NetworkId([8; 32]), Tier::None, Activation::none()).await.unwrap();
    let (old, _sent) = Connection::new(ConnectionId([1; 16]));
    for n in 1..=8 {
        old.learn_epoch(epoch(n));
    }
    let until = clock::now().after(Millis::from_minutes(10));
    let stated = Stated {
        tier: Tier::None,
        statement: Vec::new(),
        epoch: epoch(8).id,
        use_until: until,
        open_until: until,
        models: Vec::new(),
        known_at: clock::now(),
    };
    let registration = Registration { provider: PROVIDER, connection: old.id, stated, models: Vec::new() };
    shared.add_connection(Arc::clone(&old));
    shared.with_registry(|registry| {
        registry.register(registration, shared.mono(), clock::now(), &mut clock::rng());
    });
    let (new, _sent) = Connection::new(ConnectionId([2; 16]));
    new.learn_epoch(epoch(9));
    inherit(&shared, &new, ProviderId([1; 32]));
    assert_eq!(new.receipt_key(&epoch(8).id), None, "another provider's are not its");
    inherit(&shared, &new, PROVIDER);
    let known = (1..=9).filter(|n| new.receipt_key(&epoch(*n).id) == Some([*n; 32]));
    assert_eq!(known.collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9], "the oldest gives way, its own never");
}
