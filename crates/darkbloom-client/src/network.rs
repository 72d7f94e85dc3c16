//! The coordinator as a client sees it: pinned, asked for models and candidates, believed in nothing unsigned.

use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darkbloom_content::PrefixSecret;
use darkbloom_host::clock;
use darkbloom_types::{Digest, NetworkId, Refusal, RefusalCode, SecretString};
use darkbloom_wire::limits;
use rand_core::Rng as _;
use zeroize::Zeroizing;

use crate::Config;
use crate::call::Counting;
use crate::candidates::CandidateCache;
use crate::proof::ProofFolder;
use crate::published::Which;

mod answers;
mod texts;

pub use answers::{Coordinator, ModelOffer, open_entry};
use answers::{Introduction, read_catalogue, read_refusal};
use texts::Texts;

/// Connecting takes no longer.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long requests share one prefix secret.
const PREFIX_SECRET_LIFE_MS: i64 = 60 * 60 * 1_000;
/// A small question is answered within this time.
const ASK_WAIT: Duration = Duration::from_secs(20);
/// A submission's answer begins within this time: the coordinator sends a keep-alive every ten seconds.
const SUBMIT_WAIT: Duration = Duration::from_secs(60);
/// Largest list or description that is taken.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Largest error that is read.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// Longest media type that is repeated in an error.
const MEDIA_TYPE_BYTES_MAX: usize = 64;
/// Media type of frames; `docs/protocol.md` describes them.
const FRAMES: &str = "application/vnd.darkbloom.frames";
/// Media type of errors and descriptions.
const JSON: &str = "application/json";

/// A client's view of its network.
pub struct Network {
    /// What was decided.
    pub config: Config,
    http: reqwest::Client,
    coordinator: Mutex<Option<Coordinator>>,
    pin: Mutex<Option<NetworkId>>,
    pub(crate) texts: Texts,
    /// Where prompts are counted.
    pub(crate) counting: Counting,
    /// Verified candidates.
    pub candidates: CandidateCache,
    /// What only this process knows: prefixes are shared within it at most.
    /// Where what proves answers is kept.
    pub proofs: Option<ProofFolder>,
    prefix_secret: Zeroizing<[u8; 32]>,
}

