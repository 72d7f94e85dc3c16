//! A key in a TPM 2.0: it cannot leave the device, and the device says so.
//!
//! Two primary keys on P-256 in the owner's hierarchy, made persistent: the identity key, which signs statements and
//! challenges, and a restricted attestation key, which signs only what the TPM itself says. A primary key is derived from
//! the hierarchy's seed and a salt, and the record beside the provider's other files keeps the salt. So a crash between any
//! two steps loses nothing: the same key is derived again. A key that gets another handle has it in the record first, so that
//! no copy is left that nobody knows of. A record without its TPM is worth nothing to anybody.
//!
//! ```text
//!                no record                 record written, then both keys made persistent
//! (start) ──────────────────▶ derive ─────────────────────────────────────────────────────▶ use
//!    │ record                                                                                 ▲
//!    └──────▶ at their handles? ─yes──────────────────────────────────────────────────────────┤
//!                    │ no, or another's                                                       │
//!                    └──────▶ derive again: the same points? ─yes─▶ make persistent again ────┘
//!                                         └─no─▶ error: the TPM was cleared, or is another
//! ```

mod boot_log;
mod commands;
mod device;
mod endorsement;
mod record;

use std::io;
use std::path::{Path, PathBuf};

use darkbloom_types::armed;
use darkbloom_wire::{Algorithm, Pcr, SignError, Signer};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use sha2::{Digest as _, Sha256};
use tpm2_protocol::data::{TpmRh, TpmtPublic};

use crate::durable;
use crate::{IdentityKey, KeyHome};
pub use boot_log::{BOOT_LOG, BootLogError, boot_log, parse_boot_log};
use commands::{Handle, point, public_bytes, signing_template};
use device::Device;
pub use device::TpmError;
use endorsement::EndorsementKind;
use record::{Known, Record as _, TpmRecord};

/// The kernel's TPM with its resource manager.
pub const TPM_DEVICE: &str = "/dev/tpmrm0";
/// Persistent handles of the owner that are tried for keys, in a range that no registry of the TCG gives to others.
const HANDLES: std::ops::Range<Handle> = 0x8102_db00..0x8102_db40;
/// Where makers keep certificates between that one and their root (section 2.2.1.5): each may hold several.
const CHAIN_INDICES: std::ops::Range<Handle> = 0x01c0_0100..0x01c0_0108;
/// Registers that are quoted: all that firmware, loader and operating system extend.
const QUOTED: std::ops::Range<u32> = 0..16;
/// How often registers are read and quoted again when one was extended in between, as the kernel's measurements do.
const QUOTES_MAX: usize = 8;
/// What is signed to see that a key works.
const SELF_TEST: &[u8] = b"darkbloom/v1/key-self-test";

/// Why there is no key. None of these makes a new identity.
#[derive(Debug, thiserror::Error)]
pub enum TpmKeyError {
    /// The TPM failed.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The record cannot be read or written.
    #[error("the record of the TPM's keys {path} cannot be read or written", path = .path.display())]
    Record {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no record, or damaged.
    #[error("{path} is no record of a TPM's keys, or is damaged", path = .path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
    },
    /// The TPM derives other keys than those of the record.
    #[error("the keys of {path} are not this TPM's: it was cleared, or the record is from another machine", path = .path.display())]
    OtherTpm {
        /// Where the record is.
        path: PathBuf,
    },
    /// They are not where the record says, and whoever only looks makes nothing.
    #[error("the keys of {path} are not at their handles in the TPM", path = .path.display())]
    NotThere {
        /// Where the record is.
        path: PathBuf,
    },
    /// Its maker certified no endorsement key of a kind that is known here.
    #[error("the TPM has no certificate of its maker")]
    NoEndorsement,
    /// All handles are taken.
    #[error("the TPM has no persistent handle left for this program's keys")]
    NoHandle,
    /// A new key does not do what it was made for.
    #[error("the TPM's signature does not verify")]
    SelfTest,
    /// The system's randomness failed.
    #[error("the system gave no randomness")]
    Randomness,
    /// Registers changed all the time.
    #[error("the TPM's registers changed each time that they were quoted")]
    Unsteady,
}

