//! An error as OpenAI's clients expect it.

use darkbloom_types::{Refusal, RefusalCode};
use serde_json::json;

const INVALID: &str = "invalid_request_error";

/// Refusals for which OpenAI has a type or a field of its own.
const OWN_WORDS: [(RefusalCode, &str, Option<&str>); 5] = [
    (RefusalCode::InsufficientQuota, "insufficient_quota", None),
    (RefusalCode::RateLimitExceeded, "rate_limit_error", None),
    (RefusalCode::Forbidden, "permission_error", None),
    (RefusalCode::ModelNotFound, INVALID, Some("model")),
    (RefusalCode::ContextLengthExceeded, INVALID, Some("messages")),
];

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
}

impl ApiError {
    /// A request that is wrong, with nobody but the caller to blame.
    pub(crate) fn invalid(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: 400, kind: INVALID, code: Some(code), param: Some(param.into()), message: message.into() }
    }

    /// A body that cannot be read at all.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self { status: 400, kind: INVALID, code: None, param: None, message: message.into() }
    }

    /// The same "no" in OpenAI's words.
    #[must_use]
    pub fn from_refusal(refusal: &Refusal) -> Self {
        let status = refusal.code.http_status();
        let own = OWN_WORDS.iter().find(|(code, _, _)| *code == refusal.code).map(|(_, kind, param)| (*kind, *param));
        let (kind, param) = own.unwrap_or((if status >= 500 { "server_error" } else { INVALID }, None));
        Self {
            status,
            kind,
            code: Some(refusal.code.name()),
            param: param.map(str::to_owned),
            message: refusal.message(),
        }
    }

    /// The body. The request id is what a person quotes when they ask for help.
    #[must_use]
    pub fn to_json(&self, request_id: Option<&str>) -> Vec<u8> {
        let mut error = json!({
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        });
        if let (Some(id), Some(members)) = (request_id, error.as_object_mut()) {
            members.insert("request_id".to_owned(), id.into());
        }
        json!({ "error": error }).to_string().into_bytes()
    }
}
