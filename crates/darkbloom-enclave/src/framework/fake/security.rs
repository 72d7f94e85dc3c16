//! The Security framework's part of the stand-in: reads what the binding asks for, and asks the simulated Mac.

use std::ptr::null;

use super::simulator::{Process, Query, SimulatedKey};
use super::{Answer, FIRST_OBJECT, FOREIGN_DOMAIN, Kind, STATUS_DOMAIN, World, raw, with};
use crate::codes;
use crate::framework::bindings::Ref;

/// `errSecParam`: what a request is answered with that makes no sense.
const PARAM: i32 = -50;

/// A constant of the frameworks is an object whose number is all there is to it.
macro_rules! constants {
    ($($name:ident = $number:literal,)*) => { $(
        #[unsafe(no_mangle)]
        pub static $name: usize = $number;
    )* };
}

constants! {
    kCFBooleanTrue = 1,
    kCFErrorDomainOSStatus = 2,
    kSecClass = 3,
    kSecClassKey = 4,
    kSecMatchLimit = 5,
    kSecMatchLimitAll = 6,
    kSecReturnRef = 7,
    kSecValueRef = 8,
    kSecUseDataProtectionKeychain = 9,
    kSecAttrApplicationTag = 10,
    kSecAttrAccessGroup = 11,
    kSecAttrAccessControl = 12,
    kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly = 13,
    kSecAttrIsPermanent = 14,
    kSecAttrKeyClass = 15,
    kSecAttrKeyClassPrivate = 16,
    kSecAttrKeyType = 17,
    kSecAttrKeyTypeECSECPrimeRandom = 18,
    kSecAttrKeySizeInBits = 19,
    kSecAttrTokenID = 20,
    kSecAttrTokenIDSecureEnclave = 21,
    kSecPrivateKeyAttrs = 22,
    kSecKeyAlgorithmECDSASignatureMessageX962SHA256 = 23,
}

impl World {
    fn process(&self) -> Process {
        self.process.clone().expect("a call is made by a program that is watched")
    }

    /// Whether a dictionary has exactly this constant under a key.
    fn says(&mut self, dictionary: usize, key: usize, constant: usize) -> bool {
        self.value(dictionary, key) == Some(constant)
    }

    /// Label and group, and where they are looked for. What is left out is left out.
    fn place(&mut self, of: usize, data_protection: bool) -> Result<Query, i32> {
        let tag = self.value(of, kSecAttrApplicationTag).and_then(|tag| self.kind(tag));
        let Some(Kind::Data(tag)) = tag else { return Err(PARAM) };
        let group = match self.value(of, kSecAttrAccessGroup).map(|group| self.kind(group)) {
            Some(Some(Kind::Text(group))) => Some(group),
            None => None,
            Some(_) => return Err(PARAM),
        };
        let enclave_only = self.says(of, kSecAttrTokenID, kSecAttrTokenIDSecureEnclave);
        Ok(Query { label: String::from_utf8(tag).map_err(|_| PARAM)?, group, data_protection, enclave_only })
    }

    /// What a search looks for.
    fn query(&mut self, of: usize) -> Result<Query, i32> {
        if !self.says(of, kSecClass, kSecClassKey) || !self.says(of, kSecAttrKeyClass, kSecAttrKeyClassPrivate) {
            return Err(PARAM);
        }
        let data_protection = self.says(of, kSecUseDataProtectionKeychain, kCFBooleanTrue);
        self.place(of, data_protection)
    }

    fn create(&mut self, parameters: usize) -> Result<SimulatedKey, i32> {
        let bits = self.value(parameters, kSecAttrKeySizeInBits).and_then(|bits| self.kind(bits));
        let Some(Kind::Number(256)) = bits else { return Err(PARAM) };
        if !self.says(parameters, kSecAttrKeyType, kSecAttrKeyTypeECSECPrimeRandom) {
            return Err(PARAM);
        }
        if !self.says(parameters, kSecAttrTokenID, kSecAttrTokenIDSecureEnclave) {
            self.fault("a key outside of the enclave");
        }
        let private = self.value(parameters, kSecPrivateKeyAttrs).ok_or(PARAM)?;
        let control = self.value(private, kSecAttrAccessControl).and_then(|control| self.kind(control));
        let Some(Kind::AccessControl { protection, flags }) = control else { return Err(PARAM) };
        if protection != kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly {
            self.fault("a key that other machines get, or that is used at other times");
        }
        if flags != codes::PRIVATE_KEY_USAGE {
            self.fault("a key that the enclave does not sign with, or not while nobody is there");
        }
        if !self.says(private, kSecAttrIsPermanent, kCFBooleanTrue) {
            return self.process().make(None);
        }
        let data_protection = self.says(parameters, kSecUseDataProtectionKeychain, kCFBooleanTrue);
        let place = self.place(private, data_protection)?;
        self.process().make(Some(&Query { enclave_only: true, ..place }))
    }

