//! A software key: a file with tight permissions, or a key for one run.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use darkbloom_harden::SecretPages;
use darkbloom_types::{Keeper as _, Kept, armed, scrub_stack};
use darkbloom_wire::{Algorithm, Domain, SignError, Signer, open_signed, sign};
use p256::ecdsa::SigningKey;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{IdentityKey, KeyHome, durable};

/// First word of a key file, so that no other file is mistaken for one.
const MAGIC: &str = "darkbloom-p256-v1";
/// A key file is one line of under 100 bytes; more is another file.
const FILE_BYTES_MAX: u64 = 256;
/// What is signed to see that a key works: no object of the wire is so short.
const SELF_TEST: &[u8] = &[0];

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
    /// The key's signature is not its own.
    #[error("the key's signature does not verify")]
    SelfTest,
}

/// A P-256 key in software.
pub struct SoftwareKey {
    key: Kept<SigningKey>,
    home: KeyHome,
}

impl SoftwareKey {
    /// A key for this run alone.
    ///
    /// # Errors
    /// [`SoftwareKeyError::Randomness`] when the system gives none.
    pub fn in_memory() -> Result<Self, SoftwareKeyError> {
        Ok(Self { key: SecretPages.try_keep(fresh)?, home: KeyHome::SoftwareMemory })
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

    /// The key in this file.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]: not there, unreadable, open to others, damaged.
    pub fn open(path: &Path) -> Result<Self, SoftwareKeyError> {
        Self::load(path)
    }

    /// Removes a key file. One that is gone already is no failure.
    ///
    /// # Errors
    /// [`SoftwareKeyError::File`].
    pub fn delete(path: &Path) -> Result<(), SoftwareKeyError> {
        durable::remove(path).map_err(|source| SoftwareKeyError::File {
            action: "remove",
            path: path.to_owned(),
            source,
        })
    }

    /// Signs, and sees that the signature verifies.
    ///
    /// # Errors
    /// [`SoftwareKeyError::SelfTest`].
    pub fn test(&self) -> Result<(), SoftwareKeyError> {
        let signed = sign(Domain::Challenge, self, SELF_TEST).map_err(|_| SoftwareKeyError::SelfTest)?;
        let opened = open_signed(Domain::Challenge, &self.public_key(), &signed, SELF_TEST.len());
        opened.map(drop).map_err(|_| SoftwareKeyError::SelfTest)
    }

    fn load(path: &Path) -> Result<Self, SoftwareKeyError> {
        let failed = |source| SoftwareKeyError::File { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if armed!("key_file_mode") && mode & 0o077 != 0 {
            return Err(SoftwareKeyError::Permissions { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        let damaged = || SoftwareKeyError::Damaged { path: path.to_owned() };
        let key = SecretPages.try_keep(|| parse(&text).ok_or_else(damaged))?;
        Ok(Self { key, home: KeyHome::SoftwareFile })
    }

    fn create(path: &Path) -> Result<Self, SoftwareKeyError> {
        let key = fresh()?;
        let mut scalar = key.to_bytes();
        let mut digits = Zeroizing::new([0; 64]);
        hex::encode_to_slice(scalar, &mut *digits).expect("32 bytes are 64 digits");
        scalar.zeroize();
        let line = Zeroizing::new([MAGIC.as_bytes(), b" ", &*digits, b"\n"].concat());
        // A lost race loads the winner's. An identity that a coordinator has met must not be gone after a loss of power.
        durable::create(path, &line).map_err(|source| SoftwareKeyError::File {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
        Self::load(path)
    }
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

fn parse(text: &str) -> Option<SigningKey> {
    let digits = text.strip_prefix(MAGIC)?.strip_prefix(' ')?.strip_suffix('\n')?;
    let mut scalar = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, &mut *scalar).ok()?;
    SigningKey::from_slice(&*scalar).ok()
}

impl Signer for SoftwareKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = Signer::sign(&*self.key, message);
        scrub_stack();
        signature
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
    use std::fs;
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
