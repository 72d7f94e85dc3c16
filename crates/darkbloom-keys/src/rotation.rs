//! Rotation: the old key signs that a new one has its place, and stays until the coordinator has accepted that.
//!
//! A rotation is a few files, so that a crash at any point leaves the old identity or the new one, and never neither:
//!
//! ```text
//! identity.*        the identity
//! identity.next.*   the new key, made first; or one that the owner went back from
//! successions       the old key's word about it: from here on the rotation happens
//! identity.old.*    the old key, until the coordinator has accepted the new one
//! identity.back.*   the old key, when the owner goes back to it
//! identity.gone.*   a key that is nobody's any more and is to be destroyed
//!
//!                 a word                              accepted
//! current, next ─────────▶ (steps) ─▶ current, old ────────────▶ current, gone ─▶ current
//!       ▲  │                               │                           ▲
//!       │  └───────────────────────────────┼───────────────────────────┘ accepted
//!       └──────────── (steps) ◀────────────┘ back
//! ```
//!
//! No key is destroyed before the coordinator has accepted another: one that refuses the new key may take the old one still,
//! and one whose word for the new key was lost takes that. Whoever has the folder for itself next, a start or another
//! rotation, takes the steps that a crash has left. Who only looks sees the identity that this will leave.

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
    Back,
    Gone,
}

impl Place {
    const ALL: [Self; 5] = [Self::Next, Self::Old, Self::Back, Self::Gone, Self::Current];
}

/// The other key of a rotation that no coordinator has accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// The identity is the newer one, and the older key is still there.
    Older,
    /// The identity is the older one, and the newer key is still there.
    Newer,
}

fn file(folder: &Path, place: Place, home: Home) -> PathBuf {
    let name = home.file();
    folder.join(match place {
        Place::Current => name.to_owned(),
        Place::Next => name.replace("identity.", "identity.next."),
        Place::Old => name.replace("identity.", "identity.old."),
        Place::Back => name.replace("identity.", "identity.back."),
        Place::Gone => name.replace("identity.", "identity.gone."),
    })
}

/// What lies in a place, in whichever homes.
fn lying(folder: &Path, place: Place) -> Result<Vec<(Home, PathBuf)>, IdentityError> {
    let mut found = Vec::new();
    for home in Home::ALL {
        let path = file(folder, place, home);
        if is_there(&path)? {
            found.push((home, path));
        }
    }
    Ok(found)
}

