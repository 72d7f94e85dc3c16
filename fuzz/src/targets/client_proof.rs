//! What proves an answer: only the one that was given verifies, whatever else those who signed it would sign.

#![no_main]

#[allow(dead_code, reason = "the folder of proofs is not looked at")]
#[path = "../../../crates/darkbloom-client/src/proof.rs"]
mod proof;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use darkbloom_attest::{HardwareTrust, TrustPolicy};
use darkbloom_fuzz::{Input, memory};
use darkbloom_types::{NetworkId, Tier};
use darkbloom_wire::{AnswerProof, Domain, sign};
use libfuzzer_sys::fuzz_target;
use proof::Proven;
use serde_json::Value;

/// The golden proof, and the keys that signed it.
struct Golden {
    proof: AnswerProof,
    coordinator: p256::ecdsa::SigningKey,
    receipt_key: ed25519_dalek::SigningKey,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors/answer-proof.json");
    let vector: Value = serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON");
    let bytes = |value: &Value| hex::decode(value.as_str().expect("a text")).expect("hexadecimal digits");
    let keys = &vector["private_keys"];
    let receipt_key = bytes(&keys["receipt_key"]).try_into().expect("32 bytes");
    Golden {
        proof: AnswerProof::decode(&bytes(&vector["proof"])).expect("a proof"),
        coordinator: p256::ecdsa::SigningKey::from_slice(&bytes(&keys["coordinator"])).expect("a key"),
        receipt_key: ed25519_dalek::SigningKey::from_bytes(&receipt_key),
    }
});

fn anybody(network: NetworkId) -> TrustPolicy {
    TrustPolicy { network, tier_min: Tier::None, pinned: BTreeSet::new(), hardware: HardwareTrust::default() }
}

fuzz_target!(|bytes: &[u8]| {
    let Golden { proof, coordinator, receipt_key } = &*GOLDEN;
    let mut input = Input::new(bytes);
    let kind = input.byte() % 4;
    memory::within((1 << 20) + 64 * bytes.len(), || {
        let rest = input.rest();
        let by_coordinator = |domain| sign(domain, coordinator, rest).expect("software keys sign");
        // One part says what the input says, signed as it should be.
        let made = match kind {
            0 => match AnswerProof::decode(rest) {
                Ok(read) => {
                    assert_eq!(AnswerProof::decode(&read.encode()).as_ref(), Ok(&read), "one encoding");
                    read
                }
                Err(_) => return,
            },
            1 => AnswerProof { bill: by_coordinator(Domain::Bill), ..proof.clone() },
            2 => AnswerProof { list: by_coordinator(Domain::CandidateList), ..proof.clone() },
            _ => {
                let receipt = sign(Domain::Receipt, receipt_key, rest).expect("software keys sign");
                AnswerProof { receipt, ..proof.clone() }
            }
        };
        let Ok(proven) = Proven::read(&made.encode(), anybody) else { return };
        let (receipt, bill) = (&proven.receipt, &proven.bill);
        assert_eq!(receipt.weights, proven.entry.weights, "what answered is what was on offer");
        assert_eq!(receipt.provider, proven.verdict.provider);
        assert_eq!(bill.price.cost(receipt.input_tokens, receipt.output_tokens), Ok(bill.charge));
        assert!(bill.charge <= bill.hold, "no more than was held");
    });
});
