//! What holds of keys in the enclave, whichever way the keychain is reached: simulated, or through the binding that ships
//! with the framework's stand-in behind it.

use std::sync::Arc;

use darkbloom_enclave::{
    ACCESS_GROUP, EnclaveError, Item, Keychain, KeychainError, Origin, PREVIOUS_LABEL, Point, codes, fresh_label, load,
    load_or_create, verifies,
};

use super::simulator::{Mac, Process};

/// How a program reaches its keychain.
pub type Reach<'a> = &'a dyn Fn(&Process) -> Arc<dyn Keychain>;

/// Makes a test of each claim.
macro_rules! each {
    ($make:ident) => {
        $make! {
            a_key_is_the_same_for_every_process_of_the_release
            a_program_without_the_entitlement_gets_no_key
            a_key_is_in_the_group_that_is_named
            a_locked_keychain_is_waited_for
            a_broken_enclave_is_not_replaced
            a_machine_without_an_enclave_says_so
            nothing_but_not_found_makes_a_key
            what_is_wrong_with_making_a_key_is_said
            a_race_that_is_lost_loads_the_winners_key
            a_race_that_both_win_leaves_one_key
            a_key_that_is_not_given_back_is_not_used
            a_key_that_does_not_sign_is_not_used
            the_previous_versions_key_stays_the_identity
            a_migration_that_cannot_be_made_makes_nothing
            a_migration_that_gives_back_another_key_is_an_error
            two_who_find_the_previous_key_never_share_it
            a_key_that_was_there_is_never_replaced
            planted_keys_are_not_seen
            a_deleted_key_is_gone_and_only_that
            an_enclave_can_be_tried_without_a_trace
        }
    };
}
pub(crate) use each;

pub fn item(byte: u8) -> Item {
    Item { label: fresh_label([byte; 16]), group: ACCESS_GROUP.to_owned() }
}

fn previous() -> Item {
    Item { label: PREVIOUS_LABEL.to_owned(), group: ACCESS_GROUP.to_owned() }
}

fn made(keychain: &dyn Keychain, item: &Item) -> Point {
    let (key, origin) = load_or_create(keychain, item, Some(&previous())).unwrap();
    assert_eq!(origin, Origin::Created);
    key
}

#[track_caller]
fn refused(keychain: &dyn Keychain, item: &Item, why: KeychainError) {
    for previous in [Some(&previous()), None] {
        assert_eq!(load_or_create(keychain, item, previous), Err(EnclaveError::Keychain(why)));
    }
    assert!(!why.next_step().is_empty());
}

pub fn a_key_is_the_same_for_every_process_of_the_release(reach: Reach) {
    let mac = Mac::default();
    let (first, second) = (reach(&mac.released()), reach(&mac.released()));
    let key = made(&*first, &item(1));
    assert_eq!(load_or_create(&*second, &item(1), Some(&previous())), Ok((key, Origin::Loaded)));
    assert_eq!(load(&*second, &item(1), &key), Ok(()));
    let signature = second.sign(&item(1), &key, b"message").unwrap();
    assert!(verifies(&key, b"message", &signature) && !verifies(&key, b"another", &signature));
    assert_ne!(made(&*second, &item(2)), key, "another folder has another key");
    assert_eq!(mac.kept(), 2);
}

pub fn a_program_without_the_entitlement_gets_no_key(reach: Reach) {
    let mac = Mac::default();
    let key = made(&*reach(&mac.released()), &item(1));
    for groups in [&[][..], &["OTHERTEAM1.net.darkbloom.provider"], &["DARKBLOOM0.net.darkbloom.other"]] {
        let other = reach(&mac.signed_for(groups));
        refused(&*other, &item(1), KeychainError::MissingEntitlement);
        refused(&*other, &item(2), KeychainError::MissingEntitlement);
        assert_eq!(load(&*other, &item(1), &key), Err(KeychainError::MissingEntitlement.into()));
        assert_eq!(other.sign(&item(1), &key, b"message"), Err(KeychainError::MissingEntitlement));
        assert_eq!(other.delete(&item(1)), Err(KeychainError::MissingEntitlement));
    }
    let other = reach(&mac.signed_for(&["OTHERTEAM1.net.darkbloom.provider"]));
    let elsewhere = Item { group: "OTHERTEAM1.net.darkbloom.provider".to_owned(), ..item(1) };
    assert_eq!(other.keys(&elsewhere), Err(KeychainError::NotFound), "nor in a group of its own");
    assert_eq!((mac.kept(), mac.made()), (1, 1));
}

