//! An accepted answer as it arrives: opened, recounted, handed on.

use std::sync::Arc;

use darkbloom_attest::Verdict;
use darkbloom_content::{AnswerEvent, AnswerPart, FinishReason, PartKind};
use darkbloom_seal::{Acceptance, AnswerOpener, SealedFrame};
use darkbloom_text::{AnswerRecount, Recounted};
use darkbloom_types::{Refusal, RefusalCode, SecretString, TokenCount};
use darkbloom_wire::{AttemptOutcome, RelayedAccepted, RelayedData};

use super::consumer::{Consumer, Ended, Gone, lie};
use super::sealing::Sealing;
use super::{AnswerMeta, Call, Part};

/// An acceptance whose answer is being opened.
pub struct Live {
    pub accepted: RelayedAccepted,
    pub verdict: Arc<Verdict>,
    pub opener: AnswerOpener,
    /// Runs until the answer's end.
    recount: Option<AnswerRecount>,
    /// Tokens that came.
    pub tokens: u32,
    begun: bool,
    /// A call's name as far as it came: it may come in two frames.
    name: SecretString,
    pub end: Option<End>,
}

/// How the provider ended its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is whole; and how many tokens of input the provider counted.
    Whole(FinishReason, TokenCount),
    /// The provider could not go on. What came of it is settled as any answer.
    Failed(RefusalCode),
}

/// Whether an answer can have ended for this reason.
///
/// The token that ends an answer is not sent, so a stop before the ceiling cannot be told from an answer that was broken
/// off. Neither can a length below the ceiling be refuted: a row of the provider's may have room for less.
pub(super) fn check_reason(
    reason: FinishReason,
    Recounted { over, called }: Recounted,
    tokens: TokenCount,
    ceiling: TokenCount,
) -> Result<(), Refusal> {
    match reason {
        FinishReason::Stop | FinishReason::ToolCalls if called != (reason == FinishReason::ToolCalls) => {
            Err(lie("the answer's end and its parts differ on whether a tool was called"))
        }
        FinishReason::Length if over => Err(lie("an answer that ended itself is said to have run out of room")),
        // There was room for no token more, not for one that ends the answer either.
        FinishReason::Stop | FinishReason::ToolCalls if !over && tokens >= ceiling => {
            Err(lie(format!("an answer of all {ceiling} tokens is said to have ended itself")))
        }
        FinishReason::Length | FinishReason::Stop | FinishReason::ToolCalls => Ok(()),
    }
}

impl Call {
    pub(super) fn begin_answer(&mut self, accepted: RelayedAccepted, sealing: &Sealing) -> Result<Live, Refusal> {
        let mut usable = sealing.candidates.usable.iter();
        let is_it = |v: &Verdict| v.provider == accepted.provider && v.epoch == accepted.epoch;
        let verdict = usable.find(|usable| is_it(&usable.verdict)).map(|usable| &usable.verdict);
        let secret = sealing.seal.response_secret(&accepted.provider, &accepted.epoch);
        let (Some(verdict), Some(secret)) = (verdict, secret) else {
            return Err(lie("somebody accepted whom the request was not sealed to"));
        };
        let last = accepted.attempts.0.last();
        if last.is_none_or(|last| last.provider != accepted.provider || last.outcome() != AttemptOutcome::Accepted) {
            return Err(lie("the last attempt is not that of the provider who accepted"));
        }
        self.timing = self.timing_before.with_coordinator(&accepted.timing);
        let acceptance = Acceptance {
            request_digest: sealing.seal.request_digest,
            provider: accepted.provider,
            epoch: accepted.epoch,
            attempt: accepted.attempt,
            salt: accepted.salt,
        };
        Ok(Live {
            verdict: Arc::clone(verdict),
            accepted,
            opener: AnswerOpener::new(secret, &acceptance),
            recount: Some(AnswerRecount::new(&self.text, &self.operation.request, self.opening)),
            tokens: 0,
            begun: false,
            name: SecretString::default(),
            end: None,
        })
    }

    /// Opens one frame and hands on what it brings. Nothing reaches the consumer that is not counted.
    pub(super) async fn open(
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
        if tokens > self.ceilings.output {
            return Err(lie(format!("{tokens} output tokens, {} were asked for", self.ceilings.output)).into());
        }
        match event {
            AnswerEvent::Delta { tokens: new, parts } => {
                if end {
                    return Err(lie("the answer ended without a reason").into());
                }
                live.tokens = live.tokens.saturating_add(u32::try_from(new.len()).unwrap_or(u32::MAX));
                // The count in clear is what is paid for: it must be that of the tokens that came.
                if live.tokens != tokens.0 {
                    return Err(lie("the token count in clear is not that of the tokens").into());
                }
                let recount = live.recount.as_mut().ok_or_else(|| lie("more text after the end"))?;
                recount.push(&new, parts.clone()).map_err(|error| lie(error.to_string()))?;
                self.start(live, sealing, consumer)?;
                for part in parts {
                    hand_on(live, part, consumer).await?;
                }
            }
            AnswerEvent::Finish { reason, input_tokens, output_tokens } => {
                if !end || output_tokens.0 != live.tokens || tokens != output_tokens {
                    return Err(lie("the end does not fit the answer").into());
                }
                let recount = live.recount.take().ok_or_else(|| lie("a second end"))?;
                let recounted = recount.finish().map_err(|error| lie(error.to_string()))?;
                check_reason(reason, recounted, tokens, self.ceilings.output)?;
                self.start(live, sealing, consumer)?;
                live.end = Some(End::Whole(reason, input_tokens));
            }
            AnswerEvent::Failure { code, .. } => {
                if !end || tokens.0 != live.tokens {
                    return Err(lie("the end does not fit the answer").into());
                }
                live.end = Some(End::Failed(code));
            }
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
            attempts: [&*self.attempts, &*live.accepted.attempts.0].concat(),
            timing: self.timing,
            rates: self.rates.clone(),
        })
    }
}

/// Hands one part on; a name once it is whole, which the arguments behind it tell.
async fn hand_on(live: &mut Live, part: AnswerPart, consumer: &mut Consumer) -> Result<(), Gone> {
    match part.kind {
        PartKind::Text => consumer.part(Part::Text(part.text)).await,
        PartKind::Reasoning => consumer.part(Part::Reasoning(part.text)).await,
        PartKind::CallName => {
            live.name.push_str(part.text.expose());
            Ok(())
        }
        PartKind::CallArguments => {
            if !live.name.is_empty() {
                consumer.part(Part::Call(std::mem::take(&mut live.name))).await?;
            }
            consumer.part(Part::Arguments(part.text)).await
        }
    }
}

#[cfg(test)]
mod tests;
