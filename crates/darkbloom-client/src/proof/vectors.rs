//! The golden vector of what proves an answer; `docs/vectors/README.md` explains it.

use std::path::Path;

use darkbloom_seal::ReceiptKey;
use serde_json::{Value, json};

use super::tests::{Fixed, Scene};
use super::*;
use crate::parties::{Operator, key, minutes};

/// The secret half of the epoch's receipt key: what the epoch draws second.
fn receipt_key() -> ReceiptKey {
    let mut drawn = Fixed::new("epoch");
    let mut seed = [0; 32];
    for _ in 0..2 {
        rand_core::Rng::fill_bytes(&mut drawn, &mut seed);
    }
    ReceiptKey::from_bytes(&seed)
}

/// Proofs that do not hold, with what is wrong about each.
fn others(scene: &Scene) -> Vec<Value> {
    type Change<'a> = &'a dyn Fn(&mut Scene);
    let good = scene.proof();
    let signed: [(&str, Change<'_>); 8] = [
        ("the receipt names another provider", &|scene| scene.receipt.provider.0[0] ^= 1),
        ("the receipt names another epoch", &|scene| scene.receipt.epoch.0[0] ^= 1),
        ("the receipt names other weights than the catalogue entry", &|scene| scene.receipt.weights.0[0] ^= 1),
        ("the receipt names another catalogue entry", &|scene| scene.receipt.model.0[0] ^= 1),
        ("the statement does not name the model", &|scene| scene.statement.models = vec![].into()),
        ("the bill names another receipt", &|scene| scene.bill.receipt = Some(receipt_id(b"another"))),
        ("the bill charges more than its tokens cost", &|scene| scene.bill.charge.0 += 1),
        ("list and receipt are a day apart", &|scene| scene.listed_at = minutes(5 - 24 * 60 - 1)),
    ];
    let changed = signed.map(|(what, change)| {
        let mut other = Scene::new();
        change(&mut other);
        (what, other.proof())
    });
    let forged = Operator { key: key("another").0, ..Operator::new() };
    let list = forged.list(minutes(4), crate::parties::PRICE, &[]);
    let bill = scene.bill.sign(&forged.key).unwrap();
    let receipt = scene.receipt.sign(&ReceiptKey::from_bytes(&[8; 32])).unwrap();
    let foreign = [
        ("the list is signed by another key", AnswerProof { list, ..good.clone() }),
        ("the bill is signed by another key", AnswerProof { bill, ..good.clone() }),
        ("the receipt is signed by another key", AnswerProof { receipt, ..good }),
    ];
    let all = changed.into_iter().chain(foreign);
    all.map(|(what, proof)| json!({"what": what, "proof": hex::encode(proof.encode())})).collect()
}

fn vector() -> Value {
    let scene = Scene::new();
    let proof = scene.proof();
    let proven = scene.read(&proof).unwrap();
    let seed = |label: &str| hex::encode(key(label).0.to_bytes());
    json!({
        "private_keys": {
            "coordinator": seed("coordinator"),
            "identity": seed("provider"),
            "receipt_key": hex::encode(receipt_key().to_bytes()),
        },
        "proof": hex::encode(proof.encode()),
        "parts": {
            "coordinator": hex::encode(proof.coordinator),
            "list": hex::encode(&proof.list),
            "statement": hex::encode(&proof.statement),
            "receipt": hex::encode(&proof.receipt),
            "bill": hex::encode(&proof.bill),
        },
        "says": {
            "network": proven.network.to_string(),
            "provider": proven.verdict.provider.to_string(),
            "epoch": proven.verdict.epoch.to_string(),
            "model": proven.entry.name,
            "catalogue_digest": proven.receipt.model.to_string(),
            "weights": proven.entry.weights.to_string(),
            "request_digest": proven.receipt.request.to_string(),
            "transcript": proven.receipt.transcript.to_string(),
            "receipt_id": receipt_id(&proof.receipt).to_string(),
            "input_tokens": proven.receipt.input_tokens.0,
            "output_tokens": proven.receipt.output_tokens.0,
            "charge_nano_usd": proven.bill.charge.0,
            "finished_at": proven.receipt.finished_at.0,
            "settled_at": proven.bill.settled_at.0,
        },
        "does_not_hold": others(&scene),
    })
}

#[test]
fn what_proves_an_answer_is_golden_and_what_does_not_hold_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors/answer-proof.json");
    let made = vector();
    if std::env::var_os("DARKBLOOM_WRITE_VECTORS").is_some_and(|asked| asked == "1") {
        fs::write(&path, serde_json::to_string_pretty(&made).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(golden, made, "docs/vectors/answer-proof.json; run with DARKBLOOM_WRITE_VECTORS=1 where that is meant");
    // From the file, as another implementation would.
    let scene = Scene::new();
    let read =
        |proof: &Value| Proven::read(&hex::decode(proof.as_str().unwrap()).unwrap(), |_| scene.operator.anybody());
    assert!(read(&golden["proof"]).is_ok());
    for other in golden["does_not_hold"].as_array().unwrap() {
        assert!(read(&other["proof"]).is_err(), "{}", other["what"]);
    }
}
