//! The old key signs that a new one has its place, and is gone; a crash in between leaves one of the two.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use darkbloom_keys::{
    Home, Identity, IdentityError, IdentityKey as _, KeyConfig, KeyHome, SoftwareKey, TpmKey, delete, go_back, rotate,
    settle, successions,
};
use darkbloom_types::UnixMillis;
use darkbloom_wire::Succession;

use crate::keys::persistent;
use crate::steps::{Keys, every_step};
use crate::swtpm::Swtpm;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// The identities that an identity took over from, as its folder can show.
fn before(folder: &Path, identity: &[u8; 65]) -> Vec<[u8; 65]> {
    let words = successions(folder, identity).unwrap();
    words.iter().map(|word| Succession::open_self_signed(word).unwrap().old).collect()
}

/// Who only looks sees the identity, and changes nothing.
fn existing(folder: &Path) -> [u8; 65] {
    let before = files(folder);
    let point = Identity::existing(folder, &KeyConfig::software()).unwrap().unwrap().public_point();
    assert_eq!(files(folder), before);
    point
}

/// Whoever starts has the folder for itself.
fn opened(folder: &Path) -> [u8; 65] {
    let (identity, passed) = Identity::open(folder, &KeyConfig::software()).unwrap();
    assert!(passed.is_empty());
    identity.public_point()
}

#[test]
fn a_software_key_is_rotated_and_the_last_four_words_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = KeyConfig::software();
    let missing = rotate(folder.path(), &config, Home::Software, NOW).map(drop);
    assert!(matches!(missing, Err(IdentityError::None(_))));
    assert_eq!(files(folder.path()), [""; 0], "nothing is made where there is nothing to rotate");
    let mut known = vec![Identity::open(folder.path(), &config).unwrap().0.public_point()];
    for _ in 0..6 {
        let new = rotate(folder.path(), &config, Home::Software, NOW).unwrap();
        new.test().unwrap();
        assert!(!known.contains(&new.public_point()));
        assert_eq!(existing(folder.path()), new.public_point());
        assert_eq!(files(folder.path()), ["identity.key", "identity.old.key", "successions"]);
        settle(folder.path(), &config).unwrap();
        assert_eq!(files(folder.path()), ["identity.key", "successions"]);
        known.push(new.public_point());
        let shown = before(folder.path(), &new.public_point());
        let expected = &known[known.len().saturating_sub(5)..known.len() - 1];
        assert_eq!(shown, expected);
    }
    let mode = fs::metadata(folder.path().join("identity.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    delete(folder.path(), &config).unwrap();
    delete(folder.path(), &config).unwrap();
    assert_eq!(files(folder.path()), [""; 0]);
}

/// A folder with an identity, a next key and, if `spoken`, its word about that.
fn interrupted(folder: &Path, spoken: bool) -> ([u8; 65], [u8; 65]) {
    let old = SoftwareKey::load_or_create(&folder.join("identity.key")).unwrap();
    let new = SoftwareKey::load_or_create(&folder.join("identity.next.key")).unwrap().public_point();
    let word = Succession { old: old.public_point(), new, at: NOW }.sign(&old).unwrap();
    if spoken {
        fs::write(folder.join("successions"), format!("{}\n", hex::encode(word))).unwrap();
    }
    (old.public_point(), new)
}

#[test]
fn a_crash_leaves_the_old_identity_or_the_new_one() {
    let rename = |folder: &Path, from: &str, to: &str| fs::rename(folder.join(from), folder.join(to)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (old, _) = interrupted(folder.path(), false);
    for see in [existing, opened] {
        assert_eq!(see(folder.path()), old, "the new key was made, and nobody has spoken for it");
    }
    assert_eq!(files(folder.path()), ["identity.key", "identity.next.key"]);
    settle(folder.path(), &KeyConfig::software()).unwrap();
    assert_eq!(files(folder.path()), ["identity.key"]);
    for step in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = interrupted(folder.path(), true);
        if step >= 1 {
            rename(folder.path(), "identity.key", "identity.old.key");
        }
        if step >= 2 {
            rename(folder.path(), "identity.next.key", "identity.key");
        }
        for see in [existing, opened, existing] {
            assert_eq!(see(folder.path()), new, "step {step}");
        }
        assert_eq!(files(folder.path()), ["identity.key", "identity.old.key", "successions"], "step {step}");
        assert_eq!(before(folder.path(), &new), [old]);
    }
}

#[test]
fn a_next_key_that_cannot_be_read_now_costs_no_key() {
    for step in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let (_, new) = interrupted(folder.path(), true);
        if step == 1 {
            fs::rename(folder.path().join("identity.key"), folder.path().join("identity.old.key")).unwrap();
        }
        let (known, next) = (files(folder.path()), folder.path().join("identity.next.key"));
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Identity::open(folder.path(), &KeyConfig::software()).is_err());
        assert_eq!(files(folder.path()), known, "step {step}");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(opened(folder.path()), new);
    }
}

