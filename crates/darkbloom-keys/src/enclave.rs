//! A key in Apple's Secure Enclave: it cannot leave it, and only programs of its access group can use it.
//!
//! A record beside the provider's other files says under which label the keychain has it, and which key it is. The enclave
//! draws keys itself, so the label is written first, then the key is made, then the record says which: a crash between any
//! two steps loses nothing and leaves no key that nobody knows of.
//!
//! ```text
//!            the enclave makes keys, and the keychain answers          made or found, and it signs
//! (no record) ───────────────────────────────────▶ label alone ──────────────────────────────────▶ label and key ──▶ use
//!      ▲                                               │   ▲                                            │
//!      └────────── it failed, and nothing is there ────┘   └── crash: the next start goes on here       │
//!                                                                                                       ▼
//!                                        under its label, and signs? ── no ──▶ error: gone, locked, refused; none is made
//! ```

mod record;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use darkbloom_enclave::{
    ACCESS_GROUP, EnclaveError, Item, Keychain, KeychainError, PREVIOUS_LABEL, fresh_label, keychain, load as load_key,
    load_or_create as load_or_create_key,
};
use darkbloom_wire::{Algorithm, SignError, Signer};

use crate::{IdentityKey, KeyHome, durable};
use record::{EnclaveRecord, Record as _};

/// Which programs may use a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessGroup {
    /// Those that are released.
    Release,
    /// Those that somebody else signs for this group, for development only: a release sees none of their keys.
    Development(String),
}

impl AccessGroup {
    /// As the keychain knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Release => ACCESS_GROUP,
            Self::Development(group) => group,
        }
    }

    /// In words, for whoever has it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Release => format!("it is signed for {ACCESS_GROUP}"),
            Self::Development(group) => {
                format!("it is signed for {group}, which was named for development only; releases use {ACCESS_GROUP}")
            }
        }
    }
}

impl FromStr for AccessGroup {
    type Err = String;
    /// A group that is named is one for development.
    fn from_str(text: &str) -> Result<Self, String> {
        if record::is_group(text) {
            Ok(Self::Development(text.to_owned()))
        } else {
            Err(format!("`{text}` is no access group: a team, a full stop, and a bundle's name"))
        }
    }
}

/// A keychain, and whose keys in it.
#[derive(Clone)]
pub struct Enclave {
    keychain: Arc<dyn Keychain>,
    group: AccessGroup,
}

impl Enclave {
    /// This machine's.
    #[must_use]
    pub fn of_this_machine(group: AccessGroup) -> Self {
        Self { keychain: keychain(), group }
    }

    /// One that is reached in another way.
    #[must_use]
    pub fn reached_by(keychain: Arc<dyn Keychain>, group: AccessGroup) -> Self {
        Self { keychain, group }
    }

    /// Whose keys.
    #[must_use]
    pub fn group(&self) -> &AccessGroup {
        &self.group
    }

    /// Has the enclave make a key that is kept nowhere, and sign with it.
    pub(crate) fn try_it(&self) -> Result<(), KeychainError> {
        self.keychain.try_enclave()
    }

    /// Whether this program may use keys of the group.
    pub(crate) fn may_be_used(&self) -> Result<(), KeychainError> {
        self.may_have(&self.fresh_item([0; 16]))
    }

    /// Whether the keychain answers for a key that is not there yet.
    fn may_have(&self, item: &Item) -> Result<(), KeychainError> {
        match self.keychain.keys(item) {
            Ok(_) | Err(KeychainError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn fresh_item(&self, random: [u8; 16]) -> Item {
        Item { label: fresh_label(random), group: self.group.name().to_owned() }
    }
}

impl Default for Enclave {
    fn default() -> Self {
        Self::of_this_machine(AccessGroup::Release)
    }
}

/// A program has one keychain, so what can differ is whose keys.
impl PartialEq for Enclave {
    fn eq(&self, other: &Self) -> bool {
        self.group == other.group
    }
}

impl Eq for Enclave {}

impl fmt::Debug for Enclave {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Enclave").field(&self.group).finish()
    }
}

/// Why there is no key. None of these makes a new identity.
#[derive(Debug, thiserror::Error)]
pub enum EnclaveKeyError {
    /// The keychain, or the enclave behind it.
    #[error(transparent)]
    Enclave(#[from] EnclaveError),
    /// The record cannot be read or written.
    #[error("the record of the Secure Enclave's key {path} cannot be read or written", path = .path.display())]
    Record {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no record, or damaged.
    #[error("{path} is no record of a key in the Secure Enclave, or is damaged", path = .path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
    },
    /// The system's randomness failed.
    #[error("the system gave no randomness")]
    Randomness,
}

impl From<KeychainError> for EnclaveKeyError {
    fn from(error: KeychainError) -> Self {
        Self::Enclave(error.into())
    }
}

impl EnclaveKeyError {
    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Enclave(error) => error.next_step(),
            Self::Record { .. } => "check the folder's permissions and the room on its disk",
            Self::Damaged { .. } => "restore it from a backup, or run `darkbloom key delete` to begin a new identity",
            Self::Randomness => "check the system's log",
        }
    }
}

/// A P-256 key in the Secure Enclave. The keychain is asked for it each time.
pub struct EnclaveKey {
    keychain: Arc<dyn Keychain>,
    item: Item,
    point: [u8; 65],
}

impl EnclaveKey {
    /// The key that this record is about. Where there is no record: the key that the version before kept without one, which
    /// stays the identity; else a new one.
    ///
    /// # Errors
    /// [`EnclaveKeyError`].
    pub fn load_or_create(enclave: &Enclave, record: &Path) -> Result<Self, EnclaveKeyError> {
        Self::open(enclave, record, Some(PREVIOUS_LABEL))
    }

