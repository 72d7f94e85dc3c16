//! Credentials that only one TPM can open (TPM 2.0 Library part 1, sections 24 and 11.4.10; part 3, `TPM2_MakeCredential`).

use aes::cipher::KeyIvInit as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand_core::CryptoRng;
use rsa::traits::RandomizedEncryptor as _;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of SHA-256, which names and protects everything here.
const HASH_BYTES: usize = 32;
/// The identifier of SHA-256 (`TPM_ALG_SHA256`), with which a name begins.
const SHA256: [u8; 2] = [0x00, 0x0b];
/// AES with 128 bits: what an endorsement key of template L-1 protects with.
const AES_BYTES: usize = 16;

/// A credential for the TPM that holds an endorsement key and another object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The contents of a `TPM2B_ID_OBJECT`.
    pub credential: Vec<u8>,
    /// The seed, encrypted to the endorsement key: the contents of a `TPM2B_ENCRYPTED_SECRET`.
    pub seed: Vec<u8>,
}

/// Seals a secret so that it can be opened only where the endorsement key and an object are together.
///
/// `object` is the SHA-256 of the object's `TPMT_PUBLIC`. Nothing when the endorsement key is too short for a seed.
pub(crate) fn make(
    endorsement: rsa::PublicKey,
    object: &[u8; HASH_BYTES],
    secret: &[u8; HASH_BYTES],
    rng: &mut impl CryptoRng,
) -> Option<Credential> {
    let mut seed = Zeroizing::new([0; HASH_BYTES]);
    rng.fill_bytes(&mut *seed);
    // The label's zero at the end is part of it (part 1, annex B.4).
    let key = rsa::oaep::EncryptingKey::<Sha256>::new_with_label(endorsement, b"IDENTITY\0".to_vec());
    let encrypted_seed = key.encrypt_with_rng(rng, &*seed).ok()?;
    let name = [&SHA256[..], object].concat();
    let storage = kdfa(&*seed, "STORAGE", &name, 128);
    let mut identity = [&(HASH_BYTES as u16).to_be_bytes()[..], secret].concat();
    let cipher = cfb_mode::Encryptor::<aes::Aes128>::new_from_slices(&storage[..AES_BYTES], &[0; AES_BYTES]).ok()?;
    cipher.encrypt(&mut identity);
    let integrity = kdfa(&*seed, "INTEGRITY", &[], 256);
    let mac = hmac(&*integrity, &[&identity, &name]);
    let credential = [&(HASH_BYTES as u16).to_be_bytes()[..], &mac, &identity].concat();
    Some(Credential { credential, seed: encrypted_seed })
}

/// `KDFa` with HMAC-SHA-256 for up to 256 bits, which is one block (part 1, section 11.4.10.2): the first `bits` of what is
/// returned are the key.
fn kdfa(seed: &[u8], label: &str, context: &[u8], bits: u32) -> Zeroizing<[u8; HASH_BYTES]> {
    let block = hmac(seed, &[&1_u32.to_be_bytes(), label.as_bytes(), &[0], context, &bits.to_be_bytes()]);
    Zeroizing::new(block)
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; HASH_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A value that only whoever knows the key can compute: the secrets of an activator.
pub(crate) fn keyed(key: &[u8; HASH_BYTES], parts: &[&[u8]]) -> [u8; HASH_BYTES] {
    hmac(key, parts)
}
