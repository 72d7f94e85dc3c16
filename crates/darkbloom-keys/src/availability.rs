//! Whether a home can have a key: what `darkbloom doctor keys` shows.

use std::path::Path;

use crate::tpm::{TpmError, TpmKey, TpmKeyError, maker as tpm_maker, try_tpm};
use crate::{
    EnclaveKey, EnclaveKeyError, Home, IdentityKey as _, KeyConfig, KeyHome, KeychainError, SoftwareKey,
    SoftwareKeyError,
};

/// Whether something is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It is.
    Yes(String),
    /// It is not.
    No {
        /// Why.
        reason: String,
        /// What to do about it.
        next_step: &'static str,
    },
    /// What it depends on is not.
    NotAsked,
}

/// Whether a home can have a key: three things that fail for different reasons and are mended in different places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Availability {
    /// Which home.
    pub home: Home,
    /// Whether the machine has what it takes.
    pub hardware: Check,
    /// Whether this program may use it.
    pub entitled: Check,
    /// Whether a key there signs now.
    pub usable: Check,
}

/// Looks whether a home can have a key. Where there is none yet, one is tried that is gone afterwards.
#[must_use]
pub fn availability(home: Home, folder: &Path, config: &KeyConfig) -> Availability {
    match home {
        Home::SecureEnclave => enclave_availability(folder, config),
        Home::Tpm => tpm_availability(folder, config),
        Home::Software => software_availability(folder, config),
    }
}

fn enclave_availability(folder: &Path, config: &KeyConfig) -> Availability {
    let enclave = &config.enclave;
    let no = |error: &EnclaveKeyError| Check::No { reason: error.to_string(), next_step: error.next_step() };
    let found = |hardware, entitled, usable| Availability { home: Home::SecureEnclave, hardware, entitled, usable };
    let tried = enclave.try_it();
    if tried == Err(KeychainError::Absent) {
        return found(no(&KeychainError::Absent.into()), Check::NotAsked, Check::NotAsked);
    }
    let hardware = Check::Yes("a Secure Enclave".to_owned());
    let entitled = enclave.may_be_used();
    if entitled == Err(KeychainError::MissingEntitlement) {
        return found(hardware, no(&KeychainError::MissingEntitlement.into()), Check::NotAsked);
    }
    let signs = entitled.and(tried).map_err(EnclaveKeyError::from).and_then(|()| {
        let made = EnclaveKey::made(enclave, &folder.join(Home::SecureEnclave.file()))?;
        Ok(if made.is_some() { "the identity key signs" } else { "a key that was made for this signed" })
    });
    let usable = signs.map_or_else(|error| no(&error), |what| Check::Yes(what.to_owned()));
    found(hardware, Check::Yes(enclave.group().describe()), usable)
}

fn tpm_availability(folder: &Path, config: &KeyConfig) -> Availability {
    let path = config.tpm.display();
    let no = |error: &TpmKeyError| Check::No { reason: error.to_string(), next_step: error.next_step() };
    let found = |hardware, entitled, usable| Availability { home: Home::Tpm, hardware, entitled, usable };
    match tpm_maker(&config.tpm) {
        Ok((maker, firmware)) => {
            let what = format!("{path}, made by {maker}, firmware {firmware:#x}");
            let record = folder.join(Home::Tpm.file());
            let tried = if record.exists() {
                TpmKey::look(&config.tpm, &record).map(|_| "the identity key signs")
            } else {
                try_tpm(&config.tpm).map(|()| "a key that was made for this signed")
            };
            let usable = tried.map_or_else(|error| no(&error), |what| Check::Yes(what.to_owned()));
            found(Check::Yes(what), Check::Yes("this user may open it".to_owned()), usable)
        }
        Err(error @ TpmError::Denied { .. }) => found(Check::Yes(path.to_string()), no(&error.into()), Check::NotAsked),
        Err(error @ TpmError::Absent { .. }) => found(no(&error.into()), Check::NotAsked, Check::NotAsked),
        Err(error @ (TpmError::Io { .. } | TpmError::Malformed { .. } | TpmError::Refused { .. })) => {
            let entitled = Check::Yes("this user may open it".to_owned());
            found(Check::Yes(path.to_string()), entitled, no(&error.into()))
        }
    }
}

fn software_availability(folder: &Path, config: &KeyConfig) -> Availability {
    let file = folder.join(Home::Software.file());
    let shown = file.display();
    let tried = || {
        // Also where no key is yet: a secret that cannot be used is found out before it is needed.
        let secret = config.key_secret()?;
        if !file.exists() {
            let sealed = if secret.is_some() { ", encrypted" } else { "" };
            return Ok(format!("{shown} would be made{sealed}"));
        }
        let key = SoftwareKey::open_sealed(&file, secret.as_ref())?;
        key.test()?;
        Ok(if key.home() == KeyHome::SealedFile {
            format!("{shown} signs; it is encrypted, and whoever can read it and its secret can copy it")
        } else {
            format!("{shown} signs; whoever can read it can copy it")
        })
    };
    let no = |error: SoftwareKeyError| Check::No { reason: error.to_string(), next_step: error.next_step() };
    let usable = tried().map_or_else(no, Check::Yes);
    let hardware = Check::Yes("none is needed".to_owned());
    Availability { home: Home::Software, hardware, entitled: Check::Yes("nothing is needed".to_owned()), usable }
}
