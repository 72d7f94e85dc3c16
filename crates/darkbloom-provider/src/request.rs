//! One offered request: open, admit, generate, seal, sign.

use std::sync::Arc;
use std::time::{Duration, Instant};

use darkbloom_batch::{
    EndReason, GuideError, Owner, RowEvent, RowFailure, RowId, RowRequest, SampleError, Sampling, Scope, SharedGuide,
    SubmitError,
};
use darkbloom_content::{AnswerEvent, ChatRequest, FinishReason, PrefixSecret, Tweaks};
use darkbloom_seal::{Acceptance, AnswerError, AnswerSealer, Opened, ReceiptKey, SealedFrame, seal_refusal};
use darkbloom_session::waits;
use darkbloom_text::{AnswerAssembler, Opening};
use darkbloom_types::{
    AttemptNumber, Digest, EpochId, Kept, Micros, Refusal, RefusalCode, SecretString, SecretTokens, StreamId,
    TokenCount, scrub_stack,
};
use darkbloom_wire::{
    Accepted, CancelAck, Data, Final, Offer, ProviderFrame, Receipt, Refused, RequestKind, SealedHeader, limits,
    receipt_id,
};
use rand_core::Rng as _;
use tokio::sync::mpsc::{self, UnboundedReceiver, error::TryRecvError};
use tokio::sync::watch;

use crate::agent::Serving;
use crate::shelf::Loan;
use darkbloom_host::clock;

/// Tokens that are coalesced when the consumer reads the whole answer at its end anyway.
const COALESCE_UNSTREAMED: usize = 25;
/// Longest time that they wait for that: a sixth of the gap after which the coordinator cuts an answer, so that a machine
/// that takes seconds for a token is not taken for one that has stopped.
const COALESCE_WAIT: Duration = Duration::from_millis(waits::IDLE.0 / 6);
/// How long a cancelled row may take to be free.
const ROW_FREE_WAIT: Duration = Duration::from_millis(limits::ROW_FREE_WAIT.0);

use self::prompt::Asked;

pub(crate) mod prompt;
#[cfg(test)]
mod tests;

/// Works an offer off and reports its frames.
pub struct Job {
    pub serving: Arc<Serving>,
    pub stream: StreamId,
    pub attempt: AttemptNumber,
    pub epoch: EpochId,
    pub header: SealedHeader,
    pub opened: Opened,
    pub receipt_key: Kept<ReceiptKey>,
    /// Whose request it is: a pseudonym that the account has at this provider alone.
    pub account: [u8; 16],
    pub row: RowId,
    /// Its model, which stays in memory for it.
    pub model: Loan,
    pub out: mpsc::Sender<Vec<u8>>,
    pub cancelled: watch::Receiver<bool>,
}

/// An event, and when the engine made it: reading it may come later.
type Timed = (Instant, RowEvent);

/// What a row's life told the clock.
#[derive(Default)]
struct Stopwatch {
    accepted: Option<Instant>,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// Opens an offer. The epoch's receipt key comes with it: it lives until the last request that was admitted with it ends,
/// also when the epoch itself is erased before that.
pub fn open(serving: &Serving, offer: &Offer) -> Result<(SealedHeader, Opened, Kept<ReceiptKey>), Refusal> {
    if offer.wrap.provider != serving.id {
        return Err(Refusal::new(RefusalCode::CannotOpen, "the wrap is another provider's"));
    }
    let now = clock::now();
    let mut ring = serving.ring();
    let opened = ring.open(&offer.header, &offer.body, &offer.wrap, now);
    let (header, opened) = opened.map_err(|error| Refusal::new(error.code(), error.to_string()))?;
    let epoch = ring.by_id(&offer.wrap.epoch).ok_or(RefusalCode::UnknownEpoch)?;
    Ok((header, opened, epoch.receipt_key()))
}

/// A refusal's frame.
pub fn refused(stream: StreamId, refusal: &Refusal, sealed: Option<Vec<u8>>) -> Vec<u8> {
    let frame = Refused { stream, code: refusal.code.number(), detail: refusal.detail.clone(), sealed };
    ProviderFrame::from(frame).encode()
}

impl Job {
    /// Runs the request to its end; every way out has sent a refusal, or the end and a receipt.
    pub async fn run(mut self) {
        let outcome = match self.admit().await {
            Ok(Admission::Row(row)) => self.answer(*row).await,
            Ok(Admission::Cancelled) => {
                self.send(ProviderFrame::from(CancelAck { stream: self.stream }).encode()).await
            }
            Err(refusal) => {
                tracing::info!(request = %self.header.request, reason = %refusal.code, "request refused");
                let sealed = self.sealed_words(&refusal);
                self.send(refused(self.stream, &refusal, sealed)).await
            }
        };
        if outcome.is_err() {
            // The connection is gone: nobody waits for this row.
            self.model.engine.cancel(self.row);
        }
    }

