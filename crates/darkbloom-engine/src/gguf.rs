//! Reads a GGUF file's header and checks that it holds together, before llama.cpp sees the file.
//!
//! The format is described in ggml's `docs/gguf.md`. Nothing is kept of it but a few numbers. The check cannot know that
//! a model is the right one (that is the catalogue's digest), only that its structure is whole: every length within its
//! limit, every tensor inside the file.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead};

/// Longest key; the format's own limit.
const KEY_BYTES_MAX: u64 = 65_535;
/// Longest string value: a chat template has up to some 100 KiB.
const STRING_BYTES_MAX: u64 = 16 << 20;
/// Most keys: models have 20 to 80.
const KEYS_MAX: u64 = 4_096;
/// Most elements of an array: the largest vocabularies have 262,144 tokens and about twice as many merges.
const ELEMENTS_MAX: u64 = 4 << 20;
/// Most tokens of a vocabulary: four times the largest.
const VOCABULARY_MAX: u64 = 1 << 20;
/// Longest token: the longest known are runs of a few hundred spaces.
const TOKEN_BYTES_MAX: u64 = 4_096;
/// Most tensors: the largest mixtures of experts have about 2,000, unmerged ones 50,000.
const TENSORS_MAX: u64 = 100_000;
/// Longest tensor name; ggml's own limit.
const TENSOR_NAME_BYTES_MAX: u64 = 63;
/// Most dimensions; ggml's own limit.
const DIMENSIONS_MAX: u32 = 4;
/// Largest alignment of tensors: a memory page, the largest there is.
const ALIGNMENT_MAX: u64 = 65_536;
/// Most transformer blocks: llama.cpp's own limit.
const BLOCKS_MAX: u64 = 512;
/// Largest widths and counts of heads: far above every model, and their products fit into 64 bits.
const WIDTH_MAX: u64 = 1 << 20;

/// What is wrong with a model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// The first four bytes are not the format's.
    #[error("it is not a GGUF file")]
    Magic,
    /// Version 3, and 2 which reads the same, are known.
    #[error("GGUF version {0} is not known")]
    Version(u32),
    /// The file ends early, or a tensor lies beyond its end.
    #[error("the file is cut short")]
    Truncated,
    /// A number in the header is beyond its limit.
    #[error("{0} is beyond its limit")]
    BeyondLimit(&'static str),
    /// The header contradicts itself or the format.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A quantisation that this program does not know.
    #[error("tensor type {0} is not known")]
    TensorType(u32),
    /// Something that every language model's file has is not there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The file could not be read.
    #[error("reading failed: {0}")]
    Read(io::ErrorKind),
}

impl From<io::Error> for GgufError {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Read(kind) }
    }
}

/// What the header says that the executor wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The context that the model was trained for.
    pub context_length: u64,
}

/// Reads and checks the header of a file of `file_bytes` bytes.
pub(crate) fn check(reader: impl BufRead, file_bytes: u64) -> Result<Header, GgufError> {
    let mut input = Input { reader, position: 0, file_bytes };
    if input.array::<4>()? != *b"GGUF" {
        return Err(GgufError::Magic);
    }
    let version = input.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensors = limited(input.u64()?, TENSORS_MAX, "the number of tensors")?;
    let keys = limited(input.u64()?, KEYS_MAX, "the number of keys")?;
    let facts = Facts::read(&mut input, keys)?;
    let header = facts.check()?;
    check_tensors(&mut input, tensors, facts.number("general.alignment").unwrap_or(32))?;
    Ok(header)
}

fn limited(value: u64, max: u64, what: &'static str) -> Result<u64, GgufError> {
    if value > max { Err(GgufError::BeyondLimit(what)) } else { Ok(value) }
}

/// The file from its beginning, never read past its end.
struct Input<R> {
    reader: R,
    position: u64,
    file_bytes: u64,
}

