//! The models of one provider: which are in memory, which are loaded when somebody asks, and which make room for them.
//!
//! [`Allowance`] decides; this carries its decisions out, one load at a time, and counts the requests of each model, so that
//! none is unloaded under a request. What a model takes is estimated from its header until it was loaded once, and measured
//! from then on.
//!
//! ```text
//!              ask                     room is made, loaded
//!   stored ───────────▶ waiting, loading ────────────────────▶ loaded ──lend──▶ requests
//!     ▲                    │ cannot be                            │
//!     └────────────────────┴──────── idle, or makes room ◀────────┘
//! ```

mod residency;
mod shelved;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_batch::Pace;
use darkbloom_engine::ExecuteError;
use darkbloom_types::{Digest, MonoMillis};
use darkbloom_wire::{LoadOutcome, Residence};
use tokio::sync::{Notify, watch};

pub use self::residency::Allowance;
use self::residency::{NoRoom, Resident};
pub use self::shelved::Shelved;
use crate::embedder::LoadedEmbedder;
use crate::machine;
use crate::model::{LoadError, LoadWatch, LoadedModel, ModelOptions};
use crate::models::Unchanged;

/// How often a model that waits for room looks whether others are done, beside whenever one of them is: what was used a moment ago is kept for a while.
const ROOM_LOOK: Duration = Duration::from_millis(500);

/// Loads a model; blocks.
type Load = Box<dyn Fn(&ModelOptions, &LoadWatch) -> Result<Shelved, LoadError> + Send + Sync>;

/// What a network's catalogue names a model by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The root of its weights' manifest.
    pub weights: Digest,
    /// The digest of its text pack.
    pub text_pack: Digest,
}

/// One model that is served.
pub struct Book {
    options: ModelOptions,
    identity: Identity,
    /// What it takes in memory.
    bytes: u64,
    /// The model, where it is in memory.
    model: Option<Shelved>,
    /// Where somebody asked for it: what becomes of that, and what ends the loading.
    asked: Option<(watch::Receiver<LoadOutcome>, LoadWatch)>,
    /// Requests that hold it.
    in_use: usize,
    used_at: MonoMillis,
    /// Another waits for its room, so it should get no new requests.
    leaving: bool,
    /// How its file was when it turned out to be another model, so that it is not read again and again.
    wrong: Option<String>,
}

/// How a model is, for heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Where it is.
    pub residence: Residence,
    /// Batch rows, and tokens of one.
    pub rows: (u32, u32),
    /// Rows that run, and requests that wait.
    pub busy: (u32, u32),
    /// How fast it has been since it was loaded.
    pub pace: Option<Pace>,
}

/// What became of asking for a model.
pub enum Asked {
    /// It is in memory.
    Loaded,
    /// It is on its way; what becomes of that comes, an end at last.
    Loading(watch::Receiver<LoadOutcome>),
}

/// Waits for the end of a load.
pub async fn ended(mut loading: watch::Receiver<LoadOutcome>) -> LoadOutcome {
    // Whoever loads it has panicked where there is no end.
    loading.wait_for(|outcome| outcome.is_end()).await.map_or(LoadOutcome::Unusable, |outcome| *outcome)
}

impl Book {
    /// A model on disk, which takes so many bytes by its header.
    pub fn stored(options: ModelOptions, identity: Identity, bytes: u64) -> Self {
        Self {
            options,
            identity,
            bytes,
            model: None,
            asked: None,
            in_use: 0,
            used_at: MonoMillis(0),
            leaving: false,
            wrong: None,
        }
    }

    /// A model in memory.
    pub fn loaded(options: ModelOptions, model: impl Into<Shelved>, bytes: u64) -> Self {
        let model = model.into();
        let identity = model.identity();
        Self { model: Some(model), ..Self::stored(options, identity, bytes) }
    }

    fn resident(&self, at: usize) -> Option<Resident> {
        let resident = Resident { model: at, bytes: self.bytes, in_use: self.in_use > 0, used_at: self.used_at };
        self.model.is_some().then_some(resident)
    }
}