    fn sealed_words(&self, refusal: &Refusal) -> Option<Vec<u8>> {
        let mut salt = [0; 32];
        clock::rng().fill_bytes(&mut salt);
        let words = AnswerEvent::Failure { code: refusal.code, detail: SecretString::new(refusal.message()) };
        seal_refusal(&self.opened.response_secret, &self.opened.request_digest, &salt, words.to_cbor().expose()).ok()
    }

    /// Reads the plaintext, checks it against the header's limits, and submits its row.
    async fn admit(&mut self) -> Result<Admission, Refusal> {
        let model = self.model.clone();
        match self.header.kind {
            RequestKind::Chat => {}
        }
        let plaintext = std::mem::take(&mut self.opened.plaintext);
        let reading = prompt::read(model.clone(), plaintext, self.header.input_ceiling);
        let mut cancelled = self.cancelled.clone();
        let asked = tokio::select! {
            // What is being read is dropped unread when it is done.
            _ = asked_to_cancel(&mut cancelled) => return Ok(Admission::Cancelled),
            read = reading => read?,
        };
        let Asked { request, prompt, opening, guide } = asked;
        let input_tokens = TokenCount(u32::try_from(prompt.len()).unwrap_or(u32::MAX));
        // Others may have longer rows. An answer that was promised room for its limit is not begun without it.
        let output_ceiling = self.header.output_ceiling;
        let needed = u64::from(input_tokens.0) + u64::from(output_ceiling.0);
        if needed > u64::from(model.row_tokens.0) {
            let detail = format!("prompt and answer need {needed} tokens, a row here holds {}", model.row_tokens);
            return Err(Refusal::new(RefusalCode::RowTooSmall, detail));
        }
        let events = self.submit(&request, prompt, guide, output_ceiling)?;
        Ok(Admission::Row(Box::new(Row { events, request, opening, input_tokens })))
    }

    fn submit(
        &self,
        request: &ChatRequest,
        prompt: SecretTokens,
        guide: Option<SharedGuide>,
        max_output: TokenCount,
    ) -> Result<UnboundedReceiver<Timed>, Refusal> {
        // Bounded by the ceiling: a row makes at most so many events.
        let (sender, events) = mpsc::unbounded_channel();
        let row = RowRequest {
            owner: owner(&self.account),
            scope: request.prefix.as_ref().map(|secret| prefix_scope(secret, &self.account)),
            guide,
            ..row_request(&self.model, RowRequest::new(self.row, prompt, max_output), request)
        };
        let sink = Box::new(move |event| {
            // The receiver is gone when the connection is; the row is cancelled then.
            let _ = sender.send((Instant::now(), event));
        });
        self.model.engine.submit(row, sink).map_err(|error| submit_refusal(&error))?;
        Ok(events)
    }

    async fn send(&self, frame: Vec<u8>) -> Result<(), Disconnected> {
        self.out.send(frame).await.map_err(|_| Disconnected)
    }

