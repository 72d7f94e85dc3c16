//! What becomes of each field: the one table that the parser works by and the documentation is made from.

use std::fmt::Write as _;

use crate::error::ApiError;
use crate::json::{Json, Members};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldState {
    /// It does what OpenAI's documentation says.
    Honoured,
    /// It may be sent with the value that it has anyway; another value is refused.
    AcceptedAtDefault,
    /// It may be sent, has no effect on the answer, and is listed in a response header.
    Hint,
    /// It is refused with 400, unless it is `null`.
    Refused,
}

impl FieldState {
    /// The name in the support matrix.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::AcceptedAtDefault => "accepted at its default",
            Self::Hint => "hint without effect",
            Self::Refused => "refused",
        }
    }
}

/// One field of the interface.
pub struct Field {
    path: &'static str,
    rule: Rule,
    note: &'static str,
}

/// How the parser treats a field.
enum Rule {
    /// Read by `request.rs`.
    Honoured,
    /// Must satisfy this.
    Default(fn(&Json) -> bool),
    /// Must satisfy this and is then listed.
    Hint(fn(&Json) -> bool),
    Refused,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Field").field("path", &self.path).field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Field {
    /// Where it stands, as in `messages[].role`.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// What becomes of it.
    #[must_use]
    pub fn state(&self) -> FieldState {
        match self.rule {
            Rule::Honoured => FieldState::Honoured,
            Rule::Default(_) => FieldState::AcceptedAtDefault,
            Rule::Hint(_) => FieldState::Hint,
            Rule::Refused => FieldState::Refused,
        }
    }

    /// Which values are taken, or what to do instead.
    #[must_use]
    pub fn note(&self) -> &'static str {
        self.note
    }

    /// The object it stands in and its own name.
    fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

const fn honoured(path: &'static str, note: &'static str) -> Field {
    Field { path, rule: Rule::Honoured, note }
}

const fn default(path: &'static str, is_default: fn(&Json) -> bool, note: &'static str) -> Field {
    Field { path, rule: Rule::Default(is_default), note }
}

const fn hint(path: &'static str, fits: fn(&Json) -> bool, note: &'static str) -> Field {
    Field { path, rule: Rule::Hint(fits), note }
}

const fn refused(path: &'static str, note: &'static str) -> Field {
    Field { path, rule: Rule::Refused, note }
}

