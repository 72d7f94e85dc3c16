//! Which home an identity has.
//!
//! An identity that was made stays where it is: a home that cannot be used now is an error, never another identity. Only
//! when there is none yet are homes tried, in the order that the owner wrote, and what was passed over is told.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use darkbloom_wire::{Algorithm, SignError, Signer};

use crate::tpm::{TPM_DEVICE, TpmError, TpmKey, TpmKeyError, maker as tpm_maker, try_tpm};
use crate::{IdentityKey, KeyHome, SoftwareKey, SoftwareKeyError, rotation};

/// The software key's file in a provider's folder.
pub(crate) const SOFTWARE_FILE: &str = "identity.key";
/// The record of the TPM's keys there.
pub(crate) const TPM_FILE: &str = "identity.tpm";

/// Where a key may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// A TPM 2.0.
    Tpm,
    /// A file.
    Software,
}

impl Home {
    /// The word in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Software => "software",
        }
    }
}

impl FromStr for Home {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tpm" => Ok(Self::Tpm),
            "software" => Ok(Self::Software),
            other => Err(format!("`{other}` is none of `tpm` and `software`")),
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
}

impl KeyConfig {
    /// A key in a file, whatever the machine has.
    #[must_use]
    pub fn software() -> Self {
        Self { homes: vec![Home::Software], ..Self::default() }
    }
}