    /// The key that this record is about; where there is none, a new one whatever is there from before.
    ///
    /// # Errors
    /// [`EnclaveKeyError`].
    pub(crate) fn load_or_create_anew(enclave: &Enclave, record: &Path) -> Result<Self, EnclaveKeyError> {
        Self::open(enclave, record, None)
    }

    /// The key that this record says was made; nothing where it says of none.
    ///
    /// # Errors
    /// [`EnclaveKeyError`].
    pub(crate) fn made(enclave: &Enclave, record: &Path) -> Result<Option<Self>, EnclaveKeyError> {
        match EnclaveRecord::load(record)? {
            Some(EnclaveRecord { item, key: Some(point) }) => Self::load(enclave, item, point).map(Some),
            Some(EnclaveRecord { key: None, .. }) | None => Ok(None),
        }
    }

    fn open(enclave: &Enclave, path: &Path, previous: Option<&str>) -> Result<Self, EnclaveKeyError> {
        let (EnclaveRecord { item, key }, is_new) = match EnclaveRecord::load(path)? {
            Some(found) => (found, false),
            None => begin(enclave, path)?,
        };
        if let Some(point) = key {
            return Self::load(enclave, item, point);
        }
        let keychain = &enclave.keychain;
        // In the group of the record, whatever is configured now: a key does not change its group with its label.
        let previous = previous.map(|label| Item { label: label.to_owned(), group: item.group.clone() });
        let (point, _) = load_or_create_key(&**keychain, &item, previous.as_ref()).or_else(|error| {
            // Nothing was made, and nobody knows the label: another home may have the identity.
            if is_new && keychain.keys(&item) == Err(KeychainError::NotFound) {
                remove(path)?;
            } else if matches!(error, EnclaveError::Keychain(KeychainError::Absent)) {
                // A home with a record is not absent, whatever the system says: else there would be two identities.
                return Err(EnclaveError::Keychain(KeychainError::Unavailable).into());
            }
            Err(EnclaveKeyError::from(error))
        })?;
        EnclaveRecord { item: item.clone(), key: Some(point) }.replace(path)?;
        Ok(Self { keychain: keychain.clone(), item, point })
    }

    fn load(enclave: &Enclave, item: Item, point: [u8; 65]) -> Result<Self, EnclaveKeyError> {
        load_key(&*enclave.keychain, &item, &point)?;
        Ok(Self { keychain: enclave.keychain.clone(), item, point })
    }

    /// Whether its group is not the one that releases are signed for.
    #[must_use]
    pub fn is_for_development(&self) -> bool {
        self.item.group != AccessGroup::Release.name()
    }

    /// Signs, and sees that the signature is this key's.
    ///
    /// # Errors
    /// [`EnclaveKeyError`].
    pub fn test(&self) -> Result<(), EnclaveKeyError> {
        Ok(load_key(&*self.keychain, &self.item, &self.point)?)
    }
}

/// Writes the record of a key that is still to be made. What cannot have one is told before anything is written.
fn begin(enclave: &Enclave, path: &Path) -> Result<(EnclaveRecord, bool), EnclaveKeyError> {
    enclave.try_it()?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| EnclaveKeyError::Randomness)?;
    let record = EnclaveRecord { item: enclave.fresh_item(random), key: None };
    enclave.may_have(&record.item)?;
    if record.create(path)? {
        return Ok((record, true));
    }
    let winner = EnclaveRecord::load(path)?.ok_or_else(|| EnclaveKeyError::Damaged { path: path.to_owned() })?;
    Ok((winner, false))
}

/// The public point of a record's key; nothing when it was not made yet.
pub(crate) fn point_of_record(path: &Path) -> Result<Option<[u8; 65]>, EnclaveKeyError> {
    Ok(EnclaveRecord::load(path)?.and_then(|record| record.key))
}

/// Removes the key of a record from the keychain, and the record. What is gone already is no failure.
pub(crate) fn delete(enclave: &Enclave, path: &Path) -> Result<(), EnclaveKeyError> {
    let found = match EnclaveRecord::load(path) {
        Ok(Some(found)) => Some(found),
        Ok(None) => return Ok(()),
        // Whoever wants a new identity because its record is damaged must get one.
        Err(EnclaveKeyError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(found) = found {
        // Also what a lost race may have left under the label.
        match enclave.keychain.delete(&found.item) {
            Ok(()) | Err(KeychainError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    remove(path)
}

fn remove(path: &Path) -> Result<(), EnclaveKeyError> {
    durable::remove(path).map_err(|source| EnclaveKeyError::Record { path: path.to_owned(), source })
}

impl Signer for EnclaveKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let signed = self.keychain.sign(&self.item, &self.point, message);
        signed.map_err(|error| SignError(format!("{error}; {}", error.next_step())))
    }
}

impl IdentityKey for EnclaveKey {
    fn public_point(&self) -> [u8; 65] {
        self.point
    }
    fn home(&self) -> KeyHome {
        KeyHome::SecureEnclave
    }
}
