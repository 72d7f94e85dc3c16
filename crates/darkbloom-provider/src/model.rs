//! One model in memory: weights in the engine, text in the tokenizer, and the root that receipts name.

mod files;

use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use darkbloom_batch::LimitsError;
use darkbloom_engine::{
    Accelerator, Adapter, AdapterError, AdapterHeader, Engine, EngineHandle, Exactness, Executor, LlamaExecutor,
    LlamaSettings, LoadModelError, MemoryNeed, ModelHeader, StartEngineError,
};
use darkbloom_text::gguf::read_metadata;
use darkbloom_text::{BuildTextModelError, ReadGgufError, TextModel, TextPack};
use darkbloom_types::{Digest, TokenCount};
use tokio::sync::{Semaphore, watch};

use crate::answer::token_text_max;
use crate::guides::Guides;
use crate::models::quantisation;

pub(crate) use files::ModelFiles;
pub use files::{AdapterFile, weights_of_file};

/// Requests that may wait for a row here: as many as programs of one machine may have at once. A coordinator offers no more
/// than there are rows.
pub(crate) const WAITING_MAX: usize = 64;

/// Prompts that are made into tokens at the same time: the core that the engine leaves free, and one more, so that a long
/// prompt does not hold up all the short ones. Each takes a core for up to a quarter of a second a MiB.
pub(crate) const TOKENISERS: usize = 2;

/// Which model, and how much of the machine it may use.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// The GGUF file.
    pub path: PathBuf,
    /// What changes its weights.
    pub adapters: Vec<AdapterFile>,
    /// Batch rows.
    pub rows: usize,
    /// Most tokens of prompt and answer in one row; the model's own context when that is less.
    pub row_tokens: usize,
    /// Threads of the engine; by default cores minus one.
    pub threads: Option<usize>,
    /// Which kernels may run.
    pub exactness: Exactness,
    /// Whether it may run on something else than the processor; where it must be exact, it does not.
    pub accelerator: Accelerator,
    /// Whether it makes vectors of texts, as its file says, and no answers.
    pub embeds: bool,
}

impl ModelOptions {
    /// A file with so many rows of so many tokens: exact, on the processor, unchanged by adapters.
    #[must_use]
    pub fn new(path: PathBuf, rows: usize, row_tokens: usize) -> Self {
        Self {
            path,
            adapters: Vec::new(),
            rows,
            row_tokens,
            threads: None,
            exactness: Exactness::Exact,
            accelerator: Accelerator::Cpu,
            embeds: false,
        }
    }
}

/// Which model is to be served, and what its owner says about its rows.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// The GGUF file.
    pub path: PathBuf,
    /// What changes its weights.
    pub adapters: Vec<AdapterFile>,
    /// Batch rows; as many as there is memory for, up to eight, where nothing is said.
    pub rows: Option<usize>,
    /// Most tokens of prompt and answer in one row; as many as there is memory for, up to 8,192, where nothing is
    /// said.
    pub row_tokens: Option<usize>,
    /// Threads of the engine; by default cores minus one.
    pub threads: Option<usize>,
    /// Which kernels may run.
    pub exactness: Exactness,
    /// Whether it may run on something else than the processor; where it must be exact, it does not.
    pub accelerator: Accelerator,
}

/// Batch rows by default.
const ROWS: usize = 8;
/// Tokens of a row by default.
const ROW_TOKENS: usize = 8_192;
/// Tokens of a row below which rather the number of rows is lowered, and then those below which nothing is.
const ROW_TOKENS_LEAST: [usize; 2] = [2_048, 512];

