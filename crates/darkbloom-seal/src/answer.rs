//! Sealing and opening an answer: numbered, padded frames with an authenticated end, chained into a transcript.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use darkbloom_types::{AttemptNumber, Digest, EpochId, ProviderId, SecretBytes, TokenCount, armed};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::padding::{PaddingError, pad, unpad};
use crate::request::{ResponseSecret, TAG_BYTES, decrypt_unchecked};

/// HKDF's info for an answer's key and nonce base.
const ANSWER_INFO: &[u8] = b"darkbloom/v1/answer";
/// HKDF's info for a refusal's key.
const REFUSAL_INFO: &[u8] = b"darkbloom/v1/refusal";
/// Where a transcript's hash chain begins.
const TRANSCRIPT_DOMAIN: &[u8] = b"darkbloom/v1/transcript";
/// Padded sizes and the most tokens that go into each: about 40 bytes of text a token beside its number.
pub const FRAME_SIZES: [(usize, u32); 5] = [(64, 1), (256, 6), (1_024, 25), (4_096, 100), (16_384, 400)];
/// Size of the plaintext in a sealed refusal.
const REFUSAL_SIZE: usize = 1_024;

/// The padded size of a frame that carries so many tokens. It depends on that number alone, which travels in clear
/// anyway: the lengths of texts do not show.
#[must_use]
pub fn frame_size(tokens: u32) -> usize {
    FRAME_SIZES.iter().find(|(_, most)| tokens <= *most).map_or(FRAME_SIZES[FRAME_SIZES.len() - 1].0, |(size, _)| *size)
}

/// Whether a ciphertext has the length of one of the padded sizes: any other could carry a message in its length.
fn has_allowed_size(ciphertext: &[u8]) -> bool {
    FRAME_SIZES.iter().any(|(size, _)| ciphertext.len() == size + TAG_BYTES)
}

/// Why an answer is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// A frame is missing, doubled or out of order.
    #[error("frame {found} came where frame {expected} belongs")]
    Order {
        /// The number that belongs here.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// A frame does not authenticate.
    #[error("a frame of the answer does not open")]
    Frame,
    /// A ciphertext of a length that no padded size has.
    #[error("a frame of {bytes} bytes has none of the sizes that frames have")]
    Size {
        /// Its length.
        bytes: usize,
    },
    /// A frame's padding is not valid.
    #[error("a frame's padding is not valid")]
    Padding,
    /// A frame after the end.
    #[error("a frame came after the end")]
    AfterEnd,
    /// The token count goes backwards.
    #[error("the token count goes backwards")]
    Count,
    /// More content than the size holds.
    #[error("the content does not fit into its frame")]
    TooLong,
    /// More frames than one key may seal.
    #[error("too many frames")]
    TooMany,
    /// An earlier frame was refused: nothing after it is part of an answer.
    #[error("an earlier frame of this answer was refused")]
    Broken,
}

impl From<PaddingError> for AnswerError {
    fn from(error: PaddingError) -> Self {
        match error {
            PaddingError::TooLong { .. } => Self::TooLong,
            PaddingError::Invalid => Self::Padding,
        }
    }
}

/// One sealed piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFrame {
    /// Its number, from 0.
    pub sequence: u32,
    /// Output tokens so far, this piece included.
    pub tokens: TokenCount,
    /// Whether it is the last.
    pub end: bool,
    /// The ciphertext.
    pub ciphertext: Vec<u8>,
}

impl SealedFrame {
    fn aad(&self) -> [u8; 9] {
        let mut aad = [0; 9];
        aad[..4].copy_from_slice(&self.sequence.to_be_bytes());
        aad[4..8].copy_from_slice(&self.tokens.0.to_be_bytes());
        aad[8] = u8::from(self.end);
        aad
    }
}

/// One acceptance of one request: everything that makes its keys and its transcript different from any other's.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// SHA-256(header ‖ body).
    pub request_digest: Digest,
    /// Who accepted.
    pub provider: ProviderId,
    /// In which epoch.
    pub epoch: EpochId,
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// The provider's fresh randomness.
    pub salt: [u8; 32],
}

