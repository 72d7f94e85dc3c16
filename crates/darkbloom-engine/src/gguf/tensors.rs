//! What a header says of the tensors: how they are stored, and where they lie.

use std::collections::HashSet;
use std::io::BufRead;

use super::{GgufError, Input, limited};

/// Longest tensor name; ggml's own limit.
const TENSOR_NAME_BYTES_MAX: u64 = 63;
/// Most dimensions; ggml's own limit.
pub(super) const DIMENSIONS_MAX: usize = 4;
/// Largest alignment of tensors: a memory page, the largest there is.
const ALIGNMENT_MAX: u64 = 65_536;
/// Where tensors begin, unless a file says something else: at multiples of this.
pub(super) const ALIGNMENT: u64 = 32;

/// All tensors together.
pub(super) struct Weights {
    pub(super) elements: u64,
    pub(super) bytes: u64,
    /// How the matrices among them are stored.
    pub(super) types: TensorTypes,
}

impl Weights {
    pub(super) fn of(tensors: &[Tensor]) -> Result<Self, GgufError> {
        let elements = tensors.iter().try_fold(0u64, |all, tensor| all.checked_add(tensor.elements));
        Ok(Self {
            elements: elements.ok_or(GgufError::BeyondLimit("the number of weights"))?,
            // They lie one after the other.
            bytes: tensors.last().map_or(0, |last| last.offset.saturating_add(last.bytes)),
            types: TensorTypes::of(tensors.iter().filter(|tensor| tensor.is_matrix()).map(|tensor| tensor.of)),
        })
    }
}

/// Reads and checks what is said of the tensors, and that they lie one after the other inside the file.
pub(super) fn read_tensors<R: BufRead>(
    input: &mut Input<R>,
    tensors: u64,
    alignment: u64,
) -> Result<Vec<Tensor>, GgufError> {
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(GgufError::Malformed("the alignment"));
    }
    if tensors == 0 {
        return Err(GgufError::Missing("every tensor"));
    }
    // Their number and the lengths of their names bound what they take.
    input.end = input.file_bytes;
    let (mut read, mut names, mut next, mut end) = (Vec::new(), HashSet::new(), 0u64, 0u64);
    for _ in 0..tensors {
        let tensor = Tensor::read(input)?;
        let name = &tensor.name;
        if name.is_empty() || name.contains(char::is_control) || !names.insert(name.clone()) {
            return Err(GgufError::Malformed("a tensor's name"));
        }
        if tensor.offset != next {
            return Err(GgufError::Malformed("a tensor's place"));
        }
        end = tensor.offset.checked_add(tensor.bytes).ok_or(GgufError::Truncated)?;
        next = end.checked_next_multiple_of(alignment).ok_or(GgufError::Truncated)?;
        read.push(tensor);
    }
    let data = input.position.checked_next_multiple_of(alignment).ok_or(GgufError::Truncated)?;
    if data.checked_add(end).is_none_or(|end| end > input.file_bytes) {
        return Err(GgufError::Truncated);
    }
    Ok(read)
}

/// What a header says of one tensor.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) of: u32,
    /// Of each dimension; 1 for those that it does not have.
    pub(super) sizes: [u64; DIMENSIONS_MAX],
    elements: u64,
    bytes: u64,
    /// From the beginning of all tensors' data.
    offset: u64,
}

impl Tensor {
    fn read<R: BufRead>(input: &mut Input<R>) -> Result<Self, GgufError> {
        let length = limited(input.u64()?, TENSOR_NAME_BYTES_MAX, "the length of a tensor's name")?;
        let name = input.text(length, "a tensor's name")?;
        let dimensions = input.u32()? as usize;
        if dimensions == 0 || dimensions > DIMENSIONS_MAX {
            return Err(GgufError::Malformed("a tensor's dimensions"));
        }
        let mut sizes = [1; DIMENSIONS_MAX];
        let mut elements = 1u64;
        for size in &mut sizes[..dimensions] {
            *size = input.u64()?;
            if *size == 0 {
                return Err(GgufError::Malformed("a tensor's size"));
            }
            elements = elements.checked_mul(*size).ok_or(GgufError::BeyondLimit("a tensor's size"))?;
        }
        let width = sizes[0];
        let of = input.u32()?;
        let (block, block_bytes) = tensor_type(of)?;
        // Norms and biases. llama.cpp adds and multiplies by them as they stand, and aborts over any other type.
        if elements == width && of != F32 {
            return Err(GgufError::TensorType(of));
        }
        if width % block != 0 {
            return Err(GgufError::Malformed("a tensor's size"));
        }
        let bytes = (elements / block).checked_mul(block_bytes).ok_or(GgufError::BeyondLimit("a tensor's size"))?;
        Ok(Self { name, of, sizes, elements, bytes, offset: input.u64()? })
    }

    /// It has more than one row.
    pub(super) fn is_matrix(&self) -> bool {
        self.elements > self.sizes[0]
    }
}

/// The type of single-precision floats.
const F32: u32 = 0;

/// Elements and bytes of one block of a tensor type; the numbers are ggml's. Whole numbers, double precision and the two types
/// of what is computed on the way are not among them: no product with such weights exists, and llama.cpp finds that out by a
/// crash.
fn tensor_type(number: u32) -> Result<(u64, u64), GgufError> {
    Ok(match number {
        F32 => (1, 4),
        1 | 30 => (1, 2),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        39 => (32, 17),
        10 => (256, 84),
        11 | 21 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
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

/// A set of tensor types, by ggml's numbers, all of which are below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TensorTypes(u64);

impl TensorTypes {
    pub(super) fn of(types: impl Iterator<Item = u32>) -> Self {
        let mut all = Self::default();
        types.for_each(|of| all.add(of));
        all
    }

    fn add(&mut self, of: u32) {
        self.0 |= 1 << of;
    }

    /// Those of both.
    pub(crate) fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether at least one of these is among them.
    pub(crate) fn any_of(self, types: &[u32]) -> bool {
        types.iter().any(|of| self.0 & (1 << of) != 0)
    }
}
