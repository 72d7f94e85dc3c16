//! Our envelopes and those of the `coset` crate are the same.

use coset::iana;
use coset::{CborSerializable as _, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _};
use darkbloom_wire::{Domain, PublicKey, Signer, VerifyError, open_signed, sign};
use p256::ecdsa::signature::Verifier as _;

use crate::keys;

const PAYLOAD: &[u8] = b"\xa1\x01\x02";

fn verifies(key: &PublicKey, signature: &[u8], message: &[u8]) -> bool {
    match key {
        PublicKey::P256(point) => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .unwrap()
            .verify(message, &p256::ecdsa::Signature::from_slice(signature).unwrap())
            .is_ok(),
        PublicKey::Ed25519(point) => ed25519_dalek::VerifyingKey::from_bytes(point)
            .unwrap()
            .verify_strict(message, &ed25519_dalek::Signature::from_slice(signature).unwrap())
            .is_ok(),
    }
}

fn by_coset(algorithm: iana::Algorithm, domain: Domain, signer: &dyn Signer) -> CoseSign1Builder {
    CoseSign1Builder::new()
        .protected(HeaderBuilder::new().algorithm(algorithm).build())
        .payload(PAYLOAD.to_vec())
        .create_signature(domain.string().as_bytes(), |message| {
            let signature: [u8; 64] = signer.sign(message).unwrap();
            if algorithm == iana::Algorithm::ES256 {
                p256::ecdsa::Signature::from_slice(&signature).unwrap().normalize_s().to_bytes().to_vec()
            } else {
                signature.to_vec()
            }
        })
}

fn signers() -> Vec<(Box<dyn Signer>, PublicKey, iana::Algorithm)> {
    let ((p, p_public), (e, e_public)) = (keys::p256(7), keys::ed25519(7));
    vec![(Box::new(p), p_public, iana::Algorithm::ES256), (Box::new(e), e_public, iana::Algorithm::EdDSA)]
}

#[test]
fn coset_verifies_what_we_sign() {
    for (signer, public, algorithm) in signers() {
        for domain in Domain::ALL {
            let bytes = sign(domain, &*signer, PAYLOAD).unwrap();
            let object = CoseSign1::from_tagged_slice(&bytes).unwrap();
            assert_eq!(object.protected.header.alg, Some(coset::Algorithm::Assigned(algorithm)));
            assert_eq!(object.payload.as_deref(), Some(PAYLOAD));
            let check = |domain: Domain| {
                object.verify_signature(domain.string().as_bytes(), |signature, message| {
                    if verifies(&public, signature, message) { Ok(()) } else { Err(()) }
                })
            };
            for other in Domain::ALL {
                assert_eq!(check(other).is_ok(), other == domain);
            }
        }
    }
}

#[test]
fn we_open_what_coset_signs_and_nothing_of_another_domain() {
    for (signer, public, algorithm) in signers() {
        for domain in Domain::ALL {
            let bytes = by_coset(algorithm, domain, &*signer).build().to_tagged_vec().unwrap();
            assert_eq!(bytes, sign(domain, &*signer, PAYLOAD).unwrap(), "one form, byte for byte");
            for other in Domain::ALL {
                let opened = open_signed(other, &public, &bytes, 64);
                assert_eq!(opened, if other == domain { Ok(PAYLOAD) } else { Err(VerifyError::Signature) });
            }
        }
    }
}

#[test]
fn an_envelope_of_another_form_is_refused() {
    let (signer, public) = keys::p256(7);
    let build = || by_coset(iana::Algorithm::ES256, Domain::Bill, &signer);
    let open = |bytes: &[u8]| open_signed(Domain::Bill, &public, bytes, 64).map(<[u8]>::to_vec);

    let untagged = build().build().to_vec().unwrap();
    assert!(matches!(open(&untagged), Err(VerifyError::Envelope(_))));

    let unprotected = HeaderBuilder::new().key_id(b"k".to_vec()).build();
    let with_unprotected = build().unprotected(unprotected).build().to_tagged_vec().unwrap();
    assert!(matches!(open(&with_unprotected), Err(VerifyError::Envelope(_))));

    let more_protected = CoseSign1Builder::new()
        .protected(HeaderBuilder::new().algorithm(iana::Algorithm::ES256).key_id(b"k".to_vec()).build())
        .payload(PAYLOAD.to_vec())
        .create_signature(Domain::Bill.string().as_bytes(), |message| Signer::sign(&signer, message).unwrap().to_vec());
    assert_eq!(open(&more_protected.build().to_tagged_vec().unwrap()), Err(VerifyError::Algorithm));

    let detached = CoseSign1Builder::new()
        .protected(HeaderBuilder::new().algorithm(iana::Algorithm::ES256).build())
        .create_detached_signature(PAYLOAD, Domain::Bill.string().as_bytes(), |message| {
            Signer::sign(&signer, message).unwrap().to_vec()
        });
    assert!(matches!(open(&detached.build().to_tagged_vec().unwrap()), Err(VerifyError::Envelope(_))));
}