/// The hash chain over an answer's ciphertext, from `Accepted` on. Needs no key: the coordinator computes it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcript(Digest);

impl Transcript {
    /// The chain's beginning.
    #[must_use]
    pub fn begin(of: &Acceptance) -> Self {
        Self(Digest::of(&[
            TRANSCRIPT_DOMAIN,
            of.request_digest.as_bytes(),
            of.provider.as_bytes(),
            of.epoch.as_bytes(),
            &of.attempt.0.to_be_bytes(),
            &of.salt,
        ]))
    }

    /// Takes the next frame in. Every part has a fixed length but the ciphertext, which is last.
    pub fn push(&mut self, frame: &SealedFrame) {
        self.0 = Digest::of(&[self.0.as_bytes(), &frame.aad(), &frame.ciphertext]);
    }

    /// The chain so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0
    }
}

/// Key, nonces and transcript of one answer; the same on both sides.
struct Chain {
    cipher: Aes256Gcm,
    nonce_base: [u8; 12],
    transcript: Transcript,
    next: u32,
    tokens: TokenCount,
    ended: bool,
}

impl Chain {
    fn new(secret: &ResponseSecret, of: &Acceptance) -> Self {
        let mut info = Vec::with_capacity(128);
        info.extend_from_slice(ANSWER_INFO);
        info.extend_from_slice(of.request_digest.as_bytes());
        info.extend_from_slice(of.provider.as_bytes());
        info.extend_from_slice(of.epoch.as_bytes());
        info.extend_from_slice(&of.attempt.0.to_be_bytes());
        let salt = if armed!("answer_acceptance") { of.salt } else { [0; 32] };
        if !armed!("answer_acceptance") {
            info.clear();
        }
        let mut okm = Zeroizing::new([0; 44]);
        Hkdf::<Sha256>::new(Some(&salt), &secret.0).expand(&info, &mut *okm).expect("44 bytes are within HKDF's limit");
        let (key, nonce) = okm.split_at(32);
        let mut nonce_base = [0; 12];
        nonce_base.copy_from_slice(nonce);
        Self {
            cipher: Aes256Gcm::new_from_slice(key).expect("the key has 32 bytes"),
            nonce_base,
            transcript: Transcript::begin(of),
            next: 0,
            tokens: TokenCount(0),
            ended: false,
        }
    }

    fn nonce(&self, sequence: u32) -> [u8; 12] {
        let mut nonce = self.nonce_base;
        for (byte, count) in nonce[8..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= count;
        }
        nonce
    }

    /// Takes a frame into the transcript. Both sides call it once a frame, in order.
    fn advance(&mut self, frame: &SealedFrame) -> Result<(), AnswerError> {
        self.transcript.push(frame);
        self.next = self.next.checked_add(1).ok_or(AnswerError::TooMany)?;
        self.tokens = frame.tokens;
        self.ended = frame.end;
        Ok(())
    }
}

/// The provider's side of one answer.
pub struct AnswerSealer {
    chain: Chain,
}

impl AnswerSealer {
    /// The sealer of one acceptance. Its salt is fresh randomness; with it, no two acceptances share a key.
    #[must_use]
    pub fn new(secret: &ResponseSecret, acceptance: &Acceptance) -> Self {
        Self { chain: Chain::new(secret, acceptance) }
    }

    /// Seals one piece, padded to `size`, which is one that [`frame_size`] gives. `tokens` counts all output tokens so
    /// far.
    ///
    /// # Errors
    /// [`AnswerError`] when the content does not fit or the answer is over.
    pub fn seal(
        &mut self,
        content: &[u8],
        size: usize,
        tokens: TokenCount,
        end: bool,
    ) -> Result<SealedFrame, AnswerError> {
        if self.chain.ended {
            return Err(AnswerError::AfterEnd);
        }
        if tokens < self.chain.tokens {
            return Err(AnswerError::Count);
        }
        let mut padded = pad(content, size)?;
        if FRAME_SIZES.iter().all(|(allowed, _)| *allowed != size) {
            return Err(AnswerError::Size { bytes: size });
        }
        let mut frame = SealedFrame { sequence: self.chain.next, tokens, end, ciphertext: Vec::new() };
        let nonce = self.chain.nonce(frame.sequence);
        self.chain
            .cipher
            .encrypt_in_place(&nonce.into(), &frame.aad(), &mut *padded)
            .map_err(|_| AnswerError::TooLong)?;
        frame.ciphertext = std::mem::take(&mut *padded);
        self.chain.advance(&frame)?;
        Ok(frame)
    }

