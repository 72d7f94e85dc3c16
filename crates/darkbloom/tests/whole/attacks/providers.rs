//! Providers that keep to no rule: of the introduction, of the order of frames, of what they may say about themselves.

use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_types::{AttemptNumber, EpochId, RefusalCode, StreamId, TokenCount};
use darkbloom_wire::{
    Accepted, CancelAck, ChallengeAnswer, CoordinatorFrame, Data, Dial, EpochUpdate, Final, Heartbeat, Hello,
    ModelLoad, ProviderFrame, Refused, Residence,
};
use tokio_tungstenite::tungstenite::Message;

use super::hostile::provider::{Hostile, Line, Work, instead_of_a_dial};
use super::hostile::{Scene, minutes_from_now, now, random, rng};
use crate::support::network::{CREDIT, Coordinator, PRICE};

/// Introduces itself with this, and is refused for these reasons.
#[track_caller]
fn refused(coordinator: &Coordinator, make: impl FnOnce(&Hostile) -> Hello) -> Vec<String> {
    let mut hostile = Hostile::new(coordinator);
    let hello = make(&hostile);
    hostile.line.send(hello);
    let reasons = hostile.line.closed();
    let known = coordinator.providers();
    assert!(known.iter().all(|provider| provider["provider"] != hostile.id.to_string().as_str()), "{known:?}");
    reasons
}

#[test]
fn nobody_is_introduced_by_what_another_signed() {
    let scene = Scene::start();
    let token = scene.coordinator.key("join", None);
    let victim = scene.hostile();
    let failed = ["verification_failed"];
    let verifies = |make: &dyn Fn(&Hostile) -> Hello| refused(&scene.coordinator, make);

    assert_eq!(verifies(&|hostile| Hello { statement: victim.statement(), ..hostile.hello(Some(&token), 8) }), failed);
    let stolen = victim.hello(None, 8);
    assert_eq!(verifies(&|_| stolen.clone()), failed, "an introduction that was overheard");
    assert_eq!(
        verifies(&|hostile| Hello { proof: stolen.proof.clone(), ..hostile.hello(Some(&token), 8) }),
        failed,
        "another's proof"
    );
    let mut changed = victim.statement();
    let at = changed.len() / 2;
    changed[at] ^= 1;
    assert_eq!(verifies(&|_| Hello { statement: changed.clone(), ..stolen.clone() }), failed);
    // Its own statement and proof, but about another connection's nonce.
    let key = SoftwareKey::in_memory().unwrap();
    let mut first = Hostile::with_key(&scene.coordinator, key);
    let old = first.hello(Some(&token), 8);
    first.line = Line::dial(&scene.coordinator);
    first.line.send(old);
    assert_eq!(first.line.closed(), failed, "a proof of an earlier connection");

    let eligible = scene.coordinator.providers();
    assert_eq!(eligible.len(), 1, "only the victim is there: {eligible:?}");
    assert_eq!(eligible[0]["provider"], victim.id.to_string().as_str());
}

#[test]
fn statements_of_other_times_and_networks_are_refused() {
    let scene = Scene::start();
    let token = scene.coordinator.key("join", None);
    let with = |change: &dyn Fn(&mut darkbloom_wire::Statement)| {
        refused(&scene.coordinator, |hostile| {
            let epoch = hostile.ring.current();
            let mut statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "hostile");
            change(&mut statement);
            let proof = hostile.line.proof(&hostile.key, &statement.epoch());
            Hello { statement: statement.sign(&hostile.key).unwrap(), proof, ..hostile.hello(Some(&token), 8) }
        })
    };
    assert_eq!(with(&|it| it.network = darkbloom_types::NetworkId([7; 32])), ["wrong_network"]);
    assert_eq!(
        with(&|it| {
            it.not_before = minutes_from_now(-70);
            it.use_until = minutes_from_now(-10);
            it.open_until = minutes_from_now(-1);
        }),
        ["clock_skew"]
    );
    assert_eq!(
        with(&|it| {
            it.not_before = minutes_from_now(60);
            it.use_until = minutes_from_now(120);
            it.open_until = minutes_from_now(130);
        }),
        ["clock_skew"]
    );
    assert_eq!(with(&|it| it.open_until = minutes_from_now(60 * 24)), ["verification_failed"], "an epoch without end");
    assert_eq!(with(&|it| it.sealing_key.truncate(32)), ["verification_failed"]);
    assert_eq!(with(&|it| it.identity = SoftwareKey::in_memory().unwrap().public_point()), ["verification_failed"]);
    let none: [&str; 0] = [];
    assert_eq!(scene.coordinator.providers(), none);
    // Whoever is nobody here learns that before anything else is looked at.
    let stranger = refused(&scene.coordinator, |hostile| {
        let epoch = hostile.ring.current();
        let mut statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "hostile");
        statement.network = darkbloom_types::NetworkId([7; 32]);
        Hello { statement: statement.sign(&hostile.key).unwrap(), ..hostile.hello(None, 8) }
    });
    assert_eq!(stranger, ["invalid_api_key"]);
}

