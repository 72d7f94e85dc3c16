//! What the attackers here have: keys, and the skill to make everything that a signature does not keep them from.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, EpochId, Micros, NetworkId, ProviderId, RequestId, TokenCount, UnixMillis,
};
use darkbloom_wire::{Receipt, Statement};
use p256::ecdsa::SigningKey;

/// In the middle of 2027.
pub const NOW: UnixMillis = UnixMillis(1_814_400_000_000);
pub const NETWORK: NetworkId = NetworkId([1; 32]);

/// A key on P-256 and its point.
pub fn key(seed: u8) -> (SigningKey, [u8; 65]) {
    let key = SigningKey::from_slice(&[seed; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, point)
}

pub fn minutes(minutes: i64) -> UnixMillis {
    UnixMillis(NOW.0 + minutes * 60_000)
}

/// What the provider with key 7 says about itself from now on.
pub fn statement() -> Statement {
    Statement {
        identity: key(7).1,
        network: NETWORK,
        sealing_key: vec![0; 1_216],
        receipt_key: [3; 32],
        not_before: NOW,
        use_until: minutes(60),
        open_until: minutes(70),
        models: Vec::new().into(),
        evidence: Vec::new().into(),
        release: "1".to_owned(),
        hardening: Vec::new().into(),
        key_home: String::new(),
        successions: Vec::new().into(),
        program: None,
    }
}

/// What a provider says of one answer.
pub fn receipt() -> Receipt {
    Receipt {
        request: Digest([1; 32]),
        request_id: RequestId([2; 16]),
        attempt: AttemptNumber(1),
        transcript: Digest([3; 32]),
        model: CatalogueDigest([4; 32]),
        weights: Digest([5; 32]),
        provider: ProviderId([6; 32]),
        epoch: EpochId([7; 16]),
        input_tokens: TokenCount(10),
        output_tokens: TokenCount(20),
        queue_us: Micros(0),
        prefill_us: Micros(0),
        decode_us: Micros(0),
        finished_at: NOW,
    }
}
