//! Strict reading and leak-free writing of deterministic CBOR.
//!
//! The reader refuses everything that has a shorter or different canonical form; the writer measures first and then
//! writes into a buffer that never grows, so that no copy of a secret stays behind in a freed allocation.

use std::convert::Infallible;

use darkbloom_types::SecretBytes;
use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};
use minicbor::encode::{Encoder, Write};

use crate::request::InvalidRequestError;

/// Why bytes are not a value of ours. Says where, never what stood there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeContentError {
    /// The bytes end inside the value.
    #[error("the encoding ends in the middle of a value")]
    Truncated,
    /// Something else stands where this was expected.
    #[error("expected {expected} at byte {position}")]
    Unexpected {
        /// What should stand there.
        expected: &'static str,
        /// Offset of the value in the encoding.
        position: usize,
    },
    /// An integer, a length or a count has a shorter encoding, or a length is indefinite.
    #[error("the encoding is not the shortest at byte {position}")]
    NotShortest {
        /// Offset of the value in the encoding.
        position: usize,
    },
    /// A key that this version does not know, or that does not belong to this kind of value.
    #[error("unknown key {key}")]
    UnknownKey {
        /// The key.
        key: u64,
    },
    /// A key stands twice or after a larger one.
    #[error("key {key} is repeated or out of order")]
    KeyOrder {
        /// The key.
        key: u64,
    },
    /// A key that must be there is not.
    #[error("key {key} is missing")]
    MissingKey {
        /// The key.
        key: u64,
    },
    /// A number stands for nothing, or leaves its range.
    #[error("the value of {what} is out of range")]
    OutOfRange {
        /// What the number is.
        what: &'static str,
    },
    /// More elements than the limit.
    #[error("{count} {what}, the limit is {limit}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many the encoding announces.
        count: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Bytes follow after the value.
    #[error("{count} bytes follow after the value")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The encoding is sound and its content is not.
    #[error(transparent)]
    Invalid(#[from] InvalidRequestError),
}

/// Reads deterministic CBOR and refuses everything else.
#[derive(Debug)]
pub struct StrictReader<'b> {
    decoder: Decoder<'b>,
}

impl<'b> StrictReader<'b> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(bytes) }
    }

    /// An unsigned integer in its shortest form.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn uint(&mut self) -> Result<u64, DecodeContentError> {
        let start = self.expect_type(&[Type::U8, Type::U16, Type::U32, Type::U64], "an unsigned integer")?;
        let value = self.decoder.u64().map_err(|error| self.explain(&error, start, "an unsigned integer"))?;
        self.check_head(start, value, 0)?;
        Ok(value)
    }

    /// An unsigned integer of at most 32 bits.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn uint32(&mut self, what: &'static str) -> Result<u32, DecodeContentError> {
        u32::try_from(self.uint()?).map_err(|_| DecodeContentError::OutOfRange { what })
    }

    /// A text string; borrowed, so that nothing is allocated for a length that lies.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn text(&mut self) -> Result<&'b str, DecodeContentError> {
        let start = self.expect_type(&[Type::String], "a text string")?;
        let text = self.decoder.str().map_err(|error| self.explain(&error, start, "a UTF-8 text string"))?;
        self.check_head(start, text.len() as u64, text.len())?;
        Ok(text)
    }

    /// A byte string.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn bytes(&mut self) -> Result<&'b [u8], DecodeContentError> {
        let start = self.expect_type(&[Type::Bytes], "a byte string")?;
        let bytes = self.decoder.bytes().map_err(|error| self.explain(&error, start, "a byte string"))?;
        self.check_head(start, bytes.len() as u64, bytes.len())?;
        Ok(bytes)
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn boolean(&mut self) -> Result<bool, DecodeContentError> {
        let start = self.expect_type(&[Type::Bool], "a truth value")?;
        self.decoder.bool().map_err(|error| self.explain(&error, start, "a truth value"))
    }

    /// A 32-bit float; which values are allowed is the caller's to check.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn float(&mut self) -> Result<f32, DecodeContentError> {
        let start = self.expect_type(&[Type::F32], "a 32-bit float")?;
        self.decoder.f32().map_err(|error| self.explain(&error, start, "a 32-bit float"))
    }

    /// The head of an array of at most `limit` elements.
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn array(&mut self, what: &'static str, limit: u64) -> Result<usize, DecodeContentError> {
        let start = self.expect_type(&[Type::Array, Type::ArrayIndef], "an array")?;
        let count = self.decoder.array().map_err(|error| self.explain(&error, start, "an array"))?;
        self.check_count(start, count, what, limit)
    }

    /// The head of a map, whose keys are then read one by one with [`MapReader::key`].
    ///
    /// # Errors
    /// [`DecodeContentError`] when something else stands here.
    pub fn map(&mut self, limit: u64) -> Result<MapReader, DecodeContentError> {
        let start = self.expect_type(&[Type::Map, Type::MapIndef], "a map")?;
        let count = self.decoder.map().map_err(|error| self.explain(&error, start, "a map"))?;
        let left = self.check_count(start, count, "map entries", limit)?;
        Ok(MapReader { entries: left as u64, left, last: None })
    }

    /// Refuses whatever follows.
    ///
    /// # Errors
    /// [`DecodeContentError::TrailingBytes`].
    pub fn end(&self) -> Result<(), DecodeContentError> {
        match self.decoder.input().len() - self.decoder.position() {
            0 => Ok(()),
            count => Err(DecodeContentError::TrailingBytes { count }),
        }
    }

    /// Where the next value starts, if it is of one of these types.
    fn expect_type(&self, types: &[Type], expected: &'static str) -> Result<usize, DecodeContentError> {
        let position = self.decoder.position();
        let found = self.decoder.datatype().map_err(|error| self.explain(&error, position, expected))?;
        let indefinite = matches!(found, Type::BytesIndef | Type::StringIndef);
        if types.contains(&found) {
            Ok(position)
        } else if indefinite {
            Err(DecodeContentError::NotShortest { position })
        } else {
            Err(DecodeContentError::Unexpected { expected, position })
        }
    }

    fn check_count(
        &self,
        start: usize,
        count: Option<u64>,
        what: &'static str,
        limit: u64,
    ) -> Result<usize, DecodeContentError> {
        let count = count.ok_or(DecodeContentError::NotShortest { position: start })?;
        self.check_head(start, count, 0)?;
        if count > limit {
            return Err(DecodeContentError::TooMany { what, count, limit });
        }
        usize::try_from(count).map_err(|_| DecodeContentError::TooMany { what, count, limit })
    }

    /// Whether the head that carried `argument`, followed by `body` bytes, was as short as it can be.
    fn check_head(&self, start: usize, argument: u64, body: usize) -> Result<(), DecodeContentError> {
        let shortest = match argument {
            0..=23 => 1,
            24..=0xff => 2,
            0x100..=0xffff => 3,
            0x1_0000..=0xffff_ffff => 5,
            _ => 9,
        };
        if self.decoder.position() - start - body == shortest {
            Ok(())
        } else {
            Err(DecodeContentError::NotShortest { position: start })
        }
    }

    fn explain(&self, error: &Error, position: usize, expected: &'static str) -> DecodeContentError {
        if error.is_end_of_input() {
            DecodeContentError::Truncated
        } else {
            DecodeContentError::Unexpected { expected, position }
        }
    }
}

