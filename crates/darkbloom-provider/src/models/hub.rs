//! A server that is compatible with the Hugging Face hub, over HTTP: its lists of files, and the files.

use std::time::Duration;

use bytes::Bytes;
use darkbloom_types::{Digest, SecretString};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, IF_RANGE, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::listing::{ChooseError, Listing, ListingError};
use super::names::{FilePath, RepositoryName, Revision};

/// Redirections that are followed: the hub sends on once, or twice where a repository has another name now.
const REDIRECTS_MAX: usize = 5;
/// Longest list of files: ten thousand of some 400 bytes each.
const LISTING_BYTES_MAX: usize = 8 << 20;
/// A list comes within so many times the wait for its beginning.
const LISTING_WAITS: u32 = 4;
/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest wait between two attempts that is our own.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Connecting.
    pub connect: Duration,
    /// The beginning of an answer, and the next bytes of one.
    pub idle: Duration,
    /// A whole file, whatever comes of it.
    pub total: Duration,
    /// Before the second attempt; doubled before each that follows without anything having come.
    pub backoff: Duration,
    /// Attempts in a row of which nothing comes.
    pub attempts: u32,
}

impl Default for Waits {
    /// A line that is down for a minute ends nothing; a terabyte in a day is 12 MB a second.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(24 * 3_600),
            backoff: Duration::from_secs(1),
            attempts: 7,
        }
    }
}

impl Waits {
    /// How long to wait after so many attempts in a row.
    pub(super) fn before_next(&self, attempts: u32, asked: Option<Duration>) -> Duration {
        let own = self.backoff.saturating_mul(1_u32 << attempts.saturating_sub(1).min(16)).min(BACKOFF_MAX);
        asked.map_or(own, |asked| asked.max(own).min(RETRY_AFTER_MAX))
    }
}

/// Which server, and who asks.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Its address, such as `https://huggingface.co`.
    pub endpoint: String,
    /// The token of an account there, for repositories that not everybody may read. It goes to this server alone.
    pub token: Option<SecretString>,
    /// How long things may take.
    pub waits: Waits,
}

