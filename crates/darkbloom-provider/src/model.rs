//! One model in memory: weights in the engine, text in the tokenizer, and the root that receipts name.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darkbloom_attest::{SINGLE_FILE, weights_root};
use darkbloom_batch::LimitsError;
use darkbloom_engine::{
    Engine, EngineHandle, Executor, LlamaExecutor, LlamaSettings, LoadModelError, StartEngineError, check_model_file,
};
use darkbloom_text::gguf::{Metadata, read_metadata};
use darkbloom_text::{BuildTextModelError, ReadGgufError, TextModel, TextPack};
use darkbloom_types::{Digest, TokenCount};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::answer::token_text_max;

/// Requests that may wait for a row here. The coordinator offers no more than there are rows, so this covers rows that
/// end while an offer travels.
const WAITING_MAX: usize = 8;

/// Prompts that are made into tokens at the same time: the core that the engine leaves free, and one more, so that a long
/// prompt does not hold up all the short ones. Each takes a core for up to a quarter of a second a MiB.
const TOKENISERS: usize = 2;

/// Which model, and how much of the machine it may use.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// The GGUF file.
    pub path: PathBuf,
    /// Batch rows.
    pub rows: usize,
    /// Most tokens of prompt and answer in one row; the model's own context when that is less.
    pub row_tokens: usize,
    /// Threads of the engine; by default cores minus one.
    pub threads: Option<usize>,
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
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] StartEngineError),
    /// The numbers given make no engine.
    #[error(transparent)]
    Limits(#[from] LimitsError),
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
            Self::Changed { .. } => "make sure that nothing writes to the file, and start again",
            Self::Engine(_) | Self::Limits(_) => "lower `--rows` or `--context`",
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
}

/// The weights root of a model file: its digest as a manifest of one file.
///
/// # Errors
/// [`io::Error`] when it cannot be read.
pub fn weights_of_file(path: &Path) -> io::Result<Digest> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let read = reader.read(&mut block)?;
        if read == 0 {
            break;
        }
        hasher.update(&block[..read]);
    }
    let digest = Digest(hasher.finalize().into());
    Ok(weights_root(&[(SINGLE_FILE, digest)]).expect("one file is a manifest"))
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
    /// Checks and hashes a model file. Blocks.
    ///
    /// # Errors
    /// [`LoadError`], as for [`LoadedModel::load`].
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let owned = || path.to_path_buf();
        let unreadable = |source| LoadError::Read { path: owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        check_model_file(path).map_err(|source| LoadError::Weights { path: owned(), source })?;
        let malformed = |source| LoadError::Format { path: owned(), source };
        let metadata = read_metadata(file).map_err(malformed)?;
        let text_pack = TextPack::from_metadata(&metadata).map_err(malformed)?;
        TextModel::new(text_pack.clone()).map_err(|source| LoadError::Text { path: owned(), source })?;
        let weights = weights_of_file(path).map_err(unreadable)?;
        Ok(Self { weights, text_pack, quantisation: quantisation(&metadata) })
    }
}

/// The name of a file's `general.file_type`; the numbers are llama.cpp's (`llama_ftype`).
fn quantisation(metadata: &Metadata) -> &'static str {
    match metadata.number("general.file_type") {
        Ok(Some(0)) => "F32",
        Ok(Some(1)) => "F16",
        Ok(Some(2)) => "Q4_0",
        Ok(Some(3)) => "Q4_1",
        Ok(Some(7)) => "Q8_0",
        Ok(Some(8)) => "Q5_0",
        Ok(Some(9)) => "Q5_1",
        Ok(Some(10)) => "Q2_K",
        Ok(Some(11)) => "Q3_K_S",
        Ok(Some(12)) => "Q3_K_M",
        Ok(Some(13)) => "Q3_K_L",
        Ok(Some(14)) => "Q4_K_S",
        Ok(Some(15)) => "Q4_K_M",
        Ok(Some(16)) => "Q5_K_S",
        Ok(Some(17)) => "Q5_K_M",
        Ok(Some(18)) => "Q6_K",
        Ok(Some(32)) => "BF16",
        Ok(_) | Err(_) => "unknown",
    }
}

