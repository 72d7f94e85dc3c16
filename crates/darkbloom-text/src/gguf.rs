//! Reads the metadata section of a GGUF file, versions 2 and 3, little-endian (ggml-org/ggml docs/gguf.md).
//!
//! A model file is downloaded from somewhere and may be anything, so nothing is allocated before its bytes were read,
//! and every count has a limit.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read};

use crate::pack::InvalidPackError;

/// Longest key in bytes: the format's own limit.
const KEY_BYTES_MAX: u64 = 65_535;
/// Most metadata entries; files of today have fewer than 100.
const ENTRIES_MAX: u64 = 4_096;
/// Longest single text: a chat template of today has up to 20 KiB.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Most elements of one array: four times the largest vocabulary of today (262,144 tokens).
const ELEMENTS_MAX: u64 = 1 << 20;
/// Most bytes of the whole section: a vocabulary of 262,144 tokens with merges and scores takes about 12 MiB.
const METADATA_BYTES_MAX: u64 = 64 << 20;
/// Deepest nesting of arrays. Nobody nests them today.
const DEPTH_MAX: u32 = 2;
/// How much room is made before the first byte of something was read.
const FIRST_ALLOCATION: usize = 4_096;

/// Why a file gives no metadata, or none that text can be made with.
#[derive(Debug, thiserror::Error)]
pub enum ReadGgufError {
    /// The first four bytes are not `GGUF`.
    #[error("this is not a GGUF file")]
    NotGguf,
    /// Another version, or the big-endian variant.
    #[error("GGUF version {0} is not supported, only 2 and 3 (little-endian)")]
    UnsupportedVersion(u32),
    /// The bytes end inside the metadata; more of the file is needed.
    #[error("the file ends inside its metadata")]
    Truncated,
    /// Something is larger than any honest file's.
    #[error("{what} of {found}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it claims to be.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A value's type number stands for nothing.
    #[error("value type {0} does not exist")]
    UnknownType(u32),
    /// A key or text is not UTF-8.
    #[error("a text in the metadata is not UTF-8")]
    NotUtf8,
    /// A truth value is neither 0 nor 1.
    #[error("a truth value in the metadata is {0}")]
    NotBoolean(u8),
    /// A key stands twice.
    #[error("key `{0}` is repeated")]
    RepeatedKey(String),
    /// A key that is needed is missing.
    #[error("key `{0}` is missing")]
    MissingKey(String),
    /// A key's value has another type than it should.
    #[error("key `{key}` is not {expected}")]
    WrongType {
        /// Which key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The file names a kind of tokenizer that this program does not have.
    #[error("tokenizer `{0}` is not supported, only `gpt2` (byte-level byte-pair encoding)")]
    UnsupportedTokenizer(String),
    /// The tokenizer or template is not sound.
    #[error(transparent)]
    Pack(#[from] InvalidPackError),
    /// The reader failed.
    #[error("the file cannot be read")]
    Read(#[source] std::io::Error),
}

/// One value of the metadata. Integers of every width are one kind, and so are floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer that was stored without a sign.
    Unsigned(u64),
    /// An integer that was stored with a sign.
    Signed(i64),
    /// A float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Integers; those that do not fit are refused while reading.
    Integers(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Arrays in an array.
    Nested(Vec<Value>),
}

/// The metadata of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    /// How many tensors follow.
    pub tensors: u64,
    /// The entries, by key.
    pub entries: BTreeMap<String, Value>,
    /// Length of the metadata section in bytes, from the start of the file.
    pub bytes: u64,
}

impl Metadata {
    /// The text of a key.
    ///
    /// # Errors
    /// [`ReadGgufError`] when it is missing or something else.
    pub fn text(&self, key: &str) -> Result<&str, ReadGgufError> {
        let Value::Text(text) = self.required(key)? else {
            return Err(wrong_type(key, "a text"));
        };
        Ok(text)
    }

    /// The texts of a key.
    ///
    /// # Errors
    /// [`ReadGgufError`] when it is missing or something else.
    pub fn texts(&self, key: &str) -> Result<&[String], ReadGgufError> {
        let Value::Texts(texts) = self.required(key)? else {
            return Err(wrong_type(key, "an array of texts"));
        };
        Ok(texts)
    }

    /// The integers of a key.
    ///
    /// # Errors
    /// [`ReadGgufError`] when it is missing or something else.
    pub fn integers(&self, key: &str) -> Result<&[i64], ReadGgufError> {
        let Value::Integers(integers) = self.required(key)? else {
            return Err(wrong_type(key, "an array of integers"));
        };
        Ok(integers)
    }

    /// The number of a key, if the key is there.
    ///
    /// # Errors
    /// [`ReadGgufError`] when it is something else, negative or over 32 bits.
    pub fn number(&self, key: &str) -> Result<Option<u32>, ReadGgufError> {
        let number = match self.entries.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => u32::try_from(*number).ok(),
            Some(Value::Signed(number)) => u32::try_from(*number).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| wrong_type(key, "a number of 32 bits"))
    }

    /// The truth value of a key, if the key is there.
    ///
    /// # Errors
    /// [`ReadGgufError`] when it is something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, ReadGgufError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Bool(boolean)) => Ok(Some(*boolean)),
            Some(_) => Err(wrong_type(key, "a truth value")),
        }
    }

    fn required(&self, key: &str) -> Result<&Value, ReadGgufError> {
        self.entries.get(key).ok_or_else(|| ReadGgufError::MissingKey(key.to_owned()))
    }
}

