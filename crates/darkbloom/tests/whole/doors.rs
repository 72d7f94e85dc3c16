//! What a stranger, a slow peer or a greedy account can do to the doors: nothing that others notice.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{first_content, rest};
use crate::support::http::{self, bearer};
use crate::support::network::{
    CREDIT, Coordinator, MODEL, Network, PRICE, Provider, Surface, ask, ask_with, model_file,
};
use crate::support::process::{Ended, command, run};
use crate::support::{PATIENCE, until};

/// A request whose body is announced and does not come.
fn announced(address: &str, method: &str, path: &str, key: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 60000\r\n");
    if let Some(key) = key {
        head.push_str(&format!("authorization: {}\r\n", bearer(key)));
    }
    head.push_str("content-type: application/json\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Status line, headers and whatever of the body comes with them.
fn answer(stream: TcpStream) -> (u16, String) {
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut text = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        text.push_str(&line);
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).unwrap();
    text.push_str(&String::from_utf8_lossy(&body));
    (status.unwrap_or_else(|| panic!("no status in `{line}`")), text)
}

#[test]
fn nobody_without_a_key_gets_a_body_read() {
    let network = Network::start();
    let (gateway, coordinator) = (&network.gateway.address, &network.coordinator.address);
    let began = Instant::now();
    let cases = [
        (gateway, "POST", "/v1/chat/completions", None),
        (coordinator, "POST", "/v1/sealed", None),
        (coordinator, "POST", "/v1/sealed", Some("db-key-of-nobody")),
        (coordinator, "PUT", "/admin/v1/blobs", Some(&*network.key)),
        (coordinator, "POST", "/admin/v1/accounts", None),
    ];
    for (address, method, path, key) in cases {
        let (status, said) = answer(announced(address, method, path, key));
        assert!(matches!(status, 401 | 403), "{method} {path}: {status} {said}");
    }
    // Each would have waited half a minute for its body.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_body_that_trickles_is_refused_after_half_a_minute() {
    let network = Network::start();
    let (gateway, coordinator) = (&network.gateway.address, &network.coordinator.address);
    let cases = [
        (gateway, "POST", "/v1/chat/completions", &network.key),
        (coordinator, "POST", "/v1/sealed", &network.key),
        (coordinator, "PUT", "/admin/v1/blobs", &network.coordinator.admin_key),
        (coordinator, "POST", "/admin/v1/accounts", &network.coordinator.admin_key),
    ];
    thread::scope(|scope| {
        for (address, method, path, key) in cases {
            scope.spawn(move || {
                let began = Instant::now();
                let stream = announced(address, method, path, Some(key));
                let mut writer = stream.try_clone().unwrap();
                let trickle = thread::spawn(move || {
                    while writer.write_all(b" ").is_ok() {
                        thread::sleep(Duration::from_secs(1));
                    }
                });
                let (status, said) = answer(stream);
                assert_eq!(status, 400, "{method} {path}: {said}");
                assert!(said.contains("the body did not arrive within 30 s"), "{method} {path}: {said}");
                let took = began.elapsed().as_secs();
                assert!((29..50).contains(&took), "{method} {path}: {took} s");
                trickle.join().unwrap();
            });
        }
        // Meanwhile others are served.
        assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    });
}

#[test]
fn a_head_that_does_not_come_closes_the_connection() {
    let network = Network::start();
    let addresses = [&network.gateway.address, &network.coordinator.address];
    thread::scope(|scope| {
        for address in addresses {
            for begin in ["", "GET /healthz HTTP/1.1\r\nhost: "] {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.write_all(begin.as_bytes()).unwrap();
                    let began = Instant::now();
                    let mut rest = Vec::new();
                    // A reset is an end as well.
                    let _ = stream.read_to_end(&mut rest);
                    let took = began.elapsed().as_secs();
                    assert!((8..25).contains(&took), "`{begin}`: {took} s");
                });
            }
        }
    });
}

