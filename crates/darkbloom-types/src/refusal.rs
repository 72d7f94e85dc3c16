//! Every "no" in the network: a closed list of reasons, each with a sentence and a next step.

use std::fmt;

/// Whether another provider could still say yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalClass {
    /// Another provider may accept the same request.
    RetryElsewhere,
    /// No provider will accept this request as it stands.
    Final,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $class:ident, $status:literal, $sentence:literal, $next:literal;)*) => {
        /// Why something was refused. The number is the one in frames, the name the one in HTTP answers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalCode {
            $($(#[$doc])* $variant,)*
        }

        impl RefusalCode {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number in frames.
            #[must_use]
            pub fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The reason with this number; an unknown number comes from a newer peer.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The name in HTTP answers and on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether another provider could still say yes.
            #[must_use]
            pub fn class(self) -> RefusalClass {
                match self { $(Self::$variant => RefusalClass::$class,)* }
            }

            /// The HTTP status (RFC 9110 section 15) that says the same to a consumer's program.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// One sentence for a person: what happened.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }

            /// One sentence for a person: what to do now.
            #[must_use]
            pub fn next_step(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }
        }
    };
}

refusals! {
    /// The body is not what the interface describes.
    InvalidRequest = 1, "invalid_request", Final, 400,
        "the request is not valid", "correct the request as the message says";
    /// No key, or a key that is unknown, expired or revoked.
    InvalidApiKey = 2, "invalid_api_key", Final, 401,
        "the API key is missing or not valid", "send `Authorization: Bearer KEY` with a key from `darkbloom keys create`";
    /// The account cannot cover the worst case of this request.
    InsufficientQuota = 3, "insufficient_quota", Final, 402,
        "the balance does not cover the highest price of this request", "add credit, or lower `max_tokens`";
    /// The network has no such model.
    ModelNotFound = 4, "model_not_found", Final, 404,
        "the network offers no model of this name", "list the models with `GET /v1/models`";
    /// Prompt and answer together do not fit into the model's context.
    ContextLengthExceeded = 5, "context_length_exceeded", Final, 400,
        "the prompt does not fit into the model's context", "shorten the prompt or lower `max_tokens`";
    /// No connected provider may serve the request at all.
    NoEligibleProvider = 6, "no_eligible_provider", RetryElsewhere, 503,
        "no provider of this model is eligible now", "try again later, or accept a lower tier";
    /// Every eligible provider is busy and the queue is full or too slow.
    NoCapacity = 7, "no_capacity", RetryElsewhere, 503,
        "every provider of this model is busy", "try again after the time in `retry-after`";
    /// The operation was already settled.
    AlreadyCompleted = 8, "already_completed", Final, 409,
        "a request with this idempotency key was already answered and settled", "use a new idempotency key for a new request";
    /// The operation is being worked on right now.
    OperationInProgress = 9, "operation_in_progress", Final, 409,
        "a request with this idempotency key is still being answered", "wait for the first answer, or use a new idempotency key";
    /// The header's time is further from the peer's clock than allowed.
    ClockSkew = 10, "clock_skew", Final, 400,
        "the clocks of the two machines differ too much", "set the clock of the machine that is wrong";
    /// The wrap is for an epoch that this provider no longer or never had.
    UnknownEpoch = 11, "unknown_epoch", RetryElsewhere, 503,
        "the provider's sealing key has expired", "seal again with a fresh provider statement";
    /// The same encapsulation was presented before.
    Replayed = 12, "replayed", Final, 409,
        "this sealed request was presented before", "seal the request again";
    /// Cipher suite, kind or version that this peer does not speak.
    Unsupported = 13, "unsupported", RetryElsewhere, 400,
        "the peer does not support what this request needs", "update the older of the two programs";
    /// A wrap or body did not authenticate, or contradicts its header.
    CannotOpen = 14, "cannot_open", Final, 400,
        "the sealed request does not open", "seal the request again; if it happens again, update the client";
    /// The header names another network.
    WrongNetwork = 15, "wrong_network", Final, 400,
        "the coordinator or the request belongs to another network", "check the coordinator's address and pinned key";
    /// The header's highest price does not cover the price list it names, or that list is not current.
    PriceChanged = 16, "price_changed", Final, 409,
        "the price changed since the request was sealed", "fetch the candidates again and agree to the new price";
    /// The provider went away before the first content.
    ProviderLost = 17, "provider_lost", RetryElsewhere, 502,
        "the provider went away before it answered", "try again";
    /// The provider went away or failed after the first content.
    AnswerCut = 18, "answer_cut", Final, 502,
        "the provider failed in the middle of its answer", "use what arrived, or send the request again";
    /// A stated wait passed.
    Timeout = 19, "timeout", RetryElsewhere, 504,
        "the provider did not answer in time", "try again";
    /// The provider's batch and waiting list are full.
    Overloaded = 20, "overloaded", RetryElsewhere, 503,
        "the provider is at its limit", "try again after the time in `retry-after`";
    /// The provider does not have this model in memory.
    ModelNotLoaded = 21, "model_not_loaded", RetryElsewhere, 503,
        "the provider does not have this model loaded", "try again";
    /// A failure of ours.
    Internal = 22, "internal", RetryElsewhere, 500,
        "an internal error stopped the request", "try again; if it happens again, report it with the request id";
    /// Statement, receipt, bill or frame that does not verify.
    VerificationFailed = 23, "verification_failed", Final, 502,
        "what the network sent does not verify", "do not trust this answer; report it with the request id";
    /// No candidate reaches the tier that the client demands.
    TierNotMet = 24, "tier_not_met", Final, 503,
        "no provider reaches the demanded tier", "wait for such a provider, pin one, or lower the minimum tier";
    /// The coordinator cannot be reached.
    CoordinatorUnreachable = 25, "coordinator_unreachable", Final, 502,
        "the coordinator cannot be reached", "check its address and that it runs";
    /// Fresh statements were asked for too often.
    ResealExhausted = 26, "reseal_exhausted", Final, 503,
        "no provider accepted the request, also with fresh keys", "try again later";
    /// The process is about to stop and takes no new work.
    Draining = 27, "draining", RetryElsewhere, 503,
        "the service is stopping and takes no new requests", "try again in a moment";
    /// A body, header or frame over its stated limit.
    TooLarge = 28, "request_too_large", Final, 413,
        "the request is larger than the limit", "send less";
    /// More than the account or key may ask for.
    RateLimitExceeded = 29, "rate_limit_exceeded", Final, 429,
        "more requests than this key or account may make now", "wait a moment, and send fewer at once";
    /// The consumer went away.
    Cancelled = 30, "cancelled", Final, 499,
        "the consumer cancelled the request", "nothing to do";
    /// The key may not do this.
    Forbidden = 31, "forbidden", Final, 403,
        "this key may not do that", "use a key with the needed scope";
    /// There is no such page or thing.
    NotFound = 32, "not_found", Final, 404,
        "there is nothing at this address", "check the address against the documentation";
    /// The thing is there, and is not asked like this.
    MethodNotAllowed = 33, "method_not_allowed", Final, 405,
        "this address does not answer that method", "use one that the header `allow` names";
    /// Prompt and answer fit into the model's context, and not into a row of this provider.
    RowTooSmall = 34, "row_too_small", RetryElsewhere, 503,
        "no provider of this model has rows for so many tokens now", "shorten the prompt or lower `max_tokens`, or try again later";
    /// The operator revoked the identity, or its owner has another in its place.
    IdentityRevoked = 35, "identity_revoked", Final, 403,
        "this provider's identity counts no more", "ask the operator why; a new identity needs a new join token";
    /// A provider introduced itself without a signed statement.
    StatementMissing = 36, "statement_missing", Final, 400,
        "the provider sent no signed statement about itself", "update the provider";
    /// The word of an older identity is not taken for a newer one.
    SuccessionRefused = 37, "succession_refused", Final, 403,
        "the coordinator does not let this identity take over from the older one", "where two machines were seen with the older key, ask the operator to trust it again; else go back to it with `darkbloom key rotate --back`, or move the file `successions` away and join with a token";
}

