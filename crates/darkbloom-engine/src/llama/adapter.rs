//! LoRA adapters beside a model's weights.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek as _};

use super::raw::Model;
use super::{Exactness, HEADER_BUFFER_BYTES, LoadModelError};
use crate::gguf::{GgufError, check_adapter};
use crate::{AdapterError, AdapterHeader, ModelHeader};

/// Most adapters of one model: more than anybody lays on top of each other.
const ADAPTERS_MAX: usize = 8;
/// How much of an adapter is added, at most: far beyond every use, and short when it is written down.
const SCALE_MAX: f32 = 100.0;

/// An adapter that is to change a model while it is loaded.
#[derive(Debug)]
pub struct Adapter {
    /// Its file, which nobody else reads from by its offset.
    pub file: File,
    /// How much of it is added: 1 for what it was made for, 0 for nothing.
    pub scale: f32,
}

/// Checks all adapters of the model with this header: their files, which are open, from their beginnings, and how much of each
/// is added. Where the model is to be exact, no two of them change the same matrix: llama.cpp keeps them in a table by their
/// addresses, and adds in the order of that.
///
/// # Errors
/// Which of them cannot be used, from 0, and why.
pub fn check_open_adapters<'f>(
    adapters: impl IntoIterator<Item = (&'f File, f32)>,
    base: &ModelHeader,
    exactness: Exactness,
) -> Result<Vec<AdapterHeader>, (usize, AdapterError)> {
    let (mut headers, mut changed) = (Vec::new(), HashSet::new());
    for (at, (file, scale)) in adapters.into_iter().enumerate() {
        let refused = |error| (at, error);
        if at >= ADAPTERS_MAX {
            return Err(refused(AdapterError::TooMany));
        }
        // What is not a number is not in the range either.
        if !(-SCALE_MAX..=SCALE_MAX).contains(&scale) {
            return Err(refused(AdapterError::Scale));
        }
        let header = check_file(file, base).map_err(refused)?;
        for matrix in &header.matrices {
            if !changed.insert(matrix.clone()) && exactness == Exactness::Exact {
                return Err(refused(AdapterError::Overlap));
            }
        }
        headers.push(header);
    }
    Ok(headers)
}

fn check_file(mut file: &File, base: &ModelHeader) -> Result<AdapterHeader, AdapterError> {
    let unreadable = |error: std::io::Error| GgufError::Read(error.kind());
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(GgufError::Read(ErrorKind::InvalidInput).into());
    }
    file.rewind().map_err(unreadable)?;
    check_adapter(BufReader::with_capacity(HEADER_BUFFER_BYTES, file), facts.len(), base)
}

/// Puts checked adapters beside a model's weights.
pub(super) fn add_all(model: &mut Model, adapters: Vec<Adapter>) -> Result<(), LoadModelError> {
    for (at, Adapter { mut file, scale }) in adapters.into_iter().enumerate() {
        let added = file.rewind().is_ok() && model.add_adapter(file, scale);
        if !added {
            return Err(LoadModelError::Adapter { at, source: AdapterError::Refused });
        }
    }
    Ok(())
}