impl ModelConfig {
    /// The file with the defaults.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            adapters: Vec::new(),
            rows: None,
            row_tokens: None,
            threads: None,
            exactness: Exactness::Exact,
            accelerator: Accelerator::Cpu,
        }
    }

    /// Rows and their tokens so that the model fits into so many bytes, and what it takes then.
    pub(crate) fn fit(
        &self,
        header: &ModelHeader,
        adapters: &[AdapterHeader],
        budget: u64,
    ) -> Result<(ModelOptions, u64), LoadError> {
        let trained = usize::try_from(header.context_length).unwrap_or(usize::MAX);
        let mut row_tokens = self.row_tokens.unwrap_or(ROW_TOKENS).min(trained);
        let mut rows = self.rows.unwrap_or(ROWS);
        let embeds = header.pooling.is_some();
        loop {
            let need = MemoryNeed::of(header, row_tokens).with_adapters(header, adapters);
            let needed = if embeds { need.with_states(header) } else { need }.total(rows);
            if needed <= budget {
                let Self { path, adapters, threads, exactness, accelerator, .. } = self.clone();
                let options =
                    ModelOptions { path, adapters, rows, row_tokens, threads, exactness, accelerator, embeds };
                return Ok((options, needed));
            }
            if self.row_tokens.is_none() && row_tokens > ROW_TOKENS_LEAST[0] {
                row_tokens /= 2;
            } else if self.rows.is_none() && rows > 1 {
                rows /= 2;
            } else if self.row_tokens.is_none() && row_tokens > ROW_TOKENS_LEAST[1] {
                row_tokens /= 2;
            } else {
                let (path, needed, budget) = (self.path.clone(), needed >> 20, budget >> 20);
                return Err(LoadError::TooLarge { path, rows, row_tokens, needed, budget });
            }
        }
    }
}

/// Hears how far the loading of a model is, and can end it from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct LoadWatch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    ended: AtomicBool,
    /// Thousandths of the weights that are loaded.
    done: AtomicU32,
}

impl LoadWatch {
    /// Ends it, within a moment.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }

    /// How much of the weights is loaded, in thousandths.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.0.done.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Whether loading goes on.
    pub(crate) fn hear(&self, done: f32) -> bool {
        // From 0 to 1.
        self.0.done.store((done * 1_000.0) as u32, Ordering::Relaxed);
        !self.is_ended()
    }
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the model file {path}: {source}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An adapter's file cannot be read.
    #[error("cannot read the adapter file {path}: {source}", path = .path.display())]
    ReadAdapter {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An adapter is not sound, or not one of this model's.
    #[error("cannot use the adapter {path}: {source}", path = .path.display())]
    Adapter {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: AdapterError,
    },
    /// It is no model file that this program knows.
    #[error("{path} is not a usable model file: {source}", path = .path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ReadGgufError,
    },
    /// Its tokenizer or template is not usable.
    #[error("the tokenizer in {path} is not usable: {source}", path = .path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: BuildTextModelError,
    },
    /// The engine refused it.
    #[error("cannot load {path}: {source}", path = .path.display())]
    Weights {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: LoadModelError,
    },
    /// The file changed between hashing and loading.
    #[error("the model file {path} changed while it was being loaded", path = .path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// It was ended before it was done.
    #[error("loading {path} was ended before it was done", path = .path.display())]
    Ended {
        /// Which file.
        path: PathBuf,
    },
    /// The owner's budget is too small for it.
    #[error(
        "{path} needs {needed} MiB of memory with {rows} rows of {row_tokens} tokens, and the budget is {budget} MiB",
        path = .path.display()
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Batch rows, the fewest that were tried.
        rows: usize,
        /// Tokens of one.
        row_tokens: usize,
        /// MiB that it needs.
        needed: u64,
        /// MiB that there are.
        budget: u64,
    },
    /// It makes vectors of texts, where answers are asked for.
    #[error("{path} makes vectors of texts, and a network sells answers alone", path = .path.display())]
    Embeds {
        /// Which file.
        path: PathBuf,
    },
    /// It is being removed or written.
    #[error("the model file {path} is in use by another program that removes or writes it", path = .path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] StartEngineError),
    /// The numbers given make no engine.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// There is no accelerator, or it cannot do what is asked for.
    #[error("{0}")]
    Accelerator(#[source] LoadModelError),
    /// The engine cannot run with the numbers given, whatever the file.
    #[error("the engine cannot run with these numbers: {0}")]
    Settings(#[source] LoadModelError),
}

impl LoadError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => "check the path given with `--model`",
            Self::Format { .. } | Self::Text { .. } | Self::Weights { .. } => {
                "get the file again and compare its digest with the catalogue's"
            }
            Self::ReadAdapter { .. } => "check the path given with `--adapter`, as FILE or FILE=SCALE",
            Self::Adapter { source: AdapterError::Overlap, .. } => "give one of them, or add `--fast`",
            Self::Adapter { .. } => "give adapters that were made for this model, as FILE or FILE=SCALE",
            Self::Embeds { .. } => {
                "serve it on this machine with `darkbloom start --local`, and give a model that answers here"
            }
            Self::InUse { .. } => "wait until that is done, and start again",
            Self::Ended { .. } => "start again",
            Self::TooLarge { .. } => {
                "give more with `--memory`, fewer `--rows`, a shorter `--context`, or a smaller model"
            }
            Self::Changed { .. } => "make sure that nothing writes to the file, and start again",
            Self::Engine(_) | Self::Limits(_) => "lower `--rows` or `--context`",
            Self::Accelerator(LoadModelError::InexactAccelerator) => "add `--fast`, or leave `--accelerator` out",
            Self::Accelerator(_) => "`darkbloom doctor` lists the devices; `--accelerator preferred` does without",
            Self::Settings(_) => "give `--rows`, `--context` and `--threads` other numbers",
        }
    }
}

