//! Which receipts outside of their request settle, which are acknowledged, and which wait, with a real store.

use super::*;
use std::sync::Arc;

use darkbloom_keys::SoftwareKey;
use darkbloom_ledger::{HoldRequest, VoidCause};
use darkbloom_seal::ReceiptKey;
use darkbloom_store::Store;
use darkbloom_types::{
    AccountId, AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, KeyId, Micros, NanoDollars, NetworkId,
    OperationId, Price, StreamId, Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::{CoordinatorFrame, Decoded, Final};
use tokio::sync::mpsc;

use crate::relay::End;
use crate::state::{KnownEpoch, Outgoing, Resealing, StreamFrame};

const PROVIDER: ProviderId = ProviderId([9; 32]);
const EPOCH: EpochId = EpochId([4; 16]);
const MODEL: CatalogueDigest = CatalogueDigest([3; 32]);
const REQUEST: RequestId = RequestId([1; 16]);
const OPERATION: OperationId = OperationId([2; 16]);

/// A coordinator with one account of 1,000, and a provider's connection.
struct World {
    shared: Shared,
    account: AccountId,
    connection: Arc<Connection>,
    sent: mpsc::Receiver<Outgoing>,
    _folder: tempfile::TempDir,
}

fn key() -> ReceiptKey {
    ReceiptKey::from_bytes(&[7; 32])
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let account = store.account_create("a").await.unwrap();
        store.deposit(account, NanoDollars(1_000), "first".to_owned(), clock::now()).await.unwrap();
        let identity = Box::new(SoftwareKey::in_memory().unwrap());
        let shared = Shared::new(
            store,
            identity,
            NetworkId([8; 32]),
            Tier::None,
            crate::activation::Activation::none(),
            crate::rates::Limits::default(),
        )
        .await
        .unwrap();
        let (connection, sent) = Connection::new(ConnectionId([5; 16]));
        connection.learn_epoch(KnownEpoch { id: EPOCH, receipt_key: key().verifying_key().to_bytes() });
        Self { shared, account, connection, sent, _folder: folder }
    }

    /// An open hold of 10 × 2 + 16 × 5 = 100, whose answer this provider gave.
    async fn hold(&self, request: RequestId) {
        let now = clock::now();
        let hold = HoldRequest {
            request,
            operation: OPERATION,
            account: self.account,
            key: KeyId(1),
            model: MODEL,
            amount: NanoDollars(100),
            price: Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 5 },
            input_ceiling: TokenCount(10),
            output_ceiling: TokenCount(16),
            placed_at: now,
            expires_at: now.after(crate::relay::HOLD_LIFE),
            supersedes: None,
        };
        self.shared.store.hold_place(hold).await.unwrap();
        self.shared.store.hold_accepted(request, PROVIDER).await.unwrap();
    }

    async fn void(&self, request: RequestId, cause: VoidCause) {
        self.shared.store.hold_void(request, cause, "test", clock::now()).await.unwrap();
    }

    async fn present(&self, receipt: &[u8]) {
        present(&self.shared, &self.connection, PROVIDER, receipt.to_vec()).await;
    }

    async fn review(&self) {
        review(&self.shared, &self.connection, PROVIDER).await;
    }

    /// Whether exactly this receipt was acknowledged, once, since the last question.
    fn acknowledged(&mut self, receipt: &[u8]) -> bool {
        let mut seen = Vec::new();
        while let Ok(frame) = self.sent.try_recv().map(Outgoing::take) {
            let Decoded::Known(CoordinatorFrame::ReceiptAck(ack), _) = CoordinatorFrame::decode(&frame).unwrap() else {
                panic!("another frame than an acknowledgement")
            };
            seen.push(ack.receipt);
        }
        assert!(seen.len() <= 1 && seen.iter().all(|id| *id == receipt_id(receipt)), "{seen:?}");
        !seen.is_empty()
    }

    async fn charged(&self) -> Vec<(RequestId, NanoDollars)> {
        let usage = self.shared.store.usage(self.account, 10).await.unwrap();
        usage.into_iter().map(|row| (row.request, row.charge)).collect()
    }
}

