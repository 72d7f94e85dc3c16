//! Who signs for this provider, and what its hardware proves.
//!
//! A TPM takes up to a second for a signature, so everything here runs beside the tasks that carry requests. What it proves
//! needs the word of an activator, who saw once that the attestation key is in that TPM: words are kept in a file, and asked
//! for again when half of their time is over.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darkbloom_host::clock;
use darkbloom_keys::{Endorsement, Identity, IdentityKey as _, TpmKey, TpmKeyError};
use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::{
    Activation, ActivationAnswer, ActivationChallenge, ActivationRequest, ChallengeProof, Evidence, PublicKey,
    SignError, Statement, TPM_EVIDENCE, TpmEvidence, epoch_nonce, limits, presence_nonce,
};
use tokio::task::spawn_blocking;

use crate::StartError;
use crate::evidence::Platform;

/// Connecting to an activator takes no longer.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// An activator answers within this time.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Largest file of words: four of half a KiB each, in hexadecimal digits.
const WORDS_BYTES_MAX: u64 = 64 << 10;
/// What evidence may take of a statement: keys, models and words of other identities need the rest.
const EVIDENCE_BYTES_MAX: usize = limits::STATEMENT_BYTES_MAX - (8 << 10);
/// Where activators are asked, below their address.
const PATH: &str = "v1/activations";

/// Why an activator's word could not be had.
#[derive(Debug, thiserror::Error)]
enum ActivationFailed {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it answered with {status}: {said}")]
    Refused { status: u16, said: String },
    #[error("its answer is not valid")]
    Malformed,
    #[error("the TPM has no certificate of its maker")]
    NoCertificate,
    #[error(transparent)]
    Tpm(#[from] TpmKeyError),
    #[error("the TPM could not be asked")]
    Panicked,
}

/// An activator's signed word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    /// Whom it is from: its address.
    from: String,
    /// With which key.
    by: [u8; 65],
    signed: Vec<u8>,
    made_at: UnixMillis,
    valid_until: UnixMillis,
}

impl Word {
    /// Reads a word that its own key signed; that key counts for what verifiers make of it.
    fn read(from: &str, signed: Vec<u8>) -> Option<Self> {
        let claimed = Activation::peek(&signed).ok()?;
        let word = Activation::open(&signed, &PublicKey::P256(claimed.activator)).ok()?;
        let (made_at, valid_until) = (word.made_at, word.valid_until);
        let by = claimed.activator;
        (made_at < valid_until).then(|| Self { from: from.to_owned(), by, signed, made_at, valid_until })
    }

    fn is_about(&self, endorsement: &[u8], attestation_key: &[u8]) -> bool {
        Activation::peek(&self.signed).is_ok_and(|word| {
            word.endorsement == Digest::of(&[endorsement]) && word.attestation_key == Digest::of(&[attestation_key])
        })
    }

    fn half_over(&self, now: UnixMillis) -> bool {
        // Times are the activator's, who may write anything.
        let (age, life) = (now.0.saturating_sub(self.made_at.0), self.valid_until.0.saturating_sub(self.made_at.0));
        age >= life / 2
    }
}

/// What about a TPM stays the same.
#[derive(Debug, Clone)]
struct Fixed {
    endorsement: Vec<u8>,
    intermediates: Vec<Vec<u8>>,
    identity_key: Vec<u8>,
    attestation_key: Vec<u8>,
}

/// Evidence comes within this time, or what it belongs to goes without: an introduction, which has two of it, has 15 seconds.
const EVIDENCE_WAIT: Duration = Duration::from_secs(6);

/// The provider's identity and its evidence.
pub struct Signatory {
    identity: Identity,
    http: Option<reqwest::Client>,
    platform: Platform,
    activators: Vec<String>,
    file: PathBuf,
    words: Mutex<Vec<Word>>,
    fixed: Mutex<Option<Fixed>>,
    /// How often an activator was found to have another key than before.
    rekeyed: AtomicUsize,
    /// How long evidence is waited for.
    patience: Duration,
}

/// A signed statement, and whether it has all the evidence that this machine could give.
pub struct SignedStatement {
    /// The signed statement.
    pub bytes: Vec<u8>,
    /// What its evidence is worth: the words of activators, and that of a processor.
    pub worth: usize,
    /// Whether nothing is missing that may come later.
    pub complete: bool,
    /// How often activators had had another key by then.
    pub rekeyed: usize,
}

