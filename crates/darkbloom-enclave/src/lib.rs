//! Keys in Apple's Secure Enclave, through the keychain.
//!
//! Owns what is asked of the keychain ([`Keychain`]), the machine that loads a key or makes one ([`load_or_create`]), and the
//! binding to Apple's Security framework. It must never make a key because an old one could not be read, never ask another
//! keychain than the data-protection one, and never hold a private key: the enclave does. `darkbloom-keys` alone depends on
//! it.
//!
//! A crate by itself because of `unsafe`: calling a C framework needs it, and `darkbloom-keys` forbids it. It is allowed in
//! the module `framework` only, which is compiled on macOS, and in this crate's own tests on other systems. There a stand-in
//! exports the framework's symbols, so the calls that ship are made, and what they own is counted. Nothing of the stand-in
//! can ship: it is compiled with the tests or not at all, and a program for Linux has no binding that could call it.
//!
//! ```text
//!              nothing found                      nothing found              made
//! (label) ───────────────────▶ (previous label) ────────────────▶ create ─────────▶ alone under the label?
//!    │ found                          │ found                        │ is there already    │ yes        │ no
//!    │                                ▼                              ▼                     │            ▼
//!    │                       rename to the label                load again ◀───────────────┼─── take it back
//!    ▼                                ▼                              ▼                     ▼
//! sign a test ◀────────────── the same key? ◀────────────────────────┴─────────────────────┘
//!
//! anything else that the keychain says, at any step: an error by its name, and no key is made
//! ```

mod error;
mod item;
mod machine;

#[cfg(any(target_os = "macos", test))]
mod framework;

#[cfg(all(test, not(target_os = "macos")))]
extern crate self as darkbloom_enclave;

pub mod codes;

pub use error::{EnclaveError, KeychainError};
pub use item::{ACCESS_GROUP, BUNDLE_ID, Item, PREVIOUS_LABEL, Search, TEAM_ID, fresh_label, is_label};
pub use machine::{Origin, load, load_or_create, verifies};

use std::sync::Arc;

/// A public key: an uncompressed SEC 1 point on P-256.
pub type Point = [u8; 65];

/// What is asked of the keychain. A key of an item is named by its public key: several can have one label, since the keychain
/// compares more of a key than that. Nothing is held open between two calls.
pub trait Keychain: Send + Sync {
    /// Has the enclave make a key that is kept nowhere, and sign with it. Needs no entitlement.
    ///
    /// # Errors
    /// [`KeychainError`].
    fn try_enclave(&self) -> Result<(), KeychainError>;

    /// The keys of this item that are in the enclave: one at least.
    ///
    /// # Errors
    /// [`KeychainError`]; [`KeychainError::NotFound`] when there is none.
    fn keys(&self, item: &Item) -> Result<Vec<Point>, KeychainError>;

    /// Has the enclave make a key that stays: usable from the first unlock after a start on, on this machine alone, by programs
    /// of the item's access group alone, without anybody present.
    ///
    /// # Errors
    /// [`KeychainError`].
    fn create(&self, item: &Item) -> Result<Point, KeychainError>;

    /// Signs with ECDSA over the message's SHA-256. Returns r ‖ s.
    ///
    /// # Errors
    /// [`KeychainError`].
    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError>;

    /// Gives the keys of an item another label.
    ///
    /// # Errors
    /// [`KeychainError`].
    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError>;

    /// Destroys one key of an item.
    ///
    /// # Errors
    /// [`KeychainError`].
    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError>;

    /// Destroys all keys of an item.
    ///
    /// # Errors
    /// [`KeychainError`]; [`KeychainError::NotFound`] when there is none.
    fn delete(&self, item: &Item) -> Result<(), KeychainError>;
}

/// The keychain of this machine. Where there is no Secure Enclave, one that says so.
#[must_use]
pub fn keychain() -> Arc<dyn Keychain> {
    #[cfg(target_os = "macos")]
    return Arc::new(framework::SecurityFramework);
    #[cfg(not(target_os = "macos"))]
    Arc::new(NoEnclave)
}

/// A machine without a Secure Enclave.
#[cfg(not(target_os = "macos"))]
struct NoEnclave;

#[cfg(not(target_os = "macos"))]
impl Keychain for NoEnclave {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        Err(KeychainError::Absent)
    }
    fn keys(&self, _: &Item) -> Result<Vec<Point>, KeychainError> {
        Err(KeychainError::Absent)
    }
    fn create(&self, _: &Item) -> Result<Point, KeychainError> {
        Err(KeychainError::Absent)
    }
    fn sign(&self, _: &Item, _: &Point, _: &[u8]) -> Result<[u8; 64], KeychainError> {
        Err(KeychainError::Absent)
    }
    fn rename(&self, _: &Item, _: &Item) -> Result<(), KeychainError> {
        Err(KeychainError::Absent)
    }
    fn withdraw(&self, _: &Item, _: &Point) -> Result<(), KeychainError> {
        Err(KeychainError::Absent)
    }
    fn delete(&self, _: &Item) -> Result<(), KeychainError> {
        Err(KeychainError::Absent)
    }
}
