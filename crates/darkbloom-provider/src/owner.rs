//! What an owner does with the identity of a provider, which must not run meanwhile.

use std::path::{Path, PathBuf};

use darkbloom_host::clock;
use darkbloom_keys::{
    Home, Identity, IdentityError, IdentityKey as _, KeyConfig, KeySecret, SoftwareKey, delete, go_back, reopen, rotate,
};
use darkbloom_store::ReceiptOutbox;
use darkbloom_types::ProviderId;

use crate::{OUTBOX_FILE, StartError};

/// A rotated identity.
pub struct Rotated {
    /// What it took over from, or went back from; nothing where that key cannot be asked any more.
    pub before: Option<ProviderId>,
    /// What it is now.
    pub identity: Identity,
}

/// Has a new key, in this home or where the old one is, take over from the identity in a folder. The old key stays until the
/// coordinator has accepted the new one.
///
/// # Errors
/// [`StartError::Outbox`] while a provider runs there; [`StartError::Key`].
pub fn rotate_key(data: &Path, config: &KeyConfig, home: Option<Home>) -> Result<Rotated, StartError> {
    let _held = hold(data)?;
    let old = reopen(data, config)?.ok_or_else(|| IdentityError::None(data.to_owned()))?;
    let (before, home) = (ProviderId::of_public_key(&old.public_point()), home.unwrap_or_else(|| old.where_made()));
    drop(old);
    Ok(Rotated { before: Some(before), identity: rotate(data, config, home, clock::now())? })
}

/// Makes the key from before a rotation the identity of a folder again, as long as the coordinator has not accepted the newer
/// one.
///
/// # Errors
/// [`StartError::Outbox`] while a provider runs there; [`StartError::Key`].
pub fn go_back_key(data: &Path, config: &KeyConfig) -> Result<Rotated, StartError> {
    let _held = hold(data)?;
    // It may be why somebody goes back that the newer key cannot be used.
    let newer = Identity::existing(data, config).ok().flatten();
    let before = newer.map(|newer| ProviderId::of_public_key(&newer.public_point()));
    Ok(Rotated { before, identity: go_back(data, config)? })
}

/// Removes the identity in a folder; one that is gone already is no failure.
///
/// # Errors
/// [`StartError::Outbox`] while a provider runs there; [`StartError::Key`].
pub fn delete_key(data: &Path, config: &KeyConfig) -> Result<(), StartError> {
    let _held = hold(data)?;
    Ok(delete(data, config)?)
}

/// Encrypts the keys in the files of a folder that lie in the open, a coordinator's and an activator's too, under this secret;
/// returns which.
///
/// # Errors
/// [`StartError::Outbox`] while a provider runs there; [`StartError::Key`].
pub fn seal_keys(data: &Path, secret: &Path) -> Result<Vec<PathBuf>, StartError> {
    // Only a provider's folder has it, and no other should get it.
    let _held = if data.join(OUTBOX_FILE).exists() { hold(data)? } else { None };
    let sealed = KeySecret::read(secret).and_then(|secret| SoftwareKey::seal_all(data, &secret));
    Ok(sealed.map_err(IdentityError::from)?)
}

/// Holds a folder as a running provider does; nothing where there is no folder.
fn hold(data: &Path) -> Result<Option<impl Sized + use<>>, StartError> {
    if data.exists() { Ok(Some(ReceiptOutbox::hold(&data.join(OUTBOX_FILE))?)) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use darkbloom_keys::IdentityKey as _;

    use super::*;

    #[test]
    fn who_cannot_use_the_newer_key_goes_back_to_the_older() {
        let folder = tempfile::tempdir().unwrap();
        let (data, config) = (folder.path(), KeyConfig::software());
        let (older, _) = Identity::open(data, &config).unwrap();
        let older = older.public_point();
        assert_ne!(rotate_key(data, &config, None).unwrap().identity.public_point(), older);
        std::fs::write(data.join("identity.key"), "no key any more").unwrap();
        assert!(Identity::open(data, &config).is_err());
        let back = go_back_key(data, &config).unwrap();
        assert_eq!((back.before, back.identity.public_point()), (None, older));
        drop(back);
        // What lies there unread is no reason not to start.
        assert_eq!(Identity::open(data, &config).unwrap().0.public_point(), older);
    }

    #[test]
    fn what_lies_beside_the_identity_is_sealed_and_what_a_crash_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let plain = KeyConfig::software();
        drop(Identity::open(data, &plain).unwrap());
        drop(rotate_key(data, &plain, None).unwrap());
        std::fs::write(data.join("identity.draft-00"), "darkbloom-p256-v1 half of a key").unwrap();
        std::fs::write(data.join("secret"), [7; 32]).unwrap();
        let sealed = KeyConfig { secret: Some(data.join("secret")), ..plain };
        assert!(Identity::open(data, &sealed).is_err(), "they may be anybody's");
        assert_eq!(seal_keys(data, sealed.secret.as_ref().unwrap()).unwrap().len(), 2);
        drop(Identity::open(data, &sealed).unwrap());
        for name in ["identity.key", "identity.old.key"] {
            assert!(
                std::fs::read_to_string(data.join(name)).unwrap().starts_with("darkbloom-p256-sealed-v1 "),
                "{name}"
            );
        }
        assert!(!data.join("identity.draft-00").exists());
    }
}