#[test]
fn what_a_removed_identity_left_behind_is_not_shown_for_another() {
    let folder = tempfile::tempdir().unwrap();
    let config = KeyConfig::software();
    let first = Identity::open(folder.path(), &config).unwrap().0.public_point();
    rotate(folder.path(), &config, Home::Software, NOW).unwrap();
    fs::remove_file(folder.path().join("identity.key")).unwrap();
    for see in [existing, opened] {
        assert_eq!(see(folder.path()), first, "no coordinator had accepted what was removed");
    }
    let rotated = rotate(folder.path(), &config, Home::Software, NOW).unwrap().public_point();
    settle(folder.path(), &config).unwrap();
    fs::remove_file(folder.path().join("identity.key")).unwrap();
    let new = Identity::open(folder.path(), &config).unwrap().0.public_point();
    assert_eq!(before(folder.path(), &new), [[0; 65]; 0]);
    assert_eq!(before(folder.path(), &rotated).len(), 1);
    fs::write(folder.path().join("successions"), "00\n").unwrap();
    assert!(matches!(successions(folder.path(), &new), Err(IdentityError::Successions { .. })));
    fs::write(folder.path().join("successions"), "0".repeat(100_000)).unwrap();
    assert!(matches!(successions(folder.path(), &new), Err(IdentityError::Successions { .. })));
}

#[test]
fn a_key_moves_into_a_tpm_within_it_and_out_and_leaves_no_orphan() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let both = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    let first = Identity::open(folder.path(), &KeyConfig::software()).unwrap().0.public_point();
    let mut known = vec![first];
    let moves = [
        (Home::Tpm, [2, 2], "identity.tpm"),
        (Home::Tpm, [4, 2], "identity.tpm"),
        (Home::Software, [2, 0], "identity.key"),
    ];
    for (home, [unsettled, handles], file) in moves {
        let new = rotate(folder.path(), &both, home, NOW).unwrap();
        new.test().unwrap();
        assert_eq!(new.home() == KeyHome::Tpm, home == Home::Tpm);
        assert_eq!(persistent(&tpm).len(), unsettled, "{home:?}");
        settle(folder.path(), &both).unwrap();
        assert_eq!(persistent(&tpm).len(), handles, "{home:?}");
        assert_eq!(files(folder.path()), [file, "successions"]);
        known.push(new.public_point());
        assert_eq!(before(folder.path(), &new.public_point()), known[..known.len() - 1]);
    }
    let tpm_only = KeyConfig { homes: vec![Home::Tpm], ..both };
    assert!(matches!(rotate(folder.path(), &tpm_only, Home::Tpm, NOW).map(drop), Err(IdentityError::NotAllowed(_))));
    let software = rotate(folder.path(), &KeyConfig::software(), Home::Tpm, NOW).map(drop);
    assert!(matches!(software, Err(IdentityError::HomeNotAllowed(Home::Tpm))), "it says nothing of the identity");
}