impl LoadedModel {
    /// Hashes and loads a model file, and starts its engine. Blocks.
    ///
    /// # Errors
    /// [`LoadError`] says what is wrong with the file or the numbers.
    pub fn load(options: &ModelOptions) -> Result<Self, LoadError> {
        Self::load_into(options, |executor| executor)
    }

    /// Loads a model file as [`Self::load`] does, with something around what executes its steps: another pace, or faults.
    ///
    /// # Errors
    /// [`LoadError`], as for [`Self::load`].
    pub fn load_into<E: Executor + 'static>(
        options: &ModelOptions,
        around: impl FnOnce(LlamaExecutor) -> E,
    ) -> Result<Self, LoadError> {
        let path = &options.path;
        let unreadable = |source| LoadError::Read { path: path.clone(), source };
        let weights = weights_of_file(path).map_err(unreadable)?;
        let file = File::open(path).map_err(unreadable)?;
        let pack = TextPack::from_gguf(BufReader::new(file));
        let pack = pack.map_err(|source| LoadError::Format { path: path.clone(), source })?;
        let text_pack = pack.digest();
        let text = TextModel::new(pack).map_err(|source| LoadError::Text { path: path.clone(), source })?;

        let row_tokens = options.row_tokens.min(text.context_length().0 as usize);
        let mut settings = LlamaSettings::new(options.rows, row_tokens);
        if let Some(threads) = options.threads {
            settings.threads = threads;
        }
        let executor = LlamaExecutor::load(path, &settings).map_err(|source| match source {
            LoadModelError::Setting(_) | LoadModelError::ContextTooLong { .. } | LoadModelError::Context => {
                LoadError::Settings(source)
            }
            LoadModelError::Missing
            | LoadModelError::Unreadable(_)
            | LoadModelError::Path
            | LoadModelError::Damaged(_)
            | LoadModelError::Refused
            | LoadModelError::UnsupportedKind => LoadError::Weights { path: path.clone(), source },
        })?;
        // The engine reads the file by itself: whoever swapped it meanwhile is found out here.
        if weights_of_file(path).map_err(unreadable)? != weights {
            return Err(LoadError::Changed { path: path.clone() });
        }
        let limits = executor.capacity().limits(WAITING_MAX);
        let engine = Engine::start(around(executor), limits)?;
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
            engine: engine.handle(),
            rows: u32::try_from(limits.rows_max).unwrap_or(u32::MAX),
            row_tokens: TokenCount(u32::try_from(limits.row_tokens_max).unwrap_or(u32::MAX)),
            stopped,
            _engine: engine,
        })
    }

    /// Becomes true when the engine has stopped, which it does by itself only over a bug: nothing starts it again.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use darkbloom_text::gguf::Value;

    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
    }

    #[test]
    fn the_quantisation_is_what_the_file_says() {
        assert_eq!(CheckedModel::read(&shipped()).ok().map(|model| model.quantisation), Some("Q8_0"));
        let said = |value: Option<Value>| {
            let entries = value.map(|value| ("general.file_type".to_owned(), value)).into_iter();
            quantisation(&Metadata { tensors: 0, entries: BTreeMap::from_iter(entries), bytes: 0 })
        };
        assert_eq!(said(Some(Value::Unsigned(15))), "Q4_K_M");
        assert_eq!(said(Some(Value::Signed(32))), "BF16");
        for odd in [None, Some(Value::Unsigned(4)), Some(Value::Signed(-1)), Some(Value::Text("Q8_0".to_owned()))] {
            assert_eq!(said(odd), "unknown");
        }
    }

    #[test]
    fn numbers_that_make_no_engine_are_not_blamed_on_the_file() {
        let good = ModelOptions { path: shipped(), rows: 1, row_tokens: 64, threads: Some(1) };
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
}
