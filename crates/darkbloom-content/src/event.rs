//! What comes back: pieces of an answer, its end, or why there is none.

use std::convert::Infallible;

use darkbloom_types::{RefusalCode, SecretBytes, SecretString, TokenCount, TokenId};
use minicbor::encode::{Encoder, Write};

use crate::cbor::{self, DecodeContentError, StrictReader, ToCbor, Written};
use crate::parts::AnswerParts;

/// Most tokens in one event: at one event a step this is never near, and a whole answer that was coalesced while the
/// reader was slow still fits.
pub const EVENT_TOKENS_MAX: usize = 65_536;

/// Why an answer ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model ended its turn, or a stop string appeared.
    Stop,
    /// The limit on output tokens, or the end of the context, was reached.
    Length,
    /// The model ended its turn and called at least one tool in it.
    ToolCalls,
}

impl FinishReason {
    const ALL: [Self; 3] = [Self::Stop, Self::Length, Self::ToolCalls];

    fn code(self) -> u64 {
        match self {
            Self::Stop => 0,
            Self::Length => 1,
            Self::ToolCalls => 2,
        }
    }
}

/// One event of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerEvent {
    /// More of the answer. It may lag behind the tokens: a character that is not complete, and what may begin a stop
    /// string, a call of a tool or a piece of reasoning, are held back.
    Delta {
        /// The tokens that were generated, in order.
        tokens: Vec<TokenId>,
        /// What is now certain.
        parts: AnswerParts,
    },
    /// The end of a whole answer.
    Finish {
        /// Why it ended.
        reason: FinishReason,
        /// Tokens of the prompt.
        input_tokens: TokenCount,
        /// Tokens that were generated, those that ended the answer included.
        output_tokens: TokenCount,
    },
    /// The end of an answer that could not be given, or not to its end.
    Failure {
        /// The reason.
        code: RefusalCode,
        /// What is particular to this case; may speak of content, which is why it travels sealed.
        detail: SecretString,
    },
}

const KEY_KIND: u64 = 1;
const KEY_TOKENS: u64 = 2;
const KEY_TEXT: u64 = 3;
const KEY_REASON: u64 = 4;
const KEY_INPUT_TOKENS: u64 = 5;
const KEY_OUTPUT_TOKENS: u64 = 6;
const KEY_CODE: u64 = 7;
const KEY_DETAIL: u64 = 8;
const KEY_PARTS: u64 = 9;
const KEYS_MAX: u64 = 4;

const KIND_DELTA: u64 = 0;
const KIND_FINISH: u64 = 1;
const KIND_FAILURE: u64 = 2;

impl AnswerEvent {
    /// The one encoding of this event.
    #[must_use]
    pub fn to_cbor(&self) -> SecretBytes {
        cbor::encode(self)
    }

    /// Length of [`Self::to_cbor`] in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        cbor::encoded_len(self)
    }

    /// Reads exactly what [`Self::to_cbor`] writes.
    ///
    /// # Errors
    /// [`DecodeContentError`] for every other sequence of bytes.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, DecodeContentError> {
        let mut reader = StrictReader::new(bytes);
        let mut map = reader.map(KEYS_MAX)?;
        map.expect(&mut reader, KEY_KIND)?;
        let event = match reader.uint()? {
            KIND_DELTA => {
                map.expect(&mut reader, KEY_TOKENS)?;
                let tokens = read_tokens(&mut reader)?;
                let parts = match map.key(&mut reader)? {
                    Some(KEY_TEXT) => AnswerParts::from(reader.text()?),
                    Some(KEY_PARTS) => AnswerParts::read(&mut reader)?,
                    Some(key) => return Err(DecodeContentError::UnknownKey { key }),
                    None => return Err(DecodeContentError::MissingKey { key: KEY_TEXT }),
                };
                Self::Delta { tokens, parts }
            }
            KIND_FINISH => {
                map.expect(&mut reader, KEY_REASON)?;
                let code = reader.uint()?;
                let reason = FinishReason::ALL.into_iter().find(|reason| reason.code() == code);
                let reason = reason.ok_or(DecodeContentError::OutOfRange { what: "the finish reason" })?;
                map.expect(&mut reader, KEY_INPUT_TOKENS)?;
                let input_tokens = TokenCount(reader.uint32("the input tokens")?);
                map.expect(&mut reader, KEY_OUTPUT_TOKENS)?;
                let output_tokens = TokenCount(reader.uint32("the output tokens")?);
                Self::Finish { reason, input_tokens, output_tokens }
            }
            KIND_FAILURE => {
                map.expect(&mut reader, KEY_CODE)?;
                let number = u16::try_from(reader.uint()?).ok();
                let code = number.and_then(RefusalCode::from_number);
                let code = code.ok_or(DecodeContentError::OutOfRange { what: "the failure's reason" })?;
                map.expect(&mut reader, KEY_DETAIL)?;
                Self::Failure { code, detail: SecretString::from(reader.text()?) }
            }
            _ => return Err(DecodeContentError::OutOfRange { what: "the kind of event" }),
        };
        map.end(&mut reader)?;
        reader.end()?;
        Ok(event)
    }
}

impl ToCbor for AnswerEvent {
    fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        match self {
            Self::Delta { tokens, parts } => {
                encoder.map(3)?.u64(KEY_KIND)?.u64(KIND_DELTA)?;
                encoder.u64(KEY_TOKENS)?.array(tokens.len() as u64)?;
                for token in tokens {
                    encoder.u32(token.0)?;
                }
                // Most answers are nothing but text.
                match parts.only_text() {
                    Some(text) => drop(encoder.u64(KEY_TEXT)?.str(text)?),
                    None => parts.write(encoder.u64(KEY_PARTS)?)?,
                }
            }
            Self::Finish { reason, input_tokens, output_tokens } => {
                encoder.map(4)?.u64(KEY_KIND)?.u64(KIND_FINISH)?;
                encoder.u64(KEY_REASON)?.u64(reason.code())?;
                encoder.u64(KEY_INPUT_TOKENS)?.u32(input_tokens.0)?;
                encoder.u64(KEY_OUTPUT_TOKENS)?.u32(output_tokens.0)?;
            }
            Self::Failure { code, detail } => {
                encoder.map(3)?.u64(KEY_KIND)?.u64(KIND_FAILURE)?;
                encoder.u64(KEY_CODE)?.u16(code.number())?;
                encoder.u64(KEY_DETAIL)?.str(detail.expose())?;
            }
        }
        Ok(())
    }
}

fn read_tokens(reader: &mut StrictReader<'_>) -> Result<Vec<TokenId>, DecodeContentError> {
    let count = reader.array("tokens", EVENT_TOKENS_MAX as u64)?;
    let mut tokens = Vec::with_capacity(count);
    for _ in 0..count {
        tokens.push(TokenId(reader.uint32("a token")?));
    }
    Ok(tokens)
}
