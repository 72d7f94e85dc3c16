//! Credentials that only one TPM can open (TPM 2.0 Library part 1, sections 24 and 11.4.10, annexes B.10 and C.6; part 3,
//! `TPM2_MakeCredential`).

use aes::cipher::KeyIvInit as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::elliptic_curve::sec1::{FromSec1Point, ModulusSize, ToSec1Point};
use p256::elliptic_curve::{AffinePoint, CurveArithmetic, FieldBytesSize, Generate as _, PublicKey, SecretKey};
use rand_core::CryptoRng;
use rsa::traits::RandomizedEncryptor as _;
use sha2::{Digest as _, Sha256, Sha384};
use zeroize::Zeroizing;

use crate::certificates::EndorsementKey;

/// Bytes of a secret, and of SHA-256, which names the object.
const HASH_BYTES: usize = 32;
/// The identifier of SHA-256 (`TPM_ALG_SHA256`), with which a name begins.
const SHA256: [u8; 2] = [0x00, 0x0b];
/// What a seed is for. The zero at the end is part of it (part 1, annex B.4).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// A credential for the TPM that holds an endorsement key and another object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The contents of a `TPM2B_ID_OBJECT`.
    pub credential: Vec<u8>,
    /// The seed, encrypted to the endorsement key or agreed on with it: the contents of a `TPM2B_ENCRYPTED_SECRET`.
    pub seed: Vec<u8>,
}

/// What an endorsement key protects with, by the template that makers use for its kind (EK Credential Profile 2.5, annex B).
#[derive(Clone, Copy)]
enum Protection {
    /// SHA-256 and AES with 128 bits: RSA with 2,048 bits (template L-1) and P-256 (L-2).
    Sha256Aes128,
    /// SHA-384 and AES with 256 bits: P-384 (template H-3).
    Sha384Aes256,
}

impl Protection {
    fn of(endorsement: &EndorsementKey) -> Self {
        match endorsement {
            EndorsementKey::Rsa(_) | EndorsementKey::P256(_) => Self::Sha256Aes128,
            EndorsementKey::P384(_) => Self::Sha384Aes256,
        }
    }

    /// Bits of the hash.
    fn hash_bits(self) -> u32 {
        match self {
            Self::Sha256Aes128 => 256,
            Self::Sha384Aes256 => 384,
        }
    }

    fn aes_bits(self) -> u32 {
        match self {
            Self::Sha256Aes128 => 128,
            Self::Sha384Aes256 => 256,
        }
    }

    fn hash(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        let bytes = Zeroizing::new(parts.concat());
        Zeroizing::new(match self {
            Self::Sha256Aes128 => Sha256::digest(&*bytes).to_vec(),
            Self::Sha384Aes256 => Sha384::digest(&*bytes).to_vec(),
        })
    }

    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Sha256Aes128 => hmac(key, parts).to_vec(),
            Self::Sha384Aes256 => {
                let mut mac = Hmac::<Sha384>::new_from_slice(key).expect("HMAC takes keys of any length");
                parts.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            }
        })
    }

    /// `KDFa` for up to the hash's bits, which is one block (part 1, section 11.4.10.2).
    fn kdfa(self, seed: &[u8], label: &str, context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
        let counter = 1_u32.to_be_bytes();
        let mut block = self.hmac(seed, &[&counter, label.as_bytes(), &[0], context, &bits.to_be_bytes()]);
        block.truncate(bits as usize / 8);
        block
    }

    /// `KDFe` for the hash's bits, which is one block (part 1, section 11.4.10.3).
    fn kdfe(self, shared: &[u8], label: &[u8], own: &[u8], theirs: &[u8]) -> Zeroizing<Vec<u8>> {
        self.hash(&[&1_u32.to_be_bytes(), shared, label, own, theirs])
    }

    /// AES in CFB mode, from an initial value of zeros.
    fn encrypt(self, key: &[u8], bytes: &mut [u8]) -> Option<()> {
        match self {
            Self::Sha256Aes128 => {
                cfb_mode::Encryptor::<aes::Aes128>::new_from_slices(key, &[0; 16]).ok()?.encrypt(bytes)
            }
            Self::Sha384Aes256 => {
                cfb_mode::Encryptor::<aes::Aes256>::new_from_slices(key, &[0; 16]).ok()?.encrypt(bytes)
            }
        }
        Some(())
    }
}

/// Seals a secret so that it can be opened only where the endorsement key and an object are together.
///
/// `object` is the SHA-256 of the object's `TPMT_PUBLIC`. Nothing when the endorsement key is too short for a seed, or no point
/// of its curve.
pub(crate) fn make(
    endorsement: &EndorsementKey,
    object: &[u8; HASH_BYTES],
    secret: &[u8; HASH_BYTES],
    rng: &mut impl CryptoRng,
) -> Option<Credential> {
    let protection = Protection::of(endorsement);
    let (seed, encrypted_seed) = match endorsement {
        EndorsementKey::Rsa(key) => encrypted(key, rng)?,
        EndorsementKey::P256(point) => agreed::<p256::NistP256>(protection, point, rng)?,
        EndorsementKey::P384(point) => agreed::<p384::NistP384>(protection, point, rng)?,
    };
    let name = [&SHA256[..], object].concat();
    let storage = protection.kdfa(&seed, "STORAGE", &name, protection.aes_bits());
    let mut identity = sized(secret);
    protection.encrypt(&storage, &mut identity)?;
    let integrity = protection.kdfa(&seed, "INTEGRITY", &[], protection.hash_bits());
    let mac = protection.hmac(&integrity, &[&identity, &name]);
    let credential = [sized(&mac), identity].concat();
    Some(Credential { credential, seed: encrypted_seed })
}

/// A fresh seed, and the same encrypted to a key of RSA.
fn encrypted(endorsement: &rsa::PublicKey, rng: &mut impl CryptoRng) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    let mut seed = Zeroizing::new(vec![0; HASH_BYTES]);
    rng.fill_bytes(&mut seed);
    let key = rsa::oaep::EncryptingKey::<Sha256>::new_with_label(endorsement.clone(), IDENTITY.to_vec());
    let encrypted = key.encrypt_with_rng(rng, &seed).ok()?;
    Some((seed, encrypted))
}

/// A seed that is agreed on with a key on a curve, and the ephemeral point that its holder needs for it: a `TPMS_ECC_POINT`
/// (part 1, annex C.6.3).
fn agreed<C>(
    protection: Protection,
    endorsement: &[u8],
    rng: &mut impl CryptoRng,
) -> Option<(Zeroizing<Vec<u8>>, Vec<u8>)>
where
    C: CurveArithmetic,
    AffinePoint<C>: FromSec1Point<C> + ToSec1Point<C>,
    FieldBytesSize<C>: ModulusSize,
{
    let theirs = PublicKey::<C>::from_sec1_bytes(endorsement).ok()?;
    let ephemeral = SecretKey::<C>::generate_from_rng(rng);
    let shared = theirs.to_projective() * *ephemeral.to_nonzero_scalar();
    let shared = PublicKey::<C>::from_affine(shared.into()).ok()?.to_sec1_point(false);
    let (own, theirs) = (ephemeral.public_key().to_sec1_point(false), theirs.to_sec1_point(false));
    let z = Zeroizing::new(shared.x()?.to_vec());
    let seed = protection.kdfe(&z, IDENTITY, own.x()?, theirs.x()?);
    Some((seed, [sized(own.x()?), sized(own.y()?)].concat()))
}

/// Bytes behind their number in 16 bits, as in each `TPM2B`.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
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
