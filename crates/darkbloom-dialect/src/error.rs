//! An error as OpenAI's clients expect it.

use darkbloom_types::{NanoDollars, Refusal, RefusalCode, error_type};
use serde_json::json;

/// When to try again where waiting helps: rows become free every few seconds.
const AGAIN_S: u64 = 2;

/// How a refusal reads to a consumer's program.
struct Words {
    status: u16,
    param: Option<&'static str>,
    retry_after_s: Option<u64>,
}

impl Words {
    const fn new(status: u16) -> Self {
        Self { status, param: None, retry_after_s: None }
    }

    const fn param(mut self, field: &'static str) -> Self {
        self.param = Some(field);
        self
    }

    const fn again(mut self) -> Self {
        self.retry_after_s = Some(AGAIN_S);
        self
    }
}

/// The status says whose it is: below 500 the consumer can do something about it, by its request, its key or its account.
/// What went wrong between the machines behind this interface is none of that, although there it is one side's fault: so
/// some codes have another status here than among those machines.
fn words(code: RefusalCode) -> Words {
    match code {
        RefusalCode::InvalidRequest
        | RefusalCode::InvalidApiKey
        | RefusalCode::InsufficientQuota
        | RefusalCode::Forbidden
        | RefusalCode::NotFound
        | RefusalCode::MethodNotAllowed
        | RefusalCode::TooLarge
        | RefusalCode::AlreadyCompleted
        | RefusalCode::OperationInProgress
        | RefusalCode::Cancelled
        | RefusalCode::Internal => Words::new(code.http_status()),
        RefusalCode::ModelNotFound => Words::new(404).param("model"),
        RefusalCode::ContextLengthExceeded => Words::new(400).param("messages"),
        RefusalCode::RateLimitExceeded => Words::new(429).again(),
        // This listener and the network do not agree: somebody's clock, pin or release is wrong, or somebody lies. What is said
        // to providers alone is not said to consumers by anybody who does not.
        RefusalCode::IdentityRevoked
        | RefusalCode::StatementMissing
        | RefusalCode::SuccessionRefused
        | RefusalCode::ClockSkew
        | RefusalCode::WrongNetwork
        | RefusalCode::Unsupported
        | RefusalCode::CannotOpen
        | RefusalCode::Replayed
        | RefusalCode::VerificationFailed
        | RefusalCode::CoordinatorUnreachable
        | RefusalCode::ProviderLost
        | RefusalCode::AnswerCut => Words::new(502),
        // Nobody is there now who may answer. A missing tier does not come back in seconds.
        RefusalCode::TierNotMet => Words::new(503),
        RefusalCode::RowTooSmall => Words::new(503).param("messages"),
        // The next sealing is made with fresh candidates, keys and prices.
        RefusalCode::PriceChanged
        | RefusalCode::UnknownEpoch
        | RefusalCode::ResealExhausted
        | RefusalCode::ModelNotLoaded
        | RefusalCode::NoEligibleProvider
        | RefusalCode::NoCapacity
        | RefusalCode::Overloaded
        | RefusalCode::Draining => Words::new(503).again(),
        RefusalCode::Timeout => Words::new(504),
    }
}

/// Whether the same request may be sent again without a thought. With the same idempotency key it would be refused again,
/// now or once the first is answered; an answer that was cut, or whose proofs do not verify, may have been paid.
fn repeatable(code: RefusalCode) -> bool {
    !matches!(
        code,
        RefusalCode::AlreadyCompleted
            | RefusalCode::OperationInProgress
            | RefusalCode::AnswerCut
            | RefusalCode::VerificationFailed
    )
}

/// An error for a consumer's program. Names fields and limits, never what a message said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status (RFC 9110 section 15).
    pub status: u16,
    /// The kind of error, which stands as `type` in the body.
    pub kind: &'static str,
    /// What programs decide by.
    pub code: Option<&'static str>,
    /// The field that is to blame, as a path like `messages[2].content`.
    pub param: Option<String>,
    /// What happened and what to do, for a person.
    pub message: String,
    /// Seconds after which the same request may succeed (RFC 9110 section 10.2.3), where waiting may cure it.
    pub retry_after_s: Option<u64>,
    /// What an answer that failed midway was charged, where a bill said so that verified.
    pub charge: Option<NanoDollars>,
    /// Whether a program may send the request again without asking anybody. OpenAI's clients do so by themselves, twice,
    /// for 409 and everything from 500 up, unless `x-should-retry` says `false`.
    pub repeatable: bool,
}