/// Every field of a chat-completions request. `null` counts as absent everywhere but in `model`, `messages`,
/// `messages[].role`, `messages[].content`, the parts of a content, and what tools and their calls must have.
pub static FIELDS: &[Field] = &[
    honoured("model", "a model of the network; `GET /v1/models` lists them"),
    honoured("messages", "1 to 1,024 messages"),
    honoured("messages[].role", "`system`, `developer` (as `system`), `user`, `assistant` or `tool`"),
    honoured(
        "messages[].content",
        "a text, or an array of text parts, which are joined by line ends; `null` where there are `tool_calls`",
    ),
    honoured("messages[].content[].type", "`text`; images, sound and files are refused"),
    honoured("messages[].content[].text", "a text"),
    refused("messages[].name", "write the name into `content`"),
    default("messages[].refusal", never, "`null` only"),
    default("messages[].audio", never, "`null` only"),
    default("messages[].annotations", is_empty_array, "an empty array"),
    honoured(
        "messages[].reasoning_content",
        "in the model's own messages, as it came with the answer; not a field of OpenAI's",
    ),
    honoured("messages[].tool_calls", "in the model's own messages: up to 128 calls"),
    honoured("messages[].tool_calls[].id", "1 to 64 bytes long"),
    honoured("messages[].tool_calls[].type", "`function`"),
    honoured("messages[].tool_calls[].function", "an object"),
    honoured("messages[].tool_calls[].function.name", "1 to 64 letters, digits, `_` and `-`"),
    honoured("messages[].tool_calls[].function.arguments", "a text of up to 256 KiB"),
    default("messages[].tool_calls[].index", is_integer, "an integer, as it came; the order says the same"),
    default("messages[].function_call", never, "`null` only; write `tool_calls`"),
    honoured("messages[].tool_call_id", "in messages of role `tool`: the `id` of a call before it"),
    honoured("max_completion_tokens", "1 to 4,294,967,295"),
    honoured("max_tokens", "the older name of `max_completion_tokens`; if both are given they must be equal"),
    honoured("temperature", "0 to 2"),
    honoured("top_p", "0 to 1"),
    honoured("seed", "an integer of 64 bits"),
    honoured("stop", "one text or up to four, each 1 to 256 bytes long"),
    honoured("stream", "a boolean"),
    honoured("stream_options", "with `stream` only"),
    honoured("stream_options.include_usage", "a boolean"),
    hint("stream_options.include_obfuscation", is_boolean, "a boolean; lengths are hidden by padding in any case"),
    default("n", is_one, "1"),
    honoured("frequency_penalty", "-2 to 2"),
    honoured("presence_penalty", "-2 to 2"),
    honoured("logit_bias", "an object of up to 1,024 token numbers with a bias of -100 to 100 each"),
    honoured("repetition_penalty", "above 0, up to 10; not a field of OpenAI's"),
    honoured("top_k", "0, which is all, or more; not a field of OpenAI's"),
    honoured("min_p", "0 to 1; not a field of OpenAI's"),
    default("logprobs", is_false, "`false`"),
    default("top_logprobs", is_zero, "0"),
    honoured("response_format", "an object; answers are held to it while they are made"),
    honoured("response_format.type", "`text`, `json_object` or `json_schema`"),
    honoured("response_format.json_schema", "an object, where the type is `json_schema`"),
    hint("response_format.json_schema.name", is_text, "a text; the model is not shown it"),
    hint("response_format.json_schema.description", is_text, "a text; the model is not shown it"),
    honoured(
        "response_format.json_schema.schema",
        "a JSON schema of up to 64 KiB, whose members come in its order; the model is not shown it, so ask for it in a message too; \
         what it may say is in `docs/http.md`",
    ),
    default(
        "response_format.json_schema.strict",
        is_boolean,
        "a boolean: answers fit the schema in any case, and a schema that they cannot be held to is refused",
    ),
    default("modalities", is_text_only, "`[\"text\"]`"),
    default("audio", never, "`null` only"),
    default("prediction", never, "`null` only"),
    honoured("tools", "up to 128 tools, where the model's chat template takes tools"),
    honoured("tools[].type", "`function`"),
    honoured("tools[].function", "an object"),
    honoured("tools[].function.name", "1 to 64 letters, digits, `_` and `-`, no two alike"),
    honoured("tools[].function.description", "a text of up to 16 KiB"),
    honoured("tools[].function.parameters", "a JSON schema of up to 64 KiB, which the model is shown"),
    default(
        "tools[].function.strict",
        is_false,
        "`false`; where `tool_choice` makes the model call, its arguments fit the schema in any case",
    ),
    honoured(
        "tool_choice",
        "`auto`; `none`, which shows the model no tools; `required`, or an object that names one of the `tools`, with which \
         the answer is a call, and nothing but what the model thinks before it",
    ),
    honoured("tool_choice.type", "`function`"),
    honoured("tool_choice.function", "an object"),
    honoured("tool_choice.function.name", "the name of one of the `tools`"),
    default(
        "parallel_tool_calls",
        is_boolean,
        "`true`; `false`, which is one call, where `tool_choice` makes the model call; elsewhere `false` is refused where there \
         are tools: nothing limits how often a model calls, so take the first call",
    ),
    default("functions", is_empty_array, "an empty array; write `tools`"),
    default("function_call", is_free_choice, "`none` or `auto`, which mean the same without functions"),
    default("service_tier", is_usual_tier, "`auto` or `default`"),
    default("store", is_false, "`false`: the network keeps no answers"),
    default("verbosity", is_medium, "`medium`"),
    refused("reasoning_effort", "models of this network have no such setting"),
    refused("web_search_options", "the network searches nothing"),
    hint("user", is_text, "a text; it does not leave the client"),
    hint("safety_identifier", is_text, "a text; it does not leave the client"),
    hint("metadata", is_object, "an object; it does not leave the client"),
    hint("prompt_cache_key", is_text, "a text; prefixes are shared within an API key in any case"),
    hint("prompt_cache_retention", is_text, "a text"),
];

/// Every field of an embeddings request. `null` counts as absent everywhere but in `model` and `input`.
pub static EMBEDDINGS_FIELDS: &[Field] = &[
    honoured("model", "a model that makes vectors; `GET /v1/models` lists all models"),
    honoured(
        "input",
        "a text, 1 to 2,048 texts, the tokens of a text, or those of 1 to 2,048 texts; none may be empty. They have at most \
         300,000 tokens together, and each as many as the model takes: none is cut",
    ),
    honoured("encoding_format", "`float`, or `base64` of single-precision floats, the least significant byte first"),
    honoured("dimensions", "as many numbers as the model's vectors have"),
    hint("user", is_text, "a text; nobody looks at it"),
];

fn never(_: &Json) -> bool {
    false
}

fn is_text(value: &Json) -> bool {
    value.text().is_some()
}

fn is_object(value: &Json) -> bool {
    value.object().is_some()
}

