//! One model in memory that makes vectors of texts.

mod desk;

use std::io::{BufReader, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use darkbloom_engine::{EmbedError, LlamaEmbedder, StepLimits};
use darkbloom_text::EmbeddingTokenizer;
use darkbloom_text::gguf::read_metadata;
use darkbloom_types::{SecretVector, TokenCount, TokenId};
use tokio::sync::Semaphore;

use self::desk::{Desk, MakeVectors};
use crate::model::{
    AdapterFile, LoadError, LoadWatch, ModelFiles, ModelOptions, TOKENISERS, WAITING_MAX, llama_settings, load_error,
    open_files,
};
use crate::shelf::Identity;

/// A model that is ready to make vectors.
pub struct LoadedEmbedder {
    /// What names its files.
    pub identity: Identity,
    /// What makes texts into its tokens.
    pub tokenizer: EmbeddingTokenizer,
    /// Who may make texts into tokens now.
    pub tokenisers: Arc<Semaphore>,
    /// How many numbers a vector has.
    pub width: u32,
    /// How many tokens a text may have.
    pub text_tokens: TokenCount,
    /// Where it takes texts.
    pub desk: Desk,
    /// Holds the files' locks, so that nobody removes what a restart would need.
    _files: Arc<ModelFiles>,
}

impl LoadedEmbedder {
    /// Hashes and loads a model file, and starts the thread that it runs on, heard and ended by a watch. Blocks.
    pub fn load(options: &ModelOptions, watch: &LoadWatch) -> Result<Self, LoadError> {
        let ((tokenizer, embedder), files, weights) =
            ModelFiles::hold_and_hash(options, watch, |files| read_and_load(files, options, watch))?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let (width, text_tokens) = (count(embedder.width()), TokenCount(count(embedder.text_tokens_max())));
        let desk = Desk::start(embedder, options.rows, WAITING_MAX, StepLimits::default())
            .map_err(|source| LoadError::Read { path: options.path.clone(), source })?;
        Ok(Self {
            identity: Identity { weights, text_pack: tokenizer.text_pack() },
            tokenizer,
            tokenisers: Arc::new(Semaphore::new(TOKENISERS)),
            width,
            text_tokens,
            desk,
            _files: files,
        })
    }

    /// What names a model's files, without loading them. Blocks.
    pub fn identity_of(path: &Path, adapters: &[AdapterFile], watch: &LoadWatch) -> Result<Identity, LoadError> {
        let files = ModelFiles::hold(path, adapters)?;
        let text_pack = read_tokenizer(&files, path)?.text_pack();
        Ok(Identity { weights: files.root(&files.digests(watch)?), text_pack })
    }
}

fn read_tokenizer(files: &ModelFiles, path: &Path) -> Result<EmbeddingTokenizer, LoadError> {
    let mut file = files.model();
    file.rewind().map_err(|source| LoadError::Read { path: path.to_path_buf(), source })?;
    let tokenizer =
        read_metadata(BufReader::new(file)).and_then(|metadata| EmbeddingTokenizer::from_metadata(&metadata));
    tokenizer.map_err(|source| LoadError::Format { path: path.to_path_buf(), source })
}

fn read_and_load(
    files: &ModelFiles,
    options: &ModelOptions,
    watch: &LoadWatch,
) -> Result<(EmbeddingTokenizer, LlamaEmbedder), LoadError> {
    let tokenizer = read_tokenizer(files, &options.path)?;
    let (file, adapters) = open_files(files, options)?;
    let settings = llama_settings(options);
    let embedder = LlamaEmbedder::load_open(file, adapters, &settings, &mut |done| watch.hear(done));
    Ok((tokenizer, embedder.map_err(|source| load_error(options, source))?))
}

impl MakeVectors for LlamaEmbedder {
    fn embed(&mut self, texts: &[&[TokenId]], goes_on: &dyn Fn() -> bool) -> Result<Vec<SecretVector>, EmbedError> {
        self.embed(texts, goes_on)
    }

    fn erase(&mut self) {
        self.erase();
    }

    fn interrupt(&self) -> Arc<AtomicBool> {
        self.interrupt()
    }
}