fn receipt(request: RequestId) -> Receipt {
    Receipt {
        request: Digest([0; 32]),
        request_id: request,
        attempt: AttemptNumber(1),
        transcript: Digest([0; 32]),
        model: MODEL,
        weights: Digest([0; 32]),
        provider: PROVIDER,
        epoch: EPOCH,
        input_tokens: TokenCount(4),
        output_tokens: TokenCount(6),
        queue_us: Micros(0),
        prefill_us: Micros(0),
        decode_us: Micros(0),
        finished_at: UnixMillis(1_000),
    }
}

fn signed(request: RequestId) -> Vec<u8> {
    receipt(request).sign(&key()).unwrap()
}

#[tokio::test]
async fn what_an_identity_did_is_its_heirs_to_present_and_nobody_elses() {
    let mut world = World::new().await;
    let (heir, other) = (ProviderId([8; 32]), ProviderId([7; 32]));
    world.shared.store.provider_seen(PROVIDER, KeyId(1), clock::now()).await.unwrap();
    let until = clock::now().after(crate::relay::HOLD_LIFE);
    let kept = world.shared.store.receipt_key_put(PROVIDER, EPOCH, key().verifying_key().to_bytes(), until);
    kept.await.unwrap();
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::Silence).await;
    let bytes = signed(REQUEST);
    present(&world.shared, &world.connection, other, bytes.clone()).await;
    assert!(world.acknowledged(&bytes), "it settles nothing, ever");
    assert_eq!(world.charged().await, []);
    world.shared.store.succeed(PROVIDER, heir, Vec::new(), clock::now()).await.unwrap();
    present(&world.shared, &world.connection, heir, bytes.clone()).await;
    assert!(world.acknowledged(&bytes));
    assert_eq!(world.charged().await.len(), 1);
}

#[tokio::test]
async fn what_can_never_settle_is_acknowledged_at_once() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::Silence).await;
    let foreign_epoch = Receipt { epoch: EpochId([6; 16]), ..receipt(REQUEST) }.sign(&key()).unwrap();
    let foreign_key = receipt(REQUEST).sign(&ReceiptKey::from_bytes(&[1; 32])).unwrap();
    let foreign_provider = Receipt { provider: ProviderId([1; 32]), ..receipt(REQUEST) }.sign(&key()).unwrap();
    let foreign_model = Receipt { model: CatalogueDigest([1; 32]), ..receipt(REQUEST) }.sign(&key()).unwrap();
    let unknown_request = signed(RequestId([77; 16]));
    let rubbish = vec![0xff; 40];
    for bytes in [rubbish, foreign_epoch, foreign_key, foreign_provider, foreign_model, unknown_request] {
        world.present(&bytes).await;
        assert!(world.acknowledged(&bytes));
    }
    assert!(world.connection.take_receipts().is_empty());
    assert_eq!(world.charged().await, []);
}

#[tokio::test]
async fn a_request_that_was_given_back_before_content_settles_nothing_and_is_acknowledged() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::NothingDelivered).await;
    let bytes = signed(REQUEST);
    world.present(&bytes).await;
    assert!(world.acknowledged(&bytes));
    assert_eq!(world.charged().await, []);
}

#[tokio::test]
async fn a_hold_voided_for_silence_is_settled_and_then_acknowledged_again() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::Silence).await;
    let bytes = signed(REQUEST);
    for _ in 0..2 {
        world.present(&bytes).await;
        assert!(world.acknowledged(&bytes));
        assert_eq!(world.charged().await, [(REQUEST, NanoDollars(4 * 2 + 6 * 5))]);
    }
}

#[tokio::test]
async fn a_late_receipt_without_a_token_charges_nothing() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::Silence).await;
    let bytes = Receipt { output_tokens: TokenCount(0), ..receipt(REQUEST) }.sign(&key()).unwrap();
    world.present(&bytes).await;
    assert!(world.acknowledged(&bytes));
    assert!(world.charged().await.iter().all(|(_, charge)| *charge == NanoDollars(0)));
}

