//! Attacks on keys where they lie.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use darkbloom_attacks::attacks;
use darkbloom_enclave::{ACCESS_GROUP, Item, codes, fresh_label, load_or_create};
use darkbloom_keys::{KeySecret, SoftwareKey, TpmKey};

use crate::simulator::Mac;
use crate::swtpm::Swtpm;

/// Whether a key signs after a register has changed to which it is bound.
fn signs_after_another_boot() -> bool {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let key = TpmKey::load_or_create(&tpm.path(), &folder.path().join("identity.tpm"), &[16]).unwrap().0;
    key.test().unwrap();
    assert!(tpm.tpm2("pcrextend", &[&format!("16:sha256={}", "11".repeat(32))]).0);
    key.test().is_ok()
}

attacks! {
    attack_a_key_is_used_that_others_could_read against "key_file_mode": || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        SoftwareKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        SoftwareKey::load_or_create(&path).is_ok()
    };
    attack_a_copied_key_file_is_used_without_its_secret against "key_file_sealed": || {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy, secret) =
            (folder.path().join("identity.key"), folder.path().join("copy"), folder.path().join("secret"));
        fs::write(&secret, [7; 32]).unwrap();
        // One that is made with a secret, and one that lay in the open before.
        for before in [false, true] {
            if before {
                SoftwareKey::load_or_create(&path).unwrap();
            }
            let own = KeySecret::read(&secret).unwrap();
            SoftwareKey::load_or_create_sealed(&path, Some(&own)).unwrap();
            fs::copy(&path, &copy).unwrap();
            fs::remove_file(&path).unwrap();
            if SoftwareKey::load_or_create(&copy).is_err() {
                return false;
            }
        }
        true
    };
    attack_a_tpms_record_is_carried_to_another_machine against "tpm_record": || {
        let (own, other) = (Swtpm::start("a"), Swtpm::start("b"));
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("identity.tpm");
        TpmKey::load_or_create(&own.path(), &record, &[]).unwrap();
        TpmKey::load_or_create(&other.path(), &record, &[]).is_ok()
    };
    /// On a simulated Mac: whoever can make its keychain fail for a moment would take the identity away.
    attack_a_keychain_that_fails_has_another_identity_made against "enclave_not_found": || {
        let (mac, item) = (Mac::default(), Item { label: fresh_label([1; 16]), group: ACCESS_GROUP.to_owned() });
        let process = mac.released();
        load_or_create(&process, &item, None).unwrap();
        mac.set(|faults| faults.find = Some(codes::MISSING_ENTITLEMENT));
        assert!(load_or_create(&process, &item, None).is_err(), "a keychain that fails gives no key");
        mac.made() > 1
    };
    attack_a_key_is_used_after_its_registers_changed against "tpm_template_policy": signs_after_another_boot;
}

/// No switch of ours is behind this: the TPM itself keeps the key.
#[test]
fn attack_a_key_is_taken_out_of_its_tpm() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let record = folder.path().join("identity.tpm");
    TpmKey::load_or_create(&tpm.path(), &record, &[]).unwrap();
    let (listed, handles) = tpm.tpm2("getcap", &["handles-persistent"]);
    assert!(listed, "{handles}");
    let ours = handles.lines().map(|line| line.trim_start_matches("- ").trim());
    let ours: Vec<_> = ours.filter(|handle| handle.to_lowercase().starts_with("0x8102")).collect();
    assert_eq!(ours.len(), 2, "{handles}");
    let out = folder.path().join("out");
    for handle in ours {
        let (private, seed) = (out.with_extension("private"), out.with_extension("seed"));
        let (worked, said) = tpm.tpm2(
            "duplicate",
            &["-C", "null", "-c", handle, "-G", "null", "-r", private.to_str().unwrap(), "-s", seed.to_str().unwrap()],
        );
        assert!(!worked, "{handle} was duplicated: {said}");
        assert!(!private.exists());
    }
}