impl<R: BufRead> Input<R> {
    fn advance(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.position = self.position.checked_add(bytes).ok_or(GgufError::Truncated)?;
        if self.position > self.file_bytes { Err(GgufError::Truncated) } else { Ok(()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.advance(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, GgufError> {
        // Callers bound the length by a limit of at most 64 KiB; the file's end bounds it as well.
        self.advance(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| GgufError::Truncated)?];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), GgufError> {
        self.advance(bytes)?;
        while bytes > 0 {
            let available = self.reader.fill_buf()?.len();
            if available == 0 {
                return Err(GgufError::Truncated);
            }
            let taken = available.min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.reader.consume(taken);
            bytes -= taken as u64;
        }
        Ok(())
    }
}

/// Kinds of values; the numbers are the format's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A number of so many bytes, and whether it is a whole one.
    Number {
        bytes: u64,
        whole: bool,
    },
    Text,
    List,
}

fn kind(number: u32) -> Result<Kind, GgufError> {
    Ok(match number {
        0 | 1 | 7 => Kind::Number { bytes: 1, whole: true },
        2 | 3 => Kind::Number { bytes: 2, whole: true },
        4 | 5 => Kind::Number { bytes: 4, whole: true },
        6 => Kind::Number { bytes: 4, whole: false },
        10 | 11 => Kind::Number { bytes: 8, whole: true },
        12 => Kind::Number { bytes: 8, whole: false },
        8 => Kind::Text,
        9 => Kind::List,
        _ => return Err(GgufError::Malformed("the type of a value")),
    })
}

/// The values that the check looks at.
#[derive(Default)]
struct Facts {
    architecture: Option<String>,
    /// Whole numbers by key; of lists of them the smallest and the largest.
    numbers: HashMap<String, (u64, u64)>,
    /// Tokens of the vocabulary.
    vocabulary: u64,
}

impl Facts {
    fn read<R: BufRead>(input: &mut Input<R>, keys: u64) -> Result<Self, GgufError> {
        let mut facts = Self::default();
        for _ in 0..keys {
            let length = limited(input.u64()?, KEY_BYTES_MAX, "the length of a key")?;
            let key = String::from_utf8(input.bytes(length)?).map_err(|_| GgufError::Malformed("a key"))?;
            let kind = kind(input.u32()?)?;
            facts.read_value(input, key, kind)?;
        }
        Ok(facts)
    }

    fn read_value<R: BufRead>(&mut self, input: &mut Input<R>, key: String, of: Kind) -> Result<(), GgufError> {
        match of {
            Kind::Number { bytes, whole: false } => {
                let value = if bytes == 4 {
                    f64::from(f32::from_le_bytes(input.array()?))
                } else {
                    f64::from_le_bytes(input.array()?)
                };
                // Factors, bases and epsilons: none that a model has is below zero.
                if !value.is_finite() || value < 0.0 {
                    return Err(GgufError::Malformed("a number"));
                }
            }
            Kind::Number { bytes, whole: true } => {
                let value = read_number(input, bytes)?;
                if self.numbers.insert(key, (value, value)).is_some() {
                    return Err(GgufError::Malformed("a key that appears twice"));
                }
            }
            Kind::Text => {
                let length = limited(input.u64()?, STRING_BYTES_MAX, "the length of a text")?;
                if key == "general.architecture" {
                    let name = input.bytes(limited(length, 64, "the length of the architecture's name")?)?;
                    let name = String::from_utf8(name).map_err(|_| GgufError::Malformed("the architecture"))?;
                    self.architecture = Some(name);
                } else {
                    input.skip(length)?;
                }
            }
            Kind::List => {
                let of = kind(input.u32()?)?;
                let length = limited(input.u64()?, ELEMENTS_MAX, "the length of a list")?;
                // llama.cpp reads these as 32-bit numbers whatever they are.
                let as_32_bits = matches!(key.as_str(), "tokenizer.ggml.token_type" | "tokenizer.ggml.scores");
                if as_32_bits && !matches!(of, Kind::Number { bytes: 4, .. }) {
                    return Err(GgufError::Malformed("the vocabulary"));
                }
                let mut range = (u64::MAX, 0);
                match of {
                    Kind::Number { bytes, whole: true } => {
                        for _ in 0..length {
                            let value = read_number(input, bytes)?;
                            range = (range.0.min(value), range.1.max(value));
                        }
                        self.numbers.insert(key, range);
                    }
                    Kind::Number { bytes, whole: false } => input.skip(bytes * length)?,
                    Kind::Text if key == "tokenizer.ggml.tokens" => self.vocabulary = read_vocabulary(input, length)?,
                    Kind::Text => {
                        for _ in 0..length {
                            let bytes = limited(input.u64()?, STRING_BYTES_MAX, "the length of a text")?;
                            input.skip(bytes)?;
                        }
                    }
                    Kind::List => return Err(GgufError::Malformed("a list of lists")),
                }
            }
        }
        Ok(())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).filter(|(least, most)| least == most).map(|&(number, _)| number)
    }

    /// The numbers that llama.cpp divides by or allocates from.
    fn check(&self) -> Result<Header, GgufError> {
        let architecture = self.architecture.as_deref().ok_or(GgufError::Missing("the architecture"))?;
        let bounded = |name: &'static str, max: u64| match self.numbers.get(&format!("{architecture}.{name}")) {
            None => Err(GgufError::Missing(name)),
            Some(&(least, most)) if least == 0 || most > max => Err(GgufError::BeyondLimit(name)),
            Some(&(_, most)) => Ok(most),
        };
        bounded("block_count", BLOCKS_MAX)?;
        bounded("embedding_length", WIDTH_MAX)?;
        bounded("attention.head_count", WIDTH_MAX)?;
        for optional in ["attention.head_count_kv", "attention.key_length", "attention.value_length"] {
            if self.numbers.contains_key(&format!("{architecture}.{optional}")) {
                bounded(optional, WIDTH_MAX)?;
            }
        }
        if self.vocabulary == 0 {
            return Err(GgufError::Missing("the vocabulary"));
        }
        // Positions are 32-bit in llama.cpp.
        Ok(Header { context_length: bounded("context_length", i32::MAX as u64)? })
    }
}

