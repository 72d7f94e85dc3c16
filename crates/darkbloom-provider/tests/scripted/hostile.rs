//! What no honest coordinator sends: each ends the connection or is refused, and the provider goes on.

use darkbloom_keys::SoftwareKey;
use darkbloom_types::{ConnectionId, RefusalCode, StreamId};
use darkbloom_wire::{Cancel, Challenge, ChallengeProof, ProviderFrame, Welcome, coordinator_proof_digest, limits};
use tokio_tungstenite::tungstenite::Message;

use crate::coordinator::{Coordinator, Introduced, Line, within};

/// After what ended a connection, the provider dials again and answers as if nothing had been.
async fn dials_again_and_works(coordinator: &Coordinator) {
    let (mut line, introduced) = coordinator.introduced().await;
    line.send(introduced.offer(1, 5)).await;
    assert_eq!(line.answer(1).await, Ok(5));
}

/// Sends something to a provider at work; it must end the connection, and be there again.
async fn ends_the_connection(what: &str, bytes: impl AsyncFnOnce(&Coordinator, &mut Line, &Introduced)) {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    bytes(&coordinator, &mut line, &introduced).await;
    line.ended(what).await;
    dials_again_and_works(&coordinator).await;
    within("the provider stops", provider.stop()).await;
}