    async fn answer(&mut self, row: Row) -> Result<(), Disconnected> {
        let Row { mut events, request, opening, input_tokens } = row;
        let mut salt = [0; 32];
        clock::rng().fill_bytes(&mut salt);
        let acceptance = Acceptance {
            request_digest: self.opened.request_digest,
            provider: self.serving.id,
            epoch: self.epoch,
            attempt: self.attempt,
            salt,
        };
        let sealer = AnswerSealer::new(&self.opened.response_secret, &acceptance);
        let model = self.model.clone();
        let assembler = AnswerAssembler::new(&model.text, &request, opening);
        let mut writer = crate::answer::AnswerWriter::new(sealer, assembler, model.token_text_max);
        let accepted = Accepted { stream: self.stream, attempt: self.attempt, epoch: self.epoch, salt };
        // The coordinator's part of the time ends with this frame, and the provider's begins.
        let accepted_at = Instant::now();
        self.send(ProviderFrame::from(accepted).encode()).await?;

        let mut watch = Stopwatch { accepted: Some(accepted_at), ..Stopwatch::default() };
        let end = self.generate(&mut events, &mut writer, &mut watch).await?;
        let sealed = match end {
            End::Finished(reason) => writer.finish(reason, input_tokens),
            End::Failed if writer.total().0 == 0 => {
                // Nothing was said yet: another provider can still answer.
                return self.send(refused(self.stream, &RefusalCode::Internal.into(), None)).await;
            }
            End::OutOfShape(why) if writer.total().0 == 0 => {
                let refusal = shape_refusal(why);
                let sealed = self.sealed_words(&refusal);
                return self.send(refused(self.stream, &refusal, sealed)).await;
            }
            End::Failed | End::OutOfShape(_) => {
                // What the request asks for cannot be done, or something here is broken.
                let code = if matches!(end, End::Failed) { RefusalCode::Internal } else { RefusalCode::InvalidRequest };
                let failure = AnswerEvent::Failure { code, detail: SecretString::default() };
                writer.flush().and_then(|mut frames| {
                    frames.push(writer.fail(&failure)?);
                    Ok(frames)
                })
            }
            End::Cancelled => {
                if writer.total().0 > 0 {
                    self.sign(&writer, input_tokens, &watch).await?;
                }
                return self.send(ProviderFrame::from(CancelAck { stream: self.stream }).encode()).await;
            }
        };
        match sealed {
            Ok(frames) => {
                self.send_frames(frames).await?;
                self.sign(&writer, input_tokens, &watch).await
            }
            Err(error) => self.broken(error).await,
        }
    }

    /// Carries tokens from the engine into frames until the row ends.
    async fn generate(
        &mut self,
        events: &mut UnboundedReceiver<Timed>,
        writer: &mut crate::answer::AnswerWriter,
        watch: &mut Stopwatch,
    ) -> Result<End, Disconnected> {
        let mut stopped = false;
        let mut cancelled = self.cancelled.clone();
        let mut flush_at = Instant::now() + COALESCE_WAIT;
        loop {
            let any_wait = writer.waiting() > 0;
            let event = tokio::select! {
                event = events.recv() => event,
                () = tokio::time::sleep_until(flush_at.into()), if any_wait => {
                    flush_at = Instant::now() + COALESCE_WAIT;
                    if let Some(end) = self.flush(writer).await? {
                        return Ok(end);
                    }
                    continue;
                }
                asked = asked_to_cancel(&mut cancelled) => {
                    asked?;
                    return self.cancel(events).await;
                }
            };
            let mut next = event;
            // Everything that is ready goes into the same frame.
            loop {
                match next {
                    None => return Ok(End::Failed),
                    Some((at, RowEvent::Started { .. })) => watch.started = Some(at),
                    Some((at, RowEvent::Token { token, .. })) if !stopped => {
                        watch.first.get_or_insert(at);
                        watch.last = Some(at);
                        if writer.push(token) {
                            stopped = true;
                            self.model.engine.cancel(self.row);
                        }
                    }
                    // Made in the step that was running when the stop string was complete.
                    Some((_, RowEvent::Token { .. })) => {}
                    Some((_, RowEvent::Ended { reason, failure, .. })) => {
                        return Ok(ended(reason, failure, stopped, writer));
                    }
                }
                match events.try_recv() {
                    Ok(event) => next = Some(event),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => next = None,
                }
            }
            if self.header.stream || writer.waiting() >= COALESCE_UNSTREAMED {
                flush_at = Instant::now() + COALESCE_WAIT;
                if let Some(end) = self.flush(writer).await? {
                    return Ok(end);
                }
            }
        }
    }

