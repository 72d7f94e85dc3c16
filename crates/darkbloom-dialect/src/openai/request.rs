//! From a body to a request.

use std::collections::{BTreeMap, BTreeSet};

use darkbloom_content::{
    ChatRequest, LOGIT_BIAS_VALUE_MAX, LOGIT_BIASES_MAX, MESSAGES_MAX, Message, PENALTY_MAX, REPETITION_PENALTY_MAX,
    Role, STOP_BYTES_MAX, STOPS_MAX, TEMPERATURE_MAX, Tweaks,
};
use darkbloom_types::{SecretString, TokenId};

use super::fields::{check_object, join};
use crate::error::ApiError;
use crate::json::{Json, Members};

mod shape;
mod tools;

/// Longest name of a model in bytes; the longest of today have about 100.
pub const MODEL_NAME_BYTES_MAX: usize = 256;

/// What a consumer's program asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatCall {
    /// The model's name, as the caller wrote it.
    pub model: String,
    /// The request that is to be sealed.
    pub request: ChatRequest,
    /// Whether the answer is to come in pieces.
    pub stream: bool,
    /// Whether a stream is to end with its usage.
    pub include_usage: bool,
    /// The limit that the caller set on the answer.
    pub max_output_tokens: Option<u32>,
    /// The fields that were sent and have no effect on the answer.
    pub hints: Vec<&'static str>,
}

/// Reads the body of a chat-completions request. How long a body may be is the caller's to limit.
///
/// # Errors
/// [`ApiError`] with status 400 names the first field that cannot be served.
pub fn parse_chat(body: &[u8]) -> Result<ChatCall, ApiError> {
    let json: Json = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let members = json.object().ok_or_else(|| ApiError::malformed("invalid_type", "the body must be a JSON object"))?;
    let mut hints = check_object("", "", members)?;
    let fields = Fields(members);
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let include_usage = match fields.present("stream_options") {
        None => false,
        Some(_) if !stream => {
            let message = "`stream_options` may be sent only when `stream` is true";
            return Err(ApiError::invalid("invalid_value", "stream_options", message));
        }
        Some(options) => {
            let options = options.object().ok_or_else(|| wrong_type("stream_options", "an object"))?;
            hints.extend(check_object("stream_options", "stream_options", options)?);
            optional(options, "include_usage", "stream_options.include_usage", "a boolean", Json::boolean)?
                .unwrap_or(false)
        }
    };
    let (tools, choice) = tools::read(members, body)?;
    let request = ChatRequest {
        messages: read_messages(members)?,
        temperature: fields.fraction("temperature", TEMPERATURE_MAX)?.unwrap_or(1.0),
        top_p: fields.fraction("top_p", 1.0)?.unwrap_or(1.0),
        seed: fields.seed()?,
        stop: fields.stop()?,
        tools,
        choice,
        shape: shape::read(members, body, &mut hints)?,
        tweaks: fields.tweaks()?,
        prefix: None,
    };
    Ok(ChatCall {
        model: read_model(members)?,
        request,
        stream,
        include_usage,
        max_output_tokens: fields.limit()?,
        hints,
    })
}

/// The parser says what is wrong and where, and quotes nothing.
pub(super) fn malformed(error: &serde_json::Error) -> ApiError {
    if error.is_eof() {
        ApiError::malformed("invalid_json", "the body is not valid JSON: it ends too early")
    } else {
        ApiError::malformed("invalid_json", format!("the body is not valid JSON: {error}"))
    }
}

pub(super) fn missing(path: &str) -> ApiError {
    ApiError::invalid("missing_required_parameter", path, format!("`{path}` is missing"))
}

pub(super) fn wrong_type(path: &str, expected: &str) -> ApiError {
    ApiError::invalid("invalid_type", path, format!("`{path}` must be {expected}"))
}

pub(super) fn wrong_value(path: &str, expected: &str) -> ApiError {
    ApiError::invalid("invalid_value", path, format!("`{path}` must be {expected}"))
}

pub(super) fn read_model(members: &Members) -> Result<String, ApiError> {
    let model = members.get("model").ok_or_else(|| missing("model"))?;
    let model = model.text().ok_or_else(|| wrong_type("model", "a string"))?;
    if (1..=MODEL_NAME_BYTES_MAX).contains(&model.len()) {
        Ok(model.to_owned())
    } else {
        Err(wrong_value("model", &format!("1 to {MODEL_NAME_BYTES_MAX} bytes long")))
    }
}

fn read_messages(members: &Members) -> Result<Vec<Message>, ApiError> {
    let messages = members.get("messages").ok_or_else(|| missing("messages"))?;
    let messages = messages.array().ok_or_else(|| wrong_type("messages", "an array of messages"))?;
    if !(1..=MESSAGES_MAX).contains(&messages.len()) {
        return Err(wrong_value("messages", &format!("an array of 1 to {MESSAGES_MAX} messages")));
    }
    let mut read: Vec<Message> = Vec::with_capacity(messages.len());
    let mut called = BTreeSet::new();
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages[{index}]");
        let message = read_message(&place, message)?;
        if message.call_id.as_ref().is_some_and(|id| !called.contains(id.expose())) {
            let path = join(&place, "tool_call_id");
            return Err(wrong_value(&path, "the `id` of a call in `tool_calls` of a message before it"));
        }
        called.extend(message.calls.iter().map(|call| call.id.expose().to_owned()));
        read.push(message);
    }
    Ok(read)
}

