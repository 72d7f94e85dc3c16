//! The coordinator as a client sees it: pinned, asked for models and candidates, believed in nothing unsigned.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::{CatalogueDigest, Digest, NetworkId, Price, Refusal, RefusalCode, SecretString};
use darkbloom_wire::{CatalogueEntry, PublicKey, catalogue_digest, limits};
use serde::Deserialize;

use crate::Config;
use crate::candidates::CandidateCache;

/// Connecting takes no longer.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// A small question is answered within this time.
const ASK_WAIT: Duration = Duration::from_secs(20);
/// A submission's answer begins within this time: the coordinator sends a keep-alive every ten seconds.
const SUBMIT_WAIT: Duration = Duration::from_secs(60);
/// Largest text pack that is taken: the vocabulary of 256 K tokens takes about 6 MiB.
const TEXT_PACK_BYTES_MAX: usize = 32 << 20;
/// Largest list or description that is taken.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Text models kept in memory.
const TEXTS_MAX: usize = 8;

/// One model on offer, its entry verified.
#[derive(Debug, Clone)]
pub struct ModelOffer {
    /// Its digest.
    pub digest: CatalogueDigest,
    /// What the operator signed.
    pub entry: CatalogueEntry,
    /// The price, as the coordinator says; a candidate list has it signed.
    pub price: Price,
}

/// What is known of the coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// The network.
    pub network: NetworkId,
    /// Its key.
    pub key: PublicKey,
}

/// A client's view of its network.
pub struct Network {
    /// What was decided.
    pub config: Config,
    http: reqwest::Client,
    coordinator: Mutex<Option<Coordinator>>,
    pin: Mutex<Option<NetworkId>>,
    texts: Mutex<HashMap<Digest, TextModel>>,
    /// Verified candidates.
    pub candidates: CandidateCache,
}

