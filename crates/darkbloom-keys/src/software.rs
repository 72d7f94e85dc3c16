//! A software key: a file with tight permissions, which a secret may seal, or a key for one run.

mod sealed;

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
pub use sealed::KeySecret;

/// First word of a key file, so that no other file is mistaken for one.
const MAGIC: &str = "darkbloom-p256-v1";
/// A key file is one line of under 200 bytes; more is another file.
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
    /// A link leads to it: whoever has the place behind the link has the key, and what removes it would remove the link.
    #[error("the key file {path} is a link: move the file itself there", path = .path.display())]
    Link {
        /// Which file.
        path: PathBuf,
    },
    /// It lies in the open although a secret is named: this program would have sealed it.
    #[error("the key file {path} lies in the open, though a secret is named: somebody else may have put it there", path = .path.display())]
    InTheOpen {
        /// Which file.
        path: PathBuf,
    },
    /// It is sealed, and nobody said under what.
    #[error("the key file {path} is encrypted, and no secret is named", path = .path.display())]
    Sealed {
        /// Which file.
        path: PathBuf,
    },
    /// The secret is not the one under which it was sealed.
    #[error("the secret does not open the key file {path}: it is another one, or the file is damaged", path = .path.display())]
    OtherSecret {
        /// Which file.
        path: PathBuf,
    },
    /// The file with the secret cannot be read.
    #[error("cannot read the key file's secret {path}", path = .path.display())]
    Secret {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no secret.
    #[error("the key file's secret {path} has less than 16 bytes, or more than 4,096", path = .path.display())]
    SecretSize {
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

impl SoftwareKeyError {
    /// Whether it is about the secret under which the file is sealed, and not about the file.
    #[must_use]
    pub fn is_about_secret(&self) -> bool {
        match self {
            Self::InTheOpen { .. }
            | Self::Sealed { .. }
            | Self::OtherSecret { .. }
            | Self::Secret { .. }
            | Self::SecretSize { .. } => true,
            Self::File { .. }
            | Self::Permissions { .. }
            | Self::Damaged { .. }
            | Self::Link { .. }
            | Self::Randomness
            | Self::SelfTest => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::InTheOpen { .. } => {
                "if it is this machine's own, encrypt it with `darkbloom key seal`, with the same `--key-secret` and its folder as `--data`; else restore the file from a backup"
            }
            Self::Link { .. } => "to keep keys on another disk, name a folder there with `--data`",
            Self::Sealed { .. } => "name the file with its secret as `key_secret` or with `--key-secret`",
            Self::OtherSecret { .. } => {
                "name the secret that it was encrypted under as `key_secret` or with `--key-secret`, or restore the file from a backup"
            }
            Self::Secret { .. } => "check that the file named by `key_secret` is there and that this user may read it",
            Self::SecretSize { .. } => "write 32 random bytes into the file named by `key_secret`",
            Self::File { .. } | Self::Permissions { .. } | Self::Damaged { .. } => {
                "see the message; the identity key is what the coordinator knows this machine by"
            }
            Self::Randomness | Self::SelfTest => "check the system's log",
        }
    }
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
    /// [`SoftwareKeyError`]: unreadable, open to others, damaged, sealed.
    pub fn load_or_create(path: &Path) -> Result<Self, SoftwareKeyError> {
        Self::load_or_create_sealed(path, None)
    }

    /// The key in this file; created only when there is no file, and sealed where there is a secret.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]: unreadable, open to others, damaged, a link, sealed under another secret, or not sealed.
    pub fn load_or_create_sealed(path: &Path, secret: Option<&KeySecret>) -> Result<Self, SoftwareKeyError> {
        match Self::open_sealed(path, secret) {
            Err(SoftwareKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path, secret)
            }
            other => other,
        }
    }

    /// Seals the key files of a folder that lie in the open, whatever they are for; returns which. What a disk keeps of
    /// overwritten files is not erased by that. Whether they are whose they should be is for whoever asks for it to say.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]; those before the one that failed are sealed.
    pub fn seal_all(folder: &Path, secret: &KeySecret) -> Result<Vec<PathBuf>, SoftwareKeyError> {
        let failed = |source| SoftwareKeyError::File { action: "look for", path: folder.to_owned(), source };
        let entries = std::fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "key"));
        files.sort();
        let mut done = Vec::new();
        for path in files {
            match Self::open_sealed(&path, None) {
                Ok(found) => found.seal(&path, secret)?,
                // Another program's key, or sealed: under this secret, or it would be said to be done and was not.
                Err(SoftwareKeyError::Damaged { .. }) => continue,
                Err(SoftwareKeyError::Sealed { .. }) => {
                    Self::open_sealed(&path, Some(secret))?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            done.push(path);
        }
        Ok(done)
    }

    /// The key in this file.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]: not there, unreadable, open to others, damaged, a link, sealed.
    pub fn open(path: &Path) -> Result<Self, SoftwareKeyError> {
        Self::open_sealed(path, None)
    }

    /// The key in this file, which a secret has sealed, if there is one. Nothing is changed.
    ///
    /// # Errors
    /// [`SoftwareKeyError`]: not there, unreadable, open to others, damaged, a link, sealed under another secret, or not sealed.
    pub fn open_sealed(path: &Path, secret: Option<&KeySecret>) -> Result<Self, SoftwareKeyError> {
        let failed = |source| SoftwareKeyError::File { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| if is_link(path) { link(path) } else { failed(error) })?;
        let found = file.metadata().map_err(failed)?;
        // What was opened is what has this name, and not what a link of this name led to then.
        let named = std::fs::symlink_metadata(path).map_err(failed)?;
        if armed!("key_file_link") && (named.dev(), named.ino()) != (found.dev(), found.ino()) {
            return Err(link(path));
        }
        let mode = found.mode() & 0o777;
        if armed!("key_file_mode") && mode & 0o077 != 0 {
            return Err(SoftwareKeyError::Permissions { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize));
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
        if !sealed::is_sealed(&text) {
            let damaged = || SoftwareKeyError::Damaged { path: path.to_owned() };
            let key = SecretPages.try_keep(|| parse(&text).ok_or_else(damaged))?;
            if secret.is_some() && armed!("key_file_in_the_open") {
                return Err(SoftwareKeyError::InTheOpen { path: path.to_owned() });
            }
            return Ok(Self { key, home: KeyHome::SoftwareFile });
        }
        let secret = secret.ok_or_else(|| SoftwareKeyError::Sealed { path: path.to_owned() })?;
        let other = || SoftwareKeyError::OtherSecret { path: path.to_owned() };
        let opened =
            || sealed::open(&text, secret, role(path)).and_then(|scalar| SigningKey::from_slice(&*scalar).ok());
        let key = SecretPages.try_keep(|| opened().ok_or_else(other))?;
        Ok(Self { key, home: KeyHome::SealedFile })
    }

    /// Removes a key file. One that is gone already is no failure.
    ///
    /// # Errors
    /// [`SoftwareKeyError::File`]; [`SoftwareKeyError::Link`], since the key itself would stay.
    pub fn delete(path: &Path) -> Result<(), SoftwareKeyError> {
        if is_link(path) {
            return Err(link(path));
        }
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

    fn create(path: &Path, secret: Option<&KeySecret>) -> Result<Self, SoftwareKeyError> {
        let key = fresh()?;
        let line = match secret {
            Some(secret) if armed!("key_file_sealed") => sealed_line(&key, secret, path)?,
            _ => line(&key),
        };
        // A lost race loads the winner's. An identity that a coordinator has met must not be gone after a loss of power.
        durable::create(path, line.as_bytes()).map_err(|source| SoftwareKeyError::File {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
        Self::open_sealed(path, secret)
    }

    /// Writes the key sealed over the file that holds it in the open.
    fn seal(&self, path: &Path, secret: &KeySecret) -> Result<(), SoftwareKeyError> {
        let line = sealed_line(&self.key, secret, path)?;
        let failed = |source| SoftwareKeyError::File { action: "encrypt", path: path.to_owned(), source };
        durable::replace_contents(path, line.as_bytes()).map_err(failed)
    }
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|named| named.is_symlink())
}

fn link(path: &Path) -> SoftwareKeyError {
    SoftwareKeyError::Link { path: path.to_owned() }
}

fn scalar(key: &SigningKey) -> Zeroizing<[u8; 32]> {
    let mut bytes = key.to_bytes();
    let scalar = Zeroizing::new(bytes.into());
    bytes.zeroize();
    scalar
}

/// What a key file holds.
fn line(key: &SigningKey) -> Zeroizing<String> {
    let mut digits = Zeroizing::new([0; 64]);
    hex::encode_to_slice(*scalar(key), &mut *digits).expect("32 bytes are 64 digits");
    let digits = std::str::from_utf8(&*digits).expect("digits are text");
    // In one piece of the right size: a text that grows leaves copies behind.
    let mut line = Zeroizing::new(String::with_capacity(MAGIC.len() + digits.len() + 2));
    line.extend([MAGIC, " ", digits, "\n"]);
    line
}

fn sealed_line(key: &SigningKey, secret: &KeySecret, path: &Path) -> Result<Zeroizing<String>, SoftwareKeyError> {
    sealed::seal(&scalar(key), secret, role(path)).map(Zeroizing::new)
}

/// What a key is for, which its file's name begins with: a coordinator's is none for an activator, though one secret seals
/// both.
fn role(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').next().unwrap_or_default()
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

    /// A secret in a file of its own, as a system hands one to a service.
    fn secret(folder: &Path, byte: u8) -> KeySecret {
        let path = folder.join("secret");
        fs::write(&path, [byte; 32]).unwrap();
        KeySecret::read(&path).unwrap()
    }

    #[test]
    fn a_sealed_file_is_of_one_role() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let own = secret(folder.path(), 1);
        let key = SoftwareKey::load_or_create_sealed(&file("identity.key"), Some(&own)).unwrap();
        for name in ["identity.next.key", "coordinator.key"] {
            fs::copy(file("identity.key"), file(name)).unwrap();
        }
        let next = SoftwareKey::load_or_create_sealed(&file("identity.next.key"), Some(&own)).unwrap();
        assert_eq!(next.public_point(), key.public_point(), "a rotation gives files other names");
        let other = SoftwareKey::load_or_create_sealed(&file("coordinator.key"), Some(&own)).map(drop);
        assert!(matches!(other, Err(SoftwareKeyError::OtherSecret { .. })));
    }

    #[test]
    fn a_sealed_file_is_opened_by_its_secret_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let (own, other) = (secret(folder.path(), 1), secret(folder.path(), 2));
        let key = SoftwareKey::load_or_create_sealed(&path, Some(&own)).unwrap();
        key.test().unwrap();
        assert_eq!(key.home(), KeyHome::SealedFile);
        let kept = fs::read_to_string(&path).unwrap();
        assert!(kept.starts_with("darkbloom-p256-sealed-v1 ") && !kept.contains(&hex::encode(*scalar(&key.key))));
        assert_eq!(SoftwareKey::load_or_create_sealed(&path, Some(&own)).unwrap().public_point(), key.public_point());
        let none = SoftwareKey::load_or_create(&path).map(drop);
        assert!(matches!(none, Err(SoftwareKeyError::Sealed { .. })), "{none:?}");
        let wrong = SoftwareKey::load_or_create_sealed(&path, Some(&other)).map(drop);
        assert!(matches!(wrong, Err(SoftwareKeyError::OtherSecret { .. })), "{wrong:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), kept, "no other key is made");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn no_changed_or_shortened_sealed_file_is_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.key");
        let secret = secret(folder.path(), 1);
        SoftwareKey::load_or_create_sealed(&path, Some(&secret)).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let changed = [&good[..at], &[good[at] ^ 1], &good[at + 1..]].concat();
            for bad in [changed, good[..at].to_vec()] {
                fs::write(&path, bad).unwrap();
                assert!(SoftwareKey::load_or_create_sealed(&path, Some(&secret)).is_err(), "at {at}");
            }
        }
    }

    #[test]
    fn a_plain_file_is_sealed_when_its_owner_says_so_and_refused_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("identity.key"), folder.path().join("keys"));
        let secret = secret(folder.path(), 1);
        fs::create_dir(&kept).unwrap();
        let (path, other) = (kept.join(path.file_name().unwrap()), kept.join("local.key"));
        let key = SoftwareKey::load_or_create(&path).unwrap().public_point();
        fs::write(&other, "another program's").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let plain = fs::read_to_string(&path).unwrap();
        for refused in [SoftwareKey::open_sealed, SoftwareKey::load_or_create_sealed] {
            let refused = refused(&path, Some(&secret)).map(drop);
            assert!(matches!(refused, Err(SoftwareKeyError::InTheOpen { .. })), "{refused:?}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), plain, "nothing is changed by that");
        assert_eq!(SoftwareKey::seal_all(&kept, &secret).unwrap(), std::slice::from_ref(&path));
        assert_eq!(SoftwareKey::seal_all(&kept, &secret).unwrap(), [] as [PathBuf; 0], "it is done");
        let sealed = SoftwareKey::load_or_create_sealed(&path, Some(&secret)).unwrap();
        assert_eq!((sealed.public_point(), sealed.home()), (key, KeyHome::SealedFile));
        assert!(fs::read_to_string(&path).unwrap().starts_with("darkbloom-p256-sealed-v1 "));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_to_string(&other).unwrap(), "another program's");
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 2, "no draft stays behind");
        let wrong = self::secret(folder.path(), 2);
        assert!(matches!(SoftwareKey::seal_all(&kept, &wrong), Err(SoftwareKeyError::OtherSecret { .. })));
    }

    #[test]
    fn a_link_is_no_key_file_wherever_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (path, behind) = (folder.path().join("identity.key"), folder.path().join("disk/identity.key"));
        SoftwareKey::load_or_create(&behind).unwrap();
        for behind in [&behind, &folder.path().join("nowhere")] {
            std::os::unix::fs::symlink(behind, &path).unwrap();
            let refused = [
                SoftwareKey::load_or_create(&path).map(drop),
                SoftwareKey::open(&path).map(drop),
                SoftwareKey::seal_all(folder.path(), &secret(folder.path(), 1)).map(drop),
                SoftwareKey::delete(&path),
            ];
            for refused in refused {
                assert!(matches!(refused, Err(SoftwareKeyError::Link { .. })), "{refused:?}");
            }
            fs::remove_file(&path).unwrap();
        }
        assert!(SoftwareKey::open(&behind).is_ok(), "what is behind it is left alone");
    }

    #[test]
    fn a_secret_that_cannot_be_one_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(KeySecret::read(&path), Err(SoftwareKeyError::Secret { .. })));
        for (bytes, fits) in [(0, false), (15, false), (16, true), (4_096, true), (4_097, false)] {
            fs::write(&path, vec![7; bytes]).unwrap();
            assert_eq!(KeySecret::read(&path).is_ok(), fits, "{bytes} bytes");
        }
        assert!(matches!(KeySecret::read(Path::new("/dev/zero")), Err(SoftwareKeyError::SecretSize { .. })));
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
