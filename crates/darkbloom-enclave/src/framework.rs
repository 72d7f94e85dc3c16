//! The keychain through Apple's Security framework.
//!
//! Every query names the data-protection keychain, the access group and the enclave's token: without the first the legacy
//! file keychain answers, which knows no groups and which whoever is root can fill; without the last a key that was imported
//! passes for one of the enclave.

#![allow(unsafe_code)]

mod bindings;
#[cfg(all(test, not(target_os = "macos")))]
mod fake;
mod objects;
#[cfg(all(test, not(target_os = "macos")))]
mod tests;

use std::ptr::null;

use p256::ecdsa::Signature;

use crate::{Item, Keychain, KeychainError, Point, codes, verifies};
use bindings::*;
use objects::{Array, Data, Dictionary, Object, made, number, text};

/// What is signed to see that an enclave works.
const TRIAL: &[u8] = b"darkbloom/v1/enclave-trial";

/// The keychain of this machine.
pub struct SecurityFramework;

impl Keychain for SecurityFramework {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        let private = Dictionary::new(&[(is_access_control(), usable_alone()?.raw())])?;
        let key = random_key(&[], &private)?;
        let signature = signature(key.raw(), TRIAL)?;
        if verifies(&point(key.raw())?, TRIAL, &signature) {
            Ok(())
        } else {
            Err(KeychainError::Malformed("a new key's signature does not verify"))
        }
    }

    fn keys(&self, item: &Item) -> Result<Vec<Point>, KeychainError> {
        let found = Query::of(item)?.find()?;
        found.items().map(point).collect()
    }

    fn create(&self, item: &Item) -> Result<Point, KeychainError> {
        let (tag, group, control) = (Data::new(item.label.as_bytes())?, text(&item.group)?, usable_alone()?);
        // SAFETY: constants of the frameworks, which live as long as the process.
        let private = unsafe {
            Dictionary::new(&[
                (kSecAttrIsPermanent, kCFBooleanTrue),
                (kSecAttrApplicationTag, tag.raw()),
                (kSecAttrAccessGroup, group.raw()),
                (kSecAttrAccessControl, control.raw()),
            ])
        }?;
        // SAFETY: as above.
        let kept = unsafe { (kSecUseDataProtectionKeychain, kCFBooleanTrue) };
        point(random_key(&[kept], &private)?.raw())
    }

    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError> {
        Query::of(item)?.with(key, |key| signature(key, message))
    }

    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError> {
        let (query, tag) = (Query::of(item)?, Data::new(to.label.as_bytes())?);
        // SAFETY: both dictionaries are alive; a constant of the framework lives as long as the process.
        let status = unsafe {
            let change = Dictionary::new(&[(kSecAttrApplicationTag, tag.raw())])?;
            SecItemUpdate(query.dictionary(&[])?.raw(), change.raw())
        };
        done(status)
    }

    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError> {
        Query::of(item)?.with(key, |key| {
            // SAFETY: the key is alive while it is lent; constants of the frameworks live as long as the process.
            let status = unsafe {
                let this_one = Dictionary::new(&[
                    (kSecClass, kSecClassKey),
                    (kSecValueRef, key),
                    (kSecUseDataProtectionKeychain, kCFBooleanTrue),
                ])?;
                SecItemDelete(this_one.raw())
            };
            done(status)
        })
    }

    fn delete(&self, item: &Item) -> Result<(), KeychainError> {
        let query = Query::of(item)?.dictionary(&[])?;
        // SAFETY: the dictionary is alive.
        done(unsafe { SecItemDelete(query.raw()) })
    }
}

fn done(status: i32) -> Result<(), KeychainError> {
    if status == 0 { Ok(()) } else { Err(KeychainError::of_status(status)) }
}

/// What a key is looked for by.
struct Query {
    tag: Data,
    group: Object,
}

impl Query {
    fn of(item: &Item) -> Result<Self, KeychainError> {
        Ok(Self { tag: Data::new(item.label.as_bytes())?, group: text(&item.group)? })
    }

