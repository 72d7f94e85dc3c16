//! Rotation: the old key signs that a new one has its place.
//!
//! A rotation is a few files, so that a crash at any point leaves the old identity or the new one, and never neither:
//!
//! ```text
//! identity.*        the identity
//! identity.next.*   the new key, made first
//! successions       the old key's word about it: from here on the rotation happens
//! identity.old.*    the old key, which gave its name to the new one and is to be destroyed
//! ```
//!
//! Whoever has the folder for itself next, a start or another rotation, takes the rest of the steps, or takes back a key that
//! nobody has spoken for. Who only looks sees the identity that this will leave.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use darkbloom_types::UnixMillis;
use darkbloom_wire::{Succession, limits};

use crate::enclave::{delete as delete_enclave_key, point_of_record as point_in_enclave};
use crate::identity::{Home, IdentityError, KeyConfig, is_there};
use crate::tpm::{TpmKey, TpmKeyError, delete as delete_tpm_key, point_of_record as point_in_tpm};
use crate::{
    EnclaveError, EnclaveKey, EnclaveKeyError, Identity, IdentityKey as _, SoftwareKey, SoftwareKeyError, durable,
};

/// The words of earlier identities, a line each in hexadecimal digits, the last one last.
const SUCCESSIONS_FILE: &str = "successions";
/// Longest such file: more lines than a statement takes are not kept.
const SUCCESSIONS_BYTES_MAX: u64 = 2 * (limits::SUCCESSIONS_MAX * (limits::SUCCESSION_BYTES_MAX + 1)) as u64;

/// What a key in a folder is for.
#[derive(Clone, Copy)]
enum Place {
    Current,
    Next,
    Old,
}

fn file(folder: &Path, place: Place, home: Home) -> PathBuf {
    let name = home.file();
    folder.join(match place {
        Place::Current => name.to_owned(),
        Place::Next => name.replace("identity.", "identity.next."),
        Place::Old => name.replace("identity.", "identity.old."),
    })
}

/// Makes a new key in this home, has the identity's key sign that it has its place, and destroys the old one. Returns the new
/// identity.
///
/// # Errors
/// [`IdentityError`]; then the identity is the old one, or the rotation is finished when the folder is opened next.
pub fn rotate(folder: &Path, config: &KeyConfig, home: Home, now: UnixMillis) -> Result<Identity, IdentityError> {
    finish(folder, config)?;
    let old = Identity::existing(folder, config)?.ok_or(IdentityError::None(folder.to_owned()))?;
    if !config.homes.contains(&home) {
        return Err(IdentityError::HomeNotAllowed(home));
    }
    let next = file(folder, Place::Next, home);
    let new = match home {
        Home::SecureEnclave => EnclaveKey::load_or_create_anew(&config.enclave, &next)?.public_point(),
        Home::Tpm => TpmKey::load_or_create(&config.tpm, &next, &config.pcrs)?.0.public_point(),
        Home::Software => SoftwareKey::load_or_create_sealed(&next, config.key_secret()?.as_ref())?.public_point(),
    };
    let succession = Succession { old: old.public_point(), new, at: now };
    let signed = succession.sign(&old).map_err(IdentityError::Sign)?;
    drop(old);
    let mut words = successions(folder, &succession.old)?;
    words.push(signed);
    words.drain(..words.len().saturating_sub(limits::SUCCESSIONS_MAX));
    keep(folder, &words)?;
    finish(folder, config)?;
    Identity::existing(folder, config)?.ok_or(IdentityError::None(folder.to_owned()))
}

/// The words of the identities that this one took over from, the last one last. What the folder has of others, as it was when
/// an identity was removed by hand, is none.
///
/// # Errors
/// [`IdentityError::Successions`] when there are some and they cannot be read.
pub fn successions(folder: &Path, identity: &[u8; 65]) -> Result<Vec<Vec<u8>>, IdentityError> {
    let mut heir = *identity;
    let mut words: Vec<_> = written(folder)?
        .into_iter()
        .rev()
        .map_while(|(word, succession)| {
            let follows = succession.new == heir;
            heir = succession.old;
            follows.then_some(word)
        })
        .collect();
    words.reverse();
    Ok(words)
}