/// Makes a new key in this home and has the identity's key sign that it has its place. The old key stays until [`settle`], for
/// [`go_back`]. A new key that the owner went back from takes its turn again. Returns the new identity.
///
/// # Errors
/// [`IdentityError`]; then the identity is the old one, or the rotation is finished when the folder is opened next.
pub fn rotate(folder: &Path, config: &KeyConfig, home: Home, now: UnixMillis) -> Result<Identity, IdentityError> {
    finish(folder, config)?;
    let old = Identity::opened(folder, config)?.ok_or(IdentityError::None(folder.to_owned()))?;
    if !config.homes.contains(&home) {
        return Err(IdentityError::HomeNotAllowed(home));
    }
    // Another new key would take the place of one that a coordinator may have accepted.
    let elsewhere = lying(folder, Place::Next)?.into_iter().any(|(other, _)| other != home);
    if elsewhere || !lying(folder, Place::Old)?.is_empty() {
        return Err(IdentityError::Unsettled);
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
    Identity::opened(folder, config)?.ok_or(IdentityError::None(folder.to_owned()))
}

/// The identity in a folder, as a start would find it: with the steps that a crash has left taken. To be called by whoever has
/// the folder for itself.
///
/// # Errors
/// [`IdentityError`].
pub fn reopen(folder: &Path, config: &KeyConfig) -> Result<Option<Identity>, IdentityError> {
    finish(folder, config)?;
    Identity::opened(folder, config)
}

/// Makes the key from before a rotation the identity again. The newer one stays until [`settle`]: another [`rotate`] goes on to
/// it. Returns the older identity.
///
/// # Errors
/// [`IdentityError`]; also where the coordinator has accepted the newer key. Then the identity is that one, or the older when
/// the folder is opened next.
pub fn go_back(folder: &Path, config: &KeyConfig) -> Result<Identity, IdentityError> {
    finish(folder, config)?;
    let Some((home, old)) = lying(folder, Place::Old)?.pop() else {
        return Err(IdentityError::NoneBefore(folder.to_owned()));
    };
    // Nobody goes back to a key that cannot be used.
    if !config.homes.contains(&home) {
        return Err(IdentityError::NotAllowed(home));
    }
    drop(Identity::open_in(home, &old, config)?);
    rename(&old, &file(folder, Place::Back, home))?;
    finish(folder, config)?;
    Identity::opened(folder, config)?.ok_or(IdentityError::None(folder.to_owned()))
}

/// Destroys the other key of a rotation, now that a coordinator has accepted the identity. To be called by whoever has the
/// folder for itself.
///
/// # Errors
/// [`IdentityError`]; then the other key is there still, or is destroyed when the folder is opened next.
pub fn settle(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    // Somebody may have removed what was accepted.
    if lying(folder, Place::Current)?.is_empty() {
        return Ok(());
    }
    for place in [Place::Old, Place::Next] {
        for (home, path) in lying(folder, place)? {
            retire(folder, &path, home, config)?;
        }
    }
    bury(folder, config)
}

/// Whether there is another key than the identity's, until a coordinator has accepted that.
///
/// # Errors
/// [`IdentityError`] when the folder cannot be looked at.
pub fn unsettled(folder: &Path) -> Result<Option<Unsettled>, IdentityError> {
    for (place, which) in [(Place::Old, Unsettled::Older), (Place::Next, Unsettled::Newer)] {
        if !lying(folder, place)?.is_empty() {
            return Ok(Some(which));
        }
    }
    Ok(None)
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

/// Where the identity is that [`finish`] will leave; several where there are records of several.
pub(crate) fn identities(folder: &Path, config: &KeyConfig) -> Result<Vec<(Home, PathBuf)>, IdentityError> {
    let back = lying(folder, Place::Back)?;
    if !back.is_empty() {
        return Ok(back);
    }
    if let Some(heir) = spoken_for(folder, config)? {
        return Ok(vec![heir]);
    }
    let current = lying(folder, Place::Current)?;
    if current.is_empty() { lying(folder, Place::Old) } else { Ok(current) }
}

/// The next key, if the identity's has spoken for it: it is the identity already, under another name.
fn spoken_for(folder: &Path, config: &KeyConfig) -> Result<Option<(Home, PathBuf)>, IdentityError> {
    let next = lying(folder, Place::Next)?;
    let Some((_, last)) = written(folder)?.pop().filter(|_| !next.is_empty()) else { return Ok(None) };
    // A word whose heir is here already is about no other: a key that has no say need not be readable.
    for (home, current) in lying(folder, Place::Current)? {
        if point(&current, home, config)? == Some(last.new) {
            return Ok(None);
        }
    }
    for (home, next) in next {
        if point(&next, home, config)? == Some(last.new) {
            return Ok(Some((home, next)));
        }
    }
    Ok(None)
}

/// Takes the steps that a crash has left of a rotation, or of going back from one. To be called by whoever has the folder for
/// itself.
pub(crate) fn finish(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    if let Some((home, back)) = lying(folder, Place::Back)?.pop() {
        take_back_word(folder, point(&back, home, config)?)?;
        for (home, current) in lying(folder, Place::Current)? {
            rename(&current, &file(folder, Place::Next, home))?;
        }
        rename(&back, &file(folder, Place::Current, home))?;
    } else if let Some((home, next)) = spoken_for(folder, config)? {
        for (home, current) in lying(folder, Place::Current)? {
            rename(&current, &file(folder, Place::Old, home))?;
        }
        rename(&next, &file(folder, Place::Current, home))?;
    }
    if lying(folder, Place::Current)?.is_empty() {
        // Somebody removed what was to be in its place.
        for (home, old) in lying(folder, Place::Old)? {
            rename(&old, &file(folder, Place::Current, home))?;
        }
    }
    tidy(folder);
    bury(folder, config)
}

/// Removes drafts that a crash has left: a key file's has a key. What cannot be done now keeps nobody from starting.
fn tidy(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("identity.") && name.contains(".draft-")) {
            let _ = durable::remove(&entry.path());
        }
    }
}

/// Forgets what an identity said about an heir, since it is the identity again.
fn take_back_word(folder: &Path, identity: Option<[u8; 65]>) -> Result<(), IdentityError> {
    let mut words = written(folder)?;
    let before = words.len();
    while words.last().is_some_and(|(_, succession)| Some(succession.old) == identity) {
        words.pop();
    }
    if words.is_empty() {
        return forget_words(folder);
    }
    if words.len() == before {
        return Ok(());
    }
    keep(folder, &words.into_iter().map(|(word, _)| word).collect::<Vec<_>>())
}

fn forget_words(folder: &Path) -> Result<(), IdentityError> {
    let path = folder.join(SUCCESSIONS_FILE);
    durable::remove(&path).map_err(|source| IdentityError::Successions { path, source })
}

/// Gives a key the name of what is to be destroyed: from here on nobody goes back to it. One that waits for that already, as in
/// a TPM that is away, is never forgotten for another: then this one stays what it was.
fn retire(folder: &Path, path: &Path, home: Home, config: &KeyConfig) -> Result<(), IdentityError> {
    let gone = file(folder, Place::Gone, home);
    if is_there(&gone)? {
        leftover(&gone, home, config)?;
    }
    if is_there(&gone)? { Ok(()) } else { rename(path, &gone) }
}

/// Destroys what is to be destroyed.
fn bury(folder: &Path, config: &KeyConfig) -> Result<(), IdentityError> {
    for (home, gone) in lying(folder, Place::Gone)? {
        leftover(&gone, home, config)?;
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
        for place in Place::ALL {
            destroy(&file(folder, place, home), home, config)?;
        }
    }
    forget_words(folder)
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
