//! What accounts and operators do with money, keys and codes, as they do it: by the command line and over HTTP.

use serde_json::{Value, json};

use crate::support::http;
use crate::support::network::{Coordinator, MODEL, Network, Provider, Surface, ask, model_file};
use crate::support::process::{Ended, Process, command, run};
use crate::support::until;

/// Runs a command with an account's key, which succeeds.
#[track_caller]
fn account(coordinator: &Coordinator, key: &str, arguments: &[&str]) -> String {
    let mut command = command(&["account", "--coordinator", &coordinator.url]);
    let ended = run(command.args(arguments).env("DARKBLOOM_ACCOUNT_KEY", key));
    assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

fn operator(coordinator: &Coordinator, arguments: &[&str]) -> Ended {
    let mut command = command(&["admin", "--coordinator", &coordinator.url]);
    run(command.args(arguments).env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key))
}

/// Runs an operator's command, which succeeds.
#[track_caller]
fn operates(coordinator: &Coordinator, arguments: &[&str]) -> String {
    let ended = operator(coordinator, arguments);
    assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    ended.stdout.trim().to_owned()
}

fn nanos(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no amount"))
}

/// The number behind a metric's name and labels.
fn metric(address: &str, name: &str) -> i64 {
    let text = http::request(address, "GET", "/metrics", &[], b"").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("{name} is not among {text}"))
}

#[test]
fn owners_earn_what_consumers_pay_and_ones_own_machine_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (coordinator, ready) = Coordinator::start_changed(&folder.path().join("coordinator"), &|command| {
        command.args(["--platform-fee", "1000", "--referral-share", "5000", "--metrics", "127.0.0.1:0"]);
    });
    let metrics = ready["metrics"].as_str().unwrap();
    coordinator.offer_model(&model_file());
    let consumer = coordinator.account("consumer", 1_000_000_000);
    for name in ["owner", "friend"] {
        coordinator.admin("POST", "/admin/v1/accounts", &json!({"name": name}));
    }
    let [owner, friend, own] = ["owner", "friend", "consumer"].map(|name| coordinator.key("account", Some(name)));
    let code = account(&coordinator, &friend, &["refer"]);
    account(&coordinator, &own, &["referred-by", &code]);
    let token = account(&coordinator, &owner, &["key", "--kind", "join", "--name", "attic"]);
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    let gateway = Surface::gateway(&coordinator, &[&provider.id]);
    coordinator.eligible(1);

    let answer = gateway.chat(&consumer, &ask("What is 17 + 25?"));
    assert_eq!(answer.answer(), "42");
    let charge = nanos(&coordinator.usage(&consumer)[0]["charge_nano_usd"]);
    let (fee, referral) = (charge / 10, charge / 10 / 2);
    let earned = |key: &str| coordinator.call("GET", "/v1/earnings", key, b"").json();
    assert_eq!(nanos(&earned(&owner)["earned_nano_usd"]), charge - fee);
    assert_eq!(nanos(&earned(&friend)["referral_nano_usd"]), referral);
    assert_eq!(nanos(&earned(&owner)["withdrawable_nano_usd"]), 0, "it can still be disputed");
    let machines = account(&coordinator, &owner, &["machines"]);
    assert!(machines.contains(&provider.id) && machines.contains("1 jobs"), "{machines}");
    let table = account(&coordinator, &owner, &["jobs"]);
    assert!(table.lines().count() == 2 && table.contains(MODEL), "{table}");
    let moved = |movement: &str, book: &str, direction: &str| {
        let name = "darkbloom_ledger_moved_nano_dollars_total";
        metric(metrics, &format!("{name}{{movement=\"{movement}\",book=\"{book}\",direction=\"{direction}\"}}"))
    };
    assert_eq!(moved("settlement", "platform", "in"), fee - referral);
    assert_eq!(moved("settlement", "earned", "in"), charge - fee);
    assert_eq!(moved("deposit", "available", "in"), 1_000_000_000);
    assert_eq!(metric(metrics, "darkbloom_requests_total{outcome=\"settled\"}"), 1);
    assert_eq!(metric(metrics, "darkbloom_ledger_clamped_total"), 0);

    // The consumer counted less; the operator looks and decides.
    let request = answer.header("x-darkbloom-request").unwrap().to_owned();
    let dispute = ["dispute", &request, "--input", "1", "--output", "1"];
    account(&coordinator, &own, &dispute);
    assert!(operates(&coordinator, &["disputes"]).contains(&request));
    assert!(nanos(&earned(&owner)["earned_nano_usd"]) < charge - fee);
    operates(&coordinator, &["decide", &request, "provider"]);
    assert_eq!(nanos(&earned(&owner)["earned_nano_usd"]), charge - fee);
    assert_eq!(operates(&coordinator, &["disputes"]), "");

    // The machine becomes the consumer's own.
    operates(&coordinator, &["owner", &provider.id, "consumer"]);
    let before = coordinator.balance(&consumer);
    assert_eq!(gateway.chat(&consumer, &ask("What is 17 + 26?")).status, 200);
    assert_eq!(coordinator.balance(&consumer), before, "one's own machine is free");
    assert!(operates(&coordinator, &["audit"]).contains("0 open holds"));
    let trail = operates(&coordinator, &["trail"]);
    assert!(trail.contains("POST /admin/v1/keys") && trail.contains("answered with 200"), "{trail}");
    assert!(!trail.contains("db-"), "no key is in the trail: {trail}");
    assert!(operates(&coordinator, &["trail", "--check"]).contains("whole"));
}

