//! One operation: seal, submit, open, verify; again with fresh keys where the coordinator asks for it.

mod consumer;
mod counting;
mod opening;
mod refused;
mod sealing;
mod verify;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use darkbloom_attest::{Trust, Undefended};
use darkbloom_content::{ChatRequest, FinishReason, Message, PrefixSecret, Role};
use darkbloom_session::{ClientAction, ClientSession};
use darkbloom_text::{Opening, TextModel};
use darkbloom_types::{
    CatalogueDigest, Digest, EpochId, Millis, MonoMillis, NanoDollars, OperationId, ProviderId, ReceiptId, Refusal,
    RefusalClass, RefusalCode, RequestId, SecretString, Tier, TokenCount,
};
use darkbloom_wire::{AttemptRecord, CandidateUpdate, ClientFrame, Decoded, LengthPrefixed, Relayed, Reseal};
use rand_core::Rng as _;
use tokio::sync::{mpsc, oneshot};

use self::consumer::{Consumer, Ended, lie};
pub use self::counting::Counting;
use self::opening::Live;
use self::sealing::{Ceilings, Sealing, ceilings, derived_operation};
use crate::candidates::Candidates;
use crate::network::{Coordinator, Network, unreachable};
use crate::rates::RateHeaders;
use crate::timing::Timing;
use darkbloom_host::clock;

/// Parts of an answer that may wait for the consumer; then reading from the network waits.
const PARTS_MAX: usize = 64;

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
    /// All attempts, those of sealings that nobody took included; the last one accepted.
    pub attempts: Vec<AttemptRecord>,
    /// Where the time went so far.
    pub timing: Timing,
    /// What is left of the caller's rates.
    pub rates: RateHeaders,
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
    /// What was signed and paid; nothing where an engine of this process answered.
    pub settled: Option<Settled>,
    /// Where the time went.
    pub timing: Timing,
}

/// What an answer cost, and who signed what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The receipt's name.
    pub receipt: ReceiptId,
    /// What was charged.
    pub charge: NanoDollars,
}

/// One part of an answer.
#[derive(Debug)]
pub enum Part {
    /// More text.
    Text(SecretString),
    /// More of what the model thinks before it says something.
    Reasoning(SecretString),
    /// Another call of a tool, by its name.
    Call(SecretString),
    /// More of that call's arguments, as JSON. Every call has some.
    Arguments(SecretString),
    /// The end; everything verified.
    Completed(Box<Completed>),
    /// The answer broke off, or something did not verify.
    Failed(Box<Failed>),
}

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Failed {
    /// The reason.
    pub refusal: Refusal,
    /// Where the time went until then.
    pub timing: Timing,
    /// What is left of the caller's rates.
    pub rates: RateHeaders,
    /// After how long the coordinator says that it may be tried again.
    pub retry_after: Option<Millis>,
}

impl Failed {
    /// A failure of which the coordinator said nothing more.
    #[must_use]
    pub fn new(refusal: Refusal, timing: Timing) -> Self {
        Self { refusal, timing, rates: RateHeaders::default(), retry_after: None }
    }
}