pub fn a_key_is_in_the_group_that_is_named(reach: Reach) {
    let mac = Mac::default();
    // A program with several groups has the first where it names none.
    let first = "DARKBLOOM0.net.darkbloom.first";
    let several = reach(&mac.signed_for(&[first, ACCESS_GROUP]));
    let key = made(&*several, &item(1));
    assert_eq!(load(&*reach(&mac.released()), &item(1), &key), Ok(()));
    let elsewhere = Item { group: first.to_owned(), ..item(1) };
    assert_eq!(several.keys(&elsewhere), Err(KeychainError::NotFound));
    assert_ne!(made(&*several, &elsewhere), key);
    several.delete(&elsewhere).unwrap();
    assert_eq!(several.keys(&item(1)), Ok(vec![key]));
}

pub fn a_locked_keychain_is_waited_for(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    mac.set(|faults| faults.locked = true);
    refused(&*process, &item(1), KeychainError::Locked);
    assert_eq!(mac.made(), 0);
    mac.set(|faults| faults.locked = false);
    let key = made(&*process, &item(1));
    mac.set(|faults| faults.locked = true);
    refused(&*process, &item(1), KeychainError::Locked);
    assert_eq!(load(&*process, &item(1), &key), Err(KeychainError::Locked.into()));
    mac.set(|faults| faults.locked = false);
    assert_eq!(load(&*process, &item(1), &key), Ok(()));
    assert_eq!(mac.made(), 1);
}

pub fn a_broken_enclave_is_not_replaced(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let key = made(&*process, &item(1));
    mac.set(|faults| faults.broken_enclave = true);
    refused(&*process, &item(1), KeychainError::AuthFailed);
    assert_eq!(load(&*process, &item(1), &key), Err(KeychainError::AuthFailed.into()));
    assert_eq!(mac.made(), 1);
}

pub fn a_machine_without_an_enclave_says_so(reach: Reach) {
    let mac = Mac::default();
    mac.set(|faults| faults.no_enclave = true);
    let process = reach(&mac.released());
    assert_eq!(process.try_enclave(), Err(KeychainError::Absent));
    refused(&*process, &item(1), KeychainError::Absent);
    assert_eq!(mac.kept(), 0);
}

pub fn nothing_but_not_found_makes_a_key(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let named = [
        codes::DUPLICATE,
        codes::MISSING_ENTITLEMENT,
        codes::INTERACTION_NOT_ALLOWED,
        codes::AUTH_FAILED,
        codes::NOT_AVAILABLE,
        codes::UNIMPLEMENTED,
    ];
    // And those around them, success among them apart, which no search may be answered with here.
    let others = (-25400..-25200).chain(-34100..-34000).chain([-50, -108, -128, -1, 1, i32::MIN, i32::MAX]);
    for status in named.into_iter().chain(others).filter(|status| *status != codes::NOT_FOUND) {
        mac.set(|faults| faults.find = Some(status));
        refused(&*process, &item(1), KeychainError::of_status(status));
        assert_eq!(mac.made(), 0, "status {status} made a key");
    }
    mac.set(|faults| faults.find = None);
    made(&*process, &item(1));
}

