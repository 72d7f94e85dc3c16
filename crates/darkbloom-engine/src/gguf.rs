//! Reads a GGUF file's header and checks that it holds together, before llama.cpp sees the file.
//!
//! The format is described in ggml's `docs/gguf.md`. Nothing is kept of it but a few numbers. The check cannot know that
//! a model is the right one (that is the catalogue's digest), only that its structure is whole: every length within its
//! limit, every tensor inside the file, and nothing over which llama.cpp would abort the process instead of refusing. It
//! has such assertions in each of its architectures, so only those are let through whose assertions are checked here.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead};

// By its path: the fuzz target takes this file as it stands, from elsewhere.
#[path = "gguf/adapter.rs"]
pub(crate) mod adapter;
#[path = "gguf/architectures.rs"]
mod architectures;
#[path = "gguf/tensors.rs"]
mod tensors;

pub(crate) use adapter::check_adapter;
use architectures::{ARCHITECTURES, HYBRIDS, Rotation};
pub(crate) use tensors::TensorTypes;
use tensors::{ALIGNMENT, DIMENSIONS_MAX, Tensor, Weights, read_tensors};

/// Longest key: ten times the longest that ggml's list of keys has.
const KEY_BYTES_MAX: u64 = 1_024;
/// Everything before the tensors: a vocabulary of 262,144 tokens with merges and scores takes about 12 MiB. The tokenizer's
/// reader takes no more either.
const METADATA_BYTES_MAX: u64 = 64 << 20;
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
/// Most transformer blocks: llama.cpp's own limit.
const BLOCKS_MAX: u64 = 512;
/// Largest widths and counts of heads: far above every model, and their products fit into 64 bits.
const WIDTH_MAX: u64 = 1 << 20;
/// Most experts: llama.cpp's own limit.
const EXPERTS_MAX: u64 = 1_024;
/// Longest name of an architecture, a tokenizer or a way to scale positions.
const WORD_BYTES_MAX: u64 = 64;
/// Longest name of a model that is kept, for people; a longer one is passed over.
const NAME_BYTES_MAX: u64 = 256;