fn wrong_type(key: &str, expected: &'static str) -> ReadGgufError {
    ReadGgufError::WrongType { key: key.to_owned(), expected }
}

/// Reads the metadata and stops there: the weights, which may be many gigabytes, are not touched. At most a buffer's
/// length beyond the metadata is taken from the reader.
///
/// # Errors
/// [`ReadGgufError`]; [`ReadGgufError::Truncated`] when the reader ends too early.
pub fn read_metadata<R: Read>(reader: R) -> Result<Metadata, ReadGgufError> {
    let mut source = Source { reader: BufReader::with_capacity(64 << 10, reader), taken: 0 };
    if source.array::<4>()? != *b"GGUF" {
        return Err(ReadGgufError::NotGguf);
    }
    let version = source.u32()?;
    if !(2..=3).contains(&version) {
        return Err(ReadGgufError::UnsupportedVersion(version));
    }
    let tensors = source.u64()?;
    let count = at_most("a number of metadata entries", source.u64()?, ENTRIES_MAX)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let key = source.text("a key length", KEY_BYTES_MAX)?;
        let kind = source.u32()?;
        let value = source.value(kind, 0)?;
        if entries.contains_key(&key) {
            return Err(ReadGgufError::RepeatedKey(key));
        }
        entries.insert(key, value);
    }
    Ok(Metadata { tensors, entries, bytes: source.taken })
}

fn at_most(what: &'static str, found: u64, limit: u64) -> Result<u64, ReadGgufError> {
    if found > limit { Err(ReadGgufError::TooLarge { what, found, limit }) } else { Ok(found) }
}

/// The numbers that stand for types of values.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// A reader that counts what it gives out.
struct Source<R> {
    reader: BufReader<R>,
    taken: u64,
}

