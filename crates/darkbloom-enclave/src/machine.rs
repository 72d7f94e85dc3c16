//! Loads a key, or makes one where the keychain says that there is none.
//!
//! **Migration.** A key of the enclave cannot be copied, so a new version of labels cannot have a key of its own for the same
//! identity: the old key stays the identity, and what changes is its label, by one update of the keychain's own database. It
//! is there under one label or the other whatever happens, so it cannot be lost; it is looked for under both before anything
//! is made, so it cannot be forked; and it can be claimed once, so two folders that find it never share it: who comes second
//! finds nothing, and makes a key of its own. A rotation migrates nothing: its new key must be new.

use darkbloom_types::armed;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};

use crate::{EnclaveError, Item, Keychain, KeychainError, Point};

/// What is signed to see that a key works.
const SELF_TEST: &[u8] = b"darkbloom/v1/key-self-test";

/// Whether a key was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was.
    Loaded,
    /// It was made.
    Created,
    /// It was there under the previous version's label.
    Migrated,
}

/// Sees that the key which was made for an item is there and signs. Makes none.
///
/// # Errors
/// [`EnclaveError`].
pub fn load(keychain: &dyn Keychain, item: &Item, known: &Point) -> Result<(), EnclaveError> {
    match keychain.keys(item) {
        Ok(found) if found.contains(known) => test(keychain, item, known),
        Ok(_) => Err(EnclaveError::OtherKey(item.label.clone())),
        Err(KeychainError::NotFound) => Err(EnclaveError::Gone(item.label.clone())),
        Err(error) => Err(error.into()),
    }
}

/// The key of an item, for whoever does not know yet which it is: the one under its label, else the one under the previous
/// label, which gets this one, else a new one. It has signed when this returns.
///
/// # Errors
/// [`EnclaveError`]. Only [`KeychainError::NotFound`] leads to a new key.
pub fn load_or_create(
    keychain: &dyn Keychain,
    item: &Item,
    previous: Option<&Item>,
) -> Result<(Point, Origin), EnclaveError> {
    let (key, origin) = match keychain.keys(item) {
        Ok(found) => (only(&found, item)?, Origin::Loaded),
        Err(error) if error != KeychainError::NotFound && armed!("enclave_not_found") => return Err(error.into()),
        Err(_) => match previous.map(|previous| migrate(keychain, previous, item)) {
            Some(Ok(key)) => (key, Origin::Migrated),
            Some(Err(EnclaveError::Keychain(KeychainError::NotFound))) | None => create(keychain, item)?,
            Some(Err(error)) => return Err(error),
        },
    };
    test(keychain, item, &key)?;
    Ok((key, origin))
}

/// Gives the previous version's key the new label. [`KeychainError::NotFound`] when there is none, also when another process
/// was first.
fn migrate(keychain: &dyn Keychain, previous: &Item, item: &Item) -> Result<Point, EnclaveError> {
    let key = only(&keychain.keys(previous)?, previous)?;
    keychain.rename(previous, item)?;
    match read_back(keychain, item)?.as_slice() {
        [found] if *found == key => Ok(key),
        _ => Err(EnclaveError::NotKept(item.label.clone())),
    }
}

fn create(keychain: &dyn Keychain, item: &Item) -> Result<(Point, Origin), EnclaveError> {
    let made = match keychain.create(item) {
        Ok(made) => made,
        // Lost a race: whoever won has the key.
        Err(KeychainError::Duplicate) => return Ok((only(&read_back(keychain, item)?, item)?, Origin::Loaded)),
        Err(error) => return Err(error.into()),
    };
    let found = read_back(keychain, item)?;
    if !found.contains(&made) {
        return Err(EnclaveError::NotKept(item.label.clone()));
    }
    if found.len() == 1 {
        return Ok((made, Origin::Created));
    }
    // A race that the keychain let both win. Whoever sees the other yields: one that saw itself alone stays, and two that saw
    // each other both yield, which is an error and no second identity.
    keychain.withdraw(item, &made)?;
    Ok((only(&read_back(keychain, item)?, item)?, Origin::Loaded))
}

/// The keys of an item that must have one. "Not found" is not what a caller may take for leave to make one.
fn read_back(keychain: &dyn Keychain, item: &Item) -> Result<Vec<Point>, EnclaveError> {
    keychain.keys(item).map_err(|error| match error {
        KeychainError::NotFound => EnclaveError::NotKept(item.label.clone()),
        KeychainError::Duplicate
        | KeychainError::MissingEntitlement
        | KeychainError::Locked
        | KeychainError::AuthFailed
        | KeychainError::Unavailable
        | KeychainError::Absent
        | KeychainError::Status(_)
        | KeychainError::Foreign(_)
        | KeychainError::Malformed(_) => error.into(),
    })
}

fn only(found: &[Point], item: &Item) -> Result<Point, EnclaveError> {
    match found {
        [key] => Ok(*key),
        _ => Err(EnclaveError::Several(item.label.clone())),
    }
}

fn test(keychain: &dyn Keychain, item: &Item, key: &Point) -> Result<(), EnclaveError> {
    let signature = keychain.sign(item, key, SELF_TEST)?;
    let signs = verifies(key, SELF_TEST, &signature) || !armed!("enclave_self_test");
    if signs { Ok(()) } else { Err(EnclaveError::SelfTest) }
}

/// Whether a signature, r ‖ s, over a message's SHA-256 is this key's.
#[must_use]
pub fn verifies(key: &Point, message: &[u8], signature: &[u8; 64]) -> bool {
    match (VerifyingKey::from_sec1_bytes(key), Signature::from_slice(signature)) {
        (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
        _ => false,
    }
}
