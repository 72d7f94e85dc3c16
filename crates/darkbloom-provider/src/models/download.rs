//! Getting a model file: in as many pieces as it takes, verified before it has its name.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use darkbloom_engine::check_open_model_file;
use darkbloom_types::Digest;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap};
use tokio::task::spawn_blocking;

use super::folder::Folder;
use super::hub::{Answer, DownloadError, Failed, Hub, now};
use super::listing::{PlannedFile, single_root};
use super::meter::{Meter, Progress};
use super::names::{RepositoryName, Revision};
use super::partial::{OpenPartialError, Opened, Partial};

/// How much is gathered before it is written.
const WRITE_BYTES: usize = 1 << 20;
/// Attempts count anew after so much has come: a line that breaks every few seconds still gets there.
const PROGRESS_MIN: u64 = 1 << 20;
/// Attempts for one file altogether: a terabyte with a break every ten gigabytes.
const ATTEMPTS_MAX: u32 = 100;
/// Room that must be left on the disk: logs and receipts are written too.
const RESERVE_BYTES: u64 = 64 << 20;
/// Longest entity tag that is noted: the hub's are digests.
const ETAG_BYTES_MAX: usize = 200;

/// What to get, and where to put it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The repository.
    pub repository: RepositoryName,
    /// The commit, from a listing.
    pub commit: Revision,
    /// The file, from a listing.
    pub file: PlannedFile,
    /// The weights root that it must have, from a catalogue.
    pub weights: Option<Digest>,
    /// The folder of this machine's models. The file comes into `OWNER/NAME` below it.
    pub models: PathBuf,
}

/// What happens meanwhile.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// So many bytes were there from an earlier time.
    Resumed {
        /// How many.
        bytes: u64,
    },
    /// More came.
    Progress(Progress),
    /// What was there is not used: the hub's file is another now, or the hub sends whole files only.
    Restarted,
    /// An attempt came to nothing; there will be another.
    Waiting {
        /// Why.
        why: String,
        /// How long.
        wait: Duration,
    },
}

/// A file that is there, and is what was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Where.
    pub path: PathBuf,
    /// Its weights root.
    pub weights: Digest,
    /// Whether it was there before.
    pub already: bool,
}

/// Gets a file, or finds that it is there. What was got of it before is used.
///
/// # Errors
/// [`DownloadError`]. What has come is kept for another time, unless it is wrong.
pub async fn download(hub: &Hub, order: &Order, mut say: impl FnMut(Event)) -> Result<Downloaded, DownloadError> {
    let (models, repository, file) = (order.models.clone(), order.repository.clone(), order.file.clone());
    let opened = blocking(move || open(&models, &repository, &file)).await?;
    let partial = match opened {
        Opened::Partial(partial) => partial,
        Opened::Already => return already(order),
    };
    if partial.written() > 0 {
        say(Event::Resumed { bytes: partial.written() });
    }
    let needed = (partial.size() - partial.written()).saturating_add(RESERVE_BYTES);
    let free = partial.free_bytes().map_err(|source| DownloadError::Write { path: partial.path(), source })?;
    if free < needed {
        if partial.written() == 0 {
            let _ = partial.discard();
        }
        return Err(DownloadError::NoRoom { needed, free });
    }
    let total = hub.waits.total;
    let meter = Meter::new(partial.written(), partial.size());
    let transfer = Transfer {
        hub,
        order,
        partial: Some(partial),
        sha256: order.file.sha256,
        meter,
        began: Instant::now(),
        say: &mut say,
    };
    let (partial, sha256) =
        tokio::time::timeout(total, transfer.run()).await.map_err(|_| DownloadError::TooSlow(total))??;
    let weights = order.weights;
    let (path, weights) = blocking(move || finish(*partial, sha256, weights)).await?;
    Ok(Downloaded { path, weights, already: false })
}

/// Runs what waits for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DownloadError> + Send + 'static,
) -> Result<T, DownloadError> {
    spawn_blocking(work).await.expect("work with files does not panic")
}