    /// The hash chain so far: after the last frame, what the receipt names.
    #[must_use]
    pub fn transcript(&self) -> Digest {
        self.chain.transcript.digest()
    }

    /// Most content bytes that a frame of this padded size holds.
    #[must_use]
    pub fn capacity(size: usize) -> usize {
        size.saturating_sub(4)
    }
}

/// The client's side of one answer.
pub struct AnswerOpener {
    chain: Chain,
    broken: bool,
}

impl AnswerOpener {
    /// The opener of one acceptance, from what `Accepted` says.
    #[must_use]
    pub fn new(secret: &ResponseSecret, acceptance: &Acceptance) -> Self {
        Self { chain: Chain::new(secret, acceptance), broken: false }
    }

    /// Opens the next piece. After an error the answer is worthless: nothing more of it opens, and it never ends.
    ///
    /// # Errors
    /// [`AnswerError`] when it is not the next authentic piece.
    pub fn open(&mut self, frame: &SealedFrame) -> Result<SecretBytes, AnswerError> {
        if self.broken {
            return Err(AnswerError::Broken);
        }
        let opened = self.open_next(frame);
        self.broken = opened.is_err();
        opened
    }

    fn open_next(&mut self, frame: &SealedFrame) -> Result<SecretBytes, AnswerError> {
        if armed!("answer_after_end") && self.chain.ended {
            return Err(AnswerError::AfterEnd);
        }
        if armed!("answer_order") && frame.sequence != self.chain.next {
            return Err(AnswerError::Order { expected: self.chain.next, found: frame.sequence });
        }
        if armed!("answer_count") && frame.tokens < self.chain.tokens {
            return Err(AnswerError::Count);
        }
        if !has_allowed_size(&frame.ciphertext) {
            return Err(AnswerError::Size { bytes: frame.ciphertext.len() });
        }
        let mut padded = Zeroizing::new(frame.ciphertext.clone());
        let (cipher, nonce) = (&self.chain.cipher, self.chain.nonce(frame.sequence).into());
        if armed!("answer_tag") {
            cipher.decrypt_in_place(&nonce, &frame.aad(), &mut *padded).map_err(|_| AnswerError::Frame)?;
        } else {
            decrypt_unchecked(cipher, &nonce, &mut padded);
        }
        let content = SecretBytes::new(unpad(&padded)?.to_vec());
        self.chain.advance(frame)?;
        Ok(content)
    }

    /// Whether the authenticated end came, and nothing that was refused.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.chain.ended && !self.broken
    }

    /// Output tokens that the frames so far carry.
    #[must_use]
    pub fn tokens(&self) -> TokenCount {
        self.chain.tokens
    }

    /// The hash chain so far, to compare with the receipt.
    #[must_use]
    pub fn transcript(&self) -> Digest {
        self.chain.transcript.digest()
    }
}

fn refusal_cipher(secret: &ResponseSecret, request_digest: &Digest, salt: &[u8; 32]) -> Aes256Gcm {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), &secret.0)
        .expand_multi_info(&[REFUSAL_INFO, request_digest.as_bytes()], &mut *key)
        .expect("32 bytes are within HKDF's limit");
    Aes256Gcm::new((&*key).into())
}

/// Seals a refusal's words for the client alone: salt ‖ ciphertext.
///
/// # Errors
/// [`AnswerError::TooLong`] when the words do not fit.
pub fn seal_refusal(
    secret: &ResponseSecret,
    request_digest: &Digest,
    salt: &[u8; 32],
    words: &[u8],
) -> Result<Vec<u8>, AnswerError> {
    let mut padded = pad(words, REFUSAL_SIZE)?;
    refusal_cipher(secret, request_digest, salt)
        .encrypt_in_place(&[0; 12].into(), request_digest.as_bytes(), &mut *padded)
        .map_err(|_| AnswerError::TooLong)?;
    let mut sealed = salt.to_vec();
    sealed.extend_from_slice(&padded);
    Ok(sealed)
}