pub fn what_is_wrong_with_making_a_key_is_said(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    for status in
        [codes::MISSING_ENTITLEMENT, codes::INTERACTION_NOT_ALLOWED, codes::AUTH_FAILED, codes::NOT_AVAILABLE, -1]
    {
        mac.set(|faults| faults.create = Some(status));
        refused(&*process, &item(1), KeychainError::of_status(status));
    }
    // A keychain that does not find what it has made is no leave to go on without it.
    mac.set(|faults| faults.create = Some(codes::NOT_FOUND));
    refused(&*process, &item(1), KeychainError::NotFound);
    mac.set(|faults| faults.create = Some(codes::DUPLICATE));
    let lost = load_or_create(&*process, &item(1), None);
    assert_eq!(lost, Err(EnclaveError::NotKept(item(1).label)), "who is said to have won has no key");
    assert_eq!(mac.kept(), 0);
}

pub fn a_race_that_is_lost_loads_the_winners_key(reach: Reach) {
    let mac = Mac::default();
    mac.set(|faults| (faults.race, faults.refuses_second) = (true, true));
    let process = reach(&mac.released());
    let (key, origin) = load_or_create(&*process, &item(1), Some(&previous())).unwrap();
    assert_eq!((origin, mac.kept(), mac.made()), (Origin::Loaded, 1, 1));
    assert_eq!(process.keys(&item(1)), Ok(vec![key]));
}

pub fn a_race_that_both_win_leaves_one_key(reach: Reach) {
    let mac = Mac::default();
    mac.set(|faults| faults.race = true);
    let process = reach(&mac.released());
    let (key, origin) = load_or_create(&*process, &item(1), Some(&previous())).unwrap();
    assert_eq!((origin, mac.kept(), mac.made()), (Origin::Loaded, 1, 2), "what was made second was taken back");
    assert_eq!(process.keys(&item(1)), Ok(vec![key]));
}

pub fn a_key_that_is_not_given_back_is_not_used(reach: Reach) {
    let mac = Mac::default();
    mac.set(|faults| faults.keeps_nothing = true);
    let process = reach(&mac.released());
    let not_kept = Err(EnclaveError::NotKept(item(1).label));
    assert_eq!(load_or_create(&*process, &item(1), None), not_kept);
    mac.set(|faults| faults.race = true);
    assert_eq!(load_or_create(&*process, &item(1), None), not_kept, "nor when another's is given back");
}

pub fn a_key_that_does_not_sign_is_not_used(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    mac.set(|faults| faults.broken_enclave = true);
    refused(&*process, &item(1), KeychainError::AuthFailed);
    mac.set(|faults| (faults.broken_enclave, faults.signs_wrongly) = (false, true));
    assert_eq!(load_or_create(&*process, &item(2), None), Err(EnclaveError::SelfTest));
    assert_eq!(mac.kept(), 2, "nor is it thrown away: it is known where it is");
}

pub fn the_previous_versions_key_stays_the_identity(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let key = process.create(&previous()).unwrap();
    assert_eq!(load_or_create(&*process, &item(1), Some(&previous())), Ok((key, Origin::Migrated)));
    assert_eq!(mac.labels(), [item(1).label]);
    // Also after a crash between the change of the label and everything else.
    assert_eq!(load_or_create(&*process, &item(1), Some(&previous())), Ok((key, Origin::Loaded)));
    assert_eq!(mac.made(), 1);
}

pub fn a_migration_that_cannot_be_made_makes_nothing(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let key = process.create(&previous()).unwrap();
    for status in [codes::DUPLICATE, codes::AUTH_FAILED, codes::INTERACTION_NOT_ALLOWED, -50] {
        mac.set(|faults| faults.rename = Some(status));
        let failed = load_or_create(&*process, &item(1), Some(&previous()));
        assert_eq!(failed, Err(KeychainError::of_status(status).into()));
        assert_eq!((mac.labels(), mac.made()), (vec![PREVIOUS_LABEL.to_owned()], 1));
    }
    mac.set(|faults| (faults.rename, faults.broken_enclave) = (None, true));
    let broken = load_or_create(&*process, &item(1), Some(&previous()));
    assert_eq!(broken, Err(KeychainError::AuthFailed.into()));
    mac.set(|faults| faults.broken_enclave = false);
    assert_eq!(load_or_create(&*process, &item(1), Some(&previous())).unwrap().0, key);
    process.create(&previous()).unwrap();
    process.create(&previous()).unwrap();
    let several = load_or_create(&*process, &item(2), Some(&previous()));
    assert_eq!(several, Err(EnclaveError::Several(PREVIOUS_LABEL.to_owned())), "nothing says which it is");
    assert_eq!(mac.made(), 3);
}

