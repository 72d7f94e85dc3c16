//! Evidence of Apple's two kinds, made by an Apple of our own: what holds, what each check is for, and that no tier comes of it.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

#[path = "shared/apple.rs"]
mod shared;

use std::sync::LazyLock;

use darkbloom_attest::{
    AppleAppAttestError, AppleAppAttestFindings, AppleMdaError, AppleMdaFindings, ChainError, ClaimSource, Freshness,
    HardwareTrust, Roots, TrustPolicy, Verdict, verify_apple_app_attest, verify_apple_mda, verify_statement,
};
use darkbloom_types::{Digest, Millis, NetworkId, Tier, UnixMillis};
use darkbloom_wire::{APPLE_APP_ATTEST_EVIDENCE, APPLE_MDA_EVIDENCE, Evidence, Statement, epoch_nonce};
use p256::ecdsa::SigningKey;
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::{APP, App, Authority, CERTIFIED_AT, Mac, SERIAL, UDID, ZERO, bytes, extensions, sha256, text};

/// In the middle of 2027.
const NOW: UnixMillis = UnixMillis(1_814_400_000_000);
const NONCE: Digest = Digest([5; 32]);

static APPLE: LazyLock<Authority> = LazyLock::new(Authority::new);

fn key() -> (SigningKey, [u8; 65]) {
    let key = SigningKey::from_slice(&[9; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, point)
}

fn mda(change: impl FnOnce(&mut Mac)) -> Result<AppleMdaFindings, AppleMdaError> {
    let (apple, mut mac) = (&*APPLE, Mac::about(&key().1));
    change(&mut mac);
    verify_apple_mda(&mac.evidence(apple).encode(), &key().1, &apple.roots(), NOW)
}

fn trust(apple: &Authority) -> HardwareTrust {
    HardwareTrust {
        apple_enterprise_roots: apple.roots().into(),
        apple_app_attest_roots: apple.roots().into(),
        apple_app_id: Some(APP.to_owned()),
        ..HardwareTrust::default()
    }
}

fn app_attest(change: impl FnOnce(&mut App)) -> Result<AppleAppAttestFindings, AppleAppAttestError> {
    let (apple, mut app) = (&*APPLE, App::about(&key().1, &NONCE.0));
    change(&mut app);
    verify_apple_app_attest(&app.evidence(apple).encode(), &key().1, &NONCE, &trust(apple), NOW)
}

#[test]
fn a_managed_mac_is_told_as_apple_certified_it() {
    let found = mda(|_| ()).unwrap();
    assert_eq!((found.os_version.as_str(), found.sepos_version.as_str()), ("26.4.1", "26.4"));
    assert_eq!(found.made_at, UnixMillis(CERTIFIED_AT));
    assert!(found.root.contains("A root of attestation"), "{}", found.root);
}

#[test]
fn a_certificate_about_another_identity_is_nobodys() {
    let other = |mac: &mut Mac| mac.freshness = Some(sha256(&[&[4; 65]]).to_vec());
    assert_eq!(mda(other), Err(AppleMdaError::OtherKey));
    let without_its_four = |mac: &mut Mac| mac.freshness = Some(sha256(&[&key().1[1..]]).to_vec());
    assert_eq!(mda(without_its_four), Err(AppleMdaError::OtherKey));
    let wrapped = |mac: &mut Mac| mac.freshness = Some([&[4, 32][..], &sha256(&[&key().1])].concat());
    assert_eq!(mda(wrapped), Err(AppleMdaError::OtherKey));
    assert_eq!(mda(|mac| mac.freshness = None), Err(AppleMdaError::OtherKey));
}

#[test]
fn what_a_mac_does_not_say_exactly_does_not_hold() {
    let numbers: [&[u8]; 7] = [&[2, 1, 1], &[2, 1, 0x6f], &[1, 1, 0], &[2, 2, 0, 0], &[2, 1, 0, 0], &[0], b"0"];
    let all = || numbers.iter().map(|value| Some(value.to_vec())).chain([None]);
    for value in all() {
        assert_eq!(mda(|mac| mac.sip = value.clone()), Err(AppleMdaError::Sip), "{value:?}");
        let kernel_extensions = mda(|mac| mac.kernel_extensions = value.clone());
        assert_eq!(kernel_extensions, Err(AppleMdaError::KernelExtensions), "{value:?}");
    }
    for level in
        ["Reduced Security", "Permissive Security", "full security", "Full Security ", "\x0c\x0dFull Security", ""]
    {
        let refused = mda(|mac| mac.secure_boot = Some(level.into()));
        assert_eq!(refused, Err(AppleMdaError::SecureBoot), "{level}");
    }
    assert_eq!(mda(|mac| mac.secure_boot = None), Err(AppleMdaError::SecureBoot));
    for version in [None, Some(vec![]), Some(b"26 4".to_vec()), Some(b"26\n".to_vec()), Some(vec![b'1'; 33])] {
        assert_eq!(mda(|mac| mac.os_version = version.clone()), Err(AppleMdaError::OsVersion), "{version:?}");
        assert_eq!(mda(|mac| mac.sepos_version = version.clone()), Err(AppleMdaError::SepOsVersion), "{version:?}");
    }
    assert!(mda(|mac| mac.sip = Some(ZERO.to_vec())).is_ok());
}

#[test]
fn chains_of_others_and_of_other_times_prove_nothing() {
    let (apple, identity) = (Authority::new(), key().1);
    let evidence = Mac::about(&identity).evidence(&apple);
    let verify = |roots: &Roots, now| verify_apple_mda(&evidence.encode(), &identity, roots, now);
    assert!(verify(&apple.roots(), NOW).is_ok());
    assert_eq!(verify(&HardwareTrust::default().apple_enterprise_roots, NOW), Err(ChainError::NoRoot.into()));
    // Of the same name.
    assert_eq!(verify(&Authority::new().roots(), NOW), Err(ChainError::Signature.into()));
    assert_eq!(verify(&apple.roots(), UnixMillis(CERTIFIED_AT - 1)), Err(ChainError::Time.into()));
    assert_eq!(verify(&apple.roots(), UnixMillis(4_000_000_000_000)), Err(ChainError::Time.into()));
    let app = App::about(&identity, &NONCE.0).evidence(&apple).encode();
    let verify = |trust: &HardwareTrust, now| verify_apple_app_attest(&app, &identity, &NONCE, trust, now);
    assert!(verify(&trust(&apple), NOW).is_ok());
    assert_eq!(verify(&trust(&Authority::new()), NOW), Err(ChainError::Signature.into()));
    assert_eq!(verify(&trust(&apple), UnixMillis(4_000_000_000_000)), Err(ChainError::Time.into()));
    let rootless = HardwareTrust { apple_app_attest_roots: Default::default(), ..trust(&apple) };
    assert_eq!(verify(&rootless, NOW), Err(ChainError::NoRoot.into()));
    // Roots for one kind of evidence are none for the other.
    let enterprise_alone = HardwareTrust { apple_app_attest_roots: Authority::new().roots().into(), ..trust(&apple) };
    assert_eq!(verify(&enterprise_alone, NOW), Err(ChainError::Signature.into()));
}

#[test]
fn an_apps_key_is_told_as_apple_certified_it() {
    let found = app_attest(|_| ()).unwrap();
    assert_eq!((found.app.as_str(), found.certified_at), (APP, UnixMillis(CERTIFIED_AT)));
    assert!(found.access_control);
    assert!(!app_attest(|app| app.access_control = false).unwrap().access_control);
    // Systems before 27 add nothing.
    assert!(app_attest(|app| app.added = [vec![], vec![]]).is_ok());
}

#[test]
fn an_app_that_nobody_named_is_not_believed() {
    let (apple, identity) = (Authority::new(), key().1);
    let evidence = App::about(&identity, &NONCE.0).evidence(&apple).encode();
    for id in [None, Some(String::new())] {
        let trust = HardwareTrust { apple_app_id: id, ..trust(&apple) };
        let refused = verify_apple_app_attest(&evidence, &identity, &NONCE, &trust, NOW);
        assert_eq!(refused, Err(AppleAppAttestError::NoApp));
    }
}

#[test]
fn an_attestation_is_about_one_identity_and_one_app() {
    use AppleAppAttestError::{Environment, Key, OtherApp, OtherKey};
    assert_eq!(app_attest(|app| app.about[0] = sha256(&[&[4; 65]])), Err(OtherKey));
    assert_eq!(app_attest(|app| app.before_nonce = vec![]), Err(OtherKey));
    assert_eq!(app_attest(|app| app.before_nonce = vec![0x30, 36, 0xa0, 34, 4, 32]), Err(OtherKey));
    assert_eq!(app_attest(|app| app.nonce = |nonce| [&nonce[..], &[0]].concat()), Err(OtherKey));
    assert_eq!(app_attest(|app| app.nonce = |nonce| nonce[..31].to_vec()), Err(OtherKey));
    assert_eq!(app_attest(|app| app.credential = Some([1; 32])), Err(Key));
    assert_eq!(app_attest(|app| app.coordinates = Some([1; 64])), Err(Key));
    assert_eq!(app_attest(|app| app.p256 = false), Err(Key));
    assert_eq!(app_attest(|app| app.ids = ["TEAM123456.example.other", APP]), Err(OtherApp));
    assert_eq!(app_attest(|app| app.ids = [APP, "TEAM123456.example.other"]), Err(OtherApp));
    assert_eq!(app_attest(|app| app.environment = *b"appattestdevelop"), Err(Environment));
    assert_eq!(app_attest(|app| app.environment = *b"appattest\0\0\0\0\0\0\x01"), Err(Environment));
}

#[test]
fn an_assertion_is_of_that_key_and_of_this_epoch() {
    use AppleAppAttestError::{Assertion, Counter};
    assert_eq!(app_attest(|app| app.about[1] = [6; 32]), Err(Assertion));
    assert_eq!(app_attest(|app| app.foreign_assertion = true), Err(Assertion));
    assert_eq!(app_attest(|app| app.counters = [0, 0]), Err(Counter));
    assert_eq!(app_attest(|app| app.counters = [1, 2]), Err(Counter));
    assert!(app_attest(|app| app.counters = [0, u32::MAX]).is_ok());
    let (apple, identity) = (Authority::new(), key().1);
    let mut evidence = App::about(&identity, &NONCE.0).evidence(&apple);
    let last = evidence.assertion.len() - 1;
    evidence.assertion[last] ^= 1;
    let refused = verify_apple_app_attest(&evidence.encode(), &identity, &NONCE, &trust(&apple), NOW);
    assert_eq!(refused, Err(Assertion), "what the system adds is signed too");
}

#[test]
fn objects_of_another_shape_are_refused() {
    let refused = Err(AppleAppAttestError::Malformed);
    for at in [0, 1] {
        for added in [vec![0], vec![0xa0, 0], vec![0xbf, 0xff], vec![0xa1], [&extensions()[..], &[0xa0]].concat()] {
            assert_eq!(app_attest(|app| app.added[at] = added.clone()), refused, "{added:?}");
        }
        let nested = [&[0xa1][..], &text("deep"), &[0x81, 0x81, 0x81, 0]].concat();
        assert_eq!(app_attest(|app| app.added[at] = nested.clone()), refused);
        let long = [&[0xa1][..], &text("long"), &bytes(&[0; 740])].concat();
        assert_eq!(app_attest(|app| app.added[at] = long.clone()), refused);
    }
    let changes: [fn(Vec<u8>) -> Vec<u8>; 8] = [
        |object| [&object[..], &[0]].concat(),
        |object| object[..object.len() - 1].to_vec(),
        // Another number of pairs than there are.
        |mut object| {
            object[0] = 0xa2;
            object
        },
        |mut object| {
            object[0] = 0xa4;
            object
        },
        |object| replaced(object, b"fmt", b"fmx"),
        |object| replaced(object, b"apple-appattest", b"apple-appattesT"),
        |object| replaced(object, b"receipt", b"receipX"),
        // One certificate is called two.
        |object| replaced(object, b"x5c\x82", b"x5c\x81"),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(app_attest(|app| app.object = change), refused, "{number}");
    }
    // Each key stands once: the format twice, and no certificates.
    let twice =
        |_| [&[0xa3][..], &text("fmt"), &text("apple-appattest"), &text("fmt"), &text("apple-appattest")].concat();
    assert_eq!(app_attest(|app| app.object = twice), refused);
    let empty = |_| {
        let statement = [&[0xa2][..], &text("x5c"), &[0x80], &text("receipt"), &bytes(&[])].concat();
        let all =
            [&text("fmt")[..], &text("apple-appattest"), &text("authData"), &bytes(&[]), &text("attStmt")].concat();
        [&[0xa3][..], &all, &statement].concat()
    };
    assert_eq!(app_attest(|app| app.object = empty), refused, "no certificates");
}

fn replaced(object: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = object.windows(from.len()).position(|window| window == from).unwrap();
    [&object[..at], to, &object[at + from.len()..]].concat()
}

/// A provider's statement with evidence, as a client that believes our Apple sees it.
fn verdict(apple: &Authority, evidence: impl FnOnce(&[u8; 65], &Digest) -> Vec<Evidence>) -> Verdict {
    let (key, identity) = key();
    let (sealing_key, receipt_key) = (vec![0; 1_216], [3; 32]);
    let nonce = epoch_nonce(&sealing_key, &receipt_key, &identity, NOW);
    let statement = Statement {
        identity,
        network: NetworkId([7; 32]),
        evidence: evidence(&identity, &nonce).into(),
        sealing_key,
        receipt_key,
        not_before: NOW,
        use_until: NOW.after(Millis::from_minutes(60)),
        open_until: NOW.after(Millis::from_minutes(70)),
        models: Vec::new().into(),
        release: "test".to_owned(),
        hardening: Vec::new().into(),
        key_home: String::new(),
        successions: Vec::new().into(),
        program: None,
    };
    let policy = TrustPolicy {
        network: NetworkId([7; 32]),
        tier_min: Tier::Hardware,
        pinned: Default::default(),
        hardware: trust(apple),
    };
    let verdict = verify_statement(&statement.sign(&key).unwrap(), &policy, NOW).unwrap();
    assert!(!policy.admits(&verdict), "whatever Apple's evidence says, it admits nobody");
    verdict
}

fn of(format: &str, bytes: Vec<u8>) -> Evidence {
    Evidence { format: format.to_owned(), bytes }
}

fn both(apple: &Authority) -> Verdict {
    verdict(apple, |identity, nonce| {
        let mda = Mac::about(identity).evidence(apple).encode();
        let app = App::about(identity, &nonce.0).evidence(apple).encode();
        vec![of(APPLE_MDA_EVIDENCE, mda), of(APPLE_APP_ATTEST_EVIDENCE, app)]
    })
}

#[test]
fn evidence_of_apple_is_shown_and_raises_no_tier() {
    let verdict = both(&Authority::new());
    assert_eq!((verdict.tier, verdict.proven), (Tier::SelfSigned, Tier::SelfSigned));
    assert!(verdict.measured.is_empty(), "nothing is there that a release could be compared with");
    let claim = |name: &str| {
        let found = verdict.claims.iter().find(|claim| claim.name == name);
        let claim = found.unwrap_or_else(|| panic!("no claim `{name}`"));
        (claim.value.as_str(), claim.source, claim.freshness)
    };
    let seen = Freshness::Seen(UnixMillis(CERTIFIED_AT));
    assert_eq!(claim("apple_sip"), ("on", ClaimSource::Hardware, seen));
    assert_eq!(claim("apple_secure_boot"), ("Full Security", ClaimSource::Hardware, seen));
    assert_eq!(claim("apple_kernel_extensions"), ("none of others", ClaimSource::Hardware, seen));
    assert_eq!(claim("apple_os_version"), ("26.4.1", ClaimSource::Hardware, seen));
    assert_eq!(claim("apple_sepos_version"), ("26.4", ClaimSource::Hardware, seen));
    assert!(claim("apple_app").0.contains(APP));
    assert!(claim("apple_app_access_control").0.contains("not interpreted"));
    assert_eq!(claim("apple_app_assertion").2, Freshness::Epoch);
    let shadows: Vec<_> = verdict.claims.iter().filter(|claim| claim.name == "shadow").collect();
    assert_eq!(shadows.len(), 2);
    for (shadow, format) in shadows.iter().zip([APPLE_MDA_EVIDENCE, APPLE_APP_ATTEST_EVIDENCE]) {
        assert!(shadow.value.contains("raises no tier") && shadow.value.contains(format), "{}", shadow.value);
        assert_eq!(shadow.source, ClaimSource::Verified);
    }
}

#[test]
fn serial_number_and_udid_stand_in_no_claim() {
    let verdict = both(&Authority::new());
    let claims = format!("{:?}", verdict.claims);
    assert!(claims.contains("apple_mda_identity_key"), "the certificate that has them was read");
    let hidden = [SERIAL, UDID];
    for hidden in hidden.iter().flat_map(|text| [(*text).to_owned(), hex::encode(text), text.to_lowercase()]) {
        assert!(!claims.contains(&hidden), "{hidden}");
    }
    let refused = mda(|mac| mac.sip = None).unwrap_err().to_string();
    assert!(!refused.contains(SERIAL));
}

#[test]
fn evidence_that_does_not_hold_is_shown_with_its_reason() {
    let apple = Authority::new();
    let verdict = verdict(&apple, |identity, nonce| {
        let mda = Mac { sip: Some(vec![2, 1, 1]), ..Mac::about(identity) }.evidence(&apple).encode();
        let good = Mac::about(identity).evidence(&apple).encode();
        let app = App { counters: [0, 0], ..App::about(identity, &nonce.0) }.evidence(&apple).encode();
        vec![of(APPLE_MDA_EVIDENCE, mda), of(APPLE_MDA_EVIDENCE, good), of(APPLE_APP_ATTEST_EVIDENCE, app)]
    });
    assert_eq!(verdict.tier, Tier::SelfSigned);
    let value = |name: &str| verdict.claims.iter().find(|claim| claim.name == name).map(|claim| claim.value.as_str());
    assert_eq!(value("apple_mda_not_proven"), Some(AppleMdaError::Sip.to_string().as_str()));
    assert_eq!(value("apple_app_attest_not_proven"), Some(AppleAppAttestError::Counter.to_string().as_str()));
    // A machine has one of each kind: the second is not looked at.
    assert_eq!(value("evidence_not_verified"), Some(APPLE_MDA_EVIDENCE));
    assert_eq!((value("apple_sip"), value("shadow")), (None, None));
}

/// What a fuzz target and other implementations begin with: evidence of our own Apple, recorded. `DARKBLOOM_WRITE_APPLE_VECTOR=1`
/// writes it anew.
#[test]
fn recorded_evidence_still_verifies() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/apple-evidence.json");
    let identity = key().1;
    if std::env::var_os("DARKBLOOM_WRITE_APPLE_VECTOR").is_some() {
        let vector = json!({
            "identity": hex::encode(identity),
            "nonce": hex::encode(NONCE.0),
            "time": NOW.0,
            "root": hex::encode(APPLE.root()),
            "app": APP,
            "mda": hex::encode(Mac::about(&identity).evidence(&APPLE).encode()),
            "app_attest": hex::encode(App::about(&identity, &NONCE.0).evidence(&APPLE).encode()),
        });
        std::fs::write(&path, format!("{vector:#}\n")).unwrap();
    }
    let vector: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let recorded = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
    assert_eq!((recorded("identity"), recorded("nonce")), (identity.to_vec(), NONCE.0.to_vec()));
    assert_eq!((vector["time"].as_i64(), vector["app"].as_str()), (Some(NOW.0), Some(APP)));
    let root = Roots::read([&recorded("root")[..]]).unwrap();
    assert!(verify_apple_mda(&recorded("mda"), &identity, &root, NOW).is_ok());
    let trust = HardwareTrust { apple_app_attest_roots: root.into(), ..trust(&APPLE) };
    assert!(verify_apple_app_attest(&recorded("app_attest"), &identity, &NONCE, &trust, NOW).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let apple = &*APPLE;
        prop_assert!(verify_apple_mda(&bytes, &key().1, &apple.roots(), NOW).is_err());
        prop_assert!(verify_apple_app_attest(&bytes, &key().1, &NONCE, &trust(apple), NOW).is_err());
        // The same as an object inside a record.
        let inside = darkbloom_wire::AppleAppAttestEvidence { attestation: bytes.clone(), assertion: bytes };
        prop_assert!(verify_apple_app_attest(&inside.encode(), &key().1, &NONCE, &trust(apple), NOW).is_err());
    }

    #[test]
    fn whatever_stands_in_evidence_of_apple_no_tier_comes_of_it(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let verdict = verdict(&APPLE, |_, _| {
            vec![of(APPLE_MDA_EVIDENCE, bytes.clone()), of(APPLE_APP_ATTEST_EVIDENCE, bytes)]
        });
        prop_assert_eq!((verdict.tier, verdict.proven), (Tier::SelfSigned, Tier::SelfSigned));
        prop_assert!(verdict.measured.is_empty());
    }

    #[test]
    fn one_changed_bit_proves_nothing_else(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (apple, identity) = (&*APPLE, key().1);
        let flip = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        let good = Mac::about(&identity).evidence(apple).encode();
        let found = verify_apple_mda(&good, &identity, &apple.roots(), NOW).unwrap();
        if let Ok(changed) = verify_apple_mda(&flip(good), &identity, &apple.roots(), NOW) {
            prop_assert_eq!(changed, found);
        }
        let good = App::about(&identity, &NONCE.0).evidence(apple).encode();
        let verify = |bytes: &[u8]| verify_apple_app_attest(bytes, &identity, &NONCE, &trust(apple), NOW);
        let found = verify(&good).unwrap();
        // The receipt is for Apple alone: nothing here depends on it.
        if let Ok(changed) = verify(&flip(good)) {
            prop_assert_eq!(changed, found);
        }
    }
}
