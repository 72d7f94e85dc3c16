//! An identity in the enclave stays there, and nothing but "not found" makes one.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use darkbloom_enclave::{Item, Keychain, PREVIOUS_LABEL, Point, codes};
use darkbloom_keys::{
    ACCESS_GROUP, AccessGroup, Enclave, EnclaveError, EnclaveKeyError, Home, Identity, IdentityError, IdentityKey as _,
    KeyConfig, KeyHome, KeychainError, delete,
};
use darkbloom_wire::{Domain, Signer as _, open_signed, sign};

use crate::simulator::{Faults, Mac, Process};
use crate::{config, files, released};

fn opened(folder: &Path, config: &KeyConfig) -> [u8; 65] {
    let (identity, passed) = Identity::open(folder, config).unwrap();
    assert_eq!((identity.home(), passed.len()), (KeyHome::SecureEnclave, 0));
    identity.public_point()
}

#[track_caller]
fn keychain_error(result: Result<impl Sized, IdentityError>) -> KeychainError {
    match result.map(drop) {
        Err(IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::Keychain(error)))) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_identity_in_the_enclave_is_the_same_at_every_start() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    assert!(Identity::existing(folder.path(), &config).unwrap().is_none());
    assert_eq!((mac.made(), files(folder.path()).len()), (0, 0), "looking makes nothing");
    let point = opened(folder.path(), &config);
    assert_eq!(files(folder.path()), ["identity.enclave"], "and no draft stays behind");
    assert_eq!(opened(folder.path(), &config), point);
    let identity = Identity::existing(folder.path(), &config).unwrap().unwrap();
    assert_eq!((identity.public_point(), identity.where_made()), (point, Home::SecureEnclave));
    assert_eq!(identity.home().name(), "secure_enclave");
    identity.test().unwrap();
    let signed = sign(Domain::Challenge, &identity, b"payload").unwrap();
    assert_eq!(open_signed(Domain::Challenge, &identity.public_key(), &signed, 64).unwrap(), b"payload");
    mac.set(|faults| faults.locked = true);
    assert!(identity.sign(b"message").unwrap_err().0.contains("log in to this Mac once"));
    mac.set(|faults| faults.locked = false);
    assert_ne!(opened(tempfile::tempdir().unwrap().path(), &config), point, "another folder has another identity");
    assert_eq!(mac.kept(), 2);
}

/// Breaks something.
type Break = fn(&mut Faults);

/// What can be wrong, and what it is called.
const WRONG: [(Break, KeychainError); 4] = [
    (|faults| faults.locked = true, KeychainError::Locked),
    (|faults| faults.broken_enclave = true, KeychainError::AuthFailed),
    (|faults| faults.find = Some(codes::NOT_AVAILABLE), KeychainError::Unavailable),
    (|faults| faults.find = Some(-1), KeychainError::Status(-1)),
];

#[test]
fn only_an_enclave_that_is_not_there_is_passed_over() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    for (break_it, error) in WRONG {
        mac.set(break_it);
        let failed = Identity::open(folder.path(), &config);
        assert_eq!(keychain_error(failed), error);
        mac.set(|faults| *faults = Faults::default());
    }
    for groups in [&[][..], &["OTHERTEAM1.net.darkbloom.provider"]] {
        let failed = Identity::open(folder.path(), &crate::config(mac.signed_for(groups)));
        assert_eq!(keychain_error(failed), KeychainError::MissingEntitlement);
    }
    assert_eq!((mac.kept(), files(folder.path()).len()), (0, 0), "nothing was made, in no home");
    mac.set(|faults| faults.no_enclave = true);
    let (identity, passed) = Identity::open(folder.path(), &config).unwrap();
    let passed: Vec<_> = passed.iter().map(|passed| passed.home).collect();
    assert_eq!((identity.home(), &passed[..]), (KeyHome::SoftwareFile, &[Home::SecureEnclave, Home::Tpm][..]));
    assert_eq!(files(folder.path()), ["identity.key"]);
}

#[test]
fn an_identity_that_was_made_is_never_replaced() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    let point = opened(folder.path(), &config);
    for (break_it, error) in WRONG {
        mac.set(break_it);
        assert_eq!(keychain_error(Identity::open(folder.path(), &config)), error);
        mac.set(|faults| *faults = Faults::default());
    }
    let other = crate::config(mac.signed_for(&[]));
    assert_eq!(keychain_error(Identity::open(folder.path(), &other)), KeychainError::MissingEntitlement);
    // This machine, which is no Mac: its folder was copied here.
    let elsewhere = KeyConfig { enclave: Enclave::default(), ..config.clone() };
    assert_eq!(keychain_error(Identity::open(folder.path(), &elsewhere)), KeychainError::Absent);
    let software = KeyConfig { homes: vec![Home::Software], ..config.clone() };
    let failed = Identity::open(folder.path(), &software).map(drop);
    assert!(matches!(failed, Err(IdentityError::NotAllowed(Home::SecureEnclave))));
    assert_eq!(opened(folder.path(), &config), point);
    mac.erase();
    let failed = Identity::open(folder.path(), &config).map(drop).unwrap_err();
    assert!(matches!(failed, IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::Gone(_)))), "{failed}");
    assert!(failed.next_step().contains("darkbloom key delete"));
    assert_eq!((mac.kept(), files(folder.path())), (0, vec!["identity.enclave".to_owned()]));
}

