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

use crate::{Item, Keychain, KeychainError, Point, Search, codes, verifies};
use bindings::*;
use objects::{Array, Data, Dictionary, Lent, Object, constant, made, number, text};

/// What is signed to see that an enclave works.
const TRIAL: &[u8] = b"darkbloom/v1/enclave-trial";

/// The keychain of this machine.
pub struct SecurityFramework;

impl Keychain for SecurityFramework {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        let control = usable_alone()?;
        let key = random_key(&[], &Dictionary::new(&[(constant!(kSecAttrAccessControl), control.lent())])?)?;
        let signature = signature(key.lent(), TRIAL)?;
        if verifies(&point(key.lent())?, TRIAL, &signature) {
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
        let private = Dictionary::new(&[
            (constant!(kSecAttrIsPermanent), constant!(kCFBooleanTrue)),
            (constant!(kSecAttrApplicationTag), tag.lent()),
            (constant!(kSecAttrAccessGroup), group.lent()),
            (constant!(kSecAttrAccessControl), control.lent()),
        ])?;
        let kept = [(constant!(kSecUseDataProtectionKeychain), constant!(kCFBooleanTrue))];
        point(random_key(&kept, &private)?.lent())
    }

    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError> {
        Query::of(item)?.with(key, |key| signature(key, message))
    }

    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError> {
        let tag = Data::new(to.label.as_bytes())?;
        let query = Query::of(item)?.dictionary(&[])?;
        let change = Dictionary::new(&[(constant!(kSecAttrApplicationTag), tag.lent())])?;
        // SAFETY: both are dictionaries, and alive.
        done(unsafe { SecItemUpdate(query.lent().raw(), change.lent().raw()) })
    }

    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError> {
        let query = Query::of(item)?;
        query.with(key, |key| {
            // By all that it is found by too: a reference that the system made less of than one key must not remove others.
            let this_one = query.dictionary(&[(constant!(kSecValueRef), key)])?;
            // SAFETY: it is a dictionary, and alive.
            done(unsafe { SecItemDelete(this_one.lent().raw()) })
        })
    }

    fn delete(&self, item: &Item) -> Result<(), KeychainError> {
        let query = Query::of(item)?.dictionary(&[])?;
        // SAFETY: it is a dictionary, and alive.
        done(unsafe { SecItemDelete(query.lent().raw()) })
    }
}

fn done(status: i32) -> Result<(), KeychainError> {
    if status == 0 { Ok(()) } else { Err(KeychainError::of_status(status)) }
}

/// What a key is looked for by.
struct Query {
    tag: Data,
    group: Option<Object>,
    data_protection: bool,
    enclave_only: bool,
}

impl Query {
    fn of(item: &Item) -> Result<Self, KeychainError> {
        let Search { data_protection, enclave_only, group } = item.search();
        let (tag, group) = (Data::new(item.label.as_bytes())?, group.map(text).transpose()?);
        Ok(Self { tag, group, data_protection, enclave_only })
    }

    fn dictionary(&self, more: &[(Lent, Lent)]) -> Result<Dictionary, KeychainError> {
        let mut this = vec![
            (constant!(kSecClass), constant!(kSecClassKey)),
            (constant!(kSecAttrKeyClass), constant!(kSecAttrKeyClassPrivate)),
            (constant!(kSecAttrApplicationTag), self.tag.lent()),
        ];
        if self.enclave_only {
            this.push((constant!(kSecAttrTokenID), constant!(kSecAttrTokenIDSecureEnclave)));
        }
        if let Some(group) = &self.group {
            this.push((constant!(kSecAttrAccessGroup), group.lent()));
        }
        if self.data_protection {
            this.push((constant!(kSecUseDataProtectionKeychain), constant!(kCFBooleanTrue)));
        }
        Dictionary::new(&[&this, more].concat())
    }

    /// All keys of the item.
    fn find(&self) -> Result<Array, KeychainError> {
        let all = (constant!(kSecMatchLimit), constant!(kSecMatchLimitAll));
        let query = self.dictionary(&[all, (constant!(kSecReturnRef), constant!(kCFBooleanTrue))])?;
        let mut found = null();
        // SAFETY: it is a dictionary, and alive; the answer's place lives as long as the call.
        done(unsafe { SecItemCopyMatching(query.lent().raw(), &raw mut found) })?;
        // SAFETY: what was found is the caller's.
        let found = Array::of(unsafe { Object::owned(found) }?)?;
        // Only the keychain's own word for it leads to a new key.
        if found.items().len() == 0 {
            return Err(KeychainError::Malformed("a list of no keys"));
        }
        // SAFETY: what is in a list is alive while the list is.
        let is_key = |item: Lent| unsafe { CFGetTypeID(item.raw()) == SecKeyGetTypeID() };
        if found.items().all(is_key) { Ok(found) } else { Err(KeychainError::Malformed("a list of what is no key")) }
    }

    /// Lends one key of the item.
    fn with<T>(&self, key: &Point, use_it: impl FnOnce(Lent) -> Result<T, KeychainError>) -> Result<T, KeychainError> {
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
fn random_key(more: &[(Lent, Lent)], private: &Dictionary) -> Result<Object, KeychainError> {
    let bits = number(256)?;
    let this = [
        (constant!(kSecAttrKeyType), constant!(kSecAttrKeyTypeECSECPrimeRandom)),
        (constant!(kSecAttrKeySizeInBits), bits.lent()),
        (constant!(kSecAttrTokenID), constant!(kSecAttrTokenIDSecureEnclave)),
        (constant!(kSecPrivateKeyAttrs), private.lent()),
    ];
    let parameters = Dictionary::new(&[&this, more].concat())?;
    // SAFETY: it is a dictionary, and alive; what is made is the caller's, and so is an error.
    unsafe { made(|error| SecKeyCreateRandomKey(parameters.lent().raw(), error)) }
}

/// Who may use a key: programs on this machine, from its first unlock after a start on, without anybody present.
fn usable_alone() -> Result<Object, KeychainError> {
    let protection = constant!(kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly);
    // SAFETY: a protection that the framework names; what is made is the caller's, and so is an error.
    unsafe { made(|error| SecAccessControlCreateWithFlags(null(), protection.raw(), codes::PRIVATE_KEY_USAGE, error)) }
}

/// The public point of a private key.
fn point(key: Lent) -> Result<Point, KeychainError> {
    // SAFETY: the key is alive while it is lent; what is copied is the caller's.
    let public = unsafe { Object::owned(SecKeyCopyPublicKey(key.raw())) }?;
    // SAFETY: the public key is alive; what is copied is the caller's, and so is an error.
    let bytes = unsafe { made(|error| SecKeyCopyExternalRepresentation(public.lent().raw(), error)) }?;
    let point = Data::of(bytes)?.to_vec();
    point.try_into().map_err(|_| KeychainError::Malformed("no public key on P-256"))
}

fn signature(key: Lent, message: &[u8]) -> Result<[u8; 64], KeychainError> {
    let (message, algorithm) = (Data::new(message)?, constant!(kSecKeyAlgorithmECDSASignatureMessageX962SHA256));
    // SAFETY: key and message are alive; what is made is the caller's, and so is an error.
    let der = unsafe { made(|error| SecKeyCreateSignature(key.raw(), algorithm.raw(), message.lent().raw(), error)) }?;
    let signature = Signature::from_der(&Data::of(der)?.to_vec());
    Ok(signature.map_err(|_| KeychainError::Malformed("no ECDSA signature"))?.to_bytes().into())
}
