//! Compares numbers and names of ours with those that were generated from the headers of Apple's SDK. Compiling it is the
//! comparison.

#![forbid(unsafe_code)]
#![allow(unused_imports, deprecated, reason = "that a name is there is all that is asked")]

use darkbloom_enclave::codes;
use objc2_core_foundation as cf;
use objc2_security as security;

use cf::{
    CFArrayGetCount, CFArrayGetValueAtIndex, CFDataCreate, CFDataGetBytePtr, CFDataGetLength, CFDictionaryCreate,
    CFEqual, CFErrorGetCode, CFErrorGetDomain, CFGetTypeID, CFNumberCreate, CFStringCreateWithBytes, kCFBooleanTrue,
    kCFErrorDomainOSStatus, kCFTypeDictionaryKeyCallBacks, kCFTypeDictionaryValueCallBacks,
};
use security::{
    SecAccessControlCreateWithFlags, SecItemCopyMatching, SecItemDelete, SecItemUpdate,
    SecKeyCopyExternalRepresentation, SecKeyCopyPublicKey, SecKeyCreateRandomKey, SecKeyCreateSignature,
    kSecAttrAccessControl, kSecAttrAccessGroup, kSecAttrAccessibleAfterFirstUnlockThisDeviceOnly,
    kSecAttrApplicationTag, kSecAttrIsPermanent, kSecAttrKeyClass, kSecAttrKeyClassPrivate, kSecAttrKeySizeInBits,
    kSecAttrKeyType, kSecAttrKeyTypeECSECPrimeRandom, kSecAttrTokenID, kSecAttrTokenIDSecureEnclave, kSecClass,
    kSecClassKey, kSecKeyAlgorithmECDSASignatureMessageX962SHA256, kSecMatchLimit, kSecMatchLimitAll,
    kSecPrivateKeyAttrs, kSecReturnRef, kSecUseDataProtectionKeychain, kSecValueRef,
};

const _: () = {
    assert!(codes::NOT_FOUND == security::errSecItemNotFound);
    assert!(codes::DUPLICATE == security::errSecDuplicateItem);
    assert!(codes::MISSING_ENTITLEMENT == security::errSecMissingEntitlement);
    assert!(codes::INTERACTION_NOT_ALLOWED == security::errSecInteractionNotAllowed);
    assert!(codes::AUTH_FAILED == security::errSecAuthFailed);
    assert!(codes::NOT_AVAILABLE == security::errSecNotAvailable);
    assert!(codes::UNIMPLEMENTED == security::errSecUnimplemented);
    assert!(codes::PRIVATE_KEY_USAGE == security::SecAccessControlCreateFlags::PrivateKeyUsage.bits());
    assert!(codes::UTF8 == cf::CFStringBuiltInEncodings::EncodingUTF8.0);
    assert!(codes::SINT32 == cf::CFNumberType::SInt32Type.0);
};

fn main() {}