/// A model that is ready to answer.
pub struct LoadedModel {
    /// The root of its weights' manifest.
    pub weights: Digest,
    /// The digest of its text pack.
    pub text_pack: Digest,
    /// Tokenizer and template.
    pub text: TextModel,
    /// The longest text that one of its tokens can bring, in bytes.
    pub token_text_max: usize,
    /// Who may make a prompt into tokens now.
    pub(crate) tokenisers: Arc<Semaphore>,
    /// What holds its answers to schemas and calls.
    pub(crate) guides: Guides,
    /// The engine.
    pub engine: EngineHandle,
    /// Batch rows.
    pub rows: u32,
    /// Tokens that prompt and answer may take together in a row.
    pub row_tokens: TokenCount,
    /// Whether the engine has stopped.
    stopped: watch::Receiver<bool>,
    /// Keeps the engine's thread.
    _engine: Engine,
    /// Holds the files' locks, so that nobody removes what a restart would need.
    _files: Arc<ModelFiles>,
}

/// A model file that passed every check that needs no loading of its weights.
pub struct CheckedModel {
    /// The root of its weights' manifest.
    pub weights: Digest,
    /// Its tokenizer and template, which were built and tried.
    pub text_pack: TextPack,
    /// How the file says that most of its weights are stored, such as `Q8_0`; `unknown` where it says nothing known.
    pub quantisation: &'static str,
}

impl CheckedModel {
    /// Checks and hashes a model file and the adapters that change it. Blocks.
    ///
    /// # Errors
    /// [`LoadError`], as for [`LoadedModel::load`].
    pub fn read(path: &Path, adapters: &[AdapterFile]) -> Result<Self, LoadError> {
        Self::read_watched(path, adapters, &LoadWatch::default())
    }

    /// Checks and hashes as [`Self::read`] does, until a watch ends it.
    pub(crate) fn read_watched(path: &Path, adapters: &[AdapterFile], watch: &LoadWatch) -> Result<Self, LoadError> {
        let owned = || path.to_path_buf();
        let files = ModelFiles::hold(path, adapters)?;
        // Whether two adapters of one matrix run is a provider's own decision.
        let (header, _) = files.headers(Exactness::Fast)?;
        if header.pooling.is_some() {
            return Err(LoadError::Embeds { path: owned() });
        }
        let malformed = |source| LoadError::Format { path: owned(), source };
        let mut file = files.model();
        file.rewind().map_err(|source| LoadError::Read { path: owned(), source })?;
        let metadata = read_metadata(BufReader::new(file)).map_err(malformed)?;
        let text_pack = TextPack::from_metadata(&metadata).map_err(malformed)?;
        TextModel::new(text_pack.clone()).map_err(|source| LoadError::Text { path: owned(), source })?;
        let weights = files.root(&files.digests(watch)?);
        Ok(Self { weights, text_pack, quantisation: quantisation(header.file_type) })
    }
}

