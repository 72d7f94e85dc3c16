//! A quote and Intel's word that are real, from a service on this machine that says it as Intel's does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

use darkbloom_attest::{HardwareTrust, TdxError, verify_tdx};
use darkbloom_types::{Digest, UnixMillis};
use serde_json::Value;

use super::*;
use crate::evidence::tests::base64;

/// A real quote, what it was asked about, when it counted, and what Intel said.
struct Real {
    quote: Vec<u8>,
    asked: [u8; 64],
    time: UnixMillis,
    answers: Answers,
}

/// Answers by path: the body, and the chain in the header.
type Answers = BTreeMap<String, (Vec<u8>, Option<String>)>;

fn real() -> Real {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/tdx-quotes.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let real = file["real"][0].take();
    let text = |name: &str| real[name].as_str().unwrap().to_owned();
    let bytes = |name: &str| hex::decode(text(name)).unwrap();
    let said = |name: &str| String::from_utf8(bytes(name)).unwrap();
    let signed = |what: &str, name: &str| {
        format!("{{\"{what}\":{},\"signature\":\"{}\"}}", said(name), text(&format!("{name}_signature"))).into_bytes()
    };
    // The last certificate of the quote is the root, and the service says the chain: who signed, then the root.
    let chain = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", base64(&bytes("signer")));
    let chain = chain.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answers = [
        ("/tdx/certification/v4/tcb?fmspc=B0C06F000000", signed("tcbInfo", "tcb_info"), Some(chain)),
        ("/tdx/certification/v4/qe/identity", signed("enclaveIdentity", "qe_identity"), None),
        ("/sgx/certification/v4/pckcrl?ca=platform&encoding=der", bytes("platform_crl"), None),
        ("/sgx/certification/v4/rootcacrl", text("root_crl").into_bytes(), None),
    ];
    let quote = bytes("quote");
    let asked = quote[48 + 520..48 + 584].try_into().unwrap();
    let answers = answers.map(|(path, body, chain)| (path.to_owned(), (body, chain))).into();
    Real { quote, asked, time: UnixMillis(real["time"].as_i64().unwrap()), answers }
}