/// Asks to become a provider's WebSocket, and says nothing more.
fn stranger(coordinator: &Coordinator) -> (u16, TcpStream) {
    let mut stream = TcpStream::connect(&coordinator.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET /v1/provider HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        coordinator.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    let line = String::from_utf8(line.to_vec()).unwrap();
    (line.strip_prefix("HTTP/1.1 ").unwrap().parse().unwrap(), stream)
}

#[test]
fn strangers_who_do_not_introduce_themselves_are_counted() {
    let network = Network::start();
    // The provider that is there has introduced itself, so that it takes none of the places.
    let strangers: Vec<_> = (0..256).map(|_| stranger(&network.coordinator)).collect();
    assert!(strangers.iter().all(|(status, _)| *status == 101), "there is a place for each");
    let (status, stream) = stranger(&network.coordinator);
    assert_eq!(status, 503);
    let (_, said) = {
        let mut input = BufReader::new(stream);
        let mut said = String::new();
        let mut line = String::new();
        while input.read_line(&mut line).unwrap() > 2 {
            said.push_str(&line);
            line.clear();
        }
        (status, said.to_ascii_lowercase())
    };
    assert!(said.contains("retry-after: "), "{said}");
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42", "nobody else notices");
    drop(strangers);
    until("a place is free again", || (stranger(&network.coordinator).0 == 101).then_some(()));
}

#[test]
fn one_account_cannot_hold_every_place() {
    const MOST: i64 = 64;
    let network = Network::endless(1);
    let body = ask_with("Count from 1 to 9.", json!({"max_tokens": 4}));
    let worst = 256 * PRICE.0 + 4 * PRICE.1;
    network.chat(&body);
    network.providers[0].process.pause();
    thread::scope(|scope| {
        let calls: Vec<_> = (0..MOST).map(|_| scope.spawn(|| network.chat(&body).status)).collect();
        until("all of them hold their money", || {
            (network.coordinator.balance(&network.key).1 == MOST * worst).then_some(())
        });
        // The gateway counts by key; by a second key it is the coordinator that counts.
        let second = network.coordinator.key("consumer", Some("first"));
        for key in [&network.key, &second] {
            let refused = network.gateway.chat(key, &body);
            let error = refused.json()["error"].clone();
            assert_eq!((refused.status, error["code"].as_str()), (429, Some("rate_limit_exceeded")), "{error}");
            assert_eq!(error["type"], "rate_limit_error");
            assert!(refused.header("retry-after").is_some());
        }
        // Another account is taken on.
        let other = network.coordinator.account("other", CREDIT);
        let another = scope.spawn({
            let (other, body, network) = (other.clone(), &body, &network);
            move || network.gateway.chat(&other, body).status
        });
        until("the other's request holds its money", || (network.coordinator.balance(&other).1 == worst).then_some(()));
        network.providers[0].process.resume();
        for call in calls {
            assert_ne!(call.join().unwrap(), 429);
        }
        assert_ne!(another.join().unwrap(), 429);
    });
    assert_eq!(network.chat(&body).status, 200, "what ended counts no more");
    network.books_close();
}

fn catalogue_add(coordinator: &Coordinator, file: &std::path::Path, name: &str) -> Ended {
    let mut command = command(&["catalogue", "add"]);
    command.arg(file).args(["--name", name, "--quantisation", "Q8_0", "--input-price", "1", "--output-price", "1"]);
    command.env("DARKBLOOM_COORDINATOR", &coordinator.url).env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key);
    run(&mut command)
}

fn names(coordinator: &Coordinator) -> Vec<String> {
    let catalogue = http::request(&coordinator.address, "GET", "/v1/catalogue", &[], b"").json();
    let names = catalogue["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn a_damaged_model_is_not_put_on_offer() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    let good = std::fs::read(model_file()).unwrap();
    for length in [good.len() - 1, good.len() / 2, good.len() / 4] {
        let file = folder.path().join(format!("cut-{length}.gguf"));
        std::fs::write(&file, &good[..length]).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let ended = catalogue_add(&coordinator, &file, "lab/cut");
        ended.failed_saying(&["cannot use the model file", &name, "the file is cut short", "hint: get the file again"]);
    }
    assert!(names(&coordinator).is_empty(), "nothing was added");
    assert!(catalogue_add(&coordinator, &model_file(), "lab/whole").status.success());
    assert_eq!(names(&coordinator), ["lab/whole"]);
}

#[test]
fn an_entry_that_could_not_be_read_again_is_refused_before_anything_changes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("coordinator");
    let mut coordinator = Coordinator::start(&data);
    coordinator.offer_model(&model_file());
    let catalogue =
        |coordinator: &Coordinator| http::request(&coordinator.address, "GET", "/v1/catalogue", &[], b"").json();
    let before = catalogue(&coordinator);
    let item = &before["models"][0];
    let blob = coordinator.call("PUT", "/admin/v1/blobs", &coordinator.admin_key, b"a text pack").json();
    for (name, quantisation) in
        [(item["name"].as_str().unwrap(), "Q".repeat(600)), (&*"n".repeat(600), "Q8_0".to_owned())]
    {
        let entry = json!({
            "name": name, "weights": "ab".repeat(32), "text_pack": blob["digest"], "context": 8,
            "quantisation": quantisation, "price_version": 9, "input_nano_per_token": 9, "output_nano_per_token": 9,
        });
        let refused =
            coordinator.call("PUT", "/admin/v1/catalogue", &coordinator.admin_key, entry.to_string().as_bytes());
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("the entry: "), "{}", refused.text());
    }
    assert_eq!(catalogue(&coordinator), before, "neither entry nor price changed");
    assert!(coordinator.process.stop().success());
    coordinator.again();
    assert_eq!(catalogue(&coordinator), before, "and it starts again");
}

