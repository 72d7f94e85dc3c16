//! A coordinator that lies about who there is: nothing is sealed to whom it should not be sealed to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_types::{Digest, RefusalCode};
use darkbloom_wire::{
    CandidateList, CatalogueEntry, CoordinatorTiming, LengthPrefixed, Relayed, Reseal, Statement, limits,
};
use serde_json::json;

use super::hostile::middle::Middle;
use super::hostile::provider::Hostile;
use super::hostile::{failed, minutes_from_now, surface};
use crate::support::http;
use crate::support::network::{CREDIT, MODEL, Network, Surface, ask, ask_with};

/// The coordinator's own key, as a dishonest operator has it.
fn operator(network: &Network) -> Arc<SoftwareKey> {
    Arc::new(SoftwareKey::load_or_create(&network.coordinator.data.join("coordinator.key")).unwrap())
}

/// A gateway behind a liar; it knows nothing yet.
fn behind(middle: &Middle, network: &Network) -> Surface {
    surface("gateway", &middle.url, &network.coordinator.pin, &network.ids(), |_| {})
}

/// What each of these changes in a list that the operator signs again must end in.
#[track_caller]
fn caught(
    network: &Network,
    lie: &str,
    change: &(impl Fn(&mut CandidateList) + Clone + Send + 'static),
    codes: &[&str],
) {
    let (middle, key, change) = (Middle::before(&network.coordinator.address), operator(network), change.clone());
    middle.tell(move |path, body| {
        if path != "/v1/candidates" {
            return body;
        }
        let mut list = CandidateList::open(&body, &key.public_key()).unwrap();
        change(&mut list);
        list.sign(&*key).unwrap()
    });
    let gateway = behind(&middle, network);
    for stream in [false, true] {
        let answer = gateway.chat(&network.key, &ask_with("What is 17 + 25?", json!({"stream": stream})));
        let error = failed(lie, &answer);
        assert!(codes.contains(&&*error.code), "{lie}: {error:?}");
    }
}

/// What stands for nobody whom this gateway would seal to.
const NOBODY: [&str; 2] = ["no_eligible_provider", "tier_not_met"];

/// To be sealed again to these.
fn reseal(candidates: &[u8]) -> Reseal {
    let (code, timing) = (RefusalCode::UnknownEpoch.number(), CoordinatorTiming::NONE);
    Reseal { candidates: candidates.to_vec(), code, attempts: Vec::new().into(), timing }
}

#[test]
fn a_candidate_list_of_another_time_or_network_is_refused() {
    let network = Network::start();
    caught(&network, "an old list", &|list| list.time = minutes_from_now(-11), &["clock_skew"]);
    caught(&network, "a list of tomorrow", &|list| list.time = minutes_from_now(60 * 24), &["clock_skew"]);
    caught(&network, "another network's", &|list| list.network.0[0] ^= 1, &["wrong_network"]);
    caught(&network, "nobody", &|list| list.candidates.0.clear(), &NOBODY);
    let coordinator = operator(&network).public_key();
    let signed = |name: &str, key: Arc<SoftwareKey>| {
        let (name, coordinator) = (name.to_owned(), coordinator.clone());
        move |list: &mut CandidateList| {
            let mut entry = CatalogueEntry::open(&list.entry, &coordinator).unwrap();
            entry.name.clone_from(&name);
            entry.weights = Digest([1; 32]);
            list.entry = entry.sign(&*key).unwrap();
        }
    };
    let stranger = Arc::new(SoftwareKey::in_memory().unwrap());
    caught(&network, "an entry that a stranger signed", &signed(MODEL, stranger), &["verification_failed"]);
    caught(&network, "another model", &signed("other", operator(&network)), &["verification_failed"]);
    caught(&network, "another model of the same name", &signed(MODEL, operator(&network)), &NOBODY);
    caught(&network, "no entry", &|list| list.entry.clear(), &["verification_failed"]);
    let missing = {
        let (key, coordinator) = (operator(&network), coordinator.clone());
        move |list: &mut CandidateList| {
            let mut entry = CatalogueEntry::open(&list.entry, &coordinator).unwrap();
            entry.text_pack = Digest([1; 32]);
            list.entry = entry.sign(&*key).unwrap();
        }
    };
    // What the coordinator lacks is no fault in the caller's address.
    caught(
        &network,
        "a tokenizer that nobody has",
        &missing,
        &["verification_failed", "internal", "no_eligible_provider"],
    );
    // The change alone is the lie: signed again as it was, the list is good.
    let (middle, key) = (Middle::before(&network.coordinator.address), operator(&network));
    middle.tell(move |path, body| match path {
        "/v1/candidates" => CandidateList::open(&body, &key.public_key()).unwrap().sign(&*key).unwrap(),
        _ => body,
    });
    assert_eq!(behind(&middle, &network).chat(&network.key, &ask("What is 17 + 25?")).answer(), "42");
    network.books_close();
}

#[test]
fn nobody_takes_a_pinned_providers_place() {
    let network = Network::start();
    // The attacker really is a provider of this network, but not one that the gateway's operator named.
    let attacker = Hostile::join(&network.coordinator);
    network.coordinator.eligible(2);
    let own = attacker.statement();
    let everywhere = own.clone();
    let in_place = move |list: &mut CandidateList| {
        for candidate in &mut list.candidates.0 {
            candidate.statement.clone_from(&everywhere);
        }
    };
    caught(&network, "the attacker in everybody's place", &in_place, &NOBODY);
    let sealing_key = Statement::open_self_signed(&own).unwrap().sealing_key;
    let under_its_name = move |list: &mut CandidateList| {
        for candidate in &mut list.candidates.0 {
            let mut statement = Statement::open_self_signed(&candidate.statement).unwrap();
            statement.sealing_key.clone_from(&sealing_key);
            // The attacker can sign, but not as the one that the statement names.
            candidate.statement = statement.sign(&attacker.key).unwrap();
        }
    };
    caught_once(&network, "the attacker's key under the honest name", under_its_name, &NOBODY);
    let changed = |at: usize| {
        move |list: &mut CandidateList| {
            for candidate in &mut list.candidates.0 {
                candidate.statement[at] ^= 1;
            }
        }
    };
    for at in [100, 300, 1_000, 1_300] {
        caught(&network, "a bit of every statement", &changed(at), &NOBODY);
    }
    assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0), "nothing was sealed to anybody");
}