impl TpmKeyError {
    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Tpm(error) => error.next_step(),
            Self::Record { .. } => "check the folder's permissions and the room on its disk",
            Self::Damaged { .. } => "restore it from a backup, or run `darkbloom key delete` to begin a new identity",
            Self::OtherTpm { .. } => {
                "bring the record back to its machine, or run `darkbloom key delete` to begin a new identity"
            }
            Self::NotThere { .. } => "run `darkbloom start`, which derives them again",
            Self::NoEndorsement => {
                "ask the machine's maker: without a certificate nobody can tell that the TPM is genuine"
            }
            Self::NoHandle => "remove keys that nobody needs with `darkbloom key delete` or `tpm2_evictcontrol`",
            Self::SelfTest => "check the TPM's firmware: `darkbloom doctor keys` shows which it is",
            Self::Randomness => "check the system's log",
            Self::Unsteady => "wait until the machine has less to do, and try again",
        }
    }
}

/// Whether a key was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was.
    Loaded,
    /// It was made.
    Created,
    /// Its record was there, and it was derived again and made persistent.
    Restored,
}

/// What a TPM says about its keys and its machine, for one nonce.
#[derive(Debug, Clone)]
pub struct TpmAttestation {
    /// `TPMS_ATTEST` that the identity key is in the TPM.
    pub certified: Vec<u8>,
    /// The attestation key's signature, r ‖ s.
    pub certified_signature: [u8; 64],
    /// `TPMS_ATTEST` of the registers.
    pub quoted: Vec<u8>,
    /// The attestation key's signature, r ‖ s.
    pub quoted_signature: [u8; 64],
    /// The registers.
    pub pcrs: Vec<Pcr>,
}

/// The certificate of an endorsement key, in DER, and those that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// The key's own.
    pub certificate: Vec<u8>,
    /// Others, in the order in which the TPM has them.
    pub chain: Vec<Vec<u8>>,
}

/// A P-256 key in a TPM. The device is opened for each use, so that several programs can share one.
pub struct TpmKey {
    device: PathBuf,
    path: PathBuf,
    record: TpmRecord,
}

