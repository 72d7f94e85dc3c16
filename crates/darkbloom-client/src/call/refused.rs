//! What a refusal says, in clear and sealed.

use darkbloom_content::AnswerEvent;
use darkbloom_seal::{RequestSeal, open_refusal};
use darkbloom_types::{EpochId, ProviderId, Refusal, RefusalClass, RefusalCode};
use darkbloom_wire::RelayedRefused;

use super::consumer::lie;
use crate::printable::printable;

/// A provider's reason, or another in place of one that is not a provider's to say.
pub fn of_provider(code: RefusalCode, otherwise: RefusalCode) -> RefusalCode {
    if code.providers_may_say() { code } else { otherwise }
}

/// A refusal as it came in clear. Words that a provider sealed must open for one of the recipients, and agree with it.
pub fn refusal_of(
    frame: &RelayedRefused,
    seal: &RequestSeal,
    recipients: impl Iterator<Item = (ProviderId, EpochId)>,
) -> Result<Refusal, Refusal> {
    let clear = frame.refusal();
    let refusal = Refusal::new(clear.code, printable(&clear.detail));
    let Some(sealed) = &frame.sealed else { return Ok(refusal) };
    let mut opened = recipients.filter_map(|(provider, epoch)| {
        let secret = seal.response_secret(&provider, &epoch)?;
        Some((provider, open_refusal(secret, &seal.request_digest, sealed).ok()?))
    });
    let (provider, words) = opened.next().ok_or_else(|| lie("the sealed words of a refusal do not open"))?;
    let Ok(AnswerEvent::Failure { code, .. }) = AnswerEvent::from_cbor(words.expose()) else {
        return Err(lie("the sealed words of a refusal are none"));
    };
    if agrees(frame, provider, code) {
        Ok(refusal)
    } else {
        Err(lie(format!("the provider said {code}, the coordinator {}", clear.code)))
    }
}

/// Whether what is said in clear can be what an honest coordinator makes of these words. The provider's attempt must be
/// recorded with its reason. The request's own reason is the same, or the coordinator's: it may have gone on to other
/// providers and given up for want of them, unless the provider's word was final.
fn agrees(frame: &RelayedRefused, provider: ProviderId, said: RefusalCode) -> bool {
    let passed_on = of_provider(said, RefusalCode::ProviderLost);
    let code = frame.refusal().code;
    let mut attempts = frame.attempts.0.iter().rev();
    let Some(attempt) = attempts.find(|attempt| attempt.provider == provider) else { return false };
    if attempt.outcome == 0 {
        // It had accepted: then its answer is cut, whatever it says.
        return code == RefusalCode::AnswerCut;
    }
    let final_word = passed_on.class() == RefusalClass::Final;
    let coordinators = !final_word && (code == RefusalCode::Internal || !code.providers_may_say());
    attempt.outcome == passed_on.number() && (code == passed_on || coordinators)
}
