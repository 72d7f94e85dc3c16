//! What a relay makes of a provider's frames: what is written down and when, what a wrong acceptance brings, what a
//! consumer is told that does not keep up, and whose words go with a refusal.

use super::*;

use darkbloom_keys::SoftwareKey;
use darkbloom_ledger::{HoldRequest, VoidCause};
use darkbloom_seal::{BillExpectation, ReceiptKey, check_bill};
use darkbloom_store::{KeyKind, Store};
use darkbloom_types::{
    AccountId, CatalogueDigest, Digest, KeyId, NanoDollars, NetworkId, OperationId, Price, RequestId, StreamId, Tier,
    TokenCount, UnixMillis,
};
use darkbloom_wire::{CatalogueEntry, CoordinatorFrame, Decoded, RequestKind, SealedHeader, Submit, Suite, receipt_id};

use crate::activation::Activation;
use crate::catalogue::Item;
use crate::state::{KnownEpoch, Outgoing};

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
        let shared = Arc::new(
            Shared::new(store, identity, NETWORK, Tier::None, Activation::none(), crate::rates::Limits::default())
                .await
                .unwrap(),
        );
        Self { shared, account, _folder: folder }
    }

    /// A relay that offered its request to the provider, what reaches its client, and what reaches the provider.
    fn offered(&self) -> (Relay, mpsc::Receiver<Bytes>, mpsc::Receiver<Outgoing>) {
        let (client, to_client) = mpsc::channel(CLIENT_FRAMES_MAX);
        let place = self.shared.place(self.account).unwrap();
        let room = self.shared.begin_request(REQUEST).unwrap();
        let mut relay = Relay::new(Arc::clone(&self.shared), request(self.account), place, client, room);
        relay.actions.clear();
        relay.hold = HoldLife::placed(NanoDollars(100));
        for event in [RelayEvent::HoldPlaced, RelayEvent::Routed(PROVIDER)] {
            relay.feed(event);
        }
        relay.actions.clear();
        let (connection, to_provider) = Connection::new(ConnectionId([5; 16]));
        connection.learn_epoch(KnownEpoch { id: EPOCH, receipt_key: receipt_key().verifying_key().to_bytes() });
        let stream = connection.offer(some_offer).unwrap();
        relay.current = Some(Current {
            provider: PROVIDER,
            epoch: EPOCH,
            attempt: AttemptNumber(1),
            connection,
            stream,
            transcript: None,
            salt: [0; 32],
            last_data: None,
            gone: false,
            declined: false,
            seen: Moments::default(),
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

fn some_offer(stream: StreamId) -> Offer {
    Offer {
        stream,
        attempt: AttemptNumber(1),
        header: Vec::new(),
        body: Vec::new(),
        wrap: Wrap { provider: PROVIDER, epoch: EPOCH, encapsulation: Vec::new(), ciphertext: Vec::new() },
        scope: [0; 16],
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
            terms: darkbloom_store::KeyTerms::named("k"),
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
    while let Ok(frame) = to_provider.try_recv().map(Outgoing::take) {
        cancelled |=
            matches!(CoordinatorFrame::decode(&frame).unwrap(), Decoded::Known(CoordinatorFrame::Cancel(_), _));
    }
    assert!(cancelled);
}

#[tokio::test]
async fn what_the_provider_counts_itself_is_not_counted_as_dispatch() {
    const BEFORE: Duration = Duration::from_millis(20);
    let world = World::new().await;
    let (mut relay, _to_client, mut to_provider) = world.offered();
    let chosen = Instant::now() - BEFORE;
    relay.clocks.offered_at = Some(chosen);
    to_provider.try_recv().unwrap().take();
    let taken = chosen.elapsed();
    relay.hears(accepted(1)).await;
    assert!((BEFORE..=taken).contains(&relay.clocks.dispatch), "{:?} of {taken:?}", relay.clocks.dispatch);

    let (mut relay, mut to_client, mut to_provider) = World::new().await.offered();
    relay.clocks.offered_at = Some(chosen);
    to_provider.try_recv().unwrap().take();
    let taken = chosen.elapsed();
    relay.hears(refused(RefusalCode::InvalidRequest.number())).await;
    assert!(relay.clocks.dispatch > taken, "a refusal has no receipt to count it");
    assert_eq!(told(&mut to_client).timing.unwrap().dispatch_us, Micros::from(relay.clocks.dispatch));
}

#[tokio::test]
async fn who_leaves_the_queue_without_a_turn_has_waited_too() {
    let (mut relay, _to_client, _to_provider) = World::new().await.offered();
    relay.clocks.queued_at = Some(Instant::now() - Duration::from_secs(3));
    assert!(relay.act(RelayAction::LeaveQueue).await.is_none());
    assert!(relay.clocks.queue >= Duration::from_secs(3) && relay.clocks.queued_at.is_none());
}

fn receipt_key() -> ReceiptKey {
    ReceiptKey::from_bytes(&[7; 32])
}

/// What the provider signs for an answer of three tokens; its transcript is of more than was relayed.
fn final_of_three(relay: &Relay) -> Vec<u8> {
    let receipt = Receipt {
        request: request_digest(&relay.request.submit.header, &relay.request.submit.body),
        request_id: REQUEST,
        attempt: AttemptNumber(1),
        transcript: Digest([6; 32]),
        model: MODEL,
        weights: Digest([0; 32]),
        provider: PROVIDER,
        epoch: EPOCH,
        input_tokens: TokenCount(4),
        output_tokens: TokenCount(3),
        queue_us: Micros(0),
        prefill_us: Micros(0),
        decode_us: Micros(0),
        finished_at: UnixMillis(1_000),
    };
    receipt.sign(&receipt_key()).unwrap()
}

fn refused(code: u16) -> StreamFrame {
    StreamFrame::Refused(Refused { stream: StreamId(1), code, detail: String::new(), sealed: Some(vec![3; 40]) })
}

fn overflow(relay: &Relay) {
    relay.current.as_ref().unwrap().stream.overflowed.store(true, Ordering::Release);
}

/// The refusal that reached the client last.
fn told(to_client: &mut mpsc::Receiver<Bytes>) -> RelayedRefused {
    let mut last = None;
    while let Ok(frame) = to_client.try_recv() {
        last = Some(frame);
    }
    match Relayed::decode(&last.expect("something was sent")[4..]).unwrap() {
        Decoded::Known(Relayed::RelayedRefused(frame), _) => frame,
        Decoded::Known(..) | Decoded::Unknown(_) => panic!("another frame came last"),
    }
}

#[tokio::test]
async fn whoever_is_cut_off_gets_the_bill_of_a_cut_answer_and_the_receipt_is_acknowledged() {
    let world = World::new().await;
    let (mut relay, mut to_client, mut to_provider) = world.offered();
    let receipt = final_of_three(&relay);
    relay.hears(accepted(1)).await;
    relay.hears(data(0, 1)).await;
    overflow(&relay);
    relay.hears(StreamFrame::Final(Final { stream: StreamId(1), receipt: receipt.clone() })).await;
    let frame = told(&mut to_client);
    assert_eq!(frame.refusal().code, RefusalCode::AnswerCut);
    // What a client holds the bill of a cut answer to.
    let expected = BillExpectation {
        operation: OPERATION,
        request: REQUEST,
        receipt: None,
        price: PRICE,
        price_max: NanoDollars(100),
        input_most: TokenCount(0),
        output_most: TokenCount(1),
    };
    let bill = check_bill(&frame.bill.expect("a bill"), &world.shared.key.public_key(), &expected).unwrap();
    assert_eq!(bill.charge, NanoDollars(5));
    let mut acknowledged = 0;
    while let Ok(frame) = to_provider.try_recv().map(Outgoing::take) {
        if let Decoded::Known(CoordinatorFrame::ReceiptAck(ack), _) = CoordinatorFrame::decode(&frame).unwrap() {
            assert_eq!(ack.receipt, receipt_id(&receipt));
            acknowledged += 1;
        }
    }
    assert_eq!(acknowledged, 1);
}

#[tokio::test]
async fn whoever_is_cut_off_before_content_is_told_and_pays_nothing() {
    let world = World::new().await;
    let (mut relay, mut to_client, _to_provider) = world.offered();
    relay.hears(accepted(1)).await;
    overflow(&relay);
    relay.hears(StreamFrame::CancelAck).await;
    let frame = told(&mut to_client);
    assert_eq!((frame.refusal().code, frame.bill), (RefusalCode::AnswerCut, None));
    let balance = world.shared.store.balance(world.account).await.unwrap().unwrap();
    assert_eq!((balance.available, balance.held), (NanoDollars(1_000), NanoDollars(0)));
}

#[tokio::test]
async fn sealed_words_go_with_a_reason_that_a_provider_may_give_and_with_no_other() {
    let reasons = [
        (RefusalCode::Overloaded.number(), RefusalCode::Overloaded, true),
        (RefusalCode::Timeout.number(), RefusalCode::ProviderLost, false),
        (60_000, RefusalCode::ProviderLost, false),
    ];
    for (number, passed_on, with_words) in reasons {
        let world = World::new().await;
        let (mut relay, mut to_client, _to_provider) = world.offered();
        relay.hears(refused(number)).await;
        let frame = told(&mut to_client);
        assert_eq!(frame.attempts.0[0].outcome, passed_on.number());
        assert_eq!(frame.sealed.is_some(), with_words, "{number}");
    }
}

#[tokio::test]
async fn sealed_words_are_forgotten_with_content_and_with_the_next_attempt() {
    let world = World::new().await;
    let (mut relay, _to_client, _to_provider) = world.offered();
    relay.hears(accepted(1)).await;
    relay.sealed_refusal = Some(vec![3; 40]);
    relay.hears(data(0, 1)).await;
    assert_eq!(relay.sealed_refusal, None);
    relay.sealed_refusal = Some(vec![3; 40]);
    assert_eq!(relay.offer(PROVIDER, AttemptNumber(2)), Some(RelayEvent::ProviderGone), "it has no connection");
    assert_eq!(relay.sealed_refusal, None);
    let StreamFrame::Refused(frame) = refused(RefusalCode::Overloaded.number()) else { panic!("a refusal") };
    let kept = RelayPhase::ALL.into_iter().filter(|phase| words(&frame, *phase).is_some());
    use RelayPhase::{Accepted, Ending, Offered, Streaming};
    assert_eq!(kept.collect::<Vec<_>>(), [Offered, Accepted, Streaming, Ending]);
}

#[tokio::test]
async fn a_request_whose_hold_is_still_to_be_ended_does_not_begin_and_takes_no_place() {
    let world = World::new().await;
    world.shared.unfinished.add(REQUEST, End::Void(VoidCause::NothingDelivered, "test"));
    for _ in 0..=crate::live::LIVE_PER_ACCOUNT_MAX {
        let place = world.shared.place(world.account).unwrap();
        let (client, _frames) = mpsc::channel(CLIENT_FRAMES_MAX);
        let refused = start(Arc::clone(&world.shared), request(world.account), place, client).unwrap_err();
        assert_eq!(refused.code, RefusalCode::Replayed);
        assert!(!world.shared.is_live(&REQUEST));
    }
}

#[tokio::test]
async fn nothing_is_offered_on_a_connection_that_is_over() {
    let (connection, mut to_provider) = Connection::new(ConnectionId([5; 16]));
    let mut before = connection.offer(some_offer).unwrap();
    connection.close_streams();
    assert!(before.frames.recv().await.is_none(), "whoever was answered learns that the provider is gone");
    assert_eq!(connection.offer(some_offer).map(|stream| stream.id), Err(OfferError::Closed));
    drop(connection);
    assert!(to_provider.recv().await.is_some() && to_provider.recv().await.is_none(), "one offer was sent");
}

#[tokio::test]
async fn an_account_pays_in_turns_for_what_providers_call_wrong() {
    let world = World::new().await;
    for _ in 0..crate::live::WRONG_BURST {
        let (mut relay, _to_client, _to_provider) = world.offered();
        relay.hears(refused(RefusalCode::CannotOpen.number())).await;
        drop(relay);
    }
    let refused = world.shared.place(world.account).map(drop).unwrap_err();
    assert_eq!(refused.code, RefusalCode::RateLimitExceeded);
}

#[tokio::test]
async fn what_a_provider_refuses_for_its_own_reasons_is_not_the_accounts() {
    let world = World::new().await;
    for _ in 0..=crate::live::WRONG_BURST {
        let (mut relay, _to_client, _to_provider) = world.offered();
        relay.hears(refused(RefusalCode::Overloaded.number())).await;
        drop(relay);
    }
    assert!(world.shared.place(world.account).is_ok());
}