#[test]
fn what_is_no_introduction_closes_the_connection() {
    let scene = Scene::start();
    let mut line = Line::dial(&scene.coordinator);
    line.send(Heartbeat { models: Vec::new().into(), draining: false, machine: None });
    assert_eq!(line.closed(), ["invalid_request"]);
    let mut line = Line::dial(&scene.coordinator);
    line.send(Dial { nonce: random() });
    assert_eq!(line.closed(), ["invalid_request"], "one question a connection");
    let hello = Hostile::new(&scene.coordinator).hello(None, 8);
    let first =
        [Heartbeat { models: Vec::new().into(), draining: false, machine: None }.into(), ProviderFrame::from(hello)];
    let first = first.map(|frame| frame.encode()).into_iter().chain([vec![], vec![0xff; 100], vec![0xa0]]);
    for bytes in first {
        let said = instead_of_a_dial(&scene.coordinator, Message::binary(bytes));
        assert!(
            matches!(&said[..], [CoordinatorFrame::VerdictNotice(notice)] if notice.reason == "invalid_request"),
            "{said:?}"
        );
    }
    let mut late = scene.hostile();
    late.line.send(Dial { nonce: random() });
    assert_eq!(late.line.closed(), ["invalid_request"], "a question after the introduction");
    for bytes in [vec![], vec![0xff; 100], vec![0xa1, 0x00], vec![0xa0]] {
        let mut line = Line::dial(&scene.coordinator);
        line.send_raw(Message::binary(bytes));
        assert_eq!(line.closed(), ["invalid_request"]);
    }
    let mut line = Line::dial(&scene.coordinator);
    line.send_raw(Message::text("{}"));
    line.closed();
    let mut line = Line::dial(&scene.coordinator);
    line.send_raw(Message::binary(vec![0; 2 << 20]));
    line.closed();
    assert!(scene.coordinator.providers().is_empty());
    assert!(!scene.coordinator.process.log().contains("panicked"));
}

/// What breaks the rules.
type Break<'a> = &'a dyn Fn(&mut Hostile);

#[test]
fn a_provider_that_breaks_the_rules_after_its_introduction_is_disconnected() {
    let scene = Scene::start();
    let other = SoftwareKey::in_memory().unwrap();
    let breaks: [(&str, &str, Break<'_>); 7] = [
        ("a second introduction", "a second introduction", &|hostile| {
            let hello = hostile.hello(None, 8);
            hostile.line.send(hello);
        }),
        ("an epoch signed by another identity", "another identity", &|hostile| {
            let epoch = Epoch::begin(other.public_point(), now(), &mut rng());
            let statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "x");
            hostile.line.send(EpochUpdate { statement: statement.sign(&other).unwrap() });
        }),
        ("an epoch of its own that another signed", "not verify", &|hostile| {
            let epoch = Epoch::begin(hostile.key.public_point(), now(), &mut rng());
            let statement = epoch.statement(hostile.line.network(), hostile.models.clone(), Vec::new(), "x");
            hostile.line.send(EpochUpdate { statement: statement.sign(&other).unwrap() });
        }),
        ("an answer without a challenge", "without a challenge", &|hostile| {
            let proof = hostile.line.proof(&hostile.key, &hostile.ring.current().id());
            hostile.line.send(ChallengeAnswer { proof, presence: Vec::new().into() });
        }),
        ("rubbish", "malformed frame", &|hostile| hostile.line.send_raw(Message::binary(vec![0xff; 10]))),
        ("text", "provider disconnected", &|hostile| hostile.line.send_raw(Message::text("hello"))),
        ("a frame over the limit", "provider disconnected", &|hostile| {
            hostile.line.send_raw(Message::binary(vec![0; 2 << 20]));
        }),
    ];
    let mut honest = scene.hostile();
    for (what, reason, breaks) in breaks {
        let mut hostile = scene.hostile();
        breaks(&mut hostile);
        hostile.line.closed();
        scene.coordinator.process.logged(reason);
        scene.coordinator.eligible(1);
        assert!(!scene.coordinator.process.log().contains("panicked"), "{what}");
    }
    scene.serves(&mut honest);
}

/// What a hostile provider does with an offer, how the answer must end, and what it may cost at most.
type Case = (&'static str, &'static str, i64, fn(&mut Hostile, &mut Work, Accepted));

/// Data with these numbers and nothing that anybody could open.
fn rubbish(work: &Work, sequence: u32, tokens: u32, end: bool) -> Data {
    Data { stream: work.offer.stream, sequence, tokens: TokenCount(tokens), end, ciphertext: vec![7; 80] }
}