#[test]
fn a_crash_while_a_key_is_made_loses_nothing_and_leaves_no_orphan() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let (config, record) = (released(&mac), folder.path().join("identity.enclave"));
    let point = opened(folder.path(), &config);
    let whole = fs::read_to_string(&record).unwrap();
    let (begun, _) = whole.split_once("key ").unwrap();
    // The key was made, and the record does not say so yet.
    fs::write(&record, format!("{begun}key none\n")).unwrap();
    assert_eq!(opened(folder.path(), &config), point);
    assert_eq!(fs::read_to_string(&record).unwrap(), whole);
    // It was not made yet.
    mac.erase();
    fs::write(&record, format!("{begun}key none\n")).unwrap();
    let made = mac.made();
    assert!(Identity::existing(folder.path(), &config).unwrap().is_none());
    assert_eq!((mac.made(), mac.kept()), (made, 0), "who only looks makes none");
    let again = opened(folder.path(), &config);
    assert_ne!(again, point);
    assert_eq!((opened(folder.path(), &config), mac.kept()), (again, 1));
    // Somebody gives up in between.
    fs::write(&record, format!("{begun}key none\n")).unwrap();
    delete(folder.path(), &config).unwrap();
    assert_eq!((mac.kept(), files(folder.path()).len()), (0, 0));
}

#[test]
fn a_key_that_cannot_be_made_leaves_no_record() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    for status in [codes::MISSING_ENTITLEMENT, codes::UNIMPLEMENTED, codes::AUTH_FAILED, -1] {
        let only_enclave = KeyConfig { homes: vec![Home::SecureEnclave], ..config.clone() };
        mac.set(|faults| faults.create = Some(status));
        assert!(Identity::open(folder.path(), &only_enclave).is_err());
        assert_eq!(files(folder.path()), [""; 0], "status {status}");
    }
    // Where one was made and does not sign, it is known still what is to be removed.
    mac.set(|faults| (faults.create, faults.signs_wrongly) = (None, true));
    let failed = Identity::open(folder.path(), &config).map(drop);
    assert!(matches!(failed, Err(IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::SelfTest)))));
    assert_eq!((mac.kept(), files(folder.path())), (1, vec!["identity.enclave".to_owned()]));
    delete(folder.path(), &config).unwrap();
    assert_eq!((mac.kept(), files(folder.path()).len()), (0, 0));
}

#[test]
fn the_previous_versions_key_stays_the_identity_of_one_folder() {
    let (mac, folders) = (Mac::default(), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let config = released(&mac);
    let previous = Item { label: PREVIOUS_LABEL.to_owned(), group: ACCESS_GROUP.to_owned() };
    let point = mac.released().create(&previous).unwrap();
    mac.set(|faults| faults.rename = Some(codes::INTERACTION_NOT_ALLOWED));
    assert_eq!(keychain_error(Identity::open(folders[0].path(), &config)), KeychainError::Locked);
    assert_eq!((mac.labels(), files(folders[0].path()).len()), (vec![PREVIOUS_LABEL.to_owned()], 0));
    mac.set(|faults| faults.rename = None);
    assert_eq!(opened(folders[0].path(), &config), point);
    assert_ne!(opened(folders[1].path(), &config), point);
    assert_eq!(opened(folders[0].path(), &config), point);
    assert!(!mac.labels().contains(&PREVIOUS_LABEL.to_owned()));
    assert_eq!(mac.kept(), 2);
}

#[test]
fn a_record_that_is_damaged_or_anothers_is_an_error() {
    let (mac, other_mac, folder) = (Mac::default(), Mac::default(), tempfile::tempdir().unwrap());
    let (config, record) = (released(&mac), folder.path().join("identity.enclave"));
    let point = opened(folder.path(), &config);
    let good = fs::read_to_string(&record).unwrap();
    let failed = Identity::open(folder.path(), &released(&other_mac)).map(drop);
    assert!(matches!(failed, Err(IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::Gone(_))))));
    for bad in ["", "darkbloom-tpm-v1\n", &good[..good.len() - 1], &"é".repeat(2_000)] {
        fs::write(&record, bad).unwrap();
        let failed = Identity::open(folder.path(), &config).map(drop);
        assert!(matches!(failed, Err(IdentityError::Enclave(EnclaveKeyError::Damaged { .. }))), "{failed:?}");
    }
    fs::write(&record, &good).unwrap();
    assert_eq!(opened(folder.path(), &config), point);
    fs::write(folder.path().join("identity.key"), "").unwrap();
    let two = Identity::open(folder.path(), &config).map(drop).unwrap_err();
    assert!(two.to_string().ends_with("holds two identities, identity.enclave and identity.key"), "{two}");
    fs::remove_file(folder.path().join("identity.key")).unwrap();
    fs::write(&record, "").unwrap();
    delete(folder.path(), &config).unwrap();
    assert_ne!(opened(folder.path(), &config), point, "whoever wants a new identity gets one");
    assert_eq!(other_mac.kept(), 0);
}