fn open(models: &Path, repository: &RepositoryName, file: &PlannedFile) -> Result<Opened, DownloadError> {
    let mut at = models.to_owned();
    let mut write = |name: Option<&str>, opened: std::io::Result<Folder>| {
        at.extend(name);
        opened.map_err(|source| DownloadError::Write { path: at.clone(), source })
    };
    let mut folder = write(None, Folder::create(models))?;
    let folders = file.path.parts().rev().skip(1).collect::<Vec<_>>();
    for name in [repository.owner(), repository.name()].into_iter().chain(folders.into_iter().rev()) {
        folder = write(Some(name), folder.enter_or_create(name))?;
    }
    let path = folder.path().join(file.path.file_name());
    Partial::open(folder, file.path.file_name(), file.size, file.sha256).map_err(|error| match error {
        OpenPartialError::System(source) => DownloadError::Write { path, source },
        OpenPartialError::InUse => DownloadError::InUse { path },
        OpenPartialError::Exists => DownloadError::Exists { path },
    })
}

/// A file that is there has the digest that the hub names. It may still not be the catalogue's.
fn already(order: &Order) -> Result<Downloaded, DownloadError> {
    let found = single_root(order.file.sha256.expect("without a digest nothing is found to be there already"));
    if let Some(expected) = order.weights.filter(|expected| *expected != found) {
        return Err(DownloadError::Weights { expected, found });
    }
    let folder = order.models.join(order.repository.owner()).join(order.repository.name());
    Ok(Downloaded { path: folder.join(order.file.path.as_str()), weights: found, already: true })
}

/// One file on its way.
struct Transfer<'t> {
    hub: &'t Hub,
    order: &'t Order,
    /// Away only while it is written to.
    partial: Option<Box<Partial>>,
    /// What it should contain, as far as anybody said.
    sha256: Option<Digest>,
    meter: Meter,
    began: Instant,
    say: &'t mut dyn FnMut(Event),
}

impl Transfer<'_> {
    /// Attempts until everything is there.
    async fn run(mut self) -> Result<(Box<Partial>, Option<Digest>), DownloadError> {
        let (mut in_a_row, mut altogether) = (0, 0);
        while self.partial().written() < self.partial().size() {
            let before = self.partial().written();
            let Err(failed) = self.attempt().await else { continue };
            if self.partial().written() >= before.saturating_add(PROGRESS_MIN) {
                in_a_row = 0;
            }
            (in_a_row, altogether) = (in_a_row + 1, altogether + 1);
            let attempts = if altogether < ATTEMPTS_MAX { in_a_row } else { u32::MAX };
            let say = &mut *self.say;
            let mut waiting = |why: &str, wait| say(Event::Waiting { why: why.to_owned(), wait });
            let waited = self.hub.wait_or_give_up(failed, attempts, &mut waiting).await;
            waited.map_err(|error| {
                let DownloadError::Unreachable { why, .. } = error else { return error };
                DownloadError::Unreachable { attempts: altogether, why }
            })?;
        }
        Ok((self.partial.take().expect("it is back after each write"), self.sha256))
    }

    fn partial(&self) -> &Partial {
        self.partial.as_deref().expect("it is back after each write")
    }

    /// Works on the file where that holds nobody up.
    async fn with(
        &mut self,
        work: impl FnOnce(&mut Partial) -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), Failed> {
        let mut partial = self.partial.take().expect("it is back after each write");
        let path = partial.path();
        let worked = spawn_blocking(move || {
            let worked = work(&mut partial);
            (partial, worked)
        });
        let (partial, worked) = worked.await.expect("work with files does not panic");
        self.partial = Some(partial);
        worked.map_err(|source| DownloadError::Write { path, source }.into())
    }

    async fn restart(&mut self) -> Result<(), Failed> {
        if self.partial().written() > 0 {
            (self.say)(Event::Restarted);
        }
        self.with(Partial::restart).await
    }

    /// Asks once, and takes what comes.
    async fn attempt(&mut self) -> Result<(), Failed> {
        let Order { repository, commit, file, .. } = self.order;
        let from = self.partial().written();
        let Answer { mut response, sha256 } =
            self.hub.file(repository, commit, &file.path, from, self.partial().etag()).await?;
        if let Some(found) = sha256 {
            match self.sha256 {
                Some(expected) if expected != found => return Err(DownloadError::Digest { expected, found }.into()),
                _ => self.sha256 = Some(found),
            }
        }
        if self.sha256.is_none() && self.order.weights.is_none() {
            return Err(DownloadError::Unverifiable.into());
        }
        let etag = strong_etag(response.headers());
        match response.status() {
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let (begin, total) = content_range(response.headers())
                    .ok_or_else(|| DownloadError::Answer("a part without its place".to_owned()))?;
                if total != file.size {
                    return Err(DownloadError::Size { expected: file.size, found: total }.into());
                }
                // Of another file, or another part of it: what is there does not belong to it.
                if begin != from || (self.partial().etag().is_some() && self.partial().etag() != etag.as_deref()) {
                    self.restart().await?;
                    return Err(now("the hub's file has changed"));
                }
            }
            StatusCode::OK => {
                if let Some(length) = content_length(response.headers()).filter(|length| *length != file.size) {
                    return Err(DownloadError::Size { expected: file.size, found: length }.into());
                }
                self.restart().await?;
                self.with(move |partial| partial.set_etag(etag)).await?;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                self.restart().await?;
                return Err(now("the hub's file has changed"));
            }
            other => return Err(DownloadError::Answer(format!("HTTP {}", other.as_u16())).into()),
        }
        self.take(&mut response).await
    }

    /// Writes what comes. What came before a break is kept.
    async fn take(&mut self, response: &mut reqwest::Response) -> Result<(), Failed> {
        let size = self.partial().size();
        let mut gathered = Vec::with_capacity(WRITE_BYTES);
        loop {
            let next = self.hub.next(response).await;
            if let Ok(Some(bytes)) = &next {
                let found = self.partial().written() + (gathered.len() + bytes.len()) as u64;
                if found > size {
                    // Whatever this is, it is not the file.
                    self.restart().await?;
                    return Err(DownloadError::Size { expected: size, found }.into());
                }
                gathered.extend_from_slice(bytes);
                if gathered.len() < WRITE_BYTES {
                    continue;
                }
            }
            let block = std::mem::replace(&mut gathered, Vec::with_capacity(WRITE_BYTES));
            self.with(move |partial| partial.write(&block)).await?;
            let progress = self.meter.count(self.partial().written(), self.began.elapsed());
            (self.say)(Event::Progress(progress));
            match next {
                Ok(Some(_)) => {}
                Ok(None) if self.partial().written() == size => return Ok(()),
                Ok(None) => return Err(now("the answer ended early")),
                Err(failed) => return Err(failed),
            }
        }
    }
}