/// As `caught`, for a change that owns a key.
#[track_caller]
fn caught_once(
    network: &Network,
    lie: &str,
    change: impl Fn(&mut CandidateList) + Send + Sync + 'static,
    codes: &[&str],
) {
    let change = Arc::new(change);
    caught(network, lie, &move |list: &mut CandidateList| change(list), codes);
}

#[test]
fn what_the_pinned_coordinator_did_not_sign_is_not_believed() {
    let network = Network::start();
    let key = operator(&network);
    let stranger = SoftwareKey::in_memory().unwrap();
    let answers = |middle: &Middle| failed("", &behind(middle, &network).chat(&network.key, &ask("What is 17 + 25?")));
    let middle = Middle::before(&network.coordinator.address);
    middle.tell(move |path, body| match path {
        "/v1/candidates" => CandidateList::open(&body, &key.public_key()).unwrap().sign(&stranger).unwrap(),
        _ => body,
    });
    assert_eq!(answers(&middle).code, "verification_failed", "a list that a stranger signed");
    for (path_of_lie, what) in [
        ("/v1/candidates", "verification_failed"),
        ("/v1/network", "verification_failed"),
        ("/v1/sealed", "verification_failed"),
    ] {
        for lie in [&b"<html><body>Sign in to the WiFi</body></html>"[..], b"", b"{}", b"\xff\x00", b"[[[[[[[["] {
            middle.tell(move |path, body| if path == path_of_lie { lie.to_vec() } else { body });
            let error = answers(&middle);
            let cut = path_of_lie == "/v1/sealed" && error.code == "answer_cut";
            assert!(error.code == what || cut, "{path_of_lie}: {error:?}");
        }
    }
    // A tokenizer that is not the one in the catalogue would count a prompt otherwise.
    middle.tell(|path, mut body| {
        if path.starts_with("/v1/blobs/") {
            let at = body.len() / 2;
            body[at] ^= 1;
        }
        body
    });
    assert_eq!(answers(&middle).code, "verification_failed");
    // A catalogue's entries are believed only if the coordinator signed them.
    middle.tell(|path, body| match path {
        "/v1/catalogue" => {
            let mut catalogue: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let entry = catalogue["models"][0]["entry"].as_str().unwrap().replacen("64", "65", 1);
            catalogue["models"][0]["entry"] = entry.into();
            catalogue.to_string().into_bytes()
        }
        _ => body,
    });
    let models = http::request(&behind(&middle, &network).address, "GET", "/v1/models", &[], b"");
    assert_eq!(failed("a catalogue", &models).code, "verification_failed");
    middle.honest();
    assert_eq!(behind(&middle, &network).chat(&network.key, &ask("What is 17 + 25?")).answer(), "42");
}