    fn dictionary(&self, more: &[(Ref, Ref)]) -> Result<Dictionary, KeychainError> {
        // SAFETY: constants of the frameworks, which live as long as the process.
        let this = unsafe {
            [
                (kSecClass, kSecClassKey),
                (kSecAttrKeyClass, kSecAttrKeyClassPrivate),
                (kSecAttrTokenID, kSecAttrTokenIDSecureEnclave),
                (kSecAttrApplicationTag, self.tag.raw()),
                (kSecAttrAccessGroup, self.group.raw()),
                (kSecUseDataProtectionKeychain, kCFBooleanTrue),
            ]
        };
        Dictionary::new(&[&this, more].concat())
    }

    /// All keys of the item.
    fn find(&self) -> Result<Array, KeychainError> {
        let mut found = null();
        // SAFETY: constants as above; the dictionary is alive; the answer is written to a local and owned by the caller.
        let status = unsafe {
            let query = self.dictionary(&[(kSecMatchLimit, kSecMatchLimitAll), (kSecReturnRef, kCFBooleanTrue)])?;
            SecItemCopyMatching(query.raw(), &raw mut found)
        };
        done(status)?;
        let found = Array::of(Object::owned(found)?)?;
        // Only the keychain's own word for it leads to a new key.
        if found.items().len() == 0 { Err(KeychainError::Malformed("a list of no keys")) } else { Ok(found) }
    }

    /// Lends one key of the item.
    fn with<T>(&self, key: &Point, use_it: impl FnOnce(Ref) -> Result<T, KeychainError>) -> Result<T, KeychainError> {
        let found = self.find()?;
        for item in found.items() {
            if point(item)? == *key {
                return use_it(item);
            }
        }
        Err(KeychainError::NotFound)
    }
}

/// A key that the enclave makes.
fn random_key(more: &[(Ref, Ref)], private: &Dictionary) -> Result<Object, KeychainError> {
    let bits = number(256)?;
    // SAFETY: constants of the frameworks live as long as the process.
    let this = unsafe {
        [
            (kSecAttrKeyType, kSecAttrKeyTypeECSECPrimeRandom),
            (kSecAttrKeySizeInBits, bits.raw()),
            (kSecAttrTokenID, kSecAttrTokenIDSecureEnclave),
            (kSecPrivateKeyAttrs, private.raw()),
        ]
    };
    let parameters = Dictionary::new(&[&this, more].concat())?;
    // SAFETY: the dictionary is alive, and the error is written to a place that lives as long as the call.
    made(|error| unsafe { SecKeyCreateRandomKey(parameters.raw(), error) })
}

/// Who may use a key: programs on this machine, from its first unlock after a start on, without anybody present.
fn usable_alone() -> Result<Object, KeychainError> {
    // SAFETY: a constant of the framework, and the error's place lives as long as the call.
    made(|error| unsafe {
        let protection = kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly;
        SecAccessControlCreateWithFlags(null(), protection, codes::PRIVATE_KEY_USAGE, error)
    })
}

fn is_access_control() -> Ref {
    // SAFETY: a constant of the framework, which lives as long as the process.
    unsafe { kSecAttrAccessControl }
}

/// The public point of a private key.
fn point(key: Ref) -> Result<Point, KeychainError> {
    // SAFETY: the key is alive while it is lent.
    let public = Object::owned(unsafe { SecKeyCopyPublicKey(key) })?;
    // SAFETY: the public key is alive, and the error's place lives as long as the call.
    let bytes = made(|error| unsafe { SecKeyCopyExternalRepresentation(public.raw(), error) })?;
    let point = Data::of(bytes)?.to_vec();
    point.try_into().map_err(|_| KeychainError::Malformed("no public key on P-256"))
}

fn signature(key: Ref, message: &[u8]) -> Result<[u8; 64], KeychainError> {
    let message = Data::new(message)?;
    // SAFETY: key and message are alive, and the error's place lives as long as the call.
    let der = made(|error| unsafe {
        SecKeyCreateSignature(key, kSecKeyAlgorithmECDSASignatureMessageX962SHA256, message.raw(), error)
    })?;
    let signature = Signature::from_der(&Data::of(der)?.to_vec());
    Ok(signature.map_err(|_| KeychainError::Malformed("no ECDSA signature"))?.to_bytes().into())
}