/// Verifies a file of which everything is there, and gives it its name. One that is wrong is removed.
fn finish(
    partial: Partial,
    sha256: Option<Digest>,
    weights: Option<Digest>,
) -> Result<(PathBuf, Digest), DownloadError> {
    let path = partial.path();
    let write = |source| DownloadError::Write { path: path.clone(), source };
    let (digest, found) = (partial.digest(), single_root(partial.digest()));
    let wrong = match (sha256, weights) {
        (Some(expected), _) if expected != digest => Some(DownloadError::Digest { expected, found: digest }),
        (_, Some(expected)) if expected != found => Some(DownloadError::Weights { expected, found }),
        (None, None) => Some(DownloadError::Unverifiable),
        _ => check_open_model_file(partial.file()).err().map(DownloadError::NotAModel),
    };
    if let Some(wrong) = wrong {
        partial.discard().map_err(write)?;
        return Err(wrong);
    }
    let finished = partial.finish().map_err(|source| {
        let path = path.clone();
        let exists = source.kind() == std::io::ErrorKind::AlreadyExists;
        if exists { DownloadError::Exists { path } } else { DownloadError::Write { path, source } }
    })?;
    Ok((finished, found))
}

/// An entity tag that stands for the same bytes (RFC 9110, section 8.8.1), where it can be sent back.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get(ETAG)?.to_str().ok()?;
    (etag.starts_with('"') && etag.len() <= ETAG_BYTES_MAX).then(|| etag.to_owned())
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where a part begins, and the bytes of the whole (RFC 9110, section 14.4).
fn content_range(headers: &HeaderMap) -> Option<(u64, u64)> {
    let (range, total) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (begin, end) = range.split_once('-')?;
    let (begin, end, total): (u64, u64, u64) = (begin.parse().ok()?, end.parse().ok()?, total.parse().ok()?);
    (begin <= end && end.checked_add(1) == Some(total)).then_some((begin, total))
}
