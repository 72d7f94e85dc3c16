//! What a consumer asks for.

use std::collections::BTreeSet;
use std::convert::Infallible;

use darkbloom_types::{SecretBytes, SecretString};
use minicbor::encode::{Encoder, Write};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::cbor::{self, DecodeContentError, StrictReader, ToCbor, Written};
use crate::message::{Message, Role};
use crate::shape::{AnswerShape, FORMAT_SCHEMA_BYTES_MAX, ToolChoice};
use crate::tool::{InvalidToolError, Tool, check_tools, read_tools, write_tools};
use crate::tweaks::{InvalidTweakError, Tweaks};

/// Most messages in one request: four times the longest conversation that fits into a context of 8,192 tokens at 32
/// tokens a message.
pub const MESSAGES_MAX: usize = 1_024;
/// Most stop strings in one request: what the OpenAI interface allows.
pub const STOPS_MAX: usize = 4;
/// Longest stop string in bytes. An answer is held back by at most this much.
pub const STOP_BYTES_MAX: usize = 256;
/// Highest temperature: what the OpenAI interface allows.
pub const TEMPERATURE_MAX: f32 = 2.0;

/// A conversation to continue, and how to choose the next words.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation, oldest first; at least one message, at most [`MESSAGES_MAX`].
    pub messages: Vec<Message>,
    /// How much chance there is in the choice of a token: 0 (none) to [`TEMPERATURE_MAX`].
    pub temperature: f32,
    /// Share of the probability that is considered at all: 0 (only the likeliest token) to 1 (everything).
    pub top_p: f32,
    /// Makes the chance repeatable.
    pub seed: Option<u64>,
    /// Texts that end the answer and do not belong to it; at most [`STOPS_MAX`]. They are looked for in what the answer
    /// says, in neither its reasoning nor its calls.
    pub stop: Vec<SecretString>,
    /// What the model may call, as it sees fit; at most [`TOOLS_MAX`](crate::TOOLS_MAX).
    pub tools: Vec<Tool>,
    /// Whether it must call them.
    pub choice: ToolChoice,
    /// What the answer is held to where it does not call.
    pub shape: AnswerShape,
    /// What else changes how likely tokens are.
    pub tweaks: Tweaks,
    /// Lets this request start from what earlier ones with the same secret left in the provider's memory. Nothing keeps it
    /// apart from all.
    pub prefix: Option<PrefixSecret>,
}

/// A secret that requests share which may use each other's prefixes. Whoever knows it could find out by the time to the first
/// token what was asked before.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrefixSecret([u8; 32]);

impl PrefixSecret {
    /// The secret with these bytes: from a cryptographic source or hash.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves. Each caller answers for where they go.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PrefixSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrefixSecret(…)")
    }
}