#[test]
fn a_deleted_identity_is_gone_from_the_keychain_too() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    let kept = opened(tempfile::tempdir().unwrap().path(), &config);
    let point = opened(folder.path(), &config);
    mac.set(|faults| faults.locked = true);
    assert_eq!(keychain_error(delete(folder.path(), &config)), KeychainError::Locked);
    mac.set(|faults| faults.locked = false);
    assert_eq!(opened(folder.path(), &config), point, "it was not deleted");
    for _ in 0..2 {
        delete(folder.path(), &config).unwrap();
        assert_eq!((mac.kept(), files(folder.path()).len()), (1, 0), "and another folder's key is not touched");
    }
    let again = opened(folder.path(), &config);
    assert!(again != point && again != kept);
    // It was cut short between the keychain and the record.
    mac.erase();
    delete(folder.path(), &config).unwrap();
    assert_eq!(files(folder.path()), [""; 0]);
}

#[test]
fn a_group_for_development_says_so_and_is_another() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let group: AccessGroup = "MYOWNTEAM1.net.darkbloom.provider".parse().unwrap();
    assert!(group.describe().contains("named for development only; releases use DARKBLOOM0."), "{}", group.describe());
    for wrong in ["", "team", "a b.c", "é.c"] {
        assert!(wrong.parse::<AccessGroup>().is_err(), "{wrong}");
    }
    let process = mac.signed_for(&["MYOWNTEAM1.net.darkbloom.provider"]);
    let named = KeyConfig {
        enclave: Enclave::reached_by(std::sync::Arc::new(process.clone()), group),
        ..config(process.clone())
    };
    let point = opened(folder.path(), &named);
    assert_eq!(opened(folder.path(), &config(process)), point, "the record keeps where it is");
    let failed = Identity::open(folder.path(), &released(&mac));
    assert_eq!(keychain_error(failed), KeychainError::MissingEntitlement, "no release sees it");
}

#[test]
fn a_key_of_another_group_is_not_taken_over_with_its_label() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let own = "MYOWNTEAM1.net.darkbloom.provider";
    let process = mac.signed_for(&[ACCESS_GROUP, own]);
    let record = folder.path().join("identity.enclave");
    opened(folder.path(), &config(process.clone()));
    let whole = fs::read_to_string(&record).unwrap();
    // A start that was cut short before its key was made; the version before has one in the other group.
    mac.erase();
    fs::write(&record, format!("{}key none\n", whole.split_once("key ").unwrap().0)).unwrap();
    let old = mac.plant_in_group(PREVIOUS_LABEL, own);
    let enclave = Enclave::reached_by(std::sync::Arc::new(process.clone()), own.parse().unwrap());
    let named = KeyConfig { enclave, ..config(process) };
    let point = opened(folder.path(), &named);
    assert_ne!(point, old);
    assert_eq!((opened(folder.path(), &named), mac.kept()), (point, 2));
    assert!(mac.labels().contains(&PREVIOUS_LABEL.to_owned()), "that one stays where it is known");
    let Some(Identity::Enclave(key)) = Identity::existing(folder.path(), &named).unwrap() else {
        panic!("it is there")
    };
    assert!(!key.is_for_development(), "the record's group counts, not the one that is named now");
}

/// A keychain that has no enclave for what is made, and whose answers are then no answers.
struct Falters(Process, AtomicUsize);

impl Keychain for Falters {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        self.0.try_enclave()
    }
    fn keys(&self, item: &Item) -> Result<Vec<Point>, KeychainError> {
        let made = self.1.load(Ordering::SeqCst) > 0;
        if made { Err(KeychainError::Locked) } else { self.0.keys(item) }
    }
    fn create(&self, _: &Item) -> Result<Point, KeychainError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Err(KeychainError::Absent)
    }
    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError> {
        self.0.sign(item, key, message)
    }
    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError> {
        self.0.rename(item, to)
    }
    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError> {
        self.0.withdraw(item, key)
    }
    fn delete(&self, item: &Item) -> Result<(), KeychainError> {
        self.0.delete(item)
    }
}

#[test]
fn an_enclave_with_a_record_is_not_passed_over() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let falters = std::sync::Arc::new(Falters(mac.released(), AtomicUsize::new(0)));
    let config = KeyConfig { enclave: Enclave::reached_by(falters, AccessGroup::Release), ..released(&mac) };
    assert_eq!(keychain_error(Identity::open(folder.path(), &config)), KeychainError::Unavailable);
    assert_eq!(
        files(folder.path()),
        ["identity.enclave"],
        "nobody knows whether a key was made, and no other home has one"
    );
}
