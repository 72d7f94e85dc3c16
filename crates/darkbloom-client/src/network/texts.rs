//! Tokenizers and templates of models: each fetched once, whoever waits for it, and kept while there is room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{Digest, Refusal, RefusalCode};
use darkbloom_wire::CatalogueEntry;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use super::Network;

/// Largest text pack that is taken: the vocabulary of 256 K tokens takes about 6 MiB.
const TEXT_PACK_BYTES_MAX: usize = 32 << 20;
/// Text models kept in memory: as many as a network offers models.
const TEXTS_MAX: usize = 64;
/// What the packs of those that are kept have together: room for as many of the largest vocabulary of today.
const TEXTS_BYTES_MAX: usize = TEXTS_MAX * (6 << 20);
/// Packs that are fetched and built at once: each may have 32 MiB, and building one keeps a core busy.
const FETCHES_MAX: usize = 4;

/// What comes of fetching a pack.
type Outcome = Result<TextModel, Refusal>;

/// The text models of a network, by the digests of their packs.
pub struct Texts {
    shelf: Mutex<Shelf>,
    fetches: Semaphore,
}

impl Default for Texts {
    fn default() -> Self {
        Self { shelf: Mutex::default(), fetches: Semaphore::new(FETCHES_MAX) }
    }
}

/// What there is to do about a pack.
enum Turn {
    Kept(TextModel),
    /// Somebody fetches it.
    Wait(watch::Receiver<Option<Outcome>>),
    /// The caller has it fetched, and says through this what came of it.
    Fetch(watch::Sender<Option<Outcome>>, watch::Receiver<Option<Outcome>>),
}

impl Texts {
    fn turn(&self, digest: Digest) -> Turn {
        let mut shelf = self.lock();
        if let Some(text) = shelf.take(&digest) {
            return Turn::Kept(text);
        }
        // Whose sender is gone will never be answered: it is fetched as if nobody had.
        if let Some(fetched) = shelf.fetched.get(&digest).filter(|fetched| fetched.has_changed().is_ok()) {
            return Turn::Wait(fetched.clone());
        }
        let (sender, receiver) = watch::channel(None);
        shelf.fetched.insert(digest, receiver.clone());
        Turn::Fetch(sender, receiver)
    }

    /// Keeps what was fetched, and tells everybody who waits. One that could not be is fetched again by whoever asks next;
    /// those who wait get the error, or the last of them would wait for as many failures as there are others.
    fn fetched(&self, digest: Digest, bytes: usize, outcome: Outcome, waiting: &watch::Sender<Option<Outcome>>) {
        let mut shelf = self.lock();
        shelf.fetched.remove(&digest);
        if let Ok(text) = &outcome {
            shelf.put(digest, text.clone(), bytes);
        }
        drop(shelf);
        waiting.send_replace(Some(outcome));
    }

    /// As if this had been fetched.
    #[cfg(test)]
    pub fn know(&self, digest: Digest, text: TextModel) {
        self.lock().put(digest, text, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept and what is on its way.
#[derive(Default)]
struct Shelf {
    kept: HashMap<Digest, Kept>,
    fetched: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
    /// Counts uses.
    uses: u64,
}

struct Kept {
    text: TextModel,
    bytes: usize,
    last_use: u64,
}

impl Shelf {
    fn take(&mut self, digest: &Digest) -> Option<TextModel> {
        let kept = self.kept.get_mut(digest)?;
        self.uses += 1;
        kept.last_use = self.uses;
        Some(kept.text.clone())
    }

    /// Those that were not used for longest make room.
    fn put(&mut self, digest: Digest, text: TextModel, bytes: usize) {
        while self.kept.len() >= TEXTS_MAX || self.bytes() + bytes > TEXTS_BYTES_MAX {
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.last_use).map(|(digest, _)| *digest) else {
                break;
            };
            self.kept.remove(&oldest);
        }
        self.uses += 1;
        self.kept.insert(digest, Kept { text, bytes, last_use: self.uses });
    }

    fn bytes(&self) -> usize {
        self.kept.values().map(|kept| kept.bytes).sum()
    }
}

impl Network {
    /// Tokenizer and template of a model, fetched by digest. Whoever asks for it while it is fetched gets the same one; a
    /// task of its own fetches it, so that nobody who goes away takes it from the others.
    pub async fn text(self: &Arc<Self>, entry: &CatalogueEntry) -> Result<TextModel, Refusal> {
        let digest = entry.text_pack;
        let mut outcome = match self.texts.turn(digest) {
            Turn::Kept(text) => return Ok(text),
            Turn::Wait(outcome) => outcome,
            Turn::Fetch(waiting, outcome) => {
                let network = Arc::clone(self);
                tokio::spawn(async move {
                    let (bytes, outcome) = match network.fetch_text(digest).await {
                        Ok((bytes, text)) => (bytes, Ok(text)),
                        Err(refusal) => (0, Err(refusal)),
                    };
                    network.texts.fetched(digest, bytes, outcome, &waiting);
                });
                outcome
            }
        };
        // An error says that the task ended without a word.
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| Refusal::from(RefusalCode::Internal))?;
        outcome.clone().unwrap_or_else(|| Err(RefusalCode::Internal.into()))
    }

    /// A pack's size and what it makes. A large one takes a second to check and build, so no async worker does it.
    async fn fetch_text(&self, digest: Digest) -> Result<(usize, TextModel), Refusal> {
        let internal = |error: String| Refusal::new(RefusalCode::Internal, error);
        let _place = self.texts.fetches.acquire().await.map_err(|error| internal(error.to_string()))?;
        let path = format!("/v1/blobs/{digest}");
        let bytes = self.ask(&path, None, "application/octet-stream", TEXT_PACK_BYTES_MAX).await?;
        let (size, built) = (bytes.len(), spawn_blocking(move || build(&bytes, digest)));
        built.await.map_err(|error| internal(error.to_string()))?.map(|text| (size, text))
    }
}

fn build(bytes: &[u8], digest: Digest) -> Outcome {
    let lie = |detail: String| Refusal::new(RefusalCode::VerificationFailed, detail);
    if Digest::of(&[bytes]) != digest {
        return Err(lie("the tokenizer is not the one in the catalogue".to_owned()));
    }
    let pack = TextPack::from_bytes(bytes).map_err(|error| lie(format!("tokenizer: {error}")))?;
    TextModel::new(pack).map_err(|error| lie(format!("tokenizer: {error}")))
}

#[cfg(test)]
mod tests;
