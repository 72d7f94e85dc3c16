//! Published test vectors of the primitives, with the crates and parameters that sealing uses.

use hpke::aead::{AesGcm128, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::{X25519HkdfSha256, XWing};
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, Serializable as _};
use rand_core::{TryCryptoRng, TryRng};
use serde_json::Value;

use crate::reference::{decrypt, encrypt, hkdf};

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    bytes(text).try_into().unwrap()
}

/// Hands out given bytes, once.
struct Given(Vec<u8>);

impl TryRng for Given {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        unreachable!("key encapsulation asks for bytes")
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        unreachable!("key encapsulation asks for bytes")
    }
    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Self::Error> {
        wanted.copy_from_slice(&self.0.drain(..wanted.len()).collect::<Vec<_>>());
        Ok(())
    }
}

impl TryCryptoRng for Given {}

/// HPKE's key schedule in base mode (RFC 9180 section 5.1), written out.
struct Schedule {
    suite: Vec<u8>,
    key: [u8; 32],
    base_nonce: [u8; 12],
    exporter: [u8; 32],
}

impl Schedule {
    fn labelled_extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> Vec<u8> {
        let ikm = [b"HPKE-v1", suite, label, ikm].concat();
        hkdf::Hkdf::<sha2::Sha256>::extract(Some(salt), &ikm).0.to_vec()
    }

    fn labelled_expand<const N: usize>(suite: &[u8], prk: &[u8], label: &[u8], info: &[u8]) -> [u8; N] {
        let length = u16::try_from(N).unwrap().to_be_bytes();
        let mut out = [0; N];
        let info = [&length, b"HPKE-v1".as_slice(), suite, label, info].concat();
        hkdf::Hkdf::<sha2::Sha256>::from_prk(prk).unwrap().expand(&info, &mut out).unwrap();
        out
    }

    fn new(kem: u16, kdf: u16, aead: u16, shared_secret: &[u8], info: &[u8]) -> Self {
        let suite = [b"HPKE".as_slice(), &kem.to_be_bytes(), &kdf.to_be_bytes(), &aead.to_be_bytes()].concat();
        let psk_id_hash = Self::labelled_extract(&suite, b"", b"psk_id_hash", b"");
        let info_hash = Self::labelled_extract(&suite, b"", b"info_hash", info);
        let context = [&[0], psk_id_hash.as_slice(), &info_hash].concat();
        let secret = Self::labelled_extract(&suite, shared_secret, b"secret", b"");
        Self {
            key: Self::labelled_expand(&suite, &secret, b"key", &context),
            base_nonce: Self::labelled_expand(&suite, &secret, b"base_nonce", &context),
            exporter: Self::labelled_expand(&suite, &secret, b"exp", &context),
            suite,
        }
    }

    fn export(&self, context: &[u8]) -> [u8; 32] {
        Self::labelled_expand(&self.suite, &self.exporter, b"sec", context)
    }
}

/// Vector with KEM 0x647a, KDF 1, AEAD 3 of the HPKE working group's post-quantum vectors (draft-ietf-hpke-pq, as
/// `test-vectors/pq-53273fb.json` in the repository of the `hpke` crate): the part from the shared secret on.
#[test]
fn the_key_schedule_is_as_in_the_working_groups_x_wing_vector() {
    let schedule = Schedule::new(
        0x647a,
        1,
        3,
        &bytes("58200ed1f137bd95a921bb47f6aaecf2395b26f7fd24efd3a5ffae4849e8dea3"),
        &bytes("34663634363532303666366532303631323034373732363536333639363136653230353537323665"),
    );
    assert_eq!(schedule.suite, bytes("48504b45647a00010003"));
    assert_eq!(schedule.key, array("131c2ebb469b909a40915914afd7ff5e638888ac7195dcaaaef8f9a84f0e4030"));
    assert_eq!(schedule.base_nonce, array("2b7a68f19e6cdbd43dda3c6d"));
    assert_eq!(schedule.exporter, array("c5362ef3c0008d0e573000c5c25a3f62a3bc7061cd41a384c86c27b37d945bbb"));
    let exported = "5a78d37f40e078c17ef43fa40963f1ff7dcdee56e366da9099dc181c3eccaee5";
    assert_eq!(schedule.export(b"pseudorandom0"), array(exported));
}

