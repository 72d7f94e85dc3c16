//! What is remembered about the keys in a TPM: where they are, and what they are derived from. Nothing of it is secret.

use std::fs;
use std::io;
use std::path::Path;

use tpm2_protocol::data::Tpm2bPublic;

use super::TpmKeyError;
use super::commands::{Handle, signing_template};
use crate::durable;

/// First word of a record, so that no other file is mistaken for one.
const MAGIC: &str = "darkbloom-tpm-v1";
/// The line of a key that signs whatever was booted.
const ANYTHING: &str = "policy none";
/// A record has four short lines.
const RECORD_BYTES_MAX: u64 = 2_048;

/// One key of a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its persistent handle.
    pub handle: Handle,
    /// What it is derived from, together with the hierarchy's seed.
    pub salt: [u8; 32],
    /// Its public point.
    pub point: [u8; 65],
}

/// The keys of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Signs statements and challenges.
    pub identity: Known,
    /// Signs what the TPM says.
    pub attestation: Known,
    /// The registers that the identity key is bound to, and the policy that says so.
    pub policy: Option<(Vec<u32>, [u8; 32])>,
}

impl Record {
    /// The attestation key, which is restricted, or the identity key.
    pub fn key(&self, restricted: bool) -> &Known {
        if restricted { &self.attestation } else { &self.identity }
    }

    /// The same, to be changed.
    pub fn key_mut(&mut self, restricted: bool) -> &mut Known {
        if restricted { &mut self.attestation } else { &mut self.identity }
    }

    /// What one of them is derived from.
    pub fn template(&self, restricted: bool) -> Tpm2bPublic {
        let policy = self.policy.as_ref().filter(|_| !restricted);
        signing_template(&self.key(restricted).salt, restricted, policy.map(|(_, digest)| digest))
    }

    /// Reads a record; nothing when there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, TpmKeyError> {
        let failed = |source| TpmKeyError::Record { path: path.to_owned(), source };
        let damaged = || TpmKeyError::Damaged { path: path.to_owned() };
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
    pub fn create(&self, path: &Path) -> Result<bool, TpmKeyError> {
        let failed = |source| TpmKeyError::Record { path: path.to_owned(), source };
        durable::create(path, self.text().as_bytes()).map_err(failed)
    }

    /// Writes a record over the one that is there.
    pub fn replace(&self, path: &Path) -> Result<(), TpmKeyError> {
        let failed = |source| TpmKeyError::Record { path: path.to_owned(), source };
        durable::replace(path, self.text().as_bytes()).map_err(failed)
    }

    fn text(&self) -> String {
        let key = |name: &str, known: &Known| {
            format!("{name} {:08x} {} {}\n", known.handle, hex::encode(known.salt), hex::encode(known.point))
        };
        let policy = self.policy.as_ref().map_or_else(
            || ANYTHING.to_owned(),
            |(pcrs, digest)| {
                let pcrs: Vec<_> = pcrs.iter().map(u32::to_string).collect();
                format!("policy {} {}", pcrs.join(","), hex::encode(digest))
            },
        );
        format!("{MAGIC}\n{}{}{policy}\n", key("identity", &self.identity), key("attestation", &self.attestation))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != MAGIC {
            return None;
        }
        let identity = known(lines.next()?, "identity ")?;
        let attestation = known(lines.next()?, "attestation ")?;
        let policy = match lines.next()? {
            ANYTHING => None,
            line => Some(policy(line)?),
        };
        lines.next().is_none().then_some(Self { identity, attestation, policy })
    }
}

fn known(line: &str, name: &str) -> Option<Known> {
    let mut words = line.strip_prefix(name)?.split(' ');
    let handle = u32::from_be_bytes(bytes(words.next()?)?);
    let known = Known { handle, salt: bytes(words.next()?)?, point: bytes(words.next()?)? };
    words.next().is_none().then_some(known)
}

fn policy(line: &str) -> Option<(Vec<u32>, [u8; 32])> {
    let (pcrs, digest) = line.strip_prefix("policy ")?.split_once(' ')?;
    let pcrs: Option<Vec<u32>> = pcrs.split(',').map(|pcr| pcr.parse().ok().filter(|pcr| *pcr < 24)).collect();
    Some((pcrs?, bytes(digest)?))
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(policy: Option<(Vec<u32>, [u8; 32])>) -> Record {
        let known = |byte: u8| Known { handle: 0x8102_0000 + u32::from(byte), salt: [byte; 32], point: [byte; 65] };
        Record { identity: known(1), attestation: known(2), policy }
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [record(None), record(Some((vec![0, 7, 23], [9; 32])))] {
            assert_eq!(Record::parse(&record.text()).as_ref(), Some(&record));
        }
    }

    #[test]
    fn nothing_else_is_a_record() {
        let good = record(Some((vec![7], [9; 32]))).text();
        for at in 0..good.len() {
            assert_eq!(Record::parse(&good[..at]), None, "cut at {at}");
        }
        let wrong = [
            good.replace("policy 7", "policy 24"),
            good.replace("policy 7", "policy "),
            good.replace("identity", "attestation"),
            good.replace("v1", "v2"),
            format!("{good}{good}"),
            good.replace(' ', "  "),
            good.replace("0101", "é0"),
        ];
        for text in wrong {
            assert_eq!(Record::parse(&text), None, "{text}");
        }
    }
}
