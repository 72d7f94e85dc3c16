//! The roles by themselves: keys, joining, pinning, who may ask what.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::http::{self, bearer};
use crate::support::network::{CREDIT, Coordinator, MODEL, Network, Provider, Surface, ask, ask_with, model_file};
use crate::support::process::{Ended, Process, command, run};
use crate::support::until;

fn administer(coordinator: &Coordinator, arguments: &[&str]) -> Ended {
    let mut command = command(arguments);
    command.env("DARKBLOOM_COORDINATOR", &coordinator.url).env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key);
    run(&mut command)
}

#[track_caller]
fn administered(coordinator: &Coordinator, arguments: &[&str]) -> String {
    let ended = administer(coordinator, arguments);
    assert!(ended.status.success(), "{arguments:?}: {ended:?}");
    ended.stdout
}

#[test]
fn a_coordinator_shows_its_admin_key_on_the_first_start_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start(folder.path());
    assert!(coordinator.process.stop().success());
    let (mut again, ready) = Coordinator::launch(folder.path(), "127.0.0.1:0").unwrap();
    assert_eq!(ready["admin_key"], Value::Null, "it is stored nowhere, so it cannot be shown again");
    assert_eq!(ready["network"], coordinator.pin.as_str());
    let address = ready["address"].as_str().unwrap();
    let headers = [("authorization", &*bearer(&coordinator.admin_key))];
    assert_eq!(http::request(address, "GET", "/admin/v1/keys", &headers, b"").status, 200, "it still opens");
    assert!(again.stop().success());
}

#[test]
fn a_coordinator_tells_people_what_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let mut process =
        Process::start(command(&["coordinator", "--listen", "127.0.0.1:0"]).arg("--data").arg(folder.path()));
    let lines: Vec<_> = (0..4).map(|_| process.line().unwrap()).collect();
    assert!(lines[0].starts_with("coordinator   http://127.0.0.1:"), "{lines:?}");
    assert!(lines[1].starts_with("pin           --coordinator-key "), "{lines:?}");
    assert!(lines[2].starts_with("data          "), "{lines:?}");
    assert!(lines[3].starts_with("administrator db-") && lines[3].ends_with("(shown this once)"), "{lines:?}");
    process.signal("TERM");
    assert!(process.ended().success());
    assert!(!process.log().contains(lines[3].split_whitespace().nth(1).unwrap()), "the key is in the log");
}

#[test]
fn accounts_keys_and_models_are_managed_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path());
    let account = administered(&coordinator, &["accounts", "create", "acme"]);
    assert!(account.contains("`acme`"), "{account}");
    administer(&coordinator, &["accounts", "create", "acme"]).failed_saying(&["error: "]);

    let credit = ["accounts", "credit", "acme", "2.5", "--reference", "invoice 1"];
    assert_eq!(administered(&coordinator, &credit).trim(), "available $2.500000000");
    let again = administered(&coordinator, &credit);
    assert!(again.starts_with("available $2.500000000 (this reference was credited before"), "{again}");
    let wrong = ["accounts", "credit", "acme", "2,5", "--reference", "invoice 2"];
    administer(&coordinator, &wrong).failed_saying(&["`2,5` is not an amount", "hint: give dollars"]);
    for unknown in [
        &["accounts", "credit", "nobody", "1", "--reference", "invoice 3"][..],
        &["keys", "create", "--account", "nobody"],
    ] {
        let hint = "hint: darkbloom accounts create nobody";
        administer(&coordinator, unknown).failed_saying(&["there is no account of this name", hint]);
    }
    let list = administered(&coordinator, &["accounts", "list"]);
    assert!(list.contains("$2.500000000") && list.trim_end().ends_with("acme"), "{list}");

    let key = administered(&coordinator, &["keys", "create", "--account", "acme", "--name", "laptop"]);
    let key = key.trim();
    assert!(key.starts_with("db-key-"), "{key}");
    assert_eq!(coordinator.balance(key), (2_500_000_000, 0));
    administer(&coordinator, &["keys", "create", "--name", "nobody's"]).failed_saying(&["account"]);
    let list = administered(&coordinator, &["keys", "list"]);
    assert!(!list.contains(key), "a list shows no secrets");
    let row = list.lines().find(|line| line.ends_with("laptop")).unwrap();
    assert!(row.contains("active"), "{row}");
    administered(&coordinator, &["keys", "revoke", row.split_whitespace().next().unwrap()]);
    assert_eq!(coordinator.call("GET", "/v1/balance", key, b"").status, 401, "it opens nothing any more");
    assert!(administered(&coordinator, &["keys", "list"]).contains("revoked"));

    coordinator.offer_model(&model_file());
    let models = http::request(&coordinator.address, "GET", "/v1/catalogue", &[], b"").json();
    assert_eq!(models["models"][0]["name"], MODEL);

    let mut stranger = command(&["keys", "list"]);
    stranger.env("DARKBLOOM_COORDINATOR", &coordinator.url).env("DARKBLOOM_ADMIN_KEY", "db-admin-of-nobody");
    run(&mut stranger).failed_saying(&["the API key is missing or not valid", "hint: set DARKBLOOM_ADMIN_KEY"]);
    coordinator.books_are_clean();
}