    async fn cancel(&self, events: &mut UnboundedReceiver<Timed>) -> Result<End, Disconnected> {
        self.model.engine.cancel(self.row);
        let free = async {
            while let Some((_, event)) = events.recv().await {
                if matches!(event, RowEvent::Ended { .. }) {
                    break;
                }
            }
        };
        if tokio::time::timeout(ROW_FREE_WAIT, free).await.is_err() {
            tracing::warn!(request = %self.header.request, "a cancelled row is still busy");
        }
        Ok(End::Cancelled)
    }

    /// Sends what is ready. The row's end, where that cannot be sealed.
    async fn flush(&self, writer: &mut crate::answer::AnswerWriter) -> Result<Option<End>, Disconnected> {
        match writer.flush() {
            Ok(frames) => self.send_frames(frames).await.map(|()| None),
            Err(_) => Ok(Some(End::Failed)),
        }
    }

    async fn send_frames(&self, frames: Vec<SealedFrame>) -> Result<(), Disconnected> {
        for SealedFrame { sequence, tokens, end, ciphertext } in frames {
            let data = Data { stream: self.stream, sequence, tokens, end, ciphertext };
            self.send(ProviderFrame::from(data).encode()).await?;
        }
        Ok(())
    }

    async fn broken(&self, error: AnswerError) -> Result<(), Disconnected> {
        tracing::error!(request = %self.header.request, %error, "an answer could not be sealed");
        self.model.engine.cancel(self.row);
        self.send(refused(self.stream, &RefusalCode::Internal.into(), None)).await
    }

    /// Signs the receipt, makes it durable, and sends it.
    async fn sign(
        &self,
        writer: &crate::answer::AnswerWriter,
        input_tokens: TokenCount,
        watch: &Stopwatch,
    ) -> Result<(), Disconnected> {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => Micros::from(to.saturating_duration_since(from)),
            _ => Micros(0),
        };
        let receipt = Receipt {
            request: self.opened.request_digest,
            request_id: self.header.request,
            attempt: self.attempt,
            transcript: writer.transcript(),
            model: self.header.model,
            weights: self.model.weights,
            provider: self.serving.id,
            epoch: self.epoch,
            input_tokens,
            output_tokens: writer.total(),
            queue_us: between(watch.accepted, watch.started),
            prefill_us: between(watch.started, watch.first),
            decode_us: between(watch.first, watch.last),
            finished_at: clock::now(),
        };
        let signed = receipt.sign(&*self.receipt_key);
        scrub_stack();
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(request = %self.header.request, %error, "a receipt could not be signed");
                return self.send(refused(self.stream, &RefusalCode::Internal.into(), None)).await;
            }
        };
        if let Err(error) = self.serving.outbox.put(receipt_id(&signed), signed.clone(), clock::now()).await {
            // The coordinator still gets it now; only presenting it again after a crash is lost.
            tracing::error!(%error, "cannot keep a receipt");
        }
        let Receipt { input_tokens, output_tokens, prefill_us, decode_us, .. } = receipt;
        tracing::info!(
            request = %self.header.request,
            input_tokens = input_tokens.0,
            output_tokens = output_tokens.0,
            prefill_us = prefill_us.0,
            decode_us = decode_us.0,
            "request answered"
        );
        self.send(ProviderFrame::from(Final { stream: self.stream, receipt: signed }).encode()).await
    }
}

/// A row as its request wants it sampled and ended.
pub(crate) fn row_request(model: &Loan, row: RowRequest, request: &ChatRequest) -> RowRequest {
    RowRequest { sampling: Arc::new(sampling(request)), stop_tokens: model.text.end_tokens().to_vec(), ..row }
}