#[test]
fn a_rotation_into_a_tpm_that_a_crash_cut_short_is_finished_or_taken_back() {
    let tpm = Swtpm::start("a");
    let config = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    for spoken in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let old = SoftwareKey::load_or_create(&folder.path().join("identity.key")).unwrap();
        let next = folder.path().join("identity.next.tpm");
        let new = TpmKey::load_or_create(&config.tpm, &next, &[]).unwrap().0.public_point();
        if spoken {
            let word = Succession { old: old.public_point(), new, at: NOW }.sign(&old).unwrap();
            fs::write(folder.path().join("successions"), format!("{}\n", hex::encode(word))).unwrap();
        }
        let seen = Identity::existing(folder.path(), &config).unwrap().unwrap();
        let (identity, _) = Identity::open(folder.path(), &config).unwrap();
        assert_eq!(identity.public_point(), seen.public_point());
        assert_eq!(identity.public_point(), if spoken { new } else { old.public_point() });
        assert_eq!(persistent(&tpm).len(), 2, "nobody has accepted anything yet");
        settle(folder.path(), &config).unwrap();
        assert_eq!(persistent(&tpm).len(), if spoken { 2 } else { 0 });
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_no_key_and_leaves_none() {
    let software = KeyConfig::software();
    every_step(&Keys { home: Home::Software, config: &software, count: &|| 0, each: 0 });
    let tpm = Swtpm::start("a");
    let config = KeyConfig { homes: vec![Home::Tpm], tpm: tpm.path(), ..KeyConfig::default() };
    every_step(&Keys { home: Home::Tpm, config: &config, count: &|| persistent(&tpm).len(), each: 2 });
}

#[test]
fn a_sealed_key_is_rotated_and_gone_back_to_with_its_secret_alone() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, [3; 32]).unwrap();
    let sealed = KeyConfig { secret: Some(secret), ..KeyConfig::software() };
    every_step(&Keys { home: Home::Software, config: &sealed, count: &|| 0, each: 0 });
    let data = folder.path().join("data");
    Identity::open(&data, &sealed).unwrap();
    rotate(&data, &sealed, Home::Software, NOW).unwrap();
    let kept = files(&data);
    for name in ["identity.key", "identity.old.key"] {
        assert!(fs::read_to_string(data.join(name)).unwrap().starts_with("darkbloom-p256-sealed-v1 "), "{name}");
    }
    assert!(Identity::open(&data, &KeyConfig::software()).is_err());
    assert!(go_back(&data, &KeyConfig::software()).is_err());
    assert!(rotate(&data, &KeyConfig::software(), Home::Software, NOW).is_err());
    assert_eq!(files(&data), kept);
}

#[test]
fn no_other_key_takes_the_place_of_one_that_may_have_been_accepted() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let both = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    let first = Identity::open(folder.path(), &KeyConfig::software()).unwrap().0.public_point();
    let second = rotate(folder.path(), &both, Home::Tpm, NOW).unwrap().public_point();
    assert_eq!(go_back(folder.path(), &both).unwrap().public_point(), first);
    let other = rotate(folder.path(), &both, Home::Software, NOW).map(drop);
    assert!(matches!(other, Err(IdentityError::Unsettled)), "{other:?}");
    assert_eq!(rotate(folder.path(), &both, Home::Tpm, NOW).unwrap().public_point(), second);
    // The older key cannot be used here, so nobody goes back to it.
    let tpm_only = KeyConfig { homes: vec![Home::Tpm], ..both.clone() };
    let nowhere = go_back(folder.path(), &tpm_only).map(drop);
    assert!(matches!(nowhere, Err(IdentityError::NotAllowed(Home::Software))), "{nowhere:?}");
    assert_eq!(Identity::open(folder.path(), &both).unwrap().0.public_point(), second);
}

#[test]
fn a_tpm_that_is_away_does_not_shut_out_an_identity_that_left_it() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let both = KeyConfig { tpm: tpm.path(), ..KeyConfig::default() };
    Identity::open(folder.path(), &KeyConfig { homes: vec![Home::Tpm], ..both.clone() }).unwrap();
    let record = folder.path().join("identity.tpm");
    let kept = fs::read(&record).unwrap();
    let new = rotate(folder.path(), &both, Home::Software, NOW).unwrap().public_point();
    assert_eq!(fs::read(folder.path().join("identity.old.tpm")).unwrap(), kept);
    // The coordinator accepts while the TPM is away.
    let away = KeyConfig { tpm: folder.path().join("no-tpm"), ..both.clone() };
    assert_eq!(Identity::open(folder.path(), &away).unwrap().0.public_point(), new);
    settle(folder.path(), &away).unwrap();
    assert_eq!(fs::read(folder.path().join("identity.gone.tpm")).unwrap(), kept, "it is known what is to be destroyed");
    assert!(delete(folder.path(), &away).is_err());
    assert_eq!(before(folder.path(), &new).len(), 1, "and nothing is lost of an identity that is not deleted");
    assert_eq!(persistent(&tpm).len(), 2);
    assert_eq!(Identity::open(folder.path(), &both).unwrap().0.public_point(), new);
    assert_eq!(
        (files(folder.path()), persistent(&tpm).len()),
        (vec!["identity.key".to_owned(), "successions".to_owned()], 0)
    );
}