/// Why a file was not got.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The server's address.
    #[error("{0}")]
    Endpoint(&'static str),
    /// It has no such repository, revision or file; or it does not say so to everybody.
    #[error("the hub has no {0}, or not for everybody")]
    NotFound(String),
    /// It wants another token, or one at all.
    #[error("the hub refuses access to {what} (HTTP {status})")]
    Refused {
        /// What was asked for.
        what: String,
        /// The answer's status.
        status: u16,
    },
    /// An answer that makes no sense here.
    #[error("the hub's answer is not usable: {0}")]
    Answer(String),
    /// Attempts were made, and nothing came of them.
    #[error("the hub cannot be reached after {attempts} attempts: {why}")]
    Unreachable {
        /// How many in a row.
        attempts: u32,
        /// Of the last one.
        why: String,
    },
    /// It takes too long altogether.
    #[error("the download takes longer than {} hours", .0.as_secs() / 3_600)]
    TooSlow(Duration),
    /// The list of files.
    #[error("the hub's answer is not usable: {0}")]
    Listing(#[from] ListingError),
    /// No file to get.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// Another size than the list says.
    #[error("the file has {found} bytes, and the hub's list says {expected}")]
    Size {
        /// What the list says.
        expected: u64,
        /// What came, or was announced.
        found: u64,
    },
    /// Other contents than the list says.
    #[error("the file's SHA-256 is {found}, and the hub's list says {expected}")]
    Digest {
        /// What the list says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Not the model of the catalogue.
    #[error("the file's weights root is {found}, and the catalogue's is {expected}")]
    Weights {
        /// What the catalogue says.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Nobody says what it should contain.
    #[error("the hub does not say what the file should contain, so that nothing could be verified")]
    Unverifiable,
    /// It is what the hub says, and no model that can be loaded.
    #[error("the file is what the hub says, and no model that can be loaded: {0}")]
    NotAModel(darkbloom_engine::LoadModelError),
    /// The disk.
    #[error("the disk has {free} bytes left, and {needed} are needed")]
    NoRoom {
        /// Bytes that are missing here, and a reserve.
        needed: u64,
        /// Bytes that may be written.
        free: u64,
    },
    /// Another file of the name.
    #[error("{path} is there already, with other contents", path = .path.display())]
    Exists {
        /// Which file.
        path: std::path::PathBuf,
    },
    /// Another process downloads it.
    #[error("{path} is being downloaded already", path = .path.display())]
    InUse {
        /// Which file.
        path: std::path::PathBuf,
    },
    /// The folder, a link in it, or the file.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl DownloadError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Endpoint(_) => "give it as `--endpoint https://HOST` (plain http only on this machine)",
            Self::NotFound(_) => "check the names; for a repository that is not public, set HF_TOKEN",
            Self::Refused { .. } => {
                "accept the model's conditions on the hub's page, and set HF_TOKEN to a token of that account"
            }
            Self::Answer(_) | Self::Listing(_) => "check `--endpoint`; it must be compatible with the Hugging Face hub",
            Self::Unreachable { .. } | Self::TooSlow(_) => "run the same command again: it goes on where it ended",
            Self::Choose(ChooseError::Several { .. }) => "choose one with `--file NAME`",
            Self::Choose(ChooseError::NoSuchWeights(_)) => "try another repository; the catalogue's digest decides",
            Self::Choose(_) => "choose another file or repository",
            Self::Size { .. } | Self::Digest { .. } => {
                "run the same command again; if that happens again, the hub or something before it changes the file"
            }
            Self::Weights { .. } => {
                "choose the file that the catalogue names; `darkbloom models catalog` shows its digest"
            }
            Self::Unverifiable => {
                "add `--for MODEL` to verify it against a coordinator's catalogue, or use another hub"
            }
            Self::NotAModel(_) => "choose another file",
            Self::NoRoom { .. } => "make room, or choose another folder with `--models`",
            Self::Exists { .. } => "`darkbloom models remove` removes it; `darkbloom models list` shows its name",
            Self::InUse { .. } => "wait until it is done",
            Self::Write { .. } => {
                "check the folder's permissions and disk, and that nothing in it is a link; or choose another with `--models`"
            }
        }
    }
}

/// Why one attempt came to nothing.
pub(super) enum Failed {
    /// Another will come to the same.
    For(DownloadError),
    /// Another may come to something.
    Now { why: String, after: Option<Duration> },
}

impl From<DownloadError> for Failed {
    fn from(error: DownloadError) -> Self {
        Self::For(error)
    }
}

pub(super) fn now(why: impl Into<String>) -> Failed {
    Failed::Now { why: why.into(), after: None }
}

/// A server that answered.
pub(super) struct Answer {
    pub response: Response,
    /// What the hub itself said of the contents, before it sent on to where they lie.
    pub sha256: Option<Digest>,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Hub {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<SecretString>,
    pub(super) waits: Waits,
}

impl Hub {
    /// A server at this address.
    ///
    /// # Errors
    /// [`DownloadError::Endpoint`] when the address is none, or plain http to another machine.
    pub fn new(options: HubOptions) -> Result<Self, DownloadError> {
        let endpoint = Url::parse(&options.endpoint)
            .map_err(|_| DownloadError::Endpoint("the hub's address is not an http or https address"))?;
        check_address(&endpoint).map_err(DownloadError::Endpoint)?;
        let plain = endpoint.query().is_none() && endpoint.fragment().is_none();
        if !plain {
            return Err(DownloadError::Endpoint("the hub's address must not have a query or fragment"));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(options.waits.connect)
            // Each is looked at before it is followed.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("darkbloom/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| DownloadError::Endpoint("this machine's TLS or proxy settings make no HTTP client"))?;
        Ok(Self { http, endpoint, token: options.token, waits: options.waits })
    }

    /// The address of something below the endpoint. All parts are names that were checked.
    fn url<'p>(&self, parts: impl Iterator<Item = &'p str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut().expect("http addresses have paths").pop_if_empty().extend(parts);
        url
    }

    /// The files of a repository at a revision.
    ///
    /// # Errors
    /// [`DownloadError`] when there is no such thing, or no answer.
    pub async fn listing(&self, repository: &RepositoryName, revision: &Revision) -> Result<Listing, DownloadError> {
        let parts = ["api", "models", repository.owner(), repository.name(), "revision", revision.as_str()];
        let mut url = self.url(parts.into_iter());
        url.set_query(Some("blobs=true"));
        let what = format!("repository {repository} at {revision}");
        let mut attempts = 0;
        loop {
            // One that comes byte by byte would take for ever.
            let listed = tokio::time::timeout(self.waits.idle * LISTING_WAITS, self.list(&url, &what, revision)).await;
            let failed = match listed.unwrap_or_else(|_| Err(now("the list of files does not end"))) {
                Ok(listing) => return Ok(listing),
                Err(failed) => failed,
            };
            attempts += 1;
            self.wait_or_give_up(failed, attempts, &mut |_, _| {}).await?;
        }
    }

    async fn list(&self, url: &Url, what: &str, revision: &Revision) -> Result<Listing, Failed> {
        let Answer { mut response, .. } = self.open(url, what, &HeaderMap::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(DownloadError::Answer(format!("HTTP {}", response.status().as_u16())).into());
        }
        let mut body = Vec::new();
        while let Some(bytes) = self.next(&mut response).await? {
            if body.len() + bytes.len() > LISTING_BYTES_MAX {
                return Err(
                    DownloadError::Answer(format!("the list of files is over {LISTING_BYTES_MAX} bytes")).into()
                );
            }
            body.extend_from_slice(&bytes);
        }
        Listing::read(&body, revision).map_err(|error| DownloadError::from(error).into())
    }

    /// Asks for a file from this byte on; with the entity tag of what is there, only while that is still right.
    pub(super) async fn file(
        &self,
        repository: &RepositoryName,
        commit: &Revision,
        path: &FilePath,
        from: u64,
        etag: Option<&str>,
    ) -> Result<Answer, Failed> {
        let head = [repository.owner(), repository.name(), "resolve", commit.as_str()];
        let url = self.url(head.into_iter().chain(path.parts()));
        let mut headers = HeaderMap::new();
        if from > 0 {
            headers.insert(RANGE, format!("bytes={from}-").parse().expect("digits are a header's value"));
            if let Some(etag) = etag.and_then(|etag| etag.parse().ok()) {
                headers.insert(IF_RANGE, etag);
            }
        }
        self.open(&url, &format!("file {path} in {repository}"), &headers).await
    }

    /// Asks, and follows where it is sent. The token goes to the hub's own address alone.
    async fn open(&self, url: &Url, what: &str, headers: &HeaderMap) -> Result<Answer, Failed> {
        let (mut url, mut sha256) = (url.clone(), None);
        for _ in 0..=REDIRECTS_MAX {
            // What comes must be the file itself: ranges and sizes are of its bytes.
            let mut request = self.http.get(url.clone()).headers(headers.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
                request = request.bearer_auth(token.expose());
            }
            let response = match tokio::time::timeout(self.waits.idle, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(now(transport(&error))),
                Err(_) => return Err(now("no answer in time")),
            };
            // Only the hub itself is asked what a file contains.
            if url.origin() == self.endpoint.origin() {
                sha256 = sha256.or_else(|| linked_digest(response.headers()));
            }
            let status = response.status();
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                url = self.sent_on(&url, &response)?;
                continue;
            }
            return match status.as_u16() {
                200..300 | 416 => Ok(Answer { response, sha256 }),
                401 | 403 => Err(DownloadError::Refused { what: what.to_owned(), status: status.as_u16() }.into()),
                404 | 410 => Err(DownloadError::NotFound(what.to_owned()).into()),
                408 | 429 | 500.. => {
                    Err(Failed::Now { why: format!("HTTP {}", status.as_u16()), after: retry_after(&response) })
                }
                other => Err(DownloadError::Answer(format!("HTTP {other}")).into()),
            };
        }
        Err(DownloadError::Answer("it sends on too often".to_owned()).into())
    }

    fn sent_on(&self, from: &Url, response: &Response) -> Result<Url, DownloadError> {
        let wrong = |why: &str| DownloadError::Answer(format!("it sends on to {why}"));
        let to = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let to = to.and_then(|to| from.join(to).ok()).ok_or_else(|| wrong("no address"))?;
        check_address(&to).map_err(wrong)?;
        // Who began with https does not end without it, not even on this machine.
        if self.endpoint.scheme() == "https" && to.scheme() != "https" {
            return Err(wrong("an address without https"));
        }
        Ok(to)
    }

    /// The next bytes of an answer; nothing at its end.
    pub(super) async fn next(&self, response: &mut Response) -> Result<Option<Bytes>, Failed> {
        match tokio::time::timeout(self.waits.idle, response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(now(transport(&error))),
            Err(_) => Err(now(format!("nothing came for {} ms", self.waits.idle.as_millis()))),
        }
    }

    /// Waits before another attempt, and says so, unless another makes no sense.
    pub(super) async fn wait_or_give_up(
        &self,
        failed: Failed,
        attempts: u32,
        say: &mut dyn FnMut(&str, Duration),
    ) -> Result<(), DownloadError> {
        let (why, after) = match failed {
            Failed::For(error) => return Err(error),
            Failed::Now { why, after } => (why, after),
        };
        if attempts >= self.waits.attempts {
            return Err(DownloadError::Unreachable { attempts, why });
        }
        let wait = self.waits.before_next(attempts, after);
        say(&why, wait);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Whether an address may be asked: https, or http on this machine, and no password in it.
fn check_address(url: &Url) -> Result<(), &'static str> {
    let local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => Err("an address with a name or password"),
        "https" if url.has_host() => Ok(()),
        "http" if local => Ok(()),
        "http" => Err("an address on another machine without https"),
        _ => Err("an address that is not http or https"),
    }
}

/// The SHA-256 that the hub names for a large file: its link's entity tag (`X-Linked-Etag`).
fn linked_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("x-linked-etag")?.to_str().ok()?.trim_matches('"').parse().ok()
}

/// How long a server asks to wait (RFC 9110, section 10.2.3), where it says so in seconds.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A transport error without the address, which may have a signature in it.
fn transport(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_follow_the_server_to_its() {
        let waits = Waits::default();
        let seconds =
            |attempts, asked: Option<u64>| waits.before_next(attempts, asked.map(Duration::from_secs)).as_secs();
        assert_eq!([1, 2, 3, 5, 6, u32::MAX].map(|attempts| seconds(attempts, None)), [1, 2, 4, 16, 30, 30]);
        assert_eq!([seconds(1, Some(5)), seconds(3, Some(1)), seconds(1, Some(3_600))], [5, 4, 60]);
    }

    #[test]
    fn addresses_are_https_or_of_this_machine_and_have_no_password() {
        let check = |address: &str| check_address(&Url::parse(address).unwrap()).is_ok();
        for fine in ["https://huggingface.co", "http://127.0.0.1:1/hub", "http://localhost", "http://[::1]:80"] {
            assert!(check(fine), "{fine}");
        }
        for wrong in [
            "http://huggingface.co",
            "http://127.0.0.1.example.org",
            "http://localhost:80@example.org",
            "https://user:password@example.org",
            "ftp://localhost",
            "file:///etc/passwd",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
    }
}
