//! Chat templates: from a conversation to segments of a prompt.
//!
//! What somebody wrote must never become a control token, and templates must still be able to look at it. So the two
//! are told apart before they meet: in the template's own source every control token is wrapped in two noncharacters,
//! and in messages those noncharacters are escaped. Whatever a template then does to a message (cut, join, replace),
//! only the template's own text can yield a wrapped token. A template that builds control tokens out of halves would
//! lose them, so [`ChatTemplate::new`] tries a conversation both ways and refuses a template that gives two prompts. Names,
//! descriptions, schemas and arguments of tools are escaped as messages are; whether a template takes tools at all is found
//! out by trying a conversation with one.
//!
//! What we hold of a conversation is wiped. The copies that the template engine makes while it works are freed without
//! being wiped: its values are shared strings, which nobody can overwrite.

use std::io;

use darkbloom_content::{ChatRequest, Message, Tool, ToolCall};
use darkbloom_types::{SecretString, TokenId};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, context};

use self::conversation::{Arguments, CallStyle, Turns};
use self::json::Guard;

mod conversation;
mod json;
mod methods;

/// Work that one rendering may do, in minijinja's units (about one instruction or 64 bytes). A template of today needs
/// about 100 a message and copies the text a few times; 1,024 messages with 8 MiB of text stay below half of this.
const FUEL: u64 = 2_000_000;
/// Longest prompt in bytes: a context of one million tokens at eight bytes a token.
pub(crate) const PROMPT_BYTES_MAX: usize = 8 << 20;
/// The only template of an environment.
const NAME: &str = "chat";

/// Stands before a control token that the template wrote. All five are noncharacters (Unicode section 23.7), which no
/// text has a use for.
const OPEN: char = '\u{fdd0}';
/// Stands after a control token that the template wrote.
const CLOSE: char = '\u{fdd1}';
/// Stands before a letter that says which of the first three was in a message.
const ESCAPE: char = '\u{fdd2}';
const ESCAPED: [(char, char); 3] = [(OPEN, '\u{fdd3}'), (CLOSE, '\u{fdd4}'), (ESCAPE, '\u{fdd5}')];

/// Why a conversation does not become a prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderPromptError {
    /// The template itself says no, as when roles must alternate. The sentence stands in the template.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// The conversation is too much work.
    #[error("the conversation takes more work to format than the limit allows")]
    TooMuchWork,
    /// Over the limit on prompts.
    #[error("the formatted conversation is longer than {PROMPT_BYTES_MAX} bytes")]
    TooLong,
    /// The conversation is about tools, and the model's template is not, or writes calls in a way that is not known here.
    #[error("the model takes no tools; leave out tools and their calls, or ask a model that takes them")]
    NoTools,
    /// The schema of a tool's parameters is no JSON object.
    #[error("the parameters of a tool are no JSON object")]
    Parameters,
    /// The template fails.
    #[error("the model's chat template fails: {0}")]
    Template(String),
}

/// Part of a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Text in which no control token is to be recognised.
    Plain(SecretString),
    /// A control token that the template wrote.
    Control(u32),
}

/// The control tokens of a vocabulary.
pub(crate) struct ControlTokens {
    /// Longest text first, so that the first that fits is the longest.
    by_length: Vec<(String, u32)>,
}

impl ControlTokens {
    pub(crate) fn new(tokens: impl Iterator<Item = (String, u32)>) -> Self {
        let mut by_length: Vec<_> = tokens.collect();
        by_length.sort_by(|one, other| other.0.len().cmp(&one.0.len()).then_with(|| one.cmp(other)));
        Self { by_length }
    }

    fn at_start(&self, text: &str) -> Option<&(String, u32)> {
        self.by_length.iter().find(|(token, _)| text.starts_with(token.as_str()))
    }

    fn number(&self, text: &str) -> Option<u32> {
        self.by_length.iter().find(|(token, _)| token == text).map(|(_, number)| *number)
    }