impl LoadedModel {
    /// Hashes and loads a model file, and starts its engine. Blocks.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file or the numbers.
    pub fn load(options: &ModelOptions) -> Result<Self, LoadError> {
        Self::load_watched(options, &LoadWatch::default())
    }

    /// Loads as [`Self::load`] does, heard and ended by a watch.
    ///
    /// # Errors
    /// [`LoadError`], as for [`Self::load`].
    pub fn load_watched(options: &ModelOptions, watch: &LoadWatch) -> Result<Self, LoadError> {
        Self::load_into(options, watch, |executor| executor)
    }

    /// Loads a model file as [`Self::load`] does, with something around what executes its steps: another pace, or faults.
    ///
    /// # Errors
    /// [`LoadError`], as for [`Self::load`].
    pub fn load_into<E: Executor + 'static>(
        options: &ModelOptions,
        watch: &LoadWatch,
        around: impl FnOnce(LlamaExecutor) -> E,
    ) -> Result<Self, LoadError> {
        let ((text_pack, text, limits, executor), files, weights) =
            ModelFiles::hold_and_hash(options, watch, |files| {
                let ((text_pack, text), executor) = read_and_load(files, options, watch)?;
                let limits = executor.capacity().limits(WAITING_MAX);
                Ok((text_pack, text, limits, around(executor)))
            })?;
        let engine = Engine::start(executor, limits)?;
        let (notice, stopped) = watch::channel(false);
        engine.handle().when_stopped(Box::new(move || {
            // Nobody hears it where the model is dropped as well.
            let _ = notice.send(true);
        }));
        Ok(Self {
            weights,
            text_pack,
            token_text_max: token_text_max(&text),
            tokenisers: Arc::new(Semaphore::new(TOKENISERS)),
            text,
            guides: Guides::default(),
            engine: engine.handle(),
            rows: u32::try_from(limits.rows_max).unwrap_or(u32::MAX),
            row_tokens: TokenCount(u32::try_from(limits.row_tokens_max).unwrap_or(u32::MAX)),
            stopped,
            _engine: engine,
            _files: files,
        })
    }

    /// Becomes true when the engine has stopped, which it does by itself only over a bug: nothing starts it again.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.clone()
    }
}

/// Reads a model file's tokenizer and template, and loads its weights.
fn read_and_load(
    files: &ModelFiles,
    options: &ModelOptions,
    watch: &LoadWatch,
) -> Result<((Digest, TextModel), LlamaExecutor), LoadError> {
    let path = &options.path;
    let (file, adapters) = open_files(files, options)?;
    let pack = TextPack::from_gguf(BufReader::new(&file));
    let pack = pack.map_err(|source| LoadError::Format { path: path.clone(), source })?;
    let text_pack = pack.digest();
    let text = TextModel::new(pack).map_err(|source| LoadError::Text { path: path.clone(), source })?;
    let row_tokens = options.row_tokens.min(text.context_length().0 as usize);
    let settings = LlamaSettings { row_tokens_max: row_tokens, ..llama_settings(options) };
    let executor = LlamaExecutor::load_open(file, adapters, &settings, &mut |done| watch.hear(done));
    Ok(((text_pack, text), executor.map_err(|source| load_error(options, source))?))
}

/// A model's files once more, as the engine takes them.
pub(crate) fn open_files(files: &ModelFiles, options: &ModelOptions) -> Result<(File, Vec<Adapter>), LoadError> {
    let unreadable = |source| LoadError::Read { path: options.path.clone(), source };
    let file = files.model().try_clone().map_err(unreadable)?;
    let adapters = files.adapters().map(|(file, scale)| Ok(Adapter { file: file.try_clone()?, scale }));
    Ok((file, adapters.collect::<io::Result<Vec<_>>>().map_err(unreadable)?))
}

/// How the engine is to run a model.
pub(crate) fn llama_settings(options: &ModelOptions) -> LlamaSettings {
    let ModelOptions { exactness, accelerator, .. } = *options;
    let settings = LlamaSettings { exactness, accelerator, ..LlamaSettings::new(options.rows, options.row_tokens) };
    LlamaSettings { threads: options.threads.unwrap_or(settings.threads), ..settings }
}