    fn find(&mut self, query: usize) -> Result<usize, i32> {
        let wanted = self.query(query)?;
        let mut found = self.process().find(&wanted)?;
        if !self.says(query, kSecReturnRef, kCFBooleanTrue) {
            return Ok(0);
        }
        let all = self.says(query, kSecMatchLimit, kSecMatchLimitAll);
        if !all || self.answer == Answer::OneKey {
            return Ok(self.make(Kind::Key(found.remove(0))));
        }
        if self.answer == Answer::NoKeys {
            found.clear();
        }
        let other = self.answer == Answer::OtherThings;
        let item = |key| if other { Kind::Number(1) } else { Kind::Key(key) };
        let keys = found.into_iter().map(|key| self.make(item(key))).collect();
        Ok(self.make(Kind::Array(keys)))
    }

    fn key(&mut self, object: usize) -> Option<SimulatedKey> {
        match self.kind(object) {
            Some(Kind::Key(key)) => Some(key),
            _ => {
                self.wrong(object, "a private key");
                None
            }
        }
    }

    /// What was made; or nothing, and an error for the caller to release.
    ///
    /// # Safety
    /// An error can be written there.
    unsafe fn or_error(&mut self, made: Result<Kind, i32>, error: *mut Ref) -> Ref {
        if self.answer == Answer::Nothing {
            return null();
        }
        match made {
            Ok(kind) => raw(self.make(kind)),
            Err(status) => {
                let domain = if self.answer == Answer::ForeignErrors { FOREIGN_DOMAIN } else { STATUS_DOMAIN };
                let made = self.make(Kind::Error { domain, code: status as isize });
                // SAFETY: the caller's promise.
                unsafe { *error = raw(made) };
                null()
            }
        }
    }
}

fn status(done: Result<(), i32>) -> i32 {
    done.err().unwrap_or(0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn SecAccessControlCreateWithFlags(_: Ref, protection: Ref, flags: usize, error: *mut Ref) -> Ref {
    let made = Kind::AccessControl { protection: protection.addr(), flags };
    // SAFETY: the binding's promise, which this is here to try.
    with(|world| unsafe { world.or_error(Ok(made), error) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn SecKeyCreateRandomKey(parameters: Ref, error: *mut Ref) -> Ref {
    with(|world| {
        let made = world.create(parameters.addr()).map(Kind::Key);
        // SAFETY: as above.
        unsafe { world.or_error(made, error) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn SecKeyCreateSignature(key: Ref, algorithm: Ref, data: Ref, error: *mut Ref) -> Ref {
    with(|world| {
        let message = match world.kind(data.addr()) {
            Some(Kind::Data(message)) if algorithm.addr() == kSecKeyAlgorithmECDSASignatureMessageX962SHA256 => {
                Some(message)
            }
            _ => None,
        };
        let signed = match (world.key(key.addr()), message) {
            (Some(key), Some(message)) => world.process().signature(&key, &message),
            _ => Err(PARAM),
        };
        let signed = signed.map(|signature| Kind::Data(signature.to_der().as_bytes().to_vec()));
        // SAFETY: as above.
        unsafe { world.or_error(signed, error) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn SecKeyGetTypeID() -> usize {
    super::KEY_TYPE
}

#[unsafe(no_mangle)]
extern "C" fn SecKeyCopyPublicKey(key: Ref) -> Ref {
    with(|world| match world.key(key.addr()) {
        Some(key) if world.answer != Answer::Nothing => raw(world.make(Kind::Public(key.point()))),
        _ => null(),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn SecKeyCopyExternalRepresentation(key: Ref, error: *mut Ref) -> Ref {
    with(|world| {
        let bytes = match world.kind(key.addr()) {
            Some(Kind::Public(_)) if world.answer == Answer::NoBytes => Ok(Kind::Number(65)),
            Some(Kind::Public(point)) => Ok(Kind::Data(point.to_vec())),
            // A private key does not leave the enclave.
            _ => Err(PARAM),
        };
        // SAFETY: as above.
        unsafe { world.or_error(bytes, error) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn SecItemCopyMatching(query: Ref, result: *mut Ref) -> i32 {
    with(|world| match world.find(query.addr()) {
        Ok(found) => {
            // SAFETY: as above.
            unsafe { *result = raw(found) };
            0
        }
        Err(status) => status,
    })
}

#[unsafe(no_mangle)]
extern "C" fn SecItemUpdate(query: Ref, attributes: Ref) -> i32 {
    with(|world| {
        let tag = world.value(attributes.addr(), kSecAttrApplicationTag).and_then(|tag| world.kind(tag));
        let Some(Kind::Data(tag)) = tag else { return PARAM };
        let Ok(label) = String::from_utf8(tag) else { return PARAM };
        status(world.query(query.addr()).and_then(|query| world.process().relabel(&query, &label)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn SecItemDelete(query: Ref) -> i32 {
    with(|world| {
        let query = query.addr();
        let Some(one) = world.value(query, kSecValueRef) else {
            return status(world.query(query).and_then(|query| world.process().remove(&query)));
        };
        let is_there = world.says(query, kSecUseDataProtectionKeychain, kCFBooleanTrue)
            && world.value(query, kSecAttrApplicationTag).is_some()
            && world.value(query, kSecAttrAccessGroup).is_some();
        match world.key(one).filter(|_| one >= FIRST_OBJECT) {
            Some(key) if is_there => status(world.process().remove_one(&key)),
            // The legacy keychain has none of the enclave.
            Some(_) => codes::NOT_FOUND,
            None => PARAM,
        }
    })
}
