//! A second implementation of sealing and opening, written from the formats' description alone and with `hpke`'s and
//! `aes-gcm`'s plain interfaces. It can also misbehave where the real one cannot.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use darkbloom_seal::Acceptance;
use darkbloom_types::{Digest, EpochId, ProviderId};
use darkbloom_wire::{SealedHeader, Wrap, recipient_list_digest};
use hkdf::Hkdf;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable as _, OpModeR, OpModeS, Serializable as _};
use sha2::Sha256;

use crate::fixed::FixedRng;

pub type PrivateKey = <XWing as hpke::Kem>::PrivateKey;
type PublicKey = <XWing as hpke::Kem>::PublicKey;
type Encapsulation = <XWing as hpke::Kem>::EncappedKey;

/// HKDF-SHA256 (RFC 5869) with a list of infos, one after another.
pub fn hkdf<const N: usize>(salt: &[u8], key: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), key).expand(&info.concat(), &mut out).unwrap();
    out
}

pub fn encrypt(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    Aes256Gcm::new(key.into()).encrypt(nonce.into(), Payload { msg: plaintext, aad }).unwrap()
}

pub fn decrypt(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], ciphertext: &[u8]) -> Option<Vec<u8>> {
    Aes256Gcm::new(key.into()).decrypt(nonce.into(), Payload { msg: ciphertext, aad }).ok()
}

/// Content, its length in front, zeros behind.
pub fn padded(content: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(size, 0);
    bytes
}

pub fn body_key(content_key: &[u8; 32], header: &[u8]) -> [u8; 32] {
    hkdf(&Digest::of(&[header]).0, content_key, &[b"darkbloom/v1/body"])
}

fn wrap_aad(header: &[u8], body: &[u8], recipients: &Digest) -> Vec<u8> {
    [Digest::of(&[header]).0, Digest::of(&[body]).0, recipients.0].concat()
}

/// A request as this implementation seals it, to one recipient.
pub struct Sealed {
    pub header: Vec<u8>,
    pub body: Vec<u8>,
    pub wrap: Wrap,
}

/// What a misbehaving client changes.
pub struct Knobs {
    /// The key that the header commits to.
    pub committed_key: [u8; 32],
    /// The key inside the wrap and over the body.
    pub content_key: Vec<u8>,
    /// The plaintext, padding and all.
    pub padded: Vec<u8>,
}

impl Knobs {
    pub fn honest(plaintext: &[u8]) -> Self {
        Self { committed_key: [9; 32], content_key: vec![9; 32], padded: padded(plaintext, 1_024) }
    }
}

pub fn seal(mut header: SealedHeader, knobs: &Knobs, to: (ProviderId, EpochId, &[u8]), rng: &mut FixedRng) -> Sealed {
    let (provider, epoch, key) = to;
    header.recipients = recipient_list_digest([(&provider, &epoch)]);
    header.key_commitment = Digest::of(&[b"darkbloom/v1/content-key", &knobs.committed_key]);
    let bytes = header.encode();
    let mut content_key = [0; 32];
    let shared = knobs.content_key.len().min(32);
    content_key[..shared].copy_from_slice(&knobs.content_key[..shared]);
    let body = encrypt(&body_key(&content_key, &bytes), &[0; 12], &Digest::of(&[&bytes]).0, &knobs.padded);
    let key = PublicKey::from_bytes(key).unwrap();
    let (encapsulation, mut context) =
        hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, XWing>(&OpModeS::Base, &key, b"darkbloom/v1/wrap", rng)
            .unwrap();
    let ciphertext = context.seal(&knobs.content_key, &wrap_aad(&bytes, &body, &header.recipients)).unwrap();
    let wrap = Wrap { provider, epoch, encapsulation: encapsulation.to_bytes().to_vec(), ciphertext };
    Sealed { header: bytes, body, wrap }
}

/// Everything that opening yields.
pub struct Opened {
    pub content_key: [u8; 32],
    pub plaintext: Vec<u8>,
    pub response_secret: [u8; 32],
}

pub fn open(private: &PrivateKey, header: &[u8], body: &[u8], wrap: &Wrap) -> Opened {
    let recipients = SealedHeader::decode(header).unwrap().recipients;
    let encapsulation = Encapsulation::from_bytes(&wrap.encapsulation).unwrap();
    let mut context = hpke::setup_receiver::<AesGcm256, HkdfSha256, XWing>(
        &OpModeR::Base,
        private,
        &encapsulation,
        b"darkbloom/v1/wrap",
    )
    .unwrap();
    let opened = context.open(&wrap.ciphertext, &wrap_aad(header, body, &recipients)).unwrap();
    let content_key: [u8; 32] = opened.try_into().unwrap();
    let padded =
        decrypt(&body_key(&content_key, header), &[0; 12], &Digest::of(&[header]).0, body).expect("the body opens");
    let length = u32::from_be_bytes(padded[..4].try_into().unwrap()) as usize;
    let mut response_secret = [0; 32];
    context.export(b"darkbloom/v1/response", &mut response_secret).unwrap();
    Opened { content_key, plaintext: padded[4..4 + length].to_vec(), response_secret }
}

/// Key and nonce base of an answer.
pub fn answer_key(response_secret: &[u8; 32], of: &Acceptance) -> ([u8; 32], [u8; 12]) {
    let attempt = of.attempt.0.to_be_bytes();
    let info: [&[u8]; 5] = [b"darkbloom/v1/answer", &of.request_digest.0, &of.provider.0, &of.epoch.0, &attempt];
    let both: [u8; 44] = hkdf(&of.salt, response_secret, &info);
    (both[..32].try_into().unwrap(), both[32..].try_into().unwrap())
}

/// The nonce of a frame: the base, its last four bytes XOR the frame's number.
pub fn frame_nonce(base: [u8; 12], sequence: u32) -> [u8; 12] {
    let mut nonce = base;
    let last = u32::from_be_bytes(base[8..].try_into().unwrap()) ^ sequence;
    nonce[8..].copy_from_slice(&last.to_be_bytes());
    nonce
}