/// The `type` of an error answer with this HTTP status, in OpenAI's words: whose it is, and what kind of thing would help.
#[must_use]
pub fn error_type(status: u16) -> &'static str {
    match status {
        402 => "insufficient_quota",
        403 => "permission_error",
        429 => "rate_limit_error",
        ..500 => "invalid_request_error",
        500.. => "server_error",
    }
}

impl RefusalCode {
    /// Whether a provider may refuse with this reason. The rest is not its to say: clock, network and price are the
    /// coordinator's to check, and whoever passes on another reason passes on a lost provider instead.
    #[must_use]
    pub fn providers_may_say(self) -> bool {
        matches!(
            self,
            Self::InvalidRequest
                | Self::ContextLengthExceeded
                | Self::UnknownEpoch
                | Self::Unsupported
                | Self::CannotOpen
                | Self::Overloaded
                | Self::ModelNotLoaded
                | Self::RowTooSmall
                | Self::Internal
                | Self::Draining
                | Self::TooLarge
        )
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal as it reaches a person: the reason, and what is particular to this case. `detail` is public; it never
/// quotes a prompt, an answer or a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which reason.
    pub code: RefusalCode,
    /// What is particular: the two numbers of a limit, the name of a field. Empty when the sentence says it all.
    pub detail: String,
}

impl Refusal {
    /// A refusal with what is particular to this case.
    #[must_use]
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// The whole message for a person.
    #[must_use]
    pub fn message(&self) -> String {
        let (sentence, next) = (self.code.sentence(), self.code.next_step());
        if self.detail.is_empty() {
            format!("{sentence}; {next}")
        } else {
            format!("{sentence}: {}; {next}", self.detail)
        }
    }
}

impl From<RefusalCode> for Refusal {
    fn from(code: RefusalCode) -> Self {
        Self { code, detail: String::new() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_its_own_number_and_name() {
        let numbers: BTreeSet<_> = RefusalCode::ALL.iter().map(|code| code.number()).collect();
        let names: BTreeSet<_> = RefusalCode::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((numbers.len(), names.len()), (RefusalCode::ALL.len(), RefusalCode::ALL.len()));
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::from_number(code.number()), Some(*code));
        }
    }

    #[test]
    fn providers_may_say_what_the_protocol_lists_and_nothing_else() {
        let theirs: BTreeSet<_> = RefusalCode::ALL.iter().filter(|code| code.providers_may_say()).collect();
        let listed = [
            "invalid_request",
            "unsupported",
            "context_length_exceeded",
            "cannot_open",
            "request_too_large",
            "unknown_epoch",
            "overloaded",
            "model_not_loaded",
            "row_too_small",
            "draining",
            "internal",
        ];
        assert_eq!(theirs.iter().map(|code| code.name()).collect::<BTreeSet<_>>(), BTreeSet::from(listed));
    }

    #[test]
    fn messages_say_what_and_what_next() {
        let refusal = Refusal::new(RefusalCode::ContextLengthExceeded, "1030 tokens, the model takes 1024");
        assert_eq!(
            refusal.message(),
            "the prompt does not fit into the model's context: 1030 tokens, the model takes 1024; shorten the prompt or lower `max_tokens`"
        );
    }
}