#[test]
fn keys_may_do_what_their_limits_say_and_no_more() {
    let network = Network::start();
    let coordinator = &network.coordinator;
    let make = |limits: Value, budget: Value| {
        let body = json!({"kind": "consumer", "account": "first", "name": "k", "limits": limits, "budget": budget});
        let made = coordinator.admin("POST", "/admin/v1/keys", &body);
        (made["id"].as_i64().unwrap().to_string(), made["key"].as_str().unwrap().to_owned())
    };
    let refused = |key: &str| {
        let answer = network.gateway.chat(key, &ask("What is 17 + 25?"));
        (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let (_, elsewhere) = make(json!({"models": ["another"]}), Value::Null);
    assert_eq!(refused(&elsewhere), (403, "forbidden".to_owned()));
    let (_, poor) = make(json!({}), json!({"period": "day", "limit_nano_usd": 10}));
    assert_eq!(refused(&poor), (402, "insufficient_quota".to_owned()));
    let (_, over) = make(json!({"expires_at": 1}), Value::Null);
    assert_eq!(refused(&over), (401, "invalid_api_key".to_owned()));

    let (id, slow) = make(json!({"requests_per_minute": 1, "tokens_per_minute": 100_000}), Value::Null);
    let answer = network.gateway.chat(&slow, &ask("What is 17 + 25?"));
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (200, Some("0")));
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("100000"));
    let answer = network.gateway.chat(&slow, &ask("What is 17 + 25?"));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("rate_limit_exceeded")));
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");

    // Edited, rotated and revoked at once.
    coordinator.admin("PATCH", &format!("/admin/v1/keys/{id}"), &json!({"limits": {"requests_per_minute": null}}));
    assert_eq!(network.gateway.chat(&slow, &ask("What is 17 + 25?")).status, 200);
    let about = coordinator.call("GET", "/v1/key", &slow, b"").json();
    assert_eq!(
        (&about["limits"]["requests_per_minute"], &about["limits"]["tokens_per_minute"]),
        (&Value::Null, &json!(100_000))
    );
    let rotated = coordinator.admin("POST", &format!("/admin/v1/keys/{id}/rotate"), &json!({}));
    let rotated = rotated["key"].as_str().unwrap();
    until("the secret before opens nothing", || (refused(&slow).0 == 401).then_some(()));
    assert_eq!(network.gateway.chat(rotated, &ask("What is 17 + 25?")).status, 200);
    coordinator.admin("DELETE", &format!("/admin/v1/keys/{id}"), &Value::Null);
    assert_eq!(coordinator.call("GET", "/v1/key", rotated, b"").status, 401);
    network.coordinator.books_are_clean();
}

#[test]
fn a_machine_gets_one_key_by_a_code_that_its_owner_approves() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    coordinator.admin("POST", "/admin/v1/accounts", &json!({"name": "owner"}));
    let owner = coordinator.key("account", Some("owner"));
    let out = folder.path().join("join");
    let mut login = Process::start(
        command(&["login", "--kind", "join", "--name", "attic", "--coordinator", &coordinator.url])
            .arg("--out")
            .arg(&out),
    );
    let line = login.line().unwrap();
    let code = line.split_whitespace().last().unwrap();
    let wrong = run(command(&["account", "--coordinator", &coordinator.url, "approve", "BBBB-BBBB", "--yes"])
        .env("DARKBLOOM_ACCOUNT_KEY", &owner));
    wrong.failed_saying(&["no machine waits with this code"]);
    assert!(account(&coordinator, &owner, &["approve", code, "--yes"]).contains("`attic` gets its key"));
    assert!(login.ended().success());
    let token = std::fs::read_to_string(&out).unwrap();
    assert!(token.starts_with("db-join-"), "a join token");
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    coordinator.eligible(1);
    assert!(account(&coordinator, &owner, &["machines"]).contains(&provider.id), "the machine is the owner's");
    // Nobody signs in as an administrator.
    let mut stranger = command(&["login", "--coordinator", &coordinator.url, "--kind", "admin"]);
    let refused = run(&mut stranger);
    assert!(!refused.status.success() && refused.stderr.contains("invalid value"), "{refused:?}");
    let form = "client_id=x&scope=admin";
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let answer = http::request(&coordinator.address, "POST", "/v1/device/code", &headers, form.as_bytes());
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some("invalid_scope")));
}

