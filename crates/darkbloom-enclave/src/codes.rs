//! Numbers of Apple's headers. `./x darwin` compares them with those that were generated from the headers themselves.

/// `errSecItemNotFound`: the keychain was asked and has no such item. The one answer that may lead to a new key.
pub const NOT_FOUND: i32 = -25300;
/// `errSecDuplicateItem`: there is such an item.
pub const DUPLICATE: i32 = -25299;
/// `errSecMissingEntitlement`: the program is not signed for this access group.
pub const MISSING_ENTITLEMENT: i32 = -34018;
/// `errSecInteractionNotAllowed`: locked; nobody has logged in since the machine started.
pub const INTERACTION_NOT_ALLOWED: i32 = -25308;
/// `errSecAuthFailed`: the enclave does not let the key be used.
pub const AUTH_FAILED: i32 = -25293;
/// `errSecNotAvailable`: this process has no keychain, as one outside of any login has none.
pub const NOT_AVAILABLE: i32 = -25291;
/// `errSecUnimplemented`: what a machine without an enclave says to making a key in one.
pub const UNIMPLEMENTED: i32 = -4;

/// `kSecAccessControlPrivateKeyUsage`: a key that the enclave signs with, without anybody present.
pub const PRIVATE_KEY_USAGE: usize = 1 << 30;
/// `kCFStringEncodingUTF8`.
pub const UTF8: u32 = 0x0800_0100;
/// `kCFNumberSInt32Type`.
pub const SINT32: isize = 3;