/// The tokenizers that a vocabulary may be for, by llama.cpp's names. It reads others' tables without looking at their ends,
/// or aborts when it is asked about tokens of none.
const TOKENIZERS: [&str; 3] = ["gemma4", "gpt2", "llama"];
/// The ways to scale positions; llama.cpp aborts over any other.
const POSITION_SCALINGS: [&str; 4] = ["linear", "longrope", "none", "yarn"];

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
    /// A quantisation that this program does not know, or one in a tensor that cannot have it.
    #[error("tensor type {0} is not known here")]
    TensorType(u32),
    /// A kind of model or tokenizer that does not run here.
    #[error("{0} is not one that runs here")]
    Unsupported(&'static str),
    /// An architecture whose state cannot be cut back. It runs neither exact nor fast.
    #[error(
        "{0} is an architecture with a recurrent state beside its attention, and none of those runs here yet, exact or fast"
    )]
    Hybrid(&'static str),
    /// One of several files that make a model together. llama.cpp would open the others by their names, unchecked.
    #[error("it is one of {0} files that make a model together, which cannot be loaded yet")]
    Split(u64),
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

/// What a sound header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelHeader {
    /// The architecture, by llama.cpp's name.
    pub architecture: String,
    /// What its makers call the model. Somebody else's words: not to be shown as they are.
    pub name: Option<String>,
    /// How most of the weights are stored (`general.file_type`); the numbers are llama.cpp's `llama_ftype`.
    pub file_type: Option<u64>,
    /// The context that the model was trained for, in tokens.
    pub context_length: u64,
    /// How many weights there are.
    pub parameters: u64,
    /// What they take, in bytes.
    pub weight_bytes: u64,
    /// How many numbers the keys and values of one token are, in all blocks together. Blocks with a sliding window keep them
    /// for fewer tokens than the others.
    pub token_width: u64,
    /// How wide a token is between two blocks, and within the widest part of one.
    pub block_width: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// How the tokens of a text become one vector, where the model is made for that.
    pub pooling: Option<Pooling>,
    /// How the matrices are stored.
    pub(crate) tensor_types: TensorTypes,
    /// The sizes of each matrix, by its name: what adapters have to fit.
    pub(crate) matrices: HashMap<String, [u64; DIMENSIONS_MAX]>,
    /// Whether positions count otherwise in rows that are longer than some length: llama.cpp goes by how long a row could be.
    pub(crate) counts_long_rows_otherwise: bool,
}

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// Reads and checks the header of a file of `file_bytes` bytes.
pub(crate) fn check(reader: impl BufRead, file_bytes: u64) -> Result<ModelHeader, GgufError> {
    let mut input = Input { reader, position: 0, end: file_bytes.min(METADATA_BYTES_MAX), file_bytes };
    let (tensors, keys) = read_beginning(&mut input)?;
    let facts = Facts::read(&mut input, keys)?;
    let context_length = facts.check()?;
    let tensors = read_tensors(&mut input, tensors, facts.number("general.alignment").unwrap_or(ALIGNMENT))?;
    let weights = Weights::of(&tensors)?;
    let counts_long_rows_otherwise = tensors.iter().any(|tensor| tensor.name.starts_with("rope_factors_long"));
    let matrices = tensors.into_iter().filter(Tensor::is_matrix).map(|tensor| (tensor.name, tensor.sizes));
    Ok(ModelHeader {
        file_type: facts.number("general.file_type"),
        context_length,
        parameters: weights.elements,
        weight_bytes: weights.bytes,
        matrices: matrices.collect(),
        counts_long_rows_otherwise,
        token_width: facts.token_width(),
        block_width: facts.block_width(),
        pooling: facts.pooling(),
        vocabulary: facts.vocabulary,
        tensor_types: weights.types,
        architecture: facts.architecture,
        name: facts.name,
    })
}

/// Reads what every file begins with; the numbers of tensors and of keys.
fn read_beginning<R: BufRead>(input: &mut Input<R>) -> Result<(u64, u64), GgufError> {
    if input.array::<4>()? != *b"GGUF" {
        return Err(GgufError::Magic);
    }
    let version = input.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let tensors = limited(input.u64()?, TENSORS_MAX, "the number of tensors")?;
    let keys = limited(input.u64()?, KEYS_MAX, "the number of keys")?;
    Ok((tensors, keys))
}

/// Reads a key that was not seen before; the type of its value, by the format's number, follows.
fn read_key<R: BufRead>(input: &mut Input<R>, seen: &mut HashSet<String>) -> Result<String, GgufError> {
    let length = limited(input.u64()?, KEY_BYTES_MAX, "the length of a key")?;
    let key = input.text(length, "a key")?;
    if seen.insert(key.clone()) { Ok(key) } else { Err(GgufError::Malformed("a key that appears twice")) }
}

fn limited(value: u64, max: u64, what: &'static str) -> Result<u64, GgufError> {
    if value > max { Err(GgufError::BeyondLimit(what)) } else { Ok(value) }
}

/// The file from its beginning, never read past its end.
struct Input<R> {
    reader: R,
    position: u64,
    /// Where reading ends for now.
    end: u64,
    file_bytes: u64,
}

impl<R: BufRead> Input<R> {
    fn advance(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.position = self.position.checked_add(bytes).ok_or(GgufError::Truncated)?;
        if self.position > self.file_bytes {
            Err(GgufError::Truncated)
        } else if self.position > self.end {
            Err(GgufError::BeyondLimit("the header's length"))
        } else {
            Ok(())
        }
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
        // Callers bound the length by a limit of at most 4 KiB; the file's end bounds it as well.
        self.advance(length)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| GgufError::Truncated)?];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, length: u64, what: &'static str) -> Result<String, GgufError> {
        String::from_utf8(self.bytes(length)?).map_err(|_| GgufError::Malformed(what))
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
    architecture: String,
    name: Option<String>,
    tokenizer: String,
    /// Whole numbers by key; a list of them where it may have one for each block.
    numbers: HashMap<String, Vec<u64>>,
    /// Tokens of the vocabulary.
    vocabulary: u64,
}