fn is_boolean(value: &Json) -> bool {
    value.boolean().is_some()
}

fn is_false(value: &Json) -> bool {
    value.boolean() == Some(false)
}

fn is_zero(value: &Json) -> bool {
    value.number() == Some(0.0)
}

fn is_one(value: &Json) -> bool {
    value.integer() == Some(1)
}

fn is_empty_array(value: &Json) -> bool {
    value.array().is_some_and(<[Json]>::is_empty)
}

fn is_integer(value: &Json) -> bool {
    value.integer().is_some()
}

fn is_free_choice(value: &Json) -> bool {
    matches!(value.text(), Some("none" | "auto"))
}

fn is_usual_tier(value: &Json) -> bool {
    matches!(value.text(), Some("auto" | "default"))
}

fn is_medium(value: &Json) -> bool {
    value.text() == Some("medium")
}

fn is_text_only(value: &Json) -> bool {
    matches!(value.array(), Some([only]) if only.text() == Some("text"))
}

/// Goes through the fields of one object. `scope` is its place in [`FIELDS`], `place` its place in the request.
/// Returns the hints among them.
pub(super) fn check_object(scope: &str, place: &str, members: &Members) -> Result<Vec<&'static str>, ApiError> {
    check_among(FIELDS, scope, place, members)
}

/// Goes through the fields of one object as [`check_object`] does, with another table.
pub(super) fn check_among(
    fields: &'static [Field],
    scope: &str,
    place: &str,
    members: &Members,
) -> Result<Vec<&'static str>, ApiError> {
    let mut hints = Vec::new();
    for (name, value) in members.iter() {
        let path = join(place, name);
        let Some(field) = fields.iter().find(|field| field.split() == (scope, name.as_str())) else {
            return Err(unknown(fields, scope, place, name));
        };
        let is_default = match field.rule {
            Rule::Honoured => true,
            Rule::Default(is_default) | Rule::Hint(is_default) => value.is_null() || is_default(value),
            Rule::Refused => value.is_null(),
        };
        if !is_default {
            return Err(not_taken(field, &path));
        }
        if matches!(field.rule, Rule::Hint(_)) && !value.is_null() {
            hints.push(field.path);
        }
    }
    Ok(hints)
}

/// A field's place in the request.
pub(super) fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

fn not_taken(field: &Field, path: &str) -> ApiError {
    let note = field.note;
    match field.rule {
        Rule::Refused => ApiError::invalid("unsupported_parameter", path, format!("`{path}` is not supported; {note}")),
        Rule::Hint(_) => ApiError::invalid("invalid_type", path, format!("`{path}` must be {note}")),
        Rule::Honoured | Rule::Default(_) => {
            let message = format!("this value of `{path}` is not supported; it may be left out or be {note}");
            ApiError::invalid("unsupported_value", path, message)
        }
    }
}

/// Longest name of an unknown field that is repeated in an error: twice the longest there is.
const SHOWN_NAME_MAX: usize = 64;

fn unknown(fields: &[Field], scope: &str, place: &str, name: &str) -> ApiError {
    let shown: String = name.chars().take(SHOWN_NAME_MAX).collect();
    let path = join(place, &shown);
    let mut message = format!("`{path}` is not a field of this interface");
    if let Some(near) = nearest(fields, scope, name) {
        let _ = write!(message, "; did you mean `{near}`?");
    }
    ApiError::invalid("unknown_parameter", path, message)
}

/// The field of the same object whose name is nearest, if one is near.
fn nearest(fields: &[Field], scope: &str, name: &str) -> Option<&'static str> {
    if name.len() > SHOWN_NAME_MAX {
        return None;
    }
    let names = fields.iter().map(Field::split).filter(|(parent, _)| *parent == scope).map(|(_, name)| name);
    let near = names.map(|known| (distance(name, known), known)).min()?;
    // A third of the letters may be wrong, but never all of a short name.
    (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
}

/// Levenshtein's distance: how many letters must be added, removed or changed.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.to_lowercase().chars().enumerate() {
        let mut diagonal = above;
        row[0] = above + 1;
        for (at, known) in other.iter().enumerate() {
            let change = diagonal + usize::from(letter != *known);
            diagonal = row[at + 1];
            row[at + 1] = change.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

/// What becomes of each of these fields, as a Markdown page's table.
#[must_use]
pub fn support_matrix(fields: &[Field]) -> String {
    let mut table = String::from("| Field | State | Values and remarks |\n|---|---|---|\n");
    for field in fields {
        let note = field.note.replace('|', "\\|");
        let _ = writeln!(table, "| `{}` | {} | {note} |", field.path, field.state().name());
    }
    table
}