/// Walks the keys of a map, which must ascend.
#[derive(Debug)]
pub struct MapReader {
    entries: u64,
    left: usize,
    last: Option<u64>,
}

impl MapReader {
    /// How many entries the map has, those that were read included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The next key, or nothing at the end of the map.
    ///
    /// # Errors
    /// [`DecodeContentError`] when the key is no integer, repeated or out of order.
    pub fn key(&mut self, reader: &mut StrictReader<'_>) -> Result<Option<u64>, DecodeContentError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = reader.uint()?;
        if self.last.is_some_and(|last| key <= last) {
            return Err(DecodeContentError::KeyOrder { key });
        }
        self.last = Some(key);
        Ok(Some(key))
    }

    /// Reads this key and no other, for maps whose keys are all mandatory.
    ///
    /// # Errors
    /// [`DecodeContentError`] when the map ends or another key stands here.
    pub fn expect(&mut self, reader: &mut StrictReader<'_>, wanted: u64) -> Result<(), DecodeContentError> {
        match self.key(reader)? {
            Some(key) if key == wanted => Ok(()),
            Some(key) => Err(DecodeContentError::UnknownKey { key }),
            None => Err(DecodeContentError::MissingKey { key: wanted }),
        }
    }

    /// Refuses whatever keys are left.
    ///
    /// # Errors
    /// [`DecodeContentError::UnknownKey`], or what is wrong with the key.
    pub fn end(&mut self, reader: &mut StrictReader<'_>) -> Result<(), DecodeContentError> {
        match self.key(reader)? {
            None => Ok(()),
            Some(key) => Err(DecodeContentError::UnknownKey { key }),
        }
    }
}

/// Counts bytes instead of keeping them.
struct Measure(usize);

impl Write for Measure {
    type Error = Infallible;
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// What writing to memory may answer: nothing but success.
pub type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// A value with one encoding.
pub trait ToCbor {
    /// Writes the encoding. Called twice: first to measure, then to write.
    ///
    /// # Errors
    /// None: neither a counter nor a vector can fail.
    fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written;
}

/// How long the encoding is.
#[must_use]
pub fn encoded_len(value: &impl ToCbor) -> usize {
    let mut encoder = Encoder::new(Measure(0));
    value.write(&mut encoder).expect("counting bytes cannot fail");
    encoder.into_writer().0
}

/// The encoding, in a buffer that was allocated once.
#[must_use]
pub fn encode(value: &impl ToCbor) -> SecretBytes {
    let mut encoder = Encoder::new(Vec::with_capacity(encoded_len(value)));
    value.write(&mut encoder).expect("writing to a vector cannot fail");
    SecretBytes::new(encoder.into_writer())
}
