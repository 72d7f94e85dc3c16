//! What the keychain says instead of yes, and what to do about it.

use crate::codes;

/// What the keychain said. Only [`Self::NotFound`] may lead to a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeychainError {
    /// It has no such key.
    #[error("the keychain has no such key")]
    NotFound,
    /// It has such a key already.
    #[error("the keychain has such a key already")]
    Duplicate,
    /// The program is not signed for the access group.
    #[error("this program is not signed with the entitlement to the key's access group (-34018)")]
    MissingEntitlement,
    /// Nobody has unlocked the machine since it started.
    #[error("the keychain is locked: nobody has logged in since this machine started (-25308)")]
    Locked,
    /// The enclave does not let the key be used.
    #[error("the Secure Enclave refuses to use the key (-25293)")]
    AuthFailed,
    /// This process has no keychain.
    #[error("no keychain is available to this process (-25291)")]
    Unavailable,
    /// The machine has no Secure Enclave.
    #[error("this machine has no Secure Enclave")]
    Absent,
    /// The keychain failed otherwise.
    #[error("the keychain failed with status {0}")]
    Status(i32),
    /// Something behind the keychain failed, with a number of its own.
    #[error("the keychain failed with error {0} of another part of the system")]
    Foreign(i64),
    /// It answered with what is no answer.
    #[error("the keychain's answer is not valid: {0}")]
    Malformed(&'static str),
}

impl KeychainError {
    /// What a status of the Security framework means.
    #[must_use]
    pub fn of_status(status: i32) -> Self {
        match status {
            codes::NOT_FOUND => Self::NotFound,
            codes::DUPLICATE => Self::Duplicate,
            codes::MISSING_ENTITLEMENT => Self::MissingEntitlement,
            codes::INTERACTION_NOT_ALLOWED => Self::Locked,
            codes::AUTH_FAILED => Self::AuthFailed,
            codes::NOT_AVAILABLE => Self::Unavailable,
            codes::UNIMPLEMENTED => Self::Absent,
            other => Self::Status(other),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::MissingEntitlement => {
                "run the program as it was signed and released; for one that you built yourself choose `--key-home software`"
            }
            Self::Locked => {
                "log in to this Mac once, and try again: keys can be used from then until it is switched off"
            }
            Self::AuthFailed => {
                "restart the Mac; where the key does not sign then, run `darkbloom key delete` to begin a new identity"
            }
            Self::Unavailable => "run it as a user who is logged in, not as a service of the whole system",
            Self::Absent => {
                "only Macs with Apple silicon or a T2 chip have one: elsewhere name `tpm` or `software` in `key_homes`"
            }
            Self::NotFound | Self::Duplicate | Self::Status(_) | Self::Foreign(_) | Self::Malformed(_) => {
                "run `darkbloom doctor keys`, which tries each step by itself, and look at the system's log"
            }
        }
    }
}

/// Why there is no key. None of these makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnclaveError {
    /// What the keychain said.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// The key was there once.
    #[error("the Secure Enclave has no key {0} any more: it was erased, or this is another machine or user")]
    Gone(String),
    /// Another key has its label.
    #[error("the key {0} is not the one that was made here")]
    OtherKey(String),
    /// Nothing says which of several keys it is.
    #[error("the keychain has several keys {0}, and none of them was used yet")]
    Several(String),
    /// A new key is not where it was made.
    #[error("the keychain does not give back the new key {0}")]
    NotKept(String),
    /// A key does not do what it was made for.
    #[error("the Secure Enclave's signature does not verify")]
    SelfTest,
}

impl EnclaveError {
    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Keychain(error) => error.next_step(),
            Self::Gone(_) | Self::OtherKey(_) => {
                "go back to the machine and the user it was made by, or run `darkbloom key delete` to begin a new identity"
            }
            Self::Several(_) => "run `darkbloom key delete`, which removes them all, and start again",
            Self::NotKept(_) | Self::SelfTest => {
                "run `darkbloom doctor keys`, which tries each step by itself, and look at the system's log"
            }
        }
    }
}
