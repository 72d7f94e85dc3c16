//! What App Attest writes in CBOR and beside it: maps with keys of text, in the order that Apple chose, and authenticator data
//! (W3C Web Authentication Level 2, section 6.1). Read strictly: exactly these keys, definite lengths in shortest form, nothing
//! left over.

use darkbloom_wire::{DecodeError, Reader};

/// The format that an attestation object names.
const FORMAT: &str = "apple-appattest";
/// Longest key of a map: the system's are under 30 bytes.
const KEY_BYTES_MAX: usize = 64;
/// The app's certificate and those between it and the root: Apple gives one.
const CERTIFICATES_MAX: usize = 4;
const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
const RECEIPT_BYTES_MAX: usize = 8 * 1024;
/// A signature on P-256 in DER.
const SIGNATURE_BYTES_MAX: usize = 72;
/// Authenticator data: 164 bytes of an attestation, and what the system adds, 62 in the sample of Apple's guide.
const AUTHENTICATOR_BYTES_MAX: usize = 768;
/// What the system adds: a version, a category and, as some of macOS 27 do, a hash of the code.
const EXTENSIONS_MAX: usize = 16;
/// How deep what the system adds may nest: its values are texts, bytes and numbers.
const EXTENSION_DEPTH: usize = 2;
/// Before the public key of a credential, its x and its y: a map of five pairs, EC2, ES256, P-256 (RFC 9053 section 7.1.1).
const COSE_KEY: [&[u8]; 2] = [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32], &[0x22, 0x58, 32]];

/// An attestation object. Its receipt is for Apple's own servers and proves nothing here.
pub(super) struct Attestation<'a> {
    /// The app's certificate, then those between it and the root.
    pub certificates: Vec<&'a [u8]>,
    /// The authenticator data as received.
    pub authenticator_data: &'a [u8],
}

/// An assertion.
pub(super) struct Assertion<'a> {
    /// The signature in DER.
    pub signature: &'a [u8],
    /// The authenticator data as received.
    pub authenticator_data: &'a [u8],
}

/// Authenticator data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AuthenticatorData<'a> {
    /// SHA-256 of the app's id.
    pub app: &'a [u8; 32],
    /// How often the key has signed.
    pub counter: u32,
}

/// The credential in an attestation's authenticator data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credential<'a> {
    /// In which environment the key was attested.
    pub environment: &'a [u8; 16],
    /// The key's name: SHA-256 of its point.
    pub id: &'a [u8; 32],
    /// The key's coordinates.
    pub key: [&'a [u8]; 2],
}

/// Fills a place that must be empty: a key that stands twice is refused.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), DecodeError> {
    if place.replace(value).is_some() { Err(DecodeError::NotDeterministic) } else { Ok(()) }
}

/// A map of exactly so many pairs.
fn map_of(pairs: usize, from: &mut Reader<'_>) -> Result<(), DecodeError> {
    if from.map(pairs)? == pairs { Ok(()) } else { Err(DecodeError::MissingKey { key: 0 }) }
}

fn found<T>(place: Option<T>) -> Result<T, DecodeError> {
    place.ok_or(DecodeError::MissingKey { key: 0 })
}

impl<'a> Attestation<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let (mut format, mut certificates, mut authenticator_data) = (None, None, None);
        map_of(3, &mut from)?;
        for _ in 0..3 {
            match from.text(KEY_BYTES_MAX)? {
                "fmt" => once(&mut format, from.text(KEY_BYTES_MAX)?)?,
                "attStmt" => once(&mut certificates, Self::read_statement(&mut from)?)?,
                "authData" => once(&mut authenticator_data, from.bytes(AUTHENTICATOR_BYTES_MAX)?)?,
                _ => return Err(DecodeError::UnknownKey { key: 0 }),
            }
        }
        from.end()?;
        if format != Some(FORMAT) {
            return Err(DecodeError::BadValue { key: 0 });
        }
        Ok(Self { certificates: found(certificates)?, authenticator_data: found(authenticator_data)? })
    }

    fn read_statement(from: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, DecodeError> {
        let (mut certificates, mut receipt) = (None, None);
        map_of(2, from)?;
        for _ in 0..2 {
            match from.text(KEY_BYTES_MAX)? {
                "x5c" => {
                    let count = from.array(CERTIFICATES_MAX)?;
                    let read = (0..count).map(|_| from.bytes(CERTIFICATE_BYTES_MAX)).collect::<Result<_, _>>()?;
                    once(&mut certificates, read)?;
                }
                "receipt" => once(&mut receipt, from.bytes(RECEIPT_BYTES_MAX)?)?,
                _ => return Err(DecodeError::UnknownKey { key: 0 }),
            }
        }
        found(receipt)?;
        found(certificates)
    }
}

impl<'a> Assertion<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let (mut signature, mut authenticator_data) = (None, None);
        map_of(2, &mut from)?;
        for _ in 0..2 {
            match from.text(KEY_BYTES_MAX)? {
                "signature" => once(&mut signature, from.bytes(SIGNATURE_BYTES_MAX)?)?,
                "authenticatorData" => once(&mut authenticator_data, from.bytes(AUTHENTICATOR_BYTES_MAX)?)?,
                _ => return Err(DecodeError::UnknownKey { key: 0 }),
            }
        }
        from.end()?;
        Ok(Self { signature: found(signature)?, authenticator_data: found(authenticator_data)? })
    }
}

impl<'a> AuthenticatorData<'a> {
    /// An attestation's: 37 bytes, a credential of 127, and what the system adds.
    pub(super) fn of_attestation(bytes: &'a [u8]) -> Option<(Self, Credential<'a>)> {
        let (data, rest) = Self::read(bytes)?;
        let (environment, rest) = rest.split_first_chunk()?;
        let rest = rest.strip_prefix(&32_u16.to_be_bytes())?;
        let (id, rest) = rest.split_first_chunk()?;
        let (x, rest) = rest.strip_prefix(COSE_KEY[0])?.split_at_checked(32)?;
        let (y, rest) = rest.strip_prefix(COSE_KEY[1])?.split_at_checked(32)?;
        are_extensions(rest).then_some((data, Credential { environment, id, key: [x, y] }))
    }

    /// An assertion's: 37 bytes, and what the system adds.
    pub(super) fn of_assertion(bytes: &'a [u8]) -> Option<Self> {
        let (data, rest) = Self::read(bytes)?;
        are_extensions(rest).then_some(data)
    }

    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (app, rest) = bytes.split_first_chunk()?;
        // The flags say what follows (section 6.1). Apple's do not: the sample of its "Attestation Object Validation Guide" has
        // extensions without the flag for them, and assertions have the flag of a credential without one. They are signed like
        // the rest, and what follows is told by its form.
        let (_, rest) = rest.split_first()?;
        let (counter, rest) = rest.split_first_chunk()?;
        Some((Self { app, counter: u32::from_be_bytes(*counter) }, rest))
    }
}

/// Whether these bytes are nothing, or exactly one map of what the system adds. No value of it is believed.
fn are_extensions(bytes: &[u8]) -> bool {
    let read = || {
        let mut from = Reader::new(bytes);
        for _ in 0..from.map(EXTENSIONS_MAX)? {
            from.text(KEY_BYTES_MAX)?;
            from.skip(EXTENSION_DEPTH)?;
        }
        from.end()
    };
    bytes.is_empty() || read().is_ok()
}
