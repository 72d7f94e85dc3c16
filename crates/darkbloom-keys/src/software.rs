//! A software key: a file with tight permissions, or a key for one run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use darkbloom_wire::{Algorithm, SignError, Signer};
use p256::ecdsa::SigningKey;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{IdentityKey, KeyHome};

/// First word of a key file, so that no other file is mistaken for one.
const MAGIC: &str = "darkbloom-p256-v1";
/// A key file is one line of under 100 bytes; more is another file.
const FILE_BYTES_MAX: u64 = 256;

/// Why there is no key. None of these makes a new one.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareKeyError {
    /// The file or its folder cannot be read or written.
    #[error("cannot {action} the key file {path}", path = .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error("the key file {path} may be read or changed by others (mode {mode:o}); run `chmod 600` on it", path = .path.display())]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key file, or damaged.
    #[error("{path} is not a key file or is damaged; restore it from a backup, or move it away to begin a new identity", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The system's randomness failed.
    #[error("the system gave no randomness")]
    Randomness,
}

/// A P-256 key in software.
pub struct SoftwareKey {
    key: SigningKey,
    home: KeyHome,
}

impl SoftwareKey {
    /// A key for this run alone.
    ///
    /// # Errors
    /// [`SoftwareKeyError::Randomness`] when the system gives none.
    pub fn in_memory() -> Result<Self, SoftwareKeyError> {
        Ok(Self { key: fresh()?, home: KeyHome::SoftwareMemory })
    }

    /// The key in this file; created only when there is no file.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]: unreadable, open to others, damaged.
    pub fn load_or_create(path: &Path) -> Result<Self, SoftwareKeyError> {
        match Self::load(path) {
            Err(SoftwareKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path)
            }
            other => other,
        }
    }

    fn load(path: &Path) -> Result<Self, SoftwareKeyError> {
        let failed = |source| SoftwareKeyError::File { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SoftwareKeyError::Permissions { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        let key = parse(&text).ok_or_else(|| SoftwareKeyError::Damaged { path: path.to_owned() })?;
        Ok(Self { key, home: KeyHome::SoftwareFile })
    }

    fn create(path: &Path) -> Result<Self, SoftwareKeyError> {
        let failed = |action| move |source| SoftwareKeyError::File { action, path: path.to_owned(), source };
        let key = fresh()?;
        // A bare file name has the empty path as its parent, which no system opens.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(folder).map_err(failed("create the folder of"))?;
        // Written beside and linked into place: a crash leaves no half key, and a lost race never overwrites the winner's.
        let draft = path.with_extension(format!("draft-{}", hex(&draft_name()?)));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed("create"))?;
        let mut scalar = key.to_bytes();
        let line = Zeroizing::new(format!("{MAGIC} {}\n", hex(&scalar)));
        scalar.zeroize();
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
        let linked = written.and_then(|()| fs::hard_link(&draft, path));
        fs::remove_file(&draft).map_err(failed("tidy up after"))?;
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("create")(error)),
        }
        // The file's own sync keeps what is in it; its name is kept by the folder's, and a new folder's by the one above. An
        // identity that a coordinator has met must not be gone after a loss of power.
        let above = made.iter().filter_map(|folder| folder.parent());
        for folder in std::iter::once(folder).chain(above) {
            sync(folder).map_err(failed("keep"))?;
        }
        Self::load(path)
    }
}

/// Another one for each draft. One that is left behind by a crash then stands in nobody's way, as it would if the number of
/// the process were its name: that is always 1 in a container.
fn draft_name() -> Result<[u8; 8], SoftwareKeyError> {
    let mut name = [0; 8];
    getrandom::fill(&mut name).map_err(|_| SoftwareKeyError::Randomness)?;
    Ok(name)
}

/// Makes a folder's entries durable.
fn sync(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

fn fresh() -> Result<SigningKey, SoftwareKeyError> {
    loop {
        let mut scalar = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *scalar).map_err(|_| SoftwareKeyError::Randomness)?;
        // Fails for zero and for values beyond the group order: about once in 2³² draws.
        if let Ok(key) = SigningKey::from_slice(&*scalar) {
            return Ok(key);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

fn parse(text: &str) -> Option<SigningKey> {
    let digits = text.strip_prefix(MAGIC)?.strip_prefix(' ')?.strip_suffix('\n')?;
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut scalar = Zeroizing::new([0; 32]);
    for (at, byte) in scalar.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()?;
    }
    SigningKey::from_slice(&*scalar).ok()
}

impl Signer for SoftwareKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Signer::sign(&self.key, message)
    }
}

impl IdentityKey for SoftwareKey {
    fn public_point(&self) -> [u8; 65] {
        let point = self.key.verifying_key().to_sec1_point(false);
        point.as_bytes().try_into().expect("an uncompressed P-256 point has 65 bytes")
    }
    fn home(&self) -> KeyHome {
        self.home
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_same_file_is_the_same_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/identity.key");
        let first = SoftwareKey::load_or_create(&path).unwrap();
        let second = SoftwareKey::load_or_create(&path).unwrap();
        assert_eq!(first.public_point(), second.public_point());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("sub")).unwrap().count(), 1, "no draft stays behind");
    }

    #[test]
    fn a_draft_that_a_crash_left_behind_blocks_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        // Every name that a process with this number, or the only one of a container, may have given its draft.
        for number in [1, std::process::id()] {
            fs::write(path.with_extension(format!("draft-{number}")), "half a ke").unwrap();
        }
        let first = SoftwareKey::load_or_create(&path).unwrap();
        assert_eq!(SoftwareKey::load_or_create(&path).unwrap().public_point(), first.public_point());
    }

    #[test]
    fn every_draft_has_a_name_of_its_own() {
        assert_ne!(draft_name().unwrap(), draft_name().unwrap());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_never_a_new_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let key = SoftwareKey::load_or_create(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for bad in
            ["", "darkbloom-p256-v1 00\n", &good[..good.len() - 2], &good.replace("p256", "p384"), &"é".repeat(60)]
        {
            fs::write(&path, bad).unwrap();
            assert!(
                matches!(SoftwareKey::load_or_create(&path), Err(SoftwareKeyError::Damaged { .. })),
                "{}",
                bad.len()
            );
        }
        fs::write(&path, good).unwrap();
        assert_eq!(SoftwareKey::load_or_create(&path).unwrap().public_point(), key.public_point());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        SoftwareKey::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SoftwareKey::load_or_create(&path), Err(SoftwareKeyError::Permissions { mode: 0o640, .. })));
    }
}