/// All models that are served.
pub struct Shelf {
    books: Mutex<Vec<Book>>,
    allowance: Allowance,
    load: Load,
    started: Instant,
    /// One load at a time: what each takes is measured.
    loading: tokio::sync::Mutex<()>,
    /// A model came, went, or shall get no more requests.
    changed: watch::Sender<u64>,
    /// A model has no request left.
    freed: Notify,
    /// An engine stopped by itself, which it does over a bug only.
    broken: watch::Sender<bool>,
    broken_by: Mutex<Option<ExecuteError>>,
}

impl Shelf {
    /// A shelf with these models. What they are loaded by is called again whenever one of them is.
    pub fn new<M: Into<Shelved>>(
        books: Vec<Book>,
        allowance: Allowance,
        load: impl Fn(&ModelOptions, &LoadWatch) -> Result<M, LoadError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        // What is loaded may have taken more than was estimated, and must be able to come back.
        let fits = |book: Book| Book {
            bytes: if book.model.is_some() { book.bytes.min(allowance.budget) } else { book.bytes },
            ..book
        };
        let books = books.into_iter().map(fits).collect();
        let shelf = Arc::new(Self {
            books: Mutex::new(books),
            allowance,
            load: Box::new(move |options, watch| load(options, watch).map(Into::into)),
            started: Instant::now(),
            loading: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
            freed: Notify::new(),
            broken: watch::Sender::new(false),
            broken_by: Mutex::default(),
        });
        let count = shelf.books().len();
        (0..count).for_each(|at| shelf.watch_engine(at));
        shelf
    }

    /// A shelf with one model, which is in memory and stays there.
    #[cfg(test)]
    pub fn is_free(&self, at: usize) -> bool {
        self.books()[at].in_use == 0
    }

    /// A shelf with one model.
    #[cfg(test)]
    pub fn holding(model: LoadedModel) -> Arc<Self> {
        let options = ModelOptions::new(PathBuf::new(), model.rows as usize, model.row_tokens.0 as usize);
        let never = |options: &ModelOptions, _: &LoadWatch| {
            Err::<LoadedModel, _>(LoadError::Ended { path: options.path.clone() })
        };
        Self::new(vec![Book::loaded(options, model, 0)], Allowance::new(u64::MAX, None), never)
    }

    fn books(&self) -> MutexGuard<'_, Vec<Book>> {
        // Every change under the lock is a few assignments.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> MonoMillis {
        MonoMillis::from(self.started.elapsed())
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Each model's identity and file, in order.
    pub fn identities(&self) -> Vec<(Identity, PathBuf)> {
        self.books().iter().map(|book| (book.identity, book.options.path.clone())).collect()
    }

    /// How a model is.
    pub fn status(&self, at: usize) -> Option<Status> {
        let books = self.books();
        let book = books.get(at)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let residence = match (&book.model, book.leaving, &book.asked) {
            (Some(_), false, _) => Residence::Loaded,
            (_, _, Some(_)) => Residence::Loading,
            (_, _, None) => Residence::Stored,
        };
        Some(match &book.model {
            None | Some(Shelved::Embedder(_)) => {
                let rows = (count(book.options.rows), count(book.options.row_tokens));
                // No network has embedders, and nobody else asks how busy one is.
                Status { residence, rows, busy: (0, 0), pace: None }
            }
            Some(Shelved::Model(model)) => {
                let load = model.engine.load();
                let busy = (count(load.running), count(load.waiting));
                let rows = (model.rows, model.row_tokens.0);
                Status { residence, rows, busy, pace: model.engine.pace() }
            }
        })
    }

    /// Hears whenever a model came or went.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Becomes true when an engine has stopped by itself: nothing starts it again.
    pub fn broken(&self) -> watch::Receiver<bool> {
        self.broken.subscribe()
    }