impl Signatory {
    /// The identity, what else proves something about this machine, the addresses of activators, and where their words are
    /// kept.
    ///
    /// # Errors
    /// [`StartError::Http`].
    pub fn new(
        identity: Identity,
        platform: Platform,
        activators: Vec<String>,
        file: PathBuf,
    ) -> Result<Arc<Self>, StartError> {
        // Activators are asked about TPMs alone, and Intel about processors.
        let asks = identity.tpm().is_some() || platform.asks();
        let http = asks.then(client).transpose()?;
        let words = Mutex::new(read_words(&file));
        let (fixed, rekeyed, patience) = (Mutex::default(), AtomicUsize::default(), EVIDENCE_WAIT);
        Ok(Arc::new(Self { identity, http, platform, activators, file, words, fixed, rekeyed, patience }))
    }

    /// The identity's public key as an uncompressed SEC 1 point.
    pub fn public_point(&self) -> [u8; 65] {
        self.identity.public_point()
    }

    /// Signs a proof of presence, and has the hardware say the same.
    pub async fn prove(self: &Arc<Self>, digest: Digest) -> Result<(Vec<u8>, Vec<Evidence>), SignError> {
        let (presence, _, _) = self.evidence_in_time(presence_nonce(&digest)).await;
        let signatory = Arc::clone(self);
        let proof = blocking(move || ChallengeProof { digest }.sign(&signatory.identity)).await?;
        Ok((proof, presence))
    }

    /// Signs a statement, with the evidence that can be had without asking anybody.
    pub async fn state(self: &Arc<Self>, mut statement: Statement) -> Result<SignedStatement, SignError> {
        let Statement { sealing_key, receipt_key, identity, not_before, .. } = &statement;
        let nonce = epoch_nonce(sealing_key, receipt_key, identity, *not_before);
        let rekeyed = self.rekeyed();
        let (evidence, worth, complete) = self.evidence_in_time(nonce).await;
        statement.evidence = evidence.into();
        let signatory = Arc::clone(self);
        let bytes = blocking(move || statement.sign(&signatory.identity)).await?;
        Ok(SignedStatement { bytes, worth, complete, rekeyed })
    }

    /// What evidence could stand in a statement now, as statements count it.
    pub fn worth(&self) -> usize {
        let fixed = lock(&self.fixed).clone();
        let words = fixed.map_or(0, |fixed| self.usable_words(&fixed, clock::now()).len());
        words + usize::from(self.platform.is_confidential())
    }

    /// How often an activator was found to have another key: who believes that one alone does not believe older words.
    pub fn rekeyed(&self) -> usize {
        self.rekeyed.load(Ordering::Relaxed)
    }

    /// Whether somebody has to be asked before evidence is as good as it can be.
    pub fn is_due(&self) -> bool {
        self.platform.is_due()
    }

    /// The same, where the machine gives it in time: a kernel may wait for a host for half a minute, and a coordinator does not.
    async fn evidence_in_time(self: &Arc<Self>, nonce: Digest) -> (Vec<Evidence>, usize, bool) {
        let signatory = Arc::clone(self);
        let evidence = spawn_blocking(move || signatory.evidence(&nonce));
        if let Ok(Ok(evidence)) = tokio::time::timeout(self.patience, evidence).await {
            return evidence;
        }
        self.platform.is_late();
        tracing::warn!("this machine gives no evidence in time: what it is asked to prove is said without");
        (Vec::new(), 0, false)
    }

    /// Evidence with a nonce, what it is worth, and whether nothing is missing in it that may come later.
    fn evidence(&self, nonce: &Digest) -> (Vec<Evidence>, usize, bool) {
        let (of_tpm, words, complete) = self.tpm_evidence(nonce);
        let confidential = self.platform.confidential(nonce);
        let worth = words + usize::from(confidential.is_some());
        let complete = complete && !self.platform.is_due();
        // What proves most comes last.
        let mut evidence: Vec<_> = of_tpm.into_iter().chain(confidential).collect();
        // Nobody takes a statement that is too long: better one that says less. It would be as long if it were made again.
        while evidence.iter().map(|evidence| evidence.bytes.len()).sum::<usize>() > EVIDENCE_BYTES_MAX {
            let dropped = evidence.remove(0);
            tracing::warn!(format = dropped.format, "evidence is left out: with it a statement would be too long");
        }
        (evidence, worth, complete)
    }

    fn tpm_evidence(&self, nonce: &Digest) -> (Option<Evidence>, usize, bool) {
        let Some(key) = self.identity.tpm() else { return (None, 0, true) };
        let made = self.fixed(key).and_then(|fixed| {
            let words = self.usable_words(&fixed, clock::now());
            if words.is_empty() {
                return Ok(None);
            }
            let complete = self.activators.iter().all(|from| words.iter().any(|word| word.from == *from));
            let count = words.len();
            let said = key.attest(&nonce.0)?;
            let evidence = TpmEvidence {
                endorsement: fixed.endorsement,
                intermediates: fixed.intermediates.into(),
                attestation_key: fixed.attestation_key,
                activations: words.into_iter().map(|word| word.signed).collect::<Vec<_>>().into(),
                identity_key: fixed.identity_key,
                certified: said.certified,
                certified_signature: said.certified_signature,
                quoted: said.quoted,
                quoted_signature: said.quoted_signature,
                pcrs: said.pcrs.into(),
                log: self.platform.boot_log().into(),
            };
            Ok(Some((evidence, count, complete)))
        });
        match made {
            Ok(Some((evidence, count, complete))) => {
                (Some(Evidence { format: TPM_EVIDENCE.to_owned(), bytes: evidence.encode() }), count, complete)
            }
            Ok(None) => (None, 0, false),
            Err(error) => {
                tracing::warn!(%error, "the TPM gives no evidence");
                (None, 0, false)
            }
        }
    }

