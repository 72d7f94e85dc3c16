//! Attacks on signed objects: forged, changed, passed off as others.

use darkbloom_attacks::attacks;
use darkbloom_seal::ReceiptKey;
use darkbloom_types::{Digest, NanoDollars, OperationId, Price, RequestId, TokenCount, UnixMillis};
use darkbloom_wire::{
    Bill, CandidateList, CatalogueEntry, ChallengeProof, CoordinatorProof, Domain, PublicKey, Receipt, Statement,
    Succession, open_signed, sign,
};

use crate::forge::{NETWORK, NOW, key, receipt, statement};

fn bill() -> Bill {
    Bill {
        operation: OperationId([1; 16]),
        request: RequestId([2; 16]),
        receipt: None,
        price: Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 3 },
        hold: NanoDollars(100),
        charge: NanoDollars(50),
        input_tokens: TokenCount(10),
        output_tokens: TokenCount(10),
        settled_at: UnixMillis(1),
    }
}

fn list() -> CandidateList {
    CandidateList {
        network: NETWORK,
        time: NOW,
        entry: Vec::new(),
        price: Price { version: 1, input_nano_per_token: 2, output_nano_per_token: 3 },
        candidates: Vec::new().into(),
        activator: None,
    }
}

fn coordinator() -> PublicKey {
    PublicKey::P256(key(1).1)
}

/// Whether any object with one bit changed, or cut anywhere, still opens.
fn changed(signed: &[u8], opens: impl Fn(&[u8]) -> bool) -> bool {
    assert!(opens(signed), "unchanged it does");
    let flipped = (0..signed.len() * 8).any(|bit| {
        let mut changed = signed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        opens(&changed)
    });
    flipped || (0..signed.len()).any(|length| opens(&signed[..length]))
}

/// The bill's map with one pair more, at a key that says that it must be understood.
fn with_critical_key(payload: &[u8]) -> Vec<u8> {
    let mut changed = payload.to_vec();
    assert!(matches!(changed[0], 0xa0..0xb7), "a small map");
    changed[0] += 1;
    changed.extend([0x20, 0x00]);
    changed
}

attacks! {
    attack_a_bill_is_forged against "signature": || {
        Bill::open(&bill().sign(&key(9).0).unwrap(), &coordinator()).is_ok()
    };
    attack_a_candidate_list_is_forged against "signature": || {
        CandidateList::open(&list().sign(&key(9).0).unwrap(), &coordinator()).is_ok()
    };
    attack_a_statement_is_made_with_a_strangers_identity against "signature": || {
        Statement::open_self_signed(&statement().sign(&key(9).0).unwrap()).is_ok()
    };
    attack_one_bit_of_a_bill_is_changed against "signature": || {
        changed(&bill().sign(&key(1).0).unwrap(), |bytes| Bill::open(bytes, &coordinator()).is_ok())
    };
    attack_one_bit_of_a_statement_is_changed against "signature": || {
        changed(&statement().sign(&key(7).0).unwrap(), |bytes| Statement::open_self_signed(bytes).is_ok())
    };
    attack_one_bit_of_a_succession_is_changed against "signature": || {
        let word = Succession { old: key(7).1, new: key(8).1, at: NOW };
        changed(&word.sign(&key(7).0).unwrap(), |bytes| Succession::open_self_signed(bytes).is_ok())
    };
    attack_one_bit_of_a_catalogue_entry_is_changed against "signature": || {
        let entry = CatalogueEntry {
            network: NETWORK,
            name: "model".to_owned(),
            weights: Digest([1; 32]),
            text_pack: Digest([2; 32]),
            context: TokenCount(100),
            quantisation: "Q8_0".to_owned(),
        };
        changed(&entry.sign(&key(1).0).unwrap(), |bytes| CatalogueEntry::open(bytes, &coordinator()).is_ok())
    };
    attack_one_bit_of_a_receipt_is_changed against "signature": || {
        let key = ReceiptKey::from_bytes(&[8; 32]);
        let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
        changed(&receipt().sign(&key).unwrap(), |bytes| Receipt::open(bytes, &public).is_ok())
    };
    attack_one_bit_of_a_candidate_list_is_changed against "signature": || {
        changed(&list().sign(&key(1).0).unwrap(), |bytes| CandidateList::open(bytes, &coordinator()).is_ok())
    };
    attack_one_bit_of_a_challenge_answer_is_changed against "signature": || {
        let answer = ChallengeProof { digest: Digest([5; 32]) };
        changed(&answer.sign(&key(1).0).unwrap(), |bytes| ChallengeProof::open(bytes, &coordinator()).is_ok())
    };
    /// Both are a digest and a signature by a key on P-256: what a provider answers to a challenge must not prove a coordinator.
    attack_a_challenge_answer_is_passed_off_as_a_coordinators_proof against "signature_domain": || {
        let answer = ChallengeProof { digest: Digest([5; 32]) }.sign(&key(1).0).unwrap();
        CoordinatorProof::open(&answer, &coordinator()).is_ok()
    };
    /// With s also n − s verifies: the same bill under another name.
    attack_a_second_signature_is_made_without_the_key against "signature_low_s": || {
        let mut signed = bill().sign(&key(1).0).unwrap();
        let at = signed.len() - 64;
        let signature = p256::ecdsa::Signature::from_slice(&signed[at..]).unwrap();
        let (r, s) = signature.split_scalars();
        let other = p256::ecdsa::Signature::from_scalars(r, -s).unwrap();
        signed[at..].copy_from_slice(&other.to_bytes());
        Bill::open(&signed, &coordinator()).is_ok()
    };
    attack_a_bill_demands_what_its_reader_does_not_understand against "critical_keys": || {
        let signed = bill().sign(&key(1).0).unwrap();
        let payload = open_signed(Domain::Bill, &coordinator(), &signed, 4_096).unwrap();
        let changed = sign(Domain::Bill, &key(1).0, &with_critical_key(payload)).unwrap();
        Bill::open(&changed, &coordinator()).is_ok()
    };
}

#[test]
fn the_objects_here_are_good_when_nobody_touches_them() {
    assert_eq!(Bill::open(&bill().sign(&key(1).0).unwrap(), &coordinator()).as_ref(), Ok(&bill()));
    assert!(CandidateList::open(&list().sign(&key(1).0).unwrap(), &coordinator()).is_ok());
}
