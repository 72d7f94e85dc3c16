//! One operation: seal, submit, open, verify; again with fresh keys where the coordinator asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_attest::{Trust, Undefended, Verdict};
use darkbloom_content::{AnswerEvent, ChatRequest, FinishReason};
use darkbloom_seal::{
    Acceptance, AnswerOpener, BillExpectation, ReceiptExpectation, RequestSeal, SealError, SealedFrame, check_bill,
    check_receipt, open_refusal, seal_request,
};
use darkbloom_session::{ClientAction, ClientSession};
use darkbloom_text::TextModel;
use darkbloom_types::{
    CatalogueDigest, Digest, EpochId, Micros, NanoDollars, OperationId, Price, ProviderId, ReceiptId, Refusal,
    RefusalCode, RequestId, SecretString, Tier, TokenCount,
};
use darkbloom_wire::{
    AttemptRecord, CatalogueEntry, ClientFrame, Decoded, LengthPrefixed, Receipt, Relayed, RelayedAccepted,
    RelayedData, RelayedFinal, RelayedRefused, RequestKind, SealedHeader, Suite, receipt_id,
};
use rand_core::Rng as _;
use tokio::sync::{mpsc, oneshot};

use crate::candidates::{Candidates, recipient};
use crate::network::{Coordinator, Network, unreachable};
use crate::timing::Timing;
use darkbloom_host::clock;

/// The input ceiling is rounded up to a multiple of this, so that the exact length of a prompt does not show.
const INPUT_BUCKET: u32 = 256;
/// Parts of an answer that may wait for the consumer; then reading from the network waits.
const PARTS_MAX: usize = 64;

/// A consumer that takes nothing for this long is gone.
const CONSUMER_WAIT: Duration = Duration::from_secs(30);
/// Text that an answer may hold beyond what its tokens account for.
const TEXT_SLACK_BYTES: usize = 64 << 10;
/// Most text of one token: the longest tokens of public vocabularies have a few hundred bytes.
const TOKEN_TEXT_BYTES_MAX: usize = 1 << 10;

/// What a consumer asks for.
#[derive(Debug)]
pub struct Operation {
    /// The account's key.
    pub key: SecretString,
    /// The model's name.
    pub model: String,
    /// The request.
    pub request: ChatRequest,
    /// Whether the answer is read as it is made.
    pub stream: bool,
    /// Most output tokens; what fits into the context otherwise.
    pub max_output_tokens: Option<u32>,
    /// The consumer's idempotency key, if it gave one.
    pub idempotency_key: Option<String>,
    /// How long reading the consumer's body took.
    pub parse: Duration,
}

/// What is known when the first content is there.
#[derive(Debug, Clone)]
pub struct AnswerMeta {
    /// The sealing that was answered.
    pub request: RequestId,
    /// The operation.
    pub operation: OperationId,
    /// Who answers.
    pub provider: ProviderId,
    /// What is proven about it.
    pub tier: Tier,
    /// Why it is trusted.
    pub trust: Trust,
    /// What that does not defend.
    pub undefended: Undefended,
    /// In which epoch.
    pub epoch: EpochId,
    /// The model's digest.
    pub catalogue: CatalogueDigest,
    /// All attempts, the last one accepted.
    pub attempts: Vec<AttemptRecord>,
    /// Where the time went so far.
    pub timing: Timing,
}

/// What is known when everything was checked.
#[derive(Debug, Clone)]
pub struct Completed {
    /// Why the answer ended.
    pub finish: FinishReason,
    /// Input tokens: this client's own count, the receipt's and the bill's agree.
    pub input_tokens: TokenCount,
    /// Output tokens: as many as arrived.
    pub output_tokens: TokenCount,
    /// The receipt's name.
    pub receipt: ReceiptId,
    /// What was charged.
    pub charge: NanoDollars,
    /// Where the time went.
    pub timing: Timing,
}

/// One part of an answer.
#[derive(Debug)]
pub enum Part {
    /// More text.
    Text(SecretString),
    /// The end; everything verified.
    Completed(Box<Completed>),
    /// The answer broke off, or something did not verify.
    Failed(Refusal),
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Answer {
    /// What is known now.
    pub meta: AnswerMeta,
    /// What follows. Dropping it cancels the request.
    pub parts: mpsc::Receiver<Part>,
}

/// Starts an operation and returns at its first content.
pub async fn begin(network: Arc<Network>, operation: Operation) -> Result<Answer, Refusal> {
    let call = Call::prepare(network, operation).await?;
    let (first, started) = oneshot::channel();
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    tokio::spawn(call.run(Consumer { first: Some(first), parts }));
    // The task answers or drops the sender; dropping this future drops the receiver, which the task notices.
    let meta = started.await.map_err(|_| Refusal::from(RefusalCode::Internal))??;
    Ok(Answer { meta, parts: receiver })
}

/// Whoever reads the answer.
struct Consumer {
    first: Option<oneshot::Sender<Result<AnswerMeta, Refusal>>>,
    parts: mpsc::Sender<Part>,
}

/// The consumer went away.
struct Gone;

impl Consumer {
    async fn gone(&mut self) {
        match &mut self.first {
            Some(first) => first.closed().await,
            None => self.parts.closed().await,
        }
    }

