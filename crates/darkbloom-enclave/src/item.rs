//! Where a key is in the keychain: its label, and the programs that may use it.

use darkbloom_types::armed;

/// The team that signs releases, as Apple names it. A fork puts its own here and into
/// `packaging/macos/darkbloom.entitlements`, which a test compares.
pub const TEAM_ID: &str = "DARKBLOOM0";
/// The program's name to the system.
pub const BUNDLE_ID: &str = "net.darkbloom.provider";
/// The programs that may use the keys: those that the team signed for this bundle. The same text as the application id of
/// the entitlements.
pub const ACCESS_GROUP: &str = "DARKBLOOM0.net.darkbloom.provider";

/// The one label of the version before: one key for all folders of a user, without a record.
pub const PREVIOUS_LABEL: &str = "net.darkbloom.identity.v1";
/// How labels begin. Each has 32 digits after that, drawn for it, so that two folders never share a key.
const LABEL: &str = "net.darkbloom.identity.v2.";

/// A place in the keychain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The label, as the key's application tag.
    pub label: String,
    /// The access group.
    pub group: String,
}

/// What a key is looked for by, beside its label. All three are said with every search: each keeps out what somebody else put
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search<'a> {
    /// In the data-protection keychain: the legacy one knows no groups, and whoever is root can fill it.
    pub data_protection: bool,
    /// Among keys of the enclave: one that was imported passes for one of them otherwise.
    pub enclave_only: bool,
    /// In this access group: else in all that the program is signed for.
    pub group: Option<&'a str>,
}

impl Item {
    /// What its keys are looked for by.
    #[must_use]
    pub fn search(&self) -> Search<'_> {
        Search {
            data_protection: armed!("enclave_data_protection"),
            enclave_only: armed!("enclave_token"),
            group: armed!("enclave_group").then_some(&self.group),
        }
    }
}

/// A label that no key has, from 16 bytes of randomness.
#[must_use]
pub fn fresh_label(random: [u8; 16]) -> String {
    random.iter().fold(LABEL.to_owned(), |label, byte| format!("{label}{byte:02x}"))
}

/// Whether this is a label that [`fresh_label`] made.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let digits = text.strip_prefix(LABEL).unwrap_or_default();
    digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_from_other_texts() {
        let label = fresh_label([0xaf; 16]);
        assert!(is_label(&label) && label.ends_with(".v2.afafafafafafafafafafafafafafafaf"), "{label}");
        for other in [PREVIOUS_LABEL, "", LABEL, &label[1..], &label[..label.len() - 1], &label.to_uppercase()] {
            assert!(!is_label(other), "{other}");
        }
    }
}
