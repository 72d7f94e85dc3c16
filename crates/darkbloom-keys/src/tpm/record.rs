//! What is remembered about the keys in a TPM: where they are, and what they are derived from. Nothing of it is secret.

use std::io;
use std::path::Path;

use tpm2_protocol::data::Tpm2bPublic;

use super::TpmKeyError;
use super::commands::{Handle, signing_template};
pub use crate::record::Record;
use crate::record::{Lines, bytes};

/// The line of a key that signs whatever was booted.
const ANYTHING: &str = "policy none";

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
pub struct TpmRecord {
    /// Signs statements and challenges.
    pub identity: Known,
    /// Signs what the TPM says.
    pub attestation: Known,
    /// The registers that the identity key is bound to, and the policy that says so.
    pub policy: Option<(Vec<u32>, [u8; 32])>,
}

impl TpmRecord {
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
}

impl Record for TpmRecord {
    const MAGIC: &'static str = "darkbloom-tpm-v1";
    /// A record has four short lines.
    const BYTES_MAX: u64 = 2_048;
    type Error = TpmKeyError;

    fn lines(&self) -> String {
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
        format!("{}{}{policy}\n", key("identity", &self.identity), key("attestation", &self.attestation))
    }

    fn read(lines: &mut Lines<'_>) -> Option<Self> {
        let identity = known(lines.next()?, "identity ")?;
        let attestation = known(lines.next()?, "attestation ")?;
        let policy = match lines.next()? {
            ANYTHING => None,
            line => Some(policy(line)?),
        };
        Some(Self { identity, attestation, policy })
    }

    fn unreadable(path: &Path, source: io::Error) -> TpmKeyError {
        TpmKeyError::Record { path: path.to_owned(), source }
    }

    fn damaged(path: &Path) -> TpmKeyError {
        TpmKeyError::Damaged { path: path.to_owned() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::assert_nothing_else_is_one;

    fn record(policy: Option<(Vec<u32>, [u8; 32])>) -> TpmRecord {
        let known = |byte: u8| Known { handle: 0x8102_0000 + u32::from(byte), salt: [byte; 32], point: [byte; 65] };
        TpmRecord { identity: known(1), attestation: known(2), policy }
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [record(None), record(Some((vec![0, 7, 23], [9; 32])))] {
            assert_eq!(TpmRecord::parse(&record.text()).as_ref(), Some(&record));
        }
    }

    #[test]
    fn nothing_else_is_a_record() {
        let good = record(Some((vec![7], [9; 32]))).text();
        let wrong = [
            good.replace("policy 7", "policy 24"),
            good.replace("policy 7", "policy "),
            good.replace("identity", "attestation"),
            good.replace("0101", "é0"),
        ];
        assert_nothing_else_is_one::<TpmRecord>(&good, &wrong);
    }
}