#[tokio::test]
async fn a_key_of_an_earlier_run_is_found_in_the_store() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::Silence).await;
    let (epoch, other) = (EpochId([6; 16]), ReceiptKey::from_bytes(&[1; 32]));
    let receipt_key = other.verifying_key().to_bytes();
    world.shared.store.receipt_key_put(PROVIDER, epoch, receipt_key, clock::now()).await.unwrap();
    let bytes = Receipt { epoch, ..receipt(REQUEST) }.sign(&other).unwrap();
    world.present(&bytes).await;
    assert!(world.acknowledged(&bytes));
    assert_eq!(world.charged().await.len(), 1);
}

#[tokio::test]
async fn a_receipt_is_kept_while_its_request_is_in_hand() {
    let mut world = World::new().await;
    let bytes = signed(REQUEST);
    let resealing = Resealing { account: world.account, operation: OPERATION, until: world.shared.mono() };
    let room = world.shared.begin_request(REQUEST);
    assert!(room.is_ok());
    world.hold(REQUEST).await;
    world.present(&bytes).await;
    world.review().await;
    assert!(!world.acknowledged(&bytes), "relayed");
    world.shared.begin_reseal(REQUEST, resealing);
    world.shared.end_request(&REQUEST);
    world.review().await;
    assert!(!world.acknowledged(&bytes), "waits to be sealed again");
    assert!(world.shared.take_reseal(&REQUEST, world.account, OPERATION).is_some());
    world.shared.unfinished.add(REQUEST, End::Void(VoidCause::NothingDelivered, "test"));
    world.review().await;
    assert!(!world.acknowledged(&bytes), "waits for the store");
    world.shared.unfinished.retry(&world.shared.store, clock::now()).await;
    world.review().await;
    assert!(world.acknowledged(&bytes), "given back: decided");
    assert_eq!(world.charged().await, []);
    world.review().await;
    assert!(!world.acknowledged(&bytes), "and forgotten");
}

#[tokio::test]
async fn a_receipt_is_kept_while_another_request_of_its_operation_may_come_to_nothing() {
    for other_delivers in [false, true] {
        let mut world = World::new().await;
        let (bytes, other) = (signed(REQUEST), RequestId([55; 16]));
        world.hold(REQUEST).await;
        world.void(REQUEST, VoidCause::Silence).await;
        world.hold(other).await;
        world.present(&bytes).await;
        world.review().await;
        assert!(!world.acknowledged(&bytes));
        if other_delivers {
            let settlement = Settlement {
                request: other,
                provider: PROVIDER,
                delivered: Delivered { content_relayed: true, relayed_output: TokenCount(1), receipt: None },
                receipt: None,
                receipt_id: None,
                at: clock::now(),
            };
            world.shared.store.hold_settle(settlement).await.unwrap();
        } else {
            world.void(other, VoidCause::NothingDelivered).await;
        }
        world.review().await;
        assert!(world.acknowledged(&bytes));
        let paid = if other_delivers { (other, NanoDollars(5)) } else { (REQUEST, NanoDollars(38)) };
        assert_eq!(world.charged().await, [paid]);
    }
}

#[tokio::test]
async fn a_receipt_on_a_stream_that_is_over_is_answered() {
    let mut world = World::new().await;
    world.hold(REQUEST).await;
    world.void(REQUEST, VoidCause::NothingDelivered).await;
    let bytes = signed(REQUEST);
    let stream = StreamId(3);
    super::super::deliver(&world.connection, stream, StreamFrame::Final(Final { stream, receipt: bytes.clone() }));
    world.review().await;
    assert!(world.acknowledged(&bytes));
}

#[tokio::test]
async fn receipts_that_wait_are_bounded_and_each_waits_once() {
    let world = World::new().await;
    for _ in 0..2 {
        for n in 0..300_u16 {
            world.connection.review(n.to_be_bytes().to_vec());
        }
    }
    assert_eq!(world.connection.take_receipts().len(), 256);
    assert!(world.connection.take_receipts().is_empty());
}
