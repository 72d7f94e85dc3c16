//! What a release is signed with says what the code says.

use std::fs;
use std::path::Path;

use darkbloom_enclave::{ACCESS_GROUP, BUNDLE_ID, TEAM_ID};

/// The value behind a key of a property list, as it is written.
fn value(list: &str, key: &str) -> Option<String> {
    let mut elements = list.split_once("<dict>")?.1.lines().map(str::trim).filter(|line| !line.is_empty());
    elements.find(|line| *line == format!("<key>{key}</key>"))?;
    let first = elements.next()?;
    if first != "<array>" {
        return Some(first.to_owned());
    }
    Some(elements.take_while(|line| *line != "</array>").collect::<Vec<_>>().join(" "))
}

#[test]
fn the_entitlements_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/macos/darkbloom.entitlements");
    let list = fs::read_to_string(path).unwrap();
    let text = |text: &str| Some(format!("<string>{text}</string>"));
    assert_eq!(format!("{TEAM_ID}.{BUNDLE_ID}"), ACCESS_GROUP);
    assert_eq!(value(&list, "com.apple.application-identifier"), text(ACCESS_GROUP));
    assert_eq!(value(&list, "com.apple.developer.team-identifier"), text(TEAM_ID));
    assert_eq!(value(&list, "keychain-access-groups"), text(ACCESS_GROUP), "this one and no other");
    assert_eq!(list.matches("<key>").count(), 3, "nothing else is asked of the system, a debugger's door least of all");
    assert_eq!(TEAM_ID.len(), 10, "as Apple's are");
}

/// Each of these opens the hardened runtime: to debuggers, to libraries of others, to code that was not signed.
#[test]
fn the_entitlements_leave_the_hardened_runtime_whole() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/macos/darkbloom.entitlements");
    let list = fs::read_to_string(path).unwrap();
    assert!(list.contains("keychain-access-groups"), "it was read");
    for door in [
        "get-task-allow",
        "cs.debugger",
        "cs.disable-library-validation",
        "cs.allow-dyld-environment-variables",
        "cs.allow-unsigned-executable-memory",
        "cs.disable-executable-page-protection",
        "cs.allow-jit",
    ] {
        assert_eq!(value(&list, &format!("com.apple.security.{door}")), None, "{door}");
        assert!(!list.contains(door), "{door}");
    }
}

#[test]
fn values_of_a_property_list_are_found() {
    let list =
        "<plist><dict>\n<key>a</key>\n<string>1</string>\n<key>b</key>\n<array>\n<true/>\n<false/>\n</array>\n</dict>";
    assert_eq!(
        (value(list, "a").as_deref(), value(list, "b").as_deref()),
        (Some("<string>1</string>"), Some("<true/> <false/>"))
    );
    assert_eq!(value(list, "c"), None);
}
