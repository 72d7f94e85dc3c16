//! A consumer that wants its answer and its money.

use std::sync::mpsc::channel;

use darkbloom_types::{OperationId, RefusalCode, RequestId};
use darkbloom_wire::{Final, Relayed};

use super::hostile::consumer::Consumer;
use super::hostile::{Scene, random};
use crate::support::network::{CREDIT, PRICE};

#[test]
fn the_hold_of_an_answer_that_is_being_given_cannot_be_superseded() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let consumer = scene.consumer();
    let first = consumer.seal(consumer.header(), &[hostile.id]);
    let again = |operation: OperationId, supersedes: Option<RequestId>| {
        let mut submit =
            consumer.seal(darkbloom_wire::SealedHeader { operation, ..consumer.header() }, &[hostile.id]).submit;
        submit.supersedes = supersedes;
        submit
    };
    let (operation, live) = (first.header.operation, first.header.request);
    let attacks = [
        ("its own live hold", again(operation, Some(live)), RefusalCode::InvalidRequest),
        (
            "its own live hold under another operation",
            again(OperationId(random()), Some(live)),
            RefusalCode::InvalidRequest,
        ),
        ("no hold at all", again(operation, Some(RequestId(random()))), RefusalCode::InvalidRequest),
        ("nothing, beside the live one", again(operation, None), RefusalCode::OperationInProgress),
    ];
    std::thread::scope(|scope| {
        let (tell, told) = channel();
        let call = scope.spawn(|| {
            let tell = tell;
            let mut frames = consumer.open(&first.submit);
            while !matches!(frames.next().unwrap(), Relayed::RelayedData(_)) {}
            tell.send(()).unwrap();
            frames.rest()
        });
        let offer = hostile.offer();
        let mut work = hostile.accept(&offer);
        let data = work.delta(20, "a");
        hostile.line.send(data);
        // The first content is with the consumer: now it attacks.
        told.recv().unwrap();
        let held = scene.coordinator.balance(&scene.key).1;
        assert!(held > 0);
        for (what, submit, code) in &attacks {
            let answered = consumer.submit(submit);
            assert_eq!(answered.refused(), code.name(), "superseding {what}");
            assert_eq!(scene.coordinator.balance(&scene.key), (CREDIT - held, held), "superseding {what}");
        }
        let (data, end) = (work.delta(20, "a"), work.end(30));
        hostile.line.send(data);
        hostile.line.send(end);
        let receipt = hostile.receipt(&work, 30);
        hostile.line.send(Final { stream: offer.stream, receipt });
        let rest = call.join().unwrap();
        assert!(matches!(rest.last(), Some(Relayed::RelayedFinal(_))), "the answer goes on: {rest:?}");
    });
    assert_eq!(scene.spent(), 30 * PRICE.0 + 40 * PRICE.1, "the first answer is paid for");
    for (what, submit, _) in attacks {
        let answered = consumer.submit(&submit);
        assert!(
            ["invalid_request", "replayed", "already_completed"].contains(&answered.refused()),
            "{what}: {answered:?}"
        );
    }
    assert_eq!(scene.spent(), 30 * PRICE.0 + 40 * PRICE.1, "nor can a settled one be taken back");
}

/// Has a request sealed to the hostile provider's old epoch end with the demand to seal again.
pub fn resealed(
    scene: &Scene,
    hostile: &mut super::hostile::provider::Hostile,
) -> (Consumer, darkbloom_seal::RequestSeal, super::hostile::provider::Work) {
    let consumer = scene.consumer();
    let seal = consumer.seal(consumer.header(), &[hostile.id]);
    let work = std::thread::scope(|scope| {
        let call = scope.spawn(|| consumer.submit(&seal.submit));
        let offer = hostile.offer();
        let (work, _) = hostile.open(&offer);
        hostile.rotate();
        hostile.refuse(offer.stream, RefusalCode::UnknownEpoch.number());
        let answered = call.join().unwrap();
        assert!(matches!(answered.frames[..], [Relayed::Reseal(_)]), "{answered:?}");
        work
    });
    (scene.consumer(), seal, work)
}

#[test]
fn a_hold_that_waits_to_be_sealed_again_is_taken_over_once_by_its_own_operation_alone() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let (consumer, old, _) = resealed(&scene, &mut hostile);
    let stranger = Consumer::new(&scene.coordinator, &scene.coordinator.account("stranger", CREDIT));
    let takes = |by: &Consumer, operation: OperationId| {
        let mut seal = by.seal(darkbloom_wire::SealedHeader { operation, ..by.header() }, &[hostile.id]);
        seal.submit.supersedes = Some(old.header.request);
        seal
    };
    let operation = old.header.operation;
    let theft = takes(&stranger, operation);
    stranger.submit(&theft.submit).refused_as(RefusalCode::InvalidRequest);
    let confused = takes(&consumer, OperationId(random()));
    consumer.submit(&confused.submit).refused_as(RefusalCode::InvalidRequest);
    assert_eq!(scene.coordinator.balance(&stranger.key), (CREDIT, 0));

    // Two sealings race for the same old hold: one money, one answer.
    let racers = [takes(&consumer, operation), takes(&consumer, operation)];
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = racers.iter().map(|seal| scope.spawn(|| consumer.submit(&seal.submit))).collect();
        let offer = hostile.offer();
        let mut work = hostile.accept(&offer);
        hostile.answer(&mut work, 5, 10);
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_whole()).count(), 1, "{answers:?}");
    assert_eq!(scene.spent(), 10 * PRICE.0 + 5 * PRICE.1);
    assert_eq!(scene.coordinator.usage(&scene.key).len(), 1);
}

#[test]
fn terms_that_would_make_a_request_cheap_are_refused_before_anybody_is_asked() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let consumer = scene.consumer();
    let changed = |change: &dyn Fn(&mut darkbloom_wire::SealedHeader)| {
        let mut header = consumer.header();
        change(&mut header);
        consumer.submit(&consumer.seal(header, &[hostile.id]).submit)
    };
    use darkbloom_types::{NanoDollars, TokenCount};
    changed(&|header| header.price_max = NanoDollars(header.price_max.0 - 1)).refused_as(RefusalCode::PriceChanged);
    changed(&|header| header.price_max = NanoDollars(-1)).refused_as(RefusalCode::PriceChanged);
    changed(&|header| header.price_max = NanoDollars(i64::MIN)).refused_as(RefusalCode::PriceChanged);
    changed(&|header| header.price_version = 2).refused_as(RefusalCode::PriceChanged);
    changed(&|header| header.price_version = 0).refused_as(RefusalCode::PriceChanged);
    changed(&|header| header.output_ceiling = TokenCount(0)).refused_as(RefusalCode::ContextLengthExceeded);
    changed(&|header| header.output_ceiling = TokenCount(u32::MAX)).refused_as(RefusalCode::ContextLengthExceeded);
    changed(&|header| header.input_ceiling = TokenCount(u32::MAX)).refused_as(RefusalCode::ContextLengthExceeded);
    assert_eq!(scene.coordinator.balance(&scene.key), (CREDIT, 0));
    // A prompt whose ceiling says nothing costs nothing for its input, so the provider's claim is capped at nothing.
    let seal = consumer
        .seal(darkbloom_wire::SealedHeader { input_ceiling: TokenCount(0), ..consumer.header() }, &[hostile.id]);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| consumer.submit(&seal.submit));
        let offer = hostile.offer();
        let mut work = hostile.accept(&offer);
        hostile.answer(&mut work, 2, 0);
        assert!(call.join().unwrap().is_whole());
    });
    assert_eq!(scene.spent(), 2 * PRICE.1);
}