impl ApiError {
    /// A request that is wrong, with nobody but the caller to blame.
    pub(crate) fn invalid(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: error_type(400),
            code: Some(code),
            param: Some(param.into()),
            message: message.into(),
            retry_after_s: None,
            charge: None,
            repeatable: true,
        }
    }

    /// A body that is wrong as a whole, so that no field of it is to blame.
    pub(crate) fn malformed(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: error_type(400),
            code: Some(code),
            param: None,
            message: message.into(),
            retry_after_s: None,
            charge: None,
            repeatable: true,
        }
    }

    /// The same "no" in OpenAI's words.
    #[must_use]
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let Words { status, param, retry_after_s } = words(refusal.code);
        Self {
            status,
            kind: error_type(status),
            code: Some(refusal.code.name()),
            param: param.map(str::to_owned),
            message: refusal.message(),
            retry_after_s,
            charge: None,
            repeatable: repeatable(refusal.code),
        }
    }

    /// The error of an answer that had begun, and what it was charged, where that is known. Sent again it is another
    /// operation, paid once more: a program does that by itself only when a verified bill says that nothing was paid.
    #[must_use]
    pub fn midway(refusal: &Refusal, charge: Option<NanoDollars>) -> Self {
        let repeatable = charge == Some(NanoDollars::ZERO) && refusal.code != RefusalCode::VerificationFailed;
        Self { charge, repeatable, ..Self::from_refusal(refusal) }
    }

    /// The body. The request id is what a person quotes when they ask for help.
    #[must_use]
    pub fn to_json(&self, request_id: Option<&str>) -> Vec<u8> {
        let mut error = json!({
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        });
        if let Some(id) = request_id {
            error["request_id"] = id.into();
        }
        if let Some(charge) = self.charge {
            error["charge_nano_usd"] = json!(charge);
        }
        json!({ "error": error }).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVALID: &str = "invalid_request_error";
    const SERVER: &str = "server_error";

    /// Every code with the status that a consumer's program sees, its type, and whether waiting is advised.
    const SEEN: &[(RefusalCode, u16, &str, bool)] = &[
        (RefusalCode::InvalidRequest, 400, INVALID, false),
        (RefusalCode::InvalidApiKey, 401, INVALID, false),
        (RefusalCode::InsufficientQuota, 402, "insufficient_quota", false),
        (RefusalCode::ModelNotFound, 404, INVALID, false),
        (RefusalCode::ContextLengthExceeded, 400, INVALID, false),
        (RefusalCode::NoEligibleProvider, 503, SERVER, true),
        (RefusalCode::NoCapacity, 503, SERVER, true),
        (RefusalCode::AlreadyCompleted, 409, INVALID, false),
        (RefusalCode::OperationInProgress, 409, INVALID, false),
        (RefusalCode::ClockSkew, 502, SERVER, false),
        (RefusalCode::UnknownEpoch, 503, SERVER, true),
        (RefusalCode::Replayed, 502, SERVER, false),
        (RefusalCode::Unsupported, 502, SERVER, false),
        (RefusalCode::CannotOpen, 502, SERVER, false),
        (RefusalCode::WrongNetwork, 502, SERVER, false),
        (RefusalCode::PriceChanged, 503, SERVER, true),
        (RefusalCode::ProviderLost, 502, SERVER, false),
        (RefusalCode::AnswerCut, 502, SERVER, false),
        (RefusalCode::Timeout, 504, SERVER, false),
        (RefusalCode::Overloaded, 503, SERVER, true),
        (RefusalCode::ModelNotLoaded, 503, SERVER, true),
        (RefusalCode::Internal, 500, SERVER, false),
        (RefusalCode::VerificationFailed, 502, SERVER, false),
        (RefusalCode::TierNotMet, 503, SERVER, false),
        (RefusalCode::CoordinatorUnreachable, 502, SERVER, false),
        (RefusalCode::ResealExhausted, 503, SERVER, true),
        (RefusalCode::Draining, 503, SERVER, true),
        (RefusalCode::TooLarge, 413, INVALID, false),
        (RefusalCode::RateLimitExceeded, 429, "rate_limit_error", true),
        (RefusalCode::Cancelled, 499, INVALID, false),
        (RefusalCode::Forbidden, 403, "permission_error", false),
        (RefusalCode::NotFound, 404, INVALID, false),
        (RefusalCode::MethodNotAllowed, 405, INVALID, false),
        (RefusalCode::RowTooSmall, 503, SERVER, false),
        (RefusalCode::IdentityRevoked, 502, SERVER, false),
        (RefusalCode::StatementMissing, 502, SERVER, false),
        (RefusalCode::SuccessionRefused, 502, SERVER, false),
    ];

    #[test]
    fn every_refusal_says_whose_it_is() {
        let codes: Vec<_> = SEEN.iter().map(|row| row.0).collect();
        assert_eq!(codes, RefusalCode::ALL, "each has its row");
        for &(code, status, kind, waits) in SEEN {
            let error = ApiError::from_refusal(&Refusal::from(code));
            assert_eq!((error.status, error.kind, error.retry_after_s.is_some()), (status, kind, waits), "{code}");
            assert_eq!(error.code, Some(code.name()));
            assert_eq!(status >= 500, kind == SERVER, "{code}");
            assert_eq!(status == 500, code == RefusalCode::Internal, "{code}: 500 is a failure of ours alone");
            let never = ["already_completed", "operation_in_progress", "answer_cut", "verification_failed"];
            assert_eq!(error.repeatable, !never.contains(&code.name()), "{code}");
            let promised = code.next_step().contains("`retry-after`");
            assert!(waits || !promised, "{code} promises a time and names none");
        }
    }

    #[test]
    fn an_answer_that_had_begun_is_repeated_only_where_nothing_was_paid() {
        let midway = |code: RefusalCode, charge: Option<i64>| {
            let error = ApiError::midway(&code.into(), charge.map(NanoDollars));
            assert_eq!(error.charge, charge.map(NanoDollars));
            error.repeatable
        };
        for code in [RefusalCode::AnswerCut, RefusalCode::Timeout, RefusalCode::ProviderLost] {
            assert!(midway(code, Some(0)), "{code}");
            assert!(!midway(code, Some(1)), "{code}");
            assert!(!midway(code, None), "{code}: it may have been");
        }
        assert!(!midway(RefusalCode::VerificationFailed, Some(0)), "who lied once is not asked again unseen");
    }
}
