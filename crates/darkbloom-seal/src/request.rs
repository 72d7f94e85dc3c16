//! Sealing a request to several candidates, and opening it at one of them.

use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use darkbloom_types::{Digest, EpochId, ProviderId, SecretBytes, armed};
use darkbloom_wire::{DecodeError, SealedHeader, Submit, Wrap, limits, recipient_list_digest};
use hkdf::Hkdf;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use rand_core::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::padding::{PaddingError, body_size, pad, unpad};

/// HPKE's `info`: ties encapsulations to this use.
const WRAP_INFO: &[u8] = b"darkbloom/v1/wrap";
/// HPKE's exporter context for answers.
const RESPONSE_EXPORT: &[u8] = b"darkbloom/v1/response";
/// HKDF's info for the body key.
const BODY_INFO: &[u8] = b"darkbloom/v1/body";
/// What the content key is hashed with for its commitment.
const COMMITMENT_DOMAIN: &[u8] = b"darkbloom/v1/content-key";

/// AES-GCM's tag (NIST SP 800-38D).
pub(crate) const TAG_BYTES: usize = 16;

/// Why a request could not be sealed: the caller's or a candidate's fault, said before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The plaintext is over the largest size.
    #[error(transparent)]
    TooLong(#[from] PaddingError),
    /// No recipients, or more than allowed.
    #[error("a request is sealed to 1 to {max} recipients, not {0}", max = limits::WRAPS_MAX)]
    Recipients(usize),
    /// The same provider and epoch twice: their answers could not be told apart.
    #[error("provider {} stands among the recipients twice", .0.short())]
    Twice(ProviderId),
    /// A candidate's sealing key is not valid.
    #[error("the sealing key of provider {} is not valid", .0.short())]
    SealingKey(ProviderId),
}

/// Why a sealed request does not open. Charged to the client's limits, never to a provider's health.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenRequestError {
    /// The header is not one.
    #[error("the header is not valid: {0}")]
    Header(#[from] DecodeError),
    /// The wrap does not open with this epoch's key, or was made for another header, body or recipient list.
    #[error("the wrap does not open")]
    Wrap,
    /// The content key is not the one that the header commits to.
    #[error("the content key is not the one in the header")]
    Commitment,
    /// The body does not authenticate.
    #[error("the body does not open")]
    Body,
    /// The body's padding is not valid.
    #[error("the body's padding is not valid")]
    Padding,
}

/// Who a request is sealed to.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The provider.
    pub provider: ProviderId,
    /// Its epoch.
    pub epoch: EpochId,
    /// The epoch's X-Wing public key.
    pub sealing_key: &'a [u8],
}

/// What client and one recipient share for the answer. Erased on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ResponseSecret(pub(crate) [u8; 32]);

impl std::fmt::Debug for ResponseSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResponseSecret(…)")
    }
}

/// A sealed request and what its sender keeps to open the answer.
#[derive(Debug)]
pub struct RequestSeal {
    /// What is sent.
    pub submit: Submit,
    /// The header that was sealed, complete.
    pub header: SealedHeader,
    /// SHA-256 over header ‖ body: receipts name it.
    pub request_digest: Digest,
    secrets: Vec<(ProviderId, EpochId, ResponseSecret)>,
}

impl RequestSeal {
    /// The secret shared with one recipient; none for anybody else.
    #[must_use]
    pub fn response_secret(&self, provider: &ProviderId, epoch: &EpochId) -> Option<&ResponseSecret> {
        self.secrets.iter().find(|(p, e, _)| p == provider && e == epoch).map(|(_, _, secret)| secret)
    }
}

/// The digest that receipts name: SHA-256(header ‖ body ciphertext).
#[must_use]
pub fn request_digest(header: &[u8], body: &[u8]) -> Digest {
    Digest::of(&[header, body])
}

fn commitment(content_key: &[u8; 32]) -> Digest {
    Digest::of(&[COMMITMENT_DOMAIN, content_key])
}

/// The body's cipher. Its key is used for one message, so the nonce is fixed.
fn body_cipher(content_key: &[u8; 32], header_digest: &Digest) -> aes_gcm::Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(header_digest.as_bytes()), content_key)
        .expand(BODY_INFO, &mut *key)
        .expect("32 bytes are within HKDF's limit");
    aes_gcm::Aes256Gcm::new((&*key).into())
}

/// What ties wraps and body to their header.
fn header_digest(header: &[u8]) -> Digest {
    if armed!("seal_header") { Digest::of(&[header]) } else { Digest([0; 32]) }
}

/// For the attack suite's second build alone, which has to see what the tag is worth: takes the key stream off and looks at no
/// tag. In counter mode that is what sealing does.
pub(crate) fn decrypt_unchecked(cipher: &aes_gcm::Aes256Gcm, nonce: &aes_gcm::Nonce<U12>, buffer: &mut Vec<u8>) {
    let length = buffer.len().saturating_sub(TAG_BYTES);
    buffer.truncate(length);
    cipher.encrypt_in_place(nonce, &[], buffer).expect("what was sealed is below AES-GCM's limit");
    buffer.truncate(length);
}

fn wrap_aad(header_digest: &Digest, body_digest: &Digest, recipients: &Digest) -> [u8; 96] {
    let mut aad = [0; 96];
    if !armed!("seal_header") {
        return aad;
    }
    aad[..32].copy_from_slice(header_digest.as_bytes());
    if armed!("seal_body") {
        aad[32..64].copy_from_slice(body_digest.as_bytes());
    }
    aad[64..].copy_from_slice(recipients.as_bytes());
    aad
}

