//! LoRA adapters beside a model's weights.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek as _};

use super::raw::Model;
use super::{HEADER_BUFFER_BYTES, LoadModelError};
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

/// Checks an adapter's file that is open, from its beginning: it is whole, and fits the model with this header.
///
/// # Errors
/// [`AdapterError`] says what is wrong with it.
pub fn check_open_adapter_file(mut file: &File, base: &ModelHeader) -> Result<AdapterHeader, AdapterError> {
    let unreadable = |error: std::io::Error| GgufError::Read(error.kind());
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(GgufError::Read(ErrorKind::InvalidInput).into());
    }
    file.rewind().map_err(unreadable)?;
    check_adapter(BufReader::with_capacity(HEADER_BUFFER_BYTES, file), facts.len(), base)
}

/// Checks all adapters of a model. Where it is to be exact, no two of them change the same matrix: llama.cpp keeps them in a
/// table by their addresses, and adds in the order of that.
pub(super) fn check_all(
    adapters: &[Adapter],
    base: &ModelHeader,
    exact: bool,
) -> Result<Vec<AdapterHeader>, LoadModelError> {
    let mut changed: HashSet<String> = HashSet::new();
    let mut check = |at: usize, adapter: &Adapter| {
        if at >= ADAPTERS_MAX {
            return Err(AdapterError::TooMany);
        }
        // Not where it is not a number either.
        if !(-SCALE_MAX..=SCALE_MAX).contains(&adapter.scale) {
            return Err(AdapterError::Scale);
        }
        let header = check_open_adapter_file(&adapter.file, base)?;
        let overlaps = header.matrices.iter().any(|matrix| changed.contains(matrix));
        changed.extend(header.matrices.iter().cloned());
        if exact && overlaps { Err(AdapterError::Overlap) } else { Ok(header) }
    };
    let headers = adapters
        .iter()
        .enumerate()
        .map(|(at, adapter)| check(at, adapter).map_err(|source| LoadModelError::Adapter { at, source }));
    headers.collect()
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
