//! That counting holds up nobody, on a runtime with a single worker, and what is refused without it.

use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use darkbloom_content::Message;
use darkbloom_host::clock;
use darkbloom_text::{TextModel, TextPack};
use futures_util::FutureExt as _;

use super::*;
use crate::call::Call;
use crate::network::Network;
use crate::parties::{MODEL, Operator, Provider};
use crate::{Config, Timing, candidates::Candidates};

/// Far longer than anything here takes; a test that waits this long has failed.
const LONG: Duration = Duration::from_secs(20);

fn text() -> TextModel {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf");
    let pack = TextPack::from_gguf(File::open(path).unwrap()).unwrap();
    TextModel::new(pack).unwrap()
}

/// Work that lasts until it is told to end, and says that it has begun.
fn held(began: &Sender<()>) -> (Sender<()>, impl FnOnce() -> bool + Send + use<>) {
    let ((go, told), began): ((_, Receiver<()>), _) = (channel(), began.clone());
    let work = move || {
        began.send(()).unwrap();
        told.recv_timeout(LONG).is_ok()
    };
    (go, work)
}

#[tokio::test]
async fn while_prompts_are_counted_the_only_worker_goes_on_with_everything_else() {
    let counting = Arc::new(Counting::new(2));
    let (began, _begun) = channel();
    let (mut going, mut working) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (go, work) = held(&began);
        let counting = Arc::clone(&counting);
        going.push(go);
        working.push(tokio::spawn(async move { counting.run(work).await }));
    }
    // A stream on the same worker: were a prompt counted there, none of its pieces would come, and nobody would let the
    // counting end.
    let (pieces, mut stream) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for piece in 0..1_000 {
            pieces.send(piece).await.unwrap();
        }
    });
    for piece in 0..1_000 {
        assert_eq!(stream.recv().await, Some(piece));
    }
    for go in going {
        go.send(()).unwrap();
    }
    for work in working {
        assert_eq!(work.await.unwrap(), Ok(true), "it ended because it was told to");
    }
}

#[tokio::test]
async fn no_more_are_counted_at_once_than_there_are_places() {
    let counting = Counting::new(1);
    let (began, begun) = channel();
    let (go, work) = held(&began);
    let mut first = Box::pin(counting.run(work));
    assert!((&mut first).now_or_never().is_none());
    begun.recv_timeout(LONG).unwrap();

    // Whoever goes away while it waits is never worked for.
    let (_, unwanted) = held(&began);
    assert!(counting.run(unwanted).now_or_never().is_none());
    // Whoever goes away while it is worked for has the answer at once; its place is taken until the work is over.
    drop(first);
    assert_eq!(counting.places.available_permits(), 0);
    let (next_go, work) = held(&began);
    let mut second = Box::pin(counting.run(work));
    assert!((&mut second).now_or_never().is_none());
    assert!(begun.try_recv().is_err(), "one at a time");
    go.send(()).unwrap();
    next_go.send(()).unwrap();
    assert_eq!(second.await, Ok(true));
    assert_eq!(begun.try_iter().count(), 1, "the second, and not the one that went away");
}

fn operation(prompt: &str) -> Operation {
    Operation {
        key: "key".into(),
        model: MODEL.to_owned(),
        request: ChatRequest::new(vec![Message::new(Role::User, prompt)]),
        stream: true,
        max_output_tokens: None,
        idempotency_key: None,
        parse: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_call_counts_its_prompt_in_a_place_for_counting() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let operator = Operator::new();
    let provider = Provider::new(&operator, "a", clock::now());
    let network = Arc::new(
        Network::new(Config {
            coordinator: "http://127.0.0.1:1".to_owned(),
            network: None,
            pin_file: None,
            tier_min: darkbloom_types::Tier::None,
            pinned: Default::default(),
            hardware: Default::default(),
            candidates: 1,
            receipts: None,
        })
        .unwrap(),
    );
    let list = operator.read(clock::now(), &[&provider.signed()], &operator.anybody()).unwrap();
    know(&network, &operator, list);
    let cores = available_parallelism().map_or(1, NonZero::get);
    let all = network.counting.places.acquire_many(u32::try_from(cores).unwrap()).await.unwrap();
    let mut timing = Timing::default();
    let mut call = Box::pin(Call::prepare(Arc::clone(&network), operation("What is 17 + 25?"), &mut timing));
    assert!((&mut call).now_or_never().is_none(), "all places are taken");
    drop(all);
    let prompt = call.await.ok().unwrap().prompt_tokens;
    assert_eq!(prompt, count(&text(), &operation("What is 17 + 25?").request).unwrap().tokens);
}

/// As if all that a call needs had been fetched.
fn know(network: &Network, operator: &Operator, list: Candidates) {
    network.texts.know(list.entry.text_pack, text());
    network.candidates.put(MODEL, Arc::new(list));
    network.meet(operator.public.clone());
}

#[test]
fn what_cannot_fit_is_refused_without_counting_and_truthfully() {
    let (text, context) = (text(), TokenCount(1_024));
    // The longest text that could be 1,023 tokens.
    let most = (1..).take_while(|bytes| text.tokens_min(*bytes) < context).last().unwrap();
    let of = |content: String| operation(&content).request;
    assert_eq!(refuse_early(&text, context, &of("a".repeat(most))), Ok(()), "it might fit");
    // A template trims.
    assert_eq!(refuse_early(&text, context, &of(" ".repeat(4 * most) + "a")), Ok(()));
    let refused = refuse_early(&text, context, &of("a".repeat(most + 1))).unwrap_err();
    assert_eq!(refused.code, RefusalCode::ContextLengthExceeded);
    assert_eq!(refused.detail, "the prompt has at least 1024 tokens, the model's context is 1024 tokens");
    // No text has fewer tokens than is said, also not one that is all the longest token.
    let longest = (0..).map_while(|token| text.token_bytes(darkbloom_types::TokenId(token)));
    let longest = longest.max_by_key(|token| token.len()).unwrap();
    let longest = String::from_utf8(longest.to_vec()).unwrap().trim().to_owned();
    for piece in [&*longest, "a", "é", "  x"] {
        let request = of(piece.repeat(6_000));
        let refused = refuse_early(&text, TokenCount(1), &request).unwrap_err();
        let words: Vec<_> = refused.detail.split(' ').collect();
        let least: u32 = words[words.iter().position(|word| *word == "least").unwrap() + 1].parse().unwrap();
        assert!(least <= count(&text, &request).unwrap().tokens.0, "{piece}: {refused}");
    }
}
