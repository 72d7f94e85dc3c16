//! Deterministic CBOR, read strictly: definite lengths, shortest integers, ascending unique keys, nothing left over.

use darkbloom_types::armed;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// Why bytes are not what they should be. Never quotes the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early or are no CBOR.
    #[error("the bytes are cut short or are not CBOR")]
    Malformed,
    /// CBOR, but not in the one deterministic form.
    #[error("the encoding is not deterministic CBOR")]
    NotDeterministic,
    /// Another type than this place asks for.
    #[error("unexpected type at key {key}")]
    WrongType {
        /// The key in question.
        key: i64,
    },
    /// Longer than this place allows.
    #[error("value at key {key} is over its limit of {max}")]
    TooLong {
        /// The key in question.
        key: i64,
        /// Most bytes or items allowed.
        max: usize,
    },
    /// A value that has no meaning here.
    #[error("value at key {key} has no meaning here")]
    BadValue {
        /// The key in question.
        key: i64,
    },
    /// A key that must be there is not.
    #[error("key {key} is missing")]
    MissingKey {
        /// The key in question.
        key: i64,
    },
    /// A key that this place does not allow.
    #[error("key {key} is not known here")]
    UnknownKey {
        /// The key in question.
        key: i64,
    },
    /// An unknown negative key of a signed object: its author demands that it be understood.
    #[error("critical key {key} is not understood")]
    CriticalKey {
        /// The key in question.
        key: i64,
    },
    /// More bytes than one item.
    #[error("bytes follow the end")]
    Trailing,
}

/// How deep the value at an unknown key may nest: our own records nest three deep.
const SKIP_DEPTH: usize = 8;
/// Writing into memory cannot fail; the encoder's error type says so.
const IN_MEMORY: &str = "writing CBOR into memory cannot fail";

/// Writes deterministic CBOR into memory. Maps are written in ascending key order by their callers.
pub struct Writer {
    out: Encoder<Vec<u8>>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::with_capacity(128)
    }
}

impl Writer {
    /// A writer with room for so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Encoder::new(Vec::with_capacity(bytes)) }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out.into_writer()
    }

    /// Opens a map of so many pairs.
    pub fn map(&mut self, pairs: usize) {
        self.out.map(pairs as u64).expect(IN_MEMORY);
    }

    /// Opens an array of so many items.
    pub fn array(&mut self, items: usize) {
        self.out.array(items as u64).expect(IN_MEMORY);
    }

    /// An integer: a key or a value.
    pub fn int(&mut self, value: i64) {
        self.out.i64(value).expect(IN_MEMORY);
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        self.out.u64(value).expect(IN_MEMORY);
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        self.out.bytes(value).expect(IN_MEMORY);
    }

    /// A text string.
    pub fn text(&mut self, value: &str) {
        self.out.str(value).expect(IN_MEMORY);
    }

    /// True or false.
    pub fn bool(&mut self, value: bool) {
        self.out.bool(value).expect(IN_MEMORY);
    }

    /// A tag in front of the next item.
    pub fn tag(&mut self, tag: u64) {
        self.out.tag(minicbor::data::Tag::new(tag)).expect(IN_MEMORY);
    }
}

/// Bytes that the head of an item takes in shortest form (RFC 8949 section 3).
fn head_len(argument: u64) -> usize {
    match argument {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        0x1_0000_0000.. => 9,
    }
}

/// What a reader does with keys that it does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Frames: skip and count.
    Skip,
    /// Signed objects: tolerate keys from zero up, refuse negative ones.
    RefuseCritical,
    /// Sealed objects: refuse.
    Refuse,
}

/// Reads deterministic CBOR. `key` is the map key being read, for messages.
pub struct Reader<'a> {
    input: Decoder<'a>,
    key: i64,
    // The rule holds for the whole object: a record inside a signed object is as strict as the object.
    rule: Unknown,
    skipped: u32,
}

