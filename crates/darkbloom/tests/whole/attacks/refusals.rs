//! Refusals that are not the provider's to say: about money, keys and operations only the coordinator knows anything.

use darkbloom_content::AnswerEvent;
use darkbloom_seal::seal_refusal;
use darkbloom_types::{RefusalCode, SecretString};
use darkbloom_wire::{Final, Refused};
use serde_json::json;

use super::hostile::provider::Hostile;
use super::hostile::{failed, named, random, surface};
use crate::support::network::{CREDIT, Network, Provider, Surface, ask, ask_with};
use crate::support::until;

/// What a provider may never say no with: the consumer would look for the fault at itself.
const NOT_ITS_TO_SAY: [RefusalCode; 10] = [
    RefusalCode::InsufficientQuota,
    RefusalCode::InvalidApiKey,
    RefusalCode::AlreadyCompleted,
    RefusalCode::OperationInProgress,
    RefusalCode::PriceChanged,
    RefusalCode::WrongNetwork,
    RefusalCode::RateLimitExceeded,
    RefusalCode::Cancelled,
    RefusalCode::Forbidden,
    RefusalCode::ModelNotFound,
];

/// A network with a hostile provider, and a gateway that trusts the hostile one as much as the honest one, if there is
/// to be one.
fn beside(honest: bool) -> (Network, Hostile, Surface) {
    let mut network = Network::start();
    // More rows make it the best candidate.
    let hostile = Hostile::join_with(&network.coordinator, 64);
    network.coordinator.eligible(2);
    let id = hostile.id.to_string();
    let pinned = if honest { vec![&*id, &*network.providers[0].id] } else { vec![&*id] };
    let gateway = surface("gateway", &network.coordinator.url, &network.coordinator.pin, &pinned, |_| {});
    if !honest {
        network.providers.clear();
        network.coordinator.eligible(1);
    }
    (network, hostile, gateway)
}

fn question(stream: bool) -> serde_json::Value {
    ask_with("What is 17 + 25?", json!({"stream": stream, "max_tokens": 16}))
}

#[test]
fn what_is_not_a_providers_to_say_sends_the_request_to_the_next() {
    let network = Network::start();
    let honest = &*network.providers[0].id;
    let numbers = NOT_ITS_TO_SAY.map(RefusalCode::number).into_iter().chain([0, 999, u16::MAX]);
    for (index, code) in numbers.enumerate() {
        // Each time another one, of which nothing is known, and another account: who failed, or did not answer the same question
        // the last time, is not asked first.
        let mut hostile = Hostile::join_with(&network.coordinator, 64);
        network.coordinator.eligible(2);
        let (id, coordinator) = (hostile.id.to_string(), &network.coordinator);
        let gateway = surface("gateway", &coordinator.url, &coordinator.pin, &[&id, honest], |_| {});
        let question = ask_with("What is 17 + 25?", json!({"stream": index % 2 == 0, "max_tokens": 16}));
        let key = coordinator.account(&format!("account {index}"), CREDIT);
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| gateway.chat(&key, &question));
            let offer = hostile.offer();
            hostile.refuse(offer.stream, code);
            call.join().unwrap()
        });
        let said = named(code);
        assert_eq!(answer.status, 200, "{said}: {}", answer.text());
        let text = if index % 2 == 0 { answer.streamed() } else { answer.answer() };
        assert_eq!(text, "42", "{said}");
        assert_eq!(answer.attempts(), [(&*id, "provider_lost"), (honest, "accepted")], "{said}");
        assert_eq!(answer.header("x-darkbloom-provider"), Some(honest), "{said}");
        drop(hostile);
        network.coordinator.eligible(1);
    }
    until("no money is held", || {
        let audit = network.coordinator.admin("GET", "/admin/v1/audit", &serde_json::Value::Null);
        (audit["open_holds"] == 0).then_some(())
    });
    network.coordinator.books_are_clean();
}

#[test]
fn one_provider_that_calls_every_request_wrong_keeps_nobody_from_an_answer() {
    let (network, mut hostile, gateway) = beside(true);
    let codes = [
        RefusalCode::InvalidRequest,
        RefusalCode::CannotOpen,
        RefusalCode::ContextLengthExceeded,
        RefusalCode::TooLarge,
    ];
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(|| gateway.chat(&network.key, &question(false)));
        let offer = hostile.offer();
        hostile.refuse(offer.stream, codes[0].number());
        call.join().unwrap()
    });
    assert_eq!(answer.answer(), "42");
    let asked = [(&*hostile.id.to_string(), codes[0].name()), (&*network.providers[0].id, "accepted")];
    assert_eq!(answer.attempts(), asked);
    // From now on the honest one is preferred, though the other has many rows free; it is asked again by whoever finds
    // no other.
    for stream in [false, true] {
        let answer = gateway.chat(&network.key, &question(stream));
        assert_eq!((answer.status, answer.attempts().len()), (200, 1), "{}", answer.text());
        assert_eq!(answer.header("x-darkbloom-provider"), Some(&*network.providers[0].id));
    }
    network.books_close();
    // Where nobody else can say otherwise, its word stands.
    let (network, mut hostile, gateway) = beside(false);
    for code in codes {
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| gateway.chat(&network.key, &question(false)));
            let offer = hostile.offer();
            hostile.refuse(offer.stream, code.number());
            call.join().unwrap()
        });
        failed(code.name(), &answer);
    }
    network.books_close();
}