impl TpmKey {
    /// The key that this record is about; created only when there is no record. With `pcrs`, a new key signs only while
    /// these registers have the values that they have now.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn load_or_create(device: &Path, record: &Path, pcrs: &[u32]) -> Result<(Self, Origin), TpmKeyError> {
        let mut tpm = Device::open(device)?;
        let (found, origin) = match TpmRecord::load(record)? {
            Some(found) => restore(&mut tpm, record, found)?,
            None => create(&mut tpm, record, pcrs)?,
        };
        let key = Self { device: device.to_owned(), path: record.to_owned(), record: found };
        key.self_test(&mut tpm)?;
        Ok((key, origin))
    }

    /// The key that this record is about, where it is and as it is: nothing is made, and nothing made persistent.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn look(device: &Path, record: &Path) -> Result<Self, TpmKeyError> {
        let found = TpmRecord::load(record)?.ok_or_else(|| missing(record))?;
        let mut tpm = Device::open(device)?;
        for restricted in [false, true] {
            let known = found.key(restricted);
            if point_at(&mut tpm, known.handle)? != Some(known.point) {
                tpm.with_primary(TpmRh::Owner, found.template(restricted), |_, _, public| {
                    of_this_tpm(public, known, record)
                })?;
                return Err(TpmKeyError::NotThere { path: record.to_owned() });
            }
        }
        let key = Self { device: device.to_owned(), path: record.to_owned(), record: found };
        key.self_test(&mut tpm)?;
        Ok(key)
    }

    /// Signs, and sees that the signature is this key's.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn test(&self) -> Result<(), TpmKeyError> {
        self.self_test(&mut Device::open(&self.device)?)
    }

    fn self_test(&self, tpm: &mut Device) -> Result<(), TpmKeyError> {
        let digest: [u8; 32] = Sha256::digest(SELF_TEST).into();
        let signature = self.sign_digest(tpm, &digest)?;
        if armed!("tpm_record") { verify_self_test(&self.record.identity.point, &digest, &signature) } else { Ok(()) }
    }

    fn sign_digest(&self, tpm: &mut Device, digest: &[u8; 32]) -> Result<[u8; 64], TpmError> {
        let pcrs = self.record.policy.as_ref().map_or(&[][..], |(pcrs, _)| pcrs);
        tpm.sign(self.record.identity.handle, digest, pcrs)
    }

    /// The registers that the key is bound to; none when it signs whatever was booted.
    #[must_use]
    pub fn bound_to(&self) -> &[u32] {
        self.record.policy.as_ref().map_or(&[], |(pcrs, _)| pcrs)
    }

    /// The `TPMT_PUBLIC` of the identity key and of the attestation key.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn public_areas(&self) -> Result<(Vec<u8>, Vec<u8>), TpmKeyError> {
        let mut tpm = Device::open(&self.device)?;
        let mut area = |known: &Known| match tpm.public(known.handle)? {
            Some(public) if point(&public) == Some(known.point) => Ok(public_bytes(&public)),
            _ => Err(TpmKeyError::OtherTpm { path: self.path.clone() }),
        };
        Ok((area(&self.record.identity)?, area(&self.record.attestation)?))
    }

    /// What the TPM says about the identity key and the machine, with this nonce in it.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn attest(&self, nonce: &[u8; 32]) -> Result<TpmAttestation, TpmKeyError> {
        let mut tpm = Device::open(&self.device)?;
        let (identity, attestation) = (self.record.identity.handle, self.record.attestation.handle);
        let certified = tpm.certify(identity, attestation, nonce)?;
        let registers: Vec<u32> = QUOTED.collect();
        for _ in 0..QUOTES_MAX {
            let before = tpm.pcrs(&registers)?;
            let quoted = tpm.quote(attestation, nonce, &registers)?;
            if tpm.pcrs(&registers)? == before {
                return Ok(TpmAttestation {
                    certified: certified.bytes,
                    certified_signature: certified.signature,
                    quoted: quoted.bytes,
                    quoted_signature: quoted.signature,
                    pcrs: before.into_iter().map(|(index, value)| Pcr { index, value }).collect(),
                });
            }
        }
        Err(TpmKeyError::Unsteady)
    }

    /// What the maker certified about an endorsement key; nothing when it left no certificate.
    ///
    /// # Errors
    /// [`TpmKeyError`].
    pub fn endorsement(&self) -> Result<Option<Endorsement>, TpmKeyError> {
        let mut tpm = Device::open(&self.device)?;
        let Some((_, certificate)) = certified(&mut tpm)? else { return Ok(None) };
        let mut chain = Vec::new();
        for index in CHAIN_INDICES {
            let Some(contents) = tpm.index(index)? else { continue };
            let mut rest = &contents[..];
            while let Some((certificate, after)) = der(rest) {
                chain.push(certificate.to_vec());
                rest = after;
            }
        }
        Ok(Some(Endorsement { certificate, chain }))
    }

    /// Opens an activator's credential, which shows it that the attestation key and the endorsement key are in one TPM.
    ///
    /// # Errors
    /// [`TpmKeyError`]: also for a credential that is meant for other keys.
    pub fn activate(&self, credential: &[u8], seed: &[u8]) -> Result<Vec<u8>, TpmKeyError> {
        let mut tpm = Device::open(&self.device)?;
        let attestation = self.record.attestation.handle;
        let (kind, _) = certified(&mut tpm)?.ok_or(TpmKeyError::NoEndorsement)?;
        if let Some(endorsement) = kind.handle()
            && tpm.public(endorsement)?.is_some_and(|public| kind.is_of(&public))
        {
            return Ok(tpm.activate(attestation, endorsement, kind.needs_policy(), credential, seed)?);
        }
        tpm.with_primary(TpmRh::Endorsement, kind.template(), |tpm, endorsement, _| {
            Ok(tpm.activate(attestation, endorsement, kind.needs_policy(), credential, seed)?)
        })
    }
}

/// The public point of a record's identity key.
pub(crate) fn point_of_record(path: &Path) -> Result<[u8; 65], TpmKeyError> {
    TpmRecord::load(path)?.map(|record| record.identity.point).ok_or_else(|| missing(path))
}

