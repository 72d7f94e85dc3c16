//! Providers, clients and what they say to each other, for all tests.

use darkbloom_seal::{Acceptance, Epoch, EpochRing, Opened, Recipient, RequestSeal, seal_request};
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, EpochId, NanoDollars, NetworkId, OperationId, ProviderId, RequestId,
    SecretBytes, Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::{RequestKind, SealedHeader, Suite};

use crate::fixed::FixedRng;

/// When the tests' epochs begin.
pub const BEGIN: UnixMillis = UnixMillis(1_800_000_000_000);
/// A minute in milliseconds.
pub const MINUTE: i64 = 60_000;
pub const NETWORK: NetworkId = NetworkId([0x11; 32]);

pub fn minutes(after_begin: i64) -> UnixMillis {
    UnixMillis(BEGIN.0 + after_begin * MINUTE)
}

/// A provider with its epochs.
pub struct Provider {
    pub id: ProviderId,
    pub identity: [u8; 65],
    pub ring: EpochRing,
}

impl Provider {
    pub fn new(label: &str) -> Self {
        let key = p256::ecdsa::SigningKey::from_slice(&Digest::of(&[label.as_bytes()]).0).unwrap();
        let identity = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
        let first = Epoch::begin(identity, BEGIN, &mut FixedRng::new(label));
        Self { id: ProviderId::of_public_key(&identity), identity, ring: EpochRing::new(NETWORK, first) }
    }

    /// Begins another epoch and names it.
    pub fn rotate(&mut self, label: &str, now: UnixMillis) -> EpochId {
        self.ring.rotate(Epoch::begin(self.identity, now, &mut FixedRng::new(label)), now);
        self.ring.current().id()
    }

    /// The sealing key of one of its epochs.
    pub fn sealing_key(&self, epoch: &EpochId) -> Vec<u8> {
        self.ring.by_id(epoch).unwrap().statement(NETWORK, vec![], vec![], "test").sealing_key
    }

    pub fn current(&self) -> EpochId {
        self.ring.current().id()
    }
}

pub fn header_at(sealed_at: UnixMillis) -> SealedHeader {
    SealedHeader {
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
        tier_min: Tier::Hardware,
        affinity: [0x55; 16],
        sealed_at,
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    }
}

pub fn header() -> SealedHeader {
    header_at(BEGIN)
}

/// Seals to the current epochs of some providers.
pub fn seal(header: SealedHeader, plaintext: &[u8], to: &[&Provider], label: &str) -> RequestSeal {
    let keys: Vec<_> = to.iter().map(|provider| provider.sealing_key(&provider.current())).collect();
    let recipients: Vec<_> = to
        .iter()
        .zip(&keys)
        .map(|(provider, key)| Recipient { provider: provider.id, epoch: provider.current(), sealing_key: key })
        .collect();
    seal_request(header, &SecretBytes::new(plaintext.to_vec()), &recipients, &mut FixedRng::new(label)).unwrap()
}

/// Opens the wrap at an index of a sealed request, at the time it was sealed.
pub fn open(provider: &mut Provider, sealed: &RequestSeal, index: usize) -> Result<Opened, darkbloom_seal::OpenError> {
    let submit = &sealed.submit;
    let opened = provider.ring.open(&submit.header, &submit.body, &submit.wraps.0[index], sealed.header.sealed_at);
    opened.map(|(header, opened)| {
        assert_eq!(header, sealed.header);
        assert_eq!(opened.request_digest, sealed.request_digest);
        opened
    })
}

pub fn acceptance(sealed: &RequestSeal, provider: &Provider, salt: u8) -> Acceptance {
    Acceptance {
        request_digest: sealed.request_digest,
        provider: provider.id,
        epoch: provider.current(),
        attempt: AttemptNumber(1),
        salt: [salt; 32],
    }
}