/// Why a request cannot be served by anybody. Names places, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequestError {
    /// There is nothing to answer.
    #[error("the conversation has no messages")]
    NoMessages,
    /// Over [`MESSAGES_MAX`].
    #[error("{0} messages, the limit is {MESSAGES_MAX}")]
    TooManyMessages(usize),
    /// Outside 0 to [`TEMPERATURE_MAX`], or not a number.
    #[error("the temperature is not between 0 and {TEMPERATURE_MAX}")]
    Temperature,
    /// Outside 0 to 1, or not a number.
    #[error("top_p is not between 0 and 1")]
    TopP,
    /// Over [`STOPS_MAX`].
    #[error("{0} stop strings, the limit is {STOPS_MAX}")]
    TooManyStops(usize),
    /// Empty, or over [`STOP_BYTES_MAX`].
    #[error("stop string {index} has {bytes} bytes, it must have 1 to {STOP_BYTES_MAX}")]
    StopLength {
        /// Which stop string, from 0.
        index: usize,
        /// How many bytes it has.
        bytes: usize,
    },
    /// Over [`FORMAT_SCHEMA_BYTES_MAX`].
    #[error("the answer's schema has {0} bytes, the limit is {FORMAT_SCHEMA_BYTES_MAX}")]
    SchemaLength(usize),
    /// A call is asked for of no tool that the request has.
    #[error("a call must come, and the request has no such tool")]
    ToolChoice,
    /// A tool, or a message about one.
    #[error(transparent)]
    Tool(#[from] InvalidToolError),
    /// A penalty, a bias or another such number.
    #[error(transparent)]
    Tweak(#[from] InvalidTweakError),
}

const KEY_MESSAGES: u64 = 1;
const KEY_TEMPERATURE: u64 = 2;
const KEY_TOP_P: u64 = 3;
const KEY_SEED: u64 = 4;
const KEY_STOP: u64 = 5;
const KEY_TWEAKS: u64 = 6;
const KEY_PREFIX: u64 = 7;
const KEY_SHAPE: u64 = 8;
const KEY_TOOLS: u64 = 20;
const KEY_CHOICE: u64 = 21;
const KEYS_MAX: u64 = 10;

impl ChatRequest {
    /// A request with the OpenAI interface's defaults: temperature 1, the whole probability, no seed, no stop strings, no tools.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            temperature: 1.0,
            top_p: 1.0,
            seed: None,
            stop: Vec::new(),
            tools: Vec::new(),
            choice: ToolChoice::Free,
            shape: AnswerShape::Free,
            tweaks: Tweaks::default(),
            prefix: None,
        }
    }

    /// Whether anybody would accept this request.
    ///
    /// # Errors
    /// [`InvalidRequestError`] names the first thing that is out of its limits.
    pub fn check(&self) -> Result<(), InvalidRequestError> {
        match self.messages.len() {
            0 => return Err(InvalidRequestError::NoMessages),
            1..=MESSAGES_MAX => {}
            count => return Err(InvalidRequestError::TooManyMessages(count)),
        }
        if !(0.0..=TEMPERATURE_MAX).contains(&self.temperature) {
            return Err(InvalidRequestError::Temperature);
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(InvalidRequestError::TopP);
        }
        if self.stop.len() > STOPS_MAX {
            return Err(InvalidRequestError::TooManyStops(self.stop.len()));
        }
        for (index, stop) in self.stop.iter().enumerate() {
            if !(1..=STOP_BYTES_MAX).contains(&stop.len()) {
                return Err(InvalidRequestError::StopLength { index, bytes: stop.len() });
            }
        }
        self.tweaks.check()?;
        check_tools(&self.tools)?;
        self.choice.check(&self.tools)?;
        self.shape.check()?;
        self.check_calls()?;
        Ok(())
    }

    /// Whether every tool that says something was asked.
    fn check_calls(&self) -> Result<(), InvalidToolError> {
        let mut asked = BTreeSet::new();
        for message in &self.messages {
            message.check()?;
            asked.extend(message.calls.iter().map(|call| call.id.expose()));
            if message.call_id.as_ref().is_some_and(|id| !asked.contains(id.expose())) {
                return Err(InvalidToolError::UnknownCall);
            }
        }
        Ok(())
    }

    /// Whether tools play any part in it.
    #[must_use]
    pub fn is_about_tools(&self) -> bool {
        !self.tools.is_empty()
            || self.messages.iter().any(|message| message.role == Role::Tool || !message.calls.is_empty())
    }

    /// The one encoding of this request. A request that fails [`Self::check`] has an encoding that nobody accepts.
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
        let (mut messages, mut temperature, mut top_p, mut seed) = (None, None, None, None);
        let (mut stop, mut tools, mut tweaks, mut prefix) = (Vec::new(), Vec::new(), Tweaks::default(), None);
        let (mut choice, mut shape) = (ToolChoice::Free, AnswerShape::Free);
        while let Some(key) = map.key(&mut reader)? {
            match key {
                KEY_MESSAGES => messages = Some(read_messages(&mut reader)?),
                KEY_TEMPERATURE => temperature = Some(read_unsigned_float(&mut reader, "the temperature")?),
                KEY_TOP_P => top_p = Some(read_unsigned_float(&mut reader, "top_p")?),
                KEY_SEED => seed = Some(reader.uint()?),
                KEY_STOP => stop = read_stops(&mut reader)?,
                KEY_TWEAKS => tweaks = Tweaks::read(&mut reader)?,
                KEY_PREFIX => prefix = Some(read_prefix(&mut reader)?),
                KEY_SHAPE => shape = AnswerShape::read(&mut reader)?,
                KEY_CHOICE => choice = ToolChoice::read(&mut reader)?,
                KEY_TOOLS => tools = read_tools(&mut reader)?,
                key => return Err(DecodeContentError::UnknownKey { key }),
            }
        }
        reader.end()?;
        let missing = |key| DecodeContentError::MissingKey { key };
        let request = Self {
            messages: messages.ok_or(missing(KEY_MESSAGES))?,
            temperature: temperature.ok_or(missing(KEY_TEMPERATURE))?,
            top_p: top_p.ok_or(missing(KEY_TOP_P))?,
            seed,
            stop,
            tools,
            choice,
            shape,
            tweaks,
            prefix,
        };
        request.check()?;
        Ok(request)
    }
}

