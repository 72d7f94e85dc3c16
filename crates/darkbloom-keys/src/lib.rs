//! Where a long-lived signing key lives.
//!
//! Owns loading and creating identity keys, and nothing else: what a signature means is `darkbloom-wire`'s and
//! `darkbloom-attest`'s. It must never make a new identity because an old one could not be read: only "not found" creates.
//! Providers and coordinators depend on it.

#![forbid(unsafe_code)]

mod availability;
mod durable;
mod enclave;
mod identity;
mod record;
mod rotation;
mod software;
mod tpm;

pub use availability::{Availability, Check, availability};
pub use darkbloom_enclave::{ACCESS_GROUP, EnclaveError, KeychainError};
pub use enclave::{AccessGroup, Enclave, EnclaveKey, EnclaveKeyError};
pub use identity::{Home, Identity, IdentityError, KeyConfig, PassedOver, delete};
pub use rotation::{Unsettled, go_back, reopen, rotate, settle, successions, unsettled};
pub use software::{KeySecret, SoftwareKey, SoftwareKeyError};
pub use tpm::{
    BOOT_LOG, BootLogError, Endorsement, Origin, TPM_DEVICE, TpmAttestation, TpmError, TpmKey, TpmKeyError, boot_log,
    delete as delete_tpm_key, parse_boot_log,
};

use darkbloom_wire::{PublicKey, Signer};

/// What backs a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHome {
    /// A file that its owner can copy: `self_signed` at most.
    SoftwareFile,
    /// A file that is sealed under a secret: `self_signed` at most, since its owner can copy both.
    SealedFile,
    /// This process's memory: a new identity for each run.
    SoftwareMemory,
    /// A TPM 2.0, which it cannot leave.
    Tpm,
    /// Apple's Secure Enclave, which it cannot leave.
    SecureEnclave,
}

impl KeyHome {
    /// The name in machine-readable output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SoftwareFile => "software_file",
            Self::SealedFile => "software_file_sealed",
            Self::SoftwareMemory => "software_memory",
            Self::Tpm => "tpm",
            Self::SecureEnclave => "secure_enclave",
        }
    }

    /// One phrase for a person.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::SoftwareFile => "software key in a file; whoever can read the file can copy it",
            Self::SealedFile => "software key in an encrypted file; whoever can read it and its secret can copy it",
            Self::SoftwareMemory => "software key in memory; gone when the process ends",
            Self::Tpm => "key in the machine's TPM; it cannot be copied",
            Self::SecureEnclave => "key in the machine's Secure Enclave; it cannot be copied",
        }
    }
}

/// A long-lived P-256 key that signs statements and challenges: rarely, and never on a request's path.
pub trait IdentityKey: Signer + Send + Sync {
    /// The public key as an uncompressed SEC 1 point.
    fn public_point(&self) -> [u8; 65];
    /// What backs it.
    fn home(&self) -> KeyHome;
    /// The public key, to verify with.
    fn public_key(&self) -> PublicKey {
        PublicKey::P256(self.public_point())
    }
}
