//! The models of one provider: which are in memory, which are loaded when somebody asks, and which make room for them.
//!
//! [`Allowance`] decides; this carries its decisions out, one load at a time, and counts the requests of each model, so that
//! none is unloaded under a request. What a model takes is estimated from its header until it was loaded once, and measured
//! from then on.
//!
//! ```text
//!              ask                     room is made, loaded
//!   Stored ───────────▶ Loading ─────────────────────────────▶ Loaded ──lend──▶ requests
//!     ▲                    │ cannot be                            │
//!     └────────────────────┴──────── idle, or makes room ◀────────┘
//! ```

mod residency;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use darkbloom_engine::ExecuteError;
use darkbloom_types::{Digest, MonoMillis};
use darkbloom_wire::{LoadOutcome, Residence};
use tokio::sync::{Notify, watch};

pub use self::residency::Allowance;
use self::residency::{NoRoom, Resident};
use crate::machine;
use crate::model::{LoadError, LoadWatch, LoadedModel, ModelOptions};

/// How often a model that waits for room looks whether others are done, beside whenever one of them is: what was used a moment ago is kept for a while.
const ROOM_LOOK: Duration = Duration::from_millis(500);

/// Loads a model; blocks.
pub type Load = Box<dyn Fn(&ModelOptions, &LoadWatch) -> Result<LoadedModel, LoadError> + Send + Sync>;

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
    place: Place,
    /// Requests that hold it.
    in_use: usize,
    used_at: MonoMillis,
    /// Another waits for its room, so it should get no new requests.
    leaving: bool,
}

enum Place {
    Stored,
    Loading { ended: watch::Receiver<Option<LoadOutcome>>, watch: LoadWatch },
    Loaded(Arc<LoadedModel>),
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
}

/// What became of asking for a model.
pub enum Asked {
    /// It is in memory.
    Loaded,
    /// It is being loaded; the outcome comes.
    Loading(watch::Receiver<Option<LoadOutcome>>),
}

impl Book {
    /// A model on disk, which takes so many bytes by its header.
    pub fn stored(options: ModelOptions, identity: Identity, bytes: u64) -> Self {
        let place = Place::Stored;
        Self { options, identity, bytes, place, in_use: 0, used_at: MonoMillis(0), leaving: false }
    }

    /// A model in memory.
    pub fn loaded(options: ModelOptions, model: LoadedModel, bytes: u64) -> Self {
        let identity = Identity { weights: model.weights, text_pack: model.text_pack };
        Self { place: Place::Loaded(Arc::new(model)), ..Self::stored(options, identity, bytes) }
    }

