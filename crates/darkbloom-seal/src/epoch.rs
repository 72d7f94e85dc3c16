//! Epochs: a provider's short-lived keys, their overlap, and what was already opened with them.

use std::collections::HashSet;

use darkbloom_types::{
    CatalogueDigest, Digest, EpochId, Keeper, Kept, Millis, NetworkId, OnHeap, RefusalCode, UnixMillis, armed,
    scrub_stack,
};
use darkbloom_wire::{Evidence, SealedHeader, Statement, Wrap, epoch_nonce, limits};
use rand_core::CryptoRng;

use crate::request::{OpenRequestError, Opened, SealingSecret, open_request, sealing_pair};

/// How long clients seal to an epoch.
pub const EPOCH_USE: Millis = Millis::from_minutes(60);
/// How long a provider opens what was sealed to it: ten minutes longer, so that nothing in flight is lost.
pub const EPOCH_OPEN: Millis = Millis::from_minutes(70);
/// Encapsulations that one epoch remembers: 32 bytes each, so 4 MiB; about 31 requests a second for 70 minutes.
pub const REPLAYS_MAX: usize = 1 << 17;

/// An epoch's receipt key: Ed25519 (RFC 8032), erased on drop.
pub type ReceiptKey = ed25519_dalek::SigningKey;

/// One epoch's keys. They exist in this memory alone, where their keeper put them, and are erased on drop.
pub struct Epoch {
    id: EpochId,
    sealing_secret: Kept<SealingSecret>,
    sealing_key: Vec<u8>,
    receipt_secret: Kept<ReceiptKey>,
    identity: [u8; 65],
    not_before: UnixMillis,
    seen: HashSet<[u8; 32]>,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoch({})", self.id)
    }
}

impl Epoch {
    /// A fresh epoch of an identity that begins now, with its secrets in ordinary memory.
    pub fn begin(identity: [u8; 65], now: UnixMillis, rng: &mut impl CryptoRng) -> Self {
        Self::begin_kept(identity, now, rng, &OnHeap)
    }

    /// A fresh epoch of an identity that begins now, with its secrets in this keeper's places.
    pub fn begin_kept(identity: [u8; 65], now: UnixMillis, rng: &mut impl CryptoRng, keeper: &impl Keeper) -> Self {
        let mut sealing_key = Vec::new();
        let sealing_secret = keeper.keep(|| {
            let (secret, public) = sealing_pair(rng);
            sealing_key = public;
            secret
        });
        let receipt_secret = keeper.keep(|| {
            let mut seed = zeroize::Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut *seed);
            ReceiptKey::from_bytes(&seed)
        });
        let nonce = epoch_nonce(&sealing_key, receipt_secret.verifying_key().as_bytes(), &identity, now);
        let mut id = [0; 16];
        id.copy_from_slice(&nonce.0[..16]);
        Self {
            id: EpochId(id),
            sealing_secret,
            sealing_key,
            receipt_secret,
            identity,
            not_before: now,
            seen: HashSet::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> EpochId {
        self.id
    }

    /// The key that signs this epoch's receipts. Whoever was admitted in this epoch keeps it until its receipt is signed,
    /// which may be after the epoch was erased; the last holder erases it.
    #[must_use]
    pub fn receipt_key(&self) -> Kept<ReceiptKey> {
        self.receipt_secret.clone()
    }

    /// The nonce that hardware evidence for this epoch must carry.
    #[must_use]
    pub fn nonce(&self) -> Digest {
        epoch_nonce(&self.sealing_key, self.receipt_secret.verifying_key().as_bytes(), &self.identity, self.not_before)
    }

    /// The statement of this epoch, for the identity key to sign.
    #[must_use]
    pub fn statement(
        &self,
        network: NetworkId,
        models: Vec<CatalogueDigest>,
        evidence: Vec<Evidence>,
        release: &str,
    ) -> Statement {
        Statement {
            identity: self.identity,
            network,
            sealing_key: self.sealing_key.clone(),
            receipt_key: self.receipt_secret.verifying_key().to_bytes(),
            not_before: self.not_before,
            use_until: self.not_before.after(EPOCH_USE),
            open_until: self.not_before.after(EPOCH_OPEN),
            models: models.into(),
            evidence: evidence.into(),
            release: release.to_owned(),
            hardening: Vec::new().into(),
            key_home: String::new(),
            successions: Vec::new().into(),
            program: None,
        }
    }

    fn open(
        &mut self,
        header_bytes: &[u8],
        header: &SealedHeader,
        body: &[u8],
        wrap: &Wrap,
    ) -> Result<Opened, OpenError> {
        let encapsulation = Digest::of(&[&wrap.encapsulation]).0;
        if armed!("seal_replays") && self.seen.contains(&encapsulation) {
            return Err(OpenError::Replayed);
        }
        if self.seen.len() >= REPLAYS_MAX {
            return Err(OpenError::EpochFull);
        }
        let opened = open_request(&self.sealing_secret, header_bytes, header, body, wrap);
        scrub_stack();
        let opened = opened?;
        // Only what opened is remembered: rubbish must not fill the set.
        self.seen.insert(encapsulation);
        Ok(opened)
    }
}

/// Why an offer was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Sealed for another network.
    #[error("sealed for another network")]
    WrongNetwork,
    /// The header's time is too far from this machine's clock; both are named.
    #[error("sealed at {sealed_at} ms, this machine's clock says {now} ms")]
    ClockSkew {
        /// The header's time.
        sealed_at: i64,
        /// This machine's.
        now: i64,
    },
    /// No such epoch here, or no longer.
    #[error("the epoch is not known or over")]
    UnknownEpoch,
    /// Opened before.
    #[error("this encapsulation was opened before")]
    Replayed,
    /// The epoch remembers as many requests as it can; the next epoch must begin.
    #[error("the epoch is full")]
    EpochFull,
    /// The cryptography says no.
    #[error(transparent)]
    Cryptography(#[from] OpenRequestError),
}

impl OpenError {
    /// The closed reason that the coordinator and the client see.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::WrongNetwork => RefusalCode::WrongNetwork,
            Self::ClockSkew { .. } => RefusalCode::ClockSkew,
            Self::UnknownEpoch | Self::EpochFull => RefusalCode::UnknownEpoch,
            Self::Replayed => RefusalCode::Replayed,
            Self::Cryptography(_) => RefusalCode::CannotOpen,
        }
    }
}