/// Answers the dialling with something else than a welcome that fits; the provider must go without an introduction.
async fn is_not_introduced_to(what: &str, say: impl AsyncFnOnce(&Coordinator, &mut Line)) {
    let coordinator = Coordinator::start().await;
    let provider = coordinator.provider().await;
    let mut line = coordinator.line().await;
    say(&coordinator, &mut line).await;
    let said = line.ended(what).await;
    assert!(said.is_empty(), "it told a stranger who it is: {said:?}");
    dials_again_and_works(&coordinator).await;
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn a_malformed_frame_ends_the_connection() {
    for rubbish in [&b""[..], &[0xff; 40], &[0xa1, 0x00], &[0xbf, 0xff], &[0xa1, 0x00, 0x18, 0x22]] {
        ends_the_connection("a malformed frame", async |_, line, _| {
            line.raw(Message::binary(rubbish.to_vec())).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_text_message_ends_the_connection() {
    ends_the_connection("a text message", async |_, line, _| line.raw(Message::text("hello")).await).await;
}

#[tokio::test]
async fn a_message_over_the_limit_ends_the_connection() {
    ends_the_connection("a message over the limit", async |_, line, _| {
        let large = Message::binary(vec![0; limits::FRAME_BYTES_MAX + 1]);
        // The provider hangs up on the message's head, so writing the rest may fail.
        let _ = futures_util::SinkExt::send(&mut line.socket, large).await;
    })
    .await;
}

#[tokio::test]
async fn a_second_welcome_ends_the_connection() {
    ends_the_connection("a second welcome", async |coordinator, line, _| {
        line.send(coordinator.welcome(line)).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_number_that_was_used_ends_the_connection() {
    for again in [5, 4, 0] {
        ends_the_connection("a used number", async |_, line, introduced| {
            line.send(introduced.offer(5, 3)).await;
            assert_eq!(line.answer(5).await, Ok(3));
            line.send(introduced.offer(again, 3)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn the_first_stream_may_be_number_zero() {
    let coordinator = Coordinator::start().await;
    let (_provider, mut line, introduced) = coordinator.serving().await;
    line.send(introduced.offer(0, 3)).await;
    assert_eq!(line.answer(0).await, Ok(3));
}

#[tokio::test]
async fn a_welcome_without_the_model_is_not_answered() {
    is_not_introduced_to("an empty catalogue", async |coordinator, line| {
        let mut welcome = coordinator.welcome(line);
        welcome.catalogue = Vec::new().into();
        line.send(welcome).await;
    })
    .await;
}

#[tokio::test]
async fn a_catalogue_that_the_coordinator_did_not_sign_is_not_answered() {
    is_not_introduced_to("a forged entry", async |coordinator, line| {
        let mut welcome = coordinator.welcome(line);
        let mut forged = coordinator.entry.clone();
        *forged.last_mut().unwrap() ^= 1;
        welcome.catalogue = vec![forged].into();
        line.send(welcome).await;
    })
    .await;
}

#[tokio::test]
async fn a_stranger_is_not_answered() {
    let stranger = Coordinator::start().await;
    is_not_introduced_to("another network", async |_, line| line.send(stranger.welcome(line)).await).await;
}

#[tokio::test]
async fn who_only_names_the_pinned_key_is_not_answered() {
    let stranger = SoftwareKey::in_memory().unwrap();
    type Forgery = fn(&Coordinator, &Line, &SoftwareKey) -> Vec<u8>;
    let cases: [(&str, Forgery); 7] = [
        ("no proof", |_, _, _| Vec::new()),
        ("another's key", |it, line, key| it.proof(key, &line.dialled, Some((&line.connection, &[7; 32])))),
        ("another nonce", |it, line, _| it.proof(&it.key, &[1; 32], Some((&line.connection, &[7; 32])))),
        ("another connection", |it, line, _| {
            it.proof(&it.key, &line.dialled, Some((&ConnectionId([1; 16]), &[7; 32])))
        }),
        ("another welcome", |it, line, _| it.proof(&it.key, &line.dialled, Some((&line.connection, &[8; 32])))),
        ("what a client was shown", |it, line, _| it.proof(&it.key, &line.dialled, None)),
        ("what was signed as something else", |it, line, _| {
            let welcome = Some((&line.connection, &[7; 32]));
            let digest = coordinator_proof_digest(&it.network, &line.dialled, welcome);
            ChallengeProof { digest }.sign(&it.key).unwrap()
        }),
    ];
    for (what, proof) in cases {
        is_not_introduced_to(what, async |coordinator, line| {
            let proof = proof(coordinator, line, &stranger);
            line.send(Welcome { proof, ..coordinator.welcome(line) }).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_welcome_of_an_earlier_connection_is_not_answered() {
    let coordinator = Coordinator::start().await;
    let provider = coordinator.provider().await;
    let mut line = coordinator.line().await;
    let overheard = coordinator.welcome(&line);
    line.send(overheard.clone()).await;
    line.until("an introduction", |frame| matches!(frame, ProviderFrame::Hello(_)).then_some(())).await;
    drop(line);
    let mut line = coordinator.line().await;
    line.send(overheard).await;
    assert!(line.ended("a welcome said again").await.is_empty());
    dials_again_and_works(&coordinator).await;
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn who_is_met_first_is_pinned_only_after_a_proof() {
    let coordinator = Coordinator::start().await;
    let provider = coordinator.provider_of(None).await;
    let pin = || std::fs::read_to_string(coordinator.data().join("coordinator.pin"));
    let mut line = coordinator.line().await;
    line.send(Welcome { proof: Vec::new(), ..coordinator.welcome(&line) }).await;
    assert!(line.ended("no proof").await.is_empty());
    assert!(pin().is_err(), "a key that nobody has shown to hold was pinned");
    dials_again_and_works(&coordinator).await;
    assert_eq!(pin().unwrap().trim(), coordinator.network.to_string());
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn a_coordinator_whose_clock_is_wrong_is_not_answered() {
    is_not_introduced_to("a wrong clock", async |coordinator, line| {
        let mut welcome = coordinator.welcome(line);
        welcome.time.0 += 3_600_000;
        line.send(welcome).await;
    })
    .await;
}

#[tokio::test]
async fn anything_before_the_welcome_is_not_answered() {
    is_not_introduced_to("a challenge first", async |_, line| line.send(Challenge { nonce: [1; 32] }).await).await;
    is_not_introduced_to("rubbish first", async |_, line| line.raw(Message::binary(vec![0xff])).await).await;
}

#[tokio::test]
async fn an_offer_that_is_not_for_this_provider_is_refused_and_the_next_is_served() {
    let coordinator = Coordinator::start().await;
    let (_provider, mut line, introduced) = coordinator.serving().await;
    let cannot_open = Err(RefusalCode::CannotOpen.number());

    let mut others = introduced.offer(1, 3);
    others.wrap.provider.0[0] ^= 1;
    line.send(others).await;
    assert_eq!(line.answer(1).await, cannot_open, "another's name");

    let mut others = introduced.offer(2, 3);
    others.wrap = introduced.offer(3, 3).wrap;
    line.send(others).await;
    assert_eq!(line.answer(2).await, cannot_open, "another request's wrap");

    let mut others = introduced.offer(3, 3);
    others.wrap.epoch.0[0] ^= 1;
    line.send(others).await;
    assert_eq!(line.answer(3).await, Err(RefusalCode::UnknownEpoch.number()));

    let mut others = introduced.offer(4, 3);
    let last = others.body.len() - 1;
    others.body[last] ^= 1;
    line.send(others).await;
    assert_eq!(line.answer(4).await, cannot_open, "a changed body");

    let twice = introduced.offer(5, 3);
    line.send(twice.clone()).await;
    assert_eq!(line.answer(5).await, Ok(3));
    line.send(darkbloom_wire::Offer { stream: StreamId(6), ..twice }).await;
    assert_eq!(line.answer(6).await, Err(RefusalCode::Replayed.number()));

    line.send(introduced.offer(7, 3)).await;
    assert_eq!(line.answer(7).await, Ok(3));
}

#[tokio::test]
async fn a_cancel_of_nothing_is_acknowledged_and_unknown_frames_are_skipped() {
    let coordinator = Coordinator::start().await;
    let (_provider, mut line, introduced) = coordinator.serving().await;
    // A map with the kind 900, which this release does not know.
    line.raw(Message::binary(vec![0xa1, 0x00, 0x19, 0x03, 0x84])).await;
    line.send(Cancel { stream: StreamId(77) }).await;
    let acknowledged = |frame| match frame {
        ProviderFrame::CancelAck(ack) => Some(ack.stream),
        _ => None,
    };
    assert_eq!(line.until("an acknowledgement", acknowledged).await, StreamId(77));
    line.send(introduced.offer(1, 3)).await;
    assert_eq!(line.answer(1).await, Ok(3));
}
