//! What Intel says about this machine's platform, which stands beside its quotes: levels of firmware, the identity of the
//! quoting enclave, and lists of revoked certificates. It counts for a month, the root's list for a year, and is fetched anew each day, from Intel's
//! Provisioning Certification Service or a cache of it that speaks the same (version 4).

use std::sync::{Mutex, MutexGuard, PoisonError};

use darkbloom_attest::{QuoteOrigin, read_pem, tdx_until};
use darkbloom_types::{Millis, UnixMillis};
use darkbloom_wire::{
    TDX_CRL_BYTES_MAX, TDX_QE_IDENTITY_BYTES_MAX, TDX_TCB_INFO_BYTES_MAX, TdxEvidence, limits::CERTIFICATE_BYTES_MAX,
};
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::tsm::TsmError;

/// Intel's own service.
pub const SERVICE: &str = "https://api.trustedservices.intel.com";
/// Where Intel has its root's list, which is not the service; a cache has it under a path of its own.
const ROOT_LIST: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";
const ROOT_LIST_PATH: &str = "sgx/certification/v4/rootcacrl";
/// What is older is fetched anew: news about firmware should not wait for what still counts.
const AGE_MAX: Millis = Millis::from_minutes(24 * 60);
/// What is newer is not fetched anew, though it may end soon: a cache may have nothing else.
const AGE_MIN: Millis = Millis::from_minutes(60);
/// A chain in a header, its signs written as three.
const CHAIN_BYTES_MAX: usize = 6 * CERTIFICATE_BYTES_MAX;

/// Why nothing is known of Intel's word.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer.
    #[error("{what}: the service cannot be reached: {why}")]
    Unreachable {
        /// What was asked for.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// An answer that says no.
    #[error("{what}: the service answers with HTTP {status}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The answer's status.
        status: u16,
    },
    /// An answer that is something else, or longer than a statement could hold.
    #[error("{0}: the service's answer is not usable")]
    Answer(&'static str),
}