#[test]
fn a_request_that_one_provider_calls_wrong_is_sealed_to_another_that_has_come_since() {
    let (mut network, mut hostile, gateway) = beside(true);
    let honest = network.providers.remove(0);
    let (data, id) = (honest.data.clone(), honest.id.clone());
    drop(honest);
    network.coordinator.eligible(1);
    let answer = std::thread::scope(|scope| {
        // Without a limit: whoever boasts long rows draws these.
        let call = scope.spawn(|| gateway.chat(&network.key, &ask("What is 17 + 25?")));
        let offer = hostile.offer();
        let offered = std::time::Instant::now();
        let back = Provider::start(&network.coordinator, &data, None, &network.model);
        network.coordinator.eligible(2);
        let waited = offered.elapsed();
        hostile.refuse(offer.stream, RefusalCode::InvalidRequest.number());
        (call.join().unwrap(), back, waited)
    });
    // The time that it cost is in the answer's.
    let timing: serde_json::Value = serde_json::from_str(answer.0.header("x-timing").unwrap()).unwrap();
    let dispatch = std::time::Duration::from_micros(timing["dispatch_us"].as_u64().unwrap());
    assert!(dispatch >= answer.2, "{timing}, and {:?} passed before the refusal", answer.2);
    assert_eq!(answer.0.answer(), "42");
    assert_eq!(answer.0.header("x-darkbloom-provider"), Some(&*id));
    // Also who was asked with the keys before.
    assert_eq!(answer.0.attempts(), [(&*hostile.id.to_string(), "invalid_request"), (&*id, "accepted")]);
    network.books_close();
}

#[test]
fn who_trusts_nobody_else_is_told_what_the_one_provider_said() {
    let (network, mut hostile, _) = beside(true);
    let id = hostile.id.to_string();
    let gateway = surface("gateway", &network.coordinator.url, &network.coordinator.pin, &[&id], |_| {});
    let answer = std::thread::scope(|scope| {
        let call = scope.spawn(|| gateway.chat(&network.key, &question(false)));
        let offer = hostile.offer();
        hostile.refuse(offer.stream, RefusalCode::ContextLengthExceeded.number());
        call.join().unwrap()
    });
    assert_eq!(failed("nobody else is trusted", &answer).code, "context_length_exceeded");
}

#[test]
fn what_is_not_a_providers_to_say_never_reaches_the_consumer() {
    let (network, mut hostile, gateway) = beside(false);
    for code in NOT_ITS_TO_SAY {
        for sealed in [false, true] {
            let answer = std::thread::scope(|scope| {
                let call = scope.spawn(|| gateway.chat(&network.key, &question(sealed)));
                let offer = hostile.offer();
                let (work, _) = hostile.open(&offer);
                let words = AnswerEvent::Failure { code, detail: SecretString::from("pay more") }.to_cbor();
                let secret = &work.opened.response_secret;
                let words = seal_refusal(secret, &work.opened.request_digest, &random(), words.expose()).unwrap();
                let sealed = sealed.then_some(words);
                hostile.line.send(Refused {
                    stream: offer.stream,
                    code: code.number(),
                    detail: "pay more".into(),
                    sealed,
                });
                call.join().unwrap()
            });
            let error = failed(code.name(), &answer);
            assert!(["provider_lost", "verification_failed"].contains(&&*error.code), "{code}: {error:?}");
            assert_eq!(answer.status, 502, "{code}");
            assert!(!error.message.contains("pay more"), "{code}: {error:?}");
        }
    }
    network.books_close();
    assert!(network.coordinator.usage(&network.key).is_empty());
}

#[test]
fn what_is_not_a_providers_to_say_does_not_reach_the_consumer_inside_the_seal_either() {
    // The provider counts the prompt as everybody does: its receipt is good, only its reason is not.
    let counted = Network::start().chat(&question(false)).json();
    let prompt = u32::try_from(counted["usage"]["prompt_tokens"].as_u64().unwrap()).unwrap();
    let (network, mut hostile, gateway) = beside(false);
    for (index, code) in NOT_ITS_TO_SAY.into_iter().enumerate() {
        let content = index % 2 == 0;
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| gateway.chat(&network.key, &question(content)));
            let offer = hostile.offer();
            let mut work = hostile.accept(&offer);
            if content {
                // Its text may still be on its way.
                let data = work.delta(1, "");
                hostile.line.send(data);
            }
            let failure = work.failure(code);
            hostile.line.send(failure);
            let receipt = hostile.receipt(&work, prompt);
            hostile.line.send(Final { stream: offer.stream, receipt });
            call.join().unwrap()
        });
        let error = failed(code.name(), &answer);
        assert_eq!(error.code, "answer_cut", "a provider said {code}: {error:?}");
    }
}