#[test]
fn a_consumers_key_administers_nothing_and_an_administrators_key_asks_nothing() {
    let network = Network::start();
    let coordinator = &network.coordinator;
    for path in ["/admin/v1/keys", "/admin/v1/accounts", "/admin/v1/providers", "/admin/v1/audit"] {
        assert_eq!(coordinator.call("GET", path, &network.key, b"").status, 403, "{path}");
        assert_eq!(http::request(&coordinator.address, "GET", path, &[], b"").status, 401, "{path}");
    }
    assert_eq!(network.gateway.chat(&coordinator.admin_key, &ask("Hi")).status, 403);
    assert_eq!(network.gateway.chat(&coordinator.key("join", None), &ask("Hi")).status, 403);
}

#[test]
fn a_new_provider_needs_a_join_token_and_a_known_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let key = coordinator.account("first", CREDIT);
    let data = folder.path().join("provider");

    let revoked = coordinator.key("join", None);
    let keys = coordinator.admin("GET", "/admin/v1/keys", &Value::Null);
    let id = keys["data"].as_array().unwrap().iter().find(|key| key["kind"] == "join").unwrap()["id"].clone();
    coordinator.admin("DELETE", &format!("/admin/v1/keys/{id}"), &Value::Null);
    let needed = "a new provider needs a join token, and none or no valid one came";
    for (token, sentence) in [
        (None, needed),
        (Some("db-join-of-nobody"), needed),
        (Some(&revoked), needed),
        (Some(&key), "this key may not do that: this is a consumer key"),
    ] {
        let provider = Provider::start(&coordinator, &data, token, &model_file());
        provider.process.logged(&format!("not eligible: {sentence}; set DARKBLOOM_JOIN_TOKEN"));
        assert!(coordinator.providers().is_empty(), "it is not registered");
    }
    let token = coordinator.key("join", None);
    let mut first = Provider::start(&coordinator, &data, Some(&token), &model_file());
    coordinator.eligible(1);
    assert!(first.process.stop().success());
    until("the provider is gone", || coordinator.providers().iter().all(|it| it["eligible"] == false).then_some(()));

    let second = Provider::start(&coordinator, &data, None, &model_file());
    coordinator.eligible(1);
    assert_eq!(second.id, first.id, "the same identity");
    let gateway = Surface::gateway(&coordinator, &[&second.id]);
    assert_eq!(gateway.chat(&key, &ask("What is 17 + 25?")).answer(), "42");
    for log in [first.process.log(), second.process.log(), coordinator.process.log()] {
        assert!(!log.contains(&token) && !log.contains(&revoked), "a token is in a log");
    }
}

#[test]
fn a_provider_with_a_model_that_is_not_on_offer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    let token = coordinator.key("join", None);
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    provider.process.logged("the coordinator's catalogue names none of this provider's models");
}

