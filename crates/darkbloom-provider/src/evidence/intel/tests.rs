//! A quote and Intel's word that are real, from a service on this machine that says it as Intel's does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use darkbloom_attest::{HardwareTrust, TdxError, verify_tdx};
use darkbloom_host::clock;
use darkbloom_keys::{Identity, IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_types::{Digest, NetworkId, UnixMillis};
use darkbloom_wire::{Decoded, ProviderFrame, Statement, epoch_nonce};
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::evidence::machine::{self, Kernel};
use crate::evidence::tests::base64;
use crate::signatory::Signatory;
use crate::stating::{Stated, Stating};

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../../darkbloom-attest/tests/shared/platform.rs"]
mod platform;

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
    let signature = |name: &str| bytes(name).try_into().unwrap();
    let quote = bytes("quote");
    let word = TdxEvidence {
        quote: Vec::new(),
        tcb_info: bytes("tcb_info"),
        tcb_info_signature: signature("tcb_info_signature"),
        qe_identity: bytes("qe_identity"),
        qe_identity_signature: signature("qe_identity_signature"),
        signer: bytes("signer"),
        platform_crl: bytes("platform_crl"),
        // As a cache writes it.
        root_crl: text("root_crl").into_bytes(),
    };
    let (answers, asked) = (said(&word), quote[48 + 520..48 + 584].try_into().unwrap());
    Real { quote, asked, time: UnixMillis(real["time"].as_i64().unwrap()), answers }
}

/// A service that gives so many answers, and then what it was asked for.
fn service(answers: Answers, times: usize) -> (Intel, JoinHandle<Vec<String>>) {
    let (url, answering) = serve(answers, times);
    (Intel::new(url), answering)
}

/// The same, by its address.
fn serve(answers: Answers, times: usize) -> (Url, JoinHandle<Vec<String>>) {
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
    (url, answering)
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

/// What Intel says of a platform of the tests' own, until long after this year, by path.
fn said(word: &TdxEvidence) -> Answers {
    let signed = |what: &str, text: &[u8], signature: &[u8; 64]| {
        let text = String::from_utf8_lossy(text);
        format!("{{\"{what}\":{text},\"signature\":\"{}\"}}", hex::encode(signature)).into_bytes()
    };
    let chain = format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", base64(&word.signer));
    let chain = chain.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let levels = signed("tcbInfo", &word.tcb_info, &word.tcb_info_signature);
    let enclave = signed("enclaveIdentity", &word.qe_identity, &word.qe_identity_signature);
    let answers = [
        ("/tdx/certification/v4/tcb?fmspc=B0C06F000000", levels, Some(chain)),
        ("/tdx/certification/v4/qe/identity", enclave, None),
        ("/sgx/certification/v4/pckcrl?ca=platform&encoding=der", word.platform_crl.clone(), None),
        ("/sgx/certification/v4/rootcacrl", word.root_crl.clone(), None),
    ];
    answers.map(|(path, body, chain)| (path.to_owned(), (body, chain))).into()
}

/// The first quote, for the introduction, failed, so nothing seemed to be missing; a challenge had the next one made, which needs
/// Intel's word: the epoch's statement says more as soon as that is there, and the next epoch need not come first.
#[tokio::test]
async fn intel_is_asked_within_an_epoch_whose_first_quote_failed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let platform = Arc::new(platform::Platform::new());
    let draft = |asked: &[u8; 64]| {
        let mut draft = platform::Draft::about(asked);
        draft.levels = draft.levels.replace("2029", "2044");
        draft.enclaves = draft.enclaves.replace("2029", "2044");
        draft.year = 2042;
        draft
    };
    let (url, service) = serve(said(&platform.evidence(&draft(&[0; 64]))), 4);
    let machine = Arc::clone(&platform);
    let kernel = Kernel::of("tdx_guest", move |asked| machine.evidence(&draft(&asked)).quote);
    let found = machine::platform(folder.path().to_owned(), kernel, |config| config.tdx_collateral = url);
    let identity = SoftwareKey::in_memory().unwrap();
    let point = identity.public_point();
    let (identity, words) = (Identity::Software(identity), folder.path().join("words"));
    let signatory = Signatory::new(identity, found, Vec::new(), words).unwrap();
    let epoch = Epoch::begin(point, clock::now(), &mut clock::rng());
    let (out, mut sent) = mpsc::channel(8);
    let stating = Stating::new(signatory, Stated { epoch: epoch.id(), worth: 0, complete: true, rekeyed: 0 }, out);
    let mut said = async || {
        let frame = tokio::time::timeout(Duration::from_secs(20), sent.recv()).await.expect("something is said");
        let Ok(Decoded::Known(frame, _)) = ProviderFrame::decode(&frame.unwrap()) else { panic!("no frame") };
        frame
    };
    stating.prove(|_| Digest([7; 32]));
    let ProviderFrame::ChallengeAnswer(answer) = said().await else { panic!("it is a proof") };
    assert_eq!(answer.presence.0, [], "Intel's word is not there yet");
    stating.state(epoch.id(), epoch.statement(NetworkId([1; 32]), Vec::new(), Vec::new(), "test"));
    let ProviderFrame::EpochUpdate(update) = said().await else { panic!("it is a statement") };
    let statement = Statement::open_self_signed(&update.statement).unwrap();
    assert_eq!(statement.epoch(), epoch.id());
    let Statement { sealing_key, receipt_key, identity, not_before, evidence, .. } = statement;
    let nonce = epoch_nonce(&sealing_key, &receipt_key, &identity, not_before);
    let middle = UnixMillis(2_290_000_000_000);
    verify_tdx(&evidence.0[0].bytes, &nonce, &platform.roots(), middle).unwrap();
    assert_eq!(service.join().unwrap().len(), 4);
}

#[test]
fn intels_own_service_has_its_roots_list_elsewhere() {
    let of = |service: &str| Intel::new(Url::parse(service).unwrap()).root_list();
    assert_eq!(of(SERVICE), ROOT_LIST);
    assert_eq!(of("https://cache.example:8081/"), "https://cache.example:8081/sgx/certification/v4/rootcacrl");
    assert_eq!(of("http://cache.example/intel"), "http://cache.example/intel/sgx/certification/v4/rootcacrl");
}
