//! Roles that start over: everything that was promised still holds.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::failure::{first_content, rest};
use crate::support::network::{CREDIT, Network, PRICE, Provider, ask, ask_with};
use crate::support::until;

#[test]
fn a_killed_coordinator_settles_by_the_receipt_that_is_presented_again() {
    let mut network = Network::endless(1);
    let limit = 900;
    let body = ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": limit}));
    let mut reading = network.gateway.open_chat(&network.key, &body).unwrap();
    let before = first_content(&mut reading);
    network.providers[0].process.pause();
    // Whose answer it is is written down beside the first content; nothing outside shows when that is done.
    thread::sleep(Duration::from_millis(200));
    // The provider ends and signs while the coordinator stands still: the receipt is made and does not arrive.
    network.coordinator.process.pause();
    network.providers[0].process.resume();
    network.providers[0].process.logged("request answered");
    network.coordinator.process.kill();
    let cut = rest(reading, before);
    assert!(cut.events().last().unwrap().contains("\"error\""), "{}", cut.text());

    network.coordinator.again();
    network.providers[0].process.logged("presenting unacknowledged receipts again");
    until("the receipt settles", || (!network.coordinator.usage(&network.key).is_empty()).then_some(()));

    network.books_close();
    let usage = network.coordinator.usage(&network.key);
    assert_eq!(usage.len(), 1, "settled once: {usage:?}");
    assert_eq!(usage[0]["output_tokens"], limit);
    let input = usage[0]["input_tokens"].as_i64().unwrap();
    assert_eq!(usage[0]["charge_nano_usd"], PRICE.0 * input + PRICE.1 * limit);

    network.coordinator.eligible(1);
    assert_eq!(network.chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 2}))).answer(), "42");
    // Acknowledged receipts are not presented a second time.
    network.coordinator.process.kill();
    network.coordinator.again();
    network.coordinator.eligible(1);
    let log = network.providers[0].process.log();
    assert_eq!(log.matches("presenting unacknowledged receipts again").count(), 1);
    network.books_close();
    assert_eq!(network.coordinator.usage(&network.key).len(), 2);
}

#[test]
fn a_killed_coordinator_gives_back_what_nobody_has_a_receipt_for() {
    let mut network = Network::endless(1);
    let body = ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": 900}));
    let mut reading = network.gateway.open_chat(&network.key, &body).unwrap();
    let before = first_content(&mut reading);
    network.providers[0].process.pause();
    network.coordinator.process.kill();
    let cut = rest(reading, before);
    assert!(cut.events().last().unwrap().contains("\"error\""), "{}", cut.text());
    assert!(!cut.events().iter().any(|event| event == "[DONE]"));
    network.coordinator.again();
    network.providers[0].process.resume();
    network.coordinator.eligible(1);
    network.books_close();
    assert_eq!(network.chat(&ask_with("What is 17 + 25?", json!({"max_tokens": 2}))).answer(), "42");
    network.books_close();
}

#[test]
fn a_restarted_provider_and_coordinator_go_on_with_the_same_books() {
    let mut network = Network::start();
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    let before = network.coordinator.balance(&network.key);
    let identity = network.providers[0].id.clone();
    network.providers[0].process.kill();
    network.coordinator.process.kill();
    network.coordinator.again();
    assert_eq!(network.coordinator.balance(&network.key), before);
    let data = network.providers[0].data.clone();
    network.providers[0] = Provider::start(&network.coordinator, &data, None, &network.model);
    assert_eq!(network.providers[0].id, identity);
    network.coordinator.eligible(1);
    // The gateway's candidates are of the epoch before: it seals again without its consumer noticing.
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    network.books_close();
    assert_eq!(network.coordinator.balance(&network.key).0, CREDIT - 2 * (CREDIT - before.0));
}