#[test]
fn a_proxy_serves_this_machine_with_its_own_key() {
    let network = Network::start();
    let proxy = Surface::proxy(&network.coordinator, &network.ids(), &network.key);
    let body = ask("What is 17 + 25?").to_string();
    let call = |headers: &[(&str, &str)]| {
        http::request(&proxy.address, "POST", "/v1/chat/completions", headers, body.as_bytes())
    };
    let answer = call(&[]);
    assert_eq!(answer.answer(), "42", "no key is needed on this machine");
    assert_eq!(answer.header("x-darkbloom-sealed-by"), Some("client"));
    assert_eq!(answer.header("x-darkbloom-verified-by"), Some("client"));
    assert_eq!(answer.header("x-darkbloom-asserted-by"), None);
    let body = ask_with("What is 17 + 25?", json!({"stream": true})).to_string();
    let streamed = http::request(&proxy.address, "POST", "/v1/chat/completions", &[], body.as_bytes());
    let verified = streamed.comment("x-darkbloom").unwrap();
    assert_eq!((&verified["verified_by"], &verified["asserted_by"]), (&"client".into(), &Value::Null));
    assert_eq!(
        call(&[("authorization", "Bearer anything")]).answer(),
        "42",
        "programs that insist on one may send any"
    );
    let port = proxy.address.rsplit_once(':').unwrap().1;
    assert_eq!(call(&[("host", &format!("localhost:{port}"))]).status, 200);
    for headers in [
        [("host", "evil.example"), ("accept", "*/*")],
        [("host", &*format!("evil.example:{port}")), ("accept", "*/*")],
        [("host", "127.0.0.1.evil.example"), ("accept", "*/*")],
        [("host", &proxy.address), ("origin", "http://evil.example")],
    ] {
        let refused = call(&headers);
        assert_eq!(refused.status, 403, "{headers:?}");
        assert_eq!(refused.json()["error"]["code"], "forbidden");
        let models = http::request(&proxy.address, "GET", "/v1/models", &headers, b"");
        assert_eq!(models.status, 403, "{headers:?}");
    }
    network.books_close();
    assert_eq!(network.coordinator.usage(&network.key).len(), 4, "what was refused cost nothing");
}

#[test]
fn a_gateway_needs_the_callers_key() {
    let network = Network::start();
    let address = &network.gateway.address;
    let body = ask("What is 17 + 25?").to_string();
    for headers in [&[][..], &[("authorization", "Bearer ")], &[("authorization", &network.key)]] {
        let refused = http::request(address, "POST", "/v1/chat/completions", headers, body.as_bytes());
        assert_eq!(refused.status, 401, "{headers:?}");
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    let answer = network.chat(&ask("What is 17 + 25?"));
    assert_eq!(answer.answer(), "42");
    assert_eq!(answer.header("x-darkbloom-sealed-by"), Some("gateway"));
    assert_eq!(answer.header("x-darkbloom-asserted-by"), Some("gateway"));
    assert_eq!(answer.header("x-darkbloom-verified-by"), None);
}

#[test]
fn a_wrong_coordinator_key_is_refused_by_every_role() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let key = coordinator.account("first", CREDIT);
    let token = coordinator.key("join", None);
    let right = std::mem::replace(&mut coordinator.pin, "ab".repeat(32));

    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    provider.process.logged("the coordinator is not the pinned one");
    assert!(coordinator.providers().is_empty());
    let surfaces = [Surface::gateway(&coordinator, &[]), Surface::proxy(&coordinator, &[], &key)];
    for surface in surfaces {
        let refused = surface.chat(&key, &ask("What is 17 + 25?"));
        let error = refused.json()["error"].clone();
        assert_eq!(error["code"], "wrong_network", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&right) && message.contains(&coordinator.pin), "both are named: {message}");
        assert_ne!(http::request(&surface.address, "GET", "/v1/models", &[], b"").status, 200);
    }
    assert_eq!(coordinator.balance(&key), (CREDIT, 0), "nothing was sealed to it");
}

