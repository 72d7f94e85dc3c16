//! What was sealed once is used again, in part or whole.

use darkbloom_types::{RefusalCode, RequestId, TokenCount};
use darkbloom_wire::{ClientFrame, LengthPrefixed, SealedHeader, Submit, recipient_list_digest};

use super::hostile::consumer::Consumer;
use crate::support::network::{CREDIT, Network, ask};

struct Replay {
    network: Network,
    consumer: Consumer,
    ids: Vec<darkbloom_types::ProviderId>,
}

impl Replay {
    fn start() -> Self {
        let network = Network::with(2);
        let consumer = Consumer::new(&network.coordinator, &network.key);
        let ids = network.ids().iter().map(|id| id.parse().unwrap()).collect();
        Self { network, consumer, ids }
    }

    /// Both providers are as healthy as before, and work.
    fn honest_ones_are_unharmed(&self) {
        self.network.coordinator.eligible(2);
        for pinned in self.network.ids() {
            let seal = self.consumer.seal(self.consumer.header(), &[pinned.parse().unwrap()]);
            assert!(self.consumer.submit(&seal.submit).is_whole());
        }
        assert_eq!(self.network.chat(&ask("What is 17 + 25?")).answer(), "42");
        self.network.books_close();
    }
}

#[test]
fn a_captured_submission_is_answered_and_paid_once() {
    let replay = Replay::start();
    let (network, consumer) = (&replay.network, &replay.consumer);
    let seal = consumer.seal(consumer.header(), &replay.ids);
    let bytes = LengthPrefixed::wrap(&ClientFrame::from(seal.submit).encode());
    // At once, many times: one is answered.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| consumer.submit_bytes(&bytes))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_whole()).count(), 1, "{answers:?}");
    for refused in answers.iter().filter(|answer| !answer.is_whole()) {
        refused.refused_as(RefusalCode::Replayed);
        assert_eq!(refused.status, 409);
    }
    network.books_close();
    let balance = network.coordinator.balance(&network.key);
    // Later, by the same and by another account.
    consumer.submit_bytes(&bytes).refused_as(RefusalCode::Replayed);
    let thief = Consumer {
        key: network.coordinator.account("thief", CREDIT),
        ..Consumer::new(&network.coordinator, &network.key)
    };
    thief.submit_bytes(&bytes).refused_as(RefusalCode::Replayed);
    assert_eq!(network.coordinator.balance(&network.key), balance);
    assert_eq!(network.coordinator.usage(&network.key).len(), 1);
    assert_eq!(network.coordinator.balance(&thief.key), (CREDIT, 0));
    replay.honest_ones_are_unharmed();
}

#[test]
fn a_captured_submission_is_refused_after_a_restart_too() {
    let mut network = Network::start();
    let consumer = Consumer::new(&network.coordinator, &network.key);
    let seal = consumer.seal(consumer.header(), &[network.providers[0].id.parse().unwrap()]);
    assert!(consumer.submit(&seal.submit).is_whole());
    let balance = network.coordinator.balance(&network.key);
    assert!(network.coordinator.process.stop().success());
    network.coordinator.again();
    network.coordinator.eligible(1);
    consumer.submit(&seal.submit).refused_as(RefusalCode::Replayed);
    assert_eq!(network.coordinator.balance(&network.key), balance);
    network.books_close();
}

