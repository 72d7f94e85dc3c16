//! Schemas that answers can be held to, and why others are none.
//!
//! What a schema takes is bounded by the parser's budgets, but for two things that it does in one go: it intersects all that
//! is said about one value, and it looks for numbers with a remainder. Both are bounded here, by what a schema may have.

use serde_json::{Value, json};

/// Most values in a schema, names not counted; 64 KiB of text can have eight times as many.
const VALUES_MAX: usize = 4_096;
/// How deep a schema may be: half of what the parser's own recursion allows.
const DEPTH_MAX: usize = 64;
/// Most patterns in a schema that says several things about one value: intersecting sixteen takes half a second, and each
/// one more twice as long.
const INTERSECTED_PATTERNS_MAX: usize = 8;
/// Most members of one `patternProperties`: each is compared with each, at a third of a millisecond.
const PATTERN_PROPERTIES_MAX: usize = 16;
/// Largest `multipleOf`, its decimal point left out: every remainder is a state, and all of them are looked at at once.
const MULTIPLE_MAX: u64 = 10_000;
/// What may stand between two parts of JSON: one space, or nothing. A model that is never made to go on likes to write white
/// space for ever, and whoever pays for tokens does not.
const WHITE_SPACE: &str = r"\x20";

/// Why answers cannot be held to a schema. Names keywords, never what somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaFault {
    /// No JSON.
    #[error("the schema is no JSON object")]
    NotJson,
    /// A keyword that the parser does not know how to follow.
    #[error("answers cannot be held to `{0}` in a schema; leave it out, and say it in a message")]
    Keyword(&'static str),
    /// Over a limit.
    #[error("the schema has more than {1} {0}")]
    TooMany(&'static str, usize),
    /// Over [`DEPTH_MAX`].
    #[error("the schema is more than {DEPTH_MAX} levels deep")]
    TooDeep,
    /// Over [`MULTIPLE_MAX`].
    #[error("`multipleOf` in a schema has at most the digits of {MULTIPLE_MAX}")]
    Multiple,
    /// A reference to somewhere else.
    #[error("`$ref` in a schema must begin with `#`: other documents are not fetched")]
    Reference,
    /// Two options fit one value.
    #[error("the options of a `oneOf` in the schema cannot be told apart; write `anyOf`")]
    OneOf,
    /// An unknown format.
    #[error("the schema has a `format` that is not known")]
    Format,
    /// A regular expression.
    #[error("the schema has a `pattern` that is not supported, such as one that looks around or back")]
    Pattern,
    /// Nothing fits.
    #[error("nothing fits the schema: parts of it contradict each other, or refer to themselves alone")]
    Unsatisfiable,
    /// Over the parser's budget.
    #[error("the schema takes too much work to follow; make it simpler")]
    TooComplex,
    /// Arguments that are no object.
    #[error("the parameters of a tool must describe an object")]
    NoObject,
    /// Anything else.
    #[error("the schema is not a valid or supported one")]
    Invalid,
}

impl SchemaFault {
    /// What the parser means. What it says may quote the schema, so none of it is repeated.
    pub(super) fn of_grammar(said: &str) -> Self {
        let says = |words: &str| said.contains(words);
        match () {
            () if says("Unsatisfiable schema") || says("NoExtension") => Self::Unsatisfiable,
            () if says("oneOf constraints") => Self::OneOf,
            () if says("Unknown format") => Self::Format,
            () if says("regex parse error") => Self::Pattern,
            () if super::is_too_complex(said) => Self::TooComplex,
            () => Self::Invalid,
        }
    }
}

/// The keywords that restrict values and that the parser cannot follow.
const NOT_FOLLOWED: [&str; 16] = [
    "not",
    "if",
    "then",
    "else",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "propertyNames",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
];
/// Keywords whose value is compared, not followed.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose members are schemas by name.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that say more about the value that their neighbours are about.
const IN_PLACE: [&str; 6] = ["const", "enum", "allOf", "anyOf", "oneOf", "$ref"];
/// Keywords that say something about a value, beside those and `type`.
const ABOUT_VALUES: [&str; 19] = [
    "items",
    "additionalItems",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
];

/// Reads a schema, as the parser should follow it.
pub(super) fn read(text: &str) -> Result<Value, SchemaFault> {
    let mut schema: Value = serde_json::from_str(text).map_err(|_| SchemaFault::NotJson)?;
    let mut seen = Seen::default();
    seen.schema(&schema, 0)?;
    seen.check()?;
    let members = schema.as_object_mut().ok_or(SchemaFault::NotJson)?;
    // The parser's own settings, which are nobody else's to make.
    members.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Ok(schema)
}

/// Reads the schema of a tool's parameters: arguments are an object in every format of calls.
pub(super) fn read_parameters(text: &str) -> Result<Value, SchemaFault> {
    let mut schema = read(text)?;
    match schema.get("type") {
        None => schema["type"] = "object".into(),
        Some(kind) if kind == "object" => {}
        Some(_) => return Err(SchemaFault::NoObject),
    }
    Ok(schema)
}

/// What stands in a schema.
#[derive(Default)]
struct Seen {
    values: usize,
    patterns: usize,
    multiples: usize,
    /// Several things are said about one value.
    intersects: bool,
}

impl Seen {
    fn check(&self) -> Result<(), SchemaFault> {
        if self.intersects && self.patterns > INTERSECTED_PATTERNS_MAX {
            let what = "patterns and formats, where it says several things about one value";
            return Err(SchemaFault::TooMany(what, INTERSECTED_PATTERNS_MAX));
        }
        if self.intersects && self.multiples > 1 {
            return Err(SchemaFault::TooMany("`multipleOf`, where it says several things about one value", 1));
        }
        Ok(())
    }

    fn count(&mut self, depth: usize) -> Result<(), SchemaFault> {
        self.values += 1;
        match () {
            () if self.values > VALUES_MAX => Err(SchemaFault::TooMany("values", VALUES_MAX)),
            () if depth > DEPTH_MAX => Err(SchemaFault::TooDeep),
            () => Ok(()),
        }
    }

    /// A schema, or a list of them.
    fn schema(&mut self, value: &Value, depth: usize) -> Result<(), SchemaFault> {
        self.count(depth)?;
        if let Some(list) = value.as_array() {
            return list.iter().try_for_each(|value| self.schema(value, depth + 1));
        }
        let Some(members) = value.as_object() else { return Ok(()) };
        let has = |keyword: &&&str| members.contains_key(**keyword);
        if let Some(keyword) = NOT_FOLLOWED.iter().find(has) {
            return Err(SchemaFault::Keyword(keyword));
        }
        let in_place = IN_PLACE.iter().filter(has).count();
        let beside = ABOUT_VALUES.iter().filter(has).count() + usize::from(members.contains_key("multipleOf"));
        let all = members.get("allOf").and_then(Value::as_array).map_or(0, Vec::len);
        self.intersects |= in_place > 1 || all > 1 || in_place > 0 && beside > 0;
        for (keyword, value) in members {
            match keyword.as_str() {
                "pattern" | "format" => self.patterns += 1,
                "multipleOf" => self.multiple(value)?,
                "$ref" if !value.as_str().is_some_and(|to| to.starts_with('#')) => return Err(SchemaFault::Reference),
                _ => {}
            }
            if DATA.contains(&keyword.as_str()) {
                self.data(value, depth + 1)?;
            } else if let Some(named) = value.as_object().filter(|_| NAMED.contains(&keyword.as_str())) {
                if keyword == "patternProperties" {
                    self.patterns += named.len();
                    if named.len() > PATTERN_PROPERTIES_MAX {
                        return Err(SchemaFault::TooMany("members of one `patternProperties`", PATTERN_PROPERTIES_MAX));
                    }
                }
                named.values().try_for_each(|value| self.schema(value, depth + 1))?;
            } else {
                self.schema(value, depth + 1)?;
            }
        }
        Ok(())
    }

    fn multiple(&mut self, value: &Value) -> Result<(), SchemaFault> {
        self.multiples += 1;
        let digits = value.as_number().map(ToString::to_string).ok_or(SchemaFault::Invalid)?.replace('.', "");
        let small = digits.parse().is_ok_and(|digits: u64| (1..=MULTIPLE_MAX).contains(&digits));
        if small { Ok(()) } else { Err(SchemaFault::Multiple) }
    }

    /// What is compared and not followed.
    fn data(&mut self, value: &Value, depth: usize) -> Result<(), SchemaFault> {
        self.count(depth)?;
        match value {
            Value::Array(list) => list.iter().try_for_each(|value| self.data(value, depth + 1)),
            Value::Object(members) => members.values().try_for_each(|value| self.data(value, depth + 1)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }
}