fn read_message(place: &str, message: &Json) -> Result<Message, ApiError> {
    let members = message.object().ok_or_else(|| wrong_type(place, "an object"))?;
    check_object("messages[]", place, members)?;
    let role = read_role(place, members)?;
    let calls = tools::read_calls(place, members)?;
    let reasoning_path = join(place, "reasoning_content");
    let reasoning = optional(members, "reasoning_content", &reasoning_path, "a string", Json::text)?;
    if role != Role::Assistant {
        if !calls.is_empty() {
            return Err(misplaced(&join(place, "tool_calls"), "assistant"));
        }
        if reasoning.is_some() {
            return Err(misplaced(&reasoning_path, "assistant"));
        }
    }
    let path = join(place, "content");
    let content = match members.get("content") {
        Some(Json::Text(text)) => text.clone(),
        Some(Json::Array(parts)) => read_parts(&path, parts)?,
        Some(Json::Null) | None if !calls.is_empty() => SecretString::default(),
        None => return Err(missing(&path)),
        Some(Json::Null | Json::Bool(_) | Json::Integer(_) | Json::Float(_) | Json::Object(_)) => {
            return Err(wrong_type(&path, "a string or an array of text parts"));
        }
    };
    let call_id = tools::read_call_id(place, members, role)?;
    Ok(Message { role, content, reasoning: reasoning.unwrap_or_default().into(), calls, call_id })
}

fn read_role(place: &str, members: &Members) -> Result<Role, ApiError> {
    let path = join(place, "role");
    let role = members.get("role").ok_or_else(|| missing(&path))?;
    match role.text() {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some("function") => {
            let message = format!("`{path}` cannot be `function`; write `tool`, with a `tool_call_id`");
            Err(ApiError::invalid("unsupported_value", path, message))
        }
        Some(_) => Err(wrong_value(&path, "`system`, `developer`, `user`, `assistant` or `tool`")),
        None => Err(wrong_type(&path, "a string")),
    }
}

/// A field that only messages of another role have.
fn misplaced(path: &str, role: &str) -> ApiError {
    ApiError::invalid("invalid_value", path, format!("`{path}` may stand only in a message of role `{role}`"))
}

fn read_parts(place: &str, parts: &[Json]) -> Result<SecretString, ApiError> {
    if parts.is_empty() {
        return Err(wrong_value(place, "a string or an array of at least one text part"));
    }
    let mut content = SecretString::default();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}[{index}]");
        let members = part.object().ok_or_else(|| wrong_type(&place, "an object"))?;
        let path = join(&place, "type");
        let kind = members.get("type").ok_or_else(|| missing(&path))?;
        match kind.text() {
            Some("text") => {}
            // Before the part's own fields, so that an image is refused as an image.
            Some(kind @ ("image_url" | "input_audio" | "file" | "refusal")) => {
                let message = format!("parts of type `{kind}` are not supported; `{path}` must be `text`");
                return Err(ApiError::invalid("unsupported_value", path, message));
            }
            Some(_) => return Err(wrong_value(&path, "`text`")),
            None => return Err(wrong_type(&path, "a string")),
        }
        check_object("messages[].content[]", &place, members)?;
        let path = join(&place, "text");
        let text = members.get("text").ok_or_else(|| missing(&path))?;
        let text = text.text().ok_or_else(|| wrong_type(&path, "a string"))?;
        if index > 0 {
            content.push_str("\n");
        }
        content.push_str(text);
    }
    Ok(content)
}

/// A field that may be left out or be `null`.
pub(super) fn optional<'j, T>(
    members: &'j Members,
    name: &str,
    path: &str,
    expected: &str,
    read: impl Fn(&'j Json) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    match members.get(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| wrong_type(path, expected)),
    }
}

/// The fields of the request itself.
struct Fields<'j>(&'j Members);

