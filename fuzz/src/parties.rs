//! Keys that never change, and a sealed request and answer made with them.

use std::convert::Infallible;

use darkbloom_seal::{Acceptance, AnswerSealer, Epoch, EpochRing, Recipient, RequestSeal, SealedFrame, seal_request};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, NanoDollars, NetworkId, OperationId, ProviderId, RequestId, SecretBytes,
    Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::{CatalogueEntry, RequestKind, SealedHeader, Suite};
use rand_core::{TryCryptoRng, TryRng};

/// The byte that the golden vectors' private keys are made of, so that they are seeds that open.
const KEY_BYTE: u8 = 7;
/// When everything happens.
pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// Where.
pub const NETWORK: NetworkId = NetworkId([0x11; 32]);

/// What a client asked the coordinator to sign.
pub const NONCE: [u8; 32] = [0x66; 32];

/// A signing key on P-256.
#[must_use]
pub fn p256() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[KEY_BYTE; 32]).expect("a scalar below the order")
}

/// Its public point.
#[must_use]
pub fn identity() -> [u8; 65] {
    p256().verifying_key().to_sec1_point(false).as_bytes().try_into().expect("an uncompressed point has 65 bytes")
}

/// The network of a coordinator that has this key.
#[must_use]
pub fn own_network() -> NetworkId {
    NetworkId::of_coordinator_key(&identity())
}

/// The one catalogue entry of that network.
#[must_use]
pub fn entry() -> CatalogueEntry {
    CatalogueEntry {
        network: own_network(),
        name: "violet".to_owned(),
        weights: Digest([0x77; 32]),
        text_pack: Digest([0x88; 32]),
        context: TokenCount(1_024),
        quantisation: "Q8_0".to_owned(),
    }
}

/// A signing key on Ed25519.
#[must_use]
pub fn ed25519() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[KEY_BYTE; 32])
}

/// Bytes that repeat: the digests of a label and a counter.
pub struct FixedRng(&'static str, u64);

impl FixedRng {
    /// From the first byte of a label's.
    #[must_use]
    pub fn new(label: &'static str) -> Self {
        Self(label, 0)
    }
}

impl TryRng for FixedRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(32) {
            part.copy_from_slice(&Digest::of(&[self.0.as_bytes(), &self.1.to_be_bytes()]).0[..part.len()]);
            self.1 += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for FixedRng {}

/// A provider's first epoch, the same on every call.
#[must_use]
pub fn epoch() -> Epoch {
    Epoch::begin(identity(), NOW, &mut FixedRng::new("epoch"))
}

/// A provider that has opened nothing yet.
#[must_use]
pub fn ring() -> EpochRing {
    EpochRing::new(NETWORK, epoch())
}

/// A request sealed to that provider, the same on every call.
#[must_use]
pub fn sealed() -> RequestSeal {
    let epoch = epoch();
    let statement = epoch.statement(NETWORK, Vec::new(), Vec::new(), "fuzz");
    let header = SealedHeader {
        network: NETWORK,
        suite: Suite::XWingAes256Gcm,
        request: RequestId([0x22; 16]),
        operation: OperationId([0x33; 16]),
        model: CatalogueDigest([0x44; 32]),
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(256),
        output_ceiling: TokenCount(128),
        price_version: 3,
        price_max: NanoDollars(1_000_000),
        tier_min: Tier::None,
        affinity: [0x55; 16],
        sealed_at: NOW,
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let to = Recipient { provider: provider(), epoch: epoch.id(), sealing_key: &statement.sealing_key };
    seal_request(header, &SecretBytes::new(b"violet".to_vec()), &[to], &mut FixedRng::new("sender"))
        .expect("the recipient's key is a good one")
}

/// That provider's name.
#[must_use]
pub fn provider() -> ProviderId {
    ProviderId::of_public_key(&identity())
}

/// How that provider accepts that request.
#[must_use]
pub fn acceptance(sealed: &RequestSeal) -> Acceptance {
    Acceptance {
        request_digest: sealed.request_digest,
        provider: provider(),
        epoch: epoch().id(),
        attempt: AttemptNumber(1),
        salt: [9; 32],
    }
}

/// An answer of four frames to that request.
#[must_use]
pub fn answer(sealed: &RequestSeal) -> Vec<SealedFrame> {
    let acceptance = acceptance(sealed);
    let secret = sealed.response_secret(&acceptance.provider, &acceptance.epoch).expect("it was sealed to this one");
    let mut sealer = AnswerSealer::new(secret, &acceptance);
    (1..=4)
        .map(|number| {
            let words = vec![b'a'; number as usize * 3];
            sealer.seal(&words, 64, TokenCount(number), number == 4).expect("short words fit")
        })
        .collect()
}