#[test]
fn a_demand_to_seal_again_leads_neither_astray_nor_round_for_ever() {
    let network = Network::start();
    let attacker = Hostile::join(&network.coordinator);
    network.coordinator.eligible(2);
    let key = operator(&network);
    let genuine = network.coordinator.call("GET", &format!("/v1/candidates?model={MODEL}"), &network.key, b"").body;
    let list = |change: &dyn Fn(&mut CandidateList), signer: &SoftwareKey| {
        let mut list = CandidateList::open(&genuine, &key.public_key()).unwrap();
        change(&mut list);
        list.sign(signer).unwrap()
    };
    let stranger = SoftwareKey::in_memory().unwrap();
    let statement = attacker.statement();
    let astray = |it: &mut CandidateList| it.candidates.0.iter_mut().for_each(|it| it.statement.clone_from(&statement));
    let cases = [
        ("a list that a stranger signed", list(&|_| {}, &stranger), vec!["verification_failed"]),
        ("an old list", list(&|it| it.time = minutes_from_now(-11), &key), vec!["clock_skew"]),
        ("no list", Vec::new(), vec!["verification_failed"]),
        ("a list of attackers", list(&astray, &key), NOBODY.to_vec()),
        ("a good list, again and again", genuine.clone(), vec!["reseal_exhausted"]),
    ];
    for (lie, candidates, codes) in cases {
        let middle = Middle::before(&network.coordinator.address);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        middle.tell(move |path, body| {
            if path != "/v1/sealed" {
                return body;
            }
            count.fetch_add(1, Ordering::Relaxed);
            LengthPrefixed::wrap(&Relayed::from(reseal(&candidates)).encode())
        });
        let error = failed(lie, &behind(&middle, &network).chat(&network.key, &ask("What is 17 + 25?")));
        assert!(codes.contains(&&*error.code), "{lie}: {error:?}");
        let most = 1 + limits::RESEALS_MAX as usize;
        assert!(asked.load(Ordering::Relaxed) <= most, "{lie}: sealed {} times", asked.load(Ordering::Relaxed));
    }
    // After content nothing is sealed again: the consumer would get two beginnings.
    let middle = Middle::before(&network.coordinator.address);
    middle.tell_frames(move |frames| {
        let end = frames.len() - 2;
        frames[end] = reseal(&genuine).into();
    });
    let body = ask_with("Count from 1 to 30.", json!({"stream": true}));
    assert_eq!(failed("late", &behind(&middle, &network).chat(&network.key, &body)).code, "verification_failed");
}
