//! What a provider starts with: each model's file is looked at, sized for the memory there is, and named by digest.

use std::collections::HashSet;

use crate::embedder::LoadedEmbedder;
use crate::model::{CheckedModel, LoadError, LoadWatch, ModelConfig, ModelFiles, ModelOptions};
use crate::models::{KnownWeights, Seen};
use crate::shelf::{Book, Identity, Shelved, measured};
use crate::{StartError, machine};

/// Which models may be among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Those that answer.
    Answers,
    /// Those that make vectors as well.
    AnswersAndVectors,
}

/// Makes the books of a provider's shelf: the first model is loaded, and the others are named. A model that is given twice is
/// served once. Blocks.
pub fn books<M: Into<Shelved>>(
    configs: &[ModelConfig],
    kinds: Kinds,
    budget: u64,
    mut known: KnownWeights,
    load: impl Fn(&ModelOptions, &LoadWatch) -> Result<M, LoadError>,
    watch: &LoadWatch,
) -> Result<Vec<Book>, StartError> {
    // What their headers say is known before any of them is read.
    let sized = configs.iter().map(|config| size(config, kinds, budget)).collect::<Result<Vec<_>, _>>()?;
    let (mut books, mut seen) = (Vec::new(), HashSet::new());
    for (options, bytes) in sized {
        let path = options.path.clone();
        // What is remembered is the name of a file alone.
        let remembered = options.adapters.is_empty();
        let book = if books.is_empty() {
            let before = machine::resident_memory();
            let seen = Seen::now(&path);
            let model: Shelved = load(&options, watch)?.into();
            let bytes = measured(machine::resident_memory().saturating_sub(before), bytes);
            let identity = model.identity();
            if remembered {
                known.put(seen, &identity);
            }
            (identity.weights, Book::loaded(options, model, bytes))
        } else {
            let identity = match known.get(&path).filter(|_| remembered) {
                Some(identity) => identity,
                None => {
                    tracing::info!(path = %path.display(), "reading a model file to name it");
                    let seen = Seen::now(&path);
                    let identity = name(&options, watch)?;
                    if remembered {
                        known.put(seen, &identity);
                    }
                    identity
                }
            };
            (identity.weights, Book::stored(options, identity, bytes))
        };
        if seen.insert(book.0) {
            books.push(book.1);
        } else {
            tracing::warn!(path = %path.display(), "this model is given twice, and served once");
        }
    }
    if books.is_empty() { Err(StartError::NoModel) } else { Ok(books) }
}

/// How a model fits into memory, and what it takes there.
fn size(config: &ModelConfig, kinds: Kinds, budget: u64) -> Result<(ModelOptions, u64), LoadError> {
    let (header, adapters) = ModelFiles::hold(&config.path, &config.adapters)?.headers(config.exactness)?;
    if header.pooling.is_some() && kinds == Kinds::Answers {
        return Err(LoadError::Embeds { path: config.path.clone() });
    }
    config.fit(&header, &adapters, budget)
}

/// Reads a model's files to name them.
fn name(options: &ModelOptions, watch: &LoadWatch) -> Result<Identity, LoadError> {
    if options.embeds {
        return LoadedEmbedder::identity_of(&options.path, &options.adapters, watch);
    }
    let CheckedModel { weights, text_pack, .. } = CheckedModel::read_watched(&options.path, &options.adapters, watch)?;
    Ok(Identity { weights, text_pack: text_pack.digest() })
}