/// What Intel said.
#[derive(Debug, Clone)]
struct Said {
    /// About which platforms.
    about: ([u8; 6], &'static str),
    at: UnixMillis,
    until: UnixMillis,
    /// Evidence without a quote.
    word: TdxEvidence,
}

impl Said {
    /// Whether it is worth asking for it anew: it is old, or ends soon and may have a successor.
    fn is_old(&self, now: UnixMillis) -> bool {
        let age = now.since(self.at);
        age >= AGE_MAX || (age >= AGE_MIN && self.until.since(now) < AGE_MAX)
    }
}

#[derive(Debug, Default)]
struct Known {
    /// Which platforms this machine's are, since a quote was seen.
    about: Option<([u8; 6], &'static str)>,
    said: Option<Said>,
}

/// What is known of Intel's word.
#[derive(Debug)]
pub struct Intel {
    service: Url,
    known: Mutex<Known>,
}

impl Intel {
    /// Of this service, which has not been asked yet.
    pub fn new(service: Url) -> Self {
        Self { service, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evidence with this quote about what was asked; not before Intel's word is there.
    pub fn evidence(&self, mut quote: Vec<u8>, asked: &[u8; 64], now: UnixMillis) -> Result<TdxEvidence, TsmError> {
        let origin = QuoteOrigin::read(&quote)?;
        if origin.asked != *asked {
            return Err(TsmError::OtherSubject);
        }
        quote.truncate(origin.length);
        let about = (origin.line, origin.authority);
        let mut known = self.known();
        known.about = Some(about);
        let said = known.said.clone().filter(|said| said.about == about && now < said.until);
        let Said { word, .. } = said.ok_or(TsmError::NoCollateral)?;
        Ok(TdxEvidence { quote, ..word })
    }

    /// Whether a quote was seen, and no word of Intel's about it counts.
    pub fn is_missing(&self, now: UnixMillis) -> bool {
        let known = self.known();
        let counts = |said: &Said| known.about == Some(said.about) && now < said.until;
        known.about.is_some() && !known.said.as_ref().is_some_and(counts)
    }

    /// Whether Intel should be asked: a quote was seen, and what was said about it is not there or old.
    pub fn is_due(&self, now: UnixMillis) -> bool {
        let known = self.known();
        let fresh = |said: &Said| known.about == Some(said.about) && !said.is_old(now);
        known.about.is_some() && !known.said.as_ref().is_some_and(fresh)
    }

    /// Asks the service, where that is due. What was known before stays where it fails.
    pub async fn renew(&self, http: &reqwest::Client, now: UnixMillis) -> Result<(), FetchError> {
        if !self.is_due(now) {
            return Ok(());
        }
        let Some(about) = self.known().about else { return Ok(()) };
        let said = self.fetch(http, about, now).await?;
        self.known().said = Some(said);
        Ok(())
    }

    async fn fetch(
        &self,
        http: &reqwest::Client,
        about: ([u8; 6], &'static str),
        now: UnixMillis,
    ) -> Result<Said, FetchError> {
        let (line, authority) = about;
        let levels = format!("tdx/certification/v4/tcb?fmspc={}", hex::encode_upper(line));
        let levels = ask(http, self.at(&levels), "levels of platforms", TDX_TCB_INFO_BYTES_MAX).await?;
        let enclave = self.at("tdx/certification/v4/qe/identity");
        let enclave = ask(http, enclave, "the quoting enclave", TDX_QE_IDENTITY_BYTES_MAX).await?;
        let list = format!("sgx/certification/v4/pckcrl?ca={authority}&encoding=der");
        let platform_crl = ask(http, self.at(&list), "revoked platforms", TDX_CRL_BYTES_MAX).await?;
        let root_crl = ask(http, self.root_list(), "what the root revoked", TDX_CRL_BYTES_MAX).await?;
        let signer = levels.chain.as_deref().and_then(first_certificate);
        let (tcb_info, tcb_info_signature) =
            signed(&levels.body, TDX_TCB_INFO_BYTES_MAX).ok_or(FetchError::Answer("levels of platforms"))?;
        let (qe_identity, qe_identity_signature) =
            signed(&enclave.body, TDX_QE_IDENTITY_BYTES_MAX).ok_or(FetchError::Answer("the quoting enclave"))?;
        let word = TdxEvidence {
            quote: Vec::new(),
            tcb_info,
            tcb_info_signature,
            qe_identity,
            qe_identity_signature,
            signer: signer.ok_or(FetchError::Answer("the key that signs levels"))?,
            platform_crl: list_of(platform_crl.body).ok_or(FetchError::Answer("revoked platforms"))?,
            root_crl: list_of(root_crl.body).ok_or(FetchError::Answer("what the root revoked"))?,
        };
        let until = tdx_until(&word).ok_or(FetchError::Answer("until when it counts"))?;
        Ok(Said { about, at: now, until, word })
    }

    fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.service.as_str().trim_end_matches('/'))
    }

    fn root_list(&self) -> String {
        if self.at("") == format!("{SERVICE}/") { ROOT_LIST.to_owned() } else { self.at(ROOT_LIST_PATH) }
    }
}

/// What a service answered.
struct Answer {
    body: Vec<u8>,
    /// The certificates of whoever signed it, in PEM.
    chain: Option<String>,
}

/// Asks for something that is no longer than so many bytes, with what it is wrapped in.
async fn ask(http: &reqwest::Client, url: String, what: &'static str, most: usize) -> Result<Answer, FetchError> {
    let unreachable = |error: reqwest::Error| FetchError::Unreachable { what, why: error.without_url().to_string() };
    let mut response = http.get(url).send().await.map_err(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        return Err(FetchError::Refused { what, status: status.as_u16() });
    }
    let chain = response.headers().get("tcb-info-issuer-chain").and_then(|chain| chain.to_str().ok());
    let chain = chain.filter(|chain| chain.len() <= CHAIN_BYTES_MAX).and_then(decoded);
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(unreachable)? {
        // Names and a signature around it; a list may come in hexadecimal digits.
        if body.len() + piece.len() > 2 * most + 1_024 {
            return Err(FetchError::Answer(what));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { body, chain })
}

/// A text whose signs are written as `%` and two digits where they could mean something (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn first_certificate(chain: &str) -> Option<Vec<u8>> {
    let certificates = read_pem(chain).ok()?;
    certificates.into_iter().next().filter(|certificate| certificate.len() <= CERTIFICATE_BYTES_MAX)
}

/// What was signed, byte for byte and no longer than a statement could hold, and its signature.
fn signed(body: &[u8], most: usize) -> Option<(Vec<u8>, [u8; 64])> {
    #[derive(Deserialize)]
    struct Signed<'a> {
        #[serde(borrow, rename = "tcbInfo", alias = "enclaveIdentity")]
        what: &'a RawValue,
        signature: &'a str,
    }
    let Signed { what, signature } = serde_json::from_slice(body).ok()?;
    let mut bytes = [0; 64];
    hex::decode_to_slice(signature, &mut bytes).ok()?;
    let what = what.get().as_bytes();
    if what.len() <= most { Some((what.to_vec(), bytes)) } else { None }
}

/// A list in DER, which begins with 0x30, or in hexadecimal digits of it, which begin with another byte.
fn list_of(body: Vec<u8>) -> Option<Vec<u8>> {
    let list = if body.first() == Some(&0x30) { body } else { hex::decode(body.trim_ascii()).ok()? };
    if list.len() <= TDX_CRL_BYTES_MAX { Some(list) } else { None }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