impl<'j> Fields<'j> {
    fn present(&self, name: &str) -> Option<&'j Json> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        optional(self.0, name, name, "a boolean", Json::boolean)
    }

    /// A number from 0 to `most`.
    fn fraction(&self, name: &str, most: f32) -> Result<Option<f32>, ApiError> {
        self.between(name, 0.0, most)
    }

    /// A number from `least` to `most`.
    fn between(&self, name: &str, least: f32, most: f32) -> Result<Option<f32>, ApiError> {
        let Some(number) = optional(self.0, name, name, "a number", Json::number)? else { return Ok(None) };
        if !(f64::from(least)..=f64::from(most)).contains(&number) {
            return Err(wrong_value(name, &format!("between {least} and {most}")));
        }
        #[expect(clippy::cast_possible_truncation, reason = "single precision is what the engine computes with")]
        let number = number as f32;
        // There is one zero.
        Ok(Some(number + 0.0))
    }

    fn tweaks(&self) -> Result<Tweaks, ApiError> {
        let neutral = Tweaks::default();
        let penalty = |name: &str| self.between(name, -PENALTY_MAX, PENALTY_MAX);
        let repetition_penalty = self.between("repetition_penalty", 0.0, REPETITION_PENALTY_MAX)?;
        if repetition_penalty.is_some_and(|penalty| penalty < f32::MIN_POSITIVE) {
            return Err(wrong_value("repetition_penalty", "above 0"));
        }
        Ok(Tweaks {
            frequency_penalty: penalty("frequency_penalty")?.unwrap_or(neutral.frequency_penalty),
            presence_penalty: penalty("presence_penalty")?.unwrap_or(neutral.presence_penalty),
            repetition_penalty: repetition_penalty.unwrap_or(neutral.repetition_penalty),
            top_k: self.top_k()?.unwrap_or(neutral.top_k),
            min_p: self.fraction("min_p", 1.0)?.unwrap_or(neutral.min_p),
            logit_bias: self.logit_bias()?,
        })
    }

    fn top_k(&self) -> Result<Option<u32>, ApiError> {
        let Some(top_k) = optional(self.0, "top_k", "top_k", "an integer", Json::integer)? else { return Ok(None) };
        u32::try_from(top_k).map(Some).map_err(|_| wrong_value("top_k", "an integer from 0 to 4294967295"))
    }

    fn logit_bias(&self) -> Result<Vec<(TokenId, f32)>, ApiError> {
        let Some(value) = self.present("logit_bias") else { return Ok(Vec::new()) };
        let biases = value.object().ok_or_else(|| wrong_type("logit_bias", "an object"))?;
        let mut read = BTreeMap::new();
        for (name, bias) in biases.iter() {
            // Tokens are content: errors name none of them.
            let expected = "an object from token numbers to biases between -100 and 100";
            let token = name.parse().map_err(|_| wrong_value("logit_bias", expected))?;
            // One token has one name: of two biases for it the last would win unseen.
            if u32::to_string(&token) != *name {
                return Err(wrong_value("logit_bias", expected));
            }
            let bias = bias.number().ok_or_else(|| wrong_type("logit_bias", expected))?;
            if !(-f64::from(LOGIT_BIAS_VALUE_MAX)..=f64::from(LOGIT_BIAS_VALUE_MAX)).contains(&bias) {
                return Err(wrong_value("logit_bias", expected));
            }
            #[expect(clippy::cast_possible_truncation, reason = "single precision is what the engine computes with")]
            read.insert(TokenId(token), bias as f32 + 0.0);
        }
        if read.len() > LOGIT_BIASES_MAX {
            return Err(wrong_value("logit_bias", &format!("at most {LOGIT_BIASES_MAX} tokens")));
        }
        Ok(read.into_iter().collect())
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        let Some(seed) = optional(self.0, "seed", "seed", "an integer", Json::integer)? else { return Ok(None) };
        let seed = i64::try_from(seed).map_err(|_| wrong_value("seed", "an integer of 64 bits"))?;
        Ok(Some(seed.cast_unsigned()))
    }

    fn stop(&self) -> Result<Vec<SecretString>, ApiError> {
        let expected = "a string or an array of strings";
        let stops: Vec<(String, &Json)> = match self.present("stop") {
            None => Vec::new(),
            Some(Json::Array(stops)) => {
                stops.iter().enumerate().map(|(index, stop)| (format!("stop[{index}]"), stop)).collect()
            }
            Some(stop) if stop.text().is_some() => vec![("stop".to_owned(), stop)],
            Some(_) => return Err(wrong_type("stop", expected)),
        };
        if stops.len() > STOPS_MAX {
            return Err(wrong_value("stop", &format!("at most {STOPS_MAX} strings")));
        }
        let read = |(path, stop): (String, &Json)| {
            let stop = stop.text().ok_or_else(|| wrong_type(&path, "a string"))?;
            if (1..=STOP_BYTES_MAX).contains(&stop.len()) {
                Ok(SecretString::from(stop))
            } else {
                Err(wrong_value(&path, &format!("1 to {STOP_BYTES_MAX} bytes long")))
            }
        };
        stops.into_iter().map(read).collect()
    }

    fn limit(&self) -> Result<Option<u32>, ApiError> {
        let read = |name: &str| {
            let Some(limit) = optional(self.0, name, name, "an integer", Json::integer)? else { return Ok(None) };
            match u32::try_from(limit) {
                Ok(limit @ 1..) => Ok(Some(limit)),
                Ok(0) | Err(_) => Err(wrong_value(name, "an integer from 1 to 4294967295")),
            }
        };
        match (read("max_completion_tokens")?, read("max_tokens")?) {
            (Some(limit), Some(older)) if limit != older => {
                let message = "`max_tokens` and `max_completion_tokens` differ; send only `max_completion_tokens`";
                Err(ApiError::invalid("invalid_value", "max_tokens", message))
            }
            (limit, older) => Ok(limit.or(older)),
        }
    }
}