    /// Wraps every control token in a template's source.
    fn mark(&self, source: &str) -> String {
        let mut marked = String::with_capacity(source.len() + source.len() / 8);
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let length = match self.at_start(rest) {
                Some((token, _)) => {
                    marked.extend([OPEN]);
                    marked.push_str(token);
                    marked.extend([CLOSE]);
                    token.len()
                }
                None => {
                    marked.push(next);
                    next.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        marked
    }
}

/// A template that was compiled and tried.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    controls: ControlTokens,
    begin: String,
    end: String,
    /// What it expects of calls; absent where it takes no tools.
    tools: Option<CallStyle>,
}

impl ChatTemplate {
    /// Compiles a template. `begin` and `end` are what it may write as `bos_token` and `eos_token`; `calls` says whether the
    /// calls of its model can be read, without which it takes no tools.
    pub(crate) fn new(
        source: &str,
        controls: ControlTokens,
        begin: Option<&str>,
        end: Option<&str>,
        calls: bool,
    ) -> Result<Self, RenderPromptError> {
        let marked = controls.mark(source);
        let wrap = |token: Option<&str>| controls.mark(token.unwrap_or_default());
        let (begin, end) = (wrap(begin), wrap(end));
        let environment = environment(marked)?;
        let mut template = Self { environment, controls, begin, end, tools: None };
        let plain = self::environment(source.to_owned())?;
        template.try_out(&plain)?;
        if calls {
            template.tools = template.call_style(&plain);
        }
        Ok(template)
    }

    /// Whether it takes tools.
    pub(crate) fn takes_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// Whether it shows the model one call and no more, in whichever way they are told.
    pub(crate) fn takes_one_call(&self) -> bool {
        self.tools.is_some_and(|style| style.turns == Turns::One)
    }

    /// The control token that is written like this.
    pub(crate) fn control(&self, text: &str) -> Option<TokenId> {
        self.controls.number(text).map(TokenId)
    }

    /// All control tokens.
    pub(crate) fn controls(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.controls.by_length.iter().map(|(_, number)| TokenId(*number))
    }

    /// The prompt that asks for the next answer.
    pub(crate) fn render(&self, request: &ChatRequest) -> Result<Vec<Segment>, RenderPromptError> {
        if self.tools.is_none() && request.is_about_tools() {
            return Err(RenderPromptError::NoTools);
        }
        let rendered = self.render_with(request, self.tools.unwrap_or_default())?;
        self.segments(rendered.expose())
    }

    fn render_with(&self, request: &ChatRequest, style: CallStyle) -> Result<SecretString, RenderPromptError> {
        let context = context_of(request, style, escape, &self.begin, &self.end)?;
        render(&self.environment, context)
    }

    /// Takes a rendered prompt apart.
    fn segments(&self, rendered: &str) -> Result<Vec<Segment>, RenderPromptError> {
        let broken = || RenderPromptError::Template("it takes control tokens apart".to_owned());
        let mut segments = Vec::new();
        let mut rest = rendered;
        while let Some((plain, marked)) = rest.split_once(OPEN) {
            push_plain(&mut segments, plain, broken)?;
            let (token, after) = marked.split_once(CLOSE).ok_or_else(broken)?;
            segments.push(Segment::Control(self.controls.number(token).ok_or_else(broken)?));
            rest = after;
        }
        push_plain(&mut segments, rest, broken)?;
        Ok(segments)
    }