const BEFORE_CONTENT: [Case; 5] = [
    ("two acceptances", "provider_lost", 0, |hostile, _, accepted| {
        hostile.line.send(accepted.clone());
        hostile.line.send(accepted);
    }),
    ("an acceptance of another attempt", "provider_lost", 0, |hostile, _, accepted| {
        hostile.line.send(Accepted { attempt: AttemptNumber(2), ..accepted });
    }),
    ("an acceptance in another epoch", "provider_lost", 0, |hostile, _, accepted| {
        hostile.line.send(Accepted { epoch: EpochId([7; 16]), ..accepted });
    }),
    ("a first piece that is not the first", "provider_lost", 0, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = rubbish(work, 1, 1, false);
        hostile.line.send(data);
    }),
    ("more tokens than the ceiling at once", "provider_lost", 0, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = rubbish(work, 0, 101, false);
        hostile.line.send(data);
    }),
];

const AFTER_CONTENT: [Case; 8] = [
    ("two acceptances", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted.clone());
        let data = work.delta(3, "a");
        hostile.line.send(data);
        hostile.line.send(accepted);
    }),
    ("tokens that go backwards", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(3, "a");
        hostile.line.send(data);
        hostile.line.send(rubbish(work, 1, 2, false));
    }),
    ("more tokens than the ceiling", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(3, "a");
        hostile.line.send(data);
        hostile.line.send(rubbish(work, 1, 101, false));
    }),
    ("a piece twice", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(3, "a");
        hostile.line.send(data.clone());
        hostile.line.send(data);
    }),
    ("a piece left out", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(3, "a");
        hostile.line.send(data);
        hostile.line.send(rubbish(work, 2, 4, false));
    }),
    ("pieces without end and without a token", "verification_failed", 1, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(1, "a");
        hostile.line.send(data);
        // More than may be, and fewer than find room on their way.
        for sequence in 1..200 {
            hostile.line.send(rubbish(work, sequence, 1, false));
        }
    }),
    ("pieces after the end", "verification_failed", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let (data, end) = (work.delta(3, "a"), work.end(10));
        hostile.line.send(data);
        hostile.line.send(end);
        hostile.line.send(rubbish(work, 2, 50, true));
        let receipt = hostile.receipt(work, 10);
        hostile.line.send(Final { stream: work.offer.stream, receipt });
    }),
    ("a refusal in the middle", "answer_cut", 3, |hostile, work, accepted| {
        hostile.line.send(accepted);
        let data = work.delta(3, "a");
        hostile.line.send(data);
        hostile.refuse(work.offer.stream, RefusalCode::InvalidRequest.number());
    }),
];

#[test]
fn frames_out_of_order_before_content_cost_nothing() {
    let scene = Scene::start();
    for (index, (what, code, _, behave)) in BEFORE_CONTENT.into_iter().enumerate() {
        // Three failures in a row would suspend it: another one for every case.
        let mut hostile = scene.hostile();
        let (answered, ()) = scene.exchange(&mut hostile, |hostile, offer| {
            let (mut work, accepted) = hostile.open(&offer);
            behave(hostile, &mut work, accepted);
        });
        assert_eq!(answered.refused(), code, "{what}");
        assert!(answered.pieces().is_empty(), "{what}: {answered:?}");
        assert_eq!(scene.spent(), 0, "{what}");
        assert!(index < 8);
        drop(hostile);
        scene.coordinator.eligible(0);
    }
}

#[test]
fn frames_out_of_order_after_content_end_the_answer_and_cost_what_came() {
    let scene = Scene::start();
    let mut cost = 0;
    for (what, code, tokens, behave) in AFTER_CONTENT {
        let mut hostile = scene.hostile();
        let (answered, ()) = scene.exchange(&mut hostile, |hostile, offer| {
            let (mut work, accepted) = hostile.open(&offer);
            behave(hostile, &mut work, accepted);
        });
        assert_eq!(answered.refused(), code, "{what}");
        assert!(answered.pieces().len() <= 70, "{what}: {} pieces", answered.pieces().len());
        cost += tokens * PRICE.1;
        assert_eq!(scene.spent(), cost, "{what}: what was relayed, and no input");
        drop(hostile);
        scene.coordinator.eligible(0);
    }
}

#[test]
fn content_before_the_acceptance_is_not_part_of_an_answer() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    let (answered, ()) = scene.exchange(&mut hostile, |hostile, offer| {
        let (mut work, accepted) = hostile.open(&offer);
        for sequence in 0..5 {
            hostile.line.send(rubbish(&work, sequence, 90, sequence == 4));
        }
        hostile.line.send(accepted);
        hostile.answer(&mut work, 2, 10);
    });
    assert!(answered.is_whole(), "{answered:?}");
    assert!(answered.pieces().iter().all(|piece| piece.ciphertext != [7; 80]));
    assert_eq!(scene.spent(), 10 * PRICE.0 + 2 * PRICE.1);
}