impl From<Box<Failed>> for Refusal {
    fn from(failed: Box<Failed>) -> Self {
        failed.refusal
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Answer {
    /// What is known now.
    pub meta: AnswerMeta,
    /// What follows. Dropping it cancels the request.
    pub parts: mpsc::Receiver<Part>,
    pub(crate) charged: Arc<OnceLock<NanoDollars>>,
}

impl Answer {
    /// What an answer that failed was charged, by a bill that verified. Known when [`Part::Failed`] comes; nothing where
    /// the coordinator sent no bill, or one that does not verify.
    #[must_use]
    pub fn charged(&self) -> Option<NanoDollars> {
        self.charged.get().copied()
    }
}

/// Starts an operation and returns at its first content.
pub async fn begin(network: Arc<Network>, operation: Operation) -> Result<Answer, Box<Failed>> {
    let mut timing = Timing::default();
    timing.parse(operation.parse);
    let call = match Call::prepare(network, operation, &mut timing).await {
        Ok(call) => call,
        Err(refusal) => return Err(Box::new(Failed::new(refusal, timing))),
    };
    let (first, started) = oneshot::channel();
    let (parts, receiver) = mpsc::channel(PARTS_MAX);
    let charged = Arc::clone(&call.charge);
    tokio::spawn(call.run(Consumer { first: Some(first), parts }));
    // The task answers or drops the sender; dropping this future drops the receiver, which the task notices.
    let meta = started.await.map_err(|_| Failed::new(RefusalCode::Internal.into(), timing))??;
    Ok(Answer { meta, parts: receiver, charged })
}

/// The name of a conversation for the coordinator, which sends its turns to one provider where it can: the same for all turns
/// that begin with the same words, up to the first that a person said. Without the secret, which lives for an hour, nobody can
/// try which words those are; that two requests of an account begin alike is what it tells.
fn conversation_tag(secret: &PrefixSecret, messages: &[Message]) -> [u8; 16] {
    let mut tag = Digest::of(&[b"darkbloom/v1/affinity", secret.expose()]);
    for message in messages {
        tag = Digest::of(&[&tag.0, message.role.name().as_bytes(), b":", message.content.expose().as_bytes()]);
        if message.role == Role::User {
            break;
        }
    }
    let mut short = [0; 16];
    short.copy_from_slice(&tag.0[..16]);
    short
}

/// How one response ended.
enum Read {
    /// Answered and verified; and what came about the candidates.
    Over(Option<CandidateUpdate>),
    /// The request is to be sealed again.
    SealAgain(Reseal),
}

struct Call {
    network: Arc<Network>,
    coordinator: Coordinator,
    operation: Operation,
    operation_id: OperationId,
    affinity: [u8; 16],
    candidates: Arc<Candidates>,
    text: TextModel,
    prompt_tokens: TokenCount,
    /// Within what the answer begins.
    opening: Opening,
    ceilings: Ceilings,
    /// To whom the request was sealed in vain.
    passed_over: Vec<(ProviderId, EpochId)>,
    /// Whether a sealing ended with a provider that called it wrong.
    called_wrong: bool,
    /// Who was asked with the sealings before this one.
    attempts: Vec<AttemptRecord>,
    timing: Timing,
    /// The same before the present sealing was submitted: what the coordinator says is about one sealing.
    timing_before: Timing,
    /// Where the session's clock starts.
    started: Instant,
    session: ClientSession,
    /// What a failed answer cost.
    charge: Arc<OnceLock<NanoDollars>>,
    /// What the coordinator said of the caller's rates, and when to try again.
    rates: RateHeaders,
    retry_after: Option<Millis>,
}

impl Call {
    /// Everything before the first byte is sent: pin, candidates, token count, limits.
    async fn prepare(network: Arc<Network>, operation: Operation, timing: &mut Timing) -> Result<Self, Refusal> {
        let coordinator = network.coordinator().await?;
        let candidates = network.candidates_of(&operation.model, &operation.key, &coordinator).await?;
        // Nothing more is fetched for a model that nobody could answer with.
        candidates.anybody(clock::now())?;
        let text = network.text(&candidates.entry).await?;
        let counted = network.counting.count(&text, candidates.entry.context, operation, timing).await?;
        let (mut operation, prompt) = counted;
        let secret = network.prefix_secret(&operation.key);
        let affinity = conversation_tag(&secret, &operation.request.messages);
        operation.request.prefix = Some(secret);
        let ceilings = ceilings(&candidates.entry, prompt.tokens, operation.max_output_tokens)?;
        let mut random = [0; 16];
        clock::rng().fill_bytes(&mut random);
        let operation_id = match &operation.idempotency_key {
            Some(key) => derived_operation(&operation.key, key),
            None => OperationId(random),
        };
        let session = ClientSession::submitted(MonoMillis::default());
        Ok(Self {
            network,
            coordinator,
            operation,
            operation_id,
            affinity,
            candidates,
            text,
            prompt_tokens: prompt.tokens,
            opening: prompt.opening,
            ceilings,
            passed_over: Vec::new(),
            called_wrong: false,
            attempts: Vec::new(),
            timing: *timing,
            timing_before: *timing,
            started: Instant::now(),
            session,
            charge: Arc::default(),
            rates: RateHeaders::default(),
            retry_after: None,
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
                let Self { timing, retry_after, .. } = self;
                consumer.fail(Failed { refusal, timing, rates: self.rates, retry_after }).await;
            }
        }
    }

    /// Seals, submits and reads, as often as the coordinator asks for another sealing.
    async fn answer(&mut self, consumer: &mut Consumer) -> Result<(), Ended> {
        let mut supersedes = None;
        loop {
            let sealing = self.seal(supersedes)?;
            self.timing_before = self.timing;
            let frame = LengthPrefixed::wrap(&ClientFrame::from(sealing.seal.submit.clone()).encode());
            let response = tokio::select! {
                response = self.network.submit(&self.operation.key, frame) => response?,
                () = consumer.gone() => return Err(Ended::Gone),
            };
            self.rates = RateHeaders::of(response.headers());
            match self.read(response, &sealing, consumer).await? {
                Read::SealAgain(Reseal { candidates, code, attempts, timing }) => {
                    self.timing = self.timing_before.with_coordinator(&timing);
                    self.attempts.extend(attempts.0);
                    let policy = self.network.policy(&self.coordinator);
                    let (now, at) = (clock::now(), Instant::now());
                    let fresh = {
                        let examined = &self.network.candidates.examined;
                        Candidates::read(&candidates, &self.coordinator, &policy, now, at, examined)?
                    };
                    if fresh.digest != self.candidates.digest {
                        return Err(lie("the fresh candidates are of another model").into());
                    }
                    let wraps = sealing.seal.submit.wraps.0.iter();
                    self.passed_over.extend(wraps.map(|wrap| (wrap.provider, wrap.epoch)));
                    self.second_opinion(code, &fresh)?;
                    self.candidates = Arc::new(fresh);
                    self.network.candidates.put(&self.operation.model, Arc::clone(&self.candidates));
                    supersedes = Some(sealing.seal.header.request);
                }
                Read::Over(update) => {
                    if let Some(update) = update {
                        self.update(&update, &sealing);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Whether sealing again is of use, when providers may have called the request wrong: not for the second time, and not
    /// where this client would seal to nobody else.
    fn second_opinion(&mut self, code: u16, fresh: &Candidates) -> Result<(), Refusal> {
        let Some(code) = RefusalCode::from_number(code).filter(|code| code.class() == RefusalClass::Final) else {
            return Ok(());
        };
        if self.called_wrong || !fresh.has_others(self.need(), clock::now()) {
            return Err(code.into());
        }
        self.called_wrong = true;
        Ok(())
    }

    /// Takes in what came with a verified answer about the model's candidates.
    fn update(&self, update: &CandidateUpdate, sealing: &Sealing) {
        let policy = self.network.policy(&self.coordinator);
        let (model, base) = (&self.operation.model, &sealing.candidates);
        self.network.candidates.update(model, base, update, &policy, clock::now(), Instant::now());
    }

    /// The session's clock.
    fn now(&self) -> MonoMillis {
        MonoMillis::from(self.started.elapsed())
    }

    /// Notes what a failed answer cost, before the consumer is told that it failed.
    fn charged(&self, charge: NanoDollars) {
        self.charge.get_or_init(|| charge);
    }

    /// Reads one response to its end.
    async fn read(
        &mut self,
        mut response: reqwest::Response,
        sealing: &Sealing,
        consumer: &mut Consumer,
    ) -> Result<Read, Ended> {
        let mut frames = LengthPrefixed::default();
        let mut live: Option<Live> = None;
        loop {
            if self.session.is_overdue(self.now()) {
                return Err(RefusalCode::Timeout.into());
            }
            let patience =
                self.session.wake_at().map_or(Duration::MAX, |at| Duration::from_millis(at.since(self.now()).0));
            let chunk = tokio::select! {
                chunk = response.chunk() => chunk.map_err(unreachable)?,
                () = consumer.gone() => return Err(Ended::Gone),
                () = tokio::time::sleep(patience) => return Err(RefusalCode::Timeout.into()),
            };
            let Some(chunk) = chunk else {
                return match self.session.transport_ended() {
                    Ok(()) => Ok(Read::Over(None)),
                    Err(error) => Err(Refusal::new(RefusalCode::AnswerCut, error.to_string()).into()),
                };
            };
            frames.push(&chunk);
            while let Some(frame) = frames.next_frame().map_err(|error| lie(error.to_string()))? {
                let Decoded::Known(frame, _) = Relayed::decode(frame).map_err(|error| lie(error.to_string()))? else {
                    continue;
                };
                let action = self.session.handle(frame, self.now()).map_err(|error| lie(error.to_string()))?;
                match action {
                    ClientAction::Wait => {}
                    ClientAction::Begin(accepted) => live = Some(self.begin_answer(accepted, sealing)?),
                    ClientAction::Open(data) => {
                        let live = live.as_mut().ok_or_else(|| lie("content before an acceptance"))?;
                        self.open(live, data, sealing, consumer).await?;
                    }
                    ClientAction::Verify(last) => {
                        let live = live.take().ok_or_else(|| lie("a settlement before an acceptance"))?;
                        let completed = self.verify(&live, &last, sealing)?;
                        self.keep_proof(&live, &last, sealing).await;
                        consumer.part(Part::Completed(Box::new(completed))).await?;
                        return Ok(Read::Over(last.update));
                    }
                    ClientAction::SealAgain(reseal) => {
                        tracing::debug!(reason = reseal.code, "sealing again");
                        return Ok(Read::SealAgain(reseal));
                    }
                    ClientAction::Fail(frame) => return Err(self.refused(&frame, live.as_ref(), sealing).into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