fn missing(record: &Path) -> TpmKeyError {
    TpmKeyError::Record { path: record.to_owned(), source: io::ErrorKind::NotFound.into() }
}

/// The letters of a TPM's maker and its firmware's version.
pub(crate) fn maker(device: &Path) -> Result<(String, u64), TpmError> {
    Device::open(device)?.maker()
}

/// Has a TPM make a key, sign with it, and forget it.
pub(crate) fn try_tpm(device: &Path) -> Result<(), TpmKeyError> {
    let digest: [u8; 32] = Sha256::digest(SELF_TEST).into();
    let template = signing_template(&salt()?, false, None);
    Device::open(device)?.with_primary(TpmRh::Owner, template, |tpm, handle, public| {
        let signature = tpm.sign(handle, &digest, &[])?;
        verify_self_test(&point(public).ok_or(TpmKeyError::SelfTest)?, &digest, &signature)
    })
}

fn verify_self_test(point: &[u8; 65], digest: &[u8; 32], signature: &[u8; 64]) -> Result<(), TpmKeyError> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point);
    match (key, p256::ecdsa::Signature::from_slice(signature)) {
        (Ok(key), Ok(signature)) if key.verify_prehash(digest, &signature).is_ok() => Ok(()),
        _ => Err(TpmKeyError::SelfTest),
    }
}

