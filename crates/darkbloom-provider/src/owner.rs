//! What an owner does with the identity of a provider, which must not run meanwhile.

use std::path::Path;

use darkbloom_host::clock;
use darkbloom_keys::{Home, Identity, IdentityError, IdentityKey as _, KeyConfig, delete, go_back, rotate};
use darkbloom_store::ReceiptOutbox;
use darkbloom_types::ProviderId;

use crate::{OUTBOX_FILE, StartError};

/// A rotated identity.
pub struct Rotated {
    /// What it took over from, or went back from.
    pub before: ProviderId,
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
    let old = Identity::existing(data, config)?.ok_or_else(|| IdentityError::None(data.to_owned()))?;
    let (before, home) = (ProviderId::of_public_key(&old.public_point()), home.unwrap_or_else(|| old.where_made()));
    drop(old);
    Ok(Rotated { before, identity: rotate(data, config, home, clock::now())? })
}

/// Makes the key from before a rotation the identity of a folder again, as long as the coordinator has not accepted the newer
/// one.
///
/// # Errors
/// [`StartError::Outbox`] while a provider runs there; [`StartError::Key`].
pub fn go_back_key(data: &Path, config: &KeyConfig) -> Result<Rotated, StartError> {
    let _held = hold(data)?;
    let newer = Identity::existing(data, config)?.ok_or_else(|| IdentityError::None(data.to_owned()))?;
    let before = ProviderId::of_public_key(&newer.public_point());
    drop(newer);
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

/// Holds a folder as a running provider does; nothing where there is no folder.
fn hold(data: &Path) -> Result<Option<impl Sized + use<>>, StartError> {
    if data.exists() { Ok(Some(ReceiptOutbox::hold(&data.join(OUTBOX_FILE))?)) } else { Ok(None) }
}
