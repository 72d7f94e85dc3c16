//! A statement of a machine that evidence is about, with an identity of the tests' own.

use darkbloom_types::{Digest, Millis, NetworkId, UnixMillis};
use darkbloom_wire::{Evidence, Statement, epoch_nonce};
use p256::ecdsa::SigningKey;

pub fn key() -> SigningKey {
    SigningKey::from_slice(&[9; 32]).unwrap()
}

/// A signed statement with the evidence that this makes of its epoch's nonce. The epoch begins then.
pub fn statement(begin: UnixMillis, evidence: impl FnOnce(&Digest) -> Vec<Evidence>) -> Vec<u8> {
    let mut statement = Statement {
        identity: key().verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap(),
        network: NetworkId([7; 32]),
        sealing_key: vec![0; 1_216],
        receipt_key: [3; 32],
        not_before: begin,
        use_until: begin.after(Millis::from_minutes(60)),
        open_until: begin.after(Millis::from_minutes(70)),
        models: Vec::new().into(),
        evidence: Vec::new().into(),
        release: "test".to_owned(),
        hardening: Vec::new().into(),
        key_home: "software_file".to_owned(),
        successions: Vec::new().into(),
        program: None,
    };
    let nonce = epoch_nonce(&statement.sealing_key, &statement.receipt_key, &statement.identity, begin);
    statement.evidence = evidence(&nonce).into();
    statement.sign(&key()).unwrap()
}