fn sampling(request: &ChatRequest) -> Sampling {
    let Tweaks { frequency_penalty, presence_penalty, repetition_penalty, top_k, min_p, logit_bias } = &request.tweaks;
    Sampling {
        temperature: request.temperature,
        top_k: *top_k,
        top_p: request.top_p,
        min_p: *min_p,
        repetition_penalty: *repetition_penalty,
        frequency_penalty: *frequency_penalty,
        presence_penalty: *presence_penalty,
        logit_bias: logit_bias.clone(),
        seed: request.seed.unwrap_or_else(|| clock::rng().next_u64()),
        ..Sampling::greedy()
    }
}

/// Within which rows may use each other's prefixes: the client's secret and the account must both be the same.
fn prefix_scope(secret: &PrefixSecret, account: &[u8; 16]) -> Scope {
    Scope::new(Digest::of(&[b"darkbloom/v1/prefix", secret.expose(), account]).0)
}

/// Whose rows take turns with whose: an account's, by the pseudonym that it has here.
fn owner(account: &[u8; 16]) -> Owner {
    let [a, b, c, d, e, f, g, h, ..] = *account;
    Owner(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// What becomes of a request that is not refused.
enum Admission {
    /// It has a row.
    Row(Box<Row>),
    /// Nobody wants it any more.
    Cancelled,
}

/// A request's row, and what its answer is read by.
struct Row {
    events: UnboundedReceiver<Timed>,
    request: ChatRequest,
    opening: Opening,
    input_tokens: TokenCount,
}

/// Nobody is there any more.
struct Disconnected;

/// Returns when the coordinator cancels; an error when the connection is gone.
async fn asked_to_cancel(cancelled: &mut watch::Receiver<bool>) -> Result<(), Disconnected> {
    cancelled.wait_for(|cancelled| *cancelled).await.map(|_| ()).map_err(|_| Disconnected)
}

enum End {
    Finished(FinishReason),
    Cancelled,
    Failed,
    /// Nothing that its guide allows can follow, or it takes too much work to find out what can.
    OutOfShape(SampleError),
}

fn ended(reason: EndReason, failure: Option<RowFailure>, stopped: bool, writer: &crate::answer::AnswerWriter) -> End {
    match reason {
        _ if stopped => End::Finished(writer.turn_ended()),
        EndReason::StopToken => End::Finished(writer.turn_ended()),
        EndReason::Length => End::Finished(FinishReason::Length),
        EndReason::Cancelled | EndReason::Failed => failure.and_then(misshapen).map_or(End::Failed, End::OutOfShape),
    }
}

/// Whether it is the request's fault that nothing could follow.
fn misshapen(failure: RowFailure) -> Option<SampleError> {
    let RowFailure::Logits(why) = failure else { return None };
    let cannot =
        matches!(why, SampleError::NothingAllowed | SampleError::Guide(GuideError::DeadEnd | GuideError::TooComplex));
    cannot.then_some(why)
}

fn shape_refusal(why: SampleError) -> Refusal {
    let detail = format!("the answer cannot be held to what it was to be: {why}");
    Refusal::new(RefusalCode::InvalidRequest, detail)
}

/// The refusal of a request whose answer cannot be what it was to be; nothing for any other failure.
pub(crate) fn out_of_shape(failure: RowFailure) -> Option<Refusal> {
    misshapen(failure).map(shape_refusal)
}

pub(crate) fn submit_refusal(error: &SubmitError) -> Refusal {
    let code = match error {
        SubmitError::WaitingListFull { .. } => RefusalCode::Overloaded,
        SubmitError::PromptTooLong { .. } => RefusalCode::RowTooSmall,
        SubmitError::Stopped => RefusalCode::Draining,
        SubmitError::EmptyPrompt
        | SubmitError::UnknownToken
        | SubmitError::NoOutput
        | SubmitError::DuplicateRow
        | SubmitError::TooManyStopTokens { .. }
        | SubmitError::Sampling(_) => RefusalCode::InvalidRequest,
    };
    Refusal::new(code, error.to_string())
}
