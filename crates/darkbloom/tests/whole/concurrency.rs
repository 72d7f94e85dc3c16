//! Many at once.

use std::thread;

use serde_json::json;

use crate::support::network::{Network, ask_with};

#[test]
fn sixteen_at_once_are_all_right_and_all_paid() {
    let network = Network::start();
    let questions: Vec<_> = (0..16).map(|number| (11 + number, 61 - 2 * number)).collect();
    let ask_sum = |(a, b): (i32, i32)| {
        let streamed = a % 2 == 0;
        let answer = network.chat(&ask_with(&format!("What is {a} + {b}?"), json!({"stream": streamed})));
        if streamed { answer.streamed() } else { answer.answer() }
    };
    thread::scope(|scope| {
        let calls: Vec<_> = questions.iter().map(|&(a, b)| (a + b, scope.spawn(move || ask_sum((a, b))))).collect();
        for (sum, call) in calls {
            assert_eq!(call.join().unwrap(), sum.to_string());
        }
    });
    assert_eq!(network.coordinator.usage(&network.key).len(), 16);
    network.books_close();
    let providers = network.coordinator.providers();
    assert_eq!(providers[0]["models"][0]["rows_used"], 0, "every row is free again: {providers:?}");
}

#[test]
fn two_holds_cannot_overdraw() {
    let network = Network::start();
    // Enough for the worst case of two such requests, at any time.
    let worst = 256 * 50 + 4 * 200;
    let key = network.coordinator.account("tight", 2 * worst);
    let body = ask_with("What is 17 + 25?", json!({"max_tokens": 4}));
    let statuses: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = (0..24).map(|_| scope.spawn(|| network.gateway.chat(&key, &body).status)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| matches!(status, 200 | 402)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    network.coordinator.books_close(&key, 2 * worst);
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(network.coordinator.usage(&key).len(), served);
}

#[test]
fn an_operation_in_progress_is_not_begun_twice() {
    let network = Network::endless(1);
    let call = || {
        let headers = [("authorization", &*crate::support::http::bearer(&network.key)), ("idempotency-key", "once")];
        let body = ask_with("Count from 1 to 9.", json!({"max_tokens": 50})).to_string();
        crate::support::http::request(
            &network.gateway.address,
            "POST",
            "/v1/chat/completions",
            &headers,
            body.as_bytes(),
        )
    };
    network.chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 2})));
    network.providers[0].process.pause();
    thread::scope(|scope| {
        let first = scope.spawn(call);
        crate::support::until("the first holds its money", || {
            (network.coordinator.balance(&network.key).1 > 0).then_some(())
        });
        let second = call();
        assert_eq!((second.status, second.json()["error"]["code"].as_str()), (409, Some("operation_in_progress")));
        assert_eq!(
            second.header("x-should-retry"),
            Some("false"),
            "it would be told the same until it is told another"
        );
        network.providers[0].process.resume();
        assert_eq!(first.join().unwrap().status, 200);
    });
    assert_eq!(call().json()["error"]["code"], "already_completed");
    network.books_close();
}