    /// What the engine that stopped says about it.
    pub fn broken_by(&self) -> Option<ExecuteError> {
        *self.broken_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a model makes vectors, and no answers.
    pub fn embeds(&self, at: usize) -> bool {
        self.books().get(at).is_some_and(|book| book.options.embeds)
    }

    /// A model for one request, which keeps it in memory; nothing when it is not there. One that is to leave is lent to
    /// requests that were sent before that was known.
    pub fn lend(self: &Arc<Self>, at: usize) -> Option<Loan> {
        self.lend_if(at, |_| true, Shelved::model)
    }

    /// A model for a request that can wait; nothing when it is not there, or shall get no more requests.
    pub fn lend_unless_leaving(self: &Arc<Self>, at: usize) -> Option<Loan> {
        self.lend_if(at, |book| !book.leaving, Shelved::model)
    }

    /// A model that makes vectors, as [`Self::lend_unless_leaving`] lends one that answers.
    pub fn lend_embedder_unless_leaving(self: &Arc<Self>, at: usize) -> Option<Loan<LoadedEmbedder>> {
        self.lend_if(at, |book| !book.leaving, Shelved::embedder)
    }

    fn lend_if<T>(
        self: &Arc<Self>,
        at: usize,
        may: impl FnOnce(&Book) -> bool,
        kind: impl FnOnce(&Shelved) -> Option<&Arc<T>>,
    ) -> Option<Loan<T>> {
        let mut books = self.books();
        let book = books.get_mut(at).filter(|book| may(book))?;
        let model = Some(Arc::clone(kind(book.model.as_ref()?)?));
        book.in_use += 1;
        Some(Loan(Arc::new(Lent { model, shelf: Arc::clone(self), at })))
    }

    /// Ends what vectors are being made, and returns when no embedder is lent any more, or after so long.
    pub async fn end_vectors(&self, most: Duration) {
        let all_back = async {
            loop {
                let freed = self.freed.notified();
                let lent = {
                    let books = self.books();
                    let embedders =
                        books.iter().filter_map(|book| Some((book.model.as_ref()?.embedder()?, book.in_use)));
                    embedders.inspect(|(embedder, _)| embedder.desk.end()).any(|(_, in_use)| in_use > 0)
                };
                if !lent {
                    return;
                }
                freed.await;
            }
        };
        // Longer is waited for nobody.
        let _ = tokio::time::timeout(most, all_back).await;
    }

    /// Asks for a model to be in memory. One that is to leave comes back once the other has had its turn.
    pub fn ask(self: &Arc<Self>, at: usize) -> Option<Asked> {
        let (end, watch) = {
            let mut books = self.books();
            let book = books.get_mut(at)?;
            if book.model.is_some() && !book.leaving {
                return Some(Asked::Loaded);
            }
            if let Some((ended, _)) = &book.asked {
                return Some(Asked::Loading(ended.clone()));
            }
            let (end, watch) = (watch::Sender::new(LoadOutcome::Waiting), LoadWatch::default());
            book.asked = Some((end.subscribe(), watch.clone()));
            (end, watch)
        };
        self.tell();
        let (shelf, asked_at, ended) = (Arc::clone(self), self.now(), end.subscribe());
        tokio::spawn(async move {
            let outcome = shelf.bring(at, asked_at, &end, watch).await;
            // Nobody may be left to hear it.
            end.send_replace(outcome);
        });
        Some(Asked::Loading(ended))
    }

    /// Loads a model once it is its turn and there is room for it.
    async fn bring(
        self: &Arc<Self>,
        at: usize,
        asked_at: MonoMillis,
        end: &watch::Sender<LoadOutcome>,
        watch: LoadWatch,
    ) -> LoadOutcome {
        let _turn = self.loading.lock().await;
        let loaded = match self.make_room(at, asked_at).await {
            Ok(Room::Kept) => Ok(None),
            Ok(Room::Made(gone)) => {
                end.send_replace(LoadOutcome::Started);
                self.replace(at, gone, watch).await.map(Some)
            }
            Err(reason) => Err(reason),
        };
        let outcome = {
            let mut books = self.books();
            for book in books.iter_mut() {
                book.leaving = false;
            }
            let book = &mut books[at];
            book.asked = None;
            match loaded {
                Ok(Some((model, bytes))) => {
                    (book.model, book.bytes, book.used_at) = (Some(model), bytes, self.now());
                    LoadOutcome::Succeeded
                }
                Ok(None) => LoadOutcome::Succeeded,
                Err(outcome) => outcome,
            }
        };
        self.watch_engine(at);
        self.tell();
        outcome
    }

    /// Takes those from the shelf that have to go, once they can: in a while they get no more requests.
    async fn make_room(&self, at: usize, asked_at: MonoMillis) -> Result<Room, LoadOutcome> {
        loop {
            let freed = self.freed.notified();
            let left = {
                let mut books = self.books();
                let book = &mut books[at];
                if book.model.is_some() {
                    // It was to leave, and had not to.
                    return Ok(Room::Kept);
                }
                if book.wrong.is_some() && book.wrong == mark_of(&book.options.path) {
                    return Err(LoadOutcome::Unusable);
                }
                let bytes = book.bytes;
                let waited = self.now().since(asked_at);
                let residents: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
                match self.allowance.make_room(&residents, bytes, self.now()) {
                    // Whoever asked for it has given up.
                    Ok(_) | Err(NoRoom::Busy) if waited >= self.allowance.room_wait => return Err(LoadOutcome::Busy),
                    Ok(gone) => {
                        return Ok(Room::Made(gone.into_iter().filter_map(|at| books[at].model.take()).collect()));
                    }
                    Err(NoRoom::TooLarge) => return Err(LoadOutcome::TooLarge),
                    Err(NoRoom::Busy) if waited >= self.allowance.leave_after => {
                        let leaving = self.allowance.should_leave(&residents, bytes);
                        let mut changed = false;
                        for (at, book) in books.iter_mut().enumerate() {
                            changed |= std::mem::replace(&mut book.leaving, leaving.contains(&at)) != book.leaving;
                        }
                        changed
                    }
                    Err(NoRoom::Busy) => false,
                }
            };
            if left {
                self.tell();
            }
            // Either way it is looked at again.
            let _ = tokio::time::timeout(ROOM_LOOK, freed).await;
        }
    }

    /// Frees those that go, and loads the one that comes. With it comes what it takes.
    async fn replace(
        self: &Arc<Self>,
        at: usize,
        gone: Vec<Shelved>,
        watch: LoadWatch,
    ) -> Result<(Shelved, u64), LoadOutcome> {
        let (options, identity, estimated) = {
            let books = self.books();
            (books[at].options.clone(), books[at].identity, books[at].bytes)
        };
        if !gone.is_empty() {
            self.tell();
        }
        let shelf = Arc::clone(self);
        let (path, watched) = (options.path.clone(), watch.clone());
        let load = tokio::task::spawn_blocking(move || {
            drop(gone);
            let before = machine::resident_memory();
            let model = (shelf.load)(&options, &watch)?;
            let took = machine::resident_memory().saturating_sub(before);
            Ok::<_, LoadError>((model, took))
        });
        let (model, took) = tell_progress(load, &path, &watched).await?;
        if model.identity() != identity {
            self.books()[at].wrong = mark_of(&path);
            tracing::error!(path = %path.display(), "the model file is not the one that was put on offer any more");
            return Err(LoadOutcome::Unusable);
        }
        let bytes = measured(took, estimated).min(self.allowance.budget);
        tracing::info!(path = %path.display(), mib = bytes >> 20, "loaded a model");
        Ok((model, bytes))
    }

    /// Unloads what nobody uses, as long as it is awaited.
    pub async fn keep_tidy(&self) {
        let mut changes = self.changes();
        loop {
            let freed = self.freed.notified();
            let next = {
                let books = self.books();
                let residents: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
                let idle = self.allowance.idle(&residents, self.now());
                if idle.is_empty() { Some(self.allowance.next_idle(&residents)) } else { None }
            };
            let Some(next) = next else {
                self.unload_idle().await;
                continue;
            };
            let wait = next.map(|next| Duration::from_millis(next.since(self.now()).0));
            tokio::select! {
                () = sleep_for(wait) => {}
                () = freed => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Unloads what has been idle for too long, in a turn of its own: what it frees is not room before it is free, and would
    /// be measured as another's.
    async fn unload_idle(&self) {
        let _turn = self.loading.lock().await;
        let gone: Vec<_> = {
            let mut books = self.books();
            let residents: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
            let idle = self.allowance.idle(&residents, self.now());
            idle.into_iter().filter_map(|at| Some((books[at].options.path.clone(), books[at].model.take()?))).collect()
        };
        self.tell();
        for (path, model) in gone {
            // Freeing gigabytes takes a while.
            let freed = tokio::task::spawn_blocking(move || drop(model)).await;
            debug_assert!(freed.is_ok(), "an engine's end does not panic");
            tracing::info!(path = %path.display(), "unloaded a model that nobody used");
        }
    }

    /// Ends what is being loaded.
    pub fn stop_loading(&self) {
        for (_, watch) in self.books().iter().filter_map(|book| book.asked.as_ref()) {
            watch.end();
        }
    }

    /// Has the end of a loaded model's engine noticed, unless the model has left the shelf before.
    fn watch_engine(self: &Arc<Self>, at: usize) {
        let Some(mut stopped) = self.books()[at].model.as_ref().map(Shelved::stopped) else { return };
        // The shelf must be able to go: it is what ends its engines.
        let shelf = Arc::downgrade(self);
        tokio::spawn(async move {
            // An engine that is gone without a word was unloaded.
            if stopped.wait_for(|stopped| *stopped).await.is_err() {
                return;
            }
            let Some(shelf) = shelf.upgrade() else { return };
            let still = |model: &&Shelved| model.stopped().same_channel(&stopped);
            let broken_by = shelf.books()[at].model.as_ref().filter(still).map(Shelved::last_error);
            if let Some(error) = broken_by {
                *shelf.broken_by.lock().unwrap_or_else(PoisonError::into_inner) = error;
                shelf.broken.send_replace(true);
            }
        });
    }
}

/// What came of making room.
enum Room {
    /// These have left the shelf and are to be freed.
    Made(Vec<Shelved>),
    /// The model is there.
    Kept,
}

/// What a file is told apart by, if it is there.
fn mark_of(path: &Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    Unchanged::since_now(&file).ok().map(|now| now.mark())
}

/// What a model takes: the estimate, which counts what is taken later, or what was measured, where that is more and can be.
/// Memory that others took meanwhile counts with it.
pub fn measured(took: u64, estimated: u64) -> u64 {
    if took <= estimated.saturating_mul(2) { took.max(estimated) } else { estimated }
}

/// How often the log tells how far a load is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Waits for a load and tells how far it is.
async fn tell_progress<T>(
    mut load: tokio::task::JoinHandle<Result<T, LoadError>>,
    path: &Path,
    watch: &LoadWatch,
) -> Result<T, LoadOutcome> {
    let ended = loop {
        tokio::select! {
            ended = &mut load => break ended,
            () = tokio::time::sleep(PROGRESS) => {
                let percent = watch.done() / 10;
                tracing::info!(path = %path.display(), percent, "loading a model");
            }
        }
    };
    match ended {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(LoadError::Ended { .. })) => Err(LoadOutcome::Declined),
        Ok(Err(error)) => {
            tracing::error!(%error, hint = error.hint(), "a model cannot be loaded");
            Err(LoadOutcome::Unusable)
        }
        Err(_) => {
            tracing::error!(path = %path.display(), "loading a model panicked");
            Err(LoadOutcome::Unusable)
        }
    }
}

async fn sleep_for(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// A model that a request holds; it stays in memory until every copy of this is gone.
pub struct Loan<T = LoadedModel>(Arc<Lent<T>>);

impl<T> Clone for Loan<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Lent<T> {
    /// Given back before it is counted, so that whoever unloads it then has the last one.
    model: Option<Arc<T>>,
    shelf: Arc<Shelf>,
    at: usize,
}

impl<T> Deref for Loan<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.model.as_ref().expect("it is there until the last copy is gone")
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        drop(self.model.take());
        let now = self.shelf.now();
        let free = self.shelf.books().get_mut(self.at).is_some_and(|book| {
            book.in_use -= 1;
            book.used_at = now;
            book.in_use == 0
        });
        if free {
            self.shelf.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
