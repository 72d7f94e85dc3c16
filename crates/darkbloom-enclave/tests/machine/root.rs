//! Whoever is root, with the platform's own key tool.

use darkbloom_enclave::{EnclaveError, Item, Keychain as _, KeychainError, codes, load, load_or_create};

use crate::claims::item;
use crate::simulator::{Mac, NOT_EXPORTABLE, Query};

/// The access group that the tool is signed for; being root gives it no other.
const TOOLS_GROUP: &str = "com.apple.security.tool";

#[test]
fn root_with_the_platforms_key_tool_neither_uses_nor_copies_the_key() {
    let mac = Mac::default();
    let (ours, tool) = (mac.released(), mac.signed_for(&[TOOLS_GROUP]));
    let (key, _) = load_or_create(&ours, &item(1), None).unwrap();
    let ours_to_tool = Query::from(&item(1));
    assert_eq!(tool.find(&ours_to_tool).err(), Some(codes::MISSING_ENTITLEMENT));
    assert_eq!(tool.remove(&ours_to_tool), Err(codes::MISSING_ENTITLEMENT));
    assert_eq!(tool.sign(&item(1), &key, b"message"), Err(KeychainError::MissingEntitlement));
    for query in
        [Query { group: None, ..ours_to_tool.clone() }, Query { data_protection: false, ..ours_to_tool.clone() }]
    {
        assert_eq!(tool.find(&query).err(), Some(codes::NOT_FOUND), "{query:?}");
    }
    // Even where somebody may use it, it does not come out; a key of software does.
    let in_enclave = ours.find(&ours_to_tool).unwrap().remove(0);
    assert_eq!(ours.export(&in_enclave), Err(NOT_EXPORTABLE));
    let planted = mac.plant_in_file_keychain(&item(1).label);
    let software = tool.find(&Query { data_protection: false, ..ours_to_tool }).unwrap().remove(0);
    assert_eq!((software.point(), tool.export(&software).is_ok()), (planted, true));
    assert_eq!(load(&ours, &item(1), &key), Ok(()), "what root put beside it changes nothing");
}

#[test]
fn root_can_destroy_the_key_and_that_is_no_new_identity() {
    let mac = Mac::default();
    let ours = mac.released();
    let (key, _) = load_or_create(&ours, &item(1), None).unwrap();
    mac.erase();
    mac.plant_in_file_keychain(&item(1).label);
    assert_eq!(load(&ours, &item(1), &key), Err(EnclaveError::Gone(item(1).label)));
    assert_eq!(mac.kept(), 0);
}

#[test]
fn a_group_of_another_team_is_not_ours_even_with_our_label() {
    let mac = Mac::default();
    let theirs = mac.signed_for(&["OTHERTEAM1.net.darkbloom.provider"]);
    let their_item = Item { group: "OTHERTEAM1.net.darkbloom.provider".to_owned(), ..item(1) };
    let (their_key, _) = load_or_create(&theirs, &their_item, None).unwrap();
    let ours = mac.released();
    let (key, _) = load_or_create(&ours, &item(1), None).unwrap();
    assert_ne!(key, their_key);
    assert_eq!(ours.keys(&item(1)), Ok(vec![key]));
}