impl Facts {
    fn read<R: BufRead>(input: &mut Input<R>, keys: u64) -> Result<Self, GgufError> {
        let mut facts = Self::default();
        let mut seen = HashSet::new();
        for _ in 0..keys {
            let key = read_key(input, &mut seen)?;
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
                self.numbers.insert(key, vec![value]);
            }
            Kind::Text => self.read_text(input, &key)?,
            Kind::List => self.read_list(input, key)?,
        }
        Ok(())
    }

    fn read_text<R: BufRead>(&mut self, input: &mut Input<R>, key: &str) -> Result<(), GgufError> {
        let length = limited(input.u64()?, STRING_BYTES_MAX, "the length of a text")?;
        let word = |input: &mut Input<R>, what| input.text(limited(length, WORD_BYTES_MAX, what)?, what);
        match key {
            "general.architecture" => self.architecture = word(input, "the architecture")?,
            "tokenizer.ggml.model" => self.tokenizer = word(input, "the tokenizer")?,
            "general.name" if length <= NAME_BYTES_MAX => {
                self.name = Some(String::from_utf8_lossy(&input.bytes(length)?).into_owned());
            }
            // The architecture may come later, so this is every architecture's.
            _ if key.ends_with(".rope.scaling.type") => {
                let scaling = word(input, "the scaling of positions")?;
                if !POSITION_SCALINGS.contains(&scaling.as_str()) {
                    return Err(GgufError::Unsupported("the scaling of positions"));
                }
            }
            _ => input.skip(length)?,
        }
        Ok(())
    }

    fn read_list<R: BufRead>(&mut self, input: &mut Input<R>, key: String) -> Result<(), GgufError> {
        let of = kind(input.u32()?)?;
        let length = limited(input.u64()?, ELEMENTS_MAX, "the length of a list")?;
        // llama.cpp reads these as 32-bit numbers whatever they are.
        let as_32_bits = matches!(key.as_str(), "tokenizer.ggml.token_type" | "tokenizer.ggml.scores");
        if as_32_bits && !matches!(of, Kind::Number { bytes: 4, .. }) {
            return Err(GgufError::Malformed("the vocabulary"));
        }
        match of {
            Kind::Number { bytes, whole: true } if length <= BLOCKS_MAX => {
                let numbers = (0..length).map(|_| read_number(input, bytes));
                self.numbers.insert(key, numbers.collect::<Result<_, _>>()?);
            }
            Kind::Number { bytes, .. } => input.skip(bytes * length)?,
            Kind::Text if key == "tokenizer.ggml.tokens" => self.vocabulary = read_vocabulary(input, length)?,
            Kind::Text => {
                for _ in 0..length {
                    let bytes = limited(input.u64()?, STRING_BYTES_MAX, "the length of a text")?;
                    input.skip(bytes)?;
                }
            }
            Kind::List => return Err(GgufError::Malformed("a list of lists")),
        }
        Ok(())
    }

    /// A key that is one number.
    fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(key).and_then(|numbers| if let [number] = numbers[..] { Some(number) } else { None })
    }

    /// A key of the architecture: one number, or one for each block.
    fn of_architecture(&self, name: &str) -> Option<&[u64]> {
        self.numbers.get(&format!("{}.{name}", self.architecture)).map(Vec::as_slice)
    }

    /// The same, where each must be from 1 to this limit.
    fn bounded(&self, name: &'static str, max: u64) -> Result<Option<&[u64]>, GgufError> {
        let Some(numbers) = self.of_architecture(name) else { return Ok(None) };
        let sound = !numbers.is_empty() && numbers.iter().all(|number| (1..=max).contains(number));
        if sound { Ok(Some(numbers)) } else { Err(GgufError::BeyondLimit(name)) }
    }

    /// The same, where it must be there and be one number.
    fn required(&self, name: &'static str, max: u64) -> Result<u64, GgufError> {
        match self.bounded(name, max)? {
            Some(&[number]) => Ok(number),
            Some(_) => Err(GgufError::Malformed(name)),
            None => Err(GgufError::Missing(name)),
        }
    }

    /// The numbers that llama.cpp divides by, allocates from or asserts something of. The context that the model was trained
    /// for comes back.
    fn check(&self) -> Result<u64, GgufError> {
        if self.architecture.is_empty() {
            return Err(GgufError::Missing("the architecture"));
        }
        if let Some(name) = HYBRIDS.into_iter().find(|name| *name == self.architecture) {
            return Err(GgufError::Hybrid(name));
        }
        let known = ARCHITECTURES.iter().find(|(name, _)| *name == self.architecture);
        let &(_, rotation) = known.ok_or(GgufError::Unsupported("the architecture"))?;
        if let Some(files) = self.number("split.count").filter(|files| *files > 1) {
            return Err(GgufError::Split(files));
        }
        let blocks = self.required("block_count", BLOCKS_MAX)?;
        if self.of_architecture("nextn_predict_layers").is_some_and(|layers| layers.iter().any(|more| *more >= blocks))
        {
            return Err(GgufError::BeyondLimit("nextn_predict_layers"));
        }
        if self.of_architecture("attention.causal").is_some_and(|causal| causal.contains(&0)) {
            return Err(GgufError::Unsupported("attention to what comes later"));
        }
        self.check_heads(rotation)?;
        self.check_experts()?;
        if !TOKENIZERS.contains(&self.tokenizer.as_str()) {
            return Err(GgufError::Unsupported("the tokenizer"));
        }
        if self.vocabulary == 0 {
            return Err(GgufError::Missing("the vocabulary"));
        }
        // Positions are 32-bit in llama.cpp.
        self.required("context_length", i32::MAX as u64)
    }

    fn check_heads(&self, rotation: Rotation) -> Result<(), GgufError> {
        let embedding = self.required("embedding_length", WIDTH_MAX)?;
        let heads = self.bounded("attention.head_count", WIDTH_MAX)?;
        let heads = heads.ok_or(GgufError::Missing("attention.head_count"))?;
        let key_heads = self.bounded("attention.head_count_kv", WIDTH_MAX)?.unwrap_or(heads);
        let mismatched = (0..heads.len().max(key_heads.len())).any(|block| {
            let of = |list: &[u64]| if let [one] = list { Some(*one) } else { list.get(block).copied() };
            of(heads).zip(of(key_heads)).is_none_or(|(heads, key_heads)| heads % key_heads != 0)
        });
        if mismatched {
            return Err(GgufError::Malformed("attention.head_count_kv"));
        }
        let one = |name, otherwise| match self.bounded(name, WIDTH_MAX)? {
            None => Ok(otherwise),
            Some(&[number]) => Ok(number),
            Some(_) => Err(GgufError::Malformed(name)),
        };
        // What llama.cpp takes where nothing is said.
        let width = one("attention.key_length", embedding / heads[0])?;
        let value_width = one("attention.value_length", embedding / heads[0])?;
        let turned = one("rope.dimension_count", width)?;
        // In blocks with a sliding window.
        let window = (
            one("attention.key_length_swa", width)?,
            one("attention.value_length_swa", value_width)?,
            one("rope.dimension_count_swa", turned)?,
        );
        for (width, value_width, turned) in [(width, value_width, turned), window] {
            if width == 0 || value_width != width {
                return Err(GgufError::Malformed("attention.value_length"));
            }
            if turned % 2 != 0 || turned > width || (rotation == Rotation::Whole && turned != width) {
                return Err(GgufError::Malformed("rope.dimension_count"));
            }
            // All heads of a block together: 32-bit in llama.cpp.
            if heads.iter().any(|heads| heads * width > i32::MAX as u64) {
                return Err(GgufError::BeyondLimit("attention.head_count"));
            }
        }
        Ok(())
    }

    /// How many numbers the keys and values of one token are; what [`Self::check`] has passed bounds them.
    fn token_width(&self) -> u64 {
        let list = |name| self.of_architecture(name).unwrap_or_default();
        let first = |name| list(name).first().copied();
        let heads = list("attention.head_count");
        let key_heads =
            if list("attention.head_count_kv").is_empty() { heads } else { list("attention.head_count_kv") };
        let whole = first("embedding_length").unwrap_or(0) / heads.first().copied().unwrap_or(1);
        let key = first("attention.key_length").unwrap_or(whole);
        let value = first("attention.value_length").unwrap_or(whole);
        let blocks = first("block_count").unwrap_or(0);
        let all_heads = match key_heads {
            [one] => one * blocks,
            list => list.iter().sum(),
        };
        all_heads * (key + value)
    }

    /// How a text's tokens are pooled; nothing where states have another width than they come out with, or are ranked.
    fn pooling(&self) -> Option<Pooling> {
        let [kind] = *self.of_architecture("pooling_type")? else { return None };
        // The numbers are llama.cpp's `llama_pooling_type`.
        let pooling = match kind {
            1 => Pooling::Mean,
            2 => Pooling::First,
            3 => Pooling::Last,
            _ => return None,
        };
        self.of_architecture("embedding_length_out").is_none().then_some(pooling)
    }

    /// How wide a token is within the widest part of a block.
    fn block_width(&self) -> u64 {
        let most = |name| self.of_architecture(name).and_then(|numbers| numbers.iter().max().copied()).unwrap_or(0);
        let experts = most("expert_used_count").max(1).saturating_mul(most("expert_feed_forward_length"));
        let heads = most("attention.head_count").saturating_mul(most("attention.key_length"));
        most("embedding_length").max(most("feed_forward_length")).max(experts).max(heads)
    }

    fn check_experts(&self) -> Result<(), GgufError> {
        let most = |name| self.of_architecture(name).and_then(|numbers| numbers.iter().max().copied()).unwrap_or(0);
        let (experts, used) = (most("expert_count"), most("expert_used_count"));
        let (groups, groups_used) = (most("expert_group_count"), most("expert_group_used_count"));
        let sound = if experts == 0 {
            used == 0 && groups == 0
        } else {
            let divided = groups <= 1 || (experts.is_multiple_of(groups) && groups_used > 0 && groups_used < groups);
            experts <= EXPERTS_MAX && used > 0 && used <= experts && groups < experts && divided
        };
        if sound { Ok(()) } else { Err(GgufError::Malformed("expert_count")) }
    }
}

/// llama.cpp aborts over a token that appears twice, and takes a token for ended at a byte that is 0. It gives an empty one a
/// name by its number, which another may have.
fn read_vocabulary<R: BufRead>(input: &mut Input<R>, length: u64) -> Result<u64, GgufError> {
    let mut tokens = HashSet::new();
    for number in 0..limited(length, VOCABULARY_MAX, "the size of the vocabulary")? {
        let bytes = limited(input.u64()?, TOKEN_BYTES_MAX, "the length of a token")?;
        let token = match input.bytes(bytes)? {
            empty if empty.is_empty() => format!("[EMPTY_{number}]").into_bytes(),
            token => token,
        };
        if token.contains(&0) || !tokens.insert(token) {
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

// By its path as well.
#[cfg(test)]
#[path = "gguf/tests.rs"]
mod tests;
