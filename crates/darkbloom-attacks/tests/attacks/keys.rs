//! Attacks on keys where they lie.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use darkbloom_attacks::attacks;
use darkbloom_enclave::{ACCESS_GROUP, Item, Point, codes, fresh_label, load_or_create};
use darkbloom_keys::{KeySecret, SoftwareKey, TpmKey};

use crate::simulator::{Mac, Process};
use crate::swtpm::Swtpm;

/// The place in a simulated Mac's keychain that a folder names.
fn enclave_item() -> Item {
    Item { label: fresh_label([1; 16]), group: ACCESS_GROUP.to_owned() }
}

/// Whether a program takes this key for its own.
fn is_used(process: &Process, planted: &Point) -> bool {
    load_or_create(process, &enclave_item(), None).is_ok_and(|(key, _)| key == *planted)
}

/// Whether a key signs after a register has changed to which it is bound.
fn signs_after_another_boot() -> bool {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let key = TpmKey::load_or_create(&tpm.path(), &folder.path().join("identity.tpm"), &[16]).unwrap().0;
    key.test().unwrap();
    assert!(tpm.tpm2("pcrextend", &[&format!("16:sha256={}", "11".repeat(32))]).0);
    key.test().is_ok()
}

/// Whether the TPM gives a key away in the open, to whoever may use it and asks as its owner would have to.
fn is_duplicated() -> bool {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    TpmKey::load_or_create(&tpm.path(), &folder.path().join("identity.tpm"), &[]).unwrap();
    let (listed, handles) = tpm.tpm2("getcap", &["handles-persistent"]);
    assert!(listed, "{handles}");
    let ours = handles.lines().map(|line| line.trim_start_matches("- ").trim());
    let ours: Vec<_> = ours.filter(|handle| handle.to_lowercase().starts_with("0x8102")).collect();
    assert_eq!(ours.len(), 2, "{handles}");
    ours.into_iter().any(|handle| {
        assert!(tpm.tpm2("startauthsession", &["--policy-session", "-S", "session"]).0);
        assert!(tpm.tpm2("policycommandcode", &["-S", "session", "TPM2_CC_Duplicate"]).0);
        let out = ["-r", "private", "-s", "seed", "-p", "session:session"];
        let (duplicated, _) = tpm.tpm2("duplicate", &[&["-C", "null", "-c", handle, "-G", "null"], &out[..]].concat());
        tpm.tpm2("flushcontext", &["session"]);
        duplicated
    })
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
        // A build that does not seal takes what it did not seal.
        let sealed = SoftwareKey::load_or_create_sealed(&path, Some(&KeySecret::read(&secret).unwrap()));
        assert!(sealed.is_ok() || !darkbloom_types::armed!("key_file_sealed"));
        fs::copy(&path, &copy).unwrap();
        SoftwareKey::load_or_create(&copy).is_ok()
    };
    /// Whoever can write the folder, and does not know the secret, puts a key of his own there.
    attack_a_key_is_planted_in_the_open against "key_file_in_the_open": || {
        let folder = tempfile::tempdir().unwrap();
        let (path, secret) = (folder.path().join("identity.key"), folder.path().join("secret"));
        fs::write(&secret, [7; 32]).unwrap();
        SoftwareKey::load_or_create(&path).unwrap();
        SoftwareKey::load_or_create_sealed(&path, Some(&KeySecret::read(&secret).unwrap())).is_ok()
    };
    /// Where he keeps it, a link leads, and what destroys the key here leaves it there.
    attack_a_key_is_kept_behind_a_link against "key_file_link": || {
        let folder = tempfile::tempdir().unwrap();
        let (path, behind) = (folder.path().join("identity.key"), folder.path().join("elsewhere"));
        SoftwareKey::load_or_create(&behind).unwrap();
        std::os::unix::fs::symlink(&behind, &path).unwrap();
        SoftwareKey::load_or_create(&path).is_ok()
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
        let (mac, item) = (Mac::default(), enclave_item());
        let process = mac.released();
        load_or_create(&process, &item, None).unwrap();
        mac.set(|faults| faults.find = Some(codes::MISSING_ENTITLEMENT));
        assert!(load_or_create(&process, &item, None).is_err(), "a keychain that fails gives no key");
        mac.made() > 1
    };
    /// On a simulated Mac: root puts a key into the keychain that knows no groups, under the label that the folder names.
    attack_a_key_is_taken_out_of_its_tpm against "tpm_template_fixed": is_duplicated;
    attack_root_plants_a_key_in_the_legacy_keychain against "enclave_data_protection": || {
        let mac = Mac::default();
        let planted = mac.plant_in_file_keychain(&enclave_item().label);
        is_used(&mac.released(), &planted)
    };
    /// Another program of the group imports a key that it keeps a copy of.
    attack_an_imported_key_passes_for_one_of_the_enclave against "enclave_token": || {
        let mac = Mac::default();
        let planted = mac.plant_in_group(&enclave_item().label, ACCESS_GROUP);
        is_used(&mac.released(), &planted)
    };
    /// A program that is signed for another group too has that group's programs choose its key.
    attack_a_key_of_another_group_is_used against "enclave_group": || {
        let (mac, shared) = (Mac::default(), "DARKBLOOM0.net.darkbloom.shared");
        let theirs = Item { group: shared.to_owned(), ..enclave_item() };
        let (planted, _) = load_or_create(&mac.signed_for(&[shared]), &theirs, None).unwrap();
        is_used(&mac.signed_for(&[shared, ACCESS_GROUP]), &planted)
    };
    attack_an_enclaves_key_is_used_that_does_not_sign against "enclave_self_test": || {
        let mac = Mac::default();
        let process = mac.released();
        load_or_create(&process, &enclave_item(), None).unwrap();
        mac.set(|faults| faults.signs_wrongly = true);
        load_or_create(&process, &enclave_item(), None).is_ok()
    };
    attack_a_key_is_used_after_its_registers_changed against "tpm_template_policy": signs_after_another_boot;
}
