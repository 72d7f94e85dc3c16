//! OpenAI's interface of embeddings: from a body to texts, and from vectors to a body.

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use darkbloom_content::{EMBEDDING_INPUTS_MAX, EmbeddingInput, EmbeddingRequest, Embeddings};
use darkbloom_types::{Refusal, SecretBytes, SecretString, SecretTokens, SecretVector, TokenId};
use serde::{Serialize, Serializer};

use super::answer::write;
use super::fields::{EMBEDDINGS_FIELDS, check_among};
use super::request::{malformed, missing, optional, read_model, wrong_type, wrong_value};
use crate::error::ApiError;
use crate::json::{Json, Members};

/// How numbers stand in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VectorEncoding {
    /// As an array of numbers, each with as many digits as tell it from its neighbours in single precision.
    Float,
    /// As base64 (RFC 4648 section 4) of their four bytes each (IEEE 754), the least significant first.
    Base64,
}

/// What a consumer's program asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingsCall {
    /// The model's name, as the caller wrote it.
    pub model: String,
    /// What is to become vectors.
    pub request: EmbeddingRequest,
    /// How they are to be written.
    pub encoding: VectorEncoding,
    /// The fields that were sent and have no effect on the answer.
    pub hints: Vec<&'static str>,
}

/// Reads the body of an embeddings request. How long a body may be is the caller's to limit.
///
/// # Errors
/// [`ApiError`] with status 400 names the first field that cannot be served.
pub fn parse_embeddings(body: &[u8]) -> Result<EmbeddingsCall, ApiError> {
    let json: Json = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let members = json.object().ok_or_else(|| ApiError::malformed("invalid_type", "the body must be a JSON object"))?;
    let hints = check_among(EMBEDDINGS_FIELDS, "", "", members)?;
    let request = EmbeddingRequest { inputs: read_inputs(members)?, dimensions: read_dimensions(members)? };
    Ok(EmbeddingsCall { model: read_model(members)?, request, encoding: read_encoding(members)?, hints })
}

fn read_inputs(members: &Members) -> Result<Vec<EmbeddingInput>, ApiError> {
    let expected = || wrong_type("input", "a string, or an array of strings, of token numbers or of arrays of these");
    let elements = match members.get("input") {
        None => return Err(missing("input")),
        Some(Json::Text(text)) => return Ok(vec![EmbeddingInput::Text(read_text("input", text)?)]),
        Some(Json::Array(elements)) => elements,
        Some(Json::Null | Json::Bool(_) | Json::Integer(_) | Json::Float(_) | Json::Object(_)) => {
            return Err(expected());
        }
    };
    let place = |index: usize| format!("input[{index}]");
    match elements.first() {
        None => Err(wrong_value("input", &format!("a string or an array of 1 to {EMBEDDING_INPUTS_MAX} of them"))),
        Some(Json::Integer(_) | Json::Float(_)) => Ok(vec![EmbeddingInput::Tokens(read_tokens("input", elements)?)]),
        Some(Json::Null | Json::Bool(_) | Json::Object(_)) => Err(expected()),
        Some(_) if elements.len() > EMBEDDING_INPUTS_MAX => {
            Err(wrong_value("input", &format!("an array of at most {EMBEDDING_INPUTS_MAX} texts")))
        }
        Some(Json::Text(_)) => {
            let read = |(index, text): (usize, &Json)| match text {
                Json::Text(text) => Ok(EmbeddingInput::Text(read_text(&place(index), text)?)),
                Json::Null | Json::Bool(_) | Json::Integer(_) | Json::Float(_) | Json::Array(_) | Json::Object(_) => {
                    Err(wrong_type(&place(index), "a string, as the first is"))
                }
            };
            elements.iter().enumerate().map(read).collect()
        }
        Some(Json::Array(_)) => {
            let read = |(index, tokens): (usize, &Json)| {
                let tokens = tokens.array().ok_or_else(|| wrong_type(&place(index), "an array, as the first is"))?;
                Ok(EmbeddingInput::Tokens(read_tokens(&place(index), tokens)?))
            };
            elements.iter().enumerate().map(read).collect()
        }
    }
}