/// A provider's epochs: the current one and those that still open.
#[derive(Debug)]
pub struct EpochRing {
    network: NetworkId,
    epochs: Vec<Epoch>,
}

/// Epochs that can overlap: a full replay set ends one early, so more than two may still open.
const EPOCHS_MAX: usize = 8;

impl EpochRing {
    /// A ring with its first epoch.
    #[must_use]
    pub fn new(network: NetworkId, first: Epoch) -> Self {
        Self { network, epochs: vec![first] }
    }

    /// The network that these epochs serve.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The epoch that clients should seal to.
    #[must_use]
    pub fn current(&self) -> &Epoch {
        self.epochs.last().expect("a ring always has its current epoch")
    }

    /// An epoch by name, while it exists.
    #[must_use]
    pub fn by_id(&self, id: &EpochId) -> Option<&Epoch> {
        self.epochs.iter().find(|epoch| epoch.id == *id)
    }

    /// Brings the ring up to the present: erases what no longer opens, and begins the next epoch if one is due. Whether
    /// one began. To be called before a statement is sent: a provider that was offline for an hour would otherwise
    /// introduce itself with one that has expired. The next epoch's secrets go to this keeper's places.
    pub fn turn(&mut self, now: UnixMillis, rng: &mut impl CryptoRng, keeper: &impl Keeper) -> bool {
        self.expire(now);
        let current = self.current();
        // Begun by a clock that ran ahead and was set back: nobody believes its statement before its time.
        let ahead = current.not_before > now.after(limits::CLOCK_SKEW_MAX);
        if now < self.rotate_at() && !ahead {
            return false;
        }
        let next = Epoch::begin_kept(current.identity, now, rng, keeper);
        self.rotate(next, now);
        true
    }

    /// When the next epoch must begin: ten minutes before clients stop using this one, or at once when it is full.
    #[must_use]
    pub fn rotate_at(&self) -> UnixMillis {
        let current = self.current();
        if current.seen.len() >= REPLAYS_MAX / 8 * 7 {
            return current.not_before;
        }
        current.not_before.after(Millis(EPOCH_USE.0 - (EPOCH_OPEN.0 - EPOCH_USE.0)))
    }

    /// Begins the next epoch and erases those that no longer open.
    pub fn rotate(&mut self, next: Epoch, now: UnixMillis) {
        self.epochs.push(next);
        // After the push: a machine that slept through an epoch's end erases it now, not an hour later.
        self.expire(now);
        if self.epochs.len() > EPOCHS_MAX {
            self.epochs.remove(0);
        }
    }

    /// Erases epochs that no longer open; the current one stays until it is replaced.
    pub fn expire(&mut self, now: UnixMillis) {
        let last = self.epochs.len() - 1;
        let mut index = 0;
        self.epochs.retain(|epoch| {
            let keep = index == last || now < epoch.not_before.after(EPOCH_OPEN);
            index += 1;
            keep
        });
    }

    /// Opens an offer.
    ///
    /// # Errors
    /// [`OpenError`] says why not.
    pub fn open(
        &mut self,
        header_bytes: &[u8],
        body: &[u8],
        wrap: &Wrap,
        now: UnixMillis,
    ) -> Result<(SealedHeader, Opened), OpenError> {
        let header = SealedHeader::decode(header_bytes).map_err(OpenRequestError::from)?;
        if armed!("seal_network") && header.network != self.network {
            return Err(OpenError::WrongNetwork);
        }
        if armed!("seal_time") && header.sealed_at.distance(now) > limits::CLOCK_SKEW_MAX {
            return Err(OpenError::ClockSkew { sealed_at: header.sealed_at.0, now: now.0 });
        }
        let epoch = self.epochs.iter_mut().find(|epoch| epoch.id == wrap.epoch).ok_or(OpenError::UnknownEpoch)?;
        if armed!("seal_epoch_over") && now >= epoch.not_before.after(EPOCH_OPEN) {
            return Err(OpenError::UnknownEpoch);
        }
        let opened = epoch.open(header_bytes, &header, body, wrap)?;
        Ok((header, opened))
    }
}

#[cfg(test)]
mod tests;