/// Test vector 1 of draft-connolly-cfrg-xwing-kem: public key, ciphertext and, through the key schedule above with our
/// AEAD, the shared secret.
#[test]
fn x_wing_is_as_in_its_draft() {
    let vector: Value = serde_json::from_str(include_str!("x-wing-draft.json")).unwrap();
    let field = |name: &str| bytes(vector[name].as_str().unwrap());
    assert_eq!(XWing::KEM_ID, 0x647a);
    let private = <XWing as Kem>::PrivateKey::from_bytes(&field("seed")).unwrap();
    let public = XWing::sk_to_pk(&private);
    assert_eq!(public.to_bytes().to_vec(), field("pk"));

    let schedule = Schedule::new(0x647a, 1, 2, &field("ss"), b"info");
    let (encapsulation, mut sender) = hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, XWing>(
        &OpModeS::Base,
        &public,
        b"info",
        &mut Given(field("eseed")),
    )
    .unwrap();
    assert_eq!(encapsulation.to_bytes().to_vec(), field("ct"));
    let ciphertext = sender.seal(b"plaintext", b"aad").unwrap();
    assert_eq!(ciphertext, encrypt(&schedule.key, &schedule.base_nonce, b"aad", b"plaintext"));
    let mut exported = [0; 32];
    sender.export(b"context", &mut exported).unwrap();
    assert_eq!(exported, schedule.export(b"context"));

    let encapsulation = <XWing as Kem>::EncappedKey::from_bytes(&field("ct")).unwrap();
    let mut receiver =
        hpke::setup_receiver::<AesGcm256, HkdfSha256, XWing>(&OpModeR::Base, &private, &encapsulation, b"info")
            .unwrap();
    assert_eq!(receiver.open(&ciphertext, b"aad").unwrap(), b"plaintext");
}

/// RFC 9180 appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base mode.
#[test]
fn hpke_is_as_in_rfc_9180() {
    type Suite = X25519HkdfSha256;
    let info = bytes("4f6465206f6e2061204772656369616e2055726e");
    let encapsulated = bytes("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431");
    let (private, public) =
        Suite::derive_keypair(&bytes("6db9df30aa07dd42ee5e8181afdb977e538f5e1fec8a06223f33f7013e525037"));
    let public_bytes = bytes("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d");
    assert_eq!(public.to_bytes().to_vec(), public_bytes);
    let ephemeral = bytes("7268600d403fce431561aef583ee1613527cff655c1343f29812e66706df3234");
    let (encapsulation, mut sender) = hpke::setup_sender_with_rng::<AesGcm128, HkdfSha256, Suite>(
        &OpModeS::Base,
        &public,
        &info,
        &mut Given(ephemeral),
    )
    .unwrap();
    assert_eq!(encapsulation.to_bytes().to_vec(), encapsulated);
    let encapsulation = <Suite as Kem>::EncappedKey::from_bytes(&encapsulated).unwrap();
    let mut receiver =
        hpke::setup_receiver::<AesGcm128, HkdfSha256, Suite>(&OpModeR::Base, &private, &encapsulation, &info).unwrap();

    let plaintext = bytes("4265617574792069732074727574682c20747275746820626561757479");
    let first = "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a";
    let ciphertext = sender.seal(&plaintext, b"Count-0").unwrap();
    assert_eq!(ciphertext, bytes(first));
    assert_eq!(receiver.open(&ciphertext, b"Count-0").unwrap(), plaintext);
    let (mut by_sender, mut by_receiver) = ([0; 32], [0; 32]);
    sender.export(b"", &mut by_sender).unwrap();
    receiver.export(b"", &mut by_receiver).unwrap();
    assert_eq!(by_sender, array("3853fe2b4035195a573ffc53856e77058e15d9ea064de3e59f4961d0095250ee"));
    assert_eq!(by_receiver, by_sender);
}

/// Test case 16 of the specification of GCM (McGrew and Viega, appendix B).
#[test]
fn aes_256_gcm_is_as_in_its_specification() {
    let key = array("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    let nonce = array("cafebabefacedbaddecaf888");
    let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plaintext = bytes(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let ciphertext = bytes(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
         8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
         76fc6ece0f4e1768cddf8853bb2d551b",
    );
    assert_eq!(encrypt(&key, &nonce, &aad, &plaintext), ciphertext);
    assert_eq!(decrypt(&key, &nonce, &aad, &ciphertext), Some(plaintext));
}

/// RFC 5869 appendix A.1.
#[test]
fn hkdf_sha_256_is_as_in_rfc_5869() {
    let okm: [u8; 42] = hkdf(&bytes("000102030405060708090a0b0c"), &[0x0b; 22], &[&bytes("f0f1f2f3f4f5f6f7f8f9")]);
    assert_eq!(
        hex::encode(okm),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    );
}