/// Opens what [`seal_refusal`] made.
///
/// # Errors
/// [`AnswerError`] when it does not authenticate.
pub fn open_refusal(
    secret: &ResponseSecret,
    request_digest: &Digest,
    sealed: &[u8],
) -> Result<SecretBytes, AnswerError> {
    let (salt, ciphertext) = sealed.split_first_chunk::<32>().ok_or(AnswerError::Frame)?;
    if ciphertext.len() != REFUSAL_SIZE + TAG_BYTES {
        return Err(AnswerError::Size { bytes: ciphertext.len() });
    }
    let mut padded = Zeroizing::new(ciphertext.to_vec());
    let (cipher, nonce) = (refusal_cipher(secret, request_digest, salt), [0; 12].into());
    if armed!("refusal_tag") {
        let opened = cipher.decrypt_in_place(&nonce, request_digest.as_bytes(), &mut *padded);
        opened.map_err(|_| AnswerError::Frame)?;
    } else {
        decrypt_unchecked(&cipher, &nonce, &mut padded);
    }
    Ok(SecretBytes::new(unpad(&padded)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> (ResponseSecret, Acceptance) {
        let secret = ResponseSecret([1; 32]);
        let acceptance = Acceptance {
            request_digest: Digest([2; 32]),
            provider: ProviderId([3; 32]),
            epoch: EpochId([4; 16]),
            attempt: AttemptNumber(1),
            salt: [5; 32],
        };
        (secret, acceptance)
    }

    /// A frame that authenticates, of any size.
    fn authentic(size: usize) -> SealedFrame {
        let (secret, acceptance) = shared();
        let chain = Chain::new(&secret, &acceptance);
        let mut frame = SealedFrame { sequence: 0, tokens: TokenCount(1), end: false, ciphertext: vec![0; size] };
        let aad = frame.aad();
        chain.cipher.encrypt_in_place(&chain.nonce(0).into(), &aad, &mut frame.ciphertext).unwrap();
        frame
    }

    #[test]
    fn an_authentic_frame_of_another_size_is_refused() {
        let (secret, acceptance) = shared();
        for (size, _) in FRAME_SIZES {
            assert!(AnswerOpener::new(&secret, &acceptance).open(&authentic(size)).is_ok());
            for other in [size - 1, size + 1] {
                let opened = AnswerOpener::new(&secret, &acceptance).open(&authentic(other));
                assert_eq!(opened.err(), Some(AnswerError::Size { bytes: other + TAG_BYTES }));
            }
        }
    }

    #[test]
    fn nothing_is_sealed_into_another_size() {
        let (secret, acceptance) = shared();
        let mut sealer = AnswerSealer::new(&secret, &acceptance);
        assert_eq!(sealer.seal(b"text", 65, TokenCount(1), false), Err(AnswerError::Size { bytes: 65 }));
        assert_eq!(sealer.seal(b"text", 64, TokenCount(1), false).unwrap().sequence, 0);
    }

    #[test]
    fn authentic_words_of_another_size_are_refused() {
        let (secret, acceptance) = shared();
        let request = acceptance.request_digest;
        for size in [REFUSAL_SIZE - 1, REFUSAL_SIZE + 1] {
            let mut padded = pad(b"too long", size).unwrap().to_vec();
            let cipher = refusal_cipher(&secret, &request, &[6; 32]);
            cipher.encrypt_in_place(&[0; 12].into(), request.as_bytes(), &mut padded).unwrap();
            let sealed = [[6; 32].as_slice(), &padded].concat();
            let opened = open_refusal(&secret, &request, &sealed);
            assert_eq!(opened.err(), Some(AnswerError::Size { bytes: size + TAG_BYTES }));
        }
    }
}
