//! A page in the consumer's browser is no program of the consumer's.

use crate::support::http;
use crate::support::network::{Network, Surface, ask};

#[test]
fn a_page_in_a_browser_cannot_use_the_proxy() {
    let network = Network::start();
    let proxy = Surface::proxy(&network.coordinator, &network.ids(), &network.key);
    let body = ask("What is 17 + 25?").to_string();
    let port = proxy.address.rsplit_once(':').unwrap().1.to_owned();
    let local = format!("http://127.0.0.1:{port}");
    // Pages everywhere: elsewhere, in a file, on the same machine, and in a frame without an origin.
    for origin in ["https://evil.example", "null", "http://localhost:3000", &local, "file://", ""] {
        for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let headers = [("origin", origin), ("content-type", kind)];
            let refused = http::request(&proxy.address, "POST", "/v1/chat/completions", &headers, body.as_bytes());
            assert_eq!(refused.status, 403, "{origin:?} {kind}: {}", refused.text());
        }
        for (method, path) in [("OPTIONS", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/healthz")] {
            let asked = [("origin", origin), ("access-control-request-method", "POST")];
            let refused = http::request(&proxy.address, method, path, &asked, b"");
            assert_eq!(refused.status, 403, "{origin:?} {method} {path}");
            let allows = |(name, _): &(String, String)| name.starts_with("access-control-");
            assert!(!refused.headers.iter().any(allows), "nothing is allowed to a page: {:?}", refused.headers);
        }
    }
    network.books_close();
    assert!(network.coordinator.usage(&network.key).is_empty(), "nothing of it cost anything");
}

#[test]
fn a_name_that_was_bent_to_this_machine_does_not_reach_the_proxy() {
    let network = Network::start();
    let proxy = Surface::proxy(&network.coordinator, &network.ids(), &network.key);
    let body = ask("What is 17 + 25?").to_string();
    let port = proxy.address.rsplit_once(':').unwrap().1.to_owned();
    let bent = [
        format!("evil.example:{port}"),
        "evil.example".to_owned(),
        format!("127.0.0.1.evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("evil-localhost:{port}"),
        format!("127.0.0.2:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        "2130706433".to_owned(),
        String::new(),
    ];
    for host in &bent {
        for path in ["/v1/chat/completions", "/v1/models", "/healthz"] {
            let method = if path == "/v1/chat/completions" { "POST" } else { "GET" };
            let refused = http::request(&proxy.address, method, path, &[("host", host)], body.as_bytes());
            assert!(matches!(refused.status, 400 | 403), "{host} {path}: {}", refused.status);
        }
    }
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "localhost".to_owned()] {
        let answer = http::request(&proxy.address, "POST", "/v1/chat/completions", &[("host", &host)], body.as_bytes());
        assert_eq!(answer.answer(), "42", "{host}");
    }
    assert_eq!(network.coordinator.usage(&network.key).len(), 3);
}

#[test]
fn a_page_in_a_browser_gets_nothing_from_gateway_and_coordinator_either() {
    let network = Network::start();
    let body = ask("What is 17 + 25?").to_string();
    let origin = [("origin", "https://evil.example"), ("content-type", "text/plain"), ("cookie", "key=1")];
    let refused = http::request(&network.gateway.address, "POST", "/v1/chat/completions", &origin, body.as_bytes());
    assert_eq!(refused.status, 401, "a page has no key, and no cookie stands for one");
    for path in ["/admin/v1/keys", "/v1/balance", "/v1/usage"] {
        assert_eq!(http::request(&network.coordinator.address, "GET", path, &origin, b"").status, 401, "{path}");
    }
    for address in [&network.gateway.address, &network.coordinator.address] {
        for path in ["/healthz", "/v1/models", "/v1/network"] {
            let answer = http::request(address, "GET", path, &origin, b"");
            let allows = |(name, _): &(String, String)| name.starts_with("access-control-");
            assert!(!answer.headers.iter().any(allows), "a page may not read it: {:?}", answer.headers);
        }
    }
}
