//! A key file that is worth nothing without a secret which is kept elsewhere.
//!
//! ```text
//! darkbloom-p256-sealed-v1 SALT SEALED
//! ```
//!
//! AES-256-GCM seals the key; its key and nonce come from the secret and the file's own salt (HKDF-SHA-256), so no two files
//! share them, and what stands before the sealed part is authenticated with it. The secret is a key and no password: nothing
//! slows down whoever guesses one that has too little randomness.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::SoftwareKeyError;

/// First word of such a file.
const MAGIC: &str = "darkbloom-p256-sealed-v1";
/// What the key's and the nonce's derivation is for.
const INFO: &[u8] = b"darkbloom/v1/key-file";
/// Least bytes of a secret: 128 bits, if they are random.
const SECRET_BYTES_MIN: u64 = 16;
/// Most bytes: secrets that are wrapped or sealed are below this, and a file that is larger is another one.
const SECRET_BYTES_MAX: u64 = 4_096;
const SALT_BYTES: usize = 32;
const SCALAR_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// What a key file is sealed under. It is never shown, and overwritten when it is dropped.
pub struct KeySecret(Zeroizing<Vec<u8>>);

impl KeySecret {
    /// All bytes of a file, whatever they are: a line's end too.
    ///
    /// # Errors
    /// [`SoftwareKeyError::Secret`], [`SoftwareKeyError::SecretSize`].
    pub fn read(path: &Path) -> Result<Self, SoftwareKeyError> {
        let failed = |source| SoftwareKeyError::Secret { path: path.to_owned(), source };
        // With room for all of it from the start: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 1));
        read_up_to(path, SECRET_BYTES_MAX + 1, &mut bytes).map_err(failed)?;
        if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&(bytes.len() as u64)) {
            Ok(Self(bytes))
        } else {
            Err(SoftwareKeyError::SecretSize { path: path.to_owned() })
        }
    }

    /// For a key of this role.
    fn cipher(&self, salt: &[u8; SALT_BYTES], role: &str) -> (Aes256Gcm, [u8; 12]) {
        let mut okm = Zeroizing::new([0; 44]);
        let expanded =
            Hkdf::<Sha256>::new(Some(salt), &self.0).expand_multi_info(&[INFO, b" ", role.as_bytes()], &mut *okm);
        expanded.expect("44 bytes are within HKDF's limit");
        let (key, rest) = okm.split_at(32);
        let mut nonce = [0; 12];
        nonce.copy_from_slice(rest);
        (Aes256Gcm::new_from_slice(key).expect("the key has 32 bytes"), nonce)
    }
}

fn read_up_to(path: &Path, most: u64, to: &mut Vec<u8>) -> io::Result<()> {
    let mut file = File::open(path)?.take(most);
    let mut block = Zeroizing::new([0; 512]);
    loop {
        match file.read(&mut *block)? {
            0 => return Ok(()),
            read => to.extend_from_slice(&block[..read]),
        }
    }
}

/// Whether a file's text begins as one that is sealed.
pub fn is_sealed(text: &str) -> bool {
    text.split(' ').next() == Some(MAGIC)
}

/// The contents of a key file.
pub fn seal(scalar: &[u8; SCALAR_BYTES], secret: &KeySecret, role: &str) -> Result<String, SoftwareKeyError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|_| SoftwareKeyError::Randomness)?;
    let head = format!("{MAGIC} {}", hex::encode(salt));
    let mut sealed = Zeroizing::new(*scalar);
    let (cipher, nonce) = secret.cipher(&salt, role);
    let tag = cipher
        .encrypt_inout_detached(&Nonce::from(nonce), head.as_bytes(), sealed.as_mut_slice().into())
        .expect("32 bytes are within the cipher's limit");
    Ok(format!("{head} {}{}\n", hex::encode(*sealed), hex::encode(tag)))
}

/// The key in a file that was read; nothing when another secret sealed it, or for another role, or when it was changed.
pub fn open(text: &str, secret: &KeySecret, role: &str) -> Option<Zeroizing<[u8; SCALAR_BYTES]>> {
    let (head, digits) = text.strip_suffix('\n')?.rsplit_once(' ')?;
    let mut salt = [0; SALT_BYTES];
    hex::decode_to_slice(head.strip_prefix(MAGIC)?.strip_prefix(' ')?, &mut salt).ok()?;
    let mut sealed = [0; SCALAR_BYTES + TAG_BYTES];
    hex::decode_to_slice(digits, &mut sealed).ok()?;
    let (contents, tag) = sealed.split_at(SCALAR_BYTES);
    let mut scalar = Zeroizing::new([0; SCALAR_BYTES]);
    scalar.copy_from_slice(contents);
    let tag: [u8; TAG_BYTES] = tag.try_into().ok()?;
    let (cipher, nonce) = secret.cipher(&salt, role);
    cipher
        .decrypt_inout_detached(&Nonce::from(nonce), head.as_bytes(), scalar.as_mut_slice().into(), &tag.into())
        .ok()?;
    Some(scalar)
}