fn written(folder: &Path) -> Result<Vec<(Vec<u8>, Succession)>, IdentityError> {
    let path = folder.join(SUCCESSIONS_FILE);
    let failed = |source| IdentityError::Successions { path: path.clone(), source };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.len() > SUCCESSIONS_BYTES_MAX => {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is too large")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    }
    let damaged = || failed(io::Error::new(io::ErrorKind::InvalidData, "it holds no signed successions"));
    let text = fs::read_to_string(&path).map_err(failed)?;
    let words = text.lines().map(|line| {
        let word = hex::decode(line).map_err(|_| damaged())?;
        let succession = Succession::open_self_signed(&word).map_err(|_| damaged())?;
        Ok((word, succession))
    });
    words.collect()
}

fn keep(folder: &Path, words: &[Vec<u8>]) -> Result<(), IdentityError> {
    let path = folder.join(SUCCESSIONS_FILE);
    let text: String = words.iter().map(|word| format!("{}\n", hex::encode(word))).collect();
    durable::replace(&path, text.as_bytes()).map_err(|source| IdentityError::Successions { path, source })
}

/// The next key, if the identity's has spoken for it: it is the identity already, under another name.
pub(crate) fn spoken_for(folder: &Path, config: &KeyConfig) -> Result<Option<(Home, PathBuf)>, IdentityError> {
    for home in Home::ALL {
        let next = file(folder, Place::Next, home);
        if is_there(&next)? {
            let heir = written(folder)?.pop().map(|(_, succession)| succession.new);
            if heir.is_some() && heir == point(&next, home, config)? {
                return Ok(Some((home, next)));
            }
        }
    }
    Ok(None)
}

/// Takes the steps that a crash has left of a rotation. To be called by whoever has the folder for itself.
pub(crate) fn finish(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    let heir = spoken_for(folder, config)?;
    for home in Home::ALL {
        let next = file(folder, Place::Next, home);
        if !is_there(&next)? {
            continue;
        }
        if heir.as_ref().is_none_or(|(_, path)| *path != next) {
            leftover(&next, home, config)?;
            continue;
        }
        for home in Home::ALL {
            let current = file(folder, Place::Current, home);
            if is_there(&current)? {
                rename(&current, &file(folder, Place::Old, home))?;
            }
        }
        rename(&next, &file(folder, Place::Current, home))?;
    }
    let mut has_current = false;
    for home in Home::ALL {
        has_current |= is_there(&file(folder, Place::Current, home))?;
    }
    for home in Home::ALL {
        let old = file(folder, Place::Old, home);
        if !is_there(&old)? {
            continue;
        }
        if has_current {
            leftover(&old, home, config)?;
        } else {
            // Somebody removed what was to be in its place.
            rename(&old, &file(folder, Place::Current, home))?;
        }
    }
    Ok(())
}

/// Removes a key that is nobody's any more. One in a TPM that is away, or in a keychain that does not answer, stays until that
/// is back: the identity is elsewhere.
fn leftover(path: &Path, home: Home, config: &KeyConfig) -> Result<(), IdentityError> {
    match destroy(path, home, config) {
        Err(
            IdentityError::Tpm(TpmKeyError::Tpm(_))
            | IdentityError::Enclave(EnclaveKeyError::Enclave(EnclaveError::Keychain(_))),
        ) => Ok(()),
        other => other,
    }
}

/// Removes everything of an identity.
pub(crate) fn forget(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    for home in Home::ALL {
        for place in [Place::Next, Place::Old, Place::Current] {
            destroy(&file(folder, place, home), home, config)?;
        }
    }
    let path = folder.join(SUCCESSIONS_FILE);
    durable::remove(&path).map_err(|source| IdentityError::Successions { path, source })
}

fn destroy(path: &Path, home: Home, config: &KeyConfig) -> Result<(), IdentityError> {
    match home {
        Home::SecureEnclave => Ok(delete_enclave_key(&config.enclave, path)?),
        Home::Tpm => Ok(delete_tpm_key(&config.tpm, path)?),
        Home::Software => Ok(SoftwareKey::delete(path)?),
    }
}

/// The public key of a file; nothing when it was not made yet. One that cannot be read now is an error: a key must not be
/// destroyed for that.
fn point(path: &Path, home: Home, config: &KeyConfig) -> Result<Option<[u8; 65]>, IdentityError> {
    Ok(match home {
        Home::SecureEnclave => point_in_enclave(path)?,
        Home::Tpm => Some(point_in_tpm(path)?),
        Home::Software => Some(SoftwareKey::open_sealed(path, config.key_secret()?.as_ref())?.public_point()),
    })
}

fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    let failed = |source| SoftwareKeyError::File { action: "rename", path: from.to_owned(), source };
    Ok(durable::rename(from, to).map_err(failed)?)
}