    /// Renders a harmless conversation with wrapped and with plain control tokens and compares the prompts.
    fn try_out(&self, plain: &Environment<'static>) -> Result<(), RenderPromptError> {
        use darkbloom_content::Role::{Assistant, System, User};
        let turns = [(System, "Answer."), (User, "One?"), (Assistant, "Yes."), (User, "Two?")];
        let mut worked = false;
        // Not every template takes a system message.
        for turns in [&turns[..], &turns[1..]] {
            let messages = turns.iter().map(|&(role, content)| Message::new(role, content));
            match self.try_both_ways(plain, &ChatRequest::new(messages.collect()), CallStyle::default()) {
                Ok(_) => worked = true,
                Err(RenderPromptError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if worked { Ok(()) } else { Err(RenderPromptError::Template("it refuses every conversation".to_owned())) }
    }

    /// What it expects of calls, found out by trying; nothing where it takes no tools.
    fn call_style(&self, plain: &Environment<'static>) -> Option<CallStyle> {
        let object = CallStyle::default();
        // Whether it works both ways and says all of that.
        let says = |style: CallStyle, turns: Vec<Message>, all: &[&str]| {
            let request = ChatRequest { tools: vec![trial_tool()], ..ChatRequest::new(turns) };
            let prompt = self.try_both_ways(plain, &request, style);
            prompt.is_ok_and(|prompt| all.iter().all(|said| prompt.expose().contains(said)))
        };
        let one = ["tell_weather", "Tells the weather.", "place", "Lima", "Mist, mild."];
        let ways = [object, CallStyle { arguments: Arguments::Text, ..object }];
        let style = ways.into_iter().find(|style| says(*style, trial_turns(&[&LIMA]), &one))?;
        let ways = [Turns::Together, Turns::Apart].map(|turns| CallStyle { turns, ..style });
        let two = [&one[..], &["Oslo", "Snow, cold."]].concat();
        let both = || trial_turns(&[&LIMA, &OSLO]);
        let style = ways.into_iter().find(|style| says(*style, both(), &two));
        let style = style.unwrap_or(CallStyle { turns: Turns::One, ..ways[0] });
        // What is no object is shown as it is, unless the template asks it for its keys.
        let text_too = style.arguments == Arguments::Text || says(style, trial_turns(&[&NO_OBJECT]), &["nowhere"]);
        Some(if text_too { style } else { CallStyle { arguments: Arguments::ObjectAlways, ..style } })
    }

    /// The prompt without marks, if it is the same both ways.
    fn try_both_ways(
        &self,
        plain: &Environment<'static>,
        request: &ChatRequest,
        style: CallStyle,
    ) -> Result<SecretString, RenderPromptError> {
        let marked = self.segments(self.render_with(request, style)?.expose())?;
        let [begin, end] = [&self.begin, &self.end].map(|text| text.replace([OPEN, CLOSE], ""));
        let prompt = render(plain, context_of(request, style, |text| text.into(), &begin, &end)?)?;
        if self.segments(&self.controls.mark(prompt.expose()))? == marked {
            return Ok(prompt);
        }
        let reason = "it builds control tokens out of parts, which cannot be told from a message's text";
        Err(RenderPromptError::Template(reason.to_owned()))
    }
}

/// What a template may use.
fn context_of(
    request: &ChatRequest,
    style: CallStyle,
    guard: Guard,
    begin: &str,
    end: &str,
) -> Result<Value, RenderPromptError> {
    let messages = conversation::messages(request, style, guard);
    let tools = conversation::tools(&request.tools, guard).ok_or(RenderPromptError::Parameters)?;
    Ok(context! {
        messages, add_generation_prompt => true, bos_token => begin, eos_token => end, tools, documents => (),
    })
}

/// A tool to find out with whether a template takes any.
fn trial_tool() -> Tool {
    let parameters = r#"{"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}"#;
    Tool { name: "tell_weather".into(), description: "Tells the weather.".into(), parameters: parameters.into() }
}

/// A call of it for trying: the arguments, the call's id and what the tool answers. Some templates insist on an id of nine
/// letters and digits.
type Trial = (&'static str, &'static str, &'static str);
const LIMA: Trial = (r#"{"place": "Lima"}"#, "a1b2c3d4e", "Mist, mild.");
const OSLO: Trial = (r#"{"place": "Oslo"}"#, "f5g6h7i8j", "Snow, cold.");
const NO_OBJECT: Trial = ("nowhere", "a1b2c3d4e", "Mist, mild.");

/// A question, these calls in one message, and the tool's answers.
fn trial_turns(trials: &[&Trial]) -> Vec<Message> {
    use darkbloom_content::Role::{Assistant, User};
    let call = |(arguments, id, _): &Trial| ToolCall {
        id: (*id).into(),
        name: "tell_weather".into(),
        arguments: (*arguments).into(),
    };
    let calls = trials.iter().map(|trial| call(trial)).collect();
    let asked = [Message::new(User, "How is it?"), Message { calls, ..Message::new(Assistant, "") }];
    let answers = trials.iter().map(|(_, id, answer)| Message::of_tool(SecretString::from(*id), *answer));
    asked.into_iter().chain(answers).collect()
}

fn push_plain(
    segments: &mut Vec<Segment>,
    text: &str,
    broken: impl Fn() -> RenderPromptError,
) -> Result<(), RenderPromptError> {
    if text.contains(CLOSE) {
        return Err(broken());
    }
    if !text.is_empty() {
        segments.push(Segment::Plain(unescape(text)));
    }
    Ok(())
}

fn escape(content: &str) -> SecretString {
    let mut escaped = SecretString::default();
    let mut rest = content;
    while let Some(at) = rest.find([OPEN, CLOSE, ESCAPE]) {
        let (before, from) = rest.split_at(at);
        let special = from.chars().next().unwrap_or(ESCAPE);
        escaped.push_str(before);
        escaped.push_str(ESCAPE.encode_utf8(&mut [0; 4]));
        let letter = ESCAPED.iter().find(|(plain, _)| *plain == special).map_or(ESCAPE, |(_, letter)| *letter);
        escaped.push_str(letter.encode_utf8(&mut [0; 4]));
        rest = &from[special.len_utf8()..];
    }
    escaped.push_str(rest);
    escaped
}

/// Undoes [`escape`]. An escape that a template cut in two stays as it is.
fn unescape(text: &str) -> SecretString {
    let mut plain = SecretString::default();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(ESCAPE) {
        plain.push_str(before);
        let letter = after.chars().next();
        let (character, used) = match ESCAPED.iter().find(|(_, escaped)| Some(*escaped) == letter) {
            Some((character, escaped)) => (*character, escaped.len_utf8()),
            None => (ESCAPE, 0),
        };
        plain.push_str(character.encode_utf8(&mut [0; 4]));
        rest = &after[used..];
    }
    plain.push_str(rest);
    plain
}

fn environment(source: String) -> Result<Environment<'static>, RenderPromptError> {
    let mut environment = Environment::new();
    let failed = |error: minijinja::Error| RenderPromptError::Template(error.kind().to_string());
    // What the models' makers render their templates with.
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", json::to_json);
    let literals = source.clone();
    environment.add_function("raise_exception", move |reason: String| -> Result<Value, minijinja::Error> {
        // A sentence that does not stand in the template may quote a message.
        let known = !reason.is_empty() && literals.contains(&reason);
        Err(minijinja::Error::new(REFUSED, if known { reason } else { "it gives no reason".to_owned() }))
    });
    environment.add_template_owned(NAME, source).map_err(|error| {
        let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
        RenderPromptError::Template(format!("{}{line}", error.kind()))
    })?;
    Ok(environment)
}

/// The kind that [`environment`]'s `raise_exception` uses, and nothing else that can happen here.
const REFUSED: ErrorKind = ErrorKind::BadInclude;

fn render(environment: &Environment<'static>, context: Value) -> Result<SecretString, RenderPromptError> {
    let template = environment.get_template(NAME).map_err(|error| explain(&error))?;
    let mut prompt = Prompt { text: SecretString::default(), full: false };
    match template.render_captured_to(context, &mut prompt) {
        Ok(_) => Ok(prompt.text),
        Err(_) if prompt.full => Err(RenderPromptError::TooLong),
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &minijinja::Error) -> RenderPromptError {
    if error.kind() == ErrorKind::OutOfFuel {
        RenderPromptError::TooMuchWork
    } else if error.kind() == REFUSED {
        RenderPromptError::Refused(error.detail().unwrap_or_default().to_owned())
    } else {
        // The kind only: a detail may quote a message.
        RenderPromptError::Template(error.kind().to_string())
    }
}

/// A prompt in the making, which is wiped when it is dropped or grows.
struct Prompt {
    text: SecretString,
    full: bool,
}

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        if self.text.len() + text.len() > PROMPT_BYTES_MAX {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