impl<R: Read> Source<R> {
    fn take(&mut self, bytes: u64) -> Result<(), ReadGgufError> {
        let found = self.taken.saturating_add(bytes);
        self.taken = at_most("metadata", found, METADATA_BYTES_MAX)?;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadGgufError> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| {
            if error.kind() == ErrorKind::UnexpectedEof { ReadGgufError::Truncated } else { ReadGgufError::Read(error) }
        })?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ReadGgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ReadGgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn boolean(&mut self) -> Result<bool, ReadGgufError> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(ReadGgufError::NotBoolean(other)),
        }
    }

    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, ReadGgufError> {
        let length = at_most(what, self.u64()?, limit)?;
        self.take(length)?;
        // Grows with what is really there, whatever the length claims.
        let mut bytes = Vec::with_capacity(FIRST_ALLOCATION.min(usize::try_from(length).unwrap_or(FIRST_ALLOCATION)));
        let read = self.reader.by_ref().take(length).read_to_end(&mut bytes).map_err(ReadGgufError::Read)?;
        if (read as u64) < length {
            return Err(ReadGgufError::Truncated);
        }
        String::from_utf8(bytes).map_err(|_| ReadGgufError::NotUtf8)
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, ReadGgufError> {
        Ok(match kind {
            kind::U8 | kind::U16 | kind::U32 | kind::U64 => Value::Unsigned(self.unsigned(kind)?),
            kind::I8 | kind::I16 | kind::I32 | kind::I64 => Value::Signed(self.signed(kind)?),
            kind::F32 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            kind::F64 => Value::Float(f64::from_le_bytes(self.array()?)),
            kind::BOOL => Value::Bool(self.boolean()?),
            kind::TEXT => Value::Text(self.text("a text length", TEXT_BYTES_MAX)?),
            kind::ARRAY => self.elements(depth)?,
            other => return Err(ReadGgufError::UnknownType(other)),
        })
    }

    fn unsigned(&mut self, kind: u32) -> Result<u64, ReadGgufError> {
        Ok(match kind {
            kind::U8 => u64::from(u8::from_le_bytes(self.array()?)),
            kind::U16 => u64::from(u16::from_le_bytes(self.array()?)),
            kind::U32 => u64::from(self.u32()?),
            _ => self.u64()?,
        })
    }

    fn signed(&mut self, kind: u32) -> Result<i64, ReadGgufError> {
        Ok(match kind {
            kind::I8 => i64::from(i8::from_le_bytes(self.array()?)),
            kind::I16 => i64::from(i16::from_le_bytes(self.array()?)),
            kind::I32 => i64::from(i32::from_le_bytes(self.array()?)),
            _ => i64::from_le_bytes(self.array()?),
        })
    }

    fn elements(&mut self, depth: u32) -> Result<Value, ReadGgufError> {
        at_most("a nesting of arrays", u64::from(depth) + 1, u64::from(DEPTH_MAX))?;
        let kind = self.u32()?;
        let count = at_most("an array length", self.u64()?, ELEMENTS_MAX)?;
        Ok(match kind {
            kind::U8 | kind::U16 | kind::U32 | kind::U64 => Value::Integers(self.repeat(count, |source| {
                let found = source.unsigned(kind)?;
                let limit = i64::MAX.unsigned_abs();
                i64::try_from(found).map_err(|_| ReadGgufError::TooLarge { what: "an integer", found, limit })
            })?),
            kind::I8 | kind::I16 | kind::I32 | kind::I64 => {
                Value::Integers(self.repeat(count, |source| source.signed(kind))?)
            }
            kind::F32 => Value::Floats(self.repeat(count, |source| source.array().map(f32::from_le_bytes))?),
            #[expect(clippy::cast_possible_truncation, reason = "no array of ours needs more than single precision")]
            kind::F64 => Value::Floats(self.repeat(count, |source| Ok(f64::from_le_bytes(source.array()?) as f32))?),
            kind::BOOL => Value::Bools(self.repeat(count, Self::boolean)?),
            kind::TEXT => Value::Texts(self.repeat(count, |source| source.text("a text length", TEXT_BYTES_MAX))?),
            kind::ARRAY => Value::Nested(self.repeat(count, |source| source.elements(depth + 1))?),
            other => return Err(ReadGgufError::UnknownType(other)),
        })
    }

    fn repeat<T>(
        &mut self,
        count: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, ReadGgufError>,
    ) -> Result<Vec<T>, ReadGgufError> {
        // No room is made for a count: the vector grows as elements arrive.
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(elements)
    }
}