pub fn a_migration_that_gives_back_another_key_is_an_error(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    process.create(&previous()).unwrap();
    mac.set(|faults| faults.renames_another = true);
    let migrated = load_or_create(&*process, &item(1), Some(&previous()));
    assert_eq!(migrated, Err(EnclaveError::NotKept(item(1).label)));
}

pub fn two_who_find_the_previous_key_never_share_it(reach: Reach) {
    let mac = Mac::default();
    let (first, second) = (reach(&mac.released()), reach(&mac.released()));
    let key = first.create(&previous()).unwrap();
    // The second has seen the key when the first takes it.
    mac.set(|faults| faults.rename = Some(codes::NOT_FOUND));
    let (others, origin) = load_or_create(&*second, &item(2), Some(&previous())).unwrap();
    assert_eq!(origin, Origin::Created);
    mac.set(|faults| faults.rename = None);
    assert_eq!(load_or_create(&*first, &item(1), Some(&previous())), Ok((key, Origin::Migrated)));
    assert_ne!(key, others);
    let rotated = load_or_create(&*first, &item(3), None).unwrap();
    assert_eq!(rotated.1, Origin::Created, "a rotation takes over nothing");
}

pub fn a_key_that_was_there_is_never_replaced(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let (key, other) = (made(&*process, &item(1)), made(&*process, &item(2)));
    assert_eq!(load(&*process, &item(1), &other), Err(EnclaveError::OtherKey(item(1).label)));
    process.create(&item(1)).unwrap();
    assert_eq!(load(&*process, &item(1), &key), Ok(()), "it is told from another under its label");
    let several = load_or_create(&*process, &item(1), None);
    assert_eq!(several, Err(EnclaveError::Several(item(1).label)));
    mac.erase();
    assert_eq!(load(&*process, &item(1), &key), Err(EnclaveError::Gone(item(1).label)));
    assert_eq!((mac.kept(), mac.made()), (0, 3));
}

pub fn planted_keys_are_not_seen(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let planted = [mac.plant_in_file_keychain(&item(1).label), mac.plant_in_group(&item(1).label, ACCESS_GROUP)];
    let key = made(&*process, &item(1));
    assert!(!planted.contains(&key));
    for planted in planted {
        assert_eq!(load(&*process, &item(1), &planted), Err(EnclaveError::OtherKey(item(1).label)));
        assert!(process.sign(&item(1), &planted, b"message").is_err());
    }
}

pub fn a_deleted_key_is_gone_and_only_that(reach: Reach) {
    let mac = Mac::default();
    let process = reach(&mac.released());
    let (first, second) = (made(&*process, &item(1)), made(&*process, &item(2)));
    let third = process.create(&item(2)).unwrap();
    process.withdraw(&item(2), &third).unwrap();
    assert_eq!(process.withdraw(&item(2), &third), Err(KeychainError::NotFound));
    assert_eq!(process.keys(&item(2)), Ok(vec![second]));
    process.delete(&item(1)).unwrap();
    assert_eq!(process.delete(&item(1)), Err(KeychainError::NotFound));
    assert_eq!((load(&*process, &item(2), &second), mac.kept()), (Ok(()), 1));
    assert_ne!(made(&*process, &item(1)), first);
}

pub fn an_enclave_can_be_tried_without_a_trace(reach: Reach) {
    let mac = Mac::default();
    for groups in [&[][..], &[ACCESS_GROUP]] {
        assert_eq!(reach(&mac.signed_for(groups)).try_enclave(), Ok(()));
    }
    mac.set(|faults| faults.broken_enclave = true);
    assert_eq!(reach(&mac.released()).try_enclave(), Err(KeychainError::AuthFailed));
    assert_eq!(mac.kept(), 0);
}
