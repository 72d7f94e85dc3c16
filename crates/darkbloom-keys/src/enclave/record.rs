//! What is remembered about a key in the Secure Enclave: where the keychain has it, and which it is. Nothing of it is secret.

use std::fs;
use std::io;
use std::path::Path;

use darkbloom_enclave::{Item, is_label};

use super::EnclaveKeyError;
use crate::durable;

/// First word of a record, so that no other file is mistaken for one.
const MAGIC: &str = "darkbloom-enclave-v1";
/// The line of a key that is still to be made.
const NONE: &str = "key none";
/// A record has four short lines.
const RECORD_BYTES_MAX: u64 = 1_024;
/// Longest name of an access group: Apple's teams have 10 signs, and bundles' names are far below this.
const GROUP_BYTES_MAX: usize = 256;

/// The key of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the keychain has it.
    pub item: Item,
    /// Its public point, once it was made and has signed.
    pub key: Option<[u8; 65]>,
}

impl Record {
    /// Reads a record; nothing when there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, EnclaveKeyError> {
        let failed = |source| EnclaveKeyError::Record { path: path.to_owned(), source };
        let damaged = || EnclaveKeyError::Damaged { path: path.to_owned() };
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > RECORD_BYTES_MAX => return Err(damaged()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged()),
            Err(error) => return Err(failed(error)),
        };
        Self::parse(&text).ok_or_else(damaged).map(Some)
    }

    /// Writes a record that nobody has written before. False when somebody has.
    pub fn create(&self, path: &Path) -> Result<bool, EnclaveKeyError> {
        let failed = |source| EnclaveKeyError::Record { path: path.to_owned(), source };
        durable::create(path, self.text().as_bytes()).map_err(failed)
    }

    /// Writes a record over the one that is there.
    pub fn replace(&self, path: &Path) -> Result<(), EnclaveKeyError> {
        let failed = |source| EnclaveKeyError::Record { path: path.to_owned(), source };
        durable::replace(path, self.text().as_bytes()).map_err(failed)
    }

    fn text(&self) -> String {
        let Self { item, key } = self;
        let key = key.map_or_else(|| NONE.to_owned(), |point| format!("key {}", hex::encode(point)));
        format!("{MAGIC}\nlabel {}\ngroup {}\n{key}\n", item.label, item.group)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != MAGIC {
            return None;
        }
        let label = lines.next()?.strip_prefix("label ").filter(|label| is_label(label))?.to_owned();
        let group = lines.next()?.strip_prefix("group ").filter(|group| is_group(group))?.to_owned();
        let key = match lines.next()? {
            NONE => None,
            line => Some(point(line.strip_prefix("key ")?)?),
        };
        lines.next().is_none().then_some(Self { item: Item { label, group }, key })
    }
}

/// Whether this can be the name of an access group.
pub fn is_group(text: &str) -> bool {
    let fits = |sign: u8| sign.is_ascii_alphanumeric() || matches!(sign, b'.' | b'-');
    text.contains('.') && text.len() <= GROUP_BYTES_MAX && text.bytes().all(fits)
}

fn point(digits: &str) -> Option<[u8; 65]> {
    let mut point = [0; 65];
    hex::decode_to_slice(digits, &mut point).ok()?;
    Some(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_enclave::{ACCESS_GROUP, fresh_label};

    fn record(key: Option<[u8; 65]>) -> Record {
        Record { item: Item { label: fresh_label([1; 16]), group: ACCESS_GROUP.to_owned() }, key }
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [record(None), record(Some([4; 65]))] {
            assert_eq!(Record::parse(&record.text()).as_ref(), Some(&record));
        }
    }

    #[test]
    fn nothing_else_is_a_record() {
        let good = record(Some([4; 65])).text();
        for at in 0..good.len() {
            assert_eq!(Record::parse(&good[..at]), None, "cut at {at}");
        }
        let wrong = [
            good.replace("label net", "label com"),
            good.replace("v2", "v3"),
            good.replace("group D", "group /"),
            good.replace("enclave-v1", "enclave-v2"),
            good.replace("0404", "é4"),
            good.replace(' ', "  "),
            format!("{good}{good}"),
            good.replace(ACCESS_GROUP, ""),
        ];
        for text in wrong {
            assert_eq!(Record::parse(&text), None, "{text}");
        }
    }
}
