//! What is called of Apple's frameworks, by the names of their headers. Objects are opaque: one that a function whose name
//! has `Create` or `Copy` returns is the caller's to release; others are lent.

#![allow(non_upper_case_globals, reason = "the names of Apple's headers")]

use std::ffi::c_void;

/// A CoreFoundation object, or null.
pub type Ref = *const c_void;

#[cfg_attr(target_os = "macos", link(name = "CoreFoundation", kind = "framework"))]
unsafe extern "C" {
    pub static kCFBooleanTrue: Ref;
    pub static kCFErrorDomainOSStatus: Ref;
    // Structures, of which only the address is used.
    pub static kCFTypeDictionaryKeyCallBacks: u8;
    pub static kCFTypeDictionaryValueCallBacks: u8;
    pub fn CFRelease(object: Ref);
    pub fn CFEqual(one: Ref, other: Ref) -> u8;
    pub fn CFGetTypeID(object: Ref) -> usize;
    pub fn CFArrayGetTypeID() -> usize;
    pub fn CFArrayGetCount(array: Ref) -> isize;
    pub fn CFArrayGetValueAtIndex(array: Ref, at: isize) -> Ref;
    pub fn CFDataGetTypeID() -> usize;
    pub fn CFDataCreate(allocator: Ref, bytes: *const u8, length: isize) -> Ref;
    pub fn CFDataGetLength(data: Ref) -> isize;
    pub fn CFDataGetBytePtr(data: Ref) -> *const u8;
    pub fn CFStringCreateWithBytes(allocator: Ref, bytes: *const u8, length: isize, encoding: u32, external: u8)
    -> Ref;
    pub fn CFNumberCreate(allocator: Ref, kind: isize, value: *const c_void) -> Ref;
    pub fn CFDictionaryCreate(
        allocator: Ref,
        keys: *const Ref,
        values: *const Ref,
        count: isize,
        key_callbacks: *const u8,
        value_callbacks: *const u8,
    ) -> Ref;
    pub fn CFErrorGetCode(error: Ref) -> isize;
    pub fn CFErrorGetDomain(error: Ref) -> Ref;
}

#[cfg_attr(target_os = "macos", link(name = "Security", kind = "framework"))]
unsafe extern "C" {
    pub static kSecClass: Ref;
    pub static kSecClassKey: Ref;
    pub static kSecMatchLimit: Ref;
    pub static kSecMatchLimitAll: Ref;
    pub static kSecReturnRef: Ref;
    pub static kSecValueRef: Ref;
    pub static kSecUseDataProtectionKeychain: Ref;
    pub static kSecAttrApplicationTag: Ref;
    pub static kSecAttrAccessGroup: Ref;
    pub static kSecAttrAccessControl: Ref;
    pub static kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly: Ref;
    pub static kSecAttrIsPermanent: Ref;
    pub static kSecAttrKeyClass: Ref;
    pub static kSecAttrKeyClassPrivate: Ref;
    pub static kSecAttrKeyType: Ref;
    pub static kSecAttrKeyTypeECSECPrimeRandom: Ref;
    pub static kSecAttrKeySizeInBits: Ref;
    pub static kSecAttrTokenID: Ref;
    pub static kSecAttrTokenIDSecureEnclave: Ref;
    pub static kSecPrivateKeyAttrs: Ref;
    pub static kSecKeyAlgorithmECDSASignatureMessageX962SHA256: Ref;
    pub fn SecAccessControlCreateWithFlags(allocator: Ref, protection: Ref, flags: usize, error: *mut Ref) -> Ref;
    pub fn SecKeyCreateRandomKey(parameters: Ref, error: *mut Ref) -> Ref;
    pub fn SecKeyCreateSignature(key: Ref, algorithm: Ref, data: Ref, error: *mut Ref) -> Ref;
    pub fn SecKeyGetTypeID() -> usize;
    pub fn SecKeyCopyPublicKey(key: Ref) -> Ref;
    pub fn SecKeyCopyExternalRepresentation(key: Ref, error: *mut Ref) -> Ref;
    pub fn SecItemCopyMatching(query: Ref, result: *mut Ref) -> i32;
    pub fn SecItemUpdate(query: Ref, attributes: Ref) -> i32;
    pub fn SecItemDelete(query: Ref) -> i32;
}
