//! Who answers is a coordinator only if it signed this very question with the key that it names.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use darkbloom_attest::{CoordinatorError, verify_coordinator, verify_welcome};
use darkbloom_types::{ConnectionId, Digest, NetworkId, UnixMillis};
use darkbloom_wire::{ChallengeProof, CoordinatorProof, VerifyError, Welcome, coordinator_proof_digest};
use p256::ecdsa::SigningKey;

const NONCE: [u8; 32] = [5; 32];

fn key(seed: u8) -> (SigningKey, [u8; 65]) {
    let key = SigningKey::from_slice(&[seed; 32]).unwrap();
    let point = key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (key, point)
}

fn signed(seed: u8, digest: Digest) -> Vec<u8> {
    CoordinatorProof { digest }.sign(&key(seed).0).unwrap()
}

fn welcome(proof: Vec<u8>) -> Welcome {
    Welcome {
        coordinator: key(7).1,
        connection: ConnectionId([6; 16]),
        time: UnixMillis(0),
        nonce: [8; 32],
        catalogue: Vec::new().into(),
        capabilities: Vec::new().into(),
        proof,
    }
}

/// Everything that a coordinator's key may have signed under its domain and that is not the answer; the last two are the
/// answer to a provider and to a client.
fn digests() -> [Digest; 7] {
    let network = NetworkId::of_coordinator_key(&key(7).1);
    let (connection, nonce) = (ConnectionId([6; 16]), [8; 32]);
    [
        coordinator_proof_digest(&NetworkId([1; 32]), &NONCE, Some((&connection, &nonce))),
        coordinator_proof_digest(&network, &[9; 32], Some((&connection, &nonce))),
        coordinator_proof_digest(&network, &NONCE, Some((&ConnectionId([9; 16]), &nonce))),
        coordinator_proof_digest(&network, &NONCE, Some((&connection, &[9; 32]))),
        coordinator_proof_digest(&network, &[9; 32], None),
        coordinator_proof_digest(&network, &NONCE, Some((&connection, &nonce))),
        coordinator_proof_digest(&network, &NONCE, None),
    ]
}

#[test]
fn a_welcome_is_believed_by_its_proof_over_this_dial_alone() {
    for (number, digest) in digests().into_iter().enumerate() {
        let expected = if number == 5 { Ok(()) } else { Err(CoordinatorError::Proof) };
        assert_eq!(verify_welcome(&welcome(signed(7, digest)), &NONCE), expected, "{number}");
    }
    let digest = digests()[5];
    let stranger = verify_welcome(&welcome(signed(8, digest)), &NONCE);
    assert_eq!(stranger, Err(CoordinatorError::Signature(VerifyError::Signature)));
    let other = ChallengeProof { digest }.sign(&key(7).0).unwrap();
    assert!(verify_welcome(&welcome(other), &NONCE).is_err(), "a signature over another kind of object");
    let whole = signed(7, digest);
    for cut in 0..whole.len() {
        assert!(verify_welcome(&welcome(whole[..cut].to_vec()), &NONCE).is_err());
    }
}

#[test]
fn a_client_believes_the_proof_over_its_own_nonce_alone() {
    for (number, digest) in digests().into_iter().enumerate() {
        let expected = if number == 6 { Ok(()) } else { Err(CoordinatorError::Proof) };
        assert_eq!(verify_coordinator(&signed(7, digest), &key(7).1, &NONCE), expected, "{number}");
    }
    let digest = digests()[6];
    let stranger = verify_coordinator(&signed(8, digest), &key(7).1, &NONCE);
    assert_eq!(stranger, Err(CoordinatorError::Signature(VerifyError::Signature)));
    assert!(verify_coordinator(&[], &key(7).1, &NONCE).is_err());
    // One who names a key of its own proves that key and no other: the pin is compared besides.
    assert_eq!(
        verify_coordinator(&signed(8, digest), &key(8).1, &NONCE),
        Err(CoordinatorError::Proof),
        "the digest names the network"
    );
}
