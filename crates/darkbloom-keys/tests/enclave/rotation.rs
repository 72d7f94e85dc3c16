//! A key of the enclave gives its name to another, and the old one is gone from the keychain.

use std::fs;
use std::path::Path;

use darkbloom_enclave::{Item, Keychain as _, PREVIOUS_LABEL};
use darkbloom_keys::{
    ACCESS_GROUP, EnclaveKey, Home, Identity, IdentityError, IdentityKey as _, KeyConfig, KeyHome, SoftwareKey, delete,
    rotate, settle, successions,
};
use darkbloom_types::UnixMillis;
use darkbloom_wire::Succession;

use crate::simulator::Mac;
use crate::steps::{Keys, every_step};
use crate::{files, released};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn opened(folder: &Path, config: &KeyConfig) -> [u8; 65] {
    Identity::open(folder, config).unwrap().0.public_point()
}

/// The identities that an identity took over from, as its folder can show.
fn before(folder: &Path, identity: &[u8; 65]) -> Vec<[u8; 65]> {
    let words = successions(folder, identity).unwrap();
    words.iter().map(|word| Succession::open_self_signed(word).unwrap().old).collect()
}

#[test]
fn a_key_moves_into_an_enclave_within_it_and_out_and_leaves_no_orphan() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let both = released(&mac);
    let mut known = vec![opened(folder.path(), &KeyConfig::software())];
    let (enclave, software) = ((Home::SecureEnclave, 1, "identity.enclave"), (Home::Software, 0, "identity.key"));
    for (home, kept, file) in [enclave, enclave, software] {
        let new = rotate(folder.path(), &both, home, NOW).unwrap();
        new.test().unwrap();
        settle(folder.path(), &both).unwrap();
        assert_eq!(new.home() == KeyHome::SecureEnclave, home == Home::SecureEnclave);
        assert_eq!((mac.kept(), files(folder.path())), (kept, vec![file.to_owned(), "successions".to_owned()]));
        known.push(new.public_point());
        assert_eq!(before(folder.path(), &new.public_point()), known[..known.len() - 1]);
        assert_eq!(opened(folder.path(), &both), new.public_point());
    }
    let refused = rotate(folder.path(), &KeyConfig::software(), Home::SecureEnclave, NOW).map(drop);
    assert!(matches!(refused, Err(IdentityError::HomeNotAllowed(Home::SecureEnclave))));
}

#[test]
fn a_rotation_that_a_crash_cut_short_is_finished_or_taken_back() {
    for (spoken, signed_out) in [(false, false), (true, false), (false, true)] {
        let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
        let config = released(&mac);
        let old = opened(folder.path(), &config);
        let next = folder.path().join("identity.next.enclave");
        let new = EnclaveKey::load_or_create(&config.enclave, &next).unwrap().public_point();
        if signed_out {
            // Before the record said which key it is.
            let record = fs::read_to_string(&next).unwrap();
            fs::write(&next, format!("{}key none\n", record.split_once("key ").unwrap().0)).unwrap();
        }
        if spoken {
            let identity = Identity::existing(folder.path(), &config).unwrap().unwrap();
            let word = Succession { old, new, at: NOW }.sign(&identity).unwrap();
            fs::write(folder.path().join("successions"), format!("{}\n", hex::encode(word))).unwrap();
        }
        let seen = Identity::existing(folder.path(), &config).unwrap().unwrap().public_point();
        assert_eq!((opened(folder.path(), &config), mac.kept()), (seen, 2));
        assert_eq!(seen, if spoken { new } else { old });
        settle(folder.path(), &config).unwrap();
        assert_eq!((opened(folder.path(), &config), mac.kept()), (seen, 1));
        assert_eq!(files(folder.path())[0], "identity.enclave");
        assert_eq!(files(folder.path()).len(), 1 + usize::from(spoken));
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_no_key_and_leaves_none() {
    let mac = Mac::default();
    let config = KeyConfig { homes: vec![Home::SecureEnclave], ..released(&mac) };
    every_step(&Keys { home: Home::SecureEnclave, config: &config, count: &|| mac.kept(), each: 1 });
}

#[test]
fn a_keychain_that_is_locked_does_not_shut_out_an_identity_that_left_it() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    opened(folder.path(), &config);
    let record = folder.path().join("identity.enclave");
    let kept = fs::read(&record).unwrap();
    let old = folder.path().join("identity.gone.enclave");
    let new = SoftwareKey::load_or_create(&folder.path().join("identity.next.key")).unwrap().public_point();
    let identity = Identity::existing(folder.path(), &config).unwrap().unwrap();
    let word = Succession { old: identity.public_point(), new, at: NOW }.sign(&identity).unwrap();
    fs::write(folder.path().join("successions"), format!("{}\n", hex::encode(word))).unwrap();
    mac.set(|faults| faults.locked = true);
    assert_eq!(opened(folder.path(), &config), new);
    settle(folder.path(), &config).unwrap();
    assert_eq!(fs::read(&old).unwrap(), kept, "it is known still what is to be destroyed");
    assert!(delete(folder.path(), &config).is_err());
    assert_eq!((opened(folder.path(), &config), mac.kept()), (new, 1));
    mac.set(|faults| faults.locked = false);
    assert_eq!((opened(folder.path(), &config), mac.kept()), (new, 0));
    assert_eq!(files(folder.path()), ["identity.key", "successions"]);
}

#[test]
fn a_rotation_takes_no_key_over_from_the_version_before() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    opened(folder.path(), &KeyConfig::software());
    let previous = Item { label: PREVIOUS_LABEL.to_owned(), group: ACCESS_GROUP.to_owned() };
    let there = mac.released().create(&previous).unwrap();
    let new = rotate(folder.path(), &config, Home::SecureEnclave, NOW).unwrap().public_point();
    assert_ne!(new, there);
    assert_eq!(mac.released().keys(&previous), Ok(vec![there]), "it is not touched");
}

#[test]
fn a_rotation_that_fails_leaves_the_identity() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let config = released(&mac);
    let old = opened(folder.path(), &config);
    mac.set(|faults| faults.create = Some(-1));
    assert!(rotate(folder.path(), &config, Home::SecureEnclave, NOW).is_err());
    mac.set(|faults| faults.create = None);
    assert_eq!((opened(folder.path(), &config), mac.kept()), (old, 1));
    settle(folder.path(), &config).unwrap();
    assert_eq!(files(folder.path()), ["identity.enclave"]);
}
