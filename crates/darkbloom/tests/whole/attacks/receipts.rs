//! Providers that want to be paid for what they did not deliver.

use darkbloom_types::{AttemptNumber, Digest, EpochId, RefusalCode, TokenCount};
use darkbloom_wire::{Final, Receipt, receipt_id};

use super::hostile::provider::{Hostile, Work};
use super::hostile::{Scene, now, random, rng};
use super::money::resealed;
use crate::support::network::{CREDIT, PRICE};

/// Makes a receipt that is none.
type Forge<'a> = &'a dyn Fn(&Hostile, &Work) -> Vec<u8>;
/// Ends a request without content.
type End<'a> = &'a dyn Fn(&mut Hostile, &mut Work);

#[test]
fn a_forged_receipt_earns_nothing_for_the_prompt_and_no_more_than_what_came() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let stranger = darkbloom_seal::Epoch::begin([4; 65], now(), &mut rng());
    let changed = |change: fn(&mut Receipt)| {
        move |hostile: &Hostile, work: &Work| {
            let mut receipt = hostile.claim(work, 20);
            change(&mut receipt);
            hostile.sign(&receipt)
        }
    };
    let forged: [(&str, Forge<'_>); 10] = [
        ("signed by another key", &|hostile, work| hostile.claim(work, 20).sign(&*stranger.receipt_key()).unwrap()),
        ("one bit changed", &|hostile, work| {
            let mut bytes = hostile.receipt(work, 20);
            let last = bytes.len() - 100;
            bytes[last] ^= 1;
            bytes
        }),
        ("no receipt at all", &|_, _| vec![0xff; 64]),
        ("another request", &changed(|receipt| receipt.request = Digest([7; 32]))),
        ("another attempt", &changed(|receipt| receipt.attempt = AttemptNumber(2))),
        ("another transcript", &changed(|receipt| receipt.transcript = Digest([7; 32]))),
        ("other weights", &changed(|receipt| receipt.weights = Digest([7; 32]))),
        ("an epoch that nobody knows", &changed(|receipt| receipt.epoch = EpochId([7; 16]))),
        ("more input than the ceiling", &changed(|receipt| receipt.input_tokens = TokenCount(257))),
        ("all input that there is", &changed(|receipt| receipt.input_tokens = TokenCount(u32::MAX))),
    ];
    for (index, (what, forge)) in forged.iter().enumerate() {
        let before = scene.coordinator.balance(&scene.key).0;
        let (answered, ()) = scene.exchange(&mut hostile, |hostile, offer| {
            let mut work = hostile.accept(&offer);
            let (data, end) = (work.delta(3, "a"), work.end(20));
            hostile.line.send(data);
            hostile.line.send(end);
            let receipt = forge(hostile, &work);
            hostile.line.send(Final { stream: offer.stream, receipt });
        });
        assert_eq!(answered.refused(), "verification_failed", "{what}");
        scene.coordinator.books_close(&scene.key, CREDIT);
        let cost = before - scene.coordinator.balance(&scene.key).0;
        assert_eq!(cost, 3 * PRICE.1, "{what}: what was relayed, and no input");
        // Two failures in a row are borne; an honest answer clears them.
        if index % 2 == 1 {
            scene.serves(&mut hostile);
        }
    }
}

#[test]
fn a_receipt_counts_once_however_often_it_comes() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let (answered, work) = scene.exchange(&mut hostile, |hostile, offer| {
        let mut work = hostile.accept(&offer);
        hostile.answer(&mut work, 5, 20);
        work
    });
    assert!(answered.is_whole());
    let cost = 20 * PRICE.0 + 5 * PRICE.1;
    assert_eq!(scene.spent(), cost);
    let honest = hostile.receipt(&work, 20);
    let greedy = hostile.sign(&hostile.greedy(&work));
    for receipts in [vec![honest.clone(); 64], vec![greedy.clone(), honest.clone(), greedy]] {
        hostile.present(receipts);
        hostile.line.send(Final { stream: work.offer.stream, receipt: honest.clone() });
    }
    hostile.present(Vec::new());
    assert_eq!(scene.spent(), cost);
    assert_eq!(scene.coordinator.usage(&scene.key).len(), 1);
}