#[test]
fn an_algorithm_other_than_the_keys_is_refused() {
    let ((p, p_public), (e, e_public)) = (keys::p256(7), keys::ed25519(7));
    let by_p = sign(Domain::Receipt, &p, PAYLOAD).unwrap();
    let by_e = sign(Domain::Receipt, &e, PAYLOAD).unwrap();
    assert_eq!(open_signed(Domain::Receipt, &e_public, &by_p, 64), Err(VerifyError::Algorithm));
    assert_eq!(open_signed(Domain::Receipt, &p_public, &by_e, 64), Err(VerifyError::Algorithm));
}

#[test]
fn the_other_form_of_an_ecdsa_signature_is_refused() {
    let (signer, public) = keys::p256(7);
    let bytes = sign(Domain::CatalogueEntry, &signer, PAYLOAD).unwrap();
    let (front, signature) = bytes.split_at(bytes.len() - 64);
    let signature = p256::ecdsa::Signature::from_slice(signature).unwrap();
    let other = p256::ecdsa::Signature::from_scalars(signature.r(), -signature.s()).unwrap();
    let message = CoseSign1::from_tagged_slice(&bytes).unwrap().tbs_data(Domain::CatalogueEntry.string().as_bytes());
    assert!(verifies(&public, &other.to_bytes(), &message), "mathematically it is a signature");
    let forged = [front, &other.to_bytes()].concat();
    assert_eq!(open_signed(Domain::CatalogueEntry, &public, &forged, 64), Err(VerifyError::Signature));
}

#[test]
fn a_device_that_returns_the_high_form_signs_what_verifies() {
    struct HighForm(p256::ecdsa::SigningKey);
    impl Signer for HighForm {
        fn algorithm(&self) -> darkbloom_wire::Algorithm {
            darkbloom_wire::Algorithm::Es256
        }
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], darkbloom_wire::SignError> {
            let low = p256::ecdsa::Signature::from_slice(&Signer::sign(&self.0, message)?).unwrap().normalize_s();
            Ok(p256::ecdsa::Signature::from_scalars(low.r(), -low.s()).unwrap().to_bytes().into())
        }
    }
    let (signer, public) = keys::p256(7);
    let bytes = sign(Domain::Statement, &HighForm(signer.clone()), PAYLOAD).unwrap();
    assert_eq!(open_signed(Domain::Statement, &public, &bytes, 64), Ok(PAYLOAD));
    assert_eq!(bytes, sign(Domain::Statement, &signer, PAYLOAD).unwrap());
}

#[test]
fn a_public_key_off_its_curve_is_refused() {
    let (signer, _) = keys::p256(7);
    let bytes = sign(Domain::Bill, &signer, PAYLOAD).unwrap();
    for point in [[0; 65], [4; 65], [2; 65]] {
        assert_eq!(open_signed(Domain::Bill, &PublicKey::P256(point), &bytes, 64), Err(VerifyError::PublicKey));
    }
}

#[test]
fn a_small_order_ed25519_key_verifies_nothing() {
    // The neutral element with R = neutral and s = 0 satisfies the unstrict equation for every message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let (signer, _) = keys::ed25519(7);
    let mut bytes = sign(Domain::Receipt, &signer, PAYLOAD).unwrap();
    let start = bytes.len() - 64;
    bytes[start..].fill(0);
    bytes[start] = 1;
    let opened = open_signed(Domain::Receipt, &PublicKey::Ed25519(neutral), &bytes, 64);
    assert_eq!(opened, Err(VerifyError::Signature));
}