#[test]
fn an_accounts_key_sees_to_its_own_account_alone() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    for name in ["a", "b"] {
        coordinator.admin("POST", "/admin/v1/accounts", &json!({"name": name}));
    }
    let [a, b] = ["a", "b"].map(|name| coordinator.key("account", Some(name)));
    let ask = |method: &str, path: &str, key: &str, body: &Value| {
        coordinator.call(method, path, key, body.to_string().as_bytes())
    };
    let made = ask("POST", "/v1/keys", &a, &json!({"kind": "consumer", "name": "mine"})).json();
    let path = format!("/v1/keys/{}", made["id"]);
    assert_eq!(ask("PATCH", &path, &b, &json!({"name": "theirs"})).status, 404);
    assert_eq!(ask("POST", &format!("{path}/rotate"), &b, &json!({})).status, 404);
    assert_eq!(ask("DELETE", &path, &b, &json!({})).status, 404);
    assert_eq!(ask("POST", "/v1/keys", &a, &json!({"kind": "admin", "name": "x"})).status, 403);
    assert_eq!(ask("GET", "/admin/v1/keys", &a, &Value::Null).status, 403);
    let administrator = json!({"kind": "admin", "account": "a", "name": "x"});
    assert_eq!(ask("POST", "/admin/v1/keys", &coordinator.admin_key, &administrator).status, 400);
    let listed = |key: &str| ask("GET", "/v1/keys", key, &Value::Null).json()["data"].as_array().unwrap().len();
    assert_eq!((listed(&a), listed(&b)), (2, 1));
    // A key with an end makes none that lasts longer, and does not prolong itself.
    let until = 4_000_000_000_000_i64;
    let short = json!({"kind": "account", "account": "a", "name": "short", "limits": {"expires_at": until}});
    let short = coordinator.admin("POST", "/admin/v1/keys", &short);
    let (id, key) = (short["id"].clone(), short["key"].as_str().unwrap().to_owned());
    assert_eq!(ask("PATCH", &format!("/v1/keys/{id}"), &key, &json!({"limits": {"expires_at": null}})).status, 403);
    assert_eq!(ask("POST", "/v1/keys", &key, &json!({"kind": "account", "name": "x"})).status, 403);
    let ends = json!({"kind": "consumer", "name": "x", "limits": {"expires_at": until}});
    assert_eq!(ask("POST", "/v1/keys", &key, &ends).status, 200);

    // Codes give their credit once to each account.
    let code = operates(&coordinator, &["invite", "welcome", "2.50", "--uses", "1"]);
    assert_eq!(account(&coordinator, &a, &["redeem", &code]), "$2.500000000");
    assert!(account(&coordinator, &a, &["redeem", &code]).contains("was redeemed before"));
    assert_eq!(ask("POST", "/v1/invites/redeem", &b, &json!({"code": code})).status, 400);
    assert_eq!(operates(&coordinator, &["invites"]).lines().count(), 1);
    let deposit = ["deposit", "b", "5", "--reference", "r", "--source", "bank", "--state"];
    let put = |state: &'static str| operator(&coordinator, &[&deposit[..], &[state]].concat());
    assert!(put("expected").status.success() && put("expected").status.success());
    assert!(operates(&coordinator, &["deposits"]).contains("bank"));
    assert!(put("credited").stdout.contains("available $5.000000000"));
    assert!(put("credited").stdout.contains("already"));
    put("abandoned").failed_saying(&["the deposit is credited already"]);
    operates(&coordinator, &["account", "b", "--fee", "250", "--budget", "month:20"]);
    operator(&coordinator, &["account", "b", "--fee", "10001"]).failed_saying(&["more than the whole"]);
    coordinator.books_are_clean();
}