#[test]
fn a_sealing_opens_under_its_own_header_body_and_recipients_only() {
    let replay = Replay::start();
    let consumer = &replay.consumer;
    let (a, b) = (replay.ids[0], replay.ids[1]);
    let sealed = || consumer.seal(consumer.header(), &replay.ids);
    let alone = |id| consumer.seal(consumer.header(), &[id]);

    // The header says something else; a new request id keeps it from being known as a replay.
    let header = |change: &dyn Fn(&mut SealedHeader)| {
        let seal = sealed();
        let mut header = SealedHeader::decode(&seal.submit.header).unwrap();
        change(&mut header);
        Submit { header: header.encode(), ..seal.submit }
    };
    // The body is changed, or another request's.
    let body = |body: Vec<u8>| Submit { body, ..sealed().submit };
    let mut flipped = sealed().submit.body;
    flipped[500] ^= 1;
    let short = sealed().submit.body[..32].to_vec();

    // Wraps change places or owners; the list in the header fits them again, as the attacker would have it.
    let wraps = |change: &dyn Fn(&mut Submit)| {
        let mut submit = sealed().submit;
        change(&mut submit);
        let mut header = SealedHeader::decode(&submit.header).unwrap();
        header.recipients = recipient_list_digest(submit.wraps.0.iter().map(|wrap| (&wrap.provider, &wrap.epoch)));
        submit.header = header.encode();
        submit
    };
    let other = sealed().submit;
    let strangers = [a, b].map(|id| alone(id).submit);
    let attacks = [
        ("a changed request id", header(&|it| it.request = RequestId(super::hostile::random()))),
        ("a changed operation", header(&|it| it.operation.0[0] ^= 1)),
        ("a changed ceiling", header(&|it| it.output_ceiling = TokenCount(99))),
        ("a changed time", header(&|it| it.sealed_at.0 += 1)),
        ("a changed stream flag", header(&|it| it.stream = !it.stream)),
        ("a changed commitment", header(&|it| it.key_commitment.0[0] ^= 1)),
        ("a changed affinity", header(&|it| it.affinity[0] ^= 1)),
        ("one bit of the body", body(flipped)),
        ("a body that is too short for its key", body(short)),
        ("no body", body(Vec::new())),
        ("another request's body", body(other.body.clone())),
        ("the wraps in another order", wraps(&|it| it.wraps.0.reverse())),
        (
            "each wrap under the other's name",
            wraps(&|it| {
                let (first, second) = it.wraps.0.split_at_mut(1);
                std::mem::swap(&mut first[0].encapsulation, &mut second[0].encapsulation);
                std::mem::swap(&mut first[0].ciphertext, &mut second[0].ciphertext);
            }),
        ),
        ("another request's wraps", wraps(&|it| it.wraps = other.wraps.clone())),
        (
            "wraps of other requests for the same providers",
            wraps(&|it| {
                for (wrap, stranger) in it.wraps.0.iter_mut().zip(&strangers) {
                    wrap.encapsulation.clone_from(&stranger.wraps.0[0].encapsulation);
                    wrap.ciphertext.clone_from(&stranger.wraps.0[0].ciphertext);
                }
            }),
        ),
        (
            "encapsulations of zeros",
            wraps(&|it| {
                for wrap in &mut it.wraps.0 {
                    wrap.encapsulation.fill(0);
                }
            }),
        ),
        (
            "encapsulations that are too short",
            wraps(&|it| {
                for wrap in &mut it.wraps.0 {
                    wrap.encapsulation.truncate(31);
                    wrap.ciphertext.clear();
                }
            }),
        ),
    ];
    for (what, submit) in &attacks {
        let answered = consumer.submit(submit);
        assert_eq!(answered.refused(), "cannot_open", "{what}");
        assert!(answered.pieces().is_empty(), "{what}");
    }
    // Where the list in the header does not fit, nobody is even asked.
    let mut swapped = sealed().submit;
    swapped.wraps.0.reverse();
    consumer.submit(&swapped).refused_as(RefusalCode::InvalidRequest);
    let mut dropped = sealed().submit;
    dropped.wraps.0.remove(0);
    consumer.submit(&dropped).refused_as(RefusalCode::InvalidRequest);
    let mut renamed = alone(a).submit;
    renamed.wraps.0[0].provider = b;
    consumer.submit(&renamed).refused_as(RefusalCode::InvalidRequest);
    let mut none = sealed().submit;
    none.wraps.0.clear();
    consumer.submit(&none).refused_as(RefusalCode::InvalidRequest);

    assert_eq!(replay.network.coordinator.balance(&replay.network.key), (CREDIT, 0), "none of it cost anything");
    replay.honest_ones_are_unharmed();
}

#[test]
fn a_wrap_that_was_opened_once_is_not_opened_in_another_submission() {
    let replay = Replay::start();
    let consumer = &replay.consumer;
    let first = consumer.seal(consumer.header(), &replay.ids);
    assert!(consumer.submit(&first.submit).is_whole());
    // A fresh header around wrap and body that were opened before.
    let mut header = SealedHeader::decode(&first.submit.header).unwrap();
    header.request = RequestId(super::hostile::random());
    header.operation.0[0] ^= 1;
    for _ in 0..4 {
        header.request.0[0] ^= 1;
        let answered = consumer.submit(&Submit { header: header.encode(), ..first.submit.clone() });
        assert!(answered.pieces().is_empty());
        assert!(["provider_lost", "cannot_open", "replayed"].contains(&answered.refused()), "{answered:?}");
    }
    assert_eq!(replay.network.coordinator.usage(&replay.network.key).len(), 1);
    replay.honest_ones_are_unharmed();
}