#[test]
fn the_sixty_fifth_model_is_refused_by_name_and_sixty_four_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let catalogue = http::request(&coordinator.address, "GET", "/v1/network", &[], b"");
    assert_eq!(catalogue.status, 200);
    let blob = coordinator.call("PUT", "/admin/v1/blobs", &coordinator.admin_key, b"a text pack").json();
    let offer = |name: &str, version: u32| {
        let entry = json!({
            "name": name, "weights": "ab".repeat(32), "text_pack": blob["digest"], "context": 8, "quantisation": "Q8_0",
            "price_version": version, "input_nano_per_token": 1, "output_nano_per_token": 1,
        });
        coordinator.call("PUT", "/admin/v1/catalogue", &coordinator.admin_key, entry.to_string().as_bytes())
    };
    for number in 1..64 {
        let added = offer(&format!("lab/model-{number}"), 1);
        assert_eq!(added.status, 200, "{}", added.text());
    }
    let refused = offer("lab/one-too-many", 1);
    assert_eq!(refused.status, 400, "{}", refused.text());
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("`lab/one-too-many` would be one model too many"), "{message}");
    assert!(message.contains("at most 64"), "{message}");
    catalogue_add(&coordinator, &model_file(), "lab/another").failed_saying(&["`lab/another`", "at most 64"]);
    let renewed = offer("lab/model-1", 2);
    assert_eq!(renewed.status, 200, "a new edition takes no place: {}", renewed.text());
    assert_eq!(names(&coordinator).len(), 64);

    // A full catalogue is one that a provider reads and a client uses.
    let token = coordinator.key("join", None);
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    coordinator.eligible(1);
    let gateway = Surface::gateway(&coordinator, &[&provider.id]);
    let key = coordinator.account("first", CREDIT);
    assert_eq!(gateway.chat(&key, &ask("What is 17 + 25?")).answer(), "42");
}

#[test]
fn anybody_gets_the_text_packs_of_the_catalogue_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    let blob = |digest: &str| http::request(&coordinator.address, "GET", &format!("/v1/blobs/{digest}"), &[], b"");
    let pack = b"a text pack that no model needs yet";
    let put = coordinator.call("PUT", "/admin/v1/blobs", &coordinator.admin_key, pack).json();
    let digest = put["digest"].as_str().unwrap();
    assert_eq!(blob(digest).status, 404, "nobody can make the database search for what no model needs");
    assert_eq!(blob(&"00".repeat(32)).status, 404);
    assert_eq!(blob("none").status, 404);
    let entry = json!({
        "name": MODEL, "weights": "ab".repeat(32), "text_pack": digest, "context": 8, "quantisation": "Q8_0",
        "price_version": 1, "input_nano_per_token": 1, "output_nano_per_token": 1,
    });
    coordinator.admin("PUT", "/admin/v1/catalogue", &entry);
    for _ in 0..2 {
        let got = blob(digest);
        assert_eq!((got.status, &*got.body), (200, &pack[..]), "from the database, then from memory");
        assert!(got.header("cache-control").unwrap().contains("immutable"));
    }
}

#[test]
fn a_silent_stream_says_that_it_lives_and_then_goes_on() {
    let network = Network::endless(1);
    let limit = 900;
    let body = ask_with("Count from 1 to 9.", json!({"stream": true, "max_tokens": limit}));
    let mut reading = network.gateway.open_chat(&network.key, &body).unwrap();
    let mut seen = first_content(&mut reading);
    let provider = &network.providers[0].process;
    provider.pause();
    // What was on its way still comes; then nothing but comments does.
    let began = Instant::now();
    let comment = loop {
        let piece = reading.chunk().unwrap().expect("the answer is not over");
        let text = String::from_utf8(piece.clone()).unwrap();
        seen.extend_from_slice(&piece);
        if text.starts_with(':') {
            break text;
        }
        assert!(text.starts_with("data: ") && !text.contains("[DONE]"), "{text}");
    };
    assert_eq!(comment, ": keep-alive\n\n");
    let silence = began.elapsed().as_secs();
    assert!((9..20).contains(&silence), "after {silence} s");
    provider.resume();
    let whole = rest(reading, seen);
    let events = whole.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(network.coordinator.usage(&network.key)[0]["output_tokens"], limit, "nothing of it is missing");
    assert!(whole.comment("x-darkbloom").is_some_and(|verified: Value| verified["receipt"].is_string()));
    network.books_close();
}
