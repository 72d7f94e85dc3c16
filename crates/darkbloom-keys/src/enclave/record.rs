//! What is remembered about a key in the Secure Enclave: where the keychain has it, and which it is. Nothing of it is secret.

use std::io;
use std::path::Path;

use darkbloom_enclave::{Item, is_label};

use super::EnclaveKeyError;
pub use crate::record::Record;
use crate::record::{Lines, bytes};

/// The line of a key that is still to be made.
const NONE: &str = "key none";
/// Longest name of an access group: Apple's teams have 10 signs, and bundles' names are far below this.
const GROUP_BYTES_MAX: usize = 256;

/// The key of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnclaveRecord {
    /// Where the keychain has it.
    pub item: Item,
    /// Its public point, once it was made and has signed.
    pub key: Option<[u8; 65]>,
}

impl Record for EnclaveRecord {
    const MAGIC: &'static str = "darkbloom-enclave-v1";
    /// A record has four short lines.
    const BYTES_MAX: u64 = 1_024;
    type Error = EnclaveKeyError;

    fn lines(&self) -> String {
        let Self { item, key } = self;
        let key = key.map_or_else(|| NONE.to_owned(), |point| format!("key {}", hex::encode(point)));
        format!("label {}\ngroup {}\n{key}\n", item.label, item.group)
    }

    fn read(lines: &mut Lines<'_>) -> Option<Self> {
        let label = lines.next()?.strip_prefix("label ").filter(|label| is_label(label))?.to_owned();
        let group = lines.next()?.strip_prefix("group ").filter(|group| is_group(group))?.to_owned();
        let key = match lines.next()? {
            NONE => None,
            line => Some(bytes(line.strip_prefix("key ")?)?),
        };
        Some(Self { item: Item { label, group }, key })
    }

    fn unreadable(path: &Path, source: io::Error) -> EnclaveKeyError {
        EnclaveKeyError::Record { path: path.to_owned(), source }
    }

    fn damaged(path: &Path) -> EnclaveKeyError {
        EnclaveKeyError::Damaged { path: path.to_owned() }
    }
}

/// Whether this can be the name of an access group.
pub fn is_group(text: &str) -> bool {
    let fits = |sign: u8| sign.is_ascii_alphanumeric() || matches!(sign, b'.' | b'-');
    text.contains('.') && text.len() <= GROUP_BYTES_MAX && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::assert_nothing_else_is_one;
    use darkbloom_enclave::{ACCESS_GROUP, fresh_label};

    fn record(key: Option<[u8; 65]>) -> EnclaveRecord {
        EnclaveRecord { item: Item { label: fresh_label([1; 16]), group: ACCESS_GROUP.to_owned() }, key }
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [record(None), record(Some([4; 65]))] {
            assert_eq!(EnclaveRecord::parse(&record.text()).as_ref(), Some(&record));
        }
    }

    #[test]
    fn nothing_else_is_a_record() {
        let good = record(Some([4; 65])).text();
        let wrong = [
            good.replace("label net", "label com"),
            good.replace("v2", "v3"),
            good.replace("group D", "group /"),
            good.replace("0404", "é4"),
            good.replace(ACCESS_GROUP, ""),
        ];
        assert_nothing_else_is_one::<EnclaveRecord>(&good, &wrong);
    }
}
