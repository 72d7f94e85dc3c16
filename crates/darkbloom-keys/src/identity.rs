//! Which home an identity has.
//!
//! An identity that was made stays where it is: a home that cannot be used now is an error, never another identity. Only
//! when there is none yet are homes tried, in the order that the owner wrote, and what was passed over is told.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use darkbloom_wire::{Algorithm, SignError, Signer};

use crate::tpm::{TPM_DEVICE, TpmError, TpmKey, TpmKeyError};
use crate::{
    Enclave, EnclaveError, EnclaveKey, EnclaveKeyError, IdentityKey, KeyHome, KeySecret, KeychainError, SoftwareKey,
    SoftwareKeyError, rotation,
};

/// Where a key may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Apple's Secure Enclave.
    SecureEnclave,
    /// A TPM 2.0.
    Tpm,
    /// A file.
    Software,
}

impl Home {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::SecureEnclave, Self::Tpm, Self::Software];

    /// The word in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SecureEnclave => "secure_enclave",
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }

    /// What a provider's folder has of an identity there: the key itself, or the record of it.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::SecureEnclave => "identity.enclave",
            Self::Tpm => "identity.tpm",
            Self::Software => "identity.key",
        }
    }
}

impl FromStr for Home {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "secure_enclave" => Ok(Self::SecureEnclave),
            "tpm" => Ok(Self::Tpm),
            "software" => Ok(Self::Software),
            other => Err(format!("`{other}` is none of `secure_enclave`, `tpm` and `software`")),
        }
    }
}

/// What an owner decides about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyConfig {
    /// Where a new identity may be made, best first.
    pub homes: Vec<Home>,
    /// The TPM: the kernel's device, or a socket behind which one speaks.
    pub tpm: PathBuf,
    /// Registers that a new key in the TPM is bound to: it signs only while they have the values that they have then.
    pub pcrs: Vec<u32>,
    /// The Secure Enclave, and whose keys in it.
    pub enclave: Enclave,
    /// The file with the secret under which software keys are sealed; without one they lie in the open.
    pub secret: Option<PathBuf>,
}

impl KeyConfig {
    /// What software keys are sealed under. It is read each time: it may be on a volume that comes and goes.
    pub(crate) fn key_secret(&self) -> Result<Option<KeySecret>, SoftwareKeyError> {
        self.secret.as_deref().map(KeySecret::read).transpose()
    }

    /// A key in a file, whatever the machine has.
    #[must_use]
    pub fn software() -> Self {
        Self { homes: vec![Home::Software], ..Self::default() }
    }
}

impl Default for KeyConfig {
    fn default() -> Self {
        let (homes, tpm) = (Home::ALL.to_vec(), PathBuf::from(TPM_DEVICE));
        Self { homes, tpm, pcrs: Vec::new(), enclave: Enclave::default(), secret: None }
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The software key.
    #[error(transparent)]
    Software(#[from] SoftwareKeyError),
    /// The TPM's keys.
    #[error(transparent)]
    Tpm(#[from] TpmKeyError),
    /// The Secure Enclave's key.
    #[error(transparent)]
    Enclave(#[from] EnclaveKeyError),
    /// The identity is in a home that the configuration does not name.
    #[error("this provider's identity is a {} key, which the configuration does not allow", .0.name())]
    NotAllowed(Home),
    /// The configuration does not allow a key where one is asked for.
    #[error("the configuration does not allow {} keys", .0.name())]
    HomeNotAllowed(Home),
    /// There are records of two identities.
    #[error("{} holds two identities, {} and {}", .0.display(), .1.file(), .2.file())]
    Two(PathBuf, Home, Home),
    /// There is no identity.
    #[error("there is no identity in {}", .0.display())]
    None(PathBuf),
    /// Of an earlier rotation both keys are still there.
    #[error("an earlier rotation is not settled: its coordinator has accepted neither of the two keys yet")]
    Unsettled,
    /// There is nothing to go back to.
    #[error("there is no older key in {} to go back to", .0.display())]
    NoneBefore(PathBuf),
    /// The key did not sign.
    #[error(transparent)]
    Sign(SignError),
    /// The words of the identities before this one cannot be read or written.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Successions {
        /// Where they are.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No home that the configuration names can be used.
    #[error("no identity can be made: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoHome(Vec<PassedOver>),
}

impl IdentityError {
    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Software(error) => error.next_step(),
            Self::Tpm(error) => error.next_step(),
            Self::Enclave(error) => error.next_step(),
            Self::NotAllowed(_) => {
                "name its home in `key_homes` too, or run `darkbloom key delete` to begin a new identity"
            }
            Self::HomeNotAllowed(_) => "name that home in `key_homes` or with `--key-home`",
            Self::Two(..) => "move away the one that the coordinator does not know",
            Self::None(_) => "`darkbloom start` makes one; name its folder with `--data`",
            Self::Unsettled => {
                "run `darkbloom start` until it is accepted, or go back to the older key with `darkbloom key rotate --back`"
            }
            Self::NoneBefore(_) => "rotate again with `darkbloom key rotate`",
            Self::Sign(_) => "run `darkbloom key test`",
            Self::Successions { .. } => {
                "check the folder's permissions and the room on its disk; where the file is damaged, move it away: a coordinator that has not met this identity then takes a join token"
            }
            Self::NoHome(passed) => {
                passed.last().map_or("name `secure_enclave`, `tpm` or `software` in `key_homes`", |last| last.next_step)
            }
        }
    }
}

/// A home in which no key could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Which.
    pub home: Home,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub next_step: &'static str,
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: {}", self.home.name(), self.reason)
    }
}