    fn begin(&mut self, meta: AnswerMeta) -> Result<(), Gone> {
        match self.first.take() {
            Some(first) => first.send(Ok(meta)).map_err(|_| Gone),
            None => Ok(()),
        }
    }

    async fn part(&self, part: Part) -> Result<(), Gone> {
        match tokio::time::timeout(CONSUMER_WAIT, self.parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// The last word: an error in place of the answer, or behind what came of it. Nobody may be there to hear it.
    async fn fail(&mut self, refusal: Refusal) {
        match self.first.take() {
            Some(first) => drop(first.send(Err(refusal))),
            None => drop(self.part(Part::Failed(refusal)).await),
        }
    }
}

/// Why a call ends early.
enum Ended {
    Refused(Refusal),
    Gone,
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RefusalCode> for Ended {
    fn from(code: RefusalCode) -> Self {
        Self::Refused(code.into())
    }
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn lie(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::VerificationFailed, detail)
}

/// Limits of an operation, from its own tokens.
#[derive(Debug, Clone, Copy)]
struct Ceilings {
    input: TokenCount,
    output: TokenCount,
}

struct Call {
    network: Arc<Network>,
    coordinator: Coordinator,
    operation: Operation,
    operation_id: OperationId,
    affinity: [u8; 16],
    candidates: Arc<Candidates>,
    prompt_tokens: TokenCount,
    ceilings: Ceilings,
    timing: Timing,
    session: ClientSession,
}

/// One sealing that was submitted.
struct Sealing {
    seal: RequestSeal,
    candidates: Arc<Candidates>,
    price_max: NanoDollars,
}

/// An acceptance whose answer is being opened.
struct Live {
    accepted: RelayedAccepted,
    verdict: Verdict,
    opener: AnswerOpener,
    tokens: u32,
    text_bytes: usize,
    begun: bool,
    finish: Option<(FinishReason, TokenCount)>,
}

impl Call {
    /// Everything before the first byte is sent: pin, candidates, token count, limits.
    async fn prepare(network: Arc<Network>, operation: Operation) -> Result<Self, Refusal> {
        let coordinator = network.coordinator().await?;
        let candidates = network.candidates_of(&operation.model, &operation.key, &coordinator).await?;
        let text = network.text(&candidates.entry).await?;
        let counting = Instant::now();
        let prompt_tokens = count(&text, &operation.request)?;
        let parse = operation.parse + counting.elapsed();
        let ceilings = ceilings(&candidates.entry, prompt_tokens, operation.max_output_tokens)?;
        let mut random = [0; 16];
        clock::rng().fill_bytes(&mut random);
        let operation_id = match &operation.idempotency_key {
            Some(key) => derived_operation(&operation.key, key),
            None => OperationId(random),
        };
        let mut affinity = [0; 16];
        clock::rng().fill_bytes(&mut affinity);
        let timing = Timing { parse_us: Some(Micros::from(parse)), ..Timing::default() };
        let session = ClientSession::submitted(clock::now());
        Ok(Self {
            network,
            coordinator,
            operation,
            operation_id,
            affinity,
            candidates,
            prompt_tokens,
            ceilings,
            timing,
            session,
        })
    }

    async fn run(mut self, mut consumer: Consumer) {
        match self.answer(&mut consumer).await {
            Ok(()) | Err(Ended::Gone) => {}
            Err(Ended::Refused(refusal)) => {
                let stale = [
                    RefusalCode::PriceChanged,
                    RefusalCode::UnknownEpoch,
                    RefusalCode::ModelNotFound,
                    RefusalCode::NoEligibleProvider,
                ];
                if stale.contains(&refusal.code) {
                    self.network.candidates.forget(&self.operation.model);
                }
                consumer.fail(refusal).await;
            }
        }
    }

    /// Seals, submits and reads, as often as the coordinator asks for another sealing.
    async fn answer(&mut self, consumer: &mut Consumer) -> Result<(), Ended> {
        let mut supersedes = None;
        loop {
            let sealing = self.seal(supersedes)?;
            let frame = LengthPrefixed::wrap(&ClientFrame::from(sealing.seal.submit.clone()).encode());
            let response = tokio::select! {
                response = self.network.submit(&self.operation.key, frame) => response?,
                () = consumer.gone() => return Err(Ended::Gone),
            };
            match self.read(response, &sealing, consumer).await? {
                Some(candidates) => {
                    let policy = self.network.policy(&self.coordinator);
                    let fresh = Candidates::read(&candidates, &self.coordinator, &policy, clock::now())?;
                    if fresh.digest != self.candidates.digest {
                        return Err(lie("the fresh candidates are of another model").into());
                    }
                    self.network.candidates.forget(&self.operation.model);
                    self.candidates = Arc::new(fresh);
                    supersedes = Some(sealing.seal.header.request);
                }
                None => return Ok(()),
            }
        }
    }

    fn seal(&mut self, supersedes: Option<RequestId>) -> Result<Sealing, Refusal> {
        let began = Instant::now();
        let chosen = self.candidates.choose(self.network.config.candidates)?;
        // A pinned provider may be below the demanded tier: then the request demands what the recipients have.
        let tier_min = chosen.iter().map(|verdict| verdict.tier).fold(self.network.config.tier_min, Tier::min);
        let recipients: Vec<_> = chosen.into_iter().map(recipient).collect();
        let (price, ceilings) = (self.candidates.price, self.ceilings);
        let price_max = price
            .cost(ceilings.input, ceilings.output)
            .map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
        let mut request = [0; 16];
        clock::rng().fill_bytes(&mut request);
        let header = SealedHeader {
            network: self.coordinator.network,
            suite: Suite::XWingAes256Gcm,
            request: RequestId(request),
            operation: self.operation_id,
            model: self.candidates.digest,
            kind: RequestKind::Chat,
            stream: self.operation.stream,
            input_ceiling: ceilings.input,
            output_ceiling: ceilings.output,
            price_version: price.version,
            price_max,
            tier_min,
            affinity: self.affinity,
            sealed_at: clock::now(),
            recipients: Digest([0; 32]),
            key_commitment: Digest([0; 32]),
        };
        let plaintext = self.operation.request.to_cbor();
        let mut seal =
            seal_request(header, &plaintext, &recipients, &mut clock::rng()).map_err(|error| seal_refusal(&error))?;
        seal.submit.supersedes = supersedes;
        self.timing.encrypt(began.elapsed());
        Ok(Sealing { seal, candidates: Arc::clone(&self.candidates), price_max })
    }

    /// Reads one response to its end. A fresh candidate list comes back when the request is to be sealed again.
    async fn read(
        &mut self,
        mut response: reqwest::Response,
        sealing: &Sealing,
        consumer: &mut Consumer,
    ) -> Result<Option<Vec<u8>>, Ended> {
        let mut frames = LengthPrefixed::default();
        let mut live = None;
        loop {
            let silence =
                self.session.wake_at().map_or(Duration::MAX, |at| Duration::from_millis(at.since(clock::now()).0));
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk.map_err(unreachable)?,
                () = consumer.gone() => return Err(Ended::Gone),
                () = tokio::time::sleep(silence) => return Err(RefusalCode::Timeout.into()),
            };
            let Some(chunk) = chunk else {
                return match self.session.transport_ended() {
                    Ok(()) => Ok(None),
                    Err(error) => Err(Refusal::new(RefusalCode::AnswerCut, error.to_string()).into()),
                };
            };
            frames.push(&chunk);
            while let Some(frame) = frames.next_frame().map_err(|error| lie(error.to_string()))? {
                let Decoded::Known(frame, _) = Relayed::decode(frame).map_err(|error| lie(error.to_string()))? else {
                    continue;
                };
                let action = self.session.handle(frame, clock::now()).map_err(|error| lie(error.to_string()))?;
                match action {
                    ClientAction::Wait => {}
                    ClientAction::Begin(accepted) => live = Some(self.begin_answer(accepted, sealing)?),
                    ClientAction::Open(data) => {
                        let live = live.as_mut().ok_or_else(|| lie("content before an acceptance"))?;
                        self.open(live, data, sealing, consumer).await?;
                    }
                    ClientAction::Verify(last) => {
                        let live = live.take().ok_or_else(|| lie("a settlement before an acceptance"))?;
                        let completed = self.verify(live, &last, sealing)?;
                        consumer.part(Part::Completed(Box::new(completed))).await?;
                        return Ok(None);
                    }
                    ClientAction::SealAgain(reseal) => {
                        tracing::debug!(reason = reseal.code, "sealing again");
                        return Ok(Some(reseal.candidates));
                    }
                    ClientAction::Fail(refused) => return Err(refusal_of(&refused, sealing).into()),
                }
            }
        }
    }

    fn begin_answer(&mut self, accepted: RelayedAccepted, sealing: &Sealing) -> Result<Live, Refusal> {
        let verdict =
            sealing.candidates.usable.iter().find(|v| v.provider == accepted.provider && v.epoch == accepted.epoch);
        let secret = sealing.seal.response_secret(&accepted.provider, &accepted.epoch);
        let (Some(verdict), Some(secret)) = (verdict, secret) else {
            return Err(lie("somebody accepted whom the request was not sealed to"));
        };
        self.timing.coordinator(&accepted.timing);
        let acceptance = Acceptance {
            request_digest: sealing.seal.request_digest,
            provider: accepted.provider,
            epoch: accepted.epoch,
            attempt: accepted.attempt,
            salt: accepted.salt,
        };
        let opener = AnswerOpener::new(secret, &acceptance);
        Ok(Live { verdict: verdict.clone(), accepted, opener, tokens: 0, text_bytes: 0, begun: false, finish: None })
    }

    async fn open(
        &self,
        live: &mut Live,
        data: RelayedData,
        sealing: &Sealing,
        consumer: &mut Consumer,
    ) -> Result<(), Ended> {
        let RelayedData { sequence, tokens, end, ciphertext } = data;
        let opened = live.opener.open(&SealedFrame { sequence, tokens, end, ciphertext });
        let opened = opened.map_err(|error| lie(error.to_string()))?;
        let event = AnswerEvent::from_cbor(opened.expose()).map_err(|error| lie(error.to_string()))?;
        match event {
            AnswerEvent::Delta { tokens: new, text } => {
                if end {
                    return Err(lie("the answer ended without a reason").into());
                }
                live.tokens = live.tokens.saturating_add(u32::try_from(new.len()).unwrap_or(u32::MAX));
                // The count in clear is what is paid for: it must be that of the tokens that came.
                if live.tokens != tokens.0 {
                    return Err(lie("the token count in clear is not that of the tokens").into());
                }
                live.text_bytes += text.len();
                if live.text_bytes > TEXT_SLACK_BYTES + live.tokens as usize * TOKEN_TEXT_BYTES_MAX {
                    return Err(lie("more text than the tokens can hold").into());
                }
                self.start(live, sealing, consumer)?;
                consumer.part(Part::Text(text)).await?;
            }
            AnswerEvent::Finish { reason, input_tokens, output_tokens } => {
                if !end || output_tokens.0 != live.tokens || tokens != output_tokens {
                    return Err(lie("the end does not fit the answer").into());
                }
                self.start(live, sealing, consumer)?;
                live.finish = Some((reason, input_tokens));
            }
            AnswerEvent::Failure { code, .. } => return Err(code.into()),
        }
        Ok(())
    }

    fn start(&self, live: &mut Live, sealing: &Sealing, consumer: &mut Consumer) -> Result<(), Gone> {
        if live.begun {
            return Ok(());
        }
        live.begun = true;
        consumer.begin(AnswerMeta {
            request: sealing.seal.header.request,
            operation: self.operation_id,
            provider: live.accepted.provider,
            tier: live.verdict.tier,
            trust: live.verdict.trust,
            undefended: live.verdict.undefended(),
            epoch: live.accepted.epoch,
            catalogue: sealing.candidates.digest,
            attempts: live.accepted.attempts.0.clone(),
            timing: self.timing,
        })
    }

    /// Checks receipt and bill against everything that was sent and seen.
    fn verify(&mut self, live: Live, last: &RelayedFinal, sealing: &Sealing) -> Result<Completed, Refusal> {
        let (finish, input_tokens) = live.finish.ok_or_else(|| lie("the answer has no end"))?;
        let header = &sealing.seal.header;
        let seen = ReceiptExpectation {
            request: sealing.seal.request_digest,
            request_id: header.request,
            attempt: live.accepted.attempt,
            transcript: Some(live.opener.transcript()),
            model: header.model,
            weights: Some(sealing.candidates.entry.weights),
            provider: live.accepted.provider,
            epoch: live.accepted.epoch,
            input_ceiling: header.input_ceiling,
            output_tokens: Some(TokenCount(live.tokens)),
        };
        let receipt = check_receipt(&last.receipt, &live.verdict.statement.receipt_key, &seen)
            .map_err(|error| lie(error.to_string()))?;
        // The same tokenizer on the same text: the provider's count of the prompt must be this client's own.
        if receipt.input_tokens != self.prompt_tokens || input_tokens != self.prompt_tokens {
            return Err(lie(format!(
                "{} input tokens in the receipt, {} counted here",
                receipt.input_tokens, self.prompt_tokens
            )));
        }
        let charge = self.check_bill(&last.bill, &last.receipt, &receipt, sealing)?;
        self.timing.provider(&receipt);
        Ok(Completed {
            finish,
            input_tokens,
            output_tokens: receipt.output_tokens,
            receipt: receipt_id(&last.receipt),
            charge,
            timing: self.timing,
        })
    }

    fn check_bill(
        &self,
        bill: &[u8],
        signed: &[u8],
        receipt: &Receipt,
        sealing: &Sealing,
    ) -> Result<NanoDollars, Refusal> {
        let price: Price = sealing.candidates.price;
        let agreed = BillExpectation {
            operation: self.operation_id,
            request: sealing.seal.header.request,
            receipt: Some(receipt_id(signed)),
            price,
            price_max: sealing.price_max,
            input_most: receipt.input_tokens,
            output_most: receipt.output_tokens,
        };
        let bill = check_bill(bill, &self.coordinator.key, &agreed).map_err(|error| lie(error.to_string()))?;
        Ok(bill.charge)
    }
}

/// A body over the largest size is the consumer's; everything else is what the network sent.
fn seal_refusal(error: &SealError) -> Refusal {
    let code = match error {
        SealError::TooLong(_) => RefusalCode::TooLarge,
        SealError::Recipients(_) | SealError::SealingKey(_) | SealError::Twice(_) => RefusalCode::VerificationFailed,
    };
    Refusal::new(code, error.to_string())
}

fn count(text: &TextModel, request: &ChatRequest) -> Result<TokenCount, Refusal> {
    let tokens = text.prompt_tokens(request);
    let tokens = tokens.map_err(|error| Refusal::new(RefusalCode::InvalidRequest, error.to_string()))?;
    Ok(TokenCount(u32::try_from(tokens.len()).unwrap_or(u32::MAX)))
}

/// The header's limits: the prompt rounded up to a bucket, and what was asked for or what is left of the context.
fn ceilings(entry: &CatalogueEntry, prompt: TokenCount, asked: Option<u32>) -> Result<Ceilings, Refusal> {
    let context = entry.context.0;
    let too_long = |detail: String| Refusal::new(RefusalCode::ContextLengthExceeded, detail);
    if prompt.0 >= context {
        return Err(too_long(format!("the prompt has {prompt} tokens, the model's context is {context} tokens")));
    }
    let left = context - prompt.0;
    if let Some(asked) = asked.filter(|asked| *asked > left) {
        let both = u64::from(prompt.0) + u64::from(asked);
        let detail = format!(
            "{both} tokens ({prompt} in the prompt, {asked} for the answer), the model's context is {context} tokens"
        );
        return Err(too_long(detail));
    }
    let input = prompt.0.div_ceil(INPUT_BUCKET).max(1).saturating_mul(INPUT_BUCKET);
    Ok(Ceilings { input: TokenCount(input), output: TokenCount(asked.unwrap_or(left)) })
}

/// The operation that an idempotency key stands for: the same for the same API key, and unguessable without it.
fn derived_operation(key: &SecretString, idempotency_key: &str) -> OperationId {
    let key = Digest::of(&[b"darkbloom/v1/operation-key", key.expose().as_bytes()]);
    let digest = Digest::of(&[b"darkbloom/v1/operation", key.as_bytes(), idempotency_key.as_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    OperationId(id)
}

/// A refusal, in the provider's own words where it sealed some.
fn refusal_of(frame: &RelayedRefused, sealing: &Sealing) -> Refusal {
    let refusal = frame.refusal();
    let Some(sealed) = &frame.sealed else { return refusal };
    let last = frame.attempts.0.last().map(|attempt| attempt.provider);
    let secrets = sealing.candidates.usable.iter().filter(|verdict| Some(verdict.provider) == last);
    let opened = secrets
        .filter_map(|verdict| sealing.seal.response_secret(&verdict.provider, &verdict.epoch))
        .find_map(|secret| open_refusal(secret, &sealing.seal.request_digest, sealed).ok());
    match opened.map(|words| AnswerEvent::from_cbor(words.expose())) {
        Some(Ok(AnswerEvent::Failure { code, .. })) if code != refusal.code => {
            // What the coordinator passes on in clear is not what the provider said.
            Refusal::new(
                RefusalCode::VerificationFailed,
                format!("the provider said {code}, the coordinator {}", refusal.code),
            )
        }
        _ => refusal,
    }
}
