//! Where the keys are, and that nothing but "not found" makes new ones.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use darkbloom_keys::{
    Check, Home, Identity, IdentityError, IdentityKey as _, KeyConfig, KeyHome, Origin, TpmError, TpmKey, TpmKeyError,
    availability, delete_tpm_key,
};
use darkbloom_wire::{Domain, open_signed, sign};
use tempfile::TempDir;

use crate::swtpm::Swtpm;

fn record(folder: &TempDir) -> PathBuf {
    folder.path().join("identity.tpm")
}

fn load(tpm: &Swtpm, record: &Path) -> Result<(TpmKey, Origin), TpmKeyError> {
    TpmKey::load_or_create(&tpm.path(), record, &[])
}

/// The persistent handles of the owner's own range.
pub fn persistent(tpm: &Swtpm) -> Vec<String> {
    let (worked, said) = tpm.tpm2("getcap", &["handles-persistent"]);
    assert!(worked, "{said}");
    let handles = said.lines().map(|line| line.trim_start_matches("- ").to_lowercase());
    handles.filter(|handle| handle.starts_with("0x8102")).collect()
}

#[test]
fn a_key_is_the_same_after_a_restart_of_the_machine() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let (key, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!((origin, key.home()), (Origin::Created, KeyHome::Tpm));
    let signed = sign(Domain::Challenge, &key, b"payload").unwrap();
    assert_eq!(open_signed(Domain::Challenge, &key.public_key(), &signed, 64).unwrap(), b"payload");
    tpm.restart();
    let (again, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!((origin, again.public_point()), (Origin::Loaded, key.public_point()));
    assert_eq!(persistent(&tpm).len(), 2, "an identity key and an attestation key");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays behind");
    let (worked, transient) = tpm.tpm2("getcap", &["handles-transient"]);
    assert!(worked && transient.trim().is_empty(), "nothing stays loaded: {transient}");
    assert_eq!(tpm.tpm2("getcap", &["handles-loaded-session"]), (true, String::new()), "and no session");
}

#[test]
fn two_providers_of_one_machine_have_keys_of_their_own() {
    let tpm = Swtpm::start("a");
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let points = [0, 1].map(|at| load(&tpm, &record(&folders[at])).unwrap().0.public_point());
    assert_ne!(points[0], points[1]);
    assert_eq!(persistent(&tpm).len(), 4);
}

#[test]
fn keys_that_lost_their_handles_are_derived_again() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let point = load(&tpm, &record(&folder)).unwrap().0.public_point();
    for handle in persistent(&tpm) {
        let (worked, said) = tpm.tpm2("evictcontrol", &["-C", "o", "-c", &handle]);
        assert!(worked, "{said}");
    }
    // As after a crash between writing the record and making the keys persistent.
    let (key, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!((origin, key.public_point()), (Origin::Restored, point));
    assert_eq!(persistent(&tpm).len(), 2);
}

#[test]
fn a_handle_that_another_program_took_is_left_to_it() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let point = load(&tpm, &record(&folder)).unwrap().0.public_point();
    let ours = persistent(&tpm);
    for handle in &ours {
        assert!(tpm.tpm2("evictcontrol", &["-C", "o", "-c", handle]).0);
    }
    assert!(tpm.tpm2("createprimary", &["-C", "o", "-G", "ecc", "-c", "other.ctx"]).0);
    let (worked, said) = tpm.tpm2("evictcontrol", &["-C", "o", "-c", "other.ctx", &ours[0]]);
    assert!(worked, "{said}");
    assert!(tpm.tpm2("flushcontext", &["-t"]).0);
    let (key, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!((origin, key.public_point()), (Origin::Restored, point));
    assert_eq!(load(&tpm, &record(&folder)).unwrap().1, Origin::Loaded, "the record names the new handle");
    assert_eq!(persistent(&tpm).len(), 3, "the other program's key is still there");
}

/// Has another program's key at the handle of the identity key.
fn another_takes_the_handle(tpm: &Swtpm) {
    let ours = persistent(tpm);
    for handle in &ours {
        assert!(tpm.tpm2("evictcontrol", &["-C", "o", "-c", handle]).0);
    }
    assert!(tpm.tpm2("createprimary", &["-C", "o", "-G", "ecc", "-c", "other.ctx"]).0);
    assert!(tpm.tpm2("evictcontrol", &["-C", "o", "-c", "other.ctx", &ours[0]]).0);
    assert!(tpm.tpm2("flushcontext", &["-t"]).0);
}

/// Reads one command or answer; nothing when the other side is done.
fn message(from: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 10];
    from.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[2..6].try_into().unwrap()) as usize;
    message.resize(length, 0);
    from.read_exact(&mut message[10..]).ok()?;
    Some(message)
}

