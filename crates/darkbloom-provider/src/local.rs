//! Answers without a network: programs of this machine ask an engine of this process.

mod vectors;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darkbloom_batch::{EndReason, Owner, RowEvent, RowFailure, RowId, RowRequest, Scope};
use darkbloom_content::{AnswerParts, ChatRequest, FinishReason};
use darkbloom_host::clock;
use darkbloom_text::AnswerAssembler;
use darkbloom_types::{Refusal, RefusalCode, SecretString, TokenCount};
use darkbloom_wire::LoadOutcome;
use rand_core::Rng as _;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::ModelConfig;
use crate::request::prompt::{self, Asked};
use crate::request::{out_of_shape, row_request, submit_refusal};
use crate::shelf::{self, Loan, Shelf, Shelved, ended};
use crate::stock::Kinds;
use crate::{ServeError, StartError};

/// Parts of an answer that may wait for whoever reads it; behind them wait the row's tokens, which its limit bounds.
const PARTS_MAX: usize = 64;

/// How long a request waits for its model: as long as one waits in a network.
const LOAD_WAIT: Duration = Duration::from_millis(darkbloom_session::waits::LOADING.0);

/// What is served.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The models. The first is loaded at the start, the others when somebody asks for them.
    pub models: Vec<ModelConfig>,
    /// Bytes of memory for all of them together; three quarters of what is free at the start, where nothing is said.
    pub memory: Option<u64>,
    /// How long a model may be without a request before it is unloaded; never where there is none.
    pub idle_unload: Option<Duration>,
    /// The folder in which digests of model files are remembered.
    pub data: PathBuf,
}

/// Models that answer programs of this machine.
pub struct Local {
    shelf: Arc<Shelf>,
    /// By place on the shelf.
    names: Vec<String>,
    next_row: AtomicU64,
    /// Of this run: rows share prefixes with rows of the same run.
    scope: [u8; 32],
    tidying: JoinHandle<()>,
}

/// What an answer says.
#[derive(Debug)]
pub enum Said {
    /// More of it.
    Parts(AnswerParts),
    /// Its end.
    Ended {
        /// Why.
        reason: FinishReason,
        /// Tokens of the prompt.
        input_tokens: TokenCount,
        /// Tokens that were made.
        output_tokens: TokenCount,
    },
    /// It broke off.
    Failed(Refusal),
}

