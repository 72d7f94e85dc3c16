//! One account is nothing to another.

use darkbloom_types::{OperationId, RefusalCode};
use darkbloom_wire::SealedHeader;
use serde_json::{Value, json};

use super::hostile::Scene;
use super::hostile::consumer::Consumer;
use crate::support::http;
use crate::support::network::{CREDIT, Network, ask};

#[test]
fn operations_of_two_accounts_never_collide_and_each_sees_its_own_money_alone() {
    let network = Network::start();
    let coordinator = &network.coordinator;
    let id = network.providers[0].id.parse().unwrap();
    let other = coordinator.account("other", CREDIT / 2);
    let (first, second) = (Consumer::new(coordinator, &network.key), Consumer::new(coordinator, &other));
    let operation = OperationId([7; 16]);
    let ask = |by: &Consumer| by.submit(&by.seal(SealedHeader { operation, ..by.header() }, &[id]).submit);
    assert!(ask(&first).is_whole());
    assert!(ask(&second).is_whole(), "the other account's operation is another");
    ask(&first).refused_as(RefusalCode::AlreadyCompleted);
    ask(&second).refused_as(RefusalCode::AlreadyCompleted);

    let (mine, others) = (coordinator.usage(&network.key), coordinator.usage(&other));
    assert_eq!((mine.len(), others.len()), (1, 1));
    assert_ne!(mine[0]["request"], others[0]["request"]);
    assert_ne!(mine[0]["key_id"], others[0]["key_id"]);
    let cost = |rows: &[Value]| rows[0]["charge_nano_usd"].as_i64().unwrap();
    assert_eq!(coordinator.balance(&network.key), (CREDIT - cost(&mine), 0));
    assert_eq!(coordinator.balance(&other), (CREDIT / 2 - cost(&others), 0));
    // What people ask for by parameters is not what decides whose it is.
    for path in ["/v1/usage?account=1", "/v1/usage?account=first", "/v1/usage?limit=-1", "/v1/usage?key_id=1"] {
        let rows = coordinator.call("GET", path, &other, b"").json();
        assert_eq!(rows["data"].as_array().map(Vec::len), Some(1), "{path}");
        assert_eq!(rows["data"][0]["request"], others[0]["request"], "{path}");
    }
    let balance = coordinator.call("GET", "/v1/balance?account=first", &other, b"").json();
    assert_eq!(balance["available_nano_usd"].as_i64(), Some(CREDIT / 2 - cost(&others)));
    network.books_close();
}

#[test]
fn idempotency_keys_of_two_accounts_and_of_two_keys_never_collide() {
    let network = Network::start();
    let other = network.coordinator.account("other", CREDIT);
    let call = |key: &str| {
        let headers = [("authorization", &*http::bearer(key)), ("idempotency-key", "invoice-1")];
        let body = ask("What is 17 + 25?").to_string();
        http::request(&network.gateway.address, "POST", "/v1/chat/completions", &headers, body.as_bytes())
    };
    assert_eq!(call(&network.key).answer(), "42");
    assert_eq!(call(&other).answer(), "42");
    for key in [&network.key, &other] {
        assert_eq!(call(key).json()["error"]["code"], "already_completed");
    }
    assert_eq!(network.coordinator.usage(&other).len(), 1);
    assert_eq!(network.coordinator.usage(&network.key).len(), 1);
}

#[test]
fn every_kind_of_key_opens_its_own_door_only() {
    let scene = Scene::start();
    let coordinator = &scene.coordinator;
    let join = coordinator.key("join", None);
    let account = json!({"account": "first", "amount_nano_usd": 1, "reference": "theft"}).to_string();
    let key = json!({"kind": "admin", "account": null, "name": "mine"}).to_string();
    let administration = [
        ("GET", "/admin/v1/accounts", ""),
        ("POST", "/admin/v1/accounts", "{\"name\": \"mine\"}"),
        ("GET", "/admin/v1/keys", ""),
        ("POST", "/admin/v1/keys", &key),
        ("DELETE", "/admin/v1/keys/1", ""),
        ("POST", "/admin/v1/deposits", &account),
        ("PUT", "/admin/v1/blobs", "x"),
        ("PUT", "/admin/v1/catalogue", "{}"),
        ("GET", "/admin/v1/providers", ""),
        ("GET", "/admin/v1/audit", ""),
    ];
    for (method, path, body) in administration {
        for key in [&scene.key, &join] {
            let refused = coordinator.call(method, path, key, body.as_bytes());
            assert_eq!(refused.status, 403, "{method} {path}: {}", refused.text());
            assert_eq!(refused.json()["error"]["code"], "forbidden");
        }
        let refused = http::request(&coordinator.address, method, path, &[], body.as_bytes());
        assert_eq!(refused.status, 401, "{method} {path}: {}", refused.text());
    }
    for path in ["/v1/balance", "/v1/usage", "/v1/candidates?model=darkbloom-tiny"] {
        for key in [&join, &coordinator.admin_key] {
            assert_eq!(coordinator.call("GET", path, key, b"").status, 403, "{path}");
        }
        assert_eq!(http::request(&coordinator.address, "GET", path, &[], b"").status, 401, "{path}");
    }
    let hostile = scene.hostile();
    let consumer = scene.consumer();
    let sealed = consumer.seal(consumer.header(), &[hostile.id]).submit;
    for key in [join, coordinator.admin_key.clone()] {
        let thief = Consumer { key, ..scene.consumer() };
        let answered = thief.submit(&sealed);
        answered.refused_as(RefusalCode::Forbidden);
        assert_eq!(answered.status, 403);
    }
    let accounts = coordinator.admin("GET", "/admin/v1/accounts", &Value::Null);
    assert_eq!(accounts["data"].as_array().unwrap().len(), 1, "{accounts}");
    assert_eq!(coordinator.balance(&scene.key), (CREDIT, 0));
    // Nor is a consumer's or administrator's key a join token.
    for token in [&scene.key, &coordinator.admin_key] {
        let mut stranger = super::hostile::provider::Hostile::new(coordinator);
        let hello = stranger.hello(Some(token), 8);
        stranger.line.send(hello);
        assert_eq!(stranger.line.closed(), ["forbidden"]);
    }
}