/// A link to a TPM that breaks at the first command that makes a key persistent: before the TPM has it, or before its answer is
/// back. What a program has written until then is what a crash leaves.
fn breaking_link(tpm: &Swtpm, folder: &TempDir, is_done: bool) -> PathBuf {
    /// `TPM2_EvictControl` (part 2, section 6.5.2).
    const EVICT_CONTROL: [u8; 4] = 0x120_u32.to_be_bytes();
    let path = folder.path().join("link");
    let _ = fs::remove_file(&path);
    let (listener, behind) = (UnixListener::bind(&path).unwrap(), tpm.path());
    std::thread::spawn(move || {
        let (mut program, _) = listener.accept().unwrap();
        let mut tpm = UnixStream::connect(behind).unwrap();
        while let Some(command) = message(&mut program) {
            let breaks = command[6..10] == EVICT_CONTROL;
            if breaks && !is_done {
                return;
            }
            tpm.write_all(&command).unwrap();
            let answer = message(&mut tpm).unwrap();
            if breaks {
                return;
            }
            program.write_all(&answer).unwrap();
        }
    });
    path
}

#[test]
fn a_crash_while_a_key_gets_another_handle_leaves_no_copy() {
    for is_done in [false, true] {
        let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
        let point = load(&tpm, &record(&folder)).unwrap().0.public_point();
        another_takes_the_handle(&tpm);
        let link = breaking_link(&tpm, &folder, is_done);
        assert!(TpmKey::load_or_create(&link, &record(&folder), &[]).is_err(), "the link breaks");
        assert_eq!(persistent(&tpm).len(), if is_done { 2 } else { 1 });
        let (key, origin) = load(&tpm, &record(&folder)).unwrap();
        assert_eq!((origin, key.public_point()), (Origin::Restored, point));
        assert_eq!(persistent(&tpm).len(), 3, "the other program's key, and one of each of ours");
        delete_tpm_key(&tpm.path(), &record(&folder)).unwrap();
        assert_eq!(persistent(&tpm).len(), 1, "the other program's key");
    }
}

#[test]
fn a_key_that_the_record_does_not_know_to_be_there_is_found_and_not_copied() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let point = load(&tpm, &record(&folder)).unwrap().0.public_point();
    let before = fs::read(record(&folder)).unwrap();
    another_takes_the_handle(&tpm);
    load(&tpm, &record(&folder)).unwrap();
    let after = fs::read(record(&folder)).unwrap();
    assert_ne!(before, after, "the key has another handle");
    // As a version left it that wrote its record afterwards.
    fs::write(record(&folder), &before).unwrap();
    assert_eq!(load(&tpm, &record(&folder)).unwrap().0.public_point(), point);
    assert_eq!((fs::read(record(&folder)).unwrap(), persistent(&tpm).len()), (after, 3));
    fs::write(record(&folder), &before).unwrap();
    delete_tpm_key(&tpm.path(), &record(&folder)).unwrap();
    assert_eq!(persistent(&tpm).len(), 1, "the other program's key");
}

#[test]
fn who_only_looks_makes_no_key_and_none_persistent() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let config = KeyConfig { homes: vec![Home::Tpm], tpm: tpm.path(), ..KeyConfig::default() };
    assert!(Identity::existing(folder.path(), &config).unwrap().is_none());
    let point = load(&tpm, &record(&folder)).unwrap().0.public_point();
    assert_eq!(Identity::existing(folder.path(), &config).unwrap().unwrap().public_point(), point);
    let kept = fs::read(record(&folder)).unwrap();
    for handle in persistent(&tpm) {
        assert!(tpm.tpm2("evictcontrol", &["-C", "o", "-c", &handle]).0);
    }
    let looked = Identity::existing(folder.path(), &config).map(drop);
    assert!(matches!(&looked, Err(IdentityError::Tpm(TpmKeyError::NotThere { .. }))), "{looked:?}");
    assert!(looked.unwrap_err().next_step().contains("`darkbloom start`"));
    let Check::No { reason, .. } = availability(Home::Tpm, folder.path(), &config).usable else { panic!("it signs") };
    assert!(reason.contains("are not at their handles"), "{reason}");
    assert_eq!((persistent(&tpm).len(), fs::read(record(&folder)).unwrap()), (0, kept));
    let other = Swtpm::start("b");
    let there = TpmKey::look(&other.path(), &record(&folder)).map(drop);
    assert!(matches!(there, Err(TpmKeyError::OtherTpm { .. })), "{there:?}");
    assert_eq!(Identity::open(folder.path(), &config).unwrap().0.public_point(), point);
}