impl Local {
    /// Loads the first model. A model is called by its file's name, without `.gguf`.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(config: LocalConfig) -> Result<Self, StartError> {
        let (models, known) = (config.models, config.data.join("weights.json"));
        let (memory, idle) = (config.memory, config.idle_unload);
        let shelf = crate::open_shelf(models, Kinds::AnswersAndVectors, memory, idle, known, Shelved::load).await?;
        let mut names: Vec<String> = Vec::new();
        for (_, path) in shelf.identities() {
            let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            // Two files of one name are told apart by a number.
            let taken = names.iter().filter(|name| **name == stem || name.starts_with(&format!("{stem}#"))).count();
            names.push(if taken == 0 { stem } else { format!("{stem}#{}", taken + 1) });
        }
        let mut scope = [0; 32];
        clock::rng().fill_bytes(&mut scope);
        let tidy = Arc::clone(&shelf);
        let tidying = tokio::spawn(async move { tidy.keep_tidy().await });
        Ok(Self { shelf, names, next_row: AtomicU64::new(1), scope, tidying })
    }

    /// The names of the models.
    #[must_use]
    pub fn models(&self) -> &[String] {
        &self.names
    }

    /// Returns when an engine has stopped by itself, which is a bug.
    pub async fn broken(&self) -> ServeError {
        let mut broken: watch::Receiver<bool> = self.shelf.broken();
        // The shelf, which keeps the sender, is here.
        let _ = broken.wait_for(|broken| *broken).await;
        ServeError::EngineStopped { reason: self.shelf.broken_by() }
    }

    /// Starts an answer, once its model is in memory. Dropping what is returned ends it.
    ///
    /// # Errors
    /// [`Refusal`] when there is no such model, no room for it, or the request does not fit it.
    pub async fn answer(
        &self,
        model: &str,
        request: ChatRequest,
        output_most: Option<u32>,
    ) -> Result<mpsc::Receiver<Said>, Refusal> {
        let at = self.place_of(model)?;
        if self.shelf.embeds(at) {
            let detail =
                "this model makes vectors of texts: send it to `POST /v1/embeddings`, or name one that answers";
            return Err(Refusal::new(RefusalCode::InvalidRequest, detail));
        }
        let model = self.loaded(at, Shelf::lend_unless_leaving).await?;
        let room = TokenCount(model.row_tokens.0.saturating_sub(1));
        let Asked { request, prompt, opening, guide } = prompt::make_within(model.clone(), request, room).await?;
        let input_tokens = TokenCount(u32::try_from(prompt.len()).unwrap_or(u32::MAX));
        let left = model.row_tokens.0.saturating_sub(input_tokens.0);
        let most = output_most.unwrap_or(left);
        if most > left {
            let detail = format!("{input_tokens} tokens in and {most} out do not fit into {}", model.row_tokens);
            return Err(Refusal::new(RefusalCode::ContextLengthExceeded, detail));
        }
        let assembler = AnswerAssembler::new(&model.text, &request, opening);
        let id = RowId(self.next_row.fetch_add(1, Ordering::Relaxed));
        let row = RowRequest { guide, ..RowRequest::new(id, prompt, TokenCount(most)) };
        let events = self.submit(&model, row_request(&model, row, &request))?;
        let (out, said) = mpsc::channel(PARTS_MAX);
        let row = Row { model, id, events, assembler, input_tokens, output_tokens: 0, out };
        tokio::spawn(row.run());
        Ok(said)
    }

    fn place_of(&self, model: &str) -> Result<usize, Refusal> {
        self.names.iter().position(|name| name == model).ok_or_else(|| RefusalCode::ModelNotFound.into())
    }

    async fn loaded<T>(
        &self,
        at: usize,
        lend: impl Fn(&Arc<Shelf>, usize) -> Option<Loan<T>>,
    ) -> Result<Loan<T>, Refusal> {
        // It may be unloaded again before it is lent, when another waits for its room.
        for _ in 0..3 {
            if let Some(model) = lend(&self.shelf, at) {
                return Ok(model);
            }
            let Some(shelf::Asked::Loading(loading)) = self.shelf.ask(at) else { continue };
            match tokio::time::timeout(LOAD_WAIT, ended(loading)).await {
                Ok(LoadOutcome::Succeeded | LoadOutcome::Started | LoadOutcome::Waiting) => {}
                Ok(LoadOutcome::TooLarge | LoadOutcome::Busy) => {
                    let detail = "there is no memory for this model beside those that are at work";
                    return Err(Refusal::new(RefusalCode::NoCapacity, detail));
                }
                Ok(LoadOutcome::Unusable | LoadOutcome::Declined) => return Err(RefusalCode::ModelNotLoaded.into()),
                Err(_) => return Err(Refusal::new(RefusalCode::NoCapacity, "the model takes too long to load")),
            }
        }
        Err(RefusalCode::NoCapacity.into())
    }

    fn submit(&self, model: &Loan, row: RowRequest) -> Result<UnboundedReceiver<RowEvent>, Refusal> {
        // Bounded by the ceiling: a row makes at most so many events.
        let (sender, events) = mpsc::unbounded_channel();
        let row = RowRequest { owner: Owner(0), scope: Some(Scope::new(self.scope)), ..row };
        let sink = Box::new(move |event| {
            // The receiver is gone when nobody reads the answer; the row is cancelled then.
            let _ = sender.send(event);
        });
        model.engine.submit(row, sink).map_err(|error| submit_refusal(&error))?;
        Ok(events)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.tidying.abort();
        self.shelf.stop_loading();
    }
}