/// Whether an address may carry keys: https, or http on this machine.
///
/// # Errors
/// [`Refusal`] says what is wrong with it.
pub fn check_address(address: &str) -> Result<(), Refusal> {
    let wrong = |detail: String| Refusal::new(RefusalCode::InvalidRequest, detail);
    // Each of these can make the host another than the one that is read below: `http://localhost:80@elsewhere.example`.
    // The address is not repeated: what stands before an `@` may be a password.
    if address.chars().any(|sign| "@?#\\".contains(sign) || sign.is_whitespace() || sign.is_control()) {
        return Err(wrong("an address has no `@`, `?`, `#`, `\\`, white space or control character".to_owned()));
    }
    if address.starts_with("https://") {
        return Ok(());
    }
    let Some(rest) = address.strip_prefix("http://") else {
        return Err(wrong(format!("`{address}` is not an http or https address")));
    };
    let host = rest.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        Ok(())
    } else {
        Err(wrong(format!("`{address}` is another machine, and plain http would show it your key")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    pub fn new(config: Config) -> Result<Self, Refusal> {
        check_address(&config.coordinator)?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WAIT)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
        let mut pin = config.network;
        if let (None, Some(file)) = (pin, &config.pin_file) {
            pin = match fs::read_to_string(file) {
                Ok(text) => Some(text.trim().parse().map_err(|_| {
                    let detail = format!("{} does not hold the 64 hex digits of a network", file.display());
                    Refusal::new(RefusalCode::InvalidRequest, detail)
                })?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    return Err(Refusal::new(RefusalCode::InvalidRequest, format!("{}: {error}", file.display())));
                }
            };
        }
        let proofs = config.receipts.as_deref().map(ProofFolder::open).transpose()?;
        let mut prefix_secret = Zeroizing::new([0; 32]);
        clock::rng().fill_bytes(&mut *prefix_secret);
        Ok(Self {
            config,
            http,
            coordinator: Mutex::default(),
            pin: Mutex::new(pin),
            texts: Texts::default(),
            counting: Counting::default(),
            candidates: CandidateCache::default(),
            proofs,
            prefix_secret,
        })
    }

    /// The secret within which requests with a key may use each other's prefixes at a provider. Another each hour: providers
    /// that compare what they got could tell by it whose requests are whose.
    pub fn prefix_secret(&self, key: &SecretString) -> PrefixSecret {
        let hour = clock::now().0.div_euclid(PREFIX_SECRET_LIFE_MS).to_be_bytes();
        let parts: [&[u8]; 4] = [b"darkbloom/v1/prefix-secret", &*self.prefix_secret, &hour, key.expose().as_bytes()];
        PrefixSecret::new(Digest::of(&parts).0)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.coordinator.trim_end_matches('/'))
    }

    /// Asks a question with a bounded answer of this media type.
    async fn ask(&self, path: &str, key: Option<&SecretString>, kind: &str, most: usize) -> Result<Vec<u8>, Refusal> {
        let mut request = self.http.get(self.url(path)).timeout(ASK_WAIT);
        if let Some(key) = key {
            request = request.bearer_auth(key.expose());
        }
        let response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(said_no(response).await);
        }
        if !is_of(&response, kind) {
            return Err(not_ours(&response));
        }
        match body(response, most).await? {
            Some(body) => Ok(body),
            None => Err(Refusal::new(RefusalCode::VerificationFailed, "an answer over its limit")),
        }
    }

    /// The coordinator: it has proven that it holds the key that is pinned, or that is pinned now.
    pub async fn coordinator(&self) -> Result<Coordinator, Refusal> {
        if let Some(known) = lock(&self.coordinator).clone() {
            return Ok(known);
        }
        let mut nonce = [0; 32];
        clock::rng().fill_bytes(&mut nonce);
        let path = format!("/v1/network?nonce={}", hex::encode(nonce));
        let body = self.ask(&path, None, JSON, ANSWER_BYTES_MAX).await?;
        let introduction = Introduction::read(&body)?;
        self.check_pin(introduction.network)?;
        let known = introduction.prove(&nonce)?;
        self.pin(known.network)?;
        *lock(&self.coordinator) = Some(known.clone());
        Ok(known)
    }

    /// As if this one had proven itself.
    #[cfg(test)]
    pub(crate) fn meet(&self, coordinator: Coordinator) {
        *lock(&self.coordinator) = Some(coordinator);
    }

    fn check_pin(&self, network: NetworkId) -> Result<(), Refusal> {
        match *lock(&self.pin) {
            Some(pinned) if pinned != network => Err(other_than_pinned(network, pinned)),
            _ => Ok(()),
        }
    }

    /// Pins the network that was met first, once it has proven itself.
    fn pin(&self, network: NetworkId) -> Result<(), Refusal> {
        let mut pin = lock(&self.pin);
        match *pin {
            Some(pinned) if pinned == network => Ok(()),
            // Another question's answer came first.
            Some(pinned) => Err(other_than_pinned(network, pinned)),
            None => {
                if let Some(file) = &self.config.pin_file {
                    fs::write(file, format!("{network}\n")).map_err(|error| {
                        Refusal::new(RefusalCode::Internal, format!("cannot write {}: {error}", file.display()))
                    })?;
                }
                tracing::info!(%network, "pinned the coordinator that was met first");
                *pin = Some(network);
                Ok(())
            }
        }
    }

    /// Whether the coordinator takes this key.
    pub async fn accepts(&self, key: &SecretString) -> Result<(), Refusal> {
        self.coordinator().await?;
        self.ask("/v1/balance", Some(key), JSON, ERROR_BYTES_MAX).await.map(drop)
    }

    /// The models on offer.
    pub async fn models(&self) -> Result<Vec<ModelOffer>, Refusal> {
        let coordinator = self.coordinator().await?;
        let body = self.ask("/v1/catalogue", None, JSON, ANSWER_BYTES_MAX).await?;
        read_catalogue(&body, &coordinator)
    }

    /// A signed candidate list. The key goes to nobody who has not proven who he is.
    pub async fn candidate_list(&self, model: &str, key: &SecretString) -> Result<Vec<u8>, Refusal> {
        self.coordinator().await?;
        // Percent-encoding everything but unreserved characters (RFC 3986 section 2.3).
        let mut query = String::with_capacity(model.len());
        for byte in model.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
                _ => query.push_str(&format!("%{byte:02X}")),
            }
        }
        self.ask(&format!("/v1/candidates?model={query}"), Some(key), FRAMES, limits::FRAME_BYTES_MAX).await
    }

    /// A signed list of connected providers.
    pub async fn provider_list(&self, which: Which) -> Result<Vec<u8>, Refusal> {
        let query = match which {
            Which::Only(provider) => format!("?provider={provider}"),
            Which::After(Some(provider)) => format!("?after={provider}"),
            Which::After(None) => String::new(),
        };
        self.ask(&format!("/v1/providers/attestation{query}"), None, FRAMES, limits::FRAME_BYTES_MAX).await
    }

    /// Sends a sealed request; the answer is a stream of length-prefixed frames, or a refusal. The key goes to nobody who
    /// has not proven who he is.
    pub async fn submit(&self, key: &SecretString, frame: Vec<u8>) -> Result<reqwest::Response, Refusal> {
        self.coordinator().await?;
        let request = self
            .http
            .post(self.url("/v1/sealed"))
            .bearer_auth(key.expose())
            .header(reqwest::header::CONTENT_TYPE, FRAMES)
            .body(Bytes::from(frame));
        let sent = match tokio::time::timeout(SUBMIT_WAIT, request.send()).await {
            Ok(sent) => sent.map_err(unreachable)?,
            Err(_) => return Err(Refusal::new(RefusalCode::Timeout, "the coordinator did not begin to answer")),
        };
        // Refusals come as frames too, whatever the status is.
        if is_of(&sent, FRAMES) { Ok(sent) } else { Err(said_no(sent).await) }
    }
}

