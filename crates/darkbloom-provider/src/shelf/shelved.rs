//! What stands on a shelf: a model that answers, or one that makes vectors.

use std::sync::Arc;

use darkbloom_engine::ExecuteError;
use tokio::sync::watch;

use super::Identity;
use crate::embedder::LoadedEmbedder;
use crate::model::{LoadError, LoadWatch, LoadedModel, ModelOptions};

/// A model in memory.
#[derive(Clone)]
pub enum Shelved {
    /// It answers.
    Model(Arc<LoadedModel>),
    /// It makes vectors of texts.
    Embedder(Arc<LoadedEmbedder>),
}

impl From<LoadedModel> for Shelved {
    fn from(model: LoadedModel) -> Self {
        Self::Model(Arc::new(model))
    }
}

impl Shelved {
    /// Loads either, as its options say. Blocks.
    pub fn load(options: &ModelOptions, watch: &LoadWatch) -> Result<Self, LoadError> {
        if options.embeds {
            LoadedEmbedder::load(options, watch).map(|embedder| Self::Embedder(Arc::new(embedder)))
        } else {
            LoadedModel::load_watched(options, watch).map(Self::from)
        }
    }

    /// What names its files.
    pub fn identity(&self) -> Identity {
        match self {
            Self::Model(model) => Identity { weights: model.weights, text_pack: model.text_pack },
            Self::Embedder(embedder) => embedder.identity,
        }
    }

    /// The model, where it answers.
    pub fn model(&self) -> Option<&Arc<LoadedModel>> {
        match self {
            Self::Model(model) => Some(model),
            Self::Embedder(_) => None,
        }
    }

    /// The model, where it makes vectors.
    pub fn embedder(&self) -> Option<&Arc<LoadedEmbedder>> {
        match self {
            Self::Embedder(embedder) => Some(embedder),
            Self::Model(_) => None,
        }
    }

    /// Becomes true when it has stopped by itself, which it does over a bug only.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        match self {
            Self::Model(model) => model.stopped(),
            Self::Embedder(embedder) => embedder.desk.stopped(),
        }
    }

    /// What it says about that.
    pub fn last_error(&self) -> Option<ExecuteError> {
        match self {
            Self::Model(model) => model.engine.stats().last_error,
            Self::Embedder(embedder) if embedder.desk.is_stuck() => Some(ExecuteError::Stuck),
            Self::Embedder(_) => Some(ExecuteError::Panicked),
        }
    }
}
