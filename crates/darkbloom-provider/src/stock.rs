//! What a provider starts with: each model's file is looked at, sized for the memory there is, and named by digest.

use std::collections::HashSet;

use crate::model::{CheckedModel, LoadError, LoadWatch, LoadedModel, ModelConfig, ModelFiles, ModelOptions};
use crate::models::{KnownWeights, Seen};
use crate::shelf::{Book, Identity, measured};
use crate::{StartError, machine};

/// Makes the books of a provider's shelf: the first model is loaded, and the others are named. A model that is given twice is
/// served once. Blocks.
pub fn books(
    configs: &[ModelConfig],
    budget: u64,
    mut known: KnownWeights,
    load: impl Fn(&ModelOptions, &LoadWatch) -> Result<LoadedModel, LoadError>,
    watch: &LoadWatch,
) -> Result<Vec<Book>, StartError> {
    let (mut books, mut seen) = (Vec::new(), HashSet::new());
    for config in configs {
        let path = &config.path;
        let (header, adapters) = ModelFiles::hold(path, &config.adapters)?.headers(config.exactness)?;
        let (options, bytes) = config.fit(&header, &adapters, budget)?;
        // What is remembered is the name of a file alone.
        let remembered = config.adapters.is_empty();
        let book = if books.is_empty() {
            let before = machine::resident_memory();
            let seen = Seen::now(path);
            let model = load(&options, watch)?;
            let bytes = measured(machine::resident_memory().saturating_sub(before), bytes);
            let identity = Identity { weights: model.weights, text_pack: model.text_pack };
            if remembered {
                known.put(seen, &identity);
            }
            (identity.weights, Book::loaded(options, model, bytes))
        } else {
            let identity = match known.get(path).filter(|_| remembered) {
                Some(identity) => identity,
                None => {
                    tracing::info!(path = %path.display(), "reading a model file to name it");
                    let seen = Seen::now(path);
                    let CheckedModel { weights, text_pack, .. } =
                        CheckedModel::read_watched(path, &config.adapters, watch)?;
                    let identity = Identity { weights, text_pack: text_pack.digest() };
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
