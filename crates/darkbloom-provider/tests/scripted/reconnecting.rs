//! Links that break, and what the next one begins with.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use darkbloom_store::ReceiptOutbox;
use darkbloom_types::{ReceiptId, StreamId, UnixMillis};
use darkbloom_wire::{ProviderFrame, ReceiptAck, VerdictNotice, catalogue_digest, receipt_id};

use crate::coordinator::{Coordinator, Line, eligible, within};

/// Waits until all of these streams bring content.
async fn content(line: &mut Line, mut streams: HashSet<StreamId>) {
    line.until("content on every stream", |frame| {
        if let ProviderFrame::Data(data) = frame {
            streams.remove(&data.stream);
        }
        streams.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn rows_of_a_lost_connection_are_free_when_the_next_begins() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    // How long eight whole answers take: far longer than dialling again.
    for round in 0..2 {
        let streams: HashSet<_> = (1..=8).map(|number| StreamId(round * 8 + number)).collect();
        for stream in 1..=8 {
            line.send(introduced.offer(round * 8 + stream, 900)).await;
        }
        if round == 0 {
            let began = Instant::now();
            let mut finished = streams.clone();
            line.until("eight answers", |frame| {
                if let ProviderFrame::Final(end) = frame {
                    finished.remove(&end.stream);
                }
                finished.is_empty().then_some(())
            })
            .await;
            assert!(began.elapsed() > Duration::from_millis(1_200), "too fast to show: {:?}", began.elapsed());
        } else {
            content(&mut line, streams).await;
        }
    }
    drop(line);
    let (_line, again) = coordinator.introduced().await;
    let load = &again.hello.models.0[0];
    assert_eq!((load.rows_used, load.waiting), (0, 0), "nobody waits for those answers");
    assert_eq!(again.epoch(), introduced.epoch(), "the epoch outlives the connection");
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn a_coordinator_that_reads_nothing_is_given_up_and_its_rows_are_freed() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    for stream in 1..=8 {
        line.send(introduced.offer(stream, 900)).await;
    }
    content(&mut line, HashSet::from([StreamId(1)])).await;
    // Held open and not read any more: pings stay unanswered.
    let began = Instant::now();
    let (_next, again) = coordinator.introduced().await;
    let silence = began.elapsed();
    assert!((30..45).contains(&silence.as_secs()), "{silence:?}");
    assert_eq!(again.hello.models.0[0].rows_used, 0);
    drop(line);
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn a_coordinator_that_has_nothing_to_say_keeps_its_provider() {
    let coordinator = Coordinator::start().await;
    let (_provider, mut line, introduced) = coordinator.serving().await;
    // Reading is all it does: the answers to pings go out by themselves.
    let until = tokio::time::Instant::now() + Duration::from_secs(42);
    while let Ok(frame) = tokio::time::timeout_at(until, line.next()).await {
        assert!(matches!(frame, Some(ProviderFrame::Heartbeat(_))), "{frame:?}");
    }
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
}

#[tokio::test]
async fn the_join_token_is_shown_until_the_provider_is_taken_in_and_never_again() {
    let coordinator = Coordinator::start().await;
    let provider = coordinator.provider().await;
    for _ in 0..2 {
        let (line, introduced) = coordinator.introduced().await;
        assert_eq!(introduced.hello.join_token.unwrap().expose(), "a join token");
        drop(line);
    }
    let (mut line, introduced) = coordinator.introduced().await;
    assert!(introduced.hello.join_token.is_some());
    line.send(VerdictNotice { eligible: false, reason: "silent".into(), ..eligible() }).await;
    line.send(eligible()).await;
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
    drop(line);
    let (_line, introduced) = coordinator.introduced().await;
    assert!(introduced.hello.join_token.is_none(), "the coordinator knows this identity now");
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn a_catalogue_that_changed_is_read_again_when_running_answers_have_ended() {
    let mut coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    line.send(introduced.offer(1, 300)).await;
    content(&mut line, HashSet::from([StreamId(1)])).await;
    let before = coordinator.model();
    coordinator.entry = coordinator.signed_entry(512);
    line.send(VerdictNotice { eligible: false, reason: "model_not_loaded".into(), ..eligible() }).await;
    assert_eq!(line.answer(1).await, Ok(300), "what runs ends properly");
    line.ended("the catalogue changed").await;
    drop(line);

    let (mut line, again) = coordinator.introduced().await;
    assert_eq!(again.statement.models.0, [catalogue_digest(&coordinator.entry)]);
    assert_ne!(coordinator.model(), before);
    assert_eq!(again.epoch(), introduced.epoch(), "sealing keys and replays are the network's, not the entry's");
    line.send(again.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
    within("the provider stops", provider.stop()).await;
}

/// Reads one page of receipts; heartbeats come in between.
async fn page(line: &mut Line) -> Vec<ReceiptId> {
    line.until("receipts", |frame| match frame {
        ProviderFrame::Receipts(receipts) => Some(receipts.receipts.0.iter().map(|bytes| receipt_id(bytes)).collect()),
        ProviderFrame::Heartbeat(_) => None,
        other => panic!("{other:?}"),
    })
    .await
}

#[tokio::test]
async fn many_receipts_are_presented_page_by_page_and_each_once_a_connection() {
    let coordinator = Coordinator::start().await;
    let mut kept = Vec::new();
    {
        let outbox = ReceiptOutbox::open(&coordinator.data().join("receipts.sqlite")).unwrap();
        for number in 0..150u8 {
            let bytes = vec![number; 200];
            outbox.put(receipt_id(&bytes), bytes.clone(), UnixMillis(i64::from(number))).await.unwrap();
            kept.push(receipt_id(&bytes));
        }
    }
    let provider = coordinator.provider().await;
    let (mut line, introduced) = coordinator.introduced().await;
    let first = page(&mut line).await;
    assert_eq!(first, kept[..64], "the oldest first");
    for receipt in &first {
        line.send(ReceiptAck { receipt: *receipt }).await;
    }
    let began = Instant::now();
    let second = page(&mut line).await;
    assert_eq!(second, kept[64..128]);
    assert!(began.elapsed() < Duration::from_secs(5), "answered pages do not wait");
    // One is not acknowledged, as when its request is being sealed again: the rest comes after a while all the same.
    for receipt in &second[1..] {
        line.send(ReceiptAck { receipt: *receipt }).await;
    }
    assert_eq!(page(&mut line).await, kept[128..]);
    assert!(began.elapsed() > Duration::from_secs(5));
    for receipt in &kept[128..140] {
        line.send(ReceiptAck { receipt: *receipt }).await;
    }
    // A receipt of this connection goes out with its answer and not among these.
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
    drop(line);

    let (mut line, _) = coordinator.introduced().await;
    let left = page(&mut line).await;
    assert_eq!(left[0], kept[64]);
    assert_eq!(left[1..11], kept[140..]);
    assert_eq!(left.len(), 12, "and that of the answer");
    within("the provider stops", provider.stop()).await;
}