#[test]
fn a_provider_cannot_claim_what_another_answered() {
    let scene = Scene::start();
    let mut honest = scene.hostile();
    let mut thief = scene.hostile();
    // Both are recipients: each could know header, body and digest of the request.
    let consumer = scene.consumer();
    let seal = consumer.seal(consumer.header(), &[honest.id, thief.id]);
    let stolen = std::thread::scope(|scope| {
        let call = scope.spawn(|| consumer.submit(&seal.submit));
        // The first of equals is the first of the list.
        let offer = honest.offer();
        let mut work = honest.accept(&offer);
        let data = work.delta(2, "a");
        honest.line.send(data);
        let claim = |thief: &Hostile, provider| {
            let receipt = honest_claim(&work, thief);
            thief.sign(&Receipt { provider, ..receipt })
        };
        let stolen = vec![claim(&thief, thief.id), claim(&thief, honest.id), honest.receipt(&work, 256)];
        // While it is being answered, and on streams that were never offered to it.
        thief.present(stolen.clone());
        for receipt in stolen.clone() {
            thief.line.send(Final { stream: offer.stream, receipt });
        }
        thief.present(Vec::new());
        let end = work.end(20);
        honest.line.send(end);
        let receipt = honest.receipt(&work, 20);
        honest.line.send(Final { stream: offer.stream, receipt });
        assert!(call.join().unwrap().is_whole());
        stolen
    });
    // And when it is settled.
    thief.present(stolen);
    assert_eq!(scene.spent(), 20 * PRICE.0 + 2 * PRICE.1);
    let usage = scene.coordinator.usage(&scene.key);
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0]["provider"], honest.id.to_string().as_str());
}

fn honest_claim(work: &Work, thief: &Hostile) -> Receipt {
    Receipt { epoch: thief.ring.current().id(), ..thief.greedy(work) }
}

#[test]
fn a_hold_that_waits_to_be_sealed_again_pays_no_receipt() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let (consumer, old, work) = resealed(&scene, &mut hostile);
    let greedy = hostile.greedy(&work);
    let claims = vec![
        hostile.sign(&greedy),
        hostile.sign(&Receipt { epoch: hostile.ring.current().id(), ..greedy.clone() }),
        hostile.sign(&Receipt { attempt: AttemptNumber(2), ..greedy.clone() }),
    ];
    let held = scene.coordinator.balance(&scene.key);
    assert!(held.1 > 0, "the hold waits for the next sealing");
    hostile.present(claims.clone());
    assert_eq!(scene.coordinator.balance(&scene.key), held, "nothing moved");
    assert!(scene.coordinator.usage(&scene.key).is_empty());

    let header = darkbloom_wire::SealedHeader { operation: old.header.operation, ..consumer.header() };
    let mut next = consumer.seal(header, &[hostile.id]);
    next.submit.supersedes = Some(old.header.request);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| consumer.submit(&next.submit));
        let offer = hostile.offer();
        hostile.present(claims.clone());
        let mut work = hostile.accept(&offer);
        hostile.present(claims.clone());
        hostile.answer(&mut work, 5, 20);
        assert!(call.join().unwrap().is_whole());
    });
    hostile.present(claims);
    assert_eq!(scene.spent(), 20 * PRICE.0 + 5 * PRICE.1, "one operation, one charge");
    assert_eq!(scene.coordinator.usage(&scene.key).len(), 1);
}

#[test]
fn a_hold_that_was_given_back_pays_no_receipt() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    // Refused for good; refused after an acceptance; refused for now.
    let ends: [End<'_>; 3] = [
        &|hostile, work| hostile.refuse(work.offer.stream, RefusalCode::InvalidRequest.number()),
        &|hostile, work| {
            hostile.line.send(darkbloom_wire::Accepted {
                stream: work.offer.stream,
                attempt: work.offer.attempt,
                epoch: work.offer.wrap.epoch,
                salt: random(),
            });
            hostile.refuse(work.offer.stream, RefusalCode::InvalidRequest.number());
        },
        &|hostile, work| hostile.refuse(work.offer.stream, RefusalCode::Internal.number()),
    ];
    for end in ends {
        let (answered, work) = scene.exchange(&mut hostile, |hostile, offer| {
            let (mut work, _) = hostile.open(&offer);
            end(hostile, &mut work);
            work
        });
        answered.refused();
        assert_eq!(scene.spent(), 0);
        let claims = vec![hostile.sign(&hostile.greedy(&work)), hostile.receipt(&work, 20)];
        let ids: Vec<_> = claims.iter().map(|bytes| receipt_id(bytes)).collect();
        let acknowledged = hostile.present(claims);
        assert!(ids.iter().all(|id| acknowledged.contains(id)), "it is told to forget them");
        assert_eq!(scene.spent(), 0, "nothing was delivered, whatever a receipt says");
        assert!(scene.coordinator.usage(&scene.key).is_empty());
    }
}

#[test]
fn an_end_without_a_token_costs_nothing_whatever_the_receipt_says() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let (_, ()) = scene.exchange(&mut hostile, |hostile, offer| {
        let mut work = hostile.accept(&offer);
        let end = work.end(256);
        hostile.line.send(end);
        let mut greedy = hostile.greedy(&work);
        greedy.output_tokens = TokenCount(100);
        let receipt = hostile.sign(&greedy);
        hostile.line.send(Final { stream: offer.stream, receipt });
    });
    assert_eq!(scene.spent(), 0);
}