    fn fixed(&self, key: &TpmKey) -> Result<Fixed, ActivationFailed> {
        if let Some(fixed) = &*lock(&self.fixed) {
            return Ok(fixed.clone());
        }
        let Endorsement { certificate, chain } = key.endorsement()?.ok_or(ActivationFailed::NoCertificate)?;
        let intermediates = chain.into_iter().take(limits::CERTIFICATES_MAX).collect();
        let (identity_key, attestation_key) = key.public_areas()?;
        let fixed = Fixed { endorsement: certificate, intermediates, identity_key, attestation_key };
        *lock(&self.fixed) = Some(fixed.clone());
        Ok(fixed)
    }

    fn usable_words(&self, fixed: &Fixed, now: UnixMillis) -> Vec<Word> {
        let mut words = lock(&self.words).clone();
        words.retain(|word| {
            let holds = now < word.valid_until && word.is_about(&fixed.endorsement, &fixed.attestation_key);
            holds && self.activators.contains(&word.from)
        });
        words.truncate(darkbloom_wire::ACTIVATIONS_MAX);
        words
    }

    /// Asks those whose word is missing or old, or all activators: one that started again may have another key. A failure is told
    /// in the log; another time is soon enough.
    pub async fn renew(self: &Arc<Self>, all: bool) {
        if let Some(http) = &self.http {
            self.platform.renew(http).await;
        }
        self.renew_activations(all).await;
    }

    async fn renew_activations(self: &Arc<Self>, all: bool) {
        let signatory = Arc::clone(self);
        let fixed = blocking(move || match signatory.identity.tpm() {
            Some(key) => signatory.fixed(key).map(Some),
            None => Ok(None),
        });
        let fixed = match fixed.await {
            Ok(Some(fixed)) => fixed,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the TPM gives no evidence"),
        };
        let mut changed = false;
        for from in &self.activators {
            let now = clock::now();
            let words = self.usable_words(&fixed, now);
            if words.iter().any(|word| word.from == *from && !word.half_over(now) && !all) {
                continue;
            }
            match self.activate(from, &fixed).await {
                Ok(word) => {
                    tracing::info!(activator = from, "an activator vouches for this machine's TPM");
                    let mut words = lock(&self.words);
                    if words.iter().any(|known| known.from == *from && known.by != word.by) {
                        self.rekeyed.fetch_add(1, Ordering::Relaxed);
                    }
                    words.retain(|known| known.from != *from);
                    words.push(word);
                    changed = true;
                }
                Err(error) => {
                    tracing::warn!(activator = from, %error, "an activator does not vouch for this machine's TPM")
                }
            }
        }
        if changed {
            write_words(&self.file, &lock(&self.words));
        }
    }

    async fn activate(self: &Arc<Self>, from: &str, fixed: &Fixed) -> Result<Word, ActivationFailed> {
        let mut request = ActivationRequest {
            endorsement: fixed.endorsement.clone(),
            intermediates: fixed.intermediates.clone().into(),
            attestation_key: fixed.attestation_key.clone(),
            answer: None,
        };
        let challenge = self.ask(from, &request).await?;
        let challenge = ActivationChallenge::decode(&challenge).map_err(|_| ActivationFailed::Malformed)?;
        let signatory = Arc::clone(self);
        let until = challenge.until;
        let opened = blocking(move || {
            let key = signatory.identity.tpm().ok_or(ActivationFailed::NoCertificate)?;
            Ok::<_, ActivationFailed>(key.activate(&challenge.credential, &challenge.seed)?)
        });
        let secret = opened.await?.try_into().map_err(|_| ActivationFailed::Malformed)?;
        request.answer = Some(ActivationAnswer { until, secret });
        let signed = self.ask(from, &request).await?;
        let word = Word::read(from, signed).ok_or(ActivationFailed::Malformed)?;
        let ours = word.is_about(&fixed.endorsement, &fixed.attestation_key);
        if ours { Ok(word) } else { Err(ActivationFailed::Malformed) }
    }

