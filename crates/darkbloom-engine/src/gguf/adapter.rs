//! The check of a LoRA adapter's header against the model that it changes.
//!
//! An adapter is a GGUF file whose tensors come in pairs, `NAME.lora_a` and `NAME.lora_b`: the model's matrix `NAME` acts as
//! if their product were added to it (Hu et al. 2021). llama.cpp (`src/llama-adapter.cpp`) looks at two sizes of each and
//! aborts while it computes over what it did not look at, so all of them are looked at here.

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead;

use super::tensors::{ALIGNMENT, Tensor, TensorTypes, Weights, read_tensors};
use super::{
    GgufError, Input, Kind, METADATA_BYTES_MAX, ModelHeader, STRING_BYTES_MAX, WORD_BYTES_MAX, kind, limited,
    read_beginning, read_key,
};

/// Highest rank: sixteen times the highest that people use.
const RANK_MAX: u64 = 4_096;
/// Most elements of a list: no list of an adapter means anything here.
const ELEMENTS_MAX: u64 = 1 << 20;
/// F32, F16, BF16 and Q8_0: what llama.cpp's converter writes. Nothing of them is multiplied in tiles or repacked.
const STORED: [u32; 4] = [0, 1, 30, 8];
/// The format's numbers of the types that keys must have here: llama.cpp aborts over others.
const U32: u32 = 4;
const F32: u32 = 6;
const TEXT: u32 = 8;

/// What is wrong with an adapter, for the model that it is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// Its header is not sound.
    #[error(transparent)]
    Format(#[from] GgufError),
    /// A model, or another kind of adapter.
    #[error("it is not a LoRA adapter")]
    Kind,
    /// It does something from certain tokens of a prompt on, which would depend on what is in the memory already.
    #[error("it is an adapter that waits for certain tokens, which does not run here")]
    Waits,
    /// Its model has another architecture.
    #[error("it was made for a model of another architecture")]
    Architecture,
    /// A change of a norm, of the tokens' embeddings, or of something unknown.
    #[error("it changes something else than matrices of blocks and of the output, which does not run here")]
    Target,
    /// One tensor of a pair is not there.
    #[error("it has one half of a change only")]
    Half,
    /// The model has no such matrix.
    #[error("it changes a matrix that the model does not have")]
    UnknownMatrix,
    /// The model's matrix has other sizes.
    #[error("it changes a matrix of another shape than the model's")]
    Shape,
    /// More than llama.cpp's converter writes.
    #[error("its tensors are stored as type {0}, and F32, F16, BF16 and Q8_0 run here")]
    Stored(u32),
    /// How much of it is added is not a sensible number.
    #[error("its scale is not a number from -100 to 100")]
    Scale,
    /// Two adapters are added to one matrix in an order that llama.cpp leaves open.
    #[error(
        "it changes a matrix that another adapter changes, and the order of both sums is not promised to be the same"
    )]
    Overlap,
    /// More adapters than a model may have.
    #[error("there are too many adapters")]
    TooMany,
    /// Its header is sound, and llama.cpp refuses it: too little memory, most likely.
    #[error("llama.cpp refuses it")]
    Refused,
}

/// What a sound adapter's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterHeader {
    /// How many numbers there are.
    pub parameters: u64,
    /// What they take, in bytes.
    pub weight_bytes: u64,
    /// The highest rank of its changes.
    pub rank: u64,
    /// The model's matrices that it changes.
    pub(crate) matrices: HashSet<String>,
    pub(crate) tensor_types: TensorTypes,
}

/// Reads and checks the header of an adapter's file of `file_bytes` bytes, for a model.
pub(crate) fn check_adapter(
    reader: impl BufRead,
    file_bytes: u64,
    base: &ModelHeader,
) -> Result<AdapterHeader, AdapterError> {
    let mut input = Input { reader, position: 0, end: file_bytes.min(METADATA_BYTES_MAX), file_bytes };
    let (tensors, keys) = read_beginning(&mut input)?;
    let alignment = check_keys(&mut input, keys, base)?;
    let tensors = read_tensors(&mut input, tensors, alignment)?;
    let weights = Weights::of(&tensors)?;
    let mut pairs: BTreeMap<&str, [Option<&Tensor>; 2]> = BTreeMap::new();
    for tensor in &tensors {
        if !STORED.contains(&tensor.of) {
            return Err(AdapterError::Stored(tensor.of));
        }
        let (name, half) = halved(&tensor.name).ok_or(AdapterError::Target)?;
        pairs.entry(name).or_default()[half] = Some(tensor);
    }
    let mut rank = 0;
    for (name, pair) in &pairs {
        let &[Some(down), Some(up)] = pair else { return Err(AdapterError::Half) };
        let matrix = base.matrices.get(*name).ok_or(AdapterError::UnknownMatrix)?;
        rank = rank.max(rank_of(matrix, down, up).ok_or(AdapterError::Shape)?);
    }
    Ok(AdapterHeader {
        parameters: weights.elements,
        weight_bytes: weights.bytes,
        rank,
        matrices: pairs.into_keys().map(str::to_owned).collect(),
        // A change of rank 1 is no matrix, and multiplied as one.
        tensor_types: TensorTypes::of(tensors.iter().map(|tensor| tensor.of)),
    })
}

