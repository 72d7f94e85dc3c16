//! What a platform's certificate says about it (Intel SGX PCK Certificate and Certificate Revocation List Profile, section 1.3).

use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Encode as _, Error, Reader as _, SliceReader};

use super::*;

/// Intel's arc for a platform's certificate.
const PLATFORM: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
/// Levels, one for each part of the firmware, and after those the level of the certification enclave.
const LEVELS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.2");
const CERTIFICATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.3");
const LINE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1.4");
/// How many parts of the firmware have a level.
pub(super) const PARTS: usize = 16;

/// A platform, as Intel certified it.
pub(super) struct Platform {
    /// The line of platforms (`FMSPC`).
    pub line: [u8; 6],
    /// Which certification enclave it has (`PCE-ID`).
    pub certification: [u8; 2],
    /// Levels of parts of its firmware (`SGX TCB Comp SVN`).
    pub parts: [u8; PARTS],
    /// The level of its certification enclave (`PCESVN`).
    pub level: u16,
}

/// Pairs of a name and a value.
type Pairs<'a> = Vec<(ObjectIdentifier, AnyRef<'a>)>;

fn pairs(der: &[u8]) -> Option<Pairs<'_>> {
    let mut pairs = Vec::new();
    let mut reader = SliceReader::new(der).ok()?;
    let read = reader.sequence(|all| {
        while !all.is_finished() {
            let pair = all.sequence(|one| Ok::<_, Error>((one.decode()?, one.decode()?)))?;
            pairs.push(pair);
        }
        Ok::<_, Error>(())
    });
    read.and_then(|()| reader.finish()).ok().map(|()| pairs)
}

/// The value of a name that stands there once.
fn value<'a>(pairs: &Pairs<'a>, name: ObjectIdentifier) -> Option<AnyRef<'a>> {
    let mut values = pairs.iter().filter(|(id, _)| *id == name);
    let (_, value) = values.next()?;
    if values.next().is_some() { None } else { Some(*value) }
}

fn bytes<const N: usize>(pairs: &Pairs<'_>, name: ObjectIdentifier) -> Option<[u8; N]> {
    let string: &OctetStringRef = value(pairs, name)?.decode_as().ok()?;
    string.as_bytes().try_into().ok()
}

impl Platform {
    pub(super) fn read(certificate: &Certificate) -> Result<Self, TdxError> {
        let extension = certificate.raw_extension(&PLATFORM)?.ok_or(TdxError::Platform)?;
        Self::from_extension(extension).ok_or(TdxError::Platform)
    }

    fn from_extension(extension: &[u8]) -> Option<Self> {
        let about = pairs(extension)?;
        let levels = value(&about, LEVELS)?.to_der().ok()?;
        let levels = pairs(&levels)?;
        let level = |number: u32| {
            let value = value(&levels, LEVELS.push_arc(number).ok()?)?;
            value.decode_as::<u16>().ok()
        };
        let mut parts = [0; PARTS];
        for (number, part) in (1..).zip(&mut parts) {
            *part = u8::try_from(level(number)?).ok()?;
        }
        Some(Self {
            line: bytes(&about, LINE)?,
            certification: bytes(&about, CERTIFICATION)?,
            parts,
            level: level(17)?,
        })
    }
}
