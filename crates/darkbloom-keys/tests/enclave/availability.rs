//! Three things that can be wrong with a key, told apart.

use darkbloom_enclave::codes;
use darkbloom_keys::{Availability, Check, Enclave, Home, Identity, KeyConfig, availability};

use crate::simulator::Mac;
use crate::{config, files, released};

fn of(found: &Availability) -> [Option<bool>; 3] {
    [&found.hardware, &found.entitled, &found.usable].map(|check| match check {
        Check::Yes(_) => Some(true),
        Check::No { next_step, .. } => {
            assert!(!next_step.is_empty());
            Some(false)
        }
        Check::NotAsked => None,
    })
}

#[test]
fn hardware_entitlement_and_key_fail_apart() {
    let (mac, folder) = (Mac::default(), tempfile::tempdir().unwrap());
    let look = |config: &KeyConfig| availability(Home::SecureEnclave, folder.path(), config);
    let ours = released(&mac);
    let found = look(&ours);
    assert_eq!(of(&found), [Some(true); 3]);
    assert!(matches!(&found.entitled, Check::Yes(what) if what.contains("DARKBLOOM0.net.darkbloom.provider")));
    assert!(matches!(&found.usable, Check::Yes(what) if what == "a key that was made for this signed"));
    assert_eq!((mac.kept(), files(folder.path()).len()), (0, 0), "looking makes nothing");

    let unsigned = config(mac.signed_for(&[]));
    assert_eq!(of(&look(&unsigned)), [Some(true), Some(false), None]);
    mac.set(|faults| faults.locked = true);
    assert_eq!(of(&look(&ours)), [Some(true), Some(true), Some(false)]);
    mac.set(|faults| (faults.locked, faults.broken_enclave) = (false, true));
    assert_eq!(of(&look(&ours)), [Some(true), Some(true), Some(false)]);
    mac.set(|faults| (faults.broken_enclave, faults.find) = (false, Some(codes::NOT_AVAILABLE)));
    assert_eq!(of(&look(&ours)), [Some(true), Some(true), Some(false)]);
    mac.set(|faults| (faults.find, faults.no_enclave) = (None, true));
    assert_eq!(of(&look(&ours)), [Some(false), None, None]);
    mac.set(|faults| faults.no_enclave = false);

    Identity::open(folder.path(), &ours).unwrap();
    assert!(matches!(look(&ours).usable, Check::Yes(what) if what == "the identity key signs"));
    mac.erase();
    let gone = look(&ours);
    assert_eq!(of(&gone), [Some(true), Some(true), Some(false)]);
    assert!(matches!(gone.usable, Check::No { reason, .. } if reason.contains("any more")));
    assert_eq!(mac.kept(), 0);
}

#[test]
#[cfg(not(target_os = "macos"))]
fn a_machine_that_is_no_mac_has_no_enclave() {
    let folder = tempfile::tempdir().unwrap();
    let config = KeyConfig { enclave: Enclave::default(), ..KeyConfig::default() };
    assert_eq!(config.homes, [Home::SecureEnclave, Home::Tpm, Home::Software]);
    let found = availability(Home::SecureEnclave, folder.path(), &config);
    assert_eq!(of(&found), [Some(false), None, None]);
    assert!(matches!(found.hardware, Check::No { reason, .. } if reason == "this machine has no Secure Enclave"));
}
