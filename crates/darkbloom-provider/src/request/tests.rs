//! Requests that wait for their prompt to be made.

use std::path::Path;
use std::sync::Mutex;

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_seal::{Epoch, EpochRing, Recipient, seal_request};
use darkbloom_store::ReceiptOutbox;
use darkbloom_types::{
    CatalogueDigest, Digest, NanoDollars, NetworkId, OperationId, ProviderId, RequestId, SecretBytes, Tier,
};
use darkbloom_wire::{Decoded, Suite};

use super::*;
use crate::model::{LoadedModel, ModelOptions};
use crate::shelf::Shelf;

const PATIENCE: Duration = Duration::from_secs(60);

fn model() -> LoadedModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    LoadedModel::load(&ModelOptions { threads: Some(1), ..ModelOptions::new(path, 1, 64) }).unwrap()
}

fn chat(content: &str) -> SecretBytes {
    let message = Message::new(Role::User, content);
    ChatRequest::new(vec![message]).to_cbor()
}

fn refusal(read: Result<Asked, Refusal>) -> (RefusalCode, String) {
    let refusal = read.map(|asked| asked.prompt.len()).unwrap_err();
    (refusal.code, refusal.detail)
}

#[tokio::test]
async fn a_prompt_is_refused_for_the_limit_that_it_exceeds() {
    let model = Shelf::holding(model()).lend(0).unwrap();
    let read = |content: &str, ceiling| prompt::read(model.clone(), chat(content), TokenCount(ceiling));
    let prompt = read("hello", 63).await.unwrap().prompt;
    let count = u32::try_from(prompt.len()).unwrap();
    assert_eq!(read("hello", count).await.unwrap().prompt.len(), prompt.len());
    let (code, detail) = refusal(read("hello", count - 1).await);
    assert_eq!(code, RefusalCode::InvalidRequest);
    assert_eq!(detail, format!("the prompt has more than the {} tokens that its header allows", count - 1));
    let (code, detail) = refusal(read(&"hello ".repeat(100_000), 256).await);
    assert_eq!(code, RefusalCode::RowTooSmall, "others may have longer rows");
    assert_eq!(detail, "more than 63 tokens in the prompt, a row here holds 64");
}

#[test]
fn prompts_are_made_beside_the_threads_that_carry_frames_and_few_at_a_time() {
    // One thread carries frames, and the only other one is kept busy by this test.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let model = Shelf::holding(model()).lend(0).unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        let readers: Vec<_> =
            (0..5).map(|_| tokio::spawn(prompt::read(model.clone(), chat("hello"), TokenCount(63)))).collect();
        let places = model.tokenisers.available_permits();
        // Each of them goes as far as it can.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!((1..readers.len()).contains(&places), "{places} places");
        assert_eq!(model.tokenisers.available_permits(), 0, "as many as there are places wait for the thread");
        assert!(
            readers.iter().all(|reader| !reader.is_finished()),
            "a prompt was made on the thread that carries frames"
        );
        drop(release);
        let _ = busy.await.unwrap();
        for reader in readers {
            tokio::time::timeout(PATIENCE, reader).await.unwrap().unwrap().unwrap();
        }
    });
}

/// A job that was offered, what cancels it, and what it says.
fn job(model: LoadedModel, folder: &Path) -> (Job, watch::Sender<bool>, mpsc::Receiver<Vec<u8>>) {
    let (network, identity) = (NetworkId([1; 32]), [4; 65]);
    let provider = ProviderId::of_public_key(&identity);
    let mut rng = clock::rng();
    let epoch = Epoch::begin(identity, clock::now(), &mut rng);
    let (id, sealing_key) = (epoch.id(), epoch.statement(network, vec![], vec![], "").sealing_key);
    let header = SealedHeader {
        network,
        suite: Suite::XWingAes256Gcm,
        request: RequestId([3; 16]),
        operation: OperationId([4; 16]),
        model: CatalogueDigest([5; 32]),
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(63),
        output_ceiling: TokenCount(8),
        price_version: 1,
        price_max: NanoDollars(1),
        tier_min: Tier::None,
        affinity: [6; 16],
        sealed_at: clock::now(),
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let to = Recipient { provider, epoch: id, sealing_key: &sealing_key };
    let submit = seal_request(header, &chat("hello"), &[to], &mut rng).unwrap().submit;
    let serving = Arc::new(Serving {
        id: provider,
        models: vec![(CatalogueDigest([5; 32]), 0)],
        shelf: Shelf::holding(model),
        ring: Arc::new(Mutex::new(EpochRing::new(network, epoch))),
        outbox: Arc::new(ReceiptOutbox::open(&folder.join("receipts.sqlite")).unwrap()),
        about: Arc::default(),
        board: None,
    });
    let offer = Offer {
        stream: StreamId(1),
        attempt: AttemptNumber(1),
        header: submit.header,
        body: submit.body,
        wrap: submit.wraps.0[0].clone(),
        scope: [0; 16],
    };
    let (header, opened, receipt_key) = open(&serving, &offer).unwrap();
    let (cancel, cancelled) = watch::channel(false);
    let (out, frames) = mpsc::channel(64);
    let model = serving.shelf.lend(0).unwrap();
    let job = Job {
        serving,
        stream: offer.stream,
        attempt: offer.attempt,
        epoch: id,
        header,
        opened,
        receipt_key,
        account: offer.scope,
        row: RowId(1),
        model,
        out,
        cancelled,
    };
    (job, cancel, frames)
}

#[tokio::test]
async fn an_answer_without_room_for_its_limit_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _cancel, mut frames) = job(model(), folder.path());
    job.header.output_ceiling = TokenCount(60);
    job.run().await;
    let said = ProviderFrame::decode(&frames.recv().await.unwrap());
    let Ok(Decoded::Known(ProviderFrame::Refused(refused), 0)) = said else { panic!("{said:?}") };
    assert_eq!(refused.code, RefusalCode::RowTooSmall.number());
    assert!(refused.detail.ends_with("a row here holds 64"), "{}", refused.detail);
}

#[tokio::test]
async fn a_cancel_is_acknowledged_while_the_prompt_still_waits_to_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let (job, cancel, mut frames) = job(model(), folder.path());
    let model = job.model.clone();
    let places = u32::try_from(model.tokenisers.available_permits()).unwrap();
    let all = Arc::clone(&model.tokenisers).acquire_many_owned(places).await.unwrap();
    let running = tokio::spawn(job.run());
    cancel.send(true).unwrap();
    let said = tokio::time::timeout(PATIENCE, frames.recv()).await.expect("an answer to the cancel").unwrap();
    let acknowledged = ProviderFrame::from(CancelAck { stream: StreamId(1) });
    assert!(matches!(ProviderFrame::decode(&said), Ok(Decoded::Known(frame, 0)) if frame == acknowledged));
    running.await.unwrap();
    assert!(frames.recv().await.is_none(), "nothing follows");
    drop(all);
    assert_eq!(model.engine.load().waiting + model.engine.load().running, 0, "it has no row");
}