    fn resident(&self, at: usize) -> Option<Resident> {
        match self.place {
            Place::Stored | Place::Loading { .. } => None,
            Place::Loaded(_) => {
                Some(Resident { model: at, bytes: self.bytes, in_use: self.in_use > 0, used_at: self.used_at })
            }
        }
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
    pub fn new(books: Vec<Book>, allowance: Allowance, load: Load) -> Arc<Self> {
        let shelf = Arc::new(Self {
            books: Mutex::new(books),
            allowance,
            load,
            started: Instant::now(),
            loading: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(0),
            freed: Notify::new(),
            broken: watch::Sender::new(false),
            broken_by: Mutex::default(),
        });
        let loaded: Vec<_> = shelf.books().iter().map(|book| matches!(book.place, Place::Loaded(_))).collect();
        for at in (0..loaded.len()).filter(|at| loaded[*at]) {
            shelf.watch_engine(at);
        }
        shelf
    }

    /// A shelf with one model, which is in memory and stays there.
    #[cfg(test)]
    pub fn holding(model: LoadedModel) -> Arc<Self> {
        let options = ModelOptions {
            path: PathBuf::new(),
            adapters: Vec::new(),
            rows: model.rows as usize,
            row_tokens: model.row_tokens.0 as usize,
            threads: None,
            exactness: darkbloom_engine::Exactness::Exact,
            accelerator: darkbloom_engine::Accelerator::Cpu,
        };
        let never =
            Box::new(|options: &ModelOptions, _: &LoadWatch| Err(LoadError::Ended { path: options.path.clone() }));
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
        let options = (count(book.options.rows), count(book.options.row_tokens));
        Some(match &book.place {
            Place::Stored => Status { residence: Residence::Stored, rows: options, busy: (0, 0) },
            Place::Loading { .. } => Status { residence: Residence::Loading, rows: options, busy: (0, 0) },
            Place::Loaded(model) => {
                let load = model.engine.load();
                Status {
                    residence: if book.leaving { Residence::Stored } else { Residence::Loaded },
                    rows: (model.rows, model.row_tokens.0),
                    busy: (count(load.running), count(load.waiting)),
                }
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

    /// A model for one request, which keeps it in memory; nothing when it is not there.
    pub fn lend(self: &Arc<Self>, at: usize) -> Option<Loan> {
        let mut books = self.books();
        let book = books.get_mut(at)?;
        let Place::Loaded(model) = &book.place else { return None };
        let model = Arc::clone(model);
        book.in_use += 1;
        Some(Loan(Arc::new(Lent { model: Some(model), shelf: Arc::clone(self), at })))
    }

    /// Asks for a model to be in memory.
    pub fn ask(self: &Arc<Self>, at: usize) -> Option<Asked> {
        let mut books = self.books();
        let book = books.get_mut(at)?;
        match &book.place {
            Place::Loaded(_) => {
                // Whoever wants its room waits on.
                return Some(Asked::Loaded);
            }
            Place::Loading { ended, .. } => return Some(Asked::Loading(ended.clone())),
            Place::Stored => {}
        }
        let (end, ended) = watch::channel(None);
        let watch = LoadWatch::default();
        book.place = Place::Loading { ended: ended.clone(), watch: watch.clone() };
        drop(books);
        self.tell();
        let shelf = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = shelf.bring(at, watch).await;
            // Nobody may be left to hear it.
            let _ = end.send(Some(outcome));
        });
        Some(Asked::Loading(ended))
    }

    /// Loads a model once there is room for it.
    async fn bring(self: &Arc<Self>, at: usize, watch: LoadWatch) -> LoadOutcome {
        let _turn = self.loading.lock().await;
        let loaded = match self.make_room(at).await {
            Ok(gone) => self.replace(at, gone, watch).await,
            Err(reason) => Err(reason),
        };
        let outcome = {
            let mut books = self.books();
            for book in books.iter_mut() {
                book.leaving = false;
            }
            let book = &mut books[at];
            match loaded {
                Ok((model, bytes)) => {
                    book.place = Place::Loaded(Arc::new(model));
                    book.bytes = bytes;
                    book.used_at = self.now();
                    LoadOutcome::Succeeded
                }
                Err(outcome) => {
                    book.place = Place::Stored;
                    outcome
                }
            }
        };
        if outcome == LoadOutcome::Succeeded {
            self.watch_engine(at);
        }
        self.tell();
        outcome
    }

    /// Takes those from the shelf that have to go, once they can: in a while they get no more requests.
    async fn make_room(&self, at: usize) -> Result<Vec<Arc<LoadedModel>>, LoadOutcome> {
        let since = self.now();
        loop {
            let waited = self.now().since(since);
            let freed = self.freed.notified();
            let left = {
                let mut books = self.books();
                let residents: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
                let bytes = books[at].bytes;
                match self.allowance.make_room(&residents, bytes, self.now()) {
                    Ok(gone) => return Ok(gone.into_iter().filter_map(|at| take(&mut books[at])).collect()),
                    Err(NoRoom::TooLarge) => return Err(LoadOutcome::TooLarge),
                    Err(NoRoom::Busy) if waited >= self.allowance.room_wait => return Err(LoadOutcome::Busy),
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
        gone: Vec<Arc<LoadedModel>>,
        watch: LoadWatch,
    ) -> Result<(LoadedModel, u64), LoadOutcome> {
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
        if (Identity { weights: model.weights, text_pack: model.text_pack }) != identity {
            tracing::error!(path = %path.display(), "the model file is not the one that was put on offer any more");
            return Err(LoadOutcome::Unusable);
        }
        let bytes = measured(took, estimated);
        tracing::info!(path = %path.display(), mib = bytes >> 20, "loaded a model");
        Ok((model, bytes))
    }

    /// Unloads what nobody uses, as long as it is awaited.
    pub async fn keep_tidy(&self) {
        let mut changes = self.changes();
        loop {
            let freed = self.freed.notified();
            let (gone, next) = {
                let mut books = self.books();
                let residents: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
                let idle = self.allowance.idle(&residents, self.now());
                let gone: Vec<_> = idle
                    .into_iter()
                    .filter_map(|at| Some((books[at].options.path.clone(), take(&mut books[at])?)))
                    .collect();
                let left: Vec<_> = books.iter().enumerate().filter_map(|(at, book)| book.resident(at)).collect();
                (gone, self.allowance.next_idle(&left))
            };
            if !gone.is_empty() {
                self.tell();
                changes.mark_unchanged();
                for (path, model) in gone {
                    // Freeing gigabytes takes a while.
                    let freed = tokio::task::spawn_blocking(move || drop(model)).await;
                    debug_assert!(freed.is_ok(), "an engine's end does not panic");
                    tracing::info!(path = %path.display(), "unloaded a model that nobody used");
                }
                continue;
            }
            let wait = next.map(|next| Duration::from_millis(next.since(self.now()).0));
            tokio::select! {
                () = sleep_for(wait) => {}
                () = freed => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Ends what is being loaded.
    pub fn stop_loading(&self) {
        for book in self.books().iter() {
            if let Some(watch) = book.watch() {
                watch.end();
            }
        }
    }

    /// Has the end of a loaded model's engine noticed, unless the model has left the shelf before.
    fn watch_engine(self: &Arc<Self>, at: usize) {
        let Some((mut stopped, engine)) = (match &self.books()[at].place {
            Place::Loaded(model) => Some((model.stopped(), model.engine.clone())),
            Place::Stored | Place::Loading { .. } => None,
        }) else {
            return;
        };
        let shelf = Arc::clone(self);
        let watched = move || {
            let still = |place: &Place| matches!(place, Place::Loaded(model) if model.engine.is_same(&engine));
            if shelf.books().get(at).is_some_and(|book| still(&book.place)) {
                *shelf.broken_by.lock().unwrap_or_else(PoisonError::into_inner) = engine.stats().last_error;
                shelf.broken.send_replace(true);
            }
        };
        tokio::spawn(async move {
            // An engine that is gone without a word was unloaded.
            if stopped.wait_for(|stopped| *stopped).await.is_ok() {
                watched();
            }
        });
    }
}

impl Book {
    fn watch(&self) -> Option<LoadWatch> {
        match &self.place {
            Place::Loading { watch, .. } => Some(watch.clone()),
            Place::Stored | Place::Loaded(_) => None,
        }
    }
}

/// Takes a model off the shelf.
fn take(book: &mut Book) -> Option<Arc<LoadedModel>> {
    match std::mem::replace(&mut book.place, Place::Stored) {
        Place::Loaded(model) => Some(model),
        place @ (Place::Stored | Place::Loading { .. }) => {
            book.place = place;
            None
        }
    }
}

/// What a model takes: what was measured, where that can be. Memory that others took or gave back meanwhile counts with it.
pub fn measured(took: u64, estimated: u64) -> u64 {
    if took >= estimated / 2 && took <= estimated.saturating_mul(2) { took } else { estimated }
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
#[derive(Clone)]
pub struct Loan(Arc<Lent>);

struct Lent {
    /// Given back before it is counted, so that whoever unloads it then has the last one.
    model: Option<Arc<LoadedModel>>,
    shelf: Arc<Shelf>,
    at: usize,
}

impl Deref for Loan {
    type Target = LoadedModel;
    fn deref(&self) -> &LoadedModel {
        self.0.model.as_ref().expect("it is there until the last copy is gone")
    }
}

impl Drop for Lent {
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