fn other_than_pinned(network: NetworkId, pinned: NetworkId) -> Refusal {
    Refusal::new(RefusalCode::WrongNetwork, format!("the coordinator is {network}, pinned is {pinned}"))
}

/// A transport error as a refusal, without the address's query.
pub fn unreachable(error: reqwest::Error) -> Refusal {
    let detail = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    Refusal::new(RefusalCode::CoordinatorUnreachable, detail)
}

/// What an error answer says. One that is not the coordinator's is a refusal that says so.
async fn said_no(response: reqwest::Response) -> Refusal {
    let not_ours = not_ours(&response);
    if response.status().is_success() || media_type(&response).as_deref() != Some(JSON) {
        return not_ours;
    }
    let body = match tokio::time::timeout(ASK_WAIT, body(response, ERROR_BYTES_MAX)).await {
        Ok(Ok(Some(body))) => body,
        Ok(Ok(None)) => return not_ours,
        Ok(Err(refusal)) => return refusal,
        Err(_) => return Refusal::new(RefusalCode::CoordinatorUnreachable, "no answer in time"),
    };
    read_refusal(&body).map_or(not_ours, Refusal::from)
}

/// An answer that no coordinator gives: something in between did. Nothing of its body is repeated.
fn not_ours(response: &reqwest::Response) -> Refusal {
    let kind = media_type(response);
    let kind = kind.as_deref().unwrap_or("no media type");
    let detail = format!("the answer is not a coordinator's: HTTP {} with {kind}", response.status().as_u16());
    Refusal::new(RefusalCode::CoordinatorUnreachable, detail)
}

/// Whether an answer is of this media type. A good one that names none is taken for what was asked for: it is verified.
fn is_of(response: &reqwest::Response, kind: &str) -> bool {
    let unnamed = !response.headers().contains_key(reqwest::header::CONTENT_TYPE);
    media_type(response).as_deref() == Some(kind) || (unnamed && response.status().is_success())
}

/// An answer's media type without its parameters, where it is one (RFC 9110 section 8.3.1).
fn media_type(response: &reqwest::Response) -> Option<String> {
    let value = response.headers().get(reqwest::header::CONTENT_TYPE)?.to_str().ok()?;
    let kind = value.split(';').next()?.trim();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+/".contains(&byte);
    let readable = kind.len() <= MEDIA_TYPE_BYTES_MAX && kind.contains('/') && kind.bytes().all(is_word);
    readable.then(|| kind.to_ascii_lowercase())
}

/// A body of at most so many bytes; nothing when it is longer.
async fn body(mut response: reqwest::Response, most: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

#[cfg(test)]
mod tests;