/// llama.cpp aborts over a token that appears twice, and takes a token for ended at a byte that is 0.
fn read_vocabulary<R: BufRead>(input: &mut Input<R>, length: u64) -> Result<u64, GgufError> {
    let mut tokens = HashSet::new();
    for _ in 0..limited(length, VOCABULARY_MAX, "the size of the vocabulary")? {
        let bytes = limited(input.u64()?, TOKEN_BYTES_MAX, "the length of a token")?;
        let token = input.bytes(bytes)?;
        // Empty ones it tells apart by their number.
        if !token.is_empty() && (token.contains(&0) || !tokens.insert(token)) {
            return Err(GgufError::Malformed("the vocabulary"));
        }
    }
    Ok(length)
}

fn read_number<R: BufRead>(input: &mut Input<R>, bytes: u64) -> Result<u64, GgufError> {
    Ok(match bytes {
        1 => u64::from(input.array::<1>()?[0]),
        2 => u64::from(u16::from_le_bytes(input.array()?)),
        4 => u64::from(input.u32()?),
        _ => input.u64()?,
    })
}

fn check_tensors<R: BufRead>(input: &mut Input<R>, tensors: u64, alignment: u64) -> Result<(), GgufError> {
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(GgufError::Malformed("the alignment"));
    }
    if tensors == 0 {
        return Err(GgufError::Missing("every tensor"));
    }
    let mut end = 0;
    for _ in 0..tensors {
        let name = limited(input.u64()?, TENSOR_NAME_BYTES_MAX, "the length of a tensor's name")?;
        input.skip(name)?;
        let dimensions = input.u32()?;
        if dimensions == 0 || dimensions > DIMENSIONS_MAX {
            return Err(GgufError::Malformed("a tensor's dimensions"));
        }
        let mut elements = 1u64;
        let mut width = 0;
        for dimension in 0..dimensions {
            let size = input.u64()?;
            if size == 0 {
                return Err(GgufError::Malformed("a tensor's size"));
            }
            if dimension == 0 {
                width = size;
            }
            elements = elements.checked_mul(size).ok_or(GgufError::BeyondLimit("a tensor's size"))?;
        }
        let (block, block_bytes) = tensor_type(input.u32()?)?;
        if width % block != 0 {
            return Err(GgufError::Malformed("a tensor's size"));
        }
        let bytes = (elements / block).checked_mul(block_bytes).ok_or(GgufError::BeyondLimit("a tensor's size"))?;
        let offset = input.u64()?;
        if offset % alignment != 0 {
            return Err(GgufError::Malformed("a tensor's place"));
        }
        end = end.max(offset.checked_add(bytes).ok_or(GgufError::Truncated)?);
    }
    let data = input.position.checked_next_multiple_of(alignment).ok_or(GgufError::Truncated)?;
    if data.checked_add(end).is_none_or(|end| end > input.file_bytes) {
        return Err(GgufError::Truncated);
    }
    Ok(())
}

/// Elements and bytes of one block of a tensor type; the numbers are ggml's.
fn tensor_type(number: u32) -> Result<(u64, u64), GgufError> {
    Ok(match number {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        39 => (32, 17),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        other => return Err(GgufError::TensorType(other)),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
        std::fs::read(path).unwrap()
    });

    #[test]
    fn the_shipped_model_is_whole() {
        let header = check(MODEL.as_slice(), MODEL.len() as u64);
        assert_eq!(header, Ok(Header { context_length: 1_024 }));
    }

    #[test]
    fn a_file_with_one_byte_missing_is_cut_short() {
        let shorter = &MODEL[..MODEL.len() - 1];
        assert_eq!(check(shorter, shorter.len() as u64), Err(GgufError::Truncated));
    }

    proptest! {
        #[test]
        fn changed_bytes_never_make_the_check_panic(
            changes in prop::collection::vec((0usize..16_000, any::<u8>()), 1..6),
            low in prop::collection::vec((0usize..1_000, any::<u8>()), 0..6),
        ) {
            let mut bytes = MODEL[..20_000].to_vec();
            for (at, value) in changes.into_iter().chain(low) {
                bytes[at] = value;
            }
            // The tensors' data is not read: the length alone decides.
            if let Ok(header) = check(bytes.as_slice(), MODEL.len() as u64) {
                prop_assert!((1..=i32::MAX as u64).contains(&header.context_length));
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut file = b"GGUF\x03\0\0\0".to_vec();
            file.extend(&bytes);
            prop_assert!(check(file.as_slice(), file.len() as u64).is_err());
            prop_assert!(check(bytes.as_slice(), bytes.len() as u64).is_err());
        }
    }
}