/// A service that gives so many answers, and then what it was asked for.
fn service(answers: Answers, times: usize) -> (Intel, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let answering = std::thread::spawn(move || {
        let answer = |_| {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines().map(Result::unwrap);
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            lines.find(String::is_empty).unwrap();
            let head = match answers.get(&path) {
                Some((body, chain)) => {
                    let chain =
                        chain.as_ref().map_or_else(String::new, |chain| format!("TCB-Info-Issuer-Chain: {chain}\r\n"));
                    format!("HTTP/1.1 200 OK\r\n{chain}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                }
                None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            };
            socket.write_all(head.as_bytes()).unwrap();
            // Who has heard enough closes.
            let _ = socket.write_all(answers.get(&path).map_or(&[], |(body, _)| body));
            path
        };
        (0..times).map(answer).collect()
    });
    (Intel::new(url), answering)
}

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    crate::signatory::client().unwrap()
}

#[tokio::test]
async fn a_quote_is_evidence_once_intel_was_asked() {
    let Real { mut quote, asked, time, answers } = real();
    let (intel, service) = service(answers, 4);
    assert!(!intel.is_due(time) && !intel.is_missing(time), "without a quote there is nothing to ask");
    intel.renew(&http(), time).await.unwrap();
    // What a host gives may go on with zeros.
    quote.extend([0; 70]);
    assert!(matches!(intel.evidence(quote.clone(), &asked, time), Err(TsmError::NoCollateral)));
    assert!(intel.is_due(time) && intel.is_missing(time));
    intel.renew(&http(), time).await.unwrap();
    assert!(!intel.is_due(time) && !intel.is_missing(time));
    let evidence = intel.evidence(quote.clone(), &asked, time).unwrap();
    // It was asked about something else than keys of a provider of ours: all else holds, by the root that ships.
    let roots = HardwareTrust::default().intel_roots;
    let verified = verify_tdx(&evidence.encode(), &Digest([0; 32]), &roots, time);
    assert_eq!(verified, Err(TdxError::OtherSubject));
    intel.renew(&http(), time).await.unwrap();
    assert_eq!(service.join().unwrap().len(), 4, "what is new is not asked for again");
    let after = |days: u64| time.after(Millis::from_minutes(days * 24 * 60));
    assert!(intel.is_due(after(1)) && !intel.is_missing(after(1)), "what is old is asked for while it counts");
    assert!(intel.evidence(quote.clone(), &asked, after(28)).is_ok());
    assert!(intel.is_missing(after(30)));
    assert!(matches!(intel.evidence(quote.clone(), &asked, after(30)), Err(TsmError::NoCollateral)));
    assert!(matches!(intel.evidence(quote, &[0; 64], time), Err(TsmError::OtherSubject)));
    assert!(matches!(intel.evidence(vec![4, 0, 2, 0], &asked, time), Err(TsmError::Quote(TdxError::Malformed))));
}

#[tokio::test]
async fn what_a_service_does_not_say_is_not_made_up() {
    let list = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
    let levels = "/tdx/certification/v4/tcb?fmspc=B0C06F000000";
    let refused = async |times: usize, change: &dyn Fn(&mut Answers)| {
        let Real { quote, asked, mut answers, time } = real();
        change(&mut answers);
        let (intel, service) = service(answers, times);
        assert!(intel.evidence(quote, &asked, time).is_err());
        let error = intel.renew(&http(), time).await.unwrap_err();
        assert!(intel.is_missing(time) && intel.is_due(time), "another time is soon enough");
        assert_eq!(service.join().unwrap().len(), times);
        error.to_string()
    };
    let missing = refused(3, &|answers| drop(answers.remove(list))).await;
    assert_eq!(missing, "revoked platforms: the service answers with HTTP 404");
    let changed = |path: &'static str, body: Vec<u8>| {
        move |answers: &mut Answers| answers.get_mut(path).unwrap().0.clone_from(&body)
    };
    let unusable = "levels of platforms: the service's answer is not usable";
    assert_eq!(refused(1, &changed(levels, vec![b' '; 60 << 10])).await, unusable);
    assert_eq!(refused(4, &changed(levels, b"{\"tcbInfo\":{}}".to_vec())).await, unusable);
    assert_eq!(refused(4, &changed(levels, b"{\"tcbInfo\":{},\"signature\":\"00\"}".to_vec())).await, unusable);
    let long = format!("{{\"tcbInfo\":{{\"a\":\"{}\"}},\"signature\":\"{}\"}}", "a".repeat(13 << 10), "0".repeat(128));
    assert_eq!(refused(4, &changed(levels, long.into_bytes())).await, unusable, "longer than a statement could hold");
    let unlisted = refused(4, &changed(list, b"nothing".to_vec())).await;
    assert_eq!(unlisted, "revoked platforms: the service's answer is not usable");
    let unsigned = refused(4, &|answers| answers.get_mut(levels).unwrap().1 = None).await;
    assert_eq!(unsigned, "the key that signs levels: the service's answer is not usable");
    let garbled = refused(4, &|answers| answers.get_mut(levels).unwrap().1 = Some("%2".to_owned())).await;
    assert_eq!(garbled, "the key that signs levels: the service's answer is not usable");
}

#[test]
fn intels_own_service_has_its_roots_list_elsewhere() {
    let of = |service: &str| Intel::new(Url::parse(service).unwrap()).root_list();
    assert_eq!(of(SERVICE), ROOT_LIST);
    assert_eq!(of("https://cache.example:8081/"), "https://cache.example:8081/sgx/certification/v4/rootcacrl");
    assert_eq!(of("http://cache.example/intel"), "http://cache.example/intel/sgx/certification/v4/rootcacrl");
}