/// A provider's identity, wherever it lives.
pub enum Identity {
    /// A file, or memory.
    Software(SoftwareKey),
    /// A TPM 2.0.
    Tpm(Box<TpmKey>),
    /// Apple's Secure Enclave.
    Enclave(Box<EnclaveKey>),
}

impl Identity {
    /// The identity of this folder, or a new one; and the homes in which none could be made.
    ///
    /// # Errors
    /// [`IdentityError`]. None of these makes an identity.
    pub fn open(folder: &Path, config: &KeyConfig) -> Result<(Self, Vec<PassedOver>), IdentityError> {
        rotation::finish(folder, config)?;
        if let Some(identity) = Self::opened(folder, config)? {
            return Ok((identity, Vec::new()));
        }
        let mut passed = Vec::new();
        for home in &config.homes {
            let error = match Self::open_in(*home, &folder.join(home.file()), config) {
                Ok(identity) => return Ok((identity, passed)),
                Err(error) => error,
            };
            // A TPM that is there and busy, locked or out of this user's reach is an error, and so is an enclave whose keychain
            // is locked or does not know this program: a moment must not decide where an identity lives.
            if !is_absent(&error) {
                return Err(error);
            }
            passed.push(PassedOver { home: *home, reason: error.to_string(), next_step: error.next_step() });
        }
        Err(IdentityError::NoHome(passed))
    }

    /// The identity of this folder as it is; nothing when none was made yet. Nothing is made, moved or encrypted by that.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn existing(folder: &Path, config: &KeyConfig) -> Result<Option<Self>, IdentityError> {
        let Some((home, path)) = Self::place(folder, config)? else { return Ok(None) };
        Ok(match home {
            Home::SecureEnclave => EnclaveKey::made(&config.enclave, &path)?.map(|key| Self::Enclave(Box::new(key))),
            Home::Tpm => Some(Self::Tpm(Box::new(TpmKey::look(&config.tpm, &path)?))),
            Home::Software => Some(Self::Software(SoftwareKey::open_sealed(&path, config.key_secret()?.as_ref())?)),
        })
    }

    /// The identity of this folder, ready for use; nothing when none was made yet.
    pub(crate) fn opened(folder: &Path, config: &KeyConfig) -> Result<Option<Self>, IdentityError> {
        Self::place(folder, config)?.map(|(home, path)| Self::open_in(home, &path, config)).transpose()
    }

    /// In which home and which file it is, if the configuration allows that home.
    fn place(folder: &Path, config: &KeyConfig) -> Result<Option<(Home, PathBuf)>, IdentityError> {
        let found = rotation::identities(folder, config)?;
        match &found[..] {
            [] => Ok(None),
            [(home, _)] if !config.homes.contains(home) => Err(IdentityError::NotAllowed(*home)),
            [one] => Ok(Some(one.clone())),
            [(first, _), (second, _), ..] => Err(IdentityError::Two(folder.to_owned(), *first, *second)),
        }
    }

    pub(crate) fn open_in(home: Home, path: &Path, config: &KeyConfig) -> Result<Self, IdentityError> {
        Ok(match home {
            Home::SecureEnclave => Self::Enclave(Box::new(EnclaveKey::load_or_create(&config.enclave, path)?)),
            Home::Tpm => Self::Tpm(Box::new(TpmKey::load_or_create(&config.tpm, path, &config.pcrs)?.0)),
            Home::Software => Self::Software(SoftwareKey::load_or_create_sealed(path, config.key_secret()?.as_ref())?),
        })
    }

    /// Signs, and sees that the signature is this key's.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn test(&self) -> Result<(), IdentityError> {
        match self {
            Self::Software(key) => Ok(key.test()?),
            Self::Tpm(key) => Ok(key.test()?),
            Self::Enclave(key) => Ok(key.test()?),
        }
    }

    /// The key in the TPM, if it is there.
    #[must_use]
    pub fn tpm(&self) -> Option<&TpmKey> {
        match self {
            Self::Tpm(key) => Some(key),
            Self::Software(_) | Self::Enclave(_) => None,
        }
    }

    /// Where it may be made anew.
    #[must_use]
    pub fn where_made(&self) -> Home {
        match self {
            Self::Tpm(_) => Home::Tpm,
            Self::Enclave(_) => Home::SecureEnclave,
            Self::Software(_) => Home::Software,
        }
    }

    fn key(&self) -> &dyn IdentityKey {
        match self {
            Self::Software(key) => key,
            Self::Tpm(key) => &**key,
            Self::Enclave(key) => &**key,
        }
    }
}

/// Removes the identity of a folder, wherever it is. One that is gone already is no failure.
///
/// # Errors
/// [`IdentityError`].
pub fn delete(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    rotation::forget(folder, config)
}

/// Whether there is a file of this name, or a link that leads nowhere now. What cannot be told is an error.
pub(crate) fn is_there(path: &Path) -> Result<bool, IdentityError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SoftwareKeyError::File { action: "look at", path: path.to_owned(), source }.into()),
    }
}

/// Whether a machine does not have the home that failed.
fn is_absent(error: &IdentityError) -> bool {
    matches!(
        error,
        IdentityError::Tpm(TpmKeyError::Tpm(TpmError::Absent { .. }))
            | IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::Keychain(KeychainError::Absent)))
    )
}

impl Signer for Identity {
    fn algorithm(&self) -> Algorithm {
        self.key().algorithm()
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        self.key().sign(message)
    }
}

impl IdentityKey for Identity {
    fn public_point(&self) -> [u8; 65] {
        self.key().public_point()
    }
    fn home(&self) -> KeyHome {
        self.key().home()
    }
}