/// The matrix that a tensor changes, and which half of the change it is. The embeddings of tokens are not among them: where
/// the same weights are the output, llama.cpp multiplies by the halves the wrong way round and aborts.
fn halved(name: &str) -> Option<(&str, usize)> {
    let (matrix, half) =
        name.strip_suffix(".lora_a").map(|matrix| (matrix, 0)).or_else(|| Some((name.strip_suffix(".lora_b")?, 1)))?;
    let known = (matrix.starts_with("blk.") && matrix.ends_with(".weight")) || matrix == "output.weight";
    // llama.cpp takes the endings out wherever they stand.
    (known && !matrix.contains(".lora_")).then_some((matrix, half))
}

/// The rank of a change of a matrix, or of one for each expert; nothing where the sizes do not fit.
fn rank_of(matrix: &[u64; 4], down: &Tensor, up: &Tensor) -> Option<u64> {
    let [width, height, experts, more] = *matrix;
    let rank = down.sizes[1];
    let fits = down.sizes == [width, rank, experts, 1] && up.sizes == [rank, height, experts, 1];
    (fits && more == 1 && rank <= RANK_MAX).then_some(rank)
}

/// Reads the keys; the alignment of the tensors comes back.
fn check_keys<R: BufRead>(input: &mut Input<R>, keys: u64, base: &ModelHeader) -> Result<u64, AdapterError> {
    let mut seen = HashSet::new();
    let mut alignment = ALIGNMENT;
    let mut needed = vec!["general.type", "adapter.type", "general.architecture", "adapter.lora.alpha"];
    for _ in 0..keys {
        let key = read_key(input, &mut seen)?;
        needed.retain(|needed| *needed != key);
        match (key.as_str(), input.u32()?) {
            ("general.type", TEXT) if read_word(input)? != "adapter" => return Err(AdapterError::Kind),
            ("adapter.type", TEXT) if read_word(input)? != "lora" => return Err(AdapterError::Kind),
            ("general.architecture", TEXT) if read_word(input)? != base.architecture => {
                return Err(AdapterError::Architecture);
            }
            ("general.type" | "adapter.type" | "general.architecture", TEXT) => {}
            ("adapter.lora.alpha", F32) => {
                let alpha = f32::from_le_bytes(input.array()?);
                if !alpha.is_finite() {
                    return Err(GgufError::Malformed("a number").into());
                }
            }
            ("general.alignment", U32) => alignment = u64::from(input.u32()?),
            ("general.type" | "adapter.type", _) => return Err(AdapterError::Kind),
            ("general.architecture" | "adapter.lora.alpha" | "general.alignment", _) => {
                return Err(GgufError::Malformed("the type of a value").into());
            }
            ("adapter.alora.invocation_tokens", _) => return Err(AdapterError::Waits),
            (_, other) => skip(input, kind(other)?)?,
        }
    }
    match needed.first() {
        None => Ok(alignment),
        Some(&("general.type" | "adapter.type")) => Err(AdapterError::Kind),
        Some(key) => Err(GgufError::Missing(key).into()),
    }
}

fn read_word<R: BufRead>(input: &mut Input<R>) -> Result<String, GgufError> {
    let length = limited(input.u64()?, WORD_BYTES_MAX, "the length of a text")?;
    input.text(length, "a text")
}

fn skip<R: BufRead>(input: &mut Input<R>, of: Kind) -> Result<(), GgufError> {
    match of {
        Kind::Number { bytes, .. } => input.skip(bytes),
        Kind::Text => {
            let length = limited(input.u64()?, STRING_BYTES_MAX, "the length of a text")?;
            input.skip(length)
        }
        Kind::List => {
            let of = kind(input.u32()?)?;
            let length = limited(input.u64()?, ELEMENTS_MAX, "the length of a list")?;
            if of == Kind::List {
                return Err(GgufError::Malformed("a list of lists"));
            }
            (0..length).try_for_each(|_| skip(input, of))
        }
    }
}