impl ToCbor for ChatRequest {
    fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        let optional = [
            self.seed.is_some(),
            !self.stop.is_empty(),
            !self.tweaks.is_neutral(),
            self.prefix.is_some(),
            !self.shape.is_free(),
            !self.tools.is_empty(),
            !self.choice.is_free(),
        ];
        let optional = optional.map(u64::from);
        encoder.map(3 + optional.iter().sum::<u64>())?;
        encoder.u64(KEY_MESSAGES)?.array(self.messages.len() as u64)?;
        for message in &self.messages {
            message.write(encoder)?;
        }
        // Adding zero turns the negative zero, which reading refuses, into the one zero there is.
        encoder.u64(KEY_TEMPERATURE)?.f32(self.temperature + 0.0)?;
        encoder.u64(KEY_TOP_P)?.f32(self.top_p + 0.0)?;
        if let Some(seed) = self.seed {
            encoder.u64(KEY_SEED)?.u64(seed)?;
        }
        if !self.stop.is_empty() {
            encoder.u64(KEY_STOP)?.array(self.stop.len() as u64)?;
            for stop in &self.stop {
                encoder.str(stop.expose())?;
            }
        }
        if !self.tweaks.is_neutral() {
            self.tweaks.write(encoder.u64(KEY_TWEAKS)?)?;
        }
        if let Some(prefix) = &self.prefix {
            encoder.u64(KEY_PREFIX)?.bytes(prefix.expose())?;
        }
        if !self.shape.is_free() {
            self.shape.write(encoder.u64(KEY_SHAPE)?)?;
        }
        if !self.tools.is_empty() {
            write_tools(&self.tools, encoder.u64(KEY_TOOLS)?)?;
        }
        if !self.choice.is_free() {
            self.choice.write(encoder.u64(KEY_CHOICE)?)?;
        }
        Ok(())
    }
}

fn read_messages(reader: &mut StrictReader<'_>) -> Result<Vec<Message>, DecodeContentError> {
    let count = reader.array("messages", MESSAGES_MAX as u64)?;
    (0..count).map(|_| Message::read(reader)).collect()
}

fn read_prefix(reader: &mut StrictReader<'_>) -> Result<PrefixSecret, DecodeContentError> {
    let bytes = reader.bytes()?.try_into();
    bytes.map(PrefixSecret).map_err(|_| DecodeContentError::OutOfRange { what: "the length of a prefix's secret" })
}

fn read_stops(reader: &mut StrictReader<'_>) -> Result<Vec<SecretString>, DecodeContentError> {
    let count = reader.array("stop strings", STOPS_MAX as u64)?;
    if count == 0 {
        // No stop strings are written as no key.
        return Err(DecodeContentError::OutOfRange { what: "the number of stop strings" });
    }
    (0..count).map(|_| reader.text().map(SecretString::from)).collect()
}

/// A float that is a number and carries no sign, so that zero has one encoding.
fn read_unsigned_float(reader: &mut StrictReader<'_>, what: &'static str) -> Result<f32, DecodeContentError> {
    let value = reader.float()?;
    if value.is_finite() && value.is_sign_positive() { Ok(value) } else { Err(DecodeContentError::OutOfRange { what }) }
}