impl<'a> Reader<'a> {
    /// A reader over exactly one item that refuses keys it does not know.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::with_rule(bytes, Unknown::Refuse)
    }

    /// A reader over exactly one item, with the rule for keys that it does not know.
    pub(crate) fn with_rule(bytes: &'a [u8], rule: Unknown) -> Self {
        Self { input: Decoder::new(bytes), key: 0, rule, skipped: 0 }
    }

    /// Unknown keys that were passed over so far, in this object and in everything inside it.
    pub(crate) fn skipped(&self) -> u32 {
        self.skipped
    }

    /// What happens at a key that the record does not have: its value is passed over, or the object is refused.
    pub(crate) fn unknown_key(&mut self, key: i64) -> Result<(), DecodeError> {
        match self.rule {
            Unknown::Refuse => return Err(DecodeError::UnknownKey { key }),
            Unknown::RefuseCritical if armed!("critical_keys") && key < 0 => {
                return Err(DecodeError::CriticalKey { key });
            }
            Unknown::RefuseCritical | Unknown::Skip => {}
        }
        self.skipped = self.skipped.saturating_add(1);
        self.skip(SKIP_DEPTH)
    }

    /// Succeeds when nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] otherwise.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.input.position() == self.input.input().len() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    /// The key that the reader is at.
    #[must_use]
    pub fn key(&self) -> i64 {
        self.key
    }

    /// Says at which key the reader is, for messages.
    pub fn at_key(&mut self, key: i64) {
        self.key = key;
    }

    fn typed<T>(
        &mut self,
        read: impl FnOnce(&mut Decoder<'a>) -> Result<T, minicbor::decode::Error>,
    ) -> Result<T, DecodeError> {
        read(&mut self.input).map_err(|error| {
            if error.is_end_of_input() { DecodeError::Malformed } else { DecodeError::WrongType { key: self.key } }
        })
    }

    fn check_head(&self, start: usize, body: usize, argument: u64) -> Result<(), DecodeError> {
        let head = self.input.position() - start - body;
        if head == head_len(argument) { Ok(()) } else { Err(DecodeError::NotDeterministic) }
    }

    /// A map's number of pairs.
    ///
    /// # Errors
    /// Not a definite map in shortest form, or more than `max` pairs.
    pub fn map(&mut self, max: usize) -> Result<usize, DecodeError> {
        let start = self.input.position();
        let pairs = self.typed(Decoder::map)?.ok_or(DecodeError::NotDeterministic)?;
        self.check_head(start, 0, pairs)?;
        self.counted(pairs, max)
    }

    /// An array's number of items.
    ///
    /// # Errors
    /// Not a definite array in shortest form, or more than `max` items.
    pub fn array(&mut self, max: usize) -> Result<usize, DecodeError> {
        let start = self.input.position();
        let items = self.typed(Decoder::array)?.ok_or(DecodeError::NotDeterministic)?;
        self.check_head(start, 0, items)?;
        self.counted(items, max)
    }

    fn counted(&self, count: u64, max: usize) -> Result<usize, DecodeError> {
        usize::try_from(count).ok().filter(|count| *count <= max).ok_or(DecodeError::TooLong { key: self.key, max })
    }

    /// An integer.
    ///
    /// # Errors
    /// Not an integer in shortest form, or beyond 63 bits.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let start = self.input.position();
        let value = self.typed(Decoder::i64)?;
        let argument = if value < 0 { value.unsigned_abs() - 1 } else { value.unsigned_abs() };
        self.check_head(start, 0, argument)?;
        Ok(value)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// Not an unsigned integer in shortest form.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        let start = self.input.position();
        let value = self.typed(Decoder::u64)?;
        self.check_head(start, 0, value)?;
        Ok(value)
    }

    /// A byte string of at most `max` bytes.
    ///
    /// # Errors
    /// Not a definite byte string in shortest form, or too long.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let start = self.input.position();
        let value = self.typed(Decoder::bytes)?;
        self.check_head(start, value.len(), value.len() as u64)?;
        if value.len() > max { Err(DecodeError::TooLong { key: self.key, max }) } else { Ok(value) }
    }

    /// A text string of at most `max` bytes.
    ///
    /// # Errors
    /// Not a definite UTF-8 text in shortest form, or too long.
    pub fn text(&mut self, max: usize) -> Result<&'a str, DecodeError> {
        let start = self.input.position();
        let value = self.typed(Decoder::str)?;
        self.check_head(start, value.len(), value.len() as u64)?;
        if value.len() > max { Err(DecodeError::TooLong { key: self.key, max }) } else { Ok(value) }
    }

    /// True or false.
    ///
    /// # Errors
    /// Not a boolean.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.typed(Decoder::bool)
    }

    /// A tag.
    ///
    /// # Errors
    /// Not a tag in shortest form.
    pub fn tag(&mut self) -> Result<u64, DecodeError> {
        let start = self.input.position();
        let tag = self.typed(Decoder::tag)?.as_u64();
        self.check_head(start, 0, tag)?;
        Ok(tag)
    }

    /// Passes over one item of any type, nested at most `depth` deep.
    ///
    /// # Errors
    /// Malformed, indefinite, or nested too deeply.
    pub fn skip(&mut self, depth: usize) -> Result<(), DecodeError> {
        if depth == 0 {
            return Err(DecodeError::TooLong { key: self.key, max: 0 });
        }
        match self.typed(|input| input.datatype())? {
            Type::Array => {
                for _ in 0..self.array(usize::MAX)? {
                    self.skip(depth - 1)?;
                }
                Ok(())
            }
            Type::Map => {
                for _ in 0..self.map(usize::MAX / 2)? {
                    self.skip(depth - 1)?;
                    self.skip(depth - 1)?;
                }
                Ok(())
            }
            Type::Tag => {
                self.tag()?;
                self.skip(depth - 1)
            }
            Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef | Type::Break => {
                Err(DecodeError::NotDeterministic)
            }
            Type::Bytes => self.bytes(usize::MAX).map(drop),
            Type::String => self.text(usize::MAX).map(drop),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                let start = self.input.position();
                let value = i128::from(self.typed(Decoder::int)?);
                // CBOR writes −1 − n as n.
                let argument = u64::try_from(if value < 0 { -1 - value } else { value });
                self.check_head(start, 0, argument.map_err(|_| DecodeError::Malformed)?)
            }
            Type::Bool | Type::Null | Type::Undefined | Type::F16 | Type::F32 | Type::F64 | Type::Simple => {
                self.typed(Decoder::skip)
            }
            Type::Unknown(_) => Err(DecodeError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_than_shortest_integers_are_refused() {
        // 23 in one byte, then 23 in two.
        assert_eq!(Reader::new(&[0x17]).uint(), Ok(23));
        assert_eq!(Reader::new(&[0x18, 0x17]).uint(), Err(DecodeError::NotDeterministic));
        // A one-byte string whose length takes two bytes.
        assert_eq!(Reader::new(&[0x58, 0x01, 0xff]).bytes(9), Err(DecodeError::NotDeterministic));
        // -1 in two bytes.
        assert_eq!(Reader::new(&[0x38, 0x00]).int(), Err(DecodeError::NotDeterministic));
    }

    #[test]
    fn indefinite_items_are_refused() {
        assert_eq!(Reader::new(&[0xbf, 0xff]).map(9), Err(DecodeError::NotDeterministic));
        assert_eq!(Reader::new(&[0x9f, 0xff]).skip(9), Err(DecodeError::NotDeterministic));
    }

    #[test]
    fn passed_over_integers_are_held_to_the_shortest_form_too() {
        for (bytes, expected) in [
            (vec![0x17], Ok(())),
            (vec![0x18, 0x17], Err(DecodeError::NotDeterministic)),
            (vec![0x38, 0x17], Err(DecodeError::NotDeterministic)),
            ([vec![0x3b], vec![0xff; 8]].concat(), Ok(())),
            (vec![0x1c], Err(DecodeError::Malformed)),
        ] {
            assert_eq!(Reader::new(&bytes).skip(1), expected, "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_ends_before_the_stack_does() {
        let deep = vec![0x81; 100_000];
        assert!(Reader::new(&deep).skip(16).is_err());
    }

    #[test]
    fn a_count_larger_than_the_bytes_ends_at_the_end_of_the_bytes() {
        // An array that claims 2³² − 1 items and holds none.
        let mut reader = Reader::new(&[0x9a, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reader.skip(4), Err(DecodeError::Malformed));
    }
}