impl Default for KeyConfig {
    fn default() -> Self {
        Self { homes: vec![Home::Tpm, Home::Software], tpm: PathBuf::from(TPM_DEVICE), pcrs: Vec::new() }
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
    /// The identity is in a home that the configuration does not name.
    #[error("this provider's identity is a {} key, which the configuration does not allow", .0.name())]
    NotAllowed(Home),
    /// The configuration does not allow a key where one is asked for.
    #[error("the configuration does not allow {} keys", .0.name())]
    HomeNotAllowed(Home),
    /// There are records of two identities.
    #[error("{folder} holds two identities, {SOFTWARE_FILE} and {TPM_FILE}", folder = .0.display())]
    Two(PathBuf),
    /// There is no identity.
    #[error("there is no identity in {}", .0.display())]
    None(PathBuf),
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
            Self::Software(_) => "see the message; the identity key is what the coordinator knows this machine by",
            Self::Tpm(error) => error.next_step(),
            Self::NotAllowed(_) => {
                "name its home in `key_homes` too, or run `darkbloom key delete` to begin a new identity"
            }
            Self::HomeNotAllowed(_) => "name that home in `key_homes` or with `--key-home`",
            Self::Two(_) => "move away the one that the coordinator does not know",
            Self::None(_) => "`darkbloom start` makes one; name its folder with `--data`",
            Self::Sign(_) => "run `darkbloom key test`",
            Self::Successions { .. } => {
                "check the folder's permissions and the room on its disk; where the file is damaged, move it away: a coordinator that has not met this identity then takes a join token"
            }
            Self::NoHome(passed) => {
                passed.last().map_or("name `tpm` or `software` in `key_homes`", |last| last.next_step)
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
}

impl Identity {
    /// The identity of this folder, or a new one; and the homes in which none could be made.
    ///
    /// # Errors
    /// [`IdentityError`]. None of these makes an identity.
    pub fn open(folder: &Path, config: &KeyConfig) -> Result<(Self, Vec<PassedOver>), IdentityError> {
        rotation::finish(folder, config)?;
        if let Some(identity) = Self::existing(folder, config)? {
            return Ok((identity, Vec::new()));
        }
        let mut passed = Vec::new();
        for home in &config.homes {
            match Self::open_in(*home, &file_of(folder, *home), config) {
                Ok(identity) => return Ok((identity, passed)),
                // A TPM that is there and busy, locked or out of this user's reach is an error: a moment must not decide where
                // an identity lives.
                Err(IdentityError::Tpm(TpmKeyError::Tpm(error @ TpmError::Absent { .. }))) => {
                    passed.push(passed_over(*home, &error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(IdentityError::NoHome(passed))
    }

    /// The identity of this folder; nothing when none was made yet.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn existing(folder: &Path, config: &KeyConfig) -> Result<Option<Self>, IdentityError> {
        if let Some((home, path)) = rotation::spoken_for(folder)? {
            return Self::opened(home, path, config).map(Some);
        }
        let home = match (is_there(&folder.join(TPM_FILE))?, is_there(&folder.join(SOFTWARE_FILE))?) {
            (true, true) => return Err(IdentityError::Two(folder.to_owned())),
            (true, false) => Home::Tpm,
            (false, true) => Home::Software,
            (false, false) => return Ok(None),
        };
        Self::opened(home, file_of(folder, home), config).map(Some)
    }

    /// The identity in a file that is there.
    fn opened(home: Home, path: PathBuf, config: &KeyConfig) -> Result<Self, IdentityError> {
        if !config.homes.contains(&home) {
            return Err(IdentityError::NotAllowed(home));
        }
        Self::open_in(home, &path, config)
    }

    fn open_in(home: Home, path: &Path, config: &KeyConfig) -> Result<Self, IdentityError> {
        Ok(match home {
            Home::Tpm => Self::Tpm(Box::new(TpmKey::load_or_create(&config.tpm, path, &config.pcrs)?.0)),
            Home::Software => Self::Software(SoftwareKey::load_or_create(path)?),
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
        }
    }

    /// The key in the TPM, if it is there.
    #[must_use]
    pub fn tpm(&self) -> Option<&TpmKey> {
        match self {
            Self::Tpm(key) => Some(key),
            Self::Software(_) => None,
        }
    }

    /// Where it may be made anew.
    #[must_use]
    pub fn where_made(&self) -> Home {
        match self {
            Self::Tpm(_) => Home::Tpm,
            Self::Software(_) => Home::Software,
        }
    }

    fn key(&self) -> &dyn IdentityKey {
        match self {
            Self::Software(key) => key,
            Self::Tpm(key) => &**key,
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

/// Whether something is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Yes(String),
    /// It is not.
    No {
        /// Why.
        reason: String,
        /// What to do about it.
        next_step: &'static str,
    },
    /// What it depends on is not.
    NotAsked,
}

/// Whether a home can have a key: three things that fail for different reasons and are mended in different places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Availability {
    /// Which home.
    pub home: Home,
    /// Whether the machine has what it takes.
    pub hardware: Check,
    /// Whether this program may use it.
    pub entitled: Check,
    /// Whether a key there signs now.
    pub usable: Check,
}

/// Looks whether a home can have a key. Where there is none yet, one is tried that is gone afterwards.
#[must_use]
pub fn availability(home: Home, folder: &Path, config: &KeyConfig) -> Availability {
    match home {
        Home::Tpm => tpm_availability(folder, config),
        Home::Software => software_availability(folder),
    }
}

fn tpm_availability(folder: &Path, config: &KeyConfig) -> Availability {
    let path = config.tpm.display();
    let no = |error: &TpmKeyError| Check::No { reason: error.to_string(), next_step: error.next_step() };
    let found = |hardware, entitled, usable| Availability { home: Home::Tpm, hardware, entitled, usable };
    match tpm_maker(&config.tpm) {
        Ok((maker, firmware)) => {
            let what = format!("{path}, made by {maker}, firmware {firmware:#x}");
            let record = folder.join(TPM_FILE);
            let tried = if record.exists() {
                TpmKey::load_or_create(&config.tpm, &record, &config.pcrs).map(|_| "the identity key signs")
            } else {
                try_tpm(&config.tpm).map(|()| "a key that was made for this signed")
            };
            let usable = tried.map_or_else(|error| no(&error), |what| Check::Yes(what.to_owned()));
            found(Check::Yes(what), Check::Yes("this user may open it".to_owned()), usable)
        }
        Err(error @ TpmError::Denied { .. }) => found(Check::Yes(path.to_string()), no(&error.into()), Check::NotAsked),
        Err(error @ TpmError::Absent { .. }) => found(no(&error.into()), Check::NotAsked, Check::NotAsked),
        Err(error @ (TpmError::Io { .. } | TpmError::Malformed { .. } | TpmError::Refused { .. })) => {
            let entitled = Check::Yes("this user may open it".to_owned());
            found(Check::Yes(path.to_string()), entitled, no(&error.into()))
        }
    }
}

fn software_availability(folder: &Path) -> Availability {
    let file = folder.join(SOFTWARE_FILE);
    let usable = if file.exists() {
        let tried = SoftwareKey::load_or_create(&file).and_then(|key| key.test());
        match tried {
            Ok(()) => Check::Yes(format!("{} signs; whoever can read it can copy it", file.display())),
            Err(error) => Check::No { reason: error.to_string(), next_step: "see the message" },
        }
    } else {
        Check::Yes(format!("{} would be made", file.display()))
    };
    let hardware = Check::Yes("none is needed".to_owned());
    Availability { home: Home::Software, hardware, entitled: Check::Yes("nothing is needed".to_owned()), usable }
}

/// The file of a folder's identity, were it in this home.
fn file_of(folder: &Path, home: Home) -> PathBuf {
    folder.join(match home {
        Home::Tpm => TPM_FILE,
        Home::Software => SOFTWARE_FILE,
    })
}

/// Whether there is a file of this name, or a link that leads nowhere now. What cannot be told is an error.
pub(crate) fn is_there(path: &Path) -> Result<bool, IdentityError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(SoftwareKeyError::File { action: "look at", path: path.to_owned(), source }.into()),
    }
}

fn passed_over(home: Home, error: &TpmError) -> PassedOver {
    PassedOver { home, reason: error.to_string(), next_step: error.next_step() }
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