/// Seals a plaintext to the recipients. `header.recipients` and `header.key_commitment` are filled in here; all other
/// fields are the caller's.
///
/// # Errors
/// [`SealError`] says what is wrong.
pub fn seal_request(
    mut header: SealedHeader,
    plaintext: &SecretBytes,
    recipients: &[Recipient<'_>],
    rng: &mut impl CryptoRng,
) -> Result<RequestSeal, SealError> {
    if recipients.is_empty() || recipients.len() > limits::WRAPS_MAX {
        return Err(SealError::Recipients(recipients.len()));
    }
    for (index, one) in recipients.iter().enumerate() {
        if recipients[..index].iter().any(|other| (other.provider, other.epoch) == (one.provider, one.epoch)) {
            return Err(SealError::Twice(one.provider));
        }
    }
    let mut content_key = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *content_key);
    header.recipients = recipient_list_digest(recipients.iter().map(|r| (&r.provider, &r.epoch)));
    header.key_commitment = commitment(&content_key);
    let header_bytes = header.encode();
    let header_digest = header_digest(&header_bytes);

    let mut padded = pad(plaintext.expose(), body_size(plaintext.len())?)?;
    body_cipher(&content_key, &header_digest)
        .encrypt_in_place(&[0; 12].into(), header_digest.as_bytes(), &mut *padded)
        .expect("a padded body is far below AES-GCM's limit");
    let body = std::mem::take(&mut *padded);
    let aad = wrap_aad(&header_digest, &Digest::of(&[&body]), &header.recipients);

    let (mut wraps, mut secrets) = (Vec::new(), Vec::new());
    for recipient in recipients {
        let invalid = |_| SealError::SealingKey(recipient.provider);
        let key = <XWing as hpke::Kem>::PublicKey::from_bytes(recipient.sealing_key).map_err(invalid)?;
        let (encapsulation, mut context) =
            hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, XWing>(&OpModeS::Base, &key, WRAP_INFO, rng)
                .map_err(invalid)?;
        let ciphertext = context.seal(&*content_key, &aad).map_err(invalid)?;
        let mut secret = ResponseSecret([0; 32]);
        context.export(RESPONSE_EXPORT, &mut secret.0).map_err(invalid)?;
        wraps.push(Wrap {
            provider: recipient.provider,
            epoch: recipient.epoch,
            encapsulation: encapsulation.to_bytes().to_vec(),
            ciphertext,
        });
        secrets.push((recipient.provider, recipient.epoch, secret));
    }
    let request_digest = request_digest(&header_bytes, &body);
    Ok(RequestSeal {
        submit: Submit { header: header_bytes, body, wraps: wraps.into(), supersedes: None, candidates_as_of: None },
        header,
        request_digest,
        secrets,
    })
}

/// An opened request.
#[derive(Debug)]
pub struct Opened {
    /// The plaintext.
    pub plaintext: SecretBytes,
    /// What the answer's keys are derived from.
    pub response_secret: ResponseSecret,
    /// SHA-256 over header ‖ body.
    pub request_digest: Digest,
}

/// An X-Wing private key.
pub(crate) type SealingSecret = <XWing as hpke::Kem>::PrivateKey;

/// A fresh X-Wing key pair: the private key and the public key's bytes.
pub(crate) fn sealing_pair(rng: &mut impl CryptoRng) -> (SealingSecret, Vec<u8>) {
    let (secret, public) = XWing::gen_keypair_with_rng(rng);
    (secret, public.to_bytes().to_vec())
}

/// Opens a request with an epoch's private key. The caller has checked network, clock, epoch and replay.
pub(crate) fn open_request(
    secret: &SealingSecret,
    header_bytes: &[u8],
    header: &SealedHeader,
    body: &[u8],
    wrap: &Wrap,
) -> Result<Opened, OpenRequestError> {
    let header_digest = header_digest(header_bytes);
    let aad = wrap_aad(&header_digest, &Digest::of(&[body]), &header.recipients);
    let encapsulation =
        <XWing as hpke::Kem>::EncappedKey::from_bytes(&wrap.encapsulation).map_err(|_| OpenRequestError::Wrap)?;
    let mut context =
        hpke::setup_receiver::<AesGcm256, HkdfSha256, XWing>(&OpModeR::Base, secret, &encapsulation, WRAP_INFO)
            .map_err(|_| OpenRequestError::Wrap)?;
    let opened = Zeroizing::new(context.open(&wrap.ciphertext, &aad).map_err(|_| OpenRequestError::Wrap)?);
    let content_key: Zeroizing<[u8; 32]> =
        Zeroizing::new(opened.as_slice().try_into().map_err(|_| OpenRequestError::Wrap)?);
    // Without this check, one body could be made to open to different texts under two keys (AES-GCM commits to no key).
    if !bool::from(commitment(&content_key).0.ct_eq(&header.key_commitment.0)) {
        return Err(OpenRequestError::Commitment);
    }
    let mut padded = Zeroizing::new(body.to_vec());
    let (cipher, nonce) = (body_cipher(&content_key, &header_digest), [0; 12].into());
    if armed!("seal_body") {
        let opened = cipher.decrypt_in_place(&nonce, header_digest.as_bytes(), &mut *padded);
        opened.map_err(|_| OpenRequestError::Body)?;
    } else {
        decrypt_unchecked(&cipher, &nonce, &mut padded);
    }
    let plaintext = SecretBytes::new(unpad(&padded).map_err(|_| OpenRequestError::Padding)?.to_vec());
    let mut response_secret = ResponseSecret([0; 32]);
    context.export(RESPONSE_EXPORT, &mut response_secret.0).map_err(|_| OpenRequestError::Wrap)?;
    Ok(Opened { plaintext, response_secret, request_digest: request_digest(header_bytes, body) })
}