#[test]
fn frames_for_streams_of_others_change_nothing() {
    let scene = Scene::start();
    let mut honest = scene.hostile();
    let mut hostile = scene.hostile();
    let consumer = scene.consumer();
    let seal = consumer.seal(consumer.header(), &[honest.id]);
    let answered = std::thread::scope(|scope| {
        let call = scope.spawn(|| consumer.submit(&seal.submit));
        let offer = honest.offer();
        let mut work = honest.accept(&offer);
        let data = work.delta(2, "a");
        honest.line.send(data);
        for stream in [offer.stream, StreamId(0), StreamId(1), StreamId(999), StreamId(u64::MAX)] {
            let accepted = Accepted { stream, attempt: AttemptNumber(1), epoch: offer.wrap.epoch, salt: random() };
            hostile.line.send(accepted);
            hostile.line.send(Data { stream, ..rubbish(&work, 1, 3, true) });
            hostile.line.send(Final { stream, receipt: hostile.sign(&hostile.unrelated()) });
            hostile.line.send(Refused { stream, code: 2, detail: "x".repeat(512), sealed: Some(vec![7; 1_000]) });
            hostile.line.send(CancelAck { stream });
        }
        hostile.present(Vec::new());
        let end = work.end(10);
        honest.line.send(end);
        let receipt = honest.receipt(&work, 10);
        honest.line.send(Final { stream: offer.stream, receipt });
        call.join().unwrap()
    });
    assert!(answered.is_whole(), "{answered:?}");
    assert_eq!(answered.pieces().len(), 2);
    assert_eq!(scene.spent(), 10 * PRICE.0 + 2 * PRICE.1);
}

#[test]
fn boasted_rows_break_nothing_and_starve_nobody_who_did_not_ask_for_them() {
    let scene = Scene::start();
    let mut honest = Hostile::join_with(&scene.coordinator, 1);
    let mut boasts: Vec<_> = (0..2).map(|_| Hostile::join_with(&scene.coordinator, u32::MAX)).collect();
    scene.coordinator.eligible(3);
    for boast in &mut boasts {
        let model = boast.models[0];
        let row_tokens = TokenCount(u32::MAX);
        let load = |rows_max, rows_used, waiting| ModelLoad {
            model,
            rows_max,
            rows_used,
            waiting,
            row_tokens,
            residence: Residence::Loaded,
            pace: None,
        };
        let everything = vec![load(u32::MAX, u32::MAX, u32::MAX), load(0, u32::MAX, 0), load(u32::MAX, 0, u32::MAX)];
        boast.line.send(Heartbeat { models: everything.into(), draining: false, machine: None });
        boast.present(Vec::new());
    }
    let consumer = scene.consumer();
    let seals = [(); 2].map(|()| consumer.seal(consumer.header(), &[honest.id]));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| consumer.submit(&seals[0].submit));
        let offer = honest.offer();
        let mut work = honest.accept(&offer);
        // The honest one is full: the second request waits for it, also while the boasts make room that it cannot use.
        let second = scope.spawn(|| consumer.submit(&seals[1].submit));
        std::thread::sleep(std::time::Duration::from_millis(200));
        for boast in &mut boasts {
            boast.heartbeat(u32::MAX);
            boast.present(Vec::new());
        }
        honest.answer(&mut work, 2, 10);
        assert!(first.join().unwrap().is_whole());
        let offer = honest.offer();
        let mut work = honest.accept(&offer);
        honest.answer(&mut work, 2, 10);
        assert!(second.join().unwrap().is_whole());
    });
    assert_eq!(scene.spent(), 2 * (10 * PRICE.0 + 2 * PRICE.1));
    assert!(!scene.coordinator.process.log().contains("panicked"));
}

#[test]
fn a_provider_that_fails_again_and_again_pauses_and_reconnecting_does_not_clean_it() {
    let scene = Scene::start();
    let mut hostile = scene.hostile();
    for _ in 0..3 {
        let (answered, ()) = scene.exchange(&mut hostile, |hostile, offer| {
            let (_, accepted) = hostile.open(&offer);
            hostile.line.send(Accepted { attempt: AttemptNumber(9), ..accepted });
        });
        answered.refused_as(RefusalCode::ProviderLost);
    }
    let verdict = || scene.coordinator.providers()[0]["eligible"] == true;
    assert!(!verdict());
    let mut hostile = hostile.reconnect(&scene.coordinator);
    hostile.present(Vec::new());
    assert!(!verdict(), "a new connection is no new name");
    hostile.rotate();
    hostile.present(Vec::new());
    assert!(!verdict(), "nor is a new epoch");
    assert_eq!(scene.coordinator.balance(&scene.key), (CREDIT, 0));
}