    async fn ask(&self, from: &str, request: &ActivationRequest) -> Result<Vec<u8>, ActivationFailed> {
        let unreachable = |error: reqwest::Error| ActivationFailed::Unreachable(error.without_url().to_string());
        let url = format!("{}/{PATH}", from.trim_end_matches('/'));
        let http = self.http.as_ref().ok_or(ActivationFailed::NoCertificate)?;
        let mut response = http.post(url).body(request.encode()).send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(unreachable)? {
            if body.len() + piece.len() > limits::STATEMENT_BYTES_MAX {
                return Err(ActivationFailed::Malformed);
            }
            body.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok(body);
        }
        Err(ActivationFailed::Refused { status: status.as_u16(), said: sentence(&body) })
    }
}

pub(crate) fn client() -> Result<reqwest::Client, StartError> {
    let builder = reqwest::Client::builder().connect_timeout(CONNECT_WAIT).timeout(ANSWER_WAIT);
    builder.redirect(reqwest::redirect::Policy::none()).build().map_err(|_| StartError::Http)
}

/// What an error's body says, fit for a log.
fn sentence(body: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(body);
    let said = said.ok().and_then(|said| said["error"]["message"].as_str().map(str::to_owned)).unwrap_or_default();
    said.chars().filter(|sign| !sign.is_control()).take(limits::TEXT_BYTES_MAX).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what waits for a device away from the tasks that carry requests.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    spawn_blocking(work).await.unwrap_or_else(|_| Err(Panicked.into()))
}

struct Panicked;

impl From<Panicked> for SignError {
    fn from(_: Panicked) -> Self {
        Self("the key could not be asked".to_owned())
    }
}

impl From<Panicked> for ActivationFailed {
    fn from(_: Panicked) -> Self {
        Self::Panicked
    }
}

/// A file that is not there, or damaged, holds no words: activators give them again.
fn read_words(file: &PathBuf) -> Vec<Word> {
    if fs::metadata(file).is_ok_and(|metadata| metadata.len() > WORDS_BYTES_MAX) {
        return Vec::new();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let word = |line: &str| {
        let (signed, from) = line.split_once(' ')?;
        Word::read(from, hex::decode(signed).ok()?)
    };
    text.lines().filter_map(word).collect()
}

fn write_words(file: &PathBuf, words: &[Word]) {
    let lines: String = words.iter().map(|word| format!("{} {}\n", hex::encode(&word.signed), word.from)).collect();
    let draft = file.with_extension("draft");
    if let Err(error) = fs::write(&draft, lines).and_then(|()| fs::rename(&draft, file)) {
        tracing::warn!(%error, "cannot keep activators' words: they will be asked for again");
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use darkbloom_keys::SoftwareKey;
    use darkbloom_seal::Epoch;
    use darkbloom_types::NetworkId;
    use darkbloom_wire::PublicKey;

    use super::*;
    use crate::evidence::machine::{Kernel, platform};

    /// A host that keeps its guest waiting must not keep the coordinator waiting, which would give the provider up.
    #[tokio::test]
    async fn evidence_that_comes_too_late_is_left_out_and_what_it_belongs_to_goes_without() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let identity = SoftwareKey::in_memory().unwrap();
        let point = identity.public_point();
        let (answers, waits) = mpsc::channel::<()>();
        let (waits, asked) = (Mutex::new(waits), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&asked);
        let kernel = Kernel::of("sev_guest", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = lock(&waits).recv();
            Vec::new()
        });
        let platform = platform(folder.path().to_owned(), kernel, |_| ());
        let (identity, words) = (Identity::Software(identity), folder.path().join("words"));
        let mut signatory = Signatory::new(identity, platform, Vec::new(), words).unwrap();
        Arc::get_mut(&mut signatory).unwrap().patience = Duration::from_millis(200);
        assert_eq!(signatory.worth(), 1, "as far as is known");
        let digest = Digest([7; 32]);
        // Far more than it is to wait, and far less than the host would.
        let soon = Duration::from_secs(20);
        let (proof, presence) = tokio::time::timeout(soon, signatory.prove(digest)).await.unwrap().unwrap();
        assert_eq!(ChallengeProof::open(&proof, &PublicKey::P256(point)).unwrap().digest, digest);
        assert_eq!(presence, []);
        assert_eq!((signatory.worth(), asked.load(Ordering::SeqCst)), (0, 1));
        // Nor is it asked again at once.
        let epoch = Epoch::begin(point, clock::now(), &mut clock::rng());
        let statement = epoch.statement(NetworkId([1; 32]), Vec::new(), Vec::new(), "test");
        let stated = tokio::time::timeout(soon, signatory.state(statement)).await.unwrap().unwrap();
        let statement = Statement::open_self_signed(&stated.bytes).unwrap();
        assert_eq!((statement.evidence.0, stated.worth), (Vec::new(), 0));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        drop(answers);
        // Whoever still asks must find his files, or he waits for them for good.
        while Arc::strong_count(&signatory) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
