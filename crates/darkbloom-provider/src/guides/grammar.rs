//! From a request to the grammar of its answer.
//!
//! Written in the dialect of Lark that `llguidance` reads. Schemas and tools' names are never part of that text as somebody
//! wrote them: schemas are grammars of their own, and names are letters, digits, `_` and `-`.

use darkbloom_content::{AnswerShape, ChatRequest, ToolChoice};
use darkbloom_text::{CallSyntax, Opening, ReasoningSyntax, TextModel};
use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;

use super::{GuideFault, calls, schema};

/// The grammar of the answer to a request; nothing where it is free.
pub(super) fn of_request(
    text: &TextModel,
    request: &ChatRequest,
    opening: Opening,
) -> Result<Option<TopLevelGrammar>, GuideFault> {
    let (shape, choice) = (&request.shape, &request.choice);
    let mut writer = Writer { text, schemas: Vec::new(), rules: String::new() };
    let said = match shape {
        AnswerShape::Free => None,
        AnswerShape::JsonObject => Some(schema::read(r#"{"type": "object"}"#)?),
        AnswerShape::Json(schema) => Some(schema::read(schema.expose())?),
    };
    let offered: Vec<_> = match choice {
        ToolChoice::Named(name) => request.tools.iter().filter(|tool| tool.name == *name).collect(),
        ToolChoice::Free | ToolChoice::Required { .. } => request.tools.iter().collect(),
    };
    let mut ways = Vec::new();
    match said {
        _ if choice.must_call() => {}
        Some(schema) => {
            let said = writer.schema(schema);
            ways.push(writer.said(&said)?);
        }
        None => return Ok(None),
    }
    if !offered.is_empty() {
        let several = matches!(choice, ToolChoice::Free | ToolChoice::Required { once: false });
        ways.push(calls::write(&mut writer, &offered, several)?);
    }
    let start = writer.start(opening)?;
    let mut rules = format!("start: {start}\nbody: {}\n", ways.join(" | "));
    rules.push_str(&writer.rules);
    let mut grammars = vec![GrammarWithLexer::from_lark(rules)];
    grammars.extend(writer.schemas);
    Ok(Some(TopLevelGrammar { grammars, max_tokens: None }))
}

/// Writes rules, and keeps the schemas that they refer to.
pub(super) struct Writer<'t> {
    text: &'t TextModel,
    schemas: Vec<GrammarWithLexer>,
    rules: String,
}

impl Writer<'_> {
    /// Adds a rule.
    pub(super) fn rule(&mut self, name: &str, body: &str) {
        self.rules.push_str(&format!("{name}: {body}\n"));
    }

    /// Adds a schema, and returns what refers to it.
    pub(super) fn schema(&mut self, schema: Value) -> String {
        let name = format!("schema{}", self.schemas.len());
        self.schemas.push(GrammarWithLexer { name: Some(name.clone()), json_schema: Some(schema), lark_grammar: None });
        format!("@{name}")
    }

    /// A mark of the model's format: its token, or its letters where it has none.
    pub(super) fn mark(&self, text: &str) -> String {
        self.token(text).unwrap_or_else(|| literal(text))
    }

    /// The token of a mark, if it has one.
    pub(super) fn token(&self, text: &str) -> Option<String> {
        self.text.special_token(text).map(|token| format!("<[{}]>", token.0))
    }

    /// The token of a mark without which there is no telling where things begin and end.
    pub(super) fn must(&self, text: &str) -> Result<String, GuideFault> {
        self.token(text).ok_or(GuideFault::Calls)
    }

    pub(super) fn syntax(&self) -> Option<CallSyntax> {
        self.text.answer_format().calls
    }

    /// An answer's text, where it is this.
    fn said(&self, body: &str) -> Result<String, GuideFault> {
        if self.syntax() != Some(CallSyntax::Harmony) {
            return Ok(body.to_owned());
        }
        let (channel, message) = (self.must("<|channel|>")?, self.must("<|message|>")?);
        let kind = self.token("<|constrain|>").map(|mark| format!("(\" \"? {mark} \"json\")?")).unwrap_or_default();
        Ok(format!("{channel} \"final\" {kind} {message} {body}"))
    }

    /// What stands before the body: the model's reasoning, where it has any.
    fn start(&mut self, opening: Opening) -> Result<String, GuideFault> {
        let (open, close) = match self.text.answer_format().reasoning {
            None => return Ok("body".to_owned()),
            Some(ReasoningSyntax::Harmony) => {
                let (channel, message) = (self.must("<|channel|>")?, self.must("<|message|>")?);
                let (end, start) = (self.must("<|end|>")?, self.must("<|start|>")?);
                self.rule("TEXT", "/(?s:.+)/");
                self.rule("thought", &format!("{channel} \"analysis\" {message} TEXT? {end} {start} \"assistant\""));
                return Ok("thought* body".to_owned());
            }
            Some(ReasoningSyntax::Think) => ("<think>", "</think>"),
            Some(ReasoningSyntax::Mistral) => ("[THINK]", "[/THINK]"),
        };
        self.rule("GAP", r"/[ \n]{1,8}/");
        // Letters are looked for in the text; a control token is none of it.
        if self.text.special_token(close).is_some_and(|token| self.text.control_tokens().any(|one| one == token)) {
            let close = self.mark(close);
            self.rule("TEXT", "/(?s:.+)/");
            self.rule("thought", &format!("TEXT? {close}"));
        } else {
            self.rule(&format!("thought[suffix={}]", literal(close)), "/(?s:.*)/");
        }
        let open = self.mark(open);
        Ok(match opening {
            Opening::Reasoning => "thought GAP? body".to_owned(),
            Opening::Free => format!("({open} thought GAP?)? body"),
        })
    }
}

/// A text as it stands in a rule.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string()
}