/// Removes the keys of a record from the TPM, and the record. What is gone already is no failure.
///
/// # Errors
/// [`TpmKeyError`].
pub fn delete(device: &Path, record: &Path) -> Result<(), TpmKeyError> {
    let found = match TpmRecord::load(record) {
        Ok(Some(found)) => Some(found),
        Ok(None) => return Ok(()),
        // Whoever wants a new identity because its record is damaged must get one.
        Err(TpmKeyError::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    if let Some(found) = found {
        let mut tpm = Device::open(device)?;
        let ours = [&found.identity, &found.attestation];
        // Wherever they are: another's key may have a handle of theirs since, and a copy may be at another one.
        let handles = tpm.persistent(HANDLES.start, HANDLES.end - HANDLES.start)?;
        for handle in handles.into_iter().chain(ours.map(|known| known.handle)) {
            let there = point_at(&mut tpm, handle)?;
            if ours.iter().any(|known| there == Some(known.point)) {
                tpm.evict_control(handle, handle)?;
            }
        }
    }
    durable::remove(record).map_err(|source| TpmKeyError::Record { path: record.to_owned(), source })
}

fn create(tpm: &mut Device, path: &Path, pcrs: &[u32]) -> Result<(TpmRecord, Origin), TpmKeyError> {
    let policy = if pcrs.is_empty() || !armed!("tpm_template_policy") {
        None
    } else {
        Some((pcrs.to_vec(), tpm.policy_of_now(pcrs)?))
    };
    let mut free = free_handles(tpm)?;
    let mut next = || free.next().ok_or(TpmKeyError::NoHandle);
    let identity = derive(tpm, next()?, salt()?, false, policy.as_ref())?;
    let attestation = derive(tpm, next()?, salt()?, true, None)?;
    let record = TpmRecord { identity, attestation, policy };
    // Before anything is persistent: whatever happens from here on, the record finds the keys again.
    if !record.create(path)? {
        let winner = TpmRecord::load(path)?.ok_or_else(|| TpmKeyError::Damaged { path: path.to_owned() })?;
        return Ok((restore(tpm, path, winner)?.0, Origin::Loaded));
    }
    Ok((restore(tpm, path, record)?.0, Origin::Created))
}

/// Sees that both keys are at their handles, and brings them back where they are not.
fn restore(tpm: &mut Device, path: &Path, mut record: TpmRecord) -> Result<(TpmRecord, Origin), TpmKeyError> {
    let mut origin = Origin::Loaded;
    for restricted in [false, true] {
        let known = record.key(restricted).clone();
        let there = tpm.public(known.handle)?;
        if there.as_ref().and_then(point) == Some(known.point) {
            continue;
        }
        origin = Origin::Restored;
        if let Some(handle) = handle_of(tpm, &known.point)? {
            record.key_mut(restricted).handle = handle;
            record.replace(path)?;
            continue;
        }
        // Somebody else's key may have the handle.
        let handle = match there {
            Some(_) => free_handles(tpm)?.next().ok_or(TpmKeyError::NoHandle)?,
            None => known.handle,
        };
        tpm.with_primary(TpmRh::Owner, record.template(restricted), |tpm, loaded, public| {
            of_this_tpm(public, &known, path)?;
            if handle != known.handle {
                // Before the key is there: whatever happens from here on, the record finds it.
                record.key_mut(restricted).handle = handle;
                record.replace(path)?;
            }
            Ok::<_, TpmKeyError>(tpm.evict_control(loaded, handle)?)
        })?;
    }
    Ok((record, origin))
}

/// Whether what was derived is the key of the record.
fn of_this_tpm(public: &TpmtPublic, known: &Known, path: &Path) -> Result<(), TpmKeyError> {
    if armed!("tpm_record") && point(public) != Some(known.point) {
        return Err(TpmKeyError::OtherTpm { path: path.to_owned() });
    }
    Ok(())
}

fn point_at(tpm: &mut Device, handle: Handle) -> Result<Option<[u8; 65]>, TpmError> {
    Ok(tpm.public(handle)?.as_ref().and_then(point))
}

/// Where a key is, among the handles that are tried for keys.
fn handle_of(tpm: &mut Device, key: &[u8; 65]) -> Result<Option<Handle>, TpmError> {
    for handle in tpm.persistent(HANDLES.start, HANDLES.end - HANDLES.start)? {
        if point_at(tpm, handle)?.as_ref() == Some(key) {
            return Ok(Some(handle));
        }
    }
    Ok(None)
}

/// A key that is not made persistent yet.
fn derive(
    tpm: &mut Device,
    handle: Handle,
    salt: [u8; 32],
    restricted: bool,
    policy: Option<&(Vec<u32>, [u8; 32])>,
) -> Result<Known, TpmKeyError> {
    let template = signing_template(&salt, restricted, policy.map(|(_, digest)| digest));
    tpm.with_primary(TpmRh::Owner, template, |_, _, public| {
        let point = point(public).ok_or(TpmKeyError::SelfTest)?;
        Ok(Known { handle, salt, point })
    })
}

fn free_handles(tpm: &mut Device) -> Result<impl Iterator<Item = Handle> + use<>, TpmError> {
    let taken = tpm.persistent(HANDLES.start, HANDLES.end - HANDLES.start)?;
    Ok(HANDLES.filter(move |handle| !taken.contains(handle)))
}

fn salt() -> Result<[u8; 32], TpmKeyError> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|_| TpmKeyError::Randomness)?;
    Ok(salt)
}

/// The first kind of endorsement key that the maker certified, and the certificate.
fn certified(tpm: &mut Device) -> Result<Option<(EndorsementKind, Vec<u8>)>, TpmError> {
    for kind in EndorsementKind::ALL {
        let contents = tpm.index(kind.index())?.unwrap_or_default();
        if let Some((certificate, _)) = der(&contents) {
            return Ok(Some((kind, certificate.to_vec())));
        }
    }
    Ok(None)
}

/// The first DER sequence of some bytes, and what follows it. Indices are often larger than what is in them.
fn der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, length) = match bytes {
        [0x30, 0x82, high, low, ..] => (4, usize::from(*high) << 8 | usize::from(*low)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        _ => return None,
    };
    (bytes.len() >= head + length).then(|| bytes.split_at(head + length))
}

impl Signer for TpmKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Es256
    }
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        let failed = |error: TpmError| SignError(format!("{error}; {}", error.next_step()));
        let mut tpm = Device::open(&self.device).map_err(failed)?;
        self.sign_digest(&mut tpm, &Sha256::digest(message).into()).map_err(failed)
    }
}

impl IdentityKey for TpmKey {
    fn public_point(&self) -> [u8; 65] {
        self.record.identity.point
    }
    fn home(&self) -> KeyHome {
        KeyHome::Tpm
    }
}