/// What the engine says of a model that it did not load.
pub(crate) fn load_error(options: &ModelOptions, source: LoadModelError) -> LoadError {
    let path = &options.path;
    match source {
        LoadModelError::Ended => LoadError::Ended { path: path.clone() },
        LoadModelError::Adapter { at, source } => {
            LoadError::Adapter { path: options.adapters[at].path.clone(), source }
        }
        LoadModelError::NoAccelerator | LoadModelError::InexactAccelerator => LoadError::Accelerator(source),
        LoadModelError::Setting(_) | LoadModelError::ContextTooLong { .. } | LoadModelError::Context => {
            LoadError::Settings(source)
        }
        LoadModelError::Missing
        | LoadModelError::Unreadable(_)
        | LoadModelError::Damaged(_)
        | LoadModelError::Refused
        | LoadModelError::NoPooling
        | LoadModelError::UnsupportedKind => LoadError::Weights { path: path.clone(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
    }

    #[test]
    fn the_quantisation_is_what_the_file_says() {
        assert_eq!(CheckedModel::read(&shipped(), &[]).ok().map(|model| model.quantisation), Some("Q8_0"));
        assert_eq!([Some(15), Some(32), Some(4), None].map(quantisation), ["Q4_K_M", "BF16", "unknown", "unknown"]);
    }

    #[test]
    fn numbers_that_make_no_engine_are_not_blamed_on_the_file() {
        let good = ModelOptions { threads: Some(1), ..ModelOptions::new(shipped(), 1, 64) };
        for wrong in [
            ModelOptions { rows: 0, ..good.clone() },
            ModelOptions { rows: 257, ..good.clone() },
            ModelOptions { row_tokens: 1, ..good.clone() },
            ModelOptions { threads: Some(0), ..good },
        ] {
            let error = LoadedModel::load(&wrong).err().expect("no engine");
            assert!(matches!(error, LoadError::Settings(_)), "{error:?}");
            assert!(error.hint().contains("--rows") && !error.hint().contains("digest"), "{}", error.hint());
        }
    }

    #[test]
    fn an_accelerator_that_is_required_is_there_or_nothing_is_loaded() {
        let options = |exactness| ModelOptions {
            path: shipped(),
            adapters: Vec::new(),
            rows: 1,
            row_tokens: 64,
            threads: Some(1),
            exactness,
            accelerator: Accelerator::Required,
            embeds: false,
        };
        let exact = LoadedModel::load(&options(Exactness::Exact)).err().expect("no bits are promised");
        assert!(exact.to_string().contains("no accelerator promises the same bits"), "{exact}");
        assert!(exact.hint().contains("--fast"));
        if !darkbloom_engine::devices().iter().any(|device| device.is_accelerator) {
            let none = LoadedModel::load(&options(Exactness::Fast)).err().expect("there is none");
            assert!(none.to_string().contains("finds none"), "{none}");
            assert!(none.hint().contains("darkbloom doctor"));
        }
    }

    #[test]
    fn weights_that_are_patched_between_hash_and_load_are_not_served() {
        type Change = fn(&Path, &Path);
        let changes: [(Change, bool); 3] = [
            (|_, _| {}, true),
            (|path, _| std::fs::write(path, &std::fs::read(shipped()).unwrap()[1..]).unwrap(), false),
            (|path, other| std::fs::rename(other, path).unwrap(), false),
        ];
        for (change, served) in changes {
            let folder = tempfile::tempdir().unwrap();
            let (path, other) = (folder.path().join("model.gguf"), folder.path().join("other.gguf"));
            std::fs::copy(shipped(), &path).unwrap();
            std::fs::copy(shipped(), &other).unwrap();
            let options = ModelOptions { threads: Some(1), ..ModelOptions::new(path.clone(), 1, 64) };
            let loaded = LoadedModel::load_into(&options, &LoadWatch::default(), |executor| {
                change(&path, &other);
                executor
            });
            match loaded {
                Ok(model) => assert!(served && model.weights == weights_of_file(&shipped()).unwrap()),
                Err(error) => assert!(!served && matches!(error, LoadError::Changed { .. }), "{error}"),
            }
        }
    }
}
