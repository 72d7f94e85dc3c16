//! What the firmware logged of what it extended registers with (TCG PC Client Platform Firmware Profile 1.06, section 10.2;
//! the kernel shows it as `binary_bios_measurements`).
//!
//! ```text
//! TCG_PCR_EVENT   register u32, kind u32, SHA-1, length u32, "Spec ID Event03": which hashes the others have
//! TCG_PCR_EVENT2  register u32, kind u32, count u32, count × (algorithm u16, digest), length u32, contents
//! …
//! ```
//!
//! All numbers are little-endian. Verifiers look at the digests of three registers alone, so the rest is left here.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use darkbloom_wire::{BOOT_EVENTS_MAX, BootEvent};

/// Where the kernel shows the log of the first TPM, to administrators alone.
pub const BOOT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Largest log: firmware reserves 64 KiB, or a few times that.
const BYTES_MAX: u64 = 4 << 20;
/// How the first entry's contents begin.
const SPECIFICATION: &[u8] = b"Spec ID Event03\0";
/// Bytes of contents before the count of hashes: the signature, a class, three bytes of version and one of word size.
const BEFORE_HASHES: usize = 24;
/// Hashes of one entry: TPMs have banks of up to five.
const HASHES_MAX: u32 = 8;
/// `TPM_ALG_SHA256`.
const SHA256: u16 = 0x000b;
/// An entry that extends nothing.
const EV_NO_ACTION: u32 = 3;
/// The registers that verifiers look at.
const REGISTERS: [u32; 3] = [2, 4, 7];

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum BootLogError {
    /// The system does not give it out.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// Where it was looked for.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no log, or one without SHA-256.
    #[error("the firmware's log cannot be read: {0}")]
    Malformed(&'static str),
}

/// Reads the log of the firmware that booted this machine, as it stands in evidence.
///
/// # Errors
/// [`BootLogError`].
pub fn boot_log(path: &Path) -> Result<Vec<BootEvent>, BootLogError> {
    let io = |source| BootLogError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // The kernel states no length for it.
    File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(BootLogError::Malformed("it is too long"));
    }
    parse_boot_log(&bytes).map_err(BootLogError::Malformed)
}

/// The entries about the registers that verifiers look at.
///
/// # Errors
/// What is wrong with it.
pub fn parse_boot_log(bytes: &[u8]) -> Result<Vec<BootEvent>, &'static str> {
    const SHORT: &str = "it ends in the middle of an entry";
    let mut left = bytes;
    let hashes = hashes(&mut left).ok_or("its first entry does not say which hashes it has")?;
    let mut events = Vec::new();
    while !left.is_empty() {
        let (pcr, kind) = (number(&mut left).ok_or(SHORT)?, number(&mut left).ok_or(SHORT)?);
        let count = number(&mut left).ok_or(SHORT)?;
        if count > HASHES_MAX {
            return Err("an entry has more digests than there are hashes");
        }
        let mut digest = None;
        for _ in 0..count {
            let algorithm = short(&mut left).ok_or(SHORT)?;
            let (_, length) =
                hashes.iter().find(|(known, _)| *known == algorithm).ok_or("an entry has a hash of its own")?;
            let value = take(&mut left, usize::from(*length)).ok_or(SHORT)?;
            if algorithm == SHA256 {
                digest = Some(<[u8; 32]>::try_from(value).map_err(|_| "its SHA-256 has another length")?);
            }
        }
        let length = number(&mut left).ok_or(SHORT)?;
        take(&mut left, length as usize).ok_or(SHORT)?;
        if kind == EV_NO_ACTION || !REGISTERS.contains(&pcr) {
            continue;
        }
        events.push(BootEvent { pcr, digest: digest.ok_or("an entry has no SHA-256")? });
        if events.len() > BOOT_EVENTS_MAX {
            return Err("it has more entries about three registers than any machine's");
        }
    }
    Ok(events)
}

/// The hashes that entries have, and how long their digests are, from the first entry.
fn hashes(left: &mut &[u8]) -> Option<Vec<(u16, u16)>> {
    let (_, kind) = (number(left)?, number(left)?);
    take(left, 20)?;
    let length = number(left)?;
    let contents = take(left, length as usize)?;
    let mut hashes = contents.strip_prefix(SPECIFICATION).filter(|_| kind == EV_NO_ACTION)?;
    take(&mut hashes, BEFORE_HASHES - SPECIFICATION.len())?;
    let count = number(&mut hashes).filter(|count| *count <= HASHES_MAX)?;
    (0..count).map(|_| Some((short(&mut hashes)?, short(&mut hashes)?))).collect()
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn number(from: &mut &[u8]) -> Option<u32> {
    take(from, 4).map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn short(from: &mut &[u8]) -> Option<u16> {
    take(from, 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    /// A log with SHA-1 and SHA-256, as PCs have it.
    fn log(entries: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut first = [SPECIFICATION, &[0, 0, 0, 0, 0, 2, 0, 2]].concat();
        first.extend([2, 0, 0, 0, 0x04, 0, 20, 0, 0x0b, 0, 32, 0, 0]);
        let mut bytes = [&0_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), &[0; 20]].concat();
        bytes.extend((first.len() as u32).to_le_bytes());
        bytes.extend(first);
        for (pcr, kind, contents) in entries {
            bytes.extend([pcr.to_le_bytes(), kind.to_le_bytes(), 2_u32.to_le_bytes()].concat());
            bytes.extend([&[4, 0][..], &[0xaa; 20], &[0x0b, 0], &Sha256::digest(contents)].concat());
            bytes.extend((contents.len() as u32).to_le_bytes());
            bytes.extend(*contents);
        }
        bytes
    }

    #[test]
    fn what_verifiers_look_at_is_kept() {
        let long = [7; 1_000];
        let entries: [(u32, u32, &[u8]); 6] = [
            (0, 8, b"firmware 1.2"),
            (4, 4, &[0; 4]),
            (7, 3, b"extends nothing"),
            (7, 4, &[0; 4]),
            (4, 0x8000_0003, &long),
            (11, 13, b"kernel"),
        ];
        let of = |pcr, data: &[u8]| BootEvent { pcr, digest: Sha256::digest(data).into() };
        let kept = vec![of(4, &[0; 4]), of(7, &[0; 4]), of(4, &long)];
        assert_eq!(parse_boot_log(&log(&entries)), Ok(kept.clone()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(matches!(boot_log(&path), Err(BootLogError::Io { .. })));
        std::fs::write(&path, log(&entries)).unwrap();
        assert_eq!(boot_log(&path).unwrap(), kept);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let entries: [(u32, u32, &[u8]); 2] = [(4, 4, &[0; 4]), (7, 4, &[0; 4])];
        let good = log(&entries);
        let ends = [0, log(&[]).len(), log(&entries[..1]).len(), good.len()];
        for length in 0..=good.len() {
            assert_eq!(parse_boot_log(&good[..length]).is_ok(), ends[1..].contains(&length), "{length} bytes");
        }
        let many = vec![(4, 4, &[0_u8; 4][..]); BOOT_EVENTS_MAX + 1];
        assert!(parse_boot_log(&log(&many[1..])).is_ok());
        assert!(parse_boot_log(&log(&many)).is_err());
        let mut unknown = good;
        let at = log(&[]).len() + 12;
        assert_eq!(unknown[at], 4);
        unknown[at] = 5;
        assert!(parse_boot_log(&unknown).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_log_or_not(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_boot_log(&bytes);
            let mut after = log(&[]);
            after.extend(bytes);
            let _ = parse_boot_log(&after);
        }
    }
}