/// One answer.
struct Row {
    model: Loan,
    id: RowId,
    events: UnboundedReceiver<RowEvent>,
    assembler: AnswerAssembler,
    input_tokens: TokenCount,
    output_tokens: u32,
    out: mpsc::Sender<Said>,
}

impl Row {
    async fn run(mut self) {
        let last = tokio::select! {
            last = Self::generate(&mut self.events, &mut self.assembler, &mut self.output_tokens, &self.out) => last,
            () = self.out.closed() => None,
        };
        // Its row may be running still: a stop string, or nobody reads it.
        self.model.engine.cancel(self.id);
        let Self { assembler, input_tokens, output_tokens, out, .. } = self;
        let Some((end, failure)) = last else { return };
        let (reason, rest) = match end {
            End::Stopped => (turn_ended(assembler.called()), None),
            End::Row(EndReason::StopToken) => (turn_ended(assembler.called()), Some(assembler)),
            End::Row(EndReason::Length) => (FinishReason::Length, Some(assembler)),
            End::Row(EndReason::Cancelled | EndReason::Failed) => {
                let refusal = failure.and_then(out_of_shape).unwrap_or_else(|| RefusalCode::Internal.into());
                let _ = out.send(Said::Failed(refusal)).await;
                return;
            }
        };
        let mut reason = reason;
        // Nobody may be there to hear it.
        if let Some(assembler) = rest {
            let rest = assembler.finish();
            if rest.stopped || reason != FinishReason::Length {
                reason = turn_ended(rest.called);
            }
            let _ = out.send(Said::Parts(rest.parts)).await;
        }
        let _ = out.send(Said::Ended { reason, input_tokens, output_tokens: TokenCount(output_tokens) }).await;
    }

    /// Hands parts on until the row ends, or a stop string is complete; nothing where nobody takes them.
    async fn generate(
        events: &mut UnboundedReceiver<RowEvent>,
        assembler: &mut AnswerAssembler,
        output_tokens: &mut u32,
        out: &mpsc::Sender<Said>,
    ) -> Option<(End, Option<RowFailure>)> {
        while let Some(event) = events.recv().await {
            match event {
                RowEvent::Started { .. } => {}
                RowEvent::Token { token, .. } => {
                    *output_tokens += 1;
                    let (parts, stopped) = assembler.push(token);
                    out.send(Said::Parts(parts)).await.ok()?;
                    if stopped {
                        return Some((End::Stopped, None));
                    }
                }
                RowEvent::Ended { reason, failure, .. } => return Some((End::Row(reason), failure)),
            }
        }
        Some((End::Row(EndReason::Failed), None))
    }
}

enum End {
    /// A stop string is complete; what is held back belongs to it.
    Stopped,
    Row(EndReason),
}

fn turn_ended(called: bool) -> FinishReason {
    if called { FinishReason::ToolCalls } else { FinishReason::Stop }
}

/// Random bytes of a key, and what stands before them as hex.
const KEY_BYTES: usize = 32;
const KEY_PREFIX: &str = "dbl-";

/// The key that programs of this machine send, from its file; where there is none, a new one is made, which its owner alone
/// can read.
///
/// # Errors
/// [`io::Error`] when the file cannot be read or written, or holds no key.
pub fn local_key(path: &Path) -> io::Result<SecretString> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let key = SecretString::from(text.trim());
            let known = key.expose().strip_prefix(KEY_PREFIX).is_some_and(|hex| hex.len() == 2 * KEY_BYTES);
            if known { Ok(key) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no key")) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; KEY_BYTES];
            clock::rng().fill_bytes(&mut bytes);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let key = SecretString::new(format!("{KEY_PREFIX}{hex}"));
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(key.expose().as_bytes())?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_stays_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/local.key");
        let key = local_key(&path).unwrap();
        assert_eq!(local_key(&path).unwrap().expose(), key.expose());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(local_key(&folder.path().join("other.key")).unwrap().expose(), key.expose());
        fs::write(&path, "dbl-short").unwrap();
        assert_eq!(local_key(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