/// Whether an address may carry keys: https, or http on this machine.
///
/// # Errors
/// [`Refusal`] says what is wrong with it.
pub fn check_address(address: &str) -> Result<(), Refusal> {
    let wrong = |detail: String| Refusal::new(RefusalCode::InvalidRequest, detail);
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

#[derive(Deserialize)]
struct NetworkAnswer {
    coordinator_key: String,
}

#[derive(Deserialize)]
struct CatalogueAnswer {
    models: Vec<CatalogueItem>,
}

#[derive(Deserialize)]
struct CatalogueItem {
    entry: String,
    price: PriceAnswer,
}

#[derive(Deserialize)]
struct PriceAnswer {
    version: u32,
    input_nano_per_token: u32,
    output_nano_per_token: u32,
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
        Ok(Self {
            config,
            http,
            coordinator: Mutex::default(),
            pin: Mutex::new(pin),
            texts: Mutex::default(),
            candidates: CandidateCache::default(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.coordinator.trim_end_matches('/'))
    }

    /// Asks a question with a bounded answer.
    async fn ask(&self, path: &str, key: Option<&SecretString>, most: usize) -> Result<Vec<u8>, Refusal> {
        let mut request = self.http.get(self.url(path)).timeout(ASK_WAIT);
        if let Some(key) = key {
            request = request.bearer_auth(key.expose());
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > most {
                return Err(Refusal::new(RefusalCode::VerificationFailed, "an answer over its limit"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(body) } else { Err(said_no(status.as_u16(), &body)) }
    }

    /// The coordinator, pinned.
    pub async fn coordinator(&self) -> Result<Coordinator, Refusal> {
        if let Some(known) = lock(&self.coordinator).clone() {
            return Ok(known);
        }
        let body = self.ask("/v1/network", None, ANSWER_BYTES_MAX).await?;
        let lie = |detail: &str| Refusal::new(RefusalCode::VerificationFailed, detail);
        let answer: NetworkAnswer = serde_json::from_slice(&body).map_err(|_| lie("no description of a network"))?;
        let mut point = [0; 65];
        hex::decode_to_slice(&answer.coordinator_key, &mut point)
            .map_err(|_| lie("the coordinator's key is not a key"))?;
        let network = NetworkId::of_coordinator_key(&point);
        self.check_pin(network)?;
        let known = Coordinator { network, key: PublicKey::P256(point) };
        *lock(&self.coordinator) = Some(known.clone());
        Ok(known)
    }

    fn check_pin(&self, network: NetworkId) -> Result<(), Refusal> {
        let mut pin = lock(&self.pin);
        match *pin {
            Some(pinned) if pinned == network => Ok(()),
            Some(pinned) => {
                let detail = format!("the coordinator is {network}, pinned is {pinned}");
                Err(Refusal::new(RefusalCode::WrongNetwork, detail))
            }
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

    /// The models on offer.
    pub async fn models(&self) -> Result<Vec<ModelOffer>, Refusal> {
        let coordinator = self.coordinator().await?;
        let body = self.ask("/v1/catalogue", None, ANSWER_BYTES_MAX).await?;
        let lie = |detail: &str| Refusal::new(RefusalCode::VerificationFailed, detail);
        let answer: CatalogueAnswer = serde_json::from_slice(&body).map_err(|_| lie("no catalogue"))?;
        let offer = |item: CatalogueItem| {
            let signed = hex::decode(&item.entry).map_err(|_| lie("a catalogue entry is not one"))?;
            let entry = open_entry(&signed, &coordinator)?;
            let PriceAnswer { version, input_nano_per_token, output_nano_per_token } = item.price;
            let price = Price { version, input_nano_per_token, output_nano_per_token };
            Ok(ModelOffer { digest: catalogue_digest(&signed), entry, price })
        };
        answer.models.into_iter().map(offer).collect()
    }

    /// A signed candidate list.
    pub async fn candidate_list(&self, model: &str, key: &SecretString) -> Result<Vec<u8>, Refusal> {
        // Percent-encoding everything but unreserved characters (RFC 3986 section 2.3).
        let mut query = String::with_capacity(model.len());
        for byte in model.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
                _ => query.push_str(&format!("%{byte:02X}")),
            }
        }
        self.ask(&format!("/v1/candidates?model={query}"), Some(key), limits::FRAME_BYTES_MAX).await
    }

    /// Tokenizer and template of a model, fetched by digest.
    pub async fn text(&self, entry: &CatalogueEntry) -> Result<TextModel, Refusal> {
        if let Some(text) = lock(&self.texts).get(&entry.text_pack) {
            return Ok(text.clone());
        }
        let bytes = self.ask(&format!("/v1/blobs/{}", entry.text_pack), None, TEXT_PACK_BYTES_MAX).await?;
        let lie = |detail: String| Refusal::new(RefusalCode::VerificationFailed, detail);
        if Digest::of(&[&bytes]) != entry.text_pack {
            return Err(lie("the tokenizer is not the one in the catalogue".to_owned()));
        }
        let pack = TextPack::from_bytes(&bytes).map_err(|error| lie(format!("tokenizer: {error}")))?;
        let text = TextModel::new(pack).map_err(|error| lie(format!("tokenizer: {error}")))?;
        let mut texts = lock(&self.texts);
        if texts.len() >= TEXTS_MAX {
            texts.clear();
        }
        texts.insert(entry.text_pack, text.clone());
        Ok(text)
    }

    /// Sends a sealed request; the answer is a stream of length-prefixed frames.
    pub async fn submit(&self, key: &SecretString, frame: Vec<u8>) -> Result<reqwest::Response, Refusal> {
        let request = self
            .http
            .post(self.url("/v1/sealed"))
            .bearer_auth(key.expose())
            .header(reqwest::header::CONTENT_TYPE, "application/vnd.darkbloom.frames")
            .body(Bytes::from(frame));
        match tokio::time::timeout(SUBMIT_WAIT, request.send()).await {
            Ok(sent) => sent.map_err(unreachable),
            Err(_) => Err(Refusal::new(RefusalCode::Timeout, "the coordinator did not begin to answer")),
        }
    }
}

/// Verifies a catalogue entry and that it is of this network.
pub fn open_entry(signed: &[u8], coordinator: &Coordinator) -> Result<CatalogueEntry, Refusal> {
    let lie = |detail: String| Refusal::new(RefusalCode::VerificationFailed, detail);
    let entry =
        CatalogueEntry::open(signed, &coordinator.key).map_err(|error| lie(format!("catalogue entry: {error}")))?;
    if entry.network == coordinator.network {
        Ok(entry)
    } else {
        Err(lie("a catalogue entry of another network".to_owned()))
    }
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

#[derive(Deserialize)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
}

/// What an error answer says.
fn said_no(status: u16, body: &[u8]) -> Refusal {
    let named = serde_json::from_slice::<ErrorAnswer>(body).ok();
    let code = named.and_then(|answer| RefusalCode::ALL.iter().find(|code| code.name() == answer.error.code).copied());
    code.map_or_else(
        || Refusal::new(RefusalCode::Internal, format!("the coordinator answered {status}")),
        Refusal::from,
    )
}
