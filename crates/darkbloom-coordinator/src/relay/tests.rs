use super::*;

use darkbloom_keys::SoftwareKey;
use darkbloom_ledger::{HoldRequest, VoidCause};
use darkbloom_store::{KeyKind, Store};
use darkbloom_types::{
    AccountId, CatalogueDigest, Digest, KeyId, NanoDollars, NetworkId, OperationId, Price, RequestId, StreamId, Tier,
    TokenCount, UnixMillis,
};
use darkbloom_wire::{CatalogueEntry, CoordinatorFrame, Decoded, RequestKind, SealedHeader, Submit, Suite};

use crate::catalogue::Item;

const NETWORK: NetworkId = NetworkId([8; 32]);
const PROVIDER: ProviderId = ProviderId([9; 32]);
const EPOCH: EpochId = EpochId([4; 16]);
const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const REQUEST: RequestId = RequestId([1; 16]);
const OPERATION: OperationId = OperationId([2; 16]);
const PRICE: Price = Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 };

/// A coordinator with one account and its one open hold.
struct World {
    shared: Arc<Shared>,
    account: AccountId,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let account = store.account_create("a").await.unwrap();
        store.deposit(account, NanoDollars(1_000), "first".to_owned(), clock::now()).await.unwrap();
        let now = clock::now();
        let hold = HoldRequest {
            request: REQUEST,
            operation: OPERATION,
            account,
            key: KeyId(1),
            model: MODEL,
            amount: NanoDollars(100),
            price: PRICE,
            input_ceiling: TokenCount(10),
            output_ceiling: TokenCount(16),
            placed_at: now,
            expires_at: now.after(HOLD_LIFE),
            supersedes: None,
        };
        store.hold_place(hold).await.unwrap();
        let identity = Box::new(SoftwareKey::in_memory().unwrap());
        let shared = Arc::new(Shared::new(store, identity, NETWORK, Tier::None).await.unwrap());
        Self { shared, account, _folder: folder }
    }

    /// A relay that offered its request to the provider, what reaches its client, and what reaches the provider.
    fn offered(&self) -> (Relay, mpsc::Receiver<Bytes>, mpsc::Receiver<Vec<u8>>) {
        let (client, to_client) = mpsc::channel(CLIENT_FRAMES_MAX);
        let room = self.shared.begin_request(REQUEST, self.account).unwrap();
        let mut relay = Relay::new(Arc::clone(&self.shared), request(self.account), client, room);
        relay.actions.clear();
        for event in [RelayEvent::HoldPlaced, RelayEvent::Routed(PROVIDER)] {
            relay.feed(event);
        }
        relay.actions.clear();
        let (connection, to_provider) = Connection::new(ConnectionId([5; 16]));
        let (stream, _) = connection.offer(|stream| Offer {
            stream,
            attempt: AttemptNumber(1),
            header: Vec::new(),
            body: Vec::new(),
            wrap: Wrap { provider: PROVIDER, epoch: EPOCH, encapsulation: Vec::new(), ciphertext: Vec::new() },
            scope: [0; 16],
        });
        relay.current = Some(Current {
            provider: PROVIDER,
            epoch: EPOCH,
            attempt: AttemptNumber(1),
            connection,
            stream,
            transcript: None,
            salt: [0; 32],
            last_data: None,
        });
        (relay, to_client, to_provider)
    }

    /// Whose answer stands beside the hold, once everything that was asked of the store is done.
    async fn noted(&self) -> Option<ProviderId> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // One writer: what was asked before this is durable.
        self.shared.store.deposit(self.account, NanoDollars(1), "after".to_owned(), clock::now()).await.unwrap();
        self.shared.store.hold(REQUEST).await.unwrap().unwrap().accepted_by
    }
}

fn request(account: AccountId) -> Request {
    let header = SealedHeader {
        network: NETWORK,
        suite: Suite::XWingAes256Gcm,
        request: REQUEST,
        operation: OPERATION,
        model: MODEL,
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(10),
        output_ceiling: TokenCount(16),
        price_version: PRICE.version,
        price_max: NanoDollars(100),
        tier_min: Tier::None,
        affinity: [0; 16],
        sealed_at: clock::now(),
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let entry = CatalogueEntry {
        network: NETWORK,
        name: "m".to_owned(),
        weights: Digest([0; 32]),
        text_pack: Digest([0; 32]),
        context: TokenCount(64),
        quantisation: "Q8_0".to_owned(),
    };
    Request {
        submit: Submit {
            header: header.encode(),
            body: Vec::new(),
            wraps: Vec::new().into(),
            supersedes: None,
            candidates_as_of: None,
        },
        header,
        item: Item { digest: MODEL, signed: Vec::new(), entry, price: PRICE },
        account,
        key: KeyRecord {
            id: KeyId(1),
            account: Some(account),
            kind: KeyKind::Consumer,
            name: "k".to_owned(),
            created_at: UnixMillis(0),
            revoked: false,
        },
    }
}

impl Relay {
    /// A frame comes, and everything that the machine makes of it is done.
    async fn hears(&mut self, frame: StreamFrame) {
        self.provider_frame(Some(frame));
        while let Some(action) = self.actions.pop_front() {
            if let Some(event) = self.act(action).await {
                self.feed(event);
            }
        }
    }
}

fn accepted(attempt: u32) -> StreamFrame {
    let attempt = AttemptNumber(attempt);
    StreamFrame::Accepted(Accepted { stream: StreamId(1), attempt, epoch: EPOCH, salt: [7; 32] })
}

fn data(sequence: u32, tokens: u32) -> StreamFrame {
    let tokens = TokenCount(tokens);
    StreamFrame::Data(Data { stream: StreamId(1), sequence, tokens, end: false, ciphertext: vec![0; 80] })
}

#[tokio::test]
async fn whose_answer_it_is_is_written_down_with_its_first_token_and_not_before() {
    let world = World::new().await;
    let (mut relay, mut to_client, _to_provider) = world.offered();
    relay.hears(accepted(1)).await;
    relay.hears(data(0, 0)).await;
    assert_eq!(world.noted().await, None, "a receipt for nothing must not find its hold");
    relay.hears(data(1, 1)).await;
    assert_eq!(world.noted().await, Some(PROVIDER));
    let mut frames = 0;
    while to_client.try_recv().is_ok() {
        frames += 1;
    }
    assert_eq!(frames, 3, "all of it was relayed");
    world.shared.store.hold_void(REQUEST, VoidCause::NothingDelivered, "test", clock::now()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_acceptance_is_answered_with_a_cancel() {
    let world = World::new().await;
    let (mut relay, _to_client, mut to_provider) = world.offered();
    relay.hears(accepted(2)).await;
    let mut cancelled = false;
    while let Ok(frame) = to_provider.try_recv() {
        cancelled |=
            matches!(CoordinatorFrame::decode(&frame).unwrap(), Decoded::Known(CoordinatorFrame::Cancel(_), _));
    }
    assert!(cancelled);
}
