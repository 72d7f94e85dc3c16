//! Keys of the tests: made from fixed bytes, so that a failure repeats.

use darkbloom_wire::PublicKey;

/// A P-256 key made from a byte.
pub fn p256(seed: u8) -> (p256::ecdsa::SigningKey, PublicKey) {
    let key = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, PublicKey::P256(point))
}

/// An Ed25519 key made from a byte.
pub fn ed25519(seed: u8) -> (ed25519_dalek::SigningKey, PublicKey) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
    (key, public)
}