#[test]
fn a_cleared_tpm_is_an_error_and_never_a_new_identity() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    load(&tpm, &record(&folder)).unwrap();
    let (worked, said) = tpm.tpm2("clear", &["-c", "p"]);
    assert!(worked, "{said}");
    let before = fs::read(record(&folder)).unwrap();
    assert!(matches!(load(&tpm, &record(&folder)), Err(TpmKeyError::OtherTpm { .. })));
    assert_eq!(persistent(&tpm).len(), 0);
    assert_eq!(fs::read(record(&folder)).unwrap(), before);
}

#[test]
fn a_record_of_another_machine_is_refused() {
    let (here, there, folder) = (Swtpm::start("a"), Swtpm::start("b"), tempfile::tempdir().unwrap());
    load(&there, &record(&folder)).unwrap();
    assert!(matches!(load(&here, &record(&folder)), Err(TpmKeyError::OtherTpm { .. })));
    assert_eq!(persistent(&here).len(), 0);
}

#[test]
fn a_damaged_record_is_an_error_and_deleting_it_begins_anew() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    fs::write(record(&folder), "darkbloom-tpm-v1\nidentity\n").unwrap();
    assert!(matches!(load(&tpm, &record(&folder)), Err(TpmKeyError::Damaged { .. })));
    assert_eq!(persistent(&tpm).len(), 0);
    delete_tpm_key(&tpm.path(), &record(&folder)).unwrap();
    assert_eq!(load(&tpm, &record(&folder)).unwrap().1, Origin::Created);
}

#[test]
fn deleting_leaves_no_orphan_and_may_be_repeated() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let first = load(&tpm, &record(&folder)).unwrap().0.public_point();
    for _ in 0..2 {
        delete_tpm_key(&tpm.path(), &record(&folder)).unwrap();
        assert_eq!((persistent(&tpm).len(), record(&folder).exists()), (0, false));
    }
    let (key, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!(origin, Origin::Created);
    assert_ne!(key.public_point(), first);
}

#[test]
fn a_key_that_is_bound_to_registers_signs_only_what_was_booted() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let (key, _) = TpmKey::load_or_create(&tpm.path(), &record(&folder), &[7, 16]).unwrap();
    assert_eq!(key.bound_to(), [7, 16]);
    sign(Domain::Challenge, &key, b"payload").unwrap();
    let extend = format!("16:sha256={}", "11".repeat(32));
    assert!(tpm.tpm2("pcrextend", &[&extend]).0);
    let refused = sign(Domain::Challenge, &key, b"payload").unwrap_err().to_string();
    assert!(refused.contains("TPM2_PolicyPCR") || refused.contains("TPM2_Sign"), "{refused}");
    assert!(matches!(load(&tpm, &record(&folder)), Err(TpmKeyError::Tpm(TpmError::Refused { .. }))));
    assert!(tpm.tpm2("pcrreset", &["16"]).0);
    let (again, origin) = load(&tpm, &record(&folder)).unwrap();
    assert_eq!((origin, again.public_point()), (Origin::Loaded, key.public_point()));
}

#[test]
fn a_tpm_that_is_not_there_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("no-tpm");
    let error = TpmKey::load_or_create(&absent, &record(&folder), &[]).err().unwrap();
    assert!(matches!(&error, TpmKeyError::Tpm(TpmError::Absent { path }) if *path == absent));
    assert!(error.next_step().contains("firmware"), "{}", error.next_step());
    assert!(!record(&folder).exists());
}

#[test]
fn an_owners_password_is_told_with_a_next_step() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    assert!(tpm.tpm2("changeauth", &["-c", "o", "secret"]).0);
    let error = load(&tpm, &record(&folder)).err().unwrap();
    assert!(error.next_step().contains("has a password"), "{error}: {}", error.next_step());
    assert!(!record(&folder).exists());
}