fn read_text(place: &str, text: &SecretString) -> Result<SecretString, ApiError> {
    if text.is_empty() { Err(wrong_value(place, "a string that is not empty")) } else { Ok(text.clone()) }
}

fn read_tokens(place: &str, tokens: &[Json]) -> Result<SecretTokens, ApiError> {
    if tokens.is_empty() {
        return Err(wrong_value(place, "an array of at least one token number"));
    }
    let mut read = SecretTokens::new(Vec::with_capacity(tokens.len()));
    for (index, token) in tokens.iter().enumerate() {
        // Tokens are content: errors name their places alone.
        let place = || format!("{place}[{index}]");
        let number = token.integer().ok_or_else(|| wrong_type(&place(), "a token number"))?;
        let number = u32::try_from(number).map_err(|_| wrong_value(&place(), "a token number of the model"))?;
        read.extend(&[TokenId(number)]);
    }
    Ok(read)
}

fn read_dimensions(members: &Members) -> Result<Option<u32>, ApiError> {
    let dimensions = optional(members, "dimensions", "dimensions", "an integer", Json::integer)?;
    let read = |dimensions| match u32::try_from(dimensions) {
        Ok(dimensions @ 1..) => Ok(dimensions),
        Ok(0) | Err(_) => Err(wrong_value("dimensions", "an integer from 1 to 4294967295")),
    };
    dimensions.map(read).transpose()
}

fn read_encoding(members: &Members) -> Result<VectorEncoding, ApiError> {
    match optional(members, "encoding_format", "encoding_format", "a string", Json::text)? {
        None | Some("float") => Ok(VectorEncoding::Float),
        Some("base64") => Ok(VectorEncoding::Base64),
        Some(_) => Err(wrong_value("encoding_format", "`float` or `base64`")),
    }
}

/// A refusal in the words of this interface: the texts are its `input`.
#[must_use]
pub fn embeddings_error(refusal: &Refusal) -> ApiError {
    let error = ApiError::from_refusal(refusal);
    let param = error.param.map(|param| if param == "messages" { "input".to_owned() } else { param });
    ApiError { param, ..error }
}

#[derive(Serialize)]
struct ListBody<'a> {
    object: &'static str,
    data: Vec<VectorBody<'a>>,
    model: &'a str,
    usage: UsageBody,
}

#[derive(Serialize)]
struct VectorBody<'a> {
    object: &'static str,
    index: usize,
    embedding: Numbers<'a>,
}

#[derive(Serialize)]
struct UsageBody {
    prompt_tokens: u32,
    total_tokens: u32,
}

struct Numbers<'a>(&'a SecretVector, VectorEncoding);

impl Serialize for Numbers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.0.expose();
        match self.1 {
            VectorEncoding::Float => numbers.serialize(serializer),
            VectorEncoding::Base64 => {
                let mut bytes = Vec::with_capacity(4 * numbers.len());
                numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
                let bytes = SecretBytes::new(bytes);
                serializer.collect_str(&Base64Display::new(bytes.expose(), &STANDARD))
            }
        }
    }
}

/// The body of the answer.
#[must_use]
pub fn embeddings(model: &str, made: &Embeddings, encoding: VectorEncoding) -> SecretBytes {
    let vectors = made.vectors.iter().enumerate();
    let data =
        vectors.map(|(index, vector)| VectorBody { object: "embedding", index, embedding: Numbers(vector, encoding) });
    let tokens = made.input_tokens.0;
    let usage = UsageBody { prompt_tokens: tokens, total_tokens: tokens };
    write(b"", &ListBody { object: "list", data: data.collect(), model, usage }, b"")
}