#[test]
fn the_coordinator_met_first_is_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let first = Coordinator::start(&folder.path().join("first"));
    let second = Coordinator::start(&folder.path().join("second"));
    let home = folder.path().join("home");
    let proxy = |coordinator: &Coordinator| {
        let mut command = command(&["proxy", "--listen", "127.0.0.1:0", "--coordinator", &coordinator.url]);
        let (process, ready) = Process::role(command.env("HOME", &home).env("DARKBLOOM_API_KEY", "any")).unwrap();
        Surface { process, address: ready["address"].as_str().unwrap().to_owned() }
    };
    let models = |surface: &Surface| http::request(&surface.address, "GET", "/v1/models", &[], b"");
    assert_eq!(models(&proxy(&first)).status, 200);
    let pin = home.join(".local/share/darkbloom/proxy/coordinator.pin");
    assert_eq!(std::fs::read_to_string(&pin).unwrap().trim(), first.pin);
    assert_eq!(models(&proxy(&first)).status, 200, "the same one is still good");
    assert_eq!(models(&proxy(&second)).json()["error"]["code"], "wrong_network");
    let provider = |coordinator: &Coordinator, data: &Path| {
        let mut command =
            command(&["start", "--foreground", "--key-home", "software", "--coordinator", &coordinator.url]);
        let (process, _) = Process::role(command.arg("--data").arg(data).arg("--model").arg(model_file())).unwrap();
        process
    };
    let data = folder.path().join("provider");
    provider(&first, &data).logged("pinned the coordinator that was met first");
    provider(&second, &data).logged("the coordinator is not the pinned one");
}

/// Sockets of a process on which others can reach it: listening TCP and local ones, and every UDP one.
fn listening_sockets(pid: u32) -> Vec<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let own: BTreeSet<String> = links
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    // Columns as in proc(5): TCP state 0A is LISTEN; the flag 00010000 of a local socket is __SO_ACCEPTCON.
    for (table, state, inode, reachable) in [
        ("tcp", 3, 9, Some("0A")),
        ("tcp6", 3, 9, Some("0A")),
        ("udp", 3, 9, None),
        ("udp6", 3, 9, None),
        ("unix", 3, 6, Some("00010000")),
    ] {
        let Ok(rows) = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for row in rows.lines().skip(1) {
            let columns: Vec<_> = row.split_whitespace().collect();
            let counts = reachable.is_none_or(|wanted| columns.get(state) == Some(&wanted));
            if counts && columns.get(inode).is_some_and(|inode| own.contains(*inode)) {
                found.push(format!("{table}: {row}"));
            }
        }
    }
    found
}

#[test]
fn a_provider_has_no_listening_socket() {
    let network = Network::start();
    assert_eq!(listening_sockets(network.coordinator.process.pid()).len(), 1, "the check can see one");
    assert_eq!(listening_sockets(network.gateway.process.pid()).len(), 1);
    let provider = network.providers[0].process.pid();
    assert_eq!(listening_sockets(provider), Vec::<String>::new());
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    assert_eq!(listening_sockets(provider), Vec::<String>::new(), "also not after work");
}

#[test]
fn plaintext_beyond_this_machine_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    let words = ["is reachable from other machines", "hint: listen on 127.0.0.1"];
    let data = folder.path().join("other");
    run(command(&["coordinator", "--listen", "0.0.0.0:0"]).arg("--data").arg(&data)).failed_saying(&words);
    let trust = ["--coordinator", &coordinator.url, "--coordinator-key", &coordinator.pin];
    run(command(&["gateway", "--listen", "0.0.0.0:0"]).args(trust)).failed_saying(&words);
    run(command(&["proxy", "--listen", "[::]:0", "--key", "any"]).args(trust)).failed_saying(&words);
    let remote = ["--coordinator", "http://192.0.2.1:7701", "--coordinator-key", &coordinator.pin];
    run(command(&["gateway", "--listen", "127.0.0.1:0"]).args(remote)).failed_saying(&["is another machine"]);
    let mut provider = Provider::command("http://192.0.2.1:7701", &coordinator.pin, &data, &model_file());
    run(&mut provider).failed_saying(&["is another machine", "plain http"]);
}

#[test]
fn an_unpinned_software_key_is_not_sealed_to() {
    let network = Network::start();
    let stranger = Surface::gateway(&network.coordinator, &[]);
    let refused = stranger.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "tier_not_met");
    assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0));
    let lower = Surface::start(command(&["gateway"]).args(["--tier-min", "none"]), &network.coordinator, &[]);
    let answer = lower.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(answer.answer(), "42");
    assert_eq!(answer.header("x-darkbloom-trust"), Some("unpinned"), "and it is never called more");
}
